# What Pipedrive may refuse, and where nobody knows whether it does: negative and
# zero lines, the number of lines and deals, products at all, archived deals.
# In the position in which the sandbox refuses, nothing is lost: it arrives in
# another form, or it waits, or it is a dead letter that says what to do.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %base = (burst_limit => 0, exact_minute_limit => 100000);
my $t = EpdsTest->new('switches_refusals', orders => 3, months => 6, switches => \%base);

my %open = (status => 12, delivery_status => 12, invoice_status => 12);

sub dead
{
	return $t->sql(
		q{SELECT coalesce(string_agg(object || ': ' || reason, E'\n' ORDER BY object), '') FROM exact_pd_sync.dead_letters});
}

# -----------------------------
note 'negative and zero lines';
# -----------------------------

sub odd_orders
{
	$t->post(
		'/exact/orders',
		[
			{
				# something is taken back, the rest is sold
				number => 31001, customer => { name => 'Inruil B.V.', code => '5001' }, %open,
				lines => [
					{ item => { code => 'RF-1', description => 'Kruik', price => 20 }, quantity => 5 },
					{ item => 'RF-1', quantity => -2, price => 20 },
					{ item => { code => 'RF-2', description => 'Schaal', price => 8 }, quantity => 3 },
				],
			},
			{ number => 31002, customer => '5001', %open, lines => [ { item => 'RF-2', quantity => -4 } ] },
			{
				# an allowance, written as a negative price
				number => 31003, customer => '5001', %open,
				lines => [ { item => 'RF-1', quantity => 5, price => 20 }, { item => 'RF-2', quantity => 1, price => -12.5 } ],
			},
			{
				# delivered later: quantity nought for now
				number => 31004, customer => '5001', %open,
				lines => [ { item => 'RF-1', quantity => 0 }, { item => 'RF-2', quantity => 2 } ],
			},
			{ number => 31005, customer => '5001', %open, lines => [ { item => 'RF-2', quantity => 0 } ] },
		]);
	return;
}

my @cases = (
	[ 'accepts all of them', {}, value_only => [] ],
	[
		'refuses negative quantities', { negative_quantity => 'refuse' },
		value_only => [ 31001, 31002, 31003 ]
	],
	[
		'refuses negative prices', { negative_price => 'refuse' },
		value_only => [ 31001, 31002, 31003 ]
	],
	[
		'refuses quantity nought', { zero_quantity => 'refuse' },
		no_zero => [ 31004, 31005 ]
	]);
foreach my $case (@cases)
{
	my ($name, $switch, %expect) = @$case;
	fresh($t, orders => 0, switches => { %base, %$switch });
	odd_orders();
	ok($t->first_run, "a service that $name: the run comes to its end");
	agrees($t, '... every order is a deal with its value', %expect);
	is(dead(), '', '... nothing is left over');
	$t->patch('/exact/orders/31001', { delivery_status => 21 });
	$t->patch('/exact/orders/31002/lines/1', { quantity => -6 });
	$t->poll('orders');
	ok($t->settle, '... and changes go on');
	agrees($t, '... the same way', %expect);
	$t->no_violations('... without anything forbidden');
}

# ---------------------------------
note 'too many lines for one deal';
# ---------------------------------

fresh($t, orders => 0, switches => { %base, lines_limit => 4 });
$t->post(
	'/exact/orders',
	[
		{
			number => 32001, customer => { name => 'Veel', code => '5002' }, %open,
			lines => [ map { { item => 'new', quantity => 1 } } 1 .. 6 ],
		},
		{ number => 32002, customer => '5002', %open, lines => [ map { { item => 'new', quantity => 1 } } 1 .. 3 ] },
	]);
$t->first_run;
like(dead(), qr/Order 32001: .*no more lines/, 'a deal with too many lines is a dead letter that speaks of lines');
is($t->sql(q{SELECT servers_words FROM exact_pd_sync.dead_letters WHERE object = 'Order 32001'}),
	'A deal can have at most 4 products', "... with the server's own words");
ok($t->deal(32002), '... and the others arrive');
$t->switches(lines_limit => 0);
$t->sql('SELECT exact_pd_sync.replay()');
ok($t->settle, '... replay() tries again');
is(dead(), '', '... nothing is left');
agrees($t, '... and all is well where the service takes them');

# -------------------------
note 'no products feature';
# -------------------------

foreach my $status (415, 403)
{
	fresh($t, orders => 2, switches => { %base, products_off => $status });
	ok(!eval { $t->connect; 1 }, "a company without products ($status): the set-up fails");
	like($@, qr/Products feature is not enabled.*HINT: .*products of the Pipedrive company/s,
		'... and says what to switch on');
	$t->switches(products_off => 0);
	ok($t->first_run, '... then it goes through');

	# switched off when all was set up already
	$t->switches(products_off => $status);
	$t->post('/exact/orders', { number => 32100, customer => 'new', %open, lines => [ { item => 'new' } ] });
	$t->poll;
	$t->wait_for(q{SELECT EXISTS (SELECT FROM exact_pd_sync.dead_letters WHERE kind = 'product')});
	like(dead(), qr/such as products.*switch it on/, '... switched off later: dead letters that speak of products');
	is( $t->sql(q{SELECT holds_back FROM exact_pd_sync.dead_letters WHERE kind = 'product'}),
		'1', '... and name what they hold back');
	$t->switches(products_off => 0);
	$t->sql('SELECT exact_pd_sync.replay()');
	ok($t->settle, '... replay() after switching it on again');
	is(dead(), '', '... leaves nothing over');
	agrees($t, '... every order is a deal');
}

# --------------------------------
note 'no room for custom fields';
# --------------------------------

fresh($t, orders => 1, switches => { %base, custom_field_limit => 3 });
ok(!eval { $t->connect; 1 }, 'a plan with room for three custom fields: the set-up fails');
like($@, qr/ERROR: .*make_field.*HINT: .*room for custom fields/s, '... and says that room is missing');
$t->switches(custom_field_limit => undef);
ok($t->first_run, '... then it goes on where it was');
my @names = map { $_->{field_name} } grep { $_->{is_custom_field} } @{ $t->state('deal_fields')->{deal_fields} };
my %times;
is(join(', ', grep { $times{$_}++ } @names), '', '... and no field is there twice');
agrees($t, '... every order is a deal');

# ----------------------
note 'the plan is full';
# ----------------------

foreach my $open_only ($false, $true)
{
	# open orders go first: where only open deals count, two of them must leave room for the won ones
	fresh($t, orders => 0, switches => { %base, deal_limit => $open_only ? 3 : 2, count_open_only => $open_only });
	$t->post(
		'/exact/orders',
		[
			map {
				{
					number => 33000 + $_, customer => 'new', status => 21, delivery_status => 21,
					invoice_status => $_ < 3 ? 21 : 12, lines => 1
				}
			} 1 .. 4
		]);
	$t->connect;
	$t->import_history;
	$t->poll;
	$t->resume;
	# of four deals two are won: these fill the plan or do not
	my $fit = $open_only ? 4 : 2;
	my $wait = 4 - $fit;
	ok( $t->wait_for(
			q{SELECT (SELECT count(*) FROM exact_pd_sync.links WHERE kind = 'deal') || ' ' ||
			(SELECT count(*) FROM exact_pd_sync.jobs WHERE kind = 'deal' AND class = 'capacity' AND state = 'waiting')},
			"$fit $wait"),
		"a full plan ($fit deals fit): the rest waits");
	next unless $wait;
	like(
		$t->sql(q{SELECT string_agg(DISTINCT reason, ',') FROM exact_pd_sync.queue WHERE kind = 'deal'}),
		qr/^the deals of the Pipedrive plan are full$/, '... and says why');
	$t->patch('/exact/orders/33004', { your_ref => 'meanwhile' });
	$t->switches(deal_limit => undef);
	$t->poll('orders');
	$t->resume;
	$t->sql('SELECT exact_pd_sync.replay()');
	ok($t->settle, '... until there is room and a person says so');
	agrees($t, '... then all are there');
}

# --------------------
note 'archived deals';
# --------------------

foreach my $status (403, 400)
{
	fresh($t, orders => 3, switches => { %base, archived_status => $status });
	$t->first_run;
	my ($number) = $t->numbers;
	my $deal = $t->deal($number);
	$t->patch("/pipedrive/deals/$deal->{id}", { is_archived => $true });
	$t->patch("/exact/orders/$number", { your_ref => 'archief' });
	$t->poll('orders');
	$t->settle;
	like(dead(), qr/^Order $number: .*archived/,
		"a change of a deal that a person archived (refused with $status) is a dead letter that says so");
	$t->patch("/pipedrive/deals/$deal->{id}", { is_archived => $false });
	$t->sql('SELECT exact_pd_sync.replay()');
	ok($t->settle && dead() eq '', '... and goes out when it is taken from the archive');
	is($t->deal($number)->{fields}{'Uw referentie'}, 'archief', '... with what had changed');
	$t->no_violations('... without anything forbidden');
}

$t->done;
