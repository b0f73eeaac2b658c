# What people do in Pipedrive with records of ours: reconcile() sees it by lists
# alone, says it, and puts right what is Exact's. Nothing is made twice, and what
# a person deleted stays deleted until somebody says replay().

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $t = EpdsTest->new('drift', orders => 0, items => 12, months => 3,
	switches => { burst_limit => 0, exact_minute_limit => 100000 });
my %open = (status => 12, delivery_status => 12, invoice_status => 12);

$t->post(
	'/exact/orders',
	[
		map {
			my $n = $_;
			{
				number => 60000 + $n, %open, order_date => $n <= 6 ? '2026-10-05' : '2026-11-05',
				customer => $n <= 5 ? { name => "Klant $n", code => 8000 + $n } : '8001',
				salesperson => 'Anna de Wit',
				lines => [ map { { item => { code => "D-$_", description => "Doos $_", price => 2.5 + $_ }, quantity => $n + $_ } } 1 .. 1 + $n % 3 ]
			}
		} 1 .. 12
	]);
ok($t->first_run, 'the first run is through');
agrees($t, '... every order is a deal');
# the lists of this sandbox do not lag
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '0')});

# All open findings, a line each.
sub drift
{
	return $t->sql(
		q{SELECT coalesce(string_agg(concat_ws(' ', kind, number, what, nullif(field, ''), theirs #>> '{}', policy, action), E'\n' ORDER BY kind, number, what, field), '') FROM exact_pd_sync.drift});
}

# reconcile() once; the calls it made itself.
sub reconcile
{
	my ($name) = @_;
	my @calls = $t->pipedrive_calls(sub {
		my ($rc, undef, $err) = $t->try('CALL exact_pd_sync.reconcile()');
		is($rc, 0, "$name: reconcile() goes through") or diag($err);
	});
	ok($t->settle, "$name: ... and what follows is sent");
	return grep { $_->{method} eq 'GET' } @calls;
}

sub result
{
	return $t->sql(q{SELECT summary FROM exact_pd_sync.reconcile_results ORDER BY run_id DESC LIMIT 1});
}

sub status_of
{
	return $t->sql(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'reconcile'});
}

# A second run finds nothing more than this, makes only its lists, and sends nothing.
sub quiet
{
	my ($name, $left) = @_;
	my @calls = $t->pipedrive_calls(sub {
		my ($rc, undef, $err) = $t->try('CALL exact_pd_sync.reconcile()');
		is($rc, 0, "$name: a second run goes through") or diag($err);
		ok($t->settle, "$name: ... settles");
	});
	is(join(' ', map { "$_->{method} $_->{operation}" } @calls),
		'GET list organizations GET list products GET list deals GET list archived deals', "$name: ... and makes its four lists, nothing else");
	is(drift(), $left // '', "$name: ... and finds " . ($left ? 'no more than that' : 'nothing'));
	return;
}

sub organization
{
	my ($name) = @_;
	my ($found) = grep { $_->{name} eq $name } @{ $t->state('organizations')->{organizations} };
	return $found;
}

sub dead
{
	return $t->sql(q{SELECT coalesce(string_agg(object, E'\n' ORDER BY object), '') FROM exact_pd_sync.dead_letters});
}

# --------------------------
note 'nothing happened';
# --------------------------

my @calls = reconcile('nothing happened');
is(drift(), '', 'nothing happened: nothing is found');
my $tokens = 0;
$tokens += $_->{cost} foreach @calls;
is($tokens, 50, '... for 10 tokens a list and 20 for the archive');
like(result(), qr/^equal: 12 orders with \d+ lines and [0-9.]+ are as many deals with as many lines and as much value$/, '... both sides are equal');
is($t->sql(q{SELECT string_agg(concat_ws(' ', month, orders, deals, lines = products, order_value = deal_value, equal), E'\n' ORDER BY month) FROM exact_pd_sync.reconcile_months}),
	"2026-10-01 6 6 t t t\n2026-11-01 6 6 t t t", '... month by month');
like(status_of(), qr/^green: equal: 12 orders/, '... and status says so');
quiet('nothing happened');

# -----------------
note 'edited';
# -----------------

my ($anna) = grep { $_->{name} eq 'Anna de Wit' } @{ $t->state('users')->{users} };
my ($bram) = grep { $_->{name} eq 'Bram Hoekstra' } @{ $t->state('users')->{users} };
my $deal = $t->deal(60001);
$t->patch("/pipedrive/deals/$deal->{id}", { title => 'Mijn deal', owner_id => $bram->{id}, fields => { 'Uw referentie' => 'van mij' }, expected_close_date => '2026-12-24' });
$t->patch('/pipedrive/deals/' . $t->deal(60002)->{id}, { status => 'won' });
$t->patch('/pipedrive/organizations/' . organization('Klant 2')->{id}, { name => 'Klant Twee' });
my ($product) = grep { $_->{code} eq 'D-1' } @{ $t->state('products')->{products} };
$t->patch("/pipedrive/products/$product->{id}", { code => 'X-1', description => 'van mij' });
reconcile('edited');
is(drift(), join("\n",
		"deal 60001 edited owner_id $bram->{id} exact restored", 'deal 60001 edited title Mijn deal exact restored',
		'deal 60001 edited your_ref van mij exact restored', 'deal 60002 edited status won exact restored',
		'organization 8002 edited name Klant Twee exact restored', 'product D-1 edited code X-1 exact restored'),
	'edited: every field of ours is found');
agrees($t, '... and put right');
is($t->deal(60001)->{expected_close_date}, '2026-12-24', '... other fields are left alone');
is($t->state('products')->{products}[ (grep { $t->state('products')->{products}[$_]{id} == $product->{id} } 0 .. 50)[0] ]{code}, 'D-1', '... products, too');
is(organization('Klant Twee'), undef, '... and organizations');
like(result(), qr/; put right: 6$/, '... the result says how many');
like(status_of(), qr/^green: /, '... and nobody has to do anything');
quiet('edited');

my @writes = $t->writes($t->pipedrive_calls(sub {
	$t->patch('/pipedrive/deals/' . $t->deal(60003)->{id}, { title => 'Anders' });
	reconcile('one field');
}));
is_deeply(\@writes, ['PATCH deals/* {title} 5'], 'one field: it alone is sent, for 5 tokens');
quiet('one field');

# -----------------
note 'lines';
# -----------------

my ($d4, $d5, $d7) = map { $t->deal($_) } 60004, 60005, 60007;
$t->patch("/pipedrive/deals/$d4->{id}/products/$d4->{products}[0]{id}", { item_price => 999 });
$t->delete("/pipedrive/deals/$d5->{id}/products/$d5->{products}[0]{id}");
$t->post("/pipedrive/deals/$d7->{id}/products", { product_id => $product->{id}, item_price => 1, quantity => 3 });
reconcile('lines');
is($t->sql(q{SELECT string_agg(number || ' ' || field || ' ' || action, ', ' ORDER BY number) FROM exact_pd_sync.drift WHERE what = 'lines'}),
	'60004 lines restored, 60005 lines restored, 60007 lines restored', 'lines: a changed one, a removed one and one too many are found');
agrees($t, '... and the lines are as the orders have them');
like(result(), qr/^not equal: .*for example order 60007, 60004, 60005/, '... the sums said so');
quiet('lines');
like(result(), qr/^equal: /, '... and are equal then');

# -----------------
note 'moved';
# -----------------

my ($elsewhere) = @{ $t->post('/pipedrive/seed', { pipelines => [ { name => 'Elders', stages => ['Binnen'] } ] })->{pipelines} };
$t->patch('/pipedrive/deals/' . $t->deal(60008)->{id}, { stage_id => $elsewhere->{stages}[0]{id} });
reconcile('moved');
is(drift(), "deal 60008 moved stage_id $elsewhere->{stages}[0]{id} exact restored", 'moved to another pipeline: it is found');
agrees($t, '... and moved back');
quiet('moved');

# -----------------
note 'deleted';
# -----------------

my $before = $t->state('deals')->{deals};
$t->delete('/pipedrive/deals/' . $t->deal(60009)->{id});
$t->delete('/pipedrive/deals/' . $t->deal(60010)->{id} . '?purge=1');
@calls = reconcile('deleted');
is((grep { $_->{operation} eq 'get deals' } @calls) + 0, 2, 'deleted: what stands in no list is asked for singly');
is(drift(), "deal 60009 deleted reported\ndeal 60010 deleted reported", '... and found');
is(dead(), "Order 60009\nOrder 60010", '... they wait for a person');
like($t->sql(q{SELECT hint FROM exact_pd_sync.drift LIMIT 1}), qr/deleted it in Pipedrive.*replay/, '... who is told what to do');
like(status_of(), qr/^yellow: not equal: .*for example order 60009, 60010; 2 of the findings need a look/, '... status says it');
$t->patch('/exact/orders/60009', { your_ref => 'toch' });
$t->poll('orders');
$t->sql(q{SELECT exact_pd_sync.resync('deal')});
$t->sql(q{SELECT exact_pd_sync.resync('deal', (SELECT id FROM exact_pd_sync.exact_sales_orders WHERE order_number = 60010))});
ok($t->settle, '... a change at Exact, or resync(),');
is($t->deal(60009), undef, '... does not make it again');
is($t->deal(60010), undef, '... by itself');
quiet('deleted', "deal 60009 deleted reported\ndeal 60010 deleted reported");
$t->sql('SELECT exact_pd_sync.replay()');
ok($t->settle, '... replay() does');
agrees($t, '... and then all is as it should be');
is(dead(), '', '... nobody waits');
quiet('deleted and made anew');
like(result(), qr/^equal: 12 orders/, '... both sides are equal');

# Out of the bin again.
$deal = $t->deal(60011);
$t->delete("/pipedrive/deals/$deal->{id}");
reconcile('out of the bin');
is(drift(), 'deal 60011 deleted reported', 'deleted once more');
$t->patch("/pipedrive/deals/$deal->{id}", { is_deleted => $false, title => 'Terug' });
reconcile('out of the bin');
is($t->deal(60011)->{id}, $deal->{id}, 'taken out of the bin: it is the same one');
agrees($t, '... and follows Exact again');
is(dead(), '', '... without a dead letter');
quiet('out of the bin');

$t->no_violations;
done_testing();
