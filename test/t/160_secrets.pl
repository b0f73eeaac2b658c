# No secret leaves its table: not into the log at its most talkative, not into
# pg_stat_activity, not into a dump, not to anybody who may read the rest.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
mkdir "$dir/secrets", 0700 or die "mkdir: $!";

sub write_file
{
	my ($name, $text, $mode) = @_;
	append_to_file("$dir/$name", $text);
	chmod $mode // 0600, "$dir/$name";
	return;
}
write_file('key', '0123456789abcdef' x 4 . "\n");

my $t = EpdsTest->new(
	'secrets',
	orders => 5,
	items => 8,
	customers => 4,
	seed => 17,
	switches => { burst_limit => 1000 },
	conf => <<"END");
exact_pd_sync.secrets_directory = '$dir/secrets'
exact_pd_sync.key_file = '$dir/key'
exact_pd_sync.poll_interval = '500ms'
log_min_messages = debug5
log_error_verbosity = verbose
log_min_error_statement = debug5
log_statement = all
log_min_duration_statement = 0
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
END
my $r = $t->ready;
write_file('secrets/exact_secret', "$r->{client_secret}\n");
write_file('secrets/webhook_secret', $r->{webhook_secret});
write_file('secrets/pipedrive_token', "$r->{api_token}\n");

# ----------
# What must not be seen
# ----------
my $json = JSON::PP->new->utf8;

# Every secret there has been so far; the sandbox knows the tokens that it gave.
sub secrets
{
	my %secret = (
		client_secret => $r->{client_secret},
		webhook_secret => $r->{webhook_secret},
		api_token => $r->{api_token});
	my $n = 0;
	foreach my $call (grep { $_->{path} eq '/api/oauth2/token' } $t->calls('exact'))
	{
		my $answer = eval { $json->decode($call->{response} // '') } || {};
		$n++;
		$secret{"access_token $n"} = $answer->{access_token} if $answer->{access_token};
		$secret{"refresh_token $n"} = $answer->{refresh_token} if $answer->{refresh_token};
	}
	return %secret;
}

# The forms a secret may be seen in: as it is, its beginning and its end, in a URL, as bytea.
sub forms
{
	my ($secret) = @_;
	my $url = $secret;
	$url =~ s/([^A-Za-z0-9._~-])/sprintf '%%%02X', ord $1/ge;
	return ($secret, substr($secret, 0, 12), substr($secret, -12), $url, unpack('H*', $secret));
}

sub has_no_secret
{
	my ($text, $name) = @_;
	my %secret = secrets();
	my @seen;
	foreach my $which (sort keys %secret)
	{
		push @seen, $which if grep { index($text, $_) >= 0 } forms($secret{$which});
	}
	return is(join(', ', @seen), '', "$name: no secret to be seen");
}

# ----------
note 'files with secrets';
# ----------
sub refused_file
{
	my ($file, $pattern, $name) = @_;
	my ($status, undef, $err) = $t->try("SELECT exact_pd_sync.set_pipedrive_account('file:$file', '$r->{pipedrive}')");
	isnt($status, 0, "$name is refused");
	like($err, $pattern, '... for its reason');
	return;
}
write_file('secrets/open', 'x' x 20, 0644);
write_file('secrets/spaced', "api token: $r->{api_token}");
symlink "$dir/secrets/pipedrive_token", "$dir/secrets/link" or die "symlink: $!";
refused_file('open', qr/has group or world access/, 'a file that others can read');
refused_file('link', qr/[Ss]ymbolic links/, 'a symbolic link');
refused_file('../key', qr/is not the name of a file/, 'a path');
refused_file('nothing', qr/could not open file/, 'a file that is not there');
refused_file('spaced', qr/holds a space/, 'a text that is no secret');
my (undef, undef, $notice) = $t->try(q{SELECT exact_pd_sync.store_secret('pipedrive_api_token', 'not-a-real-one')});
like($notice, qr/NOTICE: .*given as a value.*file:NAME/s, 'who gives a value is told that it can be read');

# ----------
note 'the whole line, with everything that can go wrong';
# ----------
$t->sql("SELECT exact_pd_sync.set_exact_app('$r->{client_id}', 'file:exact_secret', 'https://example.com/callback', 'file:webhook_secret', '$r->{exact}')");
$t->sql("SELECT exact_pd_sync.set_pipedrive_account('file:pipedrive_token', '$r->{pipedrive}')");
# the code of the browser is worth nothing after this; it is a parameter of the statement
{
	local $ENV{PGOPTIONS} = '-c log_statement=none -c log_min_duration_statement=-1 -c log_min_error_statement=panic';
	$t->consent;
}
$t->add_division;
$t->setup;
$t->import_history;
$t->poll;
$t->resume;
ok($t->settle, 'everything is sent');
$t->token_age(580);
ok($t->wait_for('SELECT generation = 2 FROM exact_pd_sync.exact_consent'), 'the token pair is rotated');
$t->sql('SELECT count(*) FROM exact_pd_sync.verify()');

# errors whose text comes from the other side, which may repeat what it was sent
my %known = secrets();
$t->fault(side => 'exact', path => 'sync/CRM/Accounts', times => 4,
	action => { status => 500, content_type => 'application/json',
		body => $json->encode({ error => { code => '', message => { lang => '',
			value => "who are you, Bearer $known{'access_token 2'}?" } } }) });
my ($status, undef, $err) = $t->try('CALL exact_pd_sync.poll_customers()');
isnt($status, 0, 'Exact repeats a secret in an error');
like($err, qr/who are you/, '... which is shown');
has_no_secret($err, 'the error');
$t->clear_faults;
$t->fault(side => 'pipedrive', method => 'PATCH', path => 'deals', times => 1,
	action => { status => 400, content_type => 'application/json',
		body => $json->encode({ success => JSON::PP::false, error => "who are you, $r->{api_token}?" }) });
$t->patch('/exact/orders/' . ($t->numbers)[0], { your_ref => 'leak' });
$t->poll('orders');
ok($t->settle, 'Pipedrive repeats a secret in an error');
like($t->sql('SELECT servers_words FROM exact_pd_sync.dead_letters'), qr/who are you/, '... which is in dead_letters');

$t->sql('SELECT exact_pd_sync.stop_worker()');
$t->token_age(601);
$t->fault(side => 'exact', path => '/api/oauth2/token', times => 0,
	action => { status => 400, content_type => 'application/json',
		body => $json->encode({ error => 'invalid_request',
			error_description => "who are you, $r->{client_secret}, with $known{'refresh_token 2'}?" }) });
(undef, undef, $err) = $t->try('CALL exact_pd_sync.poll_customers()');
like($err, qr/who are you/, 'the token endpoint repeats secrets in an error');
has_no_secret($err, 'the error');
$t->clear_faults;
$t->sql('SELECT exact_pd_sync.start_worker()');

# a token that is wrong on each side, and a refresh that is refused
$t->sql(q{SELECT exact_pd_sync.replay()});
$t->post('/pipedrive/token');
$t->patch('/exact/orders/' . ($t->numbers)[0], { your_ref => 'leak again' });
$t->poll('orders');
ok($t->wait_for(q{SELECT EXISTS (SELECT FROM exact_pd_sync.api_calls WHERE side = 'pipedrive' AND status = 401)}), 'Pipedrive does not know the token any more');
$t->post('/exact/revoke');
$t->token_age(580);
ok($t->wait_for(q{SELECT state = 'auth_required' FROM exact_pd_sync.exact_consent}), 'Exact does not know the refresh token any more');
(undef, undef, $err) = $t->try('CALL exact_pd_sync.poll_all()');
has_no_secret($err, 'the errors of a poll');

# ----------
note 'who looks';
# ----------
{
	local $ENV{PGOPTIONS} = '-c log_statement=none -c log_min_duration_statement=-1 -c log_min_error_statement=panic';
	$t->consent;
}
$t->fault(side => 'exact', path => 'SalesOrderHeaders', times => 1, action => { hang => 'headers', seconds => 60 });
my $run = $t->background('CALL exact_pd_sync.poll_orders()');
my $pid = $run->(pid => 1);
ok($t->wait_for("SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid"), 'a request is under way');
has_no_secret($t->sql('SELECT * FROM pg_stat_activity'), 'pg_stat_activity meanwhile');
$t->sql("SELECT pg_cancel_backend($pid)");
$run->();

$t->sql(q{CREATE ROLE analyst LOGIN; SELECT exact_pd_sync.grant_reader('analyst');
	CREATE ROLE clerk LOGIN; SELECT exact_pd_sync.grant_operator('clerk');
	CREATE ROLE reads_all LOGIN IN ROLE pg_read_all_data, pg_monitor});
my @relations = split /\n/, $t->sql(
	q{SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'exact_pd_sync'::regnamespace AND c.relkind IN ('r', 'v', 'm') ORDER BY 1});
cmp_ok(scalar @relations, '>', 30, 'there are tables and views to look at');
my %is_table = map { $_ => 1 } split /\n/, $t->sql(
	q{SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'exact_pd_sync'::regnamespace AND c.relkind = 'r'});
foreach my $role (qw(analyst clerk reads_all postgres))
{
	my (@refused, @broken, $text);
	foreach my $relation (@relations)
	{
		next if $role eq 'postgres' && $relation eq 'exact_pd_sync.credentials';
		# reading all data is not calling functions, which some views do
		next if $role eq 'reads_all' && !$is_table{$relation};
		my ($rc, $out, $error) = $t->try("COPY (SELECT * FROM $relation) TO STDOUT",
			extra_params => [ '-U', $role eq 'postgres' ? $t->sql('SELECT current_user') : $role ]);
		$text .= $out . $error;
		next if $rc == 0;
		if ($error =~ /42501/) { push @refused, $relation; }
		else { push @broken, "$relation: $error"; }
	}
	has_no_secret($text, "all that $role can read");
	is(join("\n", @broken), '', '... and nothing is broken for them');
	is( join(' ', @refused),
		{
			analyst => 'exact_pd_sync.credentials exact_pd_sync.exact_consent',
			clerk => 'exact_pd_sync.credentials exact_pd_sync.exact_consent',
			reads_all => '',
			postgres => ''
		}->{$role},
		"... $role is kept from nothing but secrets");
}
is($t->sql('SELECT count(*) FROM exact_pd_sync.credentials', extra_params => [ '-U', 'reads_all' ]),
	'0', 'who may read all data sees no row of credentials');
has_no_secret($t->sql('SELECT * FROM pg_settings', extra_params => [ '-U', 'reads_all' ]), 'the settings');

# ----------
note 'what is on disk';
# ----------
my ($dump, $globals) = ("$dir/dump.sql", "$dir/globals.sql");
$t->node->command_ok([ 'pg_dump', '-f', $dump, $t->db ], 'a dump');
$t->node->command_ok([ 'pg_dumpall', '--globals-only', '-f', $globals ], '... and the globals');
has_no_secret(slurp_file($dump) . slurp_file($globals), 'the dump');
unlike(slurp_file($dump), qr/COPY exact_pd_sync\.(credentials|exact_consent)/, '... nor the tables they are in');
like(slurp_file($dump), qr/COPY exact_pd_sync\.links/, '... while the links are');
is($t->sql('SELECT bool_and(sealed) FROM exact_pd_sync.credentials'), 't', 'with a key file all secrets are sealed');
$t->sql('CHECKPOINT');
write_file('patterns', join('', map { "$_\n" } map { (forms($_))[0, 1, 3] } do { my %s = secrets(); values %s }));
my @files = split /\n/, `grep -rlaF -f '$dir/patterns' '@{[ $t->node->data_dir ]}'`;
is(join(' ', @files), '', '... and stand in no file of the data directory, the WAL included');

# without its key nothing opens, and that is said
$t->node->append_conf('postgresql.conf', "exact_pd_sync.key_file = ''");
$t->node->reload;
my (undef, undef, $locked) = $t->try('CALL exact_pd_sync.poll_orders()');
like($locked, qr/is sealed and there is no key/, 'without the key file a poll says why it cannot');
like($locked, qr/HINT:.*exact_pd_sync\.key_file/, '... and what to do');
(undef, undef, $locked) = $t->try('SELECT * FROM exact_pd_sync.verify()');
like($locked, qr/is sealed and there is no key/, '... as verify() does');

# ----------
note 'the log';
# ----------
$t->node->stop('fast');
my $log = slurp_file($t->node->logfile);
cmp_ok(length $log, '>', 100_000, 'the log has told all it could');
like($log, qr/DEBUG:/, '... down to the lowest level');
like($log, qr/set_exact_app/, '... with the statements');
has_no_secret($log, 'the server log');
$t->node->append_conf('postgresql.conf', "exact_pd_sync.key_file = '$dir/key'");
$t->node->start;
my @in_url = grep { $_->{text} =~ /token/ } $t->violations;
is(scalar @in_url, 0, 'no token was ever part of a URL');
is(($t->try('CALL exact_pd_sync.poll_orders()'))[0], 0, 'with the key back in place it goes on');
$t->done;
