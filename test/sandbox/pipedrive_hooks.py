"""Webhooks of the simulated Pipedrive.

Belongs here: the subscriptions (version 1 endpoints), the event bodies (version 2.0), sending, retries, the ban, the deletion.
Does not belong here: the records themselves.
Why: writes of our own come back as webhooks; a client must recognise its echo, and lost events must be lost here too.
"""

import asyncio
import base64
import json
import uuid
from urllib.parse import urlsplit

from httpd import Response, dump, send
from pipedrive_rules import Invalid, check_body, failed
from pipedrive_store import SINGULAR

OBJECTS = ("activity", "deal", "lead", "note", "organization", "person", "pipeline", "product", "stage", "user",
           "deal_product", "deal_installment", "*")
SCHEMA = {"subscription_url": "string", "event_action": ("create", "change", "delete", "*"), "event_object": OBJECTS,
          "name": "string:255", "user_id": "integer", "http_auth_user": "string?", "http_auth_password": "string?",
          "version": ("1.0", "2.0")}
MOST = 40
ANSWER_SECONDS = 10
RETRIES = (3, 30, 150)
BAN_AFTER = 10
BAN_SECONDS = 1800
GONE_AFTER = 3 * 86400
MOST_KEPT = 5000


class Hooks:
    def __init__(self, world, store):
        self.world = world
        self.store = store
        self.next_id = 1
        self.sent = []              # what was sent, for the control interface
        self.source = "api"         # "app" while the control interface edits as a person
        self.user = None            # whose token it is, while the control interface edits as another tool

    # --- events -----------------------------------------------------------------------

    def created(self, kind, record):
        self.fire(kind, record, "create", None, None)

    def changed(self, kind, record, before, before_custom):
        if self.store.webhooks:
            self.fire(kind, record, "change", before, before_custom)

    def deleted(self, kind, record, before, **meta):
        self.fire(kind, record, "delete", before, record.custom, **meta)

    def fire(self, kind, record, action, before, before_custom, **meta):
        if not self.store.webhooks:
            return
        name = SINGULAR[kind]
        data, previous = None, None
        if action != "delete":
            data = dict(self.store.render(kind, record), custom_fields=self.typed(kind, record.custom))
        if action == "change":
            previous = {key: value for key, value in before.items() if record.data.get(key) != value}
            custom = {code: before_custom.get(code) for code in set(before_custom) | set(record.custom)
                      if before_custom.get(code) != record.custom.get(code)}
            if custom:
                previous["custom_fields"] = self.typed(kind, custom)
            if not set(previous) - {"update_time"} and not meta:
                return
        elif action == "delete":
            previous = dict(before, custom_fields=self.typed(kind, before_custom))
        event = {"id": str(uuid.UUID(int=self.world.noise.getrandbits(128), version=4)), "entity": name, "action": action,
                 "entity_id": str(record.id), "data": data, "previous": previous, "meta": meta, "source": self.source,
                 "user_id": str(self.user or self.store.me)}
        for hook in list(self.store.webhooks.values()):
            if hook["event_object"] in ("*", name) and hook["event_action"] in ("*", action):
                self.world.spawn(self.deliver(hook, event))

    def typed(self, kind, custom):
        """Custom field values in the typed form that webhooks use."""
        answer = {}
        for code, value in custom.items():
            field = self.store.fields[kind].get(code)
            if field is None:
                continue
            if value is None:
                answer[code] = None
            elif isinstance(value, dict):
                answer[code] = {"type": field.type, **value}
            elif field.type in ("enum", "user", "org", "people"):
                answer[code] = {"type": field.type, "id": value}
            elif field.type == "set":
                answer[code] = {"type": "set", "values": [{"id": item} for item in value]}
            else:
                answer[code] = {"type": field.type, "value": value}
        return answer

    def body(self, hook, event, attempt):
        now = self.world.stamp(self.world.clock.time())
        meta = {"action": event["action"], "entity": event["entity"], "entity_id": event["entity_id"], "company_id": "7654321",
                "user_id": event["user_id"], "change_source": event["source"], "timestamp": now, "id": event["id"],
                "correlation_id": event["id"][::-1], "version": "2.0", "type": "general", "attempt": attempt,
                "is_bulk_edit": False, "host": "vanderlinden-wonen.pipedrive.com", "webhook_id": str(hook["id"]),
                "webhook_owner_id": str(hook["owner_id"]), "permitted_user_ids": [str(user) for user in self.store.users],
                **event["meta"]}
        return dump({"meta": meta, "data": event["data"], "previous": event["previous"]})

    async def deliver(self, hook, event):
        clock = self.world.clock
        for attempt, wait in enumerate((0,) + RETRIES, 1):
            if wait:
                await clock.sleep(wait)
            if hook["id"] not in self.store.webhooks:
                return
            if clock.time() < hook.get("_banned", 0):
                self.sent.append({"webhook_id": hook["id"], "id": event["id"], "attempt": attempt, "status": "banned: lost"})
                return
            body = self.body(hook, event, attempt)
            status = await self.post(hook, body)
            del self.sent[:-MOST_KEPT]
            self.sent.append({"webhook_id": hook["id"], "id": event["id"], "attempt": attempt, "status": status,
                              "body": json.loads(body)})
            hook["last_delivery_time"], hook["last_http_status"] = self.store.now(), status
            if isinstance(status, int) and 200 <= status < 300:
                hook["_failures"], hook["_good"] = 0, clock.time()
                return
            if attempt == 1:
                hook["_failures"] = hook.get("_failures", 0) + 1
                if hook["_failures"] >= BAN_AFTER:
                    hook["_failures"], hook["_banned"] = 0, clock.time() + BAN_SECONDS
            if clock.time() - hook.setdefault("_good", clock.time()) > GONE_AFTER:
                self.store.webhooks.pop(hook["id"], None)
                return

    async def post(self, hook, body):
        headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "Pipedrive Webhooks"}
        if hook["http_auth_user"] is not None:
            pair = "%s:%s" % (hook["http_auth_user"], hook["http_auth_password"] or "")
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        try:
            return await send("POST", hook["subscription_url"], headers, body, ANSWER_SECONDS)
        except (OSError, ValueError, asyncio.TimeoutError, EOFError) as error:
            return "failed: %s" % (type(error).__name__,)

    # --- subscriptions ----------------------------------------------------------------------

    def list(self, request):
        rows = [{name: value for name, value in hook.items() if not name.startswith("_")}
                for hook in self.store.webhooks.values()]
        return Response(200, {"status": "ok", "success": True, "data": rows})

    def create(self, request):
        body = request.json()
        check_body(body, SCHEMA, ("subscription_url", "event_action", "event_object", "name"))
        split = urlsplit(body["subscription_url"])
        if split.scheme not in ("http", "https") or not split.hostname:
            return Response(400, {"status": "error", "success": False,
                                  "errors": {"subscription_url": ["invalid or non-reachable URL"]}})
        if len(self.store.webhooks) >= MOST:
            return Response(422, {"status": "error", "success": False, "errors": {"limit": ["webhook limit reached"]}})
        if body.get("user_id") is not None and int(body["user_id"]) not in self.store.users:
            raise Invalid(failed("user_id: User not found"))
        number, self.next_id = self.next_id, self.next_id + 1
        hook = {"id": number, "company_id": 7654321, "owner_id": self.store.me, "user_id": int(body.get("user_id", self.store.me)),
                "event_action": body["event_action"], "event_object": body["event_object"],
                "subscription_url": body["subscription_url"], "version": body.get("version", "2.0"), "is_active": 1,
                "add_time": self.store.now().replace("Z", ".000Z"), "remove_time": None, "type": "general",
                "http_auth_user": body.get("http_auth_user"), "http_auth_password": body.get("http_auth_password"),
                "remove_reason": None, "last_delivery_time": None, "last_http_status": None, "admin_id": self.store.me,
                "name": body["name"]}
        self.store.webhooks[number] = hook
        return Response(201, {"status": "ok", "success": True, "data": dict(hook)})

    def delete(self, request, number):
        if self.store.webhooks.pop(number, None) is None:
            return Response(404, {"status": "error", "success": False, "errors": {"id": ["not found"]}})
        return Response(200, {"status": "ok", "success": True})


