"""The simulated Exact Online service.

Belongs here: routing, tokens and scopes at the door, rate limits with their headers, the error block, the execution of
reads (sync, bulk, single, functions), envelopes and paging.
Does not belong here: OAuth pages (exact_oauth.py), writes (exact_write.py), the query language (exact_odata.py), writing
rows (exact_render.py), the data (exact_store.py, generator.py, orders_csv.py).
Why: this is the judge of the client's manners towards Exact: every call is priced, and everything that could endanger a
customer's access (early refreshes, writes to the order flow, parallel calls, ignored limits) becomes a violation.
"""

import gc
import json
import random
import re
import types
from bisect import bisect_right
from json.encoder import encode_basestring
from urllib.parse import quote

import exact_limits
import exact_odata
import exact_render
import exact_time
import exact_write
import generator
import orders_csv
from exact_limits import Limits
from exact_oauth import AUTHORIZE_PATH, TOKEN_PATH, OAuth
from exact_odata import ODataError
from exact_schema import ENDPOINTS, SCOPES, SYNC_TIMESTAMP_NAMES
from exact_store import InvoiceLine, Line, Row, Store
from httpd import Response, Service
from people import CONSENT_USER

PATH = re.compile(r"^/api/v1/(?:(current)/|(\d+)/)(.+?)(?:\((.*)\))?(/\$count)?/?$")
KEY = re.compile(r"^(?:guid)?'?([0-9a-fA-F-]{36})'?$|^(\d+)L?$")
API_DIVISION = re.compile(r"^/api/v1/(?:current/|(\d+)/)")
MAX_URL = 6000
OPTIONS = ("$select", "$filter", "$expand", "$orderby", "$top", "$skip", "$skiptoken", "$inlinecount")
MANDATORY = ("This endpoint has mandatory filtering applied. A GET request for this endpoint must have a $filter parameter "
             "with one of the following fields in the url: ")
# the endpoint that describes the rows of an expanded collection
COLLECTIONS = {
    ("salesorder/SalesOrders", "SalesOrderLines"): "salesorder/SalesOrderLines",
    ("bulk/SalesOrder/SalesOrders", "SalesOrderLines"): "bulk/SalesOrder/SalesOrderLines",
    ("salesinvoice/SalesInvoices", "SalesInvoiceLines"): "salesinvoice/SalesInvoiceLines",
    ("bulk/SalesInvoice/SalesInvoices", "SalesInvoiceLines"): "bulk/SalesInvoice/SalesInvoiceLines"}
NO_QUANTITIES = ("QuantityDelivered", "QuantityInvoiced", "Margin")


class Refused(Exception):
    """An answer that is not 200; carries status, text and headers."""

    def __init__(self, status, text, headers=None):
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or {}


def define_switches(world):
    define = world.define_switch
    define("exact_missing_scopes", [], "scopes the app does not have: " + ", ".join(SCOPES))
    define("exact_page_size", None, "rows per page of sync and bulk (null: 1000)")
    define("exact_page_size_single", None, "rows per page of single endpoints (null: 60)")
    define("exact_latency_ms", 0, "real milliseconds before each API answer")
    define("exact_envelope", "results", "results: {d:{results:[]}}; array: {d:[]} wherever there is no further page")
    define("exact_deferred_expansions", False, "requested expansions stay deferred: false, true (all) or \"some\" (every third order)")
    define("exact_header_id_equals_order_id", False, "ID of the order header feed equals OrderID")
    define("exact_deleted_key_32", "OrderID", "EntityKey of deleted order headers: OrderID or ID")
    define("exact_deleted_key_13", "InvoiceID", "EntityKey of deleted invoices: InvoiceID or ID")
    define("exact_lines_without_quantities", False, "refuse QuantityDelivered, QuantityInvoiced and Margin on the sync lines feed")
    define("exact_header_discount", "fraction", "header Discount as fraction or percentage")
    define("exact_float_noise", False, "fractions come with binary noise, such as 19.900000000000002")
    define("exact_header_amounts", "incl", "AmountFC and AmountDC of order headers incl or excl VAT")
    define("exact_line_discount", "own", "Discount of order lines: own (of this line) or default_price (against the item's list price)")
    define("exact_salesperson", "user", "Salesperson of orders: GUID of the user or of the employee")
    define("exact_receivable_sign", "negative", "AmountDC and AmountFC of payment terms: negative or positive for an amount to receive")
    define("exact_sync_skiptoken", "long", "$skiptoken of sync pages: long (123L), plain (123) or guid (key of the last row)")
    define("exact_url_too_long_status", 414, "status for a URL of more than 6000 characters: 414 or 413")
    define("exact_progress_touches_header", True, "a change of delivery or invoice state by the control interface raises the header's Timestamp")
    define("exact_line_amounts", "excl", "AmountFC of order lines excl or incl VAT")
    define("exact_shuffle_pages", False, "rows of a sync page in no order")
    define("exact_rowversion_as_string", False, "Int64 values as JSON strings")
    define("exact_duplicate_in_page", False, "a key twice in a sync page, an older state beside the newest: false, older_first, newer_first")
    define("exact_next_host", None, "scheme and host of __next instead of the own one, such as https://evil.example")
    define("exact_next_encoding", "raw", "__next with raw quotes and dollars, encoded (all escaped), or spaces (raw blanks)")
    define("exact_exact_multiple_next", True, "a full last page carries a __next that leads to an empty page")
    define("exact_plain_date_slashes", False, "/Date()/ with plain instead of escaped slashes")
    define("exact_date_zone", "local", "/Date()/ counts local wall clock, or utc")
    define("exact_sync_filter_required", False, "sync endpoints refuse a call without $filter")
    define("exact_bulk_filter_required", False, "bulk endpoints refuse a call without $filter")
    define("exact_select_required", True, "bulk and single endpoints refuse a call without $select or $top=1")
    define("exact_sync_timestamp", "results", "SyncTimestamp answers: results, array, object, none (empty list)")
    define("exact_server_time_format", "%Y-%m-%d %H:%M:%S", "format of Me.ServerTime")
    define("csv_no_customer", "account", "orders of the CSV without CustomerID: account (Counter sales) or null; only at the start")


class Company:
    """One division: its data, its limits, and what writes and renders it."""

    def __init__(self, service, division, seed, options, orders, orders_file=None):
        world = service.world
        self.limits = Limits(world)
        self.store = Store(division, world.clock)
        self.renderer = exact_render.Renderer(division)
        gc.disable()                                    # half a million rows are made, none is thrown away
        self.generator = generator.Generator(self.store, world.clock, seed, options)
        if orders_file:
            orders_csv.load(self.generator, orders_file, world.switches["csv_no_customer"])
        else:
            self.generator.orders(orders)
        self.generator.finish()
        gc.enable()
        gc.collect()
        gc.freeze()
        self.writer = exact_write.Writer(service, self.store, self.renderer)


class ExactService(Service):
    name = "exact"
    gzip_minimum = 2048
    defer = True                    # so that parallel calls are seen
    server_header = "Microsoft-IIS/10.0"
    base_url = "http://127.0.0.1"

    def __init__(self, world, options):
        self.world = world
        self.clock = world.clock
        define_switches(world)
        exact_limits.define_switches(world)
        exact_write.define_switches(world)
        seed = getattr(options, "seed", None) or world.seed
        self.oauth = OAuth(world, seed)
        self.random = random.Random("exact %s" % seed)
        self.walks = {}             # row key in a $skiptoken -> Timestamp of that row then
        division = getattr(options, "division", None) or 123456
        early = getattr(options, "switches", None)      # the generator needs its switch before anything starts
        early = json.loads(early) if isinstance(early, str) and early else early or {}
        if "csv_no_customer" in early:
            world.switches["csv_no_customer"] = early["csv_no_customer"]
        self.companies = {division: Company(self, division, seed, options, getattr(options, "orders", 0) or 0,
                                            getattr(options, "orders_csv", None))}
        self.company = self.home = self.companies[division]         # company: of the request at hand

    def add_company(self, division, orders=0, description=None, **more):
        """A further division of the same Exact login, with its own data and limits."""
        if division in self.companies:
            raise ValueError("division %d exists" % division)
        options = types.SimpleNamespace(**dict({"months": 12, "customers": None, "items": None}, **more))
        company = Company(self, division, "%s %d" % (self.world.seed, division), options, orders)
        divisions = self.home.store["Divisions"]
        row = company.store["Divisions"].rows[division]
        row.d.update({"Description": description or "Division %d" % division, "Current": False, "IsMainDivision": False, "Main": False})
        divisions.rows[division] = row
        divisions._keys = None
        company.store.tables["Divisions"] = divisions
        self.companies[division] = company
        return company

    def enter(self, division):
        """Makes a division the one that the request at hand is about; KeyError when there is no such division."""
        self.company = self.companies[division]

    @property
    def store(self):
        return self.company.store

    @property
    def generator(self):
        return self.company.generator

    @property
    def renderer(self):
        return self.company.renderer

    @property
    def limits(self):
        return self.company.limits

    @property
    def writer(self):
        return self.company.writer

    def ready(self):
        """What the ready line of run.py says about this side."""
        return {"division": self.home.store.division, "client_id": self.oauth.client_id,
                "client_secret": self.oauth.client_secret, "webhook_secret": self.oauth.webhook_secret}

    # --- the door -------------------------------------------------------------------------

    def handle(self, request):
        path = request.path
        if path == TOKEN_PATH:
            return self.oauth.token(request)
        if path == AUTHORIZE_PATH:
            return self.oauth.authorize(request)
        match = PATH.match(path)
        name, self.company = "?", self.home
        try:
            if match is None:
                raise Refused(404, "Resource not found for the segment '%s'." % path.rsplit("/", 1)[-1])
            name = ("current/" if match.group(1) else "") + match.group(3)
            response = self.admitted(request, match, name)
        except Refused as refusal:
            response = self.error(request, refusal)
            if refusal.status != 401:
                response.headers.update(self.limits.headers())
        response.operation = "%s %s" % (request.method, name if name in ENDPOINTS else "unknown")
        response.cost = 1
        if response.status in (400, 401, 403, 404) and response.note != "blocked":
            self.limits.count_error(name)
        self.watch_parallel(request)
        latency = self.world.switches["exact_latency_ms"]
        if latency:
            response.delay = latency / 1000.0
        return response

    def watch_parallel(self, request):
        """One call at a time per division is allowed; token calls are not counted."""
        if self.in_flight <= 1:
            return
        home = str(self.home.store.division)
        own = API_DIVISION.match(request.path)
        for other in self.open_requests:
            match = API_DIVISION.match(other.path)
            if other is not request and match and own and (match.group(1) or home) == (own.group(1) or home) \
                    and not other.connection.hung_up():
                self.world.violation("exact", "more than one call in flight: %s %s" % (request.method, request.path))
                return

    def admitted(self, request, match, name):
        refused = self.oauth.check(request.headers.get("authorization"))
        if refused:
            raise Refused(401, "Unauthorized", {"WWW-Authenticate": self.challenge(refused)})
        known = match.group(2) is None or int(match.group(2)) in self.companies
        if match.group(2) is not None and known:
            self.enter(int(match.group(2)))
        response = self.limits.admit()
        if response is not None:
            return response
        if self.limits.is_blocked(name):
            response = self.error(request, Refused(self.world.switches["exact_error_block_status"],
                                                   "Too many errors: this endpoint is blocked for this application."))
            response.note = "blocked"
            return response
        if not known:
            raise Refused(403, "Forbidden - No access to division %s." % match.group(2))
        response = self.routed(request, match, name)
        response.headers.update(self.limits.headers())
        return response

    @staticmethod
    def challenge(refused):
        """The header of a 401; its text is URL encoded, and says whether the token has expired."""
        if refused == "expired":
            text = "The message has expired. The access token is no longer valid, it expired after 600 seconds."
        else:
            text = "The access token is unknown or has no rights."
        return 'Bearer error="invalid_token", error_description="%s"' % quote(text, safe="")

    # --- answers -------------------------------------------------------------------------------------

    @staticmethod
    def wants_json(request):
        return "application/json" in request.headers.get("accept", "")

    def error(self, request, refusal):
        if self.wants_json(request):
            body = {"error": {"code": "", "message": {"lang": "", "value": refusal.text}}}
            return Response(refusal.status, body, dict(refusal.headers))
        text = refusal.text.replace("&", "&amp;").replace("<", "&lt;")
        return Response(refusal.status, '<?xml version="1.0" encoding="utf-8" standalone="yes"?><error xmlns="http://schemas.'
                        'microsoft.com/ado/2007/08/dataservices/metadata"><code></code><message xml:lang="">%s</message></error>'
                        % text, dict(refusal.headers), content_type="application/xml;charset=utf-8")

    def answer(self, request, text, status=200):
        """JSON text as it is, or the Atom form of it when the client did not ask for JSON."""
        if self.wants_json(request):
            return Response(status, exact_render.encode(text))
        data = json.loads(text)["d"]
        rows = data if isinstance(data, list) else data.get("results", [data])
        entries = []
        for row in rows:
            values = "".join("<d:%s%s</d:%s>" % (name, ' m:null="true">' if value is None else ">" + _xml(value), name)
                             for name, value in row.items() if not isinstance(value, dict))
            entries.append('<entry><content type="application/xml"><m:properties>%s</m:properties></content></entry>' % values)
        atom = ('<?xml version="1.0" encoding="utf-8"?><feed xmlns="http://www.w3.org/2005/Atom" xmlns:d="http://schemas.microsoft'
                '.com/ado/2007/08/dataservices" xmlns:m="http://schemas.microsoft.com/ado/2007/08/dataservices/metadata">%s</feed>'
                % "".join(entries))
        return Response(status, atom.encode("utf-8", "replace"), content_type="application/atom+xml;charset=utf-8")

    def envelope(self, rows, following=None, count=None):
        if self.world.switches["exact_envelope"] == "array" and following is None and count is None:
            return '{"d":[' + ",".join(rows) + "]}"
        parts = ['{"d":{']
        if count is not None:
            parts.append('"__count":"%d",' % count)
        parts.append('"results":[' + ",".join(rows) + "]")
        if following is not None:
            parts.append(',"__next":' + encode_basestring(following))
        return "".join(parts) + "}}"

    # --- routing ----------------------------------------------------------------------------------------

    def routed(self, request, match, name):
        endpoint = ENDPOINTS.get(name)
        if endpoint is None or (endpoint.kind == "me") != bool(match.group(1)):
            raise Refused(404, "Resource not found for the segment '%s'." % name.rsplit("/", 1)[-1])
        if len(request.target) > MAX_URL:
            raise Refused(self.world.switches["exact_url_too_long_status"], "The request URI is too long.")
        verb = "read" if request.method == "GET" else "write"
        if endpoint.scope in self.world.switches["exact_missing_scopes"]:
            raise Refused(403, "Forbidden - Application Scope Violated. Cannot %s '%s' scope." % (verb, endpoint.scope))
        key = self.key(match.group(4)) if match.group(4) is not None else None
        if request.method != "GET":
            return self.writer.write(request, endpoint, key)
        try:
            if endpoint.kind == "function":
                return self.sync_timestamp(request)
            query = Query(self, request, endpoint, key is not None)
            if endpoint.kind == "me":
                self.refresh_me()
            if key is not None:
                return self.one(request, endpoint, query, key)
            if match.group(5):
                return Response(200, str(len(self.matching(endpoint, query))), content_type="text/plain;charset=utf-8")
            return self.sync(request, endpoint, query) if endpoint.kind == "sync" else self.paged(request, endpoint, query)
        except ODataError as error:
            raise Refused(400, str(error)) from None

    @staticmethod
    def key(text):
        match = KEY.match(text)
        if match is None:
            raise Refused(400, "Error in query syntax.")
        return match.group(1).lower() if match.group(1) else int(match.group(2))

    def page_size(self, endpoint):
        switches = self.world.switches
        chosen = switches["exact_page_size_single"] if endpoint.kind in ("single", "me") else switches["exact_page_size"]
        return chosen or endpoint.page_size

    # --- reading -------------------------------------------------------------------------------------------

    def one(self, request, endpoint, query, key):
        if endpoint.kind != "single":
            raise Refused(404, "Resource not found for the segment '%s'." % endpoint.path.rsplit("/", 1)[-1])
        row = self.store[endpoint.table].rows.get(key)
        if row is None:
            raise Refused(404, "Resource not found for the segment '%s'." % endpoint.path.rsplit("/", 1)[-1])
        return self.answer(request, '{"d":' + query.write(row) + "}")

    def sync(self, request, endpoint, query):
        """One page of a feed: by Timestamp, ascending."""
        size = self.page_size(endpoint)
        bound, inclusive = exact_odata.lower_bound(query.tree, "Timestamp") or (0, False) if query.tree else (0, False)
        if query.token is not None:
            bound, inclusive = self.walks.get(query.token, 0) if isinstance(query.token, str) else query.token, False
        table = self.store[endpoint.table]
        simple = query.tree is None or (query.tree[0] in ("gt", "ge") and query.tree[1][0] == "field")
        if simple and endpoint.table != "Deleted":
            rows = table.after(bound, size, inclusive)
        else:
            accept = exact_odata.evaluator(query.tree) if query.tree else None
            oldest = self.store.oldest_deletion() if endpoint.table == "Deleted" else None
            rows = [row for row in table.after(bound, None, inclusive) if (accept is None or accept(row))
                    and (oldest is None or row.d.get("DeletedDate", oldest) >= oldest)][:size]
        following = None
        if query.top is not None:
            rows = rows[:query.top]
        if len(rows) == size and (self.world.switches["exact_exact_multiple_next"] or table.after(rows[-1].ts, 1)):
            following = query.next_url(self.sync_token(rows[-1]))
        texts = [query.write(row) for row in rows]
        if self.world.switches["exact_duplicate_in_page"] and rows:
            texts = self.duplicated(rows, texts, query)
        if self.world.switches["exact_shuffle_pages"]:
            self.random.shuffle(texts)
        return self.answer(request, self.envelope(texts, following))

    def sync_token(self, row):
        form = self.world.switches["exact_sync_skiptoken"]
        if form == "guid":
            self.walks[str(row.id)] = row.ts            # the row may change before the next page is asked for
            return "guid'%s'" % row.id
        return "%dL" % row.ts if form == "long" else str(row.ts)

    def duplicated(self, rows, texts, query):
        """Every tenth key twice: an earlier state of the row, with a lower Timestamp, comes along."""
        result = []
        for index, (row, text) in enumerate(zip(rows, texts)):
            if index % 10 or "Timestamp" not in query.fields:
                result.append(text)
                continue
            older = text.replace('"Timestamp":%d' % row.ts, '"Timestamp":%d' % (row.ts - 1))
            older = older.replace('"Timestamp":"%d"' % row.ts, '"Timestamp":"%d"' % (row.ts - 1))
            for name in ("YourRef", "Notes", "Name", "Description"):
                if name in query.fields:
                    older = re.sub('"%s":(null|"(?:[^"\\\\]|\\\\.)*")' % name, '"%s":"older state"' % name, older, count=1)
                    break
            pair = [older, text]
            if self.world.switches["exact_duplicate_in_page"] == "newer_first":
                pair.reverse()
            result.extend(pair)
        return result

    def candidates(self, endpoint, query):
        """(rows in key order or None for all): uses an index when the filter names keys."""
        if query.tree is None:
            return None
        names = {"Orders": ("OrderID", "OrderNumber"), "OrderLines": ("ID", "OrderID", "OrderNumber"),
                 "Invoices": ("InvoiceID",), "InvoiceLines": ("ID", "InvoiceID")}.get(endpoint.table, ("ID",))
        hint = exact_odata.wanted_keys(query.tree, names)
        if hint is None:
            return None
        field, values = hint
        store, rows = self.store, []
        for value in dict.fromkeys(values):
            if field in ("ID", "OrderID", "InvoiceID") and field == endpoint.key:
                row = store[endpoint.table].rows.get(value)
                rows.extend([row] if row is not None else [])
            elif field == "OrderNumber" and endpoint.table == "Orders":
                row = store.by_number.get(value)
                rows.extend([row] if row is not None else [])
            else:
                parent = store.by_number.get(value) if field == "OrderNumber" else \
                    store["Orders" if field == "OrderID" else "Invoices"].rows.get(value)
                rows.extend(parent.lines if parent is not None else [])
        rows.sort(key=lambda row: str(row.id))
        return rows

    def matching(self, endpoint, query):
        """All rows that fit the filter, in key order."""
        rows = self.candidates(endpoint, query)
        table = self.store[endpoint.table] if endpoint.kind != "me" else None
        if rows is None:
            rows = [self.store.me_row] if table is None else [table.rows[key] for key in table.keys()]
        if endpoint.path.endswith("cashflow/Receivables") or endpoint.path.endswith("Cashflow/Receivables"):
            rows = [row for row in rows if row.get("LineType") == 20]
        if query.tree is not None:
            accept = exact_odata.evaluator(query.tree)
            rows = [row for row in rows if accept(row)]
        return rows

    def paged(self, request, endpoint, query):
        """One page by key: bulk, single, Me."""
        size = self.page_size(endpoint)
        count = None
        plain = query.order is None and not query.skip and not query.count
        if plain and endpoint.kind != "me" and "eceivables" not in endpoint.path:
            rows, more = self.key_page(endpoint, query, min(size, query.top or size))
        else:
            rows = self.matching(endpoint, query)
            count = len(rows) if query.count else None
            for name, descending in reversed(query.order or []):
                rows.sort(key=lambda row, name=name: (row.get(name) is not None, row.get(name)), reverse=descending)
            rows = rows[(query.token if isinstance(query.token, int) else 0) + query.skip:]
            rows = rows[:min(size, query.top or size)]
            more = len(rows) == size
        following = None
        if more and len(rows) == size and not (query.top and query.top <= size):
            last = "guid'%s'" % rows[-1].id if plain else str((query.token or 0) + query.skip + size)
            following = query.next_url(last)
        return self.answer(request, self.envelope([query.write(row) for row in rows], following, count))

    def key_page(self, endpoint, query, size):
        """(rows, whether a next page is announced)"""
        table = self.store[endpoint.table]
        accept = exact_odata.evaluator(query.tree) if query.tree is not None else None
        given = self.candidates(endpoint, query)
        token = query.token if query.token is not None else ""
        if given is not None:
            rows = [row for row in given if str(row.id) > str(token) and accept(row)]
            return rows[:size], len(rows) >= size
        keys, rows, found = table.keys(), table.rows, []
        for place in range(bisect_right(keys, token) if token != "" else 0, len(keys)):
            row = rows[keys[place]]
            if accept is None or accept(row):
                found.append(row)
                if len(found) == size:
                    return found, self.world.switches["exact_exact_multiple_next"] or place + 1 < len(keys)
        return found, False

    # --- the odd ones ----------------------------------------------------------------------------------------

    def refresh_me(self):
        """Me tells the time, and the division the person chose last in the web interface."""
        now = self.clock.time()
        fields = self.store.me
        fields["ServerUtcOffset"] = exact_time.offset(now)
        fields["ServerTime"] = exact_time.naive(exact_time.local_ms(now)).strftime(
            self.world.switches["exact_server_time_format"])
        fields.setdefault("CurrentDivision", self.store.division)
        self.store.me_row = Row(CONSENT_USER["exact_guid"], fields)

    def sync_timestamp(self, request):
        query = request.query
        literal, name = query.get("modified", ""), query.get("endPoint", "").strip("'")
        match = re.fullmatch(r"datetime'([^']*)'", literal)
        if match is None or name not in SYNC_TIMESTAMP_NAMES or not query.get("endPoint", "").startswith("'"):
            raise Refused(400, "Error in query syntax: parameters modified and endPoint are needed.")
        try:
            since = exact_time.parse_literal(match.group(1))
        except ValueError:
            raise Refused(400, "Unrecognized 'Edm.DateTime' literal '%s'." % literal) from None
        table = SYNC_TIMESTAMP_NAMES[name]
        best = None
        for row in self.store[table].after(0) if table else ():
            modified = row.modified if isinstance(row, Line) else row.get("Modified")
            if isinstance(modified, int) and modified >= since:
                best = (modified, row.ts)
                break                                       # ascending by Timestamp: the first one is the lowest
        form = self.world.switches["exact_sync_timestamp"]
        if best is None or form == "none":
            return self.answer(request, '{"d":{"results":[]}}')
        endpoint = ENDPOINTS["read/sync/Sync/SyncTimestamp"]
        uri = "%s/api/v1/%d/%s" % (self.base_url, self.store.division, endpoint.path)
        text = '{"__metadata":{"uri":%s,"type":"Exact.Web.Api.Models.Sync.SyncTimestamp"},"Modified":"\\/Date(%d)\\/","API":%s,' \
               '"TimeStampAsBigInt":%s}' % (encode_basestring(uri), best[0], encode_basestring(name), '"%d"' % best[1]
                                            if self.world.switches["exact_rowversion_as_string"] else best[1])
        wrapped = {"results": '{"d":{"results":[%s]}}', "array": '{"d":[%s]}', "object": '{"d":%s}'}[form] % text
        return self.answer(request, wrapped)


class Query:
    """The checked query options of one read, and the writer of its rows."""

    def __init__(self, service, request, endpoint, keyed=False):
        self.service = service
        self.endpoint = endpoint
        self.values = query = request.query
        switches = service.world.switches
        for name in query:
            if name.startswith("$") and name not in OPTIONS:
                raise ODataError("The query parameter '%s' begins with a system-reserved '$' character but is not recognized." % name)
        self.path = request.raw_path
        self.top, self.skip = self.integer("$top"), self.integer("$skip") or 0
        self.count = query.get("$inlinecount") == "allpages"
        self.check_select(switches)
        self.expand = query.get("$expand") or None
        nested = ENDPOINTS.get(COLLECTIONS.get((endpoint.path, self.expand)))
        if self.expand is not None and nested is None:
            raise ODataError("Could not find a property named '%s' on type '%s'." % (self.expand, endpoint.type_name))
        known = nested or next((ENDPOINTS[path] for (own, _), path in COLLECTIONS.items() if own == endpoint.path), None)
        self.fields, self.nested = exact_odata.select(query.get("$select"), endpoint, self.expand, known and known.fields)
        if switches["exact_lines_without_quantities"] and endpoint.path == "sync/SalesOrder/SalesOrderLines":
            self.without_quantities()
        self.tree = self.parse_filter(switches) if not keyed else None
        self.order = None
        if "$orderby" in query:
            if endpoint.kind != "single":
                raise ODataError("The query option $orderby is not supported for this resource.")
            self.order = exact_odata.orderby(query["$orderby"], endpoint)
        self.token = self.parse_token(query.get("$skiptoken"))
        self.style = exact_render.Style(switches)
        self.nested_endpoint = nested if self.nested else None
        self.deferred = switches["exact_deferred_expansions"]
        if self.nested_endpoint is not None:
            self.fields = [name for name in self.fields if name != self.expand]
        self.writers = {}

    def integer(self, name):
        text = self.values.get(name)
        if text is None:
            return None
        if not text.isdigit():
            raise ODataError("Incorrect format for %s argument '%s'." % (name, text))
        return int(text)

    def check_select(self, switches):
        text, endpoint = self.values.get("$select"), self.endpoint
        if text is not None and not text.strip():
            raise ODataError("Syntax error in $select ''.")
        if endpoint.select == "no star" and (text is None or text.strip() == "*"):
            raise ODataError("This endpoint does not support $select=*. Please name the fields in $select.")
        if endpoint.select == "needed" and text is None and switches["exact_select_required"] and \
                not (endpoint.kind == "single" and self.top == 1):
            raise ODataError("This endpoint requires the $select query option%s." % (
                "" if endpoint.kind == "bulk" else " or $top=1"))

    def without_quantities(self):
        for name in NO_QUANTITIES:
            if name in self.fields:
                if self.values.get("$select", "*").strip() != "*":
                    raise ODataError("Could not find a property named '%s' on type '%s'." % (name, self.endpoint.type_name))
                self.fields.remove(name)

    def parse_filter(self, switches):
        text, endpoint = self.values.get("$filter"), self.endpoint
        required = endpoint.must_filter or (endpoint.kind == "sync" and switches["exact_sync_filter_required"]) or \
            (endpoint.kind == "bulk" and switches["exact_bulk_filter_required"])
        if text is None:
            if required:
                raise ODataError(MANDATORY + ", ".join(sorted(endpoint.filterable or endpoint.fields)))
            return None
        if not text.strip():
            raise ODataError("This $filter parameter is not supported for this resource")
        tree = exact_odata.check(exact_odata.Parser(text).parse(), endpoint.fields)
        names = exact_odata.fields_of(tree)
        if not names or exact_odata.kind_of(tree, endpoint.fields) != "bool":
            raise ODataError("This $filter parameter is not supported for this resource")
        if endpoint.filterable is not None:
            wrong = [name for name in names if name not in endpoint.filterable]
            if wrong:
                raise ODataError("Filtering on these fields is not supported: " + ", ".join(wrong))
        return tree

    def parse_token(self, text):
        if text is None:
            return None
        match = re.fullmatch(r"guid'([0-9a-fA-F-]{36})'|(\d+)L?", text.strip())
        if match is None:
            raise ODataError("Error in query syntax: $skiptoken.")
        return match.group(1).lower() if match.group(1) else int(match.group(2))

    def next_url(self, token):
        switches = self.service.world.switches
        host = switches["exact_next_host"] or self.service.base_url
        form = switches["exact_next_encoding"]
        safe = {"encoded": "", "raw": "$,'()/:*", "spaces": "$,'()/:* "}[form]
        pairs = [(name, value) for name, value in self.values.items() if name not in ("$skiptoken", "$skip")]
        pairs.append(("$skiptoken", token))
        return host + self.path + "?" + "&".join(
            "%s=%s" % (quote(name, safe=safe), quote(value, safe=safe)) for name, value in pairs)

    # --- writing rows -----------------------------------------------------------------------

    def write(self, row):
        kind = type(row)
        writer = self.writers.get(kind)
        if writer is None:
            service = self.service
            writer = service.renderer.function(self.endpoint, self.fields, kind, self.style, service.base_url)
            self.writers[kind] = writer
        text = writer(row)
        if self.nested_endpoint is None:
            return text
        return text[:-1] + ',"%s":%s}' % (self.expand, self.collection(row))

    def collection(self, row):
        number = row.get("OrderNumber") or 0
        if self.deferred is True or (self.deferred == "some" and number % 3 == 0):
            uri = "%s%s(guid'%s')/%s" % (self.service.base_url, self.path.partition("(")[0], row.id, self.expand)
            return '{"__deferred":{"uri":%s}}' % encode_basestring(uri)
        kind = InvoiceLine if self.expand == "SalesInvoiceLines" else Line
        writer = self.writers.get(kind)
        if writer is None:
            service = self.service
            writer = self.writers[kind] = service.renderer.function(self.nested_endpoint, self.nested, kind, self.style,
                                                                    service.base_url)
        return '{"results":[' + ",".join([writer(line) for line in row.lines]) + "]}"


def _xml(value):
    return str(value).replace("&", "&amp;").replace("<", "&lt;")
