# Orders as no textbook has them: very long, empty, negative, without customer,
# with lines that are only text, with articles nobody knows.  Each becomes a deal
# with the right lines and value, for the fewest tokens, or is a dead letter with
# a reason a person understands.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my $t = EpdsTest->new(
	'odd_orders',
	orders => 0,
	switches => { burst_limit => 0, exact_minute_limit => 100000 });

my %open = (status => 12, delivery_status => 12, invoice_status => 12);
my %done = (status => 21, delivery_status => 21, invoice_status => 21);

sub dead
{
	return $t->sql(
		q{SELECT coalesce(string_agg(object || ': ' || reason, E'\n' ORDER BY object), '') FROM exact_pd_sync.dead_letters});
}

# Articles and customers that all of them share.
$t->post(
	'/exact/orders',
	{
		number => 50000, customer => { name => 'Basis B.V.', code => '7000' }, %open,
		lines => [ map { { item => { code => "OD-$_", description => "Artikel $_", price => $_ + 0.99 } } } 1 .. 5 ]
	});

sub many
{
	my ($count) = @_;
	return [ map { { item => 'OD-' . (1 + $_ % 5), quantity => 1 + $_ % 7, price => 1 + $_ * 0.13 } } 1 .. $count ];
}

my @orders = (
	# long ones: at 100 lines a second bulk call begins, at 5 of them bulk is cheaper
	(map { { number => 51000 + $_, lines => many($_) } } 4, 5, 100, 101, 104, 105, 250),

	# what is not there
	{ number => 52001, lines => [] },
	{ number => 52002, customer => undef, lines => many(2) },
	{ number => 52003, salesperson => undef, lines => many(1) },
	{ number => 52004, customer => undef, salesperson => undef, lines => [] },
	{ number => 52005, salesperson => '00000000-1111-2222-3333-444444444444', lines => many(1) },
	{ number => 52006, lines => many(1), delivery_date => undef, your_ref => undef, description => undef },

	# text, with and without an amount
	{ number => 53001, lines => [ { item => undef, Description => 'Levering na 12 uur' }, @{ many(2) } ] },
	{ number => 53002, lines => [ { item => undef, Description => 'Alleen tekst' } ] },
	{
		number => 53003,
		lines => [
			{ item => undef, Description => 'Vrachtkosten', Quantity => 1, UnitPrice => 12.5, NetPrice => 12.5, AmountFC => 12.5 },
			@{ many(1) }
		]
	},
	{ number => 53004, lines => [ { item => 'OD-1', quantity => 1, Notes => "Eerst bellen\r\ndan leveren" } ] },

	# amounts
	{ number => 54001, lines => [ { item => 'OD-1', quantity => -3 }, { item => 'OD-2', quantity => 10 } ] },
	{ number => 54002, lines => [ { item => 'OD-1', quantity => -3 } ] },
	{ number => 54003, lines => [ { item => 'OD-1', quantity => 5, price => 10 }, { item => 'OD-2', quantity => -5, price => 10 } ] },
	{ number => 54004, lines => [ { item => 'OD-1', quantity => 0 }, { item => 'OD-2', quantity => 1 } ] },
	{ number => 54005, lines => [ { item => 'OD-1', quantity => 0 } ] },
	{ number => 54006, lines => [ { item => 'OD-1', quantity => 4, price => 0 } ] },
	{ number => 54007, lines => [ { item => 'OD-1', quantity => 2.5, price => 3.333 }, { item => 'OD-2', quantity => 0.001, price => 1234.56 } ] },
	{ number => 54008, lines => [ { item => 'OD-1', quantity => 1000000, price => 0.0375 }, { item => 'OD-2', quantity => 333333, price => 0.07 } ] },
	{ number => 54009, lines => [ { item => 'OD-1', quantity => 3, price => 99.99, discount => 1 } ] },
	{ number => 54010, discount => 1, lines => many(3) },
	{ number => 54011, discount => 0.3333, lines => many(40) },
	{ number => 54012, discount => 0.05, lines => [ { item => 'OD-1', quantity => -7, price => 3.33 }, { item => 'OD-2', quantity => -1, price => 0.01 } ] },
	{ number => 54013, discount => 0.02, lines => [ map { { item => 'OD-1', quantity => 1, price => 0.01 } } 1 .. 12 ] },
	{ number => 54014, currency => 'USD', lines => many(3) },

	# states
	{ number => 55001, status => 45, delivery_status => 12, invoice_status => 12, lines => many(2) },
	{ number => 55002, status => 45, delivery_status => 20, invoice_status => 20, lines => many(2) },
	{ number => 55003, %done, order_date => '2026-03-29', delivery_date => '2026-04-02', lines => many(2) },
	{ number => 55004, %done, order_date => '2025-12-31', delivery_date => '2025-10-26', lines => many(2) },
	{ number => 55005, status => 20, delivery_status => 12, invoice_status => 21, lines => many(2) },

	# long ago: open ones are sent, closed ones are not
	{ number => 56001, %open, order_date => '2024-05-01', lines => many(1) },
	{ number => 56002, %done, order_date => '2024-05-01', lines => many(1) });
$t->post('/exact/orders', [ map { { customer => '7000', %open, %$_ } } @orders ]);

# An article that is deleted before anybody read it, and one that no longer sells.
$t->post(
	'/exact/orders',
	{
		number => 57001, customer => '7000', %open,
		lines => [
			{ item => { code => 'OD-WEG', description => 'Weg', price => 4 }, quantity => 2 },
			{ item => { code => 'OD-OUD', description => 'Oud', price => 6 }, quantity => 3 },
			{ item => { code => 'OD-INKOOP', description => 'Inkoop', price => 7, IsSalesItem => JSON::PP::false }, quantity => 1 },
		]
	});
my %item = map { $_->{Code} => $_->{ID} } @{ $t->get('/exact/state?entity=Items')->{Items} };
$t->delete("/exact/entities/Items/$item{'OD-WEG'}");
$t->patch("/exact/entities/Items/$item{'OD-OUD'}", { EndDate => '2026-01-01' });
# ... and a customer.
$t->post('/exact/orders', { number => 57002, customer => { name => 'Opgeheven', code => '7999' }, %open, lines => many(1) });
my %account = map { $_->{Name} => $_->{ID} } @{ $t->get('/exact/state?entity=Accounts')->{Accounts} };
$t->delete("/exact/entities/Accounts/$account{Opgeheven}");

ok($t->first_run, 'the first run comes to its end');
is(dead(), '', 'no dead letter');
agrees($t, 'every one of them is a deal, with its lines and its value to the cent', except => [ 56002, 57002 ]);
ok(!$t->deal(56002), 'a closed order of long ago is none');
is($t->deal(57002)->{organization}, 'Opgeheven', 'a customer who is gone stands on the deal by the name on the order');

# ------------------------------------
note 'the fewest tokens for many lines';
# ------------------------------------

# 5 for the deal, 25 for every 100 lines, 5 a line for less than 5 of them.
my %price = (4 => 25, 5 => 30, 100 => 30, 101 => 35, 104 => 50, 105 => 55, 250 => 80);
foreach my $count (sort { $a <=> $b } keys %price)
{
	is( $t->sql(
			"SELECT sum(c.tokens) FROM exact_pd_sync.sync_changes c JOIN exact_pd_sync.exact_sales_orders o ON o.id = c.exact_id "
			  . "WHERE c.kind = 'deal' AND o.order_number = 51000 + $count"),
		$price{$count}, "an order of $count lines costs $price{$count} tokens");
}

# What a change of them costs.
sub costs
{
	my ($tokens, $name, $change) = @_;
	$change->();
	my $before = $t->tokens;
	$t->poll('orders');
	ok($t->settle, $name);
	is($t->tokens - $before, $tokens, "... costs $tokens tokens");
	return;
}
costs(5, 'a line more', sub { $t->post('/exact/orders/51100/lines', { item => 'OD-1', quantity => 2, price => 9 }) });
costs(3, 'a line less', sub { $t->delete('/exact/orders/51250/lines/17') });
costs(15, 'six lines less', sub { $t->delete("/exact/orders/51250/lines/$_") foreach 21 .. 26 });
costs(5, 'the first line of an order without any, its value with it',
	sub { $t->post('/exact/orders/52001/lines', { item => 'OD-2', quantity => 3, price => 4 }) });
costs(25, 'six lines more', sub { $t->post('/exact/orders/51250/lines', many(6)) });
costs(8, 'the last line goes, and the value with it', sub { $t->delete('/exact/orders/56001/lines/1') });
agrees($t, 'all of that arrived', except => [ 56002, 57002 ]);

# -----------------
note 'and back again';
# -----------------

$t->patch('/exact/orders/55001', { %open });
$t->patch('/exact/orders/55003', { status => 20, delivery_status => 21, invoice_status => 20 });
$t->patch('/exact/orders/54002/lines/1', { quantity => 3 });
$t->patch('/exact/orders/54004/lines/1', { quantity => 7 });
$t->patch('/exact/orders/52002', { customer => '7000' });
$t->patch('/exact/orders/52003', { salesperson => 'Bram Hoekstra' });
$t->poll;
ok($t->settle, 'cancelled orders revive, credits become sales, a customer turns up');
agrees($t, '... and the deals follow', except => [ 56002, 57002 ], owners => 1);
is(dead(), '', '... without a dead letter');
$t->no_violations('nothing was forbidden');

$t->done;
