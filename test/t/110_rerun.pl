# Doing it all again without a change costs nothing at Pipedrive.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use Test::More;

my $t = EpdsTest->new('rerun', orders => 12, items => 30, seed => 12);
ok($t->first_run, 'the first run is through');

sub told
{
	return join "\n", map { "$_->{method} $_->{path} $_->{cost}" } @_;
}

# What Pipedrive was called for while the code ran; nothing may be left to do.
sub nothing_for
{
	my ($name, $code) = @_;
	my $changes = $t->sql('SELECT count(*) FROM exact_pd_sync.sync_changes');
	$t->reset_stats;
	my @calls = $t->pipedrive_calls(
		sub {
			$code->();
			ok($t->settle, "$name: the queue runs empty");
		});
	is(told(@calls), '', "$name: no call to Pipedrive");
	is($t->tokens, 0, "$name: no tokens");
	is($t->sql('SELECT count(*) FROM exact_pd_sync.sync_changes'), $changes, "$name: nothing in the journal");
	return;
}

nothing_for('a poll', sub { $t->poll });
nothing_for('a second poll', sub { $t->poll });
nothing_for('a second full import', sub { $t->import_history; $t->poll });
is($t->sql(q{SELECT changed FROM exact_pd_sync.sync_runs WHERE what = 'import_history' ORDER BY id DESC LIMIT 1}),
	'0', '... in which no row was another one');

# Exact moved the division: all rowversions are others, and lower; the content is the same.
my $changed_at = $t->sql('SELECT max(changed_at) FROM exact_pd_sync.exact_sales_orders');
$t->post('/exact/division_move');
# it is looked for once a day
$t->sql(q{UPDATE exact_pd_sync.feed_positions SET last_success = last_success - interval '1 day' WHERE feed = 'division'});
nothing_for('a division that was moved', sub { $t->poll; $t->poll });
is( $t->sql(q{SELECT max(rows) FROM (SELECT rows FROM exact_pd_sync.sync_runs WHERE what = 'poll_orders' ORDER BY id DESC LIMIT 2) r})
	  >= $t->sql('SELECT count(*) FROM exact_pd_sync.exact_sales_order_lines'),
	1, '... was read anew');
is($t->sql('SELECT max(changed_at) FROM exact_pd_sync.exact_sales_orders'),
	$changed_at, '... and the same content is no change');
$t->patch('/exact/orders/' . ($t->numbers)[0], { your_ref => 'after the move' });
my @after = $t->pipedrive_calls(sub { $t->poll; $t->settle });
is(told(@after) =~ m,^PATCH \S+/deals/\d+ 5$,, 1, '... while a change after it arrives') or diag(told(@after));

# Looking at everything on request compares, and sends nothing.
nothing_for('resync of all deals',
	sub { $t->sql(q{SELECT exact_pd_sync.resync('deal'), exact_pd_sync.resync('product'), exact_pd_sync.resync('organization')}) });
nothing_for('rules signalled without a change',
	sub { $t->sql('UPDATE exact_pd_sync.status_rules SET note = note') });
nothing_for('pause and resume', sub { $t->pause; $t->poll; $t->resume });

# ----------
note 'after a restart of the server';
# ----------
$t->node->restart;
ok($t->wait_for(q{SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = 'sync' AND backend_type LIKE 'exact_pd_sync %'}),
	'the workers are back');
nothing_for('a poll after a restart', sub { $t->poll });
nothing_for('an import after a restart', sub { $t->import_history });

# ----------
note 'after a crash';
# ----------
$t->node->stop('immediate');
$t->node->start;
nothing_for('a poll after a crash', sub { $t->poll });

$t->no_violations;
$t->done;
