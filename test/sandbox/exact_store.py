"""The data of the simulated Exact Online division.

Belongs here: tables and rows, the one rowversion counter, the order of rows by Timestamp, deletion rows, amounts of an
order from its lines, late commits.
Does not belong here: HTTP, OData, JSON (exact.py, exact_odata.py, exact_render.py), invented data (generator.py).
Why: 25,000 orders with 540,000 lines must fit and a poll must cost next to nothing. So the many rows (order lines,
invoice lines) are small objects with slots whose further fields are computed, the few rows are plain dictionaries, and
every feed is a sorted list in which a changed row simply appears again further on.
"""

from bisect import bisect_left, bisect_right
from decimal import ROUND_HALF_UP, Decimal

import exact_time
from exact_schema import DELETED_TYPES, STATUS_TEXT

CENT = Decimal("0.01")
FIRST_ROWVERSION = 13400000000
TWO_MONTHS_MS = 61 * exact_time.DAY_MS
UNIT_TEXT = {"pc": "Stuk", "box": "Doos", "set": "Set", "mtr": "Meter"}
VAT_TEXT = {"2  ": "BTW hoog tarief, exclusief", "0  ": "Geen BTW", "7  ": "Intracommunautaire levering"}


def cents(value):
    return value.quantize(CENT, ROUND_HALF_UP)


def number(value):
    """A Decimal as the binary float that Exact stores; whole numbers as int."""
    if value is None:
        return None
    if value == value.to_integral_value():
        return int(value)
    return float(value)


def decimal(value):
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value or 0)


class Raw(str):
    """JSON text that is sent exactly as it stands (float noise, numbers no float can hold)."""
    __slots__ = ()


class Row:
    """A record with its stored fields in a dictionary; names that are not in it are null."""
    __slots__ = ("ts", "id", "d")

    def __init__(self, key, fields):
        self.ts = 0
        self.id = key
        self.d = fields

    def get(self, name):
        derived = self.derived.get(name)
        if derived is not None and name not in self.d:
            return derived(self)
        return self.d.get(name)

    def set(self, name, value):
        self.d[name] = value

    derived = {"Timestamp": lambda row: row.ts, "ID": lambda row: row.id}


class Account(Row):
    __slots__ = ()


class Item(Row):
    """Its fields ItemGroupCode and ItemGroupDescription come from the group, when there is one."""
    __slots__ = ("group",)

    def __init__(self, key, fields, group=None):
        super().__init__(key, fields)
        self.group = group

    derived = dict(Row.derived,
                   ItemGroup=lambda row: row.group and row.group.id,
                   ItemGroupCode=lambda row: row.group and row.group.d.get("Code"),
                   ItemGroupDescription=lambda row: row.group and row.group.d.get("Description"))


class Price(Row):
    __slots__ = ("item", "account")

    def __init__(self, key, fields, item=None, account=None):
        super().__init__(key, fields)
        self.item = item
        self.account = account

    derived = dict(Row.derived,
                   Item=lambda row: row.item and row.item.id,
                   ItemCode=lambda row: row.item and row.item.d.get("Code"),
                   ItemDescription=lambda row: row.item and row.item.d.get("Description"),
                   Account=lambda row: row.account and row.account.id,
                   AccountName=lambda row: row.account and row.account.d.get("Name"))


def _name(row):
    return row.account and row.account.d.get("Name")


class Order(Row):
    """A header. id is OrderID; the header feed's own row key is d["ID"]. rate: value of its currency in the division's."""
    __slots__ = ("lines", "account", "rate")

    def __init__(self, key, fields, account=None):
        super().__init__(key, fields)
        self.lines = []
        self.account = account
        self.rate = None

    derived = {"Timestamp": lambda row: row.ts, "OrderID": lambda row: row.id,
               "StatusDescription": lambda row: STATUS_TEXT.get(row.d.get("Status")),
               "DeliveryStatusDescription": lambda row: STATUS_TEXT.get(row.d.get("DeliveryStatus")),
               "InvoiceStatusDescription": lambda row: STATUS_TEXT.get(row.d.get("InvoiceStatus")),
               "OrderedBy": lambda row: row.account and row.account.id,
               "InvoiceTo": lambda row: row.account and row.account.id,
               "DeliverTo": lambda row: row.account and row.account.id,
               "OrderedByName": _name, "InvoiceToName": _name, "DeliverToName": _name}


class Invoice(Row):
    """An invoice header. id is InvoiceID; the stream's row key is d["ID"]."""
    __slots__ = ("lines", "account")

    def __init__(self, key, fields, account=None):
        super().__init__(key, fields)
        self.lines = []
        self.account = account

    derived = {"Timestamp": lambda row: row.ts, "InvoiceID": lambda row: row.id, "LineNumber": lambda row: 0,
               "OrderedBy": lambda row: row.account and row.account.id,
               "InvoiceTo": lambda row: row.account and row.account.id,
               "DeliverTo": lambda row: row.account and row.account.id,
               "OrderedByName": _name, "InvoiceToName": _name, "DeliverToName": _name}


class Slotted:
    """A small record: fields are expressions over its slots; extra holds what a test put over them."""
    __slots__ = ()
    expressions = {}
    getters = {}

    def get(self, name):
        if self.extra is not None and name in self.extra:
            return self.extra[name]
        getter = self.getters.get(name)
        return getter(self) if getter is not None else None


class Line(Slotted):
    """An order line."""
    __slots__ = ("ts", "id", "order", "number", "item", "desc", "qty", "delivered", "invoiced", "price", "disc", "net",
                 "amount", "vat", "pct", "vat_amount", "due", "status", "delivery", "invoice", "created", "modified",
                 "extra")

    def __init__(self, key, order, line_number):
        self.ts = 0
        self.id = key
        self.order = order
        self.number = line_number
        self.item = self.desc = self.extra = None
        self.qty = self.delivered = self.invoiced = self.price = self.disc = self.net = self.amount = 0
        self.vat, self.pct, self.vat_amount = "2  ", 0.21, 0
        self.due = None
        self.status = self.delivery = self.invoice = 12
        self.created = self.modified = 0

    # settable by their Exact name -> slot
    names = {"LineNumber": "number", "Description": "desc", "Quantity": "qty", "QuantityDelivered": "delivered",
             "QuantityInvoiced": "invoiced", "UnitPrice": "price", "Discount": "disc", "NetPrice": "net",
             "AmountFC": "amount", "VATCode": "vat", "VATPercentage": "pct", "VATAmount": "vat_amount",
             "DeliveryDate": "due", "Status": "status", "DeliveryStatus": "delivery", "InvoiceStatus": "invoice"}

    expressions = {
        "Timestamp": "r.ts", "ID": "r.id", "OrderID": "r.order.id", "OrderNumber": "r.order.d.get('OrderNumber')",
        "LineNumber": "r.number", "Item": "(r.item and r.item.id)", "ItemCode": "(r.item and r.item.d.get('Code'))",
        "ItemDescription": "(r.item and r.item.d.get('Description'))",
        "Description": "(r.desc if r.desc is not None or r.item is None else r.item.d.get('Description'))",
        "UnitCode": "(r.item and r.item.d.get('Unit'))",
        "UnitDescription": "(r.item and r.item.d.get('UnitDescription'))",
        "Quantity": "r.qty", "QuantityDelivered": "r.delivered", "QuantityInvoiced": "r.invoiced",
        "UnitPrice": "r.price", "NetPrice": "r.net", "Discount": "r.disc", "AmountFC": "r.amount",
        "AmountDC": "(r.amount if r.order.rate is None else round(r.amount * float(r.order.rate), 2))",
        "VATCode": "r.vat", "VATCodeDescription": "VAT_TEXT.get(r.vat)", "VATPercentage": "r.pct",
        "VATAmount": "r.vat_amount", "DeliveryDate": "r.due", "Status": "r.status", "OrderStatus": "r.status",
        "StatusDescription": "STATUS_TEXT.get(r.status)", "DeliveryStatus": "r.delivery",
        "DeliveryStatusDescription": "STATUS_TEXT.get(r.delivery)", "InvoiceStatus": "r.invoice",
        "InvoiceStatusDescription": "STATUS_TEXT.get(r.invoice)", "Created": "r.created", "Modified": "r.modified",
        "Creator": "r.order.d.get('Creator')", "CreatorFullName": "r.order.d.get('CreatorFullName')",
        "Modifier": "r.order.d.get('Modifier')", "ModifierFullName": "r.order.d.get('ModifierFullName')",
        "Division": "r.order.d.get('Division')", "UseDropShipment": "0",
        "CostPriceFC": "(r.item and r.item.d.get('CostPriceStandard'))"}


class InvoiceLine(Slotted):
    """A line of an invoice, made from an order line."""
    __slots__ = ("ts", "id", "invoice", "number", "line", "qty", "amount", "extra")

    def __init__(self, key, invoice, line_number, line, qty, amount):
        self.ts = 0
        self.id = key
        self.invoice = invoice
        self.number = line_number
        self.line = line
        self.qty = qty
        self.amount = amount
        self.extra = None

    names = {"LineNumber": "number", "Quantity": "qty", "AmountFC": "amount"}

    expressions = dict(
        {name: "r.invoice.get('%s')" % name for name in (
            "Created", "Modified", "Creator", "CreatorFullName", "Modifier", "ModifierFullName", "Currency", "DueDate",
            "InvoiceDate", "InvoiceNumber", "InvoiceTo", "InvoiceToName", "OrderedBy", "OrderedByName", "OrderNumber",
            "DeliverTo", "DeliverToName", "Journal", "JournalDescription", "PaymentCondition",
            "PaymentConditionDescription", "PaymentReference", "Salesperson", "SalespersonFullName", "Status",
            "StatusDescription", "Type", "TypeDescription", "YourRef", "OrderDate")},
        **{"Timestamp": "r.ts", "ID": "r.id", "InvoiceID": "r.invoice.id", "LineNumber": "r.number",
           "Item": "r.line.get('Item')", "ItemCode": "r.line.get('ItemCode')",
           "ItemDescription": "r.line.get('ItemDescription')", "Description": "r.line.get('Description')",
           "UnitCode": "r.line.get('UnitCode')", "UnitDescription": "r.line.get('UnitDescription')",
           "Quantity": "r.qty", "UnitPrice": "r.line.price", "NetPrice": "r.line.net", "Discount": "r.line.disc",
           "AmountFC": "r.amount", "AmountDC": "r.amount", "VATCode": "r.line.vat",
           "VATCodeDescription": "VAT_TEXT.get(r.line.vat)", "VATPercentage": "r.line.pct",
           "VATAmountFC": "round(r.amount * r.line.pct, 2)", "VATAmountDC": "round(r.amount * r.line.pct, 2)",
           "DeliveryDate": "r.line.due", "SalesOrder": "r.line.order.id", "SalesOrderLine": "r.line.id",
           "SalesOrderNumber": "r.line.order.d.get('OrderNumber')", "SalesOrderLineNumber": "r.line.number",
           "Division": "r.invoice.d.get('Division')"})


class Table:
    """The rows of one entity by key and, when it has a feed, by Timestamp."""

    def __init__(self, name):
        self.name = name
        self.rows = {}
        self.stamps = []        # ascending; an entry is valid while its row still has that Timestamp
        self.order = []         # the rows beside the stamps
        self._keys = None

    def keys(self):
        """All keys in ascending order, for endpoints that page by key."""
        if self._keys is None:
            self._keys = sorted(self.rows, key=str)
        return self._keys

    def load(self, rows):
        """Rows that have their Timestamp already, ascending."""
        for row in rows:
            self.rows[row.id] = row
            self.stamps.append(row.ts)
            self.order.append(row)
        self._keys = None

    def touch(self, row, stamp):
        """Gives the row a new Timestamp; its old place in the feed dies by itself."""
        row.ts = stamp
        if not self.stamps or stamp > self.stamps[-1]:
            self.stamps.append(stamp)
            self.order.append(row)
        else:
            place = bisect_left(self.stamps, stamp)
            self.stamps.insert(place, stamp)
            self.order.insert(place, row)
        if row.id not in self.rows:
            self.rows[row.id] = row
            self._keys = None
        if len(self.order) > 2 * len(self.rows) + 1000:
            self.compact()

    def compact(self):
        live = [(stamp, row) for stamp, row in zip(self.stamps, self.order) if row.ts == stamp]
        self.stamps = [pair[0] for pair in live]
        self.order = [pair[1] for pair in live]

    def remove(self, row):
        row.ts = 0
        self.rows.pop(row.id, None)
        self._keys = None

    def after(self, stamp, limit=None, inclusive=False):
        """Live rows with a Timestamp above (or from) stamp, ascending."""
        place = bisect_left(self.stamps, stamp) if inclusive else bisect_right(self.stamps, stamp)
        found = []
        stamps, order = self.stamps, self.order
        for index in range(place, len(order)):
            row = order[index]
            if row.ts == stamps[index]:
                found.append(row)
                if len(found) == limit:
                    break
        return found


class Stream:
    """The invoice feed: headers and lines in one; rows live in the two tables, only the order is here."""

    def __init__(self):
        self.feed = Table("InvoiceStream")
        self.after = self.feed.after
        self.touch = self.feed.touch
        self.remove = self.feed.remove
        self.load = self.feed.load

    @property
    def rows(self):
        return self.feed.rows


class Store:
    TABLES = ("Accounts", "Contacts", "Items", "ItemGroups", "SalesItemPrices", "Employees", "Orders", "OrderLines",
              "Invoices", "InvoiceLines", "PaymentTerms", "Deleted", "Divisions", "WebhookSubscriptions")

    def __init__(self, division, clock):
        self.division = division
        self.clock = clock
        self.counter = FIRST_ROWVERSION
        self.tables = {name: Table(name) for name in self.TABLES}
        self.tables["InvoiceStream"] = Stream()
        self.by_number = {}             # OrderNumber -> Order
        self.next_order_number = 1
        self.next_invoice_number = 1
        self.late = []                  # (table, row, Timestamp, function) reserved, not yet committed
        self.listeners = []             # called with (topic, action, key) after a change, for webhooks
        self.me = {}
        self.new_guid = None            # set by the generator: a function that draws a GUID
        self.move_date = None

    def __getitem__(self, name):
        return self.tables[name]

    # --- time and versions -------------------------------------------------------

    def now_ms(self):
        return exact_time.local_ms(self.clock.time())

    def next_stamp(self):
        self.counter += 1
        return self.counter

    def load(self, dated):
        """dated: (modified ms, table name, row) of everything; gives Timestamps in the order of change."""
        by_table = {}
        for modified, name, row in sorted(dated, key=lambda entry: entry[0]):
            self.counter += 1
            row.ts = self.counter
            by_table.setdefault(name, []).append(row)
        for name, rows in by_table.items():
            if name in ("Invoices", "InvoiceLines"):
                continue
            self.tables[name].load(rows)
            if name == "Orders":
                for row in rows:
                    self.by_number[row.d.get("OrderNumber")] = row
        both = by_table.get("Invoices", []) + by_table.get("InvoiceLines", [])
        both.sort(key=lambda row: row.ts)
        stream = self.tables["InvoiceStream"]
        for row in both:
            self.tables["Invoices" if isinstance(row, Invoice) else "InvoiceLines"].rows[row.id] = row
        stream.load(both)

    # --- changes --------------------------------------------------------------------

    def save(self, name, row, action="Update", stamp=None):
        """A change of one row has been made: new Timestamp, new Modified."""
        self._modified(row)
        if stamp is None:
            stamp = self.next_stamp()
        if name in ("Invoices", "InvoiceLines"):
            table = self.tables[name]
            if row.id not in table.rows:
                table.rows[row.id] = row
                table._keys = None
            self.tables["InvoiceStream"].touch(row, stamp)
        else:
            self.tables[name].touch(row, stamp)
        self._tell(name, action, row)

    def _modified(self, row):
        now = self.now_ms()
        if isinstance(row, Line):
            row.modified = now
            if not row.created:
                row.created = now
        elif isinstance(row, Row):
            row.d["Modified"] = now
            row.d.setdefault("Created", now)

    def _tell(self, name, action, row):
        for listener in self.listeners:
            listener(name, action, row)

    def delete(self, name, row, key=None):
        """Takes the row away and leaves a row in sync/Deleted."""
        if name in ("Invoices", "InvoiceLines"):
            self.tables["InvoiceStream"].remove(row)
        self.tables[name].remove(row)
        if name in DELETED_TYPES:
            self.add_deleted(DELETED_TYPES[name], key or row.id)
        self._tell(name, "Delete", row)

    def add_deleted(self, entity_type, key):
        row = Row(self.new_guid(), {"EntityType": entity_type, "EntityKey": key, "DeletedDate": self.now_ms(),
                                    "DeletedBy": self.me.get("UserID"), "Division": self.division})
        self.tables["Deleted"].touch(row, self.next_stamp())
        return row

    def late_commit(self):
        """Makes visible what was written with a rowversion taken earlier."""
        waiting, self.late = self.late, []
        for name, row, stamp, apply in waiting:
            if apply is not None:
                apply()
            self.save(name, row, "Create" if row.ts == 0 else "Update", stamp)
        return len(waiting)

    def renumber(self):
        """The division moved to another database: every Timestamp is new, and lower than before."""
        self.counter = FIRST_ROWVERSION // 1000 + len(self.move_dates())
        rows = []
        for name, table in self.tables.items():
            feed = table.feed if isinstance(table, Stream) else table
            feed.compact()
            rows.extend((row.ts, name, row) for row in feed.order)
            feed.stamps, feed.order = [], []
        rows.sort(key=lambda entry: entry[0])
        for _, name, row in rows:
            self.counter += 1
            self.tables[name].touch(row, self.counter)
        self.move_date = self.now_ms()
        return self.counter

    def move_dates(self):
        return [self.move_date] if self.move_date else []

    def oldest_deletion(self):
        return self.now_ms() - TWO_MONTHS_MS

    # --- amounts -----------------------------------------------------------------------

    @staticmethod
    def price_line(line):
        """NetPrice, AmountFC (without VAT) and VATAmount from quantity, price, discount and VAT rate."""
        net = decimal(line.price) * (1 - decimal(line.disc))
        amount = cents(net * decimal(line.qty))
        line.net = number(net)
        line.amount = number(amount)
        line.vat_amount = number(cents(amount * decimal(line.pct)))

    @staticmethod
    def total(order):
        """Header amounts from the lines and the header's discount fraction."""
        fields = order.d
        excl = sum((decimal(line.amount) for line in order.lines), Decimal(0))
        vat = sum((decimal(line.amount) * decimal(line.pct) for line in order.lines), Decimal(0))
        discount = decimal(fields.get("Discount"))
        less = cents(excl * discount)
        vat_less = cents(vat * discount)
        vat = cents(vat) - vat_less
        excl -= less
        fields["AmountFCExclVat"] = number(excl)
        fields["VATAmount"] = number(vat)
        fields["AmountFC"] = number(excl + vat)
        fields["AmountDC"] = number(excl + vat if order.rate is None else cents((excl + vat) * order.rate))
        fields["AmountDiscountExclVat"] = number(less)
        fields["AmountDiscount"] = number(less + vat_less)
