"""Business at the simulated Exact: what people do there all day, by chance and by seed.

Belongs here: the steps and how often each comes.  Does not belong here: what must follow from them (judge.py).
"""

import json
import random
import urllib.error
import urllib.request


class Refused(Exception):
    """The control port said no."""


def control(base, method, path, body=None, timeout=60):
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(base + path, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise Refused("%s %s: %s %s" % (method, path, error.code, error.read()[:300])) from None


# Status, DeliveryStatus, InvoiceStatus as orders go through them, forth and back.
STATES = [(12, 12, 12), (20, 20, 12), (20, 20, 20), (21, 21, 12), (21, 21, 20), (21, 21, 21), (20, 12, 21), (45, 12, 12)]


class Business:
    def __init__(self, base, seed):
        self.base = base
        self.random = random.Random("business %s" % seed)
        self.orders = {raw["OrderNumber"]: None for raw in self.call("GET", "/exact/orders?lines=0")}
        self.accounts = [raw["ID"] for raw in self.call("GET", "/exact/state?entity=Accounts")["Accounts"]]
        self.items = [raw["ID"] for raw in self.call("GET", "/exact/state?entity=Items")["Items"]]
        self.deleted = {}               # OrderID -> order number
        self.pending = set()            # orders in a transaction of Exact that is still open: nobody else may change them
        self.steps = {}
        self.serial = 0
        self.table = [(step, weight) for step, weight in (
            (self.new_order, 12), (self.state, 14), (self.quantity, 8), (self.price, 4), (self.add_lines, 5), (self.drop_line, 5),
            (self.drop_order, 2), (self.cancel, 2), (self.invoice, 3), (self.reference, 3), (self.customer, 2), (self.rename_account, 3),
            (self.rename_item, 3), (self.new_item, 1), (self.discount, 2), (self.late, 2), (self.big_order, 0.4), (self.same_again, 2))]

    def call(self, method, path, body=None):
        return control(self.base, method, path, body)

    def step(self):
        """One step; its name."""
        chosen = self.random.choices([step for step, _ in self.table], [weight for _, weight in self.table])[0]
        chosen()
        self.steps[chosen.__name__] = self.steps.get(chosen.__name__, 0) + 1
        return chosen.__name__

    # --- small things ------------------------------------------------------------------

    def some_order(self):
        # what is new is what changes most
        numbers = [number for number in self.orders if number not in self.pending]
        return self.random.choice(numbers[-30:] if self.random.random() < 0.7 else numbers)

    def some_line(self):
        """(order number, line number), or None when this order has no lines."""
        number = self.some_order()
        lines = self.call("GET", "/exact/orders/%d" % number)["lines"]
        return (number, self.random.choice(lines)["LineNumber"]) if lines else None

    def one_line(self):
        draw = self.random.random()
        if draw < 0.06:
            return {"item": None, "description": "Levering in overleg %d" % self.random.randrange(1000)}
        line = {"quantity": self.random.choice([1, 1, 2, 3, 4, 6, 10, 12, 24, 2.5])}
        if draw < 0.12:
            line["quantity"] = -self.random.randint(1, 5)
        elif draw < 0.15:
            line["quantity"] = 0
        if draw > 0.5:
            line["price"] = round(self.random.uniform(0.01, 250), 2)
        if draw > 0.9:
            line["discount"] = self.random.choice([0.05, 0.1, 0.125, 0.333])
        if draw > 0.95:
            line["item"] = "new"
        return line

    def make(self, lines, **more):
        order = dict({"lines": lines, "status": 12, "delivery_status": 12, "invoice_status": 12}, **more)
        draw = self.random.random()
        if draw < 0.15:
            order["customer"] = "new"
        if self.random.random() < 0.12:
            order["discount"] = self.random.choice([0.03, 0.05, 0.1, 0.033])
        made = self.call("POST", "/exact/orders", order)
        self.orders[made["OrderNumber"]] = made["OrderID"]
        return made

    # --- the steps -----------------------------------------------------------------------

    def new_order(self):
        self.make([self.one_line() for _ in range(self.random.choice([0, 1, 1, 2, 2, 3, 4, 5, 6, 8, 12]))])

    def same_again(self):
        """The same article, quantity and price on several lines: only their ids tell them apart."""
        line = {"quantity": self.random.randint(1, 3), "price": round(self.random.uniform(1, 20), 2)}
        item = self.call("POST", "/exact/orders", {"lines": [dict(line, item="new")], "status": 12})
        self.orders[item["OrderNumber"]] = item["OrderID"]
        code = item["lines"][0]["ItemCode"]
        self.make([dict(line, item=code) for _ in range(self.random.randint(2, 9))])

    def big_order(self):
        self.make([{"quantity": 1 + place % 7} for place in range(self.random.choice([101, 130, 205]))])

    def state(self):
        status, delivery, invoice = self.random.choice(STATES[:-1])
        self.call("PATCH", "/exact/orders/%d" % self.some_order(), {"status": status, "delivery_status": delivery, "invoice_status": invoice})

    def cancel(self):
        self.call("PATCH", "/exact/orders/%d" % self.some_order(), {"status": 45, "delivery_status": 12, "invoice_status": 12})

    def quantity(self):
        place = self.some_line()
        if place:
            self.call("PATCH", "/exact/orders/%d/lines/%d" % place, {"quantity": self.random.choice([1, 2, 3, 5, 8, 13, 21, -2])})

    def price(self):
        place = self.some_line()
        if place:
            self.call("PATCH", "/exact/orders/%d/lines/%d" % place, {"price": round(self.random.uniform(0.01, 99), 2)})

    def add_lines(self):
        self.call("POST", "/exact/orders/%d/lines" % self.some_order(), [self.one_line() for _ in range(self.random.choice([1, 1, 2, 6]))])

    def drop_line(self):
        place = self.some_line()
        if place:
            self.call("DELETE", "/exact/orders/%d/lines/%d" % place)

    def drop_order(self):
        number = self.some_order()
        order = self.call("DELETE", "/exact/orders/%d" % number)
        self.orders.pop(number)
        self.deleted[order["deleted"]] = number

    def invoice(self):
        self.call("POST", "/exact/orders/%d/invoice" % self.some_order(), {})

    def reference(self):
        self.serial += 1
        self.call("PATCH", "/exact/orders/%d" % self.some_order(), {"your_ref": "PO %d" % self.serial})

    def customer(self):
        self.call("PATCH", "/exact/orders/%d" % self.some_order(), {"customer": self.random.choice(["new", "draw"])})

    def discount(self):
        self.call("PATCH", "/exact/orders/%d" % self.some_order(), {"discount": self.random.choice([0, 0.02, 0.05, 0.15])})

    def rename_account(self):
        self.serial += 1
        self.call("PATCH", "/exact/entities/Accounts/" + self.random.choice(self.accounts), {"Name": "Handelshuis %d B.V." % self.serial})

    def rename_item(self):
        self.serial += 1
        self.call("PATCH", "/exact/entities/Items/" + self.random.choice(self.items), {"Description": "Artikel nieuw %d" % self.serial})

    def new_item(self):
        self.items.append(self.call("POST", "/exact/entities/Items", {})["ID"])

    def late(self):
        """A long transaction at Exact: takes its rowversion now, shows itself later."""
        self.serial += 1
        number = self.some_order()
        self.call("PATCH", "/exact/orders/%d" % number, {"your_ref": "laat %d" % self.serial, "late": True})
        self.pending.add(number)

    def late_commit(self):
        self.call("POST", "/exact/late_commit", {})
        self.pending.clear()
