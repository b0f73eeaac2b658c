# Several at once: orders that change while they are sent, sessions that poll the
# same and different things, transactions that stay open, locks, callers in other
# isolation levels, an operator who says a dozen things in a second, staging that a
# person empties.  Nothing is lost, made twice, or written twice at once.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use Test::More;
use Time::HiRes qw(time usleep);

my $t = EpdsTest->new(
	'races',
	orders => 10,
	items => 12,
	customers => 5,
	seed => 40,
	switches => { burst_limit => 0, exact_page_size => 5 },
	conf => <<"END");
exact_pd_sync.poll_interval = '300ms'
exact_pd_sync.http_timeout = '6s'
exact_pd_sync.max_connections = 6
max_prepared_transactions = 4
deadlock_timeout = '200ms'
END

sub complete
{
	my ($name) = @_;
	$t->clear_faults;
	ok($t->settle, "$name: everything is sent");
	agrees($t, "$name: every order is a deal with its lines");
	is($t->sql('SELECT count(*) FROM exact_pd_sync.dead_letters'), '0', "$name: no dead letters");
	is($t->stats('pipedrive')->{overlapping_writes}, 0, "$name: no record is written twice at once");
	$t->no_violations("$name: nothing twice");
	return;
}

sub change
{
	my ($number, $turn) = @_;
	$t->patch("/exact/orders/$number", { your_ref => "turn $turn", delivery_status => $turn % 2 ? 20 : 12 });
	return;
}

# What somebody was told that is more than a notice.
sub complaints { return join("\n", grep { /^(WARNING|ERROR|FATAL|PANIC)/ } map { split /\n/ } @_); }

# New orders whose creates are under way for a while, and answered well then.
sub creating
{
	my ($count) = @_;
	$t->fault(side => 'pipedrive', path => 'deals', method => 'POST', times => $count, action => { hang => 'headers', seconds => 4 });
	$t->post('/exact/orders', { count => $count, lines => 2 });
	$t->poll('orders');
	my $until = time + 30;
	until (grep { $_->{hits} == $count } @{ $t->get('/faults') })
	{
		die 'no create is under way' if time > $until;
		usleep(10_000);
	}
	return;
}

sub delivery_pid { return $t->sql(q{SELECT exact_pd_sync.worker_pid('delivery')}); }

ok($t->first_run, 'the first run is through');
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '0')});

# ----------
note 'changes while sending';
# ----------
$t->switches(pipedrive_latency_ms => 150);
$t->reset_stats;
my @numbers = ($t->numbers)[0 .. 3];
foreach my $turn (1 .. 6)
{
	change($_, $turn) foreach @numbers;
	$t->poll('orders');
}
complete('orders changed again and again');
cmp_ok($t->stats('pipedrive')->{peak_in_flight}, '>', 1, '... while others were sent beside them');

# A new order, its customer and item change while they are created.
creating(3);
my @new = ($t->numbers)[-3 .. -1];
change($_, 7) foreach @new;
$t->poll('orders');
complete('orders changed while they were created');

# ----------
note 'sessions that poll at once';
# ----------
$t->switches(pipedrive_latency_ms => 20, exact_latency_ms => 30);
foreach my $groups ([qw(orders orders)], [qw(orders customers products)], [qw(all all orders)])
{
	$t->post('/exact/orders', { count => 3, lines => 2 });
	change($numbers[0], 10 + scalar @$groups);
	my @runs = map { $t->background("CALL exact_pd_sync.poll_$_()") } @$groups;
	my @said = map { ($_->())[1] } @runs;
	is(complaints(@said), '', "poll @$groups at once: none fails");
	complete("poll @$groups at once");
}
my $import = $t->background('CALL exact_pd_sync.import_history()');
my @polls = map { $t->background('CALL exact_pd_sync.poll_all()') } 1 .. 2;
is(complaints(map { ($_->())[1] } @polls), '', 'polls beside an import do not fail');
is(complaints(($import->())[1]), '', 'an import beside two polls comes to its end');
complete('an import beside two polls');
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.sync_runs WHERE state = 'running'}), '0', 'no run is left open');
$t->switches(exact_latency_ms => 0);

# ----------
note 'a transaction that stays open';
# ----------
# Its signals have lower numbers than those that are folded while it is open.
my $person = $t->session;
my $old = $t->sql('SELECT min(order_number) FROM exact_pd_sync.exact_sales_orders');
$person->query_safe('BEGIN');
$person->query_safe("UPDATE exact_pd_sync.exact_sales_orders SET your_ref = 'by hand', changed_at = clock_timestamp() WHERE order_number = $old");
my $number = q{SELECT pg_sequence_last_value(pg_get_serial_sequence('exact_pd_sync.job_signals', 'id'))};
my $last = $t->sql($number);
foreach my $turn (1 .. 2)
{
	$t->sql("UPDATE exact_pd_sync.exact_sales_orders SET your_ref = 'later $turn', changed_at = clock_timestamp() WHERE order_number IN ($numbers[1], $numbers[2])");
	ok($t->settle, "what others commit later is sent (turn $turn)");
}
ok((grep { $_ eq 'later 2' } values %{ $t->deal($numbers[1])->{fields} }), '... indeed');
is(scalar(grep { ($_ // '') eq 'by hand' } values %{ $t->deal($old)->{fields} }), 0, 'what is not committed is not sent');
cmp_ok($t->sql($number), '>', $last, '... though higher numbers were folded');
# A poll that has the same row to store waits for him, and can be cancelled.
change($old, 22);
my $poll = $t->background('CALL exact_pd_sync.poll_orders()');
my $pid = $poll->(pid => 1);
ok($t->wait_for("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid"), 'a poll waits for a row that he holds');
$t->sql("SELECT pg_cancel_backend($pid)");
like(($poll->())[1], qr/ERROR:  57014/, '... until it is cancelled');
$person->query_safe('COMMIT');
ok($t->settle, 'after COMMIT it is');
my ($field) = grep { ($t->deal($old)->{fields}{$_} // '') eq 'by hand' } keys %{ $t->deal($old)->{fields} };
ok($field, '... sent') or diag(explain($t->deal($old)->{fields}));
change($_, 23) foreach @numbers;
$t->poll('orders');
complete('after the open transaction');

# ----------
note 'locks';
# ----------
my $worker_waits = q{SELECT count(*) > 0 FROM pg_stat_activity a WHERE backend_type = 'exact_pd_sync delivery' AND wait_event_type = 'Lock'};
foreach my $table (qw(links jobs intents job_signals))
{
	$t->switches(pipedrive_latency_ms => 100);
	change($_, 30) foreach @numbers;
	$t->post('/exact/orders', { lines => 2 });
	$t->poll('orders');
	$person->query_safe('BEGIN');
	$person->query_safe("LOCK TABLE exact_pd_sync.$table IN ACCESS EXCLUSIVE MODE");
	$t->sql(q{SELECT exact_pd_sync.wake_worker('delivery')});
	ok($t->wait_for($worker_waits), "somebody locks $table: the worker waits");
	if ($table eq 'links')
	{
		my $pid = delivery_pid();
		my $before = $t->sql('SELECT clock_timestamp()');
		$t->sql("SELECT pg_cancel_backend($pid)");
		ok($t->wait_for("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $pid AND NOT granted AND waitstart > '$before')"), '... a cancel ends the wait, and it tries again');
		is(delivery_pid(), $pid, '... and is the same');
	}
	$person->query_safe('COMMIT');
	complete("after a lock on $table");
}
$person->query_safe('BEGIN');
$person->query_safe('LOCK TABLE exact_pd_sync.links IN ACCESS EXCLUSIVE MODE');
change($_, 31) foreach @numbers;
$t->poll('orders');
ok($t->wait_for($worker_waits), 'the worker waits for a lock again');
is($t->sql('SELECT exact_pd_sync.stop_worker()'), 't', 'stop_worker() ends one that waits for a lock, too');
$person->query_safe('ROLLBACK');
is($t->sql('SELECT exact_pd_sync.start_worker()'), 't', 'start_worker() brings it back');
complete('after a stop within a lock');

# A person who takes the locks the other way round: somebody loses, and tries again.
change($_, 32) foreach @numbers;
my @upkeep = map { my $table = $_; map { $t->background("$_ exact_pd_sync.$table") } 'VACUUM (FULL, ANALYZE)', 'REINDEX TABLE' } qw(links jobs intents job_signals line_links budgets exact_sales_orders);
$t->poll('orders');
is(join('', map { ($_->())[1] } @upkeep), '', 'VACUUM FULL and REINDEX of all that is in use work');
complete('after the upkeep');

# ----------
note 'callers in other isolation levels';
# ----------
foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
	my $failed = 0;
	foreach my $turn (1 .. 4)
	{
		change($_, 40 + $turn) foreach @numbers;
		$t->poll('orders');
		my ($status, undef, $err) = $t->try(<<"END");
BEGIN ISOLATION LEVEL $level;
SELECT count(*) FROM exact_pd_sync.links;
SELECT exact_pd_sync.replay(), exact_pd_sync.resync('deal', (SELECT id FROM exact_pd_sync.exact_sales_orders WHERE order_number = $numbers[0]));
UPDATE exact_pd_sync.status_rules SET note = '$level $turn' WHERE priority = 130;
SELECT count(*) FROM exact_pd_sync.plan();
SELECT count(*) FROM exact_pd_sync.status, exact_pd_sync.queue;
COMMIT;
END
		$failed++ if $status;
		diag($err) if $status;
	}
	is($failed, 0, "$level: the operator's functions do not fail because the worker works");
	my ($status, undef, $err) = $t->try("SET default_transaction_isolation = '" . lc($level) . "'; CALL exact_pd_sync.poll_orders()");
	is($status, 0, '... nor does a poll in such a session') or diag($err);
	complete($level);
}
$t->sql(q{ALTER DATABASE sync SET default_transaction_isolation = 'serializable'}, db => 'postgres');
$t->sql('SELECT exact_pd_sync.stop_worker(), exact_pd_sync.start_worker()');
change($_, 50) foreach @numbers;
$t->poll('orders');
complete('a database that is serializable by default');
is($t->sql(q{SELECT exact_pd_sync.pause(), exact_pd_sync.resume()}), '|', '... takes pause() and resume()');
$t->sql(q{ALTER DATABASE sync RESET default_transaction_isolation}, db => 'postgres');

# ----------
note 'prepared transactions';
# ----------
$t->sql(<<"END");
BEGIN;
UPDATE exact_pd_sync.exact_sales_orders SET your_ref = 'prepared', changed_at = clock_timestamp() WHERE order_number = $old;
SELECT exact_pd_sync.pause('history'), exact_pd_sync.replay();
PREPARE TRANSACTION 'person';
END
$t->sql("UPDATE exact_pd_sync.exact_sales_orders SET your_ref = 'beside', changed_at = clock_timestamp() WHERE order_number = $numbers[1]");
ok($t->settle, 'beside a prepared transaction everything else is sent');
isnt($t->deal($old)->{fields}{$field}, 'prepared', '... but not what it holds');
$t->sql(q{COMMIT PREPARED 'person'});
ok($t->wait_for('SELECT count(*) = 0 FROM exact_pd_sync.job_signals') && $t->settle, 'COMMIT PREPARED: nobody wakes the worker, it looks by itself');
is($t->deal($old)->{fields}{$field}, 'prepared', '... and sends it');
$t->resume('history');
change($_, 52) foreach @numbers;
$t->poll('orders');
complete('after prepared transactions');

# ----------
note 'an operator in a hurry';
# ----------
$t->switches(pipedrive_latency_ms => 60);
$t->post('/exact/orders', { count => 4, lines => 3 });
my @hurry = map {
	my $who = $_;
	$t->background(join '; ', map { my $n = ($who * 7 + $_ * 5) % 8;
			$n == 0 ? 'SELECT exact_pd_sync.pause()'
		  : $n == 1 ? 'SELECT exact_pd_sync.replay()'
		  : $n == 2 ? q{SELECT exact_pd_sync.resync('deal')}
		  : $n == 3 ? qq{SELECT exact_pd_sync.resync('deal', id) FROM exact_pd_sync.exact_sales_orders WHERE order_number IN ($numbers[0], $numbers[1])}
		  : $n == 4 ? q{SELECT exact_pd_sync.resync('product'), exact_pd_sync.resync('organization')}
		  : $n == 5 ? q{SELECT exact_pd_sync.pause('history'), exact_pd_sync.resume('history')}
		  : $n == 6 ? q{SELECT count(*) FROM exact_pd_sync.plan()}
		  : 'SELECT exact_pd_sync.resume()' } 1 .. 40);
} 1 .. 3;
foreach my $turn (1 .. 4)
{
	change($_, 60 + $turn) foreach @numbers;
	$t->poll('orders');
}
is(join('', map { ($_->())[1] } @hurry), '', 'none of what he says fails');
$t->resume;
$t->resume('history');
complete('after an operator in a hurry');

# ----------
note 'a queue that a person empties';
# ----------
# What was announced and sent is booked all the same; the rest comes when it is asked for.
creating(4);
$t->sql('DELETE FROM exact_pd_sync.jobs');
ok($t->wait_for('SELECT count(*) = 0 FROM exact_pd_sync.intents'), 'their answers are booked without their jobs');
$t->switches(pipedrive_latency_ms => 0);
$t->clear_faults;
$t->sql(q{SELECT exact_pd_sync.resync('deal')});
complete('after the queue was emptied');

# ----------
note 'staging that a person empties';
# ----------
$t->switches(pipedrive_latency_ms => 0);
my $before = account($t);
my @sent = $t->pipedrive_calls(sub {
	$t->sql('TRUNCATE exact_pd_sync.exact_sales_orders, exact_pd_sync.exact_sales_order_lines');
	$t->sql(q{SELECT exact_pd_sync.resync('deal'), exact_pd_sync.resync('product')});
	ok($t->settle, 'orders and lines are truncated: nothing waits');
	$t->sql('DELETE FROM exact_pd_sync.exact_items; DELETE FROM exact_pd_sync.exact_accounts');
	$t->sql(q{SELECT exact_pd_sync.resync('product'), exact_pd_sync.resync('organization')});
	ok($t->settle, 'items and customers are deleted: nothing waits');
});
is(join("\n", $t->writes(@sent)), '', 'what is not staged is left as it is at Pipedrive');
is(account($t), $before, '... all of it');
@sent = $t->pipedrive_calls(sub {
	$t->import_history;
	$t->sql(q{UPDATE exact_pd_sync.feed_positions SET last_timestamp = 1 WHERE feed IN ('accounts', 'items')});
	$t->poll;
	complete('read again');
});
is(scalar(grep { $_->{method} eq 'POST' } @sent), 0, '... finds every record that was made') or diag($t->writes(@sent));

$person->quit;
$t->done;
