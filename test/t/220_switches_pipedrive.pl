# Pipedrive's open points, in every position of the sandbox's switches.  The
# same scenario as for Exact's must end in the same account; where a position
# means that the service refuses something, what follows from it is tested by
# itself.
#
# Switches that cannot matter here: search_lag, search_limit (nothing is
# searched), deleted_get_404 (no single record is read), category_as,
# category_options (products carry their group in a field of our own),
# contact_sync (no persons), custom_field_limit and log_bodies, call_log_limit
# (see 270_fields_changed; the sandbox itself), pipedrive_latency_ms (time, not
# content).

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

$t->done;
