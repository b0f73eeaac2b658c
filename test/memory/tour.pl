# A tour for a server that is thirty times as slow: everything once, with few
# records.  Run by scripts/check-memory, not by "make check".
#
# What is judged is what valgrind says about it; a test here only says how far
# the tour came.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../t";
use EpdsTest;
use Test::More;

my $wait = 600;
my $t = EpdsTest->new('tour', orders => 4, customers => 3, items => 8);
$t->connect;
$t->import_history;
$t->poll;
ok(1, 'connected and imported');

# lost answers, and one that says nothing about whether it was done
$t->fault(side => 'pipedrive', method => 'PATCH', times => 1, action => { drop => JSON::PP::true });
$t->fault(side => 'pipedrive', method => 'POST', path => '/products', times => 1,
	action => { status => 500, body => '{"success":false}' });
$t->fault(side => 'pipedrive', method => 'POST', path => 'bulk', times => 1,
	action => { execute => JSON::PP::true, truncate => JSON::PP::true });
$t->resume;
ok($t->settle($wait), 'delivered, with answers that got lost');

$t->patch("/exact/orders/$_", { delivery_status => 20 }) for $t->numbers;
for my $action ({ truncate => JSON::PP::true }, { status => 302, body => '' }, { gzip_bomb => JSON::PP::true })
{
	$t->clear_faults;
	$t->fault(side => 'exact', path => 'SalesOrder', times => 1, action => $action);
	$t->try('CALL exact_pd_sync.poll_orders()');
}
$t->clear_faults;
$t->fault(side => 'pipedrive', method => 'PATCH', times => 1,
	action => { status => 429, body => '{}', headers => { 'Retry-After' => '1' } });
$t->poll('orders');
ok($t->settle($wait), 'changes delivered, after polls that failed');

my $generation = $t->sql('SELECT generation FROM exact_pd_sync.exact_consent');
$t->token_age(580);
$t->sql(q{SELECT exact_pd_sync.wake_worker('intake')});
ok($t->wait_for("SELECT generation > $generation FROM exact_pd_sync.exact_consent", 't', $wait),
	'a new token pair');
$t->try('SELECT count(*) FROM exact_pd_sync.verify()');
$t->try('SELECT count(*) FROM exact_pd_sync.plan()');
$t->try('CALL exact_pd_sync.reconcile()');
# also what a process has lost is told when it ends
$t->sql('SELECT exact_pd_sync.stop_worker()');
ok($t->wait_for(q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type ~ 'exact_pd_sync (delivery|intake)')}, 't', $wait),
	'the workers have ended');
$t->done;
