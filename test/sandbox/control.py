"""The control interface: what a test, the demo or a person at the keyboard tells the sandbox.

Belongs here: health, switches, clock, violations, calls, stats, faults, and the joining of both sides' own routes.
Does not belong here: routes about one service's records: exact_control.py and pipedrive_control.py.
Why: steering and judging are apart from the simulated services, on a port of their own, so that no test call
is mistaken for a call of the extension.
"""

import re
import time
import traceback

import exact_control
import pipedrive_control
from httpd import BadJson, Response, Service
from storm import Storm

ACTIONS = {"status", "body", "content_type", "headers", "execute", "drop", "hang", "seconds", "delay_ms", "truncate", "empty",
           "endless", "gzip_bomb", "slow_ms_per_kb", "close_after"}


def bad(text, status=400):
    return Response(status, {"error": text})


class ControlService(Service):
    name = "control"
    server_header = "sandbox-control"
    logged = False

    def __init__(self, world):
        self.world = world
        self.started = time.monotonic()
        own = {
            ("GET", r"/health"): self.health,
            ("GET", r"/switches"): self.get_switches,
            ("POST", r"/switches"): self.set_switches,
            ("DELETE", r"/switches"): self.reset_switches,
            ("GET", r"/clock"): self.get_clock,
            ("POST", r"/clock"): self.set_clock,
            ("GET", r"/violations"): self.get_violations,
            ("DELETE", r"/violations"): self.clear_violations,
            ("GET", r"/calls"): self.get_calls,
            ("GET", r"/stats"): self.get_stats,
            ("POST", r"/stats/reset"): self.reset_stats,
            ("GET", r"/faults"): self.get_faults,
            ("POST", r"/faults"): self.add_fault,
            ("DELETE", r"/faults(?:/(\d+))?"): self.remove_faults,
            ("GET", r"/storm"): self.get_storm,
            ("POST", r"/storm"): self.start_storm,
            ("DELETE", r"/storm"): self.end_storm,
        }
        self.routes = []
        for table in (own, pipedrive_control.routes(world), exact_control.routes(world)):
            for (method, pattern), handler in table.items():
                self.routes.append((method, re.compile("(?:" + pattern + r")\Z"), handler))

    def handle(self, request):
        known = False
        for method, pattern, handler in self.routes:
            found = pattern.match(request.path)
            if found:
                known = True
                if method == request.method:
                    return self.run(handler, request, found)
        return bad("method not allowed" if known else "no such control: " + request.path, 405 if known else 404)

    def run(self, handler, request, found):
        try:
            response = handler(request, found)
            return response if isinstance(response, Response) else Response(200, response)
        except BadJson as error:
            return bad("not JSON: %s" % error)
        except KeyError as error:
            return bad("unknown: %s" % error, 404)
        except (ValueError, TypeError, re.error) as error:
            return bad("%s: %s\n%s" % (type(error).__name__, error, traceback.format_exc()))

    # --- handlers -----------------------------------------------------------------

    def health(self, request, found):
        return {"ok": True, "uptime": round(time.monotonic() - self.started, 3), "clock": self.world.clock.describe(),
                "violations": len(self.world.violations)}

    def get_switches(self, request, found):
        return self.world.switches.describe()

    def set_switches(self, request, found):
        body = request.json()
        for name in body:
            if name not in self.world.switches.defaults:
                raise KeyError(name)
        for name, value in body.items():
            self.world.switches[name] = value if not hasattr(value, "as_tuple") else float(value)
        return {name: self.world.switches[name] for name in body}

    def reset_switches(self, request, found):
        self.world.switches.reset()
        return {"ok": True}

    def get_clock(self, request, found):
        return self.world.clock.describe()

    def set_clock(self, request, found):
        body = request.json()
        unknown = set(body) - {"advance", "scale"}
        if unknown:
            raise KeyError(", ".join(sorted(unknown)))
        if "scale" in body:
            self.world.clock.scale = float(body["scale"])
        if "advance" in body:
            self.world.clock.advance(float(body["advance"]))
        return self.world.clock.describe()

    def get_violations(self, request, found):
        return self.world.violations

    def clear_violations(self, request, found):
        count = len(self.world.violations)
        self.world.violations.clear()
        return {"removed": count}

    def get_calls(self, request, found):
        return self.world.list_calls(request.query.get("side"), int(request.query.get("since", 0)))

    def get_stats(self, request, found):
        answer = self.world.stats()
        for side, service in (("exact", self.world.exact), ("pipedrive", self.world.pipedrive)):
            answer[side]["peak_in_flight"] = service.peak_in_flight
        return answer

    def reset_stats(self, request, found):
        self.world.reset_stats()
        self.world.exact.peak_in_flight = self.world.pipedrive.peak_in_flight = 0
        return {"ok": True}

    def get_faults(self, request, found):
        return [fault.describe() for fault in self.world.faults]

    def add_fault(self, request, found):
        body = request.json()
        unknown = set(body) - {"side", "method", "path", "times", "skip", "action"}
        action = body.get("action")
        if unknown or body.get("side") not in ("exact", "pipedrive") or not isinstance(action, dict) or not action:
            return bad("a fault has side (exact or pipedrive), method, path, times, skip and action; wrong: %s" % sorted(unknown))
        wrong = set(action) - ACTIONS
        if wrong or action.get("hang", "headers") not in ("headers", "body"):
            return bad("unknown action: %s" % (sorted(wrong) or action.get("hang")))
        fault = self.world.add_fault(body["side"], body.get("method"), body.get("path", ""), int(body.get("times", 1)),
                                     int(body.get("skip", 0)), action)
        return {"id": fault.id}

    def remove_faults(self, request, found):
        before = len(self.world.faults)
        number = found.group(1)
        if number is None:
            self.world.faults.clear()
        else:
            self.world.faults[:] = [fault for fault in self.world.faults if fault.id != int(number)]
        return {"removed": before - len(self.world.faults)}

    def get_storm(self, request, found):
        storm = self.world.storm
        answer = {"percent": storm.percent, "calls": storm.calls, "faults": storm.tally} if storm else {"percent": 0, "calls": 0, "faults": {}}
        answer["in_flight"] = {service.name: ["%s %s" % (call.method, call.path) for call in service.open_requests or ()]
                               for service in (self.world.exact, self.world.pipedrive)}
        return answer

    def start_storm(self, request, found):
        body = request.json()
        unknown = set(body) - {"percent", "seed", "seconds", "without"}
        if unknown:
            raise KeyError(", ".join(sorted(unknown)))
        old = self.world.storm
        storm = Storm(float(body.get("percent", 20)), body.get("seed", 1), float(body.get("seconds", 2.5)), body.get("without", ()))
        if old is not None:
            storm.calls, storm.tally = old.calls, old.tally
        self.world.storm = storm
        return self.get_storm(request, found)

    def end_storm(self, request, found):
        if self.world.storm is not None:
            self.world.storm.percent = 0
        return self.get_storm(request, found)
