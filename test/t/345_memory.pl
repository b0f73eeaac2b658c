# Nothing stays behind: descriptors, memory and locks of a session whose polls
# fail in every way, many times over.
#
# The long run, with figures, is bench/soak and bench/soak_session.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use Test::More;

my $t = EpdsTest->new('memory', orders => 20,
	switches => { exact_error_block => JSON::PP::false });
$t->connect;
$t->import_history;
$t->poll;

# so many calls has a poll, which the first one in each session makes in peace:
# what it plans is kept
my $calls = grep { $_->{path} =~ /SalesOrder/ } $t->exact_calls(sub { $t->poll('orders') });

# What a session has: descriptors that are no files (files the server opens and
# closes as it sees fit; the kernel marks them with O_LARGEFILE, the sixth octal
# digit), and its memory contexts.
my $measure = <<'END';
CREATE FUNCTION pg_temp.sockets() RETURNS bigint LANGUAGE sql VOLATILE
    AS $$
    SELECT count(*)
      FROM pg_ls_dir('/proc/self/fd') AS fd,
   LATERAL (SELECT substring(pg_read_file('/proc/self/fdinfo/' || fd, 0, 10000, true) FROM '(?n)^flags:\s+(\d+)$')) AS i (flags)
     WHERE i.flags !~ '[1357]\d{5}$'
$$;
CREATE FUNCTION pg_temp.measure() RETURNS text LANGUAGE sql VOLATILE
    AS $$ SELECT format('measured %s %s', pg_temp.sockets(), (SELECT sum(used_bytes) FROM pg_backend_memory_contexts)) $$;
END

# Polls fail so often, in one session; what it has after 20 of them and at the end.
sub failing
{
	my ($times, $timeout, $error) = @_;
	my $script = $measure . "CALL exact_pd_sync.poll_orders();\n";
	for my $n (1 .. $times)
	{
		my $limit = $timeout ? $timeout + $n % 40 : 0;
		$script .= "DELETE FROM exact_pd_sync.budgets WHERE kind LIKE 'errors:%';\n"
		  . "SET statement_timeout = $limit; CALL exact_pd_sync.poll_orders(); RESET statement_timeout;\n";
		$script .= "SELECT pg_temp.measure();\n" if $n == 20 || $n == $times;
	}
	my ($out, $err) = ('', '');
	$t->node->psql($t->db, $script, stdout => \$out, stderr => \$err,
		on_error_stop => 0);
	my @failed = $err =~ /(ERROR: +(?:$error))/g;
	return (scalar @failed, map { [split] } $out =~ /^measured (.*)$/mg);
}

sub stays
{
	my ($name, $action, @how) = @_;
	$t->fault(side => 'exact', path => 'SalesOrder', skip => $calls, times => 0,
		action => $action);
	my ($failed, $early, $late) = failing(@how);
	$t->clear_faults;
	is($failed, $how[0], "$name: all polls failed as they should");
	is($late->[0], $early->[0], '... no descriptor stays behind');
	cmp_ok($late->[1] - $early->[1], '<', 100_000, '... and no memory');
	is($t->sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid NOT IN (SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'exact_pd_sync%')"),
		0, '... and no lock');
	return;
}

my $cancelled = 'canceling statement';
stays('cancelled under way', { delay_ms => 500 }, 100, 20, $cancelled);
stays('cancelled in half a body', { hang => 'body', seconds => 2 },
	60, 60, $cancelled);
stays('cancelled before the repeat', { drop => JSON::PP::true }, 60, 60, $cancelled);
stays('refused', { status => 302, body => '' }, 60, 0, '');

$t->sql('CALL exact_pd_sync.poll_orders()');
is($t->sql("SELECT state FROM exact_pd_sync.sync_runs ORDER BY id DESC LIMIT 1"),
	'ok', 'a poll without a fault reads all');
$t->done;
