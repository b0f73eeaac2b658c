# The token pair of Exact: one refresher, never too early, never twice, never lost.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use Test::More;

# Workers look often, so that "the worker does it by itself" needs no patience.
my $t = EpdsTest->new(
	'token',
	orders => 3,
	items => 5,
	customers => 4,
	seed => 15,
	conf => "exact_pd_sync.poll_interval = '300ms'");
$t->connect_app;

sub token_calls
{
	my ($code) = @_;
	my @calls = grep { $_->{path} eq '/api/oauth2/token' } $t->exact_calls($code);
	return join ' ', map { $_->{operation} } @calls;
}

sub generation { return $t->sql('SELECT generation FROM exact_pd_sync.exact_consent'); }
sub consent_status { return $t->sql(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'exact consent'}); }

sub poll_fails
{
	my ($sqlstate, $pattern, $name) = @_;
	my ($status, undef, $err) = $t->try('CALL exact_pd_sync.poll_customers()');
	isnt($status, 0, "$name: a poll fails");
	like($err, qr/ERROR:  $sqlstate: /, '... with its SQLSTATE');
	like($err, $pattern, '... and says why');
	return $err;
}

# ----------
note 'before the consent';
# ----------
$t->add_division;
my $err = poll_fails('55000', qr/not connected yet/, 'without a consent');
like($err, qr/HINT:.*exact_authorize_url/, '... and what to do');
like(consent_status(), qr/^red: no consent yet/, 'status says so');
my (undef, undef, $bad) = $t->try(q{CALL exact_pd_sync.exact_authorize('https://example.com/callback?code=stamp.none&state=nobody')});
like($bad, qr/does not belong to the last consent|refused the code/, 'a foreign code is refused');
$t->consent;
is(generation(), 1, 'the consent brings the first pair');
like(consent_status(), qr/^green: token pair 1/, 'status shows it');

# ----------
note 'when it is due';
# ----------
is(token_calls(sub { $t->poll }), '', 'a fresh token is used, not refreshed');
is( token_calls(
		sub {
			$t->token_age(400);
			$t->poll('customers');
		}),
	'', 'nor one that has lived for 400 s');
is( token_calls(
		sub {
			$t->token_age(175);
			ok($t->wait_for('SELECT generation = 2 FROM exact_pd_sync.exact_consent'),
				'after 570 s the intake worker refreshes it');
		}),
	'oauth refresh', '... once');
$t->switches(exact_expires_in_number => JSON::PP::true);
$t->token_age(575);
ok($t->wait_for('SELECT generation = 3 FROM exact_pd_sync.exact_consent'), 'expires_in may be a number');
$t->switches(exact_expires_in_number => JSON::PP::false);
$t->no_violations('no refresh was early, none was a second one');

# From here on the sessions themselves have to do it.
is($t->sql('SELECT exact_pd_sync.stop_worker()'), 't', 'the workers are stopped');

# ----------
note 'callers that fail';
# ----------
$t->token_age(601);
is( token_calls(
		sub {
			my ($status, undef, $error) = $t->try('BEGIN; CALL exact_pd_sync.poll_customers(); ROLLBACK');
			like($error, qr/ERROR:  \w{5}: .*(transaction|top level)/, 'a poll inside a transaction is refused');
		}),
	'', '... before it asks for a token');
is(generation(), 3, '... so that no ROLLBACK can lose a pair');
is( token_calls(
		sub {
			$t->fault(side => 'exact', path => 'sync/CRM/Accounts', times => 3, action => { status => 503, body => 'no' });
			poll_fails('HV000', qr/503/, 'Exact is out of order after the refresh');
		}),
	'oauth refresh', '... which took place');
is(generation(), 4, 'the pair is there although the caller failed');
is(token_calls(sub { $t->poll('customers') }), '', '... and the next one uses it');
$t->token_age(601);
is( token_calls(
		sub {
			$t->sql('CALL exact_pd_sync.poll_customers()');
			$t->node->stop('immediate');
		}),
	'oauth refresh', 'the server crashes right after a refresh');
$t->node->start;
$t->sql('SELECT exact_pd_sync.stop_worker()');
is(generation(), 5, '... and still has the pair');
is(token_calls(sub { $t->poll('customers') }), '', '... and uses it');
$t->no_violations('no refresh token was used twice');

# ----------
note 'two at once';
# ----------
$t->token_age(601);
is( token_calls(
		sub {
			$t->fault(side => 'exact', path => '/api/oauth2/token', action => { delay_ms => 700 });
			my @runs = map { $t->background("CALL exact_pd_sync.poll_$_()") } qw(orders customers products);
			my @results = map { [ $_->() ] } @runs;
			is(join('', map { $_->[1] } @results), '', 'three sessions poll with a token that is over: all succeed');
		}),
	'oauth refresh', '... with one refresh');
is(generation(), 6, '... and one new pair');
$t->token_age(601);
$t->fault(side => 'exact', path => 'sync/CRM/Accounts', action => { hang => 'headers', seconds => 60 });
my $first = $t->background('CALL exact_pd_sync.poll_customers()');
my $pid = $first->(pid => 1);
ok($t->wait_for("SELECT EXISTS (SELECT FROM exact_pd_sync.exact_consent WHERE generation = 7)"),
	'a poll refreshes and then hangs');
my ($status, $out, $second) = $t->try('CALL exact_pd_sync.poll_customers()');
is($status, 0, 'a second one of the same kind leaves');
like($second, qr/NOTICE: .*(already|another session|being)/, '... and says so');
$t->sql("SELECT pg_cancel_backend($pid)");
my (undef, $cancelled) = $first->();
like($cancelled, qr/57014/, 'the first one is cancelled');
is(generation(), 7, '... and its pair stays');
is(token_calls(sub { $t->poll('customers') }), '', '... for the next');
$t->no_violations('no parallel calls, no second refresh');

$t->fault(side => 'exact', path => 'sync/CRM/Accounts', action => { delay_ms => 700 });
$first = $t->background('CALL exact_pd_sync.poll_customers()');
$pid = $first->(pid => 1);
ok($t->wait_for("SELECT count(*) > 2 FROM pg_locks WHERE locktype = 'advisory' AND pid = $pid"), 'a call is under way');
is($t->sql(q{SELECT state FROM exact_pd_sync.verify() WHERE check_name = 'exact login'}), 'ok', 'verify() waits for its turn');
$first->();
$t->no_violations('... so that no two calls are made at once');

# ----------
note 'interrupted refresh';
# ----------
$t->token_age(601);
$t->fault(side => 'exact', path => '/api/oauth2/token', action => { delay_ms => 600 });
my $run = $t->background('CALL exact_pd_sync.poll_customers()');
$pid = $run->(pid => 1);
ok($t->wait_for(q{SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = } . $pid
	. q{) AND (SELECT count(*) FROM exact_pd_sync.exact_consent WHERE calls_today > 0) > 0}), 'a refresh is under way');
$t->sql("SELECT pg_cancel_backend($pid)");
(undef, $cancelled) = $run->();
like($cancelled, qr/57014/, 'a cancel during a refresh is obeyed');
is(generation(), 8, '... after the pair is on disk');
is(token_calls(sub { $t->poll('customers') }), '', '... so that it can be used');
$t->no_violations('... without using a token twice');

# ----------
note 'clocks that differ';
# ----------
$t->sql(q{UPDATE exact_pd_sync.exact_consent SET issued_at = issued_at - interval '575 s', access_expires_at = access_expires_at - interval '575 s'});
is(token_calls(sub { $t->poll('customers') }), '', 'a token that may still be used is used, due or not');
$t->sql(q{UPDATE exact_pd_sync.exact_consent SET issued_at = issued_at - interval '25 s', access_expires_at = access_expires_at - interval '25 s'});
is(token_calls(sub { $t->poll('customers') }), 'oauth token refused',
	'Exact says "too early" when our clock runs ahead: the poll goes on with what it has');
is(token_calls(sub { $t->poll('customers') }), '', '... and does not ask again at once');
is(scalar($t->violations), 1, 'that was the one early refresh of this test');
$t->delete('/violations');
$t->clock(advance => 601);
$t->sql(q{UPDATE exact_pd_sync.exact_consent SET issued_at = clock_timestamp() + interval '1 hour', access_expires_at = clock_timestamp() + interval '70 min'});
is(token_calls(sub { $t->poll('customers') }), 'oauth refresh',
	'Exact says "expired" when our clock was set back: it is believed');
$t->token_age(601);

# ----------
note 'the answer is lost';
# ----------
$t->switches(exact_refresh_grace_s => 60, exact_lost_token_answers => 1);
is(token_calls(sub { $t->poll('customers') }), 'oauth refresh oauth refresh in grace',
	'a lost answer is asked for once more, where Exact lets the old token live a little');
is(generation(), 10, '... and that is the new pair');
$t->token_age(601);
$t->switches(exact_refresh_grace_s => 0, exact_lost_token_answers => 1);
is( token_calls(
		sub {
			$err = poll_fails('28000', qr/needs the consent of a person again/, 'where it does not');
		}),
	'oauth refresh oauth token refused', '... after the same question');
like($err, qr/HINT:.*exact_authorize_url\(\).*exact_authorize/, '... and says how to mend it');
like(consent_status(), qr/^red: a person must consent again: exact_authorize_url\(\)\. .*Old refresh token/, 'status says so');
is(token_calls(sub { poll_fails('28000', qr/consent/, 'the next poll') }), '', '... without asking again');
like($t->sql(q{SELECT error FROM exact_pd_sync.sync_runs WHERE state = 'failed' ORDER BY id DESC LIMIT 1}),
	qr/consent/, 'the journal of runs says so, too');
$t->consent;
is(consent_status() =~ /^green/, 1, 'a new consent mends it');
is(token_calls(sub { $t->poll('customers') }), '', '... and the next poll works');
$t->no_violations('no token was used twice knowingly');

# ----------
note 'the consent is withdrawn';
# ----------
$t->post('/exact/revoke');
$err = poll_fails('28000', qr/rejected the access token|consent/, 'a consent withdrawn');
like($err, qr/HINT:.*consent/, '... and where to look');
$t->token_age(580);
is( token_calls(sub { $err = poll_fails('28000', qr/needs the consent of a person again/, 'when the token is due') }),
	'oauth token refused', '... after asking once');
like($err, qr/HINT:.*exact_authorize_url/, '... and says how to mend it');
like(consent_status(), qr/^red: a person must consent again/, 'status says so');
is(token_calls(sub { $t->sql('SELECT exact_pd_sync.start_worker()'); $t->wait_for(
	q{SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = 'sync' AND backend_type LIKE 'exact_pd_sync %' AND state = 'idle'}) }),
	'', 'nor does the worker ask again');
$t->sql('SELECT exact_pd_sync.stop_worker()');
$t->consent;
is(token_calls(sub { $t->poll('customers') }), '', 'a new consent mends it');

# ----------
note 'the calls of the day';
# ----------
$t->token_age(601);
$t->sql(q{UPDATE exact_pd_sync.exact_consent SET calls_today = 200, calls_day = (clock_timestamp() AT TIME ZONE 'UTC')::date});
is(token_calls(sub { poll_fails('53400', qr/200 token calls/, 'after 200 token calls') }), '', '... none is made');
$t->sql('UPDATE exact_pd_sync.exact_consent SET calls_today = 0');
is(token_calls(sub { $t->poll('customers') }), 'oauth refresh', 'the next day it goes on');

$t->no_violations;
$t->done;
