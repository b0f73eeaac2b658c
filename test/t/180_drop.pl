# DROP EXTENSION, DROP DATABASE and what else a worker would be in the way of,
# while the workers are busy; and that nothing is lost or made twice by it.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use Test::More;
use Time::HiRes qw(time);

# What stop_worker() promises; the workers grant the answers under way a moment.
my $soon = 5;

my $t = EpdsTest->new(
	'drop',
	orders => 6,
	items => 10,
	customers => 4,
	seed => 19,
	switches => { burst_limit => 1000 },
	databases => 'sync, copy',
	conf => "exact_pd_sync.poll_interval = '500ms'");

my $workers = q{SELECT coalesce(string_agg(replace(backend_type, 'exact_pd_sync ', ''), ' ' ORDER BY backend_type), '')
	FROM pg_stat_activity WHERE backend_type LIKE 'exact_pd_sync %' AND datname = '};

sub workers_become
{
	my ($db, $expected, $name) = @_;
	return ok($t->wait_for("$workers$db'", $expected, 30, db => 'postgres'), $name);
}

# Makes the delivery worker wait for answers that do not come, with changes still to send.
sub busy
{
	$t->fault(side => 'pipedrive', path => 'deals', method => 'POST', times => 3, action => { hang => 'headers', seconds => 120 });
	$t->post('/exact/orders', { count => 3, lines => 2 });
	$t->poll('orders');
	my $until = time + 30;
	until (grep { $_->{hits} == 3 } @{ $t->get('/faults') })
	{
		die 'no request is under way' if time > $until;
		Time::HiRes::usleep(10_000);
	}
	return;
}

# Runs a command as a person would and says how it went.
sub command_in_time
{
	my ($sql, $name, $db) = @_;
	my $start = time;
	my ($status, undef, $err) = $t->try($sql, db => $db // 'postgres');
	is($status, 0, "$name works while a request is under way") or diag($err);
	cmp_ok(time - $start, '<', $soon, '... soon');
	return;
}

sub complete
{
	my ($name) = @_;
	$t->clear_faults;
	$t->poll('orders');
	ok($t->settle, "$name: everything is sent");
	my %lines = map { $_->{fields}{Ordernummer} => scalar @{ $_->{products} } } $t->deals;
	is( join(' ', map { "$_:$lines{$_}" } sort keys %lines),
		join(' ', sort map { "$_->{OrderNumber}:" . @{ $_->{lines} } } $t->orders),
		"$name: every order is a deal with its lines");
	is($t->sql('SELECT count(*) FROM exact_pd_sync.dead_letters'), '0', "$name: no dead letters");
	$t->no_violations("$name: nothing twice");
	return;
}

ok($t->first_run, 'the first run is through');

# ----------
note 'DROP EXTENSION';
# ----------
busy();
command_in_time('BEGIN; DROP EXTENSION exact_pd_sync; ROLLBACK', 'DROP EXTENSION with ROLLBACK', 'sync');
workers_become('sync', 'delivery intake', 'the workers come back');
complete('after the ROLLBACK');

# a person's poll hangs as well; it holds nothing, so it is in nobody's way
busy();
$t->fault(side => 'exact', path => 'SalesOrderHeaders', times => 1, action => { hang => 'headers', seconds => 4 });
my $run = $t->background('CALL exact_pd_sync.poll_orders()');
my $pid = $run->(pid => 1);
ok($t->wait_for("SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid"), 'a poll hangs');
my $records = scalar $t->deals;
command_in_time('DROP EXTENSION exact_pd_sync', 'DROP EXTENSION', 'sync');
my (undef, $err) = $run->();
like($err, qr/ERROR: .*(extension|exact_pd_sync)/, 'the poll ends with an error that names the reason') and note $err;
unlike($err, qr/XX000|server closed/, '... and not as an accident');
ok( $t->wait_for(
		q{SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = 'sync' AND state = 'idle' AND query LIKE 'waiting for CREATE EXTENSION%'},
		't', 30),
	'the workers wait for the extension');
is($t->sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'exact_pd_sync %' AND backend_xmin IS NOT NULL}), '0', '... and hold nothing');
is($t->sql(q{SELECT count(*) FROM pg_class WHERE relnamespace = 'exact_pd_sync'::regnamespace}), '0', 'nothing of it is left');

# ----------
note 'CREATE EXTENSION';
# ----------
$t->clear_faults;
my $before = $t->sql(q{SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity WHERE datname = 'sync' AND backend_type LIKE 'exact_pd_sync %'});
$t->sql('CREATE EXTENSION exact_pd_sync');
ok( $t->wait_for(
		q{SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = 'sync' AND backend_type LIKE 'exact_pd_sync %' AND query NOT LIKE 'waiting for CREATE%'}),
	'the workers see it');
is($t->sql(q{SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity WHERE datname = 'sync' AND backend_type LIKE 'exact_pd_sync %'}),
	$before, '... without a restart');
$t->connect;
$t->import_history;
$t->poll;
$t->resume;
complete('a new installation on the same account');
cmp_ok($t->sql(q{SELECT count(*) FROM exact_pd_sync.links WHERE kind = 'deal' AND adopted}), '>=', $records, '... has adopted every deal that was there');

# ----------
note 'ALTER DATABASE RENAME';
# ----------
busy();
command_in_time('ALTER DATABASE sync RENAME TO elsewhere', 'RENAME');
workers_become('elsewhere', '', 'a database that is not listed has no workers');
like(($t->try('CALL exact_pd_sync.poll_orders()', db => 'elsewhere'))[2], qr/ERROR:  55000: .*copy, restored or promoted.*HINT:.*confirm_instance/s,
	'under another name it does not speak to Exact');
command_in_time('ALTER DATABASE elsewhere RENAME TO sync', 'RENAME back');
workers_become('sync', 'delivery intake', 'under its old name it has workers again');
complete('after the RENAME');
busy();
my $session = $t->session;
isnt($t->node->psql('postgres', 'ALTER DATABASE sync RENAME TO elsewhere'), 0, 'while somebody else is connected RENAME fails');
$session->quit;
workers_become('sync', 'delivery intake', '... and the workers come back');
complete('after the RENAME that failed');

# ----------
note 'CREATE DATABASE TEMPLATE';
# ----------
busy();
command_in_time('CREATE DATABASE copy TEMPLATE sync', 'CREATE DATABASE TEMPLATE');
workers_become('sync', 'delivery intake', 'the template has its workers again');
workers_become('copy', 'delivery intake', 'the copy has some, too');
complete('after the copy');

# The copy holds the same tokens and links; used, they would end the original's consent and make things twice.
is($t->sql('SELECT exact_pd_sync.stop_worker()'), 't', 'the original stands still');
my @calls = $t->exact_calls(sub {
	my @sent = $t->pipedrive_calls(sub {
		$t->token_age(601);
		$t->sql(q{UPDATE exact_pd_sync.exact_consent SET issued_at = issued_at - interval '601 s', access_expires_at = access_expires_at - interval '601 s'}, db => 'copy');
		my $since = $t->sql(q{INSERT INTO exact_pd_sync.job_signals (kind, reason) VALUES ('all_deals', 'test');
			SELECT exact_pd_sync.wake_worker('delivery'), exact_pd_sync.wake_worker('intake');
			SELECT clock_timestamp()}, db => 'copy');
		$since =~ s/^[^\d]*//;
		# both wake as often; the intake worker shows when it has done so for the third time since
		ok($t->wait_for(qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 'copy' AND backend_type = 'exact_pd_sync intake'
			AND state_change > timestamptz '$since' + interval '1.5 s'}, 't', 30, db => 'postgres'), 'the workers of the copy have looked');
		my ($status, undef, $said) = $t->try('CALL exact_pd_sync.poll_all()', db => 'copy');
		like($said, qr/ERROR:  55000: .*copy, restored or promoted.*HINT:.*confirm_instance/s, 'a poll in the copy is refused, and says why');
		(undef, undef, $said) = $t->try('SELECT exact_pd_sync.resume()', db => 'copy');
		like($said, qr/ERROR:  55000: .*copy/, '... as is resume()');
	});
	is(scalar @sent, 0, 'the copy has sent nothing to Pipedrive');
});
is(scalar @calls, 0, '... and asked Exact for nothing, least of all for a token');
like($t->sql(q{SELECT state || ' ' || detail FROM exact_pd_sync.status WHERE part = 'sending'}, db => 'copy'),
	qr/^red this database is a copy.*confirm_instance/, 'status of the copy says so');
is($t->sql('SELECT exact_pd_sync.start_worker()'), 't', 'the original goes on');
ok($t->wait_for(q{SELECT issued_at > clock_timestamp() - interval '5 min' FROM exact_pd_sync.exact_consent}), '... with a token that still works');
complete('the original');

# ----------
note 'DROP DATABASE';
# ----------
busy();
command_in_time('DROP DATABASE copy', 'DROP DATABASE of the copy');
workers_become('sync', 'delivery intake', '... leaves the workers of the other alone');
command_in_time('DROP DATABASE sync', 'DROP DATABASE');
is($t->node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'exact_pd_sync %' AND datname IS NOT NULL}),
	'0', '... and no worker is left');
$t->clear_faults;
$t->no_violations;
$t->done;
