# 351_budget_pressure.pl: more to send than the tokens of a day.
#
# Belongs here: a flood of changed orders is spread over days, newest and new ones
# first; progress says until when, and is held to it; when the service's day
# begins is learned, nobody hammers meanwhile; an import at Exact leaves the polls
# their part.  Does not belong here: the forms in which limits are told
# (222_switches_limits.pl), single limits (150_interrupts.pl, 210_switches_exact.pl).

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %base = (exact_minute_limit => 100000, burst_limit => 0);
my %open = (status => 12, delivery_status => 12, invoice_status => 12);
my $t = EpdsTest->new('budget_pressure', orders => 0, switches => { %base, daily_budget => 100000 });

sub refused { return ($t->stats('pipedrive')->{statuses}{429} // 0) + 0; }

sub left { return $t->sql(q{SELECT count(*) FROM exact_pd_sync.jobs}); }

# Until nothing more may be sent today.
sub rests
{
	return $t->wait_for(
		q{SELECT NOT EXISTS (SELECT FROM exact_pd_sync.job_signals) AND NOT EXISTS (SELECT FROM exact_pd_sync.intents)
		AND NOT EXISTS (SELECT FROM exact_pd_sync.jobs j WHERE j.state = 'sending' OR j.state = 'ready' AND j.lane <= exact_pd_sync._lane_limit())}
	);
}

# Midnight passes on both sides; what waits is due.
sub next_day
{
	$t->token_age(86400);
	$t->sql(
		q{UPDATE exact_pd_sync.budgets SET reset_at = clock_timestamp() - interval '1 s' WHERE side = 'pipedrive' AND kind = 'day';
		UPDATE exact_pd_sync.jobs SET next_attempt_at = clock_timestamp() WHERE state = 'waiting' AND next_attempt_at < 'infinity';
		SELECT exact_pd_sync.wake_worker('delivery')});
	return;
}

# ---------------------------
note 'a flood of changed orders';
# ---------------------------

# Three hundred open orders of last month are there; then all of them change at once.
my $orders = 300;
$t->connect;
$t->sql(q{SELECT exact_pd_sync.configure('live_orders_most', '50'), exact_pd_sync.configure('deal_capacity', '100000')});
$t->post(
	'/exact/orders',
	[
		{
			number => 40000, customer => { name => 'Vloed B.V.', code => '8001' }, %open, order_date => '2026-09-01',
			lines => [ { item => { code => 'VL-1', description => 'Emmer', price => 10 }, quantity => 1 } ]
		},
		map { { number => 40000 + $_, customer => '8001', %open, order_date => '2026-09-01', lines => [ { item => 'VL-1', quantity => $_ } ] } } 1 .. $orders
	]);
$t->import_history;
$t->poll;
$t->resume;
ok($t->settle(180), "$orders orders are sent, with tokens in plenty");
agrees($t, '... each is a deal');

my $budget = 800;
$t->switches(daily_budget => $t->stats('pipedrive')->{tokens} + $budget);
# one call, so that the account is known to be smaller
$t->patch('/exact/orders/40000', { your_ref => 'een' });
$t->poll('orders');
ok($t->settle, '... and the account becomes smaller');
$t->switches(daily_budget => $budget);
next_day();
$t->patch("/exact/orders/$_", { delivery_status => 20 }) foreach 40001 .. 40000 + $orders;
$t->pause;
$t->poll('orders');
ok($t->wait_for('SELECT NOT EXISTS (SELECT FROM exact_pd_sync.job_signals)'), 'all of them change at once');
is($t->sql(q{SELECT string_agg(DISTINCT lane, ' ') FROM exact_pd_sync.queue}), 'open', '... they are no live orders, so many at once');
my $tokens = $t->sql('SELECT sum(tokens_about) FROM exact_pd_sync.progress');
cmp_ok($tokens, '>=', 5 * $orders, '... progress knows about what they cost');
cmp_ok($tokens, '<=', 10 * $orders, '... without exaggeration');
$t->sql(q{UPDATE exact_pd_sync.budgets SET remaining = 800, limit_value = 800, reset_at = clock_timestamp() + interval '10 hours' WHERE side = 'pipedrive' AND kind = 'day'});
$t->resume;
ok(rests(), '... the first day: as many as the day allows');
my $done_about = $t->sql(q{SELECT ceil(extract(epoch FROM max(done_about) - clock_timestamp()) / 86400) FROM exact_pd_sync.progress});
my $first = left();
cmp_ok($first, '>', 0, '... the rest waits');
cmp_ok($first, '<', $orders, '... not all of them');
cmp_ok($t->get('/pipedrive/budget')->{left}, '>=', $budget * 0.05, '... and something is kept for orders that come in');
is(refused(), 0, '... nothing was refused');
like($t->sql(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'sending'}),
	qr/^yellow: \d+ jobs wait for tokens until /, '... status says what is waited for');

$t->post('/exact/orders', { number => 41000, customer => '8001', %open, lines => [ { item => 'VL-1', quantity => 2 } ] });
$t->poll('orders');
ok($t->wait_for(q{SELECT EXISTS (SELECT FROM exact_pd_sync.links l JOIN exact_pd_sync.exact_sales_orders o ON o.id = l.exact_id WHERE o.order_number = 41000)}),
	'... an order that comes in goes out at once');

my $days = 0;
while (left() > 0 && $days < 6)
{
	next_day();
	rests();
	$days++;
}
is(left(), '0', "after $days more days everything is sent");
cmp_ok($days, '>=', 1, '... it took days');
cmp_ok(abs($days - $done_about), '<=', 1, "... about as progress had said ($done_about)");
is(refused(), 0, '... nothing was refused all the time');
agrees($t, '... each order is a deal as it is now');

# ------------------------------
note 'when the day begins is learned';
# ------------------------------

# The service tells in a refusal how long to wait: that is when its day begins.
$t->post('/pipedrive/spend', { tokens => 100000 });
$t->switches(retry_after => $true, omit_daily_headers => 1);
$t->patch('/exact/orders/41000', { your_ref => 'twee' });
$t->sql(q{UPDATE exact_pd_sync.budgets SET remaining = 800 WHERE side = 'pipedrive' AND kind = 'day'});
$t->poll('orders');
ok( $t->wait_for(q{SELECT blocked_until IS NOT NULL FROM exact_pd_sync.budget WHERE side = 'pipedrive' AND kind = 'day'}),
	'the day is used up by others, and a refusal tells until when');
my $reset = $t->get('/pipedrive/budget');
is( $t->sql(q{SELECT abs(extract(epoch FROM b.reset_at - b.blocked_until)) < 5 FROM exact_pd_sync.budgets b WHERE side = 'pipedrive' AND kind = 'day'}),
	't', '... that is when the next day begins');
is(refused(), 1, '... one call was refused');
$t->patch("/exact/orders/$_", { your_ref => 'drie' }) foreach 40001 .. 40010;
$t->poll('orders');
ok($t->wait_for('SELECT NOT EXISTS (SELECT FROM exact_pd_sync.job_signals)'), '... others come to wait');
is(refused(), 1, '... and are not tried');
$t->token_age(86400);
$t->sql(
	q{UPDATE exact_pd_sync.budgets SET reset_at = clock_timestamp(), blocked_until = clock_timestamp() WHERE side = 'pipedrive' AND kind = 'day';
	UPDATE exact_pd_sync.jobs SET next_attempt_at = clock_timestamp() WHERE state = 'waiting' AND next_attempt_at < 'infinity';
	SELECT exact_pd_sync.wake_worker('delivery')});
ok($t->settle, '... then all goes on by itself');
is(refused(), 1, '... without another refusal');

# It tells nothing at all: one job tries from time to time.
$t->switches(retry_after => $false);
$t->post('/pipedrive/spend', { tokens => 100000 });
$t->patch("/exact/orders/$_", { your_ref => 'vier' }) foreach 40001 .. 40010;
$t->poll('orders');
ok($t->wait_for(q{SELECT blocked_until IS NOT NULL FROM exact_pd_sync.budget WHERE side = 'pipedrive' AND kind = 'day'}), 'untold: a refusal');
$t->wait_for(q{SELECT NOT EXISTS (SELECT FROM exact_pd_sync.intents)});
my $so_far = refused();
cmp_ok($so_far, '<=', 1 + 16, '... at most what was under way');
my $trial = q{UPDATE exact_pd_sync.budgets SET blocked_until = clock_timestamp() WHERE side = 'pipedrive' AND kind = 'day';
	UPDATE exact_pd_sync.jobs SET next_attempt_at = clock_timestamp() WHERE state = 'waiting' AND next_attempt_at < 'infinity';
	SELECT exact_pd_sync.wake_worker('delivery')};
$t->sql($trial);
ok($t->wait_for(q{SELECT blocked_until > clock_timestamp() + interval '25 min' FROM exact_pd_sync.budget WHERE side = 'pipedrive' AND kind = 'day'}),
	'... half an hour later it is tried again');
cmp_ok(refused() - $so_far, '<=', 4, '... with one job or a few');
$t->token_age(86400);
$t->sql($trial);
ok($t->settle, '... and when the new day has begun, all goes on');
agrees($t, '... each order is a deal as it is now');
is( $t->sql(q{SELECT reset_at > clock_timestamp() + interval '23 hours' AND remaining > 0 FROM exact_pd_sync.budgets WHERE side = 'pipedrive' AND kind = 'day'}),
	't', '... and its beginning is known');

# ------------------------------------
note 'Exact: an import and polls at once';
# ------------------------------------

fresh($t, orders => 60, months => 6, switches => { burst_limit => 0, exact_minute_limit => 40, exact_page_size => 5 });
$t->connect;
my $import = $t->background('CALL exact_pd_sync.import_history()');
ok($t->wait_for(q{SELECT remaining <= 20 FROM exact_pd_sync.budgets WHERE side = 'exact' AND kind = 'minute'}), 'an import uses half of the minute')
  or diag($t->sql(q{SELECT kind, limit_value, remaining FROM exact_pd_sync.budgets WHERE side = 'exact'}));
$t->poll('customers');
pass('... a poll goes through meanwhile');
is($t->stats('exact')->{statuses}{429} // 0, 0, '... and nothing was refused');
$t->sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL exact_pd_sync.import_history%' AND pid <> pg_backend_pid()});
$import->();
$t->no_violations('nothing was forbidden');

$t->done;
