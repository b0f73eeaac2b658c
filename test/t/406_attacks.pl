# What strangers send to the listener: floods, drips, halves, nonsense.  After each of
# these the same worker lives, a genuine notification is answered at once, nothing but
# genuine ones is stored, and the connections are gone.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use Digest::SHA qw(hmac_sha256_hex);
use EpdsTest;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::IP;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Socket qw(SOL_SOCKET SO_LINGER SO_RCVBUF);
use Test::More;
use Time::HiRes qw(time usleep);

my $secret = 'the-secret-of-both';
my $password = 'aPasswordOfPipedrive';
my $port = PostgreSQL::Test::Cluster::get_free_port();
# No service is ever called: there is no consent, and the division is not read.
my $t = EpdsTest->new(
	'attacks',
	sandbox => { ready => {} },
	conf => "exact_pd_sync.listen = 'sync=127.0.0.1:$port'\n");
local $SIG{PIPE} = 'IGNORE';

ok($t->wait_for(q{SELECT exact_pd_sync.worker_pid('listener') <> 0}, 't', 30), 'a listener runs');
$t->sql("SELECT exact_pd_sync.store_secret('exact_webhook_secret', '$secret')");
$t->sql("SELECT exact_pd_sync.store_secret('pipedrive_webhook_password', '$password')");
my $pid = $t->sql(q{SELECT exact_pd_sync.worker_pid('listener')});
my $login = 'Basic ' . encode_base64("exact_pd_sync:$password", '');

# ----------
# Tools
# ----------

sub open_socket
{
	my (%how) = @_;
	return IO::Socket::INET->new(
		PeerAddr => '127.0.0.1',
		PeerPort => $port,
		Timeout => 10,
		$how{from} ? (LocalAddr => $how{from}) : ());
}

# All bytes that come until the connection ends, or (until => REGEX) until they match.
sub answer_on
{
	my ($socket, %how) = @_;
	my $bytes = '';
	my $select = IO::Select->new($socket);
	my $end = time + 40;
	until ($how{until} && $bytes =~ $how{until})
	{
		return "$bytes (no end)" if time > $end;
		next unless $select->can_read(1);
		last unless sysread $socket, $bytes, 65536, length $bytes;
	}
	return $bytes;
}

# The statuses that bytes are answered with, in order; '' when they are not answered.  Half of the connection is
# closed when nothing comes any more: who does so before may be taken for gone.
sub send_bytes
{
	my ($bytes, %how) = @_;
	my $socket = open_socket(%how) or return 'refused';
	my $select = IO::Select->new($socket);
	my $sent = 0;
	my $end = time + 20;
	while ($sent < length $bytes && time < $end)
	{
		next unless $select->can_write(1);
		$sent += syswrite($socket, $bytes, 65536, $sent) // last;
	}
	my $answer = '';
	shutdown $socket, 1 if $select->can_read($how{silent} ? 0.1 : 30) && !$how{until} && !sysread($socket, $answer, 65536);
	shutdown $socket, 1 unless $how{until} || $select->can_read(0.1);
	$answer .= answer_on($socket, until => $how{until});
	close $socket;
	return statuses($answer);
}

# Of answers one behind the other, as a client reads them: by their lengths, and none behind the last.
sub statuses
{
	my ($bytes) = @_;
	my @statuses = $bytes =~ /(\(no end\))/;
	while ($bytes =~ s,\AHTTP/1\.[01] (\d{3})([^\n]*\n.*?)\r\n\r\n,,s)
	{
		my ($status, $headers) = ($1, $2);
		next if $status eq '100';
		push @statuses, $status;
		last if $headers =~ /^Connection: close/mi;
		substr $bytes, 0, $headers =~ /^Content-Length: (\d+)/mi ? $1 : 0, '';
	}
	return join ' ', @statuses;
}

sub post
{
	my ($body, @headers) = @_;
	return join "\r\n", 'POST /exact/webhook HTTP/1.1', 'Host: x', @headers, 'Content-Length: ' . length $body, '', $body;
}

my $genuine = 0;

sub signed
{
	my (%with) = @_;
	my $content = sprintf '{"Topic":"SalesOrders","ClientId":"c","Division":1,"Action":"Update","Key":"00000000-0000-0000-0000-%012d","ExactOnlineEndpoint":"x","EventCreatedOn":"2026-01-01T00:00:00"}', $with{number} // ++$genuine;
	return qq({"Content":$content,"HashCode":") . uc(hmac_sha256_hex($content, $with{secret} // $secret)) . '"}';
}

sub chunk { return sprintf "%x\r\n%s\r\n", length $_[0], $_[0]; }

sub chunked
{
	my ($headers, @chunks) = @_;
	return "POST /exact/webhook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n$headers\r\n" . join '', @chunks;
}

sub stored { return $t->sql(q{SELECT count(*) FROM exact_pd_sync.webhook_deliveries WHERE side = 'exact'}); }

# Sockets that the worker has open, the one it listens on included.
sub open_sockets
{
	return scalar grep { (readlink($_) // '') =~ /^socket:/ } glob "/proc/$pid/fd/*";
}

sub anonymous_kb
{
	my ($kb) = slurp_file("/proc/$pid/smaps_rollup") =~ /^Anonymous:\s+(\d+)/m;
	return $kb;
}

sub cpu_ms
{
	my @stat = split / /, slurp_file("/proc/$pid/stat") =~ s/^.*\) //r;
	return ($stat[11] + $stat[12]) * 10;
}

sub until_true
{
	my ($seconds, $condition) = @_;
	my $end = time + $seconds;
	until ($condition->())
	{
		return 0 if time > $end;
		usleep(20_000);
	}
	return 1;
}

my $resting;    # sockets of a listener that nobody is connected to

# One line for each attack: what all of them must leave as it was.
sub unharmed
{
	my ($name) = @_;
	my @wrong;
	my $answer = send_bytes(post(signed()), until => qr/\r\n\r\n/);
	push @wrong, "a genuine notification was answered '$answer'" unless $answer eq '200';
	my $now = $t->sql(q{SELECT exact_pd_sync.worker_pid('listener')});
	push @wrong, "the worker is $now, and was $pid" unless $now eq $pid;
	my $stored = stored();
	push @wrong, "$stored are stored, and $genuine were genuine" unless $stored eq $genuine;
	push @wrong, 'connections are left: ' . open_sockets() . ", not $resting" unless until_true(40, sub { open_sockets() == $resting });
	is(join("\n", @wrong), '', "$name: ... and no harm is done");
	return;
}

# Bytes, and what they may be answered with (a pattern for the statuses).
sub attack
{
	my ($name, $bytes, $expected, %how) = @_;
	like(send_bytes($bytes, silent => '' =~ /\A(?:$expected)\z/, %how), qr/\A(?:$expected)\z/, $name);
	unharmed($name);
	return;
}

$resting = open_sockets();
unharmed('nothing yet');

# -----------
note 'sizes';
# -----------

my $refused = '|400|413|414|431';
attack('a line of 8 kB that is no path of ours', 'GET /' . 'a' x 8192 . " HTTP/1.1\r\nHost: x\r\n\r\n", '404');
attack('a query of two thousand parts', 'GET /healthz?' . 'a=b&' x 2048 . " HTTP/1.1\r\nHost: x\r\n\r\n", $refused);
attack('a line without an end', 'GET /' . 'a' x 1_000_000, $refused);
attack('a method without an end', 'G' x 100_000, $refused);
attack('a flood of headers', "GET /healthz HTTP/1.1\r\nHost: x\r\n" . join('', map { "X-$_: y\r\n" } 1 .. 20_000) . "\r\n", $refused);
attack('a header without an end', "GET /healthz HTTP/1.1\r\nHost: x\r\nX: " . 'y' x 1_000_000, $refused);
attack('a header of many lines', "GET /healthz HTTP/1.1\r\nHost: x\r\nX: y\r\n" . " y\r\n" x 20_000 . "\r\n", $refused);
attack('a body that is too large', post('x' x 200_000), '|413');
attack('one that would be', "POST /exact/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n", '413');
attack('one of the largest size', post('x' x 65_536), '401');
attack('one that is larger than a number', "POST /exact/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n", $refused);
attack('one that asks first', "POST /exact/webhook HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n", '413|417');
attack('a body in pieces that is too large', chunked('', map { chunk('x' x 8000) } 1 .. 100), '|413');
attack('a piece that is too large', chunked('', sprintf("%x\r\n", 1 << 30), 'x' x 200_000), '|400|413');
attack('a piece larger than a number', chunked('', 'f' x 40 . "\r\nxx"), '|400|413');
attack('a body where there is none', "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" . 'x' x 1000, '413');

# ---------------------------------
note 'where a request begins and ends';
# ---------------------------------

my $head = "POST /exact/webhook HTTP/1.1\r\nHost: x\r\n";
attack('half a body', "${head}Content-Length: 100\r\n\r\nhalf", '');
attack('half a line', 'POST /exa', '');
attack('half the headers', "${head}Content-Le", '');
attack('half a piece', chunked('', "64\r\nhalf"), '');
attack('two lengths', "${head}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", '400');
attack('the same length twice', "${head}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", '400');
attack('a list of lengths', "${head}Content-Length: 2, 2\r\n\r\n{}", '400');
attack('a negative length', "${head}Content-Length: -1\r\n\r\n{}", '400');
attack('a length with a sign', "${head}Content-Length: +2\r\n\r\n{}", '400');
attack('a length that is none', "${head}Content-Length: 0x2\r\n\r\n{}", '400');
attack('an empty length', "${head}Content-Length:\r\n\r\n{}", '400');
attack('a length and pieces', chunked("Content-Length: 2\r\n", "0\r\n\r\n") . post('{}'), '400');
attack('pieces and a length', "${head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" . post('{}'), '400');
attack('pieces twice', chunked("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), '400');
attack('pieces, and something else', "${head}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", '400|501');
attack('something else than pieces', "${head}Transfer-Encoding: identity\r\n\r\n" . post('{}'), '400|501');
attack('pieces in HTTP/1.0', "POST /exact/webhook HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", '400');
attack('a piece whose length is none', chunked('', "zz\r\n{}\r\n0\r\n\r\n"), '|400');
attack('a piece of negative length', chunked('', "-2\r\n{}\r\n0\r\n\r\n"), '|400');
attack('a piece that goes on behind its end', chunked('', "2\r\n{}{}\r\n0\r\n\r\n"), '|400');
attack('pieces that never end', chunked('', map { chunk('x') } 1 .. 1000), '');
attack('line breaks of one character', post('{}') =~ s/\r\n/\n/gr, '|400|401');
attack('an empty line first', "\r\n" . post('{}'), '400|401');

my $body = signed();
attack('genuine, in pieces of one byte', chunked('', map({ chunk($_) } split //, $body), "0\r\n\r\n"), '200', until => qr/\r\n\r\n/);
# Nobody sends such pieces; libmicrohttpd 1.0.1 refuses them, versions before and after take them.
$body = signed();
my $decorated = send_bytes(chunked('', map({ sprintf "1;a=b\r\n%s\r\n", $_ } split //, $body), "0;last\r\nX-Trailer: Content-Length: 5\r\n\r\n"), until => qr/\r\n\r\n/);
like($decorated, qr/\A(?:200|400|413|)\z/, 'genuine, in pieces with extensions and a trailer');
$genuine-- unless $decorated eq '200';
unharmed('in pieces with extensions and a trailer');
$body = signed();
my $first = int(length($body) / 2);
attack('genuine, in two odd pieces', chunked('', map({ chunk($_) } substr($body, 0, $first), substr($body, $first)), "000\r\n\r\n"), '200', until => qr/\r\n\r\n/);
my $last = "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n";
attack('genuine, forged and genuine, one behind the other', post(signed()) . post(signed(secret => 'guessed', number => 1)) . post(signed()) . $last, '200 401 200 404', until => qr/ 404 /);
attack('a hundred, one behind the other', join('', map { post($_ % 2 ? signed() : '{}') } 1 .. 100) . $last, '200 401(?: 200 401){49} 404', until => qr/ 404 /);
attack('one that hides behind a refused one', "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" . post(signed(number => 999)), '404');
attack('... and behind a body where there is none', "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n" . post(signed(number => 999)), '413');

# ----------------------
note 'methods and paths';
# ----------------------

foreach my $method (qw(GET HEAD PUT DELETE OPTIONS TRACE PATCH PROPFIND BREW post), 'A' x 1000)
{
	attack('method ' . substr($method, 0, 20), "$method /exact/webhook HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", '405');
}
attack('method CONNECT', "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", '404|405');
attack('OPTIONS *', "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", '404');
foreach my $path ('/', '/health', '/healthzz', '//healthz', '/healthz/', '/x/../healthz', '/./healthz', '/../../etc/passwd', '/%68ealthz', '/healthz%00', '/healthz%', '/%', '/healthz;a=b', '/HEALTHZ',
	'healthz', 'http://x/healthz', '/healthz#x')
{
	attack('path ' . $path =~ s/\0/NUL/r, "GET $path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", '|400|404');
}
# The library ends the line there; what is hidden behind it is nowhere looked at.
attack('a path with a zero byte', "GET /healthz\0/../x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", '|200|400|404|503');
attack('a path with a blank', "GET /healthz x HTTP/1.1\r\nHost: x\r\n\r\n", '|400|404');
attack('a query of nonsense', "GET /healthz?%00&%zz=%&&==&\xff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", '200|400|503');
attack('a consent of nonsense', "GET /exact/oauth?code=%00%ff%27--&state=%22%3Cscript%3E HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", '400');
attack('a consent of 8 kB', 'GET /exact/oauth?code=' . 'c' x 7900 . "&state=s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", '400');

# --------------
note 'headers';
# --------------

attack('no host', "GET /healthz HTTP/1.1\r\n\r\n", '400');
attack('an empty host', "GET /healthz HTTP/1.1\r\nHost:\r\n\r\n", '400');
attack('two hosts', "GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", '400');
attack('a host that is none', "GET /healthz HTTP/1.1\r\nHost: x/../\@y\r\n\r\n", '400');
attack('a host of 8 kB', "GET /healthz HTTP/1.1\r\nHost: " . 'x' x 8192 . "\r\n\r\n", '400');
attack('another host', "GET /nowhere HTTP/1.1\r\nHost: other.example:1\r\n\r\n", '404');
attack('control characters', "GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\0b\x01\x7f\xff\r\nConnection: close\r\n\r\n", '|200|400|503');
attack('a zero byte in a name', "GET /healthz HTTP/1.1\r\nHo\0st: x\r\n\r\n", '|400');
attack('a header without a colon', "GET /healthz HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", '|400');
attack('a blank before the colon', "GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n", '|400');
attack('an upgrade', "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", '200|503', until => qr/\r\n\r\n/);
attack('a login of 8 kB', "POST /pipedrive/webhook HTTP/1.1\r\nHost: x\r\nAuthorization: Basic " . 'A' x 8192 . "\r\nContent-Length: 2\r\n\r\n{}", '401');
attack('a login of nonsense', "POST /pipedrive/webhook HTTP/1.1\r\nHost: x\r\nAuthorization: \xff\x01\r\nContent-Length: 2\r\n\r\n{}", '|400|401');
attack('two logins', "POST /pipedrive/webhook HTTP/1.1\r\nHost: x\r\nAuthorization: Basic x\r\nAuthorization: Basic y\r\nContent-Length: 2\r\n\r\n{}", '401');
attack('bodies in other clothes', post('{}', 'Content-Encoding: gzip', 'Content-Type: multipart/form-data; boundary=x'), '401');

# ------------------------
note 'other languages';
# ------------------------

attack('HTTP/0.9', "GET /healthz\r\n", '|400|505');
attack('HTTP/1.0', "GET /nowhere HTTP/1.0\r\nHost: x\r\n\r\n", '404');
attack('HTTP/1.0 without a host', "GET /healthz HTTP/1.0\r\n\r\n", '400');
attack('HTTP/3.7', "GET /healthz HTTP/3.7\r\nHost: x\r\n\r\n", '|400|505');
attack('HTTP of words', "GET /healthz HTTP/one\r\nHost: x\r\n\r\n", '|400|505');
attack('HTTP/2', "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", '|400|404|405|505');
attack('TLS', "\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" . join('', map { chr($_ * 37 % 256) } 1 .. 193), '|400');
attack('SSH', "SSH-2.0-OpenSSH_9.2\r\n", '|400');
attack('PostgreSQL', pack('NN', 8, 80877103), '');
attack('zero bytes', "\0" x 100_000, $refused);
attack('line breaks', "\r\n" x 100_000, $refused);

# --------------------------------
note 'wrong hashes over the wire';
# --------------------------------

# The published example (exact-online 6.4).
my $content = '{"Topic":"SalesOrders","ClientId":"5f2c9a30-6b1d-4e0e-9f57-3d1a7c4b8e21","Division":123456,"Action":"Update",'
  . '"Key":"8c1f7a52-0d3e-4b6a-a4f9-2e7d9b0c6151","ExactOnlineEndpoint":"https://start.exactonline.nl/api/v1/123456/salesorder/SalesOrders(guid\'8c1f7a52-0d3e-4b6a-a4f9-2e7d9b0c6151\')",'
  . '"EventCreatedOn":"2026-03-05T14:07:31.203"}';
my $hash = '666E304066367BA22EA86B012C71B068A0C5764EBDDF7E3851443AB3D37B742F';
my $published = qq({"Content":$content,"HashCode":"$hash"});
$t->sql(q{SELECT exact_pd_sync.store_secret('exact_webhook_secret', 'example-webhook-secret')});
my $counted = q{SELECT coalesce(sum(value), 0) FROM exact_pd_sync.counters() WHERE name = 'answers' AND label = 'exact 401'};
my $before = $t->sql($counted);
my %wrong = (
	'another hash' => $published =~ s/"666E/"766E/r,
	'lower case' => $published =~ s/$hash/lc $hash/er,
	'no hash' => qq({"Content":$content}),
	'an empty hash' => $published =~ s/$hash//r,
	'a hash that is cut off' => $published =~ s/2F"}$/"}/r,
	'a body that is cut off' => substr($published, 0, -40),
	'written again with blanks' => $published =~ s/,"/, "/gr,
	'written again with slashes escaped' => $published =~ s,/,\\/,gr,
	'members the other way round' => qq({"HashCode":"$hash","Content":$content}),
	'another division' => $published =~ s/:123456,"A/:123457,"A/r);
foreach my $name (sort keys %wrong)
{
	is(send_bytes(post($wrong{$name})), '401', $name);
}
is($t->sql($counted) - $before, scalar(keys %wrong), '... all of them are counted');
is(stored(), $genuine, '... and nothing is stored');
is(send_bytes(post($published)), '200', 'the published example is genuine');
is($t->sql(q{SELECT topic || ' ' || key FROM exact_pd_sync.webhook_deliveries ORDER BY id DESC LIMIT 1}), 'SalesOrders 8c1f7a52-0d3e-4b6a-a4f9-2e7d9b0c6151', '... and stored');
$genuine++;
$t->sql("SELECT exact_pd_sync.store_secret('exact_webhook_secret', '$secret')");
unharmed('wrong hashes');

# ------------------
note 'random bytes';
# ------------------

# Requests that are changed at random; what is genuine in them was taken before.
my @hostile = ("\0", "\r\n", "\r\n\r\n", "\n", ' ', ':', ',', '{', '"', "\xff", '%', '0', '-1', '9' x 20, "Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n", 'HashCode', '"Content":', "\\u0000", '[' x 100);

sub changed
{
	my ($bytes) = @_;
	foreach (0 .. int rand 4)
	{
		my $place = int rand length $bytes;
		my $kind = int rand 5;
		if ($kind == 0) { substr $bytes, $place, 1, chr int rand 256; }
		elsif ($kind == 1) { substr $bytes, $place, 1 + int rand 40, ''; }
		elsif ($kind == 2) { substr $bytes, $place, 0, $hostile[ rand @hostile ]; }
		elsif ($kind == 3) { substr $bytes, $place, 0, substr $bytes, int rand length $bytes, 1 + int rand 200; }
		else { $bytes = substr $bytes, 0, $place + 1; }
	}
	return $bytes;
}

sub note_of
{
	my ($id) = @_;
	return qq({"meta":{"id":"$id","entity":"deal","entity_id":"7","action":"change","change_source":"app","user_id":"1","timestamp":"2026-01-01T00:00:00Z"},"data":{"id":7,"title":"new","value":3.5},"previous":{"title":"old","value":null}});
}

sub pipedrive
{
	my ($json) = @_;
	return join "\r\n", 'POST /pipedrive/webhook HTTP/1.1', 'Host: x', "Authorization: $login", 'Content-Length: ' . length $json, '', $json;
}

# Twenty of them at a time; how often which statuses came.  wait: what is silent for so long is given up.
sub send_all
{
	my ($all, %how) = @_;
	my @all = @$all;
	my %count;
	while (my @some = splice @all, 0, 20)
	{
		my @sockets = map { open_socket() } @some;
		syswrite $sockets[$_], $some[$_] foreach 0 .. $#some;
		my $select = IO::Select->new(@sockets);
		my %answer = map { $_ => '' } @sockets;
		while (my @ready = $select->can_read($how{wait}))
		{
			foreach my $socket (@ready)
			{
				$select->remove($socket) if !sysread($socket, $answer{$socket}, 65536, length $answer{$socket}) || $how{one} && $answer{$socket} =~ /\r\n\r\n/;
			}
		}
		$count{ $_ eq '' ? 'none' : $_ }++ foreach map { statuses($_) } values %answer;
		close $_ foreach @sockets;
	}
	return \%count;
}

my $seed = 406;
srand $seed;
my $position = $t->log_position;
my @valid = (
	post(signed(number => 1)), chunked('', chunk(substr signed(number => 1), 0, 100), chunk(substr signed(number => 1), 100), "0\r\n\r\n"), pipedrive(note_of('e-1')),
	"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "GET /exact/oauth?code=c&state=s HTTP/1.1\r\nHost: x\r\n\r\n");
my $count = send_all([ map { changed($valid[ $_ % @valid ]) } 1 .. 900 ], wait => 0.2);
cmp_ok($count->{400} // 0, '>', 50, 'requests changed at random: some are refused');
note join ', ', map { "$_: $count->{$_}" } sort keys %$count;
unharmed('requests changed at random');

# What Pipedrive would send, changed at random behind the login: it is taken or refused, never an error of ours.
my $long = 'x' x 5000;
my @notes = map { changed(note_of("r-$_")) } 1 .. 300;
push @notes, note_of($long), note_of('t') =~ s/"deal"/"$long"/r, note_of('k') =~ s/"7","a/"$long","a/r, note_of('a') =~ s/"change"/"$long"/r, note_of('d') =~ s/2026-01-01/2026-13-77/r, note_of('y') =~ s/2026-01-01/9999999-01-01/r,
  '[]', '{}', '{"meta":7}', '{"meta":{"id":{"a":[1]}}}', '{"meta":null,"data":[1],"previous":"x"}', '{"meta":{"id":"p"},"data":[1],"previous":{"a":1}}', '{"a":' x 63 . '1' . '}' x 63, '[' x 100_000, '{' . "\x01" x 1000 . '}', '{"a":"' . "\\u0000\\ud800" x 1000 . '"}', '{"a":1e999999999}', '{"a":' . '9' x 100_000 . '}',
  qq({"a":"\xed\xa0\x80"}), "{\"a\":\"\0\"}", qq({"meta":{"id":"\xc3\xa9"},"data":{"a":"\xf0\x9f\x98\x80"},"previous":{"a":1}});
$count = send_all([ map { pipedrive($_) } @notes ], wait => 30, one => 1);
is(join(' ', grep { !/^(?:200|400|413)$/ } keys %$count), '', 'notifications of Pipedrive changed at random: each is taken or refused');
cmp_ok($count->{200} // 0, '>', 50, '... some taken');
note join ', ', map { "$_: $count->{$_}" } sort keys %$count;
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.webhook_deliveries WHERE greatest(length(digest), length(topic), length(action), length(key)) > 200}), '0', '... nothing in them is longer than it may be');
unlike($t->log_since($position), qr/(?:ERROR|WARNING|FATAL|PANIC): /, '... and nothing of it is in the log');
unharmed('notifications changed at random');

# -------------------
note 'slow clients';
# -------------------

# Each does just enough not to be idle.  The one that reads slowly has sent more than it ever reads the answers of.
sub drop_all_slow
{
	my (%slow) = @_;
	my %socket = map { $_ => open_socket() } keys %slow;
	syswrite $socket{$_}, $slow{$_}[0] foreach keys %slow;
	my $gone = until_true(
		60,
		sub {
			foreach my $name (keys %slow)
			{
				usleep(60_000);
				syswrite $socket{$name}, $slow{$name}[1] if $slow{$name}[1] ne '';
				sysread $socket{$name}, my $bytes, 4096 if $slow{$name}[2] && IO::Select->new($socket{$name})->can_read(0);
			}
			return open_sockets() == $resting;
		});
	return $gone;
}

# Three clients at a time that are told apart by nothing but how slow they are.
ok( drop_all_slow(
		'says nothing' => [ '', '' ],
		'slow in its line' => [ 'GET /', 'x' ],
		'slow in its headers' => [ "${head}X: ", 'x' ],
		'slow with many headers' => [ $head, "X: y\r\n" ],
		'slow in its body' => [ "${head}Content-Length: 60000\r\n\r\n", 'x' ],
		'slow in pieces' => [ "${head}Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n" ],
		'slow in the first byte of the next one' => [ post('{}'), '' ],
		'slow between requests' => [ "\r\n", "\r\n" ],
		'slow in reading' => [ "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" x 2000, '', 1 ]),
	'slow clients are all cut off, whatever they are slow with');
unharmed('slow clients');

# -------------------
note 'all places taken';
# -------------------

my @held = map { open_socket() } 1 .. 300;
ok(until_true(10, sub { open_sockets() == $resting + 224 }), 'one address holds what one may hold, and not all') or diag(open_sockets() - $resting);
is(send_bytes("GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", from => '127.0.0.2'), '404', '... another one is answered');
my @others = map { open_socket(from => '127.0.0.2') } 1 .. 50;
ok(until_true(10, sub { open_sockets() == $resting + 256 }), '... and with it all places are taken') or diag(open_sockets() - $resting);
close $_ foreach @held, @others;
unharmed('all places taken');

# --------------------------------
note 'nobody may write, all places wait';
# --------------------------------

$position = $t->log_position;
my $session = $t->session;
$session->query_safe('BEGIN; LOCK TABLE exact_pd_sync.webhook_deliveries IN ACCESS EXCLUSIVE MODE');
my $rollbacks = q{SELECT xact_rollback FROM pg_stat_database WHERE datname = 'sync'};
my $rolled = $t->sql($rollbacks, db => 'postgres');
my $taken = signed(number => 1);
my @waiting = map { my $socket = open_socket(from => $_ > 224 ? '127.0.0.2' : undef); syswrite $socket, post($taken); $socket } 1 .. 256;
# Some do not wait for their answer.
my @away = splice @waiting, 0, 20;
setsockopt $_, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0) foreach @away[ 0 .. 9 ];
close $_ foreach @away;
my %status;
$status{ statuses(answer_on($_, until => qr/\r\n\r\n/)) }++ foreach @waiting;
is(join(' ', map { "$_: $status{$_}" } sort keys %status), '503: 236', 'while the inbox is locked everybody is told to try again');
cmp_ok($t->sql($rollbacks, db => 'postgres') - $rolled, '<=', 6, '... all of them together, not ten after ten, each with its own three seconds');
like($t->sql(q{SELECT exact_pd_sync.worker_trouble('listener')}), qr/lock timeout/, '... the worker says why');
$session->query_safe('ROLLBACK');
$session->quit;
close $_ foreach @waiting;
unharmed('the lock is gone');
my @said = $t->log_since($position) =~ /ERROR:  .*lock timeout|LOG:  .*the listener can answer again/g;
is(scalar(@said), 2, '... the log says once that it was, and once that it is over') or diag(join "\n", @said);
is($t->sql(q{SELECT exact_pd_sync.worker_trouble('listener') IS NULL}), 't', '... and nothing else is the matter');

# --------------
note 'large bodies';
# --------------

# Without a login, each nearly as large as one may be: together they are given no more than a part.
my $kb = anonymous_kb();
my @large = map { open_socket() } 1 .. 60;
my $large = "POST /pipedrive/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" . 'x' x 999_999;
foreach my $socket (@large)
{
	my $sent = 0;
	$sent += syswrite $socket, $large, 100_000, $sent while $sent < length $large;
}
is(send_bytes(post('{}')), '401', 'while they hang, others are answered');
my $grown = anonymous_kb() - $kb;
cmp_ok($grown, '<', 24 * 1024, '... and sixty megabytes are not held for them') or diag($grown);
syswrite $_, 'x' foreach @large;
%status = ();
$status{ statuses(answer_on($_, until => qr/\r\n\r\n/)) }++ foreach @large;
is(join(' ', sort keys %status), '401 503', '... who finds room is judged, who does not is told to try again');
cmp_ok($status{401}, '>=', 16, '... as many as there is room for');
close $_ foreach @large;
unharmed('large bodies');

# -------------------------
note 'no descriptor is left';
# -------------------------

SKIP:
{
	skip 'no prlimit', 4 unless -x '/usr/bin/prlimit';
	my $lowest = 0;
	$lowest++ while -e "/proc/$pid/fd/$lowest" || -l "/proc/$pid/fd/$lowest";
	my ($limit) = slurp_file("/proc/$pid/limits") =~ /^Max open files\s+(\d+)/m;
	$position = $t->log_position;
	system_or_bail('prlimit', "--pid=$pid", "--nofile=$lowest:");
	my $knocks = open_socket();
	syswrite $knocks, post('{}');
	ok(until_true(20, sub { $t->log_since($position) =~ /could not accept a connection: there is no file descriptor left/ }), 'no descriptor is left: the log says so');
	my $cpu = cpu_ms();
	my $since = time;
	usleep(50_000) while time < $since + 3;    # a stretch of time is what is looked at here
	cmp_ok(cpu_ms() - $cpu, '<', 1000, '... and the worker does not turn without a pause');
	system_or_bail('prlimit', "--pid=$pid", "--nofile=$limit:");
	is(statuses(answer_on($knocks, until => qr/\r\n\r\n/)), '401', '... and who waited is answered as soon as there is one');
	close $knocks;
	unharmed('no descriptor');
}
like($t->log_since($position), qr/the listener accepts connections again/, '... says the log');

cmp_ok(anonymous_kb() - $kb, '<', 4096, 'after all that the worker holds no more memory than before') or diag(anonymous_kb() - $kb);
unlike($t->log_since(0), qr/\Q$secret\E|\Q$password\E|\Q$login\E/, 'no secret is in the log');
$t->done;
