#!/usr/bin/env python3
"""Pages of the simulated Exact Online as files, for measuring how fast they are staged.

Reads lines "FEED PATH" on standard input, PATH as _feed_next() gives it, and writes FEED.1, FEED.2 … into the output
directory: whole answers, as the sandbox would send them, without HTTP in between.  Prints "FEED pages bytes".

Belongs here: following a feed to its end.  What a page looks like is test/sandbox's matter.
"""

import argparse
import os
import re
import sys
import types
from urllib.parse import urlsplit

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "test", "sandbox"))

import run as sandbox                           # noqa: E402
from httpd import Request                       # noqa: E402

TIMESTAMP = re.compile(r'"Timestamp":"?(\d+)')
NEXT = re.compile(r'"__next":"((?:[^"\\]|\\.)*)"\}\}$')


def build(options):
    world = sandbox.build(sandbox.arguments(["--orders", str(options.orders), "--seed", str(options.seed),
                                             "--division", str(options.division)]))
    world.switches["exact_minute_limit"] = world.switches["exact_day_limit"] = 1000000
    service = world.exact
    service.oauth = types.SimpleNamespace(check=lambda header: None)       # who asks is not the question here
    return service


def answer(service, target):
    response = service.handle(Request("GET", target, {"accept": "application/json"}, b""))
    if response.status != 200:
        sys.exit("%s: %d %s" % (target, response.status, response.plain[:300]))
    return response.plain if isinstance(response.plain, str) else response.plain.decode()


def follow(service, feed, target, directory):
    pages = size = 0
    while target:
        body = answer(service, target)
        following = NEXT.search(body)
        pages, size = pages + 1, size + len(body.encode())
        with open(os.path.join(directory, "%s.%d" % (feed, pages)), "w", encoding="utf-8") as handle:
            handle.write(body)
        if following is None:
            break
        if "Timestamp%20gt%20" in target:       # a sync feed goes on by Timestamp, as _feed_next() does
            newest = max(int(stamp) for stamp in TIMESTAMP.findall(body))
            target = re.sub(r"Timestamp%20gt%20\d+L", "Timestamp%%20gt%%20%dL" % newest, target)
        else:
            split = urlsplit(following.group(1).replace("\\/", "/"))
            target = split.path + "?" + split.query
    print(feed, pages, size, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--orders", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--division", type=int, default=123456)
    options = parser.parse_args()
    os.makedirs(options.directory, exist_ok=True)
    service = build(options)
    for line in sys.stdin:
        feed, target = line.split()
        follow(service, feed, target, options.directory)


if __name__ == "__main__":
    main()
