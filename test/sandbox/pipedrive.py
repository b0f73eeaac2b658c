"""The simulated Pipedrive: the service with its routes.

Belongs here: authentication, the route table, charging a call, and the handlers of deals, organizations, persons, products,
pipelines, stages, users and currencies.
Does not belong here: body schemas (pipedrive_rules.py), prices and limits (pipedrive_budget.py), storage and money
(pipedrive_store.py), lines, fields, search and webhooks (files of those names).
Why: what a client can call, and in which order it is checked, should be readable in one place.
"""


import people
import pipedrive_fields
import pipedrive_lines
from httpd import BadJson, Response, Service
from pipedrive_budget import COSTS, DEAL_CEILING, PLANS, Budget
from pipedrive_fields import FieldHandlers
from pipedrive_hooks import Hooks
from pipedrive_lines import LineHandlers
from pipedrive_rules import (BODIES, GET_ONE, INFO, NAME_FIELD, PIPELINE, QUERIES, SORT, SORTS, STAGE, Invalid, check_body,
                             check_custom, check_query, failed, is_integer, not_found, parse_datetime, query_ids,
                             query_integer, query_moment, refused)
from pipedrive_search import SearchHandlers
from pipedrive_store import CURRENCIES, ENTITIES, FIELD_SETS, Store, deep_plain, page_of, plain

NOT_FOUND_PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Pipedrive</title></head>
<body><div id="app"></div><noscript>You need to enable JavaScript to run this app.</noscript></body></html>"""
SIMPLE = {"deals": ("title", "owner_id", "person_id", "org_id", "currency", "probability", "visible_to",
                    "expected_close_date", "label_ids"),
          "organizations": ("name", "owner_id", "visible_to", "label_ids", "website", "linkedin", "industry",
                            "annual_revenue", "employee_count"),
          "persons": ("name", "owner_id", "org_id", "visible_to", "label_ids", "marketing_status", "postal_address", "notes",
                      "im", "birthday", "job_title"),
          "products": ("name", "code", "description", "unit", "tax", "owner_id", "is_linkable", "visible_to",
                       "billing_frequency", "billing_frequency_cycles")}
FIRMOGRAPHICS = ("website", "linkedin", "industry", "annual_revenue", "employee_count")
CONTACT_SYNC = ("postal_address", "notes", "im", "birthday", "job_title")


def define_switches(world):
    define = world.define_switch
    define("pipedrive_latency_ms", 0, "real milliseconds before each Pipedrive answer")
    define("inactive_owner", "refuse", "owner_id of a user who is not active: refuse (400) or accept")
    define("won_time_with_status", "accept", "POST /deals with status won or lost and its time: accept or refuse (400)")
    define("value_on_deal_with_lines", "overwrite", "PATCH value on a deal with lines: overwrite, ignore or 400")
    define("stage_pipeline_mismatch", "refuse", "a stage of another pipeline than the one sent: refuse (400) or stage_wins")
    define("deleted_get_404", False, "GET of a soft-deleted record: 404 instead of 200 with is_deleted true")
    define("archived_status", 403, "status with which a write to an archived deal is refused")
    define("deal_limit", None, "most deals of the company; null = the plan's figure")
    define("count_open_only", False, "only open deals count against deal_limit (else all that are not archived or deleted)")
    define("category_as", "id", "how products show their category: id (as text) or label")
    define("products_off", 0, "status (415 or 403) when the company has no products feature; 0 = it has")
    define("firmographics", False, "organizations have website, linkedin, industry, annual_revenue, employee_count")
    define("contact_sync", False, "persons accept job_title, birthday, notes, im, postal_address (else 403)")
    define("empty_custom_fields_clears", True, "PATCH with custom_fields {} clears all custom fields")


class PipedriveService(LineHandlers, FieldHandlers, SearchHandlers, Service):
    name = "pipedrive"
    gzip_minimum = 600
    server_header = "nginx"
    company_domain = "vanderlinden-wonen"

    def __init__(self, world, options):
        self.world = world
        for module in (pipedrive_fields, pipedrive_lines):
            module.define_switches(world)
        define_switches(world)
        self.budget = Budget(world, getattr(options, "plan", "growth"), getattr(options, "seats", 5))
        self.store = Store(world, people.PEOPLE)
        self.hooks = Hooks(world, self.store)
        self.api_token = "%040x" % self.store.rng.getrandbits(160)
        self.oauth_token = "v1u:" + "%064x" % self.store.rng.getrandbits(256)
        self.blame = True
        self.writing = {}           # (kind, id) -> writes whose answer is not sent yet
        self.routes = {}
        self._make_routes()

    def ready(self):
        return {"api_token": self.api_token}

    # --- routes ------------------------------------------------------------------------

    def route(self, version, method, path, operation, handler, *fixed, search=False):
        parts = path.split("/")
        self.routes.setdefault((version, len(parts), parts[0]), []).append(
            (tuple(parts), method, operation, COSTS[operation], handler, fixed, search))

    def _make_routes(self):
        add = self.route
        add("v2", "GET", "deals/archived", "list archived deals", self.list_records, "deals", True)
        add("v2", "GET", "deals/products", "list lines of deals", self.list_lines_of_deals)
        for kind in ENTITIES:
            add("v2", "GET", kind + "/search", "search " + kind, self.search_entity, kind, search=True)
            add("v2", "GET", kind, "list " + kind, self.list_records, kind)
            add("v2", "POST", kind, "create " + kind, self.create_record, kind)
            add("v2", "GET", kind + "/#", "get " + kind, self.get_record, kind)
            add("v2", "PATCH", kind + "/#", "update " + kind, self.update_record, kind)
            add("v2", "DELETE", kind + "/#", "delete " + kind, self.delete_record, kind)
            if kind != "products":
                add("v1", "PUT", kind + "/#/merge", "merge " + kind, self.merge_records, kind)
        lines = "deals/#/products"
        add("v2", "POST", lines + "/bulk", "add lines in bulk", self.add_lines)
        add("v2", "GET", lines, "list lines", self.list_lines)
        add("v2", "POST", lines, "add line", self.add_line)
        add("v2", "DELETE", lines, "delete lines in bulk", self.delete_lines)
        add("v2", "PATCH", lines + "/#", "update line", self.update_line)
        add("v2", "DELETE", lines + "/#", "delete line", self.delete_line)
        add("v2", "GET", "deals/#/discounts", "list discounts", self.list_discounts)
        add("v2", "POST", "deals/#/discounts", "add discount", self.add_discount)
        add("v2", "PATCH", "deals/#/discounts/*", "update discount", self.update_discount)
        add("v2", "DELETE", "deals/#/discounts/*", "delete discount", self.delete_discount)
        add("v2", "GET", "products/#/variations", "list variations", self.list_variations)
        for kind in FIELD_SETS:
            add("v2", "GET", kind, "list " + kind, self.list_fields, kind)
            add("v2", "POST", kind, "create " + kind, self.create_field, kind)
            add("v2", "GET", kind + "/*", "get " + kind, self.get_field, kind)
            add("v2", "PATCH", kind + "/*", "update " + kind, self.update_field, kind)
            add("v2", "DELETE", kind + "/*", "delete " + kind, self.delete_field, kind)
            add("v2", "POST", kind + "/*/options", "add options " + kind, self.add_options, kind)
            add("v2", "PATCH", kind + "/*/options", "update options " + kind, self.update_options, kind)
            add("v2", "DELETE", kind + "/*/options", "delete options " + kind, self.delete_options, kind)
            add("v1", "GET", kind, "v1 list " + kind, self.v1_list_fields, kind)
            add("v1", "GET", kind + "/#", "v1 get " + kind, self.v1_get_field, kind)
            add("v1", "PUT", kind + "/#", "v1 update " + kind, self.v1_update_field, kind)
        for kind in ("pipelines", "stages"):
            add("v2", "GET", kind, "list " + kind, self.list_plain, kind)
            add("v2", "POST", kind, "create " + kind, self.create_plain, kind)
            add("v2", "GET", kind + "/#", "get " + kind, self.get_plain, kind)
            add("v2", "PATCH", kind + "/#", "update " + kind, self.update_plain, kind)
            add("v2", "DELETE", kind + "/#", "delete " + kind, self.delete_plain, kind)
        add("v2", "GET", "itemSearch", "item search", self.item_search, search=True)
        add("v2", "GET", "itemSearch/field", "field search", self.field_search, search=True)
        add("v1", "GET", "users", "users", self.list_users)
        add("v1", "GET", "users/me", "users me", self.users_me)
        add("v1", "GET", "users/find", "users find", self.users_find)
        add("v1", "GET", "users/#", "user", self.get_user)
        add("v1", "PUT", "users/#", "update user", self.put_user)
        add("v1", "GET", "currencies", "currencies", self.currencies)
        add("v1", "GET", "recents", "recents", self.recents)
        add("v1", "GET", "webhooks", "list webhooks", lambda request: self.hooks.list(request))
        add("v1", "POST", "webhooks", "create webhook", lambda request: self.hooks.create(request))
        add("v1", "DELETE", "webhooks/#", "delete webhook", lambda request, number: self.hooks.delete(request, number))

    @staticmethod
    def match(parts, pattern):
        """The values of the pattern's places, or None. # is a number, * is any text."""
        values = []
        for part, wanted in zip(parts, pattern):
            if wanted == "#":
                if not part.isascii() or not part.isdigit() or len(part) > 15:
                    return None
                values.append(int(part))
            elif wanted == "*":
                values.append(part)
            elif part != wanted:
                return None
        return values

    def find_route(self, request):
        """(route, values), or (None, other methods of that path)."""
        path = request.path
        if path.startswith("/api/v2/"):
            version, rest = "v2", path[8:]
        elif path.startswith("/api/v1/"):
            version, rest = "v1", path[8:]
        elif path.startswith("/v1/"):
            version, rest = "v1", path[4:]
        else:
            return None, []
        parts = rest.split("/")
        others = []
        for route in self.routes.get((version, len(parts), parts[0]), ()):
            values = self.match(parts, route[0])
            if values is not None:
                if route[1] == request.method:
                    return route, values
                others.append(route[1])
        return None, others

    # --- one request ---------------------------------------------------------------------

    def handle(self, request):
        route, values = self.find_route(request)
        if route is None:
            if values:
                response = refused(405, "Method not allowed")
                response.headers["allow"] = ", ".join(sorted(set(values)))
                return response
            return Response(404, NOT_FOUND_PAGE, content_type="text/html; charset=utf-8")
        oauth = self.authenticate(request)
        if oauth is None:
            return Response(401, {"success": False, "error": "unauthorized access", "errorCode": 401, "error_info": INFO},
                            {"x-401-by-gw": "true", "x-correlation-id": self.correlation()})
        pattern, _, operation, cost, handler, fixed, search = route
        response = self.budget.admit(cost, search, oauth)
        if response is not None:
            response.operation = operation
            return response
        try:
            response = self.checked(request, pattern, handler, fixed, values)
        except Invalid as invalid:
            response = invalid.response
        response.operation = operation
        response.cost = cost
        if 400 <= response.status < 500 and not self.world.switches["charge_4xx"]:
            self.budget.refund(cost)
            response.cost = 0
        self.budget.headers(response, oauth)
        response.headers["x-correlation-id"] = self.correlation()
        latency = self.world.switches["pipedrive_latency_ms"]
        if latency:
            response.delay = latency / 1000.0
            if values and request.method != "GET":
                self.watch_overlap(pattern[0], values[0], response)
        return response

    def watch_overlap(self, kind, number, response):
        """Counts writes to a record while another write to it (its lines included) is still unanswered."""
        key = (kind, number)
        waiting = self.writing.get(key, 0)
        if waiting:
            self.world.count("pipedrive", "overlapping_writes")
        self.writing[key] = waiting + 1

        def answered():
            self.writing[key] -= 1
            if not self.writing[key]:
                del self.writing[key]

        response.on_sent = answered

    def checked(self, request, pattern, handler, fixed, values):
        off = self.world.switches["products_off"]
        if off and ("products" in pattern or pattern[0] == "productFields"):
            return refused(off, "Products feature is not enabled")
        if request.body and not request.headers.get("content-type", "").lower().startswith("application/json"):
            return refused(400, "Content-Type must be application/json")
        try:
            return handler(request, *fixed, *values)
        except BadJson:
            return refused(400, "Bad request: invalid JSON")

    def authenticate(self, request):
        """False for the API token, True for OAuth, None for neither."""
        token = request.headers.get("x-api-token")
        if "api_token=" in request.raw_query:
            self.world.violation("pipedrive", "API token in the URL of %s %s" % (request.method, request.path))
        if token is not None:
            return False if token == self.api_token else None
        if request.headers.get("authorization") == "Bearer " + self.oauth_token:
            return True
        return None

    def correlation(self):
        return "%016x" % self.world.noise.getrandbits(64)

    def late_headers(self, request, response):
        return {}

    # --- deals, organizations, persons, products: reading -------------------------------------

    def list_records(self, request, kind, archived=False):
        query = request.query
        check_query(query, QUERIES[kind])
        self.check_read_query(query)
        links = [(name, query_integer(query, name)) for name in ("owner_id", "person_id", "org_id", "pipeline_id", "stage_id")
                 if name in query]
        since, until = query_moment(query, "updated_since"), query_moment(query, "updated_until")
        statuses = set(query["status"].split(",")) if "status" in query else None
        if statuses and not statuses <= {"open", "won", "lost", "deleted"}:
            raise Invalid(failed("status: Expected open, won, lost or deleted"))
        deals = kind == "deals"

        def matches(record):
            data = record.data
            if deals:
                if data["is_archived"] != archived:
                    return False
                if statuses is not None:
                    if ("deleted" if data["is_deleted"] else data["status"]) not in statuses:
                        return False
                elif data["is_deleted"]:
                    return False
            elif data["is_deleted"]:
                return False
            for name, value in links:
                if data.get(name) != value:
                    return False
            if since is not None and (data["update_time"] or "") < since:
                return False
            return until is None or (data["update_time"] or "") < until

        records, cursor = self.store.walk(kind, matches, query, SORTS.get(kind, SORT), query_ids(query, "ids"))
        rows = [self.store.render(kind, record, query) for record in records]
        return Response(200, {"success": True, "data": rows, "additional_data": {"next_cursor": cursor}})

    @staticmethod
    def check_read_query(query):
        if len(query.get("custom_fields", "").split(",")) > 15:
            raise Invalid(failed("custom_fields: Array must contain at most 15 element(s)"))
        for name in ("include_option_labels", "include_labels"):
            if query.get(name, "true") not in ("true", "false"):
                raise Invalid(failed("%s: Expected 'boolean'" % name))

    def get_record(self, request, kind, number):
        check_query(request.query, GET_ONE[kind])
        self.check_read_query(request.query)
        record = self.store.tables[kind].rows.get(number)
        if record is None or (record.data["is_deleted"] and self.world.switches["deleted_get_404"]):
            return not_found()
        return Response(200, {"success": True, "data": self.store.render(kind, record, request.query)})

    def list_variations(self, request, number):
        if self.store.tables["products"].live(number) is None:
            return not_found()
        return Response(200, {"success": True, "data": [], "additional_data": {"next_cursor": None}})

    # --- checks that need the store -------------------------------------------------------------

    def check_custom_fields(self, kind, body):
        custom = body.get("custom_fields")
        if custom is None:
            return {}
        fields = self.store.fields[kind]
        singular = kind[:-1]
        messages = []
        for code, value in custom.items():
            field = fields.get(code)
            if field is None or not field.custom:
                messages.append("custom_fields: Parameter '%s' is not allowed for this request" % code)
                continue
            message = check_custom(field, value)
            if message is None and value is not None and field.type in ("user", "org", "people"):
                known = {"user": self.store.users, "org": self.store.tables["organizations"].rows,
                         "people": self.store.tables["persons"].rows}[field.type]
                message = None if int(value) in known else "Unknown id as value"
            if message is not None:
                messages.append("custom_fields: %s for %s custom field '%s'" % (message, singular, code))
        if messages:
            raise Invalid(failed(*messages))
        return {code: self.clean(value) for code, value in custom.items()}

    @staticmethod
    def clean(value):
        if isinstance(value, dict) and set(value) <= {"value", "currency"} and "currency" in value:
            return {"value": plain(value["value"]), "currency": value["currency"]}
        return deep_plain(value)

    def check_links(self, kind, body, current=None):
        """Ids that must exist, names that may not be empty, features that must be on."""
        store = self.store
        if body.get("is_deleted"):
            raise Invalid(failed("is_deleted: records cannot be deleted or created deleted this way"))
        if body.get(NAME_FIELD[kind]) == "":
            raise Invalid(failed("%s: String must contain at least 1 character(s)" % NAME_FIELD[kind]))
        owner = body.get("owner_id")
        if owner is not None:
            user = store.users.get(int(owner))
            if user is None:
                raise Invalid(refused(400, "User with id %s was not found" % owner))
            if not user["active_flag"] and self.world.switches["inactive_owner"] == "refuse":
                raise Invalid(refused(400, "User with id %s is not active" % owner))
        for name, table in (("org_id", "organizations"), ("person_id", "persons")):
            if body.get(name) is not None and store.tables[table].live(int(body[name])) is None:
                raise Invalid(refused(400, "%s with id %s was not found" % (table[:-1].capitalize(), body[name])))
        visible = body.get("visible_to")
        if visible is not None:
            allowed = (1, 3) if self.budget.plan in ("lite", "growth") else (1, 3, 5, 7)
            if visible not in allowed:
                raise Invalid(failed("visible_to: Expected one of %s" % ", ".join(map(str, allowed))))
        for name in FIRMOGRAPHICS if kind == "organizations" and not self.world.switches["firmographics"] else ():
            if name in body:
                raise Invalid(failed("%s: Parameter '%s' is not allowed for this request" % (name, name)))
        if kind == "persons" and not self.world.switches["contact_sync"] and any(name in body for name in CONTACT_SYNC):
            raise Invalid(refused(403, "Contact sync is not enabled"))
        if kind == "products":
            self.check_product(body)
        for currency in [body.get("currency")] + [price["currency"] for price in body.get("prices") or ()]:
            if currency is not None and currency not in {row[0] for row in CURRENCIES}:
                raise Invalid(failed("currency: Unknown currency '%s'" % currency))
        if body.get("label_ids") and kind == "deals":
            label = store.fields["deals"]["label"]
            if not all(label.has_option(int(item)) for item in body["label_ids"]):
                raise Invalid(refused(400, "Unknown label id"))

    def check_product(self, body):
        category = body.get("category")
        if category is not None:
            field = self.store.fields["products"]["category"]
            if not is_integer(category) or not field.has_option(int(category)):
                raise Invalid(refused(400, "Category with id %s was not found" % category))
        if body.get("billing_frequency", "one-time") != "one-time" and self.budget.plan == "lite":
            raise Invalid(failed("billing_frequency: not available in this plan"))

    def refuse_archived(self, deal):
        if deal.data["is_archived"]:
            raise Invalid(refused(self.world.switches["archived_status"], "Archived deals cannot be edited"))

    def category_id(self, record):
        category = record.data.get("category")
        if category is None:
            return None
        if self.world.switches["category_as"] == "label":
            field = self.store.fields["products"]["category"]
            return next((o["id"] for o in field.options if o["label"] == category), None)
        return int(category)

    def category_text(self, number):
        if number is None:
            return None
        if self.world.switches["category_as"] == "label":
            return self.store.fields["products"]["category"].label(int(number))
        return str(int(number))

    # --- deals: status, stage, time ------------------------------------------------------------------

    def check_deal(self, body, current=None):
        status = body.get("status", current["status"] if current else "open")
        for name, wanted in (("won_time", "won"), ("lost_time", "lost")):
            if name in body and status != wanted:
                raise Invalid(failed("%s: can only be set when the status is %s" % (name, wanted)))
        if "won_time" in body and "lost_time" in body:
            raise Invalid(failed("won_time: cannot be set together with lost_time"))
        if body.get("lost_reason") is not None and status != "lost":
            raise Invalid(failed("lost_reason: can only be set when the status is lost"))
        if body.get("close_time") is not None and status == "open":
            raise Invalid(failed("close_time: can only be set when the status is won or lost"))
        if (current is None and self.world.switches["won_time_with_status"] == "refuse"
                and ("won_time" in body or "lost_time" in body)):
            raise Invalid(failed("won_time: Parameter 'won_time' is not allowed for this request"))
        probability = body.get("probability")
        if probability is not None and not 0 <= probability <= 100:
            raise Invalid(failed("probability: Number must be between 0 and 100"))
        if "archive_time" in body and not body.get("is_archived"):
            raise Invalid(failed("archive_time: can only be set when is_archived is true"))
        return self.place_of(body, current)

    def place_of(self, body, current):
        """(pipeline id, stage id) that the deal will have."""
        store = self.store
        pipeline, stage = body.get("pipeline_id"), body.get("stage_id")
        if pipeline is not None:
            found = store.pipelines.get(int(pipeline))
            if found is None or found["is_deleted"]:
                raise Invalid(refused(400, "Pipeline with id %s was not found" % pipeline))
        if stage is not None:
            found = store.stages.get(int(stage))
            if found is None or found["is_deleted"]:
                raise Invalid(refused(400, "Stage with id %s was not found" % stage))
            if pipeline is not None and found["pipeline_id"] != int(pipeline) \
                    and self.world.switches["stage_pipeline_mismatch"] == "refuse":
                raise Invalid(refused(400, "Stage %s does not belong to pipeline %s" % (stage, pipeline)))
            return found["pipeline_id"], found["id"]
        if current is not None and (pipeline is None or int(pipeline) == current["pipeline_id"]):
            return current["pipeline_id"], current["stage_id"]
        if pipeline is None:
            live = [p for p in store.pipelines.values() if not p["is_deleted"]]
            if not live:
                raise Invalid(refused(400, "There is no pipeline"))
            pipeline = min(live, key=lambda p: p["order_nr"])["id"]
        stages = store.live_stages(int(pipeline))
        if not stages:
            raise Invalid(refused(400, "Pipeline %s has no stages" % pipeline))
        return int(pipeline), stages[0]["id"]

    @staticmethod
    def stamp_of(text):
        moment = parse_datetime(text)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None

    def apply_status(self, data, body):
        """Status and the times that follow from it."""
        status = body.get("status", data["status"])
        now = self.store.now()
        changed = status != data["status"]
        data["status"] = status
        if status == "open":
            data["won_time"] = data["lost_time"] = data["close_time"] = data["lost_reason"] = None
        else:
            own, other = ("won_time", "lost_time") if status == "won" else ("lost_time", "won_time")
            data[other] = None
            if own in body:
                data[own] = data["close_time"] = self.stamp_of(body[own])
            elif changed or data[own] is None:
                data[own] = data["close_time"] = now
            if "close_time" in body:
                data["close_time"] = self.stamp_of(body["close_time"])
            if status == "won":
                data["lost_reason"] = None
            elif "lost_reason" in body:
                data["lost_reason"] = deep_plain(body["lost_reason"])
        data["local_won_date"] = self.store.local_date(data["won_time"])
        data["local_lost_date"] = self.store.local_date(data["lost_time"])
        data["local_close_date"] = self.store.local_date(data["close_time"])

    def apply_archive(self, data, body):
        if body.get("is_archived") is not None:
            data["is_archived"] = body["is_archived"]
            text = body.get("archive_time")
            data["archive_time"] = (self.stamp_of(text) or self.store.now()) if body["is_archived"] else None

    def check_capacity(self):
        switches = self.world.switches
        limit = switches["deal_limit"]
        if limit is None:
            limit = min(DEAL_CEILING, PLANS[self.budget.plan][3] * self.budget.seats)
        if len(self.store.tables["deals"].rows) < limit:
            return
        if self.store.live_deals(switches["count_open_only"]) >= limit:
            raise Invalid(refused(403, "Couldn't add the deal. Limit reached.", INFO + " for the limits of your plan",
                                  code="feature_capping_deals_limit"))

    # --- writing -----------------------------------------------------------------------------------------

    def apply(self, kind, data, body):
        """The fields of body that need no thought."""
        for name in SIMPLE[kind]:
            if name in body:
                data[name] = deep_plain(body[name])
        for name in ("address", "postal_address"):
            if name in body and name in data:
                data[name] = self.address(body[name])
        if kind == "persons":
            for name in ("emails", "phones"):
                if name in body:
                    data[name] = self.contacts(body[name])
            if "name" in body:
                first, _, last = data["name"].partition(" ")
                data["first_name"], data["last_name"] = first, last or None
        if kind == "products":
            if "category" in body:
                data["category"] = self.category_text(body["category"])
            if "prices" in body:
                data["prices"] = self.prices(data["id"], body["prices"])

    @staticmethod
    def address(value):
        parts = {name: deep_plain(value.get(name)) for name in
                 ("value", "country", "admin_area_level_1", "admin_area_level_2", "locality", "sublocality", "route",
                  "street_number", "subpremise", "postal_code")}
        parts["formatted_address"] = parts["value"]
        return parts if parts["value"] is not None or any(parts.values()) else None

    @staticmethod
    def contacts(items):
        rows = [{"value": deep_plain(item["value"]), "primary": bool(item.get("primary")), "label": item.get("label", "work")}
                for item in items]
        if rows and not any(row["primary"] for row in rows):
            rows[0]["primary"] = True
        return rows

    @staticmethod
    def prices(number, items):
        return [{"product_id": number, "price": plain(item.get("price", 0)), "currency": item["currency"],
                 "cost": plain(item.get("cost", 0)), "direct_cost": plain(item["direct_cost"]) if "direct_cost" in item else None,
                 "notes": item.get("notes", "")} for item in items]

    def blank(self, kind, number):
        """A new record's fields with their defaults."""
        now, me = self.store.now(), self.store.me
        common = {"add_time": now, "update_time": now, "is_deleted": False, "visible_to": 3, "label_ids": []}
        if kind == "deals":
            return {"id": number, "title": None, "creator_user_id": me, "owner_id": me, "value": 0, "person_id": None,
                    "org_id": None, "stage_id": None, "pipeline_id": None, "currency": "EUR", "archive_time": None,
                    **common, "stage_change_time": None, "status": "open", "is_archived": False, "probability": None,
                    "lost_reason": None, "close_time": None, "won_time": None, "lost_time": None, "local_won_date": None,
                    "local_lost_date": None, "local_close_date": None, "expected_close_date": None, "origin": "API",
                    "origin_id": None, "channel": None, "channel_id": None, "source_lead_id": None, "acv": None,
                    "arr": None, "mrr": None}
        if kind == "organizations":
            record = {"id": number, "name": None, "owner_id": me, **common, "address": None}
            if self.world.switches["firmographics"]:
                record.update(dict.fromkeys(FIRMOGRAPHICS))
            return record
        if kind == "persons":
            return {"id": number, "name": None, "first_name": None, "last_name": None, "owner_id": me, "org_id": None, **common,
                    "emails": [], "phones": [], "picture_id": None}
        del common["label_ids"]
        return {"id": number, "name": None, "code": None, "description": None, "unit": None, "tax": 0, "category": None,
                "is_linkable": True, **common, "owner_id": me, "billing_frequency": "one-time",
                "billing_frequency_cycles": None,
                "prices": [{"product_id": number, "price": 0, "currency": "EUR", "cost": 0, "direct_cost": None, "notes": ""}]}

    def create_record(self, request, kind):
        body = request.json()
        schema = BODIES[kind]
        if kind in ("organizations", "persons"):
            schema = dict(schema, add_time="datetime")
        check_body(body, schema, (NAME_FIELD[kind],))
        custom = self.check_custom_fields(kind, body)
        self.check_links(kind, body)
        data = self.blank(kind, self.store.tables[kind].next_id)
        if kind == "deals":
            place = self.check_deal(body)
            self.check_capacity()
            data["pipeline_id"], data["stage_id"] = place
        self.apply(kind, data, body)
        if "add_time" in body:
            data["add_time"] = self.stamp_of(body["add_time"])
        if kind == "deals":
            self.apply_status(data, body)
            self.apply_archive(data, body)
        record = self.store.create(kind, data, custom, self.blame)
        if kind == "deals" and "value" in body:
            self.store.set_value(record, body["value"])
        self.hooks.created(kind, record)
        return Response(201 if kind == "products" else 200, {"success": True, "data": self.store.render(kind, record)})

    def update_record(self, request, kind, number):
        body = request.json()
        record = self.store.tables[kind].live(number)
        if record is None:
            return not_found()
        if kind == "deals":
            self.refuse_archived(record)
        check_body(body, BODIES[kind])
        custom = self.check_custom_fields(kind, body)
        self.check_links(kind, body, record)
        data = record.data
        place = self.check_deal(body, data) if kind == "deals" else None
        if kind == "deals" and record.lines and "value" in body:
            if self.world.switches["value_on_deal_with_lines"] == "400":
                raise Invalid(refused(400, "Value of a deal with products cannot be changed"))
        before, before_custom = dict(data), dict(record.custom)
        self.apply(kind, data, body)
        if kind == "deals":
            if place != (data["pipeline_id"], data["stage_id"]):
                data["pipeline_id"], data["stage_id"] = place
                data["stage_change_time"] = self.store.now()
            self.apply_status(data, body)
            self.apply_archive(data, body)
            self.apply_value(record, before, body)
        if body.get("custom_fields") == {} and self.world.switches["empty_custom_fields_clears"]:
            custom = dict.fromkeys(record.custom)
        for code, value in custom.items():
            self.store.set_custom(kind, record, code, value, self.blame)
        if data == before and record.custom == before_custom:
            self.world.count("pipedrive", "noop_patches")
        else:
            data["update_time"] = self.store.now()
            self.hooks.changed(kind, record, before, before_custom)
        return Response(200, {"success": True, "data": self.store.render(kind, record)})

    def apply_value(self, record, before, body):
        data = record.data
        if "value" in body and (not record.lines or self.world.switches["value_on_deal_with_lines"] == "overwrite"):
            self.store.set_value(record, body["value"])
        if data["currency"] != before["currency"] and record.lines:
            for line in record.lines.values():
                self.store.refresh_line(line)
            if "value" not in body:
                self.store.recompute(record)

    def delete_record(self, request, kind, number):
        record = self.store.tables[kind].live(number)
        if record is None:
            return not_found()
        before = dict(record.data)
        self.store.delete(kind, record)
        self.hooks.deleted(kind, record, before)
        return Response(200, {"success": True, "data": {"id": number}})

    def merge_records(self, request, kind, number):
        """The record in the URL goes, the other one stays and takes over what was linked."""
        body = request.json()
        loser = self.store.tables[kind].live(number)
        target = body.get("merge_with_id") if isinstance(body, dict) else None
        if loser is None or not is_integer(target) or int(target) == number:
            return refused(404 if loser is None else 400, "Merge target or source is not valid")
        winner = self.store.tables[kind].live(int(target))
        if winner is None:
            return refused(404, "Merge target was not found")
        before = dict(loser.data)
        link = {"organizations": "org_id", "persons": "person_id"}.get(kind)
        if link:
            for other in ("deals", "persons"):
                for row in self.store.tables[other].rows.values():
                    if row.data.get(link) == number:
                        row.data[link] = winner.id
        if kind == "deals":
            for line in loser.lines.values():
                line.deal = winner
                winner.lines[line.id] = line
            loser.lines = {}
            self.store.recompute(winner)
        self.store.delete(kind, loser)
        # What the one that stays has not filled in, it takes over; also who belongs to an organization it got.
        for name in SIMPLE[kind] + ("address",):
            if winner.data.get(name) is None and loser.data.get(name) is not None and name not in ("stage_id", "pipeline_id"):
                winner.data[name] = loser.data[name]
        for code, value in loser.custom.items():
            if code not in winner.custom:
                self.store.set_custom(kind, winner, code, value, self.blame)
        winner.data["update_time"] = self.store.now()
        self.hooks.deleted(kind, loser, before, merged_to_id=str(winner.id))
        self.hooks.fire(kind, winner, "change", dict(winner.data), dict(winner.custom), merged_from_id=str(number))
        return Response(200, {"success": True, "data": {"id": winner.id}})

    # --- pipelines and stages --------------------------------------------------------------------------------

    def plain_rows(self, kind):
        return self.store.pipelines if kind == "pipelines" else self.store.stages

    def list_plain(self, request, kind):
        query = request.query
        check_query(query, ("sort_by", "sort_direction", "limit", "cursor") + (("pipeline_id",) if kind == "stages" else ()))
        rows = [row for row in self.plain_rows(kind).values() if not row["is_deleted"]]
        if "pipeline_id" in query:
            wanted = query_integer(query, "pipeline_id")
            rows = [row for row in rows if row["pipeline_id"] == wanted]
        rows, cursor = page_of(rows, query, SORTS.get(kind, SORT))
        return Response(200, {"success": True, "data": rows, "additional_data": {"next_cursor": cursor}})

    def get_plain(self, request, kind, number):
        row = self.plain_rows(kind).get(number)
        return not_found() if row is None else Response(200, {"success": True, "data": row})

    def check_plain(self, kind, body, required):
        check_body(body, PIPELINE if kind == "pipelines" else STAGE, required)
        if body.get("name") == "":
            raise Invalid(failed("name: String must contain at least 1 character(s)"))
        if "pipeline_id" in body:
            pipeline = self.store.pipelines.get(int(body["pipeline_id"]))
            if pipeline is None or pipeline["is_deleted"]:
                raise Invalid(refused(400, "Pipeline with id %s was not found" % body["pipeline_id"]))

    def create_plain(self, request, kind):
        body = request.json()
        self.check_plain(kind, body, ("name",) if kind == "pipelines" else ("name", "pipeline_id"))
        name = deep_plain(body["name"])
        if kind == "pipelines":
            row = self.store.add_pipeline(name, body.get("is_deal_probability_enabled", False))
        else:
            row = self.store.add_stage(name, int(body["pipeline_id"]), plain(body.get("deal_probability", 100)),
                                       body.get("is_deal_rot_enabled", False), plain(body.get("days_to_rotten")))
        return Response(200, {"success": True, "data": row})

    def update_plain(self, request, kind, number):
        body = request.json()
        row = self.plain_rows(kind).get(number)
        if row is None or row["is_deleted"]:
            return not_found()
        self.check_plain(kind, body, ())
        row.update({name: deep_plain(value) for name, value in body.items()})
        row["update_time"] = self.store.now()
        return Response(200, {"success": True, "data": row})

    def delete_plain(self, request, kind, number):
        row = self.plain_rows(kind).get(number)
        if row is None or row["is_deleted"]:
            return not_found()
        row["is_deleted"] = True
        if kind == "pipelines":
            for stage in self.store.live_stages(number):
                stage["is_deleted"] = True
        return Response(200, {"success": True, "data": {"id": number}})

    # --- version 1: users, currencies -------------------------------------------------------------------------

    def list_users(self, request):
        return Response(200, {"success": True, "data": list(self.store.users.values())})

    def users_me(self, request):
        me = self.store.users[self.store.me]
        return Response(200, {"success": True, "data": {
            **me, "company_id": 7654321, "company_name": "Van der Linden Wonen", "company_domain": self.company_domain,
            "company_country": "NL", "company_industry": None, "language": {"language_code": "nl", "country_code": "NL"}}})

    def get_user(self, request, number):
        user = self.store.users.get(number)
        if user is None:
            return Response(404, {"success": False, "error": "User not found or not accessible."})
        return Response(200, {"success": True, "data": user})

    def put_user(self, request, number):
        body = request.json()
        check_body(body, {"active_flag": "boolean"}, ("active_flag",))
        if number not in self.store.users:
            return Response(404, {"success": False, "error": "User not found or not accessible."})
        self.store.users[number]["active_flag"] = body["active_flag"]
        return Response(200, {"success": True, "data": self.store.users[number]})

    def users_find(self, request):
        term = request.query.get("term", "")
        name = "email" if request.query.get("search_by_email") == "1" else "name"
        if not term:
            return refused(400, "Search term is missing")
        rows = [user for user in self.store.users.values() if term.casefold() in user[name].casefold()]
        return Response(200, {"success": True, "data": rows})

    def currencies(self, request):
        term = request.query.get("term", "").casefold()
        rows = [{"id": number, "code": code, "name": name, "decimal_points": points, "symbol": symbol, "active_flag": True,
                 "is_custom_flag": False} for number, (code, name, points, symbol) in enumerate(CURRENCIES, 1)
                if term in code.casefold() or term in name.casefold()]
        return Response(200, {"success": True, "data": rows})


