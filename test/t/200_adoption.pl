# An account that an earlier integration filled, with field names and habits of
# its own: once the fields are named, everything is taken over and nothing is
# made twice.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $t = EpdsTest->new(
	'adoption',
	orders => 20,
	customers => 500,
	items => 800,
	months => 10,
	switches => { burst_limit => 0, exact_minute_limit => 100000, daily_budget => 100_000_000 });

# ----------
# The ERP
# ----------

# Codes with letters, as some books have them, and two that differ by a nought alone.
my $exact = $t->get('/exact/state?entity=Accounts&lines=0');
my $count = 0;
foreach my $account (@{ $exact->{Accounts} }[ 0 .. 19 ])
{
	$t->patch("/exact/entities/Accounts/$account->{ID}", { Code => sprintf('%18s', 'Tuin-' . ++$count . 'x') });
}
$t->post('/exact/entities/Accounts',
	[ map { { Code => sprintf('%18s', $_), Name => "Nullen $_ B.V." } } '0088001', '88001' ]);
# Orders of few lines, so that a thousand of them are no burden.
my @states = ([ 12, 12, 12 ], [ 12, 20, 12 ], [ 21, 21, 12 ], [ 21, 21, 21 ], [ 45, 12, 12 ]);
foreach my $month ('03' .. '10')
{
	$t->post(
		'/exact/orders',
		[
			map {
				my $state = $states[ $_ % 5 ];
				{
					order_date => sprintf('2026-%s-%02d', $month, 1 + $_ % 28), lines => 2 + $_ % 3,
					status => $state->[0], delivery_status => $state->[1], invoice_status => $state->[2]
				}
			} 1 .. 123
		]);
}
$exact = $t->get('/exact/state?entity=Accounts,Items,Orders');
my @accounts = sort { $a->{ID} cmp $b->{ID} } @{ $exact->{Accounts} };
my @items = sort { $a->{ID} cmp $b->{ID} } @{ $exact->{Items} };
my @orders = @{ $exact->{Orders} };
cmp_ok(scalar @accounts, '>=', 500, 'there are 500 customers');
cmp_ok(scalar @items, '>=', 800, '... 800 items');
cmp_ok(scalar @orders, '>=', 1000, '... and 1,000 orders');

# ----------
# The account
# ----------

# As numbers come to look when people and programs copy them.
sub copied
{
	my ($code, $n) = @_;
	$code =~ s/^\s+|\s+$//g;
	return $code if $code =~ /88001$/;
	return ($code, "000$code", "  $code ", lc $code, uc $code)[ $n % 5 ];
}

sub seeded
{
	my ($kind, @records) = @_;
	my @made;
	while (my @some = splice @records, 0, 250)
	{
		push @made, @{ $t->post('/pipedrive/seed', { $kind => \@some })->{$kind} };
	}
	return @made;
}

my $n = 0;
my %organization;
@organization{ map { $_->{ID} } @accounts } = map { $_->{id} } seeded(
	'organizations',
	map { { name => "$_->{Name} (oud)", fields => { Klantnummer => copied($_->{Code}, $n++) } } } @accounts);
my %product;
@product{ map { $_->{ID} } @items } = map { $_->{id} } seeded(
	'products',
	map { { name => "Oud $_->{Description}", fields => { 'Artikelnr (ERP)' => copied($_->{Code}, $n++) } } } @items);

# Half of the deals stand in a pipeline of their own.
my ($webshop, $ours) = @{ $t->post(
		'/pipedrive/seed',
		{
			pipelines => [
				{ name => 'Webshop', stages => [ 'Binnen', 'Klaar' ] },
				{ name => 'Bestellingen', stages => ['Nieuwe bestelling'] }
			]
		})->{pipelines} };

my (%kind, @deals);
$n = 0;
foreach my $order (@orders)
{
	my $place = $n % 2 ? $webshop : $ours;
	my %deal = (
		title => "Bestelling $order->{OrderNumber}",
		value => 1,
		stage_id => $place->{stages}[0]{id},
		fields => { 'Bestelnr.' => copied($order->{OrderNumber}, $n) },
		$order->{OrderedBy} ? (org_id => $organization{ $order->{OrderedBy} }) : ());
	my @lines = map {
		{
			product_id => $product{ $_->{Item} }, quantity => $_->{Quantity}, item_price => $_->{NetPrice},
			tax => 0, tax_method => 'none'
		}
	} grep { $_->{Item} && $_->{Quantity} } @{ $order->{lines} };
	# Those whose lines can be said without our rules for discounts and cents.
	my $plain = !$order->{Discount} && @lines == @{ $order->{lines} }
	  && !grep { abs($_->{NetPrice} * $_->{Quantity} - $_->{AmountFC}) > 1e-9 } @{ $order->{lines} };
	if ($n % 10 == 3 && $plain)
	{
		# the lines are there already
		$kind{same}{ $order->{OrderNumber} } = 1;
		$deal{products} = \@lines;
	}
	elsif ($n % 10 == 6 && $plain && @lines > 1)
	{
		# one is missing, one is wrong, one is of nobody
		$kind{other}{ $order->{OrderNumber} } = 1;
		$lines[0]{quantity} += 1;
		$lines[1]{product_id} = $product{ $items[0]{ID} };
		$deal{products} = [ @lines[ 0 .. $#lines - 1 ], { %{ $lines[0] }, product_id => $product{ $items[1]{ID} }, quantity => 99 } ];
	}
	elsif ($n % 50 == 9)
	{
		$kind{archived}{ $order->{OrderNumber} } = 1;
		$deal{is_archived} = $true;
	}
	push @deals, \%deal;
	$n++;
}
my @made = seeded('deals', @deals);
my %deal;
@deal{ map { $_->{OrderNumber} } @orders } = map { $_->{id} } @made;

# What has nothing to do with Exact.
my ($foreign) = seeded('deals', { title => 'Verhuur zaal', value => 250, stage_id => $webshop->{stages}[1]{id}, status => 'lost' });
seeded('organizations', { name => 'Geen klant' });
seeded('products', { name => 'Verzendkosten' });
my %before = map { $_ => scalar @{ $t->state($_)->{$_} } } qw(organizations products deals);

# ----------
note 'taking over';
# ----------

$t->sql(q{SELECT exact_pd_sync.name_adoption_field('organization', 'Klantnummer');
	SELECT exact_pd_sync.name_adoption_field('product', 'Artikelnr (ERP)');
	SELECT exact_pd_sync.name_adoption_field('deal', 'Bestelnr.');});
$t->connect;
is($t->sql('SELECT count(*) FROM exact_pd_sync.adoption_fields WHERE field_code IS NOT NULL'),
	'3', 'the set-up finds the fields that were named');
is(scalar(grep { $_->{name} eq 'Bestellingen' } @{ $t->state('pipelines')->{pipelines} }), 1, '... and takes the pipeline that is there');
$t->import_history;
$t->poll;
my @calls = $t->pipedrive_calls(sub { $t->resume; ok($t->settle(180), 'everything is sent'); });

my @creates = grep { $_->{method} eq 'POST' && $_->{path} =~ m,^/api/v2/(organizations|products|deals)$, } @calls;
# One product stands for lines without an item: the earlier integration had none.
my @text_lines = grep { ($_->{request} // '') =~ /TEKST/ } @creates;
is(scalar(@creates) - @text_lines, 0, 'no organization, product or deal is made')
  or diag(join "\n", map { "$_->{path} $_->{request}" } @creates > 10 ? @creates[ 0 .. 9 ] : @creates);
cmp_ok(scalar @text_lines, '<=', 1, '... but one product for lines without an item');
foreach my $what (qw(organizations products deals))
{
	is( scalar @{ $t->state($what)->{$what} },
		$before{$what} + ($what eq 'products' ? @text_lines : 0),
		"as many $what as before");
}
my @lists = grep { $_->{method} eq 'GET' && $_->{path} =~ m,^/api/v2/(organizations|products|deals|deals/archived)$, } @calls;
cmp_ok(scalar @lists, '<=', 9, 'few lists are read for it') or diag(join "\n", map { $_->{path} } @lists);

my %link = map { split /\|/ } split /\n/,
  $t->sql(q{SELECT exact_id, pipedrive_id FROM exact_pd_sync.links WHERE kind IN ('organization', 'product')});
my @wrong = grep { ($link{ $_->{ID} } // 0) != $organization{ $_->{ID} } } @accounts;
is(scalar @wrong, 0, 'each customer is its own organization') or diag(explain(\@wrong));
@wrong = grep { ($link{ $_->{ID} } // 0) != $product{ $_->{ID} } } @items;
is(scalar @wrong, 0, 'each item is its own product') or diag(explain([ map { $_->{Code} } @wrong ]));
%link = map { split /\|/ } split /\n/,
  $t->sql(q{SELECT o.order_number, l.pipedrive_id FROM exact_pd_sync.links l JOIN exact_pd_sync.exact_sales_orders o ON o.id = l.exact_id WHERE l.kind = 'deal'});
@wrong = grep { ($link{$_} // 0) != $deal{$_} } keys %deal;
is(scalar @wrong, 0, 'each order is its own deal') or diag("@wrong");

# ----------
note 'what became of it';
# ----------

my $archived = join ' ', sort keys %{ $kind{archived} };
is( $t->sql(q{SELECT string_agg(split_part(object, ' ', 2), ' ' ORDER BY object) FROM exact_pd_sync.dead_letters}),
	$archived, 'deals in the archive are dead letters, and nothing else is');
is( $t->sql(q{SELECT DISTINCT reason FROM exact_pd_sync.dead_letters}),
	'a person archived this deal in Pipedrive, and archived deals cannot be changed: take it out of the archive and replay',
	'... which say what to do');
agrees($t, 'all others are as the orders are', except => [ map { ($_, "of deal $deal{$_}") } keys %{ $kind{archived} } ]);

# Lines are compared with what is there, by their ids.
my %lines_before = map { $_->{id} => [ map { $_->{id} } @{ $_->{products} } ] } @made;
my %lines_now = map { $_->{id} => { map { $_->{id} => 1 } @{ $_->{products} } } } $t->deals;
my %kept;
foreach my $kind (qw(same other))
{
	foreach my $id (map { $deal{$_} } keys %{ $kind{$kind} })
	{
		my @gone = grep { !$lines_now{$id}{$_} } @{ $lines_before{$id} };
		$kept{$kind}{deals}++;
		$kept{$kind}{lines} += @{ $lines_before{$id} } - @gone;
		$kept{$kind}{gone} += @gone;
	}
}
cmp_ok($kept{same}{deals}, '>=', 50, 'there were deals with the lines of their orders');
is($kept{same}{gone}, 0, '... which keep them all');
my %their_deal = map { $deal{$_} => 1 } keys %{ $kind{same} };
my %same_deal = map { $deal{$_} => 1 } keys %{ $kind{same} };
is( join("\n", map { $_->{path} } grep { $_->{method} =~ /POST|DELETE/ && $_->{path} =~ m,/deals/(\d+)/products, && $same_deal{$1} } @calls),
	'', '... and get none once more');
cmp_ok($kept{other}{deals}, '>=', 50, 'there were deals with other lines');
cmp_ok($kept{other}{gone}, '<=', 3 * $kept{other}{deals}, '... of which only what differs is replaced')
  or diag(explain(\%kept));
my $as_it_was = $t->get("/pipedrive/deals/$foreign->{id}");
is($as_it_was->{update_time}, $foreign->{update_time}, 'what has nothing to do with Exact is left alone');

# ----------
note 'out of the archive';
# ----------

$t->patch("/pipedrive/deals/$deal{$_}", { is_archived => $false }) foreach keys %{ $kind{archived} };
$t->sql('SELECT exact_pd_sync.replay()');
ok($t->settle, 'deals that are taken out of the archive are sent after replay()');
is($t->sql('SELECT count(*) FROM exact_pd_sync.dead_letters'), '0', '... none is left over');
agrees($t, '... so all are as the orders are');
is(scalar @{ $t->state('deals')->{deals} }, $before{deals}, '... and none was made twice');

# ----------
note 'from then on';
# ----------

my $code = $accounts[100]{Code};
$code =~ s/^\s+//;
$t->post('/exact/orders', { number => 990001, customer => $code, lines => 2, status => 12, delivery_status => 12, invoice_status => 12 });
@calls = $t->pipedrive_calls(sub { $t->poll; $t->settle; });
is(join(', ', map { s/ .*//r } grep { /^POST/ } map { "$_->{method}:$_->{path}" =~ s,/api/v2/,,r =~ s/\d+/*/r } @calls),
	'POST:deals, POST:deals/*/products, POST:deals/*/products', 'a new order makes one deal, for customer and items that are there');
agrees($t, '... and is right');
my $tokens = $t->tokens;
$t->poll;
$t->settle;
is($t->tokens, $tokens, 'a poll without changes sends nothing');

$t->no_violations;
$t->done;
