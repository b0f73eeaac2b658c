"""The Pipedrive part of the control interface.

Belongs here: looking at the whole account, filling it, edits "by a person", spending by others, which values must be unique.
Does not belong here: what the simulated API itself offers.
Why: tests need an account with a past, colleagues who click around in it, and a full view of it that costs no tokens.
"""

from decimal import Decimal

from httpd import Response
from pipedrive_rules import BODIES, NAME_FIELD, Invalid, check_body
from pipedrive_store import ENTITIES, FIELD_SETS, SINGULAR, deep_plain

KINDS = {**{kind: kind for kind in ENTITIES}, **{name: kind for kind, name in SINGULAR.items()}}
FIELD_KINDS = {"deal_fields": "deals", "organization_fields": "organizations", "person_fields": "persons",
               "product_fields": "products", **FIELD_SETS}


def routes(world):
    control = PipedriveControl(world)
    entity = r"/pipedrive/(deals|organizations|persons|products)/(\d+)"
    return {
        ("GET", r"/pipedrive/state"): control.state,
        ("GET", r"/pipedrive/webhooks/sent"): control.sent,
        ("POST", r"/pipedrive/webhooks"): control.add_webhook,
        ("DELETE", r"/pipedrive/webhooks/(\d+)"): control.remove_webhook,
        ("GET", r"/pipedrive/budget"): control.get_budget,
        ("POST", r"/pipedrive/seed"): control.seed,
        ("POST", r"/pipedrive/reset"): control.reset,
        ("POST", r"/pipedrive/spend"): control.spend,
        ("POST", r"/pipedrive/token"): control.new_token,
        ("POST", r"/pipedrive/unique_fields"): control.unique_fields,
        ("POST", r"/pipedrive/unblock"): control.unblock,
        ("POST", r"/pipedrive/users/(\d+)"): control.edit_user,
        ("PATCH", r"/pipedrive/users/(\d+)"): control.edit_user,
        ("PATCH", r"/pipedrive/(pipelines|stages)/(\d+)"): control.edit_plain,
        ("DELETE", r"/pipedrive/(pipelines|stages)/(\d+)"): control.delete_plain,
        ("PATCH", r"/pipedrive/(\w+[fF]ields)/(.+)"): control.edit_field,
        ("DELETE", r"/pipedrive/(\w+[fF]ields)/(.+)"): control.delete_field,
        ("POST", entity + r"/merge"): control.merge,
        ("POST", r"/pipedrive/deals/(\d+)/products"): control.add_lines,
        ("PATCH", r"/pipedrive/deals/(\d+)/products/(\d+)"): control.edit_line,
        ("DELETE", r"/pipedrive/deals/(\d+)/products/(\d+)"): control.delete_line,
        ("PATCH", entity): control.edit,
        ("DELETE", entity): control.delete,
        ("GET", entity): control.get,
    }


class PipedriveControl:
    def __init__(self, world):
        self.world = world

    @property
    def service(self):
        return self.world.pipedrive

    @property
    def store(self):
        return self.world.pipedrive.store

    # --- looking ---------------------------------------------------------------------

    def show(self, kind, record):
        """A record with its custom fields by code and, without the empty ones, by name; money exact."""
        answer = self.store.render(kind, record)
        answer["fields"] = {self.store.fields[kind][code].name: self.readable(self.store.fields[kind][code], value)
                            for code, value in record.custom.items()}
        if kind == "deals":
            answer["value"] = record.data["value"]
            answer["value_text"] = str(record.value)
            answer["stage"] = self.store.stages[record.data["stage_id"]]["name"]
            answer["pipeline"] = self.store.pipelines[record.data["pipeline_id"]]["name"]
            owner = self.store.users.get(record.data["owner_id"])
            answer["owner"] = owner["name"] if owner else None
            answer["organization"] = self.name_of("organizations", record.data["org_id"])
            answer["person"] = self.name_of("persons", record.data["person_id"])
            answer["products"] = [dict(line.answer(), sum_text=str(line.sum)) for line in record.lines.values()]
            answer["discounts"] = list(record.discounts.values())
        elif kind == "products":
            answer["category_label"] = self.store.fields["products"]["category"].label(self.service.category_id(record))
        return answer

    def name_of(self, kind, number):
        record = self.store.tables[kind].rows.get(number)
        return record.data["name"] if record else None

    @staticmethod
    def readable(field, value):
        """Option ids as labels."""
        if field.type == "enum":
            return field.label(value)
        if field.type == "set":
            return [field.label(item) for item in value]
        return value

    def state(self, request, found):
        """?only=deals,products limits the answer; ?deleted=0 leaves deleted records out."""
        only = set(request.query["only"].split(",")) if "only" in request.query else None
        with_deleted = request.query.get("deleted", "1") != "0"
        store, answer = self.store, {}
        for kind in ENTITIES:
            if only is None or kind in only:
                answer[kind] = [self.show(kind, record) for record in store.tables[kind].rows.values()
                                if with_deleted or not record.data["is_deleted"]]
        for name, kind in (("deal_fields", "deals"), ("organization_fields", "organizations"), ("person_fields", "persons"),
                           ("product_fields", "products")):
            answer[name] = [dict(self.service.field_answer(field), id=field.id) for field in store.fields[kind].values()]
        answer.update({"users": list(store.users.values()), "pipelines": list(store.pipelines.values()),
                       "stages": list(store.stages.values()), "webhooks": list(store.webhooks.values()),
                       "budget": self.service.budget.describe(), "me": store.me})
        return Response(200, {name: value for name, value in answer.items() if only is None or name in only})

    def get(self, request, found):
        record = self.store.tables[found.group(1)].rows[int(found.group(2))]
        return self.show(found.group(1), record)

    def sent(self, request, found):
        return self.service.hooks.sent

    def add_webhook(self, request, found):
        """Somebody else's, and without tokens; the body as at /v1/webhooks."""
        answer = self.service.hooks.create(request)
        return answer if answer.status != 201 else {"webhooks": len(self.store.webhooks)}

    def remove_webhook(self, request, found):
        """As after three days without success, or by a person."""
        del self.store.webhooks[int(found.group(1))]
        return {"removed": int(found.group(1))}

    def get_budget(self, request, found):
        return self.service.budget.describe()

    # --- steering ------------------------------------------------------------------------

    def reset(self, request, found):
        """An empty account again; the token stays."""
        self.store.reset()
        return {"ok": True}

    def spend(self, request, found):
        self.service.budget.spend_elsewhere(int(request.json()["tokens"]))
        return self.service.budget.describe()

    def unblock(self, request, found):
        budget = self.service.budget
        budget.blocked_until = 0.0
        budget.refusals.clear()
        return budget.describe()

    def new_token(self, request, found):
        """The user's API token was made anew; the old one is dead."""
        body = request.json() if request.body else {}
        self.service.api_token = body.get("api_token") or "%040x" % self.store.rng.getrandbits(160)
        return {"api_token": self.service.api_token, "oauth_token": self.service.oauth_token}

    def unique_fields(self, request, found):
        for kind, names in request.json().items():
            self.store.unique_names[KINDS[kind]] = set(names)
        self.store.watch_unique()
        return {kind: sorted(names) for kind, names in self.store.unique_names.items()}

    def edit_user(self, request, found):
        user = self.store.users[int(found.group(1))]
        body = request.json()
        for name in body:
            if name not in user:
                raise KeyError(name)
        user.update(body)
        return user

    # --- filling ------------------------------------------------------------------------------

    def seed(self, request, found):
        """Creates records as they might stand in an account already. Order: users, pipelines (with their stages), fields,
        organizations, persons, products, deals. Custom values go by field name in "fields" or by code in "custom_fields"."""
        body = request.json()
        unknown = set(body) - {"users", "pipelines", "stages", "deals", *ENTITIES, *FIELD_KINDS}
        if unknown:
            raise KeyError(", ".join(sorted(unknown)))
        made = {}
        for item in body.get("users", ()):
            made.setdefault("users", []).append(self.store.add_user(
                item["name"], item.get("email", ""), item.get("active_flag", True), number=item.get("id")))
        for item in body.get("pipelines", ()):
            pipeline = self.store.add_pipeline(item["name"])
            stages = [self.store.add_stage(s["name"] if isinstance(s, dict) else s, pipeline["id"])
                      for s in item.get("stages", ())]
            made.setdefault("pipelines", []).append(dict(pipeline, stages=stages))
        for item in body.get("stages", ()):
            made.setdefault("stages", []).append(self.store.add_stage(item["name"], int(item["pipeline_id"])))
        for name, kind in FIELD_KINDS.items():
            for item in body.get(name, ()):
                made.setdefault(name, []).append(self.seed_field(kind, item))
        for kind in ("organizations", "persons", "products", "deals"):
            for item in body.get(kind, ()):
                made.setdefault(kind, []).append(self.show(kind, self.seed_record(kind, dict(item))))
        return made

    def seed_field(self, kind, item):
        name = item.get("field_name") or item["name"]
        existing = self.store.field_named(kind, name)
        if existing is not None and not existing.custom and "options" in item:      # such as product categories
            for label in item["options"]:
                self.store.add_option(existing, label["label"] if isinstance(label, dict) else label)
            return self.service.field_answer(existing)
        options = [o["label"] if isinstance(o, dict) else o for o in item.get("options", ())]
        field = self.store.add_field(kind, name, item.get("field_type", item.get("type", "varchar")), options=options)
        field.description = item.get("description")
        return self.service.field_answer(field)

    def custom_of(self, kind, item):
        """Takes the custom values out of item; a field that is not there yet is made as varchar."""
        custom = {}
        for name, value in (item.pop("fields", None) or {}).items():
            field = self.store.field_named(kind, name) or self.store.add_field(kind, name, "varchar")
            if field.options is not None and isinstance(value, str):
                value = next((o["id"] for o in field.options if o["label"] == value), None) \
                    or self.store.add_option(field, value)["id"]
            custom[field.code] = deep_plain(value)
        for code, value in (item.pop("custom_fields", None) or {}).items():
            if code not in self.store.fields[kind]:
                raise KeyError(code)
            custom[code] = deep_plain(value)
        return custom

    def seed_record(self, kind, item):
        service, store = self.service, self.store
        custom = self.custom_of(kind, item)
        lines, discounts = item.pop("products", ()), item.pop("discounts", ())
        raw = {name: item.pop(name) for name in ("id", "add_time", "update_time", "is_deleted", "is_archived", "origin",
                                                 "stage_change_time", "creator_user_id") if name in item}
        if kind == "products" and isinstance(item.get("category"), str):
            field = store.fields["products"]["category"]
            label = item["category"]
            item["category"] = next((o["id"] for o in field.options if o["label"] == label), None) \
                or store.add_option(field, label)["id"]
        check_body(item, BODIES[kind], (NAME_FIELD[kind],))
        data = service.blank(kind, int(raw.get("id") or store.tables[kind].next_id))
        if data["id"] in store.tables[kind].rows:
            raise ValueError("%s %d exists" % (kind, data["id"]))
        service.apply(kind, data, item)
        if kind == "deals":
            data["pipeline_id"], data["stage_id"] = service.place_of(item, None)
            service.apply_status(data, item)
            data["origin"] = "ManuallyCreated"
            if raw.get("is_archived"):
                data["archive_time"] = store.now()
        data.update(deep_plain(raw))
        record = store.create(kind, data, custom, blame=False)
        record.born = -1e9                      # it has been there for long: no list or search lag
        if kind == "deals":
            if "value" in item:
                store.set_value(record, item["value"])
            for line in lines:
                service.make_line(record, line)
            for discount in discounts:
                service.make_discount(record, {"description": "Korting", "type": "amount", **discount})
            if lines or discounts:
                stamp = data["update_time"]
                store.recompute(record)
                data["update_time"] = stamp
                record.late_value = None
        return record

    # --- edits by a person --------------------------------------------------------------------------

    def as_person(self, work, tool=None):
        """Runs a change so that webhooks say "app" and duplicates are not blamed on the client; with the id of a user, as a
        tool that has that user's token."""
        service = self.service
        service.hooks.source, service.hooks.user, service.blame = "api" if tool else "app", tool, False
        try:
            return work()
        except Invalid as invalid:
            return invalid.response
        finally:
            service.hooks.source, service.hooks.user, service.blame = "api", None, True

    def edit(self, request, found):
        kind, number = found.group(1), int(found.group(2))
        body = request.json()
        record = self.store.tables[kind].rows[number]
        before, before_custom = dict(record.data), dict(record.custom)
        custom = self.custom_of(kind, body)
        raw = {name: body.pop(name) for name in ("is_deleted", "is_archived", "archive_time", "add_time", "update_time",
                                                 "origin", "creator_user_id") if name in body}
        return self.as_person(lambda: self.edit_record(kind, record, body, custom, raw, before, before_custom),
                              request.query.get("tool"))

    def edit_record(self, kind, record, body, custom, raw, before, before_custom):
        service = self.service
        if kind == "products" and isinstance(body.get("category"), str):
            field = self.store.fields["products"]["category"]
            body["category"] = next(o["id"] for o in field.options if o["label"] == body["category"])
        check_body(body, BODIES[kind])
        place = service.place_of(body, record.data) if kind == "deals" else None
        service.apply(kind, record.data, body)
        if kind == "deals":
            if place != (record.data["pipeline_id"], record.data["stage_id"]):
                record.data["pipeline_id"], record.data["stage_id"] = place
                record.data["stage_change_time"] = self.store.now()
            service.apply_status(record.data, body)
            if "value" in body:
                self.store.set_value(record, Decimal(str(body["value"])))
            if raw.get("is_archived"):
                record.data["archive_time"] = self.store.now()
        for code, value in custom.items():
            self.store.set_custom(kind, record, code, value, blame=False)
        record.data["update_time"] = self.store.now()
        record.data.update(deep_plain(raw))
        if raw.get("is_deleted"):
            self.store.forget_unique(record)
        service.hooks.changed(kind, record, before, before_custom)
        return self.show(kind, record)

    def delete(self, request, found):
        kind, number = found.group(1), int(found.group(2))
        if request.query.get("purge") == "1":           # gone for good, as after 30 days
            record = self.store.tables[kind].rows.pop(number)
            self.store.tables[kind].ids.remove(number)
            self.store.forget_unique(record)
            return {"purged": number}
        if self.store.tables[kind].live(number) is None:
            raise KeyError(number)
        return self.as_person(lambda: self.service.delete_record(request, kind, number))

    def merge(self, request, found):
        return self.as_person(lambda: self.service.merge_records(request, found.group(1), int(found.group(2))))

    def add_lines(self, request, found):
        deal = self.store.tables["deals"].rows[int(found.group(1))]
        body = request.json()
        lines = [self.service.make_line(deal, item) for item in (body if isinstance(body, list) else [body])]
        self.as_person(lambda: self.service.lines_changed(deal))
        return [line.answer() for line in lines]

    def edit_line(self, request, found):
        deal = self.store.tables["deals"].rows[int(found.group(1))]
        line = deal.lines[int(found.group(2))]
        self.service.fill_line(deal, line, request.json())
        line.update_time = self.store.now()
        self.as_person(lambda: self.service.lines_changed(deal))
        return line.answer()

    def delete_line(self, request, found):
        deal = self.store.tables["deals"].rows[int(found.group(1))]
        del deal.lines[int(found.group(2))]
        self.as_person(lambda: self.service.lines_changed(deal))
        return {"ok": True}

    def edit_plain(self, request, found):
        rows = self.service.plain_rows(found.group(1))
        row = rows[int(found.group(2))]
        row.update(request.json())
        row["update_time"] = self.store.now()
        return row

    def delete_plain(self, request, found):
        self.service.plain_rows(found.group(1))[int(found.group(2))]
        return self.service.delete_plain(request, found.group(1), int(found.group(2)))

    def find_field(self, found):
        kind = FIELD_KINDS[found.group(1)]
        field = self.store.field_named(kind, found.group(2))
        if field is None:
            raise KeyError(found.group(2))
        return field

    def edit_field(self, request, found):
        """Rename, or another set of options: {"name": …, "add_options": [labels], "remove_options": [labels]}."""
        field, body = self.find_field(found), request.json()
        if "name" in body or "field_name" in body:
            field.name = body.get("name") or body["field_name"]
            self.store.watch_unique()
        for label in body.get("add_options", ()):
            self.store.add_option(field, label)
        gone = {o["id"] for o in field.options or () if o["label"] in body.get("remove_options", ())}
        if gone:
            field.options[:] = [o for o in field.options if o["id"] not in gone]
            self.service.forget_options(field, gone)
        return self.service.field_answer(field)

    def delete_field(self, request, found):
        field = self.find_field(found)
        self.store.remove_field(field)
        return self.service.field_answer(field)
