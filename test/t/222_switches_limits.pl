# Pipedrive's limits, in the forms nobody is sure of: headers that are left out,
# a day that begins at another hour, other integrations that spend, a 429 with
# and without a word, the block of the gateway.  In each: no 429 is provoked
# where it can be known, nothing is lost, and what waits says why.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %base = (exact_minute_limit => 100000, strict_429 => $true);
my %open = (status => 12, delivery_status => 12, invoice_status => 12);
my $t = EpdsTest->new('switches_limits', orders => 4, months => 6, plan => 'lite', seats => 1, switches => \%base);

# Orders of a fixed size, as history.
sub history
{
	my ($count) = @_;
	$t->post(
		'/exact/orders',
		[
			{
				number => 34000, customer => { name => 'Vaste Klant', code => '6001' }, %open, order_date => '2026-10-01',
				lines => [ { item => { code => 'LI-1', description => 'Bord', price => 10 }, quantity => 1 } ],
			},
			map {
				{
					number => 34000 + $_, customer => '6001', order_date => '2026-10-02', status => 21,
					delivery_status => 21, invoice_status => 21, lines => [ { item => 'LI-1', quantity => $_ } ]
				}
			} 1 .. $count
		]);
	return;
}

# Until nothing more is sent with the tokens that are left.
sub rests
{
	my ($seconds) = @_;
	return $t->wait_for(
		q{SELECT NOT EXISTS (SELECT FROM exact_pd_sync.job_signals) AND NOT EXISTS (SELECT FROM exact_pd_sync.intents)
		AND (NOT EXISTS (SELECT FROM exact_pd_sync.looks WHERE done_at IS NULL)
			OR (SELECT remaining - booked < 20 FROM exact_pd_sync.budgets WHERE side = 'pipedrive' AND kind = 'day'))
		AND NOT EXISTS (SELECT FROM exact_pd_sync.jobs j WHERE j.state = 'sending'
			OR j.state = 'ready' AND j.lane <= exact_pd_sync._lane_limit())}, 't', $seconds);
}

sub waiting { return $t->sql('SELECT count(*) FROM exact_pd_sync.jobs'); }
sub limited { return ($t->stats('pipedrive')->{statuses}{429} // 0) + 0; }

# Midnight passes on both sides.
sub next_day
{
	$t->token_age(86400);
	$t->sql(
		q{UPDATE exact_pd_sync.budgets SET reset_at = clock_timestamp() - interval '1 s' WHERE side = 'pipedrive' AND kind = 'day';
		SELECT exact_pd_sync.replay()});
	return;
}

# ------------------------
note 'requests per window';
# ------------------------

# 20 requests in 2 seconds, told or not: the smallest plan is assumed.
foreach my $silent ($false, $true)
{
	fresh($t, switches => { %base, omit_rate_headers => $silent });
	ok($t->first_run, 'a run with the window of the smallest plan' . ($silent ? ', untold,' : '') . ' comes to its end');
	is(limited(), 0, '... and provokes no 429');
	agrees($t, '... every order is a deal');
}

# -------------------------
note 'the tokens of the day';
# -------------------------

foreach my $omit (0, 1)
{
	my $how = $omit ? 'untold' : 'told by headers';
	fresh($t, orders => 0,
		switches => { %base, burst_limit => 0, daily_budget => 500, omit_daily_headers => $omit });
	history(40);
	$t->connect_app;
	$t->consent;
	$t->add_division;
	$t->connect_pipedrive;
	$t->sql(q{SELECT exact_pd_sync.configure('daily_tokens', '500')}) if $omit;
	$t->setup;
	$t->import_history;
	$t->poll;
	$t->resume;
	ok(rests(), "a day of 500 tokens ($how): the run rests");
	cmp_ok(waiting(), '>', 0, '... with orders left for tomorrow');
	my $left = $t->get('/pipedrive/budget')->{left};
	cmp_ok($left, '>=', 90, '... and a reserve for live orders');
	is(limited(), 0, '... without having provoked a 429');

	# what comes in now is not kept waiting by history
	$t->post('/exact/orders', { number => 35000, customer => '6001', %open, lines => [ { item => 'LI-1', quantity => 2 } ] });
	$t->poll('orders');
	ok( $t->wait_for(
			q{SELECT EXISTS (SELECT FROM exact_pd_sync.links l JOIN exact_pd_sync.exact_sales_orders o ON o.id = l.exact_id
			WHERE o.order_number = 35000) AND NOT EXISTS (SELECT FROM exact_pd_sync.intents)}),
		'... a live order goes out at once');
	for (my $day = 0; $day < 3 && waiting() > 0; $day++)
	{
		next_day();
		rests();
	}
	is(waiting(), '0', '... and the days after bring the rest');
	agrees($t, '... every order is a deal');
	is(limited(), 0, '... and no 429 all the time');
	$t->no_violations('... nor anything else forbidden');
}

# --------------------
note 'others spend, too';
# --------------------

# Told: we stop in time.  Untold: one refusal says it, and we are quiet.
foreach my $omit (0, 1)
{
	my $how = $omit ? 'untold' : 'told';
	fresh($t, orders => 0,
		switches => { %base, strict_429 => $false, burst_limit => 0, daily_budget => 2000, omit_daily_headers => $omit });
	history(20);
	$t->connect;
	$t->import_history;
	$t->poll;
	$t->post('/pipedrive/spend', { tokens => $t->get('/pipedrive/budget')->{left} - 60 });
	$t->resume;
	if ($omit)
	{
		ok( $t->wait_for(q{SELECT EXISTS (SELECT FROM exact_pd_sync.budget WHERE side = 'pipedrive' AND blocked_until > now())}),
			"another integration spent the day ($how): a refusal says it");
		like($t->sql(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'sending'}),
			qr/^red: .*tokens of the day are used up/, '... status tells');
	}
	else
	{
		ok(rests(), "another integration spent the day ($how): we stop in time");
	}
	cmp_ok(limited(), '<=', $omit ? 8 : 0, '... at most what was under way is refused');
	my $before = limited();
	next_day();
	$t->resume;
	ok($t->settle, '... after midnight all goes on');
	is(limited(), $before, '... without another refusal');
	agrees($t, '... every order is a deal');
	$t->no_violations('... and nothing was forbidden');
}

# The service's day begins at another hour than ours: a refusal, then quiet.
fresh($t, orders => 0, switches => { %base, strict_429 => $false, burst_limit => 0, daily_budget => 500, reset_hour => 23 });
history(40);
$t->connect;
$t->import_history;
$t->poll;
$t->resume;
rests();
$t->post('/pipedrive/spend', { tokens => 500 });
$t->sql(
	q{UPDATE exact_pd_sync.budgets SET reset_at = clock_timestamp() - interval '1 s' WHERE side = 'pipedrive' AND kind = 'day';
	SELECT exact_pd_sync.replay()});
ok( $t->wait_for(q{SELECT EXISTS (SELECT FROM exact_pd_sync.budget WHERE side = 'pipedrive' AND blocked_until > now())}),
	'a day that begins at another hour: what is sent too early is refused');
cmp_ok(limited(), '<=', 8, '... once for what was under way');
next_day();
$t->resume;
for (my $day = 0; $day < 3 && waiting() > 0; $day++)
{
	rests();
	next_day();
}
is(waiting(), '0', '... and the rest goes out when the day has begun');
agrees($t, '... every order is a deal');

# ----------------------
note 'a 429, in every form';
# ----------------------

fresh($t, orders => 0, switches => { %base, strict_429 => $false });
history(0);
ok($t->first_run, 'a quiet account');
my %form = (
	'without a word' => {},
	'with retry-after' => { 'retry-after' => '1' },
	'with an empty window' => { 'x-ratelimit-remaining' => '0', 'x-ratelimit-reset' => '1' });
my $number = 36000;
foreach my $form (sort keys %form)
{
	$t->fault(
		side => 'pipedrive', method => 'POST', path => '/api/v2/deals$', times => 1,
		action => {
			status => 429, body => '{"success":false,"error":"request over limit","errorCode":429}',
			content_type => 'application/json', headers => $form{$form}
		});
	$t->post('/exact/orders', { number => ++$number, customer => '6001', %open, lines => 1 });
	$t->poll;
	ok($t->settle, "a 429 $form: it goes out a moment later");
	is($t->sql(q{SELECT count(*) FROM exact_pd_sync.api_calls WHERE outcome = 'burst'}),
		$number - 36000, '... after one refusal');
}
agrees($t, '... every order is one deal');

# ------------------------
note 'blocked by the gateway';
# ------------------------

$t->fault(
	side => 'pipedrive', method => 'PATCH', times => 1,
	action => { status => 403, body => '<html><h1>Access denied</h1></html>', content_type => 'text/html' });
$t->patch('/exact/orders/36001', { delivery_status => 21 });
$t->poll('orders');
ok( $t->wait_for(
		q{SELECT blocked_until > now() + interval '30 min' FROM exact_pd_sync.budget WHERE side = 'pipedrive' AND kind = 'day'}),
	'a page of the gateway instead of an answer: silence for long');
like($t->sql(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'sending'}),
	qr/^red: Pipedrive blocks this address for a while/, '... which status says');
$t->patch('/exact/orders/36002', { delivery_status => 21 });
my @calls = $t->pipedrive_calls(
	sub {
		$t->poll('orders');
		$t->wait_for(q{SELECT NOT EXISTS (SELECT FROM exact_pd_sync.job_signals)});
	});
is(scalar @calls, 0, '... and keeps');
$t->resume;
$t->sql('SELECT exact_pd_sync.replay()');
ok($t->settle, '... until a person says so');
agrees($t, '... then all arrives');
$t->no_violations('... and nothing was forbidden');

$t->done;
