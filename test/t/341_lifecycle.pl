# What happens to the workers while they are busy: an update of the extension, a
# drop that is not committed, a role that loses its rights, settings that change,
# a second worker, one that is stopped for longer than its lease, no free slot.
# They get out of the way, say what is the matter, come back by themselves, and
# nothing is lost or made twice by it.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $t = EpdsTest->new(
	'lifecycle',
	orders => 6,
	items => 10,
	customers => 4,
	seed => 41,
	switches => { burst_limit => 1000 },
	conf => <<"END");
exact_pd_sync.poll_interval = '500ms'
exact_pd_sync.http_timeout = '3s'
max_prepared_transactions = 4
END

my $workers = q{SELECT coalesce(string_agg(replace(backend_type, 'exact_pd_sync ', ''), ' ' ORDER BY backend_type), '')
	FROM pg_stat_activity WHERE backend_type LIKE 'exact_pd_sync %' AND datname = '};
my $sending = q{SELECT state || ' ' || detail FROM exact_pd_sync.status WHERE part = 'sending'};

sub workers_become
{
	my ($db, $expected, $name, $seconds) = @_;
	return ok($t->wait_for("$workers$db'", $expected, $seconds // 30, db => 'postgres'), $name);
}

sub delivery_pid { return $t->sql(q{SELECT exact_pd_sync.worker_pid('delivery')}); }

# Until status says so; the text is what a person reads.
sub sending_becomes
{
	my ($pattern, $name, $db) = @_;
	my $until = time + 30;
	my $said;
	until (($said = $t->sql($sending, db => $db // $t->db)) =~ $pattern)
	{
		last if time > $until;
		usleep(50_000);
	}
	like($said, $pattern, $name);
	return;
}

# Makes the delivery worker wait for answers that do not come within http_timeout, with changes still to send.
sub busy
{
	my ($count) = @_;
	$count //= 2;
	$t->fault(side => 'pipedrive', path => 'deals', method => 'POST', times => $count, action => { hang => 'headers', seconds => 120 });
	$t->post('/exact/orders', { count => $count, lines => 2 });
	$t->poll('orders');
	my $until = time + 30;
	until (grep { $_->{hits} == $count } @{ $t->get('/faults') })
	{
		die 'no request is under way' if time > $until;
		usleep(10_000);
	}
	return;
}

sub new_orders
{
	my ($count) = @_;
	$t->post('/exact/orders', { count => $count // 1, lines => 2 });
	$t->poll('orders');
	return;
}

sub complete
{
	my ($name) = @_;
	$t->clear_faults;
	ok($t->settle, "$name: everything is sent");
	agrees($t, "$name: every order is a deal with its lines");
	is($t->sql('SELECT count(*) FROM exact_pd_sync.dead_letters'), '0', "$name: no dead letters");
	$t->no_violations("$name: nothing twice");
	like($t->sql($sending), qr/^green/, "$name: status is green");
	return;
}

sub setting
{
	my ($name, $value) = @_;
	$t->node->safe_psql('postgres', defined $value ? "ALTER SYSTEM SET $name = '$value'" : "ALTER SYSTEM RESET $name");
	$t->node->reload;
	return;
}

ok($t->first_run, 'the first run is through');
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '0')});
agrees($t, 'and right');

# ----------
note 'ALTER EXTENSION UPDATE';
# ----------
# Locks what the worker uses most, and replaces functions that it has plans of.
my ($share) = run_command([ $ENV{PG_CONFIG} || 'pg_config', '--sharedir' ]);
my $script = "$share/extension/exact_pd_sync--1.0--1.0.1.sql";
append_to_file($script, <<'END');
\echo Use "ALTER EXTENSION exact_pd_sync UPDATE" to load this file. \quit
ALTER TABLE exact_pd_sync.jobs ADD COLUMN of_test text;
ALTER TABLE exact_pd_sync.links ADD COLUMN of_test text;
ALTER TABLE exact_pd_sync.exact_sales_orders ADD COLUMN of_test text;
DROP FUNCTION exact_pd_sync._delivery_gate();
CREATE FUNCTION exact_pd_sync._delivery_gate(OUT may_send boolean, OUT reason text, OUT wait_ms bigint, OUT of_test text)
    LANGUAGE sql AS $$ SELECT NOT exact_pd_sync.is_paused('sending'), NULL::text, 0::bigint, 'new'::text $$;
END
END { unlink $script if defined $script; }

busy();
my $old = delivery_pid();
my ($status, undef, $err) = $t->try("SET statement_timeout = '20s'; BEGIN; ALTER EXTENSION exact_pd_sync UPDATE TO '1.0.1'; ROLLBACK");
is($status, 0, 'an update that is rolled back works while requests are under way') or diag($err);
workers_become('sync', 'delivery intake', 'the workers come back');
complete('after the ROLLBACK');

# A poll waits for an answer as well; it holds nothing, and goes on afterwards.
busy();
$t->fault(side => 'exact', path => 'SalesOrderHeaders', times => 1, action => { hang => 'headers', seconds => 2 });
my $poll = $t->background('CALL exact_pd_sync.poll_orders()');
my $pid = $poll->(pid => 1);
ok($t->wait_for("SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid"), 'a poll hangs');
my $update = $t->session;
$update->query_safe('BEGIN');
$update->query_safe("SET statement_timeout = '20s'");
$update->query_safe("ALTER EXTENSION exact_pd_sync UPDATE TO '1.0.1'");
is($t->sql("$workers" . "sync'", db => 'postgres'), '', 'while the update is open no worker runs');
isnt($t->sql("SELECT exact_pd_sync.worker_trouble('delivery')"), '', '... and worker_trouble() says why');
$update->query_safe('COMMIT');
$update->quit;
workers_become('sync', 'delivery intake', 'after the update the workers come back');
isnt(delivery_pid(), $old, '... as new ones, which know the new functions');
is($t->sql(q{SELECT extversion FROM pg_extension WHERE extname = 'exact_pd_sync'}), '1.0.1', 'the update is in force');
is(($poll->())[1], '', 'the poll went on through it');
complete('after the update');

# ----------
note 'a drop that is not committed';
# ----------
# Not by DROP EXTENSION, which the workers would make way for: by its schema.
busy();
my $drop = $t->session;
$drop->query_safe('BEGIN');
$drop->query_safe("SET statement_timeout = '20s'");
$drop->query_safe('SET client_min_messages = warning');
$drop->query_safe('DROP SCHEMA exact_pd_sync CASCADE');
# Each turn of an idle worker is a few transactions; turns must not follow each other without a pause.
my $count = q{SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'sync'};
my $seen = q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'sync' AND backend_type = 'exact_pd_sync delivery' AND backend_xmin IS NULL AND state = 'idle'};
ok($t->wait_for("SELECT ($seen) = 1", 't', 30, db => 'postgres'), 'the delivery worker waits and holds nothing');
my $first = $t->sql($count, db => 'postgres');
my $since = time;
usleep(50_000) while time < $since + 3;    # a stretch of time is what is looked at here
my $rate = ($t->sql($count, db => 'postgres') - $first) / (time - $since);
cmp_ok($rate, '<', 60, 'it does not turn without a pause') or note "$rate transactions a second";
$drop->query_safe('ROLLBACK');
complete('after the ROLLBACK of the drop');

$drop->query_safe('BEGIN');
$drop->query_safe('DROP EXTENSION exact_pd_sync CASCADE');
$drop->query_safe(q{PREPARE TRANSACTION 'drop'});
$drop->quit;
ok($t->wait_for("SELECT ($seen) = 1", 't', 30, db => 'postgres'), 'a prepared drop: the worker waits');
$t->post('/exact/orders', { lines => 1 });
(undef, undef, $err) = $t->try('CALL exact_pd_sync.poll_orders()');
like($err, qr/ERROR:  55006: extension "exact_pd_sync" is being dropped or altered by another session/, 'a poll is refused, and told why');
$t->sql(q{ROLLBACK PREPARED 'drop'});
$t->poll('orders');
complete('after ROLLBACK PREPARED');

# ----------
note 'the role';
# ----------
$t->sql('CREATE ROLE sync_worker LOGIN');
$t->sql(q{SELECT exact_pd_sync.grant_worker('sync_worker')});
busy();
setting('exact_pd_sync.role', 'sync_worker');
$t->clear_faults;
new_orders();
complete('with a role given while busy');

# Rights that go while answers are awaited: what came back is not forgotten.
busy();
$t->sql('REVOKE ALL ON exact_pd_sync.links FROM sync_worker');
my $position = $t->log_position;
$t->clear_faults;
# a signal, as somebody might send who looks for the cause
$t->sql('SELECT pg_terminate_backend(' . delivery_pid() . ')');
sending_becomes(qr/^red .*permission denied for table links/, 'status tells which right is missing');
like($t->log_since($position), qr/permission denied for table links/, '... as does the log');
$t->sql('GRANT ALL ON exact_pd_sync.links TO sync_worker');
complete('with its rights back');

busy();
$t->sql('DROP OWNED BY sync_worker; DROP ROLE sync_worker');
sending_becomes(qr/^red .*role "sync_worker" does not exist/, 'a role that was dropped: status says so');
(undef, undef, $err) = $t->try('CALL exact_pd_sync.poll_orders()');
like($err, qr/role "sync_worker" does not exist.*HINT:.*grant_worker/s, '... and a poll says what to do');
$t->sql('CREATE ROLE sync_worker LOGIN');
sending_becomes(qr/^red .*permission denied/, 'a new one of the name has no rights yet');
$t->sql(q{SELECT exact_pd_sync.grant_worker('sync_worker')});
complete('with a role of the same name');
setting('exact_pd_sync.role');
new_orders();
complete('without a role again');

# ----------
note 'settings that change while busy';
# ----------
foreach my $change (
	[ 'exact_pd_sync.max_connections', 1, 16, undef ],
	[ 'exact_pd_sync.http_timeout', '2s', '30s', undef ],
	[ 'exact_pd_sync.poll_interval', '100ms', '10min', '500ms' ],
	[ 'exact_pd_sync.resume_after_promotion', 'on', undef ],
	[ 'exact_pd_sync.databases', '', 'sync,nosuch', 'sync', undef ],
	[ 'exact_pd_sync.key_file', '/nosuch/key', undef ],
	[ 'exact_pd_sync.allow_insecure_http', 'off', undef ])
{
	my ($name, @values) = @$change;
	busy(1);
	foreach my $value (@values)
	{
		setting($name, $value);
		$t->post('/exact/orders', { lines => 1 });
	}
	$t->clear_faults;
	workers_become('sync', 'delivery intake', "after changes of $name the workers run");
	$t->sql(q{SELECT exact_pd_sync.wake_worker('delivery')});
	$t->poll('orders');
	complete("after changes of $name");
}
setting('exact_pd_sync.poll_interval');

# Fewer connections count at once, not when there is nothing left to send.  Two requests hang, so that there is
# always one under way.
$t->switches(pipedrive_latency_ms => 150);
$t->pause;
$t->post('/exact/orders', { count => 30, lines => 1 });
$t->poll('orders');
$t->fault(side => 'pipedrive', path => 'deals', method => 'POST', times => 2, action => { hang => 'headers', seconds => 120 });
$t->resume;
my $until = time + 30;
until (grep { $_->{hits} == 2 } @{ $t->get('/faults') })
{
	die 'no request hangs' if time > $until;
	usleep(10_000);
}
setting('exact_pd_sync.max_connections', 1);
ok( $t->wait_for(q{SELECT query = 'sending 1 requests' AND (SELECT count(*) > 8 FROM exact_pd_sync.jobs) FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync delivery'}, 't', 20),
	'max_connections, lowered, counts for what is still to be sent');
setting('exact_pd_sync.max_connections');
$t->switches(pipedrive_latency_ms => 0);
complete('after fewer connections');

# Settings of the database count as soon as they are made.
busy(1);
$old = delivery_pid();
$t->sql(q{ALTER DATABASE sync SET exact_pd_sync.max_connections = 2}, db => 'postgres');
workers_become('sync', 'delivery intake', 'after ALTER DATABASE SET the workers run');
isnt(delivery_pid(), $old, '... as new ones, which have the setting');
complete('after ALTER DATABASE SET');

# ----------
note 'one worker too many';
# ----------
# Whatever starts a second one: it finds the lock of the first.
my $first_worker = $t->session;
$t->load_module('epds_test_lock');
$t->sql('SELECT exact_pd_sync.stop_worker()');
like($t->sql($sending), qr/^red .*stopped by stop_worker\(\)/, 'a worker that was stopped: status says by what');
is($first_worker->query_safe('SELECT test_lock(1162888275, 0)'), 't', '... and its lock is free');
$t->sql('SELECT exact_pd_sync.start_worker()');
ok($t->wait_for(q{SELECT query FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync delivery'}, 'waiting for another worker of this kind to leave'),
	'the second delivery worker waits, and says so');
my @sent = $t->pipedrive_calls(sub {
	new_orders();
	sending_becomes(qr/^red .*another session holds the lock/, 'status says it, too');
});
is(scalar @sent, 0, '... and it sends nothing');
is($t->sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync delivery' AND backend_xmin IS NOT NULL}), '0', '... and holds nothing');
$first_worker->quit;
complete('when the first one is gone');

# The locks that any session can take are others.
my $outsider = $t->session;
$outsider->query_safe("SELECT pg_advisory_lock(1162888275, $_), pg_advisory_lock((1162888275::bigint << 32) + $_)") foreach 0 .. 3;
$t->sql('SELECT exact_pd_sync.stop_worker()');
ok($t->wait_for(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync delivery'}, '0'), 'the delivery worker leaves');
$t->sql('SELECT exact_pd_sync.start_worker()');
complete('whoever may connect cannot keep the worker away');
$outsider->quit;

# The first one lives, but longer than its lease nothing is heard of it.
busy();
$old = delivery_pid();
kill 'STOP', $old;
$t->clear_faults;
$t->sql(q{UPDATE exact_pd_sync.jobs SET lease_until = lease_until - interval '1 day' WHERE state = 'sending'});
my $launcher = $t->sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync launcher'});
$t->sql("SELECT pg_terminate_backend($launcher)");
ok($t->wait_for("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync launcher' AND pid <> $launcher"), 'the launcher is killed and comes back');
$t->node->reload;
@sent = $t->pipedrive_calls(sub { new_orders(2) });
is($t->sql(q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync delivery'}), $old, 'no second worker takes over');
is(scalar @sent, 0, '... nothing is sent meanwhile');
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.jobs WHERE state = 'sending'}), '2', '... and what is being sent stays its own');
kill 'CONT', $old;
$t->sql("SELECT pg_terminate_backend($old)");
complete('after a stop that outlived the lease');

# ----------
note 'no free slot';
# ----------
# PostgreSQL's own launcher and ours take two, the other database the rest.
$t->sql('CREATE DATABASE other', db => 'postgres');
$t->node->append_conf('postgresql.conf', "max_worker_processes = 4\nexact_pd_sync.databases = 'other,sync'\n");
$position = $t->log_position;
$t->node->restart;
workers_become('other', 'delivery intake', 'the database listed first has its workers');
sending_becomes(qr/^red .*no free worker slot.*max_worker_processes/, 'the other has none, and status says why');
new_orders();
$t->node->reload;
my $warnings = () = $t->log_since($position) =~ /WARNING: .*no free worker slot/g;
cmp_ok($warnings, '<=', 2, 'the log says it once for each look at the settings');
like($t->log_since($position), qr/HINT:  Raise max_worker_processes/, '... and what to do');
# A try that has just failed: the next one by the clock would be half a minute later.
is($t->sql('SELECT exact_pd_sync.start_worker()'), 'f', 'start_worker() finds no slot either');
$t->sql('DROP DATABASE other', db => 'postgres');
workers_become('sync', 'delivery intake', 'as soon as two are freed it gets them', 20);
complete('after the shortage');
$position = $t->log_position;
$t->sql('CREATE DATABASE other', db => 'postgres');
$until = time + 30;
usleep(50_000) until $t->log_since($position) =~ /for database "other": no free worker slot/ || time > $until;
like($t->log_since($position), qr/for database "other": no free worker slot/, 'the next shortage is said again');
complete('who has workers keeps them');

# ----------
note 'not preloaded, and again';
# ----------
$t->node->append_conf('postgresql.conf', "max_worker_processes = 16\nexact_pd_sync.databases = 'sync'\nshared_preload_libraries = ''\n");
$t->node->restart;
like($t->sql($sending), qr/^red .*not in shared_preload_libraries/, 'without preloading nothing runs, and status says why');
new_orders(2);
$t->node->append_conf('postgresql.conf', "shared_preload_libraries = 'exact_pd_sync'\n");
$t->node->restart;
workers_become('sync', 'delivery intake', 'preloaded again it has workers');
complete('what was staged meanwhile');

$t->done;
