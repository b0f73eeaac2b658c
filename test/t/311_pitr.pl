# A base backup and the archived WAL, recovered to a moment of the past.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use EpdsAgree;
use EpdsCopy;
use PostgreSQL::Test::Cluster;
use Test::More;

my $t = original('recovered_from');
$t->node->backup('base');
before($t);

my $target = $t->sql('SELECT clock_timestamp()');
# WAL of later than the target is needed for the recovery to end there
forgotten($t);
# the original also renewed its tokens: what the copy will hold is spent
my $generation = $t->sql('SELECT generation FROM exact_pd_sync.exact_consent');
$t->token_age(601);
$t->sql(q{SELECT exact_pd_sync.wake_worker('intake')});
ok($t->wait_for("SELECT generation > $generation FROM exact_pd_sync.exact_consent"), 'the original renews its tokens');
$t->sql('SELECT pg_switch_wal()');
$t->wait_for(q{SELECT last_archived_wal IS NOT NULL AND last_archived_wal >= pg_walfile_name(pg_current_wal_lsn() - 1) OR (SELECT failed_count > 0 FROM pg_stat_archiver) FROM pg_stat_archiver}, 't', 20);
$t->node->stop('immediate');
afterwards($t);

my $node = PostgreSQL::Test::Cluster->new('recovered');
$node->init_from_backup($t->node, 'base', has_restoring => 1, standby => 0);
$node->append_conf('postgresql.conf', "recovery_target_time = '$target'\nrecovery_target_action = 'promote'");
$node->start;
my $copy = on_node($t, $node);
ok($copy->wait_for('SELECT NOT pg_is_in_recovery()'), 'recovered to the target');
stays_silent($copy, qr/timeline 2 instead of 1/, 'recovered');

# ----------
note 'confirmed';
# ----------
my $since = last_call($copy);
# what it holds was given an hour ago
$copy->sql(q{UPDATE exact_pd_sync.exact_consent SET issued_at = issued_at - interval '1 hour', access_expires_at = access_expires_at - interval '1 hour'});
$copy->sql('SELECT exact_pd_sync.confirm_instance()');
ok($copy->wait_for(q{SELECT state = 'auth_required' FROM exact_pd_sync.exact_consent}), 'tokens of the past are refused by Exact');
my (undef, undef, $said) = $copy->try('CALL exact_pd_sync.poll_orders()');
like($said, qr/ERROR:  .*HINT:.*exact_authorize_url/s, '... a poll says what to do');
like($copy->sql(q{SELECT state || ' ' || detail FROM exact_pd_sync.status WHERE part = 'exact consent'}), qr/^red a person must consent again/, '... as does status');
is_deeply([ map { $_->{text} // $_->{what} // $_->{message} } @{ $copy->get('/violations') } ], ['a spent refresh token was used again'], 'they were tried once');
$copy->delete('/violations');
$copy->consent;
only_reads($copy, 'recovered', $since);
$copy->poll;
ok($copy->settle, '... and goes on where Exact was then');
verified($copy, 'recovered', from => $since);
$copy->no_violations('nothing forbidden');
$copy->done;
