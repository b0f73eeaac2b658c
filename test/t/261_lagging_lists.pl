# 261_lagging_lists.pl: answers lost on orders that need everything, and lists that
# know later what was made.  260_unknown_outcome.pl takes the kinds one by one.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %base = (burst_limit => 0, exact_minute_limit => 100000);
my %open = (status => 12, delivery_status => 12, invoice_status => 12);
my $t = EpdsTest->new(
	'lagging_lists',
	orders => 4,
	months => 6,
	switches => \%base,
	conf => "exact_pd_sync.http_timeout = '2s'\nexact_pd_sync.max_connections = 4\n");
# The services' clocks are two hours behind ours: "since" is asked for in their time.
$t->clock(advance => -7200);
ok($t->first_run, 'a first run');
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '0')});

# One order that needs everything: customer, articles, a single line or a bulk
# call, and a discount that closes what rounding leaves over.
my $number = 60000;
sub order
{
	my ($lines) = @_;
	$number++;
	$t->post(
		'/exact/orders',
		{
			number => $number, customer => { name => "Klant $number", code => "$number" }, %open, discount => 0.05,
			lines => [
				map {
					{ item => { code => "UO-$number-$_", description => "Artikel $number.$_", price => 9.99 }, quantity => 1, price => 9.99 }
				} 1 .. $lines
			],
		});
	return;
}

sub group
{
	$number++;
	$t->post('/exact/entities/ItemGroups', { Code => "G$number", Description => "Groep $number" });
	return;
}

# Nothing is there twice: not by its Exact-ID (the sandbox looks), and not by name.
sub nothing_twice
{
	my ($name) = @_;
	my $state = $t->state;
	my @twice;
	foreach my $kind (qw(deals organizations products))
	{
		my %seen;
		push @twice, map { "$kind: $_" } grep { $seen{$_}++ } map { $_->{title} // "$_->{name} " . ($_->{code} // '') } @{ $state->{$kind} };
	}
	my ($field) = grep { $_->{field_name} eq 'Artikelgroep' } @{ $state->{product_fields} };
	my %option;
	push @twice, map { "option: $_" } grep { $option{$_}++ } map { $_->{label} } @{ $field->{options} };
	is(join(', ', @twice), '', $name);
	$t->no_violations('... nothing was forbidden');
	agrees($t, '... every order is a deal with its lines');
	return;
}

# ---------------------------
note 'the connection breaks';
# ---------------------------

my %lost = (
	'nothing was done' => { drop => $true },
	'it was done' => { drop => $true, execute => $true },
	'it was done, and the answer is an error' =>
	  { status => 502, body => '<h1>Bad gateway</h1>', content_type => 'text/html', execute => $true },
	'it was done, and half of the answer comes' => { truncate => $true, execute => $true });
my %call = (
	'an organization' => '/api/v2/organizations$',
	'a product' => '/api/v2/products$',
	'a deal' => '/api/v2/deals$',
	'a line' => '/api/v2/deals/\d+/products$',
	'lines in bulk' => '/api/v2/deals/\d+/products/bulk$',
	'a discount' => '/discounts$',
	'an option' => '/options$');
foreach my $lost (sort keys %lost)
{
	my @faults = map { $t->fault(side => 'pipedrive', method => 'POST', path => $call{$_}, times => 1, action => $lost{$lost}) } sort keys %call;
	order(3);
	order(6);
	group();
	$t->poll;
	ok($t->settle(60), "an answer is lost, $lost: all goes on");
	my %hits = map { $_->{id} => $_->{hits} } @{ $t->get('/faults') };
	is(join(' ', @hits{@faults}), join(' ', (1) x @faults), '... for ' . join(', ', sort keys %call));
	$t->clear_faults;
	nothing_twice('... and nothing is made twice');
}

# Lists that lag behind what was just made.
$t->switches(list_lag => 2);
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '3')});
$t->fault(side => 'pipedrive', method => 'POST', path => $_, times => 1, action => $lost{'it was done'})
  foreach @call{ 'an organization', 'a product', 'a deal' };
order(2);
$t->poll;
ok($t->settle(60), 'answers are lost, and the lists know of it later');
$t->clear_faults;
$t->switches(list_lag => 0);
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '0')});
nothing_twice('... nothing is made twice');

# Changes may be repeated.
foreach my $method ('PATCH', 'DELETE')
{
	$t->fault(side => 'pipedrive', method => $method, times => 1, action => $lost{'it was done'});
}
$t->patch("/exact/orders/$number", { delivery_status => 21 });
$t->delete("/exact/orders/$number/lines/1");
$t->poll('orders');
ok($t->settle(60), 'answers to changes are lost: they are made again');
$t->clear_faults;
nothing_twice('... which does no harm');

# No answer for longer than we wait.
$t->fault(side => 'pipedrive', method => 'POST', path => $call{'a deal'}, times => 1, action => { hang => 'body', seconds => 30, execute => $true });
order(1);
$t->poll;
ok($t->settle(60), 'an answer that stops half-way');
$t->clear_faults;
nothing_twice('... is looked up');

# -----------------------
note 'the worker is killed';
# -----------------------

# Answers take their time, so that calls are under way when it happens.
sub under_way
{
	my ($name) = @_;
	my $stats = $t->stats('pipedrive');
	my $calls = $stats->{calls};
	$t->switches(pipedrive_latency_ms => 300);
	order(2) foreach 1 .. 3;
	$t->poll;
	ok($t->wait_for(q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync delivery' AND query ~ '^sending [0-9]+ request')
		AND EXISTS (SELECT FROM exact_pd_sync.intents WHERE is_create)}), $name);
	return;
}

foreach my $round (1 .. 2)
{
	under_way('creates are under way');
	my $pid = $t->sql(q{SELECT exact_pd_sync.worker_pid('delivery')});
	is($t->sql("SELECT pg_terminate_backend($pid)"), 't', '... and the worker is terminated');
	$t->switches(pipedrive_latency_ms => 0);
	ok($t->wait_for(qq{SELECT exact_pd_sync.worker_pid('delivery') NOT IN (0, $pid)}), '... another one comes');
	ok($t->settle(60), '... and brings it to its end');
	nothing_twice('... without making anything twice');
}

# --------------------------------
note 'the server stops at once';
# --------------------------------

under_way('creates are under way');
my $log = $t->log_position;
$t->node->stop('immediate');
$t->switches(pipedrive_latency_ms => 0);
$t->node->start;
ok($t->settle(60), '... the server stops at once, and begins anew');
like($t->log_since($log), qr/announced calls of a former run have no booked answer and are looked up first/, '... which says what it found');
nothing_twice('... without making anything twice');

under_way('creates are under way');
$t->node->restart;
$t->switches(pipedrive_latency_ms => 0);
ok($t->settle(60), '... the server restarts in an orderly way');
nothing_twice('... without making anything twice');

# -------------------------
note 'the last life is known';
# -------------------------

# Nothing was under way: the start costs a look before the first create, no more.
$t->node->restart;
$t->reset_stats;
$t->patch("/exact/orders/$number", { your_ref => 'na de start' });
$t->poll('orders');
ok($t->settle(60), 'a quiet restart');
is($t->tokens, 5, '... a change costs no more than ever');
order(1);
$t->poll;
ok($t->settle(60), '... and a new order');
cmp_ok($t->tokens, '<=', 5 + 3 * 10 + 20 + 5 + 5 + 5 + 5 + 5, '... a short list for each kind before its first create');
nothing_twice('... nothing is there twice');

$t->done;
