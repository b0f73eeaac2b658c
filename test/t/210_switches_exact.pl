# Exact's open points, in every position of the sandbox's switches: where its
# documentation is silent, the extension must not care.  The same scenario runs
# under each group of switches on a fresh sandbox with the same data, and must
# end in the same account at Pipedrive, without a forbidden call.
#
# Switches that have no account to compare (tokens, rights, verify()) follow at
# the end.  Looked at elsewhere: exact_next_host, exact_minute_limit,
# exact_day_limit, exact_429_headers, exact_retry_after, exact_error_block,
# exact_error_block_status, exact_foreign_calls_per_minute (240_pages).
# Switches that cannot matter here: exact_webhook_damage, exact_webhook_delay_ms,
# exact_webhook_https_only, exact_webhook_retries, exact_webhook_retry_ms,
# exact_webhook_validation, exact_webhook_validation_delay_ms (no webhooks yet),
# exact_lost_contact_answers (no contacts are written), exact_receivable_sign,
# exact_deleted_key_13 (no invoices are read), exact_latency_ms (time, not
# content), exact_redirect_uri (what the person registered), csv_no_customer (a
# way to load data).  exact_url_too_long_status: no URL of ours comes near the
# limit, which is tested instead.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %base = (burst_limit => 0, exact_minute_limit => 100000);
my $t = EpdsTest->new('switches_exact', orders => 8, months => 6, switches => \%base);

# ----------
# The groups
# ----------

same_end($t, 'the likelier reading', %base);

same_end($t,
	'another form of the same',
	%base,
	exact_envelope => 'array',
	exact_plain_date_slashes => $true,
	exact_rowversion_as_string => $true,
	exact_expires_in_number => $true,
	exact_float_noise => $true,
	exact_shuffle_pages => $true,
	exact_duplicate_in_page => 'older_first',
	exact_sync_skiptoken => 'plain',
	exact_next_encoding => 'encoded',
	exact_exact_multiple_next => $false,
	exact_page_size => 4,
	exact_page_size_single => 2,
	exact_sync_timestamp => 'array',
	exact_header_id_equals_order_id => $true,
	exact_sync_filter_required => $true,
	exact_bulk_filter_required => $true,
	exact_select_required => $false,
	exact_refresh_grace_s => 600);

same_end($t,
	'a third form',
	%base,
	exact_duplicate_in_page => 'newer_first',
	exact_sync_skiptoken => 'guid',
	exact_next_encoding => 'spaces',
	exact_page_size => 3,
	exact_deferred_expansions => 'some',
	exact_sync_timestamp => 'object',
	exact_deleted_key_32 => 'ID',
	exact_lines_without_quantities => $true);

same_end($t,
	'amounts read otherwise',
	%base,
	exact_line_amounts => 'incl',
	exact_header_amounts => 'excl',
	exact_header_discount => 'percentage',
	exact_line_discount => 'default_price',
	exact_salesperson => 'employee',
	exact_deferred_expansions => $true,
	exact_sync_timestamp => 'none');

same_end($t,
	'progress that leaves the header alone, and dates in UTC',
	%base,
	exact_progress_touches_header => $false,
	exact_enforce_570 => $false,
	exact_date_zone => 'utc');

my $longest = 0;
foreach my $call ($t->calls('exact'))
{
	my $length = length("$call->{path}?" . ($call->{raw_query} // ''));
	$longest = $length if $length > $longest;
}
cmp_ok($longest, '<', 4000, 'no URL comes near the limit of 6000 characters');

# --------------------
note 'token endpoint';
# --------------------

# What a refusal of the refresh token looks like does not matter.
foreach my $status (400, 401)
{
	fresh($t, orders => 0, switches => { %base, exact_expired_refresh_status => $status });
	$t->connect_app;
	$t->consent;
	$t->add_division;
	$t->post('/exact/revoke');
	$t->token_age(700);
	my ($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_customers()');
	like($err, qr/ERROR:  28000: .*consent.*HINT: .*exact_authorize_url/s,
		"a consent that was withdrawn (status $status) is told, with the way out");
	is($t->sql(q{SELECT state FROM exact_pd_sync.status WHERE part = 'exact consent'}),
		'red', '... and status says it');
	$t->consent;
	is(($t->try('CALL exact_pd_sync.poll_customers()'))[0], 0, '... and a new consent mends it');
	$t->no_violations("... without a forbidden call ($status)");
}

# A wrong secret: one kind of refusal or the other.
foreach my $status (400, 401)
{
	fresh($t, orders => 0, switches => { %base, exact_invalid_client_status => $status });
	my $secret = $t->{ready}{client_secret};
	$t->{ready}{client_secret} = 'not-the-secret';
	$t->connect_app;
	ok(!eval { $t->consent; 1 }, "a wrong client secret (status $status) is refused");
	like($@, qr/client/, '... in words that name the client') ;
	unlike($@, qr/not-the-secret/, '... but not the secret');
	$t->{ready}{client_secret} = $secret;
	$t->connect_app;
	ok(eval { $t->consent; 1 }, '... and the right one is taken') or diag($@);
}

# The answer of a rotation is lost.  Where the old token still works for a while
# nobody notices; where it is dead a person is asked, and nothing else happens.
foreach my $grace (600, 0)
{
	fresh($t, orders => 0, switches => { %base, exact_refresh_grace_s => $grace });
	$t->connect_app;
	$t->consent;
	$t->add_division;
	$t->switches(exact_lost_token_answers => 1);
	$t->token_age(700);
	my ($rc, $out, $err) = (1);
	# the worker or we: one of both meets the lost answer
	for (my $try = 0; $rc && $try < 3; $try++)
	{
		($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_customers()');
	}
	if ($grace)
	{
		is($rc, 0, 'a lost answer of a rotation does no harm while the old token works') or diag($err);
	}
	else
	{
		like($err, qr/ERROR:  28000: .*HINT: .*exact_authorize_url/s,
			'a lost answer of a rotation asks for a new consent where the old token is dead');
	}
	$t->no_violations("... without a forbidden call (grace $grace)");
}

# ------------
note 'rights';
# ------------

fresh($t, orders => 3, switches => { %base, exact_missing_scopes => [ 'sales.prices', 'hrm.payroll' ] });
$t->connect;
my ($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_all()');
is($rc, 0, 'scopes that are optional may be missing') or diag($err);
like($err, qr/WARNING: .*feed "item_prices".*not available/, '... which is told');
my @calls = $t->exact_calls(sub { $t->poll });
ok(!grep({ $_->{path} =~ /SalesItemPrices|Employees/ } @calls),
	'... and they are not asked for at every poll');
$t->switches(exact_missing_scopes => ['crm.accounts']);
($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_all()');
like($err, qr/ERROR:  42501: .*"accounts".*HINT: .*scopes/s, 'one that is needed may not, and is named');
is( $t->sql(q{SELECT count(*) FROM exact_pd_sync.sync_runs WHERE state = 'ok' AND what = 'poll_products'
	AND id > (SELECT max(id) FROM exact_pd_sync.sync_runs WHERE what = 'poll_customers')}),
	'1', '... while the other feeds are read');

# ----------------
note 'the clocks';
# ----------------

$t->switches(exact_missing_scopes => []);
foreach my $format ('%Y-%m-%d %H:%M:%S', '%Y-%m-%dT%H:%M:%S', '%d-%m-%Y %H:%M:%S')
{
	$t->switches(exact_server_time_format => $format);
	my $clock = $t->sql(q{SELECT state FROM exact_pd_sync.verify() WHERE check_name = 'exact clock'});
	is($clock, $format =~ /^%Y/ ? 'ok' : 'warning', "verify() reads Exact's clock in the form $format, or says that it cannot");
}

$t->done;
