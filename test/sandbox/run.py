#!/usr/bin/env python3
"""Starts the sandbox: both web services and the control interface on loopback.

Belongs here: the command line, the order of building things, the ready line, clean termination.
Does not belong here: any rule of a service (exact.py, pipedrive.py) or of the control interface (control.py).
Why: tests, demo and benchmarks all start the sandbox in this one way.
"""

import argparse
import asyncio
import gc
import json
import os
import signal
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from control import ControlService              # noqa: E402
from exact import ExactService                  # noqa: E402
from httpd import Listener                      # noqa: E402
from pipedrive import PipedriveService          # noqa: E402
from pipedrive_budget import PLANS              # noqa: E402
from state import World                         # noqa: E402

HOST = "127.0.0.1"


def arguments(argv=None):
    parser = argparse.ArgumentParser(description="Exact Online and Pipedrive on loopback, for tests, demo and benchmarks")
    parser.add_argument("--exact-port", type=int, default=0)
    parser.add_argument("--pipedrive-port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--blackhole-port", type=int, default=None, help="a listening socket that never accepts (0 = any port)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--orders", type=int, default=500, help="0 = only the static master data")
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument("--customers", type=int, default=None)
    parser.add_argument("--items", type=int, default=None)
    parser.add_argument("--orders-csv", default=None, metavar="FILE")
    parser.add_argument("--today", default=None, metavar="YYYY-MM-DD")
    parser.add_argument("--division", type=int, default=123456)
    parser.add_argument("--switches", default=None, metavar="JSON")
    parser.add_argument("--plan", choices=sorted(PLANS), default="growth")
    parser.add_argument("--seats", type=int, default=5)
    parser.add_argument("--ready-file", default=None, metavar="PATH")
    return parser.parse_args(argv)


def build(options):
    """The world with both services in it."""
    world = World(options.seed, options.today, json.loads(options.switches) if options.switches else None)
    world.pipedrive = PipedriveService(world, options)
    world.exact = ExactService(world, options)
    if world.switches.early:
        sys.exit("unknown switches: %s" % ", ".join(sorted(world.switches.early)))
    return world


def blackhole(port):
    """A socket whose accept queue is full: a client's connect() neither succeeds nor fails."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    listener.listen(0)
    kept = [listener]
    for _ in range(2):                          # fill the queue ourselves
        filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        kept.append(filler)
    return listener.getsockname()[1], kept


def write_ready(path, line):
    temporary = "%s.%d" % (path, os.getpid())
    with open(temporary, "w", encoding="utf-8") as handle:
        handle.write(line + "\n")
    os.replace(temporary, path)


async def main(options):
    world = build(options)
    control = ControlService(world)
    listeners = [Listener(world.exact, world), Listener(world.pipedrive, world), Listener(control, world)]
    ports = (options.exact_port, options.pipedrive_port, options.control_port)
    for listener, port in zip(listeners, ports):
        await listener.start(HOST, port)
    ready = {"exact": "http://%s:%d" % (HOST, listeners[0].port),
             "pipedrive": "http://%s:%d" % (HOST, listeners[1].port),
             "control": "http://%s:%d" % (HOST, listeners[2].port)}
    # the services may need to know where they are (links, next pages)
    world.exact.base_url, world.pipedrive.base_url = ready["exact"], ready["pipedrive"]
    ready.update(world.exact.ready())
    ready.update(world.pipedrive.ready())
    kept = []
    if options.blackhole_port is not None:
        ready["blackhole"], kept = blackhole(options.blackhole_port)
    ready["pid"] = os.getpid()
    line = json.dumps(ready)
    gc.collect()
    gc.freeze()                                 # what is there now stays: do not walk through it again and again
    gc.set_threshold(100000, 50, 100)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    if options.ready_file:
        write_ready(options.ready_file, line)
    print(line, flush=True)
    await stop.wait()
    world.stop_background()
    for listener in listeners:
        await listener.stop()
    for item in kept:
        item.close()


if __name__ == "__main__":
    asyncio.run(main(arguments()))
