# A dump restored into another cluster: silent until a person speaks, then nothing is made twice.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use EpdsAgree;
use EpdsCopy;
use PostgreSQL::Test::Utils;
use Test::More;

my $t = original('dumped');
$t->sql('CREATE ROLE sync_worker LOGIN');
$t->sql(q{SELECT exact_pd_sync.grant_worker('sync_worker')});
$t->sql(q{ALTER SYSTEM SET exact_pd_sync.role = 'sync_worker'});
$t->node->reload;
before($t);

# Nobody listens there, and nobody needs to.
my $hook = 'http://127.0.0.1:1/pipedrive/webhook';
sub passwords { return map { $_->{http_auth_password} } grep { $_->{subscription_url} eq $hook } @{ $t->get('/pipedrive/state?only=webhooks')->{webhooks} }; }
$t->sql("CALL exact_pd_sync.subscribe_webhooks(pipedrive_callback_url => '$hook')");
my @passwords = passwords();
is(scalar @passwords, 4, 'Pipedrive notifies it');

my $file = $t->node->data_dir . '/../sync.dump';
$t->node->command_ok([ 'pg_dump', '-Fc', '-f', $file, 'sync' ], 'pg_dump');
$t->sql(q{SELECT exact_pd_sync.configure('retention_days', '91')});    # not in the dump
forgotten($t);
$t->node->stop('immediate');
afterwards($t);

# ----------
note 'restored';
# ----------
my $copy = EpdsTest->new('restored', sandbox => $t, start => 0);
$copy->node->start;
$copy->sql('CREATE ROLE sync_worker LOGIN', db => 'postgres');
$copy->sql('CREATE DATABASE sync', db => 'postgres');
$copy->node->command_ok([ 'pg_restore', '-d', 'sync', $file ], 'pg_restore');
$copy->sql(q{ALTER SYSTEM SET exact_pd_sync.role = 'sync_worker'});
$copy->node->reload;
is($copy->sql(q{SELECT value FROM exact_pd_sync.setting_list WHERE name = 'retention_days'}), '90', 'it is the database of then');
cmp_ok($copy->sql('SELECT count(*) FROM exact_pd_sync.links'), '>', 20, 'the links came along');
is($copy->sql('SELECT (SELECT count(*) FROM exact_pd_sync.credentials) + (SELECT count(*) FROM exact_pd_sync.instance) + (SELECT count(*) FROM exact_pd_sync.parts)'), '0', 'secrets, identity and pauses did not');
stays_silent($copy, qr/it came out of a dump/, 'without secrets');

# What a dump does not bring is told with the statement that mends it.
like(($copy->try(q{SELECT exact_pd_sync.set_pipedrive_account('x', 'https://company.pipedrive.com')}))[2],
	qr/ERROR:  42501: role "sync_worker" may not keep secrets.*HINT:  SELECT exact_pd_sync\.grant_worker\('sync_worker'\);/s, 'secrets cannot be entered yet, and the statement that mends it is told');
like($copy->sql(q{SELECT state || ' ' || detail || ': ' || hint FROM exact_pd_sync.verify() WHERE check_name = 'role'}),
	qr/^error .*: SELECT exact_pd_sync\.grant_worker\('sync_worker'\);$/, 'verify() tells it, too');
$copy->sql(q{SELECT exact_pd_sync.grant_worker('sync_worker')});
like($copy->sql(q{SELECT state FROM exact_pd_sync.verify() WHERE check_name = 'role'}), qr/^ok/, '... and so it is mended');
$copy->connect_app;
$copy->connect_pipedrive;
stays_silent($copy, qr/it came out of a dump/, 'with secrets');

# ----------
note 'confirmed';
# ----------
my $since = last_call($copy);
$copy->sql('SELECT exact_pd_sync.confirm_instance()');
$copy->consent;
# a pause before the first resume() must not keep it from comparing
$copy->pause;
$copy->resume;
only_reads($copy, 'restored', $since);
$copy->poll;
ok($copy->settle, '... and goes on');
verified($copy, 'restored', from => $since);
like($copy->sql(q{SELECT state || ' ' || detail FROM exact_pd_sync.status WHERE part = 'notifications'}), qr/^yellow asked for, and none is there/, 'which webhooks there are is not known');
$copy->sql('CALL exact_pd_sync.subscribe_webhooks()');
is(scalar(passwords()), 4, '... the daily check leaves one of each');
is(scalar(grep { $_ eq $passwords[0] } passwords()), 0, '... with a password that this database knows');
$copy->no_violations('nothing forbidden');
$copy->done;
