# From a notification to a deal, without a poll.  Notifications come through
# receive_exact_webhook(), as from an HTTP front that a site has of its own.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Digest::SHA qw(hmac_sha256_hex);
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $t = EpdsTest->new('hints', orders => 12, items => 30, seed => 41, switches => { burst_limit => 0, exact_minute_limit => 100000 });
ok($t->first_run, 'a first run');

sub body
{
	my ($key, %more) = @_;
	my $content = sprintf '{"Topic":"%s","ClientId":"c","Division":%d,"Action":"%s","Key":"%s","ExactOnlineEndpoint":"x","EventCreatedOn":"%s"}',
	  $more{topic} // 'SalesOrders', $more{division} // $t->ready->{division}, $more{action} // 'Update', $key,
	  $more{at} // $t->sql(q{SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC' + interval '2 seconds', 'YYYY-MM-DD"T"HH24:MI:SS.MS')});
	my $hash = uc hmac_sha256_hex($content, $more{secret} // $t->ready->{webhook_secret});
	return qq({"Content":$content,"HashCode":"$hash"});
}

sub receive
{
	my ($body) = @_;
	return $t->sql("SELECT exact_pd_sync.receive_exact_webhook('\\x" . unpack('H*', $body) . "')");
}

sub followed
{
	return $t->wait_for(q{SELECT count(*) FROM exact_pd_sync.webhook_deliveries WHERE state IN ('new', 'waiting')}, '0', 60) && $t->settle;
}

sub results
{
	return $t->sql(q{SELECT string_agg(DISTINCT result, ', ' ORDER BY result) FROM exact_pd_sync.webhook_deliveries WHERE id > } . ($_[0] // 0));
}
my $last = 0;
sub mark { return $last = $t->sql('SELECT coalesce(max(id), 0) FROM exact_pd_sync.webhook_deliveries'); }

my $empty = '{"d":{"results":[]}}';
my %hidden = (status => 200, body => $empty, content_type => 'application/json');

# ----------------------
note 'what is taken in';
# ----------------------

my ($first) = $t->orders;
is(receive(''), '200', 'the validation of the address is answered');
is(receive('{}'), '401', 'what is not signed is not taken');
is(receive(body($first->{OrderID}, secret => 'guessed')), '401', '... nor what is signed with another secret');
is(receive('x' x 70000), '413', '... nor what is too large');
is($t->sql('SELECT count(*) FROM exact_pd_sync.webhook_deliveries'), '0', '... and nothing of them is stored');
is(receive(body($first->{OrderID}, topic => 'StockPositions')), '200', 'another topic is taken');
is(receive(body($first->{OrderID}, division => 999)), '200', '... and another division');
is($t->sql(q{SELECT string_agg(result, '; ' ORDER BY id) FROM exact_pd_sync.webhook_deliveries WHERE state = 'ignored'}),
	'this topic leads to nothing; this division is not read', '... and lead to nothing');

# ---------------------
note 'hints are followed';
# ---------------------

mark();
my $new = $t->post('/exact/orders', {});
my @calls = $t->exact_calls(
	sub {
		is(receive(body($new->{OrderID}, action => 'Create')), '200', 'a new order is announced');
		ok(followed(), '... and followed');
	});
ok($t->deal($new->{OrderNumber}), '... it is a deal, without a poll');
is(results($last), 'read', '... the feed showed it');
cmp_ok(scalar(grep { $_->{path} !~ /token/ } @calls), '<=', 4, '... for a handful of calls');

mark();
my $body = body($new->{OrderID});
$t->patch("/exact/orders/$new->{OrderNumber}", { status => 20, delivery_status => 20 });
is(receive($body), '200', 'a change is announced');
ok(followed(), '... and followed');
my $count = $t->sql('SELECT count(*) FROM exact_pd_sync.sync_runs');
is(receive($body), '200', 'the same again is answered');
is($t->sql("SELECT count(*) || ' ' || max(repeats) FROM exact_pd_sync.webhook_deliveries WHERE id > $last"), '1 1', '... counted');
is($t->sql('SELECT count(*) FROM exact_pd_sync.sync_runs'), $count, '... and leads to nothing');
agrees($t, '... every order is a deal');

# An article and a customer.
mark();
my $item = (values %{ { map { $_->{ID} => $_ } @{ $t->get('/exact/state')->{Items} } } })[0];
$t->patch("/exact/entities/Items/$item->{ID}", { Description => 'Heel ander artikel' });
receive(body($item->{ID}, topic => 'Items'));
$t->patch("/exact/entities/Accounts/$first->{OrderedBy}", { Phone => '+31 20 1234567' });
receive(body($first->{OrderedBy}, topic => 'Accounts'));
ok(followed(), 'an article and a customer are announced');
is($t->sql(q{SELECT (SELECT count(*) FROM exact_pd_sync.exact_items WHERE description = 'Heel ander artikel') || ' '
	|| (SELECT count(*) FROM exact_pd_sync.exact_accounts WHERE phone = '+31 20 1234567')}), '1 1', '... and read');
agrees($t, '... and followed');

# ----------------------
note 'one feed cannot be read';
# ----------------------

mark();
my $position = $t->log_position;
$new = $t->post('/exact/orders', {});
$t->patch("/exact/entities/Accounts/$first->{OrderedBy}", { Phone => '+31 20 7654321' });
$t->fault(side => 'exact', path => 'sync/CRM/Accounts', times => 0, action => { status => 500, body => '{"error":{"code":"","message":{"lang":"","value":"Bezig."}}}' });
my $waiting = q{SELECT state = 'new' AND looks = 0 AND next_look_at IS NOT NULL AND result LIKE 'not read yet: %' FROM exact_pd_sync.webhook_deliveries WHERE topic = 'Accounts' ORDER BY id DESC LIMIT 1};
receive(body($first->{OrderedBy}, topic => 'Accounts'));
ok($t->wait_for($waiting, 't'), 'a customer is announced, and their feed fails: the hint waits, and says so');
like($t->log_since($position), qr/LOG: .*could not read all that notifications announced\n.*DETAIL: .*customers of division/, '... the log, too');
is(receive(body($new->{OrderID})), '200', 'an order is announced meanwhile');
ok($t->wait_for("SELECT state FROM exact_pd_sync.webhook_deliveries WHERE id > $last AND topic = 'SalesOrders'", 'done'), '... and read');
receive(body($first->{OrderedBy}, topic => 'Accounts', action => 'Create'));
ok($t->wait_for($waiting, 't'), 'another hint of the feed that fails waits with the first');
is($t->sql(q{SELECT count(DISTINCT next_look_at) FROM exact_pd_sync.webhook_deliveries WHERE topic = 'Accounts' AND state = 'new'}), '1', '... for as long');
$t->clear_faults;
$t->sql(q{UPDATE exact_pd_sync.webhook_deliveries SET next_look_at = clock_timestamp() WHERE state = 'new'; SELECT exact_pd_sync.wake_worker('intake')});
ok(followed(), 'when it answers again all is followed');
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.exact_accounts WHERE phone = '+31 20 7654321'}), '1', '... and read');

# ----------------------------
note 'the feed does not show it';
# ----------------------------

mark();
$new = $t->post('/exact/orders', {});
$t->fault(side => 'exact', path => 'sync/SalesOrder/', times => 0, action => \%hidden);
is(receive(body($new->{OrderID})), '200', 'a new order that the feed hides is announced');
@calls = $t->exact_calls(sub { ok(followed(), '... and followed') });
is(results($last), 'looked up by key', '... by key');
is(scalar(grep { $_->{path} =~ m,bulk/SalesOrder/SalesOrders, } @calls), 1, '... once');
ok($t->deal($new->{OrderNumber}), '... it is a deal');
mark();
is(receive(body('aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee')), '200', 'an order that does not exist is announced');
ok(followed(), '... looked for');
is(results($last), 'looked up by key', '... by key');
mark();
my $products = $t->sql('SELECT count(*) FROM exact_pd_sync.exact_items');
is(receive(body('aaaaaaaa-bbbb-cccc-dddd-ffffffffffff', topic => $_, action => 'Create')), '200', "$_: one that does not exist is announced") foreach qw(Items Accounts);
ok(followed(), '... looked for');
is(results($last), 'looked up by key', '... by key');
is($t->sql('SELECT count(*) FROM exact_pd_sync.exact_items'), $products, '... an article is not made of a hint');
is($t->sql('SELECT count(*) FROM exact_pd_sync.exact_accounts WHERE ghost'), '0', '... nor a customer');
is($t->sql('SELECT (SELECT count(*) FROM exact_pd_sync.unresolved_items) + (SELECT count(*) FROM exact_pd_sync.unresolved_accounts)'), '0', '... and nobody asks again');

mark();
my ($gone) = grep { $_->{OrderNumber} ne $new->{OrderNumber} } reverse $t->orders;
$t->fault(side => 'exact', path => 'sync/Deleted', times => 0, action => \%hidden);
is(receive(body($first->{OrderID}, action => 'Delete')), '200', 'a deletion that did not happen is announced');
ok(followed(), '... and looked for');
is($t->sql("SELECT deleted_at IS NULL FROM exact_pd_sync.exact_sales_orders WHERE id = '$first->{OrderID}'"), 't', '... nothing is deleted');
$t->delete("/exact/orders/$gone->{OrderNumber}");
is(receive(body($gone->{OrderID}, action => 'Delete')), '200', 'a deletion that did is announced');
ok(followed(), '... and proven');
is($t->sql("SELECT deleted_at IS NOT NULL FROM exact_pd_sync.exact_sales_orders WHERE id = '$gone->{OrderID}'"), 't', '... by an empty answer');
$t->clear_faults;
$t->poll;
ok($t->settle, 'a poll comes by');
agrees($t, '... every order is a deal');

# ---------------------------------
note 'hints and others at one time';
# ---------------------------------

# A hint is taken in while another is followed, and committed only then.
mark();
my $session = $t->session;
$t->patch("/exact/entities/Items/$item->{ID}", { Description => 'Nog een ander artikel' });
$session->query('BEGIN;');
$session->query("SELECT exact_pd_sync.receive_exact_webhook('\\x" . unpack('H*', body($item->{ID}, topic => 'Items')) . "');");
$t->fault(side => 'exact', path => 'sync/SalesOrder/SalesOrderHeaders', times => 1, action => { hang => 'headers', seconds => 3 });
$t->patch("/exact/orders/$new->{OrderNumber}", { status => 21 });
is(receive(body($new->{OrderID})), '200', 'one hint is followed');
ok($t->wait_for(q{SELECT count(*) > 0 FROM exact_pd_sync.sync_runs WHERE what = 'hints' AND state = 'running'}, 't', 30), '... its feeds are being read');
$session->query('COMMIT;');
ok(followed(), '... meanwhile another one is there');
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.exact_items WHERE description = 'Nog een ander artikel'}), '1', '... and is followed, too');

# What comes again does not wait for whoever has the row.
$body = body($new->{OrderID}, at => '2026-01-02T00:00:00');
is(receive($body), '200', 'a notification');
ok(followed(), '... is followed');
$session->query('BEGIN; SELECT FROM exact_pd_sync.webhook_deliveries FOR UPDATE;');
is($t->sql("SET lock_timeout = '2s'; SELECT exact_pd_sync.receive_exact_webhook('\\x" . unpack('H*', $body) . "')"), '200', '... comes again while somebody has it');
$session->query('ROLLBACK;');
$session->quit;

# -----------
note 'a burst';
# -----------

mark();
my @orders = map { $t->post('/exact/orders', {}) } 1 .. 20;
@calls = $t->exact_calls(
	sub {
		my @bodies = map { my $o = $_; map { body($o->{OrderID}, action => $_ == 1 ? 'Create' : 'Update', at => "2026-01-01T00:00:0$_") } 1 .. 5 } @orders;
		$t->sql(join ' ', map { "SELECT exact_pd_sync.receive_exact_webhook('\\x" . unpack('H*', $_) . "');" } @bodies);
		ok(followed(), 'a hundred notifications are followed');
	});
cmp_ok(scalar(@calls), '<=', 20, '... for a handful of calls') or diag(join "\n", map { $_->{path} } @calls);
@calls = $t->exact_calls(
	sub {
		my @bodies = map { my $topic = $_; map { body(sprintf('aaaaaaaa-aaaa-aaaa-aaaa-%012d', $_), topic => $topic) } 1 .. 90 } qw(SalesOrders Accounts Items);
		$t->sql(join ' ', 'BEGIN;', (map { "SELECT exact_pd_sync.receive_exact_webhook('\\x" . unpack('H*', $_) . "');" } @bodies), 'COMMIT;');
		ok(followed(), 'ninety orders, customers and articles that nobody has');
	});
is(join(' ', map { my $path = $_; scalar grep { $_->{path} =~ $path } @calls } qw(bulk/SalesOrder/SalesOrders crm/Accounts logistics/Items)), '3 3 3', '... are asked for by forty');
agrees($t, '... every order is a deal');
is(receive(body($first->{OrderID})), '200', 'orders are paused') if $t->pause('orders') || 1;
ok(followed(), '... a hint does not wait for ever');
$t->no_violations('nothing was forbidden');

done_testing();
