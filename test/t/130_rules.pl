# Rules are rows: plan() shows what a changed one would do, inside the very
# transaction; COMMIT does it, ROLLBACK does nothing.

use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EpdsTest;
use JSON::PP ();
use Test::More;

my $t = EpdsTest->new('rules', orders => 25, items => 20, seed => 14);
ok($t->first_run, 'the first run is through');
my %deal_of = map { $_->{fields}{Ordernummer} => $_ } $t->deals;
my @orders = $t->orders;

my $plan_sql = q{SELECT split_part(object, ' ', 2) || ' ' || operation || ' ' ||
	(SELECT string_agg(coalesce(old_value->>k, '-') || '>' || (new_value->>k), ',' ORDER BY k)
	   FROM jsonb_object_keys(new_value) k WHERE k NOT LIKE '%time') || ' ' || tokens
	FROM exact_pd_sync.plan() ORDER BY object};

# The same as text, from what the orders say: "number update old>new 5".
sub expected
{
	my ($what) = @_;
	return join "\n", sort map { "$_->[0] update $_->[1] 5" } @$what;
}

my %stage_id = map { $_->{name} => $_->{id} } @{ $t->state('stages')->{stages} };

is($t->sql($plan_sql), '', 'nothing is planned when all is sent');

# ----------
note 'a rule in a transaction';
# ----------
my @delivered = grep { ($_->{DeliveryStatus} // 0) == 21 } @orders;
cmp_ok(scalar @delivered, '>', 3, 'some orders are delivered');
my $stage_plan = expected(
	[ map { [ $_->{OrderNumber}, "$stage_id{Verzonden}>$stage_id{'Wacht op backorder'}" ] } @delivered ]);

my @calls = $t->pipedrive_calls(
	sub {
		my $session = $t->session;
		$session->query_safe('BEGIN');
		$session->query_safe(
			q{UPDATE exact_pd_sync.status_rules SET stage = 'Wacht op backorder' WHERE priority = 120});
		is($session->query_safe($plan_sql), $stage_plan,
			'plan() shows exactly the deals concerned, old and new, 5 tokens each');
		is($t->sql($plan_sql), '', '... to this transaction alone');
		$session->query_safe('ROLLBACK');
		is($session->query_safe($plan_sql), '', 'after ROLLBACK nothing is planned');
		$session->quit;
		$t->poll('orders');
		ok($t->settle, '... and the queue stays empty');
	});
is(scalar @calls, 0, '... and nothing has been sent');

@calls = $t->pipedrive_calls(
	sub {
		$t->sql(q{UPDATE exact_pd_sync.status_rules SET stage = 'Wacht op backorder' WHERE priority = 120});
		ok($t->settle, 'after COMMIT it is sent');
	});
is(join("\n", $t->writes(@calls)), join("\n", ('PATCH deals/* {stage_id} 5') x @delivered), '... as planned');
is_deeply(
	[ sort map { $_->{fields}{Ordernummer} } grep { $_->{stage_id} == $stage_id{'Wacht op backorder'} } $t->deals ],
	[ sort map { $_->{OrderNumber} } grep { ($_->{DeliveryStatus} // 0) =~ /^2[01]$/ } @orders ],
	'the deals have moved');
$t->sql(q{UPDATE exact_pd_sync.status_rules SET stage = 'Verzonden' WHERE priority = 120});
ok($t->settle, 'and back');
is(scalar(grep { $_->{stage_id} != $deal_of{ $_->{fields}{Ordernummer} }{stage_id} } $t->deals), 0, '... they are where they were');

# ----------
note 'what else can be changed';
# ----------

# In a transaction that is rolled back: what would happen.
sub would
{
	my ($sql) = @_;
	my $answer = $t->sql("BEGIN; $sql; $plan_sql; ROLLBACK");
	$answer =~ s/^\s+//;
	return $answer;
}

my @invoiced = grep { $_->{Status} != 45 && ($_->{InvoiceStatus} // 0) == 21 } @orders;
my @cancelled = grep { $_->{Status} == 45 } @orders;
ok(@invoiced > 0 && @cancelled > 0, 'some orders are invoiced, some cancelled');
is(would('DELETE FROM exact_pd_sync.status_rules WHERE priority = 20'),
	expected([ map { [ $_->{OrderNumber}, 'won>open' ] } @invoiced ]),
	'without the rule for invoiced orders those would be open');
is( would(q{UPDATE exact_pd_sync.status_rules SET lost_reason = 'Vervallen' WHERE priority = 10}),
	expected([ map { [ $_->{OrderNumber}, 'Geannuleerd in Exact>Vervallen' ] } @cancelled ]),
	'another reason for lost deals');
is(would(q{UPDATE exact_pd_sync.status_rules SET note = 'nothing'}), '', 'a note changes no deal');
my $one = $invoiced[0];
is( would(sprintf q{INSERT INTO exact_pd_sync.status_rules (priority, status, delivery_status, invoice_status, deal_status, lost_reason)
		VALUES (5, '*', '*', '21', 'lost', 'Proef')}),
	expected([ map { [ $_->{OrderNumber}, '->Proef,won>lost' ] } @invoiced ]),
	'a new rule with a lower number wins');
is(would(q{UPDATE exact_pd_sync.status_rules SET status = '99' WHERE priority IN (10, 140)}),
	'', 'a combination no rule knows leaves deals as they are');
is($t->sql(q{BEGIN; UPDATE exact_pd_sync.status_rules SET status = '99' WHERE priority IN (10, 140);
	SELECT count(*) > 0 FROM exact_pd_sync.status_coverage WHERE verdict = 'unmapped'; ROLLBACK}),
	't', '... and stands in status_coverage');

my ($anna) = grep { $_->{name} eq 'Anna de Wit' } @{ $t->state('users')->{users} };
my ($bram) = grep { $_->{name} eq 'Bram Hoekstra' } @{ $t->state('users')->{users} };
my @of_anna = grep { ($_->{SalespersonFullName} // '') eq 'Anna de Wit' } @orders;
ok(@of_anna > 0, 'Anna has orders');
is( would(
		"SELECT '' FROM exact_pd_sync.map_salesperson('$of_anna[0]{Salesperson}', $bram->{id})"),
	expected([ map { [ $_->{OrderNumber}, "$anna->{id}>$bram->{id}" ] } @of_anna ]),
	'another user for a salesperson');
my $default = $t->sql(q{SELECT exact_pd_sync.setting('default_owner_id')});
my ($other) = grep { $_->{id} != $default && $_->{active_flag} } @{ $t->state('users')->{users} };
my @of_nobody = grep { $deal_of{ $_->{OrderNumber} }{owner_id} == $default
	  && ($_->{SalespersonFullName} // '') ne $deal_of{ $_->{OrderNumber} }{owner} } @orders;
ok(@of_nobody > 0, 'some deals belong to the default owner');
is( would("SELECT '' FROM exact_pd_sync.set_default_owner($other->{id})"),
	expected([ map { [ $_->{OrderNumber}, "$default>$other->{id}" ] }
	  grep { ($_->{SalespersonFullName} // '') ne 'Marloes Kuipers' } @of_nobody ]),
	'another default owner');
is($t->sql($plan_sql), '', 'nothing of all this has stayed');

# ----------
note 'rules that are none';
# ----------
sub refused
{
	my ($values, $why, $name) = @_;
	my ($status, undef, $err) = $t->try(
		"INSERT INTO exact_pd_sync.status_rules (priority, status, delivery_status, invoice_status, deal_status, lost_reason, stage) VALUES (1, '*', '*', '*', $values)");
	isnt($status, 0, "$name is refused");
	like($err, $why, '... for its reason');
	return;
}
refused(q{'won', NULL, 'Verzonden'}, qr/status_rules_one_decision/, 'a rule that decides both');
refused(q{NULL, NULL, NULL}, qr/status_rules_one_decision/, 'a rule that decides nothing');
refused(q{'gewonnen', NULL, NULL}, qr/deal_status/, 'a deal status that Pipedrive does not have');
refused(q{'won', 'x', NULL}, qr/status_rules_reason_needs_lost/, 'a reason for a deal that is not lost');

# ----------
note 'a stage that is not there yet';
# ----------
@calls = $t->pipedrive_calls(
	sub {
		$t->sql(q{UPDATE exact_pd_sync.status_rules SET stage = 'Afgehaald' WHERE priority = 120});
		ok($t->settle, 'a rule names a stage that Pipedrive does not have');
	});
is(join("\n", $t->writes(@calls)), '', '... and nothing is sent to nowhere');
is($t->sql('SELECT count(*) FROM exact_pd_sync.dead_letters'), '0', '... nor dead');
is( $t->sql(q{SELECT state || ' ' || detail || ' ' || hint FROM exact_pd_sync.verify() WHERE check_name = 'pipedrive stages'}),
	'error missing: Afgehaald CALL exact_pd_sync.setup_pipedrive();',
	'... verify() says what is missing');
my $new = $t->post('/exact/orders', { delivery_status => 21, lines => 1 })->{OrderNumber};
$t->poll;
ok($t->settle, 'a new order is sent');
is($t->deal($new)->{stage} . ' of ' . $t->deal($new)->{pipeline}, 'Nieuwe bestelling of Bestellingen',
	'... to the first stage of our pipeline');
@calls = $t->pipedrive_calls(sub { $t->setup; ok($t->settle, 'setup_pipedrive() makes it') });
is(join("\n", $t->writes(@calls)),
	join("\n", 'POST stages {name, pipeline_id} 5', ('PATCH deals/* {stage_id} 5') x (@delivered + 1)),
	'... and then the deals move');
is(scalar(grep { $_->{stage} eq 'Afgehaald' } $t->deals), @delivered + 1, '... to it');

is($t->stats('pipedrive')->{noop_patches}, 0, 'no call changed nothing');
$t->no_violations;
$t->done;
