# /healthz and /metrics tell the truth: nothing connected, all well, the budget used up,
# the services gone.  And what a Prometheus would refuse is refused here.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Digest::SHA ();
use EpdsTest;
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use Test::More;

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $t = EpdsTest->new(
	'health',
	orders => 6,
	items => 20,
	seed => 45,
	switches => { burst_limit => 0, exact_minute_limit => 100000 },
	conf => "exact_pd_sync.listen = 'sync=127.0.0.1:$port'\n");
my $http = HTTP::Tiny->new(timeout => 60);

# The status and the parts that are red.
sub health
{
	my $answer = $http->get("http://127.0.0.1:$port/healthz");
	like($answer->{content}, qr/\A[^\n]+\n\z/, '... one line');
	my $health = JSON::PP::decode_json($answer->{content});
	is($answer->{status}, $health->{ok} ? 200 : 503, '... the status agrees with it');
	return join ', ', $answer->{status}, sort keys %{ $health->{red} };
}

# Samples by name and labels; what OpenMetrics does not allow is a failure.
sub metrics
{
	my ($name) = @_;
	my $answer = $http->get("http://127.0.0.1:$port/metrics");
	my (%family, $type, %sample, @wrong);
	my @lines = split /\n/, $answer->{content}, -1;
	push @wrong, 'it does not end with # EOF' unless @lines >= 2 && pop(@lines) eq '' && pop(@lines) eq '# EOF';
	my $family = '';
	foreach my $line (@lines)
	{
		if ($line =~ /^# TYPE ([a-z_]+) (gauge|counter|histogram)$/)
		{
			($family, $type) = ($1, $2);
			push @wrong, "twice: $line" if $family{$family}++;
		}
		elsif ($line =~ /^# UNIT ([a-z_]+) ([a-z]+)$/)
		{
			push @wrong, "no unit of its family: $line" unless $1 eq $family && $family =~ /_$2$/;
		}
		elsif ($line =~ /^# HELP ([a-z_]+) \S.*$/)
		{
			push @wrong, "not of its family: $line" unless $1 eq $family;
		}
		elsif ($line =~ /^([a-z_]+)(\{[a-z]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z]+="(?:[^"\\\n]|\\[\\"n])*")*\})? (-?\d+(?:\.\d+)?)$/)
		{
			my ($metric, $sample, $value) = ($1, $1 . ($2 // ''), $3);
			my %suffix = (gauge => '', counter => '_total', histogram => '(?:_bucket|_count|_sum)');
			push @wrong, "not of its family: $line" unless $metric =~ /^\Q$family\E$suffix{$type}$/;
			push @wrong, "twice: $line" if exists $sample{$sample};
			$sample{$sample} = $value;
		}
		else
		{
			push @wrong, "nothing that is known: $line";
		}
	}
	is(join("\n", @wrong), '', "$name: metrics are well formed");
	return \%sample;
}
sub state_of { my ($metrics, $part) = @_; return $metrics->{qq(exact_pd_sync_part_state{part="$part"})}; }
sub status_of { return $t->sql("SELECT state FROM exact_pd_sync.status WHERE part = '$_[0]'"); }

ok($t->wait_for(q{SELECT exact_pd_sync.worker_pid('listener') <> 0}, 't', 30), 'a listener runs');
like(health(), qr/^503, .*exact consent/, 'nothing is connected');
my $m = metrics('nothing connected');
is(state_of($m, 'exact consent'), 2, '... and the consent is red');

ok($t->first_run, 'a first run');
$t->poll;
ok($t->settle, '... and all is sent');
is(health(), '200', 'all is well');
$m = metrics('all well');
is(join(' ', sort { $a <=> $b } map { state_of($m, $_) } split /\n/, $t->sql('SELECT part FROM exact_pd_sync.status')), join(' ', (0) x $t->sql('SELECT count(*) FROM exact_pd_sync.status')), '... every part is green');
is(scalar(grep { /^exact_pd_sync_jobs/ } keys %$m), 0, '... and there is no job');
is(join(' ', map { $m->{"exact_pd_sync_dead_letters{class=\"$_\"}"} // 'none' } qw(ours theirs capacity auth)), '0 0 0 0', '... no dead letter is a 0');
is(join(' ', map { $m->{"exact_pd_sync_hints{state=\"$_\"}"} // 'none' } qw(new waiting)), '0 0', '... and so is no hint');
is($m->{'exact_pd_sync_api_latency_seconds_bucket{side="exact",le="+Inf"}'}, $m->{'exact_pd_sync_api_latency_seconds_count{side="exact"}'}, '... a histogram ends with its count');
cmp_ok($m->{'exact_pd_sync_token_expiry_seconds'}, '>', 0, '... the token is good');

# ----------------------------
note 'the budget is used up';
# ----------------------------

my $left = $t->get('/pipedrive/budget');
$t->post('/pipedrive/spend', { tokens => $left->{limit} });
$t->post('/exact/orders', { lines => 2 });
$t->poll('orders');
ok($t->wait_for(q{SELECT bool_or(state = 'red') FROM exact_pd_sync.status WHERE part IN ('budget', 'sending')}), 'tokens of the day are gone: status is red');
like(health(), qr/^503, .*(budget|sending)/, '... so is /healthz');
$m = metrics('budget used up');
is($m->{'exact_pd_sync_budget_remaining{side="pipedrive",division="0",kind="day"}'} <= 0 || state_of($m, 'sending') == 2, 1, '... and the figures say so');
is(join(' ', map { state_of($m, $_) } 'budget', 'sending'), join(' ', map { { green => 0, yellow => 1, red => 2 }->{ status_of($_) } } 'budget', 'sending'), '... as status does');
cmp_ok(eval { my $n = 0; $n += $m->{$_} foreach grep { /^exact_pd_sync_jobs/ } keys %$m; $n }, '>', 0, '... jobs wait');

# -----------------------------------
note 'the inbox cannot be written to';
# -----------------------------------

my $session = $t->session;
$session->query('BEGIN; LOCK TABLE exact_pd_sync.webhook_deliveries IN ACCESS EXCLUSIVE MODE;');
my $content = qq({"Topic":"SalesOrders","ClientId":"c","Division":$t->{ready}{division},"Action":"Update","Key":"00000000-0000-0000-0000-000000000001","ExactOnlineEndpoint":"x","EventCreatedOn":"2026-01-01T00:00:00"});
my $body = qq({"Content":$content,"HashCode":") . uc(Digest::SHA::hmac_sha256_hex($content, $t->ready->{webhook_secret})) . '"}';
my $send = sub { return $http->post("http://127.0.0.1:$port/exact/webhook", { content => $body })->{status}; };
is($send->(), '503', 'somebody locks the inbox: try again, it says');
$session->query('ROLLBACK;');
is($send->(), '200', '... and then it is taken');

# Somebody locks what status reads.  While one look waits for that, another and a notification
# come: they are answered in one turn, and not alike.
my $ask = sub {
	my ($request) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 10) or die "no connection: $!";
	$socket->syswrite($request);
	return $socket;
};
my $answer = sub {
	my ($socket) = @_;
	my $text = '';
	local $SIG{ALRM} = sub { die "no answer\n" };
	alarm 60;
	1 while $text !~ /\r\n\r\n/ && sysread $socket, $text, 4096, length $text;
	alarm 0;
	return $text =~ m,^HTTP/1\.1 (\d+), ? $1 : 'none';
};
$session->query('BEGIN; LOCK TABLE exact_pd_sync.reconcile_results IN ACCESS EXCLUSIVE MODE;');
my @look = ($ask->("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
ok($t->wait_for(q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND pid = exact_pd_sync.worker_pid('listener')}), 'somebody locks what status reads');
push @look, $ask->("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
my $hint = $ask->(sprintf "POST /exact/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", length $body, $body);
is(join(' ', map { $answer->($_) } @look), '503 503', '... figures are not to be had');
is($answer->($hint), '200', '... a notification is taken all the same');
$session->query('ROLLBACK;');
$session->quit;

# ---------------------------
note 'the services are gone';
# ---------------------------

EpdsTest::stop_sandbox($t->{sandbox_run});
my ($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_orders()');
isnt($rc, 0, 'nobody answers: a poll fails');
$m = metrics('services gone');
is(state_of($m, 'orders'), 1, '... the orders are yellow');
$t->sql(q{UPDATE exact_pd_sync.feed_positions SET last_success = last_success - interval '30 minutes' WHERE feed LIKE 'sales_order%'});
like(health(), qr/^503, .*orders/, '... and half an hour later red');
$m = metrics('services gone for long');
is(state_of($m, 'orders'), 2, '... in the figures as well');
cmp_ok($m->{'exact_pd_sync_last_success_age_seconds{part="orders"}'}, '>=', 1800, '... with their age');

done_testing();
