# The listener ends, by a reload, while requests come in: they are answered, and the server lives.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Digest::SHA qw(hmac_sha256_hex);
use EpdsTest;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use Test::More;

my $port = PostgreSQL::Test::Cluster::get_free_port();
# With few descriptors it takes few connections, and runs all the same.
my $t = EpdsTest->new(
	'listener_stop',
	orders => 2,
	items => 5,
	conf => "exact_pd_sync.listen = 'sync=127.0.0.1:$port'\nmax_files_per_process = 64\n");
$t->connect;
ok($t->wait_for(q{SELECT exact_pd_sync.worker_pid('listener') <> 0}), 'a listener runs');
my $started = $t->sql('SELECT pg_postmaster_start_time()');

# Send a notification; the socket its answer will come on.
sub notify
{
	my ($n) = @_;
	my $content = sprintf '{"Topic":"SalesOrders","ClientId":"c","Division":%d,"Action":"Update","Key":"00000000-0000-0000-0000-%012d","ExactOnlineEndpoint":"x","EventCreatedOn":"2026-01-01T00:00:00"}',
	  $t->ready->{division}, $n;
	my $body = qq({"Content":$content,"HashCode":") . uc(hmac_sha256_hex($content, $t->ready->{webhook_secret})) . '"}';
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 10) or die "no connection: $!";
	$socket->syswrite(sprintf "POST /exact/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", length $body, $body);
	return $socket;
}

# The status, 'closed', or 'nothing' within a time that is long enough for everything.
sub answer
{
	my ($socket) = @_;
	my ($text, $end) = ('', 'nothing');
	local $SIG{ALRM} = sub { die "timeout\n" };
	eval {
		alarm 30;
		$end = 'closed' while $text !~ /\r\n\r\n/ && sysread $socket, $text, 4096, length $text;
		alarm 0;
		$end = 'closed';
	};
	return $text =~ m,^HTTP/1\.1 (\d+), ? $1 : $end;
}

# One request waits for a lock; while it does, the address is taken away and another request
# comes.  The worker sees that one only after it was told to stop.
my $session = $t->session;
$session->query('BEGIN; LOCK TABLE exact_pd_sync.webhook_deliveries IN ACCESS EXCLUSIVE MODE;');
my $first = notify(1);
ok($t->wait_for(q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND pid = exact_pd_sync.worker_pid('listener')}), 'it waits for somebody');
my $log = $t->log_position;
$t->node->append_conf('postgresql.conf', "exact_pd_sync.listen = ''");
$t->node->reload;
my $second = notify(2);
$session->query('ROLLBACK;');
$session->quit;
is(answer($first), '200', 'the first is answered');
like(answer($second), qr/^(503|closed)$/, '... the second is told to come again, or nothing');
ok($t->wait_for(q{SELECT exact_pd_sync.worker_pid('listener')}, '0', 30), '... and the listener stops');
is($t->sql('SELECT pg_postmaster_start_time()'), $started, 'the server lives');
like($t->log_since($log), qr/stopped listening on 127\.0\.0\.1 port $port/, '... the log says that it stopped');
unlike($t->log_since($log), qr/terminated by signal|gave up/, '... of its own will');
$t->done;
