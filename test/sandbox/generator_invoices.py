"""Invents the invoices and payment terms that belong to generated orders.

Belongs here: invoice headers and lines from order lines, open items in one or two parts, credit notes, invoices over two
orders and orders over two invoices, drafts, and payable rows that are not ours.
Does not belong here: orders (generator.py), serving.
Why: the way from an order to "paid" is the least direct one in this ERP (lines join, numbers repeat, no field says paid),
so the data must contain every odd case.
"""

from decimal import Decimal

import exact_time
from exact_store import Invoice, InvoiceLine, Row, cents, decimal, number

DAY = 86400
STATUS = {10: "Concept", 20: "Open", 50: "Verwerkt"}
TYPES = {8020: "Verkoopfactuur", 8021: "Creditnota"}


class Invoicer:
    def __init__(self, generator):
        self.generator = generator
        self.number = 26700000
        self.entry = 700000
        self.waiting = {}           # account id -> (order, moment): to be invoiced together with the account's next order

    def order(self, order, moment, changed):
        """Invoices for what is invoiced of an order."""
        if order.d["InvoiceStatus"] not in (20, 21) or order.account is None:
            return
        draw = self.generator.random
        billed = exact_time.utc_seconds(changed)
        lines = [line for line in order.lines if line.invoiced or (order.d["InvoiceStatus"] == 21 and line.item is not None)]
        held = self.waiting.pop(order.account.id, None)
        if held is not None:
            lines = [line for line in held.lines if line.invoiced] + lines
        elif draw.random() < 0.03 and order.d["Discount"] == 0:
            self.waiting[order.account.id] = order
            return
        if len(lines) > 3 and held is None and draw.random() < 0.06:
            half = len(lines) // 2
            self.invoice(order, lines[:half], max(moment, billed - 3 * DAY))
            lines = lines[half:]
        self.invoice(order, lines, billed)

    def finish(self):
        for order in list(self.waiting.values()):
            self.invoice(order, [line for line in order.lines if line.invoiced], exact_time.utc_seconds(order.d["Modified"]))
        self.waiting.clear()

    def invoice(self, order, lines, moment):
        """One invoice with its lines and payment terms."""
        if not lines:
            return None
        maker, draw = self.generator, self.generator.random
        invoice, rows = self.make(order, lines, moment, draft=draw.random() < 0.02)
        made = invoice.d["Created"]
        maker.add("Invoices", invoice, made)
        for row in rows:
            maker.dated.append((made, "InvoiceLines", row))
        if invoice.d["Status"] == 50:
            for term in self.terms(invoice, moment):
                maker.add("PaymentTerms", term, term.d["Modified"])
        if draw.random() < 0.05:
            payable = self.payable(moment)
            maker.add("PaymentTerms", payable, payable.d["Modified"])
        return invoice

    def make(self, order, lines, moment, draft=False):
        """(header, lines), not stored yet."""
        maker, draw = self.generator, self.generator.random
        made = exact_time.local_ms(moment) - draw.randrange(1000)
        day = exact_time.day_ms(exact_time.day_of(made))
        rows, excl, vat = [], Decimal(0), Decimal(0)
        share = 1 - decimal(order.d["Discount"])
        fields = dict(
            {name: order.d.get(name) for name in ("Currency", "Salesperson", "SalespersonFullName", "YourRef", "PaymentCondition",
                                                  "PaymentConditionDescription", "Creator", "CreatorFullName", "Modifier",
                                                  "ModifierFullName", "OrderDate", "Discount")},
            ID=maker.guid(), Division=maker.store.division, Created=made, Modified=made, InvoiceDate=day,
            DueDate=day + 30 * exact_time.DAY_MS, Journal="70 ", JournalDescription="Verkoopboek", Description="Factuur")
        invoice = Invoice(maker.guid(), fields, order.account)
        for place, line in enumerate(lines, 1):
            qty = line.invoiced
            amount = cents(decimal(line.net) * decimal(qty))
            excl += amount
            vat += amount * decimal(line.pct)
            rows.append(InvoiceLine(maker.guid(), invoice, place, line, qty, number(amount)))
        invoice.lines = rows
        excl, vat = cents(excl * share), cents(vat * share)
        rate = order.rate or 1
        status = 20 if draft else 50
        kind = 8021 if excl < 0 else 8020
        if not draft:
            self.number += 1
            self.entry += 1
        fields.update(
            Status=status, StatusDescription=STATUS[status], Type=kind, TypeDescription=TYPES[kind],
            InvoiceNumber=None if draft else self.number, OrderNumber=90000000 + len(maker.dated) % 10000000,
            AmountFC=number(excl + vat), AmountDC=number(cents((excl + vat) * rate)), AmountFCExclVat=number(excl),
            VATAmountFC=number(vat), VATAmountDC=number(cents(vat * rate)), PaymentReference=None if draft else "RF%d" % self.number)
        return invoice, rows

    def terms(self, invoice, moment):
        """The open items of one invoice: one, sometimes two parts; paid by age."""
        draw, fields = self.generator.random, invoice.d
        total = decimal(fields["AmountDC"])
        parts = [total]
        if draw.random() < 0.08 and abs(total) > 20:
            first = cents(total * Decimal("0.4"))
            parts = [first, total - first]
        age = (self.generator.now - moment) / DAY
        entry = self.generator.guid()
        rows = []
        for place, part in enumerate(parts):
            paid = age > 50 or (age > 20 and draw.random() < 0.5)
            if place == 1 and draw.random() < 0.5:
                paid = False
            rows.append(self.term(invoice, part, paid, min(self.generator.now - 60, moment + draw.randint(10, 45) * DAY), entry))
        return rows

    def term(self, invoice, amount, paid, paid_at, entry):
        fields, maker = invoice.d, self.generator
        account = invoice.account
        changed = exact_time.local_ms(paid_at) if paid else fields["Created"] + 5
        paid_day = exact_time.day_ms(exact_time.day_of(changed)) if paid else None
        return Row(maker.guid(), {
            "Account": account.id, "AccountName": account.d.get("Name"), "AccountCode": account.d.get("Code"), "LineType": 20,
            "InvoiceNumber": fields["InvoiceNumber"], "EntryNumber": self.entry, "EntryID": maker.guid(), "TransactionEntryID": entry,
            "TransactionID": maker.guid(), "Journal": fields["Journal"], "JournalDescription": fields["JournalDescription"],
            "AmountDC": number(-amount), "AmountFC": number(-amount), "TransactionAmountDC": number(amount),
            "TransactionAmountFC": number(amount), "Currency": fields["Currency"], "DueDate": fields["DueDate"],
            "InvoiceDate": fields["InvoiceDate"], "EntryDate": fields["InvoiceDate"], "Status": 50 if paid else 20, "IsFullyPaid": paid,
            "LastPaymentDate": paid_day, "EndDate": paid_day, "YourRef": fields.get("YourRef"), "RateFC": 1, "IsBatchBooking": 0,
            "PaymentCondition": fields["PaymentCondition"], "PaymentReference": fields["PaymentReference"], "Created": fields["Created"],
            "Modified": max(changed, fields["Created"]), "Division": maker.store.division, "ApprovalStatus": None})

    def payable(self, moment):
        """A row of a supplier: LineType 22, not ours."""
        maker, draw = self.generator, self.generator.random
        made = exact_time.local_ms(moment)
        return Row(maker.guid(), {
            "Account": maker.guid(), "AccountName": "Keramikfabrik Westerwald", "AccountCode": "%18d" % 90017, "LineType": 22,
            "InvoiceNumber": draw.randint(1, 99999), "EntryNumber": 800000 + draw.randrange(1000), "EntryID": maker.guid(),
            "Journal": "60 ", "AmountDC": draw.randint(100, 9000), "Currency": "EUR", "Status": 20, "IsFullyPaid": False,
            "ApprovalStatus": 2, "Created": made, "Modified": made, "Division": maker.store.division})
