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
agrees($t, '... every order is a deal');
is(receive(body($first->{OrderID})), '200', 'orders are paused') if $t->pause('orders') || 1;
ok(followed(), '... a hint does not wait for ever');
$t->no_violations('nothing was forbidden');

done_testing();
