# EpdsTest.pm: a node with the extension, connected to a sandbox of its own.
#
# Belongs here: what the TAP tests that run against the sandbox share: starting
# it, steering it, connecting a database to it, waiting for the workers, reading
# both sides.  Does not belong here: what a single test expects.

=pod

=head1 NAME

EpdsTest - a PostgreSQL node with exact_pd_sync, and a sandbox to sync with

=head1 SYNOPSIS

  use FindBin;
  use lib $FindBin::RealBin;
  use EpdsTest;
  use Test::More;

  my $t = EpdsTest->new('name', orders => 40);   # sandbox, node, database, extension
  $t->connect;                                   # app, consent, division, account, set-up
  $t->import_history;                            # CALL import_history()
  $t->resume;                                    # SELECT resume()
  $t->settle;                                    # until nothing is left to send

  my $order = $t->order(20001);                  # as it is at Exact
  my $deal  = $t->deal(20001);                   # as it is at Pipedrive
  $t->patch('/exact/orders/20001', { delivery_status => 21 });
  $t->poll('orders');
  my @calls = $t->pipedrive_calls(sub { $t->settle });   # calls made meanwhile
  $t->no_violations('the sandbox has nothing to complain about');
  $t->done;                                      # stops the node, done_testing()

=head1 CONSTRUCTOR

=over

=item EpdsTest->new($name, %options)

Starts a sandbox and a node, creates the database C<sync> with the extension in
it.  Nothing is connected yet.  The sandbox and the node end with the test,
whatever way it ends.  Options:

  orders, months, seed, customers, items, today, plan, seats, orders_csv, blackhole
                what run.py knows by these names (orders defaults to 30, months to 12;
                blackhole => 1 opens the port on which connecting hangs)
  switches      hash: switches of the sandbox from its start; log_bodies is on and
                exact_minute_limit 6000 (so that no test waits for a minute to
                pass) unless it says otherwise
  conf          text: further lines for postgresql.conf
  preload       shared_preload_libraries; default 'exact_pd_sync'
  cron          name of the database that pg_cron lives in: preloads it, too
                (CREATE EXTENSION pg_cron is the test's matter)
  databases     exact_pd_sync.databases; default the database's name
  db            name of the database; default 'sync'
  start         0: the node is initialized and not started, nor the database made
                ($t->start then does both)
  sandbox       an EpdsTest object whose sandbox is used instead of one more

=back

=head1 METHODS

=head2 The database

=over

=item $t->node, $t->db, $t->ready

The PostgreSQL::Test::Cluster, the database's name, the ready line of the sandbox
as a hash (exact, pipedrive, control, division, client_id, client_secret,
webhook_secret, api_token, blackhole, pid).

=item $t->sql($sql, [%psql_options])

Runs it in the database and returns its output; dies when it fails.

=item my ($status, $out, $err) = $t->try($sql, [%psql_options])

The same without dying; errors are verbose (SQLSTATE, detail, hint).

=item my $session = $t->session(%options)

A psql in the background (PostgreSQL::Test::BackgroundPsql).

=item my $run = $t->background($sql, [$db]); my ($out, $err) = $run->()

Starts a statement and does not wait for it; the closure waits for its end.
C<< $run->(pid => 1) >> gives the server process once it runs (application_name
tells it apart); see also C<wait_activity>.

=item $t->wait_for($sql, [$expected], [$seconds])

Polls until the query returns $expected (default 't'); true when it did in time
(default 60 s).  Says with diag() what it saw otherwise.

=item $t->crash

Kills the postmaster with SIGKILL and starts a new one as soon as the other
processes have noticed.

=item $t->load_module($name)

Create the functions of a module of F<test/modules>.

=item $t->log_position; $t->log_since($position)

Where the server log is now, and what was written to it since.

=back

=head2 Connecting

=over

=item $t->connect_app; $t->consent; $t->add_division; $t->connect_pipedrive; $t->setup

The single steps: set_exact_app(), consent at the sandbox and exact_authorize(),
add_division(), set_pipedrive_account(), CALL setup_pipedrive().

=item $t->connect

All of these, and the first active user as default owner.

=item $t->import_history([$months]); $t->poll([$group]); $t->pause([$part]); $t->resume([$part])

The operator's calls; poll's group defaults to 'all'.

=item $t->settle([$seconds])

Waits until no signal, look, intent or job is left, dead letters apart (default
90 s); true when so, else says what is left.

=item $t->first_run

connect, import_history, poll, resume, settle.

=back

=head2 The sandbox

=over

=item $t->get($path), $t->post($path, $body), $t->patch($path, $body), $t->delete($path)

The control port, as in test/sandbox/README.md; bodies are Perl data.  Dies on
anything but 200.  $t->control($method, $path, $body) is the same for any method.

=item $t->switches(name => value, ...); $t->fault(side => ..., action => {...}); $t->clear_faults

=item $t->clock(advance => s) or $t->clock(scale => x)

Moves the sandbox's time.  The database's own clock stays: see $t->token_age.

=item $t->token_age($seconds)

Makes the token pair look as if it had been stored so long ago, on our side and (by
moving its clock) at the sandbox.

=item $t->orders; $t->order($number); $t->numbers

Orders at Exact, with their C<lines>; sorted by number.

=item $t->state([$only]); $t->deals; $t->deal($order_number)

The account at Pipedrive (live records only); deals by their field Ordernummer,
with C<products>, C<discounts>, C<fields> (by name), C<value_text> and the names in
C<stage>, C<owner>, C<organization>.  deal() is undef when there
is none and dies when there are two.

=item $t->stats([$side]); $t->reset_stats; $t->tokens; $t->calls($side, [$since])

tokens: spent at Pipedrive since the start or the last reset_stats.

=item my @calls = $t->pipedrive_calls(sub { ... }); exact_calls likewise

The calls that reached the sandbox while the code ran, with method, path,
operation, cost, status, and C<request> and C<response> (the bodies, JSON text).

=item my @texts = $t->writes(@calls)

Those calls that change something, as short texts that can be compared: method,
path with * for ids, keys of the body sorted (custom fields by name in angle
brackets; [n] for a list), tokens.  For example C<PATCH deals/* {stage_id,
E<lt>LeverstatusE<gt>} 5>.

=item $t->violations; $t->no_violations($name)

=back

=cut

package EpdsTest;

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $top = $ENV{EPDS_TOP} || abs_path(dirname(__FILE__) . '/../..');
my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my @sandboxes;

# A sandbox that outlives its test would keep the runner waiting.
END
{
	my $status = $?;
	stop_sandbox($_) foreach @sandboxes;
	$? = $status;
}

sub stop_sandbox
{
	my ($run) = @_;
	return unless $run;
	eval { $run->kill_kill(grace => 5) };
	return;
}

# ----------
# Making one
# ----------

sub new
{
	my ($class, $name, %option) = @_;
	my $self = bless {
		name => $name,
		db => $option{db} || 'sync',
		option => \%option,
		http => HTTP::Tiny->new(timeout => 60),
	  },
	  $class;
	if ($option{sandbox})
	{
		$self->{ready} = $option{sandbox}{ready};
	}
	else
	{
		$self->start_sandbox;
	}
	$self->make_node;
	$self->start unless defined $option{start} && !$option{start};
	return $self;
}

sub start_sandbox
{
	my ($self) = @_;
	my $option = $self->{option};
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $file = "$dir/ready.json";
	my $log = "$PostgreSQL::Test::Utils::log_path/$self->{name}_sandbox.log";
	my @command = (
		'python3', "$top/test/sandbox/run.py", '--ready-file', $file,
		'--orders', $option->{orders} // 30);
	foreach my $name (qw(months seed customers items today plan seats))
	{
		push @command, "--$name", $option->{$name} if defined $option->{$name};
	}
	push @command, '--orders-csv', $option->{orders_csv} if $option->{orders_csv};
	push @command, '--blackhole-port', 0 if $option->{blackhole};
	push @command, '--switches',
	  $json->encode(
		{
			log_bodies => JSON::PP::true,
			exact_minute_limit => 6000,
			%{ $option->{switches} || {} }
		});

	local $ENV{PYTHONDONTWRITEBYTECODE} = 1;
	my $run = IPC::Run::start(\@command, '<', \undef, '>', $log, '2>&1');
	push @sandboxes, $run;
	$self->{sandbox_run} = $run;
	my $until = time + 60;
	until (-e $file)
	{
		die "the sandbox ended: " . slurp_file($log) unless $run->pumpable;
		die "the sandbox is not ready after a minute: " . slurp_file($log)
		  if time > $until;
		usleep(20_000);
	}
	$self->{ready} = $json->decode(slurp_file($file));
	return;
}

sub make_node
{
	my ($self) = @_;
	my $option = $self->{option};
	my $preload = $option->{preload} // 'exact_pd_sync';
	my $databases = $option->{databases} // $self->{db};
	my $node = $self->{node} = PostgreSQL::Test::Cluster->new($self->{name});

	$node->init;
	$node->append_conf('postgresql.conf', <<"END");
shared_preload_libraries = '$preload'
exact_pd_sync.databases = '$databases'
exact_pd_sync.allow_insecure_http = on
max_worker_processes = 16
log_statement = none
timezone = 'UTC'
END
	$node->append_conf('postgresql.conf', <<"END") if $option->{cron};
shared_preload_libraries = '$preload,pg_cron'
cron.database_name = '$option->{cron}'
cron.host = '@{[ $node->host ]}'
END
	$node->append_conf('postgresql.conf', $option->{conf}) if $option->{conf};
	return;
}

sub start
{
	my ($self) = @_;
	$self->{node}->start;
	$self->{node}->safe_psql('postgres', "CREATE DATABASE \"$self->{db}\"");
	$self->sql('CREATE EXTENSION exact_pd_sync');
	return;
}

# Call it last: stops the node, so that a crash at the end is seen, too.
sub done
{
	my ($self) = @_;
	$self->{node}->stop('fast');
	unlike(slurp_file($self->{node}->logfile),
		qr/was terminated by signal|PANIC|TRAP:/, 'no server process crashed');
	stop_sandbox($self->{sandbox_run});
	done_testing();
	return;
}

# The postmaster dies, and nobody tells the others: they notice by themselves, and
# only then may a new server begin.
sub crash
{
	my ($self) = @_;
	my $node = $self->{node};
	my $until = time + 60;
	$node->kill9;
	# what the old ones say on their way out was wanted
	$node->rotate_logfile;
	until ($node->start(fail_ok => 1))
	{
		die 'processes of a server that is gone stay for a minute' if time > $until;
		# what it found was the file of the dead one
		$node->{_pid} = undef;
		usleep(100_000);
	}
	return;
}

sub node { return $_[0]{node}; }
sub db { return $_[0]{db}; }
sub ready { return $_[0]{ready}; }

# ------------
# The database
# ------------

sub sql
{
	my ($self, $sql, %option) = @_;
	my $db = delete $option{db} // $self->{db};
	return $self->{node}->safe_psql($db, $sql, %option);
}

sub try
{
	my ($self, $sql, %option) = @_;
	my $db = delete $option{db} // $self->{db};
	return $self->{node}->psql($db, "\\set VERBOSITY verbose\n$sql", %option);
}

sub session
{
	my ($self, %option) = @_;
	my $db = delete $option{db} // $self->{db};
	return $self->{node}->background_psql($db, on_error_stop => 0, %option);
}

my $background_count = 0;

sub background
{
	my ($self, $sql, $db) = @_;
	my ($out, $err) = ('', '');
	my $name = 'epds_test_' . ++$background_count;
	my $run = IPC::Run::start(
		[
			$self->{node}->installed_command('psql'), '-XAtq',
			'-v', 'VERBOSITY=verbose',
			'-d', $self->{node}->connstr($db // $self->{db}) . " application_name=$name",
			'-c', $sql
		],
		'<', \undef, '>', \$out, '2>', \$err);
	return sub {
		my (%want) = @_;
		if ($want{pid})
		{
			my $find =
			  "SELECT pid FROM pg_stat_activity WHERE application_name = '$name'";
			$self->wait_for("SELECT EXISTS ($find)");
			return $self->sql($find);
		}
		$run->finish;
		return ($out, $err);
	};
}

sub wait_for
{
	my ($self, $sql, $expected, $seconds, %option) = @_;
	my $db = $option{db} // $self->{db};
	local $PostgreSQL::Test::Utils::timeout_default = $seconds // 60;
	return $self->{node}->poll_query_until($db, $sql, $expected // 't');
}

sub log_position
{
	my ($self) = @_;
	return -s $self->{node}->logfile || 0;
}

sub log_since
{
	my ($self, $position) = @_;
	return slurp_file($self->{node}->logfile, $position);
}

# Create the functions of a module of test/modules.
sub load_module
{
	my ($self, $name) = @_;
	my $path = abs_path(dirname(__FILE__) . "/../modules/$name") . "/$name";

	$self->sql("\\set module '$path'\n" . slurp_file("$path.sql"));
	return;
}

sub quoted
{
	my ($text) = @_;
	return 'NULL' unless defined $text;
	$text =~ s/'/''/g;
	return "'$text'";
}

# ----------
# Connecting
# ----------

my $redirect_uri = 'https://example.com/callback';

sub connect_app
{
	my ($self) = @_;
	my $r = $self->{ready};
	$self->sql(
		sprintf 'SELECT exact_pd_sync.set_exact_app(%s, %s, %s, %s, %s)',
		map { quoted($_) } $r->{client_id}, $r->{client_secret}, $redirect_uri,
		$r->{webhook_secret}, $r->{exact});
	return;
}

sub consent
{
	my ($self) = @_;
	my $url = $self->sql('SELECT exact_pd_sync.exact_authorize_url()');
	# the browser of a person who is logged in and says yes
	my $answer = HTTP::Tiny->new(max_redirect => 0)->get($url);
	die "no consent: $answer->{status} $answer->{content}"
	  unless $answer->{status} == 302;
	$self->sql('CALL exact_pd_sync.exact_authorize('
		  . quoted($answer->{headers}{location})
		  . ')');
	return;
}

sub add_division
{
	my ($self) = @_;
	$self->sql("SELECT exact_pd_sync.add_division($self->{ready}{division})");
	return;
}

sub connect_pipedrive
{
	my ($self) = @_;
	my $r = $self->{ready};
	$self->sql(
		sprintf 'SELECT exact_pd_sync.set_pipedrive_account(%s, %s)',
		map { quoted($_) } $r->{api_token}, $r->{pipedrive});
	return;
}

sub setup
{
	my ($self) = @_;
	$self->sql('CALL exact_pd_sync.setup_pipedrive()');
	return;
}

sub connect
{
	my ($self) = @_;
	$self->connect_app;
	$self->consent;
	$self->add_division;
	$self->connect_pipedrive;
	$self->setup;
	$self->sql(
		'SELECT exact_pd_sync.set_default_owner((SELECT min(user_id) FROM exact_pd_sync.pipedrive_users WHERE active))'
	);
	return;
}

sub import_history
{
	my ($self, $months) = @_;
	$self->sql('CALL exact_pd_sync.import_history('
		  . (defined $months ? "$months, " . ($months > 36 ? $months : 36) : '')
		  . ')');
	return;
}

sub poll
{
	my ($self, $group) = @_;
	$self->sql('CALL exact_pd_sync.poll_' . ($group // 'all') . '()');
	return;
}

sub pause
{
	my ($self, $part) = @_;
	$self->sql('SELECT exact_pd_sync.pause(' . quoted($part // 'sending') . ')');
	return;
}

sub resume
{
	my ($self, $part) = @_;
	$self->sql('SELECT exact_pd_sync.resume(' . quoted($part // 'sending') . ')');
	return;
}

sub settle
{
	my ($self, $seconds) = @_;
	my $left = q{SELECT concat_ws(' ',
		'signals=' || nullif((SELECT count(*) FROM exact_pd_sync.job_signals), 0),
		'looks=' || nullif((SELECT count(*) FROM exact_pd_sync.looks WHERE done_at IS NULL), 0),
		'intents=' || nullif((SELECT count(*) FROM exact_pd_sync.intents), 0),
		(SELECT string_agg(x.kind || ' ' || x.state || '=' || x.n || coalesce(' (' || x.reason || ')', ''), ' ')
		   FROM (SELECT kind, state, max(reason) AS reason, count(*) AS n FROM exact_pd_sync.jobs WHERE state <> 'dead' GROUP BY kind, state) x))};
	return $self->wait_for($left, '', $seconds // 90);
}

sub first_run
{
	my ($self) = @_;
	$self->connect;
	$self->import_history;
	$self->poll;
	$self->resume;
	return $self->settle;
}

# -----------
# The sandbox
# -----------

sub control
{
	my ($self, $method, $path, $body) = @_;
	my $answer = $self->{http}->request(
		$method,
		$self->{ready}{control} . $path,
		defined $body
		? {
			content => $json->encode($body),
			headers => { 'Content-Type' => 'application/json' }
		  }
		: {});
	die "$method $path: $answer->{status} $answer->{content}"
	  unless $answer->{status} == 200;
	return $json->decode($answer->{content});
}

sub get { return $_[0]->control('GET', $_[1]); }
sub post { return $_[0]->control('POST', $_[1], $_[2] // {}); }
sub patch { return $_[0]->control('PATCH', $_[1], $_[2]); }
sub delete { return $_[0]->control('DELETE', $_[1]); }

sub switches
{
	my ($self, %value) = @_;
	return $self->post('/switches', \%value);
}

sub fault
{
	my ($self, %fault) = @_;
	return $self->post('/faults', \%fault)->{id};
}

sub clear_faults { return $_[0]->delete('/faults'); }

sub clock
{
	my ($self, %change) = @_;
	return $self->post('/clock', \%change);
}

sub token_age
{
	my ($self, $seconds) = @_;
	$self->clock(advance => $seconds);
	$self->sql(
		"UPDATE exact_pd_sync.exact_consent SET issued_at = issued_at - interval '$seconds s', "
		  . "access_expires_at = access_expires_at - interval '$seconds s'");
	return;
}

sub orders { return @{ $_[0]->get('/exact/orders') }; }
sub order { return $_[0]->get("/exact/orders/$_[1]"); }
sub numbers { return map { $_->{OrderNumber} } @{ $_[0]->get('/exact/orders?lines=0') }; }

sub state
{
	my ($self, $only) = @_;
	return $self->get('/pipedrive/state?deleted=0' . ($only ? "&only=$only" : ''));
}

sub deals { return @{ $_[0]->state('deals')->{deals} }; }

sub deal
{
	my ($self, $number) = @_;
	my @found = grep { ($_->{fields}{Ordernummer} // '') eq $number } $self->deals;
	die "order $number has " . @found . ' deals' if @found > 1;
	return $found[0];
}

sub stats
{
	my ($self, $side) = @_;
	my $stats = $self->get('/stats');
	return $side ? $stats->{$side} : $stats;
}

sub reset_stats { return $_[0]->post('/stats/reset'); }

sub calls
{
	my ($self, $side, $since) = @_;
	return @{ $self->get("/calls?side=$side&since=" . ($since // 0)) };
}

sub calls_during
{
	my ($self, $side, $code) = @_;
	my @before = $self->calls($side);
	my $since = @before ? $before[-1]{seq} : 0;
	$code->();
	return grep { $_->{seq} > $since } $self->calls($side, $since);
}

sub pipedrive_calls { return $_[0]->calls_during('pipedrive', $_[1]); }
sub exact_calls { return $_[0]->calls_during('exact', $_[1]); }

sub writes
{
	my ($self, @calls) = @_;
	my %name = map { $_->{field_code} => $_->{field_name} }
	  map { @{$_} } values %{ $self->get('/pipedrive/state?only=deal_fields,organization_fields,product_fields') };
	my @texts;
	foreach my $call (grep { $_->{method} ne 'GET' } @calls)
	{
		my $path = $call->{path};
		$path =~ s,^/(?:api/)?v[12]/,,;
		$path =~ s,/[0-9a-f-]*\d[0-9a-f-]*(?=/|$),/*,g;
		my $body = length($call->{request} // '') ? $json->decode($call->{request}) : undef;
		$body = $body->{data} if ref $body eq 'HASH' && ref $body->{data} eq 'ARRAY';
		my $keys =
			ref $body eq 'ARRAY' ? '[' . @$body . '] '
		  : ref $body eq 'HASH'
		  ? '{'
		  . join(', ',
			sort(grep { $_ ne 'custom_fields' } keys %$body),
			sort(map { '<' . ($name{$_} // $_) . '>' } keys %{ $body->{custom_fields} || {} }))
		  . '} '
		  : '';
		push @texts, "$call->{method} $path $keys$call->{cost}";
	}
	return @texts;
}

sub violations { return @{ $_[0]->get('/violations') }; }

sub no_violations
{
	my ($self, $name) = @_;
	my @texts = map { "$_->{side}: $_->{text}" } $self->violations;
	return is(join("\n", @texts), '', $name // 'the sandbox saw nothing forbidden');
}

sub tokens
{
	my ($self) = @_;
	my $stats = $self->stats('pipedrive');
	return $stats->{tokens};
}

1;
