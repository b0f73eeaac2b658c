# A session that is terminated while it waits for Exact leaves no call behind:
# whoever gets its turn next is alone on the line, though the kernel closes the
# sockets of a process only at its very end.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $t = EpdsTest->new('hang_up', orders => 3, items => 4, customers => 3);
$t->connect_app;
$t->consent;
$t->add_division;
$t->poll;
$t->load_module('epds_test_http');

$t->fault(side => 'exact', path => 'CRM/Accounts', action => { execute => \1, hang => 'headers', seconds => 60 });
my $first = $t->session;
my $pid = $first->query_safe('SELECT pg_backend_pid()');
$first->query_safe('SELECT test_leave_slowly(2000)');
$first->query_until(qr/begun/, "\\echo begun\nCALL exact_pd_sync.poll_customers();\n");
my $until = time + 30;
until ((grep { /CRM/ } @{ $t->get('/storm')->{in_flight}{exact} }) || time > $until)
{
	usleep(5_000);
}
my $second = $t->background('CALL exact_pd_sync.poll_products()');
$second->(pid => 1);
$t->sql("SELECT pg_terminate_backend($pid)");
my (undef, $error) = $second->();
is($error, '', 'the next session gets its turn');
$t->no_violations('... and meets no call that is still open');

eval { $first->quit };
$t->done;
