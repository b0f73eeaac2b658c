# What people change by hand at Pipedrive or take away at Exact: verify() and
# status say it, setup_pipedrive() mends it, and nothing is lost meanwhile.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsAgree;
use EpdsTest;
use JSON::PP ();
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $t = EpdsTest->new('fields_changed', orders => 5, items => 15, months => 3,
	switches => { burst_limit => 0, exact_minute_limit => 100000 });
my %open = (status => 12, delivery_status => 12, invoice_status => 12);
my ($rc, $out, $err);

$t->post(
	'/exact/orders',
	[
		map {
			{
				number => 51000 + $_, %open, customer => $_ == 1 ? { name => 'Bloem', code => '5100' } : '5100',
				salesperson => 'Anna de Wit', lines => [ { item => { code => "F-$_", description => "Vaas $_", price => 5 }, quantity => $_ } ]
			}
		} 1 .. 4
	]);
ok($t->first_run, 'the first run is through');
agrees($t, '... every order is a deal');

# "state: detail -> hint" of one check.
sub check
{
	my ($name) = @_;
	return $t->sql(
		"SELECT state || ': ' || detail || coalesce(' -> ' || hint, '') FROM exact_pd_sync.verify() WHERE check_name = '$name'");
}

sub status_of
{
	my ($part) = @_;
	return $t->sql("SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = '$part'");
}

sub dead
{
	return $t->sql(
		q{SELECT coalesce(string_agg(object || ': ' || reason, E'\n' ORDER BY object), '') FROM exact_pd_sync.dead_letters});
}

sub is_dead
{
	my ($number, $reason, $name) = @_;
	$t->wait_for("SELECT EXISTS (SELECT FROM exact_pd_sync.dead_letters WHERE object LIKE '%$number%')");
	like(dead(), qr/^[^\n]*\Q$number\E[^\n]*: $reason/m, $name);
	return;
}

# A person runs setup_pipedrive() and replay().
sub mended
{
	my ($name, $notice) = @_;
	($rc, $out, $err) = $t->try('CALL exact_pd_sync.setup_pipedrive()');
	is($rc, 0, "$name: setup_pipedrive() goes through") or diag($err);
	like($err, $notice, "$name: ... and says what it did") if $notice;
	$t->sql('SELECT exact_pd_sync.replay()');
	ok($t->settle, "$name: then everything is sent");
	is(dead(), '', "$name: nothing is left over");
	agrees($t, "$name: every order is a deal");
	return;
}

sub fields
{
	my ($kind, $name) = @_;
	return grep { $_->{field_name} eq $name } @{ $t->state("${kind}_fields")->{"${kind}_fields"} };
}

my $setup = 'CALL exact_pd_sync.setup_pipedrive();';

# ---------------------
note 'custom fields';
# ---------------------

is(check('pipedrive deal_fields'), 'ok: all fields are there, with their types', 'verify() finds all fields');

$t->delete('/pipedrive/deal_fields/Leverstatus');
is(check('pipedrive deal_fields'), "error: Leverstatus (missing) -> $setup", 'a field that was deleted by hand: verify() says it');
$t->patch('/exact/orders/51001', { delivery_status => 20 });
$t->patch('/exact/orders/51002', { your_ref => 'gaat door' });
$t->poll('orders');
is_dead('Order 51001', 'Pipedrive refuses a custom field: it was deleted or retyped by hand; CALL exact_pd_sync.setup_pipedrive\(\) and replay',
	'... a change of it is a dead letter that says what to do');
ok($t->settle, '... the rest goes on');
is($t->deal(51002)->{fields}{'Uw referentie'}, 'gaat door', '... also other fields of deals');
is(status_of('dead letters'), 'yellow: 1: SELECT * FROM exact_pd_sync.dead_letters', '... and status shows it');
mended('deleted field', qr/NOTICE: .*field "Leverstatus" of deal was made/);
is(check('pipedrive deal_fields'), 'ok: all fields are there, with their types', '... and verify() is content again');

# Pipedrive cannot change a type: people delete a field and make another one.
my ($field) = fields('deal', 'Orderdatum');
$t->delete('/pipedrive/deal_fields/Orderdatum');
$t->post('/pipedrive/seed', { deal_fields => [ { name => 'Orderdatum', type => 'varchar' } ] });
like(check('pipedrive deal_fields'), qr/^error: Orderdatum \(missing\)/, 'a field that was made anew with another type: verify() says it');
$t->post('/exact/orders', { number => 51005, %open, customer => '5100', lines => 1 });
$t->poll;
is_dead('Order 51005', 'Pipedrive refuses a custom field', '... a new deal is a dead letter');
mended('retyped field', qr/NOTICE: .*field "Orderdatum" of deal was made/);
is(join(' ', sort map { $_->{field_type} } fields('deal', 'Orderdatum')), 'date varchar', "... their field is theirs, ours is one of the right type");
$t->delete('/pipedrive/deal_fields/' . (grep { $_->{field_type} eq 'varchar' } fields('deal', 'Orderdatum'))[0]{field_code});

# A new name is no matter.
$t->patch('/pipedrive/deal_fields/Uw%20referentie', { name => 'Klantreferentie' });
is(check('pipedrive deal_fields'), 'ok: all fields are there, with their types', 'a field that was renamed: verify() knows it by its key');
$t->patch('/exact/orders/51003', { your_ref => 'nieuwe naam' });
$t->poll('orders');
ok($t->settle, '... changes go on');
is($t->deal(51003)->{fields}{Klantreferentie}, 'nieuwe naam', '... into the renamed field');
my @calls = $t->pipedrive_calls(sub { mended('renamed field') });
is(scalar(grep { $_->{method} ne 'GET' } @calls), 0, '... and nothing is made or sent for it');

# Fields of the other kinds.
$t->delete('/pipedrive/organization_fields/Debiteurnummer');
$t->delete('/pipedrive/product_fields/Artikelgroep');
like(check('pipedrive organization_fields'), qr/^error: Debiteurnummer \(missing\)/, 'fields of organizations are looked at, too');
like(check('pipedrive product_fields'), qr/^error: Artikelgroep \(missing\)/, '... and of products');
$t->post('/exact/orders', { number => 51006, %open, customer => { name => 'Nieuw', code => '5106' },
	lines => [ { item => { code => 'F-6', description => 'Vaas 6', price => 5 } } ] });
$t->poll;
is_dead('Nieuw', 'Pipedrive refuses a custom field', '... a new organization is a dead letter');
is_dead('Vaas 6', 'Pipedrive refuses a custom field', '... and so is a new product');
is($t->sql(q{SELECT string_agg(holds_back::text, ' ') FROM exact_pd_sync.dead_letters WHERE kind IN ('organization', 'product')}),
	'1 1', '... which hold back their order alone');
mended('fields of other kinds', qr/field "Debiteurnummer" of organization was made.*field "Artikelgroep" of product was made/s);
my ($organization) = grep { $_->{name} eq 'Bloem' } @{ $t->state('organizations')->{organizations} };
is($organization->{fields}{Debiteurnummer}, '5100', '... and what is there gets its values back');
is((grep { !$_->{fields}{Artikelgroep} && $_->{fields}{'Exact-ID'} !~ /^0{8}-/ } @{ $t->state('products')->{products} })[0], undef,
	'... the groups of products, too');

# An option of Artikelgroep.
my ($product) = grep { $_->{name} eq 'Vaas 6' } @{ $t->state('products')->{products} };
my $group = $product->{fields}{Artikelgroep};
$t->patch('/pipedrive/product_fields/Artikelgroep', { remove_options => [$group] });
my ($item) = grep { $_->{Code} eq 'F-6' } @{ $t->get('/exact/state?entity=Items')->{Items} };
$t->post('/exact/entities/Items', { Code => 'F-7', Description => 'Vaas 7', ItemGroup => $item->{ItemGroup} });
$t->poll('products');
is_dead('Vaas 7', 'Pipedrive refuses a custom field', 'an option that was removed by hand: a product of that group is a dead letter');
mended('removed option');
is_deeply([ map { $_->{fields}{Artikelgroep} } grep { $_->{name} =~ /^Vaas [67]$/ } @{ $t->state('products')->{products} } ],
	[ $group, $group ], '... and the products have their group again');

# ---------------------------
note 'stages and pipeline';
# ---------------------------

my %stage = map { $_->{name} => $_->{id} } grep { !$_->{is_deleted} } @{ $t->state('stages')->{stages} };
$t->patch("/pipedrive/stages/$stage{Verzonden}", { name => 'Onderweg' });
is(check('pipedrive stages'), 'ok: all stages are there', 'a stage that was renamed: verify() knows it by its id');
$t->patch('/exact/orders/51002', { delivery_status => 21 });
$t->poll('orders');
ok($t->settle, '... changes go on');
is($t->deal(51002)->{stage}, 'Onderweg', '... into the renamed stage');
$t->setup;
is(scalar(grep { $_->{name} eq 'Verzonden' && !$_->{is_deleted} } @{ $t->state('stages')->{stages} }), 0, '... and no second one is made');
$t->patch("/pipedrive/stages/$stage{Verzonden}", { name => 'Verzonden' });

$t->delete("/pipedrive/stages/$stage{'Wacht op backorder'}");
is(check('pipedrive stages'), "error: missing: Wacht op backorder -> $setup", 'a stage that is gone: verify() says it');
$t->patch('/exact/orders/51003', { delivery_status => 20 });
$t->patch('/exact/orders/51004', { delivery_status => 21 });
$t->poll('orders');
is_dead('Order 51003', 'Pipedrive does not know the stage or pipeline any more; CALL exact_pd_sync.setup_pipedrive\(\) and replay',
	'... a deal that should go there is a dead letter');
ok($t->settle, '... the others move');
is($t->deal(51004)->{stage}, 'Verzonden', '... where they should');
mended('stage gone', qr/NOTICE: .*stage "Wacht op backorder" was made/);

my ($pipeline) = grep { $_->{name} eq 'Bestellingen' } @{ $t->state('pipelines')->{pipelines} };
$t->patch("/pipedrive/pipelines/$pipeline->{id}", { name => 'Verkoop' });
is(check('pipedrive stages'), 'ok: all stages are there', 'a pipeline that was renamed is known by its id');
$t->post('/exact/orders', { number => 51007, %open, customer => '5100', lines => 1 });
$t->poll;
ok($t->settle, '... new deals');
is($t->deal(51007)->{pipeline}, 'Verkoop', '... are made there');
$t->setup;
is(scalar(grep { $_->{name} eq 'Bestellingen' && !$_->{is_deleted} } @{ $t->state('pipelines')->{pipelines} }), 0, '... and no second one is made');
$t->patch("/pipedrive/pipelines/$pipeline->{id}", { name => 'Bestellingen' });

$t->delete("/pipedrive/pipelines/$pipeline->{id}");
like(check('pipedrive stages'), qr/^error: .* -> \Q$setup\E$/, 'a pipeline that is gone: verify() says it');
$t->post('/exact/orders', { number => 51008, %open, customer => '5100', lines => 1 });
$t->patch('/exact/orders/51001', { delivery_status => 21 });
$t->poll;
is_dead('Order 51008', 'Pipedrive does not know the stage or pipeline any more', '... a new deal is a dead letter');
is_dead('Order 51001', 'Pipedrive does not know the stage or pipeline any more', '... and so is one that should move');
mended('pipeline gone', qr/pipeline "Bestellingen" was made.*stage "Nieuwe bestelling" was made/s);

# --------------------------
note 'a user who leaves';
# --------------------------

my ($anna) = grep { $_->{name} eq 'Anna de Wit' } @{ $t->state('users')->{users} };
$t->post("/pipedrive/users/$anna->{id}", { active_flag => $false });
$t->post('/exact/orders', { number => 51009, %open, customer => '5100', salesperson => 'Anna de Wit', lines => 1 });
$t->poll;
is_dead('Order 51009', 'Pipedrive refuses the owner: the user is inactive or gone; map the salesperson to another user and replay',
	'a user made inactive: a new deal of hers is a dead letter');
$t->setup;
$t->sql('SELECT exact_pd_sync.replay()');
ok($t->settle, '... setup_pipedrive() reads the users again, replay() sends it');
is(dead(), '', '... nothing is left over');
my ($me) = grep { $_->{id} == $t->state->{me} } @{ $t->state('users')->{users} };
is($t->deal(51009)->{owner}, $me->{name}, '... to the default owner');
is($t->deal(51001)->{owner}, 'Anna de Wit', '... and deals that exist stay hers');
like(check('salespeople'), qr/^warning: .*not: .*Anna de Wit.*map_salesperson/, '... verify() names her');
is($t->sql(q{SELECT reason FROM exact_pd_sync.unmapped_salespeople WHERE name = 'Anna de Wit'}),
	'the mapped user is inactive', '... and so does unmapped_salespeople');
$t->patch('/exact/orders/51001', { your_ref => 'zonder Anna' });
$t->poll('orders');
ok($t->settle, '... changes of her deals go on');
is($t->deal(51001)->{owner}, 'Anna de Wit', '... without a new owner');
$t->post("/pipedrive/users/$anna->{id}", { active_flag => $true });
mended('the user is back');

# ------------------------
note 'the API token';
# ------------------------

my $old = $t->ready->{api_token};
$t->ready->{api_token} = $t->post('/pipedrive/token')->{api_token};
like(check('pipedrive login'), qr/^error: .*status 401\) -> .*set_pipedrive_account/, 'an API token that is dead: verify() says it');
$t->patch('/exact/orders/51002', { your_ref => 'met het nieuwe token' });
$t->poll('orders');
ok($t->wait_for(q{SELECT state || ': ' || detail FROM exact_pd_sync.status WHERE part = 'sending'},
		'red: Pipedrive does not accept the API token; 1 jobs wait'), '... status is red');
is( $t->sql(q{SELECT string_agg(DISTINCT d.class || ' ' || j.state, ', ') FROM exact_pd_sync.dead_letters d JOIN exact_pd_sync.jobs j ON j.id = d.job}),
	'auth waiting', '... and no record is blamed for it: it waits');
($rc, $out, $err) = $t->try('CALL exact_pd_sync.setup_pipedrive()');
like($err, qr/ERROR:  28000: Pipedrive does not accept this account.*HINT: .*set_pipedrive_account/s, '... setup_pipedrive() is an error that says what to do');
unlike("$err$out", qr/\Q$old\E/, '... without the token');
@calls = $t->calls('pipedrive');
cmp_ok(scalar(grep { ($_->{status} // 0) == 401 } @calls), '<=', 12, '... few calls are made in vain');
$t->connect_pipedrive;
ok($t->settle(30), '... with the right one everything is sent at once');
is($t->deal(51002)->{fields}{Klantreferentie}, 'met het nieuwe token', '... nothing is lost');
like(status_of('sending'), qr/^green: /, '... and status is green');

# --------------------------
note 'a wrong division';
# --------------------------

$t->sql('SELECT exact_pd_sync.add_division(999999)');
like(check('division (999999)'), qr/^error: .*999999.* -> /, 'a division that is not ours: verify() says it');
like(check("division ($t->{ready}{division})"), qr/^ok: /, '... and that the other one is right');
$t->patch('/exact/orders/51003', { your_ref => 'de goede' });
($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_orders()');
isnt($rc, 0, '... a poll fails');
like($err, qr/ERROR: .*999999/s, '... for that division');
unlike($err, qr/of division $t->{ready}{division}/, '... not for the other one');
ok($t->settle, '... whose orders are sent');
is($t->deal(51003)->{fields}{Klantreferentie}, 'de goede', '... as they are');
like(status_of('orders'), qr/^red: /, '... status is red');
$t->sql('DELETE FROM exact_pd_sync.divisions WHERE division = 999999');
is(($t->try('CALL exact_pd_sync.poll_orders()'))[0], 0, '... without it the next poll goes through');

# -------------------------------
note 'consent withdrawn';
# -------------------------------

$t->post('/exact/revoke');
$t->token_age(700);
$t->post('/exact/orders', { number => 51010, %open, customer => '5100', lines => 1 });
($rc, $out, $err) = $t->try('CALL exact_pd_sync.poll_orders()');
like($err, qr/ERROR:  28000: .*HINT: .*exact_authorize_url/s, 'consent withdrawn: a poll says what to do');
like(check('exact login'), qr/^error: .* -> .*exact_authorize_url/, '... verify(), too');
like(status_of('exact consent'), qr/^red: a person must consent again/, '... and status');
$t->sql(q{SELECT exact_pd_sync.resync('deal', (SELECT exact_id FROM exact_pd_sync.wanted_deals WHERE order_number = 51002))});
@calls = $t->pipedrive_calls(sub { ok($t->settle, '... what is here is still sent') });
cmp_ok(scalar(grep { $_->{method} eq 'PATCH' } @calls), '>=', 1, '... to Pipedrive');
$t->consent;
$t->poll;
mended('a new consent');
ok($t->deal(51010), '... what came meanwhile arrives');

$t->no_violations;
$t->done;
