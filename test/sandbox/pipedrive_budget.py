"""What a Pipedrive call costs and when it is refused: daily tokens, burst windows, the block after ignored refusals.

Belongs here: plans, prices of operations, the token meter, the 2-second windows, rate headers, the 429 and 403 answers.
Does not belong here: what an operation does.
Why: the tests judge the extension by tokens; one table and one meter, easy to compare with the documentation.
"""

from collections import deque
from datetime import timedelta
from math import ceil

from httpd import Response

# plan -> (multiplier, requests per 2 s with an API token, the same with OAuth, deals per seat, custom fields)
PLANS = {
    "lite": (1, 20, 80, 2500, 30),
    "growth": (2, 40, 160, 5000, 100),
    "premium": (5, 100, 400, 15000, 300),
    "ultimate": (7, 120, 480, 20000, 500),
}
DEAL_CEILING = 300000
SEARCH_LIMIT = 10
WINDOW = 2.0

# operation -> tokens; the names are those in GET /stats
COSTS = {}
for _kind in ("deals", "organizations", "persons", "products"):
    COSTS.update({"get " + _kind: 1, "list " + _kind: 10, "create " + _kind: 5, "update " + _kind: 5,
                  "delete " + _kind: 3, "search " + _kind: 20, "merge " + _kind: 40})
for _kind in ("pipelines", "stages"):
    COSTS.update({"get " + _kind: 1, "list " + _kind: 5, "create " + _kind: 5, "update " + _kind: 5, "delete " + _kind: 3})
for _kind in ("dealFields", "organizationFields", "personFields", "productFields"):
    COSTS.update({"get " + _kind: 1, "list " + _kind: 10, "create " + _kind: 5, "update " + _kind: 5, "delete " + _kind: 3,
                  "add options " + _kind: 5, "update options " + _kind: 5, "delete options " + _kind: 3,
                  "v1 list " + _kind: 20, "v1 get " + _kind: 2, "v1 update " + _kind: 10})
COSTS.update({
    "list archived deals": 20, "list lines": 10, "list lines of deals": 10, "add line": 5, "add lines in bulk": 25,
    "update line": 5, "delete line": 3, "delete lines in bulk": 15, "list discounts": 10, "add discount": 5,
    "update discount": 5, "delete discount": 3, "item search": 20, "field search": 20, "list variations": 10,
    "users": 20, "users me": 2, "user": 2, "users find": 40, "update user": 10, "currencies": 20,
    "list webhooks": 10, "create webhook": 10, "delete webhook": 6, "recents": 20,
})

BLOCK_PAGE = """<!DOCTYPE html><html lang="en-US"><head><title>Access denied | Cloudflare</title></head>
<body><div id="cf-wrapper"><h1>Error 1015</h1><p>You are being rate limited. The owner of this website has banned you temporarily.</p>
</div></body></html>"""


def define_switches(world):
    define = world.define_switch
    define("daily_budget", None, "Pipedrive tokens a day; null = 30,000 x plan x seats")
    define("reset_hour", 0, "hour (UTC) at which the daily tokens are restored")
    define("charge_4xx", True, "a refused request (4xx, not 401 and 429) costs its full price")
    define("others_tokens_per_call", 0, "another integration spends this much with each call of ours")
    define("burst_limit", None, "requests per 2 s; null = the plan's figure, 0 = off")
    define("search_limit", SEARCH_LIMIT, "search requests per 2 s; 0 = off")
    define("omit_daily_headers", 0.0, "share of answers without x-daily-ratelimit-token-*")
    define("omit_rate_headers", False, "no x-ratelimit-* and no daily headers at all")
    define("retry_after", False, "429 carries retry-after")
    define("block_after", 20, "this many 429s within block_window seconds lead to a 403 HTML block; 0 = never")
    define("block_window", 60, "see block_after")
    define("block_seconds", 600, "how long the 403 HTML block lasts")
    define("strict_429", False, "every 429 is a violation")


class Budget:
    def __init__(self, world, plan, seats):
        define_switches(world)
        self.world = world
        self.plan = plan
        self.seats = seats
        self.spent = 0
        self.others = 0
        self.day = None
        self.window = deque()
        self.search_window = deque()
        self.refusals = deque()
        self.blocked_until = 0.0

    # --- the day --------------------------------------------------------------

    @property
    def limit(self):
        own = self.world.switches["daily_budget"]
        return own if own is not None else 30000 * PLANS[self.plan][0] * self.seats

    def today(self):
        day = int((self.world.clock.time() - 3600 * self.world.switches["reset_hour"]) // 86400)
        if day != self.day:
            self.day = day
            self.spent = 0
            self.others = 0
        return day

    @property
    def left(self):
        self.today()
        return max(0, self.limit - self.spent - self.others)

    def spend_elsewhere(self, tokens):
        self.today()
        self.others += tokens

    # --- the windows ------------------------------------------------------------

    def burst(self, oauth):
        switch = self.world.switches["burst_limit"]
        if switch is None:
            return PLANS[self.plan][2 if oauth else 1]
        return switch

    @staticmethod
    def roll(window, now):
        while window and window[0] <= now - WINDOW:
            window.popleft()
        return len(window)

    # --- one request --------------------------------------------------------------

    def admit(self, cost, search, oauth):
        """None when the request may run (its price is then spent), else the refusal."""
        now = self.world.clock.time()
        if now < self.blocked_until:
            return Response(403, BLOCK_PAGE, {"server": "cloudflare"}, content_type="text/html; charset=UTF-8")
        limit = self.burst(oauth)
        if limit:
            if self.roll(self.window, now) >= limit:
                return self.refuse(now, "burst", cost, oauth)
        if search and self.world.switches["search_limit"]:
            if self.roll(self.search_window, now) >= self.world.switches["search_limit"]:
                return self.refuse(now, "search burst", cost, oauth)
        others = self.world.switches["others_tokens_per_call"]
        if others:
            self.spend_elsewhere(others)
        if self.left < cost:
            return self.refuse(now, "daily", cost, oauth)
        if limit:
            self.window.append(now)
        if search:
            self.search_window.append(now)
        self.spent += cost
        return None

    def refund(self, cost):
        self.spent = max(0, self.spent - cost)

    def refuse(self, now, kind, cost, oauth):
        switches = self.world.switches
        self.refusals.append(now)
        while self.refusals and self.refusals[0] < now - switches["block_window"]:
            self.refusals.popleft()
        if switches["block_after"] and len(self.refusals) >= switches["block_after"]:
            self.blocked_until = now + switches["block_seconds"]
            self.refusals.clear()
            self.world.count("pipedrive", "blocks")
        if switches["strict_429"]:
            self.world.violation("pipedrive", "429 provoked (%s)" % kind)
        response = Response(429, {"success": False, "error": "request over limit", "errorCode": 429,
                                  "error_info": "Please check developers.pipedrive.com", "data": None,
                                  "additional_data": None})
        response.note = kind
        self.headers(response, oauth, exhausted=kind != "daily")
        if switches["retry_after"]:
            response.headers["retry-after"] = str(int(WINDOW) if kind != "daily" else self.seconds_to_reset())
        return response

    def seconds_to_reset(self):
        seconds = self.world.clock.time() - 3600 * self.world.switches["reset_hour"]
        return int(86400 - seconds % 86400) + 1

    def headers(self, response, oauth=False, exhausted=False):
        switches = self.world.switches
        if switches["omit_rate_headers"]:
            return
        limit = self.burst(oauth)
        head = response.headers
        if not limit:
            limit, used = 1000000, 0
        else:
            used = self.roll(self.window, self.world.clock.time())
        head["x-ratelimit-limit"] = limit
        head["x-ratelimit-remaining"] = 0 if exhausted else max(0, limit - used)
        now = self.world.clock.time()
        head["x-ratelimit-reset"] = max(1, ceil(self.window[0] + WINDOW - now)) if self.window else int(WINDOW)
        omit = switches["omit_daily_headers"]
        if omit and self.world.noise.random() < omit:
            return
        head["x-daily-ratelimit-token-limit"] = self.limit
        head["x-daily-ratelimit-token-remaining"] = self.left

    def describe(self):
        left = self.left
        reset = self.world.clock.now() + timedelta(seconds=self.seconds_to_reset())
        return {"plan": self.plan, "seats": self.seats, "limit": self.limit, "left": left, "spent": self.spent,
                "others": self.others, "burst_limit": self.burst(False), "reset": reset.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "blocked": self.world.clock.time() < self.blocked_until}
