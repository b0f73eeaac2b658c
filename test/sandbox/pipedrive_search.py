"""Searching and recents of the simulated Pipedrive.

Belongs here: the handlers of /{entity}/search, /itemSearch, /itemSearch/field and version 1 /recents.
Does not belong here: plain lists (pipedrive.py).
Why: the search index lags behind writes; a client that looks for duplicates by search must fail here.
"""

import base64
import re

from httpd import Response
from pipedrive_rules import INFO, Invalid, SEARCHABLE, check_query, failed, query_integer, refused
from pipedrive_store import ENTITIES, SINGULAR

TEXT_FIELDS = {"deals": ("title",), "organizations": ("name", "address"), "persons": ("name", "email", "phone"),
               "products": ("name", "code")}
OTHER_FIELDS = ("custom_fields", "notes", "description")
STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\Z")


class SearchHandlers:
    """Mixed into PipedriveService."""

    def term_of(self, query, exact):
        term = query.get("term")
        if term is None:
            raise Invalid(failed("term: Parameter 'term' is required"))
        if len(term) < (1 if exact else 2):
            raise Invalid(failed("term: String must contain at least %d character(s)" % (1 if exact else 2)))
        if len(term.encode()) > 500:
            raise Invalid(failed("term: String is too long"))
        return term

    def texts(self, kind, record, fields):
        """The searchable texts of a record, with the custom field texts apart."""
        data, found = record.data, []
        for name in TEXT_FIELDS[kind]:
            if name not in fields:
                continue
            if name == "address":
                found.append((data.get("address") or {}).get("value"))
            elif name in ("email", "phone"):
                found.extend(item["value"] for item in data[name + "s"])
            else:
                found.append(data.get(name))
        custom = []
        if "custom_fields" in fields:
            definitions = self.store.fields[kind]
            for code, value in record.custom.items():
                if definitions[code].type in SEARCHABLE:
                    custom.append(str(value.get("value") if isinstance(value, dict) else value))
        return [text for text in found if text], custom

    def hits(self, kinds, term, fields, exact, matches=None):
        horizon = self.world.clock.monotonic() - self.world.switches["search_lag"]
        wanted = term.casefold()
        for kind in kinds:
            for record in self.store.tables[kind].rows.values():
                if record.data["is_deleted"] or record.born > horizon or (matches and not matches(record.data)):
                    continue
                own, custom = self.texts(kind, record, fields)
                folded = [text.casefold() for text in own + custom]
                if wanted in folded if exact else any(wanted in text for text in folded):
                    yield kind, record, [text for text in custom if wanted in text.casefold()]

    def search_item(self, kind, record, custom):
        data = record.data
        item = {"id": data["id"], "type": SINGULAR[kind]}
        if kind == "deals":
            organization = self.store.tables["organizations"].rows.get(data["org_id"])
            person = self.store.tables["persons"].rows.get(data["person_id"])
            item.update({"title": data["title"], "value": self.store.shown_value(record), "currency": data["currency"],
                         "status": data["status"], "visible_to": data["visible_to"], "owner": {"id": data["owner_id"]},
                         "stage": {"id": data["stage_id"], "name": self.store.stages[data["stage_id"]]["name"]},
                         "person": {"id": person.id, "name": person.data["name"]} if person else None,
                         "organization": {"id": organization.id, "name": organization.data["name"], "address":
                                          (organization.data["address"] or {}).get("value")} if organization else None,
                         "custom_fields": custom, "notes": [], "is_archived": data["is_archived"]})
            return item
        item.update({"name": data["name"], "visible_to": data["visible_to"], "owner": {"id": data["owner_id"]},
                     "custom_fields": custom})
        if kind == "organizations":
            item.update({"address": (data["address"] or {}).get("value"), "notes": []})
        elif kind == "persons":
            item.update({"phones": [p["value"] for p in data["phones"]], "emails": [e["value"] for e in data["emails"]],
                         "organization": None, "notes": []})
        else:
            item["code"] = data["code"]
        return item

    def search_page(self, query, found, limit):
        """An offset in an opaque cursor is enough for search results."""
        try:
            text = query.get("cursor")
            start = int(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().rpartition(":")[2]) if text else 0
        except ValueError:
            raise Invalid(failed("cursor: Parameter 'cursor' is not valid")) from None
        more = len(found) > start + limit
        cursor = base64.urlsafe_b64encode(b"offset:%d" % (start + limit)).decode().rstrip("=") if more else None
        return found[start:start + limit], cursor

    def search(self, request, kinds, limit_most):
        query = request.query
        exact = query.get("exact_match") in ("true", "1")
        term = self.term_of(query, exact)
        allowed = set(OTHER_FIELDS).union(*(TEXT_FIELDS[kind] for kind in kinds))
        fields = set(query["fields"].split(",")) if query.get("fields") else allowed
        unknown = sorted(fields - allowed)
        if unknown:
            raise Invalid(failed("fields: Unknown value '%s'" % unknown[0]))
        limit = query_integer(query, "limit", 100, 1, limit_most)
        wanted = {name: query_integer(query, name) for name in ("person_id", "organization_id") if name in query}
        status = query.get("status")

        def matches(data):
            return ((status is None or data.get("status") == status)
                    and ("person_id" not in wanted or data.get("person_id") == wanted["person_id"])
                    and ("organization_id" not in wanted or data.get("org_id") == wanted["organization_id"]))

        found = list(self.hits(kinds, term, fields, exact, matches))
        found, cursor = self.search_page(query, found, limit)
        items = [{"result_score": round(1.2 - 0.001 * place, 4), "item": self.search_item(*hit)}
                 for place, hit in enumerate(found)]
        return Response(200, {"success": True, "data": {"items": items}, "additional_data": {"next_cursor": cursor}})

    def search_entity(self, request, kind):
        names = ("term", "fields", "exact_match", "include_fields", "limit", "cursor")
        if kind == "deals":
            names += ("person_id", "organization_id", "status")
        elif kind == "persons":
            names += ("organization_id",)
        check_query(request.query, names)
        return self.search(request, (kind,), 500)

    def item_search(self, request):
        query = request.query
        check_query(query, ("term", "item_types", "fields", "search_for_related_items", "exact_match", "include_fields",
                            "limit", "cursor"))
        known = {name: kind for kind, name in SINGULAR.items()}
        types = query.get("item_types", ",".join(known)).split(",")
        if any(name not in known and name not in ("lead", "file", "mail_attachment", "project") for name in types):
            raise Invalid(failed("item_types: Unknown value"))
        return self.search(request, tuple(known[name] for name in types if name in known) or ENTITIES[:1], 100)

    def field_search(self, request):
        query = request.query
        check_query(query, ("term", "entity_type", "match", "field", "limit", "cursor"))
        known = {name: kind for kind, name in SINGULAR.items()}
        match = query.get("match", "exact")
        if match not in ("exact", "beginning", "middle"):
            raise Invalid(failed("match: Expected one of exact, beginning, middle"))
        term = self.term_of(query, match == "exact")
        kind = known.get(query.get("entity_type"))
        if kind is None:
            raise Invalid(failed("entity_type: Parameter 'entity_type' is required"))
        field = self.store.fields[kind].get(query.get("field"))
        if field is None or field.type not in SEARCHABLE:
            raise Invalid(refused(400, "Field is not searchable or does not exist", INFO))
        limit = query_integer(query, "limit", 100, 1, 500)
        horizon = self.world.clock.monotonic() - self.world.switches["search_lag"]
        found = []
        for record in self.store.tables[kind].rows.values():
            value = record.custom.get(field.code) if field.custom else record.data.get(field.code)
            if value is None or record.data["is_deleted"] or record.born > horizon:
                continue
            text = str(value.get("value") if isinstance(value, dict) else value)
            if text == term if match == "exact" else text.startswith(term) if match == "beginning" else term in text:
                found.append({"id": record.id, "name": record.data["title" if kind == "deals" else "name"]})
        found, cursor = self.search_page(query, found, limit)
        return Response(200, {"success": True, "data": found, "additional_data": {"next_cursor": cursor}})

    def recents(self, request):
        query = request.query
        since = query.get("since_timestamp")
        if since is None or not STAMP.match(since):
            return refused(400, "Invalid since_timestamp")
        since = since.replace(" ", "T") + "Z"
        start = query_integer(query, "start", 0, 0)
        limit = query_integer(query, "limit", 100, 1, 500)
        known = {name: kind for kind, name in SINGULAR.items()}
        names = [name for name in query.get("items", ",".join(known)).split(",") if name in known]
        rows = []
        for name in names:
            for record in self.store.tables[known[name]].rows.values():
                if (record.data["update_time"] or "") >= since:
                    rows.append({"item": name, "id": record.id, "data": self.store.render(known[name], record)})
        rows.sort(key=lambda row: (row["data"]["update_time"], row["id"]))
        more = start + limit < len(rows)
        paging = {"start": start, "limit": limit, "more_items_in_collection": more}
        if more:
            paging["next_start"] = start + limit
        return Response(200, {"success": True, "data": rows[start:start + limit], "additional_data": {
            "since_timestamp": since.replace("T", " ").rstrip("Z"), "pagination": paging}})
