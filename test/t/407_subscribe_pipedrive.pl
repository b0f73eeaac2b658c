# Subscriptions at Pipedrive: exactly one webhook per object, whatever gets lost; ours alone;
# who caused what comes back; and a password that nobody sees.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use HTTP::Tiny;
use JSON::PP ();
use MIME::Base64 ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $t = EpdsTest->new(
	'subscribe_pipedrive',
	orders => 6,
	items => 20,
	seed => 46,
	switches => { burst_limit => 0, exact_minute_limit => 100000, exact_webhook_validation_delay_ms => 10 },
	conf => <<"END");
exact_pd_sync.listen = 'sync=127.0.0.1:$port'
log_min_messages = debug3
log_statement = all
log_min_duration_statement = 0
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
END
my $exact_url = "http://127.0.0.1:$port/exact/webhook";
my $url = "http://127.0.0.1:$port/pipedrive/webhook";
my $every = join ' ', map { "$_ * 2.0 exact_pd_sync" } qw(deal organization person product);
my %passwords;    # all that there ever were

sub hooks { return @{ $t->get('/pipedrive/state?only=webhooks')->{webhooks} }; }

# Ours: object, action, version, user.  They all carry the password that is stored.
sub ours
{
	my @ours = grep { $_->{name} eq 'exact_pd_sync' && $_->{subscription_url} eq $url } hooks();
	my $stored = $t->sql(q{SELECT convert_from(value, 'UTF8') FROM exact_pd_sync.credentials WHERE name = 'pipedrive_webhook_password'});
	$passwords{$stored} = 1;
	return join ' ', sort map { join(' ', @$_{qw(event_object event_action version http_auth_user)}) . ($_->{http_auth_password} eq $stored ? '' : ' with another password') } @ours;
}
sub states { return $t->sql(q{SELECT string_agg(topic || ' ' || state, ', ' ORDER BY topic) FROM exact_pd_sync.webhook_subscriptions WHERE side = 'pipedrive'}); }
sub part { return $t->sql(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'notifications'}); }
sub subscribe { return $t->sql('CALL exact_pd_sync.subscribe_webhooks(' . join(', ', map { "$_ => '" . { @_ }->{$_} . q{'} } sort keys %{ {@_} }) . ')'); }

# Tokens that the sandbox charged meanwhile, and what for.
sub cost
{
	my ($code) = @_;
	my (%count, $tokens);
	my $booked = 0 - $t->sql(q{SELECT spent_today FROM exact_pd_sync.budgets WHERE side = 'pipedrive' AND kind = 'day'});
	my @calls = $t->pipedrive_calls($code);
	$booked += $t->sql(q{SELECT spent_today FROM exact_pd_sync.budgets WHERE side = 'pipedrive' AND kind = 'day'});
	foreach my $call (@calls) { $tokens += $call->{cost}; $count{ $call->{method} }++; }
	is($booked, $tokens // 0, '... booked as they were charged');
	return join ' ', $tokens // 0, map { "$_ $count{$_}" } sort keys %count;
}

ok($t->first_run, 'a first run');
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '0')});

# What SQL gets to see of an answer: Pipedrive's list shows the passwords of all webhooks.
$t->sql(<<'END');
CREATE TABLE public.shown (answer text);
ALTER FUNCTION exact_pd_sync._hooks_take(bigint, text, integer, text) RENAME TO _hooks_take_unseen;
CREATE FUNCTION exact_pd_sync._hooks_take(p_run bigint, p_step text, p_status integer, p_answer text) RETURNS text LANGUAGE sql AS
$$ INSERT INTO public.shown VALUES (p_answer); SELECT exact_pd_sync._hooks_take_unseen(p_run, p_step, p_status, p_answer) $$;
END

# --------------------------
note 'Pipedrive, and only Pipedrive';
# --------------------------

# Of somebody else: our name elsewhere, our address under another name.
$t->post('/pipedrive/webhooks', { name => 'exact_pd_sync', subscription_url => 'https://elsewhere.example/pipedrive/webhook', event_action => '*', event_object => 'deal' });
$t->post('/pipedrive/webhooks', { name => 'Zapier', subscription_url => $url, event_action => 'create', event_object => 'person', http_auth_user => 'z', http_auth_password => 'ZapiersOwnWord' });
my $foreign = join ' ', map { $_->{id} } hooks();
$passwords{ZapiersOwnWord} = 1;

like(($t->try(q{CALL exact_pd_sync.subscribe_webhooks(pipedrive_callback_url => 'http://hooks.example/x')}))[2], qr/ERROR: .*"http:\/\/hooks\.example\/x" is not a value/, 'an address without TLS is refused');
my (@exact, $err);
is( cost(sub { @exact = $t->exact_calls(sub { $err = ($t->try("CALL exact_pd_sync.subscribe_webhooks(pipedrive_callback_url => '$url')"))[2]; }); }),
	'50 GET 1 POST 4', 'a list and four webhooks');
is(scalar @exact, 0, '... and Exact is not asked');
like($err, qr/NOTICE: .*a password for Pipedrive's notifications was made and stored.*NOTICE: .*Pipedrive notifies of changes of deals, organizations, persons and products/s, '... a person is told');
is(ours(), $every, '... one per object, with the password that was made');
like((keys %passwords)[0] . (keys %passwords)[1], qr/[0-9a-f]{64}/, '... 256 random bits');
is(states(), 'deal well, organization well, person well, product well', '... the view knows them');
like(part(), qr/^green: /, '... and status is content');
is(cost(sub { subscribe() }), '10 GET 1', 'the daily check of what is well is one list');
is($t->sql(q{SELECT string_agg(method || ' ' || path || ' ' || tokens || ' ' || outcome, ', ' ORDER BY id) FROM exact_pd_sync.api_calls WHERE what = 'webhooks' AND method <> 'POST'}),
	'GET /api/v1/webhooks 10 ok, GET /api/v1/webhooks 10 ok', '... and stands in the journal');
is($t->sql(q{SELECT string_agg(state, ' ') FROM exact_pd_sync.sync_runs WHERE what = 'webhooks'}), 'ok ok', '... as runs');

# ------------------------
note 'what comes, and who caused it';
# ------------------------

my $order = ($t->orders)[0];
my $deal = $t->deal($order->{OrderNumber});
my $seen = "FROM exact_pd_sync.webhook_deliveries WHERE side = 'pipedrive' AND topic = 'deal' AND key = '$deal->{id}'";
$t->patch("/exact/orders/$order->{OrderNumber}", { your_ref => 'seen again' });
$t->poll('orders');
ok($t->wait_for("SELECT count(*) > 0 $seen AND caused_by = 'us'", 't', 30), 'what we send comes back as ours');
my ($other) = grep { $_->{id} != $t->state('me')->{me} } @{ $t->state('users')->{users} };
$t->patch("/pipedrive/deals/$deal->{id}", { title => 'by hand' });
$t->patch("/pipedrive/deals/$deal->{id}?tool=$other->{id}", { title => 'by a tool' });
ok($t->wait_for("SELECT count(*) $seen AND caused_by = 'person' AND body->'current'->>'title' = 'by hand'", '1', 30), 'what a person changes is a person\'s');
ok($t->wait_for("SELECT count(*) $seen AND caused_by = 'tool' AND body->'current'->>'title' = 'by a tool' AND body->>'user_id' = '$other->{id}'", '1', 30), 'what another token changes is a tool\'s');
my ($sent) = grep { ($_->{body}{meta}{change_source} // '') eq 'app' } @{ $t->get('/pipedrive/webhooks/sent') };
my ($password) = map { $_->{http_auth_password} } grep { $_->{name} eq 'exact_pd_sync' && $_->{http_auth_password} } hooks();
my $repeat = sub {
	my ($word) = @_;
	return HTTP::Tiny->new->post($url, { content => JSON::PP->new->utf8->encode({ %{ $sent->{body} }, meta => { %{ $sent->{body}{meta} }, attempt => 2 } }),
			headers => { authorization => 'Basic ' . MIME::Base64::encode_base64("exact_pd_sync:$word", '') } })->{status};
};
is($repeat->($password), '200', 'it is sent once more');
is($repeat->($password), '200', '... and again');
is($t->sql("SELECT count(*), max(repeats) $seen AND caused_by = 'person'"), '1|2', '... and counts once');
cmp_ok($t->sql(q{SELECT received_24h FROM exact_pd_sync.webhook_subscriptions WHERE side = 'pipedrive' AND topic = 'deal'}), '>=', 3, 'the view counts them');
is($t->sql(q{SELECT last_received_at IS NOT NULL AND last_received_at > clock_timestamp() - interval '1 minute' FROM exact_pd_sync.webhook_subscriptions WHERE side = 'pipedrive' AND topic = 'deal'}), 't', '... and knows the last one');

# Nothing comes of what we send: silent.
$t->sql(q{DELETE FROM exact_pd_sync.webhook_deliveries});
$t->sql(q{UPDATE exact_pd_sync.webhook_topics_asked SET since = since - interval '2 days'; UPDATE exact_pd_sync.divisions SET imported_at = imported_at - interval '2 days', live_since = live_since - interval '2 days'});
is(states(), 'deal well, organization well, person well, product well', 'nothing came for what was sent a moment ago: well');
$t->sql(q{UPDATE exact_pd_sync.sync_changes SET at = at - interval '11 minutes'});
is(states(), 'deal silent, organization silent, person well, product silent', '... after ten minutes it is silent');
like(part(), qr/^yellow: no notification came within a day although much changed \(deal at Pipedrive, .*product at Pipedrive\)/, '... and status is yellow');
$t->patch("/pipedrive/deals/$deal->{id}", { title => 'once more' });
ok($t->wait_for(q{SELECT state FROM exact_pd_sync.webhook_subscriptions WHERE side = 'pipedrive' AND topic = 'deal'}, 'well', 30), '... until one comes');
$t->sql(q{UPDATE exact_pd_sync.sync_changes SET at = at - interval '2 days'});

# ----------------
note 'what gets lost';
# ----------------

my ($hook) = grep { $_->{name} eq 'exact_pd_sync' && $_->{event_object} eq 'product' } hooks();
$t->delete("/pipedrive/webhooks/$hook->{id}");
is(cost(sub { subscribe() }), '20 GET 1 POST 1', 'one is gone at Pipedrive: the daily check makes it anew');
is(ours(), $every, '... and only it');

sub without { $t->delete("/pipedrive/webhooks/$_->{id}") foreach grep { $_->{name} eq 'exact_pd_sync' && $_->{event_object} eq $_[0] && $_->{subscription_url} eq $url } hooks(); return; }
my $drop = { drop => JSON::PP::true, execute => JSON::PP::true };
without('deal');
$t->fault(side => 'pipedrive', method => 'POST', path => 'webhooks', times => 1, action => $drop);
is(cost(sub { subscribe() }), '30 GET 2 POST 1', 'it was made, and the answer is lost: the list tells');
is(ours(), $every, '... one');
without('deal');
$t->fault(side => 'pipedrive', method => 'POST', path => 'webhooks', times => 1, action => { status => 502, body => '<html>bad gateway</html>', content_type => 'text/html' });
subscribe();
is(ours(), $every, 'it was not made, and nobody said so: one');
without('deal');
$t->fault(side => 'pipedrive', method => 'POST', path => 'webhooks', times => 0, action => { status => 502, body => '<html>bad gateway</html>', content_type => 'text/html' });
like(($t->try('CALL exact_pd_sync.subscribe_webhooks()'))[2], qr/ERROR: .*could not complete a call to Pipedrive/, 'again and again: an ERROR');
$t->clear_faults;
like(states(), qr/^deal missing, organization well/, '... and the view says what is missing');
like(part(), qr/^yellow: deal: it is not made yet/, '... so does status');
subscribe();
is(ours(), $every, '... the next call makes it');

# Killed while its answer is under way: which password it has, nobody knows.
without('person');
$t->fault(side => 'pipedrive', method => 'POST', path => 'webhooks', times => 1, action => { hang => 'body', seconds => 60 });
my $killed = $t->background('CALL exact_pd_sync.subscribe_webhooks()');
my $pid = $killed->(pid => 1);
my $until = time + 30;
select undef, undef, undef, 0.05 until scalar(grep { $_->{event_object} eq 'person' && $_->{name} eq 'exact_pd_sync' } hooks()) || time > $until;
$t->sql("SELECT pg_terminate_backend($pid)");
$killed->();
$t->clear_faults;
is(ours(), $every, 'killed after it was made');
is(cost(sub { subscribe() }), '26 DELETE 1 GET 1 POST 1', '... the next call makes that one anew');
is(ours(), $every, '... one');

# A second one of ours, by a person's copy or two lost answers.
$t->post('/pipedrive/webhooks', { name => 'exact_pd_sync', subscription_url => $url, event_action => 'create', event_object => 'deal', version => '1.0' });
$t->post('/pipedrive/webhooks', { name => 'exact_pd_sync', subscription_url => "$url?old", event_action => '*', event_object => '*' });
$t->fault(side => 'pipedrive', method => 'DELETE', path => 'webhooks', times => 1, action => $drop);
subscribe();
is(ours(), $every, 'what is too much of ours goes, although an answer is lost');
is(scalar(grep { $_->{subscription_url} =~ /old/ } hooks()), 0, '... of any object');
$t->post('/pipedrive/webhooks', { name => 'exact_pd_sync', subscription_url => $url, event_action => 'create', event_object => 'deal' });
$t->fault(side => 'pipedrive', method => 'DELETE', path => 'webhooks', times => 0, action => { status => 403, body => '{"success":false,"error":"no right to do this"}', content_type => 'application/json' });
like(($t->try('CALL exact_pd_sync.subscribe_webhooks()'))[2], qr/ERROR: .*not all webhooks at Pipedrive.*DETAIL: .*deal: webhook \d+ cannot be removed: no right to do this \(HTTP 403\).*HINT:/s, 'it cannot be removed: an ERROR');
$t->clear_faults;
subscribe();
is(ours(), $every, '... and the next call does it');

# -----------------
note 'the password';
# -----------------

my $word = 'aWordOfAPerson-4711-and-more';
$passwords{$word} = 1;
my $file = PostgreSQL::Test::Utils::tempdir();
mkdir "$file/secrets", 0700 or die $!;
PostgreSQL::Test::Utils::append_to_file("$file/secrets/word", $word);
chmod 0600, "$file/secrets/word";
$t->sql("ALTER SYSTEM SET exact_pd_sync.secrets_directory = '$file/secrets'");
$t->node->reload;
ok($t->wait_for(qq{SELECT current_setting('exact_pd_sync.secrets_directory')}, "$file/secrets"), 'a directory for secrets');
$t->sql(q{SELECT exact_pd_sync.store_secret('pipedrive_webhook_password', 'file:word')});
is(states(), 'deal missing, organization missing, person missing, product missing', 'a person stored another password');
like(part(), qr/^yellow: deal: it was made with another password: CALL exact_pd_sync\.subscribe_webhooks\(\)/, '... status says what to do');
is($repeat->($password), '401', '... the old one opens nothing any more');
is(cost(sub { subscribe() }), '74 DELETE 4 GET 1 POST 4', '... all four are made anew');
is(ours(), $every, '... with it');
$t->patch("/pipedrive/deals/$deal->{id}", { title => 'with the new password' });
ok($t->wait_for("SELECT count(*) $seen AND body->'current'->>'title' = 'with the new password'", '1', 30), '... and it opens');
without('deal');
$t->fault(side => 'pipedrive', method => 'POST', path => 'webhooks', times => 1,
	action => { status => 400, body => qq({"status":"error","success":false,"errors":{"http_auth_password":["$word is too plain"]}}), content_type => 'application/json' });
$err = ($t->try('CALL exact_pd_sync.subscribe_webhooks()'))[2];
like($err, qr/ERROR: .*not all webhooks.*is too plain/s, 'Pipedrive repeats it in a refusal');
unlike($err, qr/\Q$word\E/, '... and it is masked');
subscribe();

# As after a dump that was restored: no table of what there is, no password.
$t->sql(q{DELETE FROM exact_pd_sync.credentials WHERE name = 'pipedrive_webhook_password'; DELETE FROM exact_pd_sync.webhook_topics_asked; DELETE FROM exact_pd_sync.pipedrive_hooks});
like(part(), qr/^yellow: asked for, and none is there/, 'restored without them: status says so');
is(cost(sub { subscribe() }), '74 DELETE 4 GET 1 POST 4', '... the old ones go, new ones come');
is(ours(), $every, '... and there is no second one');
# Stored, and then it dies: before the first call, and between removing and making.
$t->sql(q{DELETE FROM exact_pd_sync.credentials WHERE name = 'pipedrive_webhook_password'});
$t->fault(side => 'pipedrive', method => 'GET', path => 'webhooks', times => 1, action => { status => 401, body => '{"success":false,"error":"unauthorized access"}', content_type => 'application/json' });
isnt(($t->try('CALL exact_pd_sync.subscribe_webhooks()'))[0], 0, 'a password is made, and no more');
unlike(ours(), qr/^\Q$every\E$/, '... the webhooks carry the old one');
$t->fault(side => 'pipedrive', method => 'POST', path => 'webhooks', times => 1, action => { status => 401, body => '{"success":false,"error":"unauthorized access"}', content_type => 'application/json' });
isnt(($t->try('CALL exact_pd_sync.subscribe_webhooks()'))[0], 0, '... then they are removed, and no more');
is(ours(), '', '... none is there');
subscribe();
is(ours(), $every, '... the next call mends it');

# --------------------
note 'no room, another address';
# --------------------

without('deal');
without('product');
my $count = hooks();
$t->post('/pipedrive/webhooks', { name => "theirs $_", subscription_url => 'https://elsewhere.example/x', event_action => '*', event_object => 'note' }) foreach $count + 1 .. 40;
($_, undef, $err) = $t->try('CALL exact_pd_sync.subscribe_webhooks()');
like($err, qr/ERROR:  53400: Pipedrive has no room for our webhooks.*DETAIL: .*deal: .*webhook limit reached.*product: .*HINT:  A user may have forty\. Remove some/s, 'a user has forty already: an ERROR that says so');
is(states(), 'deal missing, organization well, person well, product missing', '... what is there stays');
is(scalar(hooks()), 40, '... and nobody\'s was removed for it');
$t->delete("/pipedrive/webhooks/$_->{id}") foreach grep { $_->{name} =~ /^theirs/ } hooks();
subscribe();
is(ours(), $every, 'there is room: all of them');
(my $new = $url) =~ s/127\.0\.0\.1/localhost/;
my $old = $url;
is(cost(sub { subscribe(pipedrive_callback_url => $new) }), '74 DELETE 4 GET 1 POST 4', 'another address: they are replaced');
is(ours(), '', '... none leads to the old one');
$url = $new;
is(ours(), $every, '... and one of each to the new one');
subscribe(pipedrive_callback_url => $old);
$url = $old;

# ------------------
note 'both sides';
# ------------------

$t->fault(side => 'exact', method => 'POST', path => 'WebhookSubscriptions', times => 0, action => { status => 500, body => '{"error":{"code":"","message":{"lang":"","value":"Niet toegestaan."}}}', content_type => 'application/json' });
without('deal');
$err = ($t->try("CALL exact_pd_sync.subscribe_webhooks('$exact_url', '$url')"))[2];
like($err, qr/ERROR: .*not all webhook subscriptions of division/, 'Exact refuses: an ERROR');
is(ours(), $every, '... and Pipedrive is seen to all the same');
$t->fault(side => 'pipedrive', method => 'GET', path => 'webhooks', times => 1, action => { status => 401, body => '{"success":false,"error":"unauthorized access"}', content_type => 'application/json' });
$err = ($t->try('CALL exact_pd_sync.subscribe_webhooks()'))[2];
like($err, qr/WARNING: .*not all webhook subscriptions of division.*ERROR: .*Pipedrive does not accept this account/s, 'both refuse: both are told');
$t->clear_faults;
is(cost(sub { subscribe() }), '10 GET 1', 'without an address both are checked');
is($t->sql(q{SELECT string_agg(side || ' ' || topic || ' ' || state, ', ' ORDER BY side, topic) FROM exact_pd_sync.webhook_subscriptions}),
	'exact Accounts well, exact Items well, exact SalesOrders well, pipedrive deal well, pipedrive organization well, pipedrive person well, pipedrive product well', '... and stand in one view');
is(cost(sub { subscribe(callback_url => $exact_url) }), '0', 'Exact alone: Pipedrive is not asked');

# Two at once: the second one neither changes what is asked for under the first nor asks anybody.
without('deal');
my $holder = $t->session;
$holder->query_safe('BEGIN; LOCK TABLE exact_pd_sync.pipedrive_hooks');
my $first = $t->background('CALL exact_pd_sync.subscribe_webhooks()');
my $first_pid = $first->(pid => 1);
ok($t->wait_for("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $first_pid", 't', 30), 'one is at work');
foreach my $command ('unsubscribe_webhooks()', "subscribe_webhooks(pipedrive_callback_url => '$new')")
{
	like(($t->try("CALL exact_pd_sync.$command"))[2], qr/ERROR:  55006: another session sees to the notifications/, "... $command is refused meanwhile");
}
$holder->quit;
my ($first_out, $first_err) = $first->();
like($first_err, qr/Pipedrive notifies of changes/, '... and the first one comes to its end');
is(ours(), $every, '... with what it was asked for');
is(states(), 'deal well, organization well, person well, product well', '... and nothing is forgotten');
$t->sql('CREATE ROLE analyst LOGIN');
$t->sql(q{SELECT exact_pd_sync.grant_reader('analyst')});
is($t->sql('SET ROLE analyst; SELECT count(*) FILTER (WHERE state = \'well\') FROM exact_pd_sync.webhook_subscriptions'), '7', 'an analyst may look');

# A copy asks nobody, and notes nothing.
$t->sql('CREATE DATABASE twin TEMPLATE sync', db => 'postgres');
my @calls = $t->calls_during(
	'exact',
	sub {
		@_ = $t->pipedrive_calls(
			sub {
				foreach my $command ('subscribe_webhooks()', "subscribe_webhooks('https://other.example/e', 'https://other.example/p')", 'unsubscribe_webhooks()')
				{
					like(($t->try("CALL exact_pd_sync.$command", db => 'twin'))[2], qr/ERROR:  55000: this database is a copy, restored or promoted.*HINT:.*confirm_instance/s, "a copy: $command is refused");
				}
			});
		is(scalar @_, 0, '... Pipedrive is not asked');
	});
is(scalar(grep { $_->{path} =~ /webhook/i } @calls), 0, '... nor is Exact');
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.settings WHERE value LIKE '%other.example%'}, db => 'twin'), '0', '... and the address is not noted');

$t->sql('CALL exact_pd_sync.unsubscribe_webhooks()');
is(join(' ', map { $_->{id} } hooks()), $foreign, 'away: only others\' are left, as they were');
my $state = $t->get('/exact/webhooks');
is(scalar(@{ $state->{subscriptions} }), 0, '... at Exact, too');
is($t->sql('SELECT count(*) FROM exact_pd_sync.webhook_subscriptions'), '0', '... and the view is empty');
is(part(), 'green: off: changes are seen by the polls', '... status: off');
like(($t->try('CALL exact_pd_sync.subscribe_webhooks()'))[2], qr/NOTICE: .*no notifications are asked for/, 'the daily check does nothing');

# -----------------------
note 'nobody saw a password';
# -----------------------

cmp_ok(scalar keys %passwords, '>=', 5, 'passwords that there were');
my $log = PostgreSQL::Test::Utils::slurp_file($t->node->logfile);
my @tables = split /\n/, $t->sql(q{SELECT oid::regclass FROM pg_class WHERE relnamespace = 'exact_pd_sync'::regnamespace AND relkind = 'r' AND relname <> 'credentials'});
push @tables, 'public.shown';
cmp_ok($t->sql(q{SELECT count(*) FROM public.shown WHERE answer LIKE '%Zapier%'}), '>', 5, 'lists that SQL saw');
my @seen;
foreach my $secret (sort keys %passwords)
{
	foreach my $form ($secret, unpack('H*', $secret), MIME::Base64::encode_base64("exact_pd_sync:$secret", ''))
	{
		push @seen, 'the log' if index($log, $form) >= 0;
	}
	push @seen, grep { $t->sql("SELECT count(*) FROM $_ x WHERE strpos(x::text, '$secret') > 0") > 0 } @tables;
}
is(join(', ', @seen), '', 'no log and no table has one');
$t->no_violations('nothing was forbidden');
$t->done;
