"""Tests of the sandbox's core and of its Pipedrive side, over real HTTP.

Belongs here: what the extension relies on: bodies, statuses, prices, limits, money, faults, the control interface.
Does not belong here: the Exact side (test_exact.py), agreement with the official contracts (test_contract.py).
Why: the sandbox judges the extension; a judge that errs is worse than none.
"""

import gzip
import http.client
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import unittest
from urllib.parse import quote, urlsplit

HERE = os.path.dirname(os.path.abspath(__file__))


class Sandbox:
    """A running sandbox and calls to it."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([sys.executable, os.path.join(HERE, "run.py"), "--orders", "0", *arguments],
                                        stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the sandbox did not start")
        self.ready = json.loads(line)
        self.connections = {}

    def stop(self):
        for connection in self.connections.values():
            connection.close()
        self.process.terminate()
        code = self.process.wait(10)
        self.process.stdout.close()
        return code

    def raw(self, side, method, path, body=None, headers=None, timeout=10):
        split = urlsplit(self.ready[side])
        connection = http.client.HTTPConnection(split.hostname, split.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    def pipedrive(self, method, path, body=None, **headers):
        head = {"x-api-token": self.ready["api_token"]}
        data = None
        if body is not None:
            head["Content-Type"] = "application/json"
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head.update({name.replace("_", "-"): value for name, value in headers.items()})
        status, text, answer_headers = self.raw("pipedrive", method, path, data, head)
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = text
        return status, parsed, answer_headers

    def control(self, method, path, body=None):
        status, text, _ = self.raw("control", method, path, None if body is None else json.dumps(body).encode())
        if status >= 400:
            raise RuntimeError("control %s %s: %d %s" % (method, path, status, text.decode()))
        return json.loads(text)

    def switch(self, **values):
        return self.control("POST", "/switches", values)


class Case(unittest.TestCase):
    arguments = ("--switches", '{"burst_limit": 0}')

    @classmethod
    def setUpClass(cls):
        cls.box = Sandbox(*cls.arguments)

    @classmethod
    def tearDownClass(cls):
        cls.box.stop()

    def setUp(self):
        self.box.control("DELETE", "/switches")
        self.box.switch(burst_limit=0)
        self.box.control("DELETE", "/faults")
        self.box.control("POST", "/pipedrive/reset")
        self.box.control("DELETE", "/violations")
        self.box.control("POST", "/stats/reset")

    def tearDown(self):
        broken = [v for v in self.box.control("GET", "/violations") if v["side"] == "sandbox"]
        self.assertEqual([], broken)

    def ok(self, method, path, body=None, status=200):
        got, answer, _ = self.box.pipedrive(method, path, body)
        self.assertEqual((status, True), (got, answer["success"] if isinstance(answer, dict) else answer), answer)
        return answer["data"]

    def refused(self, method, path, body=None, status=400, text=""):
        got, answer, _ = self.box.pipedrive(method, path, body)
        self.assertEqual(status, got, answer)
        self.assertIn(text, answer["error"])
        return answer

    def field(self, kind="dealFields", name="Exact-ID", type_="varchar", **more):
        return self.ok("POST", "/api/v2/" + kind, {"field_name": name, "field_type": type_, **more})["field_code"]

    def product(self, **more):
        return self.ok("POST", "/api/v2/products", {"name": "Vaas", **more}, 201)["id"]

    def deal(self, **more):
        return self.ok("POST", "/api/v2/deals", {"title": "Order", **more})["id"]

    def value(self, deal):
        return self.ok("GET", "/api/v2/deals/%d" % deal)["value"]

    def line(self, product, price, quantity, **more):
        return {"product_id": product, "item_price": price, "quantity": quantity, "tax_method": "none", **more}


class TestBasics(Case):
    def test_me_and_auth(self):
        me = self.ok("GET", "/api/v1/users/me")
        self.assertEqual("vanderlinden-wonen", me["company_domain"])
        self.assertEqual(me["id"], self.ok("GET", "/v1/users/me")["id"])
        status, answer, headers = self.box.pipedrive("GET", "/api/v1/users/me", x_api_token="wrong")
        self.assertEqual((401, 401, "true"), (status, answer["errorCode"], headers["x-401-by-gw"]))
        self.assertEqual(4, self.box.control("GET", "/stats")["pipedrive"]["tokens"])
        status, _, _ = self.box.raw("pipedrive", "GET", "/api/v1/users/me?api_token=" + self.box.ready["api_token"])
        self.assertEqual(401, status)
        self.assertEqual(1, len(self.box.control("GET", "/violations")))

    def test_users_have_an_inactive_one(self):
        users = self.ok("GET", "/api/v1/users")
        self.assertEqual(1, sum(1 for user in users if not user["active_flag"]))
        off = next(user["id"] for user in users if not user["active_flag"])
        self.refused("POST", "/api/v2/deals", {"title": "x", "owner_id": off}, text="not active")
        self.box.switch(inactive_owner="accept")
        self.deal(owner_id=off)

    def test_unknown_paths(self):
        status, answer, headers = self.box.pipedrive("GET", "/api/v2/users/me")
        self.assertEqual(404, status)
        self.assertTrue(headers["content-type"].startswith("text/html"))
        self.assertIn(b"<html", answer)
        self.assertEqual(405, self.box.pipedrive("PUT", "/api/v2/deals/1", {})[0])

    def test_deal_life(self):
        code = self.field()
        date = self.field(name="Orderdatum", type_="date")
        organization = self.ok("POST", "/api/v2/organizations", {"name": "Bakkerij", "address": {"value": "Dorpsstraat 1"}})
        self.assertEqual("Dorpsstraat 1", organization["address"]["value"])
        deal = self.ok("POST", "/api/v2/deals", {
            "title": "Order 1", "org_id": organization["id"], "status": "won", "won_time": "2026-03-14T23:30:00Z",
            "value": 12.34, "custom_fields": {code: "guid-1"}})
        self.assertEqual({code: "guid-1", date: None}, deal["custom_fields"])
        self.assertEqual((12.34, "2026-03-15", "2026-03-14T23:30:00Z"),
                         (deal["value"], deal["local_won_date"], deal["close_time"]))
        path = "/api/v2/deals/%d" % deal["id"]
        lost = self.ok("PATCH", path, {"status": "lost", "lost_reason": "Geannuleerd in Exact"})
        self.assertEqual((None, "Geannuleerd in Exact"), (lost["won_time"], lost["lost_reason"]))
        self.assertIsNotNone(lost["lost_time"])
        opened = self.ok("PATCH", path, {"status": "open"})
        self.assertEqual((None, None, None), (opened["lost_time"], opened["lost_reason"], opened["close_time"]))
        self.ok("PATCH", path, {"title": "Order 1"})
        self.assertEqual(1, self.box.control("GET", "/stats")["pipedrive"]["noop_patches"])
        self.assertEqual({"id": deal["id"]}, self.ok("DELETE", path))
        self.assertTrue(self.ok("GET", path)["is_deleted"])
        self.refused("PATCH", path, {"title": "x"}, 404)
        self.assertEqual([], self.ok("GET", "/api/v2/deals"))
        self.assertEqual(1, len(self.ok("GET", "/api/v2/deals?status=deleted")))
        self.box.switch(deleted_get_404=True)
        self.refused("GET", path, status=404)

    def test_stages_and_pipelines(self):
        pipeline = self.ok("POST", "/api/v2/pipelines", {"name": "Bestellingen"})["id"]
        first = self.ok("POST", "/api/v2/stages", {"name": "Nieuw", "pipeline_id": pipeline})
        second = self.ok("POST", "/api/v2/stages", {"name": "Verzonden", "pipeline_id": pipeline})
        self.assertLess(first["order_nr"], second["order_nr"])
        self.assertEqual(2, len(self.ok("GET", "/api/v2/stages?pipeline_id=%d" % pipeline)))
        deal = self.ok("POST", "/api/v2/deals", {"title": "x", "stage_id": second["id"]})
        self.assertEqual(pipeline, deal["pipeline_id"])
        self.refused("POST", "/api/v2/deals", {"title": "x", "stage_id": second["id"], "pipeline_id": 1})
        moved = self.ok("PATCH", "/api/v2/deals/%d" % deal["id"], {"stage_id": first["id"]})
        self.assertIsNotNone(moved["stage_change_time"])
        self.refused("POST", "/api/v2/deals", {"title": "x", "stage_id": 999})

    def test_gzip(self):
        status, answer, headers = self.box.pipedrive("GET", "/api/v2/dealFields?limit=500", accept_encoding="gzip")
        self.assertEqual((200, "gzip"), (status, headers["content-encoding"]))
        self.assertTrue(json.loads(gzip.decompress(answer))["success"])


class TestValidation(Case):
    def test_joined_message(self):
        answer = self.refused("POST", "/api/v2/deals", {"title": "x", "foo": 1, "bar": 2})
        self.assertEqual("ERR_SCHEMA_VALIDATION_FAILED", answer["code"])
        self.assertEqual("Validation failed: foo: Parameter 'foo' is not allowed for this request; "
                         "bar: Parameter 'bar' is not allowed for this request", answer["error"])

    def test_types_and_names(self):
        for body in ({"title": 1}, {"title": "x", "value": "1"}, {"title": "x", "org_id": "8"}, {"title": "x", "is_archived": 1},
                     {"title": "x" * 256}, {}, {"title": ""}, {"title": "x", "add_time": "2026-01-01T00:00:00Z"},
                     {"title": "x", "won_time": "2026-01-01T00:00:00Z"}, {"title": "x", "lost_reason": "y"},
                     {"title": "x", "org_id": 4711}, {"title": "x", "owner_id": 4711}, {"title": "x", "currency": "QQQ"},
                     {"title": "x", "expected_close_date": "2026-01-01T00:00:00Z"}, {"title": "x", "probability": 101},
                     {"title": "x", "visible_to": 7}, {"title": "x", "status": "deleted"}, {"title": "x", "value": True},
                     {"title": "x", "is_deleted": True}, {"title": "x", "value": 1e200}, ["title"]):
            with self.subTest(body=body):
                self.refused("POST", "/api/v2/deals", body)
        self.refused("POST", "/api/v2/deals", b'{"title":"x"')
        self.refused("POST", "/api/v2/deals", b'{"title":"x","value":NaN}')
        self.ok("POST", "/api/v2/deals", {"title": "x" * 255, "value": 1.0})

    def test_custom_fields(self):
        text, number = self.field(), self.field(name="Getal", type_="double")
        day, choice = self.field(name="Dag", type_="date"), self.field(name="Keuze", type_="set", options=[{"label": "A"}])
        money = self.field(name="Bedrag", type_="monetary")
        option = self.ok("GET", "/api/v2/dealFields/" + choice)["options"][0]["id"]
        for code, value in ((text, ""), (text, 1), (text, "x" * 256), (number, "1"), (day, "2026-01-01T00:00:00Z"),
                            (day, "2026-02-30"), (choice, []), (choice, [option + 1]), (money, 1), ("0" * 40, "x")):
            with self.subTest(value=value):
                answer = self.refused("POST", "/api/v2/deals", {"title": "x", "custom_fields": {code: value}})
                self.assertIn(code, answer["error"])
        answer = self.refused("POST", "/api/v2/deals", {"title": "x", "custom_fields": {number: "1"}})
        self.assertEqual("Validation failed: custom_fields: Expected 'number' as value for deal custom field '%s'" % number,
                         answer["error"])
        deal = self.deal(custom_fields={text: "a", number: 1.5, day: "2026-02-28", choice: [option],
                                        money: {"value": 12.5, "currency": "EUR"}})
        data = self.ok("GET", "/api/v2/deals/%d?custom_fields=%s,%s" % (deal, text, money))
        self.assertEqual({text: "a", money: {"value": 12.5, "currency": "EUR"}}, data["custom_fields"])
        self.assertIsNone(self.ok("PATCH", "/api/v2/deals/%d" % deal, {"custom_fields": {text: None}})["custom_fields"][text])
        self.ok("PATCH", "/api/v2/deals/%d" % deal, {"custom_fields": {}})
        self.assertEqual({None}, set(self.ok("GET", "/api/v2/deals/%d" % deal)["custom_fields"].values()))

    def test_queries(self):
        self.refused("GET", "/api/v2/deals?updated_since=2026-01-01T00:00:00.5Z", text="not a valid datetime")
        self.refused("GET", "/api/v2/deals?limit=501")
        self.refused("GET", "/api/v2/deals?cursor=abc")
        self.refused("GET", "/api/v2/deals?foo=1", text="not allowed")
        self.ok("GET", "/api/v2/deals?updated_since=2026-01-01T00:00:00Z&sort_by=update_time&sort_direction=desc")


class TestLists(Case):
    def test_pages(self):
        code = self.field()
        self.box.control("POST", "/pipedrive/seed", {"deals": [
            {"title": "d%d" % n, "fields": {"Exact-ID": "g%d" % n}, "update_time": "2026-01-01T00:00:%02dZ" % (n % 3)}
            for n in range(25)]})
        for order in ("", "&sort_direction=desc", "&sort_by=update_time", "&sort_by=update_time&sort_direction=desc"):
            seen, cursor = [], ""
            while cursor is not None:
                status, answer, _ = self.box.pipedrive("GET", "/api/v2/deals?limit=7&custom_fields=%s%s%s" % (
                    code, order, "&cursor=" + cursor if cursor else ""))
                self.assertEqual(200, status)
                seen.extend(row["custom_fields"][code] for row in answer["data"])
                cursor = answer["additional_data"]["next_cursor"]
            self.assertEqual(25, len(set(seen)))
            self.assertEqual(25, len(seen))
        found = self.ok("GET", "/api/v2/deals?updated_since=2026-01-01T00:00:02Z&updated_until=2026-01-01T00:00:03Z")
        self.assertEqual(8, len(found))

    def test_ids_and_lag(self):
        first = self.deal()
        second = self.deal()
        self.assertEqual([first], [d["id"] for d in self.ok("GET", "/api/v2/deals?ids=%d,5" % first)])
        self.box.switch(list_lag=60)
        self.deal()
        self.assertEqual([], self.ok("GET", "/api/v2/deals"))
        self.box.control("POST", "/clock", {"advance": 61})
        self.assertEqual(3, len(self.ok("GET", "/api/v2/deals")))
        self.assertLess(first, second)

    def test_search_lag(self):
        self.field()
        self.deal(title="Order 4711 Bakkerij")
        path = "/api/v2/itemSearch?term=4711&item_types=deal"
        self.assertEqual([], self.ok("GET", path)["items"])
        self.box.control("POST", "/clock", {"advance": 4})
        self.assertEqual("Order 4711 Bakkerij", self.ok("GET", path)["items"][0]["item"]["title"])
        self.refused("GET", "/api/v2/deals/search?term=4")

    def test_field_search_and_recents(self):
        code = self.field()
        deal = self.deal(custom_fields={code: "guid-x"})
        self.box.control("POST", "/clock", {"advance": 4})
        found = self.ok("GET", "/api/v2/itemSearch/field?entity_type=deal&field=%s&match=exact&term=guid-x" % code)
        self.assertEqual([deal], [row["id"] for row in found])
        rows = self.ok("GET", "/api/v1/recents?since_timestamp=%s&items=deal" % quote("2000-01-01 00:00:00"))
        self.assertEqual([deal], [row["id"] for row in rows])


class TestLines(Case):
    def test_value_to_the_cent(self):
        product = self.product()
        deal = self.deal()
        path = "/api/v2/deals/%d" % deal
        line = self.ok("POST", path + "/products", self.line(product, 18.4, 12, comments="regel 1"), 201)
        self.assertEqual((220.8, 10, "none"), (line["sum"], line["order_nr"], line["tax_method"]))
        lines = self.ok("POST", path + "/products/bulk", {"data": [self.line(product, 0.1, 3), self.line(product, 9.99, -1)]}, 201)
        self.assertEqual([0.3, -9.99], [row["sum"] for row in lines])
        self.assertEqual(211.11, self.value(deal))
        discount = self.ok("POST", path + "/discounts", {"description": "Afronding", "amount": 0.01, "type": "amount"}, 201)
        self.assertEqual(211.1, self.value(deal))
        self.ok("PATCH", "%s/discounts/%s" % (path, discount["id"]), {"amount": 10, "type": "percentage"})
        self.assertEqual(190, self.value(deal))
        self.refused("POST", path + "/discounts", {"description": "x", "amount": -1, "type": "amount"})
        self.assertEqual(1, len(self.ok("GET", path + "/discounts")))
        self.ok("DELETE", "%s/discounts/%s" % (path, discount["id"]))
        self.ok("PATCH", "%s/products/%d" % (path, line["id"]), {"is_enabled": False})
        self.assertEqual(-9.69, self.value(deal))
        self.ok("DELETE", "%s/products/%d" % (path, lines[0]["id"]))
        gone = self.ok("DELETE", path + "/products?ids=%d,%d" % (line["id"], lines[1]["id"]))
        self.assertEqual([line["id"], lines[1]["id"]], gone["ids"])
        self.assertEqual(0, self.value(deal))

    def test_limits_of_bulk(self):
        product, deal = self.product(), self.deal()
        path = "/api/v2/deals/%d/products" % deal
        items = [self.line(product, 1, 1)] * 100
        self.ok("POST", path + "/bulk", {"data": items}, 201)
        self.refused("POST", path + "/bulk", {"data": items + items[:1]})
        self.refused("POST", path + "/bulk", {"data": []})
        self.ok("POST", path + "/bulk", {"data": items[:50]}, 201)
        self.assertEqual(150, len(self.ok("GET", path + "?limit=500&sort_by=order_nr")))
        self.assertEqual(150, len(self.ok("GET", "/api/v2/deals/products?limit=500&deal_ids=%d,%d" % (deal, deal + 1))))
        status, answer, _ = self.box.pipedrive("DELETE", path)
        self.assertEqual((200, 100, True), (status, len(answer["data"]["ids"]), answer["additional_data"]["more_items_in_collection"]))
        self.assertEqual(50, self.value(deal))

    def test_refusals(self):
        product, deal = self.product(), self.deal()
        hidden = self.product(is_linkable=False)
        path = "/api/v2/deals/%d/products" % deal
        for change in ({"product_id": 1}, {"product_id": hidden}, {"name": "x"}, {"item_price": "1"}, {"comments": None},
                       {"discount": -1}, {"discount": 101}, {"tax_method": "vat"}, {"billing_frequency_cycles": 3}):
            with self.subTest(change=change):
                self.refused("POST", path, {**self.line(product, 1, 1), **change})
        self.refused("POST", path, {"product_id": product, "quantity": 1})
        self.box.switch(negative_quantity="refuse")
        self.refused("POST", path, self.line(product, 1, -1))

    def test_tax_method_is_the_deals(self):
        product, deal = self.product(), self.deal()
        path = "/api/v2/deals/%d/products" % deal
        first = self.ok("POST", path, {"product_id": product, "item_price": 100, "quantity": 1, "tax": 21}, 201)
        self.assertEqual(("exclusive", 121), (first["tax_method"], first["sum"]))
        self.ok("POST", path, self.line(product, 1, 1), 201)
        self.assertEqual({"none"}, {row["tax_method"] for row in self.ok("GET", path)})
        self.assertEqual(101, self.value(deal))

    def test_value_of_a_deal_with_lines(self):
        product, deal = self.product(), self.deal()
        self.ok("POST", "/api/v2/deals/%d/products" % deal, self.line(product, 5, 2), 201)
        self.box.switch(value_on_deal_with_lines="ignore")
        self.assertEqual(10, self.ok("PATCH", "/api/v2/deals/%d" % deal, {"value": 3})["value"])
        self.box.switch(value_on_deal_with_lines="400")
        self.refused("PATCH", "/api/v2/deals/%d" % deal, {"value": 3})
        self.box.switch(value_delay=2)
        self.ok("POST", "/api/v2/deals/%d/products" % deal, self.line(product, 1, 1), 201)
        self.assertEqual(10, self.value(deal))
        self.assertEqual(11, self.box.control("GET", "/pipedrive/state?only=deals")["deals"][0]["value"])
        self.box.control("POST", "/clock", {"advance": 2})
        self.assertEqual(11, self.value(deal))

    def test_partial_and_shuffled_bulk(self):
        product, deal = self.product(), self.deal()
        path = "/api/v2/deals/%d/products" % deal
        self.box.switch(bulk_partial=2)
        self.refused("POST", path + "/bulk", {"data": [self.line(product, n, 1) for n in range(5)]}, 500)
        self.assertEqual(2, len(self.ok("GET", path)))
        self.box.switch(bulk_partial=0, shuffle_bulk=True)
        rows = self.ok("POST", path + "/bulk", {"data": [self.line(product, n, 1) for n in range(20)]}, 201)
        self.assertNotEqual([row["item_price"] for row in rows], list(range(20)))

    def test_partial_bulk_delete(self):
        product, deal = self.product(), self.deal()
        path = "/api/v2/deals/%d/products" % deal
        rows = self.ok("POST", path + "/bulk", {"data": [self.line(product, n, 1) for n in range(5)]}, 201)
        numbers = [row["id"] for row in rows]
        self.box.switch(bulk_delete_partial=3)
        gone = self.ok("DELETE", path + "?ids=" + ",".join(map(str, numbers)))
        self.assertEqual(numbers[:3], gone["ids"])
        self.assertEqual(numbers[3:], [row["id"] for row in self.ok("GET", path)])


class TestOthers(Case):
    def test_archived(self):
        product, deal = self.product(), self.deal()
        self.assertIsNotNone(self.ok("PATCH", "/api/v2/deals/%d" % deal, {"is_archived": True})["archive_time"])
        self.refused("PATCH", "/api/v2/deals/%d" % deal, {"title": "x"}, 403)
        self.refused("POST", "/api/v2/deals/%d/products" % deal, self.line(product, 1, 1), 403)
        self.assertEqual([], self.ok("GET", "/api/v2/deals"))
        self.assertEqual([deal], [row["id"] for row in self.ok("GET", "/api/v2/deals/archived")])

    def test_capacity(self):
        self.box.switch(deal_limit=2)
        self.deal()
        self.deal(status="won")
        answer = self.refused("POST", "/api/v2/deals", {"title": "x"}, 403, "Limit reached")
        self.assertEqual("feature_capping_deals_limit", answer["code"])
        self.box.switch(count_open_only=True)
        self.deal()

    def test_products_and_categories(self):
        options = self.ok("POST", "/api/v2/productFields/category/options", [{"label": "Kerst"}, {"label": "Glaswerk"}])
        product = self.ok("POST", "/api/v2/products", {
            "name": "Bal", "code": "B1", "category": options[0]["id"], "prices": [{"currency": "EUR", "price": 1.5}]}, 201)
        self.assertEqual(str(options[0]["id"]), product["category"])
        self.assertEqual(1.5, product["prices"][0]["price"])
        self.refused("POST", "/api/v2/products", {"name": "x", "category": "Kerst"})
        self.refused("POST", "/api/v2/products", {"name": "x", "category": 99999})
        self.refused("POST", "/api/v2/products", {"name": "x", "prices": [{"currency": "EUR"}, {"currency": "EUR"}]})
        self.refused("POST", "/api/v2/productFields/category/options", [{"label": "Kerst"}])
        self.box.switch(category_options="refuse")
        self.refused("POST", "/api/v2/productFields/category/options", [{"label": "Terracotta"}])
        field = next(f for f in self.ok("GET", "/v1/productFields") if f["key"] == "category")
        full = [{"id": o["id"], "label": o["label"]} for o in field["options"]] + [{"label": "Terracotta"}]
        self.assertEqual(3, len(self.ok("PUT", "/v1/productFields/%d" % field["id"], {"options": full})["options"]))
        self.box.switch(products_off=415)
        self.refused("GET", "/api/v2/products", status=415)

    def test_fields(self):
        self.refused("POST", "/api/v2/organizationFields", {"field_name": "x", "field_type": "varchar", "description": "y"})
        self.refused("POST", "/api/v2/dealFields", {"field_name": "x", "field_type": "enum"})
        code = self.field(name="Debiteur")
        self.field(name="Debiteur")
        found = [f for f in self.ok("GET", "/api/v2/dealFields?limit=500") if f["field_name"] == "Debiteur"]
        self.assertEqual((2, 40), (len(found), len(code)))
        deal = self.deal(custom_fields={code: "400"})
        self.ok("DELETE", "/api/v2/dealFields/" + code)
        self.assertNotIn(code, self.ok("GET", "/api/v2/deals/%d" % deal)["custom_fields"])
        self.refused("PATCH", "/api/v2/deals/%d" % deal, {"custom_fields": {code: "1"}}, text="not allowed")

    def test_merge(self):
        one = self.ok("POST", "/api/v2/organizations", {"name": "A"})["id"]
        two = self.ok("POST", "/api/v2/organizations", {"name": "B"})["id"]
        deal = self.deal(org_id=one)
        self.assertEqual({"id": two}, self.ok("PUT", "/api/v1/organizations/%d/merge" % one, {"merge_with_id": two}))
        self.assertEqual(two, self.ok("GET", "/api/v2/deals/%d" % deal)["org_id"])
        self.refused("PATCH", "/api/v2/organizations/%d" % one, {"name": "x"}, 404)

    def test_merge_fills_what_is_empty(self):
        code, other = self.field("organizationFields", "Exact-ID"), self.field("organizationFields", "Debiteur")
        one = self.ok("POST", "/api/v2/organizations", {"name": "A", "address": {"value": "Dorp 1"}, "custom_fields": {code: "a", other: "1"}})["id"]
        two = self.ok("POST", "/api/v2/organizations", {"name": "B", "custom_fields": {other: "2"}})["id"]
        self.ok("PUT", "/api/v1/organizations/%d/merge" % one, {"merge_with_id": two})
        stays = self.ok("GET", "/api/v2/organizations/%d" % two)
        self.assertEqual(("B", "Dorp 1", "a", "2"), (stays["name"], stays["address"]["value"], stays["custom_fields"][code], stays["custom_fields"][other]))

    def test_merge_of_deals_moves_lines(self):
        product = self.product()
        deals = [self.deal(), self.deal()]
        for deal in deals:
            self.ok("POST", "/api/v2/deals/%d/products" % deal, {"product_id": product, "item_price": 5, "quantity": 2}, 201)
        self.ok("PUT", "/api/v1/deals/%d/merge" % deals[0], {"merge_with_id": deals[1]})
        self.assertEqual(20, self.ok("GET", "/api/v2/deals/%d" % deals[1])["value"])
        self.assertEqual(2, len(self.ok("GET", "/api/v2/deals/%d/products" % deals[1])))
        self.assertTrue(self.ok("GET", "/api/v2/deals/%d" % deals[0])["is_deleted"])

    def test_persons(self):
        person = self.ok("POST", "/api/v2/persons", {"name": "Anja Smit", "emails": [{"value": "a@b.example"}]})
        self.assertEqual(("Anja", True), (person["first_name"], person["emails"][0]["primary"]))
        self.refused("POST", "/api/v2/persons", {"name": "x", "job_title": "y"}, 403)

    def test_duplicates_are_violations(self):
        code = self.field()
        self.deal(custom_fields={code: "guid"})
        first = self.deal(custom_fields={code: "other"})
        self.ok("DELETE", "/api/v2/deals/%d" % first)
        self.deal(custom_fields={code: "other"})
        self.assertEqual([], self.box.control("GET", "/violations"))
        self.deal(custom_fields={code: "guid"})
        violations = self.box.control("GET", "/violations")
        self.assertEqual(1, len(violations))
        self.assertIn("guid", violations[0]["text"])
        self.box.control("POST", "/pipedrive/unique_fields", {"deal": ["Nummer"]})
        self.deal(custom_fields={code: "guid"})
        self.assertEqual(1, len(self.box.control("GET", "/violations")))
        self.box.control("POST", "/pipedrive/unique_fields", {"deal": ["Exact-ID"]})


class TestControl(Case):
    def test_seed_and_state(self):
        made = self.box.control("POST", "/pipedrive/seed", {
            "pipelines": [{"name": "Bestellingen", "stages": ["Nieuw", "Verzonden"]}],
            "product_fields": [{"name": "category", "options": ["Kerst"]}],
            "organizations": [{"name": "Tuincentrum", "fields": {"Debiteurnr": "400"}}],
            "products": [{"name": "Bal", "code": "B1", "category": "Kerst"}]})
        stage = made["pipelines"][0]["stages"][1]["id"]
        made = self.box.control("POST", "/pipedrive/seed", {"deals": [{
            "title": "Order 1", "org_id": made["organizations"][0]["id"], "stage_id": stage, "status": "won",
            "fields": {"Ordernummer": "1"}, "add_time": "2025-01-01T10:00:00Z",
            "products": [{"product_id": made["products"][0]["id"], "item_price": 1.1, "quantity": 3, "tax_method": "none"}],
            "discounts": [{"amount": 0.3}]}]})
        state = self.box.control("GET", "/pipedrive/state")
        deal = state["deals"][0]
        self.assertEqual((3, "3.00", "Verzonden", "Bestellingen", "Tuincentrum", {"Ordernummer": "1"}, 1, 1, "2025-01-01T10:00:00Z"),
                         (deal["value"], deal["value_text"], deal["stage"], deal["pipeline"], deal["organization"], deal["fields"],
                          len(deal["products"]), len(deal["discounts"]), deal["add_time"]))
        self.assertEqual("Kerst", state["products"][0]["category_label"])
        self.assertEqual({}, self.box.control("GET", "/stats")["pipedrive"]["operations"])
        changed = self.box.control("PATCH", "/pipedrive/deals/%d" % deal["id"], {"title": "Anders", "fields": {"Ordernummer": "2"}})
        self.assertEqual(("Anders", "2"), (changed["title"], changed["fields"]["Ordernummer"]))
        self.box.control("PATCH", "/pipedrive/deal_fields/Ordernummer", {"name": "Nr"})
        self.box.control("DELETE", "/pipedrive/deals/%d" % deal["id"])
        self.box.control("DELETE", "/pipedrive/stages/%d" % stage)
        self.box.control("POST", "/pipedrive/users/113", {"active_flag": False})

    def test_switches_and_calls(self):
        with self.assertRaises(RuntimeError):
            self.box.switch(nonsense=1)
        names = {row["name"] for row in self.box.control("GET", "/switches")}
        self.assertIn("burst_limit", names)
        before = self.box.control("GET", "/calls")
        seq = before[-1]["seq"] if before else 0
        self.deal()
        calls = self.box.control("GET", "/calls?side=pipedrive&since=%d" % seq)
        self.assertEqual([("POST", "/api/v2/deals", 200, "create deals", 5)],
                         [(c["method"], c["path"], c["status"], c["operation"], c["cost"]) for c in calls])

    def test_new_token(self):
        token = self.box.control("POST", "/pipedrive/token")["api_token"]
        self.assertEqual(401, self.box.pipedrive("GET", "/api/v1/users/me")[0])
        self.box.ready["api_token"] = token
        self.ok("GET", "/api/v1/users/me")

    def test_webhook_subscriptions(self):
        body = {"subscription_url": "https://erp.example/pd", "event_action": "*", "event_object": "deal", "name": "x"}
        hook = self.ok("POST", "/api/v1/webhooks", body, 201)
        self.assertEqual(("2.0", 1, None), (hook["version"], hook["is_active"], hook["http_auth_password"]))
        for name in body:
            self.assertEqual(400, self.box.pipedrive("POST", "/api/v1/webhooks", {k: v for k, v in body.items() if k != name})[0])
        self.assertEqual(400, self.box.pipedrive("POST", "/api/v1/webhooks", dict(body, subscription_url="erp.example"))[0])
        self.assertEqual(400, self.box.pipedrive("POST", "/api/v1/webhooks", dict(body, event_action="updated"))[0])
        self.assertEqual({"webhooks": 2}, self.box.control("POST", "/pipedrive/webhooks", dict(body, http_auth_password="w")))
        self.assertEqual([None, "w"], [item["http_auth_password"] for item in self.ok("GET", "/api/v1/webhooks")])
        for _ in range(38):
            self.box.control("POST", "/pipedrive/webhooks", body)
        status, answer = self.box.pipedrive("POST", "/api/v1/webhooks", body)[:2]
        self.assertEqual((422, False), (status, answer["success"]))
        self.box.control("DELETE", "/pipedrive/webhooks/%d" % hook["id"])
        self.assertEqual(404, self.box.pipedrive("DELETE", "/api/v1/webhooks/%d" % hook["id"])[0])

    def test_webhooks(self):
        got = []

        class Receiver(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                got.append((dict(self.headers), json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                self.send_response(200 if len(got) > 1 else 500)
                self.end_headers()

            def log_message(self, *args):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            hook = self.ok("POST", "/api/v1/webhooks", {
                "subscription_url": "http://127.0.0.1:%d/pd" % server.server_port, "event_action": "*", "event_object": "deal",
                "name": "x", "http_auth_user": "u", "http_auth_password": "p"}, 201)
            self.deal(title="Eerste")
            self.wait(lambda: len(got) == 1)
            self.wait(lambda: self.box.control("GET", "/pipedrive/webhooks/sent"))
            self.box.control("POST", "/clock", {"advance": 3.5})
            self.wait(lambda: len(got) == 2)
            meta = got[1][1]["meta"]
            self.assertEqual(("create", "deal", 2, "api", got[0][1]["meta"]["id"]),
                             (meta["action"], meta["entity"], meta["attempt"], meta["change_source"], meta["id"]))
            self.assertTrue(got[0][0]["Authorization"].startswith("Basic "))
            deal = int(meta["entity_id"])
            self.box.control("PATCH", "/pipedrive/deals/%d" % deal, {"title": "Tweede"})
            self.wait(lambda: len(got) == 3)
            event = got[2][1]
            self.assertEqual(("change", "app", "Eerste"), (event["meta"]["action"], event["meta"]["change_source"],
                                                           event["previous"]["title"]))
            me = self.box.control("GET", "/pipedrive/state?only=me")["me"]
            self.assertEqual(str(me), meta["user_id"])
            self.box.control("PATCH", "/pipedrive/deals/%d?tool=%d" % (deal, me + 1), {"title": "Derde"})
            self.wait(lambda: len(got) == 4)
            meta = got[3][1]["meta"]
            self.assertEqual(("api", str(me + 1)), (meta["change_source"], meta["user_id"]))
            self.assertEqual(200, self.box.pipedrive("DELETE", "/api/v1/webhooks/%d" % hook["id"])[0])
        finally:
            server.shutdown()
            server.server_close()

    def wait(self, condition):
        deadline = time.monotonic() + 5
        while not condition():
            self.assertLess(time.monotonic(), deadline, "waited in vain")
            time.sleep(0.02)


class TestLimits(Case):
    def test_burst(self):
        self.box.switch(burst_limit=5)
        self.box.control("POST", "/clock", {"scale": 0, "advance": 2.1})
        try:
            codes = [self.box.pipedrive("GET", "/api/v2/deals") for _ in range(6)]
            self.assertEqual([200] * 5 + [429], [status for status, _, _ in codes])
            self.assertEqual("0", codes[4][2]["x-ratelimit-remaining"])
            self.assertEqual(429, codes[5][1]["errorCode"])
            self.box.control("POST", "/clock", {"advance": 2.1})
            self.ok("GET", "/api/v2/deals")
        finally:
            self.box.control("POST", "/clock", {"scale": 1})
        stats = self.box.control("GET", "/stats")["pipedrive"]
        self.assertEqual((1, 60), (stats["refused_429"], stats["tokens"]))

    def test_search_window(self):
        codes = [self.box.pipedrive("GET", "/api/v2/itemSearch?term=abc")[0] for _ in range(12)]
        self.assertEqual([200] * 10 + [429] * 2, codes)

    def test_daily_budget(self):
        self.box.switch(daily_budget=10 ** 9)
        _, _, headers = self.box.pipedrive("GET", "/api/v1/users/me")
        spent = 10 ** 9 - int(headers["x-daily-ratelimit-token-remaining"])
        self.box.switch(daily_budget=spent + 12)
        self.deal()
        self.box.control("POST", "/pipedrive/spend", {"tokens": 3})
        self.refused("POST", "/api/v2/deals", {"title": "x"}, 429)
        _, _, headers = self.box.pipedrive("GET", "/api/v1/users/me")
        self.assertEqual("2", headers["x-daily-ratelimit-token-remaining"])
        self.box.control("POST", "/clock", {"advance": 86400})
        self.deal()

    def test_refused_requests_are_charged(self):
        self.refused("POST", "/api/v2/deals", {})
        self.assertEqual(5, self.box.control("GET", "/stats")["pipedrive"]["tokens"])
        self.box.switch(charge_4xx=False)
        self.refused("POST", "/api/v2/deals", {})
        self.assertEqual(5, self.box.control("GET", "/stats")["pipedrive"]["tokens"])

    def test_block_and_headers(self):
        self.box.switch(omit_rate_headers=True)
        self.assertNotIn("x-ratelimit-limit", self.box.pipedrive("GET", "/api/v1/users/me")[2])
        self.box.switch(omit_rate_headers=False, omit_daily_headers=1.0, retry_after=True, burst_limit=1, block_after=3,
                        strict_429=True)
        codes = []
        for _ in range(5):
            codes.append(self.box.pipedrive("GET", "/api/v1/users/me"))
        self.assertEqual([200, 429, 429, 429, 403], [status for status, _, _ in codes])
        self.assertIn("retry-after", codes[1][2])
        self.assertNotIn("x-daily-ratelimit-token-limit", codes[0][2])
        self.assertTrue(codes[4][2]["content-type"].startswith("text/html"))
        self.assertEqual(3, len(self.box.control("GET", "/violations")))
        self.box.control("POST", "/pipedrive/unblock")


class TestFaults(Case):
    def fault(self, action, **more):
        return self.box.control("POST", "/faults", {"side": "pipedrive", "action": action, **more})["id"]

    def get(self, timeout=10):
        return self.box.raw("pipedrive", "GET", "/api/v1/users/me", None, {"x-api-token": self.box.ready["api_token"]}, timeout)

    def test_status_skip_times(self):
        self.fault({"status": 503, "body": "<h1>x</h1>", "content_type": "text/html"}, path="users/me", skip=1, times=2)
        self.assertEqual([200, 503, 503, 200], [self.get()[0] for _ in range(4)])
        self.assertEqual(2, self.box.control("GET", "/faults")[0]["hits"])

    def test_drop_after_execution(self):
        self.fault({"drop": True, "execute": True}, method="POST", path="/deals$")
        with self.assertRaises((http.client.HTTPException, OSError)):
            self.box.pipedrive("POST", "/api/v2/deals", {"title": "Verloren"})
        self.assertEqual(1, len(self.ok("GET", "/api/v2/deals")))
        self.fault({"drop": True}, method="POST", path="/deals$")
        with self.assertRaises((http.client.HTTPException, OSError)):
            self.box.pipedrive("POST", "/api/v2/deals", {"title": "Nie"})
        self.assertEqual(1, len(self.ok("GET", "/api/v2/deals")))

    def test_broken_bodies(self):
        self.fault({"truncate": True})
        with self.assertRaises(http.client.IncompleteRead):
            self.get()
        self.fault({"empty": True})
        self.assertEqual((200, b""), self.get()[:2])
        self.fault({"content_type": "text/html"})
        status, body, headers = self.get()
        self.assertEqual((200, "text/html"), (status, headers["content-type"]))
        self.assertTrue(json.loads(body)["success"])

    def test_hangs_and_delays(self):
        for action in ({"hang": "headers", "seconds": 3}, {"hang": "body", "seconds": 3}):
            self.fault(action)
            with self.assertRaises(socket.timeout):
                self.get(0.2)
        self.fault({"hang": "headers", "seconds": 0.4}, method="POST")
        with self.assertRaises(socket.timeout):
            self.box.raw("pipedrive", "POST", "/api/v2/deals", b'{"title":"x"}',
                         {"x-api-token": self.box.ready["api_token"], "Content-Type": "application/json"}, 0.1)
        time.sleep(0.5)
        self.assertEqual([], self.ok("GET", "/api/v2/deals"))
        self.fault({"delay_ms": 200})
        start = time.monotonic()
        self.assertEqual(200, self.get()[0])
        self.assertGreater(time.monotonic() - start, 0.19)
        self.fault({"slow_ms_per_kb": 100})
        self.assertEqual(200, self.get()[0])

    def test_endless_and_bomb(self):
        for action in ({"endless": True}, {"gzip_bomb": True}):
            self.fault(action)
            split = urlsplit(self.box.ready["pipedrive"])
            with socket.create_connection((split.hostname, split.port), 10) as peer:
                peer.sendall(b"GET /api/v1/users/me HTTP/1.1\r\nHost: x\r\nx-api-token: %s\r\n\r\n" % self.box.ready["api_token"].encode())
                size = 0
                while size < 500000:
                    size += len(peer.recv(65536))
        self.assertEqual(200, self.get()[0])


class TestHttp(Case):
    def test_parallel_writes_are_counted(self):
        one, two = (self.ok("POST", "/api/v2/deals", {"title": "x"})["id"] for _ in range(2))
        self.box.switch(pipedrive_latency_ms=150)
        paths = ["/api/v2/deals/%d" % number for number in (one, two, two)]
        threads = [threading.Thread(target=self.ok, args=("PATCH", path, {"title": "y"})) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = self.box.control("GET", "/stats")["pipedrive"]
        self.assertEqual((1, 3), (stats["overlapping_writes"], stats["peak_in_flight"]))

    def test_closed_without_notice(self):
        self.box.control("POST", "/faults", {"side": "pipedrive", "action": {"close_after": True}})
        token = self.box.ready["api_token"].encode()
        get = b"GET /api/v2/stages/1 HTTP/1.1\r\nHost: x\r\nX-API-Token: " + token + b"\r\n\r\n"
        got = self.talk([get], 2)
        self.assertEqual(1, got.count(b"200 OK"))
        self.assertNotIn(b"close", got.lower())

    def talk(self, data, enough):
        split = urlsplit(self.box.ready["pipedrive"])
        with socket.create_connection((split.hostname, split.port), 5) as peer:
            for piece in data:
                peer.sendall(piece)
                time.sleep(0.01)
            got = b""
            while got.count(b"HTTP/1.1 ") < enough or not got.endswith(b"}"):
                more = peer.recv(65536)
                if not more:
                    break
                got += more
            return got

    def test_pipelining_and_pieces(self):
        token = self.box.ready["api_token"].encode()
        get = b"GET /api/v2/stages/1 HTTP/1.1\r\nHost: x\r\nX-API-Token: " + token + b"\r\n\r\n"
        self.assertEqual(3, self.talk([get * 3], 3).count(b"200 OK"))
        self.assertEqual(1, self.talk([get[:10], get[10:60], get[60:]], 1).count(b"200 OK"))

    def test_chunked_and_expect(self):
        token = self.box.ready["api_token"].encode()
        head = b"POST /api/v2/deals HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-API-Token: " + token
        chunked = head + b"\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"title\":\r\n4\r\n\"x\"}\r\n0\r\n\r\n"
        self.assertIn(b'"title":"x"', self.talk([chunked[:150], chunked[150:]], 1))
        expect = head + b"\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\n"
        got = self.talk([expect, b'{"title":"y"}'], 2)
        self.assertIn(b"100 Continue", got)
        self.assertIn(b'"title":"y"', got)


class TestStart(unittest.TestCase):
    def test_start_and_stop(self):
        path = os.path.join(HERE, "ready.%d.json" % os.getpid())
        box = Sandbox("--ready-file", path, "--today", "2026-02-03", "--blackhole-port", "0", "--plan", "lite", "--seats", "1",
                      "--seed", "7", "--switches", '{"search_lag": 9}')
        try:
            with open(path, encoding="utf-8") as handle:
                self.assertEqual(box.ready, json.load(handle))
            for name in ("exact", "pipedrive", "control", "division", "client_id", "client_secret", "webhook_secret", "api_token"):
                self.assertIn(name, box.ready)
            self.assertTrue(box.control("GET", "/health")["clock"]["now"].startswith("2026-02-03"))
            budget = box.control("GET", "/pipedrive/budget")
            self.assertEqual((30000, 20), (budget["limit"], budget["burst_limit"]))
            with socket.socket() as peer:
                peer.settimeout(0.3)
                with self.assertRaises(socket.timeout):
                    peer.connect(("127.0.0.1", box.ready["blackhole"]))
        finally:
            code = box.stop()
            os.unlink(path)
        self.assertEqual(0, code)


if __name__ == "__main__":
    unittest.main()
