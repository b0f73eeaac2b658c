# The first run: an empty Pipedrive account, and every order in it afterwards,
# for the least tokens possible.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use Test::More;

my $t = EpdsTest->new(
	'first_run',
	orders => 30,
	items => 40,
	seed => 11,
	switches => { strict_429 => JSON::PP::true, exact_minute_limit => 60 });
# ... and those that are rare among thirty
$t->post(
	'/exact/orders',
	[
		{ lines => 130 }, { lines => 0 }, { customer => undef, lines => 4 }, { salesperson => undef, lines => 5 },
		{ discount => 0.033, lines => [ { quantity => 7, price => 1.17 }, { quantity => 3, price => 0.333 } ] },
		{ lines => [ { quantity => -3 }, { quantity => -1 } ] },
		{ lines => [ { quantity => 2 }, { item => undef, description => 'Levering achterom' } ] },
	]);
$t->connect;

# ----------
note 'before a person says so';
# ----------
$t->import_history;
$t->poll;
is($t->sql(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'sending'}) =~
	  /^yellow: paused/, 1, 'sending starts paused');
my $setup_tokens = $t->tokens;
is(scalar($t->deals), 0, '... and nothing has been sent');

my @orders = $t->orders;
is( $t->sql('SELECT count(*) FROM exact_pd_sync.exact_sales_orders'),
	scalar @orders,
	'every order of Exact is staged');
is( $t->sql('SELECT count(*) FROM exact_pd_sync.exact_sales_order_lines'),
	eval { my $n = 0; $n += @{ $_->{lines} } foreach @orders; $n },
	'... with every line');

# What the plan says it will cost is kept from before the run.
my ($deals, $organizations, $products, $minimum) = split /\|/,
  $t->sql('SELECT deals, organizations, products, tokens FROM exact_pd_sync._first_run_cost()');
is($deals, scalar @orders, 'the prediction counts every order');

# ----------
note 'the run';
# ----------
$t->reset_stats;
my @calls = $t->pipedrive_calls(sub { $t->resume; ok($t->settle, 'everything is sent') });
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.dead_letters}), '0', '... without a dead letter');

# ----------
note 'orders and deals side by side';
# ----------
my %deal = map { $_->{fields}{Ordernummer} => $_ } $t->deals;
is(scalar keys %deal, scalar @orders, 'there are as many deals as orders');

my %active = map { $_->{name} => $_->{active_flag} } @{ $t->state('users')->{users} };
my $default_owner = $t->sql(
	q{SELECT name FROM exact_pd_sync.pipedrive_users WHERE user_id = exact_pd_sync.setting('default_owner_id')::bigint});
my @wrong;
foreach my $order (@orders)
{
	my $deal = $deal{ $order->{OrderNumber} };
	if (!$deal)
	{
		push @wrong, "$order->{OrderNumber}: no deal";
		next;
	}
	my $cents = sprintf '%.2f', $order->{AmountFCExclVat};
	my $value = sprintf '%.2f', $deal->{value_text};
	push @wrong, "$order->{OrderNumber}: value $value, order $cents" if $value ne $cents;
	push @wrong, "$order->{OrderNumber}: " . @{ $deal->{products} } . ' lines of ' . @{ $order->{lines} }
	  if @{ $deal->{products} } != @{ $order->{lines} };
	push @wrong, "$order->{OrderNumber}: currency $deal->{currency}"
	  if $deal->{currency} ne $order->{Currency};
	push @wrong, "$order->{OrderNumber}: Exact-ID"
	  if $deal->{fields}{'Exact-ID'} ne $order->{OrderID};
	push @wrong, "$order->{OrderNumber}: date $deal->{fields}{Orderdatum}, $order->{OrderDate}"
	  if $deal->{fields}{Orderdatum} ne substr($order->{OrderDate}, 0, 10);

	# the default rules (README.md), worked out once more
	my $status =
		$order->{Status} == 45 ? 'lost'
	  : ($order->{InvoiceStatus} // 0) == 21 ? 'won'
	  :                                        'open';
	my $stage =
		($order->{DeliveryStatus} // 0) == 20 ? 'Wacht op backorder'
	  : ($order->{DeliveryStatus} // 0) == 21 ? 'Verzonden'
	  : $order->{Status} == 21                ? 'Verzonden'
	  :                                         'Nieuwe bestelling';
	push @wrong, "$order->{OrderNumber}: $deal->{status}, should be $status" if $deal->{status} ne $status;
	push @wrong, "$order->{OrderNumber}: stage $deal->{stage}, should be $stage"
	  if $deal->{stage} ne $stage;
	push @wrong, "$order->{OrderNumber}: lost without a reason"
	  if $status eq 'lost' && ($deal->{lost_reason} // '') ne 'Geannuleerd in Exact';
	my $owner = $active{ $order->{SalespersonFullName} // '' } ? $order->{SalespersonFullName} : $default_owner;
	push @wrong, "$order->{OrderNumber}: owner $deal->{owner}, should be $owner" if $deal->{owner} ne $owner;
	push @wrong, "$order->{OrderNumber}: organization " . ($deal->{organization} // 'none')
	  if ($deal->{organization} // '') ne ($order->{OrderedByName} // '');

	# a discount only closes what rounding leaves, and there is at most one
	push @wrong, "$order->{OrderNumber}: " . @{ $deal->{discounts} } . ' discounts'
	  if @{ $deal->{discounts} } > 1 || grep { $_->{amount} > 1 } @{ $deal->{discounts} };
}
is(join("\n", @wrong), '', 'every deal is its order: value, lines, currency, date, status, stage, customer');

my %history_won = map { $_->{fields}{Ordernummer} => $_->{won_time} } grep { $_->{status} eq 'won' } values %deal;
my @undated = grep { !$history_won{$_} || $history_won{$_} !~ /^\d{4}-\d\d-\d\d/ } keys %history_won;
is(join(' ', @undated), '', 'won deals say when');
my @today = grep { substr($history_won{$_}, 0, 10) ge substr($deal{$_}{add_time}, 0, 10) } keys %history_won;
is(join(' ', @today), '', '... and history was not won today');

# ----------
note 'organizations and products';
# ----------
my $state = $t->state('organizations,products,product_fields');
is(scalar @{ $state->{organizations} }, $organizations, 'one organization per customer that ordered');
is(scalar @{ $state->{products} }, $products, 'one product per item');
my @no_group = grep { !$_->{fields}{Artikelgroep} } @{ $state->{products} };
is( scalar @no_group,
	$t->sql('SELECT count(*) FROM exact_pd_sync.wanted_products WHERE item_group IS NULL'),
	'every product has the group of its item');

# ----------
note 'the price';
# ----------
my $stats = $t->stats('pipedrive');
is($stats->{refused_429}, 0, 'no call met a limit');
is($stats->{noop_patches}, 0, 'nothing was sent that was there already');
my %spent;
$spent{ $_->{operation} } += $_->{cost} foreach @calls;
my @looks = grep { $_->{method} eq 'GET' } @calls;
my $looks = 0;
$looks += $_->{cost} foreach @looks;
my @creates = grep { $_->{method} ne 'GET' } @calls;
my $writes = 0;
$writes += $_->{cost} foreach @creates;
my @discounts = grep { $_->{path} =~ m,/discounts, } @creates;
my $discounts = 0;
$discounts += $_->{cost} foreach @discounts;
is($writes, $minimum, 'tokens for what was created equal the prediction')
  or diag(explain(\%spent));
is( $discounts,
	5 * grep({ @{ $_->{discounts} } } values %deal),
	'... and 5 for each deal whose rounding had to be closed');
is(scalar(grep { $_->{path} =~ m,/discounts, } @creates), scalar(grep { @{ $_->{discounts} } } values %deal),
	'... once each');
is($looks, 50, 'the look at what is there already costs 10 a list, 20 for the archived deals')
  or diag(join "\n", map { "$_->{path} $_->{cost}" } @looks);
is($t->sql(q{SELECT sum(tokens) FROM exact_pd_sync.sync_changes}), $writes, 'the journal tells the same price');
is( $t->sql(q{SELECT limit_value - remaining FROM exact_pd_sync.budget WHERE side = 'pipedrive' AND kind = 'day'}),
	$setup_tokens + $writes + $looks,
	'... and so does the budget');

# The minimum once more, worked out from the orders alone (5 a line, 25 from five on).
my $by_hand = 5 * ($organizations + $products) + ($spent{'add options productFields'} // 0);
foreach my $order (@orders)
{
	my $lines = @{ $order->{lines} };
	my $rest = $lines % 100;
	$by_hand += 5 + 25 * int($lines / 100) + ($rest < 5 ? 5 * $rest : 25);
}
is($minimum - $discounts, $by_hand, 'the prediction is the cheapest mix of calls');

# ----------
note 'what people see';
# ----------
is($t->sql(q{SELECT string_agg(part || '=' || state, ' ') FROM exact_pd_sync.status WHERE state <> 'green'}),
	'', 'status is green all over');
is($t->sql('SELECT count(*) FROM exact_pd_sync.queue'), '0', 'the queue is empty');
is($t->sql('SELECT count(*) FROM exact_pd_sync.plan()'), '0', 'the plan is empty');
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.sync_runs WHERE state <> 'ok'}), '0', 'all runs were successes');
like(
	$t->sql("SELECT string_agg(what, ', ' ORDER BY at) FROM exact_pd_sync.trace($orders[0]{OrderNumber})"),
	qr/exact: created.*exact: as staged.*pipedrive: create/s,
	'trace() tells the story of an order');

$t->no_violations;
$t->done;
