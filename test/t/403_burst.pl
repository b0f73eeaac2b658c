# A burst of notifications, a third of them forged: what is genuine leads to a delivered
# order, the rest to a count.  And how far apart hints are followed.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Digest::SHA qw(hmac_sha256_hex);
use EpdsAgree;
use EpdsTest;
use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use Test::More;

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $t = EpdsTest->new(
	'burst',
	orders => 6,
	items => 20,
	seed => 44,
	switches => { burst_limit => 0, exact_minute_limit => 100000, log_bodies => JSON::PP::false },
	conf => "exact_pd_sync.listen = 'sync=127.0.0.1:$port'\n");
ok($t->first_run, 'a first run');
ok($t->wait_for(q{SELECT exact_pd_sync.worker_pid('listener') <> 0}, 't', 30), 'a listener runs');

sub request
{
	my ($key, $n, $forged) = @_;
	my $content = sprintf '{"Topic":"SalesOrders","ClientId":"c","Division":%d,"Action":"%s","Key":"%s","ExactOnlineEndpoint":"x","EventCreatedOn":"2026-01-01T00:00:00.%03d"}',
	  $t->ready->{division}, $n % 2 ? 'Create' : 'Update', $key, $n;
	my $hash = uc hmac_sha256_hex($content, $forged ? 'guessed' : $t->ready->{webhook_secret});
	my $body = qq({"Content":$content,"HashCode":"$hash"});
	return sprintf "POST /exact/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", length $body, $body;
}

# All requests over so many connections, one behind the other on each, the next as
# soon as the last was answered; how often which status came.
sub burst
{
	my ($links, @requests) = @_;
	my ($select, %next, %read, %count) = (IO::Select->new);
	my $send = sub {
		my ($socket) = @_;
		my $request = shift @requests;
		return $select->remove($socket) unless defined $request;
		$read{$socket} = '';
		$socket->syswrite($request);
		return;
	};
	foreach (1 .. $links)
	{
		my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 30) or die "no connection: $!";
		$select->add($socket);
		$send->($socket);
	}
	while ($select->count)
	{
		my @ready = $select->can_read(60) or die 'no answer within a minute';
		foreach my $socket (@ready)
		{
			my $got = $socket->sysread($read{$socket}, 4096, length $read{$socket});
			die 'a connection was closed' unless $got;
			next unless $read{$socket} =~ /\r\n\r\n/;
			die "no status: $read{$socket}" unless $read{$socket} =~ m,^HTTP/1\.1 (\d+),;
			$count{$1}++;
			$send->($socket);
		}
	}
	return join ' ', map { "$_: $count{$_}" } sort keys %count;
}

sub anonymous_kb
{
	my $pid = $t->sql(q{SELECT exact_pd_sync.worker_pid('listener')});
	my ($kb) = PostgreSQL::Test::Utils::slurp_file("/proc/$pid/smaps_rollup") =~ /^Anonymous:\s+(\d+)/m;
	return $kb;
}

sub followed { return $t->wait_for(q{SELECT count(*) FROM exact_pd_sync.webhook_deliveries WHERE state IN ('new', 'waiting')}, '0', 120) && $t->settle; }

# --------------
note 'the burst';
# --------------

# Forged ones alone: no trace but a count, and the memory that so many take stays what it is.
is(burst(20, map { request('00000000-0000-0000-0000-000000000001', $_, 1) } 1 .. 600), '401: 600', 'six hundred forged ones');
my $before = anonymous_kb();
is(burst(20, map { request('00000000-0000-0000-0000-000000000001', $_, 1) } 1 .. 3000), '401: 3000', '... five times as many');
cmp_ok(anonymous_kb() - $before, '<', 1024, '... take no memory');
is($t->sql('SELECT count(*) FROM exact_pd_sync.webhook_deliveries'), '0', '... nothing is stored');
is($t->sql(q{SELECT value FROM exact_pd_sync.counters() WHERE name = 'answers' AND label = 'exact 401'}), '3600', '... but counted');

my @orders = map { $t->post('/exact/orders', { lines => 2 }) } 1 .. 40;
my @requests = map { request($orders[ $_ % 40 ]{OrderID}, $_, $_ % 3 == 0) } 1 .. 600;
my @calls = $t->exact_calls(
	sub {
		is(burst(20, @requests), '200: 400 401: 200', 'a third of six hundred is forged');
		is($t->sql('SELECT count(*) FROM exact_pd_sync.webhook_deliveries'), '400', '... the others are stored');
		ok(followed(), '... and followed');
	});
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.webhook_deliveries w WHERE NOT EXISTS
	(SELECT FROM exact_pd_sync.links l WHERE l.kind = 'deal' AND l.division = w.division AND l.exact_id = w.key::uuid)}),
	'0', '... every one of them is about a deal');
cmp_ok(scalar(@calls), '<=', 60, '... for less calls than Exact allows in a minute') or diag(scalar @calls);
agrees($t, '... every order is a deal');
$before = anonymous_kb();
is(burst(20, @requests), '200: 400 401: 200', 'the same again');
is($t->sql('SELECT count(*) || \' \' || min(repeats) FROM exact_pd_sync.webhook_deliveries'), '400 1', '... is nothing new');
cmp_ok(anonymous_kb() - $before, '<', 1024, '... and takes no memory');

# ------------------
note 'how far apart';
# ------------------

# What _hints_wait() says, in tenths of a minute and below, when a read began so long ago.
sub pause_after
{
	my (%is) = @_;
	return $t->sql(
		"BEGIN;
		 UPDATE exact_pd_sync.budgets SET limit_value = 60, remaining = $is{minute}, reset_at = clock_timestamp() + interval '40 seconds' WHERE side = 'exact' AND kind = 'minute';
		 UPDATE exact_pd_sync.budgets SET limit_value = 5000, remaining = @{[ $is{day} // 5000 ]}, reset_at = clock_timestamp() + interval '1 hour' WHERE side = 'exact' AND kind = 'day';
		 UPDATE exact_pd_sync.sync_runs SET started_at = clock_timestamp() - interval '$is{ago} seconds' WHERE what = 'hints';
		 INSERT INTO exact_pd_sync.webhook_deliveries (side, digest, topic, division, action, key) VALUES ('exact', 'one more', 'SalesOrders', $t->{ready}{division}, 'Update', '$orders[0]{OrderID}');
		 SELECT round(exact_pd_sync._hints_wait() / 1000.0, 1);
		 ROLLBACK;") + 0;
}
$t->pause('orders');    # the worker leaves it alone
is(pause_after(minute => 60, ago => 1), 0, 'a second after the last read: at once');
cmp_ok(pause_after(minute => 60, ago => 0), '>', 0, 'just after it: in a moment');
cmp_ok(pause_after(minute => 60, ago => 0), '<=', 0.3, '... a quarter of a second');
my $shared = pause_after(minute => 30, ago => 0);
cmp_ok($shared, '>=', 7, 'half of the minute is used: the rest is shared out');
cmp_ok($shared, '<=', 8, '... five reads in forty seconds');
cmp_ok(pause_after(minute => 10, ago => 0), '>=', 39, 'what is left belongs to the polls');
is(pause_after(minute => 10, ago => 30), 0, '... but the first hint in a minute is followed');
cmp_ok(pause_after(minute => 60, day => 1000, ago => 0), '>=', 59, 'the day becomes scarce: once a minute');
cmp_ok(pause_after(minute => 60, day => 400, ago => 120), '>=', 179, '... or in five');
is(pause_after(minute => 60, day => 400, ago => -3600), 0, 'a clock that was set back holds nothing up');
$t->no_violations('nothing was forbidden');
$t->done;
