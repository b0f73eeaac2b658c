"""Sends notifications as Exact does, and measures what becomes of them.

    notify.py READY URL latency COUNT OUT      one new order after the other, each announced
    notify.py READY URL orders COUNT KEYS      new orders; time and keys go to the file KEYS
    notify.py READY URL burst COUNT LINKS SHARE SECONDS KEYS
                                               COUNT notifications about these over LINKS connections, SHARE of them
                                               forged, spread over SECONDS (0: as fast as they are answered)

READY is the file that the sandbox wrote at its start, URL the listener's address.
Python's standard library only.
"""

import asyncio
import hashlib
import hmac
import json
import sys
import time
import urllib.request
from datetime import datetime, timezone
from urllib.parse import urlsplit

QUIET = 0.4         # seconds without a call to Pipedrive: this order is through
PATIENCE = 90       # seconds until an order counts as lost


class Exact:
    """The simulated services, from outside."""

    def __init__(self, ready):
        with open(ready, encoding="utf-8") as file:
            self.ready = json.load(file)

    def control(self, method, path, body=None):
        request = urllib.request.Request(self.ready["control"] + path, None if body is None else json.dumps(body).encode(),
                                         {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def new_order(self):
        return self.control("POST", "/exact/orders", {"lines": 3})

    def body(self, key, action="Create", moment=None, forged=False):
        moment = moment or datetime.now(timezone.utc).isoformat(timespec="milliseconds")[:23]
        content = json.dumps({"Topic": "SalesOrders", "ClientId": self.ready["client_id"], "Division": self.ready["division"],
                              "Action": action, "Key": key, "ExactOnlineEndpoint": "x", "EventCreatedOn": moment}, separators=(",", ":"))
        secret = "guessed" if forged else self.ready["webhook_secret"]
        digest = hmac.new(secret.encode(), content.encode(), hashlib.sha256).hexdigest().upper()
        return ('{"Content":%s,"HashCode":"%s"}' % (content, digest)).encode()


def seconds(stamp):
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def wait_for_deal(exact, since):
    """Moments of the first call to Pipedrive and of the deal's creation, and the last call's number."""
    first = deal = None
    last, quiet_from, until = since, time.monotonic(), time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for call in exact.control("GET", "/calls?side=pipedrive&since=%d" % last):
            last, quiet_from = call["seq"], time.monotonic()
            first = first or seconds(call["t"])
            if call["method"] == "POST" and call["path"].endswith("/deals") and call["status"] in (200, 201):
                deal = deal or seconds(call["t"])
        if deal is not None and time.monotonic() - quiet_from > QUIET:
            return first, deal, last
        time.sleep(0.02)
    raise SystemExit("no deal within %d s" % PATIENCE)


def latency(exact, url, count, out):
    """One line per order: sent, answered, first call, deal (seconds since 1970)."""
    calls = exact.control("GET", "/calls?side=pipedrive&since=0")
    last = calls[-1]["seq"] if calls else 0
    with open(out, "w", encoding="ascii") as file:
        for _ in range(count):
            order = exact.new_order()
            body = exact.body(order["OrderID"])
            sent = time.time()
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()
            answered = time.time()
            first, deal, last = wait_for_deal(exact, last)
            file.write("%.4f\t%.4f\t%.4f\t%.4f\n" % (sent, answered, first, deal))


async def link(split, bodies, pause, statuses, times):
    reader, writer = await asyncio.open_connection(split.hostname, split.port)
    head = "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %%d\r\n\r\n" % (split.path, split.netloc)
    start = time.perf_counter()
    for place, body in enumerate(bodies):
        await asyncio.sleep(start + place * pause - time.perf_counter() if pause else 0)
        began = time.perf_counter()
        writer.write((head % len(body)).encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        status = int(answer.split(b" ", 2)[1])
        length = [int(line.split(b":")[1]) for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        if length and length[0]:
            await reader.readexactly(length[0])
        times.append(time.perf_counter() - began)
        statuses[status] = statuses.get(status, 0) + 1
    writer.close()


async def burst(exact, url, count, links, share, over, keys):
    with open(keys, encoding="ascii") as file:
        moment, *keys = file.read().split()
    bodies = []
    for n in range(count):
        # evenly spread; the first genuine ones name each order once
        forged = int((n + 1) * share) > int(n * share)
        genuine = n - int(n * share)
        bodies.append(exact.body(keys[genuine % len(keys)], "Create" if genuine < len(keys) else "Update", "%s.%06d" % (moment, n), forged))
    statuses, times = {}, []
    split = urlsplit(url)
    began = time.perf_counter()
    await asyncio.gather(*(link(split, bodies[n::links], over * links / count, statuses, times) for n in range(links)))
    took = time.perf_counter() - began
    times.sort()
    print(", ".join("%d times %d" % (number, status) for status, number in sorted(statuses.items()))
          + "; %.2f s, %d/s; answered in %.1f ms (p50), %.1f ms (p99)" % (took, count / took, times[len(times) // 2] * 1000, times[len(times) * 99 // 100] * 1000))


def main():
    exact, url, mode = Exact(sys.argv[1]), sys.argv[2], sys.argv[3]
    if mode == "latency":
        latency(exact, url, int(sys.argv[4]), sys.argv[5])
    elif mode == "orders":
        with open(sys.argv[5], "w", encoding="ascii") as file:
            # the time that they all name: an order that was read is then known to be as new
            file.write(datetime.now(timezone.utc).isoformat(timespec="seconds")[:19] + "\n")
            file.writelines(exact.new_order()["OrderID"] + "\n" for _ in range(int(sys.argv[4])))
    else:
        asyncio.run(burst(exact, url, int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6]), float(sys.argv[7]), sys.argv[8]))


main()
