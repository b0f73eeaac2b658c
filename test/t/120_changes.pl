# A change at Exact goes out as the least that says it, and as nothing else.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use Test::More;

my $t = EpdsTest->new('changes', orders => 3, items => 15, seed => 13);

# Orders of this test's own, with customers and items of their own.
my %number;

sub make_order
{
	my ($name, %order) = @_;
	my $made = $t->post('/exact/orders', { salesperson => 'Anna de Wit', %order });
	$number{$name} = $made->{OrderNumber};
	return $made;
}

my @plain = ({ item => { code => 'CH-1', description => 'Kandelaar', price => 2.5 }, quantity => 10, price => 2.5 },
	{ item => { code => 'CH-2', description => 'Schaal', price => 1.25 }, quantity => 4, price => 1.25 });
make_order('status', customer => { name => 'Tuincentrum De Wilg', code => '771001' }, lines => \@plain);
make_order('lines', customer => '771001', lines => [ map { { %$_, item => $_->{item}{code} } } @plain ]);
make_order('deleted', customer => '771001', lines => [ { item => 'CH-1', quantity => 1, price => 2.5 } ]);
make_order('cents', customer => '771001', discount => 0.033,
	lines => [ map { { item => 'CH-1', quantity => 7, price => $_ } } 1.17, 0.33, 2.49, 0.95, 3.05, 1.11 ]);
my $text_line = make_order('text', customer => '771001',
	lines => [ { item => 'CH-1', quantity => 2, price => 2.5 }, { item => undef, description => 'Graag voor 9 uur' } ]);

ok($t->first_run, 'the first run is through');

# What goes out for a change, in full; and what it costs.
sub change
{
	my ($name, $code, @expected) = @_;
	my @calls = $t->pipedrive_calls(
		sub {
			$code->();
			$t->poll;
			ok($t->settle, "$name: is sent") or diag($t->sql('SELECT * FROM exact_pd_sync.queue'));
		});
	is(join("\n", $t->writes(@calls)), join("\n", @expected), "$name: nothing but the change goes out");
	is(join("\n", map { "$_->{method} $_->{path}" } grep { $_->{method} eq 'GET' } @calls), '', "$name: nothing is looked up");
	return;
}

sub deal { return $t->deal($number{ $_[0] }); }
sub path { return "/exact/orders/$number{$_[0]}"; }

sub value_is
{
	my ($name, $text) = @_;
	is( sprintf('%.2f', deal($name)->{value_text}),
		sprintf('%.2f', $t->order($number{$name})->{AmountFCExclVat}),
		"$text: the deal has the order's total");
	return;
}

# ----------
note 'status';
# ----------
my $header = path('status');
change('part is delivered', sub { $t->patch($header, { delivery_status => 20 }) },
	'PATCH deals/* {stage_id, <Leverstatus>} 5');
is(deal('status')->{stage}, 'Wacht op backorder', '... which is a backorder');
change('all is delivered', sub { $t->patch($header, { delivery_status => 21 }) },
	'PATCH deals/* {stage_id, <Leverstatus>} 5');
is(deal('status')->{stage}, 'Verzonden', '... which is sent');
change('all is invoiced', sub { $t->patch($header, { invoice_status => 21 }) },
	'PATCH deals/* {status, won_time, <Factuurstatus>} 5');
is(deal('status')->{status}, 'won', '... which is won');
my $won_time = deal('status')->{won_time};
like($won_time, qr/^\d{4}-\d\d-\d\d[ T]/, '... with a time');

change('the invoice is credited', sub { $t->patch($header, { invoice_status => 12 }) },
	'PATCH deals/* {status, <Factuurstatus>} 5');
is(deal('status')->{status}, 'open', '... so the deal is open again');
change('it is invoiced again', sub { $t->patch($header, { invoice_status => 21 }) },
	'PATCH deals/* {status, won_time, <Factuurstatus>} 5');
is(deal('status')->{won_time}, $won_time, '... and keeps its first date');

change('it is cancelled',
	sub { $t->patch($header, { status => 45, delivery_status => 12, invoice_status => 12 }) },
	'PATCH deals/* {lost_reason, lost_time, stage_id, status, <Factuurstatus>, <Leverstatus>} 5');
is(deal('status')->{status} . ': ' . deal('status')->{lost_reason}, 'lost: Geannuleerd in Exact', '... so the deal is lost, for a reason');
change('it is reopened', sub { $t->patch($header, { status => 12 }) }, 'PATCH deals/* {status} 5');
is(deal('status')->{status}, 'open', '... so the deal is open again');

change('a field that nobody sees', sub { $t->patch($header, { description => 'Niets voor Pipedrive' }) });
change('the reference', sub { $t->patch($header, { your_ref => 'PO 4711' }) }, 'PATCH deals/* {<Uw referentie>} 5');
change('another salesperson', sub { $t->patch($header, { salesperson => 'Bram Hoekstra' }) }, 'PATCH deals/* {owner_id} 5');
is(deal('status')->{owner}, 'Bram Hoekstra', '... who owns the deal');
change('a salesperson who is no user of Pipedrive',
	sub { $t->patch($header, { salesperson => 'Pieter van den Broek' }) }, 'PATCH deals/* {owner_id} 5');

# ----------
note 'lines';
# ----------
$header = path('lines');
change('a quantity', sub { $t->patch("$header/lines/1", { quantity => 12 }) },
	'PATCH deals/*/products/* {quantity} 5');
value_is('lines', 'a quantity');
change('a price', sub { $t->patch("$header/lines/1", { price => 2.75 }) },
	'PATCH deals/*/products/* {item_price} 5');
value_is('lines', 'a price');
change('a description', sub { $t->patch("$header/lines/1", { Description => 'Kandelaar, groen' }) },
	'PATCH deals/*/products/* {comments} 5');
change('another item', sub { $t->patch("$header/lines/2", { item => 'CH-1' }) },
	'PATCH deals/*/products/* {product_id} 5');
change('two lines',
	sub { $t->patch("$header/lines/$_", { quantity => 20 }) foreach 1, 2 },
	('PATCH deals/*/products/* {quantity} 5') x 2);
value_is('lines', 'two lines');
change('a new line', sub { $t->post("$header/lines", { item => 'CH-2', quantity => 5, price => 1.25 }) },
	'POST deals/*/products {item_price, product_id, quantity, tax, tax_method} 5');
value_is('lines', 'a new line');
change('five new lines',
	sub { $t->post("$header/lines", [ map { { item => 'CH-2', quantity => $_, price => 1.25 } } 1 .. 5 ]) },
	'POST deals/*/products/bulk [5] 25');
value_is('lines', 'five new lines');
change('a line less', sub { $t->delete("$header/lines/3") }, 'DELETE deals/*/products/* 3');
value_is('lines', 'a line less');
change('five lines less', sub { $t->delete("$header/lines/$_") foreach 4 .. 8 }, 'DELETE deals/*/products 15');
value_is('lines', 'five lines less');
is(scalar @{ deal('lines')->{products} }, 2, '... two are left');
change('header and line at once',
	sub { $t->patch($header, { delivery_status => 20 }); $t->patch("$header/lines/1", { quantity => 21 }) },
	'PATCH deals/* {stage_id, <Leverstatus>} 5', 'PATCH deals/*/products/* {quantity} 5');
change('a text line', sub { $t->patch(path('text') . '/lines/2', { Description => 'Graag na 9 uur' }) },
	'PATCH deals/*/products/* {comments} 5');
is((grep { ($_->{comments} // '') =~ /na 9 uur/ } @{ deal('text')->{products} })[0]{quantity}, 1, '... which is there');

# ----------
note 'cents';
# ----------
# A header discount leaves cents that one deal discount closes; it is touched only when they change.
$header = path('cents');
my %seen;
foreach my $quantity (8, 9, 10, 11, 12)
{
	my $rest = sub { join ',', map { sprintf '%.2f', $_->{amount} } @{ deal('cents')->{discounts} } };
	my $before = $rest->();
	my @calls = $t->pipedrive_calls(
		sub {
			$t->patch("$header/lines/1", { quantity => $quantity });
			$t->poll;
			ok($t->settle, "quantity $quantity: is sent");
		});
	my $after = $rest->();
	my @lines = grep { m,^PATCH deals/\*/products/\* , } $t->writes(@calls);
	my @closing = grep { m,/discounts, } $t->writes(@calls);
	is(scalar @lines, 1, "quantity $quantity: one line goes out");
	is(scalar @closing, $before eq $after ? 0 : 1, "quantity $quantity: cents $before become $after");
	is(scalar($t->writes(@calls)), @lines + @closing, "quantity $quantity: nothing else goes out")
	  or diag(join "\n", $t->writes(@calls));
	value_is('cents', "quantity $quantity");
	$seen{ $before eq $after ? 'same' : 'other' }++;
}
ok($seen{same}, 'there was a change that left the cents alone') or diag(explain(\%seen));
ok($seen{other}, '... and one that did not');

# ----------
note 'orders that go';
# ----------
my $deleted = deal('deleted');
change('an order is deleted', sub { $t->delete(path('deleted')) },
	'PATCH deals/* {lost_reason, lost_time, status} 5');
$deleted = $t->deal($number{deleted});
is("$deleted->{status}: $deleted->{lost_reason}", 'lost: Verwijderd in Exact', '... its deal is lost, for a reason');
is(scalar @{ $deleted->{products} }, 1, '... and still says what was in it');

# ----------
note 'what is around the orders';
# ----------
my ($customer) = grep { $_->{Code} =~ /771001/ } @{ $t->get('/exact/state?entity=Accounts')->{Accounts} };
change('a customer is renamed',
	sub { $t->patch("/exact/entities/Accounts/$customer->{ID}", { Name => 'Tuincentrum De Eik' }) },
	'PATCH organizations/* {name} 5');
change('a customer moves',
	sub { $t->patch("/exact/entities/Accounts/$customer->{ID}", { AddressLine1 => 'Dorpsstraat 1' }) },
	'PATCH organizations/* {address} 5');
change('a field of a customer that nobody sees',
	sub { $t->patch("/exact/entities/Accounts/$customer->{ID}", { Phone => '0612345678' }) });
my $state = $t->get('/exact/state?entity=Items,ItemGroups,SalesItemPrices');
my ($item) = grep { $_->{Code} =~ /CH-1/ } @{ $state->{Items} };
change('an item is renamed',
	sub { $t->patch("/exact/entities/Items/$item->{ID}", { Description => 'Kandelaar messing' }) },
	'PATCH products/* {name} 5');
my ($price) = grep { $_->{Item} eq $item->{ID} } @{ $state->{SalesItemPrices} };
change('an item has another price',
	sub { $t->patch("/exact/entities/SalesItemPrices/$price->{ID}", { Price => 3.1 }) },
	'PATCH products/* {prices} 5');
my ($group) = grep { $_->{ID} ne $item->{ItemGroup} } @{ $state->{ItemGroups} };
change('an item changes its group',
	sub { $t->patch("/exact/entities/Items/$item->{ID}", { ItemGroup => $group->{ID} }) },
	'PATCH products/* {<Artikelgroep>} 5');
my $in_group = $t->sql(
	"SELECT count(*) FROM exact_pd_sync.exact_items i JOIN exact_pd_sync.links l ON l.kind = 'product' AND l.exact_id = i.id WHERE i.item_group = '$group->{ID}'");
change('a group is renamed',
	sub { $t->patch("/exact/entities/ItemGroups/$group->{ID}", { Description => 'Winterlicht 2027' }) },
	'POST productFields/*/options [1] 5', ('PATCH products/* {<Artikelgroep>} 5') x $in_group);

is($t->sql('SELECT count(*) FROM exact_pd_sync.dead_letters'), '0', 'no dead letters');
is($t->stats('pipedrive')->{noop_patches}, 0, 'no call changed nothing');
$t->no_violations;
$t->done;
