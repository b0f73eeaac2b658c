# 260_unknown_outcome.pl: was it made or not?
#
# Belongs here: connections lost after the service has executed a call, and
# workers and servers that end with calls in flight.  What has no booked answer
# is looked up in a list, and in the end every record is there once.  Does not
# belong here: refusals that say clearly that nothing was made
# (221_switches_refusals.pl), requests that hang before anything is executed
# (150_interrupts.pl).

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;
use Time::HiRes qw(time usleep);

# The test harness wants crashes to stop the server; here it has to come back.
my $t = EpdsTest->new(
	'unknown_outcome',
	orders => 2,
	items => 8,
	customers => 3,
	seed => 26,
	switches => { burst_limit => 0 },
	conf => "restart_after_crash = on\nexact_pd_sync.poll_interval = '200ms'\n");
ok($t->first_run, 'the first run is through');
# The lists of this sandbox know at once (261_lagging_lists.pl has others).
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '0')});
my $position = $t->log_position;

# The calls that make something, and the lists that tell whether it was made.
my %post = (
	organization => qr,^/api/v2/organizations$,,
	product => qr,^/api/v2/products$,,
	deal => qr,^/api/v2/deals$,,
	line => qr,^/api/v2/deals/\d+/products$,,
	bulk => qr,^/api/v2/deals/\d+/products/bulk$,,
	discount => qr,^/api/v2/deals/\d+/discounts$,);
my %list = (
	organization => $post{organization},
	product => $post{product},
	deal => $post{deal},
	line => qr,^/api/v2/deals/products$,,
	bulk => qr,^/api/v2/deals/products$,,
	discount => $post{discount});
my %fault_path = (
	organization => 'v2/organizations$',
	product => 'v2/products$',
	deal => 'v2/deals$',
	line => 'deals/[0-9]+/products$',
	bulk => 'products/bulk$',
	discount => 'discounts$');
my @all_at_once = qw(organization product deal bulk discount);

# ----------
# Orders
# ----------
my $next = 1;

# The description of a customer or item, which makes it; its code once it is there.
my %made;

sub code_or
{
	my ($description) = @_;
	return $made{ $description->{code} }++ ? $description->{code} : $description;
}

sub item
{
	my ($name) = @_;
	return code_or({ code => "UO-$name", description => "Artikel $name", price => 7.35 });
}

# An order that needs a call of the kind; "all" needs every kind but "line".
sub order_for
{
	my ($kind) = @_;
	my $n = $next++;
	my %new = map { $_ => $kind eq 'all' || $kind eq $_ } qw(organization product bulk discount);
	my $lines = $new{bulk} || $new{discount} ? 6 : 1;
	return $t->post(
		'/exact/orders',
		{
			salesperson => 'Anna de Wit', status => 12, delivery_status => 12, invoice_status => 12,
			customer => code_or($new{organization} ? { name => "Klant $n", code => (26000 + $n) . '' } : { name => 'Vaste klant', code => '26000' }),
			lines => [ map { { item => item($new{product} && $_ == 1 ? "N$n" : 0), quantity => 7, price => 1.17 + $_ * 0.38 } } 1 .. $lines ],
			$new{discount} ? (discount => 0.033) : ()
		})->{OrderNumber};
}

# ----------
# Judging
# ----------
sub fault_hits { return { map { $_->{id} => $_->{hits} } @{ $t->get('/faults') } }; }

sub all_sent
{
	my ($name) = @_;
	ok($t->settle(60), "$name: everything is sent")
	  or diag($t->sql('SELECT kind, state, reason, error FROM exact_pd_sync.queue'));
	agrees($t, "$name: every order is a deal, once, with its lines");
	$t->no_violations("$name: no record is there twice");
	is(doubles(), '', "$name: ... nor is a line or a discount");
	is($t->sql('SELECT count(*) FROM exact_pd_sync.dead_letters'), '0', "$name: no dead letter");
	return;
}

# What is in the account more than once.
sub doubles
{
	my $state = $t->state;
	my %count;
	$count{"organization $_->{name}"}++ foreach @{ $state->{organizations} };
	$count{"product " . ($_->{code} // $_->{name})}++ foreach @{ $state->{products} };
	foreach my $deal (@{ $state->{deals} })
	{
		$count{"deal $deal->{fields}{Ordernummer}"}++;
		$count{"discount of $deal->{title}"}++ foreach @{ $deal->{discounts} };
	}
	return join(', ', grep { $count{$_} > 1 } sort keys %count);
}

sub nothing_is_searched
{
	my ($name, @calls) = @_;
	is(join("\n", grep { /search/ } map { "$_->{path}?$_->{raw_query}" } @calls), '', "$name: nothing is searched");
	return;
}

# Between a call without an answer and the next one that makes the same stands a
# list.  Calls of others that were in flight with it are no second try: each test
# that uses this makes one record of the kind.
sub looked_first
{
	my ($name, $kind, @calls) = @_;
	my @told;
	my $lost = 0;
	my $looks = 0;
	foreach my $call (grep { $_->{method} ne 'GET' || ($_->{note} // '') !~ /^fault/ } @calls)
	{
		if ($call->{method} eq 'GET' && $call->{path} =~ $list{$kind})
		{
			$looks++ if $lost;
			$lost = 0;
		}
		next unless $call->{method} eq 'POST' && $call->{path} =~ $post{$kind};
		push @told, "$call->{method} $call->{path} again, and no list was read" if $lost;
		$lost = 1 if ($call->{note} // '') =~ /^fault/;
	}
	is(join("\n", @told), '', "$name: nothing is made before a list was read");
	is($looks, 1, "$name: ... and one list was enough");
	return;
}

sub posts
{
	my ($kind, @calls) = @_;
	return scalar grep { $_->{method} eq 'POST' && $_->{path} =~ $post{$kind} } @calls;
}

# The calls of these kinds lose their answer once, in this way.
sub lose
{
	my ($name, $action, $make, @kinds) = @_;
	my @ids = map { $t->fault(side => 'pipedrive', method => 'POST', path => $fault_path{$_}, action => $action) } @kinds;
	my @calls = $t->pipedrive_calls(
		sub {
			$make->();
			$t->poll;
			all_sent($name);
		});
	my $hits = fault_hits();
	is(join(' ', map { $hits->{$_} } @ids), join(' ', (1) x @ids), "$name: the answer was lost");
	foreach my $kind (@kinds)
	{
		is(posts($kind, @calls), $action->{execute} ? 1 : 2,
			"$name: $kind: " . ($action->{execute} ? 'it was made once' : 'it was not made, so it is made now'));
		looked_first("$name: $kind", $kind, @calls);
	}
	nothing_is_searched($name, @calls);
	$t->clear_faults;
	return;
}

# ----------
note 'the connection is lost after the call was executed';
# ----------
my %executed = (execute => JSON::PP::true);
my $known = order_for('deal');
$t->poll;
ok($t->settle, 'what the orders share is there');

foreach my $kind (qw(deal organization product bulk discount))
{
	lose("a lost $kind", { %executed, drop => JSON::PP::true }, sub { order_for($kind) }, $kind);
}
lose(
	'a lost line', { %executed, drop => JSON::PP::true },
	sub { $t->post("/exact/orders/$known/lines", { item => 'UO-0', quantity => 3, price => 4.5 }) }, 'line');

# The same from an answer's point of view: everything a new order needs, lost.
lose('a 502 instead of the answer', { %executed, status => 502, body => '<html>Bad Gateway</html>', content_type => 'text/html' },
	sub { order_for('all') }, @all_at_once);
lose('half of the answer', { %executed, truncate => JSON::PP::true }, sub { order_for('all') }, @all_at_once);
lose('a connection lost before the call', { drop => JSON::PP::true }, sub { order_for('all') }, @all_at_once);

# Short while it is wanted only: a busy machine may need more for an honest answer.
sub http_timeout
{
	my ($value) = @_;
	$t->sql("ALTER SYSTEM SET exact_pd_sync.http_timeout = $value");
	$t->sql('SELECT pg_reload_conf()');
	return;
}
http_timeout("'500ms'");
lose('a timeout after the call', { %executed, hang => 'headers', seconds => 100 }, sub { order_for('all') }, @all_at_once);
http_timeout('DEFAULT');

# One list settles many.
$t->fault(side => 'pipedrive', method => 'POST', path => $fault_path{deal}, times => 3,
	action => { %executed, drop => JSON::PP::true });
my @calls = $t->pipedrive_calls(
	sub {
		order_for('deal') foreach 1 .. 3;
		$t->poll;
		all_sent('three lost deals');
	});
is(posts('deal', @calls), 3, 'three lost deals: each was made once');
nothing_is_searched('three lost deals', @calls);
$t->clear_faults;

# A list that cannot be read says nothing: it is read again before anything is made.
$t->fault(side => 'pipedrive', method => 'GET', path => 'v2/deals\?', action => { status => 503 });
lose('a lost deal, and a list that fails', { drop => JSON::PP::true }, sub { order_for('deal') }, 'deal');

# A change or deletion that is repeated does no harm, so nothing is read: what is
# gone already is what was wanted.
my $shortened = order_for('bulk');
$t->poll;
ok($t->settle, 'one order more');
my @lost_changes = (
	[ PATCH => 'v2/deals/[0-9]+$', sub { $t->patch("/exact/orders/$known", { delivery_status => 21 }) } ],
	[ DELETE => 'deals/[0-9]+/products', sub { $t->delete("/exact/orders/$shortened/lines/6") } ]);
foreach my $lost (@lost_changes)
{
	my ($method, $path, $change) = @$lost;
	my $name = "a lost $method";
	$t->fault(side => 'pipedrive', method => $method, path => $path, action => { %executed, truncate => JSON::PP::true });
	my @calls = $t->pipedrive_calls(
		sub {
			$change->();
			$t->poll;
			ok($t->wait_for(q{SELECT count(*) = 1 FROM exact_pd_sync.jobs WHERE state = 'waiting'}), "$name: is tried again later");
			# later is now
			$t->sql(q{UPDATE exact_pd_sync.jobs SET next_attempt_at = now() WHERE state = 'waiting'});
			all_sent($name);
		});
	is(join(' ', map { $_->{method} } @calls), "$method $method", "$name: it is sent again and nothing else");
	$t->clear_faults;
}

# ----------
note 'the worker ends with a call in flight';
# ----------
my $worker = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'exact_pd_sync delivery'};

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

sub terminate_worker
{
	my $pid = $t->sql($worker);
	$t->sql("SELECT pg_terminate_backend($pid, 10000)") if $pid;
	# not after a while that grows, but at once
	$t->sql('SELECT exact_pd_sync.start_worker()');
	$t->wait_for("SELECT EXISTS ($worker AND pid <> " . ($pid || 0) . ')') or die 'the worker does not come back';
	return;
}

# At each kind of call: executed, no answer, and the worker is gone.
my @hang = map {
	$t->fault(side => 'pipedrive', method => 'POST', path => $fault_path{$_}, action => { %executed, hang => 'headers', seconds => 300 })
} @all_at_once;
@calls = $t->pipedrive_calls(
	sub {
		order_for('all');
		$t->poll;
		foreach my $id (@hang)
		{
			until_true("fault $id is met", sub { fault_hits()->{$id} });
			terminate_worker();
		}
		all_sent('a terminated worker');
	});
is(posts($_, @calls), 1, "a terminated worker: $_: it was made once") foreach @all_at_once;
looked_first("a terminated worker: $_", $_, @calls) foreach @all_at_once;
nothing_is_searched('a terminated worker', @calls);
$t->clear_faults;

# Answers that come late keep several calls in flight; the worker ends in between.
sub calls_made { return $t->stats('pipedrive')->{calls}; }

$t->switches(pipedrive_latency_ms => 100);
my $position_of_kills = $t->log_position;
order_for('all') foreach 1 .. 2;
my $before = calls_made();
$t->poll;
foreach my $more (1, 3, 5)
{
	# or all is sent already
	until_true("$more calls more",
		sub { calls_made() >= $before + $more || $t->sql('SELECT count(*) FROM exact_pd_sync.jobs') eq '0' });
	terminate_worker();
	$before = calls_made();
}
$t->switches(pipedrive_latency_ms => 0);
all_sent('a worker terminated three times');
like($t->log_since($position_of_kills), qr/\d+ announced calls of a former run have no booked answer/,
	'a worker terminated three times: there were calls in flight');

# ----------
note 'the server ends with calls in flight';
# ----------

# Starts a new order of every kind and stops at the call of one kind: executed, no answer.
sub stop_at
{
	my ($kind) = @_;
	order_for('all');
	my $id = $t->fault(side => 'pipedrive', method => 'POST', path => $fault_path{$kind},
		action => { %executed, hang => 'headers', seconds => 300 });
	$t->poll;
	until_true("a call for $kind is in flight", sub { fault_hits()->{$id} });
	return;
}

foreach my $kind (qw(deal bulk))
{
	my $name = "a killed worker ($kind)";
	@calls = $t->pipedrive_calls(
		sub {
			stop_at($kind);
			my $pid = $t->sql($worker);
			kill 'KILL', $pid or die "cannot kill $pid: $!";
			ok($t->wait_for("SELECT EXISTS ($worker AND pid <> $pid)"), "$name: the server is back, and the worker with it");
			all_sent($name);
		});
	is(posts($_, @calls), 1, "$name: $_: it was made once") foreach @all_at_once;
	looked_first($name, $kind, @calls);
	nothing_is_searched($name, @calls);
	$t->clear_faults;
}
my @crashes = $t->log_since($position) =~ /(was terminated by signal|PANIC|TRAP:)/g;
is("@crashes", 'was terminated by signal was terminated by signal', 'no process crashed but those two');

foreach my $kind (qw(organization deal bulk))
{
	my $name = "a server stopped immediately ($kind)";
	@calls = $t->pipedrive_calls(
		sub {
			stop_at($kind);
			$t->node->stop('immediate');
			# what the killed workers left in the log was wanted
			$t->node->rotate_logfile;
			$t->node->start;
			ok($t->wait_for("SELECT EXISTS ($worker)"), "$name: the worker is back");
			all_sent($name);
		});
	is(posts($_, @calls), 1, "$name: $_: it was made once") foreach @all_at_once;
	looked_first($name, $kind, @calls);
	nothing_is_searched($name, @calls);
	$t->clear_faults;
}

# ----------
note 'afterwards';
# ----------
my $tokens = $t->tokens;
$t->poll;
ok($t->settle, 'a further run is through');
is($t->tokens, $tokens, '... and there is nothing left to say');
is($t->sql('SELECT count(*) FROM exact_pd_sync.intents'), '0', '... and nothing announced');
$t->done;
