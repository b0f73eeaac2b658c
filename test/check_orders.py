#!/usr/bin/env python3
"""Are the orders deals?  An independent calculation, from the source to the CRM.

    check_orders.py CONTROL_URL [--orders-csv FILE] [--default-owner NAME] [--owner SALESPERSON=USER]...
                    [--dead-letters FILE] [--later TOKENS] [--beside N] [--sample N]

Works out from the source what the simulated Pipedrive should hold, and compares it with what it holds: one deal for each
order and nothing else, value to the cent, lines, organization, owner, stage, status, dates; and what it may have cost.
The source is the simulated Exact; with --orders-csv it is that file, and Exact is only asked for what the file does
not say (states, salesperson, keys).  Prints a table, "N of M orders right" and every difference; exit status 0 when
all is right.

Belongs here: the rules as the documentation states them, worked out a second time.
Does not belong here: any code of the extension or of the simulated services; nothing is imported from either.
Why: a calculation that shares code with what it judges repeats its mistakes.
"""

import argparse
import collections
import csv
import gzip
import io
import json
import re
import sys
import urllib.request
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from zoneinfo import ZoneInfo

CENT = Decimal("0.01")
STATUS_NAMES = {12: "Open", 20: "Gedeeltelijk", 21: "Volledig", 45: "Geannuleerd"}
PIPELINE = "Bestellingen"
PLACEHOLDER = None              # the "item" of a line without one: a text line
ALLOWED_DEAD = Decimal("0.01")  # share of the orders that a dead letter may explain

Line = collections.namedtuple("Line", "code quantity net")
# code: item code or PLACEHOLDER; net: the line's amount without VAT before any discount of the header

# What creating costs (tokens), by the name of the operation; the rest of what is spent is reading, setting up or changing.
CREATING = {"create organizations": 5, "create products": 5, "create deals": 5, "add line": 5, "add lines in bulk": 25,
            "add discount": 5}
CHANGING = {"update deals", "update organizations", "update products", "update line", "delete line", "delete lines in bulk",
            "update discount", "delete discount", "delete deals", "delete organizations", "delete products"}


class Order:
    """One order as the source states it."""
    number = guid = customer = salesperson = ordered = currency = reference = None
    status = delivery = invoice = None
    total = Decimal(0)
    lines = ()

    def deal_status(self):
        if self.status == 45:
            return "lost"
        return "won" if self.invoice == 21 else "open"

    def stage(self):
        if self.delivery in (20, 21):
            return "Wacht op backorder" if self.delivery == 20 else "Verzonden"
        # complete without a delivery: services
        return "Verzonden" if self.status == 21 else "Nieuwe bestelling"


def cents(value):
    return value.quantize(CENT, ROUND_HALF_UP)


def get(base, path):
    with urllib.request.urlopen(base.rstrip("/") + path, timeout=600) as answer:
        return json.loads(answer.read(), parse_float=Decimal)


def day(text):
    return date.fromisoformat(text[:10]) if text else None


def day_here(moment):
    """The date at the wholesaler's of a moment in UTC."""
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).astimezone(ZoneInfo("Europe/Amsterdam")).date()


def dec(value):
    return Decimal(value) if value is not None else Decimal(0)


# ------------------------------------------------------------------- the source

def order_of(raw):
    """The header of an order of Exact."""
    order = Order()
    order.number, order.guid = raw["OrderNumber"], raw["OrderID"]
    order.customer = raw.get("OrderedBy")
    order.salesperson = raw.get("Salesperson")
    order.ordered = day(raw.get("OrderDate"))
    order.currency = raw.get("Currency") or "EUR"
    order.reference = raw.get("YourRef")
    order.status, order.delivery, order.invoice = raw.get("Status"), raw.get("DeliveryStatus"), raw.get("InvoiceStatus")
    order.total = cents(dec(raw.get("AmountFCExclVat")))
    return order


def whole_order(raw, codes):
    """An order of Exact with its lines; codes: GUID -> debtor number."""
    order = order_of(raw)
    order.customer = codes.get(order.customer)
    order.lines = [Line(line.get("ItemCode") if line.get("Item") else PLACEHOLDER, dec(line.get("Quantity")),
                        dec(line.get("AmountFC"))) for line in raw["lines"]]
    return order


def read_csv(path):
    """{invoice number: rows} of a file of invoices; a row has the names of the first line."""
    raw = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")
    invoices, unusable = {}, 0
    with io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="") as handle:
        for row in csv.DictReader(handle):
            try:
                row["Quantity"], row["UnitPrice"] = int(row["Quantity"]), Decimal(row["UnitPrice"])
            except (TypeError, ValueError, InvalidOperation):
                unusable += 1
                continue
            invoices.setdefault(row["InvoiceNo"], []).append(row)
    if unusable:
        print("%d rows of the file cannot be read" % unusable)
    return invoices


def customer_code(row):
    return row["CustomerID"].split(".")[0].strip() or "1"       # without a customer: the counter, debtor 1


def orders_of_csv(base, invoices, problems):
    """Every invoice of the file as an order: amounts, lines and customer from the file, states and keys from Exact."""
    by_invoice = {raw.get("YourRef"): raw for raw in get(base, "/exact/orders?lines=0")}
    orders, shifts = [], collections.Counter()
    for invoice, rows in invoices.items():
        raw = by_invoice.get(invoice)
        if raw is None:
            problems.append("invoice %s of the file is not in Exact" % invoice)
            continue
        order = order_of(raw)
        if str(order.number)[-6:] != re.sub(r"\D", "", invoice)[-6:]:
            problems.append("invoice %s of the file is order %s in Exact" % (invoice, order.number))
        order.customer = customer_code(rows[0])
        order.lines = [Line(row["StockCode"].strip(), Decimal(row["Quantity"]), cents(row["Quantity"] * row["UnitPrice"]))
                       for row in rows]
        order.total = sum((line.net for line in order.lines), Decimal(0))
        shifts[order.ordered - datetime.fromisoformat(rows[0]["InvoiceDate"]).date()] += 1
        orders.append(order)
    if len(shifts) > 1:
        problems.append("the dates of the file were shifted by different numbers of days: %s" %
                        ", ".join(str(shift.days) for shift in shifts))
    return orders


def orders_beside(base, codes, orders, expected, problems):
    """Orders made at Exact since the file was loaded: of these Exact is the source."""
    known = {order.guid for order in orders}
    beside = [raw for raw in get(base, "/exact/orders?lines=0") if raw["OrderID"] not in known]
    if len(beside) != expected:
        problems.append("%d orders are in Exact beside those of the file, should be %d" % (len(beside), expected))
    return [whole_order(get(base, "/exact/orders/%d" % raw["OrderNumber"]), codes) for raw in beside]


def expected_items(base, orders, today):
    """{item code: (name, group)} of what must be a product: what is for sale, and what stands on an order."""
    items = {}
    ordered = {line.code for order in orders for line in order.lines}
    for raw in get(base, "/exact/state?entity=Items")["Items"]:
        ends = day(raw.get("EndDate"))
        if raw["Code"] in ordered or raw.get("IsSalesItem") and (ends is None or ends >= today):
            items[raw["Code"]] = (raw.get("Description") or raw["Code"], raw.get("ItemGroupDescription"))
    return items


def year_before(today):
    try:
        return today.replace(year=today.year - 1)
    except ValueError:
        return today.replace(year=today.year - 1, day=28)


# -------------------------------------------------------------------- the tokens

def price_of_lines(count):
    """Adding lines: 5 one by one, or 25 for each 100 at once."""
    full, rest = divmod(count, 100)
    return 25 * full + min(5 * rest, 25)


def token_rows(base, orders, organizations, products, discounts, later):
    """[(what, minimum, spent)] and the tokens spent on reading and setting up; later: for changes after the first run."""
    operations = get(base, "/stats")["pipedrive"]["operations"]

    def spent(*names):
        return sum(operations.get(name, {"cost": 0})["cost"] for name in names)

    rows = [
        ("organizations", 5 * organizations, spent("create organizations")),
        ("products", 5 * products, spent("create products")),
        ("deals", 5 * len(orders), spent("create deals")),
        ("lines", sum(price_of_lines(len(order.lines)) for order in orders), spent("add line", "add lines in bulk")),
        ("rounding discounts", 5 * discounts, spent("add discount")),
        ("later changes", later, spent(*CHANGING)),
    ]
    other = sum(entry["cost"] for name, entry in operations.items() if name not in CREATING and name not in CHANGING)
    return rows, other


# ------------------------------------------------------------------- the judgement

class Account:
    """The simulated Pipedrive as it stands, indexed."""

    def __init__(self, base):
        state = get(base, "/pipedrive/state?deleted=0&only=deals,organizations,products,users")
        self.deals, self.organizations, self.products = state["deals"], state["organizations"], state["products"]
        self.users = {user["id"]: user for user in state["users"]}
        self.product_of = {product["id"]: product for product in self.products}
        self.organization_of = {organization["id"]: organization for organization in self.organizations}
        self.by_guid = collections.defaultdict(list)
        for deal in self.deals:
            self.by_guid[deal["fields"].get("Exact-ID")].append(deal)

    def active_user(self, name, email):
        """The one active user with this address, else with this name."""
        def same(left, right):
            return (left or "").strip().lower() == (right or "").strip().lower() != ""

        for found in ([user for user in self.users.values() if same(user["email"], email)],
                      [user for user in self.users.values() if same(user["name"], name)]):
            if found:
                return found[0] if len(found) == 1 and found[0]["active_flag"] else None
        return None


class Judge:
    def __init__(self, account, people, default_owner, owners):
        self.account = account
        self.people = people            # GUID -> (name, e-mail) at Exact
        self.default_owner = default_owner
        self.owners = owners            # name at Exact -> name of the user who was named by hand
        self.discounts = 0
        self.problems = []              # of the order at hand

    def same(self, what, is_now, should):
        if is_now != should:
            self.problems.append("%s is %s, should be %s" % (what, is_now, should))

    def owner(self, order):
        person = self.people.get(order.salesperson) if order.salesperson else None
        if person and person[0] in self.owners:
            return self.owners[person[0]]
        user = self.account.active_user(*person) if person else None
        return user["name"] if user else self.default_owner

    def order(self, order):
        """The differences of one order; empty when its deal is right."""
        self.problems = []
        deals = self.account.by_guid.get(order.guid, [])
        if len(deals) != 1:
            return ["%d deals carry its Exact-ID" % len(deals)]
        deal = deals[0]
        self.header(order, deal)
        self.lines(order, deal)
        return self.problems

    def header(self, order, deal):
        fields = deal["fields"]
        self.same("Ordernummer", fields.get("Ordernummer"), str(order.number))
        self.same("Orderdatum", fields.get("Orderdatum"), order.ordered.isoformat())
        self.same("Uw referentie", fields.get("Uw referentie"), order.reference)
        self.same("Leverstatus", fields.get("Leverstatus"), STATUS_NAMES.get(order.delivery, "Code %s" % order.delivery))
        self.same("Factuurstatus", fields.get("Factuurstatus"), STATUS_NAMES.get(order.invoice, "Code %s" % order.invoice))
        if str(order.number) not in deal["title"]:
            self.problems.append("title %r does not name the order" % deal["title"])
        self.same("value", cents(Decimal(deal["value_text"])), order.total)
        self.same("currency", deal["currency"], order.currency)
        organization = self.account.organization_of.get(deal["org_id"])
        self.same("debtor", organization and organization["fields"].get("Debiteurnummer"), order.customer)
        self.same("owner", deal["owner"], self.owner(order))
        self.same("pipeline", deal["pipeline"], PIPELINE)
        self.same("stage", deal["stage"], order.stage())
        self.same("status", deal["status"], order.deal_status())
        self.same("lost reason", deal["lost_reason"], "Geannuleerd in Exact" if order.deal_status() == "lost" else None)
        closed = deal["won_time"] if deal["status"] == "won" else deal["lost_time"]
        if deal["status"] in ("won", "lost") and (closed is None or day_here(closed) < order.ordered):
            self.problems.append("%s on %s, before it was ordered" % (deal["status"], closed))

    def lines(self, order, deal):
        """The same items, quantities and amounts; what rounding leaves over is closed by one discount of the deal."""
        taken_off = sum((dec(entry["amount"]) for entry in deal["discounts"]), Decimal(0))
        self.discounts += len(deal["discounts"])
        before = sum((line.net for line in order.lines), Decimal(0))
        if order.lines and not deal["products"] and before * order.total < 0:
            return                      # lines and header disagree in sign: only the value can be carried
        factor = order.total / before if before else Decimal(1)
        # a header's discount makes parts of cents of each line, and the header's total is itself rounded
        spread = CENT / abs(before) if factor != 1 else Decimal(0)
        tolerance = CENT if taken_off or factor != 1 else Decimal(0)
        should, now = collections.defaultdict(list), collections.defaultdict(list)
        for line in order.lines:
            quantity = line.quantity if line.quantity or line.code and not line.net else Decimal(1)
            should[line.code, quantity].append(line.net * factor)
        total = Decimal(0)
        for line in deal["products"]:
            product = self.account.product_of.get(line["product_id"])
            code = product["code"] if product else "a product that is gone"
            amount = cents(dec(line["item_price"]) * dec(line["quantity"]) * (1 - dec(line["discount"]) / 100))
            if line["tax_method"] != "none" or line["tax"] or not line["is_enabled"] or \
                    line["discount"] and line["discount_type"] != "percentage":
                self.problems.append("line of %s: tax, discount or state is odd" % code)
            now[PLACEHOLDER if code == "TEKST" else code, dec(line["quantity"])].append(amount)
            total += amount
        for key in sorted(should.keys() | now.keys(), key=str):
            ours, theirs = sorted(should[key]), sorted(now[key])
            if len(ours) != len(theirs):
                self.problems.append("%d lines of %s x %s, should be %d" % (len(theirs), key[1], key[0] or "text", len(ours)))
            elif any(abs(one - other) > tolerance + abs(one) * spread for one, other in zip(ours, theirs)):
                self.problems.append("%s x %s comes to %s, should be %s" % (
                    key[1], key[0] or "text", ", ".join(map(str, theirs)), ", ".join(str(cents(one)) for one in ours)))
        if order.lines:
            self.same("lines less discounts", total - taken_off, order.total)
        if deal["discounts"] and (len(deal["discounts"]) > 1 or not 0 < taken_off <= CENT * (1 + len(order.lines))):
            self.problems.append("discounts of %s on the deal are more than rounding" % taken_off)


def check_records(what, now, should, key, problems):
    """Exactly these records, each once.  should: {key: {name of a field: value}}"""
    seen = collections.Counter(key(record) for record in now)
    for code, count in seen.items():
        if code not in should:
            problems.append("%s %s should not be there" % (what, code))
        elif count > 1:
            problems.append("%s %s is there %d times" % (what, code, count))
    problems.extend("%s %s is missing" % (what, code) for code in should if code not in seen)
    for record in now:
        for field, value in should.get(key(record), {}).items():
            is_now = record["fields"].get(field) if field not in record else record[field]
            if (is_now or None) != (value or None):
                problems.append("%s %s: %s is %s, should be %s" % (what, key(record), field, is_now, value))


def tidy(text):
    return re.sub(r"\s+", " ", text or "").strip()


def read_dead(path):
    """{order number: reason} from lines such as psql -At gives: a line that names "Order N" explains order N."""
    dead = {}
    if path:
        with open(path, encoding="utf-8") as handle:
            for text in handle:
                found = re.search(r"\bOrder (\d+)\b", text)
                if found:
                    dead[int(found.group(1))] = text.strip()
    return dead


def sums(pairs):
    """Amounts by currency, as text."""
    totals = collections.defaultdict(Decimal)
    for currency, amount in pairs:
        totals[currency] += amount
    return ", ".join("%s %s" % (format(totals[name], ",.2f"), name) for name in sorted(totals))


def print_table(rows):
    for name, source, crm in rows:
        print("   %-27s %26s %26s   %s" % (name, source, crm, "equal" if source == crm else "DIFFERENT"))


def in_words(text, width):
    """Cut to a column's width."""
    text = str(text if text is not None else "-")
    return text if len(text) <= width else text[:width - 1] + "\u2026"


def print_sample(orders, account, codes, count):
    """Some orders beside their deals: spread over all, the odd ones of the money first."""
    def oddness(order):
        return (order.total < 0, any(line.net < 0 for line in order.lines), order.currency != "EUR", len(order.lines) > 100)

    by_age = sorted(orders, key=lambda order: (order.ordered, order.number), reverse=True)
    chosen = sorted(by_age, key=oddness, reverse=True)[:count // 4]
    step = max(1, len(by_age) // max(1, count - len(chosen)))
    chosen = sorted({order.guid: order for order in chosen + by_age[::step][:count - len(chosen)]}.values(),
                    key=lambda order: (order.ordered, order.number), reverse=True)
    print("   %-9s %-10s %-28s %5s %13s %13s %3s %-18s %-6s %s" % (
        "order", "date", "customer", "lines", "Exact", "deal", "", "stage", "status", "owner"))
    for order in chosen:
        deals = account.by_guid.get(order.guid)
        deal = deals[0] if deals else {}
        print("   %-9s %-10s %-28s %5d %13s %13s %3s %-18s %-6s %s" % (
            order.number, order.ordered, in_words(codes.get(order.customer), 28), len(order.lines),
            format(order.total, ",.2f"), format(Decimal(deal["value_text"]), ",.2f") if deal else "-", order.currency,
            deal.get("stage", "-"), deal.get("status", "-"), deal.get("owner", "-")))


def print_stages(orders, account):
    """Deals per stage and status, as they should be and as they are."""
    should = collections.Counter((order.stage(), order.deal_status()) for order in orders)
    now = collections.Counter((deal["stage"], deal["status"]) for deal in account.deals)
    print_table([("%s, %s" % key, should[key], now[key]) for key in sorted(should.keys() | now.keys())])


def arguments():
    parser = argparse.ArgumentParser(description="Compares the simulated Pipedrive with the orders, by a calculation of its own.")
    parser.add_argument("control", help="address of the control port")
    parser.add_argument("--orders-csv", metavar="FILE", help="the file the orders came from")
    parser.add_argument("--default-owner", metavar="NAME", default="Exact koppeling", help="who owns what nobody else does")
    parser.add_argument("--owner", metavar="SALESPERSON=USER", action="append", default=[], help="who was mapped by hand")
    parser.add_argument("--dead-letters", metavar="FILE", help="what may be missing: lines that name \"Order N\" and a reason")
    parser.add_argument("--later", metavar="TOKENS", type=int, default=0, help="tokens that changes after the first run were due to cost")
    parser.add_argument("--beside", metavar="N", type=int, default=0, help="so many orders were made at Exact beside those of the file")
    parser.add_argument("--sample", metavar="N", type=int, default=0, help="show so many orders beside their deals")
    parser.add_argument("--show", metavar="N", type=int, default=20, help="list at most so many differences of each kind")
    return parser.parse_args()


def main():
    options = arguments()
    base, problems = options.control, []
    today = datetime.fromisoformat(get(base, "/clock")["now"].replace("Z", "+00:00")).date()
    exact = get(base, "/exact/state?entity=Accounts,Employees")
    names = {raw["ID"]: (raw["Code"].strip(), raw.get("Name")) for raw in exact["Accounts"]}
    people = {}
    for raw in exact["Employees"]:
        people[raw.get("User")] = people[raw["ID"]] = (raw.get("FullName"), raw.get("BusinessEmail"))

    codes = {guid: code for guid, (code, _) in names.items()}
    if options.orders_csv:
        orders = orders_of_csv(base, read_csv(options.orders_csv), problems)
        orders += orders_beside(base, codes, orders, options.beside, problems)
    else:
        orders = [whole_order(raw, codes) for raw in get(base, "/exact/orders")]
    # a year of history, and what is older and still open
    orders = [order for order in orders if order.ordered >= year_before(today) or order.deal_status() == "open"]

    account = Account(base)
    judge = Judge(account, people, options.default_owner, dict(pair.split("=", 1) for pair in options.owner))
    dead = read_dead(options.dead_letters)
    right, explained, wrong = [], [], []
    for order in orders:
        differences = judge.order(order)
        if not differences:
            right.append(order)
        elif order.number in dead and not account.by_guid.get(order.guid):
            explained.append((order, dead[order.number]))
        else:
            wrong.append((order, differences))
    known = {order.guid for order in orders}
    problems.extend("deal %s (%s) belongs to no order" % (deal["id"], deal["title"])
                    for deal in account.deals if deal["fields"].get("Exact-ID") not in known)

    code_names = dict(names.values())
    customers = {order.customer: {"name": code_names[order.customer]} for order in orders if order.customer}
    check_records("organization", account.organizations, customers, lambda record: record["fields"].get("Debiteurnummer"), problems)
    items = expected_items(base, orders, today)
    if options.orders_csv:
        missing = {line.code for order in orders for line in order.lines} - set(items)
        problems.extend("item %s of the file is not in Exact" % code for code in sorted(missing))
    products = {code: {"name": name, "Artikelgroep": group} for code, (name, group) in items.items()}
    if any(line.code is PLACEHOLDER for order in orders for line in order.lines):
        products["TEKST"] = {}
    for record in account.products:
        record["name"] = tidy(record["name"])
    for wanted in products.values():
        wanted.update({"name": tidy(wanted["name"])} if "name" in wanted else {})
    check_records("product", account.products, products, lambda record: record["code"], problems)

    sent = [order for order in orders if account.by_guid.get(order.guid)]
    rows, reading = token_rows(base, sent, len(customers), len(products), judge.discounts, options.later)
    stats = get(base, "/stats")["pipedrive"]
    print("   %-27s %26s %26s" % ("", "worked out from the source", "at Pipedrive"))
    print_table([
        ("orders, deals", len(orders), len(account.deals)),
        ("value without VAT", sums((order.currency, order.total) for order in orders),
         sums((deal["currency"], Decimal(deal["value_text"])) for deal in account.deals)),
        ("lines", sum(len(order.lines) for order in orders), sum(len(deal["products"]) for deal in account.deals)),
        ("organizations", len(customers), len(account.organizations)),
        ("products", len(products), len(account.products)),
    ])
    print("   %-27s %26s %26s" % ("tokens", "least possible", "spent"))
    print_table(rows + [("together", sum(row[1] for row in rows), sum(row[2] for row in rows))])
    print("   beside that %d tokens for setting up and for looking first; %d answers 429, %d changes without effect" % (
        reading, stats["refused_429"], stats.get("noop_patches", 0)))
    problems.extend("%s: %d tokens were spent, %d are enough" % (name, now, least) for name, least, now in rows if now != least)
    problems.extend("violation (%s): %s" % (entry["side"], entry["text"]) for entry in get(base, "/violations"))
    if stats["refused_429"] or stats.get("noop_patches"):
        problems.append("429 answers or changes without effect")
    if options.sample:
        print("   deals per stage")
        print_stages(orders, account)
        print_sample(orders, account, code_names, options.sample)
    if len(explained) > ALLOWED_DEAD * len(orders):
        problems.append("%d orders are dead letters, more than 1 percent" % len(explained))

    for order, reason in explained[:options.show]:
        print("   order %s is a dead letter: %s" % (order.number, reason))
    for order, differences in wrong[:options.show]:
        print("   order %s: %s" % (order.number, "; ".join(differences[:6])))
    for text in problems[:options.show]:
        print("   %s" % text)
    for count, what in ((len(wrong), "orders"), (len(problems), "other differences")):
        if count > options.show:
            print("   ... %d %s in all" % (count, what))
    print("%d of %d orders right%s%s" % (len(right), len(orders), ", %d explained" % len(explained) if explained else "",
                                         "" if not problems else ", %d other differences" % len(problems)))
    return 1 if wrong or problems or not orders else 0


if __name__ == "__main__":
    sys.exit(main())
