# Subscriptions: exactly one per topic, and from a change at Exact to a deal without a poll.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use Test::More;

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $t = EpdsTest->new(
	'subscribe',
	orders => 6,
	items => 20,
	seed => 43,
	switches => { burst_limit => 0, exact_minute_limit => 100000, exact_webhook_validation_delay_ms => 10 },
	conf => "exact_pd_sync.listen = 'sync=127.0.0.1:$port'\n");
ok($t->first_run, 'a first run');
my $url = "http://127.0.0.1:$port/exact/webhook";

sub there
{
	my $state = $t->get('/exact/webhooks');
	my $list = $state->{subscriptions} // $state;
	return join ' ', sort map { "$_->{Topic}" . ($_->{CallbackURL} eq $url ? '' : ' elsewhere') } @$list;
}
sub part { return $t->sql(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'notifications'}); }

is(part(), 'green: off: changes are seen by the polls', 'without subscriptions');
my ($rc, $out, $err) = $t->try('CALL exact_pd_sync.subscribe_webhooks()');
like($err, qr/NOTICE: .*no notifications are asked for/, 'the daily check says so');
($rc, $out, $err) = $t->try(q{CALL exact_pd_sync.subscribe_webhooks('http://hooks.example/x')});
like($err, qr/ERROR: .*"http:\/\/hooks\.example\/x" is not a value/, 'an address without TLS is refused');

foreach my $mode ('after', 'inside')
{
	$t->switches(exact_webhook_validation => $mode);
	$t->sql("CALL exact_pd_sync.subscribe_webhooks('$url')");
	is(there(), 'Accounts Items SalesOrders', "one per topic, validated $mode");
	is($t->sql('SELECT count(*) FROM exact_pd_sync.webhook_subscriptions WHERE subscription_id IS NOT NULL'), '3', '... and listed');
	my @calls = $t->exact_calls(sub { $t->sql('CALL exact_pd_sync.subscribe_webhooks()') });
	is(join(' ', map { $_->{method} } grep { $_->{path} !~ /token/ } @calls), 'GET', '... a check of what is well is one call');
	$t->sql('CALL exact_pd_sync.unsubscribe_webhooks()');
	is(there(), '', '... and away');
}

# Without the secret nothing could be checked.
$t->sql(q{SELECT exact_pd_sync.store_secret('exact_webhook_secret', NULL)});
($rc, $out, $err) = $t->try("CALL exact_pd_sync.subscribe_webhooks('$url')");
like($err, qr/ERROR: .*there is no webhook secret/, 'no webhook secret: an error');
is(there(), '', '... and nothing was asked for');
$t->sql(q{SELECT exact_pd_sync.store_secret('exact_webhook_secret', '} . $t->ready->{webhook_secret} . q{')});
$t->sql("CALL exact_pd_sync.subscribe_webhooks('$url')");
$t->sql(q{SELECT exact_pd_sync.store_secret('exact_webhook_secret', NULL)});
like(part(), qr/^yellow: there is no webhook secret, so every notification of Exact is turned away/, 'it is gone afterwards: status says so');
$t->sql(q{SELECT exact_pd_sync.store_secret('exact_webhook_secret', '} . $t->ready->{webhook_secret} . q{')});
unlike(part(), qr/webhook secret/, '... until it is back');

# Who does not answer has not refused.
$t->fault(side => 'exact', method => 'GET', path => 'WebhookSubscriptions', times => 0, action => { drop => JSON::PP::true });
($rc, $out, $err) = $t->try('CALL exact_pd_sync.subscribe_webhooks()');
like($err, qr/ERROR: .*could not list the webhook subscriptions/, 'Exact does not answer: an error');
unlike($err, qr/HINT: .*right to manage/, '... that speaks of no rights');
$t->clear_faults;

# Somebody subscribed before us, elsewhere: a second one is refused by Exact.
$t->sql("CALL exact_pd_sync.subscribe_webhooks('$url')");
my $old = $url;
(my $new_url = $url) =~ s/127\.0\.0\.1/localhost/;
$url = $new_url;
$t->sql("CALL exact_pd_sync.subscribe_webhooks('$url')");
is(there(), 'Accounts Items SalesOrders', 'another address: the old ones are replaced');
$url = $old;
$t->sql("CALL exact_pd_sync.subscribe_webhooks('$url')");

# An answer is lost, and the second list tells.
$t->sql('CALL exact_pd_sync.unsubscribe_webhooks()');
$t->fault(side => 'exact', method => 'POST', path => 'WebhookSubscriptions', times => 1, action => { drop => JSON::PP::true, execute => JSON::PP::true });
$t->sql("CALL exact_pd_sync.subscribe_webhooks('$url')");
is(there(), 'Accounts Items SalesOrders', 'an answer is lost, and nothing is wrong');
$t->fault(side => 'exact', method => 'DELETE', path => 'WebhookSubscriptions', times => 0, action => { status => 500, body => '{"error":{"code":"","message":{"lang":"","value":"Niet toegestaan."}}}', content_type => 'application/json' });
($rc, $out, $err) = $t->try('CALL exact_pd_sync.unsubscribe_webhooks()');
like($err, qr/ERROR: .*not all webhook subscriptions/, 'Exact does not remove them: an error');
$t->clear_faults;
$t->fault(side => 'exact', method => 'DELETE', path => 'WebhookSubscriptions', times => 1, action => { status => 500, body => '{"error":{"code":"","message":{"lang":"","value":"Niet toegestaan."}}}', content_type => 'application/json' });
($rc, $out, $err) = $t->try('CALL exact_pd_sync.unsubscribe_webhooks()');
my $left = there();
like($left, qr/^\w+$/, '... it removes all but one');
like($err, qr/ERROR: .*not all webhook subscriptions/, '... an error again');
$t->clear_faults;
like(part(), qr/^yellow: \w+: .*Niet toegestaan/, '... and status is yellow');
$t->try('CALL exact_pd_sync.subscribe_webhooks()');
is(there(), $left, '... the daily check asks for none of them again');
$t->sql('CALL exact_pd_sync.unsubscribe_webhooks()');
is(there(), '', '... and the next call removes what is left');
$t->sql("CALL exact_pd_sync.subscribe_webhooks('$url')");

# From the counter to the deal.
my $new = $t->post('/exact/orders', {});
ok($t->wait_for("SELECT count(*) FROM exact_pd_sync.links WHERE kind = 'deal' AND exact_id = '$new->{OrderID}'", '1', 30), 'a new order is a deal, without a poll');
$t->patch("/exact/orders/$new->{OrderNumber}", { status => 20, delivery_status => 21 });
ok($t->wait_for("SELECT status = 20 AND delivery_status = 21 FROM exact_pd_sync.exact_sales_orders WHERE id = '$new->{OrderID}'", 't', 30), 'its change is read');
ok($t->settle, '... and delivered');
$t->delete("/exact/orders/$new->{OrderNumber}");
ok($t->wait_for("SELECT deleted_at IS NOT NULL FROM exact_pd_sync.exact_sales_orders WHERE id = '$new->{OrderID}'", 't', 30), 'its deletion, too');
like(part(), qr/^green: last one /, 'status shows it');

# Damaged on the way: nothing wrong comes of it, and the poll does the rest.
foreach my $damage (qw(duplicate reorder tamper lowercase unsigned unknown_topic lose))
{
	$t->switches(exact_webhook_damage => $damage);
	my $order = $t->post('/exact/orders', {});
	$t->wait_for(q{SELECT count(*) FROM exact_pd_sync.webhook_deliveries WHERE state IN ('new', 'waiting')}, '0', 30);
	# A feed that the intake worker reads at this moment is left to it: then it makes the deal.
	$t->poll;
	ok($t->wait_for("SELECT count(*) FROM exact_pd_sync.links WHERE kind = 'deal' AND exact_id = '$order->{OrderID}'", '1', 30) && $t->settle && $t->deal($order->{OrderNumber}),
		"$damage: the order is a deal");
}
$t->switches(exact_webhook_damage => undef);
agrees($t, 'every order is a deal');
$t->sql(q{DELETE FROM exact_pd_sync.webhook_deliveries});
$t->sql(q{UPDATE exact_pd_sync.webhook_topics_asked SET since = since - interval '1 day'; UPDATE exact_pd_sync.divisions SET imported_at = imported_at - interval '1 day'});
is($t->sql(q{SELECT string_agg(state, ' ') FROM exact_pd_sync.webhook_subscriptions}), 'well well well', 'changed a moment ago, and no notification yet: well');
$t->sql(q{UPDATE exact_pd_sync.exact_sales_orders SET changed_at = changed_at - interval '30 minutes'});
is($t->sql(q{SELECT string_agg(topic || ' ' || state, ' ' ORDER BY topic) FROM exact_pd_sync.webhook_subscriptions}), 'Accounts well Items well SalesOrders silent', '... half an hour ago: silent');
like(part(), qr/^yellow: no notification came within a day although much changed \(SalesOrders at Exact\)/, '... status says so');
$t->no_violations('nothing was forbidden');

done_testing();
