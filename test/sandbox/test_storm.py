#!/usr/bin/env python3
"""Tests of faults by chance, over real HTTP.

Belongs here: that a storm hits as many calls as it says, tells what it did, and ends.
Does not belong here: how a single fault is acted out (test_pipedrive.py).
"""

import http.client
import unittest

from sandbox_client import Sandbox
from storm import exact_kinds, pipedrive_kinds, token_kinds


class TestStorm(unittest.TestCase):
    def setUp(self):
        self.sandbox = Sandbox("--orders", "0")
        self.addCleanup(self.sandbox.stop)

    def call(self):
        """The status of a call, or None when there was no whole answer."""
        try:
            return self.sandbox.send(self.sandbox.ready["pipedrive"], "GET", "/api/v2/deals",
                                     headers={"x-api-token": self.sandbox.ready["api_token"]})[0]
        except (OSError, http.client.HTTPException):
            return None

    def test_share_tally_and_end(self):
        quick = ["hangs before", "hangs after", "hangs in the body", "endless", "gzip bomb", "late", "slow body"]
        self.sandbox.switch(burst_limit=0)
        self.sandbox.control("POST", "/storm", {"percent": 50, "seed": 4, "without": quick})
        for _ in range(100):
            self.call()
        storm = self.sandbox.control("GET", "/storm")
        self.assertEqual(storm["calls"], 100)
        self.assertEqual(storm["in_flight"], {"exact": [], "pipedrive": []})
        hits = storm["faults"]["pipedrive"]
        self.assertTrue(30 <= sum(hits.values()) <= 70, hits)
        self.assertFalse(set(hits) & set(quick))
        noted = [call for call in self.sandbox.control("GET", "/calls?side=pipedrive") if call["note"] and "storm: " in call["note"]]
        self.assertEqual(len(noted), sum(hits.values()))
        self.sandbox.control("DELETE", "/storm")
        self.assertEqual([self.call() for _ in range(20)], [200] * 20)
        self.assertEqual(self.sandbox.control("GET", "/storm")["faults"]["pipedrive"], hits)

    def test_same_seed_same_weather(self):
        self.sandbox.switch(burst_limit=0)
        seen = []
        for _ in range(2):
            self.sandbox.control("POST", "/storm", {"percent": 30, "seed": 7, "seconds": 0.01, "without": ["endless", "gzip bomb"]})
            before = len(self.sandbox.control("GET", "/calls?side=pipedrive"))
            for _ in range(40):
                self.call()
            seen.append([call["note"] for call in self.sandbox.control("GET", "/calls?side=pipedrive")[before:]])
        self.assertEqual(seen[0], seen[1])

    def test_unknown_names_are_refused(self):
        with self.assertRaises(AssertionError):
            self.sandbox.control("POST", "/storm", {"per cent": 1})

    def test_kinds_are_named_once(self):
        for made in (pipedrive_kinds, exact_kinds, token_kinds):
            names = [name for name, _, _ in made(1)]
            self.assertEqual(len(names), len(set(names)))


if __name__ == "__main__":
    unittest.main()
