# EpdsAgree.pm: do both sides say the same?
#
# Belongs here: what a deal must look like, worked out from the orders as they
# stand at Exact, and compared with the account at Pipedrive.  It knows neither
# the extension's tables nor its code: a second opinion.  Does not belong here:
# how to get there (EpdsTest.pm), or what a single test expects beyond that.

=pod

=head1 NAME

EpdsAgree - a second opinion on what Pipedrive should say

=head1 SYNOPSIS

  use EpdsAgree;

  agrees($t, 'every order is a deal');                       # one test
  agrees($t, 'the others arrived', except => [20003]);       # not these
  my $text = account($t);          # the account as text, without ids and times
  my $fresh = fresh($t, switches => {...}, orders => 12);    # all begins anew

=head1 FUNCTIONS

=over

=item agrees($t, $name, %option)

One test: every order at Exact is exactly one live deal with its title, customer,
date, status, stage, codes, lines and value to the cent, and no other deal is
there.  Owners are compared unless owners => 0.  C<except> lists order numbers to
leave out, C<value_only> numbers of orders whose deal carries no lines, C<no_zero>
numbers of orders whose deal carries no lines of quantity nought.  What differs is
told by diag().

=item account($t)

The account in a form that two runs can be compared by: no ids, no times.

=item fresh($t, %option)

A new sandbox (options as in EpdsTest->new) and a new extension in the same
database: as if the test began anew, without the price of a new server.

=item same_end($t, $name, %switch)

Eight tests: a scenario with every kind of change, on a fresh sandbox with these
switches, ends as the first one of this test file did: in the same account, with
every order a deal, no dead letter, no forbidden call, and nothing left to send.

=item sums($deal)

Value of a deal worked out from its lines and discounts, as text with two decimals.

=back

=cut

package EpdsAgree;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP ();
use Math::BigFloat;
use POSIX qw(strftime tzset);
use Test::More;
use Time::Local qw(timegm);

our @EXPORT = qw(agrees account fresh same_end sums cents);

# Amounts reach us as binary floats; two decimals are what is meant.
sub cents
{
	my ($amount) = @_;
	return Math::BigFloat->new($amount // 0)->bfround(-2, 'common')->bstr;
}

sub decimal
{
	my ($number) = @_;
	my $text = Math::BigFloat->new($number // 0)->bfround(-6, 'common')->bstr;
	$text =~ s/0+$// if $text =~ /\./;
	$text =~ s/\.$//;
	return $text;
}

# ------------------------------
# What a deal should look like
# ------------------------------

sub status_of
{
	my ($order) = @_;
	my ($status, $invoice) = map { $_ // '' } @$order{qw(Status InvoiceStatus)};
	return 'lost' if $status eq '45';
	return 'won' if $invoice eq '21';
	return 'open';
}

sub stage_of
{
	my ($order) = @_;
	my ($status, $delivery) = map { $_ // '' } @$order{qw(Status DeliveryStatus)};
	return 'Wacht op backorder' if $delivery eq '20';
	return 'Verzonden' if $delivery eq '21' || $status eq '21';
	return 'Nieuwe bestelling';
}

sub text_of
{
	my ($code) = @_;
	return undef unless defined $code;
	my %text = (12 => 'Open', 20 => 'Gedeeltelijk', 21 => 'Volledig', 45 => 'Geannuleerd');
	return $text{$code} // "Code $code";
}

sub squeezed
{
	my ($text) = @_;
	return undef unless defined $text;
	$text =~ s/\s+/ /g;
	$text =~ s/^ | $//g;
	return $text;
}

# The lines of an order as "code x quantity".
sub wanted_lines
{
	my ($order) = @_;
	my @lines;
	foreach my $line (@{ $order->{lines} })
	{
		my $quantity = $line->{Quantity} // 0;
		my $code = defined $line->{Item} ? $line->{ItemCode} : 'TEKST';
		# a line that costs something is there at least once
		$quantity = 1
		  if $quantity == 0 && (!defined $line->{Item} || ($line->{AmountFC} // 0) != 0);
		push @lines, ($code // '') . ' x ' . decimal($quantity);
	}
	return [ sort @lines ];
}

sub wanted_deal
{
	my ($order, $accounts, $owners) = @_;
	my $account = defined $order->{OrderedBy} ? $accounts->{ $order->{OrderedBy} } : undef;
	my $owner = defined $order->{Salesperson} ? $owners->{ $order->{Salesperson} } : undef;
	return {
		title => squeezed("Order $order->{OrderNumber} " . ($order->{OrderedByName} // '')),
		number => $order->{OrderNumber},
		date => substr($order->{OrderDate} // '', 0, 10),
		status => status_of($order),
		stage => stage_of($order),
		pipeline => 'Bestellingen',
		delivery => text_of($order->{DeliveryStatus}),
		invoice => text_of($order->{InvoiceStatus}),
		currency => $order->{Currency} // 'EUR',
		value => cents($order->{AmountFCExclVat}),
		organization => $account ? squeezed($account->{Name}) : undef,
		owner => $owner // $owners->{''},
		lines => wanted_lines($order),
	};
}

# ------------------------------
# What it looks like
# ------------------------------

sub sums
{
	my ($deal) = @_;
	my $sum = Math::BigFloat->new(0);
	$sum += Math::BigFloat->new($_->{sum_text})
	  foreach grep { $_->{is_enabled} } @{ $deal->{products} };
	foreach my $discount (@{ $deal->{discounts} })
	{
		$sum -= $discount->{type} eq 'amount'
		  ? Math::BigFloat->new($discount->{amount})
		  : $sum * $discount->{amount} / 100;
	}
	return cents($sum);
}

sub found_deal
{
	my ($deal, $codes, $with_lines) = @_;
	my $fields = $deal->{fields};
	return {
		title => $deal->{title},
		number => $fields->{Ordernummer},
		date => $fields->{Orderdatum} // '',
		status => $deal->{status},
		stage => $deal->{stage},
		pipeline => $deal->{pipeline},
		delivery => $fields->{Leverstatus},
		invoice => $fields->{Factuurstatus},
		currency => $deal->{currency},
		value => cents($deal->{value_text}),
		organization => squeezed($deal->{organization}),
		owner => $deal->{owner},
		lines => [
			sort map { ($codes->{ $_->{product_id} } // $_->{name}) . ' x ' . decimal($_->{quantity}) }
			  @{ $deal->{products} }
		],
	};
}

sub differences
{
	my ($number, $want, $have) = @_;
	my @told;
	foreach my $name (sort keys %$want)
	{
		my ($w, $h) =
		  map { ref $_ ? join(', ', @$_) : $_ // 'nothing' } $want->{$name}, $have->{$name};
		push @told, "order $number: $name is \"$h\", should be \"$w\"" if $w ne $h;
	}
	return @told;
}

# GUIDs of salespeople by both of their keys, with the name of who owns their deals.
sub owners
{
	my ($exact, $pipedrive, $default) = @_;
	my %active = map { lc $_->{email} => $_->{name} }
	  grep { $_->{active_flag} && !$_->{is_deleted} } @{ $pipedrive->{users} };
	my %owner = ('' => $default);
	foreach my $employee (@{ $exact->{Employees} })
	{
		my $name = $active{ lc($employee->{BusinessEmail} // '') };
		$owner{$_} = $name foreach grep { defined } @$employee{qw(ID User)};
	}
	return \%owner;
}

sub agrees
{
	my ($t, $name, %option) = @_;
	my %skip = map { $_ => 1 } @{ $option{except} || [] };
	my %bare = map { $_ => 1 } @{ $option{value_only} || [] };
	my %no_zero = map { $_ => 1 } @{ $option{no_zero} || [] };
	my $exact = $t->get('/exact/state?entity=Orders,Accounts,Employees');
	my $pipedrive = $t->state;
	my $me = (grep { $_->{id} == $pipedrive->{me} } @{ $pipedrive->{users} })[0]{name};
	my $owners = owners($exact, $pipedrive, $option{default_owner} // $me);
	my %account = map { $_->{ID} => $_ } @{ $exact->{Accounts} };
	my %code = map { $_->{id} => $_->{code} // $_->{name} } @{ $pipedrive->{products} };
	my (%deal, @told);

	foreach my $deal (@{ $pipedrive->{deals} })
	{
		my $number = $deal->{fields}{Ordernummer} // "of deal $deal->{id}";
		push @{ $deal{$number} }, $deal;
	}
	foreach my $order (@{ $exact->{Orders} })
	{
		my $number = $order->{OrderNumber};
		my $deals = delete $deal{$number} || [];
		next if $skip{$number};
		if (@$deals != 1)
		{
			push @told, "order $number has " . @$deals . ' deals';
			next;
		}
		my $want = wanted_deal($order, \%account, $owners);
		my $have = found_deal($deals->[0], \%code);
		$want->{lines} = [] if $bare{$number};
		$want->{lines} = [ grep { !/ x 0$/ } @{ $want->{lines} } ] if $no_zero{$number};
		delete $want->{owner} if defined $option{owners} && !$option{owners};
		push @told, differences($number, $want, $have);
		push @told, "order $number: its Exact-ID is not that of the order"
		  if ($deals->[0]{fields}{'Exact-ID'} // '') ne $order->{OrderID};
		push @told, "order $number: the lines sum up to " . sums($deals->[0]) . ", not to $have->{value}"
		  if @{ $deals->[0]{products} } && sums($deals->[0]) ne $have->{value};
	}
	push @told, "a deal of order $_ is not at Exact"
	  foreach grep { !$skip{$_} && $deal{$_}[0]{status} ne 'lost' } sort keys %deal;
	ok(!@told, $name) or diag(join("\n", @told > 20 ? (@told[ 0 .. 19 ], '…') : @told));
	return !@told;
}

# ------------------------------
# Two runs, compared
# ------------------------------

my $json = JSON::PP->new->canonical->pretty;

# The date at the wholesaler's of a moment in UTC: an account may lie elsewhere.
sub day_here
{
	my ($moment) = @_;
	return '' if !defined $moment;
	my ($year, $month, $day, $hour, $minute, $second) = $moment =~ /^(\d+)-(\d+)-(\d+)T(\d+):(\d+):(\d+)/
	  or return "no moment: $moment";
	my $date;
	{
		local $ENV{TZ} = 'Europe/Amsterdam';
		tzset();
		$date = strftime('%Y-%m-%d', localtime(timegm($second, $minute, $hour, $day, $month - 1, $year)));
	}
	tzset();
	return $date;
}

sub account
{
	my ($t) = @_;
	my $state = $t->state;
	my %code = map { $_->{id} => $_->{code} // $_->{name} } @{ $state->{products} };
	my %text;
	foreach my $deal (@{ $state->{deals} })
	{
		my $key = $deal->{fields}{Ordernummer} // $deal->{title};
		$text{deals}{$key} = {
			%{ found_deal($deal, \%code) },
			fields => $deal->{fields},
			closed => day_here($deal->{won_time} // $deal->{lost_time}),
			lost_reason => $deal->{lost_reason},
			line_texts => [
				sort map {
					join ' | ', $code{ $_->{product_id} }, decimal($_->{quantity}), cents($_->{sum_text}),
					  $_->{comments}
				} @{ $deal->{products} }
			],
		};
	}
	foreach my $kind (qw(organizations products))
	{
		foreach my $record (@{ $state->{$kind} })
		{
			$text{$kind}{ $record->{fields}{'Exact-ID'} // $record->{name} } = {
				fields => $record->{fields},
				name => $record->{name},
				code => $record->{code},
				unit => $record->{unit},
				price => join(', ', map { "$_->{currency} $_->{price}" } @{ $record->{prices} || [] }),
				address => ref $record->{address} ? $record->{address}{value} : $record->{address},
			};
		}
	}
	return $json->encode(\%text);
}

sub fresh
{
	my ($t, %option) = @_;
	EpdsTest::stop_sandbox($t->{sandbox_run});
	$t->{option} = { %{ $t->{option} }, %option };
	$t->start_sandbox;
	$t->sql('DROP EXTENSION IF EXISTS exact_pd_sync CASCADE');
	$t->sql('CREATE EXTENSION exact_pd_sync');
	return $t;
}

# ------------------------------
# The scenario
# ------------------------------

# Orders of every kind that a switch could bend, before the first run.
sub orders_before
{
	my ($t) = @_;
	my @items = map {
		{ code => "SW-$_", description => "Vaas $_", price => 7.35 + $_ * 1.11 }
	} 1 .. 3;
	$t->post(
		'/exact/orders',
		[
			{
				number => 30001, customer => { name => 'Tuincentrum De Wilg B.V.', code => '4711' },
				salesperson => 'Anna de Wit', status => 12, delivery_status => 12, invoice_status => 12,
				lines => [ map { { item => $items[$_], quantity => $_ + 2 } } 0 .. 2 ],
			},
			{
				# a discount over the whole order, on amounts that do not divide
				number => 30002, customer => '4711', salesperson => 'Bram Hoekstra', discount => 0.05,
				status => 12, delivery_status => 12, invoice_status => 12,
				lines => [
					{ item => 'SW-1', quantity => 7, price => 12.37 }, { item => 'SW-2', quantity => 3, price => 0.99 },
					{ item => 'SW-3', quantity => 11, price => 4.45, discount => 0.1 },
				],
			},
			{
				# the same article twice, and enough lines for a bulk call
				number => 30003, customer => { name => 'Bloemen & Zo', code => '4712' }, salesperson => 'Chantal Verbeek',
				status => 12, delivery_status => 12, invoice_status => 12,
				lines => [ map { { item => 'SW-' . (1 + $_ % 3), quantity => $_ + 1, price => 3.33 + $_ } } 0 .. 6 ],
			},
			{
				number => 30004, customer => { name => "G\x{e4}rtnerei M\x{fc}ller GmbH", code => '4713', country => 'DE' },
				salesperson => 'Fatima El Amrani', status => 12, delivery_status => 20, invoice_status => 12,
				lines => [ { item => 'SW-2', quantity => 5 } ],
			},
			{
				number => 30005, customer => '4712', status => 12, delivery_status => 12, invoice_status => 12,
				lines => [ { item => 'SW-3', quantity => 1 } ],
			},
			{
				# lines that only their place tells apart
				number => 30007, customer => '4711', status => 12, delivery_status => 12, invoice_status => 12,
				lines => [ map { { item => 'SW-1', quantity => $_, price => 10 + $_ } } 1 .. 6 ],
			},
			{
				number => 30008, customer => '4712', status => 21, delivery_status => 21, invoice_status => 21,
				order_date => '2026-09-07', delivery_date => '2026-09-14', lines => [ { item => 'SW-2', quantity => 3 } ],
			},
			{
				number => 30009, customer => '4713', status => 45, delivery_status => 12, invoice_status => 12,
				order_date => '2026-10-25', lines => [ map { { item => 'SW-3', quantity => $_ } } 1 .. 2 ],
			},
			{
				# loses its lines later, and the next one gets its first
				number => 30010, customer => '4711', status => 12, delivery_status => 12, invoice_status => 12,
				lines => [ map { { item => "SW-$_", quantity => 1 } } 1 .. 2 ],
			},
			{
				number => 30011, customer => '4711', status => 12, delivery_status => 12, invoice_status => 12,
				lines => [],
			},
		]);
	return;
}

# What happens at Exact afterwards.
sub changes_after
{
	my ($t) = @_;
	$t->patch('/exact/orders/30001', { delivery_status => 21 });
	$t->patch('/exact/orders/30002/lines/1', { quantity => 8 });
	$t->patch('/exact/orders/30003/lines/2', { quantity => 40 });
	$t->delete('/exact/orders/30003/lines/5');
	$t->post('/exact/orders/30003/lines', { item => 'SW-2', quantity => 2, price => 9.99 });
	$t->patch('/exact/orders/30004', { status => 45, delivery_status => 12 });
	$t->patch('/exact/orders/30007/lines/2', { quantity => 20 });
	$t->patch('/exact/orders/30007/lines/5', { quantity => 50 });
	$t->delete('/exact/orders/30005');
	$t->delete("/exact/orders/30010/lines/$_") foreach 1, 2;
	$t->post('/exact/orders/30011/lines', { item => 'SW-3', quantity => 3 });
	$t->post(
		'/exact/orders',
		{
			number => 30006, customer => { name => 'Nieuwe Klant', code => '4714' }, salesperson => 'Dirk-Jan Mulder',
			status => 12, delivery_status => 12, invoice_status => 12,
			lines => [ map { { item => 'SW-' . (1 + $_ % 3), quantity => $_ + 1 } } 0 .. 5 ],
		});
	$t->post('/exact/orders/30001/invoice', {});
	return;
}

my ($expected, $expected_name);

sub first_difference
{
	my @want = split /\n/, $_[0];
	my @have = split /\n/, $_[1];
	my @told;
	foreach my $i (0 .. (@want > @have ? $#want : $#have))
	{
		my ($w, $h) = ($want[$i] // '', $have[$i] // '');
		push @told, "expected $w", "     has $h" if $w ne $h;
		last if @told >= 12;
	}
	return join("\n", @told);
}

sub same_end
{
	my ($t, $name, %switch) = @_;
	note $name;
	fresh($t, switches => \%switch);
	orders_before($t);
	ok($t->first_run, "$name: the first run comes to its end");
	agrees($t, "$name: every order is a deal");
	changes_after($t);
	$t->poll;
	ok($t->settle(45), "$name: the changes, too");
	agrees($t, "$name: the deals follow");
	my $tokens = $t->tokens;
	$t->poll;
	$t->settle(45);
	is($t->tokens, $tokens, "$name: nothing more is sent when nothing changes");
	is($t->sql('SELECT count(*) FROM exact_pd_sync.dead_letters'), '0', "$name: no dead letter")
	  or diag($t->sql('SELECT object, reason, servers_words FROM exact_pd_sync.dead_letters'));
	$t->no_violations("$name: nothing forbidden");

	my $account = account($t);
	($expected, $expected_name) = ($account, $name) unless defined $expected;
	ok($account eq $expected, "$name: the account is as after \"$expected_name\"")
	  or diag(first_difference($expected, $account));
	return;
}

1;
