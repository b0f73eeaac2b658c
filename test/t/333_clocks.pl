# Clocks that jump: what was noted when the clock was ahead must not stop anything
# until the clock gets there.
#
# The machine's clock cannot be set here, so the times in the tables are: a row
# that lies ahead is what a clock that was set back leaves behind.  A clock that
# jumps while the worker runs is simulated by a library that is loaded before the
# C library's.
#
# Does not belong here: a clock that differs from Exact's (140_token.pl), windows
# of time in lists of Pipedrive (260_unknown_outcome.pl).

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

# The library: adds what stands in a file to every reading of the wall clock.
my $dir = PostgreSQL::Test::Utils::tempdir();
my $source = "$dir/clock_shift.c";
my $library = "$dir/clock_shift.so";
my $shift = "$dir/shift";
append_to_file($source, <<'END');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long *shift;

static long
seconds(void)
{
	if (shift == NULL)
	{
		const char *name = getenv("CLOCK_SHIFT");
		int			fd = name ? open(name, O_RDONLY) : -1;
		void	   *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
		static long none = 0;

		shift = map == MAP_FAILED ? &none : map;
	}
	return *shift;
}

int
gettimeofday(struct timeval *tv, void *zone)
{
	struct timespec now;
	static int	(*real) (clockid_t, struct timespec *);

	if (real == NULL)
		real = dlsym(RTLD_NEXT, "clock_gettime");
	real(CLOCK_REALTIME, &now);
	tv->tv_sec = now.tv_sec + seconds();
	tv->tv_usec = now.tv_nsec / 1000;
	return 0;
}
END
my $compiler = $ENV{CC} || 'cc';
plan skip_all => 'no C compiler'
  if system("$compiler -shared -fPIC -o $library $source -ldl >$dir/cc.log 2>&1") != 0;

# Seconds by which the server's clock is ahead.
sub set_clock
{
	my ($seconds) = @_;
	my $file;
	# never shorter than it is: the server has it in memory
	open($file, '+<', $shift) || open($file, '>', $shift) || die "cannot write $shift: $!";
	binmode $file;
	syswrite $file, pack('q', $seconds);
	close $file;
	return;
}
set_clock(0);

my $t;
{
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{CLOCK_SHIFT} = $shift;
	# a sandbox of our own time: it has no such library
	$t = EpdsTest->new(
		'clocks',
		start => 0,
		orders => 4,
		items => 6,
		customers => 4,
		seed => 33,
		switches => { burst_limit => 0 },
		conf => "exact_pd_sync.poll_interval = '200ms'");
	$t->start;
}
ok($t->first_run, 'a first run');
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '0')});

sub new_order { return $t->post('/exact/orders', { status => 12, delivery_status => 12, invoice_status => 12, customer => 'draw', lines => 2 })->{OrderNumber}; }

sub all_there
{
	my ($name) = @_;
	ok($t->settle(60), "$name: everything is sent") or diag($t->sql('SELECT kind, state, reason, error, next_attempt_at FROM exact_pd_sync.queue'));
	agrees($t, "$name: every order is a deal");
	return;
}

# ----------
note 'rows that lie ahead';
# ----------
my $year = q{interval '1 year'};
foreach my $case (
	[ 'the minute of Exact', "UPDATE exact_pd_sync.budgets SET remaining = 0, reset_at = reset_at + $year WHERE side = 'exact' AND kind = 'minute'" ],
	[
		'refusals of a feed',
		"INSERT INTO exact_pd_sync.budgets (side, division, kind, limit_value, remaining, reset_at) VALUES ('exact', $t->{ready}{division}, 'errors:sales_order_headers', 5, 5, now() + $year)"
	],
	[ 'the page of an import', "UPDATE exact_pd_sync.feed_positions SET last_page_at = last_page_at + $year, last_success = last_success + $year" ])
{
	my ($what, $sql) = @$case;
	$t->sql($sql);
	new_order();
	# a minute at most, and not a year
	my ($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_orders()');
	if ($what =~ /minute/)
	{
		is($t->sql(q{SELECT reset_at < clock_timestamp() + interval '2 minutes' FROM exact_pd_sync.budgets WHERE side = 'exact' AND kind = 'minute'}), 't', "$what: a minute is a minute");
		$t->poll('orders') if $rc;
	}
	elsif ($what =~ /refusals/)
	{
		like($err, qr/stopped after 5 refusals/, "$what: they are not forgotten");
		is($t->sql(q{SELECT reset_at < clock_timestamp() + interval '65 minutes' FROM exact_pd_sync.budgets WHERE kind LIKE 'errors:%'}), 't', '... but for an hour');
		$t->sql(q{DELETE FROM exact_pd_sync.budgets WHERE kind LIKE 'errors:%'});
		$t->poll('orders');
	}
	else
	{
		is($rc, 0, "$what: the poll works") or diag($err);
		is($t->sql('SELECT count(*) FROM exact_pd_sync.feed_positions WHERE last_success > clock_timestamp() OR last_page_at > clock_timestamp()'), '0', '... and nothing was last read next year');
	}
	all_there($what);
}

# What the delivery worker waits for, when it starts.
$t->sql('SELECT exact_pd_sync.stop_worker()');
new_order();
$t->poll;
$t->sql(q{INSERT INTO exact_pd_sync.jobs (kind, division, exact_id, lane, priority, state, next_attempt_at)
	SELECT 'deal', division, id, 1, 1, 'waiting', now() + interval '1 year' FROM exact_pd_sync.exact_sales_orders});
$t->sql(qq{UPDATE exact_pd_sync.budgets SET blocked_until = now() + $year, blocked_reason = 'x', reset_at = reset_at + $year WHERE side = 'pipedrive' AND kind = 'day'});
$t->sql('SELECT exact_pd_sync.start_worker()');
all_there('jobs and stops of a year ahead');
is($t->sql(q{SELECT reset_at < clock_timestamp() + interval '25 hours' FROM exact_pd_sync.budgets WHERE side = 'pipedrive' AND kind = 'day'}), 't', '... and the day ends within a day');

# A token that was given next year: the worker asks anew, seldom, and sessions use what works.
$t->sql(qq{UPDATE exact_pd_sync.exact_consent SET issued_at = issued_at + $year, access_expires_at = access_expires_at + $year});
ok($t->wait_for(q{SELECT issued_at < clock_timestamp() FROM exact_pd_sync.exact_consent}), 'a token of next year: its time is set right');
new_order();
$t->poll;
all_there('a token of next year');
cmp_ok(scalar(grep { $_->{text} =~ /refresh .* after the previous token/ } $t->violations), '<=', 6, '... at the price of a few questions that were too early');
$t->delete('/violations');

# ----------
note 'a clock that jumps while all runs';
# ----------
foreach my $jump (7200, -7200, -86400 * 3, 86400 * 3)
{
	my $name = ($jump > 0 ? 'ahead' : 'back') . ' by ' . abs($jump) . ' s';
	my $position = $t->log_position;

	# a create that is announced before the jump, whose answer is lost after it
	my $id = $t->fault(side => 'pipedrive', method => 'POST', path => 'v2/deals$', times => 1, action => { execute => JSON::PP::true, delay_ms => 300, drop => JSON::PP::true });
	new_order();
	$t->poll('orders');
	my $until = time + 60;
	until ((grep { $_->{id} == $id } @{ $t->get('/faults') })[0]{hits})
	{
		die 'no deal is made' if time > $until;
	}
	set_clock($jump);
	new_order();
	my ($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_all()');
	is($rc, 0, "$name: a poll works") or diag($err);
	all_there($name);
	my $way = $jump > 0 ? 'ahead' : 'back';
	like($t->log_since($position), qr/the clock was set $way by \d+ seconds/, "$name: the worker says so");
	cmp_ok(scalar(() = $t->log_since($position) =~ /looked through deals/g), '<', 5, "$name: a list settles what it was read for");
	set_clock(0);
	$t->wait_for('SELECT true');
	new_order();
	$t->poll;
	all_there("$name, and right again");
	$t->clear_faults;
}
my @early = grep { $_->{text} =~ /refresh .* after the previous token/ } $t->violations;
cmp_ok(scalar @early, '<=', 6 * 8, 'the token endpoint is asked too early six times a jump at most, less than Exact minds (' . @early . ' times in eight jumps)');
is(join("\n", grep { !/refresh .* after the previous token/ } map { $_->{text} } $t->violations), '', 'nothing else forbidden');
is($t->sql(q{SELECT state FROM exact_pd_sync.status WHERE part = 'exact consent'}), 'green', 'no consent was lost');
$t->done;
