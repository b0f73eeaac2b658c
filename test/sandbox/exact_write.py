"""What may be written to the simulated Exact Online: contacts and webhook subscriptions; and the webhooks themselves.

Belongs here: POST, PUT and DELETE with Exact's refusals, the rule that everything else is a violation, subscribing with
its validation call, signed notifications and their possible damage.
Does not belong here: reads (exact.py), the consequences in the data (exact_store.py).
Why: the extension promises never to write into the order flow. Here is the place that would catch it.
"""

import asyncio
import hashlib
import hmac
import http.client
import json
from urllib.parse import urlsplit

import exact_render
import exact_time
import httpd
from exact_schema import CONTACT_WRITE
from exact_store import Row
from httpd import BadJson, Response

MALFORMED = "Error processing request stream. The request should be a valid top-level resource object."
EXISTS = "Gegeven bestaat reeds."
TOPICS = ("Accounts", "BankAccounts", "BankEntries", "CashEntries", "Contacts", "CostTransactions", "DocumentAttachments", "Documents",
          "FinancialTransactions", "GoodsDeliveries", "Items", "Projects", "PurchaseOrders", "Quotations", "SalesInvoices", "SalesOrders",
          "StockPositions", "Subscriptions", "TimeTransactions")
TOPIC_OF = {"Orders": "SalesOrders", "OrderLines": "SalesOrders", "Accounts": "Accounts", "Contacts": "Contacts", "Items": "Items",
            "Invoices": "SalesInvoices", "InvoiceLines": "SalesInvoices"}
PATHS = {"SalesOrders": "salesorder/SalesOrders", "Accounts": "crm/Accounts", "Contacts": "crm/Contacts", "Items": "logistics/Items",
         "SalesInvoices": "salesinvoice/SalesInvoices"}


def define_switches(world):
    define = world.define_switch
    define("exact_webhook_delay_ms", 30, "real milliseconds between a change and its notification")
    define("exact_webhook_validation", "after",
           "validation call: after (a moment after the answer) or inside (the answer waits, 500 when it fails)")
    define("exact_webhook_validation_delay_ms", 1000, "real milliseconds until the validation call in mode after")
    define("exact_webhook_damage", None, "null, duplicate, reorder, lose, tamper, lowercase (hash), unsigned, unknown_topic")
    define("exact_webhook_retries", 0, "further attempts when a notification is not answered with 2xx")
    define("exact_webhook_retry_ms", 500, "real milliseconds between attempts")
    define("exact_webhook_https_only", False, "refuse callback URLs that are not https (loopback tests need http)")
    define("exact_lost_contact_answers", 0, "so many of the next contact POSTs create the row, then the connection is dropped")

    def lose_answers(times):
        if times:
            world.add_fault("exact", "POST", "/crm/Contacts", int(times), 0, {"execute": True, "drop": True})
    world.on_switch("exact_lost_contact_answers", lose_answers)


class Writer:
    """The writing side of one division."""

    def __init__(self, service, store, renderer):
        self.service = service
        self.world = service.world
        self.store = store
        self.renderer = renderer
        self.pending = {}           # (topic, key) -> action, collected until the next turn
        self.scheduled = False
        self.sent = []              # notifications sent: for the control interface
        self.store.listeners.append(self.changed)

    # --- writes ---------------------------------------------------------------------------

    def write(self, request, endpoint, key):
        if endpoint.path not in ("crm/Contacts", "webhooks/WebhookSubscriptions"):
            self.world.violation("exact", "%s on %s: nothing may be written there" % (request.method, request.path))
            return self.refuse(request, 403, "Forbidden - Application Scope Violated. Cannot write '%s' scope." % endpoint.scope)
        contacts = endpoint.path == "crm/Contacts"
        if request.method == "POST" and key is None:
            body = self.body(request)
            if body is None:
                return self.refuse(request, 400, MALFORMED)
            return self.create_contact(request, endpoint, body) if contacts else self.subscribe(request, endpoint, body)
        if key is None or request.method not in ("PUT", "DELETE"):
            return self.refuse(request, 405, "Method not allowed.")
        row = self.store[endpoint.table].rows.get(key)
        if row is None:
            return self.refuse(request, 404, "Resource not found for the segment '%s'." % endpoint.path.rsplit("/", 1)[-1])
        if request.method == "DELETE":
            self.store.delete(endpoint.table, row)
            return Response(204, b"")
        if not contacts:
            return self.refuse(request, 500, "Wijzigen niet toegestaan.\r\n")
        body = self.body(request)
        if body is None:
            return self.refuse(request, 400, MALFORMED)
        return self.update_contact(request, endpoint, row, body)

    def refuse(self, request, status, text):
        return self.service.error(request, _Refusal(status, text))

    @staticmethod
    def body(request):
        if "application/json" not in request.headers.get("content-type", ""):
            return None
        try:
            body = request.json()
        except BadJson:
            return None
        return body if isinstance(body, dict) else None

    def values(self, endpoint, body):
        """(fields to store, text of a refusal)"""
        found = {}
        for name, value in body.items():
            edm = endpoint.fields.get(name)
            if edm is None:
                return None, "The property '%s' does not exist on type '%s'. Make sure to only use property names that are " \
                             "defined by the type." % (name, endpoint.type_name)
            if name not in CONTACT_WRITE and name != "Account":
                continue                                    # read-only fields are not taken
            wrong = value is not None and (
                (edm in ("String", "Guid", "Binary", "DateTime") and not isinstance(value, str)) or
                (edm in ("Int16", "Int32", "Int64") and (not isinstance(value, int) or isinstance(value, bool))) or
                (edm == "Boolean" and not isinstance(value, bool)))
            if wrong:
                return None, "Error processing request stream. Error encountered in converting the value from request payload " \
                             "for property '%s' to type 'Edm.%s', which is the property's expected type." % (name, edm)
            if edm == "DateTime" and value is not None:
                try:
                    value = exact_time.parse_literal(value)
                except ValueError:
                    return None, "Error processing request stream. Error encountered in converting the value '%s'." % name
            found[name] = value
        return found, None

    def create_contact(self, request, endpoint, body):
        values, refusal = self.values(endpoint, body)
        if refusal:
            return self.refuse(request, 400, refusal)
        if not values.get("Account"):
            return self.refuse(request, 500, "Verplicht: Relatie\r\n")
        account = self.store["Accounts"].rows.get(values["Account"].lower())
        if account is None:
            return self.refuse(request, 500, "Ongeldige referentie: Relatie\r\n")
        if not values.get("FirstName") and not values.get("LastName"):
            return self.refuse(request, 500, "Verplicht: Achternaam\r\n")
        row = Row(self.store.new_guid(), dict(values, Account=account.id, AccountName=account.d.get("Name"), AccountIsCustomer=True,
                                              IsMainContact=False, Division=self.store.division))
        full_name(row)
        self.store.save("Contacts", row, "Create")
        if "return=representation" in request.headers.get("prefer", "").replace(" ", "").lower():
            shown = row
        else:
            shown = Row(row.id, {"Account": account.id})
        writer = self.renderer.function(endpoint, list(endpoint.fields), Row, self.style(), self.service.base_url)
        return self.service.answer(request, '{"d":' + writer(shown) + "}", 201)

    def style(self):
        return exact_render.Style(self.world.switches)

    def update_contact(self, request, endpoint, row, body):
        values, refusal = self.values(endpoint, body)
        if refusal:
            return self.refuse(request, 400, refusal)
        values.pop("Account", None)                         # not changeable
        row.d.update(values)
        full_name(row)
        self.store.save("Contacts", row)
        return Response(204, b"")

    # --- subscriptions ---------------------------------------------------------------------

    def subscribe(self, request, endpoint, body):
        url, topic = body.get("CallbackURL"), body.get("Topic")
        if not isinstance(url, str) or not isinstance(topic, str) or topic not in TOPICS:
            return self.refuse(request, 500, "Ongeldige waarde: %s\r\n" % ("Topic" if isinstance(url, str) else "CallbackURL"))
        split = urlsplit(url)
        if split.scheme not in ("http", "https") or not split.hostname or \
                (split.scheme != "https" and (self.world.switches["exact_webhook_https_only"]
                                              or split.hostname not in ("127.0.0.1", "localhost"))):
            return self.refuse(request, 500, "Invalid: Callback URL, https is required\r\n")
        table = self.store["WebhookSubscriptions"]
        if any(row.d["Topic"] == topic for row in table.rows.values()):
            return self.refuse(request, 500, EXISTS)
        if self.world.switches["exact_webhook_validation"] == "inside":
            status = post_now(url, b"")
            if status != 200:
                return self.refuse(request, 500, "Invalid: Post to callback URL endpoint returns %s" % status)
        row = Row(self.store.new_guid(), {"CallbackURL": url, "Topic": topic, "ClientID": self.service.oauth.client_id,
                                          "Division": self.store.division, "Description": topic, "UserID": self.store.me["UserID"],
                                          "Creator": self.store.me["UserID"], "CreatorFullName": self.store.me["FullName"],
                                          "IsInstant": False})
        self.store.save("WebhookSubscriptions", row, "Create")
        if self.world.switches["exact_webhook_validation"] == "after":
            self.world.spawn(self.validate(url))
        writer = self.renderer.function(endpoint, list(endpoint.fields), Row, self.style(), self.service.base_url)
        return self.service.answer(request, '{"d":' + writer(row) + "}", 201)

    async def validate(self, url):
        await asyncio.sleep(self.world.switches["exact_webhook_validation_delay_ms"] / 1000)
        await self.post(url, b"", "validation")

    # --- notifications -------------------------------------------------------------------------

    def changed(self, table, action, row):
        topic = TOPIC_OF.get(table)
        if topic is None or not self.store["WebhookSubscriptions"].rows:
            return
        key = row.id
        if table in ("OrderLines", "InvoiceLines"):
            key, action = (row.order if table == "OrderLines" else row.invoice).id, "Update"
        known = self.pending.get((topic, key))
        if known is None or action == "Delete":
            self.pending[topic, key] = action
        if not self.scheduled:
            self.scheduled = True
            self.world.spawn(self.flush())

    async def flush(self):
        await asyncio.sleep(self.world.switches["exact_webhook_delay_ms"] / 1000)
        self.scheduled = False
        events, self.pending = list(self.pending.items()), {}
        if self.world.switches["exact_webhook_damage"] == "reorder":
            events.reverse()
        for (topic, key), action in events:
            for row in list(self.store["WebhookSubscriptions"].rows.values()):
                if row.d["Topic"] == topic:
                    await self.notify(row.d["CallbackURL"], topic, action, key)

    def notification(self, topic, action, key):
        """The signed body."""
        moment = exact_time.naive(self.store.now_ms()).isoformat(timespec="milliseconds")
        content = json.dumps({
            "Topic": topic, "ClientId": self.service.oauth.client_id, "Division": self.store.division, "Action": action, "Key": key,
            "ExactOnlineEndpoint": "%s/api/v1/%d/%s(guid'%s')" % (self.service.base_url, self.store.division, PATHS.get(topic, topic), key),
            "EventCreatedOn": moment}, separators=(",", ":"), ensure_ascii=False)
        digest = hmac.new(self.service.oauth.webhook_secret.encode(), content.encode(), hashlib.sha256).hexdigest().upper()
        return content, digest

    async def notify(self, url, topic, action, key):
        damage = self.world.switches["exact_webhook_damage"]
        if damage == "lose":
            self.sent.append({"url": url, "topic": topic, "action": action, "key": key, "status": "lost"})
            return
        content, digest = self.notification("Surprises" if damage == "unknown_topic" else topic, action, key)
        if damage == "lowercase":
            digest = digest.lower()
        if damage == "tamper":
            content = content.replace('"Action":"%s"' % action, '"Action":"%s"' % ("Delete" if action != "Delete" else "Update"))
        body = '{"Content":%s,"HashCode":"%s"}' % (content, digest)
        if damage == "unsigned":
            body = '{"Content":%s}' % content
        for _ in range(2 if damage == "duplicate" else 1):
            await self.post(url, body.encode(), "%s %s %s" % (topic, action, key))

    async def post(self, url, body, what):
        for attempt in range(1 + (self.world.switches["exact_webhook_retries"] if body else 0)):
            if attempt:
                await asyncio.sleep(self.world.switches["exact_webhook_retry_ms"] / 1000)
            try:
                status = await httpd.send("POST", url, {"Content-Type": "application/json; charset=utf-8"}, body)
            except Exception as error:                      # a receiver that is down is the test's business
                status = "%s: %s" % (type(error).__name__, error)
            self.sent.append({"url": url, "what": what, "status": status, "body": body.decode("utf-8", "replace")})
            del self.sent[:-1000]
            if isinstance(status, int) and 200 <= status < 300:
                return


class _Refusal:
    def __init__(self, status, text):
        self.status, self.text, self.headers = status, text, {}


def full_name(row):
    row.d["FullName"] = " ".join(part for part in (row.d.get("FirstName"), row.d.get("MiddleName"), row.d.get("LastName")) if part)


def post_now(url, body):
    """A blocking POST; the status, or 503 when nobody answers."""
    split = urlsplit(url)
    maker = http.client.HTTPSConnection if split.scheme == "https" else http.client.HTTPConnection
    connection = maker(split.hostname, split.port, timeout=3)
    try:
        connection.request("POST", split.path or "/", body, {"Content-Length": str(len(body))})
        return connection.getresponse().status
    except OSError:
        return 503
    finally:
        connection.close()
