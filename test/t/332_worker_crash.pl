# Processes that end in the middle: the delivery worker at every step of its turn,
# other backends, the postmaster; polls, imports and set-ups.
#
# Belongs here: what the next life makes of it.  Each case ends with both sides
# saying the same.  Does not belong here: the kinds of calls whose outcome is
# unknown (260_unknown_outcome.pl), token pairs (331_token_crash.pl), kills at
# random.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;
use Time::HiRes qw(time usleep);

my $true = JSON::PP::true;
my $t = EpdsTest->new(
	'worker_crash',
	orders => 2,
	items => 8,
	customers => 3,
	seed => 32,
	blackhole => 1,
	# bodies of so many calls are long
	switches => { burst_limit => 0, exact_day_limit => 1_000_000, log_bodies => JSON::PP::false },
	conf => "restart_after_crash = on\nexact_pd_sync.poll_interval = '200ms'\nexact_pd_sync.max_connections = 4\n");
ok($t->first_run, 'the first run is through');
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '0')});
my $blackhole = "http://127.0.0.1:$t->{ready}{blackhole}";

# ----------
# Small things
# ----------
my $worker = q{SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync delivery'};

sub until_true
{
	my ($what, $code) = @_;
	my $until = time + 60;
	until ($code->())
	{
		die "$what: not within a minute" if time > $until;
		usleep(5_000);
	}
	return;
}

sub is_met { my ($id) = @_; return (grep { $_->{id} == $id } @{ $t->get('/faults') })[0]{hits}; }

my $next = 1;

# An order that needs every kind of call.
sub new_order
{
	my $n = $next++;
	return $t->post(
		'/exact/orders',
		{
			status => 12, delivery_status => 12, invoice_status => 12, discount => 0.033,
			customer => { name => "Klant $n", code => 32000 + $n . '' },
			lines => [ map { { item => $_ == 1 ? { code => "WC-$n", description => "Artikel $n", price => 7.35 } : 'draw', quantity => 7, price => 1.17 + $_ * 0.38 } } 1 .. 6 ]
		})->{OrderNumber};
}

# A session that holds a lock on one of our tables, so that the worker stops there.
my $blocker;

sub lock_table
{
	my ($table, $mode) = @_;
	$blocker = $t->session;
	$blocker->query_safe('BEGIN');
	$blocker->query_safe("LOCK TABLE $table IN " . ($mode // 'SHARE') . ' MODE');
	return;
}

sub waits_for_lock
{
	my ($kind) = @_;
	$kind //= 'delivery';
	$t->node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync $kind' AND wait_event_type = 'Lock'")
	  or die "the $kind worker does not wait for the lock";
	return;
}

sub hangs_at
{
	my ($method, $path, $make, %action) = @_;
	my $id = $t->fault(side => 'pipedrive', method => $method, path => $path, action => { hang => 'headers', seconds => 300, %action });
	$make->();
	$t->poll;
	until_true("$method $path", sub { is_met($id) });
	return;
}

# What a former life announced and did not book, with a worker that is stopped.
sub leave_a_deal_unknown
{
	hangs_at(POST => 'v2/deals$', \&new_order, execute => $true);
	$t->sql('SELECT exact_pd_sync.stop_worker()');
	$t->clear_faults;
	is($t->sql(q{SELECT min(operation || ' ' || state) FROM exact_pd_sync.intents}), 'create announced',
		'on disk: a create is announced and not settled');
	return;
}

# ----------
# Where it ends
# ----------
my $changed;
my %moment = (
	'a deal is being made' => sub { hangs_at(POST => 'v2/deals$', \&new_order, execute => $true) },
	'a deal is about to be made' => sub { hangs_at(POST => 'v2/deals$', \&new_order) },
	'lines are being added' => sub { hangs_at(POST => 'products/bulk$', \&new_order, execute => $true) },
	'a deal is being changed' => sub {
		hangs_at(PATCH => 'v2/deals/[0-9]+$', sub { $t->patch("/exact/orders/$changed", { delivery_status => 20 + $next++ % 2 }) }, execute => $true);
	},
	'a line is being changed' => sub {
		hangs_at(PATCH => 'deals/[0-9]+/products', sub { $t->patch("/exact/orders/$changed/lines/2", { quantity => 10 + $next++ }) }, execute => $true);
	},
	'a line is being deleted' => sub {
		my $number = new_order();
		$t->poll;
		$t->settle or die 'a new order does not arrive';
		hangs_at(DELETE => 'deals/[0-9]+/products', sub { $t->delete("/exact/orders/$number/lines/6") }, execute => $true);
	},
	'signals become jobs' => sub {
		new_order();
		lock_table('exact_pd_sync.jobs');
		$t->poll;
		waits_for_lock();
	},
	'calls are announced' => sub {
		new_order();
		lock_table('exact_pd_sync.intents');
		$t->poll;
		waits_for_lock();
	},
	'calls are about to leave' => sub {
		$t->sql("UPDATE exact_pd_sync.settings SET value = '$blackhole' WHERE name = 'pipedrive_base_url'");
		new_order();
		$t->poll;
		$t->wait_for('SELECT count(*) > 0 FROM exact_pd_sync.intents') or die 'nothing is announced';
		# the next life has the right address; this one is still connecting
		$t->sql("UPDATE exact_pd_sync.settings SET value = '$t->{ready}{pipedrive}' WHERE name = 'pipedrive_base_url'");
	},
	'answers are in hand' => sub {
		my $id = $t->fault(side => 'pipedrive', method => 'POST', path => 'v2/deals$', action => { delay_ms => 700 });
		new_order();
		$t->poll;
		until_true('a call', sub { is_met($id) });
		lock_table('exact_pd_sync.links');
		waits_for_lock();
	},
	'the worker connects' => sub {
		leave_a_deal_unknown();
		lock_table('pg_catalog.pg_extension', 'ACCESS EXCLUSIVE');
		$blocker->query('SELECT exact_pd_sync.start_worker()');
		waits_for_lock();
	},
	'the worker starts' => sub {
		leave_a_deal_unknown();
		lock_table('exact_pd_sync.intents');
		$t->sql('SELECT exact_pd_sync.start_worker()');
		waits_for_lock();
	},
	'the list is read' => sub {
		leave_a_deal_unknown();
		my $id = $t->fault(side => 'pipedrive', method => 'GET', path => 'v2/deals\?', action => { hang => 'body', seconds => 300 });
		$t->sql('SELECT exact_pd_sync.start_worker()');
		until_true('a list', sub { is_met($id) });
	},
	'the list is taken in' => sub {
		leave_a_deal_unknown();
		my $id = $t->fault(side => 'pipedrive', method => 'GET', path => 'v2/deals\?', action => { delay_ms => 700 });
		$t->sql('SELECT exact_pd_sync.start_worker()');
		until_true('a list', sub { is_met($id) });
		lock_table('exact_pd_sync.links');
		waits_for_lock();
	});

# ----------
# How it ends
# ----------
my %end = (
	'killed worker' => sub {
		my $pid = $t->node->safe_psql('postgres', $worker);
		kill 'KILL', $pid or die "cannot kill $pid: $!";
		$t->node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
	},
	'crash of another' => sub {
		my $pid = $t->node->safe_psql('postgres', $worker);
		my $run = $t->background('SELECT pg_sleep(300)', 'postgres');
		my $other = $t->node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(300)' AND pid <> pg_backend_pid()});
		until ($other)
		{
			usleep(5_000);
			$other = $t->node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(300)' AND pid <> pg_backend_pid()});
		}
		kill 'KILL', $other or die "cannot kill $other: $!";
		$run->();
		$t->node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
	},
	'terminated worker' => sub {
		my $pid = $t->node->safe_psql('postgres', $worker);
		$t->node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 10000)");
	},
	# an ERROR in the middle of whatever it does
	'cancelled worker' => sub {
		my $pid = $t->node->safe_psql('postgres', $worker);
		my $of = "FROM pg_stat_activity WHERE pid = $pid";
		my $began = $t->node->safe_psql('postgres', "SELECT coalesce(xact_start::text, 'none') $of");
		my $position = $t->log_position;
		$t->node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
		# it says so, or does the same again in another transaction
		until_true('an ERROR',
			sub {
				$t->log_since($position) =~ /canceling statement due to user request/
				  || $t->node->safe_psql('postgres', "SELECT coalesce(xact_start::text, 'none') $of") ne $began;
			});
	},
	'immediate stop' => sub { $t->node->stop('immediate'); $t->node->rotate_logfile; $t->node->start; },
	'killed postmaster' => sub { $t->crash; });

sub doubles
{
	my $state = $t->state;
	my %count;
	$count{"organization $_->{name}"}++ foreach @{ $state->{organizations} };
	$count{'product ' . ($_->{code} // $_->{name})}++ foreach @{ $state->{products} };
	foreach my $deal (@{ $state->{deals} })
	{
		$count{"deal $deal->{fields}{Ordernummer}"}++;
		$count{"discount of $deal->{title}"}++ foreach @{ $deal->{discounts} };
	}
	return join(', ', grep { $count{$_} > 1 } sort keys %count);
}

sub all_there
{
	my ($name) = @_;
	ok($t->settle(60), "$name: everything is sent")
	  or diag($t->sql('SELECT kind, state, reason, error FROM exact_pd_sync.queue'));
	agrees($t, "$name: every order is a deal, once, with its lines");
	is(doubles(), '', "$name: nothing is there twice");
	$t->no_violations("$name: nothing forbidden");
	is($t->sql('SELECT count(*) FROM exact_pd_sync.dead_letters'), '0', "$name: no dead letter");
	return;
}

my @cases = (
	[ 'a deal is being made', 'crash of another', 'cancelled worker', 'killed postmaster' ],
	[ 'a deal is about to be made', 'killed worker', 'cancelled worker' ],
	[ 'lines are being added', 'crash of another', 'cancelled worker', 'killed postmaster' ],
	[ 'a deal is being changed', 'killed worker', 'terminated worker', 'killed postmaster' ],
	[ 'a line is being changed', 'crash of another', 'terminated worker' ],
	[ 'a line is being deleted', 'immediate stop', 'cancelled worker' ],
	[ 'signals become jobs', 'killed worker', 'cancelled worker', 'immediate stop' ],
	[ 'calls are announced', 'terminated worker', 'cancelled worker', 'crash of another' ],
	[ 'calls are about to leave', 'killed worker', 'terminated worker', 'immediate stop' ],
	[ 'answers are in hand', 'killed worker', 'terminated worker', 'cancelled worker', 'killed postmaster' ],
	[ 'the worker connects', 'killed worker', 'terminated worker' ],
	[ 'the worker starts', 'crash of another', 'terminated worker', 'cancelled worker' ],
	[ 'the list is read', 'killed worker', 'terminated worker' ],
	[ 'the list is taken in', 'cancelled worker', 'immediate stop' ]);

$changed = new_order();
$t->poll;
ok($t->settle, 'an order to be changed');
foreach my $case (@cases)
{
	my ($moment, @ends) = @$case;
	foreach my $end (@ends)
	{
		my $name = "$end while $moment";
		note $name;
		my @calls = $t->pipedrive_calls(
			sub {
				$moment{$moment}->();
				$end{$end}->();
				$t->clear_faults;
				$blocker->{run}->kill_kill if $blocker;
				undef $blocker;
				$t->wait_for('SELECT true') or die 'the server is not back';
				$t->sql('SELECT exact_pd_sync.start_worker()');
				all_there($name);
			});
		is(join("\n", grep { /search/ } map { $_->{path} } @calls), '', "$name: nothing is searched");
	}
}

# ----------
note 'runs that end in the middle';
# ----------
sub runs { return $t->sql("SELECT coalesce(string_agg(what, ' ' ORDER BY id), '') FROM exact_pd_sync.sync_runs WHERE state = '$_[0]'" . ($_[1] ? " AND error LIKE '$_[1]'" : '')); }

$t->switches(exact_page_size => 3);
my $died = 'the session ended in the middle%';
my %run = (
	poll_orders => [ 'CALL exact_pd_sync.poll_orders()', 'exact', 'SalesOrderHeaders' ],
	import_history => [ 'CALL exact_pd_sync.import_history()', 'exact', 'bulk/SalesOrder' ],
	setup_pipedrive => [ 'CALL exact_pd_sync.setup_pipedrive()', 'pipedrive', 'api/v[12]/' ]);
my %stop = (
	'a killed session' => sub { kill 'KILL', $_[0]; },
	'a terminated session' => sub { $t->sql("SELECT pg_terminate_backend($_[0], 10000)") },
	'an immediate stop' => sub { $t->node->stop('immediate'); $t->node->rotate_logfile; $t->node->start; },
	'a killed postmaster' => sub { $t->crash; });
foreach my $case (
	[ 'poll_orders', 'a killed session' ], [ 'poll_orders', 'a terminated session' ], [ 'poll_orders', 'a killed postmaster' ],
	[ 'import_history', 'an immediate stop' ], [ 'import_history', 'a killed session' ], [ 'setup_pipedrive', 'a killed postmaster' ])
{
	my ($what, $how) = @$case;
	my ($sql, $side, $path) = @{ $run{$what} };
	my $name = "$what, $how";
	my @before = split / /, runs('failed', $died);
	new_order() foreach 1 .. 4;
	my $id = $t->fault(side => $side, path => $path, skip => 1, action => { hang => 'body', seconds => 300 });
	my $call = $t->background($sql);
	my $pid = $call->(pid => 1);
	until_true($name, sub { is_met($id) });
	is(runs('running'), $what, "$name: it runs");
	$stop{$how}->($pid);
	$call->();
	$t->clear_faults;
	$t->wait_for('SELECT true') or die 'the server is not back';
	if ($how eq 'a terminated session')
	{
		# nobody was left who could have booked it
		like(runs('running') . runs('failed'), qr/$what/, "$name: its run is no success");
	}
	else
	{
		is(runs('running'), $what, "$name: on disk it still runs");
	}
	is($t->sql(q{SELECT count(*) FROM exact_pd_sync.sync_runs WHERE state = 'ok' AND finished_at IS NULL}), '0', "$name: ... and is no success");
	$t->poll('customers');
	$t->sql($sql);
	is(runs('running'), '', "$name: the next run closes it");
	my @after = split / /, runs('failed', $died);
	is("@after[scalar @before .. $#after]", $what, "$name: ... as a failure, in plain words");
	$t->poll;
	all_there($name);
}
is(join(' ', map { $_->{name} } grep { $_->{name} eq 'Bestellingen' } @{ $t->state('pipelines')->{pipelines} || [] }), 'Bestellingen',
	'a set-up that was killed made nothing twice');

# ----------
note 'afterwards';
# ----------
my $tokens = $t->tokens;
$t->poll;
ok($t->settle, 'a further run is through');
is($t->tokens, $tokens, '... and there is nothing left to say');
is($t->sql('SELECT count(*) FROM exact_pd_sync.intents'), '0', '... and nothing announced');
$t->node->rotate_logfile;
$t->node->restart;
$t->done;
