# Pipedrive's open points, in every position of the sandbox's switches.  The
# same scenario as for Exact's must end in the same account; where a position
# means that the service refuses something, what follows from it is tested by
# itself.
#
# Switches with a test of their own: in 221_switches_refusals (negative_quantity,
# negative_price, zero_quantity, lines_limit, products_off, deal_limit,
# custom_field_limit, archived_status) and 222_switches_limits (burst_limit,
# daily_budget, reset_hour, omit_daily_headers, omit_rate_headers, retry_after,
# strict_429); list_lag with lost answers in 260_unknown_outcome.
#
# Switches that cannot matter here: search_lag, search_limit (nothing is
# searched), block_after, block_seconds, block_window (no 429 is provoked; the
# block itself is in 222), log_bodies, call_log_limit (the sandbox's own),
# pipedrive_latency_ms (time, not content).

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %base = (burst_limit => 0, exact_minute_limit => 100000);
my $t = EpdsTest->new('switches_pipedrive', orders => 5, months => 6, switches => \%base);

same_end($t, 'the likelier reading', %base);

same_end(
	$t, 'a second reading', %base,
	account_zone => 'America/New_York',
	archived_status => 400,
	category_as => 'label',
	category_options => 'refuse',
	charge_4xx => $false,
	contact_sync => $true,
	count_open_only => $true,
	default_tax_method => 'inclusive',
	deleted_get_404 => $true,
	discount_needs_lines => $true,
	empty_custom_fields_clears => $false,
	firmographics => $true,
	inactive_owner => 'accept',
	line_discount_per => 'unit',
	line_touches_deal => $false,
	omit_daily_headers => 0.5,
	reset_hour => 5,
	retry_after => $true,
	shuffle_bulk => $true,
	stage_pipeline_mismatch => 'stage_wins',
	sum_rounding => 'total',
	tax_in_sum => $false,
	value_delay => 2,
	value_on_deal_with_lines => 'ignore');

same_end(
	$t, 'a third reading', %base,
	bulk_partial => 2,
	list_lag => 1,
	omit_rate_headers => $true,
	others_tokens_per_call => 3,
	sum_rounding => 'none',
	value_on_deal_with_lines => 400,
	won_time_with_status => 'refuse');

# A switch that is new in the sandbox is to be thought of here, too.
my $tests = join '', map { slurp_file($_) } glob("$FindBin::RealBin/[23]*.pl");
my @switches = map { $_->{name} } @{ $t->get('/switches') };
cmp_ok(scalar @switches, '>', 80, 'the sandbox has switches');
is(join(', ', grep { $tests !~ /\b$_\b/ } @switches), '', '... each is tested, or said not to matter');

$t->done;
