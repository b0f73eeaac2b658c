# 322_faults_records.pl: records that a person deleted at Pipedrive.
#
# Belongs here: what follows when a call finds its record gone (404), by kind of
# record: deals, organizations and products are made anew only when a person says
# so, lines and discounts of a deal by themselves.  Does not belong here: archived
# deals (221_switches_refusals.pl), finding such records without a change.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %open = (status => 12, delivery_status => 12, invoice_status => 12);
my $t = EpdsTest->new(
	'faults_records',
	orders => 0,
	switches => { burst_limit => 0, exact_minute_limit => 100000 },
	conf => "exact_pd_sync.poll_interval = '100ms'\n");
$t->post('/exact/orders',
	[
		{
			number => 54001, customer => { name => 'Klant een', code => '5401' }, %open, discount => 0.033,
			lines => [ map { { item => $_ == 1 ? { code => 'FR-1', description => 'Artikel een', price => 7.35 } : 'FR-1', quantity => 7, price => 1.17 + 0.38 * $_ } } 1 .. 6 ]
		},
		{ number => 54002, customer => '5401', %open, lines => [ { item => 'FR-1', quantity => 3 }, { item => { code => 'FR-2', description => 'Artikel twee', price => 3 }, quantity => 1 } ] },
		{ number => 54003, customer => { name => 'Klant twee', code => '5402' }, %open, lines => [ { item => 'FR-2', quantity => 5 } ] }
	]);
ok($t->first_run, 'the first run is through');
agrees($t, 'every order is a deal');

sub dead { return $t->sql(q{SELECT coalesce(string_agg(concat_ws('|', object, class, attempts, reason), E'\n' ORDER BY object), '') FROM exact_pd_sync.dead_letters}); }

sub goes_on
{
	my ($name) = @_;
	$t->poll;
	ok($t->settle(30), "$name: it comes to an end");
	return;
}

# ----------------------
note 'lines and discounts';
# ----------------------

my $deal = $t->deal(54001);
my ($first, $second) = sort { $a->{id} <=> $b->{id} } @{ $deal->{products} };
$t->delete("/pipedrive/deals/$deal->{id}/products/$first->{id}");
my ($changed) = grep { $_->{Quantity} == 7 } @{ $t->order(54001)->{lines} };
$t->patch('/exact/orders/54001/lines/1', { quantity => 9 });
my @calls = $t->pipedrive_calls(sub { goes_on('a line that is gone is changed'); });
is(dead(), '', '... it is made again by itself');
agrees($t, '... every order is a deal with its lines');
is((grep { $_->{method} eq 'GET' } @calls) + 0, 1, '... after one list of the lines');

$deal = $t->deal(54002);
my ($line) = grep { $_->{quantity} == 1 } @{ $deal->{products} };
$t->delete("/pipedrive/deals/$deal->{id}/products/$line->{id}");
$t->delete('/exact/orders/54002/lines/2');
@calls = $t->pipedrive_calls(sub { goes_on('a line that is gone is deleted'); });
is(join(' ', map { "$_->{method} $_->{status}" } grep { $_->{path} =~ /products/ } @calls), 'DELETE 404', '... which is as good as done');
agrees($t, '... every order is a deal with its lines');

# the deal itself is gone: the same refusal at a line means more
sub deal_is_gone
{
	my ($name, $number, $change) = @_;
	my $deal = $t->deal($number);
	$t->delete("/pipedrive/deals/$deal->{id}");
	my @calls = $t->pipedrive_calls(
		sub {
			$change->();
			goes_on($name);
		});
	like(dead(), qr/^Order $number\|ours\|\d\|the record no longer exists at Pipedrive[^\n]*$/, '... a dead letter that says so');
	is($t->deal($number), undef, '... and it is not made again by itself');
	cmp_ok(scalar @calls, '<=', 4, '... few calls');
	my @more = $t->pipedrive_calls(
		sub {
			$t->patch("/exact/orders/$number", { your_ref => "nog eens $name" });
			goes_on("$name, and changes again");
		});
	is(scalar @more, 0, '... nor is it asked for again');
	$t->sql('SELECT exact_pd_sync.replay()');
	ok($t->settle(30), '... replay() makes it anew');
	is(dead(), '', '... nothing is left over');
	agrees($t, '... every order is a deal with its lines');
	return;
}

# ----------
note 'deals';
# ----------

deal_is_gone('a deal that is gone is changed', 54001, sub { $t->patch('/exact/orders/54001', { your_ref => 'weg' }) });
deal_is_gone('a line of a deal that is gone is changed', 54001, sub { $t->patch('/exact/orders/54001/lines/2', { quantity => 11 }) });
deal_is_gone('a line of a deal that is gone is added', 54003, sub { $t->post('/exact/orders/54003/lines', { item => 'FR-1', quantity => 4 }) });

# An archived deal is refused once; what changes then waits, and costs nothing.
$deal = $t->deal(54003);
$t->patch("/pipedrive/deals/$deal->{id}", { is_archived => $true });
my @refused = $t->pipedrive_calls(
	sub {
		foreach my $again (1 .. 3)
		{
			$t->patch('/exact/orders/54003', { your_ref => "archief $again" });
			goes_on("a deal in the archive changes ($again)");
		}
	});
is(join(' ', map { "$_->{method} $_->{status}" } @refused), 'PATCH 403', '... refused once, and not asked again');
like(dead(), qr/^Order 54003\|ours\|\d\|a person archived this deal[^\n]*$/, '... a dead letter that says so');
$t->sql('SELECT exact_pd_sync.replay()');
ok($t->settle(30), '... replay() while it is still there');
like(dead(), qr/^Order 54003\|ours\|\d\|a person archived this deal/, '... says so again');
$t->patch("/pipedrive/deals/$deal->{id}", { is_archived => $false });
$t->sql('SELECT exact_pd_sync.replay()');
ok($t->settle(30), '... and when it is taken out');
is(dead(), '', '... nothing is left over');
agrees($t, '... every order is a deal');
is($t->deal(54003)->{fields}{'Uw referentie'}, 'archief 3', '... with what changed last');

# ---------------------------------
note 'organizations and products';
# ---------------------------------

# What refers to it follows when it is made anew; nothing else changes hands.
sub object_is_gone
{
	my ($name, $table, $entity, $id, $change, $of) = @_;
	my ($before) = grep { $_->{name} eq $name } @{ $t->state($table)->{$table} };
	$t->delete("/pipedrive/$table/$before->{id}");
	$t->patch("/exact/entities/$entity/$id", $change);
	goes_on("$name is gone and changes");
	like(dead(), qr/^[^\n]*$name[^\n]*\|ours\|1\|the record no longer exists at Pipedrive[^\n]*$/, '... a dead letter that says so');
	is((grep { $_->{name} eq $name } @{ $t->state($table)->{$table} }) + 0, 0, '... and it is not made again by itself');
	$t->sql('SELECT exact_pd_sync.replay()');
	ok($t->settle(30), '... replay() makes it anew');
	my ($after) = grep { $_->{name} eq $name } @{ $t->state($table)->{$table} };
	ok($after && $after->{id} != $before->{id}, '... with another id');
	is(dead(), '', '... nothing is left over');
	is(join(' ', $of->($before->{id})), '', '... no deal names the old one');
	agrees($t, '... every order is a deal with its lines');
	return;
}

my $order = $t->order(54001);
object_is_gone('Klant een', 'organizations', 'Accounts', $order->{OrderedBy}, { AddressLine1 => 'Straat 7' },
	sub { my ($id) = @_; return map { $_->{title} } grep { ($_->{org_id} // 0) == $id } $t->deals; });
object_is_gone('Artikel een', 'products', 'Items', $order->{lines}[0]{Item}, { Unit => 'doos' },
	sub { my ($id) = @_; return map { $_->{title} } grep { grep { $_->{product_id} == $id } @{ $_->{products} } } $t->deals; });

$t->no_violations('nothing was forbidden');
$t->done;
