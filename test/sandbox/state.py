"""The sandbox's shared state: the World.

Belongs here: the switches, the call log with its counters, the list of violations, the faults that are
waiting to happen, the seeded random generator, and the two services as attributes.
Does not belong here: any rule of a service, any HTTP.
Why: the sandbox is the judge in our tests. What it saw (calls) and what it objects to (violations) must be
in one place, written in one form, whatever side it came from.
"""

import asyncio
import random
import re
from datetime import timedelta

from clock import EPOCH, Clock


class Switches(dict):
    """name -> value; an unknown name is a KeyError, for reading and for setting."""

    def __init__(self, early=None):
        super().__init__()
        self.early = dict(early or {})      # values from the command line, for switches that are yet to be defined
        self.defaults = {}
        self.docs = {}
        self.watchers = {}

    def define(self, name, default, doc):
        if name in self.defaults and self.defaults[name] != default:
            raise ValueError("switch %s is defined twice with different defaults" % name)
        if name not in self.defaults:
            self.defaults[name] = default
            self.docs[name] = doc
            dict.__setitem__(self, name, self.early.pop(name, default))

    def __setitem__(self, name, value):
        if name not in self.defaults:
            raise KeyError(name)
        dict.__setitem__(self, name, value)
        for watcher in self.watchers.get(name, ()):
            watcher(value)

    def reset(self):
        for name, default in self.defaults.items():
            if self[name] != default:
                self[name] = default

    def describe(self):
        return [{"name": name, "value": self[name], "default": self.defaults[name], "doc": self.docs[name]}
                for name in sorted(self.defaults)]


class Fault:
    """One misbehaviour that waits for a matching request; see control.py for the actions."""

    def __init__(self, number, side, method, path, times, skip, action):
        self.id = number
        self.side = side
        self.method = method.upper() if method else None
        self.path = path
        self.regex = re.compile(path or "")
        self.times = times
        self.skip = skip
        self.action = action
        self.seen = 0       # matching requests, the skipped ones included
        self.hits = 0       # requests on which the action was taken

    def matches(self, side, method, target):
        if self.side not in (None, side) or self.method not in (None, method):
            return False
        if self.times and self.hits >= self.times:
            return False
        if not self.regex.search(target):
            return False
        self.seen += 1
        if self.seen <= self.skip:
            return False
        self.hits += 1
        return True

    def describe(self):
        return {"id": self.id, "side": self.side, "method": self.method, "path": self.path, "times": self.times,
                "skip": self.skip, "action": self.action, "seen": self.seen, "hits": self.hits}


class World:
    def __init__(self, seed=1, today=None, switches=None):
        self.seed = seed
        self.rng = random.Random(seed)
        self.noise = random.Random("%s noise" % seed)   # for what depends on the number of calls: request ids, shuffles
        self.clock = Clock(today)
        self.switches = Switches(switches)
        self.calls = []
        self.violations = []
        self.faults = []
        self.storm = None       # faults by chance (storm.py)
        self.exact = None
        self.pipedrive = None
        self._next_fault = 1
        self._next_seq = 1
        self._tasks = set()
        self.counters = {}
        self.reset_stats()
        self.define_switch("call_log_limit", 100000, "keep at most this many calls in GET /calls (the oldest half goes)")
        self.define_switch("log_bodies", False, "keep request and response bodies in GET /calls")

    # --- switches ---------------------------------------------------------

    def define_switch(self, name, default, doc):
        self.switches.define(name, default, doc)

    def on_switch(self, name, watcher):
        """watcher(value) is called whenever the switch is set."""
        self.switches.watchers.setdefault(name, []).append(watcher)

    # --- violations -------------------------------------------------------

    def violation(self, side, text):
        self.violations.append({"t": self.stamp(self.clock.time()), "side": side, "text": text})

    @staticmethod
    def stamp(seconds):
        """Simulated epoch seconds as text with milliseconds."""
        return (EPOCH + timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    # --- calls and counters -----------------------------------------------

    def log_call(self, side, request, response, note=None):
        """One line for one request; response is None when nothing was answered or executed."""
        seq = self._next_seq
        self._next_seq = seq + 1
        status = response.status if response is not None else None
        operation = response.operation if response is not None else None
        cost = response.cost if response is not None else 0
        if response is not None and response.note:
            note = response.note if note is None else "%s; %s" % (note, response.note)
        call = {"seq": seq, "t": self.clock.time(), "side": side, "method": request.method, "path": request.path,
                "raw_query": request.raw_query, "status": status, "operation": operation, "cost": cost, "note": note}
        if self.switches["log_bodies"]:
            call["request"] = request.body.decode("utf-8", "replace")
            call["response"] = response.plain.decode("utf-8", "replace") if response is not None else None
        self.calls.append(call)
        limit = self.switches["call_log_limit"]
        if limit and len(self.calls) > limit:
            del self.calls[:limit // 2]
        side_count = self.counters.get(side)
        if side_count is None:
            side_count = self.counters[side] = self._empty_counter()
        side_count["calls"] += 1
        side_count["tokens"] += cost
        side_count["statuses"][status] = side_count["statuses"].get(status, 0) + 1
        if status == 429:
            side_count["refused_429"] += 1
        name = operation or "-"
        entry = side_count["operations"].get(name)
        if entry is None:
            entry = side_count["operations"][name] = {"count": 0, "cost": 0}
        entry["count"] += 1
        entry["cost"] += cost
        return call

    def count(self, side, name, by=1):
        """A further counter that shows in GET /stats, such as noop_patches."""
        side_count = self.counters.setdefault(side, self._empty_counter())
        side_count["extra"][name] = side_count["extra"].get(name, 0) + by

    def list_calls(self, side=None, since=0):
        start = 0
        if self.calls and since:
            start = max(0, since - self.calls[0]["seq"] + 1)
        return [dict(call, t=self.stamp(call["t"])) for call in self.calls[start:]
                if call["seq"] > since and side in (None, "", call["side"])]

    @staticmethod
    def _empty_counter():
        return {"calls": 0, "tokens": 0, "refused_429": 0, "statuses": {}, "operations": {}, "extra": {}}

    def stats(self):
        answer = {}
        for side, count in self.counters.items():
            answer[side] = {"calls": count["calls"], "tokens": count["tokens"], "refused_429": count["refused_429"],
                            "statuses": {str(k): v for k, v in count["statuses"].items()},
                            "operations": count["operations"], **count["extra"]}
        return answer

    def reset_stats(self):
        self.counters = {side: self._empty_counter() for side in ("exact", "pipedrive")}
        self.counters["pipedrive"]["extra"].update({"noop_patches": 0, "overlapping_writes": 0})

    # --- faults -----------------------------------------------------------

    def add_fault(self, side, method, path, times, skip, action):
        fault = Fault(self._next_fault, side, method, path, times, skip, action)
        self._next_fault += 1
        self.faults.append(fault)
        return fault

    def find_fault(self, side, method, target):
        for fault in self.faults:
            if fault.matches(side, method, target):
                return fault
        return self.storm.draw(side, method, target) if self.storm is not None and self.storm.percent else None

    # --- background work (webhooks, delays) ---------------------------------

    def spawn(self, coroutine):
        """Runs a coroutine in the background and keeps it from being collected."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def stop_background(self):
        for task in list(self._tasks):
            task.cancel()
