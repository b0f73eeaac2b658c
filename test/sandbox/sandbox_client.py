"""A small client of the sandbox, for its own tests.

Belongs here: starting and stopping a sandbox, the control interface, Exact calls with a valid token, a base class of tests.
Does not belong here: any expectation about a service.
Why: several test files need the same handful of calls.
"""

import http.client
import json
import os
import subprocess
import sys
import unittest
from urllib.parse import quote, urlencode, urlsplit

HERE = os.path.dirname(os.path.abspath(__file__))
HEADERS = "sync/SalesOrder/SalesOrderHeaders"
LINES = "sync/SalesOrder/SalesOrderLines"
OPTIONS = ("select", "filter", "expand", "orderby", "top", "skip", "skiptoken", "inlinecount")


class Sandbox:
    """A running sandbox with a client that has the consent."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([sys.executable, os.path.join(HERE, "run.py"), *arguments], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the sandbox did not start")
        self.ready = json.loads(line)
        self.token = self.refresh = None

    def stop(self):
        self.process.terminate()
        code = self.process.wait(10)
        self.process.stdout.close()
        return code

    @staticmethod
    def send(base, method, target, body=None, headers=None):
        split = urlsplit(base)
        connection = http.client.HTTPConnection(split.hostname, split.port, timeout=20)
        try:
            connection.request(method, target, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def control(self, method, path, body=None):
        status, _, data = self.send(self.ready["control"], method, path, None if body is None else json.dumps(body),
                                    {"Content-Type": "application/json"})
        if status != 200:
            raise AssertionError("%s %s: %d %s" % (method, path, status, data[:800].decode()))
        return json.loads(data)

    def switch(self, **values):
        return self.control("POST", "/switches", values)

    def oauth(self, **form):
        form = dict({"client_id": self.ready["client_id"], "client_secret": self.ready["client_secret"]}, **form)
        status, headers, data = self.send(self.ready["exact"], "POST", "/api/oauth2/token", urlencode(form),
                                          {"Content-Type": "application/x-www-form-urlencoded"})
        return status, headers, json.loads(data)

    def login(self):
        code = self.control("POST", "/exact/consent", {})["code"]
        status, _, answer = self.oauth(grant_type="authorization_code", code=code, redirect_uri="https://example.invalid/")
        assert status == 200, answer
        self.token, self.refresh = answer["access_token"], answer["refresh_token"]
        return answer

    def headers(self, **more):
        return dict({"Authorization": "Bearer " + self.token, "Accept": "application/json"}, **more)

    def raw(self, path, headers=None, **query):
        query = {("$" + name if name in OPTIONS else name): value for name, value in query.items()}
        target = "/api/v1/" + path if path.startswith("current") else "/api/v1/%d/%s" % (self.ready["division"], path)
        if query:
            target += "?" + urlencode(query, quote_via=quote)
        return self.send(self.ready["exact"], "GET", target, None, self.headers() if headers is None else headers)

    def get(self, path, **query):
        """Status and parsed body."""
        status, _, data = self.raw(path, **query)
        return status, json.loads(data)

    def rows(self, path, **query):
        """All rows over all pages, and the number of pages."""
        status, body = self.get(path, **query)
        assert status == 200, body
        rows, pages = list(body["d"]["results"]), 1
        while "__next" in body["d"]:
            split = urlsplit(body["d"]["__next"])
            target = split.path + "?" + split.query.replace(" ", "%20")
            status, _, data = self.send(self.ready["exact"], "GET", target, None, self.headers())
            body = json.loads(data)
            assert status == 200, body
            rows += body["d"]["results"]
            pages += 1
        return rows, pages

    def after(self, stamp, path=HEADERS, select="Timestamp,OrderID,OrderNumber,Status,DeliveryStatus,InvoiceStatus,YourRef"):
        return self.rows(path, select=select, filter="Timestamp gt %dL" % stamp)[0]

    def top(self):
        return self.control("GET", "/exact/state?entity=Employees")["counter"]

    def write(self, method, path, body=None, **headers):
        target = "/api/v1/%d/%s" % (self.ready["division"], path)
        status, answer_headers, data = self.send(self.ready["exact"], method, target, None if body is None else json.dumps(body),
                                                 self.headers(**dict({"Content-Type": "application/json"}, **headers)))
        return status, (json.loads(data) if data else None)


class Case(unittest.TestCase):
    """Each test begins with default switches, a fresh consent, no violations; and ends without any it did not expect."""

    expected = 0
    box = None          # set by the module that runs

    def setUp(self):
        self.box.control("DELETE", "/switches")
        self.box.switch(exact_minute_limit=1000000, exact_day_limit=1000000)
        self.box.control("DELETE", "/faults")
        self.box.control("POST", "/exact/limits", {"unblock": True, "day_used": 0, "minute_used": 0})
        self.box.login()
        self.box.control("DELETE", "/violations")
        self.expected = 0

    def tearDown(self):
        found = self.box.control("GET", "/violations")
        self.assertEqual(len(found), self.expected, found)

    def refused(self, status, text, path, **query):
        found, body = self.box.get(path, **query)
        self.assertEqual(found, status, body)
        self.assertEqual(sorted(body["error"]), ["code", "message"])
        self.assertIn(text, body["error"]["message"]["value"])
