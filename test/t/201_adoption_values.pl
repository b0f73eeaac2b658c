# Deals of an earlier integration whose value says something else than the order:
# lines with tax, switched off, with discounts, a discount on the whole deal.  Taken
# over, they say what the order says, to the cent.

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
	'adoption_values',
	orders => 0,
	switches => { burst_limit => 0, exact_minute_limit => 100000 });

# What the earlier integration made of eight orders of two times 10.00.
my @deals = (
	[ 'with tax on top', { tax => 21, tax_method => 'exclusive' } ],
	[ 'with tax included', { tax => 21, tax_method => 'inclusive' } ],
	[ 'switched off', { is_enabled => $false, tax_method => 'none' } ],
	[ 'with a discount of an amount', { discount => 5, discount_type => 'amount', tax_method => 'none' } ],
	[ 'with a discount in percent', { discount => 5, tax_method => 'none' } ],
	[ 'with a discount on the deal', { tax_method => 'none' }, { description => 'Korting', amount => 5, type => 'amount' } ],
	[ 'with a percentage off the deal', { tax_method => 'none' }, { description => 'Korting', amount => 10, type => 'percentage' } ],
	[ 'with tax, and a discount on the deal', { tax => 21, tax_method => 'exclusive' }, { description => 'Korting', amount => 5, type => 'amount' } ],
	[
		'with several discounts',
		{ tax_method => 'none' },
		{ description => 'Korting', amount => 1, type => 'amount' },
		{ description => 'Extra', amount => 2, type => 'amount' }
	],
	[ 'as it should be', { tax_method => 'none' } ]);
my $last = 70000 + @deals;

$t->post(
	'/exact/orders',
	[
		map {
			{
				number => 70000 + $_, customer => $_ == 1 ? { name => 'Oude Klant', code => '900' } : '900',
				status => 12, delivery_status => 12, invoice_status => 12,
				lines => [ { item => { code => "AD-$_", description => "Artikel $_", price => 10 }, quantity => 2 } ]
			}
		} 1 .. @deals
	]);
$t->post(
	'/pipedrive/seed',
	{
		deal_fields => [ { name => 'Ordernr', type => 'varchar' } ],
		pipelines => [ { name => 'Bestellingen', stages => [ 'Nieuwe bestelling', 'Wacht op backorder', 'Verzonden' ] } ],
		products => [ map { { name => "Artikel $_", code => "AD-$_" } } 1 .. @deals ]
	});
my $state = $t->state;
my %product = map { ($_->{code} // '') => $_->{id} } @{ $state->{products} };
my ($pipeline) = grep { $_->{name} eq 'Bestellingen' } @{ $state->{pipelines} };
$t->post(
	'/pipedrive/seed',
	{
		deals => [
			map {
				my ($name, $line, @discounts) = @{ $deals[ $_ - 1 ] };
				{
					title => "Oud $_", pipeline_id => $pipeline->{id}, fields => { Ordernr => 70000 + $_ },
					products => [ { product_id => $product{"AD-$_"}, quantity => 2, item_price => 10, %$line } ],
					discounts => \@discounts
				}
			} 1 .. @deals
		]
	});

$t->connect_app;
$t->consent;
$t->add_division;
$t->connect_pipedrive;
$t->sql(q{SELECT exact_pd_sync.name_adoption_field('deal', 'Ordernr')});
$t->setup;
$t->import_history;
$t->poll;
$t->resume;
ok($t->settle, 'all deals are taken over');
is(scalar($t->deals), scalar @deals, '... none is made a second time');
my $several = $last - 1;
agrees($t, '... and say what the orders say', except => [ $several, 'of deal ' . (grep { $_->{title} eq 'Oud 9' } $t->deals)[0]{id} ]);
is($t->sql('SELECT object || chr(58) || reason FROM exact_pd_sync.dead_letters'),
	"Order $several:this deal has several discounts of its own in Pipedrive, so its value cannot be that of the order: remove them there and replay",
	'... but one, for a reason');

# Nothing was done about it: it stays one.
$t->sql('SELECT exact_pd_sync.replay()');
ok($t->settle, 'replayed as it is');
is($t->sql('SELECT count(*) FROM exact_pd_sync.dead_letters'), '1', '... it stays a dead letter');

# A person removes one of them.
my ($deal) = grep { $_->{title} eq 'Oud 9' } $t->deals;
my $token = $t->{ready}{api_token};
my $answer = HTTP::Tiny->new->delete(
	"$t->{ready}{pipedrive}/api/v2/deals/$deal->{id}/discounts/$deal->{discounts}[0]{id}",
	{ headers => { 'x-api-token' => $token } });
is($answer->{status}, 200, 'a person removes one of the discounts');
$t->sql('SELECT exact_pd_sync.replay()');
ok($t->settle, '... and replays');
agrees($t, '... then that deal, too, says what its order says');
is($t->sql('SELECT count(*) FROM exact_pd_sync.dead_letters'), '0', '... and no dead letter is left');

my $tokens = $t->tokens;
$t->poll;
$t->sql(q{SELECT exact_pd_sync.resync('deal')});
ok($t->settle, 'compared once more');
is($t->tokens, $tokens, '... nothing is left to say');
$t->no_violations('nothing was forbidden');

$t->done;
