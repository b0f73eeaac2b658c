"""Field definitions of the simulated Pipedrive: deal, organization, person and product fields and their options.

Belongs here: the handlers of /dealFields and its three sisters in version 2, and the version 1 form of the same fields.
Does not belong here: the check of field values (pipedrive_rules.py), their storage (pipedrive_store.py).
Why: the client makes its own fields and categories; what it may and may not do there decides the set-up.
"""

from httpd import Response
from pipedrive_budget import PLANS
from pipedrive_rules import (FIELD_CREATE, FIELD_UPDATE, Invalid, check_body, check_query, failed, is_integer, not_found,
                             query_integer, refused)
from pipedrive_store import FIELD_SETS, deep_plain, page_of

EXTRAS = ("ui_visibility", "important_fields", "required_fields")


def define_switches(world):
    define = world.define_switch
    define("category_options", "accept", "POST productFields/category/options: accept, or refuse (400: only custom fields)")
    define("custom_field_limit", None, "custom fields per company; null = the plan's figure")


class FieldHandlers:
    """Mixed into PipedriveService. set_name is the first part of the path, such as dealFields."""

    def field_answer(self, field, include=""):
        answer = {"field_name": field.name, "field_code": field.code, "description": field.description,
                  "field_type": field.type, "options": field.options, "subfields": self.subfields(field),
                  "is_custom_field": field.custom, "is_optional_response_field": False}
        if field.kind != "deals":
            del answer["description"]
        default = {"ui_visibility": {"add_visible_flag": False, "details_visible_flag": True},
                   "important_fields": {"enabled": False, "stage_ids": []}, "required_fields": {"enabled": False}}
        if field.kind == "deals":
            default["ui_visibility"].update({"projects_detail_visible_flag": False,
                                             "show_in_pipelines": {"show_in_all": True, "pipeline_ids": []}})
            default["required_fields"].update({"stage_ids": [], "statuses": {}})
        for name in EXTRAS if field.kind != "products" else EXTRAS[:1]:
            if include is None or name in include.split(","):
                answer[name] = {**default[name], **field.extra.get(name, {})}
        return answer

    @staticmethod
    def subfields(field):
        if field.type != "monetary":
            return None
        return [{"field_code": "value", "field_name": "Amount of " + field.name, "field_type": "double"},
                {"field_code": "currency", "field_name": "Currency of " + field.name, "field_type": "varchar"}]

    def find_field(self, set_name, code):
        field = self.store.fields[FIELD_SETS[set_name]].get(code)
        if field is None:
            raise Invalid(not_found())
        return field

    # --- version 2 -------------------------------------------------------------------

    def list_fields(self, request, set_name):
        query = request.query
        check_query(query, ("include_fields", "limit", "cursor"))
        fields = self.store.fields[FIELD_SETS[set_name]].values()
        rows = [{"id": field.id, "field": field} for field in fields]
        rows, cursor = page_of(rows, query, ("id",))
        include = query.get("include_fields", "")
        return Response(200, {"success": True, "data": [self.field_answer(row["field"], include) for row in rows],
                              "additional_data": {"next_cursor": cursor}})

    def get_field(self, request, set_name, code):
        check_query(request.query, ("include_fields",))
        return Response(200, {"success": True, "data": self.field_answer(self.find_field(set_name, code),
                                                                         request.query.get("include_fields", ""))})

    def create_field(self, request, set_name):
        body = request.json()
        kind = FIELD_SETS[set_name]
        schema = dict(FIELD_CREATE)
        if kind == "deals":
            schema["description"] = "string?"
        if kind == "products":
            del schema["important_fields"], schema["required_fields"]
        check_body(body, schema, ("field_name", "field_type"))
        if not body["field_name"]:
            raise Invalid(failed("field_name: String must contain at least 1 character(s)"))
        has_options = body["field_type"] in ("enum", "set")
        if has_options != bool(body.get("options")):
            raise Invalid(failed("options: Parameter 'options' is required for fields of type enum and set"
                                 if has_options else "options: only fields of type enum and set have options"))
        labels = self.check_labels(body.get("options") or [], min_items=0)
        limit = self.world.switches["custom_field_limit"]
        limit = PLANS[self.budget.plan][4] if limit is None else limit
        if sum(1 for fields in self.store.fields.values() for f in fields.values() if f.custom) >= limit:
            raise Invalid(refused(403, "Couldn't add the field. Limit reached.", code="feature_capping_custom_fields_limit"))
        field = self.store.add_field(kind, deep_plain(body["field_name"]), body["field_type"], options=labels)
        field.description = deep_plain(body.get("description"))
        field.extra = {name: deep_plain(body[name]) for name in EXTRAS if name in body}
        return Response(200, {"success": True, "data": self.field_answer(field, None)})

    def update_field(self, request, set_name, code):
        body = request.json()
        field = self.find_field(set_name, code)
        schema = dict(FIELD_UPDATE, description="string?") if field.kind == "deals" else FIELD_UPDATE
        check_body(body, schema)
        if "field_name" in body:
            if not field.custom:
                raise Invalid(refused(400, "System fields cannot be renamed"))
            if not body["field_name"]:
                raise Invalid(failed("field_name: String must contain at least 1 character(s)"))
            field.name = deep_plain(body["field_name"])
            self.store.watch_unique()
        if "description" in body:
            field.description = deep_plain(body["description"])
        field.extra.update({name: deep_plain(body[name]) for name in EXTRAS if name in body})
        return Response(200, {"success": True, "data": self.field_answer(field, None)})

    def delete_field(self, request, set_name, code):
        field = self.find_field(set_name, code)
        if not field.custom:
            raise Invalid(refused(400, "System fields cannot be deleted"))
        self.store.remove_field(field)
        return Response(200, {"success": True, "data": self.field_answer(field)})

    # --- options ---------------------------------------------------------------------------

    @staticmethod
    def check_labels(items, min_items=1, existing=()):
        if not isinstance(items, list) or len(items) < min_items:
            raise Invalid(failed("body: Expected 'array' with at least %d element(s)" % min_items))
        labels = []
        for item in items:
            if not isinstance(item, dict) or set(item) != {"label"} or not isinstance(item["label"], str):
                raise Invalid(failed("label: Expected objects with 'label'"))
            label = deep_plain(item["label"])
            if not 1 <= len(label) <= 255:
                raise Invalid(failed("label: String must contain between 1 and 255 character(s)"))
            if label in labels or label in existing:
                raise Invalid(refused(400, "Option with label '%s' already exists" % label))
            labels.append(label)
        return labels

    def option_field(self, set_name, code):
        field = self.find_field(set_name, code)
        if field.options is None:
            raise Invalid(refused(400, "Field has no options"))
        if not field.custom and (code != "category" or self.world.switches["category_options"] == "refuse"):
            raise Invalid(refused(400, "Options can only be changed on custom fields"))
        return field

    def add_options(self, request, set_name, code):
        body = request.json()
        field = self.option_field(set_name, code)
        labels = self.check_labels(body, existing=[option["label"] for option in field.options])
        if len(field.options) + len(labels) > 10000:
            raise Invalid(refused(400, "A field can have at most 10000 options"))
        made = [dict(self.store.add_option(field, label)) for label in labels]
        return Response(200, {"success": True, "data": made, "additional_data": None})

    def _option_items(self, body, field, keys):
        if not isinstance(body, list) or not body:
            raise Invalid(failed("body: Expected 'array' with at least 1 element(s)"))
        found = []
        for item in body:
            if not isinstance(item, dict) or set(item) != keys or not is_integer(item["id"]):
                raise Invalid(failed("body: Expected objects with %s" % ", ".join(sorted(keys))))
            option = next((o for o in field.options if o["id"] == int(item["id"])), None)
            if option is None:
                raise Invalid(not_found())
            found.append((option, item))
        return found

    def update_options(self, request, set_name, code):
        body = request.json()
        field = self.option_field(set_name, code)
        pairs = self._option_items(body, field, {"id", "label"})
        for _, item in pairs:
            if not isinstance(item["label"], str) or not 1 <= len(item["label"]) <= 255:
                raise Invalid(failed("label: String must contain between 1 and 255 character(s)"))
        for option, item in pairs:
            option["label"] = deep_plain(item["label"])
        return Response(200, {"success": True, "data": [dict(o) for o, _ in pairs], "additional_data": None})

    def delete_options(self, request, set_name, code):
        body = request.json()
        field = self.option_field(set_name, code)
        pairs = self._option_items(body, field, {"id"})
        for option, _ in pairs:
            field.options.remove(option)
        self.forget_options(field, {option["id"] for option, _ in pairs})
        return Response(200, {"success": True, "data": [o for o, _ in pairs], "additional_data": None})

    def forget_options(self, field, ids):
        """Values that pointed at options which are gone become empty."""
        for record in self.store.tables[field.kind].rows.values():
            if field.code == "category" and field.kind == "products" and self.category_id(record) in ids:
                record.data["category"] = None
            value = record.custom.get(field.code)
            if field.type == "enum" and value in ids:
                self.store.set_custom(field.kind, record, field.code, None)
            elif field.type == "set" and value and ids.intersection(value):
                rest = [item for item in value if item not in ids]
                self.store.set_custom(field.kind, record, field.code, rest or None)

    # --- version 1 ------------------------------------------------------------------------------

    @staticmethod
    def v1_field(field):
        stamp = field.add_time.replace("T", " ").rstrip("Z")
        answer = {"id": field.id, "key": field.code, "name": field.name, "order_nr": field.id % 1000,
                  "field_type": field.type, "add_time": stamp, "update_time": stamp, "active_flag": True,
                  "edit_flag": field.custom, "index_visible_flag": True, "details_visible_flag": True,
                  "add_visible_flag": True, "important_flag": False, "bulk_edit_allowed": True, "searchable_flag": False,
                  "filtering_allowed": True, "sortable_flag": True, "mandatory_flag": False}
        if field.options is not None:
            answer["options"] = field.options
        return answer

    def v1_list_fields(self, request, set_name):
        start = query_integer(request.query, "start", 0, 0)
        limit = query_integer(request.query, "limit", 100, 1, 500)
        fields = list(self.store.fields[FIELD_SETS[set_name]].values())
        more = start + limit < len(fields)
        paging = {"start": start, "limit": limit, "more_items_in_collection": more}
        if more:
            paging["next_start"] = start + limit
        return Response(200, {"success": True, "data": [self.v1_field(f) for f in fields[start:start + limit]],
                              "additional_data": {"pagination": paging}})

    def v1_find(self, set_name, number):
        fields = self.store.fields[FIELD_SETS[set_name]].values()
        field = next((f for f in fields if f.id == number), None)
        if field is None:
            raise Invalid(refused(404, "Field not found"))
        return field

    def v1_get_field(self, request, set_name, number):
        return Response(200, {"success": True, "data": self.v1_field(self.v1_find(set_name, number))})

    def v1_update_field(self, request, set_name, number):
        """The whole option list is replaced; options that are left out are gone."""
        body = request.json()
        field = self.v1_find(set_name, number)
        if not isinstance(body, dict):
            raise Invalid(refused(400, "Bad request"))
        if "options" in body:
            if field.options is None or not isinstance(body["options"], list):
                raise Invalid(refused(400, "Field has no options"))
            known = {option["id"]: option for option in field.options}
            result = []
            for item in body["options"]:
                if not isinstance(item, dict) or not isinstance(item.get("label"), str) or not item["label"]:
                    raise Invalid(refused(400, "Options must have labels"))
                if "id" in item and not (is_integer(item["id"]) and int(item["id"]) in known):
                    raise Invalid(refused(400, "Unknown option id"))
                result.append((known.pop(int(item["id"])) if "id" in item else None, deep_plain(item["label"])))
            field.options[:] = []
            for option, label in result:
                if option is None:
                    self.store.add_option(field, label)
                else:
                    option["label"] = label
                    field.options.append(option)
            self.forget_options(field, set(known))
        if field.custom and isinstance(body.get("name"), str) and body["name"]:
            field.name = deep_plain(body["name"])
            self.store.watch_unique()
        return Response(200, {"success": True, "data": self.v1_field(field)})
