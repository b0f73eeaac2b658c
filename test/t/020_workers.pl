# The life of the launcher and the workers: start, wake, stop, get out of the
# way, come back.  No network: nothing is configured in these databases.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# Longer than any test here: whatever happens sooner was caused by a wake-up.
my $settings = q{
exact_pd_sync.poll_interval = '10min'
max_worker_processes = 16
log_statement = none
restart_after_crash = on
};

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1, extra => [ "--encoding=UTF8", "--locale=C.UTF-8" ]);
$node->append_conf('postgresql.conf', $settings);

# Workers that exist, by database; "launcher" for the one that has none.
my $workers_sql = q{
SELECT coalesce(string_agg(coalesce(datname, 'none') || ':' ||
    replace(backend_type, 'exact_pd_sync ', ''), ' ' ORDER BY datname NULLS FIRST, backend_type), '')
FROM pg_stat_activity WHERE backend_type LIKE 'exact_pd_sync %'};

sub workers_become
{
	my ($expected, $name, $on) = @_;
	$on //= $node;
	ok($on->poll_query_until('postgres', $workers_sql, $expected), $name)
	  or diag($on->safe_psql('postgres', $workers_sql));
	return;
}

sub workers_of
{
	my ($db) = @_;
	return $node->safe_psql('postgres',
		"SELECT string_agg(pid::text, ' ' ORDER BY backend_type) FROM pg_stat_activity "
		  . "WHERE backend_type LIKE 'exact_pd_sync %' AND datname = '$db'");
}

sub log_count
{
	my ($pattern, $on) = @_;
	$on //= $node;
	my $count = () = slurp_file($on->logfile) =~ /$pattern/g;
	return $count;
}

# ----------
note 'not preloaded';
# ----------
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION exact_pd_sync');
is($node->safe_psql('postgres', 'SELECT exact_pd_sync.preloaded()'),
	'f', 'the extension works without being preloaded');
is($node->safe_psql('postgres', "SELECT exact_pd_sync.worker_pid('delivery')"),
	'0', '... but has no worker');
is($node->safe_psql('postgres', 'SELECT exact_pd_sync.stop_worker()'),
	't', '... so that all of them are stopped');
my ($rc, $out, $err) = $node->psql('postgres', 'SELECT exact_pd_sync.start_worker()');
is($out, 'f', '... and none can be started');
like($err, qr/not preloaded.*shared_preload_libraries/s, '... for a reason that is told');
$node->safe_psql('postgres', 'DROP EXTENSION exact_pd_sync');

# ----------
note 'the launcher and its list';
# ----------
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'exact_pd_sync'\n");
$node->restart;
workers_become('none:launcher', 'an empty list starts the launcher alone');
is(log_count(qr/exact_pd_sync\.databases is empty/), 1, '... which says so, once');

$node->safe_psql('postgres', 'CREATE DATABASE alpha');
$node->safe_psql('postgres', 'CREATE DATABASE "beTa,1"');
$node->safe_psql('postgres',
	q{ALTER SYSTEM SET exact_pd_sync.databases = 'alpha, nosuch, "beTa,1", alpha'});
$node->reload;
workers_become('none:launcher alpha:delivery alpha:intake beTa,1:delivery beTa,1:intake',
	'a reload starts the workers of every database listed');
$node->safe_psql('postgres', 'SELECT pg_reload_conf()') for 1 .. 3;
$node->poll_query_until('postgres', $workers_sql,
	'none:launcher alpha:delivery alpha:intake beTa,1:delivery beTa,1:intake');
is(log_count(qr/Database "nosuch": it does not exist/), 1, 'a missing one is named once');
$node->safe_psql('postgres', 'CREATE DATABASE nosuch');
workers_become(
	'none:launcher alpha:delivery alpha:intake beTa,1:delivery beTa,1:intake nosuch:delivery nosuch:intake',
	'it gets workers as soon as it is created');
$node->safe_psql('postgres', q{ALTER SYSTEM SET exact_pd_sync.databases = 'alpha'});
$node->reload;
workers_become('none:launcher alpha:delivery alpha:intake', 'unlisted databases lose theirs');
isnt(
	$node->psql('postgres', q{ALTER SYSTEM SET exact_pd_sync.databases = 'alpha,,beta'}),
	0, 'a malformed list is refused');

# ----------
note 'the extension comes and goes';
# ----------
$node->poll_query_until('postgres',
	"SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = 'alpha' AND state = 'idle' AND query LIKE 'waiting for CREATE EXTENSION%'"
) or die 'workers do not wait for the extension';
pass('without the extension workers wait for it, and say so');
my $before = workers_of('alpha');
$node->safe_psql('alpha', 'CREATE EXTENSION exact_pd_sync');
ok( $node->poll_query_until('postgres',
		"SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = 'alpha' AND query NOT LIKE 'waiting for CREATE%' AND backend_type LIKE 'exact_pd_sync %'"
	),
	'CREATE EXTENSION wakes them');
is(workers_of('alpha'), $before, '... without a restart');
is( $node->safe_psql('alpha',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'exact_pd_sync %' AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)"
	),
	'0',
	'idle workers hold no snapshot');
is( $node->safe_psql('alpha',
		"SELECT exact_pd_sync.worker_pid('delivery') || ' ' || exact_pd_sync.worker_pid('intake')"),
	$before, 'worker_pid() knows them');

my $session = $node->background_psql('alpha', on_error_stop => 0);
$session->query_safe('BEGIN');
$session->query_safe('DROP EXTENSION exact_pd_sync');
workers_become('none:launcher', 'DROP EXTENSION sends the workers away');
$session->query_safe('ROLLBACK');
workers_become('none:launcher alpha:delivery alpha:intake', '... and a rollback brings them back');
$session->quit;

# ----------
note 'stop and start';
# ----------
is($node->safe_psql('alpha', 'SELECT exact_pd_sync.stop_worker()'), 't', 'stop_worker() stops both');
is($node->safe_psql('postgres', $workers_sql), 'none:launcher', '... before it returns');
$node->reload;
is($node->safe_psql('alpha', 'SELECT exact_pd_sync.start_worker()'), 't', 'start_worker() starts both');
is( $node->safe_psql('postgres', $workers_sql),
	'none:launcher alpha:delivery alpha:intake',
	'... before it returns');
($rc, $out, $err) = $node->psql('nosuch',
	'CREATE EXTENSION exact_pd_sync; SELECT exact_pd_sync.start_worker()');
like($err, qr/exact_pd_sync\.databases does not name it/, 'an unlisted database is told why not');

# ----------
note 'commands that a connected worker would block';
# ----------
$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN CREATEDB');
$before = workers_of('alpha');
isnt($node->psql('postgres', 'DROP DATABASE alpha', extra_params => [ '-U', 'nobody' ]),
	0, 'who does not own a database cannot drop it');
isnt($node->psql('postgres', 'ALTER DATABASE alpha RENAME TO x', extra_params => [ '-U', 'nobody' ]),
	0, '... nor rename it');
is(workers_of('alpha'), $before, '... nor stop its workers by trying');

my $start = time;
is($node->psql('postgres', 'CREATE DATABASE copy TEMPLATE alpha'), 0, 'a database with workers can be a template');
cmp_ok(time - $start, '<', 4, '... without waiting for PostgreSQL to give up');
workers_become('none:launcher alpha:delivery alpha:intake', '... and has workers again afterwards');
is($node->psql('postgres', 'ALTER DATABASE alpha RENAME TO gamma'), 0, 'it can be renamed');
workers_become('none:launcher', '... and is then not listed any more');
is($node->psql('postgres', 'ALTER DATABASE gamma RENAME TO alpha'), 0, 'renamed back');
workers_become('none:launcher alpha:delivery alpha:intake', '... it gets its workers back');
is($node->psql('postgres', 'DROP DATABASE alpha'), 0, 'it can be dropped');
workers_become('none:launcher', '... and that is the end of its workers');
$node->safe_psql('postgres', 'CREATE DATABASE alpha TEMPLATE copy');
workers_become('none:launcher alpha:delivery alpha:intake', 'a new one of that name gets its own');

# ----------
note 'death and return';
# ----------
my ($delivery) = split / /, workers_of('alpha');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($delivery)");
ok( $node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync delivery' AND pid <> $delivery"
	),
	'a terminated worker comes back');
$before = workers_of('alpha');
my $launcher = $node->safe_psql('postgres',
	"SELECT pid FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync launcher'");
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok( $node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync launcher' AND pid <> $launcher"
	),
	'so does a terminated launcher');
is(workers_of('alpha'), $before, '... and leaves the workers it finds alone');

my $victim = $node->background_psql('postgres', on_error_stop => 0);
my $victim_pid = $victim->query_safe('SELECT pg_backend_pid()');
kill 'KILL', $victim_pid;
eval { $victim->quit };
$node->poll_query_until('postgres', 'SELECT true');
workers_become('none:launcher alpha:delivery alpha:intake', 'all come back after a crash of another backend');

# ----------
note 'as whom they connect';
# ----------
$node->safe_psql('postgres', 'CREATE ROLE sync_worker LOGIN');
$node->safe_psql('alpha', q{SELECT exact_pd_sync.grant_worker('sync_worker')});
$node->safe_psql('postgres', q{ALTER SYSTEM SET exact_pd_sync.role = 'sync_worker'});
$node->restart;
ok( $node->poll_query_until('postgres',
		"SELECT count(*) = 2 FROM pg_stat_activity WHERE usename = 'sync_worker' AND backend_type LIKE 'exact_pd_sync %'"
	),
	'workers connect as exact_pd_sync.role');
$node->safe_psql('postgres', q{ALTER SYSTEM RESET exact_pd_sync.role});

# ----------
note 'no room';
# ----------
# logical replication's launcher takes one, ours the other
$node->append_conf('postgresql.conf', "max_worker_processes = 2\n");
$node->restart;
workers_become('none:launcher', 'without free slots the launcher goes on');
ok( $node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event IS NOT NULL AND backend_type = 'exact_pd_sync launcher'"
	),
	'... and does not spin');
$node->safe_psql('postgres', "SELECT pg_reload_conf(), pg_sleep(0.2)");
cmp_ok(log_count(qr/no free worker slot/), '<=', 4, '... and does not fill the log');
$node->append_conf('postgresql.conf', "max_worker_processes = 16\n");
$node->restart;

# ----------
note 'standby and promotion';
# ----------
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
is($standby->safe_psql('postgres', $workers_sql), '', 'nothing runs on a standby');
my $identity = 'SELECT exact_pd_sync.instance_identity()';
my $of_primary = $node->safe_psql('alpha', $identity);
isnt($standby->safe_psql('alpha', $identity), $of_primary, 'a copy of the files has another identity');
$standby->promote;
workers_become('none:launcher alpha:delivery alpha:intake', 'a promotion starts the workers', $standby);
isnt(
	$standby->safe_psql('alpha', q{SELECT exact_pd_sync.instance_identity()::json ->> 'timeline'}),
	$node->safe_psql('alpha', q{SELECT exact_pd_sync.instance_identity()::json ->> 'timeline'}),
	'... and is seen in the timeline');
is($node->safe_psql('alpha', $identity), $of_primary, 'the identity of the primary has not changed');
$standby->stop;

$start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 5, 'a fast shutdown does not wait for the workers');
is(log_count(qr/terminated by signal (?!9:)/), 0, 'no process died by a signal that the test did not send');

done_testing();
