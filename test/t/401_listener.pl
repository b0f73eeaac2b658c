# The listener: notifications, consent and health over HTTP, and what it refuses.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use Digest::SHA qw(hmac_sha256_hex);
use Test::More;

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $t = EpdsTest->new(
	'listener',
	orders => 6,
	items => 20,
	seed => 42,
	switches => { burst_limit => 0, exact_minute_limit => 100000 },
	conf => "exact_pd_sync.listen = 'sync=127.0.0.1:$port'\n");
my $url = "http://127.0.0.1:$port";
my $http = HTTP::Tiny->new(timeout => 30, max_redirect => 0);

sub listening
{
	return $t->wait_for(q{SELECT exact_pd_sync.worker_pid('listener') <> 0}, 't', 30);
}

# What a raw connection is answered: the status line, or '' when it is closed.
sub raw
{
	my ($bytes, %how) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 10) or return 'refused';
	$socket->print($bytes);
	$socket->flush;
	shutdown($socket, 1) if $how{half};
	my $answer = '';
	local $SIG{ALRM} = sub { die "timeout\n" };
	eval { alarm 40; while (sysread $socket, my $piece, 4096) { $answer .= $piece; last if !$how{all} && $answer =~ /\r\n\r\n/; } alarm 0; };
	return $how{all} ? $answer : ($answer =~ m,^HTTP/1\.[01] (\d+), ? $1 : '');
}

sub signed
{
	my ($key, $action) = @_;
	my $content = sprintf '{"Topic":"SalesOrders","ClientId":"c","Division":%d,"Action":"%s","Key":"%s","ExactOnlineEndpoint":"x","EventCreatedOn":"2026-01-01T00:00:00"}',
	  $t->ready->{division}, $action, $key;
	return qq({"Content":$content,"HashCode":") . uc(hmac_sha256_hex($content, $t->ready->{webhook_secret})) . '"}';
}

sub post
{
	my ($body, $path) = @_;
	return $http->post($url . ($path // '/exact/webhook'), { content => $body, headers => { 'content-type' => 'application/json' } })->{status};
}

ok(listening(), 'a listener runs');
is(post('{}'), '503', 'without a secret nothing can be taken in');

# -----------------------
note 'consent by browser';
# -----------------------

my $r = $t->ready;
$t->sql(sprintf 'SELECT exact_pd_sync.set_exact_app(%s)', join ', ', map { "'$_'" } $r->{client_id}, $r->{client_secret}, "$url/exact/oauth", $r->{webhook_secret}, $r->{exact});
my $authorize = $t->sql('SELECT exact_pd_sync.exact_authorize_url()');
is($http->get("$url/exact/oauth")->{status}, '400', 'a browser without a code');
is($http->get("$url/exact/oauth?code=guessed&state=guessed")->{status}, '400', 'a browser with the wrong state');
my $back = $http->get($authorize)->{headers}{location};
my $page = $http->get($back);
is($page->{status}, '200', 'a person says yes, and comes back');
like($page->{content}, qr/Exact Online is connected/, '... and is told so');
is($t->sql('SELECT state FROM exact_pd_sync.exact_consent'), 'ok', '... and it is so');
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.credentials WHERE name = 'exact_consent_code'}), '0', '... the code is gone');
is($http->get($back)->{status}, '400', '... and whoever has the address has nothing');
is($page->{headers}{'referrer-policy'}, 'no-referrer', '... nor does the page give it away');
unlike($t->log_since(0), qr/\Q@{[ $back =~ m,code=([^&]+), ]}\E/, '... and in no log');

$t->add_division;
$t->connect_pipedrive;
$t->setup;
$t->sql('SELECT exact_pd_sync.set_default_owner((SELECT min(user_id) FROM exact_pd_sync.pipedrive_users WHERE active))');
$t->import_history;
$t->poll;
$t->resume;
ok($t->settle, 'a first run');

# -------------------
note 'notifications';
# -------------------

is(post(''), '200', 'the validation of the address');
is(post('{}'), '401', 'not signed');
my $new = $t->post('/exact/orders', {});
my $good = signed($new->{OrderID}, 'Create');
(my $bad = $good) =~ s/"Create"/"Update"/;
is(post($bad), '401', 'tampered with');
is(post(lc $good), '401', 'lower case');
is(post(substr($good, 0, -2)), '401', 'cut off');
is($t->sql('SELECT count(*) FROM exact_pd_sync.webhook_deliveries'), '0', '... nothing of them is stored');
is(post($good), '200', 'a genuine one');
ok($t->wait_for(q{SELECT count(*) FROM exact_pd_sync.webhook_deliveries WHERE state = 'done'}, '1', 30), '... is followed');
ok($t->settle, '... and delivered');
ok($t->deal($new->{OrderNumber}), '... it is a deal');
agrees($t, '... every order is a deal');

is($http->post("$url/pipedrive/webhook", { content => '{"meta":{}}' })->{status}, '503', 'Pipedrive without a password set');
$t->sql(q{SELECT exact_pd_sync.store_secret('pipedrive_webhook_password', 'aWordForPipedrive')});
my $login = HTTP::Tiny->new;
is($http->post("$url/pipedrive/webhook", { content => '{"meta":{}}' })->{status}, '401', 'Pipedrive without a login');
(my $with = $url) =~ s,//,//exact_pd_sync:aWordForPipedrive@,;
my $event = '{"meta":{"id":"e-1","entity":"deal","entity_id":"7","action":"change","change_source":"app","user_id":"1","timestamp":"2026-01-01T00:00:00Z"},"data":{"id":7,"title":"new","value":3},"previous":{"title":"old"}}';
is($http->post("$with/pipedrive/webhook", { content => $event })->{status}, '200', 'Pipedrive with it');
is($http->post("$with/pipedrive/webhook", { content => $event })->{status}, '200', '... twice');
is($http->post("$with/pipedrive/webhook", { content => '{"meta":{"id":"e-2"},"data":{"a":"\u0000","b":1e999999}}' })->{status}, '200', 'what no jsonb can hold');
is($http->post("$with/pipedrive/webhook", { content => '{"meta":' })->{status}, '400', 'what is no JSON');
is($t->sql(q{SELECT string_agg(concat_ws(' ', digest, topic, key, caused_by, repeats, body->'current'), '; ' ORDER BY id) FROM exact_pd_sync.webhook_deliveries WHERE side = 'pipedrive' AND digest LIKE 'e-%'}),
	'e-1 deal 7 person 1 {"title": "new"}', '... what is known of it is kept');
my $me = $t->sql('SELECT user_id FROM exact_pd_sync.pipedrive_users WHERE is_me');
foreach (['api', $me, 'us'], ['api', 999, 'tool'], ['automation', $me, 'tool'], ['app', $me, 'person'])
{
	my ($source, $user, $who) = @$_;
	$http->post("$with/pipedrive/webhook", { content => qq({"meta":{"id":"c-$source-$user","entity":"deal","action":"change","change_source":"$source","user_id":"$user"}}) });
	is($t->sql("SELECT caused_by FROM exact_pd_sync.webhook_deliveries WHERE digest = 'c-$source-$user'"), $who, "$source by user $user: $who");
}
my $long = join '', map { chr(97 + ($_ * $_ * 7919 + $_ * 31) % 26) . $_ } 1 .. 5000;
is($http->post("$with/pipedrive/webhook", { content => qq({"meta":{"id":"$long","entity":"deal"}}) })->{status}, '200', 'an id that no index takes');

# ---------------------
note 'what is refused';
# ---------------------

is($http->get("$url/exact/webhook")->{status}, '405', 'wrong method');
is($http->get("$url/exact/webhook")->{headers}{allow}, 'POST', '... the right one is named');
is($http->get("$url/")->{status}, '404', 'wrong path');
is($t->sql(q{SELECT string_agg(label || ' ' || value, ', ' ORDER BY label) FROM exact_pd_sync.counters() WHERE name = 'answers' AND label ~ ' 40[45]$'}), 'exact 405 2, other 404 1', '... all counted');
is(raw("GET /healthz HTTP/1.1\r\n\r\n"), '400', 'no host');
is(raw("GET /healthz HTTP/1.1\r\nHost: a b\r\n\r\n"), '400', 'a host that is none');
is(raw("POST /exact/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"), '413', 'too large by its own word');
is(raw("POST /exact/webhook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" . join('', map { sprintf "%x\r\n%s\r\n", 8000, 'x' x 8000 } 1 .. 12) . "0\r\n\r\n"), '413', 'too large in pieces');
is(raw("POST /exact/webhook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" . sprintf("%x\r\n%s\r\n0\r\n\r\n", length $good, $good)), '200', 'genuine in pieces');
isnt(raw("nonsense\r\n\r\n"), '200', 'nonsense');
isnt(raw("GET /healthz HTTP/1.1\r\nHost: x\r\n" . join('', map { "X-$_: " . 'y' x 100 . "\r\n" } 1 .. 1000) . "\r\n"), '200', 'a flood of headers');
is(raw("POST /exact/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf", half => 1), '', 'closed by half: no answer');
my $two = raw("GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", all => 1);
my $piped = raw(("POST /exact/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}" x 3) . "GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", all => 1);
is(join(' ', $piped =~ m,^HTTP/1\.1 (\d+),mg), '401 401 401 404', 'requests one behind the other');

# Drips: a request that never comes to its end is cut off.
my $slow = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);
$slow->print("POST /exact/webhook HTTP/1.1\r\nHost: x\r\n");
$slow->flush;
local $SIG{PIPE} = 'IGNORE';
my ($cut, $until) = (0, time + 40);
while (!$cut && time < $until)
{
	my $ready = '';
	vec($ready, fileno($slow), 1) = 1;
	if (select($ready, undef, undef, 0.5)) { $cut = 1; last; }
	$slow->print('X');
	$slow->flush;
}
ok($cut, 'a request that drips is cut off');
is($http->get("$url/healthz")->{status} =~ /^(200|503)$/, 1, 'the listener lives');
is($t->sql('SELECT count(*) FROM exact_pd_sync.webhook_deliveries WHERE side = \'exact\''), '1', 'nothing else was stored');

# -----------
note 'health';
# -----------

sub health { my $answer = $http->get("$url/healthz"); return ($answer->{status}, JSON::PP::decode_json($answer->{content})); }
my ($status, $health) = health();
is("$status " . join(',', sort keys %{ $health->{red} }), '200 ', 'all is well');
my $metrics = $http->get("$url/metrics");
is($metrics->{status}, '200', 'metrics');
like($metrics->{content}, qr/^exact_pd_sync_webhook_requests_total\{source="exact",status="401"\} \d+$/m, '... forged ones are counted');
like($metrics->{content}, qr/^exact_pd_sync_api_latency_seconds_bucket\{side="pipedrive",le="\+Inf"\} [1-9]\d*$/m, '... calls are timed');
like($metrics->{content}, qr/# EOF\n\z/, '... to the end');
$t->sql(q{UPDATE exact_pd_sync.feed_positions SET last_success = last_success - interval '3 hours' WHERE feed = 'sales_order_headers'});
($status, $health) = health();
is("$status " . join(',', sort keys %{ $health->{red} }), '503 orders', 'orders were not read for long');
$t->poll;
$t->post('/exact/revoke');
$t->token_age(600);
$t->try('CALL exact_pd_sync.poll_orders()');
($status, $health) = health();
is($status, '503', 'the consent is withdrawn');
ok($health->{red}{'exact consent'}, '... and named');

# ---------------
note 'life cycle';
# ---------------

my $log = $t->log_position;
$t->node->append_conf('postgresql.conf', "exact_pd_sync.listen = ''");
$t->node->reload;
ok($t->wait_for(q{SELECT exact_pd_sync.worker_pid('listener')}, '0', 30), 'no address: no listener');
like($t->log_since($log), qr/stopped listening on 127\.0\.0\.1 port $port/, '... says the log');
my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1, ReuseAddr => 1);
$log = $t->log_position;
$t->node->append_conf('postgresql.conf', "exact_pd_sync.listen = 'sync=127.0.0.1:$port'");
$t->node->reload;
my $seen;
for (1 .. 300) { $seen = $t->log_since($log) =~ /could not listen on 127\.0\.0\.1 port $port: Address already in use/ and last; select undef, undef, undef, 0.1; }
ok($seen, 'the port is taken: the log says so');
ok($t->wait_for(q{SELECT state = 'yellow' AND detail LIKE 'the listener takes nothing in: could not listen on 127.%' FROM exact_pd_sync.status WHERE part = 'notifications'}, 't', 30), '... and so does status');
my $listener = $t->sql(q{SELECT exact_pd_sync.worker_pid('listener')});
close $taken;
ok($t->wait_for(q{SELECT exact_pd_sync.worker_trouble('listener') IS NULL}, 't', 60), '... and when it is free, all is well');
is(post(''), '200', '... by itself');
is($t->sql(q{SELECT exact_pd_sync.worker_pid('listener')}), $listener, '... without a new worker');
is(scalar(() = $t->log_since($log) =~ /could not listen/g), 1, '... and it was said once');
my $other = PostgreSQL::Test::Cluster::get_free_port();
$t->node->append_conf('postgresql.conf', "exact_pd_sync.listen = 'sync=127.0.0.1:$other'");
$t->node->reload;
my $moved;
for (1 .. 300) { $moved = $http->get("http://127.0.0.1:$other/nowhere")->{status} eq '404' and last; select undef, undef, undef, 0.1; }
ok($moved, 'another port: it moves there');
$log = $t->log_position;
$t->node->append_conf('postgresql.conf', "exact_pd_sync.listen = 'sync=127.0.0.1:$other, another=127.0.0.1:$port'");
$t->node->reload;
$seen = 0;
for (1 .. 300) { $seen = $t->log_since($log) =~ /exact_pd_sync\.listen names a database twice, or one that no worker runs for/ and last; select undef, undef, undef, 0.1; }
ok($seen, 'a database in the list that has no workers: the log says so');
my ($rc, $out, $err) = $t->try(q{ALTER SYSTEM SET exact_pd_sync.listen = 'sync=localhost:80'});
like($err, qr/an address is not numeric/, 'a name is no address');
$t->sql('DROP EXTENSION exact_pd_sync CASCADE');
my $closed;
for (1 .. 300) { $closed = !IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $other) and last; select undef, undef, undef, 0.1; }
ok($closed, 'without the extension nobody listens');

done_testing();
