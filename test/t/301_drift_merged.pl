# Records that people merge, archive or copy in Pipedrive, and customers that
# are gone at Exact: survivors are followed, nothing is made twice, and nothing
# is sent where it would be refused.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $t = EpdsTest->new('drift_merged', orders => 0, items => 8, months => 3,
	switches => { burst_limit => 0, exact_minute_limit => 100000 });
my %open = (status => 12, delivery_status => 12, invoice_status => 12);

$t->post(
	'/exact/orders',
	[
		map {
			my $n = $_;
			{
				number => 61000 + $n, %open, order_date => '2026-11-02', salesperson => 'Anna de Wit',
				customer => $n <= 6 ? { name => "Firma $n", code => 8100 + $n } : 8100 + $n - 6,
				lines => [ map { { item => { code => "M-$_", description => "Mand $_", price => 3.1 * $_ + $n }, quantity => $n + $_ } } 1 .. 2 ]
			}
		} 1 .. 12
	]);
ok($t->first_run, 'the first run is through');
agrees($t, '... every order is a deal');
$t->sql(q{SELECT exact_pd_sync.configure('list_lag', '0')});

sub drift
{
	return $t->sql(
		q{SELECT coalesce(string_agg(concat_ws(' ', kind, number, what, nullif(field, ''), action), E'\n' ORDER BY kind, number, what, field), '') FROM exact_pd_sync.drift});
}

sub reconcile
{
	my ($name) = @_;
	my @calls = $t->pipedrive_calls(sub {
		my ($rc, undef, $err) = $t->try('CALL exact_pd_sync.reconcile()');
		is($rc, 0, "$name: reconcile() goes through") or diag($err);
		ok($t->settle, "$name: ... and what follows is sent");
	});
	return @calls;
}

sub quiet
{
	my ($name, $left) = @_;
	my @calls = reconcile("$name, a second run");
	is(join(' ', map { "$_->{method} $_->{operation}" } @calls),
		'GET list organizations GET list products GET list deals GET list archived deals', "$name: a second run makes its four lists, nothing else");
	is(drift(), $left // '', "$name: ... and finds " . ($left ? 'no more than that' : 'nothing'));
	return;
}

sub organizations
{
	my ($name) = @_;
	return grep { $_->{name} eq $name } @{ $t->state('organizations')->{organizations} };
}

sub organization
{
	my @found = organizations(@_);
	return $found[0];
}

sub dead
{
	return $t->sql(q{SELECT coalesce(string_agg(object || ': ' || reason, E'\n' ORDER BY object), '') FROM exact_pd_sync.dead_letters});
}

# -----------------------------
note 'merged into theirs';
# -----------------------------

# A record that a colleague made by hand, with fields of its own; ours is merged into it.
my ($hand) = @{ $t->post('/pipedrive/seed', { organizations => [ { name => 'Firma Een (hand)' } ] })->{organizations} };
my $ours = organization('Firma 1');
$t->post("/pipedrive/organizations/$ours->{id}/merge", { merge_with_id => $hand->{id} });
reconcile('merged into theirs');
like(drift(), qr/^organization 8101 merged followed$/m, 'our organization, merged into theirs: the survivor is found');
my $now = organization('Firma 1');
is($now->{id}, $hand->{id}, '... and is ours from now on, with the name of Exact');
agrees($t, '... its deals belong to it');
is(dead(), '', '... nobody has to do anything');
$t->post('/exact/orders', { number => 61013, %open, customer => '8101', salesperson => 'Anna de Wit', lines => [ { item => 'M-1', quantity => 1 } ] });
$t->poll('orders');
ok($t->settle, '... new orders');
is($t->deal(61013)->{org_id}, $hand->{id}, '... go there');
quiet('merged into theirs');

# ------------------------------
note 'merged, both ours';
# ------------------------------

my ($two, $three) = map { organization("Firma $_") } 2, 3;
$t->post("/pipedrive/organizations/$three->{id}/merge", { merge_with_id => $two->{id} });
reconcile('both ours');
is(drift(), 'organization 8103 merged followed', 'two organizations of ours, merged: the survivor is followed');
is(organization('Firma 2')->{id}, $two->{id}, '... it stays the first one');
is($t->sql(q{SELECT string_agg(l.pipedrive_id || ' ' || l.follower, ', ' ORDER BY a.code) FROM exact_pd_sync.links l
	JOIN exact_pd_sync.exact_accounts a ON a.id = l.exact_id WHERE l.kind = 'organization' AND a.code ~ '810[23]'}),
	"$two->{id} false, $two->{id} true", '... both accounts are it');
my ($account) = grep { $_->{Name} eq 'Firma 3' } @{ $t->get('/exact/state?entity=Accounts')->{Accounts} };
$t->patch("/exact/entities/Accounts/$account->{ID}", { Name => 'Firma Drie' });
$t->post('/exact/orders', { number => 61014, %open, customer => '8103', salesperson => 'Anna de Wit', lines => [ { item => 'M-1', quantity => 2 } ] });
my @writes = $t->writes($t->pipedrive_calls(sub { $t->poll; $t->settle }));
is(scalar(grep { /organizations/ } @writes), 0, '... the fields of the other account are not sent: two masters would never agree');
is($t->deal(61014)->{org_id}, $two->{id}, '... its new orders go to the survivor');
$t->sql(q{SELECT exact_pd_sync.resync('organization'), exact_pd_sync.resync('organization', (SELECT exact_id FROM exact_pd_sync.links WHERE follower))});
@writes = $t->writes($t->pipedrive_calls(sub { ok($t->settle, '... resync() of both') }));
is(scalar(@writes), 0, '... sends nothing');
quiet('both ours', 'organization 8103 merged followed');
is(dead(), '', '... nobody has to do anything');

# ---------------------
note 'deals merged';
# ---------------------

# Orders 61004 and 61010 are of one customer: the first one goes into the second.
my ($d4, $d10) = map { $t->deal($_) } 61004, 61010;
$t->post("/pipedrive/deals/$d4->{id}/merge", { merge_with_id => $d10->{id} });
is(scalar(@{ $t->deal(61010)->{products} }), 4, 'a deal with the lines of two orders');
reconcile('deals merged');
is(drift(), "deal 61004 merged followed\ndeal 61010 lines lines restored\norganization 8103 merged followed", 'deals merged: the survivor is found by what it has more');
agrees($t, '... it has the lines of its own order', except => [ 61004, map { $_->{OrderNumber} } grep { ($_->{OrderedByName} // '') =~ /^Firma (3|Drie)$/ } $t->orders ]);
is($t->deal(61004), undef, '... and the other order is not made again');
$t->patch('/exact/orders/61004', { your_ref => 'niemand' });
@writes = $t->writes($t->pipedrive_calls(sub { $t->poll('orders'); $t->settle }));
is(scalar(@writes), 0, '... nothing is sent for it');
like($t->sql('SELECT summary FROM exact_pd_sync.reconcile_results ORDER BY run_id DESC LIMIT 1'), qr/^not equal: .*61004/, '... the sums say that it has no deal of its own');
is(dead(), '', '... nobody has to do anything');
quiet('deals merged', "deal 61004 merged followed\norganization 8103 merged followed");

# A deal of ours merged into one that a person made: that one carries our Exact-ID now.
my ($made) = @{ $t->post('/pipedrive/seed', { deals => [ { title => 'Met de hand', org_id => organization('Firma 2')->{id}, value => 5 } ] })->{deals} };
$t->post('/pipedrive/deals/' . $t->deal(61008)->{id} . '/merge', { merge_with_id => $made->{id} });
reconcile('merged into a deal of theirs');
is($t->deal(61008)->{id}, $made->{id}, 'our deal, merged into theirs: the survivor is ours from now on');
is($t->deal(61008)->{title}, 'Order 61008 Firma 2', '... as Exact has it');
is(dead(), '', '... and nobody has to do anything');

# Two deals that a person merged, found by a change before the lists tell it.
my ($d5, $d11) = map { $t->deal($_) } 61005, 61011;
$t->post("/pipedrive/deals/$d5->{id}/merge", { merge_with_id => $d11->{id} });
$t->patch('/exact/orders/61005', { your_ref => 'eerst gewijzigd' });
$t->poll('orders');
ok($t->settle, 'merged, and changed at Exact before the lists tell it:');
like(dead(), qr/^Order 61005.*deleted or merged/, '... it waits for a person');
reconcile('merged and changed');
is(dead(), '', '... until the survivor is found');
quiet('merged and changed', "deal 61004 merged followed\ndeal 61005 merged followed\norganization 8103 merged followed");

# ------------------
note 'archived';
# ------------------

my $d6 = $t->deal(61006);
$t->patch("/pipedrive/deals/$d6->{id}", { is_archived => $true });
reconcile('archived');
like(drift(), qr/^deal 61006 archived reported$/m, 'archived: it is found, and not taken for deleted');
$t->patch('/exact/orders/61006', { delivery_status => 21 });
$t->patch('/exact/orders/61006/lines/1', { quantity => 77 });
@writes = $t->pipedrive_calls(sub { $t->poll('orders'); $t->settle });
is(scalar(@writes), 0, '... changes at Exact spend no call on it');
is(dead(), '', '... and are no dead letter');
like($t->sql(q{SELECT state FROM exact_pd_sync.status WHERE part = 'reconcile'}), qr/yellow/, '... the sums differ meanwhile');
$t->patch("/pipedrive/deals/$d6->{id}", { is_archived => $false });
reconcile('out of the archive');
is($t->deal(61006)->{stage}, 'Verzonden', 'out of the archive: what changed meanwhile is sent');
agrees($t, '... all of it', except => [ 61004, 61005, map { $_->{OrderNumber} } grep { ($_->{OrderedByName} // '') =~ /^Firma (3|Drie)$/ } $t->orders ]);
quiet('out of the archive', "deal 61004 merged followed\ndeal 61005 merged followed\norganization 8103 merged followed");

# A deal that was refused because it is archived: the dead letter leaves when it is out of the archive.
$t->patch("/pipedrive/deals/$d6->{id}", { is_archived => $true });
$t->patch('/exact/orders/61006', { your_ref => 'in het archief' });
$t->poll('orders');
ok($t->settle, 'archived, and changed before the lists tell it');
reconcile('archived and changed');
like(dead(), qr/^Order 61006.*archived/, '... is a dead letter, spent once');
$t->patch("/pipedrive/deals/$d6->{id}", { is_archived => $false });
reconcile('archived and changed');
is($t->deal(61006)->{fields}{'Uw referentie'}, 'in het archief', '... and is sent when it is out of the archive');
is(dead(), '', '... and nobody has to do anything');

# -------------------
note 'duplicates';
# -------------------

my $copy = organization('Firma 4');
$t->post('/pipedrive/seed', { organizations => [ { name => 'Firma 4 (kopie)', fields => { 'Exact-ID' => $copy->{fields}{'Exact-ID'} } } ] });
my ($double) = organizations('Firma 4 (kopie)');
reconcile('duplicates');
like(drift(), qr/^organization 8104 duplicate reported$/m, 'a copy with our Exact-ID: it is found');
is($t->sql(q{SELECT pipedrive_id FROM exact_pd_sync.drift WHERE what = 'duplicate'}), $double->{id}, '... and named');
is(organization('Firma 4')->{id}, $copy->{id}, '... ours stays ours');
$t->delete("/pipedrive/organizations/$double->{id}");
reconcile('duplicates');
unlike(drift(), qr/duplicate/, '... and the finding leaves with it');

# ------------------------
note 'gone at Exact';
# ------------------------

($account) = grep { $_->{Name} eq 'Firma 6' } @{ $t->get('/exact/state?entity=Accounts')->{Accounts} };
$t->patch("/exact/orders/$_", { customer => '8104' }) foreach 61006, 61012;
$t->delete("/exact/entities/Accounts/$account->{ID}");
$t->poll;
ok($t->settle, 'a customer merged into another one at Exact');
reconcile('gone at Exact');
like(drift(), qr/^organization 8106 gone at Exact reported$/m, '... is reported');
ok(organization('Firma 6'), '... and its organization kept');
is($t->deal(61012)->{organization}, 'Firma 4', '... the orders went over');

# -----------------------------------
note 'a deleted organization';
# -----------------------------------

$t->delete('/pipedrive/organizations/' . organization('Firma 5')->{id});
reconcile('a deleted organization');
like(drift(), qr/^organization 8105 deleted reported$/m, 'deleted organization: it is found');
unlike(drift(), qr/org_id/, '... and its deals are not sent to what is not there');
$t->sql(q{SELECT exact_pd_sync.replay(kind => 'organization')});
ok($t->settle, '... replay() makes it anew');
is($t->deal(61011)->{organization}, 'Firma 5', '... with its deals');

$t->no_violations;
done_testing();
