"""The simulated Pipedrive account: its records and what follows from storing them.

Belongs here: records, custom fields, order lines and deal discounts, the deal value that follows from them, list walks with
cursors, the watch over values that must be unique (a duplicate is a violation).
Does not belong here: HTTP, token prices, the check of request bodies (pipedrive_rules.py).
Why: handlers, the control interface and the tests must see one and the same state.
"""

import base64
import json
import random
from bisect import bisect_left, bisect_right
from datetime import timezone
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from clock import iso
from pipedrive_rules import Invalid, SORT, failed, parse_datetime, query_integer

ENTITIES = ("deals", "organizations", "persons", "products")
SINGULAR = {"deals": "deal", "organizations": "organization", "persons": "person", "products": "product"}
FIELD_SETS = {"dealFields": "deals", "organizationFields": "organizations", "personFields": "persons",
              "productFields": "products"}

CURRENCIES = [("EUR", "Euro", 2, "€"), ("USD", "US Dollar", 2, "$"), ("GBP", "Pound Sterling", 2, "£"),
              ("CHF", "Swiss Franc", 2, "CHF"), ("DKK", "Danish Krone", 2, "kr"), ("SEK", "Swedish Krona", 2, "kr"),
              ("NOK", "Norwegian Krone", 2, "kr"), ("PLN", "Polish Zloty", 2, "zł"), ("CZK", "Czech Koruna", 2, "Kč"),
              ("HUF", "Hungarian Forint", 2, "Ft"), ("JPY", "Japanese Yen", 0, "¥"), ("KWD", "Kuwaiti Dinar", 3, "KD")]

# name, code, type of the system fields that a client may look at
SYSTEM_FIELDS = {
    "deals": [("ID", "id", "int"), ("Title", "title", "varchar"), ("Value", "value", "monetary"), ("Label", "label", "set"),
              ("Organization", "org_id", "org"), ("Contact person", "person_id", "people"), ("Owner", "user_id", "user"),
              ("Pipeline", "pipeline", "double"), ("Stage", "stage_id", "stage"), ("Status", "status", "status"),
              ("Deal created", "add_time", "date"), ("Won time", "won_time", "date"), ("Lost time", "lost_time", "date"),
              ("Lost reason", "lost_reason", "varchar_options"), ("Expected close date", "expected_close_date", "date"),
              ("Visible to", "visible_to", "visible_to")],
    "organizations": [("ID", "id", "int"), ("Name", "name", "varchar"), ("Label", "label", "set"),
                      ("Address", "address", "address"), ("Owner", "owner_id", "user"), ("Visible to", "visible_to", "visible_to")],
    "persons": [("ID", "id", "int"), ("Name", "name", "varchar"), ("Label", "label", "set"), ("Email", "email", "varchar"),
                ("Phone", "phone", "phone"), ("Organization", "org_id", "org"), ("Owner", "owner_id", "user")],
    "products": [("ID", "id", "int"), ("Name", "name", "varchar"), ("Product code", "code", "varchar"),
                 ("Category", "category", "enum"), ("Unit", "unit", "varchar"), ("Tax", "tax", "double"),
                 ("Unit prices", "unit_price", "price_list"), ("Active", "active_flag", "enum"), ("Owner", "owner_id", "user")],
}


def plain(number):
    """The JSON number a JavaScript service would print."""
    if isinstance(number, Decimal):
        return int(number) if number == number.to_integral_value() else float(number)
    return number


def deep_plain(value):
    """A JSON value from a request without Decimals and without lone surrogates."""
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8") if any("\ud800" <= c <= "\udfff" for c in value) else value
    if isinstance(value, dict):
        return {name: deep_plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [deep_plain(item) for item in value]
    return value


class Field:
    __slots__ = ("id", "kind", "code", "name", "type", "custom", "options", "description", "extra", "add_time")

    def __init__(self, number, kind, code, name, type_, custom, add_time):
        self.id, self.kind, self.code, self.name, self.type, self.custom = number, kind, code, name, type_, custom
        self.options = [] if type_ in ("enum", "set") else None
        self.description = None
        self.extra = {}
        self.add_time = add_time

    def has_option(self, number):
        return any(option["id"] == number for option in self.options or ())

    def label(self, number):
        return next((option["label"] for option in self.options or () if option["id"] == number), None)


ZERO = Decimal(0)


class Record:
    __slots__ = ("data", "custom", "born", "lines", "discounts", "value", "late_value")

    def __init__(self, data, born):
        self.data = data
        self.custom = {}            # field code -> value, without nulls
        self.born = born            # simulated monotonic seconds
        self.lines = None           # deals: line id -> Line
        self.discounts = None       # deals: discount id -> dict
        self.value = ZERO           # deals: the exact value
        self.late_value = None      # (from when, shown value until then)

    @property
    def id(self):
        return self.data["id"]


ONCE = ("one-time", None, None)


class Line:
    """One order line. Half a million of them must fit into memory: no dict, shared defaults."""

    __slots__ = ("id", "deal", "product", "order_nr", "add_time", "update_time", "comments", "is_enabled", "tax_method",
                 "discount_type", "billing", "item_price", "quantity", "discount", "tax", "sum")

    def __init__(self, number, deal, product, order_nr, tax_method, now):
        self.id, self.deal, self.product, self.order_nr, self.tax_method = number, deal, product, order_nr, tax_method
        self.add_time = self.update_time = now
        self.comments, self.is_enabled, self.discount_type, self.billing = "", True, "percentage", ONCE
        self.item_price = self.quantity = self.discount = self.tax = self.sum = ZERO

    def answer(self):
        return {"id": self.id, "sum": plain(self.sum), "tax": plain(self.tax), "deal_id": self.deal.id,
                "name": self.product.data["name"], "product_id": self.product.id, "product_variation_id": None,
                "order_nr": self.order_nr, "add_time": self.add_time, "update_time": self.update_time,
                "comments": self.comments, "currency": self.deal.data["currency"], "discount": plain(self.discount),
                "quantity": plain(self.quantity), "item_price": plain(self.item_price), "tax_method": self.tax_method,
                "discount_type": self.discount_type, "is_enabled": self.is_enabled, "billing_frequency": self.billing[0],
                "billing_frequency_cycles": self.billing[1], "billing_start_date": self.billing[2]}


class Table:
    def __init__(self, first_id):
        self.rows = {}
        self.ids = []
        self.next_id = first_id

    def add(self, record):
        self.rows[record.id] = record
        self.ids.append(record.id)

    def live(self, number):
        record = self.rows.get(number)
        return record if record is not None and not record.data["is_deleted"] else None


def define_switches(world):
    define = world.define_switch
    define("value_delay", 0, "seconds until a deal shows the value that follows from its lines")
    define("sum_rounding", "line", "line = each line is rounded to the currency's decimals; total = only the deal value; none")
    define("tax_in_sum", True, "a line with tax_method exclusive has its tax in sum and value")
    define("line_discount_per", "line", "a line discount of type amount is meant per line or per unit")
    define("default_tax_method", "exclusive", "the user's setting for lines that do not say")
    define("line_touches_deal", True, "a changed line moves the deal's update_time")
    define("list_lag", 0, "seconds until a created record appears in lists")
    define("search_lag", 3, "seconds until a created record is found by search")
    define("account_zone", "Europe/Amsterdam", "time zone of local_won_date and its like")


class Store:
    def __init__(self, world, people):
        define_switches(world)
        self.world = world
        self.rng = random.Random("%s pipedrive" % world.seed)
        self.people = people
        self.unique_names = {kind: {"Exact-ID"} for kind in ("deals", "organizations", "products")}
        self.reset()

    def reset(self):
        """An account as it is on its first day."""
        first = {"deals": 90001, "organizations": 8001, "persons": 4001, "products": 701}
        self.tables = {kind: Table(first[kind]) for kind in ENTITIES}
        self.fields = {kind: {} for kind in ENTITIES}
        self.next_field = 12000
        self.next_option = 30
        self.next_line = 55001
        self.nulls = {kind: {} for kind in ENTITIES}
        self.unique = {}
        self.users = {}
        self.pipelines, self.stages = {}, {}
        self.next_pipeline, self.next_stage = 1, 1
        self.webhooks = {}
        for kind, names in SYSTEM_FIELDS.items():
            for name, code, type_ in names:
                self.add_field(kind, name, type_, code=code)
        for label in ("Warm", "Hot", "Cold"):
            self.add_option(self.fields["deals"]["label"], label)
        self._add_users()
        pipeline = self.add_pipeline("Pipeline")
        for name in ("Qualified", "Contact Made", "Demo Scheduled", "Proposal Made", "Negotiations Started"):
            self.add_stage(name, pipeline["id"])

    # --- time -----------------------------------------------------------------------

    def now(self):
        return iso(self.world.clock.now())

    def local_date(self, text):
        moment = parse_datetime(text) if text else None
        if moment is None:
            return None
        try:
            return moment.astimezone(ZoneInfo(self.world.switches["account_zone"])).date().isoformat()
        except ZoneInfoNotFoundError:
            return moment.astimezone(timezone.utc).date().isoformat()

    # --- users, pipelines, stages ------------------------------------------------------

    def _add_users(self):
        self.me = self.add_user("Exact koppeling", "exact-koppeling@vanderlinden-wonen.example", admin=True, number=112)["id"]
        for number, person in enumerate(self.people):
            if person["pipedrive"]:
                self.add_user(person["name"], person["email"], person["pipedrive"] == "active", number=113 + number)

    def add_user(self, name, email, active=True, admin=False, number=None):
        number = number or max(self.users, default=112) + 1
        stamp = self.now().replace("T", " ").rstrip("Z")
        access = [{"app": app, "admin": admin, "permission_set_id": "62cc4d7f-4038-4352-abf3-a8c1c822b6%02x" % (number % 256)}
                  for app in (("sales", "global", "account_settings") if admin else ("sales", "global"))]
        self.users[number] = {
            "id": number, "name": name, "default_currency": "EUR", "locale": "nl_NL", "lang": 5, "email": email, "phone": None,
            "activated": True, "last_login": stamp, "created": stamp, "modified": stamp, "has_created_company": admin,
            "access": access, "active_flag": active, "timezone_name": "Europe/Amsterdam", "timezone_offset": "+01:00",
            "role_id": 1, "icon_url": None, "is_you": admin and not any(u["is_you"] for u in self.users.values()),
            "is_deleted": False}
        return self.users[number]

    def add_pipeline(self, name, probability=False):
        number, self.next_pipeline = self.next_pipeline, self.next_pipeline + 1
        order = 1 + sum(1 for item in self.pipelines.values() if not item["is_deleted"])
        self.pipelines[number] = {"id": number, "name": name, "order_nr": order, "is_deleted": False,
                                  "is_deal_probability_enabled": probability, "add_time": self.now(), "update_time": None}
        return self.pipelines[number]

    def add_stage(self, name, pipeline_id, probability=100, rot=False, days=None):
        number, self.next_stage = self.next_stage, self.next_stage + 1
        order = 1 + max((item["order_nr"] for item in self.stages.values() if item["pipeline_id"] == pipeline_id), default=0)
        self.stages[number] = {"id": number, "order_nr": order, "name": name, "is_deleted": False,
                               "deal_probability": probability, "pipeline_id": pipeline_id, "is_deal_rot_enabled": rot,
                               "days_to_rotten": days, "add_time": self.now(), "update_time": None}
        return self.stages[number]

    def live_stages(self, pipeline_id=None):
        rows = [s for s in self.stages.values() if not s["is_deleted"] and pipeline_id in (None, s["pipeline_id"])]
        return sorted(rows, key=lambda s: (s["pipeline_id"], s["order_nr"]))

    # --- fields ----------------------------------------------------------------------------

    def add_field(self, kind, name, type_, code=None, options=()):
        custom = code is None
        if custom:
            code = "%040x" % self.rng.getrandbits(160)
        field = Field(self.next_field, kind, code, name, type_, custom, self.now())
        self.next_field += 1
        self.fields[kind][code] = field
        for label in options:
            self.add_option(field, label)
        if custom:
            self.nulls[kind][code] = None
            if name in self.unique_names.get(kind, ()):
                self.unique[code] = {}
        return field

    def add_option(self, field, label):
        option = {"id": self.next_option, "label": label}
        self.next_option += 1
        field.options.append(option)
        return option

    def remove_field(self, field):
        del self.fields[field.kind][field.code]
        self.nulls[field.kind].pop(field.code, None)
        self.unique.pop(field.code, None)
        for record in self.tables[field.kind].rows.values():
            record.custom.pop(field.code, None)

    def field_named(self, kind, name):
        return next((f for f in self.fields[kind].values() if f.name == name or f.code == name), None)

    # --- unique values ------------------------------------------------------------------------

    def watch_unique(self):
        """Rebuilds the index after the set of watched names or a field name changed; existing duplicates are not blamed."""
        self.unique = {}
        for kind, names in self.unique_names.items():
            for field in self.fields[kind].values():
                if field.custom and field.name in names:
                    index = self.unique[field.code] = {}
                    for record in self.tables[kind].rows.values():
                        if not record.data["is_deleted"] and field.code in record.custom:
                            index.setdefault(str(record.custom[field.code]), set()).add(record.id)

    def set_custom(self, kind, record, code, value, blame=True):
        old = record.custom.get(code)
        if value is None:
            record.custom.pop(code, None)
        else:
            record.custom[code] = value
        index = self.unique.get(code)
        if index is None or old == value:
            return
        if old is not None:
            index.get(str(old), set()).discard(record.id)
        if value is not None:
            others = index.setdefault(str(value), set())
            if blame and others:
                self.world.violation("pipedrive", "two live %s (%s and %d) have the same value %r in field %r"
                                     % (kind, ", ".join(map(str, sorted(others))), record.id, value,
                                        self.fields[kind][code].name))
            others.add(record.id)

    def forget_unique(self, record):
        for code, value in record.custom.items():
            if code in self.unique:
                self.unique[code].get(str(value), set()).discard(record.id)

    # --- records -----------------------------------------------------------------------------

    def create(self, kind, data, custom, blame=True):
        table = self.tables[kind]
        number = data.get("id") or table.next_id
        table.next_id = max(table.next_id, number + 1)
        data["id"] = number
        record = Record(data, self.world.clock.monotonic())
        if kind == "deals":
            record.lines, record.discounts = {}, {}
        table.add(record)
        if table.ids[-2:-1] and table.ids[-2] > number:
            table.ids.sort()
        for code, value in custom.items():
            if value is not None:
                self.set_custom(kind, record, code, value, blame)
        return record

    def delete(self, kind, record):
        record.data["is_deleted"] = True
        record.data["update_time"] = self.now()
        self.forget_unique(record)
        if kind in ("organizations", "persons"):
            link = "org_id" if kind == "organizations" else "person_id"
            for other in ("deals", "persons") if kind == "organizations" else ("deals",):
                for row in self.tables[other].rows.values():
                    if row.data.get(link) == record.id and not row.data["is_deleted"]:
                        row.data[link] = None

    def live_deals(self, open_only=False):
        return sum(1 for r in self.tables["deals"].rows.values() if not r.data["is_deleted"] and not r.data["is_archived"]
                   and (not open_only or r.data["status"] == "open"))

    # --- lines, discounts, value -----------------------------------------------------------------

    def decimals(self, currency):
        return next((row[2] for row in CURRENCIES if row[0] == currency), 2)

    def round(self, amount, currency):
        return amount.quantize(Decimal(1).scaleb(-self.decimals(currency)), ROUND_HALF_UP)

    def line_sum(self, line, currency):
        switches = self.world.switches
        total = line.item_price * line.quantity
        if line.discount_type == "percentage":
            total -= total * line.discount / 100
        elif switches["line_discount_per"] == "unit":
            total -= line.discount * line.quantity
        else:
            total -= line.discount
        if line.tax_method == "exclusive" and switches["tax_in_sum"] and line.tax:
            total += total * line.tax / 100
        return self.round(total, currency) if switches["sum_rounding"] == "line" else total

    def refresh_line(self, line):
        line.sum = self.line_sum(line, line.deal.data["currency"])

    def total(self, deal):
        currency = deal.data["currency"]
        total = sum((line.sum for line in deal.lines.values() if line.is_enabled), ZERO)
        if self.world.switches["sum_rounding"] == "total":
            total = self.round(total, currency)
        base = total
        for discount in deal.discounts.values():
            amount = Decimal(str(discount["amount"]))
            total -= self.round(base * amount / 100, currency) if discount["type"] == "percentage" else amount
        return total

    def recompute(self, deal):
        """The deal's value after a change of its lines or discounts."""
        before = plain(deal.value)
        deal.value = self.total(deal)
        delay = self.world.switches["value_delay"]
        if delay:
            shown = deal.late_value[1] if deal.late_value else before
            deal.late_value = (self.world.clock.monotonic() + delay, shown)
        deal.data["value"] = plain(deal.value)
        if self.world.switches["line_touches_deal"]:
            deal.data["update_time"] = self.now()

    def set_value(self, deal, value):
        deal.value = value if isinstance(value, Decimal) else Decimal(str(value))
        deal.late_value = None
        deal.data["value"] = plain(deal.value)

    def shown_value(self, deal):
        if deal.late_value is not None:
            if self.world.clock.monotonic() < deal.late_value[0]:
                return deal.late_value[1]
            deal.late_value = None
        return deal.data["value"]

    def new_line_id(self):
        number, self.next_line = self.next_line, self.next_line + 1
        return number

    # --- answers ---------------------------------------------------------------------------------

    def render(self, kind, record, query=None):
        """The record as an answer shows it."""
        answer = dict(record.data)
        if record.late_value is not None:
            answer["value"] = self.shown_value(record)
        wanted = query.get("custom_fields") if query else None
        if wanted is None:
            custom = {**self.nulls[kind], **record.custom}
        else:
            custom = {code: record.custom.get(code) for code in wanted.split(",") if code in self.nulls[kind]}
        if query:
            if query.get("include_option_labels") == "true":
                custom = {code: self._labelled(kind, code, value) for code, value in custom.items()}
            for name in (query.get("include_fields") or "").split(","):
                if name == "products_count":
                    answer[name] = len(record.lines)
                elif name:
                    answer[name] = None if name.endswith(("_id", "_time", "_email")) else 0
        answer["custom_fields"] = custom
        return answer

    def _labelled(self, kind, code, value):
        field = self.fields[kind][code]
        if field.options is None or value is None:
            return value
        if field.type == "enum":
            return {"id": value, "label": field.label(value)}
        return [{"id": item, "label": field.label(item)} for item in value]

    # --- lists --------------------------------------------------------------------------------------

    def walk(self, kind, matches, query, sorts=SORT, ids=None):
        """(records, next_cursor) of one page of a table."""
        table = self.tables[kind]
        limit = query_integer(query, "limit", 100, 1, 500)
        sort_by, descending = sort_order(query, sorts)
        mark = read_cursor(query.get("cursor"), sort_by, descending)
        lag = self.world.switches["list_lag"]
        horizon = self.world.clock.monotonic() - lag
        found = []
        if sort_by == "id":
            keys = table.ids if ids is None else sorted(set(i for i in ids if i in table.rows))
            if descending:
                stop = bisect_left(keys, mark[1]) if mark else len(keys)
                keys = keys[:stop][::-1]
            elif mark:
                keys = keys[bisect_right(keys, mark[1]):]
            for number in keys:
                record = table.rows[number]
                if (not lag or record.born <= horizon) and matches(record):
                    found.append(record)
                    if len(found) > limit:
                        break
        else:
            rows = table.rows.values() if ids is None else [table.rows[i] for i in set(ids) if i in table.rows]
            found = [r for r in rows if (not lag or r.born <= horizon) and matches(r)]
            found = after_mark(found, lambda r: (r.data[sort_by] or "", r.id), descending, mark)
        more = len(found) > limit
        found = found[:limit]
        return found, make_cursor(sort_by, found[-1].data, descending) if more else None


def after_mark(rows, key, descending, mark):
    rows = sorted(rows, key=key, reverse=descending)
    if mark:
        rows = [r for r in rows if (key(r) < mark if descending else key(r) > mark)]
    return rows


def sort_order(query, sorts, default="id"):
    sort_by = query.get("sort_by", default)
    direction = query.get("sort_direction", "asc")
    if sort_by not in sorts:
        raise Invalid(failed("sort_by: Expected one of %s" % ", ".join(sorts)))
    if direction not in ("asc", "desc"):
        raise Invalid(failed("sort_direction: Expected one of asc, desc"))
    return sort_by, direction == "desc"


def make_cursor(sort_by, data, descending):
    mark = {"field": sort_by, "fieldValue": data[sort_by], "sortDirection": "desc" if descending else "asc", "id": data["id"]}
    return base64.urlsafe_b64encode(json.dumps(mark, separators=(",", ":")).encode()).decode().rstrip("=")


def read_cursor(text, sort_by, descending):
    if text is None:
        return None
    try:
        mark = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if mark["field"] != sort_by or mark["sortDirection"] != ("desc" if descending else "asc"):
            raise ValueError
        value = mark["fieldValue"]
        return (value if value is not None else "", int(mark["id"]))
    except (ValueError, KeyError, TypeError):
        raise Invalid(failed("cursor: Parameter 'cursor' is not valid")) from None


def page_of(rows, query, sorts, default="id"):
    """(rows, next_cursor) of a list of plain dicts."""
    limit = query_integer(query, "limit", 100, 1, 500)
    sort_by, descending = sort_order(query, sorts, default)
    mark = read_cursor(query.get("cursor"), sort_by, descending)
    rows = after_mark(rows, lambda r: (r[sort_by] if r[sort_by] is not None else "", r["id"]), descending, mark)
    more = len(rows) > limit
    rows = rows[:limit]
    return rows, make_cursor(sort_by, rows[-1], descending) if more else None
