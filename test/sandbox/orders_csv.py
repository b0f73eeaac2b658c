"""Orders from a file of real invoices (form of the UCI data set "Online Retail").

Belongs here: reading the CSV, one order per invoice, its customer, items and item groups, the shift of the dates.
Does not belong here: life cycle, invoices, invented data: those are the generator's.
Why: invented data is too clean. Real descriptions are empty, prices zero, codes odd, and one invoice has a thousand lines.
"""

import csv
import gzip
import io
import re
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from zlib import crc32

import exact_time
from exact_store import Line, Row, Store, number
from people import PEOPLE

CANCELLED = 10000000        # added to the number of a C invoice, which makes it an integer of its own
COUNTRIES = {"United Kingdom": "GB", "Netherlands": "NL", "Germany": "DE", "France": "FR", "Belgium": "BE", "EIRE": "IE", "Spain": "ES",
             "Norway": "NO", "Australia": "AU", "Japan": "JP", "Italy": "IT", "Switzerland": "CH", "Poland": "PL", "Portugal": "PT",
             "Sweden": "SE", "Lithuania": "LT", "Iceland": "IS", "Channel Islands": "GG", "Denmark": "DK", "Cyprus": "CY", "Israel": "IL",
             "Finland": "FI", "Austria": "AT", "Greece": "GR", "Singapore": "SG", "Lebanon": "LB", "USA": "US", "Canada": "CA",
             "Malta": "MT", "Bahrain": "BH", "Brazil": "BR", "RSA": "ZA", "Czech Republic": "CZ", "Hong Kong": "HK",
             "Saudi Arabia": "SA", "United Arab Emirates": "AE"}
COLUMNS = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"]


def open_text(path):
    if path.endswith(".gz"):
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8-sig", errors="replace", newline="")
    return open(path, encoding="utf-8-sig", errors="replace", newline="")


def read(path):
    """{invoice number: [rows]} in the order of the file. A row: code, description, quantity, moment, price, customer, country."""
    invoices, moments, prices, known = {}, {}, {}, {}

    def one(text):
        """The same text as one object: descriptions repeat a hundred times."""
        return known.setdefault(text, text)

    with open_text(path) as handle:
        reader = csv.reader(handle)
        if [name.strip() for name in next(reader)] != COLUMNS:
            raise ValueError("not the expected columns: " + ", ".join(COLUMNS))
        for row in reader:
            if len(row) != len(COLUMNS):
                continue
            moment = moments.get(row[4])
            if moment is None:
                moment = moments[row[4]] = parse_moment(row[4])
            price = prices.get(row[5])
            try:
                if price is None:
                    price = prices[row[5]] = Decimal(row[5])
                quantity = int(row[3])
            except (ValueError, InvalidOperation):
                continue
            invoices.setdefault(row[0], []).append((one(row[1].strip()), one(row[2]), quantity, moment, price,
                                                    one(row[6].partition(".")[0].strip()), one(row[7].strip())))
    return invoices


def parse_moment(text):
    for form in ("%Y-%m-%d %H:%M:%S", "%m/%d/%Y %H:%M", "%d-%m-%Y %H:%M", "%Y-%m-%d %H:%M"):
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    raise ValueError("not a date: " + text)


def order_number(invoice):
    """The invoice's digits; cancellations (C...) and other letters (A...) in ranges of their own."""
    digits = int(re.sub(r"\D", "", invoice) or 0)
    if invoice[:1].upper() == "C":
        return digits + CANCELLED
    return digits + 2 * CANCELLED if not invoice.isdigit() else digits


class Loader:
    def __init__(self, generator, no_customer):
        self.generator = generator
        self.no_customer = no_customer
        self.customers, self.goods, self.groups = {}, {}, {}

    def customer(self, code, country):
        if not code and self.no_customer == "null":
            return None
        key = code or "counter"
        account = self.customers.get(key)
        if account is None:
            letters = COUNTRIES.get(country, "GB")
            account = self.generator.customer(name="Customer %s" % code if code else "Counter sales", code=code or "1",
                                              country="DE" if letters == "DE" else "NL", age_days=400)
            account.d.update({"Country": "%-3s" % letters, "CountryName": country, "SalesVATCode": "2  " if letters == "NL" else "7  "})
            self.customers[key] = account
        return account

    def group(self, code):
        """Items with letters in front (POST, DOT, gift_) make groups of their own, the rest is giftware."""
        letters = re.match(r"[A-Za-z_]+", code)
        name = letters.group().strip("_").upper() or "OTHER" if letters else "Giftware"
        group = self.groups.get(name)
        if group is None:
            stamps = self.generator.stamps(500 * 86400)
            group = Row(self.generator.guid(), dict(stamps, Code=name[:10], Description=name, IsDefault=0, Notes=None))
            self.generator.groups.append(self.generator.add("ItemGroups", group, stamps["Modified"]))
            self.groups[name] = group
        return group

    def item(self, code, description, price):
        item = self.goods.get(code)
        if item is None:
            item = self.goods[code] = self.generator.item(code=code, description=description, price=number(price),
                                                          group=self.group(code), age_days=450)
        elif not item.d["Description"] and description:
            item.d["Description"] = description
        return item

    def order(self, invoice, rows, shift):
        maker = self.generator
        code, country = rows[0][5], rows[0][6]
        account = self.customer(code, country)
        naive = rows[0][3] + shift
        moment = exact_time.utc_seconds(int((naive - exact_time.EPOCH).total_seconds() * 1000))
        roll = crc32(invoice.encode())
        person = PEOPLE[roll % len(PEOPLE)] if roll % 29 else None
        order = maker.header(order_number(invoice), account, person, moment, YourRef=invoice, Description=None, Remarks=None)
        foreign = COUNTRIES.get(country, "GB") != "NL"
        for place, (stock, description, quantity, _, price, _, _) in enumerate(rows, 1):
            line = Line(maker.guid(), order, place)
            line.item = self.item(stock, description, price)
            line.desc = description if description != line.item.d["Description"] else None
            line.qty, line.price = quantity, number(price)
            if foreign:
                line.vat, line.pct = "7  ", 0
            line.due, line.created, line.modified = order.d["DeliveryDate"], order.d["Created"], order.d["Created"]
            Store.price_line(line)
            order.lines.append(line)
        maker.store.total(order)
        age = max(0, (maker.now - moment) / 86400)
        delivery, invoiced, cancelled = (21, 21, False) if invoice[:1].upper() == "C" else self.fate(roll, age)
        maker.progress(order, delivery, invoiced, cancelled)
        changed = order.d["Created"] if order.d["Status"] == 12 else exact_time.local_ms(
            min(maker.now - 5, moment + (1 + roll % 9) * 86400 + roll % 30000))
        maker.book(order, changed)
        maker.invoicer.order(order, moment, changed)

    @staticmethod
    def fate(roll, age):
        """Statuses from the number alone, so that two runs agree: mostly complete, the recent days mixed."""
        share = (roll >> 8) % 100
        if age > 14:
            return (21, 21, False) if share < 86 else (20, 20, False) if share < 92 else (21, 12, False) if share < 95 else (45, 45, True)
        if share < 35:
            return 12, 12, False
        if share < 50:
            return 20, 12, False
        return (21, 12, False) if share < 70 else (21, 21, False) if share < 96 else (45, 45, True)


def load(generator, path, no_customer="account"):
    """Every invoice of the file becomes an order; the last one falls on yesterday."""
    if no_customer not in ("account", "null"):
        raise ValueError("csv_no_customer is account or null")
    invoices = read(path)
    if not invoices:
        return 0
    last = max(rows[-1][3] for rows in invoices.values()).date()
    today = exact_time.day_of(exact_time.local_ms(generator.now))
    shift = (today - last) - (date(1970, 1, 2) - date(1970, 1, 1))
    loader = Loader(generator, no_customer)
    for invoice, rows in invoices.items():
        loader.order(invoice, rows, shift)
    generator.number = max(generator.number, max(order_number(invoice) % CANCELLED for invoice in invoices))
    generator.invoicer.finish()
    return len(invoices)
