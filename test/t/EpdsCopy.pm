# EpdsCopy.pm: copies of a database that syncs, and what must be true of them.
#
# Belongs here: what the tests of restore, recovery, promotion and cloning share:
# a history that the copy does not know, and the checks of its silence and of its
# end.  Does not belong here: how a copy comes to be.

=pod

=head1 NAME

EpdsCopy - a second server with the database of the first

=head1 SYNOPSIS

  my $t = original('name', conf => '...');        # archives WAL, can be backed up
  my $copy = on_node($t, $node);                  # the same database on another server
  before($t); forgotten($t); afterwards($t);      # the history, see below
  stays_silent($copy, qr/it came out of a dump/, 'a restored dump');
  verified($copy, 'after the restore', from => $seq);

=head1 THE HISTORY

  before()      what the copy knows: every deal is there
  forgotten()   what the original still sent, and the copy has no idea of
  afterwards()  what happens while nobody runs, and what a person does at Pipedrive

=cut

package EpdsCopy;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use EpdsAgree;
use EpdsTest;
use Test::More;

our @EXPORT = qw(original on_node before forgotten afterwards stays_silent verified only_reads last_call);

sub original
{
	my ($name, %option) = @_;
	my $t = EpdsTest->new($name, orders => 8, start => 0, %option);
	$t->node->set_replication_conf;
	$t->node->enable_archiving;
	# some changes only matter when the copy's checkpoint is older than they are
	$t->node->append_conf('postgresql.conf', "wal_level = replica\nmax_wal_senders = 5\nhot_standby = on\n");
	$t->start;
	return $t;
}

sub on_node
{
	my ($t, $node) = @_;
	return bless { %$t, node => $node, name => $node->name }, ref $t;
}

sub order
{
	my ($number, %more) = @_;
	return {
		number => $number, customer => '4711', status => 12, delivery_status => 12, invoice_status => 12,
		lines => [ map { { item => "CP-$_", quantity => $_, price => 10 * $_ } } 1 .. 2 ], %more
	};
}

sub before
{
	my ($t) = @_;
	my @lines = map { { item => { code => "CP-$_", description => "Vaas $_", price => 10 * $_ }, quantity => $_, price => 10 * $_ } } 1 .. 2;
	$t->post('/exact/orders', [ order(50001, customer => { name => 'Tuincentrum De Wilg B.V.', code => '4711' }, lines => \@lines), map { order($_) } 50002 .. 50012 ]);
	ok($t->first_run, 'every deal is made');
	agrees($t, '... as it should be');
	return;
}

sub forgotten
{
	my ($t) = @_;
	$t->patch('/exact/orders/50001/lines/1', { quantity => 7 });
	$t->patch('/exact/orders/50002', { delivery_status => 21 });
	$t->patch('/exact/orders/50003', { delivery_status => 21 });
	$t->post('/exact/orders/50004/lines', { item => 'CP-1', quantity => 3, price => 9.99 });
	$t->delete('/exact/orders/50005/lines/2');
	# as much and as many as before, and yet other ones
	$t->patch('/exact/orders/50006/lines/1', { quantity => 3 });
	$t->patch('/exact/orders/50006/lines/2', { quantity => 1 });
	$t->patch('/exact/orders/50007', { status => 45 });
	# a rounding discount that the copy does not know
	$t->post('/exact/orders', order(50020, discount => 0.05, lines => [ { item => 'CP-1', quantity => 7, price => 12.37 }, { item => 'CP-2', quantity => 3, price => 0.99 } ]));
	$t->post('/exact/orders', order(50021, customer => { name => 'Nieuwe Klant', code => '4720' }, lines => [ { item => { code => 'CP-9', description => 'Nieuw', price => 5 }, quantity => 4 } ]));
	$t->post('/exact/orders', order(50022));
	$t->poll;
	ok($t->settle, 'the original goes on');
	agrees($t, '... and every order is a deal');
	return;
}

sub afterwards
{
	my ($t) = @_;
	# back to what the copy thinks was sent last
	$t->patch('/exact/orders/50003', { delivery_status => 12 });
	$t->patch('/exact/orders/50001/lines/1', { quantity => 1 });
	$t->delete('/exact/orders/50004/lines/3');
	$t->post('/exact/orders', order(50023));
	$t->patch('/exact/orders/50022', { delivery_status => 20 });
	# a person deletes a deal, and renames a customer
	$t->delete('/pipedrive/deals/' . $t->deal(50009)->{id});
	my ($customer) = grep { ($_->{fields}{'Debiteurnummer'} // '') =~ /4711$/ } @{ $t->state('organizations')->{organizations} };
	$t->patch("/pipedrive/organizations/$customer->{id}", { name => 'De Wilg (Jan)' }) if $customer;
	ok($customer, 'a person renames a customer');
	return;
}

sub last_call
{
	my ($t) = @_;
	my $last = 0;
	foreach my $side (qw(exact pipedrive))
	{
		my @calls = $t->calls($side);
		$last = $calls[-1]{seq} if @calls && $calls[-1]{seq} > $last;
	}
	return $last;
}

# Its workers are woken, its token is due, everything is to be sent; nothing may leave.
sub stays_silent
{
	my ($copy, $why, $name) = @_;
	my $since = last_call($copy);
	my $began = $copy->sql(<<'END');
UPDATE exact_pd_sync.exact_consent SET issued_at = issued_at - interval '601 s', access_expires_at = access_expires_at - interval '601 s';
INSERT INTO exact_pd_sync.job_signals (kind, reason) VALUES ('all_deals', 'test');
SELECT FROM exact_pd_sync.wake_worker('delivery') AS d, exact_pd_sync.wake_worker('intake') AS i;
SELECT clock_timestamp()
END
	$began =~ s/\A\s+|\s+\z//g;
	# both wake as often; the intake worker shows when it has done so again and again
	ok( $copy->wait_for(
			qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = '$copy->{db}' AND backend_type = 'exact_pd_sync intake'
			AND state_change > timestamptz '$began' + interval '1.5 s'}),
		"$name: its workers have looked");
	foreach my $command ('CALL exact_pd_sync.poll_all()', 'CALL exact_pd_sync.setup_pipedrive()', 'CALL exact_pd_sync.subscribe_webhooks()', 'CALL exact_pd_sync.unsubscribe_webhooks()', 'SELECT exact_pd_sync.resume()')
	{
		like(($copy->try($command))[2], qr/ERROR:  55000: this database is a copy, restored or promoted.*HINT:.*confirm_instance/s, "$name: $command is refused");
	}
	like($copy->sql(q{SELECT state || ' ' || detail FROM exact_pd_sync.status WHERE part = 'sending'}),
		qr/^red this database is a copy.*$why.*confirm_instance/, "$name: status says so");
	like($copy->sql(q{SELECT state || ' ' || detail FROM exact_pd_sync.verify() WHERE check_name = 'instance'}), qr/^error this database is a copy.*$why/, "$name: verify(), too");
	my @calls = map { "$_->{method} $_->{path}" } $copy->calls('exact', $since), $copy->calls('pipedrive', $since);
	is_deeply(\@calls, [], "$name: not one call to either side");
	$copy->sql(q{UPDATE exact_pd_sync.exact_consent SET issued_at = issued_at + interval '601 s', access_expires_at = access_expires_at + interval '601 s'});
	return;
}

# Once it was confirmed: before Exact was read again it looks, and sends nothing.
sub only_reads
{
	my ($copy, $name, $since) = @_;
	ok($copy->wait_for(q{SELECT count(*) >= 5 AND bool_and(done_at IS NOT NULL) FROM exact_pd_sync.looks WHERE reason = 'verify'}), "$name: links are verified by lists");
	like($copy->sql(q{SELECT state || ' ' || detail FROM exact_pd_sync.status WHERE part = 'sending'}),
		qr/^yellow restored: .*from Exact still customers, orders, products: CALL exact_pd_sync\.poll_all/, "$name: status tells what it waits for");
	is_deeply([ $copy->writes($copy->calls('pipedrive', $since)) ], [], "$name: nothing is sent before Exact was read again");
	return;
}

# After it was confirmed: everything is as it should be, and was not paid for twice.
sub verified
{
	my ($copy, $name, %option) = @_;
	my @lists = grep { $_->{path} !~ m,/api/v2/deals/products|/discounts, } grep { $_->{method} eq 'GET' } $copy->calls('pipedrive', $option{from});
	my $tokens = 0;
	$tokens += $_->{cost} foreach @lists;
	# organizations, products, options, deals, archived ones; those that no list showed by id
	cmp_ok($tokens, '<=', 10 + 10 + 1 + 10 + 20 + 10, "$name: the lists cost what five pages cost, whatever was forgotten");
	my @read = grep { $_->{path} =~ m,/api/v2/deals/products, } $copy->calls('pipedrive', $option{from});
	cmp_ok(scalar @read, '<=', 6, "$name: lines are read back for many deals at a time");
	my $before = $copy->tokens;
	$copy->poll;
	$copy->settle(45);
	is($copy->tokens, $before, "$name: nothing more is sent when nothing changes");
	agrees($copy, "$name: every order is one deal, as it should be", except => [50009]);
	is(scalar(grep { ($_->{fields}{Ordernummer} // '') eq '50009' } $copy->deals), 0, "$name: what a person deleted was not made again");
	is($copy->sql(q{SELECT string_agg(object, ', ') FROM exact_pd_sync.dead_letters}) =~ /50009/ ? 1 : 0, 1, "$name: ... and a dead letter tells");
	my ($customer) = grep { ($_->{fields}{'Debiteurnummer'} // '') =~ /4711$/ } @{ $copy->state('organizations')->{organizations} };
	is($customer->{name}, 'Tuincentrum De Wilg B.V.', "$name: Exact's name of a customer is back");
	foreach my $kind (qw(organizations products))
	{
		my %seen;
		$seen{ $_->{fields}{'Exact-ID'} // '' }++ foreach @{ $copy->state($kind)->{$kind} };
		is(join(', ', grep { $_ ne '' && $seen{$_} > 1 } sort keys %seen), '', "$name: no $kind twice");
	}
	return;
}

1;
