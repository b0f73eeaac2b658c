# Whose word counts for a field: policies; edits that come back every night; a
# run that is cut off, has no tokens left, or sees a company that is not ours.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use HTTP::Tiny;
use JSON::PP ();
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $t = EpdsTest->new('drift_policies', orders => 0, items => 4, months => 3,
	switches => { burst_limit => 0, exact_minute_limit => 100000 });
my %open = (status => 12, delivery_status => 12, invoice_status => 12);

$t->post(
	'/exact/orders',
	[
		(
			map {
				{
					number => 62000 + $_, %open, order_date => '2026-11-02', salesperson => 'Anna de Wit',
					customer => { name => "Zaak $_", code => 8200 + $_ }, your_ref => "ref $_",
					lines => [ map { { item => { code => "P-$_", description => "Pot $_", price => 4.4 * $_ }, quantity => $_ } } 1 .. 2 ]
				}
			} 1 .. 6
		),
		{
			# amounts that do not divide: a closing discount
			number => 62007, %open, order_date => '2026-11-03', customer => '8201', salesperson => 'Anna de Wit', discount => 0.05,
			lines => [ { item => 'P-1', quantity => 7, price => 12.37 }, { item => 'P-2', quantity => 3, price => 0.99 }, { item => 'P-1', quantity => 11, price => 4.45, discount => 0.1 } ]
		}
	]);
ok($t->first_run, 'the first run is through');
agrees($t, '... every order is a deal');
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '0')});

sub drift
{
	return $t->sql(
		q{SELECT coalesce(string_agg(concat_ws(' ', kind, number, what, nullif(field, ''), policy, action), E'\n' ORDER BY kind, number, what, field), '') FROM exact_pd_sync.drift});
}

sub reconcile
{
	my ($name) = @_;
	return $t->pipedrive_calls(sub {
		my ($rc, undef, $err) = $t->try('CALL exact_pd_sync.reconcile()');
		is($rc, 0, "$name: reconcile() goes through") or diag($err);
		ok($t->settle, "$name: ... and what follows is sent");
	});
}

sub writes
{
	return $t->writes(@_);
}

sub organization
{
	my ($code) = @_;
	my ($found) = grep { ($_->{fields}{Debiteurnummer} // '') eq $code } @{ $t->state('organizations')->{organizations} };
	return $found;
}

sub policy
{
	my (@what) = @_;
	$t->sql('SELECT exact_pd_sync.set_field_policy(' . join(', ', map { "'$_'" } @what) . ')');
	ok($t->settle, "policy @what");
	return;
}

sub change
{
	my ($number, %to) = @_;
	$t->patch("/exact/orders/$number", \%to);
	my @calls = $t->pipedrive_calls(sub { $t->poll('orders'); $t->settle });
	return writes(@calls);
}

# ---------------------
note 'pipedrive';
# ---------------------

policy(qw(deal your_ref pipedrive));
my $id = $t->deal(62001)->{id};
is_deeply([ change(62001, your_ref => 'nieuw') ], ['PATCH deals/* {<Uw referentie>} 5'], 'policy pipedrive: as long as nobody touched it, changes of Exact are sent');
$t->patch("/pipedrive/deals/$id", { fields => { 'Uw referentie' => 'van de verkoper' } });
my @calls = reconcile('policy pipedrive');
is_deeply([ writes(@calls) ], [], '... what a person changed stays');
is(drift(), 'deal 62001 edited your_ref pipedrive left', '... and is reported');
like($t->sql(q{SELECT state FROM exact_pd_sync.status WHERE part = 'reconcile'}), qr/green/, '... without alarm');
is_deeply([ change(62001, your_ref => 'Exact weer') ], [], '... from then on it is theirs');
is($t->sql(q{BEGIN; SELECT exact_pd_sync.resync('deal'); SELECT count(*) FROM exact_pd_sync.plan() WHERE object = 'Order 62001'; ROLLBACK}), "7\n0", '... and plan() says so, too')
  or diag($t->sql(q{SELECT * FROM exact_pd_sync.plan()}));
is_deeply([ change(62001, delivery_status => 20) ], ['PATCH deals/* {stage_id, <Leverstatus>} 5'], '... other fields go on');
reconcile('policy pipedrive, again');
is(drift(), 'deal 62001 edited your_ref pipedrive left', '... it stays in view');
$t->patch("/pipedrive/deals/$id", { fields => { 'Uw referentie' => 'Exact weer' } });
reconcile('given back');
is(drift(), '', '... until the person gives it back');
is_deeply([ change(62001, your_ref => 'derde') ], ['PATCH deals/* {<Uw referentie>} 5'], '... then it is Exact\'s again');

# Lines.
policy(qw(deal lines pipedrive));
my $d2 = $t->deal(62002);
$t->patch("/pipedrive/deals/$d2->{id}/products/$d2->{products}[0]{id}", { item_price => 50 });
is_deeply([ writes(reconcile('lines of theirs')) ], [], 'lines with policy pipedrive: what a person changed stays');
is(drift(), 'deal 62002 lines lines pipedrive left', '... and is reported');
$t->patch('/exact/orders/62002/lines/1', { quantity => 30 });
$t->patch('/exact/orders/62003/lines/1', { quantity => 30 });
is_deeply([ writes($t->pipedrive_calls(sub { $t->poll('orders'); $t->settle })) ], ['PATCH deals/*/products/* {quantity} 5'], '... changes of Exact go to other deals alone');
policy(qw(deal lines exact));
reconcile('lines of ours again');
agrees($t, 'with policy exact again they are put right');

# -----------------------
note 'create-only';
# -----------------------

policy(qw(organization name create-only));
policy(qw(deal owner_id create-only));
my $one = organization('8201');
$t->patch("/pipedrive/organizations/$one->{id}", { name => 'Zaak Een in de stad' });
is_deeply([ writes(reconcile('create-only')) ], [], 'policy create-only: an edit stays');
is(drift(), 'organization 8201 edited name create-only left', '... and is reported');
my ($account) = grep { $_->{Name} eq 'Zaak 6' } @{ $t->get('/exact/state?entity=Accounts')->{Accounts} };
$t->patch("/exact/entities/Accounts/$account->{ID}", { Name => 'Zaak Zes', City => 'Zutphen' });
is_deeply([ writes($t->pipedrive_calls(sub { $t->poll; $t->settle })) ], ['PATCH organizations/* {address} 5'], '... what changes at Exact is not sent, the other fields are');
$t->post('/exact/orders', { number => 62008, %open, customer => { name => 'Zaak 8', code => '8208' }, salesperson => 'Bram Hoekstra', lines => [ { item => 'P-1', quantity => 1 } ] });
$t->poll;
ok($t->settle, '... a new one');
is(organization('8208')->{name}, 'Zaak 8', '... gets its name');
is($t->deal(62008)->{owner}, 'Bram Hoekstra', '... and its owner');
is_deeply([ change(62008, salesperson => 'Anna de Wit') ], [], '... which then stays');
policy(qw(organization name exact));
is(organization('8206')->{name}, 'Zaak Zes', 'policy exact again: what changed at Exact meanwhile is sent at once');
reconcile('exact again');
is(organization('8201')->{name}, 'Zaak 1', '... and what a person changed is put right by the next run');
policy(qw(deal owner_id exact));
reconcile('owner, too');
agrees($t, '... everything is Exact\'s again', except => [62006]);

# The title of order 62006 has the name that its header at Exact was written with.

# -----------------------
note 'a discount';
# -----------------------

my $d7 = $t->deal(62007);
is(scalar(@{ $d7->{discounts} }), 1, 'a deal with a closing discount');
my $http = HTTP::Tiny->new(default_headers => { 'x-api-token' => $t->ready->{api_token}, 'content-type' => 'application/json' });
my $url = $t->ready->{pipedrive} . "/api/v2/deals/$d7->{id}/discounts";
is($http->request('DELETE', "$url/$d7->{discounts}[0]{id}")->{status}, 200, '... that a person removes');
reconcile('discount removed');
agrees($t, '... comes back', except => [62006]);
is($http->request('PATCH', "$url/" . $t->deal(62007)->{discounts}[0]{id}, { content => '{"amount": 40}' })->{status}, 200, '... that a person changes');
reconcile('discount changed');
agrees($t, '... is put right', except => [62006]);
my $d3 = $t->deal(62003);
is($http->request('POST', $t->ready->{pipedrive} . "/api/v2/deals/$d3->{id}/discounts", { content => '{"description":"Voor jou","amount":10,"type":"percentage"}' })->{status}, 201, '... that a person makes');
reconcile('discount of theirs');
agrees($t, '... is taken away', except => [62006]);
is(scalar(@{ $t->deal(62003)->{discounts} }), 0, '... altogether');

# ------------------------------
note 'what comes back';
# ------------------------------

my $d4 = $t->deal(62004);
foreach my $n (1 .. 2)
{
	$t->patch("/pipedrive/deals/$d4->{id}", { title => 'Altijd anders' });
	is_deeply([ writes(reconcile("comes back, $n")) ], ['PATCH deals/* {title} 5'], '... it is put right');
}
$t->patch("/pipedrive/deals/$d4->{id}", { title => 'Altijd anders' });
is_deeply([ writes(reconcile('comes back, 3')) ], [], 'an edit that came back twice is not put right again');
is(drift(), 'deal 62004 edited title exact stubborn', '... but reported');
like($t->sql(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'reconcile'}), qr/^yellow: .*1 of the findings need a look/, '... status says it');
is_deeply([ writes(reconcile('comes back, 4')) ], [], '... night after night');
$t->patch("/pipedrive/deals/$d4->{id}", { title => 'Weer iets' });
is_deeply([ writes(reconcile('something else')) ], ['PATCH deals/* {title} 5'], '... until it is something else');
reconcile('nothing');
is(drift(), '', '... and then nothing is left');

# ---------------------
note 'cut off';
# ---------------------

$t->patch('/pipedrive/deals/' . $t->deal(62005)->{id}, { title => 'Halverwege' });
$t->fault(side => 'pipedrive', path => 'deals/archived', times => 0, action => { status => 503, body => 'later' });
my ($rc, undef, $err) = $t->try('CALL exact_pd_sync.reconcile()');
isnt($rc, 0, 'a run that is cut off fails');
like($err, qr/ERROR: .*Pipedrive.*HINT: .*reconcile\(\) again/s, '... and says what to do');
like($t->sql(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'reconcile'}), qr/^yellow: the last run failed/, '... and so does status');
$t->clear_faults;
@calls = reconcile('cut off');
is(join(' ', map { "$_->{method} $_->{operation}" } grep { $_->{method} eq 'GET' } @calls), 'GET list archived deals', '... the next one goes on where it was');
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.remote_records}), '0', '... and leaves nothing behind');
agrees($t, '... what was found is put right', except => [62006]);

# The tokens left are for live orders.
my $budget = $t->get('/pipedrive/budget');
$t->post('/pipedrive/spend', { tokens => int($budget->{left} - $budget->{limit} * 0.15) });
$t->sql(q{SELECT exact_pd_sync.resync('deal', (SELECT exact_id FROM exact_pd_sync.links WHERE kind = 'deal' ORDER BY exact_id LIMIT 1))});
$t->settle;
($rc, undef, $err) = $t->try('CALL exact_pd_sync.reconcile()');
isnt($rc, 0, 'with the tokens that live orders need it does not begin');
like($err, qr/ERROR: .*daily token budget/, '... and says so');
$t->switches(daily_budget => 10_000_000);
$t->sql(q{UPDATE exact_pd_sync.budgets SET remaining = limit_value WHERE side = 'pipedrive' AND kind = 'day'});
reconcile('tokens again');

# A person says stop; two at once.
$t->fault(side => 'pipedrive', path => '/products', times => 1, action => { hang => 'headers', seconds => 60 });
($rc, undef, $err) = $t->try(q{SET statement_timeout = '1s'; CALL exact_pd_sync.reconcile()});
like($err, qr/ERROR:  57014/, 'a run can be cancelled while it waits');
$t->clear_faults;
is($t->sql(q{SELECT state FROM exact_pd_sync.sync_runs WHERE what = 'reconcile' ORDER BY id DESC LIMIT 1}), 'failed', '... and the journal knows');
reconcile('after a cancel');

# A page of a proxy is no word on the record that was asked for.
my $d1 = $t->deal(62001)->{id};
$t->delete("/pipedrive/deals/$d1");
$t->fault(side => 'pipedrive', path => "/deals/$d1", times => 0, action => { status => 404, body => '<html>Not found</html>', content_type => 'application/json' });
($rc, undef, $err) = $t->try('CALL exact_pd_sync.reconcile()');
like($err, qr/ERROR: .*could not complete a call to Pipedrive: .*404 without a JSON body.*reconcile\(\) again/s, 'a 404 without JSON is no answer');
$t->settle;
is($t->sql('SELECT count(*) FROM exact_pd_sync.links WHERE gone_at IS NOT NULL'), '0', '... and nothing is taken for gone');
$t->clear_faults;
$t->patch("/pipedrive/deals/$d1", { is_deleted => $false });
reconcile('after a 404 without JSON');
is(drift(), '', '... nor found');

# ----------------------------------
note 'what staging does not have';
# ----------------------------------

# A row that was lost here, and a status that was missed.
my $lost = $t->sql(q{SELECT id FROM exact_pd_sync.exact_sales_orders WHERE order_number = 62003});
$t->sql(qq{DELETE FROM exact_pd_sync.exact_sales_order_lines WHERE order_id = '$lost'; DELETE FROM exact_pd_sync.exact_sales_orders WHERE id = '$lost'});
$t->sql(q{UPDATE exact_pd_sync.exact_sales_orders SET delivery_status = 21 WHERE order_number = 62004});
$t->post('/exact/orders', { number => 62009, %open, customer => '8201', salesperson => 'Anna de Wit', lines => [ { item => 'P-1', quantity => 4 } ] });
my $calls = () = $t->exact_calls(sub { reconcile('not staged') });
cmp_ok($calls, '<=', 4, 'orders that Exact has and staging has not are found by one list and read by key');
is($t->sql(q{SELECT not_staged FROM exact_pd_sync.reconcile_results ORDER BY run_id DESC LIMIT 1}), '2', '... counted');
ok($t->settle, '... sent');
agrees($t, '... and every order is a deal', except => [62006]);
$calls = () = $t->exact_calls(sub { reconcile('staged') });
is($calls, 1, '... the next run asks for the list alone');
like($t->sql(q{SELECT summary FROM exact_pd_sync.reconcile_results ORDER BY run_id DESC LIMIT 1}), qr/^equal: 9 orders/, '... and both sides are equal');
# An order is taken for deleted, and Exact has it.
$t->sql(qq{UPDATE exact_pd_sync.exact_sales_order_lines SET deleted_at = clock_timestamp() WHERE order_id = '$lost';
	UPDATE exact_pd_sync.exact_sales_orders SET deleted_at = clock_timestamp(), changed_at = clock_timestamp(), timestamp = coalesce(timestamp, 1) WHERE id = '$lost'});
ok($t->settle, 'an order is taken for deleted');
is($t->deal(62003)->{status}, 'lost', '... and its deal is lost');
reconcile('not deleted');
ok($t->settle, '... reconcile() sees that Exact has it');
is($t->deal(62003)->{status}, 'open', '... and its deal is open again');
agrees($t, '... with its lines', except => [62006]);
$t->fault(side => 'exact', path => 'SalesOrders', times => 0, action => { status => 503, body => 'down' });
($rc, undef, $err) = $t->try('CALL exact_pd_sync.reconcile()');
like($err, qr/ERROR: .*Exact could not be asked which orders there are: /, 'when Exact does not answer the run is a failure');
like($t->sql(q{SELECT summary FROM exact_pd_sync.reconcile_results ORDER BY run_id DESC LIMIT 1}), qr/^equal: 9 orders/, '... but what is here is compared all the same');
$t->clear_faults;

# Another session reads the same feed: its lock, as a session holds it that is stopped while it reads.
$t->fault(side => 'exact', path => 'SalesOrders', times => 1, action => { hang => 'headers', seconds => 60 });
my $reading = $t->background('CALL exact_pd_sync.reconcile()');
my $find = q{SELECT format('%s, %s', classid, objid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 3 AND classid = x'45504458'::integer AND pid = } . $reading->(pid => 1);
$t->wait_for("SELECT EXISTS ($find)");
my $key = $t->sql($find);
$t->sql('SELECT pg_cancel_backend(' . $reading->(pid => 1) . ')');
$reading->();
$t->clear_faults;
my $other = $t->session;
$t->load_module('epds_test_lock');
is($other->query_safe("SELECT test_lock($key)"), 't', 'another session has the lock of a feed');
my $waiting = $t->background('CALL exact_pd_sync.reconcile()');
my $pid = $waiting->(pid => 1);
$t->wait_for("SELECT wait_event = 'Extension' AND state = 'active' FROM pg_stat_activity WHERE pid = $pid");
$other->quit;
(undef, $err) = $waiting->();
my @said = $err =~ /(another session, which reads feed "order_keys")/g;
is(scalar(@said), 1, 'a feed that another session reads is waited for');
unlike($err, qr/ERROR/, '... and then read');
like($t->sql(q{SELECT summary FROM exact_pd_sync.reconcile_results ORDER BY run_id DESC LIMIT 1}), qr/^equal: 9 orders/, '... and both sides are equal');

# -------------------------------
note 'another company';
# -------------------------------

my @links = split /\n/, $t->sql(q{SELECT kind || ' ' || pipedrive_id FROM exact_pd_sync.links});
$t->sql(q{SELECT exact_pd_sync.pause()});
$t->post('/exact/orders', [ map { { number => 62100 + $_, %open, customer => '8201', salesperson => 'Anna de Wit', lines => [ { item => 'P-1', quantity => $_ } ] } } 1 .. 30 ]);
$t->sql(q{SELECT exact_pd_sync.resume()});
$t->poll('orders');
ok($t->settle, 'thirty deals more');
$t->delete("/pipedrive/deals/$_->{id}") foreach grep { $_->{fields}{Ordernummer} >= 62100 } $t->deals;
($rc, undef, $err) = $t->try('CALL exact_pd_sync.reconcile()');
like($err, qr/ERROR: .*30 of \d+ deals are not in the lists of Pipedrive any more.*HINT: .*gone_percent/s, 'when a large part is missing nothing is concluded');
is($t->sql('SELECT count(*) FROM exact_pd_sync.links WHERE gone_at IS NOT NULL'), '0', '... nothing is taken for gone');
$t->sql(q{SELECT exact_pd_sync.configure('gone_percent', '100')});
@calls = reconcile('on purpose');
is(scalar(grep { $_->{operation} eq 'get deals' } @calls), 0, 'on purpose: many are asked for in one list');
is($t->sql('SELECT count(*) FROM exact_pd_sync.links WHERE gone_at IS NOT NULL'), '30', '... and are gone');
is($t->sql('SELECT count(*) FROM exact_pd_sync.dead_letters'), '30', '... and wait for a person');

$t->no_violations;
done_testing();
