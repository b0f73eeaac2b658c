# 350_fairness.pl: one bad record stops nothing.
#
# Belongs here: what a record that Pipedrive refuses costs the others: nothing but
# the orders that need it, which it names and lets go when it is mended.  Does not
# belong here: what each refusal means (221_switches_refusals.pl), or how long
# claiming takes (bench/claim).

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use Test::More;

my %open = (status => 12, delivery_status => 12, invoice_status => 12);
my $t = EpdsTest->new('fairness', orders => 0, switches => { burst_limit => 0, exact_minute_limit => 100000 });

sub dead
{
	return $t->sql(
		q{SELECT coalesce(string_agg(format('%s: %s', object, holds_back), E'\n' ORDER BY object), '') FROM exact_pd_sync.dead_letters});
}

# What is refused for good, so that the rest can be waited for.
sub rests
{
	my ($name) = @_;
	return ok(
		$t->wait_for(
			q{SELECT NOT EXISTS (SELECT FROM exact_pd_sync.job_signals) AND NOT EXISTS (SELECT FROM exact_pd_sync.intents)
				AND NOT EXISTS (SELECT FROM exact_pd_sync.looks WHERE done_at IS NULL)
				AND NOT EXISTS (SELECT FROM exact_pd_sync.jobs WHERE state NOT IN ('dead', 'blocked'))}),
		$name);
}

sub refuse_post
{
	my ($path, $times) = @_;
	return $t->fault(
		side => 'pipedrive', method => 'POST', path => $path, times => $times,
		action => { status => 400, body => '{"success":false,"error":"name: not this one","errorCode":400}', content_type => 'application/json' });
}

# -----------------------------------------
note 'an organization that is not accepted';
# -----------------------------------------

$t->first_run;
my $fault = refuse_post('/v2/organizations$', 1);
$t->post(
	'/exact/orders',
	[
		map {
			{ number => 35000 + $_, customer => $_ == 1 ? { name => 'Dwarsligger B.V.', code => '7001' } : '7001', %open, lines => [ { item => 'new' } ] }
		} 1 .. 8
	]);
$t->poll;
rests('eight orders of a customer whose organization is refused: the worker comes to rest');
is(dead(), '7001 Dwarsligger B.V.: 8', '... one dead letter, which says how many it holds back');
is( $t->sql(q{SELECT held_back FROM exact_pd_sync.dead_letters}),
	'Order 35001, Order 35002, Order 35003, Order 35004, Order 35005 and 3 more', '... and which')
  or diag($t->sql('SELECT object, waits_for FROM exact_pd_sync.queue'));
is( $t->sql(q{SELECT DISTINCT state || ': ' || waits_for FROM exact_pd_sync.queue WHERE kind = 'deal'}),
	'blocked: organization 7001 Dwarsligger B.V. (dead letter: Pipedrive refuses this record as it is; mend it at the source and replay)',
	'... and each order says what it waits for');
is( $t->sql(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'dead letters'}),
	'yellow: 1: SELECT * FROM exact_pd_sync.dead_letters', '... status shows it');

# Everybody else goes on, at the price it always has.
my @calls = $t->pipedrive_calls(
	sub {
		$t->post(
			'/exact/orders',
			[
				map {
					{ number => 35100 + $_, customer => $_ == 1 ? { name => 'Voorbeeld B.V.', code => '7002' } : '7002', %open,
						lines => [ { item => $_ == 1 ? { code => 'EERLIJK', description => 'Weegschaal', price => 10 } : 'EERLIJK' } ] }
				} 1 .. 40
			]);
		$t->poll;
		rests('forty orders of another customer: they go out');
	});
my %count;
$count{"$_->{method} " . $_->{path} =~ s,/\d+(?=/),/*,r}++ foreach grep { $_->{method} eq 'POST' } @calls;
is_deeply(
	\%count,
	{
		'POST /api/v2/organizations' => 1, 'POST /api/v2/products' => 1, 'POST /api/v2/deals' => 40,
		'POST /api/v2/deals/*/products' => 40
	},
	'... with their own calls and no other') or diag(explain(\%count));
is(scalar(grep { $_->{status} >= 400 } @calls), 0, '... none of them refused');
agrees($t, '... and each is a deal', except => [ 35001 .. 35008 ]);
is(dead(), '7001 Dwarsligger B.V.: 8', '... the others still wait, and cost nothing meanwhile');
is( $t->sql(q{SELECT max(attempts) FROM exact_pd_sync.jobs WHERE kind = 'deal'}), '0', '... not even an attempt');

# One of the waiting orders changes: it goes on waiting, without a call.
@calls = $t->pipedrive_calls(
	sub {
		$t->patch('/exact/orders/35003', { delivery_status => 21 });
		$t->poll('orders');
		rests('one of those that wait changes');
	});
is(scalar(grep { $_->{method} ne 'GET' } @calls), 0, '... it costs no call');
is(dead(), '7001 Dwarsligger B.V.: 8', '... it still waits');

# Mended in Exact: by itself.
$t->delete("/faults/$fault");
my ($account) = grep { ($_->{Code} // '') =~ /^\s*7001$/ } @{ $t->get('/exact/state?entity=Accounts')->{Accounts} };
$t->patch("/exact/entities/Accounts/$account->{ID}", { City => 'Zeist' });
$t->poll;
ok($t->settle, 'the customer is mended in Exact: all go out by themselves');
is(dead(), '', '... no dead letter is left');
agrees($t, '... each order is a deal, as it is now');

# --------------------
note 'a product, replay';
# --------------------

$fault = refuse_post('/v2/products$', 0);
$t->post(
	'/exact/orders',
	[
		{ number => 35201, customer => '7002', %open, lines => [ { item => { code => 'STUK', description => 'Kapot', price => 3 } }, { item => 'EERLIJK' } ] },
		{ number => 35202, customer => '7002', %open, lines => [ { item => 'EERLIJK' } ] },
		{ number => 35203, customer => '7002', %open, lines => [ { item => 'STUK' } ] },
	]);
$t->poll;
rests('a product that is refused: the worker comes to rest');
is(dead(), 'STUK Kapot: 2', '... it holds back the orders that have it');
ok($t->deal(35202) && !$t->deal(35201) && !$t->deal(35203), '... and no other');
my $refusals = q{SELECT count(*) FROM exact_pd_sync.api_calls WHERE what = 'create' AND path LIKE '%/products' AND outcome = 'permanent'};
my $refused = $t->sql($refusals);
is($t->sql(q{SELECT exact_pd_sync.replay(kind => 'deal')}), '0', '... a replay of deals finds none');
rests('... and changes nothing');
is(dead(), 'STUK Kapot: 2', '... it waits for its piece');
is($t->sql(q{SELECT exact_pd_sync.replay(kind => 'product')}), '1', 'a replay while it is still refused');
rests('... is tried');
is(dead(), 'STUK Kapot: 2', '... and refused again');
is($t->sql($refusals), $refused + 1, '... by one call');
$t->delete("/faults/$fault");
$t->sql(q{SELECT exact_pd_sync.replay_cause('refused')});
ok($t->settle, 'a replay when it is accepted: all go out');
is(dead(), '', '... no dead letter is left');
agrees($t, '... each order is a deal');

# ------------------------------
note 'a record that cannot be planned';
# ------------------------------

# Law 7 inside the database: one order whose own SQL fails, among many.
$t->sql(
	q{CREATE FUNCTION public.trap(integer) RETURNS integer LANGUAGE plpgsql AS
		'BEGIN IF $1 = 35333 THEN RAISE EXCEPTION ''this one cannot be worked out'' USING ERRCODE = ''data_exception''; END IF; RETURN $1; END';
	CREATE OR REPLACE FUNCTION exact_pd_sync.status_text(p_code integer) RETURNS text LANGUAGE plpgsql STABLE AS
		'BEGIN RETURN CASE p_code WHEN 12 THEN ''Open'' WHEN 20 THEN ''Gedeeltelijk'' WHEN 21 THEN ''Volledig'' WHEN 45 THEN ''Geannuleerd'' ELSE ''Code '' || public.trap(p_code) END; END'});
$t->post(
	'/exact/orders',
	[
		map {
			{ number => 35300 + $_, customer => '7002', status => 12, delivery_status => $_ == 33 ? 35333 : 12, invoice_status => 12, lines => [ { item => 'EERLIJK' } ] }
		} 1 .. 60
	]);
$t->poll;
rests('sixty orders, one of which makes our own SQL fail: the worker comes to rest');
is($t->sql(q{SELECT object || ': ' || cause || ': ' || servers_words FROM exact_pd_sync.dead_letters}),
	'Order 35333: internal: this one cannot be worked out', '... that one alone is a dead letter');
is(scalar(grep { ($_->{fields}{Ordernummer} // '') =~ /^353/ } $t->deals), 59, '... the others are deals');
$t->patch('/exact/orders/35333', { delivery_status => 12 });
$t->poll('orders');
ok($t->settle, '... mended in Exact it goes out by itself');
agrees($t, '... each order is a deal');
is(dead(), '', '... no dead letter is left');
$t->no_violations('nothing was forbidden');

$t->done;
