# Copies beside a living original: silent for ever, and the original does not notice.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use EpdsAgree;
use EpdsCopy;
use PostgreSQL::Test::Cluster;
use Test::More;

my $t = original('original', databases => 'sync, cloned, renamed');
before($t);

# Whatever the copy did: the original's consent is good, and it goes on.
sub undisturbed
{
	my ($what) = @_;
	$t->token_age(601);
	$t->sql(q{SELECT exact_pd_sync.wake_worker('intake')});
	ok($t->wait_for(q{SELECT state = 'ok' AND issued_at > clock_timestamp() - interval '5 min' FROM exact_pd_sync.exact_consent}), "$what: the original's consent still works");
	$t->patch('/exact/orders/50002', { delivery_status => $t->order(50002)->{DeliveryStatus} == 21 ? 12 : 21 });
	$t->poll;
	ok($t->settle, "$what: the original goes on");
	agrees($t, "$what: every order is a deal");
	return;
}

# ----------
note 'a base backup';
# ----------
$t->node->backup('base');
my $node = PostgreSQL::Test::Cluster->new('beside');
$node->init_from_backup($t->node, 'base');
$node->append_conf('postgresql.conf', 'exact_pd_sync.resume_after_promotion = on');
$t->sql('SELECT exact_pd_sync.stop_worker()');
$node->start;
my $copy = on_node($t, $node);
stays_silent($copy, qr/its files were copied/, 'a base backup started beside its original, even with the waiver');
$t->sql('SELECT exact_pd_sync.start_worker()');
undisturbed('base backup');
$node->stop('fast');

# ----------
note 'CREATE DATABASE TEMPLATE';
# ----------
$t->sql('CREATE DATABASE cloned TEMPLATE sync', db => 'postgres');
$t->sql('SELECT exact_pd_sync.stop_worker()');
stays_silent(bless({ %$t, db => 'cloned' }, ref $t), qr/it is a copy of database "sync"/, 'a clone for testing');
$t->sql('SELECT exact_pd_sync.start_worker()');
undisturbed('clone');

# ----------
note 'RENAME';
# ----------
$t->sql('DROP DATABASE cloned', db => 'postgres');
$t->sql('ALTER DATABASE sync RENAME TO renamed', db => 'postgres');
my $renamed = bless({ %$t, db => 'renamed' }, ref $t);
ok($renamed->wait_for(q{SELECT exact_pd_sync.worker_pid('intake') > 0 AND exact_pd_sync.worker_pid('delivery') > 0}), 'under its new name it has workers');
stays_silent($renamed, qr/it was renamed from "sync"/, 'renamed');
my $since = last_call($t);
$renamed->sql('SELECT exact_pd_sync.confirm_instance()');
only_reads($renamed, 'renamed', $since);
$renamed->poll;
ok($renamed->settle, 'confirmed, it goes on');
my @writes = $renamed->writes($renamed->calls('pipedrive', $since));
is_deeply(\@writes, [], '... and finds nothing to send');
$t->{db} = 'renamed';
undisturbed('renamed');
$t->no_violations('nothing forbidden');
$t->done;
