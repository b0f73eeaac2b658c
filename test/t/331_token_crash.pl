# The token pair of Exact when things go wrong in the middle of a rotation.
#
# Belongs here: processes and servers killed at each point of a refresh, a token
# endpoint that fails or talks nonsense, an app that is not accepted, and how
# seldom the endpoint is asked through all of that.  Does not belong here: when a
# refresh is due, who does it, and answers that get lost on the way (140_token.pl).

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use JSON::PP ();
use Test::More;
use Time::HiRes qw(time usleep);

my $true = JSON::PP::true;

# Commits may be late, but not those of tokens: what is not synced is lost here.
my $t = EpdsTest->new(
	'token_crash',
	orders => 1,
	items => 2,
	customers => 2,
	seed => 31,
	blackhole => 1,
	# many calls are looked at, none of their bodies
	switches => { log_bodies => JSON::PP::false },
	conf => "restart_after_crash = on\nexact_pd_sync.poll_interval = '200ms'\nsynchronous_commit = off\nwal_writer_delay = '10s'\n");
$t->connect_app;
$t->consent;
$t->add_division;
my $blackhole = "http://127.0.0.1:$t->{ready}{blackhole}";
my $token = '/api/oauth2/token';

sub consent { return $t->sql('SELECT ' . $_[0] . ' FROM exact_pd_sync.exact_consent'); }
sub status { return $t->sql(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'exact consent'}); }
sub worker { return $t->sql(q{SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync intake'}); }
sub no_wait { $t->sql('UPDATE exact_pd_sync.exact_consent SET retry_at = NULL'); return; }

sub token_calls
{
	my ($code) = @_;
	# a call that only hung was not answered, nor did it lead to anything
	return join ' ', map { $_->{operation} // 'fault' } grep { $_->{path} eq $token && ($_->{note} // '') !~ /nothing executed/ } $t->exact_calls($code);
}

sub until_true
{
	my ($what, $code) = @_;
	my $until = time + 60;
	until ($code->())
	{
		die "$what: not within a minute" if time > $until;
		usleep(5_000);
	}
	return;
}

sub is_met { my ($id) = @_; return (grep { $_->{id} == $id } @{ $t->get('/faults') })[0]{hits}; }

# Some turns of the worker, in which it has the time to do what it should not.
sub some_turns
{
	my $seen = $t->sql("SELECT coalesce(sum(xact_commit), 0) FROM pg_stat_database WHERE datname = 'sync'");
	my $pid = worker();
	for (1 .. 3)
	{
		my $changed = $t->sql("SELECT state_change FROM pg_stat_activity WHERE pid = $pid");
		$t->wait_for("SELECT state_change > '$changed' AND state = 'idle' FROM pg_stat_activity WHERE pid = $pid");
	}
	return;
}

# ----------
# Points of a rotation, and ways to end there
# ----------

# Each brings the intake worker to a point and leaves it there.
sub fault_until_met
{
	my (%action) = @_;
	my $id = $t->fault(side => 'exact', path => $token, action => \%action);
	$t->token_age(580);
	until_true('the token endpoint is asked', sub { is_met($id) });
	return;
}

my ($blocker, $poll, $who);
my %point = (
	'before the request' => sub {
		$t->sql("UPDATE exact_pd_sync.settings SET value = '$blackhole' WHERE name = 'exact_base_url'");
		$t->token_age(580);
		$t->wait_for('SELECT failures > 0 FROM exact_pd_sync.exact_consent') or die 'no refresh is announced';
	},
	'while the request hangs' => sub { fault_until_met(hang => 'headers', seconds => 300) },
	'while the answer comes' => sub { fault_until_met(execute => $true, hang => 'body', seconds => 300) },
	'after Exact rotated' => sub { fault_until_met(execute => $true, hang => 'headers', seconds => 300) },
	'before the pair is stored' => sub {
		fault_until_met(execute => $true, delay_ms => 700);
		$blocker = $t->session;
		$blocker->query_safe('BEGIN');
		$blocker->query_safe(q{SELECT name FROM exact_pd_sync.credentials FOR UPDATE});
		my $pid = worker();
		$t->wait_for("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid") or die 'the pair is not about to be stored';
	},
	'after the pair is stored' => sub {
		# by a session: a worker's commits are never late
		my $before = consent('generation');
		$t->sql('SELECT exact_pd_sync.stop_worker()');
		$t->token_age(601);
		$t->fault(side => 'exact', path => 'sync/CRM/Accounts', action => { hang => 'headers', seconds => 300 });
		$poll = $t->background('CALL exact_pd_sync.poll_customers()');
		my $pid = $poll->(pid => 1);
		$t->wait_for("SELECT generation > $before FROM exact_pd_sync.exact_consent") or die 'no refresh';
		$who = $pid;
	});

my %end = (
	'killed worker' => sub {
		my $pid = $who // worker();
		kill 'KILL', $pid or die "cannot kill $pid: $!";
		$t->node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
	},
	'terminated worker' => sub {
		my $pid = worker();
		$t->sql("SELECT pg_terminate_backend($pid, 10000)");
		$t->sql('SELECT exact_pd_sync.start_worker()');
	},
	'immediate stop' => sub { $t->node->stop('immediate'); $t->node->rotate_logfile; $t->node->start; },
	'killed postmaster' => sub { $t->crash; });

# Point, ways, seconds of grace that Exact gives a spent token, what must come of it.
my @cases = (
	[ 'before the request', [ sort keys %end ], 0, 'refreshed' ],
	[ 'while the request hangs', [ 'immediate stop', 'killed worker', 'terminated worker' ], 0, 'refreshed' ],
	[ 'while the answer comes', ['killed worker'], 0, 'consent' ],
	[ 'after Exact rotated', [ 'killed postmaster', 'terminated worker' ], 0, 'consent' ],
	[ 'after Exact rotated', [ sort keys %end ], 600, 'refreshed' ],
	[ 'before the pair is stored', [ 'immediate stop', 'killed worker' ], 0, 'consent' ],
	[ 'before the pair is stored', ['killed postmaster'], 600, 'refreshed' ],
	[ 'after the pair is stored', [ 'immediate stop', 'killed postmaster', 'killed worker' ], 0, 'stored' ]);

foreach my $case (@cases)
{
	my ($point, $ends, $grace, $outcome) = @$case;
	foreach my $end (@$ends)
	{
		my $name = "$end $point" . ($outcome eq 'refreshed' && $grace ? ', with grace' : '');
		$t->switches(exact_refresh_grace_s => $grace);
		my $before = consent('generation');
		$point{$point}->();
		my $calls = token_calls(
			sub {
				$end{$end}->();
				$t->clear_faults;
				$t->sql("UPDATE exact_pd_sync.settings SET value = '$t->{ready}{exact}' WHERE name = 'exact_base_url'");
				no_wait();
				if ($outcome eq 'consent')
				{
					ok($t->wait_for(q{SELECT state = 'auth_required' FROM exact_pd_sync.exact_consent}), "$name: a person is asked");
				}
				else
				{
					ok($t->wait_for("SELECT state = 'ok' AND generation = $before + 1 FROM exact_pd_sync.exact_consent"),
						"$name: nobody notices") or diag(status());
				}
				some_turns();
			});
		is($calls,
			{
				refreshed => $grace ? 'oauth refresh in grace' : 'oauth refresh',
				consent => 'oauth token refused',
				stored => ''
			}->{$outcome},
			"$name: the endpoint is asked as often as it takes");
		if ($outcome eq 'consent')
		{
			like(status(), qr/^red: a person must consent again: exact_authorize_url\(\)\. .*Old refresh token/, "$name: status says so");
			my (undef, undef, $err) = $t->try('CALL exact_pd_sync.poll_customers()');
			like($err, qr/ERROR:  28000: .*consent.*HINT: .*exact_authorize_url\(\).*CALL exact_pd_sync\.exact_authorize/s, "$name: a poll, too");
			$t->consent;
			like(status(), qr/^green/, "$name: one statement mends it");
		}
		$poll->() if $poll;
		undef $blocker;
		undef $poll;
		undef $who;
		$t->sql('SELECT exact_pd_sync.start_worker()');
		my ($status, undef, $err) = $t->try('CALL exact_pd_sync.poll_customers()');
		is($status, 0, "$name: the next poll works") or diag($err);
		$t->no_violations("$name: nothing forbidden");
	}
}
$t->switches(exact_refresh_grace_s => 0);
$t->node->rotate_logfile;
$t->node->restart;

# ----------
note 'an endpoint that fails';
# ----------

# A failure that was never booked counts, too: the server dies, and waits all the same.
$t->sql('UPDATE exact_pd_sync.exact_consent SET failures = 6');
$point{'while the request hangs'}->();
is( token_calls(
		sub {
			$t->node->stop('immediate');
			$t->node->rotate_logfile;
			$t->node->start;
			$t->clear_faults;
			ok($t->wait_for('SELECT exact_pd_sync.worker_pid(\'intake\') > 0'), 'a server that dies while it asks comes back');
			some_turns();
		}),
	'', '... and does not ask again at once');
cmp_ok($t->sql('SELECT exact_pd_sync._token_wait()'), '>', 200_000, '... but after the pause that was announced');

# All who need a token share one pause.
$t->fault(side => 'exact', path => $token, times => 0, action => { status => 503, body => 'Service Unavailable', content_type => 'text/plain' });
no_wait();
ok($t->wait_for("SELECT last_error LIKE '%503%' FROM exact_pd_sync.exact_consent"), 'an endpoint that is down');
$t->token_age(100);
my @said;
is( token_calls(
		sub {
			my @polls = map { $t->background("CALL exact_pd_sync.poll_$_()") } qw(orders customers products);
			@said = map { ($_->())[1] } @polls;
			push @said, ($t->try('CALL exact_pd_sync.poll_all()'))[2] for 1 .. 3;
			some_turns();
		}),
	'', '... is not asked by seven more that need it');
is(scalar(grep { /ERROR:  08001: could not refresh the tokens of Exact Online: HTTP 503/ } @said), 6, '... all of them fail, and say why');
like($said[0], qr/DETAIL:  It failed 8 times in a row, and is tried again in \d{3} seconds/, '... and until when nobody asks');
like(status(), qr/^red: no valid token: 8 refreshes brought none\. HTTP 503.*It is tried again at \d\d:\d\d/, '... which status says, too');
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.sync_runs WHERE state = 'running'}), '0', '... no run hangs about');
$t->clear_faults;
no_wait();
ok($t->wait_for('SELECT failures = 0 FROM exact_pd_sync.exact_consent'), '... then it is up again, and nobody has to do anything');
like(status(), qr/^green/, '... status is green');

# A session waits for a short pause, so that one failure is not two.
$t->sql('SELECT exact_pd_sync.stop_worker()');
$t->token_age(601);
$t->fault(side => 'exact', path => $token, action => { status => 500, body => '<h1>Server Error</h1>', content_type => 'text/html' });
my (undef, undef, $err) = $t->try('CALL exact_pd_sync.poll_customers()');
like($err, qr/ERROR:  08001: could not refresh the tokens of Exact Online: HTTP 500/, 'one failure');
is(token_calls(sub { is(($t->try('CALL exact_pd_sync.poll_customers()'))[0], 0, '... the next poll waits a little') }), 'oauth refresh', '... and gets its pair');

# An answer that is lost is asked for at once where the endpoint worked before, and
# once only where it is in trouble anyway.
foreach my $failures (0, 3)
{
	$t->sql("UPDATE exact_pd_sync.exact_consent SET failures = $failures");
	$t->token_age(601);
	my $id = $t->fault(side => 'exact', path => $token, times => 0, action => { drop => $true });
	(undef, undef, $err) = $t->try('CALL exact_pd_sync.poll_customers()');
	like($err, qr/ERROR:  08001/, "answers are lost ($failures failures before)");
	is(is_met($id), $failures ? 1 : 2, '... the endpoint is asked ' . ($failures ? 'once' : 'twice'));
	$t->clear_faults;
	no_wait();
	is(($t->try('CALL exact_pd_sync.poll_customers()'))[0], 0, '... until it is over');
}

# However it fails: in a day there are fewer calls than Exact allows.
$t->sql('UPDATE exact_pd_sync.exact_consent SET failures = 0');
my $asked = $t->sql(<<'END');
DO $$
DECLARE
	v_ms     bigint := 0;
	v_asked  integer := 0;
BEGIN
	WHILE v_ms < 86400000 LOOP
		PERFORM exact_pd_sync._token_announce();
		v_ms := v_ms + exact_pd_sync._token_wait();
		v_asked := v_asked + 1;
	END LOOP;
	PERFORM set_config('test.asked', v_asked::text, false);
END $$;
SELECT current_setting('test.asked');
END
cmp_ok($asked, '<', 120, 'an endpoint that fails all day is asked less often than the 200 times it allows');
cmp_ok($asked, '>', 90, '... but every quarter of an hour');
$t->sql('UPDATE exact_pd_sync.exact_consent SET failures = 0, retry_at = NULL');

# ----------
note 'answers that are none';
# ----------
my $long = 'x' x 300_000;
my %answer = (
	'an error in JSON' => { status => 500, body => '{"error":{"code":"","message":{"lang":"","value":"Er ging iets mis"}}}', content_type => 'application/json' },
	'a refusal nobody knows' => { status => 400, body => '{"error":"invalid_request","error_description":"?"}', content_type => 'application/json' },
	'a gateway' => { status => 502, body => '<html>Bad Gateway</html>', content_type => 'text/html' },
	'too many requests' => { status => 429, body => '', content_type => 'text/plain' },
	'a page of HTML' => { status => 200, body => '<html>Even geduld</html>', content_type => 'text/html' },
	'nothing' => { empty => $true },
	'half of it' => { status => 200, body => '{"access_token":"gAAAA', content_type => 'application/json' },
	'no token' => { status => 200, body => '{"token_type":"bearer","expires_in":"600"}', content_type => 'application/json' },
	'a token that fits no header' => { status => 200, body => '{"access_token":"a\r\nb","refresh_token":"c","expires_in":"600"}', content_type => 'application/json' },
	'a token without end' => { status => 200, body => "{\"access_token\":\"$long\",\"refresh_token\":\"c\",\"expires_in\":\"600\"}", content_type => 'application/json' },
	'a lifetime of nought' => { status => 200, body => '{"access_token":"a","refresh_token":"b","expires_in":"0"}', content_type => 'application/json' },
	'another site' => { status => 302, body => '', headers => { Location => 'http://127.0.0.1:9/' } },
	'a dropped connection' => { drop => $true },
	'a gzip bomb' => { gzip_bomb => $true });
foreach my $kind (sort keys %answer)
{
	my $before = consent('generation');
	$t->token_age(601);
	$t->fault(side => 'exact', path => $token, times => 2, action => $answer{$kind});
	my (undef, undef, $err) = $t->try('CALL exact_pd_sync.poll_customers()');
	like($err, qr/ERROR:  08001: could not refresh the tokens of Exact Online: /, "$kind: the poll fails");
	is(consent('state'), 'ok', '... nobody is asked for a consent');
	is(consent('generation'), $before, '... the pair in store stays');
	like(status(), qr/^red: no valid token/, '... status says it');
	$t->clear_faults;
	no_wait();
	is(token_calls(sub { is(($t->try('CALL exact_pd_sync.poll_customers()'))[0], 0, '... it is over') }), 'oauth refresh', '... with one call');
	is(consent('generation'), $before + 1, '... and a new pair');
	is(consent('failures'), 0, '... and no failure is remembered');
}
$t->no_violations('none of it led to anything forbidden');

# ----------
note 'an app that is not accepted';
# ----------
my $secret = $t->{ready}{client_secret};
foreach my $status (400, 401)
{
	$t->switches(exact_invalid_client_status => $status);
	$t->sql('SELECT exact_pd_sync.start_worker()');
	my $before = consent('generation');
	$t->{ready}{client_secret} = 'another-secret';
	$t->connect_app;
	is( token_calls(
			sub {
				$t->token_age(601);
				ok($t->wait_for(q{SELECT state = 'auth_required' FROM exact_pd_sync.exact_consent}), "a wrong secret (status $status) stops all refreshes");
				some_turns();
				my (undef, undef, $err) = $t->try('CALL exact_pd_sync.poll_customers()');
				like($err, qr/ERROR:  28000: .*HINT: .*(set_exact_app|exact_authorize_url)/s, '... and a poll says what to do');
				unlike($err, qr/another-secret/, '... without the secret');
			}),
		'oauth token refused', '... after one call');
	like(status(), qr/^red: .*set_exact_app\(/, '... status names the statement that mends it');
	$t->{ready}{client_secret} = $secret;
	is( token_calls(
			sub {
				$t->connect_app;
				ok($t->wait_for("SELECT state = 'ok' AND generation = $before + 1 FROM exact_pd_sync.exact_consent"),
					'... that statement is enough: no consent is needed');
			}),
		'oauth refresh', '... with one call');
	like(status(), qr/^green/, '... and status is green');
}

# A consent that is gone does not come back with the secret.
$t->post('/exact/revoke');
$t->token_age(601);
ok($t->wait_for(q{SELECT state = 'auth_required' FROM exact_pd_sync.exact_consent}), 'a consent is withdrawn');
is(token_calls(sub { $t->connect_app; some_turns(); }), '', '... the secret is set again: a dead token is not sent for that');
like(status(), qr/^red: a person must consent again/, '... and status still says what to do');
$t->consent;
$t->poll('customers');
$t->no_violations('nothing forbidden in all this');
$t->done;
