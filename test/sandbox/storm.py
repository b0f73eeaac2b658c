"""A storm: faults that come by chance, on a share of all calls.

Belongs here: what may go wrong with a call, how likely each of it is, and the tally of what was done.
Does not belong here: how a fault is acted out (httpd.py), faults that a test orders one by one (state.Fault).
Why: a test that orders its faults finds what its author thought of.

    POST /storm {"percent": 20, "seed": 1, "seconds": 2.5, "without": ["blocked"]}    it begins; seconds: how long a hanging call hangs
    GET /storm       {"percent", "calls", "faults": {side: {kind: n}}, "in_flight": {side: ["POST /api/v2/deals", ...]}}
    DELETE /storm    it ends; the tally stays
"""

import random
import time

from state import Fault

TOKEN_PATH = "/api/oauth2/token"
HTML = "text/html; charset=utf-8"
ERROR_PAGE = "<html><head><title>%d</title></head><body><center><h1>%d</h1></center><hr>nginx</body></html>"

# Refusals of everything last until a person steps in or an hour has passed: they are rare.
RARE = 0.15


def page(status):
    return {"status": status, "body": ERROR_PAGE % (status, status), "content_type": HTML}


def pipedrive_error(status, text, **more):
    return dict({"status": status, "body": {"success": False, "error": text, "errorCode": status, "data": None}}, **more)


def exact_error(status, text, **more):
    return dict({"status": status, "body": {"error": {"code": "", "message": {"lang": "", "value": text}}}}, **more)


CAPACITY = pipedrive_error(403, "Couldn't add the deal. Limit reached.")
CAPACITY["body"]["code"] = "feature_capping_deals_limit"


def wire(seconds):
    """[(kind, weight, action)]: what happens to any call; with execute the record is there and its answer is lost."""
    done = {"execute": True}
    return [
        ("dropped before", 10, {"drop": True}),
        ("dropped after", 14, dict(done, drop=True)),
        ("hangs before", 2, {"hang": "headers", "seconds": seconds}),
        ("hangs after", 3, dict(done, hang="headers", seconds=seconds)),
        ("hangs in the body", 3, {"hang": "body", "seconds": seconds}),
        ("late", 6, {"delay_ms": 300}),
        ("slow body", 3, {"slow_ms_per_kb": 60}),
        ("truncated", 6, {"truncate": True}),
        ("empty after", 4, dict(done, empty=True)),
        ("wrong type", 3, {"content_type": "text/html"}),
        ("closed without notice", 4, {"close_after": True}),
        ("500 page before", 3, page(500)),
        ("502 page before", 4, page(502)),
        ("502 page after", 5, dict(page(502), execute=True)),
        ("503 page before", 4, page(503)),
        ("503 page after", 3, dict(page(503), execute=True)),
        ("504 page after", 3, dict(page(504), execute=True)),
        ("endless", RARE, {"endless": True}),
        ("gzip bomb", RARE, {"gzip_bomb": True}),
    ]


def pipedrive_kinds(seconds):
    return wire(seconds) + [
        ("500 before", 4, pipedrive_error(500, "Internal server error")),
        ("500 after", 4, pipedrive_error(500, "Internal server error", execute=True)),
        ("503 after", 3, pipedrive_error(503, "Service unavailable", execute=True)),
        ("429 with headers", 4, pipedrive_error(429, "request over limit", headers={
            "x-ratelimit-limit": 40, "x-ratelimit-remaining": 0, "x-ratelimit-reset": 1, "retry-after": 1})),
        ("429 bare", 3, pipedrive_error(429, "request over limit")),
        ("429 page", 2, page(429)),
        ("refused", RARE, pipedrive_error(400, "Bad request")),
        ("day used up", RARE, pipedrive_error(429, "request over limit", headers={
            "x-daily-ratelimit-token-remaining": 0, "retry-after": 3600})),
        ("capacity", RARE, CAPACITY),
        ("token refused", RARE, pipedrive_error(401, "unauthorized access")),
        ("blocked", RARE, page(403)),
    ]


def exact_kinds(seconds):
    return wire(seconds) + [
        ("500 before", 4, exact_error(500, "Internal server error")),
        ("503 before", 4, exact_error(503, "Service unavailable")),
        ("408 before", 1, exact_error(408, "Request timeout")),
    ]


def token_kinds(seconds):
    return [entry for entry in wire(seconds) if entry[0] not in ("wrong type",)]


class Storm:
    def __init__(self, percent, seed, seconds, without=()):
        self.percent = percent
        self.random = random.Random("storm %s" % seed)
        self.calls = 0
        self.tally = {"pipedrive": {}, "exact": {}, "token": {}}
        self.kinds = {}
        for side, made in (("pipedrive", pipedrive_kinds), ("exact", exact_kinds), ("token", token_kinds)):
            self.kinds[side] = [entry for entry in made(seconds) if entry[0] not in without]

    def draw(self, side, method, target):
        """A fault for this call, or None."""
        if side not in ("pipedrive", "exact"):
            return None
        self.calls += 1
        if self.random.random() * 100 >= self.percent:
            return None
        place = "token" if target.startswith(TOKEN_PATH) else side
        kinds = self.kinds[place]
        while True:
            kind, _, action = self.random.choices(kinds, [entry[1] for entry in kinds])[0]
            if kind != "capacity" or (method, target) == ("POST", "/api/v2/deals"):
                break
        if place == "exact" and self.random.random() < 0.05:
            kind, action = "429 with headers", self.minute()
        self.tally[place][kind] = self.tally[place].get(kind, 0) + 1
        fault = Fault(0, side, method, "", 1, 0, action)
        fault.id = "storm: " + kind
        return fault

    @staticmethod
    def minute():
        """A minute of Exact that is used up, and begins anew in a second."""
        reset = int((time.time() + 1) * 1000)
        return exact_error(429, "Too many requests.", headers={"X-RateLimit-Minutely-Limit": 6000, "X-RateLimit-Minutely-Remaining": 0,
                                                              "X-RateLimit-Minutely-Reset": reset})
