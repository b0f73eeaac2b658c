"""The Exact part of the control interface.

Belongs here: looking at the whole ERP, adding, changing and deleting its records as a person in the ERP would, consent and
revocation, late commits, the move of a division, limits.
Does not belong here: switches, faults, calls (control.py); the rules of the service (exact.py).
Why: tests and the demo must be able to make things happen in the ERP that no API of ours may do.

All routes take ?division=n for another than the first division.

GET    /exact/state?entity=Orders,Accounts&lines=0   everything, dates as ISO text, with Timestamp; summary: GET /exact/summary
GET    /exact/orders?lines=0, GET /exact/orders/{number}
POST   /exact/orders            one order or a list; all members optional, what is missing is drawn:
         customer (code, name, GUID, "new", null, or {"name", "code", "country", any Exact field}), salesperson (name, e-mail, GUID, null),
         lines (a count or a list), status, delivery_status, invoice_status, order_date, delivery_date, your_ref, description,
         discount (fraction), currency, number, late, count, and any header field by its Exact name; amounts given win over the computed ones
         a line: item (code, GUID, "new", null = text line, or {"code", "description", "price", ...}), quantity, price, discount, delivered,
         invoiced, any line field by its Exact name
PATCH  /exact/orders/{number}   the same header members; "late": true takes the rowversion now and shows the change with the next late
         commit; "Timestamp": n sets a rowversion
POST   /exact/orders/{number}/lines, PATCH and DELETE /exact/orders/{number}/lines/{line number}; a PATCH with "header": false
         leaves the header alone
DELETE /exact/orders/{number}
POST   /exact/orders/{number}/invoice {"draft", "paid", "partial"}
POST   /exact/entities/{Entity}, PATCH and DELETE /exact/entities/{Entity}/{id}    raw Exact fields; Accounts, Items, ItemGroups,
         SalesItemPrices, Employees, Contacts, Invoices, InvoiceLines, PaymentTerms; POST /exact/entities/Deleted {"EntityType", "EntityKey"}
         any value is taken: {"$raw": "19.899999999999999"} is sent as it stands
POST   /exact/consent {"state", "redirect_uri"} -> {"code"}; POST /exact/revoke
POST   /exact/token_age {"seconds"}        the tokens look as if they had been given so long before
POST   /exact/late_commit; POST /exact/rowversion {"counter"} or {"skip"}; POST /exact/division_move
GET    /exact/limits, POST /exact/limits {"day_used", "minute_used", "unblock": true}
GET    /exact/divisions, POST /exact/divisions {"division": n, "description", "orders", "customers", "items", "months"}
GET    /exact/webhooks          subscriptions and what was sent
POST   /exact/live {"new": n, "progress": n}     a bit of business
"""

import json
import math
import re
from decimal import Decimal

import exact_time
from exact_schema import ENDPOINTS
from exact_store import Line, Price, Raw, Row, Slotted, Store, number
from generator import Generator, overall
from httpd import Response
from people import PEOPLE

SHORT = {"status": "Status", "delivery_status": "DeliveryStatus", "invoice_status": "InvoiceStatus", "order_date": "OrderDate",
         "delivery_date": "DeliveryDate", "your_ref": "YourRef", "description": "Description", "discount": "Discount",
         "currency": "Currency", "number": "OrderNumber", "quantity": "Quantity", "price": "UnitPrice", "item": "Item",
         "delivered": "QuantityDelivered", "invoiced": "QuantityInvoiced"}
ENTITIES = {"Accounts": "sync/CRM/Accounts", "Items": "sync/Logistics/Items", "ItemGroups": "logistics/ItemGroups",
            "SalesItemPrices": "sync/Logistics/SalesItemPrices", "Employees": "sync/Payroll/Employees", "Contacts": "sync/CRM/Contacts",
            "PaymentTerms": "sync/Cashflow/PaymentTerms", "Invoices": "sync/SalesInvoice/SalesInvoices",
            "InvoiceLines": "sync/SalesInvoice/SalesInvoices", "Deleted": "sync/Deleted"}
ISO = re.compile(r"^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?)?$")
AMOUNTS = {"AmountFC", "AmountDC", "AmountFCExclVat", "VATAmount", "AmountDiscount", "AmountDiscountExclVat"}
SHAPE = {"Quantity", "UnitPrice", "Discount", "VATPercentage", "Item"}


def value_of(name, value, fields):
    """A JSON value as it is stored: dates may be ISO text, {"$raw": text} is sent as it stands."""
    if isinstance(value, dict) and "$raw" in value:
        return Raw(value["$raw"])
    if isinstance(value, Decimal):
        return number(value) if Decimal(repr(float(value))) == value else Raw(format(value, "f"))
    if fields.get(name) == "DateTime" and isinstance(value, str) and ISO.match(value):
        return exact_time.parse_literal(value)
    return value


def shown(value):
    """Raw text as the number it is, or as text where no JSON number can hold it."""
    if not isinstance(value, Raw):
        return value
    try:
        parsed = json.loads(value)
    except ValueError:
        return str(value)
    return str(value) if isinstance(parsed, float) and not math.isfinite(parsed) else parsed


class Control:
    def __init__(self, world):
        self.world = world

    @property
    def service(self):
        return self.world.exact

    @property
    def store(self):
        return self.world.exact.store

    @property
    def maker(self) -> Generator:
        maker = self.world.exact.generator
        maker.now = self.world.clock.time()
        return maker

    # --- looking ---------------------------------------------------------------------------

    def describe(self, row, path):
        """All filled fields of a row, as the service stores them; dates as ISO text beside nothing else."""
        fields = ENDPOINTS[path].fields
        answer = {}
        for name, edm in fields.items():
            value = row.get(name)
            if value is None or edm == "Collection":
                continue
            if edm == "DateTime" and isinstance(value, int):
                value = exact_time.naive(value).isoformat()
            answer[name] = shown(value)
        answer["Timestamp"] = row.ts
        if isinstance(row, Row):            # raw fields of a test that are no fields of the entity
            answer.update({name: shown(value) for name, value in row.d.items() if name not in fields and value is not None})
        return answer

    def order(self, order, lines=True):
        answer = self.describe(order, "sync/SalesOrder/SalesOrderHeaders")
        answer["OrderID"] = order.id
        if lines:
            answer["lines"] = [self.describe(line, "sync/SalesOrder/SalesOrderLines") for line in order.lines]
        return answer

    def get_state(self, request, match):
        """Whole entities; ?entity=Accounts,Items restricts, ?lines=0 leaves order lines out."""
        wanted = request.query.get("entity")
        names = wanted.split(",") if wanted else list(ENTITIES) + ["Orders"]
        answer = {"counter": self.store.counter, "oauth": self.service.oauth.describe(), "late": len(self.store.late),
                  "move_date": self.store.move_date}
        for name in names:
            if name == "Orders":
                answer[name] = self.orders(request.query.get("lines") != "0")
            else:
                answer[name] = [self.describe(row, ENTITIES[name]) for row in self.store[name].rows.values()]
        return answer

    def orders(self, lines):
        return [self.order(order, lines) for order in sorted(self.store["Orders"].rows.values(),
                                                             key=lambda order: order.d.get("OrderNumber") or 0)]

    def get_orders(self, request, match):
        return Response(200, self.orders(request.query.get("lines") != "0"))

    def get_order(self, request, match):
        return self.order(self.find(match))

    def find(self, match):
        order = self.store.by_number.get(int(match.group(1)))
        if order is None:
            raise KeyError("order %s" % match.group(1))
        return order

    def find_line(self, match):
        order = self.find(match)
        for line in order.lines:
            if line.number == int(match.group(2)):
                return order, line
        raise KeyError("line %s" % match.group(2))

    def summary(self, request, match):
        return {name: len(table.rows) for name, table in self.store.tables.items()}

    # --- orders ---------------------------------------------------------------------------------

    def post_orders(self, request, match):
        body = request.json() if request.body else {}
        many = body if isinstance(body, list) else [body]
        made = []
        for spec in many:
            count = int(spec.pop("count", 1))
            for _ in range(count):
                made.append(self.order(self.create(dict(spec))))
        return Response(200, made if isinstance(body, list) or len(made) != 1 else made[0])

    def create(self, spec):
        """One new order; what the spec does not say is drawn. Rows made on the way are saved like any other change."""
        maker, store = self.maker, self.store
        account = self.account(spec.pop("customer", "draw"))
        person = self.person(spec.pop("salesperson", "draw"))
        lines, late = spec.pop("lines", None), spec.pop("late", False)
        spec = {SHORT.get(name, name): value for name, value in spec.items()}
        fields = ENDPOINTS["sync/SalesOrder/SalesOrderHeaders"].fields
        header = {name: value_of(name, value, fields) for name, value in spec.items()}
        states = {name: header.pop(name) for name in ("Status", "DeliveryStatus", "InvoiceStatus") if name in header}
        order_number = header.pop("OrderNumber", None) or store.next_order_number
        if order_number in store.by_number:
            raise ValueError("order %s exists" % order_number)
        order = maker.header(order_number, account, None, self.world.clock.time())
        if person is not None:
            order.d["Salesperson"], order.d["SalespersonFullName"] = person["exact_guid"], person["name"]
        order.d.update({name: value for name, value in header.items() if name not in AMOUNTS})
        store.next_order_number = max(store.next_order_number, order_number + 1) if isinstance(order_number, int) else \
            store.next_order_number
        if lines is None or isinstance(lines, int):
            lines = [{}] * (lines if isinstance(lines, int) else maker.random.randint(1, 8))
        for place, line in enumerate(lines, 1):
            self.new_line(order, place, dict(line))
        store.total(order)
        order.d.update({name: value for name, value in header.items() if name in AMOUNTS})
        self.flush()
        self.set_states(order, states)
        if late:
            self.reserve(order)
        else:
            self.save_new(order)
        return order

    def save_new(self, order, stamps=None):
        stamps = stamps or [None] * (1 + len(order.lines))
        self.store.save("Orders", order, "Create", stamps[0])
        for line, stamp in zip(order.lines, stamps[1:]):
            self.store.save("OrderLines", line, "Create", stamp)
        self.store.by_number[order.d["OrderNumber"]] = order

    def reserve(self, order):
        """The order's rowversions are taken now, its rows appear with the late commit."""
        stamps = [self.store.next_stamp() for _ in range(1 + len(order.lines))]
        self.store.by_number[order.d["OrderNumber"]] = order
        self.store.late.append(("Orders", order, stamps[0], None))
        for line, stamp in zip(order.lines, stamps[1:]):
            self.store.late.append(("OrderLines", line, stamp, None))

    def flush(self):
        """Saves master data that the generator has just made."""
        made, self.service.generator.dated = self.service.generator.dated, []
        for _, name, row in made:
            self.store.save(name, row, "Create")

    def account(self, wanted):
        """A customer by GUID, code or name; "new"; null for none; drawn when not said."""
        maker = self.maker
        if wanted is None:
            return None
        if isinstance(wanted, dict):
            account = maker.customer(age_days=0, **{key: wanted.pop(key) for key in ("name", "code", "country") if key in wanted})
            account.d.update(wanted)
            self.flush()
            return account
        living = [account for account in maker.accounts if account.ts]
        if wanted == "new" or (wanted == "draw" and not living):
            account = maker.customer(age_days=0)
            self.flush()
            return account
        if wanted == "draw":
            return maker.random.choice(living)
        for account in self.store["Accounts"].rows.values():
            if str(wanted) in (account.id, str(account.d.get("Code")).strip(), account.d.get("Name")):
                return account
        raise KeyError("customer %s" % wanted)

    def person(self, wanted):
        if wanted is None:
            return None
        if wanted == "draw":
            return self.maker.random.choice(PEOPLE[:5])
        for person in PEOPLE:
            if wanted in (person["exact_guid"], person["name"], person["email"]):
                return person
        return {"exact_guid": str(wanted), "name": str(wanted)}

    def item(self, wanted):
        maker = self.maker
        if isinstance(wanted, dict):
            given = {key: wanted.pop(key) for key in ("code", "description", "price") if key in wanted}
            item = maker.item(age_days=0, **{key: number(value) if isinstance(value, Decimal) else value for key, value in given.items()})
            item.d.update(wanted)
            self.flush()
            return item
        living = [item for item in maker.items if item.ts]
        if wanted in ("new", "draw") and (wanted == "new" or not living):
            item = maker.item(age_days=0)
            self.flush()
            return item
        if wanted == "draw":
            return maker.random.choice(living)
        for item in self.store["Items"].rows.values():
            if str(wanted) in (item.id, item.d.get("Code")):
                return item
        raise KeyError("item %s" % wanted)

    def new_line(self, order, place, spec):
        """A line: item (GUID, code, "new", null = text line), quantity, price, discount, or raw Exact names."""
        spec = {SHORT.get(name, name): value for name, value in spec.items()}
        wanted = spec.pop("Item", "draw")
        if wanted is None:
            line = self.maker.text_line(order, place)
        else:
            amounts = {key: spec.pop(name) for key, name in (("qty", "Quantity"), ("price", "UnitPrice"), ("disc", "Discount"))
                       if name in spec and not isinstance(spec[name], dict)}
            amounts = {key: number(value) if isinstance(value, Decimal) else value for key, value in amounts.items()}
            if amounts:
                amounts.setdefault("disc", 0)
                amounts.setdefault("qty", 1)
            line = self.maker.line(order, place, item=self.item(wanted), **amounts)
        self.put_line(line, spec)
        return line

    def put_line(self, line, spec):
        """Sets raw fields of a line: known ones in their slot, all others over it."""
        fields = ENDPOINTS["sync/SalesOrder/SalesOrderLines"].fields
        touched = set()
        for name, value in spec.items():
            name = SHORT.get(name, name)
            touched.add(name)
            if name == "Item":
                line.item = self.item(value) if value is not None else None
                continue
            value = value_of(name, value, fields)
            slot = Line.names.get(name)
            if slot is not None and not isinstance(value, (Raw, str, dict, list)) or name in ("Description", "VATCode"):
                setattr(line, slot, value)
                if line.extra:
                    line.extra.pop(name, None)
            else:
                line.extra = dict(line.extra or {}, **{name: value})
        if touched & SHAPE and not touched & {"AmountFC", "NetPrice"}:
            Store.price_line(line)
        return touched

    def set_states(self, order, states):
        """Header states; lines follow where the states are known ones."""
        if not states:
            return
        fields = order.d
        delivery = states.get("DeliveryStatus", fields["DeliveryStatus"])
        invoice = states.get("InvoiceStatus", fields["InvoiceStatus"])
        status = states.get("Status")
        known = (12, 20, 21, 45)
        if delivery in known and invoice in known:
            self.maker.progress(order, delivery, invoice, status == 45)
        fields["DeliveryStatus"], fields["InvoiceStatus"] = delivery, invoice
        fields["Status"] = status if "Status" in states else overall(delivery, invoice)

    def patch_order(self, request, match):
        """Any header field, short or raw name. Lines are touched only where their states change."""
        order = self.find(match)
        body = {SHORT.get(name, name): value for name, value in request.json().items()}
        fields = ENDPOINTS["sync/SalesOrder/SalesOrderHeaders"].fields
        if "customer" in body:
            order.account = self.account(body.pop("customer"))
            for name in ("OrderedBy", "OrderedByName", "InvoiceTo", "InvoiceToName", "DeliverTo", "DeliverToName"):
                order.d.pop(name, None)
        if "salesperson" in body:
            person = self.person(body.pop("salesperson"))
            order.d["Salesperson"] = person and person["exact_guid"]
            order.d["SalespersonFullName"] = person and person["name"]
        if body.pop("late", False):
            values = {name: value_of(name, value, fields) for name, value in body.items()}
            self.store.late.append(("Orders", order, self.store.next_stamp(), lambda: order.d.update(values)))
            return self.order(order)
        stamp = body.pop("Timestamp", None)                 # any rowversion, also one above 2^53
        silent = not self.world.switches["exact_progress_touches_header"] and set(body) <= {"DeliveryStatus", "InvoiceStatus", "Status"}
        before = [(line.status, line.delivery, line.invoice, line.delivered, line.invoiced) for line in order.lines]
        self.set_states(order, {name: body.pop(name) for name in ("Status", "DeliveryStatus", "InvoiceStatus") if name in body})
        old_number = order.d["OrderNumber"]
        order.d.update({name: value_of(name, value, fields) for name, value in body.items()})
        if "Discount" in body and not set(body) & AMOUNTS:
            self.store.total(order)
        if order.d["OrderNumber"] != old_number:
            self.store.by_number.pop(old_number, None)
            self.store.by_number[order.d["OrderNumber"]] = order
        if not silent:
            self.save_at("Orders", order, stamp)
        for line, old in zip(order.lines, before):
            if old != (line.status, line.delivery, line.invoice, line.delivered, line.invoiced):
                self.store.save("OrderLines", line)
        return self.order(order)

    def save_at(self, name, row, stamp):
        """Saves with a given rowversion; the counter never falls behind it."""
        self.store.save(name, row, "Update", stamp)
        if stamp:
            self.store.counter = max(self.store.counter, stamp)

    def retotal(self, order):
        self.store.total(order)
        self.store.save("Orders", order)

    def post_lines(self, request, match):
        order = self.find(match)
        body = request.json() if request.body else {}
        made = []
        for spec in body if isinstance(body, list) else [body]:
            line = self.new_line(order, max([line.number for line in order.lines], default=0) + 1, dict(spec))
            self.store.save("OrderLines", line, "Create")
            made.append(line)
        self.flush()
        self.retotal(order)
        return self.order(order)

    def patch_line(self, request, match):
        """Raw or short names; "header": false leaves the header and its Timestamp alone."""
        order, line = self.find_line(match)
        body = request.json()
        header, stamp = body.pop("header", True), body.pop("Timestamp", None)
        touched = self.put_line(line, body)
        self.save_at("OrderLines", line, stamp)
        if header and touched & (SHAPE | {"AmountFC", "NetPrice"}):
            self.retotal(order)
        return self.order(order)

    def delete_line(self, request, match):
        order, line = self.find_line(match)
        order.lines.remove(line)
        self.store.delete("OrderLines", line)
        self.retotal(order)
        return self.order(order)

    def delete_order(self, request, match):
        order = self.find(match)
        for line in order.lines:
            self.store.delete("OrderLines", line)
        by_row = self.world.switches["exact_deleted_key_32"] == "ID"
        self.store.delete("Orders", order, order.d["ID"] if by_row else order.id)
        self.store.by_number.pop(order.d["OrderNumber"], None)
        return {"deleted": order.id, "ID": order.d["ID"], "lines": [line.id for line in order.lines]}

    def invoice_order(self, request, match):
        """Makes an invoice for everything not invoiced yet: {"draft": bool, "paid": bool, "partial": bool}."""
        order, body, maker = self.find(match), request.json() if request.body else {}, self.maker
        lines = [line for line in order.lines if line.item is not None]
        for line in lines:
            line.invoiced = line.qty
        invoice, rows = maker.invoicer.make(order, lines, maker.now, draft=bool(body.get("draft")))
        self.store.save("Invoices", invoice, "Create")
        for row in rows:
            self.store.save("InvoiceLines", row, "Create")
        terms = []
        if invoice.d["Status"] == 50:
            total = Decimal(repr(float(invoice.d["AmountDC"])))
            parts = [total] if not body.get("partial") else [total / 2, total - total / 2]
            entry = maker.guid()
            terms = [maker.invoicer.term(invoice, part, bool(body.get("paid")) and place == 0, maker.now, entry)
                     for place, part in enumerate(parts)]
        for term in terms:
            self.store.save("PaymentTerms", term, "Create")
        self.set_states(order, {"InvoiceStatus": 21})
        self.store.save("Orders", order)
        for line in order.lines:
            self.store.save("OrderLines", line)
        return {"invoice": self.describe(invoice, ENTITIES["Invoices"]), "InvoiceID": invoice.id,
                "terms": [self.describe(term, ENTITIES["PaymentTerms"]) for term in terms]}

    # --- other entities -----------------------------------------------------------------------------

    def table(self, match):
        name = match.group(1)
        if name not in ENTITIES or name == "Deleted":
            raise KeyError(name)
        return name

    def link(self, row, name, values):
        """Fields that are links are kept as links, so that names follow; a GUID nobody has stays as it is."""
        links = {"Items": (("ItemGroup", "ItemGroups", "group"),), "SalesItemPrices": (("Item", "Items", "item"),
                                                                                      ("Account", "Accounts", "account"))}
        for field, table, slot in links.get(name, ()):
            if field in values:
                target = self.store[table].rows.get(values[field])
                setattr(row, slot, target)
                row.d.pop(field, None)
                if target is not None or values[field] is None:
                    values.pop(field)

    def post_entity(self, request, match):
        """One record or a list, raw Exact field names; Accounts and Items get drawn values for what is not said."""
        name = self.table(match)
        body = request.json() if request.body else {}
        made = [self.make_entity(name, dict(spec)) for spec in (body if isinstance(body, list) else [body])]
        answer = [self.describe(row, ENTITIES[name]) for row in made]
        return Response(200, answer if isinstance(body, list) else answer[0])

    def make_entity(self, name, spec):
        fields, maker = ENDPOINTS[ENTITIES[name]].fields, self.maker
        values = {field: value_of(field, value, fields) for field, value in spec.items()}
        key = values.pop("ID", None)
        if name == "Accounts":
            row = maker.customer(age_days=0)
        elif name == "Items":
            row = maker.item(age_days=0)
        else:
            kind = Price if name == "SalesItemPrices" else Row
            row = kind(maker.guid(), dict(maker.stamps(0)))
            if name == "SalesItemPrices":
                row.d.update({"Currency": "EUR", "Price": 1, "Quantity": 1, "Unit": "pc", "DefaultItemUnit": "pc", "NumberOfItemsPerUnit": 1})
            maker.add(name, row, 0)
        if key:
            row.id = key
        self.link(row, name, values)
        row.d.update(values)
        if name == "ItemGroups":
            maker.groups.append(row)
        if name == "Items" and "StandardSalesPrice" in values:
            for _, table, price in maker.dated:
                if table == "SalesItemPrices" and price.item is row:
                    price.d["Price"] = values["StandardSalesPrice"]
        self.flush()
        return row

    def patch_entity(self, request, match):
        name = self.table(match)
        row = self.store[name].rows[match.group(2).lower()]
        fields = ENDPOINTS[ENTITIES[name]].fields
        values = {field: value_of(field, value, fields) for field, value in request.json().items()}
        stamp = values.pop("Timestamp", None)               # any rowversion, also one above 2^53
        if isinstance(row, Slotted):
            row.extra = dict(row.extra or {}, **values)
        else:
            self.link(row, name, values)
            row.d.update(values)
        self.save_at(name, row, stamp)
        if name == "Invoices":                              # any change of an invoice bumps header and lines alike
            for line in row.lines:
                self.store.save("InvoiceLines", line)
        return self.describe(row, ENTITIES[name])

    def delete_entity(self, request, match):
        name = self.table(match)
        row = self.store[name].rows[match.group(2).lower()]
        key = None
        if name == "Invoices" and self.world.switches["exact_deleted_key_13"] == "ID":
            key = row.d["ID"]
        for line in row.lines if name == "Invoices" else ():
            self.store.delete("InvoiceLines", line)
        self.store.delete(name, row, key)
        return {"deleted": row.id}

    def post_deleted(self, request, match):
        """A deletion row of any type and key: {"EntityType": n, "EntityKey": guid}."""
        body = request.json()
        row = self.store.add_deleted(body["EntityType"], body.get("EntityKey") or self.maker.guid())
        return self.describe(row, ENTITIES["Deleted"])

    # --- consent, versions, limits ------------------------------------------------------------------------

    def consent(self, request, match):
        body = request.json() if request.body else {}
        code = self.service.oauth.new_code(body.get("redirect_uri"))
        answer = {"code": code}
        if "state" in body:
            answer["state"] = body["state"]
        return answer

    def revoke(self, request, match):
        self.service.oauth.revoke()
        return {"ok": True}

    def token_age(self, request, match):
        """Only the tokens grow older; the clock stays."""
        seconds = float(request.json()["seconds"])
        oauth = self.service.oauth
        oauth.refresh_issued -= seconds
        oauth.refresh_used -= seconds
        oauth.access = {token: end - seconds for token, end in oauth.access.items()}
        return oauth.describe()

    def division_move(self, request, match):
        counter = self.store.renumber()
        for row in self.store["Divisions"].rows.values():
            row.d["DivisionMoveDate"] = self.store.move_date
        return {"counter": counter, "DivisionMoveDate": exact_time.naive(self.store.move_date).isoformat()}

    def late_commit(self, request, match):
        return {"committed": self.store.late_commit()}

    def rowversion(self, request, match):
        """Sets the counter, to go above 2^53 for instance: {"counter": n}; or lets it jump: {"skip": n}."""
        body = request.json()
        self.store.counter = int(body["counter"]) if "counter" in body else self.store.counter + int(body.get("skip", 0))
        return {"counter": self.store.counter}

    def limits(self, request, match):
        """What is used up: {"day_used": n, "minute_used": n}; and a release of the error block: {"unblock": true}."""
        limits, body = self.service.limits, request.json() if request.body else {}
        limits.windows()
        limits.day_calls = body.get("day_used", limits.day_calls)
        limits.minute_calls = body.get("minute_used", limits.minute_calls)
        if "minute_used" in body:
            limits.minute_refused = False
        if body.get("unblock"):
            limits.blocked.clear()
            limits.errors.clear()
        return self.get_limits(request, match)

    def get_limits(self, request, match):
        return dict(self.service.limits.describe(), token_calls_today=self.service.oauth.calls_today)

    def get_divisions(self, request, match):
        return {"divisions": [{"division": division, "Description": company.store["Divisions"].rows[division].d["Description"],
                               "orders": len(company.store["Orders"].rows)} for division, company in self.service.companies.items()]}

    def post_division(self, request, match):
        """A further division: {"division": n, "description": text, "orders": n, "customers": n, "items": n, "months": n}."""
        body = request.json()
        company = self.service.add_company(int(body.pop("division")), **body)
        return {"division": company.store.division, "orders": len(company.store["Orders"].rows)}

    def webhooks(self, request, match):
        return {"subscriptions": [dict(row.d, ID=row.id) for row in self.store["WebhookSubscriptions"].rows.values()],
                "sent": self.service.writer.sent}

    def live(self, request, match):
        """A bit of business: {"new": n, "progress": n} makes new orders and moves open ones on."""
        body = request.json() if request.body else {}
        new = [self.create({}).d["OrderNumber"] for _ in range(int(body.get("new", 1)))]
        moved = []
        open_orders = [order for order in self.store["Orders"].rows.values() if order.d["Status"] in (12, 20) and order.ts]
        self.maker.random.shuffle(open_orders)
        for order in open_orders[:int(body.get("progress", 0))]:
            delivery, invoice = order.d["DeliveryStatus"], order.d["InvoiceStatus"]
            steps = {12: (20, invoice), 20: (21, invoice), 21: (21, 21)}
            self.set_states(order, dict(zip(("DeliveryStatus", "InvoiceStatus"), steps.get(delivery, (21, 21)))))
            self.store.save("Orders", order)
            for line in order.lines:
                self.store.save("OrderLines", line)
            moved.append(order.d["OrderNumber"])
        return {"new": new, "moved": moved}


def routes(world):
    control = Control(world)

    def inside(handler):
        """?division=n chooses the division; without it the first one is meant."""
        def run(request, match):
            service = world.exact
            division = request.query.get("division")
            service.company = service.home
            if division is not None:
                service.enter(int(division))
            return handler(request, match)
        return run
    table = {
        ("GET", r"/exact/divisions"): control.get_divisions,
        ("POST", r"/exact/divisions"): control.post_division,
        ("GET", r"/exact/state"): control.get_state,
        ("GET", r"/exact/summary"): control.summary,
        ("GET", r"/exact/orders"): control.get_orders,
        ("POST", r"/exact/orders"): control.post_orders,
        ("GET", r"/exact/orders/(\d+)"): control.get_order,
        ("PATCH", r"/exact/orders/(\d+)"): control.patch_order,
        ("DELETE", r"/exact/orders/(\d+)"): control.delete_order,
        ("POST", r"/exact/orders/(\d+)/lines"): control.post_lines,
        ("PATCH", r"/exact/orders/(\d+)/lines/(\d+)"): control.patch_line,
        ("DELETE", r"/exact/orders/(\d+)/lines/(\d+)"): control.delete_line,
        ("POST", r"/exact/orders/(\d+)/invoice"): control.invoice_order,
        ("POST", r"/exact/entities/Deleted"): control.post_deleted,
        ("POST", r"/exact/entities/([A-Za-z]+)"): control.post_entity,
        ("PATCH", r"/exact/entities/([A-Za-z]+)/([0-9a-fA-F-]{36})"): control.patch_entity,
        ("DELETE", r"/exact/entities/([A-Za-z]+)/([0-9a-fA-F-]{36})"): control.delete_entity,
        ("POST", r"/exact/consent"): control.consent,
        ("POST", r"/exact/revoke"): control.revoke,
        ("POST", r"/exact/token_age"): control.token_age,
        ("POST", r"/exact/division_move"): control.division_move,
        ("POST", r"/exact/late_commit"): control.late_commit,
        ("POST", r"/exact/rowversion"): control.rowversion,
        ("GET", r"/exact/limits"): control.get_limits,
        ("POST", r"/exact/limits"): control.limits,
        ("GET", r"/exact/webhooks"): control.webhooks,
        ("POST", r"/exact/live"): control.live,
    }
    return {route: inside(handler) for route, handler in table.items()}
