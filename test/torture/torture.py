#!/usr/bin/env python3
"""Orders flow, faults rain, processes die; then every record is compared.

    torture.py CLUSTER [--kills 30] [--faults 20] [--seed 1] [--orders 30]

CLUSTER is a directory made by scripts/private-cluster, not started.  One run: the simulated services start, a database is
connected to them, a history is imported, and then in each round people at Exact do something (business.py), sessions
poll, a share of all calls goes wrong (test/sandbox/storm.py), and something is killed, mostly while a request is under
way.  At the end the faults stop, what waits for a person is replayed, all comes to rest, and judge.py compares the two
accounts.  The last scene is the one loss that nobody can prevent: a token pair that was lost on its way.

Prints a table of figures and "ok" or "not ok" lines; exit status 0 when all are ok.  On failure it prints the records
concerned, what trace() tells about them and the calls that the services saw.

Belongs here: the course of a run, what is killed and when.  Does not belong here: the rules that are judged by.
"""

import argparse
import collections
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import judge
from business import Business, Refused, control
from cluster import Cluster, SqlError

HERE = os.path.dirname(os.path.abspath(__file__))
DATABASE = "sync"
DEFAULT_OWNER = "Exact koppeling"
REDIRECT = "https://example.com/callback"

# The answers that may go wrong without anybody being to blame: shut down, cancelled, connection, limits, token.
EXPECTED = re.compile(r"^(lost|57P0[123]|57014|08...|53400|53300|55P03|28000|HV...|58000|55006|55000|22032|38000)$")

# How many tokens may be rotated: Exact allows 200 calls a day, and some are repeated.
ROTATIONS = 110

LEFT = """SELECT concat_ws(' ',
    'signals=' || nullif((SELECT count(*) FROM exact_pd_sync.job_signals), 0),
    'looks=' || nullif((SELECT count(*) FROM exact_pd_sync.looks WHERE done_at IS NULL), 0),
    'intents=' || nullif((SELECT count(*) FROM exact_pd_sync.intents), 0),
    (SELECT string_agg(x.kind || ' ' || x.state || '=' || x.n || coalesce(' (' || x.reason || ')', ''), ' ')
       FROM (SELECT kind, state, max(reason) AS reason, count(*) AS n FROM exact_pd_sync.jobs GROUP BY kind, state) x))"""


class Gave(Exception):
    """The run cannot go on."""


# Every way that a job goes from one state to another, once.
WATCH = """
CREATE SCHEMA watch;
CREATE TABLE watch.ways (from_state text, to_state text, PRIMARY KEY (from_state, to_state));
CREATE FUNCTION watch.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    v_from text := CASE TG_OP WHEN 'INSERT' THEN '-' ELSE OLD.state END;
    v_to   text := CASE TG_OP WHEN 'DELETE' THEN '-' ELSE NEW.state END;
BEGIN
    IF v_from <> v_to AND NOT EXISTS (SELECT FROM watch.ways w WHERE w.from_state = v_from AND w.to_state = v_to) THEN
        INSERT INTO watch.ways VALUES (v_from, v_to) ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER watch AFTER INSERT OR UPDATE OR DELETE ON exact_pd_sync.jobs FOR EACH ROW EXECUTE FUNCTION watch.note();
"""


class Torture:
    def __init__(self, options):
        self.options = options
        self.random = random.Random("torture %s" % options.seed)
        self.cluster = Cluster(options.cluster, DATABASE)
        self.sandbox = self.base = self.ready = None
        self.kills = collections.Counter()
        self.met = collections.Counter()        # what was under way at the moment of a kill
        self.polls = collections.Counter()
        self.errors = collections.Counter()
        self.problems = []
        self.rotations = self.stops = self.number = 0
        self.imported = threading.Event()
        self.ending = threading.Event()
        self.calls_seen = 0
        self.slowest = 0.0
        self.results = []

    # --- setting the scene ---------------------------------------------------------------

    def say(self, text):
        print("   " + text, flush=True)

    def control(self, method, path, body=None):
        return control(self.base, method, path, body)

    def start_sandbox(self):
        ready = os.path.join(self.options.cluster, "sandbox.json")
        switches = {"log_bodies": True, "call_log_limit": 400000, "exact_minute_limit": 100000, "exact_day_limit": 10000000,
                    "daily_budget": 50000000, "deal_limit": 1000000, "exact_refresh_grace_s": 86400, "exact_page_size": 25,
                    "exact_error_block": False, "burst_limit": 0, "block_after": 0}
        log = open(os.path.join(self.options.cluster, "sandbox.log"), "w", encoding="utf-8")
        self.sandbox = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "../sandbox/run.py"), "--orders", str(self.options.orders), "--months", "6",
             "--customers", "15", "--items", "25", "--seed", str(self.options.seed), "--ready-file", ready, "--switches", json.dumps(switches)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        end = time.monotonic() + 60
        while not os.path.exists(ready):
            if self.sandbox.poll() is not None or time.monotonic() > end:
                raise Gave("the simulated services did not start")
            time.sleep(0.05)
        with open(ready, encoding="utf-8") as handle:
            self.ready = json.load(handle)
        self.base = self.ready["control"]

    def quoted(self, text):
        return "'" + text.replace("'", "''") + "'"

    def consent(self):
        """What a person does in the browser."""
        url = self.cluster.value("SELECT exact_pd_sync.exact_authorize_url()")

        class Stay(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *words):
                return None
        try:
            urllib.request.build_opener(Stay).open(url, timeout=30)
            raise Gave("the consent page did not lead back")
        except urllib.error.HTTPError as answer:
            location = answer.headers["Location"]
        self.cluster.sql("CALL exact_pd_sync.exact_authorize(%s)" % self.quoted(location))

    def connect(self):
        cluster, ready, q = self.cluster, self.ready, self.quoted
        if not cluster.start():
            raise Gave("the server does not start")
        first = cluster.connect(database="postgres")
        first.run("CREATE DATABASE " + DATABASE)
        first.close()
        cluster.sql("CREATE EXTENSION exact_pd_sync")
        cluster.sql("SELECT exact_pd_sync.set_exact_app(%s, %s, %s, %s, %s)" % tuple(
            q(text) for text in (ready["client_id"], ready["client_secret"], REDIRECT, ready["webhook_secret"], ready["exact"])))
        self.consent()
        cluster.sql("SELECT exact_pd_sync.add_division(%d)" % ready["division"])
        cluster.sql("SELECT exact_pd_sync.set_pipedrive_account(%s, %s)" % (q(ready["api_token"]), q(ready["pipedrive"])))
        cluster.sql("CALL exact_pd_sync.setup_pipedrive()")
        cluster.sql("SELECT exact_pd_sync.set_default_owner((SELECT min(user_id) FROM exact_pd_sync.pipedrive_users WHERE name = %s))"
                    % q(DEFAULT_OWNER))
        cluster.sql("SELECT exact_pd_sync.configure('list_lag', '1')")
        cluster.sql(WATCH)
        cluster.sql("SELECT exact_pd_sync.resume()")

    def storm(self, percent):
        if percent:
            self.control("POST", "/storm", {"percent": percent, "seed": self.options.seed, "seconds": 2.0})
        else:
            self.control("DELETE", "/storm")

    # --- sessions that poll -------------------------------------------------------------------

    def poller(self, number):
        """A session like pg_cron's: opened, one CALL, closed; whatever happens, the next one comes."""
        dice = random.Random("poller %s %s" % (self.options.seed, number))
        calls = (["poll_orders"] * 6 + ["poll_all"] * 3 + ["poll_customers", "poll_products", "import_history", "reconcile"])
        while not self.ending.is_set():
            what = dice.choice(calls) if self.imported.is_set() else "import_history"
            if number > 1 and not self.imported.is_set():
                time.sleep(0.2)
                continue
            self.poll(what, "torture poll %d" % number)
            self.ending.wait(dice.uniform(0.02, 0.4 if number == 1 else 1.5))

    def poll(self, what, name):
        session = None
        try:
            session = self.cluster.connect(name)
            session.run("CALL exact_pd_sync.%s()" % what)
            self.polls[what + " ok"] += 1
            if what == "import_history":
                self.imported.set()
            return None
        except SqlError as error:
            self.polls[what + " failed"] += 1
            self.errors[error.state] += 1
            if not EXPECTED.match(error.state):
                self.problems.append("CALL %s: %s" % (what, error))
            return error
        finally:
            if session:
                session.close()

    # --- choosing the moment --------------------------------------------------------------------

    def in_flight(self, side, words):
        return any(re.search(words, call) for call in self.control("GET", "/storm")["in_flight"][side])

    def until(self, condition, seconds):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.008)
        return True

    def progress(self):
        """Lets some calls happen since the last kill: an integration that is killed before it begins cannot get anywhere."""
        wanted = self.calls_seen + self.random.choice([0, 3, 8, 15, 30, 60])
        self.until(lambda: self.control("GET", "/storm")["calls"] >= wanted, self.random.choice([0.5, 1.0, 2.0]))

    def aim(self):
        """Waits for a moment that is worth a kill."""
        moment = self.random.choice(["create", "create", "lines", "write", "look", "exact", "page", "any", "intents"])
        if moment == "create":
            self.until(lambda: self.in_flight("pipedrive", r"^POST /api/v2/(deals|organizations|products)$"), 1.0)
        elif moment == "lines":
            self.until(lambda: self.in_flight("pipedrive", r"/products|/discounts"), 1.0)
        elif moment == "write":
            self.until(lambda: self.in_flight("pipedrive", r"^(POST|PATCH|DELETE)"), 1.0)
        elif moment == "look":
            self.until(lambda: self.in_flight("pipedrive", r"^GET"), 0.8)
        elif moment == "exact":
            self.until(lambda: self.in_flight("exact", r"SalesOrder"), 0.8)
        elif moment == "page":
            self.until(lambda: self.in_flight("exact", r"."), 0.8)
        elif moment == "intents":
            try:
                self.until(lambda: self.cluster.value("SELECT count(*) FROM exact_pd_sync.intents") != "0", 0.8)
            except SqlError:
                pass
        time.sleep(self.random.choice([0, 0, 0.002, 0.01, 0.05, 0.2]))

    # --- what is done to it --------------------------------------------------------------------------

    def worker(self, kind):
        return self.cluster.process("exact_pd_sync " + kind)

    def backend(self, name):
        try:
            pid = self.cluster.value("SELECT pid FROM pg_stat_activity WHERE application_name LIKE '%s%%' LIMIT 1" % name)
            return int(pid) if pid else None
        except SqlError:
            return None

    def kill_delivery(self):
        return self.cluster.kill(self.worker("delivery"))

    def kill_intake(self):
        return self.cluster.kill(self.worker("intake"))

    def term_delivery(self):
        return self.cluster.kill(self.worker("delivery"), signal.SIGTERM)

    def term_intake(self):
        return self.cluster.kill(self.worker("intake"), signal.SIGTERM)

    def terminate_backend(self):
        """pg_terminate_backend of a worker, as a DBA would."""
        try:
            return self.cluster.value("SELECT bool_or(pg_terminate_backend(pid)) FROM pg_stat_activity "
                                      "WHERE backend_type = 'exact_pd_sync %s'" % self.random.choice(["delivery", "delivery", "intake"])) == "t"
        except SqlError:
            return False

    def cancel_delivery(self):
        return self.cluster.kill(self.worker("delivery"), signal.SIGINT)

    def kill_poll(self):
        return self.cluster.kill(self.backend("torture poll"))

    def term_poll(self):
        return self.cluster.kill(self.backend("torture poll"), signal.SIGTERM)

    def cancel_poll(self):
        return self.cluster.kill(self.backend("torture poll"), signal.SIGINT)

    def kill_stranger(self):
        """Another process of the server, which has nothing to do with us: all have to leave."""
        return self.cluster.kill(self.cluster.process(self.random.choice(["checkpointer", "walwriter", "background writer", "autovacuum launcher"])))

    def kill_launcher(self):
        return self.cluster.kill(self.worker("launcher"), self.random.choice([signal.SIGKILL, signal.SIGTERM]))

    def kill_postmaster(self):
        killed = self.cluster.kill(self.cluster.postmaster())
        self.start()
        return killed

    def stop_immediate(self):
        done = self.cluster.stop("immediate")
        self.start()
        return done

    def stop_fast(self):
        began = time.monotonic()
        done = self.cluster.stop("fast")
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.start()
        return done

    def kill_at_start(self):
        """The power comes back, and goes again."""
        killed = self.cluster.kill(self.cluster.postmaster())
        self.cluster.start(wait=False)
        time.sleep(self.random.uniform(0.05, 1.0))
        killed = self.cluster.kill(self.cluster.postmaster()) and killed
        self.start()
        return killed

    def freeze(self):
        """A worker that sleeps through the end of its requests, and then goes on as if nothing had happened."""
        pid = self.worker(self.random.choice(["delivery", "delivery", "intake"]))
        if not self.cluster.kill(pid, signal.SIGSTOP):
            return False
        time.sleep(self.random.choice([0.3, 2.5]))
        return self.cluster.kill(pid, signal.SIGCONT)

    def kill_rotation(self):
        """Somebody dies while the tokens are exchanged."""
        if self.rotations >= ROTATIONS:
            return False
        action = self.random.choice([{"delay_ms": 200}, {"execute": True, "hang": "headers", "seconds": 0.2}])
        if not self.age_tokens():
            return False
        fault = self.control("POST", "/faults", {"side": "exact", "path": "oauth2/token", "times": 1, "action": action})["id"]
        met = self.until(lambda: self.in_flight("exact", "oauth2/token"), 2.0)
        time.sleep(self.random.uniform(0, 0.3))
        killed = self.random.choice([self.kill_intake, self.kill_poll, self.kill_postmaster, self.stop_immediate, self.term_intake,
                                     self.stop_fast, self.term_poll])()
        self.control("DELETE", "/faults/%d" % fault)
        return met and killed

    def age_tokens(self):
        """The tokens look ten minutes older, on both sides; false when the server died meanwhile."""
        issued = "SELECT extract(epoch FROM issued_at) FROM exact_pd_sync.exact_consent"
        session = before = None
        try:
            session = self.cluster.connect("torture clock")
            before = session.run(issued)[0][0]
            # held until both sides agree: a worker that sees only one of them would refresh too early, or be refused
            session.run("BEGIN")
            session.run("UPDATE exact_pd_sync.exact_consent SET issued_at = issued_at - interval '600 s', "
                        "access_expires_at = access_expires_at - interval '600 s'")
            self.control("POST", "/exact/token_age", {"seconds": 600})
            session.run("COMMIT")
            self.rotations += 1
            return True
        except SqlError:
            if before is not None:
                self.cluster.wait_alive(60)
                if self.cluster.value(issued) == before:
                    self.control("POST", "/exact/token_age", {"seconds": -600})
            return False
        finally:
            if session:
                session.close()

    ways = [("kill_delivery", 16), ("kill_intake", 3), ("term_delivery", 5), ("term_intake", 2), ("terminate_backend", 3),
            ("cancel_delivery", 2), ("kill_poll", 8), ("term_poll", 4), ("cancel_poll", 3), ("kill_stranger", 6), ("kill_launcher", 3),
            ("kill_postmaster", 9), ("stop_immediate", 7), ("stop_fast", 5), ("kill_at_start", 4), ("freeze", 3), ("kill_rotation", 8)]

    # --- a round -----------------------------------------------------------------------------------------

    def start(self):
        if not self.cluster.start():
            raise Gave("the server does not start again")

    def revive(self):
        if not self.cluster.wait_alive(30):
            if self.cluster.postmaster() is None or not self.cluster.wait_alive(30):
                raise Gave("the server did not come back")
        # what a person does who sees in status that everything is refused
        try:
            if self.cluster.value("SELECT EXISTS (SELECT FROM exact_pd_sync.budgets WHERE side = 'pipedrive' AND blocked_until > clock_timestamp())") == "t":
                self.cluster.sql("SELECT exact_pd_sync.resume()")
                self.stops += 1
            if self.cluster.value("SELECT state FROM exact_pd_sync.exact_consent") != "ok":
                self.problems.append("the consent was lost although a spent refresh token works for a while")
                self.consent()
        except SqlError as error:
            if not EXPECTED.match(error.state):
                self.problems.append("looking at the state: %s" % error)
        self.calls_seen = self.control("GET", "/storm")["calls"]

    def weather(self):
        """Other answers than before, as the services' documentation allows."""
        draw = self.random
        self.control("POST", "/switches", {
            "pipedrive_latency_ms": draw.choice([0, 5, 25, 60, 120]), "exact_latency_ms": draw.choice([0, 5, 25]),
            "list_lag": draw.choice([0, 0, 0.4, 0.8]), "value_delay": draw.choice([0, 0, 0.5]), "shuffle_bulk": draw.random() < 0.15,
            "bulk_partial": draw.choice([0, 0, 0, 0, 2]), "burst_limit": draw.choice([0, 0, 0, 0, 40]), "omit_daily_headers": draw.choice([0.0, 0.3, 1.0]),
            "exact_shuffle_pages": draw.random() < 0.3, "exact_page_size": draw.choice([7, 25, 60]),
            "exact_duplicate_in_page": draw.choice([False, False, "older_first", "newer_first"])})

    def round(self, business):
        for _ in range(self.random.choice([0, 1, 2, 4, 8])):
            try:
                business.step()
            except Refused as refused:
                self.problems.append("business: %s" % refused)
        if business.pending and self.random.random() < 0.4:
            business.late_commit()
        if self.random.random() < 0.1:
            self.weather()
        self.progress()
        names, weights = zip(*self.ways)
        way = self.random.choices(names, weights)[0]
        if way not in ("kill_rotation", "freeze"):
            self.aim()
        flight = self.control("GET", "/storm")["in_flight"]
        if getattr(self, way)():
            self.kills[way] += 1
            self.number += 1
            self.met["a write to Pipedrive"] += any(not call.startswith("GET") for call in flight["pipedrive"])
            self.met["a list of Pipedrive"] += any(call.startswith("GET") for call in flight["pipedrive"])
            self.met["a call to Exact"] += bool(flight["exact"])
        self.revive()

    def torture(self):
        business = Business(self.base, self.options.seed)
        threads = [threading.Thread(target=self.poller, args=(number,), daemon=True) for number in (1, 2)]
        for thread in threads:
            thread.start()
        began = told = time.monotonic()
        while self.number < self.options.kills:
            if self.number == self.options.kills // 4 and not self.imported.is_set():
                # it may be killed as often as anything, but not for ever: what comes after it is to be seen, too
                self.until(self.imported.is_set, 60)
            self.round(business)
            if time.monotonic() - told > 60:
                told = time.monotonic()
                self.say("%d kills in %.1f minutes, %d orders" % (self.number, (told - began) / 60, len(business.orders)))
        # an import that was killed each time has to come to its end, still in the storm
        self.until(self.imported.is_set, 120)
        self.ending.set()
        for thread in threads:
            thread.join(150)
        business.late_commit()
        return business

    # --- the end ---------------------------------------------------------------------------------------------

    def settle(self, seconds):
        """Until nothing is left to do; what is left otherwise.  Replays what waits for a person or for its next attempt."""
        end = time.monotonic() + seconds
        asked = 0.0
        left = "?"
        while time.monotonic() < end:
            left = self.cluster.value(LEFT)
            if not left:
                return ""
            if time.monotonic() - asked > 4:
                asked = time.monotonic()
                self.cluster.sql("SELECT exact_pd_sync.resume()")
                self.cluster.sql("SELECT exact_pd_sync.replay()")
            time.sleep(0.1)
        return left

    def poll_until_done(self, seconds):
        end = time.monotonic() + seconds
        while True:
            error = self.poll("poll_all", "torture last poll")
            if error is None or time.monotonic() > end:
                return error
            time.sleep(0.5)

    def check(self, name, found):
        """found: what is wrong, as texts."""
        found = list(found)
        self.results.append((name, found))

    def strange_ways(self):
        """Ways from one state of a job to another that doc/reliability.md does not draw."""
        path = os.path.join(HERE, "..", "..", "doc", "reliability.md")
        with open(path, encoding="utf-8") as handle:
            table = re.search(r"\| from \| to \| done by \|\n(.*?)\n\n", handle.read(), re.S).group(1)
        drawn = {tuple(cell.strip().replace("\u2013", "-") for cell in line.split("|")[1:3]) for line in table.split("\n")[1:]}
        seen = {tuple(row) for row in self.cluster.sql("SELECT from_state, to_state FROM watch.ways")}
        return ["%s to %s" % way for way in sorted(seen - drawn)] if seen else ["no way was seen at all"]

    def compare(self, business, when):
        problems, figures = judge.judge(self.base, DEFAULT_OWNER, business.deleted)
        for what, name in (("missing", "nothing is missing"), ("duplicate", "nothing is there twice"), ("wrong", "every record is right"),
                           ("extra", "nothing is there that should not be"), ("violation", "no forbidden call")):
            mine = [problem for problem in problems if problem.what == what]
            self.check(when + name, (problem.text for problem in mine))
            for problem in mine[:3]:
                if problem.number is not None:
                    self.explain(problem)
        if problems:
            with open(os.path.join(self.options.cluster, "calls.jsonl"), "w", encoding="utf-8") as handle:
                for entry in self.control("GET", "/violations") + self.control("GET", "/calls"):
                    handle.write(json.dumps(entry) + "\n")
        return figures

    def explain(self, problem):
        """All that is known about an order, into a file."""
        path = os.path.join(self.options.cluster, "order_%s.txt" % problem.number)
        with open(path, "w", encoding="utf-8") as handle:
            handle.write(problem.text + "\n\ntrace():\n")
            try:
                for row in self.cluster.sql("SELECT t::text FROM exact_pd_sync.trace(%s) t" % problem.number):
                    handle.write("  %s\n" % row[0])
            except SqlError as error:
                handle.write("  %s\n" % error)
            try:
                handle.write("\nat Exact:\n  %s\n" % json.dumps(self.control("GET", "/exact/orders/%s" % problem.number)))
            except Refused as refused:
                handle.write("\nat Exact: %s\n" % refused)
            if problem.deal:
                handle.write("\nat Pipedrive:\n  %s\n" % json.dumps(self.control("GET", "/pipedrive/deals/%d" % problem.deal)))
                handle.write("\ncalls:\n")
                for call in self.control("GET", "/calls?side=pipedrive"):
                    if "/deals/%d/" % problem.deal in call["path"] + "/" or ("Order %s " % problem.number) in (call.get("request") or ""):
                        handle.write("  %s\n" % json.dumps(call))
        self.say("about order %s: %s" % (problem.number, path))

    def server_log(self):
        """What the server said that it never should."""
        odd = []
        with open(self.cluster.log, encoding="utf-8", errors="replace") as handle:
            for line in handle:
                if re.search(r"PANIC|TRAP:|terminated by signal (?!9\b|15\b)\d+|stack smashing|invalid memory|double free"
                             r"|\] [a-z_ ]+ (21|22|23|40|42|XX|P0)\w{3} (ERROR|FATAL|WARNING)", line):
                    odd.append(line.strip()[:400])
        return odd

    def reconciled(self):
        """What reconcile() objects to, which the comparison from outside did not."""
        tokens = self.writes()
        for _ in range(2):              # what it found in the storm, rightly or not, is looked at once more
            error = self.poll("reconcile", "torture reconcile")
            if error:
                return [str(error)]
            left = self.settle(60)
            if left:
                return [left]
        found = [row[0] for row in self.cluster.sql("SELECT d::text FROM exact_pd_sync.drift d LIMIT 20")]
        equal, text = self.cluster.sql("SELECT equal, summary FROM exact_pd_sync.reconcile_results ORDER BY run_id DESC LIMIT 1")[0]
        spent = self.writes() - tokens
        return found + ([text] if equal != "t" else []) + (["%d changes were sent" % spent] if spent else [])

    def writes(self):
        return sum(1 for call in self.control("GET", "/calls?side=pipedrive") if call["method"] != "GET")

    def lost_pair(self, business):
        """Without a grace a pair that is lost on its way costs a person one consent; that is said, and one statement mends it."""
        self.control("POST", "/switches", {"exact_refresh_grace_s": 0})
        self.control("POST", "/faults", {"side": "exact", "path": "oauth2/token", "times": 1, "action": {"execute": True, "drop": True}})
        if not self.age_tokens():
            raise Gave("the server died without being killed")
        said = self.until(lambda: self.cluster.value("SELECT state FROM exact_pd_sync.exact_consent") == "auth_required", 30)
        self.check("a pair that is lost is told as auth_required", [] if said else ["the consent is still said to be well"])
        for _ in range(5):
            business.step()
        business.late_commit()
        error = self.poll("poll_orders", "torture poll without consent")
        self.check("a poll says so", [] if error is not None and error.state == "28000" else ["it said %s" % error])
        self.consent()
        error = self.poll_until_done(60)
        self.check("after the consent it goes on", [str(error)] if error else [])

    def finish(self, business):
        self.storm(0)
        self.control("DELETE", "/faults")
        self.control("POST", "/switches", {"pipedrive_latency_ms": 0, "exact_latency_ms": 0, "list_lag": 0, "value_delay": 0, "shuffle_bulk": False,
                                           "bulk_partial": 0, "omit_daily_headers": 0.0, "burst_limit": 0, "exact_page_size": 200, "exact_duplicate_in_page": False})
        # whoever is killed before anything happens proves nothing
        sent = self.writes()
        self.check("much was sent between the kills", [] if sent >= 2 * self.number else ["%d changes in %d kills" % (sent, self.number)])
        self.check("the import came to its end", [] if self.imported.is_set() else ["it did not"])
        if not self.cluster.wait_alive(60):
            raise Gave("the server is not there")
        self.rest(business, "")
        figures = self.compare(business, "")
        tokens = self.control("GET", "/stats")["pipedrive"]["tokens"]
        self.poll_until_done(60)
        left = self.settle(60)
        spent = self.control("GET", "/stats")["pipedrive"]["tokens"] - tokens
        self.check("nothing more is sent when nothing changes", ["%s tokens were spent" % spent] if spent or left else [])
        self.check("reconcile() finds both sides equal", self.reconciled())
        self.lost_pair(business)
        self.rest(business, "then: ")
        self.compare(business, "then: ")
        self.check("jobs go the ways that are drawn", self.strange_ways())
        self.check("no process failed by itself", self.server_log())
        self.check("no error that nobody expects", self.problems)
        return figures

    def rest(self, business, when):
        error = self.poll_until_done(120)
        self.check(when + "polls work again", [str(error)] if error else [])
        left = self.settle(self.options.patience)
        self.check(when + "nothing is left over, nor a dead letter", [left] if left else [])
        if left:
            for row in self.cluster.sql("SELECT j::text FROM exact_pd_sync.jobs j LIMIT 5") + self.cluster.sql("SELECT l::text FROM exact_pd_sync.looks l WHERE done_at IS NULL LIMIT 5"):
                self.say(row[0][:600])

    # --- all of it -------------------------------------------------------------------------------------------------

    def run(self):
        began = time.monotonic()
        figures = {}
        try:
            self.start_sandbox()
            self.connect()
            self.storm(self.options.faults)
            self.weather()
            business = self.torture()
            lasted = time.monotonic() - began
            figures = self.finish(business)
            self.report(business, figures, lasted)
        except Gave as gave:
            self.check("the run comes to its end", [str(gave)])
        finally:
            self.ending.set()
            self.cluster.stop("fast") or self.cluster.stop("immediate")
            if self.sandbox:
                self.sandbox.terminate()
                self.sandbox.wait(20)
        bad = 0
        for number, (name, found) in enumerate(self.results, 1):
            print("%s %d - %s" % ("not ok" if found else "ok", number, name))
            bad += bool(found)
            for text in found[:10]:
                print("#   " + text)
            if len(found) > 10:
                print("#   ... %d in all" % len(found))
        print("seed %s, %d kills, %s %% faults: %s" % (self.options.seed, self.number, self.options.faults,
                                                       "all is well" if not bad else "%d checks failed; kept: %s" % (bad, self.options.cluster)), flush=True)
        return 1 if bad or not self.results else 0

    def report(self, business, figures, lasted):
        stats, storm = self.control("GET", "/stats"), self.control("GET", "/storm")
        self.say("minutes of torture            %.1f" % (lasted / 60))
        self.say("kills                         %d: %s" % (self.number, ", ".join("%s %d" % pair for pair in self.kills.most_common())))
        self.say("under way at that moment      %s" % ", ".join("%s %d" % pair for pair in self.met.most_common()))
        for side, tally in sorted(storm["faults"].items()):
            self.say("faults at %-19s %d: %s" % (side, sum(tally.values()), ", ".join(
                "%s %d" % pair for pair in sorted(tally.items(), key=lambda pair: -pair[1]))))
        self.say("business                      %s" % ", ".join("%s %d" % pair for pair in sorted(business.steps.items(), key=lambda pair: -pair[1])))
        self.say("calls                         %d at Exact, %d at Pipedrive" % (stats["exact"]["calls"], stats["pipedrive"]["calls"]))
        self.say("tokens at Pipedrive           %d" % stats["pipedrive"]["tokens"])
        self.say("polls                         %s" % ", ".join("%s %d" % pair for pair in sorted(self.polls.items())))
        self.say("errors that polls met         %s" % ", ".join("%s %d" % pair for pair in self.errors.most_common()))
        self.say("rotations, stops resumed      %d, %d; slowest fast shutdown %.1f s" % (self.rotations, self.stops, self.slowest))
        for what in ("adopt",):
            self.say("adopted after unknown outcome %s" % self.cluster.value("SELECT count(*) FROM exact_pd_sync.sync_changes WHERE operation = '%s'" % what))
        self.say("at the end                    %s" % ", ".join("%s %s" % pair for pair in figures.items()))


def arguments():
    parser = argparse.ArgumentParser(description="Kills at random moments while orders flow and faults rain, then compares record by record.")
    parser.add_argument("cluster", metavar="CLUSTER", help="directory made by scripts/private-cluster")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--faults", type=float, default=20, metavar="PERCENT")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--orders", type=int, default=30, help="orders at Exact before it begins")
    parser.add_argument("--patience", type=float, default=400, help="seconds that it may take to come to rest")
    options = parser.parse_args()
    options.cluster = os.path.abspath(options.cluster)
    return options


if __name__ == "__main__":
    # so that the server and the services end, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(Torture(arguments()).run())
