# The listener while settings change, the extension goes and comes, its database goes, the
# server stops and a standby takes over: it does what is expected of it, and the log says so.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Digest::SHA qw(hmac_sha256_hex);
use EpdsTest;
use HTTP::Tiny;
use IO::Socket::INET;
use IO::Socket::IP;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time usleep);

my $secret = 'the-secret-of-both';
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $conf = "exact_pd_sync.listen = 'sync=127.0.0.1:$port'";
# No service is ever called: there is no consent, and the division is not read.
my $t = EpdsTest->new('life', sandbox => { ready => {} }, conf => "$conf\n");
my $http = HTTP::Tiny->new(timeout => 30);
my $number = 0;

sub notify
{
	my (%with) = @_;
	my $content = sprintf '{"Topic":"SalesOrders","ClientId":"c","Division":1,"Action":"Update","Key":"00000000-0000-0000-0000-%012d","EventCreatedOn":"2026-01-01T00:00:00"}', ++$number;
	my $body = qq({"Content":$content,"HashCode":") . uc(hmac_sha256_hex($content, $secret)) . '"}';
	my $address = $with{address} // "127.0.0.1:$port";
	return $http->post("http://$address/exact/webhook", { content => $body })->{status};
}

sub until_true
{
	my ($condition, $name) = @_;
	my $end = time + 60;
	until ($condition->())
	{
		return fail($name) if time > $end;
		usleep(50_000);
	}
	return pass($name);
}

sub becomes { my ($status, $name, %with) = @_; return until_true(sub { notify(%with) eq $status }, $name); }

# Until nobody listens any more.
sub closed
{
	my ($name) = @_;
	return until_true(sub { !IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) }, $name);
}

sub setting
{
	my ($name, $value) = @_;
	$t->node->safe_psql('postgres', defined $value ? "ALTER SYSTEM SET $name = '$value'" : "ALTER SYSTEM RESET $name");
	$t->node->reload;
	return;
}

sub listener { return $t->sql(q{SELECT exact_pd_sync.worker_pid('listener')}); }
sub trouble { return $t->sql(q{SELECT coalesce(exact_pd_sync.worker_trouble('listener'), 'none')}); }
sub said { my ($position, $pattern, $name) = @_; return until_true(sub { $t->log_since($position) =~ $pattern }, $name); }

becomes('503', 'a listener runs, and has no secret yet');
like($t->log_since(0), qr/LOG:  listening for notifications on 127\.0\.0\.1 port $port/, '... the log says where');
my $secret_is = "SELECT exact_pd_sync.store_secret('exact_webhook_secret', '$secret')";
$t->sql($secret_is);
is(notify(), '200', '... then it has one');

# ---------------
note 'settings';
# ---------------

# Those that are nothing to it: the same worker goes on.
my $pid = listener();
foreach my $change (
	[ 'max_connections', '3' ],
	[ 'http_timeout', '2s' ],
	[ 'poll_interval', '10min' ],
	[ 'resume_after_promotion', 'on' ],
	[ 'allow_insecure_http', 'off' ],
	[ 'secrets_directory', '/nosuch' ],
	[ 'key_file', '/nosuch/key' ])    # what was stored without a key is read without one
{
	my ($name, $value) = @$change;
	setting("exact_pd_sync.$name", $value);
	is(join(' ', map { notify() } 1 .. 3), '200 200 200', "$name is changed: all is taken");
	setting("exact_pd_sync.$name");
	is(notify() . ' ' . listener(), "200 $pid", '... and when it is changed back');
}

# One that keeps it from its work: it says so, and takes up again.
my $position = $t->log_position;
setting('exact_pd_sync.role', 'nobody_of_this_name');
becomes('503', 'a role that does not exist: nothing can be taken');
my $why = qr/role "nobody_of_this_name" does not exist/;
like(trouble(), $why, '... it says why');
notify() foreach 1 .. 5;
is(scalar(() = $t->log_since($position) =~ /\[$pid\] ERROR:  [^\n]*$why/g), 1, '... once in the log');
setting('exact_pd_sync.role');
becomes('200', '... and when it is right again all is taken');
is(trouble() . ' ' . listener(), "none $pid", '... by the same worker');
like($t->log_since($position), qr/\[$pid\] LOG:  the listener can answer again/, '... says the log');

$position = $t->log_position;
setting('exact_pd_sync.databases', '');
closed('no database is listed: nobody listens');
like($t->log_since($position), qr/LOG:  stopped listening on 127\.0\.0\.1 port $port/, '... says the log');
setting('exact_pd_sync.databases');
becomes('200', 'listed again it listens again');

$position = $t->log_position;
setting('exact_pd_sync.listen', "sync=192.0.2.1:$port");
closed('an address that this machine does not have');
said($position, qr/WARNING:  could not listen on 192\.0\.2\.1 port $port: Cannot assign requested address/, '... the log says so');
like(trouble(), qr/could not listen on 192\.0\.2\.1/, '... it says so itself');
setting('exact_pd_sync.listen');
becomes('200', 'a right one is listened on at once');

SKIP:
{
	my $six = IO::Socket::IP->new(LocalHost => '::1', LocalPort => 0, Listen => 1) or skip 'no IPv6 here', 2;
	close $six;
	setting('exact_pd_sync.listen', "sync=[::1]:$port");
	becomes('200', 'an address of IPv6', address => "[::1]:$port");
	closed('... and not the other one any more');
	setting('exact_pd_sync.listen');
	becomes('200', '... and back');
}

# -------------------
note 'the extension';
# -------------------

$position = $t->log_position;
$t->sql('DROP EXTENSION exact_pd_sync CASCADE');
closed('the extension is dropped: nobody listens');
like($t->log_since($position), qr/LOG:  stopped listening on 127\.0\.0\.1 port $port/, '... says the log');
$t->sql('CREATE EXTENSION exact_pd_sync');
becomes('503', 'it is made again: somebody listens, and has no secret');
$t->sql($secret_is);
is(notify(), '200', '... then it has one');

my $session = $t->session;
$session->query_safe('BEGIN');
$session->query_safe('SET client_min_messages = warning');
$session->query_safe('DROP SCHEMA exact_pd_sync CASCADE');
until_true(sub { notify() ne '200' }, 'while somebody is dropping it nothing is taken');
$session->query_safe('ROLLBACK');
becomes('200', '... and after his ROLLBACK it is');
$session->quit;

# ----------------
note 'its process';
# ----------------

$position = $t->log_position;
$pid = listener();
$t->sql("SELECT pg_terminate_backend($pid)");
becomes('200', 'terminated, it comes back');
isnt(listener(), $pid, '... as another process');
like($t->log_since($position), qr/FATAL:  terminating background worker "exact_pd_sync listener" due to administrator command/, '... the log says why');

# Connections of every kind are open, one request waits for a lock, and the server is to stop.
my $lock = $t->session;
$lock->query_safe('BEGIN; LOCK TABLE exact_pd_sync.webhook_deliveries IN ACCESS EXCLUSIVE MODE');
my @open;
foreach my $bytes (('') x 20, ('POST /exact/webhook HTTP/1.1') x 20, ("POST /exact/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{") x 20, ("POST /exact/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}") x 20)
{
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "no connection: $!";
	syswrite $socket, $bytes;
	push @open, $socket;
}
$t->node->stop('fast');
my $left = 0;
foreach my $socket (@open)
{
	my $answer = '';
	1 while sysread $socket, $answer, 4096, length $answer;
	$left++ if $answer =~ m,HTTP/1.1 200,;
}
is($left, 0, 'the server stops, and nobody is told that something was taken');
close $_ foreach @open;
eval { $lock->quit };
$position = $t->log_position;
$t->node->start;
becomes('200', 'started again it listens at once, on the same port');
unlike($t->log_since($position), qr/could not listen/, '... without being refused');

# -----------------
note 'its database';
# -----------------

$position = $t->log_position;
my ($rc, undef, $err) = $t->try('DROP DATABASE sync', db => 'postgres');
is($rc, 0, 'its database is dropped while it listens') or diag($err);
closed('... nobody listens');
like($t->log_since($position), qr/LOG:  stopped listening on 127\.0\.0\.1 port $port/, '... says the log');
$t->sql('CREATE DATABASE sync', db => 'postgres');
$t->sql('CREATE EXTENSION exact_pd_sync');
$t->sql($secret_is);
becomes('200', 'one of the same name is listened for');

# --------------
note 'a standby';
# --------------

$t->node->append_conf('postgresql.conf', "wal_level = replica\nmax_wal_senders = 4\n");
$t->node->append_conf('pg_hba.conf', "local replication all trust\n");
$t->node->restart;
becomes('200', 'the primary listens');
$t->node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($t->node, 'base', has_streaming => 1);
$standby->start;
$t->node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync listener'}), '0', 'a standby with the same settings does not listen');
$t->node->stop('fast');
closed('the primary stops: nobody listens');
$standby->promote;
becomes('200', 'the standby is promoted: it listens, with the secret of the other');
is($standby->safe_psql('sync', "SELECT count(*) FROM exact_pd_sync.webhook_deliveries WHERE key = '00000000-0000-0000-0000-" . sprintf('%012d', $number) . "'"), '1', '... and what it took is stored');
$standby->stop('fast');
my $log = PostgreSQL::Test::Utils::slurp_file($t->node->logfile) . PostgreSQL::Test::Utils::slurp_file($standby->logfile);
unlike($log, qr/PANIC|terminated by signal|crash/, 'no process crashed');
unlike($log, qr/\Q$secret\E/, 'the secret is in no log');

done_testing();
