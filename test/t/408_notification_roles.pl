# Notifications without a superuser: the workers run as a role of their own, and an HTTP front
# hands in with a role that may do this and nothing else.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Digest::SHA qw(hmac_sha256_hex);
use EpdsAgree;
use EpdsTest;
use HTTP::Tiny;
use PostgreSQL::Test::Cluster;
use Test::More;

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $t = EpdsTest->new('roles', orders => 4, items => 10, seed => 47, switches => { burst_limit => 0 },
	conf => "exact_pd_sync.listen = 'sync=127.0.0.1:$port'\n");
$t->sql(q{CREATE ROLE sync_worker LOGIN; SELECT exact_pd_sync.grant_worker('sync_worker')});
$t->sql(q{CREATE ROLE front LOGIN; SELECT exact_pd_sync.grant_receiver('front')});
$t->sql(q{ALTER SYSTEM SET exact_pd_sync.role = 'sync_worker'});
$t->node->restart;
ok($t->first_run, 'a first run');
ok($t->wait_for(q{SELECT usename = 'sync_worker' FROM pg_stat_activity WHERE pid = exact_pd_sync.worker_pid('listener')}), 'the listener runs as the role of the workers');

sub body
{
	my ($key) = @_;
	my $content = sprintf '{"Topic":"SalesOrders","ClientId":"c","Division":%d,"Action":"Create","Key":"%s","ExactOnlineEndpoint":"x","EventCreatedOn":"2026-01-01T00:00:00"}',
	  $t->ready->{division}, $key;
	return qq({"Content":$content,"HashCode":") . uc(hmac_sha256_hex($content, $t->ready->{webhook_secret})) . '"}';
}
sub as_front { return $t->try("SET ROLE front; $_[0]"); }
sub hand_in { my ($rc, $out, $err) = as_front("SELECT exact_pd_sync.receive_exact_webhook('\\x" . unpack('H*', $_[0]) . "')"); return $rc == 0 ? $out : $err; }

# --------------
note 'the front';
# --------------

is($t->sql(q{SELECT string_agg(p.proname, ' ') FROM pg_proc p WHERE p.pronamespace = 'exact_pd_sync'::regnamespace AND has_function_privilege('front', p.oid, 'EXECUTE')}),
	'receive_exact_webhook', 'the front may run one function');
is($t->sql(q{SELECT string_agg(c.relname, ' ') FROM pg_class c WHERE c.relnamespace = 'exact_pd_sync'::regnamespace AND c.relkind IN ('r', 'v')
	AND has_table_privilege('front', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')}), '', '... and no table');
is(hand_in('{}'), '401', 'it hands in what is forged');
is(hand_in('x' x 70000), '413', '... what is too large');
is(hand_in(''), '200', '... the validation of the address');
my $new = $t->post('/exact/orders', {});
is(hand_in(body($new->{OrderID})), '200', '... and what is genuine');
ok($t->wait_for(q{SELECT count(*) FROM exact_pd_sync.webhook_deliveries WHERE state = 'done'}, '1', 30) && $t->settle, '... which is followed');
ok($t->deal($new->{OrderNumber}), '... to the deal');
my ($rc, $out, $err) = as_front('SELECT value FROM exact_pd_sync.credentials');
like($err, qr/permission denied/, 'it cannot read a secret');
# What is in its way of names leads nowhere else.
($rc, $out, $err) = as_front(
	"SET search_path = pg_temp, exact_pd_sync; CREATE TEMP TABLE webhook_deliveries (side text, digest text); CREATE TEMP TABLE credentials (name text, value bytea, sealed boolean);
	 SELECT exact_pd_sync.receive_exact_webhook('{\"Content\":{},\"HashCode\":\"" . uc(hmac_sha256_hex('{}', 'guessed')) . "\"}')");
is($out, '401', '... nor put its own in their place') or diag $err;

# -----------------
note 'the listener';
# -----------------

my $http = HTTP::Tiny->new(timeout => 60, max_redirect => 0);
my $url = "http://127.0.0.1:$port";
$new = $t->post('/exact/orders', {});
is($http->post("$url/exact/webhook", { content => body($new->{OrderID}) })->{status}, '200', 'the listener takes one in');
ok($t->wait_for(q{SELECT count(*) FROM exact_pd_sync.webhook_deliveries WHERE state = 'done'}, '2', 30) && $t->settle, '... it is followed');
agrees($t, '... every order is a deal');
is($http->get("$url/healthz")->{status}, '200', 'health') or diag $http->get("$url/healthz")->{content};
is($http->get("$url/metrics")->{status}, '200', 'metrics');
$t->sql(sprintf 'SELECT exact_pd_sync.set_exact_app(%s)', join ', ', map { "'$_'" } @{ $t->ready }{qw(client_id client_secret)}, "$url/exact/oauth", @{ $t->ready }{qw(webhook_secret exact)});
my $back = $http->get($t->sql('SELECT exact_pd_sync.exact_authorize_url()'))->{headers}{location};
like($http->get($back)->{content}, qr/Exact Online is connected/, 'a consent by browser');
$t->no_violations('nothing was forbidden');
$t->done;
