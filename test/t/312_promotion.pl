# An asynchronous standby promoted, with the last seconds lost: by a person, and by itself.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use EpdsAgree;
use EpdsCopy;
use PostgreSQL::Test::Cluster;
use Test::More;

# The standby follows until the moment given; then the primary goes on alone.
sub cut
{
	my ($t, $standby) = @_;
	$t->node->wait_for_catchup($standby);
	$standby->append_conf('postgresql.conf', "primary_conninfo = ''");
	$standby->reload;
	$t->wait_for(q{SELECT count(*) = 0 FROM pg_stat_replication WHERE application_name = '} . $standby->name . q{'});
	return;
}

my $t = original('primary');
$t->node->backup('base');
my @standby;
foreach my $name ('by_hand', 'by_itself')
{
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init_from_backup($t->node, 'base', has_streaming => 1);
	$node->start;
	push @standby, $node;
}
$standby[1]->append_conf('postgresql.conf', 'exact_pd_sync.resume_after_promotion = on');
before($t);
my $since = last_call($t);
is($standby[0]->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'exact_pd_sync %' AND datname IS NOT NULL}), '0', 'no worker runs on a standby');
cut($t, $_) foreach @standby;
forgotten($t);
$t->node->stop('immediate');
afterwards($t);

# ----------
note 'a person confirms';
# ----------
$standby[0]->promote;
my $copy = on_node($t, $standby[0]);
stays_silent($copy, qr/timeline 2 instead of 1/, 'promoted');
$standby[0]->stop('fast');

# ----------
note 'the waiver';
# ----------
$since = last_call($t);
$standby[1]->promote;
$copy = on_node($t, $standby[1]);
ok($copy->wait_for(q{SELECT confirmed_by = 'resume_after_promotion' FROM exact_pd_sync.instance}), 'with the waiver it goes on by itself');
only_reads($copy, 'promoted', $since);
$copy->poll;
ok($copy->settle, '... and polls');
verified($copy, 'promoted', from => $since);
$copy->no_violations('nothing forbidden');
$copy->done;
