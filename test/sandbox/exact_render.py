"""Rows to JSON text.

Belongs here: compiling, per endpoint and $select, one function that writes a row as the service would; the forms of
numbers, dates and strings.
Does not belong here: choosing rows, envelopes, HTTP (exact.py).
Why: pages of 1000 rows are the bulk of the work. A compiled function writes a row in a few microseconds, which is
cheaper than keeping the texts of half a million rows in memory.
"""

import json
import math
import re
from json.encoder import encode_basestring

import exact_time
from exact_schema import STATUS_TEXT
from exact_store import UNIT_TEXT, VAT_TEXT, InvoiceLine, Line, Order, Raw, Slotted
from people import PEOPLE

EMPLOYEE = {person["exact_guid"]: person["employee_guid"] for person in PEOPLE}
SURROGATE = re.compile("[\ud800-\udfff]")


def other(value):
    """Any value a test has put into a field, whatever type the field should have."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict) and "$raw" in value:
        return value["$raw"]
    return json.dumps(value, ensure_ascii=False, default=str)


def text(value):
    if type(value) is str:
        return encode_basestring(value)
    return "null" if value is None else other(value)


def real(value):
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is float:
        if value == int(value) and abs(value) < 1e15:
            return str(int(value))
        return repr(value)
    return "null" if value is None else other(value)


def noisy(value):
    """A double with the noise of binary arithmetic: the next one above."""
    if type(value) in (int, float) and value != int(value):
        return repr(math.nextafter(value, math.inf))
    return real(value)


def whole(value):
    if type(value) is int:
        return str(value)
    return "null" if value is None else other(value)


def quoted(value):
    """Int64 as string, one of the switches."""
    return '"%d"' % value if type(value) is int else "null" if value is None else other(value)


def boolean(value):
    if value is True:
        return "true"
    if value is False:
        return "false"
    return "null" if value is None else other(value)


def date(value):
    if type(value) is int:
        return '"\\/Date(%d)\\/"' % value
    return "null" if value is None else other(value)


def plain_date(value):
    if type(value) is int:
        return '"/Date(%d)/"' % value
    return "null" if value is None else other(value)


WRITERS = {"Guid": "text", "String": "text", "Double": "real", "Int16": "whole", "Int32": "whole", "Int64": "whole",
           "Byte": "whole", "Boolean": "boolean", "DateTime": "date", "Binary": "text"}


class Style:
    """The switches that change how a row is written; part of the key of a compiled function."""
    __slots__ = ("plain_dates", "quoted_int64", "lines_with_vat", "percent", "same_id", "utc_dates", "noise", "excl_header",
                 "default_discount", "employees", "positive")

    def __init__(self, switches):
        self.plain_dates = bool(switches["exact_plain_date_slashes"])
        self.quoted_int64 = bool(switches["exact_rowversion_as_string"])
        self.lines_with_vat = switches["exact_line_amounts"] == "incl"
        self.percent = switches["exact_header_discount"] == "percentage"
        self.same_id = bool(switches["exact_header_id_equals_order_id"])
        self.utc_dates = switches["exact_date_zone"] == "utc"
        self.noise = bool(switches["exact_float_noise"])
        self.excl_header = switches["exact_header_amounts"] == "excl"
        self.default_discount = switches["exact_line_discount"] == "default_price"
        self.employees = switches["exact_salesperson"] == "employee"
        self.positive = switches["exact_receivable_sign"] == "positive"

    def key(self):
        return tuple([getattr(self, name) for name in self.__slots__])


class Renderer:
    """Compiles and keeps the functions. One per service."""

    def __init__(self, division):
        self.division = division
        self.compiled = {}

    def function(self, endpoint, fields, row_class, style, base_url):
        """row -> JSON text of one object."""
        key = (endpoint.path, tuple(fields), row_class, style.key(), base_url)
        found = self.compiled.get(key)
        if found is None:
            if len(self.compiled) > 500:
                self.compiled.clear()
            found = self.compiled[key] = self.compile(endpoint, fields, row_class, style, base_url)
        return found

    def compile(self, endpoint, fields, row_class, style, base_url):
        slotted = issubclass(row_class, Slotted)
        names = {"text": text, "real": noisy if style.noise else real, "whole": quoted if style.quoted_int64 else whole, "boolean": boolean,
                 "small": whole, "date": plain_date if style.plain_dates else date, "UNIT_TEXT": UNIT_TEXT,
                 "VAT_TEXT": VAT_TEXT, "STATUS_TEXT": STATUS_TEXT,
                 "DERIVED": getattr(row_class, "derived", {}), "slow": None, "shift": _to_utc, "times": _times,
                 "EMPLOYEE": EMPLOYEE, "off_list": _off_list}
        entity = "%s/api/v1/%s%s" % (base_url, "" if endpoint.kind == "me" else "%d/" % self.division, endpoint.path)
        key = "%sL" if endpoint.key == "Timestamp" else "guid'%s'" if endpoint.key != "Code" else "%s"
        uri = encode_basestring(entity + "(" + key.replace("%s", "\x01") + ")")
        head = '{"__metadata":{"uri":' + uri + ',"type":' + encode_basestring(endpoint.type_name) + "}"
        # encode_basestring has escaped the placeholder
        before, after = head.split("\\u0001")
        pieces = [_literal(before), self.expression(endpoint, endpoint.key, row_class, style, bare=True), _literal(after)]
        for name in fields:
            edm = endpoint.fields[name]
            if edm == "Collection":
                deferred = '"%s":{"__deferred":{"uri":%s}}' % (
                    name, encode_basestring(entity + "(" + key.replace("%s", "\x01") + ")/" + name))
                before, after = deferred.split("\\u0001")
                pieces += [_literal("," + before),
                           self.expression(endpoint, endpoint.key, row_class, style, bare=True), _literal(after)]
                continue
            pieces.append(_literal(',"%s":' % name))
            pieces.append(self.expression(endpoint, name, row_class, style))
        body = _join(pieces + [_literal("}")])
        if slotted:
            slow = self.slow(endpoint, fields, row_class, style, before_after=head.split("\\u0001"))
            names["slow"] = slow
            source = "def render(r):\n    if r.extra is not None:\n        return slow(r)\n    return %s\n" % body
        else:
            source = "def render(r):\n    d = r.d\n    return %s\n" % body
        exec(compile(source, "<row of %s>" % endpoint.path, "exec"), names)      # names come from the schema only
        return names["render"]

    def expression(self, endpoint, name, row_class, style, bare=False):
        """Python source for the JSON text of one field (bare: the value itself, for the metadata)."""
        edm = endpoint.fields.get(name, "String")
        if issubclass(row_class, Slotted):
            value = row_class.expressions.get(name)
            if value is None:
                return "'null'"
            if style.lines_with_vat and row_class is Line and name in ("AmountFC", "AmountDC"):
                value = "round(r.amount + r.vat_amount, 2)"
        elif name in row_class.derived:
            value = "(d[%r] if %r in d else DERIVED[%r](r))" % (name, name, name)
        else:
            value = "d.get(%r)" % name
        if endpoint.path == "sync/SalesOrder/SalesOrderHeaders" and name == "ID" and style.same_id:
            value = "r.id"
        if style.percent and row_class is Order and name == "Discount":
            value = "times(d.get('Discount'))"
        if style.excl_header and row_class is Order and name in ("AmountFC", "AmountDC"):
            value = "d.get('AmountFCExclVat')"
        if style.default_discount and row_class is Line and name == "Discount":
            value = "off_list(r)"
        if style.employees and row_class is Order and name == "Salesperson":
            value = "EMPLOYEE.get(d.get('Salesperson'), d.get('Salesperson'))"
        if style.positive and endpoint.table == "PaymentTerms" and name in ("AmountDC", "AmountFC"):
            value = "abs(d.get(%r) or 0)" % name
        if edm == "DateTime" and style.utc_dates and not bare:
            value = "shift(%s)" % value
        if bare:
            return "str(%s)" % value
        if edm in ("Int16", "Int32", "Byte"):
            return "small(%s)" % value
        return "%s(%s)" % (WRITERS[edm], value)

    def slow(self, endpoint, fields, row_class, style, before_after):
        """The same for a row whose fields were overridden by a test."""
        before, after = before_after
        pairs = [(name, endpoint.fields[name]) for name in fields if endpoint.fields[name] != "Collection"]
        shown = {"Guid": text, "String": text, "Double": real, "Boolean": boolean, "Binary": text,
                 "DateTime": plain_date if style.plain_dates else date,
                 "Int64": quoted if style.quoted_int64 else whole}

        def render(row):
            parts = [before + str(row.get(endpoint.key)) + after]
            for name, edm in pairs:
                value = row.get(name)
                if style.lines_with_vat and isinstance(row, Line) and name in ("AmountFC", "AmountDC") \
                        and name not in row.extra:
                    value = round(row.amount + row.vat_amount, 2)
                parts.append(',"%s":%s' % (name, shown.get(edm, whole)(value)))
            return "".join(parts) + "}"
        return render


def _literal(constant):
    return repr(constant)


def _join(pieces):
    """One f-string-free concatenation: neighbouring constants are merged."""
    merged = []
    for piece in pieces:
        if merged and merged[-1][0] in "'\"" and piece[0] in "'\"":
            merged[-1] = repr(eval(merged[-1]) + eval(piece))                      # both are literals made above
        else:
            merged.append(piece)
    return '"".join((%s,))' % ", ".join(merged)


def _to_utc(value):
    if type(value) is not int or value % exact_time.DAY_MS == 0:
        return value
    return int(exact_time.utc_seconds(value) * 1000)


def _off_list(line):
    """The discount as measured against the item's default price."""
    price = line.item and line.item.d.get("StandardSalesPrice")
    return round((price - line.net) / price, 6) if price else line.disc


def _times(value):
    """A fraction as a percentage."""
    return round(value * 100, 6) if isinstance(value, (int, float)) else value


def encode(body):
    """UTF-8; lone surrogates stay escapes, as they would come from the service."""
    try:
        return body.encode("utf-8")
    except UnicodeEncodeError:
        return SURROGATE.sub(lambda match: "\\u%04x" % ord(match.group()), body).encode("utf-8")


def make_getters():
    """Gives the slotted row classes their functions for single fields."""
    space = {"UNIT_TEXT": UNIT_TEXT, "VAT_TEXT": VAT_TEXT, "STATUS_TEXT": STATUS_TEXT}
    for row_class in (Line, InvoiceLine):
        row_class.getters = {name: eval("lambda r: " + source, space)              # sources are constants above
                             for name, source in row_class.expressions.items()}


make_getters()
