# Odd orders: many lines and none, negative ones, ones that cost nothing, orders
# that lack something.  Each is a deal with the right value to the cent, the right
# lines and the least tokens, or a dead letter that a person understands.
#
# Looked at elsewhere: odd texts, codes and numbers (230_bad_input); a service that
# refuses negative or zero lines (221_switches_refusals); small changes (120_changes).

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my $t = EpdsTest->new('odd_orders', orders => 0, switches => { burst_limit => 0, exact_minute_limit => 100000 });
my $json = JSON::PP->new->utf8;
my %open = (status => 12, delivery_status => 12, invoice_status => 12);

# The orders of this test, by name; number, tokens, value.
my (%number, %tokens, %value);
my $next = 51000;

sub make
{
	my ($name, $tokens, $value, %order) = @_;
	$number{$name} = ++$next;
	$tokens{$name} = $tokens;
	$value{$name} = $value;
	return { number => $next, %open, customer => '6001', salesperson => 'Anna de Wit', %order };
}

# Lines of nothing special, at 1.25, 1.26 and so on.
sub plain { return [ map { { item => 'OD-' . (1 + $_ % 3), quantity => 1 + $_ % 7, price => 1.25 + $_ / 100 } } 0 .. $_[0] - 1 ]; }
sub plain_value
{
	my $cents = 0;
	$cents += (1 + $_ % 7) * (125 + $_) foreach 0 .. $_[0] - 1;
	return sprintf '%.2f', $cents / 100;
}

# What the calls cost and were, by name of the order.
sub by_order
{
	my (@calls) = @_;
	my %by_number = reverse %number;
	my %name = map { $_->{id} => $by_number{ $_->{fields}{Ordernummer} } } $t->deals;
	my %found;
	foreach my $call (grep { $_->{method} ne 'GET' } @calls)
	{
		next unless $call->{path} =~ m,/deals(?:/(\d+))?,;
		my $id = $1 // $json->decode($call->{response})->{data}{id} // 0;
		my $found = $found{ $name{$id} // "deal $id" } ||= { tokens => 0, writes => [] };
		$found->{tokens} += $call->{cost};
		push @{ $found->{writes} }, $t->writes($call);
	}
	return \%found;
}

sub deal { return $t->deal($number{ $_[0] }); }
sub path { return "/exact/orders/$number{$_[0]}"; }

sub dead
{
	return $t->sql(q{SELECT coalesce(string_agg(object || ': ' || reason, E'\n' ORDER BY object), '') FROM exact_pd_sync.dead_letters});
}

sub sum
{
	my ($name, $columns) = @_;
	return $t->sql("SELECT concat_ws(' ', $columns) FROM exact_pd_sync.order_sums s JOIN exact_pd_sync.exact_sales_orders o"
		  . " ON o.division = s.division AND o.id = s.order_id WHERE o.order_number = $number{$name}");
}

sub texts_of { return join ' | ', sort map { $_->{comments} // '' } @{ deal($_[0])->{products} }; }

# ----------
note 'the first import';
# ----------

# A customer and items that the others name.
$t->post('/exact/orders',
	make('first', 20, '36.00', customer => { name => 'Vreemde Eend B.V.', code => '6001' },
		lines => [ map { { item => { code => "OD-$_", description => "Kruik $_", price => 2 * $_ }, quantity => 3, price => 2 * $_ } } 1 .. 3 ]));

# name, tokens, value, order
my @orders = (
	# the table of prices: one by one up to four, in bulk from five on, a hundred at a time
	(map { make("$_->[0] lines", $_->[1], plain_value($_->[0]), lines => plain($_->[0])) }
		[ 4, 25 ], [ 5, 30 ], [ 101, 35 ], [ 150, 55 ], [ 250, 80 ]),
	make('no lines', 5, '0.00', lines => []),
	make('some taken back', 20, '61.50',
		lines => [ { item => 'OD-1', quantity => 5, price => 12.5 }, { item => 'OD-2', quantity => -2, price => 3 }, { item => 'OD-3', quantity => 1, price => 5 } ]),
	make('more taken back than sold', 15, '-10.05', lines => [ { item => 'OD-1', quantity => 1, price => 9.95 }, { item => 'OD-2', quantity => -4, price => 5 } ]),
	make('all taken back', 15, '-41.97', lines => [ { item => 'OD-1', quantity => -3, price => 9.99 }, { item => 'OD-2', quantity => -6, price => 2 } ]),
	make('all taken back, with a discount', 15, '-37.77', discount => 0.1,
		lines => [ { item => 'OD-1', quantity => -3, price => 9.99 }, { item => 'OD-2', quantity => -6, price => 2 } ]),
	make('quantity nought', 15, '7.50', lines => [ { item => 'OD-1', quantity => 0, price => 99 }, { item => 'OD-2', quantity => 3, price => 2.5 } ]),
	make('price nought', 15, '7.50', lines => [ { item => 'OD-1', quantity => 4, price => 0 }, { item => 'OD-2', quantity => 3, price => 2.5 } ]),
	make('all for nothing', 15, '0.00', lines => [ map { { item => "OD-$_", quantity => 2, price => 0 } } 1, 2 ]),
	make('lines that cancel out', 15, '0.00', lines => [ map { { item => 'OD-1', quantity => $_, price => 3.33 } } 4, -4 ]),
	make('texts', 20, '5.00',
		lines => [
			{ item => undef, description => 'Graag voor 9 uur' }, { item => 'OD-1', quantity => 2, price => 2.5 },
			{ item => undef, description => 'Niet stapelen' }
		]),
	make('texts only', 10, '0.00', lines => [ { item => undef, description => 'Monster, geen levering' } ]),
	make('same item thrice', 20, '18.00', lines => [ map { { item => 'OD-1', quantity => $_, price => 3 } } 1, 2, 3 ]),
	make('unknown item', 15, '12.00',
		lines => [ { item => { code => 'OD-GHOST', description => 'Spookartikel', price => 4 }, quantity => 2, price => 4 }, { item => 'OD-1', quantity => 1, price => 4 } ]),
	make('deleted item', 10, '8.00', lines => [ { item => { code => 'OD-GONE', description => 'Uit de collectie', price => 4 }, quantity => 2, price => 4 } ]),
	make('no customer', 10, '2.00', customer => undef, lines => [ { item => 'OD-1', quantity => 1, price => 2 } ]),
	make('no salesperson', 10, '2.00', salesperson => undef, lines => [ { item => 'OD-1', quantity => 1, price => 2 } ]),
	make('nobody and nothing', 5, '0.00', customer => undef, salesperson => undef, lines => []),
	make('inactive salesperson', 10, '2.00', salesperson => 'Marloes Kuipers', lines => [ { item => 'OD-1', quantity => 1, price => 2 } ]),
	make('unknown salesperson', 10, '2.00', salesperson => '0badc0de-0000-4000-8000-000000000001', lines => [ { item => 'OD-1', quantity => 1, price => 2 } ]),
	make('cancelled', 15, '6.50', status => 45, lines => [ { item => 'OD-1', quantity => 1, price => 2.5 }, { item => 'OD-2', quantity => 1, price => 4 } ]),
	make('a discount', 15, '90.00', discount => 0.1, lines => [ { item => 'OD-1', quantity => 10, price => 8 }, { item => 'OD-2', quantity => 5, price => 4 } ]),
	make('all off', 10, '0.00', discount => 1, lines => [ { item => 'OD-1', quantity => 10, price => 8 } ]),
	make('with VAT', 15, '50.00', AmountFCExclVat => 50, VATAmount => 10.5, AmountFC => 60.5,
		lines => [
			{ item => 'OD-1', quantity => 3, price => 12.1, AmountFC => 36.3, NetPrice => 12.1, VATPercentage => 0.21 },
			{ item => 'OD-2', quantity => 2, price => 12.1, AmountFC => 24.2, NetPrice => 12.1, VATPercentage => 0.21 }
		]),
	make('two cents less', 25, '29.98', AmountFCExclVat => 29.98, lines => [ map { { item => "OD-$_", quantity => 2, price => 5 } } 1 .. 3 ]),
	make('two cents taken back less', 25, '-29.98', AmountFCExclVat => -29.98, lines => [ map { { item => "OD-$_", quantity => -2, price => 5 } } 1 .. 3 ]),
	make('two cents taken back more', 25, '-30.02', AmountFCExclVat => -30.02, lines => [ map { { item => "OD-$_", quantity => -2, price => 5 } } 1 .. 3 ]),
	make('two cents more', 25, '30.02', AmountFCExclVat => 30.02, lines => [ map { { item => "OD-$_", quantity => 2, price => 5 } } 1 .. 3 ]),
	make('a third of a cent', 10, '1.00', AmountFCExclVat => 1, lines => [ { item => 'OD-1', quantity => 3, price => 0.33333, AmountFC => 1, NetPrice => 0.333333 } ]),
	make('part of a piece', 10, '1.00', lines => [ { item => 'OD-1', quantity => 0.333, price => 2.99 } ]),
	make('a million pieces', 10, '12345670000.00', lines => [ { item => 'OD-1', quantity => 1_000_000, price => 12345.67 } ]),
	make('no piece that costs something', 10, '5.00', AmountFCExclVat => 5, lines => [ { item => 'OD-1', quantity => 0, AmountFC => 5, NetPrice => 5 } ]),
	make('in dollars', 10, '4.00', currency => 'USD', lines => [ { item => 'OD-1', quantity => 2, price => 2 } ]),
	make('with VAT and a discount', 15, '45.00', discount => 0.1, AmountFCExclVat => 45, VATAmount => 9.45, AmountFC => 54.45, AmountDC => 54.45, AmountDiscountExclVat => 5,
		lines => [
			{ item => 'OD-1', quantity => 3, price => 12.1, AmountFC => 36.3, NetPrice => 12.1, VATPercentage => 0.21 },
			{ item => 'OD-2', quantity => 2, price => 12.1, AmountFC => 24.2, NetPrice => 12.1, VATPercentage => 0.21 }
		]),
	make('won', 15, '6.50', status => 21, delivery_status => 21, invoice_status => 21,
		lines => [ { item => 'OD-1', quantity => 1, price => 2.5 }, { item => 'OD-2', quantity => 1, price => 4 } ]),
	# for the changes afterwards
	(map { make("$_ changed", 30, plain_value(12), lines => plain(12)) } 8, 9),
	(map { make("$_ removed", 30, plain_value(9), lines => plain(9)) } 1, 6));
$t->post('/exact/orders', \@orders);

# An item that no feed knows (there is one with another key), and one that Exact says was deleted.
my %item = map { $_ => (grep { ($_->{ItemCode} // '') =~ /^OD-G/ } @{ $t->order($number{$_})->{lines} })[0]{Item} } 'unknown item', 'deleted item';
$t->patch("/exact/entities/Items/$item{'unknown item'}", { ID => '0badc0de-0000-4000-8000-000000000002' });
$t->delete("/exact/entities/Items/$item{'deleted item'}");

my @calls = $t->pipedrive_calls(sub { ok($t->first_run, 'the first run is through'); });
is(dead(), '', 'no dead letter');
agrees($t, 'every order is a deal with its lines and its value');

my $found = by_order(@calls);
my %deal = map { $_->{fields}{Ordernummer} => $_ } $t->deals;
foreach my $name (sort { $number{$a} <=> $number{$b} } keys %number)
{
	is(cents($deal{ $number{$name} }{value_text}), $value{$name}, "$name: its value to the cent");
	is($found->{$name}{tokens}, $tokens{$name}, "$name: $tokens{$name} tokens") or diag(join "\n", @{ $found->{$name}{writes} });
}
my %calls = ('no lines' => 1, '4 lines' => 5, '5 lines' => 2, '101 lines' => 3, '150 lines' => 3, '250 lines' => 4);
is(scalar @{ $found->{$_}{writes} }, $calls{$_}, "$_: $calls{$_} calls") foreach sort keys %calls;
is(scalar @{ deal('250 lines')->{products} }, 250, 'all 250 lines are there');

is(sum('with VAT', 'lines_with_vat, adds_up'), 't t', 'lines that include VAT are read as such');
is(join(' ', sort map { cents($_->{sum_text}) } @{ deal('with VAT')->{products} }), '20.00 30.00', '... and go out without it');
is(join(' ', map { "$_->{type} " . cents($_->{amount}) } @{ deal('two cents less')->{discounts} }), 'amount 0.02', 'two cents less are one discount of the deal');
is(texts_of('texts'), ' | Graag voor 9 uur | Niet stapelen', 'texts are the comments of lines');
my %product = map { $_->{id} => $_ } @{ $t->state('products')->{products} };
foreach my $name (sort keys %item)
{
	my @names = sort map { $product{ $_->{product_id} }{name} } @{ deal($name)->{products} };
	like(join(', ', @names), $name eq 'unknown item' ? qr/Spookartikel/ : qr/Uit de collectie/, "$name: its line has the name that the order knows");
}
is(deal('cancelled')->{status} . ': ' . deal('cancelled')->{lost_reason}, 'lost: Geannuleerd in Exact', 'cancelled: lost, for a reason');
isnt(deal('inactive salesperson')->{owner}, 'Marloes Kuipers', 'a user who is not active owns nothing');
is($t->sql("SELECT owner_source FROM exact_pd_sync.wanted_deals WHERE order_number = $number{$_}"), 'default', "$_: the default owner has it")
  foreach 'no salesperson', 'inactive salesperson', 'unknown salesperson';

# ----------
note 'many lines change at once';
# ----------
my $before = deal('9 changed');
@calls = $t->pipedrive_calls(
	sub {
		foreach my $count (8, 9)
		{
			$t->patch(path("$count changed") . "/lines/$_", { quantity => 20 + $_ }) foreach 1 .. $count;
		}
		$t->delete(path('1 removed') . '/lines/4');
		$t->delete(path('6 removed') . "/lines/$_") foreach 2 .. 7;
		$t->poll('orders');
		ok($t->settle, 'changes of many lines are sent');
	});
$found = by_order(@calls);
my %expected = (
	'8 changed' => [ ('PATCH deals/*/products/* {quantity} 5') x 8 ],
	'9 changed' => [ 'DELETE deals/*/products 15', 'POST deals/*/products/bulk [9] 25' ],
	'1 removed' => ['DELETE deals/*/products/* 3'],
	'6 removed' => ['DELETE deals/*/products 15']);
is(join("\n", @{ $found->{$_}{writes} || [] }), join("\n", @{ $expected{$_} }), "$_: nothing but that goes out") foreach sort keys %expected;
is(join(', ', sort keys %$found), join(', ', sort keys %expected), '... and no other deal is touched');
my %old = map { $_->{id} => 1 } @{ $before->{products} };
is(scalar(grep { $old{ $_->{id} } } @{ deal('9 changed')->{products} }), 3, 'lines that did not change are not replaced');
agrees($t, 'values and lines are those of the orders');

# ----------
note 'two new orders of a new customer';
# ----------
@calls = $t->pipedrive_calls(
	sub {
		$t->post('/exact/orders',
			[
				make('one of two', 10, '9.00', customer => { name => 'Samen Sterk', code => '6002' },
					lines => [ { item => { code => 'OD-NEW', description => 'Nieuwe kan', price => 9 }, quantity => 1, price => 9 } ]),
				make('two of two', 10, '27.00', customer => '6002', lines => [ { item => 'OD-NEW', quantity => 3, price => 9 } ])
			]);
		$t->poll;
		ok($t->settle, 'both are sent');
	});
is((join ', ', sort grep { /^POST (?:organizations|products) / } map { s/ \{.*\} / /r } $t->writes(@calls)),
	'POST organizations 5, POST products 5', 'their customer and their item are made once');
is(deal('one of two')->{org_id}, deal('two of two')->{org_id}, '... for both');
is($t->stats('pipedrive')->{noop_patches}, 0, '... and nothing is sent twice');

# ----------
note 'won, cancelled, reopened, won';
# ----------
my $won_time = deal('won')->{won_time};
ok($won_time, 'an invoiced order is won, at a time');
my @turns = (
	[ 'lost', { status => 45 } ],
	[ 'open', { status => 12, delivery_status => 12, invoice_status => 12 } ],
	[ 'won', { status => 21, delivery_status => 21, invoice_status => 21 } ]);
foreach my $turn (@turns)
{
	$t->patch(path('won'), $turn->[1]);
	$t->poll('orders');
	ok($t->settle && deal('won')->{status} eq $turn->[0], "it turns $turn->[0]");
}
is(deal('won')->{won_time}, $won_time, '... and keeps the time at which it was won first');
is(cents(deal('won')->{value_text}), $value{won}, '... and its value');

# ----------
note 'lines and header that do not add up';
# ----------
# Orders that never do, and one whose lines were read too early.
my @odd = ('no lines but a total', 'never adds up', 'adds up later');
# Paused, or what the first poll brings might be looked at after the second one.
$t->pause;
$t->post('/exact/orders',
	[
		make('no lines but a total', undef, '249.95', lines => [], AmountFCExclVat => 249.95),
		make('never adds up', undef, '100.00', AmountFCExclVat => 100, lines => [ { item => 'OD-1', quantity => 3, price => 25 }, { item => 'OD-2', quantity => 1, price => 5 } ]),
		make('adds up later', undef, '20.00', AmountFCExclVat => 20, lines => [ { item => 'OD-1', quantity => 2, price => 5 } ])
	]);
$t->poll('orders');
$t->resume;
ok( $t->wait_for(
		q{SELECT count(*) = 3 FROM exact_pd_sync.queue WHERE state = 'waiting' AND reason = 'lines and header do not add up yet: it is read once more'}),
	'they are held once, and the queue says why');
is(deal($_), undef, "$_: no deal yet") foreach @odd;
$t->post(path('adds up later') . '/lines', { item => 'OD-2', quantity => 2, price => 5 });
$t->poll('orders');
$t->sql('SELECT exact_pd_sync.replay()');
ok($t->settle, 'then they are sent');
is(cents(deal($_)->{value_text}), $value{$_}, "$_: with the total of the header") foreach @odd;
is(sums(deal('never adds up')), '100.00', '... which the lines at Pipedrive sum up to');
is(sum('never adds up', 'adds_up') . sum('adds up later', 'adds_up'), 'ft', 'order_sums.adds_up tells the one from the other');

# ----------
note 'what cannot be a deal';
# ----------
$t->post('/exact/orders', make('no such currency', undef, undef, currency => 'XXQ', lines => [ { item => 'OD-1', quantity => 1, price => 2 } ]));
$t->poll('orders');
ok($t->settle, 'an order in a currency that Pipedrive does not have');
is(dead(), "Order $number{'no such currency'}: Pipedrive refuses this record as it is; mend it at the source and replay",
	'... is a dead letter that says what to do');
like($t->sql('SELECT servers_words FROM exact_pd_sync.dead_letters'), qr/currency.*XXQ/i, '... and, in the words of the service, about what');
$t->patch(path('no such currency'), { Currency => 'EUR' });
$t->poll('orders');
$t->sql('SELECT exact_pd_sync.replay()');
ok($t->settle, '... mended at Exact');
is(dead(), '', '... it arrives');

agrees($t, 'in the end every order is a deal with its lines and its value');
$t->no_violations;
$t->done;
