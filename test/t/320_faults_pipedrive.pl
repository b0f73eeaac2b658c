# 320_faults_pipedrive.pl: every fault of a single answer, at every kind of call.
#
# Belongs here: a table of faults.  In a round, each kind of write meets the same
# fault once; what became of it is judged by its class (api_calls.outcome), and
# in the end every order is one deal with its lines.  Does not belong here: a
# service that fails for long, lists that fail (321_faults_lasting.pl), records
# that a person touched (322_faults_records.pl), workers that end
# (260_unknown_outcome.pl).

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;
use Time::HiRes qw(time usleep);

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my %open = (status => 12, delivery_status => 12, invoice_status => 12);
my $t = EpdsTest->new(
	'faults_pipedrive',
	orders => 0,
	switches => { burst_limit => 0, exact_minute_limit => 100000 },
	conf => "exact_pd_sync.poll_interval = '100ms'\nexact_pd_sync.max_connections = 4\n");

# The kinds of writes, and what meets them.
my %kind = (
	organization => [ POST => '/api/v2/organizations$' ],
	product => [ POST => '/api/v2/products$' ],
	deal => [ POST => '/api/v2/deals$' ],
	bulk => [ POST => '/api/v2/deals/[0-9]+/products/bulk$' ],
	line => [ POST => '/api/v2/deals/[0-9]+/products$' ],
	discount => [ POST => '/api/v2/deals/[0-9]+/discounts$' ],
	option => [ POST => '/api/v2/productFields/[0-9a-f]+/options$' ],
	organization_change => [ PATCH => '/api/v2/organizations/[0-9]+$' ],
	product_change => [ PATCH => '/api/v2/products/[0-9]+$' ],
	deal_change => [ PATCH => '/api/v2/deals/[0-9]+$' ],
	line_change => [ PATCH => '/api/v2/deals/[0-9]+/products/[0-9]+$' ],
	discount_change => [ PATCH => '/api/v2/deals/[0-9]+/discounts/' ],
	line_delete => [ DELETE => '/api/v2/deals/[0-9]+/products/[0-9]+$' ],
	bulk_delete => [ DELETE => '/api/v2/deals/[0-9]+/products\?ids=' ],
	discount_delete => [ DELETE => '/api/v2/deals/[0-9]+/discounts/' ]);
my @kinds = sort keys %kind;

sub kind_of
{
	my ($method, $path) = @_;
	foreach my $name (@kinds)
	{
		my ($m, $regex) = @{ $kind{$name} };
		return $name if $m eq $method && $path =~ /$regex/;
	}
	return "$method $path";
}

# -------------------
# Orders and changes
# -------------------

my $round = 0;

sub lines
{
	my ($count) = @_;
	return [ map { { item => 'FP-1', quantity => 7, price => 1.17 + $_ * 0.38 } } 1 .. $count ];
}

sub before_all
{
	$t->post('/exact/orders',
		[
			{
				number => 50000, customer => { name => 'Vaste klant', code => '5000' }, %open,
				lines => [ { item => { code => 'FP-1', description => 'Artikel', price => 7.35 }, quantity => 1 } ]
			},
			(map { { number => $_, customer => '5000', %open, lines => lines(1) } } 50001, 50002, 50003),
			{ number => 50004, customer => '5000', %open, lines => lines(60) },
			{ number => 50005, customer => '5000', %open, lines => lines(130) },
			(map { { number => $_, customer => '5000', %open, discount => 0.033, lines => lines(6) } } 50006, 50007),
			{
				number => 50008, customer => { name => 'Wisselende naam', code => '5008' }, %open,
				lines => [ { item => { code => 'FP-8', description => 'Wisselende naam', price => 2.5 }, quantity => 1 } ]
			}
		]);
	return;
}

# One call of every kind, and of some kinds more than one.
sub changes
{
	$round++;
	my $n = 51000 + $round;
	$t->post('/exact/entities/ItemGroups', { Code => "FP$round", Description => "Groep $round" });
	$t->post('/exact/orders',
		{
			number => $n, customer => { name => "Klant $n", code => "$n" }, %open, discount => 0.033,
			lines => [
				@{ lines(5) },
				{ item => { code => "FP-$n", description => "Artikel $n", price => 3.21 }, quantity => 7, price => 3.21 }
			]
		});
	my $order = $t->order(50008);
	$t->patch("/exact/entities/Accounts/$order->{OrderedBy}", { AddressLine1 => "Straat $round" });
	$t->patch("/exact/entities/Items/$order->{lines}[0]{Item}", { Description => "Naam $round" });
	$t->patch('/exact/orders/50001', { your_ref => "ronde $round" });
	$t->patch('/exact/orders/50002/lines/1', { quantity => 10 + $round });
	$t->post('/exact/orders/50003/lines', { item => 'FP-1', quantity => $round, price => 4.5 });
	my @lines = map { $_->{LineNumber} } @{ $t->order(50004)->{lines} };
	$t->delete("/exact/orders/50004/lines/$lines[-1]");
	@lines = map { $_->{LineNumber} } @{ $t->order(50005)->{lines} };
	$t->delete("/exact/orders/50005/lines/$_") foreach @lines[ -5 .. -1 ];
	# cents that change, come and go
	$t->patch('/exact/orders/50006/lines/1', { quantity => 7 + ($round % 2 ? 4 : 0) });
	$t->patch('/exact/orders/50007', { discount => $round % 2 ? 0 : 0.033 });
	return;
}

# What a later page of the poll tells of an order would give it another chance.
sub poll_at_once
{
	$t->pause;
	$t->poll;
	$t->wait_for('SELECT NOT EXISTS (SELECT FROM exact_pd_sync.job_signals)');
	$t->resume;
	return;
}

# --------
# Judging
# --------

# All waits that end by themselves end now.
sub hurry
{
	my ($seconds) = @_;
	my $until = time + ($seconds // 60);
	while (time < $until)
	{
		my $left = $t->sql(
			q{UPDATE exact_pd_sync.jobs SET next_attempt_at = now() WHERE state = 'waiting' AND next_attempt_at > now() AND next_attempt_at < 'infinity';
			SELECT NOT EXISTS (SELECT FROM exact_pd_sync.job_signals) AND NOT EXISTS (SELECT FROM exact_pd_sync.intents)
				AND NOT EXISTS (SELECT FROM exact_pd_sync.looks WHERE done_at IS NULL) AND NOT EXISTS (SELECT FROM exact_pd_sync.jobs WHERE state NOT IN ('dead', 'blocked'))});
		return 1 if $left eq 't';
		usleep(20_000);
	}
	diag($t->sql('SELECT kind, state, attempts, reason, error FROM exact_pd_sync.jobs'));
	return 0;
}

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
	my ($field) = grep { $_->{field_name} eq 'Artikelgroep' } @{ $state->{product_fields} };
	$count{"option $_->{label}"}++ foreach @{ $field->{options} };
	return join(', ', grep { $count{$_} > 1 } sort keys %count);
}

sub last_call { return $t->sql('SELECT coalesce(max(id), 0) FROM exact_pd_sync.api_calls'); }

# What became of the calls that were not accepted, by kind.
sub outcomes
{
	my ($since) = @_;
	my %found;
	foreach my $row (split /\n/,
		$t->sql("SELECT method || ' ' || outcome || ' ' || path FROM exact_pd_sync.api_calls WHERE id > $since AND side = 'pipedrive' AND method <> 'GET' AND outcome <> 'ok'"))
	{
		my ($method, $outcome, $path) = split / /, $row, 3;
		push @{ $found{ kind_of($method, $path) } }, $outcome;
	}
	return \%found;
}

sub met
{
	my (%fault) = @_;
	my %hits = map { $_->{id} => $_->{hits} } @{ $t->get('/faults') };
	return map { $_ => $hits{ $fault{$_} } } keys %fault;
}

sub all_well
{
	my ($name) = @_;
	is(doubles(), '', "$name: nothing is there twice");
	agrees($t, "$name: every order is a deal");
	return;
}

before_all();
ok($t->first_run, 'the first run is through');
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '0')});
changes();
$t->poll;
ok($t->settle, 'a round without a fault');
all_well('a round without a fault');

# -------------------------------------
note 'faults that end by themselves';
# -------------------------------------

# Name, action, class of a POST, classes of a change.  A change whose kept-alive
# connection dies is repeated by libcurl itself, which does no harm.
my $json = 'application/json';
my $limit = '{"success":false,"error":"request over limit","errorCode":429}';
my @faults = (
	[ 'connection dropped, nothing done', { drop => $true }, 'unknown', 'retry|' ],
	[ 'connection dropped, done', { drop => $true, execute => $true }, 'unknown', 'retry|' ],
	[ '500 as JSON', { status => 500, body => '{"success":false,"error":"Internal server error"}', content_type => $json }, 'unknown', 'retry' ],
	[ '502 as HTML, done', { status => 502, body => '<html>Bad Gateway</html>', content_type => 'text/html', execute => $true }, 'unknown', 'retry' ],
	[ '503 as HTML', { status => 503, body => '<html>Maintenance</html>', content_type => 'text/html' }, 'unknown', 'retry' ],
	[ '504 without a body, done', { status => 504, body => '', content_type => 'text/html', execute => $true }, 'unknown', 'retry' ],
	[ 'half of the answer, done', { truncate => $true, execute => $true }, 'unknown', 'retry' ],
	[ 'an empty body, done', { empty => $true, execute => $true }, 'unknown', 'retry' ],
	[ 'the answer with another content type', { content_type => 'text/html' }, '', '' ],
	[ 'the page of another service', { status => 200, body => '<html>Log in</html>', content_type => 'text/html' }, 'unknown', 'retry' ],
	[ 'an array, done', { status => 200, body => '[]', content_type => $json, execute => $true }, 'unknown', 'retry' ],
	[ 'no id, done', { status => 201, body => '{"success":true,"data":{}}', content_type => $json, execute => $true }, 'unknown', '' ],
	[ '204 without a word, done', { status => 204, body => '', content_type => $json, execute => $true }, 'unknown', '' ],
	[ 'a gzip bomb, done', { gzip_bomb => $true, execute => $true }, 'unknown', 'retry' ],
	[ 'a body without end, done', { endless => $true, execute => $true }, 'unknown', 'retry' ],
	[ 'an answer of five megabytes, done', { status => 200, body => '{"success":true,"data":{"id":1},"pad":"' . 'x' x 5_000_000 . '"}', content_type => $json, execute => $true }, 'unknown', 'retry' ],
	[ 'a slow body', { slow_ms_per_kb => 30 }, '', '' ],
	[ '408', { status => 408, body => '{"success":false}', content_type => $json }, 'unknown', 'retry' ],
	[ '429', { status => 429, body => $limit, content_type => $json, headers => { 'retry-after' => '1' } }, 'burst', 'burst' ],
	[ 'the web application instead of the service', { status => 404, body => '<html>', content_type => 'text/html' }, 'retry', 'retry' ]);

# In each round every kind of call meets another fault; after as many rounds as
# there are faults each would have met each.
my $rounds = $ENV{EPDS_FAULT_ROUNDS} // 5;
my (%seen, %met);

sub expected
{
	my ($kind, $fault) = @_;
	my ($name, $action, $of_post, $of_change) = @$fault;
	return $of_post if $kind{$kind}[0] eq 'POST';
	# what is gone already when it is deleted again is what was wanted
	return "($of_change),gone|gone" if $kind{$kind}[0] eq 'DELETE' && $action->{execute} && $of_change;
	return $of_change;
}

foreach my $r (1 .. $rounds)
{
	my $since = last_call();
	my (%fault, %which);
	foreach my $k (0 .. $#kinds)
	{
		$which{ $kinds[$k] } = $faults[ ($r * @kinds + $k) % @faults ];
		$fault{ $kinds[$k] } =
		  $t->fault(side => 'pipedrive', method => $kind{ $kinds[$k] }[0], path => $kind{ $kinds[$k] }[1], times => 1, action => $which{ $kinds[$k] }[1]);
	}
	changes();
	poll_at_once();
	ok(hurry(), "round $r: all goes on");
	my %hits = met(%fault);
	$t->clear_faults;
	my $found = outcomes($since);
	my (@wrong, @missed);
	foreach my $kind (@kinds)
	{
		my $class = $hits{$kind} ? expected($kind, $which{$kind}) : '';
		my $have = join ',', @{ $found->{$kind} || [] };
		$seen{$kind}++ if $hits{$kind};
		$met{ $which{$kind}[0] }++ if $hits{$kind};
		push @wrong, "$which{$kind}[0]: $kind is \"$have\", should be \"$class\"" if $have !~ /^($class)$/;
		push @missed, $kind if !$hits{$kind} && $kind !~ /^discount/;
	}
	is(join('; ', @wrong), '', "round $r: each is taken for what it is");
	is(join(', ', @missed), '', "round $r: ... and each kind of call met its fault");
	is($t->sql('SELECT count(*) FROM exact_pd_sync.dead_letters'), '0', "round $r: no dead letter");
	all_well("round $r");
}
is(join(', ', grep { ($met{$_} // 0) < 2 } map { $_->[0] } @faults), '', 'every fault was met by several kinds of calls');
is(join(', ', grep { ($seen{$_} // 0) < 2 } @kinds), '', 'every kind of call met several faults');

# ------------------------
note 'refused for good';
# ------------------------

# A dead letter at once, with the server's words; replay() brings it in.
my @refusals = (
	[ 400, 'Validation failed:' ], [ 403, 'You do not have permission:' ], [ 409, 'Record is being changed:' ],
	[ 422, 'Cannot be processed:' ], [ 200, 'Refused with a good status:' ]);
foreach my $r (0 .. 1)
{
	my $since = last_call();
	my (%fault, %words);
	foreach my $k (0 .. $#kinds)
	{
		my ($status, $words) = @{ $refusals[ ($r + $k) % @refusals ] };
		$words{ $kinds[$k] } = "$words $kinds[$k]";
		$fault{ $kinds[$k] } = $t->fault(side => 'pipedrive', method => $kind{ $kinds[$k] }[0], path => $kind{ $kinds[$k] }[1], times => 1,
			action => { status => $status, body => qq({"success":false,"error":"$words{ $kinds[$k] }"}), content_type => $json });
	}
	changes();
	poll_at_once();
	my %told;
	foreach (1 .. 8)
	{
		hurry();
		my @dead = split /\n/, $t->sql('SELECT attempts, servers_words FROM exact_pd_sync.dead_letters');
		last unless @dead;
		$told{$_}++ foreach @dead;
		$t->sql('SELECT exact_pd_sync.replay()');
		$t->wait_for('SELECT NOT EXISTS (SELECT FROM exact_pd_sync.job_signals)');
	}
	my %hits = met(%fault);
	$t->clear_faults;
	my $name = "refused for good ($r)";
	is( join("\n", sort keys %told),
		join("\n", sort map { "1|$words{$_}" } grep { $hits{$_} } @kinds),
		"$name: a dead letter after one attempt, with the server's words, for each kind of call");
	my $found = outcomes($since);
	is(join(' ', map { "$_=@{ $found->{$_} || [] }" } grep { $hits{$_} } @kinds),
		join(' ', map { "$_=permanent" } grep { $hits{$_} } @kinds), "$name: ... and each was sent once");
	ok(hurry(), "$name: replay() brings all of them in");
	all_well($name);
}

# -----------------------------
note 'all of it is refused';
# -----------------------------

# One call meets it, and nothing follows; nothing counts as an attempt.
my @closed = (
	[ 'a dead token', { status => 401, body => '{"success":false,"error":"unauthorized access"}', content_type => $json }, 'auth', qr/token/ ],
	[ 'an account not paid', { status => 402, body => '{"success":false,"error":"Payment required"}', content_type => $json }, 'auth', qr/token/ ],
	[ 'a token that may not', { status => 403, body => '{"success":false,"error":"Scope and URL mismatch"}', content_type => $json }, 'auth', qr/token/ ],
	[ 'another host', { status => 302, body => '', content_type => 'text/html', headers => { location => 'https://example.com/' } }, 'auth', qr/token/ ],
	[ 'the page of the gateway', { status => 403, body => '<html>Access denied</html>', content_type => 'text/html' }, 'blocked', qr/blocks this address/ ],
	[ 'no tokens left', { status => 429, body => $limit, content_type => $json, headers => { 'x-daily-ratelimit-token-remaining' => '2' } }, 'daily', qr/tokens of the day/ ],
	[ 'the same by retry-after', { status => 429, body => $limit, content_type => $json, headers => { 'retry-after' => '3600' } }, 'daily', qr/tokens of the day/ ]);
foreach my $closed (@closed)
{
	my ($name, $action, $outcome, $words) = @$closed;
	# a create is told apart at two of them
	foreach my $what ($outcome eq 'daily' || $name eq 'a dead token' ? 'deal' : (), 'deal_change')
	{
		my $since = last_call();
		$t->fault(side => 'pipedrive', method => $kind{$what}[0], path => $kind{$what}[1], times => 0, action => $action);
		my @calls = $t->pipedrive_calls(
			sub {
				if ($what eq 'deal') { $t->post('/exact/orders', { number => 52000 + ++$round, customer => '5000', %open, lines => lines(1) }); }
				else { $t->patch('/exact/orders/50001', { your_ref => 'ronde ' . ++$round }); }
				$t->poll('orders');
				$t->wait_for(q{SELECT EXISTS (SELECT FROM exact_pd_sync.budget WHERE side = 'pipedrive' AND kind = 'day' AND blocked_until > now())});
				# waiting jobs may not slip through while it is closed
				$t->sql(q{UPDATE exact_pd_sync.jobs SET next_attempt_at = now() WHERE state = 'waiting'; SELECT exact_pd_sync.wake_worker('delivery')});
				$t->wait_for(q{SELECT NOT EXISTS (SELECT FROM exact_pd_sync.intents)});
			});
		is(join(' ', map { $_->{method} } @calls), $kind{$what}[0], "$name, $what: one call, and then silence");
		is(join(',', map { @{$_} } values %{ outcomes($since) }), $outcome, "$name, $what: ... it is taken for what it is");
		is($t->sql('SELECT string_agg(DISTINCT attempts::text, $$,$$) FROM exact_pd_sync.jobs'), '0', "$name, $what: ... no attempt");
		like($t->sql(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'sending'}), qr/^red: .*$words/, "$name, $what: ... status says why");
		$t->clear_faults;
		# a day of our own count that was closed begins anew
		$t->sql(q{UPDATE exact_pd_sync.budgets SET remaining = limit_value WHERE side = 'pipedrive' AND kind = 'day'});
		$t->resume;
		ok(hurry(), "$name, $what: ... resume() lets it go on");
	}
}
all_well('all of it was refused');

# --------------------
note 'afterwards';
# --------------------

my $tokens = $t->tokens;
$t->poll;
ok($t->settle, 'a further run is through');
is($t->tokens, $tokens, '... and there is nothing left to say');
is($t->sql(q[SELECT count(*) FROM exact_pd_sync.api_calls WHERE path LIKE '%{%']), '0', 'the journal names the deals that calls went to');
$t->no_violations('nothing was forbidden');
$t->done;
