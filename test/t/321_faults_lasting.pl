# 321_faults_lasting.pl: what goes wrong again and again.
#
# Belongs here: a service that is down, asks for silence or fails at one record
# for ever; lists that cannot be read.  How often it is asked meanwhile, what
# counts as an attempt, and when a person is told.  Does not belong here: a
# single fault (320_faults_pipedrive.pl), limits of the day (222_switches_limits.pl).

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;
use Time::HiRes qw(time usleep);

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %open = (status => 12, delivery_status => 12, invoice_status => 12);
my $json = 'application/json';
my $t = EpdsTest->new(
	'faults_lasting',
	orders => 0,
	switches => { burst_limit => 0, exact_minute_limit => 100000 },
	conf => "exact_pd_sync.poll_interval = '100ms'\nexact_pd_sync.max_connections = 4\n");

my @many = 53001 .. 53020;
$t->post('/exact/orders',
	[
		{
			number => 53000, customer => { name => 'Vaste klant', code => '5300' }, %open,
			lines => [ { item => { code => 'FL-1', description => 'Artikel', price => 7.35 }, quantity => 1 } ]
		},
		map { { number => $_, customer => '5300', %open, lines => [ { item => 'FL-1', quantity => 2 } ] } } @many
	]);
ok($t->first_run, 'the first run is through');
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '0')});
$t->sql(q{SELECT exact_pd_sync.configure('max_attempts', '3')});

my $ref = 0;
sub change { my ($number) = @_; $t->patch("/exact/orders/$number", { your_ref => 'keer ' . ++$ref }); return; }

my $new = 53100;
sub order
{
	my ($lines) = @_;
	$t->post('/exact/orders',
		{ number => ++$new, customer => '5300', %open, lines => [ map { { item => 'FL-1', quantity => $_ } } 1 .. $lines ] });
	return $new;
}

sub later_is_now
{
	$t->sql(q{UPDATE exact_pd_sync.jobs SET next_attempt_at = now() WHERE state = 'waiting' AND next_attempt_at > now() AND next_attempt_at < 'infinity'});
	return;
}

# Until the query is true; what waits for an attempt does not wait.
sub until_so
{
	my ($sql) = @_;
	my $until = time + 60;
	while (time < $until)
	{
		later_is_now();
		# the last of several answers
		return 1 if $t->sql($sql) =~ /(?:^|\n)t$/;
		usleep(20_000);
	}
	diag($t->sql('SELECT kind, state, attempts, reason, error FROM exact_pd_sync.jobs'));
	return 0;
}

my $settled = q{SELECT NOT EXISTS (SELECT FROM exact_pd_sync.job_signals) AND NOT EXISTS (SELECT FROM exact_pd_sync.intents)
	AND NOT EXISTS (SELECT FROM exact_pd_sync.looks WHERE done_at IS NULL) AND NOT EXISTS (SELECT FROM exact_pd_sync.jobs WHERE state <> 'dead')};

sub dead { return $t->sql(q{SELECT coalesce(string_agg(concat_ws('|', object, class, attempts, reason), E'\n' ORDER BY object), '') FROM exact_pd_sync.dead_letters}); }

sub all_well
{
	my ($name) = @_;
	ok(until_so($settled), "$name: all is sent");
	is(dead(), '', "$name: no dead letter");
	agrees($t, "$name: every order is one deal with its lines");
	return;
}

# -------------------------------------
note 'the service is down';
# -------------------------------------

# One round may be lost, then it is asked by one request at a time, more and more
# seldom; and that is no fault of what is sent to ask.
my %down = (side => 'pipedrive', path => '.', times => 0, action => { status => 503, body => '<html>Maintenance</html>', content_type => 'text/html' });
my $gap = q{SELECT coalesce(max(gap) >= interval '1.9 s', false)
	FROM (SELECT at - lag(at) OVER (ORDER BY id) AS gap FROM exact_pd_sync.api_calls WHERE status = 503 AND id > %s) x};
$t->fault(%down);
change($_) foreach @many;
my $log = $t->log_position;
$t->poll('orders');
ok(until_so(sprintf $gap, 0), 'a service that is down while twenty deals wait: the pauses grow');
cmp_ok($t->sql('SELECT count(*) FROM exact_pd_sync.api_calls WHERE status = 503'), '<=', 30, '... it is asked seldom');
like($t->log_since($log), qr/Pipedrive cannot be reached, or fails: HTTP status 503/, '... the log says so');
is(() = $t->log_since($log) =~ /cannot be reached, or fails/g, 1, '... once');
$t->clear_faults;
all_well('the service is up again');
like($t->log_since($log), qr/Pipedrive answers again/, '... and that it is over');

# The same deal is sent to ask, again and again.
my $calls = $t->sql('SELECT max(id) FROM exact_pd_sync.api_calls');
$t->fault(%down);
change($many[0]);
$t->poll('orders');
ok(until_so(sprintf $gap, $calls), 'a service that is down while one deal waits: the pauses grow');
cmp_ok($t->sql("SELECT count(*) FROM exact_pd_sync.api_calls WHERE status = 503 AND id > $calls"), '>=', 4, '... it is asked by more calls than a job has attempts');
is($t->sql('SELECT max(attempts) FROM exact_pd_sync.jobs'), '2', '... asking whether it is up again is no attempt');
is(dead(), '', '... and no job becomes a dead letter by that');
$t->clear_faults;
all_well('up again');

# ----------------------------------
note 'the service asks for silence';
# ----------------------------------

my @calls;

sub seconds
{
	my ($call) = @_;
	my ($h, $m, $s) = $call->{t} =~ /T(\d+):(\d+):([\d.]+)/;
	return $h * 3600 + $m * 60 + $s;
}

$t->fault(side => 'pipedrive', method => 'PATCH', path => '.', times => 1,
	action => { status => 503, body => '{"success":false}', content_type => $json, headers => { 'retry-after' => '3' } });
@calls = $t->pipedrive_calls(
	sub {
		change($_) foreach @many[ 0 .. 5 ];
		$t->switches(pipedrive_latency_ms => 100);
		$t->poll('orders');
		all_well('a 503 with retry-after');
	});
$t->switches(pipedrive_latency_ms => 0);
my ($asked) = grep { $calls[$_]{status} == 503 } 0 .. $#calls;
# what was on its way with it is not held back
my @after = grep { seconds($_) - seconds($calls[$asked]) > 0.5 } @calls;
cmp_ok(seconds($after[0]) - seconds($calls[$asked]), '>=', 2.9, '... nothing follows for as long as it asks');

# After a 429 one request goes ahead of the others.
$t->fault(side => 'pipedrive', method => 'PATCH', path => '.', times => 1,
	action => { status => 429, body => '{"success":false,"error":"request over limit"}', content_type => $json });
@calls = $t->pipedrive_calls(
	sub {
		change($_) foreach @many;
		$t->switches(pipedrive_latency_ms => 200);
		$t->poll('orders');
		all_well('a 429');
	});
$t->switches(pipedrive_latency_ms => 0);
($asked) = grep { $calls[$_]{status} == 429 } 0 .. $#calls;
@after = grep { seconds($_) - seconds($calls[$asked]) > 1 } @calls;
cmp_ok(seconds($after[0]) - seconds($calls[$asked]), '>=', 1.9, '... two seconds of silence');
cmp_ok(seconds($after[1]) - seconds($after[0]), '>=', 0.19, '... then one request, and the next when it is answered');
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.api_calls WHERE outcome = 'daily'}), '0', '... one 429 is not taken for the end of the day');

# --------------------------------------
note 'one record fails for ever';
# --------------------------------------

# method, path, what brings it about, the list read after each try
my @poison = (
	[ 'a deal that is never made', 'POST', '/api/v2/deals$', sub { order(1) }, qr,/api/v2/deals$, ],
	[ 'lines that never come in', 'POST', '/products/bulk$', sub { order(6) }, qr,/deals/products$, ],
	[ 'a change that never comes in', 'PATCH', '/api/v2/deals/[0-9]+$', sub { change(53001); 53001 }, undef ],
	[ 'an option that is never made', 'POST', '/options$', sub { $t->post('/exact/entities/ItemGroups', { Code => 'FLG', Description => 'Groep' }); 0 }, qr,/productFields/, ]);
foreach my $poison (@poison)
{
	my ($name, $method, $path, $make, $list) = @$poison;
	$t->fault(side => 'pipedrive', method => $method, path => $path, times => 0,
		action => { status => 500, body => '{"success":false,"error":"Internal server error"}', content_type => $json });
	my $number;
	my @calls = $t->pipedrive_calls(
		sub {
			$number = $make->();
			$t->poll;
			ok(until_so($settled), "$name: it comes to an end");
		});
	my $object = $number ? "Order $number" : '.*';
	like(dead(), qr/^$object\|theirs\|3\|no good answer from Pipedrive in 3 attempts[^\n]*$/, "$name: a dead letter after three attempts");
	is(scalar(grep { $_->{method} eq $method && "$_->{path}" =~ /$path/ } @calls), 3, "$name: ... sent three times");
	cmp_ok(scalar(grep { $_->{method} eq 'GET' } @calls), '<=', $list ? 3 : 0, "$name: ... one list each time");
	$t->clear_faults;
	$t->sql('SELECT exact_pd_sync.replay()');
	all_well("$name: after replay()");
}

# A line that is listed, and said not to exist.
my $number = $many[0];
$t->fault(side => 'pipedrive', method => 'PATCH', path => '/products/[0-9]+$', times => 0,
	action => { status => 404, body => '{"success":false,"error":"Entity was not found"}', content_type => $json });
@calls = $t->pipedrive_calls(
	sub {
		$t->patch("/exact/orders/$number/lines/1", { quantity => 77 });
		$t->poll('orders');
		ok(until_so($settled), 'a line that is listed and cannot be changed: it comes to an end');
	});
like(dead(), qr/^Order $number\|theirs\|3\|Pipedrive shows a line or discount[^\n]*$/, '... a dead letter after three attempts');
cmp_ok(scalar @calls, '<=', 6, '... and few calls');
$t->clear_faults;
$t->sql('SELECT exact_pd_sync.replay()');
all_well('after replay()');

# Lines that a bulk deletion leaves behind are deleted then.
$t->switches(bulk_delete_partial => 4);
my $long = order(12);
$t->poll;
ok($t->settle, 'an order of twelve lines');
$t->delete("/exact/orders/$long/lines/$_") foreach 3 .. 12;
$t->poll;
all_well('a bulk deletion that leaves lines behind');
$t->switches(bulk_delete_partial => 0);

# ----------------------------
note 'the plan is full';
# ----------------------------

# When the time is over one create asks; what waits with it goes when there is room.
my $deals = scalar $t->deals;
$t->switches(deal_limit => $deals);
order(1) foreach 1 .. 6;
my $waiting = q{SELECT count(*) FROM exact_pd_sync.jobs WHERE class = 'capacity' AND state = 'waiting' AND next_attempt_at > now()};
$t->poll;
ok($t->wait_for($waiting, '6'), 'a full plan: creates wait');
@calls = $t->pipedrive_calls(
	sub {
		$t->sql(
			q{UPDATE exact_pd_sync.budgets SET blocked_until = now() - interval '1 s' WHERE kind = 'creates';
			UPDATE exact_pd_sync.jobs SET next_attempt_at = now() - interval '1 s' WHERE class = 'capacity'});
		$t->wait_for($waiting, '6');
	});
is(join(' ', map { "$_->{method} $_->{status}" } @calls), 'POST 403', '... one of them asks for the others');
is($t->sql(q{SELECT max(attempts) FROM exact_pd_sync.jobs WHERE class = 'capacity'}), '0', '... which is no attempt');
$t->switches(deal_limit => undef);
$t->sql(
	q{UPDATE exact_pd_sync.budgets SET blocked_until = now() - interval '1 s' WHERE kind = 'creates';
	UPDATE exact_pd_sync.jobs SET next_attempt_at = now() - interval '1 s'
	 WHERE id = (SELECT min(id) FROM exact_pd_sync.jobs WHERE class = 'capacity')});
ok($t->settle(30), '... and takes all along when there is room');
all_well('room in the plan');

# ---------------------
note 'lists that fail';
# ---------------------

# A list is asked for again after a pause, and nothing is made before it was read.
my @lists = (
	[ 'half of a page', { truncate => $true } ],
	[ 'JSON that is no list', { status => 200, body => '"nothing"', content_type => $json } ]);
foreach my $list (@lists)
{
	my ($name, $action) = @$list;
	$t->fault(side => 'pipedrive', method => 'POST', path => '/api/v2/deals$', times => 1, action => { drop => $true, execute => $true });
	$t->fault(side => 'pipedrive', method => 'GET', path => '/api/v2/deals\?', times => 1, action => $action);
	my $made = order(1);
	my @calls = $t->pipedrive_calls(
		sub {
			$t->poll;
			all_well("$name instead of a list");
		});
	is(join(' ', map { $_->{method} } grep { $_->{path} eq '/api/v2/deals' } @calls), 'POST GET GET', "$name: the list is read again, and nothing is made twice");
	$t->clear_faults;
}

# A list whose pages never end is left after two of them.
$t->fault(side => 'pipedrive', method => 'POST', path => '/api/v2/deals$', times => 1, action => { drop => $true });
$t->fault(side => 'pipedrive', method => 'GET', path => '/api/v2/deals\?', times => 0,
	action => { status => 200, body => '{"success":true,"data":[],"additional_data":{"next_cursor":"again"}}', content_type => $json });
$log = $t->log_position;
@calls = $t->pipedrive_calls(
	sub {
		order(1);
		$t->poll;
		$t->wait_for(q{SELECT EXISTS (SELECT FROM exact_pd_sync.looks WHERE done_at IS NULL AND failures > 0 AND not_before > now())});
	});
is(scalar(grep { $_->{method} eq 'GET' } @calls), 2, 'a list whose pages never end: two pages, and then a pause');
like($t->log_since($log), qr/the list of deals does not end/, '... the log says why');
$t->clear_faults;
$t->sql('UPDATE exact_pd_sync.looks SET not_before = now() WHERE done_at IS NULL');
all_well('then it is read');

# --------------------------------
note 'a job too large';
# --------------------------------

# More than there is memory for: it does not take the worker along, nor the others.
# (It comes last: for a while after it jobs are taken one by one.)
$t->sql(
	q{CREATE FUNCTION public.giant() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.body::text LIKE '%reus%' THEN RAISE EXCEPTION 'out of memory for this one' USING ERRCODE = 'out_of_memory'; END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER giant BEFORE INSERT ON exact_pd_sync.intents FOR EACH ROW EXECUTE FUNCTION public.giant()});
my $pid = $t->sql(q{SELECT exact_pd_sync.worker_pid('delivery')});
$t->patch("/exact/orders/$many[2]", { your_ref => 'reus' });
change($_) foreach @many[ 3 .. 6 ];
$t->poll('orders');
my $giant_is_dead = q{SELECT exact_pd_sync.wake_worker('delivery');
	SELECT EXISTS (SELECT FROM exact_pd_sync.dead_letters) AND NOT EXISTS (SELECT FROM exact_pd_sync.jobs WHERE state <> 'dead')};
ok(until_so("$giant_is_dead"), 'a job without room: it comes to an end, and the others go out');
like(dead(), qr/^Order $many[2]\|ours\|\d\|this record cannot be worked out[^\n]*$/, '... a dead letter of its own');
is($t->sql(q{SELECT exact_pd_sync.worker_pid('delivery')}), $pid, '... and the worker has not ended');
$t->sql('DROP TRIGGER giant ON exact_pd_sync.intents');
$t->sql('SELECT exact_pd_sync.replay()');
all_well('room again');

$t->no_violations('nothing was forbidden');
$t->done;
