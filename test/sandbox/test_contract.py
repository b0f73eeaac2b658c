#!/usr/bin/env python3
"""Compares both simulated services with the published contracts.

Belongs here: field names and types, keys, filterable fields, page sizes and scopes of Exact Online; paths, token prices, body
members and query parameters of Pipedrive, against the reference files.
Does not belong here: behaviour (test_exact*.py, test_pipedrive.py).
Why: a sandbox that knows a field the real service does not have would let a client pass that fails in production.
The reference files are not part of the project: REFERENCE_DIR names their folder (default ../shared/reference beside the
repository); without them, or without a YAML parser for the Pipedrive half, the tests say so and are skipped.
Run: python3 test/sandbox/test_contract.py
"""

import json
import os
import sys
import types
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
ROOT = os.path.dirname(os.path.dirname(HERE))

from exact import ExactService                      # noqa: E402
from exact_schema import ENDPOINTS, RECEIVABLE_FILTER   # noqa: E402
from httpd import Request                           # noqa: E402
from pipedrive import PipedriveService              # noqa: E402
from pipedrive_rules import BODIES, DISCOUNT, GET_ONE, LINE, LINE_REQUIRED, PIPELINE, QUERIES, STAGE     # noqa: E402
from state import World                             # noqa: E402

REFERENCE = os.environ.get("REFERENCE_DIR") or os.path.join(os.path.dirname(ROOT), "shared", "reference")
# What the documentation says in words (notes of the reference) where the data file has no filter marks.
WORDED = {"bulk/CRM/Contacts": set("Account ID IdentificationDocument IdentificationUser Person".split()),
          "bulk/Cashflow/Receivables": set(RECEIVABLE_FILTER.split()), "cashflow/Receivables": set(RECEIVABLE_FILTER.split())}
# No closed list is published for these; the sandbox takes the list of the sister endpoint or the fields that clients use.
UNPUBLISHED = ("crm/Contacts", "bulk/Logistics/Items")
# Members that a create takes beyond the shared table; the service adds them (pipedrive.py).
CREATE_ONLY = {"organizations": {"add_time": "datetime"}, "persons": {"add_time": "datetime"}}
# Members whose published type is wider than what makes sense: (kind, name) -> type in the file; the sandbox is the stricter one.
STRICTER = {("products", "visible_to"): "number"}


def reference(name):
    path = os.path.join(REFERENCE, name)
    if not os.path.exists(path):
        raise unittest.SkipTest("no %s: the reference files are not here (REFERENCE_DIR=%s)" % (name, REFERENCE))
    return path


def options(**more):
    return types.SimpleNamespace(**dict({"seed": 1, "orders": 0, "months": 12, "customers": None, "items": None, "orders_csv": None,
                                         "division": 123456, "switches": None, "plan": "growth", "seats": 5}, **more))


def edm(field):
    name = field["type"].replace("Edm.", "")
    return "Collection" if not name or "ollection" in name or name == "?" else name


class TestExactContract(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(reference("exact-endpoints.json"), encoding="utf-8") as handle:
            cls.published = json.load(handle)

    def test_fields_and_types(self):
        for path, endpoint in ENDPOINTS.items():
            with self.subTest(path=path):
                self.assertEqual(endpoint.fields, {field["name"]: edm(field) for field in self.published[path]["fields"]})

    def test_keys(self):
        for path, endpoint in ENDPOINTS.items():
            keys = [field["name"] for field in self.published[path]["fields"] if field.get("key")]
            with self.subTest(path=path):
                self.assertEqual([endpoint.key] if endpoint.key else [], keys)

    def test_filterable_fields(self):
        for path, endpoint in ENDPOINTS.items():
            marked = {field["name"] for field in self.published[path]["fields"] if field.get("filter")}
            if path in UNPUBLISHED:
                continue
            with self.subTest(path=path):
                self.assertEqual(set(endpoint.filterable or ()), WORDED.get(path, marked))

    def test_page_sizes_and_scopes(self):
        for path, endpoint in ENDPOINTS.items():
            with self.subTest(path=path):
                self.assertEqual(endpoint.page_size, self.published[path]["page_size"])
                scope = self.published[path]["scope"].lower().replace(" ", ".")
                self.assertEqual(endpoint.scope or "-", scope)

    def test_mandatory_options(self):
        for path, endpoint in ENDPOINTS.items():
            notes = " ".join(self.published[path].get("notes", []))
            with self.subTest(path=path):
                if "$select mandatory" in notes:
                    self.assertEqual(endpoint.select, "needed")
                if "$select=* refused" in notes:
                    self.assertEqual(endpoint.select, "no star")
                if "$filter mandatory" in notes:
                    self.assertTrue(endpoint.must_filter)

    def test_writable_contact_fields(self):
        from exact_schema import CONTACT_WRITE
        writable = {field["name"] for field in self.published["crm/Contacts"]["fields"] if "P" in field["m"]} - {"ID", "Account"}
        self.assertEqual(set(CONTACT_WRITE), writable)


class TestExactServesAllFields(unittest.TestCase):
    """Every field of every endpoint can be selected and comes with a value of its type (or null)."""

    def test_all(self):
        world = World(1)
        service = world.exact = ExactService(world, options(orders=40))
        world.switches["exact_minute_limit"] = 10 ** 6
        token = service.oauth.issue()["access_token"]
        checks = {"Guid": str, "String": str, "Binary": str, "DateTime": str, "Int16": int, "Int32": int, "Int64": int, "Byte": int,
                  "Boolean": bool, "Double": (int, float), "Collection": dict}
        filters = {"OrderID": "Status ge 0", "InvoiceID": "Status ge 0"}
        for path, endpoint in ENDPOINTS.items():
            if endpoint.kind == "function":
                continue
            query = "?$select=" + ",".join(endpoint.fields)
            if endpoint.must_filter:
                condition = filters.get(endpoint.key, "ID ne null").replace(" ", "%20")
                query += "&$filter=" + condition
            target = "/api/v1/" + ("" if endpoint.kind == "me" else "123456/") + path + query
            answer = service.handle(Request("GET", target, {"authorization": "Bearer " + token, "accept": "application/json"}, b""))
            with self.subTest(path=path):
                self.assertEqual(answer.status, 200, answer.plain[:500])
                rows = json.loads(answer.plain)["d"]["results"]
                if endpoint.table != "WebhookSubscriptions" and endpoint.table != "Deleted":
                    self.assertTrue(rows)
                for row in rows:
                    self.assertEqual(set(row) - {"__metadata"}, set(endpoint.fields))
                    for name, value in row.items():
                        if name != "__metadata" and value is not None:
                            self.assertIsInstance(value, checks[endpoint.fields[name]], name)


class TestPipedriveContract(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            import yaml
        except ImportError:
            raise unittest.SkipTest("no YAML parser (python3-yaml): the Pipedrive half of the contract test is skipped") from None
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        cls.published = {}
        for version in ("v1", "v2"):
            with open(reference("pipedrive-openapi-%s.yaml" % version), encoding="utf-8") as handle:
                cls.published[version] = yaml.load(handle, Loader=loader)
        cls.service = PipedriveService(World(1), options())

    def paths(self, version):
        """{(method, parts with {} for variables): operation}"""
        found = {}
        for path, methods in self.published[version]["paths"].items():
            parts = tuple("{}" if part.startswith("{") else part for part in path.strip("/").split("/"))
            for method, operation in methods.items():
                if method in ("get", "post", "put", "patch", "delete"):
                    operation = dict(operation, all_parameters=methods.get("parameters", []) + operation.get("parameters", []))
                    found[method.upper(), parts] = operation
        return found

    def routes(self):
        for (version, _, _), routes in self.service.routes.items():
            for pattern, method, operation, cost, *_ in routes:
                yield version, method, tuple("{}" if part in "#*" else part for part in pattern), operation, cost

    def resolve(self, version, node):
        while isinstance(node, dict) and "$ref" in node:
            target = self.published[version]
            for part in node["$ref"].lstrip("#/").split("/"):
                target = target[part]
            node = target
        return node

    def body(self, version, operation):
        """(properties, required names) of the JSON request body."""
        content = self.resolve(version, operation.get("requestBody", {})).get("content", {})
        return self.merged(version, content.get("application/json", {}).get("schema", {}))

    def merged(self, version, schema):
        schema = self.resolve(version, schema)
        properties, required = dict(schema.get("properties", {})), set(schema.get("required", []))
        for part in schema.get("allOf", []):
            more, needed = self.merged(version, part)
            properties.update(more)
            required |= needed
        return properties, required

    def test_paths_and_prices(self):
        known = {version: self.paths(version) for version in ("v1", "v2")}
        absent = []
        for version, method, parts, operation, cost in self.routes():
            published = known[version].get((method, parts))
            if published is None:
                absent.append((version, method, "/".join(parts)))
                continue
            with self.subTest(operation=operation):
                self.assertEqual(cost, published.get("x-token-cost", cost), "%s %s" % (method, "/".join(parts)))
        # v1 paths that left the current file are known from an older copy; anything else is a mistake
        self.assertEqual([entry for entry in absent if entry[0] == "v2"], [])

    def kind(self, version, schema):
        schema = self.resolve(version, schema)
        if "allOf" in schema:
            return self.kind(version, schema["allOf"][0])
        return schema.get("type", "object")

    SIMPLE = {"datetime": "string", "date": "string", "address": "object", "contacts": "array", "prices": "array", "integers": "array"}

    def compare(self, kind, method, path, schema, required=None):
        operation = self.paths("v2")[method, tuple("{}" if part in "#*" else part for part in path.split("/"))]
        properties, needed = self.body("v2", operation)
        own = set(schema)
        with self.subTest(kind=kind, method=method):
            self.assertEqual(own, set(properties))
            if required is not None:
                self.assertEqual(set(required), needed)
        for name in own & set(properties):
            ours = "string" if isinstance(schema[name], tuple) else schema[name].rstrip("?").partition(":")[0]
            with self.subTest(kind=kind, method=method, member=name):
                published = self.kind("v2", properties[name])
                self.assertEqual(STRICTER.get((kind, name), self.SIMPLE.get(ours, ours)), published)
                allowed = self.resolve("v2", properties[name]).get("enum")
                if allowed and isinstance(schema[name], tuple):
                    self.assertEqual({value for value in allowed if value is not None}, set(schema[name]))

    def test_bodies(self):
        for kind, schema in BODIES.items():
            self.compare(kind, "POST", kind, dict(schema, **CREATE_ONLY.get(kind, {})))
            self.compare(kind, "PATCH", kind + "/#", schema)
        self.compare("lines", "POST", "deals/#/products", LINE, LINE_REQUIRED)
        self.compare("lines", "PATCH", "deals/#/products/#", LINE)
        self.compare("discounts", "POST", "deals/#/discounts", DISCOUNT, DISCOUNT)
        self.compare("discounts", "PATCH", "deals/#/discounts/*", DISCOUNT)
        self.compare("pipelines", "POST", "pipelines", PIPELINE)
        self.compare("stages", "POST", "stages", STAGE)

    def test_queries(self):
        paths = self.paths("v2")
        for table, suffix in ((QUERIES, ()), (GET_ONE, ("{}",))):
            for kind, names in table.items():
                operation = paths["GET", (kind,) + suffix]
                published = {self.resolve("v2", parameter)["name"] for parameter in operation["all_parameters"]
                             if self.resolve("v2", parameter)["in"] == "query"}
                with self.subTest(kind=kind, one=bool(suffix)):
                    self.assertEqual(set(names), published)


if __name__ == "__main__":
    unittest.main()
