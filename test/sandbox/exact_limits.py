"""Rate limits of the simulated Exact Online, per division.

Belongs here: calls per minute and day with their headers and their 429, the block of an endpoint after ten errors.
Does not belong here: the limits of the token endpoint (exact_oauth.py).
Why: limits are counted per app and division; a second division brings its own set of counters.
"""

from httpd import Response


def define_switches(world):
    define = world.define_switch
    define("exact_minute_limit", 60, "calls per minute, per division")
    define("exact_day_limit", 5000, "calls per day, per division")
    define("exact_foreign_calls_per_minute", 0, "calls of another application of the same key, spent at the start of each minute")
    define("exact_429_headers", "own", "headers on 429: own (only the violated limit's), none, all")
    define("exact_retry_after", False, "429 carries Retry-After")
    define("exact_error_block", True, "block an endpoint for an hour after ten 400/401/403/404 within an hour")
    define("exact_error_block_status", 429, "what a blocked endpoint answers: 429 or 403")


class Limits:
    def __init__(self, world):
        self.world = world
        self.clock = world.clock
        self.minute = self.day = None
        self.minute_calls = self.day_calls = 0
        self.minute_refused = self.day_refused = False
        self.errors = {}            # endpoint -> times of 4xx answers
        self.blocked = {}           # endpoint -> end of the block

    def windows(self):
        """Starts a new minute or day when it is time."""
        now = self.clock.time()
        if int(now // 60) != self.minute:
            self.minute, self.minute_calls, self.minute_refused = int(now // 60), 0, False
        if int(now // 86400) != self.day:
            self.day, self.day_calls, self.day_refused = int(now // 86400), 0, False

    def admit(self):
        """Counts the call; the 429 when a limit is reached, else None."""
        switches = self.world.switches
        self.windows()
        if self.day_calls >= switches["exact_day_limit"]:
            return self.too_many("day", True)
        foreign = switches["exact_foreign_calls_per_minute"]
        if self.minute_calls + foreign >= switches["exact_minute_limit"]:
            guilty = self.minute_refused or not foreign or self.minute_calls >= switches["exact_minute_limit"]
            return self.too_many("minute", guilty)
        self.minute_calls += 1
        self.day_calls += 1
        return None

    def too_many(self, which, guilty):
        """The 429. Another application may have spent the calls: then only ignoring the 429 is a violation."""
        if guilty:
            self.world.violation("exact", "more calls than the %s limit" % which)
        if which == "day":
            self.day_refused = True
        else:
            self.minute_refused = True
        form = self.world.switches["exact_429_headers"]
        headers = self.headers()
        if form == "none":
            headers = {}
        elif form == "own":
            headers = {name: value for name, value in headers.items() if ("Minutely" in name) == (which == "minute")}
        if self.world.switches["exact_retry_after"]:
            now = self.clock.time()
            headers["Retry-After"] = int((self.day + 1) * 86400 - now if which == "day" else (self.minute + 1) * 60 - now) + 1
        return Response(429, {"error": {"code": "", "message": {"lang": "", "value": "Too many requests."}}}, headers)

    def headers(self):
        """The headers of an ordinary answer; the resets are true UTC, in milliseconds."""
        if self.minute is None:
            return {}
        switches = self.world.switches
        minute_left = switches["exact_minute_limit"] - self.minute_calls - switches["exact_foreign_calls_per_minute"]
        return {"X-RateLimit-Limit": switches["exact_day_limit"],
                "X-RateLimit-Remaining": max(0, switches["exact_day_limit"] - self.day_calls),
                "X-RateLimit-Reset": (self.day + 1) * 86400000,
                "X-RateLimit-Minutely-Limit": switches["exact_minute_limit"],
                "X-RateLimit-Minutely-Remaining": max(0, minute_left),
                "X-RateLimit-Minutely-Reset": (self.minute + 1) * 60000}

    def is_blocked(self, name):
        """Whether the endpoint is blocked; going on prolongs the block."""
        if self.blocked.get(name, 0) <= self.clock.time() or not self.world.switches["exact_error_block"]:
            return False
        self.blocked[name] = self.clock.time() + 3600
        return True

    def count_error(self, name):
        now = self.clock.time()
        times = [moment for moment in self.errors.get(name, ()) if now - moment < 3600]
        times.append(now)
        self.errors[name] = times
        if len(times) >= 10 and self.world.switches["exact_error_block"]:
            if self.blocked.get(name, 0) <= now:
                self.world.count("exact", "error_blocks")
            self.blocked[name] = now + 3600

    def describe(self):
        now = self.clock.time()
        return {"day_used": self.day_calls, "minute_used": self.minute_calls,
                "errors": {name: len([t for t in times if now - t < 3600]) for name, times in self.errors.items()},
                "blocked": {name: round(end - now) for name, end in self.blocked.items() if end > now}}
