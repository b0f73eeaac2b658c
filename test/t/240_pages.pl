# Pages that are not what they should be, and limits that are told in every
# form: a page is taken whole or not at all, "broken" never looks like "no
# rows", the token leaves for no other site, and no limit is run into twice.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use IO::Socket::INET;
use JSON::PP ();
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %base = (burst_limit => 0, exact_minute_limit => 100000);
my %open = (status => 12, delivery_status => 12, invoice_status => 12);
my $t = EpdsTest->new('pages', orders => 6, months => 6, switches => \%base);

ok($t->first_run, 'a first run');
agrees($t, 'every order is a deal');

# Where the feeds stand: must not move while a page is broken.
sub positions
{
	return $t->sql(q{SELECT string_agg(feed || '=' || last_timestamp, ' ' ORDER BY feed) FROM exact_pd_sync.feed_positions
		WHERE feed IN ('accounts', 'items', 'sales_order_headers', 'sales_order_lines', 'deleted')});
}

# Something new in every feed.
my $number = 40000;
sub business
{
	$number++;
	$t->post(
		'/exact/orders',
		{
			number => $number, customer => { name => "Klant $number", code => "$number" }, %open,
			lines => [
				{ item => { code => "PG-$number", description => "Artikel $number", price => 5 }, quantity => 2 },
				{ item => 'draw', quantity => 3 },
			],
		});
	return;
}

my %bad = (
	'a page of HTML' => { status => 200, body => '<html><body>Even geduld</body></html>', content_type => 'text/html' },
	'HTML that calls itself JSON' => { status => 200, body => '<html></html>', content_type => 'application/json' },
	'an empty page' => { empty => $true },
	'a page cut short' => { truncate => $true },
	'a page of another type' => { content_type => 'text/plain' },
	'a page without end' => { endless => $true },
	'a dropped connection' => { drop => $true },
	'a gzip bomb' => { gzip_bomb => $true },
	'an error in HTML' => { status => 500, body => '<h1>Server Error</h1>', content_type => 'text/html' },
	'an error in JSON' => {
		status => 500, body => '{"error":{"code":"","message":{"lang":"","value":"Er ging iets mis\r\n"}}}',
		content_type => 'application/json'
	},
	'maintenance' => { status => 503, body => 'Service Unavailable', content_type => 'text/plain' },
	'JSON that is no list' => { status => 200, body => '{"d":{"results":"none"}}', content_type => 'application/json' },
	'JSON that is something else' => { status => 200, body => '[]', content_type => 'application/json' });
my @feeds = (
	[ 'accounts', '/sync/CRM/Accounts' ],
	[ 'item_groups', '/logistics/ItemGroups' ],
	[ 'items', '/sync/Logistics/Items' ],
	[ 'sales_order_headers', '/SalesOrderHeaders' ],
	[ 'sales_order_lines', '/sync/SalesOrder/SalesOrderLines' ],
	[ 'deleted', '/sync/Deleted' ]);

# ------------------------
note 'once: it is repeated';
# ------------------------

# Accidents are repeated at once; the run is a success, and nobody is bothered.
my @accidents = ('a page of HTML', 'an empty page', 'a page cut short', 'a dropped connection', 'an error in JSON', 'maintenance');
business();
foreach my $i (0 .. $#feeds)
{
	$t->fault(side => 'exact', path => $feeds[$i][1], times => 1, action => $bad{ $accidents[$i] });
}
my ($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_all()');
is($rc, 0, 'one accident in each feed: the run is a success') or diag($err);
my @hits = map { $_->{hits} } @{ $t->get('/faults') };
is("@hits", join(' ', (1) x @feeds), '... each of them happened')
  or diag(explain($t->get('/faults')));
$t->clear_faults;
ok($t->settle, '... everything is sent');
agrees($t, '... and complete');

# ----------------------------------------
note 'again and again: the run is a failure';
# ----------------------------------------

sub broken_run
{
	my @kinds = @_;
	my %feed_of;
	business();
	foreach my $i (0 .. $#kinds)
	{
		my $feed = $feeds[$i];
		$t->fault(side => 'exact', path => $feed->[1], times => 0, action => $bad{ $kinds[$i] });
		$feed_of{ $kinds[$i] } = $feed->[0];
	}
	my $before = positions();
	my ($rc, $out, $err) = $t->try("SET exact_pd_sync.http_timeout = '1s';\nCALL exact_pd_sync.poll_all()");
	my $told = @kinds > 1 ? 'poll_all could not read ' . @kinds . ' of \d+ feeds' : 'could not read feed';
	like($err, qr/ERROR:  [0-9A-Z]{5}: $told/, scalar(@kinds) . ' feeds stay broken: the run is an error');
	foreach my $kind (@kinds)
	{
		like($err, qr/$feed_of{$kind}/, "... which names the feed with $kind");
	}
	is(positions(), $before, '... no position moved')
	  if @kinds == @feeds;
	my $last = "SELECT max(id) FROM exact_pd_sync.sync_runs WHERE what = 'poll_customers'";
	like($t->sql("SELECT state || ': ' || error FROM exact_pd_sync.sync_runs WHERE id = ($last)"),
		qr/^failed: .*accounts/, '... sync_runs says it');
	$t->clear_faults;
	$t->poll;
	ok($t->settle, '... and when it is over');
	agrees($t, '... all arrives');
	return;
}

broken_run('a page of HTML', 'HTML that calls itself JSON', 'an empty page', 'a page cut short', 'a page of another type', 'an error in HTML');
broken_run('an error in JSON', 'JSON that is no list', 'JSON that is something else', 'a gzip bomb');
broken_run('a page without end');

# ----------------------
note 'the rest is read';
# ----------------------

business();
$t->fault(side => 'exact', path => '/sync/CRM/Accounts', times => 0, action => $bad{'an empty page'});
($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_all()');
like($err, qr/ERROR: .*"accounts"/, 'one feed is broken');
ok($t->settle, '... the others bring what they have');
agrees($t, '... and the order is there, its customer read singly');
$t->clear_faults;
$t->poll;

# ---------------------
note 'another site';
# ---------------------

my $thief = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', Blocking => 0)
  or die "no socket: $!";
foreach my $host ('http://127.0.0.1:' . $thief->sockport, 'https://evil.example')
{
	business();
	$t->switches(exact_next_host => $host, exact_page_size => 2, exact_page_size_single => 2);
	my $before = positions();
	($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_all()');
	like($err, qr/refers to another site/, "a continuation at $host is refused");
	my $site = quotemeta $host;
	like($err, qr/$site/, '... and named');
	is(positions(), $before, '... with the page it stood on');
	($rc, $out, $err) = $t->try('CALL exact_pd_sync.import_history()');
	like($err, qr/refers to another site/, '... by the import, too');
	$t->switches(exact_next_host => undef, exact_page_size => undef, exact_page_size_single => undef);
	$t->poll;
	ok($t->settle, '... all is read from the own site');
}
my $visitor = $thief->accept;
ok(!$visitor, '... and the token was brought nowhere');
agrees($t, '... every order is a deal');

# --------------------------
note 'an import is cut off';
# --------------------------

fresh($t, orders => 12, switches => { %base, exact_page_size => 3 });
$t->connect;
$t->fault(side => 'exact', path => '/bulk/SalesOrder/SalesOrders', times => 0, skip => 2, action => $bad{'HTML that calls itself JSON'});
($rc, $out, $err) = $t->try('CALL exact_pd_sync.import_history()');
like($err, qr/ERROR: .*import_history could not read .*bulk_orders/s, 'the third page of an import is broken: it is an error');
is($t->sql(q{SELECT rows_total FROM exact_pd_sync.feed_positions WHERE feed = 'bulk_orders'}),
	'6', '... the pages before it are stored');
is($t->sql(q{SELECT state FROM exact_pd_sync.status WHERE part = 'history'}), 'yellow', '... and status does not call it imported');
$t->clear_faults;
my @bulk = grep { $_->{path} =~ m{/bulk/SalesOrder/SalesOrders} } $t->exact_calls(sub { $t->import_history });
like($bulk[0]{raw_query}, qr/skiptoken/, '... called again, it goes on where it was');
$t->poll;
$t->resume;
ok($t->settle, '... and comes to its end');
agrees($t, '... every order is a deal');

# ----------------------------
note 'the last page is empty';
# ----------------------------

foreach my $more ($true, $false)
{
	fresh($t, orders => 0, switches => { %base, exact_page_size => 3, exact_exact_multiple_next => $more });
	$t->post('/exact/orders', [ map { { number => 41000 + $_, customer => 'new', %open, lines => 1 } } 1 .. 6 ]);
	ok($t->first_run, 'a whole number of pages' . ($more ? ', and an empty one' : ''));
	my $pages = grep { $_->{path} =~ /SalesOrderHeaders/ && $_->{raw_query} =~ /Timestamp/ } $t->calls('exact');
	cmp_ok($pages, '>=', 2, '... is read to its end');
	agrees($t, '... every order is a deal');
}

# -----------------------
note 'rowversions come late';
# -----------------------

# A long transaction at Exact: its rowversion is older than what was read since.
$t->post('/exact/orders', { number => 42001, customer => 'new', %open, lines => 2, late => $true });
$t->patch('/exact/orders/41002', { your_ref => 'te laat', late => $true });
$t->post('/exact/orders', { number => 42002, customer => 'new', %open, lines => 2 });
$t->poll;
ok($t->settle, 'a transaction at Exact takes long');
ok(!$t->deal(42001), '... what it writes is not seen yet');
ok($t->deal(42002), '... what came after it is');
$t->post('/exact/late_commit');
$t->poll;
ok($t->settle, '... it ends');
agrees($t, '... and the next poll has all of it');

# ---------------------------
note 'the division is moved';
# ---------------------------

my $tokens = $t->tokens;
$t->post('/exact/division_move');
$t->sql(q{UPDATE exact_pd_sync.feed_positions SET last_success = last_success - interval '1 day' WHERE feed = 'division'});
$t->patch('/exact/orders/41003', { delivery_status => 21 });
my $log = $t->log_position;
$t->poll;
$t->poll;
ok($t->settle, 'Exact moves the division to another database: all rowversions are new');
like($t->log_since($log), qr/division \d+ was moved at Exact/, '... which is noticed');
agrees($t, '... and read anew');
is($t->tokens - $tokens, 5, '... only what changed is sent');
$t->no_violations('nothing was forbidden so far');

# -------------
note 'limits';
# -------------

# Starts a poll that has to wait for the minute, and calls it off when it does.
# Returns how many calls it made, and what it said.
sub waits
{
	my @calls = $t->calls('exact');
	my $before = $calls[-1]{seq};
	my $run = $t->background('CALL exact_pd_sync.poll_customers()');
	my $pid = $run->(pid => 1);
	$t->wait_for("SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid AND backend_xmin IS NULL "
		  . "AND EXISTS (SELECT FROM exact_pd_sync.budgets WHERE side = 'exact' AND kind = 'minute' AND remaining <= 0)");
	$t->sql("SELECT pg_cancel_backend($pid)");
	my ($out, $err) = $run->();
	return ($err, grep { $_->{seq} > $before } $t->calls('exact', $before));
}

# The minute, as if it had passed.
sub minute_passes
{
	$t->post('/exact/limits', { minute_used => 0 });
	$t->sql(q{UPDATE exact_pd_sync.budgets SET reset_at = clock_timestamp() - interval '1 s' WHERE side = 'exact' AND kind = 'minute'});
	return;
}

# 429 for the minute: another process of the same app has spent it.
foreach my $form ('own', 'all', 'none')
{
	foreach my $after ($false, $true)
	{
		my $how = "headers: $form" . ($after ? ', retry-after' : '');
		$t->switches(exact_foreign_calls_per_minute => 200000, exact_429_headers => $form, exact_retry_after => $after);
		minute_passes();
		my ($err, @calls) = waits();
		is(scalar @calls, 1, "the minute is spent ($how): one refusal says it");
		like($err, qr/waiting \d+ seconds until Exact Online allows the next call/, '... a person reads for how long we wait');
	}
}
$t->switches(exact_foreign_calls_per_minute => 0);
minute_passes();
is(($t->try('CALL exact_pd_sync.poll_all()'))[0], 0, '... then the next minute comes');

# What we know to be spent is not even asked for.
$t->switches(exact_minute_limit => 2);
minute_passes();
my ($said, @made) = waits();
cmp_ok(scalar @made, '<=', 2, 'a minute of two calls is kept');
$t->switches(exact_minute_limit => 100000);
minute_passes();
$t->no_violations('no limit was run into knowingly');

# 429 for the day.
foreach my $form ('own', 'all')
{
	fresh($t, orders => 2, switches => { %base, exact_429_headers => $form });
	ok($t->first_run, 'another first run');
	business();
	$t->post('/exact/limits', { day_used => 5000 });
	my @calls = $t->exact_calls(sub { ($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_all()') });
	like($err, qr/ERROR:  53400: the daily calls of Exact division \d+ are used up\nDETAIL: .*start anew at 20\d\d-.*HINT: .*Nothing is lost/s,
		"the day is spent (headers: $form): the run says until when, and that nothing is lost");
	is(scalar @calls, 1, '... after one refusal');
	@calls = $t->exact_calls(sub { ($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_orders()') });
	like($err, qr/ERROR:  53400: the daily calls of Exact division \d+ are used up\n/, '... the next run knows');
	is(scalar @calls, 0, '... and asks nothing');
	$t->token_age(86400);
	$t->sql(q{UPDATE exact_pd_sync.budgets SET reset_at = clock_timestamp() - interval '1 s' WHERE side = 'exact'});
	$t->poll;
	ok($t->settle, '... the day after');
	agrees($t, '... all is there');
}

# A feed that is refused over and over is left alone before Exact blocks the key.
foreach my $status (429, 403)
{
	fresh($t, orders => 2, switches => { %base, exact_error_block_status => $status });
	$t->connect;
	$t->switches(exact_missing_scopes => ['crm.accounts']);
	my @calls = $t->exact_calls(
		sub {
			($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_customers()') foreach 1 .. 7;
		});
	is(scalar grep({ $_->{path} =~ /Accounts/ } @calls), 5, "a feed that is refused is asked for five times an hour (block: $status)");
	like($err, qr/ERROR:  53400: feed "accounts" .*stopped.*DETAIL: .*Scope.*HINT: .*rights/s, '... then the error names the refusal and what to mend');
	is($t->stats('exact')->{error_blocks} // 0, 0, '... and Exact never blocks the key');
	$t->switches(exact_missing_scopes => []);
	$t->token_age(3700);
	$t->sql(q{UPDATE exact_pd_sync.budgets SET reset_at = clock_timestamp() - interval '1 s' WHERE kind LIKE 'errors:%'});
	is(($t->try('CALL exact_pd_sync.poll_customers()'))[0], 0, '... an hour later, with the right, it is read');
}
$t->no_violations('nothing was forbidden');

$t->done;
