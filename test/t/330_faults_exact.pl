# Every kind of trouble at every kind of call to Exact: the run ends as an ERROR
# that names the feed, what was read before is stored and nothing beyond it is
# claimed, status says it, and the next run makes it whole.
#
# Belongs here: the table of faults and calls; answers that may be missing; tokens
# that are over in the middle of a run.  Does not belong here: pages of the polls
# with all kinds of bodies, limits, other sites (240_pages.pl), the token endpoint
# (140_token.pl, 331_token_crash.pl), sessions that are killed (332_worker_crash.pl).
#
# Each call meets some of the faults, another selection each; EPDS_FAULTS=all has
# each meet all of them.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $t = EpdsTest->new(
	'faults_exact',
	orders => 6,
	months => 6,
	switches => { burst_limit => 0, exact_minute_limit => 100000, exact_day_limit => 1000000, exact_page_size => 3, log_bodies => $false });
ok($t->first_run, 'a first run');
agrees($t, 'every order is a deal');

# ----------
# What goes wrong
# ----------
my $json = 'application/json';
my $error = '{"error":{"code":"","message":{"lang":"","value":"Er ging iets mis"}}}';

# Refusals: said once, believed.
my %refusal = (
	'400' => { status => 400, body => $error, content_type => $json },
	'401 for want of rights' => { status => 401, body => $error, content_type => $json },
	'403 for want of a scope' => { status => 403, body => $error, content_type => $json },
	'404' => { status => 404, body => $error, content_type => $json },
	'404 in HTML' => { status => 404, body => '<h1>Not Found</h1>', content_type => 'text/html' },
	'413' => { status => 413, body => '', content_type => 'text/html' },
	'a redirect' => { status => 302, body => '', headers => { Location => 'http://127.0.0.1:9/' } },
	'204 without a body' => { status => 204, body => '' },
	'429 for an hour' => { status => 429, body => '', headers => { 'Retry-After' => '3600' } });

# Accidents: tried three times.
my %accident = (
	'a dropped connection' => { drop => $true },
	'half a page' => { truncate => $true },
	'an empty page' => { empty => $true },
	'a page of HTML' => { status => 200, body => '<html>Even geduld</html>', content_type => 'text/html' },
	'another type' => { content_type => 'text/plain' },
	'408' => { status => 408, body => '' },
	'500 in HTML' => { status => 500, body => '<h1>Server Error</h1>', content_type => 'text/html' },
	'500 in JSON' => { status => 500, body => $error, content_type => $json },
	'502' => { status => 502, body => '<html>Bad Gateway</html>', content_type => 'text/html' },
	'503' => { status => 503, body => 'Service Unavailable', content_type => 'text/plain' },
	'504' => { status => 504, body => '', content_type => 'text/html' },
	'a gzip bomb' => { gzip_bomb => $true },
	'a page without end' => { endless => $true },
	'a pause in the middle' => { hang => 'body', seconds => 60 },
	'silence' => { hang => 'headers', seconds => 60 });

# ----------
# Where it goes wrong
# ----------
my $number = 33000;
my %open = (status => 12, delivery_status => 12, invoice_status => 12);

# Something new for every feed: customer, item, order, lines, a deletion, progress.
sub business
{
	my $n = ++$number;
	$t->post(
		'/exact/orders',
		{
			number => $n, customer => { name => "Klant $n", code => "$n" }, %open,
			lines => [ { item => { code => "FX-$n", description => "Artikel $n", price => 5 }, quantity => 2 }, map { { item => 'draw', quantity => $_ } } 1 .. 3 ],
		});
	$t->delete('/exact/orders/' . ($n - 1) . '/lines/4') if $n > 33001;
	$t->patch('/exact/orders/' . ($n - 2) . '/lines/2', { delivered => 1, header => $false }) if $n > 33002;
	return;
}

# Three orders to begin with, so that there is something to change.
business() foreach 1 .. 3;
$t->poll;

my ($orders, $customers, $products, $import) = map { "CALL exact_pd_sync.$_()" } qw(poll_orders poll_customers poll_products import_history);
my @calls = (
	[ 'order headers, first page', 'sales_order_headers', $orders, '/SalesOrderHeaders' ],
	[ 'order headers, a later page', 'sales_order_headers', $orders, '/SalesOrderHeaders', skip => 1 ],
	[ 'order lines, a later page', 'sales_order_lines', $orders, '/sync/SalesOrder/SalesOrderLines', skip => 2 ],
	[ 'deletions', 'deleted', $orders, '/sync/Deleted' ],
	[ 'a header that did not come along', 'stale_headers', $orders, '/bulk/SalesOrder/SalesOrders' ],
	[ 'accounts by key', 'missing_accounts', $orders, '/crm/Accounts' ],
	[ 'items by key', 'missing_items', $orders, '/logistics/Items' ],
	[ 'accounts, a later page', 'accounts', $customers, '/sync/CRM/Accounts', skip => 1, overlap => 2000 ],
	[ 'item groups', 'item_groups', $products, '/logistics/ItemGroups' ],
	[ 'items, first page', 'items', $products, '/sync/Logistics/Items' ],
	[ 'history, first page', 'bulk_orders', $import, '/bulk/SalesOrder/SalesOrders' ],
	[ 'history, a later page', 'bulk_orders', $import, '/bulk/SalesOrder/SalesOrders', skip => 2 ],
	[ 'lines of history that come apart', 'deferred_lines', $import, '/bulk/SalesOrder/SalesOrderLines', deferred => 1 ],
	[ 'where the feeds begin', 'start_headers', $import, '/SyncTimestamp', begin => 1 ]);

# The part of status that a feed belongs to.
my %part = ($orders => 'orders', $customers => 'customers', $products => 'products', $import => 'orders');

sub position { return $t->sql("SELECT coalesce(max(last_timestamp), 0) FROM exact_pd_sync.feed_positions WHERE feed = '$_[0]'"); }

# The newest row that is stored, as the position of a feed may say at most.
my %stored = (
	sales_order_headers => 'exact_sales_orders', sales_order_lines => 'exact_sales_order_lines', deleted => 'exact_deleted',
	accounts => 'exact_accounts', items => 'exact_items');

# What Exact's limits remember, as if an hour had passed.
sub an_hour_later
{
	$t->sql(q{DELETE FROM exact_pd_sync.budgets WHERE side = 'exact'});
	$t->post('/exact/limits', { minute_used => 0, day_used => 0, unblock => $true });
	return;
}

sub meet
{
	my ($call, $fault, $action) = @_;
	my ($what, $feed, $sql, $path, %how) = @$call;
	my $name = "$what: $fault";
	# a refusal of a question that need not be answered
	my $skipped = $feed eq 'start_headers' && $fault =~ /^(400|403|404|500 in JSON)/;

	$t->sql('UPDATE exact_pd_sync.feed_positions SET next_url = NULL');
	$t->switches(exact_deferred_expansions => $how{deferred} ? $true : undef);
	$t->sql(q{DELETE FROM exact_pd_sync.feed_positions WHERE feed LIKE 'start%' OR feed LIKE 'sales_order%'}) if $how{begin};
	$t->sql("SELECT exact_pd_sync.configure('exact_overlap', '" . ($how{overlap} // 12) . q{')});
	business();
	my $before = position($feed);
	$t->fault(side => 'exact', path => $path, skip => $how{skip} // 0, times => 0, action => $action);
	my ($rc, $out, $err) = $t->try("SET exact_pd_sync.http_timeout = '1s';\n$sql");
	my @hits = map { $_->{hits} } @{ $t->get('/faults') };
	$t->clear_faults;
	cmp_ok($hits[0], '>', 0, "$name: it happens");

	my $run = $t->sql(q{SELECT state || ': ' || coalesce(error, '') FROM exact_pd_sync.sync_runs ORDER BY id DESC LIMIT 1});
	if ($skipped)
	{
		is($rc, 0, '... the run goes on') or diag($err);
		like($err, qr/WARNING: .*"$feed"/, '... with a warning');
	}
	else
	{
		like($err, qr/ERROR:  [0-9A-Z]{5}: .*($feed|no calls until)/s, '... the run is an error that says what was not read');
		like($run, qr/^failed: .*($feed|no calls until)/s, '... and so is it in the journal');
		like($t->sql("SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = '$part{$sql}'"), qr/^(yellow|red): ./, '... and status')
		  unless $sql eq $import;
	}
	if ($stored{$feed})
	{
		my $after = position($feed);
		is($after, $before, '... the position is where it was') unless $how{skip};
		cmp_ok($after, '<=', $t->sql("SELECT max(timestamp) FROM exact_pd_sync.$stored{$feed}"), '... the position claims nothing that is not stored');
	}

	an_hour_later();
	($rc, $out, $err) = $t->try($sql);
	is($rc, 0, '... the next run works') or diag($err);
	$t->poll;
	is($t->sql(q{SELECT string_agg(part, ' ') FROM exact_pd_sync.status WHERE part IN ('orders', 'customers', 'products') AND state <> 'green'}), '',
		'... status is green');
	is($t->stats('exact')->{error_blocks} // 0, 0, '... Exact never came near to blocking us');
	return;
}

my ($refused, $failed) = (0, 0);
foreach my $call (@calls)
{
	my @refusals = sort keys %refusal;
	my @accidents = sort keys %accident;
	unless (($ENV{EPDS_FAULTS} // '') eq 'all')
	{
		@refusals = ($refusals[ $refused++ % @refusals ]);
		# there is one accident more than there are calls
		@accidents = map { $accidents[ $failed++ % @accidents ] } $failed ? 1 : (1, 2);
	}
	meet($call, $_, $refusal{$_}) foreach @refusals;
	meet($call, $_, $accident{$_}) foreach @accidents;
	ok($t->settle, "$call->[0]: everything is sent");
	agrees($t, "$call->[0]: ... and nothing is missing");
}
$t->switches(exact_deferred_expansions => undef);
$t->no_violations('nothing forbidden in all this');

# ----------
note 'a refusal that passes leaves nothing behind';
# ----------
is($t->sql('SELECT count(*) FROM exact_pd_sync.feed_positions WHERE short_select'), '0', 'no feed goes on without its optional fields');
is($t->sql('SELECT count(*) FROM exact_pd_sync.feed_positions WHERE last_error IS NOT NULL'), '0', 'no feed remembers an error');
is($t->sql(q{SELECT count(*) FROM exact_pd_sync.sync_runs WHERE state = 'running'}), '0', 'no run hangs about');

# ----------
note 'what may be missing';
# ----------
foreach my $optional ([ 'division', '/system/Divisions' ], [ 'employees', '/sync/Payroll/Employees' ], [ 'item_prices', '/SalesItemPrices' ])
{
	my ($feed, $path) = @$optional;
	foreach my $fault ('403 for want of a scope', 'a page of HTML')
	{
		$t->sql(q{UPDATE exact_pd_sync.feed_positions SET last_success = NULL WHERE feed = 'division'});
		business();
		$t->fault(side => 'exact', path => $path, times => 0, action => $refusal{$fault} // $accident{$fault});
		my ($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_all()');
		is($rc, 0, "$feed, $fault: the run goes on") or diag($err);
		like($err, qr/WARNING: .*$feed/s, '... with a warning');
		$t->clear_faults;
		ok($t->settle, '... everything is sent');
		agrees($t, '... and complete');
		$t->sql('UPDATE exact_pd_sync.feed_positions SET unavailable_until = NULL');
		an_hour_later();
	}
}

# ----------
note 'a token that is over in the middle';
# ----------
# The service's clock runs on between two pages; ours says that the token is good,
# and old enough to be refreshed.
foreach my $path ('/SalesOrderHeaders', '/crm/Accounts', '/bulk/SalesOrder/SalesOrders')
{
	$t->sql('SELECT exact_pd_sync.stop_worker()');
	my $pair = $t->sql('SELECT generation FROM exact_pd_sync.exact_consent');
	$t->sql(q{UPDATE exact_pd_sync.exact_consent SET issued_at = clock_timestamp() - interval '575 s', access_expires_at = clock_timestamp() + interval '25 s'});
	business();
	my $id = $t->fault(side => 'exact', path => $path, skip => $path =~ /crm/ ? 0 : 1, action => { delay_ms => 500 });
	my @made = $t->exact_calls(
		sub {
			my $run = $t->background($path =~ /bulk/ ? $import : $orders);
			my $until = time + 60;
			until (grep { $_->{id} == $id && $_->{hits} } @{ $t->get('/faults') })
			{
				die 'no such call' if time > $until;
			}
			$t->clock(advance => 700);
			my ($out, $err) = $run->();
			unlike($err, qr/ERROR/, "$path: a token that is over in the middle of a run");
		});
	my @refreshes = grep { ($_->{operation} // '') eq 'oauth refresh' } @made;
	is(scalar @refreshes, 1, '... is refreshed once, and the run goes on');
	is($t->sql('SELECT generation FROM exact_pd_sync.exact_consent'), $pair + 1, '... with one new pair');
	$t->clear_faults;
	$t->sql('SELECT exact_pd_sync.start_worker()');
	$t->poll;
	ok($t->settle, '... everything is sent');
	agrees($t, '... and complete');
	an_hour_later();
}
$t->no_violations('nothing forbidden');
$t->done;
