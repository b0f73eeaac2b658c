# The HTTP room (src/http*.c) against a server that misbehaves.
#
# The extension is not needed: a small test module makes the C functions
# callable.  The misbehaving server is in this file, a process per connection,
# so that each fault is a few lines that can be read beside the test that
# wants it.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IO::Compress::Gzip qw(gzip);
use IO::Select;
use IO::Socket::INET;
use IPC::Run ();
use JSON::PP ();
use POSIX qw(WNOHANG);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $module_dir =
  abs_path(dirname(__FILE__) . '/../modules/epds_test_http');
my $module = $ENV{EPDS_TEST_HTTP} || "$module_dir/epds_test_http";

# Far below every hang in here (60 s), far above a busy machine's hiccups.
my $prompt_ms = 2000;

my $secret = 'very-secret-Token/1+2';

# ----------
# The server
# ----------

my $request_log = PostgreSQL::Test::Utils::tempdir() . '/requests';
append_to_file($request_log, '');

sub answer
{
	my ($client, $status, $headers, $body) = @_;
	$headers = [ 'Content-Type: application/json', @$headers ]
	  unless grep { /^Content-Type:/ } @$headers;
	print $client join("\r\n",
		"HTTP/1.1 $status Text", @$headers,
		'Content-Length: ' . length($body), '', $body);
	$client->flush;
	return;
}

sub chunk
{
	my ($client, $data) = @_;
	return print($client sprintf("%x\r\n%s\r\n", length($data), $data))
	  && $client->flush;
}

my $headers_json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";

# What a path does.  Gets the connection, the request and which request of this
# connection it is; a false value ends the connection.
my %behaviour = (
	'/ok' => sub {
		answer(
			$_[0], 200,
			[
				'X-RateLimit-Remaining: 7', 'Set-Cookie: s=abcdef',
				'X-Boring: yes', 'Date: first', 'Date: last'
			],
			'{"ok":true}');
		return 1;
	},
	'/echo' => sub {
		my ($client, $request) = @_;
		answer($client, 200, ['Content-Type: text/plain'],
			"$request->{method}|$request->{head}|$request->{body}");
		return 1;
	},
	'/slow' => sub { sleep 0.3; answer($_[0], 200, [], '{}'); return 1; },
	'/hang-headers' => sub { sleep 60; return 0; },
	'/hang-body' => sub {
		print { $_[0] } "${headers_json}Content-Length: 1000\r\n\r\n{\"half\":";
		$_[0]->flush;
		sleep 60;
		return 0;
	},
	'/drip' => sub {
		print { $_[0] } "${headers_json}Content-Length: 1000\r\n\r\n";
		while (print { $_[0] } ' ') { $_[0]->flush; sleep 0.05; }
		return 0;
	},
	'/endless' => sub {
		my $block = ' ' x 16384;
		print { $_[0] } "${headers_json}Transfer-Encoding: chunked\r\n\r\n";
		sleep 0.005 while chunk($_[0], $block);
		return 0;
	},
	'/endless-headers' => sub {
		print { $_[0] } $headers_json;
		1 while print { $_[0] } 'X-RateLimit-More: ' . ('x' x 4000) . "\r\n";
		return 0;
	},
	'/gzip' => sub {
		my $plain = '{"a":"' . ('b' x 5000) . '"}';
		gzip \$plain => \my $packed;
		answer($_[0], 200, ['Content-Encoding: gzip'], $packed);
		return 1;
	},
	'/gzip-bomb' => sub {
		my $plain = ' ' x (32 * 1024 * 1024);
		gzip \$plain => \my $packed;
		answer($_[0], 200, ['Content-Encoding: gzip'], $packed);
		return 1;
	},
	'/gzip-broken' => sub {
		answer($_[0], 200, ['Content-Encoding: gzip'], 'not gzip at all');
		return 1;
	},
	'/truncated' => sub {
		print { $_[0] } "${headers_json}Content-Length: 1000\r\n\r\n{\"a\":1";
		return 0;
	},
	'/truncated-chunk' => sub {
		print { $_[0] } "${headers_json}Transfer-Encoding: chunked\r\n\r\n";
		print { $_[0] } "100\r\n{\"a\":1";
		return 0;
	},
	'/empty' => sub { answer($_[0], 200, [], ''); return 1; },
	'/nothing' => sub { return 0; },
	'/not-http' => sub { print { $_[0] } "SSH-2.0-x\r\n"; return 0; },

	# the connection is kept alive once, then closed without an answer
	'/once' => sub {
		my ($client, $request, $number) = @_;
		return 0 if $number > 1;
		answer($client, 200, [], '{}');
		return 1;
	},
	'/block-page' => sub {
		answer($_[0], 403, ['Content-Type: Text/HTML; charset=latin-1'],
			"<html>caf\xe9</html>");
		return 1;
	},
	'/latin1' => sub { answer($_[0], 200, [], "{\"a\":\"caf\xe9\"}"); return 1; },
	'/nul' => sub { answer($_[0], 200, [], "{\"a\":\"\0\"}"); return 1; },
	'/redirect' => sub {
		answer($_[0], 302, ["Location: /ok?code=abcdefgh&state=1"], '');
		return 1;
	},
	'/leak' => sub {
		answer($_[0], 401,
			["WWW-Authenticate: Bearer \"$secret\"", "Reason: Bearer $secret"],
			'{}');
		return 1;
	},
	'/big' => sub {
		answer($_[0], 200, [], '["' . ('x' x (5 * 1024 * 1024)) . '"]');
		return 1;
	},
	'/continue' => sub {
		print { $_[0] } "HTTP/1.1 100 Continue\r\nRetry-After: 99\r\n\r\n";
		answer($_[0], 200, ['Date: x'], '{}');
		return 1;
	},);

sub serve_connection
{
	my ($client) = @_;
	my $number = 0;
	my $again = 1;
	binmode $client;
	while ($again)
	{
		my %request = (head => '', body => '');
		while (defined(my $line = <$client>))
		{
			last if $line eq "\r\n";
			$request{head} .= $line;
		}
		return if $request{head} eq '';
		@request{ 'method', 'path' } = $request{head} =~ /^(\S+) (\/[^\s?]*)/;
		if ($request{head} =~ /^Content-Length: (\d+)/mi)
		{
			read $client, $request{body}, $1;
		}
		append_to_file($request_log, "$request{method} $request{path}\n");
		$again = $behaviour{ $request{path} }->($client, \%request, ++$number);
	}
	return;
}

my $listener = IO::Socket::INET->new(
	LocalAddr => '127.0.0.1',
	Listen => 128,
	ReuseAddr => 1) or die "could not listen: $!";
my $port = $listener->sockport;
my $server_pid = fork() // die "could not fork: $!";
if ($server_pid == 0)
{
	setpgrp;
	$SIG{CHLD} = 'IGNORE';
	$SIG{PIPE} = 'IGNORE';
	$SIG{TERM} = sub { POSIX::_exit(0) };
	while (1)
	{
		my $client = $listener->accept or next;
		if (fork() == 0)
		{
			$listener->close;
			serve_connection($client);
			close $client;
			POSIX::_exit(0);
		}
		close $client;
	}
}
$listener->close;

# The server and its connections, some of which sleep, end with the test.
END
{
	my $status = $?;
	if ($server_pid)
	{
		kill 'TERM', -$server_pid;
		waitpid $server_pid, 0;
	}
	$? = $status;
}

# A port where connecting hangs: the queue of the listener is full.
my $blackhole = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1)
  or die "could not listen: $!";
listen $blackhole, 0 or die "could not listen: $!";
my $blackhole_port = $blackhole->sockport;
my @fillers = map {
	IO::Socket::INET->new(
		PeerAddr => '127.0.0.1',
		PeerPort => $blackhole_port,
		Blocking => 0)
} 1 .. 4;

# A library that makes looking up names below slow.test take a minute.
sub slow_lookup_library
{
	my $dir = PostgreSQL::Test::Utils::tempdir();
	append_to_file("$dir/slow.c", <<'END');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>
int
getaddrinfo(const char *node, const char *service,
			const struct addrinfo *hints, struct addrinfo **result)
{
	int			(*real) (const char *, const char *, const struct addrinfo *,
						 struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");

	if (node && strstr(node, "slow.test"))
		sleep(60);
	return real(node, service, hints, result);
}
END
	my $cc = $ENV{CC} || 'cc';
	return system("$cc -shared -fPIC -o $dir/slow.so $dir/slow.c -ldl") == 0
	  ? "$dir/slow.so"
	  : undef;
}

# ----------
# PostgreSQL
# ----------

my $slow_lookup = slow_lookup_library();
my $node = PostgreSQL::Test::Cluster->new('http');
$node->init;
$node->append_conf('postgresql.conf', <<"END");
log_min_messages = debug3
log_statement = none
log_min_error_statement = panic
log_min_duration_statement = -1
max_connections = 40
END
{
	local $ENV{LD_PRELOAD} = $slow_lookup if $slow_lookup;
	$node->start;
}
$node->safe_psql('postgres', "\\set module '$module'\n"
	  . slurp_file("$module_dir/epds_test_http.sql"));

my $base = "http://127.0.0.1:$port";
my $allow = "SET epds_test_http.allow_insecure_http = on;\n";

sub quoted
{
	my ($text) = @_;
	return 'NULL' unless defined $text;
	$text =~ s/'/''/g;
	return "'$text'";
}

# The SQL of one request; options: method, headers, body, max, timeout.
sub fetch_sql
{
	my ($url, %option) = @_;
	my $headers = $option{headers}
	  ? 'ARRAY[' . join(',', map { quoted($_) } @{ $option{headers} }) . ']'
	  : 'NULL';
	return sprintf(
		'CALL test_fetch(%s, %s, %s, %s, %s, %s, NULL)',
		quoted($option{method} || 'GET'), quoted($url),
		$headers, quoted($option{body}),
		$option{max} || 'NULL', $option{timeout} || 5000);
}

# One or more requests in one session; their answers as JSON texts.
sub fetch_all
{
	my (@sql) = @_;
	return split /\n/,
	  $node->safe_psql('postgres', "LOAD '$module';\n$allow" . join(";\n", @sql));
}

sub fetch
{
	my ($path, %option) = @_;
	my ($answer) = fetch_all(fetch_sql("$base$path", %option));
	return $answer;
}

# The part of an answer that a test wants.
sub part
{
	my ($answer, @path) = @_;
	my $value = JSON::PP->new->allow_nonref->decode($answer);
	$value = $value->{$_} foreach @path;
	return ref $value ? JSON::PP->new->canonical->encode($value) : $value;
}

sub requests_of
{
	my ($line) = @_;
	return scalar grep { $_ eq $line } split /\n/, slurp_file($request_log);
}

# ----------
# Answers
# ----------

note 'answers';
my $answer = fetch('/ok');
is(part($answer, 'result'), 'ok', 'an answer is ok');
is(part($answer, 'status'), '200', '... has its status');
is(part($answer, 'body'), '{"ok":true}', '... its body');
is(part($answer, 'type'), 'application/json', '... its type');
is(part($answer, 'tag'), '4711', '... and the tag of the request');
is( part($answer, 'headers'),
	'{"content-type":"application/json","date":"last","x-ratelimit-remaining":"7"}',
	'only headers that matter are kept, the last of each');

$answer = fetch(
	'/echo',
	method => 'PATCH',
	body => '{"value":1}',
	headers => [ 'Content-Type: application/json', 'X-One: 1' ]);
like(part($answer, 'body'), qr/^PATCH\|.*\|\{"value":1\}$/s,
	'method and body are sent');
like(part($answer, 'body'), qr/^X-One: 1\r$/m, 'headers are sent');
like(part($answer, 'body'), qr/^Content-Type: application\/json\r$/m,
	'the type of the body is the one given');
unlike(part($answer, 'body'), qr/^Expect:/mi, 'no permission is waited for');
like(part(fetch('/echo', method => 'DELETE'), 'body'),
	qr/^DELETE\|DELETE \/echo HTTP\/1\.1\r/, 'DELETE without a body');
like(part(fetch('/echo', method => 'POST'), 'body'),
	qr/^POST\|.*^Content-Length: 0\r/ms, 'POST without a body');

is(part(fetch('/gzip'), 'body_len'), '5008', 'gzip is unpacked');
is(part(fetch('/big'), 'body_len'), 5 * 1024 * 1024 + 4, 'a large answer');
is(part(fetch('/empty'), 'result'), 'ok', 'an empty answer is an answer');
is(part(fetch('/continue'), 'headers'),
	'{"content-type":"application/json","date":"x"}',
	'headers of an interim answer do not count');

$answer = fetch('/redirect');
is(part($answer, 'status'), '302', 'a redirect is an answer');
is(part($answer, 'headers', 'location'), '/ok?code=***&state=1',
	'... whose target is told, without the code in it');
is(requests_of('GET /ok'), 1, '... and it was not followed');

$answer = fetch('/block-page');
is(part($answer, 'result') . part($answer, 'status') . part($answer, 'type'),
	'ok403text/html', 'an error page is an answer with its type');
is(part($answer, 'body'), '<html>caf?</html>', '... made storable');

# ----------
# Faults
# ----------

note 'faults';

# Each is followed by a good request in the same session, which uses the same
# handle again.
sub fault
{
	my ($name, $url, $option, $result, $error) = @_;
	$url = "$base$url" if $url =~ /^\//;
	my ($got, $next) =
	  fetch_all(fetch_sql($url, %$option), fetch_sql("$base/gzip"));
	is(part($got, 'result'), $result, "$name: $result");
	like(part($got, 'error'), $error, '... and says why');
	is(part($next, 'body_len'), '5008', '... and the next request is answered');
	return;
}

fault('truncated', '/truncated', {}, 'unknown', qr/while reading the answer/);
fault('truncated chunk', '/truncated-chunk', {}, 'unknown',
	qr/while reading the answer/);
fault('closed without an answer', '/nothing', {}, 'unknown',
	qr/while waiting for the answer/);
fault('not HTTP', '/not-http', {}, 'unknown', qr/\w/);
fault('broken gzip', '/gzip-broken', {}, 'unknown', qr/\w/);
fault('gzip bomb', '/gzip-bomb', { max => 1048576 }, 'refused',
	qr/larger than allowed/);
fault('large answer', '/big', { max => 1048576 }, 'refused', qr/\w/);
fault('endless body', '/endless', { max => 1048576 }, 'refused',
	qr/larger than allowed/);
fault('endless headers', '/endless-headers', {}, 'refused', qr/\w/);
fault('dripping body', '/drip', { timeout => 500 }, 'unknown',
	qr/while reading the answer: .*timed out/);
fault('no headers', '/hang-headers', { timeout => 500 }, 'unknown',
	qr/while waiting for the answer: .*timed out/);
fault('not UTF-8', '/latin1', {}, 'refused', qr/not valid UTF-8/);
fault('NUL', '/nul', {}, 'refused', qr/not valid UTF-8/);
fault('not UTF-8, after a change', '/latin1', { method => 'POST' },
	'unknown', qr/not valid UTF-8/);
fault('too large, after a change', '/big', { method => 'POST', max => 1000 },
	'unknown', qr/\w/);

fault('connection refused', 'http://127.0.0.1:1/', {}, 'not_sent',
	qr/^while connecting: /);
fault('unknown host', 'https://no-such-host.invalid/', {}, 'not_sent',
	qr/^while looking up the host: /);
fault('no connection in time', "http://127.0.0.1:$blackhole_port/",
	{ timeout => 500 }, 'not_sent', qr/^while connecting: .*timed out/i);
fault('no lookup in time', 'https://www.slow.test/', { timeout => 500 },
	'not_sent', qr/^while looking up the host: .*timed out/i)
  if $slow_lookup;
fault("refused: $_", $_, {}, 'refused', qr/^the URL|^plain http/)
  foreach ("http://127.0.0.1.other.test:$port/ok",
	'http://start.exactonline.nl/', "https://127.0.0.1:$port\\\@other.test/",
	'file:///etc/passwd');

# A server nobody vouches for: the request must not reach it.
SKIP:
{
	my $dir = PostgreSQL::Test::Utils::tempdir();
	skip 'no openssl command', 3
	  if system("openssl req -x509 -newkey rsa:2048 -nodes -days 2 "
		  . "-subj /CN=localhost -addext subjectAltName=DNS:localhost "
		  . "-keyout $dir/key -out $dir/cert 2>/dev/null") != 0;
	my $tls_port = PostgreSQL::Test::Cluster::get_free_port();
	my $tls_log = '';
	my $tls = IPC::Run::start(
		[
			'openssl', 's_server', '-accept', $tls_port, '-cert',
			"$dir/cert", '-key', "$dir/key", '-www'
		],
		'<', \'', '>&', \$tls_log);
	for (1 .. 100)
	{
		last if IO::Socket::INET->new("127.0.0.1:$tls_port");
		sleep 0.1;
	}
	($answer) = fetch_all(fetch_sql("https://localhost:$tls_port/"));
	is(part($answer, 'result'), 'not_sent', 'unknown certificate: not sent');
	like(part($answer, 'error'), qr/^while connecting: .*certificate/i,
		'... and says why');
	is(part($answer, 'body'), '', '... and nothing was read');
	$tls->kill_kill;
}

is(part(fetch('/ok'), 'result'), 'ok', 'loopback may be allowed');
is( part(
		$node->safe_psql('postgres', fetch_sql("$base/ok")), 'error'),
	'plain http needs exact_pd_sync.allow_insecure_http',
	'... but is not by default');

# ----------
# Nothing is sent twice
# ----------

note 'nothing is sent twice';
my @answers = fetch_all(
	fetch_sql("$base/once", method => 'POST'),
	fetch_sql("$base/once", method => 'POST'),
	fetch_sql("$base/once", method => 'POST'));
is(part($answers[0], 'result'), 'ok', 'the first POST is answered');
# libcurl before 7.80 cannot be stopped from repeating: there, each POST has a
# connection of its own, and this one is answered
like(part($answers[1], 'result'), qr/^(unknown|ok)$/,
	'the second, on the same connection, is not: its outcome is unknown');
is(part($answers[2], 'result'), 'ok', 'the next has a new connection');
is(requests_of('POST /once'), 3, 'no POST was repeated behind our back');

# ----------
# Secrets
# ----------

note 'secrets';
$answer = $node->safe_psql(
	'postgres',
	"$allow SET client_min_messages = warning; LOAD '$module';\n"
	  . "SELECT test_redact_add('$secret');\n"
	  . fetch_sql("$base/leak?api_token=$secret",
		headers => ["Authorization: Bearer $secret"]));
$answer =~ s/^\s*\n//;
is(part($answer, 'headers', 'reason'), 'Bearer ***',
	'a secret that the server echoes is masked');
unlike($answer, qr/very-secret/, '... wherever it stands');
my ($ret, $out, $err) = $node->psql('postgres',
	"$allow LOAD '$module';" . fetch_sql("$base/ok",
		headers => ["X-Token: $secret\nX-Other: y"]));
like($err, qr/cannot send HTTP header "X-Token": .*control character/,
	'a header of two lines is an error');
unlike($err, qr/very-secret/, '... that does not show its value');
my $log = slurp_file($node->logfile);
like($log, qr/exact_pd_sync: GET \S+\/leak\?api_token=\*\*\*: status 401/,
	'requests are in the log at debug3');
unlike($log, qr/very-secret/, 'no secret is in the log');

# ----------
# Nothing is held, everything can be stopped
# ----------

note 'stopping';

my %hang = (
	connect => "http://127.0.0.1:$blackhole_port/",
	headers => "$base/hang-headers",
	body => "$base/hang-body",
	'a dripping body' => "$base/drip",
	'an endless body' => "$base/endless",);
$hang{lookup} = 'https://www.slow.test/' if $slow_lookup;

# A session that runs something that hangs; returns when it does.
my $session_number = 0;

sub hanging_session
{
	my ($sql) = @_;
	my $name = 'session' . ++$session_number;
	my ($in, $out, $err) = ('', '', '');
	my $run = IPC::Run::start(
		[
			'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-v',
			'VERBOSITY=verbose', '-d',
			$node->connstr('postgres') . " application_name=$name",
			'-c', "LOAD '$module'", '-c', $allow, '-c', $sql
		],
		'<', \$in, '>', \$out, '2>', \$err);
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = '$name' AND state = 'active' AND query LIKE 'CALL%' AND backend_xmin IS NULL AND backend_xid IS NULL"
	) or die "session does not hang";
	sleep 0.1;
	return { name => $name, run => $run, err => \$err };
}

sub session_column
{
	my ($session, $column) = @_;
	return $node->safe_psql('postgres',
		"SELECT $column FROM pg_stat_activity WHERE application_name = '$session->{name}'"
	);
}

# Stop a session with an administration function; milliseconds until it was.
sub stop_ms
{
	my ($session, $function, $until) = @_;
	return $node->safe_psql('postgres', <<"END");
DO \$\$
DECLARE
    start timestamptz := clock_timestamp();
BEGIN
    PERFORM $function(pid) FROM pg_stat_activity WHERE application_name = '$session->{name}';
    FOR i IN 1 .. 10000 LOOP
        PERFORM pg_stat_clear_snapshot();
        EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = '$session->{name}' AND $until);
        PERFORM pg_sleep(0.001);
    END LOOP;
    PERFORM set_config('test.ms', round(extract(epoch FROM clock_timestamp() - start) * 1000)::text, false);
END \$\$;
SELECT current_setting('test.ms')
END
}

for my $phase (sort keys %hang)
{
	my $sql = fetch_sql($hang{$phase}, timeout => 60000, max => 1000000000);
	my $session = hanging_session($sql);
	is( session_column(
			$session, 'backend_xmin IS NULL AND backend_xid IS NULL'),
		't',
		"waiting in $phase holds no snapshot and no transaction id");
	my $ms = stop_ms($session, 'pg_cancel_backend', "state = 'active'");
	note "cancel in $phase took $ms ms";
	cmp_ok($ms, '<', $prompt_ms, "a cancel in $phase acts at once");
	$session->{run}->finish;
	like(${ $session->{err} }, qr/57014/, '... as a cancel');

	$session = hanging_session($sql);
	$ms = stop_ms($session, 'pg_terminate_backend', 'true');
	note "terminate in $phase took $ms ms";
	cmp_ok($ms, '<', $prompt_ms, "a terminate in $phase acts at once");
	$session->{run}->finish;
	like(${ $session->{err} }, qr/57P01/, '... as a terminate');

	my $start = time;
	($ret, $out, $err) = $node->psql('postgres',
		"\\set VERBOSITY verbose\n$allow LOAD '$module'; SET statement_timeout = 300;\n$sql"
	);
	like($err, qr/57014/, "statement_timeout ends a wait in $phase");
	cmp_ok((time - $start) * 1000, '<', 300 + $prompt_ms, '... in time');
}

my $session = hanging_session('CALL test_sleep(60000)');
my $ms = stop_ms($session, 'pg_cancel_backend', "state = 'active'");
cmp_ok($ms, '<', $prompt_ms, 'a cancel ends a wait without a request');
$session->{run}->finish;

# ----------
# Many requests, and what is left behind
# ----------

note 'many';
my ($summary) =
  fetch_all("CALL test_many('GET', '$base/slow', NULL, 16, 8, NULL)");
is(part($summary, 'status_200'), '16', 'many requests are all answered');
is(part($summary, 'tags'), '136', '... each once');
cmp_ok(part($summary, 'ms'), '<', 16 * 300, '... and at the same time');
($summary) =
  fetch_all("CALL test_many('GET', 'file:///x', NULL, 100, 2, NULL)");
is(part($summary, 'refused'), '100', 'refused ones need no connection');
($summary) =
  fetch_all("CALL test_many('GET', '$base/nothing', NULL, 20, 4, NULL)");
is(part($summary, 'unknown'), '20', 'failures do not stop the others');

$ret = $node->safe_psql(
	'postgres',
	"$allow LOAD '$module'; SET statement_timeout = 20;\n"
	  . "\\set ON_ERROR_STOP off\n"
	  . "CREATE TEMP TABLE before AS SELECT test_open_files() AS files;\n"
	  . (fetch_sql($hang{headers}, timeout => 60000) . ";\n") x 60
	  . (fetch_sql($hang{connect}, timeout => 60000) . ";\n") x 60
	  . ("CALL test_many('GET', '$hang{headers}', NULL, 8, 4, NULL);\n") x 60
	  . "SET statement_timeout = 0;\n"
	  . "SELECT test_open_files() - files FROM before");
is($ret, '0', 'cancelled requests leave no descriptor open');

($ret, $out, $err) = $node->psql('postgres',
	"$allow LOAD '$module';\nCALL test_many('GET', '$base/ok', NULL, 1, 100000, NULL)"
);
like($err, qr/cannot reserve \d+ file descriptors for HTTP/,
	'too many connections are refused before they are made');
is( $node->safe_psql(
		'postgres',
		"$allow LOAD '$module';\n"
		  . "\\set ON_ERROR_STOP off\n"
		  . ("CALL test_many('GET', '$base/ok', NULL, 1, 100000, NULL);\n") x 3
		  . "\\t on\n\\pset format unaligned\n"
		  . "CALL test_many('GET', '$base/ok', NULL, 1, 20, NULL)") =~
	  /"status_200": 1\b/,
	1,
	'... and what was reserved is given back');

# ----------
# Shutdown
# ----------

note 'shutdown';
my @sessions = map {
	hanging_session(fetch_sql($hang{$_}, timeout => 60000, max => 1000000000))
} sort keys %hang;
my $start = time;
$node->stop('fast');
my $took = int((time - $start) * 1000);
note "fast shutdown with hanging requests took $took ms";
cmp_ok($took, '<', 10000, 'a fast shutdown does not wait for requests');
$_->{run}->finish for @sessions;
unlike(slurp_file($node->logfile), qr/was terminated by signal|PANIC/,
	'nothing crashed');

done_testing();
