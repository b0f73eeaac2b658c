"""Order lines (deal products) and deal discounts of the simulated Pipedrive.

Belongs here: the handlers of /deals/{id}/products, /deals/products and /deals/{id}/discounts.
Does not belong here: how sums and values follow from lines (pipedrive_store.py).
Why: lines are where the tokens go and where the money must be right to the cent.
"""

import sys
import uuid
from decimal import Decimal

from httpd import Response
from pipedrive_rules import (DISCOUNT, Invalid, LINE, LINE_REQUIRED, SORTS, check_body, check_query, failed, not_found,
                             query_ids, refused)
from pipedrive_store import Line, ONCE, deep_plain, page_of, plain

BILLING = ("billing_frequency", "billing_frequency_cycles", "billing_start_date")
PAGE = ("cursor", "limit", "sort_by", "sort_direction")


def define_switches(world):
    define = world.define_switch
    define("negative_quantity", "accept", "negative line quantities: accept or refuse (400)")
    define("negative_price", "accept", "negative line prices: accept or refuse (400)")
    define("zero_quantity", "accept", "line quantity 0: accept or refuse (400)")
    define("shuffle_bulk", False, "the answer of a bulk add is not in the order of the request")
    define("bulk_partial", 0, "bulk add: this many lines are stored, then 500; 0 = all or nothing")
    define("bulk_delete_partial", 0, "bulk delete: at most this many lines go, and only they are named in the answer; 0 = all")
    define("lines_limit", 0, "most lines a deal may have; 0 = no limit")
    define("discount_needs_lines", False, "a deal discount on a deal without lines is refused (400)")


def money(value):
    return value if isinstance(value, Decimal) else Decimal(value)


class LineHandlers:
    """Mixed into PipedriveService."""

    # --- reading -------------------------------------------------------------------

    def list_lines(self, request, number):
        check_query(request.query, PAGE)
        deal = self.store.tables["deals"].live(number)
        if deal is None:
            return not_found()
        rows, cursor = page_of([line.answer() for line in deal.lines.values()], request.query, SORTS["lines"][:4])
        return Response(200, {"success": True, "data": rows, "additional_data": {"next_cursor": cursor}})

    def list_lines_of_deals(self, request):
        query = request.query
        check_query(query, PAGE + ("deal_ids",))
        ids = query_ids(query, "deal_ids")
        if not ids:
            raise Invalid(failed("deal_ids: Parameter 'deal_ids' is required"))
        rows = []
        for number in dict.fromkeys(ids):
            deal = self.store.tables["deals"].live(number)
            if deal is not None:
                rows.extend(line.answer() for line in deal.lines.values())
        rows, cursor = page_of(rows, query, SORTS["lines"])
        return Response(200, {"success": True, "data": rows, "additional_data": {"next_cursor": cursor}})

    # --- checks ----------------------------------------------------------------------

    def line_deal(self, number):
        deal = self.store.tables["deals"].live(number)
        if deal is None:
            raise Invalid(not_found())
        self.refuse_archived(deal)
        return deal

    def check_line(self, body, required, current=None):
        check_body(body, LINE, required)
        switches = self.world.switches
        if "product_id" in body:
            product = self.store.tables["products"].live(int(body["product_id"]))
            if product is None:
                raise Invalid(refused(400, "Product with id %s was not found" % body["product_id"]))
            if not product.data["is_linkable"] and (current is None or current.product.id != product.id):
                raise Invalid(refused(400, "Product %d cannot be added to a deal" % product.id))
        for name, switch in (("quantity", "negative_quantity"), ("item_price", "negative_price")):
            if name in body and body[name] < 0 and switches[switch] == "refuse":
                raise Invalid(failed("%s: Number must be greater than or equal to 0" % name))
        if body.get("quantity", 1) == 0 and switches["zero_quantity"] == "refuse":
            raise Invalid(failed("quantity: Number must be greater than 0"))
        merged = {**(current.answer() if current else {}), **body}
        discount, kind = merged.get("discount", 0), merged.get("discount_type", "percentage")
        if discount < 0 or (kind == "percentage" and discount > 100):
            raise Invalid(failed("discount: Number must be between 0 and 100" if kind == "percentage"
                                 else "discount: Number must be greater than or equal to 0"))
        if merged.get("tax", 0) < 0:
            raise Invalid(failed("tax: Number must be greater than or equal to 0"))
        if body.get("product_variation_id") is not None:
            raise Invalid(refused(400, "Product variation was not found"))
        frequency, cycles = merged.get("billing_frequency", "one-time"), merged.get("billing_frequency_cycles")
        if frequency != "one-time" and self.budget.plan == "lite":
            raise Invalid(failed("billing_frequency: not available in this plan"))
        if (frequency == "one-time" and cycles is not None) or (frequency == "weekly" and cycles is None):
            raise Invalid(failed("billing_frequency_cycles: does not fit billing_frequency '%s'" % frequency))
        if cycles is not None and not 0 < cycles <= 208:
            raise Invalid(failed("billing_frequency_cycles: Number must be less than or equal to 208"))

    def check_room(self, deal, more):
        limit = self.world.switches["lines_limit"]
        if limit and len(deal.lines) + more > limit:
            raise Invalid(refused(400, "A deal can have at most %d products" % limit))

    # --- writing ------------------------------------------------------------------------

    def make_line(self, deal, body):
        now = self.store.now()
        method = body.get("tax_method")
        if method is None:
            first = next(iter(deal.lines.values()), None)
            method = first.tax_method if first else self.world.switches["default_tax_method"]
        product = self.store.tables["products"].rows[int(body["product_id"])]
        last = next(reversed(deal.lines.values()), None)
        line = Line(self.store.new_line_id(), deal, product, last.order_nr + 10 if last else 10, method, now)
        self.fill_line(deal, line, body)
        deal.lines[line.id] = line
        return line

    def fill_line(self, deal, line, body):
        for name in ("item_price", "quantity", "discount", "tax"):
            if name in body:
                setattr(line, name, money(body[name]))
        for name in ("comments", "is_enabled", "discount_type"):
            if name in body:
                setattr(line, name, deep_plain(body[name]))
        billing = tuple(plain(body.get(name, line.billing[place])) for place, name in enumerate(BILLING))
        line.billing = billing if billing != ONCE else ONCE
        if "product_id" in body:
            line.product = self.store.tables["products"].rows[int(body["product_id"])]
        method = body.get("tax_method")
        if method is not None:
            method = sys.intern(method)
            line.tax_method = method
            for other in deal.lines.values():           # one method for all lines of a deal
                if other.tax_method != method:
                    other.tax_method = method
                    self.store.refresh_line(other)
        self.store.refresh_line(line)

    def lines_changed(self, deal):
        before = dict(deal.data)
        self.store.recompute(deal)
        self.hooks.changed("deals", deal, before, dict(deal.custom))

    def add_line(self, request, number):
        body = request.json()
        deal = self.line_deal(number)
        self.check_line(body, LINE_REQUIRED)
        self.check_room(deal, 1)
        line = self.make_line(deal, body)
        self.lines_changed(deal)
        return Response(201, {"success": True, "data": line.answer()})

    def add_lines(self, request, number):
        body = request.json()
        check_body(body, {"data": "array"}, ("data",))
        deal = self.line_deal(number)
        items = body["data"]
        if not 1 <= len(items) <= 100:
            raise Invalid(failed("data: Array must contain between 1 and 100 element(s)"))
        for item in items:
            self.check_line(item, LINE_REQUIRED)
        self.check_room(deal, len(items))
        partial = self.world.switches["bulk_partial"]
        lines = [self.make_line(deal, item) for item in (items[:partial] if partial else items)]
        self.lines_changed(deal)
        if partial and partial < len(items):
            return refused(500, "Internal server error")
        answer = [line.answer() for line in lines]
        if self.world.switches["shuffle_bulk"]:
            self.world.noise.shuffle(answer)
        return Response(201, {"success": True, "data": answer})

    def update_line(self, request, number, line_number):
        body = request.json()
        deal = self.line_deal(number)
        line = deal.lines.get(line_number)
        if line is None:
            return not_found()
        self.check_line(body, (), line)
        before = line.answer()
        self.fill_line(deal, line, body)
        if line.answer() == before:
            self.world.count("pipedrive", "noop_patches")
        else:
            line.update_time = self.store.now()
            self.lines_changed(deal)
        return Response(200, {"success": True, "data": line.answer()})

    def delete_line(self, request, number, line_number):
        deal = self.line_deal(number)
        if deal.lines.pop(line_number, None) is None:
            return not_found()
        self.lines_changed(deal)
        return Response(200, {"success": True, "data": {"id": line_number}})

    def delete_lines(self, request, number):
        check_query(request.query, ("ids",))
        deal = self.line_deal(number)
        ids = query_ids(request.query, "ids")
        if ids is None:
            ids = list(deal.lines)[:100]
        gone = [item for item in dict.fromkeys(ids) if item in deal.lines]
        if ids and not gone:
            return not_found()
        if self.world.switches["bulk_delete_partial"]:
            gone = gone[:self.world.switches["bulk_delete_partial"]]
        for item in gone:
            del deal.lines[item]
        if gone:
            self.lines_changed(deal)
        more = bool(deal.lines) if "ids" not in request.query else False
        return Response(200, {"success": True, "data": {"ids": gone}, "additional_data": {"more_items_in_collection": more}})

    # --- deal discounts --------------------------------------------------------------------

    def check_discount(self, body, required, current=None):
        check_body(body, DISCOUNT, required)
        merged = {**(current or {}), **body}
        if merged["amount"] < 0:
            raise Invalid(failed("amount: Number must be greater than or equal to 0"))
        if merged["type"] == "percentage" and merged["amount"] > 100:
            raise Invalid(failed("amount: Number must be less than or equal to 100"))

    def list_discounts(self, request, number):
        check_query(request.query, ())
        deal = self.store.tables["deals"].live(number)
        if deal is None:
            return not_found()
        return Response(200, {"success": True, "data": list(deal.discounts.values())})

    def add_discount(self, request, number):
        body = request.json()
        deal = self.line_deal(number)
        self.check_discount(body, ("description", "amount", "type"))
        if not deal.lines and self.world.switches["discount_needs_lines"]:
            raise Invalid(refused(400, "Discount cannot be added to a deal without products"))
        discount = self.make_discount(deal, body)
        self.lines_changed(deal)
        return Response(201, {"success": True, "data": discount})

    def make_discount(self, deal, body):
        now = self.store.now()
        discount = {"id": str(uuid.UUID(int=self.store.rng.getrandbits(128), version=4)),
                    "description": deep_plain(body["description"]), "amount": plain(body["amount"]), "type": body["type"],
                    "deal_id": deal.id, "created_at": now, "created_by": self.store.me, "updated_at": now,
                    "updated_by": self.store.me}
        deal.discounts[discount["id"]] = discount
        return discount

    def update_discount(self, request, number, discount_id):
        body = request.json()
        deal = self.line_deal(number)
        discount = deal.discounts.get(discount_id)
        if discount is None:
            return not_found()
        self.check_discount(body, (), discount)
        before = dict(discount)
        discount.update({name: deep_plain(value) for name, value in body.items()})
        if discount == before:
            self.world.count("pipedrive", "noop_patches")
        else:
            discount["updated_at"] = self.store.now()
            self.lines_changed(deal)
        return Response(200, {"success": True, "data": discount})

    def delete_discount(self, request, number, discount_id):
        deal = self.line_deal(number)
        if deal.discounts.pop(discount_id, None) is None:
            return not_found()
        self.lines_changed(deal)
        return Response(200, {"success": True, "data": {"id": discount_id}})
