# Bad input: what is odd arrives as it is meant, what cannot arrive is a clear
# error or a dead letter, and nothing else suffers.
#
# Looked at elsewhere: a page that repeats a key, rows in no order, float noise
# in every amount (210_switches_exact); what people change by hand at Pipedrive
# and what is wrong with tokens and divisions (270_fields_changed).

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my %base = (burst_limit => 0, exact_minute_limit => 100000);
my $t = EpdsTest->new('bad_input', orders => 5, months => 3, switches => \%base);
my %open = (status => 12, delivery_status => 12, invoice_status => 12);

sub make
{
	my (%order) = @_;
	return $t->post('/exact/orders', { %open, salesperson => 'Anna de Wit', lines => 1, %order });
}

sub change
{
	my ($entity, $id, %values) = @_;
	return $t->patch("/exact/entities/$entity/$id", \%values);
}

sub raw { return { '$raw' => $_[0] }; }

sub dead
{
	return $t->sql(
		q{SELECT coalesce(string_agg(kind || ' ' || coalesce(object, '') || ': ' || reason, E'\n' ORDER BY kind, object), '') FROM exact_pd_sync.dead_letters});
}

sub organization_of
{
	my ($number) = @_;
	my $deal = $t->deal($number) or return '(no deal)';
	my ($organization) = grep { $_->{id} == ($deal->{org_id} // 0) } @{ $t->state('organizations')->{organizations} };
	return $organization;
}

sub arrived
{
	my ($name, %option) = @_;
	ok($t->settle, "$name: everything is sent");
	is(dead(), $option{dead} // '', "$name: no dead letter") unless exists $option{dead} && !defined $option{dead};
	return agrees($t, "$name: every order is a deal", %option);
}

# ------------------------------
note 'in the first import';
# ------------------------------

make(number => 41001, status => 77, delivery_status => 12, invoice_status => 12);
make(number => 41002, status => 12, delivery_status => 99, invoice_status => 98);
make(number => 41003, customer => undef);
make(number => 41004, salesperson => undef);
make(number => 41005, customer => undef, salesperson => undef, lines => []);

# codes: padded, with letters, twice
make(number => 41010, customer => { name => 'Gevuld', code => '             42' });
make(number => 41011, customer => { name => 'Met letters', code => '  Tuin-7b' });
my ($first) = make(number => 41012, customer => { name => 'Eerste 4800', code => '4800' });
my $second = make(number => 41013, customer => { name => 'Tweede 4800', code => '4801' });
change('Accounts', $second->{OrderedBy}, Code => sprintf('%18s', '4800'));
make(number => 41014, lines => [ { item => { code => 'DUB-1', description => 'Eerste', price => 3 }, quantity => 2 } ]);
my $twice = make(number => 41015, lines => [ { item => { code => 'DUB-2', description => 'Tweede', price => 4 }, quantity => 2 } ]);
change('Items', $twice->{lines}[0]{Item}, Code => 'DUB-1');

# gone from the feeds before we saw them
my $orphan = make(
	number => 41016, customer => { name => 'Weg B.V.', code => '4816' },
	lines => [ { item => { code => 'WEG-1', description => 'Weg artikel', price => 5 }, quantity => 3 } ]);
my %gone = (item => $orphan->{lines}[0]{Item}, customer => $orphan->{OrderedBy});
$t->delete("/exact/entities/Items/$gone{item}");
$t->delete("/exact/entities/Accounts/$gone{customer}");

# texts
my $box = "\x{1F4E6}";
my %text = (
	emoji => [ "Vaas $box & Zo \x{65}\x{301}", "Vaas $box & Zo \x{65}\x{301}" ],
	lines => [ "Eerste regel\r\n\tTweede regel", qr/^Eerste regel\s+Tweede regel$/ ],
	html => [ q{<script>alert("x")</script><b>Vet</b> &amp; O'Brien \ %s}, q{<script>alert("x")</script><b>Vet</b> &amp; O'Brien \ %s} ],
	long => [ 'l' x 10_000, 'l' x 255 ],
	zero => [ raw('"Nul\u0000teken"'), "Nul\x{FFFD}teken" ],
	right => [ "\x{202E}omgekeerd", "\x{202E}omgekeerd" ],
);
my $number = 41020;
my %number;
foreach my $name (sort keys %text)
{
	my $order = make(
		number => ++$number, customer => { name => "Tekst $name", code => 4820 + $number % 100 }, your_ref => 'x',
		lines => [ { item => { code => "TXT-$name", description => 'x', price => 2 }, quantity => 1 } ]);
	$number{$name} = $number;
	my $value = $text{$name}[0];
	change('Accounts', $order->{OrderedBy}, Name => $value);
	change('Items', $order->{lines}[0]{Item}, Description => $value);
	$t->patch("/exact/orders/$number", { your_ref => $value, Description => $value });
	$t->patch("/exact/orders/$number/lines/1", { Description => $value, Notes => $value });
}

# amounts
make(
	number => 41040, AmountFCExclVat => raw('39.799999999999997'),
	lines => [ { item => 'new', quantity => 2, AmountFC => raw('39.799999999999997'), NetPrice => raw('19.899999999999999') } ]);
make(number => 41041, lines => [ { item => 'new', quantity => raw('2.0000000000000004'), AmountFC => 10, NetPrice => 5 } ], AmountFCExclVat => 10);

$t->connect;
$t->import_history;
$t->poll;
$t->resume;
my @except = (41016, 41041, values %number);
arrived('the first import', except => \@except);
is( $t->sql(q{SELECT string_agg(concat_ws('/', status, delivery_status, invoice_status), ' ' ORDER BY status) FROM exact_pd_sync.status_coverage WHERE verdict = 'unmapped'}),
	'77/12/12', 'a status that no rule knows stands in status_coverage');
is($t->deal(41001)->{status} . ' ' . $t->deal(41001)->{stage}, 'open Nieuwe bestelling', '... and its deal is open, in the first stage');
is($t->deal(41003)->{org_id}, undef, 'an order without a customer is a deal without an organization');
isnt(organization_of(41012)->{id}, organization_of(41013)->{id}, 'a code that is used twice is two organizations');
is(organization_of(41012)->{fields}{Debiteurnummer}, organization_of(41013)->{fields}{Debiteurnummer}, '... of the same number');
is(organization_of(41010)->{fields}{Debiteurnummer}, '42', 'padding goes');
is(organization_of(41011)->{fields}{Debiteurnummer}, 'Tuin-7b', '... and letters stay');
isnt( $t->deal(41014)->{products}[0]{product_id}, $t->deal(41015)->{products}[0]{product_id},
	'an item code that is used twice is two products');

my $deal = $t->deal(41016);
is($deal->{organization}, 'Weg B.V.', 'a customer that is gone from Exact is made from what its order says');
my ($product) = grep { $_->{id} == $deal->{products}[0]{product_id} } @{ $t->state('products')->{products} };
is("$product->{name} $product->{code}", 'Weg artikel WEG-1', '... and so is an item');
is(cents($deal->{value_text}), cents($t->order(41016)->{AmountFCExclVat}), '... the value is right');

foreach my $name (sort keys %text)
{
	my $wanted = ref $text{$name}[1] eq 'Regexp' ? $text{$name}[1] : qr/^\Q$text{$name}[1]\E$/;
	$deal = $t->deal($number{$name});
	ok($deal, "text \"$name\": its order is a deal") or next;
	like($deal->{organization}, $wanted, '... the name of the customer');
	($product) = grep { $_->{id} == $deal->{products}[0]{product_id} } @{ $t->state('products')->{products} };
	like($product->{name}, $wanted, '... of the item');
	like($deal->{fields}{'Uw referentie'}, $wanted, '... and the reference');
	cmp_ok(length $deal->{title}, '<=', 255, '... the title has its length');
	is(cents($deal->{value_text}), cents($t->order($number{$name})->{AmountFCExclVat}), '... and the deal its value');
}
is(cents($t->deal(41040)->{value_text}), '39.80', 'float noise in amounts goes');
is(cents($t->deal(41041)->{value_text}), '10.00', '... also in a quantity');

# -------------------------------
note 'in the feeds';
# -------------------------------

# Lines and header that do not add up: read once more, then sent as the header says.
make(number => 42001, AmountFCExclVat => 123.45, lines => [ { item => 'new', quantity => 2, price => 10 } ]);
make(number => 42002, AmountFCExclVat => 5, lines => [ { item => 'new', quantity => 2, price => 10 } ]);
make(number => 42003, AmountFCExclVat => -7, lines => [ { item => 'new', quantity => 2, price => 10 } ]);
# paused, or an order whose lines are still to come would be awaited instead
$t->pause;
$t->poll('orders');
$t->resume;
ok( $t->wait_for(
		q{SELECT count(*) = 3 FROM exact_pd_sync.queue WHERE state = 'waiting' AND reason = 'lines and header do not add up yet: it is read once more'}),
	'header and lines that do not add up wait for the next poll, and say so');
$t->sql('SELECT exact_pd_sync.replay()');
ok($t->settle, '... then they are sent');
is(join(' ', map { cents($t->deal($_)->{value_text}) } 42001 .. 42003), '123.45 5.00 -7.00', '... with the total of the header');
is( $t->sql(q{SELECT count(*) FROM exact_pd_sync.order_sums s JOIN exact_pd_sync.exact_sales_orders o ON o.id = s.order_id
		WHERE NOT s.adds_up AND o.order_number BETWEEN 42001 AND 42003}),
	'3', '... and order_sums marks them');
push @except, 42001 .. 42003;
$t->poll;
ok($t->settle, '... never in a loop');

# Lines that come before their header.
$t->fault(
	side => 'exact', path => 'sync/SalesOrder/SalesOrderHeaders', times => 1,
	action => { status => 200, body => '{"d":{"results":[]}}', content_type => 'application/json' });
$t->fault(
	side => 'exact', path => 'bulk/SalesOrder/SalesOrders', times => 1,
	action => { status => 200, body => '{"d":{"results":[]}}', content_type => 'application/json' });
make(number => 42010, lines => 3);
$t->poll('orders');
$t->clear_faults;
is( $t->sql(q{SELECT count(*) FROM exact_pd_sync.exact_sales_order_lines WHERE order_number = 42010}) . ' '
	  . $t->sql(q{SELECT count(*) FROM exact_pd_sync.exact_sales_orders WHERE order_number = 42010}),
	'3 0', 'lines can come before their header');
ok($t->settle, '... which nobody waits for');
$t->poll('orders');
arrived('lines before their header', except => \@except);

# A row that cannot be stored: the others are, and a person is told.
my $customer = make(number => 42020)->{OrderedBy};
make(number => 42021);
$t->patch('/exact/orders/42020', { AmountFCExclVat => raw('"veel"') });
$t->patch('/exact/orders/42021', { your_ref => 'wel goed' });
my ($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_orders()');
is($rc, 0, 'a row that cannot be stored does not stop a poll') or diag($err);
ok($t->settle, '... the others are sent');
is($t->deal(42021)->{fields}{'Uw referentie'}, 'wel goed', '... as they are');
is( $t->sql(q{SELECT DISTINCT kind || ': ' || reason || ' (' || servers_words || ')' FROM exact_pd_sync.dead_letters}),
	'row of sales_order_headers: a row of Exact cannot be stored; the rest of its page was (invalid input syntax for type numeric: "veel")',
	'... and it is a dead letter with a reason');
is($t->sql(q{SELECT state FROM exact_pd_sync.status WHERE part = 'dead letters'}), 'yellow', '... which status shows');
is($t->sql(q{SELECT refused > 0 FROM exact_pd_sync.sync_runs ORDER BY id DESC LIMIT 1}), 't', '... and the run counts');
$t->patch('/exact/orders/42020', { AmountFCExclVat => 10, lines => undef });
$t->poll('orders');
$t->sql('SELECT exact_pd_sync.replay()');
ok($t->settle, '... mended at Exact');
ok($t->deal(42020), '... it arrives');
push @except, 42020;
$t->sql('DELETE FROM exact_pd_sync.refused_rows');

# An item deleted while orders name it; one renamed to nothing.
make(number => 42030, lines => [ { item => { code => 'LAST-1', description => 'Laatste', price => 8 }, quantity => 1 } ]);
$t->poll;
ok($t->settle, 'an item is sold');
my $item = $t->order(42030)->{lines}[0]{Item};
$t->delete("/exact/entities/Items/$item");
$t->patch('/exact/orders/42030', { your_ref => 'na het artikel' });
$t->poll;
ok($t->settle, '... and deleted at Exact');
is($t->deal(42030)->{fields}{'Uw referentie'}, 'na het artikel', '... its order goes on');
is(scalar @{ $t->deal(42030)->{products} }, 1, '... and keeps its line');
my $nameless = make(number => 42031, customer => { name => 'x', code => '4899' }, lines => [ { item => { code => 'LEEG', description => 'x', price => 1 } } ]);
change('Accounts', $nameless->{OrderedBy}, Name => undef, Code => undef);
change('Items', $nameless->{lines}[0]{Item}, Description => '', Code => undef);
$t->poll;
ok($t->settle, 'a customer and an item without name and number');
like($t->deal(42031)->{organization}, qr/^Relatie /, '... get a name that says what they are');
is(dead(), '', '... and nothing is refused');
push @except, 42030, 42031;

# ----------------------------------------
note 'a continuation on another host';
# ----------------------------------------

# Pipedrive's side of the sandbox is that host: it sees every call.
my $before = @{ [ $t->calls('pipedrive') ] };
$t->switches(exact_next_host => $t->ready->{pipedrive}, exact_page_size => 2);
make(number => 42039 + $_) foreach 1 .. 4;
my @calls = $t->pipedrive_calls(sub { ($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_orders()'); });
isnt($rc, 0, 'a continuation on another host is an error');
like($err, qr/ERROR:  HV000: .*DETAIL:  .*refers to another site/s, '... which says so');
is(scalar(grep { $_->{path} =~ /sync/ } @calls), 0, '... and nobody there hears of us');
unlike($err, qr/Bearer/, '... no token in its words');
$t->switches(exact_next_host => undef, exact_page_size => undef);
$t->poll;
arrived('after it', except => \@except);

# --------------------------------
note 'rowversions above 2^53';
# --------------------------------

$t->post('/exact/rowversion', { counter => '9007199254740993' });
make(number => 42050 + $_) foreach 1 .. 3;
$t->patch('/exact/orders/42051', { your_ref => 'groot' });
$t->poll;
arrived('rowversions above 2^53', except => \@except);
is( $t->sql(q{SELECT max(timestamp) FROM exact_pd_sync.exact_sales_orders}),
	(sort { $b <=> $a } map { $_->{Timestamp} } @{ $t->get('/exact/orders?lines=0') })[0],
	'... are stored to the last digit');
$t->patch('/exact/orders/42052', { delivery_status => 21 });
@calls = $t->pipedrive_calls(sub { $t->poll; $t->settle; });
is(join("\n", $t->writes(@calls)), 'PATCH deals/* {stage_id, <Leverstatus>} 5', '... and a change among them goes out as one');

$t->no_violations;
$t->done;
