# The jobs in pg_cron: which, where, as whom; and that a run that failed shows
# as one.
#
# pg_cron acts once a minute.  So that nobody has to wait for that, jobs are made
# to run when the server starts; name, command, database and user stay as
# schedule() has put them.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($sharedir) = run_command([ 'pg_config', '--sharedir' ]);
plan skip_all => 'pg_cron is not installed' unless -e "$sharedir/extension/pg_cron.control";

my $t = EpdsTest->new('schedule', orders => 4, items => 6, customers => 3, seed => 18, cron => 'sync');
my $jobs = q{SELECT jobname, schedule, command, database, username, active FROM cron.job ORDER BY jobname};
my $user = $t->sql('SELECT current_user');
my %schedule = (
	nightly => '23 2 * * *',
	poll_customers => '7-59/15 * * * *',
	poll_orders => '*/5 * * * *',
	poll_products => '*/15 * * * *',
	reconcile => '41 3 * * *',
	webhooks => '11 5 * * *');
my %procedure = (webhooks => 'subscribe_webhooks');

sub expected_jobs
{
	my ($db, $as) = @_;
	return join "\n",
	  map { "exact_pd_sync $_ $db|$schedule{$_}|CALL exact_pd_sync.@{[ $procedure{$_} // $_ ]}()|$db|$as|t" } sort keys %schedule;
}

# ----------
note 'without pg_cron';
# ----------
my ($status, $out, $err) = $t->try('SELECT exact_pd_sync.schedule()');
is($status, 0, 'without pg_cron schedule() fails nobody');
like($err, qr/NOTICE: .*pg_cron is not in this database.*HINT:.*\\gexec/s, '... and says what to do');
is(scalar(() = $out =~ /^SELECT cron\.schedule_in_database\(/mg), scalar keys %schedule, '... with the statements');
is($t->sql('SELECT count(*) FROM exact_pd_sync.schedule_list()'), '0', 'there are no jobs');

# ----------
note 'pg_cron in the same database';
# ----------
$t->sql('CREATE EXTENSION pg_cron');
$t->sql(q{SELECT cron.schedule('mine', '0 0 1 1 *', 'SELECT 1'),
	cron.schedule('exact_pd_sync poll_orders', '0 0 1 1 *', 'SELECT 2'),
	cron.schedule('exact_pd_sync poll_orders elsewhere', '0 0 1 1 *', 'SELECT 3')});
my $foreign = $t->sql($jobs);
is(scalar(split /\n/, $t->sql('SELECT exact_pd_sync.schedule()')), scalar keys %schedule, 'schedule() says what it has done');
my $ours = q{SELECT jobname, schedule, command, database, username, active FROM cron.job WHERE jobname LIKE '% sync' ORDER BY jobname};
is($t->sql($ours), expected_jobs('sync', $user), 'each job is there, for this database and this user');
my $ids = $t->sql(q{SELECT string_agg(jobid::text, ' ' ORDER BY jobid) FROM cron.job});
$t->sql('SELECT exact_pd_sync.schedule()');
is($t->sql($ours), expected_jobs('sync', $user), 'a second schedule() changes nothing');
is($t->sql(q{SELECT string_agg(jobid::text, ' ' ORDER BY jobid) FROM cron.job}), $ids, '... and makes no job anew');
is($t->sql('SELECT count(*) FROM exact_pd_sync.schedule_list()'), scalar keys %schedule, 'schedule_list() knows them');
$t->sql('CREATE ROLE sync_worker LOGIN');
$t->sql(q{SET exact_pd_sync.role = 'sync_worker'; SELECT exact_pd_sync.schedule()});
is($t->sql($ours), expected_jobs('sync', 'sync_worker'), 'with exact_pd_sync.role they run as that role, and only so');
is($t->sql('SELECT count(*) FROM exact_pd_sync.unschedule()'), scalar keys %schedule, 'unschedule() says what it has removed');
is($t->sql($jobs), $foreign, '... which is exactly those');
is($t->sql('SELECT count(*) FROM exact_pd_sync.unschedule()'), '0', 'a second unschedule() finds none');
$t->sql('SELECT exact_pd_sync.schedule()');

# ----------
note 'what the history says';
# ----------
my $details = q{SELECT DISTINCT ON (j.jobname) j.jobname || ': ' || d.status || ' ' || coalesce(d.return_message, '')
	FROM cron.job_run_details d JOIN cron.job j USING (jobid) WHERE d.runid > %d AND j.jobname LIKE '%% %s' ORDER BY j.jobname, d.runid DESC};

# Restarts the server, which runs the jobs of a database; their history by name.
sub run_jobs
{
	my ($db) = @_;
	my $last = $t->sql('SELECT coalesce(max(runid), 0) FROM cron.job_run_details');
	$t->sql("UPDATE cron.job SET schedule = '\@reboot' WHERE jobname LIKE '% $db'");
	$t->node->restart;
	ok($t->wait_for("SELECT count(*) = @{[ scalar keys %schedule ]} FROM cron.job_run_details d WHERE d.runid > $last AND d.end_time IS NOT NULL"),
		'pg_cron runs the jobs') or diag($t->sql('SELECT * FROM cron.job_run_details'));
	$t->sql("UPDATE cron.job SET schedule = '0 0 1 1 *' WHERE jobname LIKE '% $db'");
	return { map { /^exact_pd_sync (\w+) \w+: (.*)/s ? ($1 => $2) : () } split /\n(?=exact_pd_sync )/,
		$t->sql(sprintf $details, $last, $db) };
}

my $history = run_jobs('sync');
like($history->{$_}, qr/^succeeded/, "nothing is configured, so nothing fails: $_") foreach qw(poll_orders poll_products poll_customers reconcile);
like($history->{nightly}, qr/^succeeded/, 'the nightly job needs no service');

$t->connect;
$history = run_jobs('sync');
like($history->{$_}, qr/^succeeded/, "connected: $_ succeeds") foreach sort keys %schedule;
is($t->sql('SELECT count(*) FROM exact_pd_sync.exact_sales_orders'), scalar($t->numbers), '... and has read the orders');
is($t->sql(q{SELECT state FROM exact_pd_sync.verify() WHERE check_name = 'schedule'}), 'ok', 'verify() sees the jobs');

$t->fault(side => 'exact', path => 'SalesOrderLines', times => 0, action => { status => 503, body => 'down for maintenance' });
$history = run_jobs('sync');
like($history->{poll_orders}, qr/^failed .*could not read feed "sales_order_lines".*503/s, 'a feed that fails makes the run a failure');
like($history->{poll_products}, qr/^succeeded/, '... and the other jobs are none');
is($t->sql(q{SELECT state FROM exact_pd_sync.sync_runs WHERE what = 'poll_orders' ORDER BY id DESC LIMIT 1}), 'failed',
	'... as in our own journal');
$t->clear_faults;

$t->post('/exact/revoke');
$history = run_jobs('sync');
like($history->{$_}, qr/^failed .*(consent|rejected the access token)/s, "a consent withdrawn: $_ fails") foreach qw(poll_orders poll_products poll_customers);
$t->consent;

# ----------
note 'pg_cron in another database';
# ----------
$t->sql('CREATE DATABASE other');
$t->sql('CREATE EXTENSION exact_pd_sync', db => 'other');
($status, $out, $err) = $t->try('SELECT exact_pd_sync.schedule()', db => 'other');
like($err, qr/NOTICE: .*pg_cron is not in this database.*cron\.database_name is "sync".*HINT/s, 'schedule() says where pg_cron lives');
unlike($out, qr/[^;]$/m, '... and returns whole statements');
$t->sql($out);
is($t->sql(q{SELECT jobname, schedule, command, database, username, active FROM cron.job WHERE database = 'other' ORDER BY jobname}),
	expected_jobs('other', $user), '... which put its jobs there');
$t->sql($t->sql(q{SET exact_pd_sync.role = 'sync_worker'; SELECT exact_pd_sync.schedule()}, db => 'other'));
is($t->sql(q{SELECT count(*) || ' as ' || min(username) FROM cron.job WHERE database = 'other'}), keys(%schedule) . ' as sync_worker', '... for one user at a time');
$t->sql($out);
$history = run_jobs('other');
like($history->{nightly}, qr/^succeeded/, 'they run in the other database');
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.unschedule()}), scalar keys %schedule, 'unschedule() in this one');
is($t->sql(q{SELECT string_agg(DISTINCT database, ' ') FROM cron.job WHERE jobname LIKE 'exact_pd_sync % other'}), 'other', '... leaves those of the other alone');
$t->sql($t->sql('SELECT * FROM exact_pd_sync.unschedule()', db => 'other'));
is($t->sql($jobs), $foreign, 'its own statements remove them, and nothing else');

$t->no_violations;
$t->done;
