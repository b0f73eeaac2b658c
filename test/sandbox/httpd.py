"""A small HTTP/1.1 server on asyncio, and the place where faults are injected.

Belongs here: parsing requests (keep-alive, pipelining, chunked bodies, Expect: 100-continue), writing responses
in order, compressing them, acting out the faults of state.Fault, writing the call log; and a tiny HTTP client for webhooks.
Does not belong here: anything about Exact or Pipedrive: paths, tokens, limits.
Why: the sandbox must be fast enough not to be what a benchmark measures, and it must be able to misbehave on the
wire (half a body, no byte at all, endless bodies), which no ready-made server offers.
"""

import asyncio
import gzip as gzip_module
import json
import select
import ssl
import time
import traceback
import zlib
from decimal import Decimal
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

MAX_HEAD = 65536
MAX_BODY = 256 * 1024 * 1024
REASONS = {status.value: status.phrase for status in HTTPStatus}


class BadJson(ValueError):
    """The request body is not JSON."""


def _refuse_constant(name):
    raise ValueError("constant %s" % name)


def _plain(value):
    """json.dumps does not know Decimal; both services answer with ordinary JSON numbers."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    raise TypeError("not serializable: %r" % type(value))


def dump(value, ensure_ascii=False):
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=ensure_ascii, default=_plain)
    return text.encode("utf-8", "surrogatepass")


class Request:
    __slots__ = ("method", "path", "raw_path", "raw_query", "headers", "body", "version", "_query", "context", "connection")

    def __init__(self, method, target, headers, body, version="HTTP/1.1"):
        self.method = method
        self.raw_path, _, self.raw_query = target.partition("?")
        self.path = unquote(self.raw_path) if "%" in self.raw_path else self.raw_path
        self.headers = headers
        self.body = body
        self.version = version
        self._query = None
        self.context = None         # free for the service
        self.connection = None      # where it came in

    @property
    def query(self):
        if self._query is None:
            self._query = dict(parse_qsl(self.raw_query, keep_blank_values=True)) if self.raw_query else {}
        return self._query

    @property
    def target(self):
        return self.raw_path + "?" + self.raw_query if self.raw_query else self.raw_path

    def json(self):
        """The parsed body; numbers with a fraction are Decimal."""
        try:
            return json.loads(self.body.decode("utf-8"), parse_float=Decimal, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise BadJson(str(error)) from None

    @property
    def keep_alive(self):
        connection = self.headers.get("connection", "").lower()
        if self.version == "HTTP/1.0":
            return "keep-alive" in connection
        return "close" not in connection


class Response:
    __slots__ = ("status", "plain", "headers", "content_type", "operation", "cost", "note", "delay", "on_sent", "close")

    def __init__(self, status=200, body=b"", headers=None, content_type="application/json; charset=utf-8",
                 ensure_ascii=False, operation=None, cost=0):
        self.status = status
        if isinstance(body, (dict, list)):
            body = dump(body, ensure_ascii)
        elif isinstance(body, str):
            body = body.encode("utf-8", "surrogatepass")
        self.plain = body                   # the body before compression
        self.headers = headers if headers is not None else {}
        self.content_type = content_type
        self.operation = operation          # name for the call log
        self.cost = cost                    # its price in tokens
        self.note = None                    # free text for the call log
        self.delay = 0.0                    # real seconds to wait before the answer is written
        self.on_sent = None                 # called without arguments once the answer is written (or given up)
        self.close = False                  # close the connection after this answer


class Service:
    """One simulated web service. handle() is synchronous and must be fast."""

    name = "service"
    gzip_minimum = None     # compress bodies from this size on, when the client accepts it; None = never
    defer = False           # write answers in the next turn of the loop, so that requests of one moment overlap visibly
    in_flight = 0           # requests whose answer is not written yet, the current one included
    peak_in_flight = 0      # the most there ever were at once
    open_requests = None    # the set of these requests
    server_header = "sandbox"
    logged = True           # its calls go into the call log
    base_url = ""           # set by run.py once the port is known

    def handle(self, request):
        raise NotImplementedError

    def ready(self):
        """What this service adds to the ready line of run.py (client_id, api_token, …)."""
        return {}

    def late_headers(self, request, response):
        """Extra headers for an answer that was replaced by a fault; default none."""
        return {}


class Date:
    """The Date header in simulated time, computed once a second."""
    clock = time
    second = 0
    text = ""

    @classmethod
    def header(cls):
        now = int(cls.clock.time())
        if now != cls.second:
            cls.second = now
            cls.text = formatdate(now, usegmt=True)
        return cls.text


def head_bytes(service, response, length, extra=None):
    lines = ["HTTP/1.1 %d %s" % (response.status, REASONS.get(response.status, "Status")),
             "Date: " + Date.header(), "Server: " + service.server_header]
    if response.content_type:
        lines.append("Content-Type: " + response.content_type)
    if length is not None:
        lines.append("Content-Length: %d" % length)
    for name, value in response.headers.items():
        if isinstance(value, (list, tuple)):
            lines.extend("%s: %s" % (name, item) for item in value)
        else:
            lines.append("%s: %s" % (name, value))
    if extra:
        lines.extend(extra)
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1", "replace")


class Connection(asyncio.Protocol):
    """One client connection: requests are answered strictly one after the other."""

    def __init__(self, service, world, connections):
        self.service = service
        self.world = world
        self.connections = connections
        self.request = None         # the one that is being answered
        if service.open_requests is None:
            service.open_requests = set()
        self.transport = None
        self.buffer = bytearray()
        self.busy = False
        self.closing = False
        self.continued = False
        self.task = None
        self.current = None         # the response that a task is to write
        self.writable = None

    # --- asyncio's calls ----------------------------------------------------

    def connection_made(self, transport):
        self.transport = transport
        self.connections.add(self)

    def data_received(self, data):
        self.buffer += data
        if not self.busy:
            self.process()

    def eof_received(self):
        return False            # a client that has closed gets no answer: what it waited for is not executed

    def connection_lost(self, error):
        self.closing = True
        self.connections.discard(self)
        if self.task is not None:
            self.task.cancel()
        if self.writable is not None:
            self.writable.set()

    def hung_up(self):
        """Whether the client has gone, even if the event loop has not got round to it yet."""
        if self.closing or self.transport.is_closing():
            return True
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def pause_writing(self):
        if self.writable is None:
            self.writable = asyncio.Event()
        self.writable.clear()

    def resume_writing(self):
        if self.writable is not None:
            self.writable.set()

    # --- parsing --------------------------------------------------------------

    def process(self):
        while self.buffer and not self.busy and not self.closing:
            request = self.parse()
            if request is None:
                return
            self.dispatch(request)

    def parse(self):
        buffer = self.buffer
        while buffer[:2] == b"\r\n":            # tolerated before a request line
            del buffer[:2]
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(buffer) > MAX_HEAD:
                self.refuse(431)
            return None
        lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
        parts = lines[0].split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return self.refuse(400)
        headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                return self.refuse(400)
            name = name.lower()
            value = value.strip()
            headers[name] = headers[name] + ", " + value if name in headers else value
        start = end + 4
        if "chunked" in headers.get("transfer-encoding", "").lower():
            found = self.chunked(start)
            if found is None:
                return None
            body, stop = found
        else:
            try:
                length = int(headers.get("content-length", "0"))
            except ValueError:
                return self.refuse(400)
            if length < 0 or length > MAX_BODY:
                return self.refuse(413)
            stop = start + length
            if len(buffer) < stop:
                self.expect(headers)
                return None
            body = bytes(buffer[start:stop])
        del buffer[:stop]
        self.continued = False
        target = parts[1]
        if not target.startswith("/"):          # absolute form
            split = urlsplit(target)
            target = (split.path or "/") + ("?" + split.query if split.query else "")
        return Request(parts[0], target, headers, body, parts[2])

    def expect(self, headers):
        if not self.continued and headers.get("expect", "").lower() == "100-continue":
            self.continued = True
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def chunked(self, start):
        """(body, end) of a chunked body, or None when more bytes are needed."""
        buffer, pieces = self.buffer, []
        while True:
            eol = buffer.find(b"\r\n", start)
            if eol < 0:
                return None
            try:
                size = int(bytes(buffer[start:eol]).split(b";")[0], 16)
            except ValueError:
                self.refuse(400)
                return None
            start = eol + 2
            if size == 0:
                while True:                     # trailers up to the empty line
                    eol = buffer.find(b"\r\n", start)
                    if eol < 0:
                        return None
                    if eol == start:
                        return b"".join(pieces), eol + 2
                    start = eol + 2
            if len(buffer) < start + size + 2:
                return None
            pieces.append(bytes(buffer[start:start + size]))
            start += size + 2

    def refuse(self, status):
        response = Response(status, b"", content_type="text/plain")
        self.transport.write(head_bytes(self.service, response, 0, ["Connection: close"]))
        self.finish()
        return None

    # --- answering --------------------------------------------------------------

    def dispatch(self, request):
        service = self.service
        fault = None
        if self.world.faults or self.world.storm is not None:
            fault = self.world.find_fault(service.name, request.method, request.target)
        self.request = request
        request.connection = self
        service.open_requests.add(request)
        service.in_flight += 1
        if service.in_flight > service.peak_in_flight:
            service.peak_in_flight = service.in_flight
        if fault is not None:
            self.begin(self.misbehave(request, fault))
            return
        response = self.execute(request)
        if service.logged:
            self.world.log_call(service.name, request, response)
        if response.delay > 0 or service.defer:
            self.current = response
            self.begin(self.later(request, response))
            return
        self.write(request, response)
        self.done(response)

    def execute(self, request):
        try:
            return self.service.handle(request)
        except BadJson:
            return Response(400, {"success": False, "error": "Bad request: body is not JSON"}, operation="bad json")
        except Exception:
            text = traceback.format_exc()
            self.world.violation("sandbox", "internal error in %s %s: %s" % (request.method, request.target, text))
            return Response(500, {"error": "sandbox error", "detail": text}, operation="sandbox error")

    def done(self, response):
        self.service.in_flight -= 1
        self.service.open_requests.discard(self.request)
        if response is not None and response.on_sent is not None:
            response.on_sent()

    def begin(self, coroutine):
        self.busy = True
        self.task = asyncio.get_running_loop().create_task(coroutine)
        self.task.add_done_callback(self.ended)

    def ended(self, task):
        self.task = None
        self.busy = False
        response, self.current = self.current, None
        self.done(response)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            self.world.violation("sandbox", "internal error in httpd: %s"
                                 % "".join(traceback.format_exception(type(error), error, error.__traceback__)))
            self.finish()
        if not self.closing:
            self.process()

    async def later(self, request, response):
        await asyncio.sleep(response.delay)
        self.write(request, response)

    def encode(self, request, response):
        """(body, extra header lines) after compression."""
        body = response.plain
        minimum = self.service.gzip_minimum
        if minimum is not None and len(body) >= minimum and "gzip" in request.headers.get("accept-encoding", ""):
            return gzip_module.compress(body, 1), ["Content-Encoding: gzip", "Vary: Accept-Encoding"]
        return body, None

    def write(self, request, response):
        if self.closing:
            return
        body, extra = self.encode(request, response)
        keep = request.keep_alive and not response.close
        if not keep:
            extra = (extra or []) + ["Connection: close"]
        elif request.version == "HTTP/1.0":
            extra = (extra or []) + ["Connection: keep-alive"]
        if response.status in (204, 304):
            self.transport.write(head_bytes(self.service, response, None, extra))
        elif request.method == "HEAD":
            self.transport.write(head_bytes(self.service, response, len(body), extra))
        else:
            self.transport.write(head_bytes(self.service, response, len(body), extra) + body)
        if not keep:
            self.finish()

    def finish(self):
        self.closing = True
        self.transport.close()

    # --- faults -------------------------------------------------------------------

    async def misbehave(self, request, fault):
        """Acts out one fault; see the README for the actions."""
        action = fault.action
        response = None
        note = "fault %s" % fault.id
        logged = False
        try:
            if action.get("delay_ms"):
                await asyncio.sleep(float(action["delay_ms"]) / 1000.0)
            if action.get("execute"):
                response = self.execute(request)
                self.world.log_call(self.service.name, request, response, note + ": executed, then misbehaved")
                logged = True
            if action.get("drop"):
                self.closing = True
                self.transport.abort()
                return
            if action.get("hang") == "headers":
                await asyncio.sleep(float(action.get("seconds", 3600)))
            replaced = self.replacement(action)
            if replaced is not None:
                for name, value in self.service.late_headers(request, replaced).items():
                    replaced.headers.setdefault(name, value)
                if not logged:
                    self.world.log_call(self.service.name, request, replaced, note)
                    logged = True
                response = replaced
            elif response is None and not action.get("endless"):
                response = self.execute(request)
                self.world.log_call(self.service.name, request, response, note)
                logged = True
            if response is not None and response.delay > 0:
                await asyncio.sleep(response.delay)
            await self.odd_write(request, response, action)
        finally:
            if not logged:
                self.world.log_call(self.service.name, request, None, note + ": nothing executed")
            self.current = response

    @staticmethod
    def replacement(action):
        """The answer that replaces the real one, or None."""
        if action.get("empty"):
            return Response(200, b"", content_type=action.get("content_type", "application/json; charset=utf-8"))
        if action.get("gzip_bomb"):
            return Response(200, gzip_bomb(), {"Content-Encoding": "gzip"})
        if "status" in action or "body" in action:
            body = action.get("body", "")
            return Response(int(action.get("status", 200)), body, dict(action.get("headers") or {}),
                            content_type=action.get("content_type", "text/html; charset=utf-8"
                                                    if isinstance(body, str) else "application/json; charset=utf-8"))
        return None

    async def odd_write(self, request, response, action):
        if self.closing:
            return
        if action.get("endless"):
            return await self.endless(action)
        if "content_type" in action:
            response.content_type = action["content_type"]
        if action.get("headers") and "status" not in action:
            response.headers.update(action["headers"])
        if action.get("gzip_bomb"):
            self.transport.write(head_bytes(self.service, response, len(response.plain)))
            return await self.dribble(response.plain, 65536, 0)
        body, extra = self.encode(request, response)
        if action.get("hang") == "body":
            half = len(body) // 2
            self.transport.write(head_bytes(self.service, response, len(body), extra) + body[:half])
            await asyncio.sleep(float(action.get("seconds", 3600)))
            self.transport.write(body[half:])
        elif action.get("truncate"):
            self.transport.write(head_bytes(self.service, response, len(body), extra) + body[:len(body) // 2])
            self.finish()
        elif action.get("slow_ms_per_kb"):
            self.transport.write(head_bytes(self.service, response, len(body), extra))
            await self.dribble(body, 1024, float(action["slow_ms_per_kb"]) / 1000.0)
        else:
            self.write(request, response)
            if action.get("close_after"):
                self.finish()

    async def dribble(self, body, size, pause):
        for start in range(0, len(body), size):
            await asyncio.sleep(pause)
            if self.closing or self.transport.is_closing():
                return
            if self.writable is not None:
                await self.writable.wait()
            self.transport.write(body[start:start + size])

    async def endless(self, action):
        response = Response(200, b"", {"Transfer-Encoding": "chunked"},
                            content_type=action.get("content_type", "application/json; charset=utf-8"))
        self.transport.write(head_bytes(self.service, response, None))
        piece = b'{"success":true,"data":["'
        while not self.closing and not self.transport.is_closing():
            piece += b"x" * 65536
            self.transport.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            piece = b""
            await asyncio.sleep(0.002)
            if self.writable is not None:
                await self.writable.wait()


_BOMB = []


def gzip_bomb(megabytes=1024):
    """A gzip body that unpacks to that many megabytes of blanks (its checksum at the end is wrong)."""
    if not _BOMB:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        block = packer.compress(b" " * 1048576) + packer.flush(zlib.Z_FULL_FLUSH)
        last = packer.flush(zlib.Z_FINISH)
        header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
        _BOMB.append(header + block * megabytes + last + b"\x00" * 8)
    return _BOMB[0]


class Listener:
    """A listening socket of one service."""

    def __init__(self, service, world):
        self.service = service
        self.world = world
        self.connections = set()
        Date.clock = world.clock
        self.server = None
        self.port = None

    async def start(self, host, port):
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: Connection(self.service, self.world, self.connections),
                                               host, port, backlog=1024)
        self.port = self.server.sockets[0].getsockname()[1]
        return self.port

    async def stop(self):
        self.server.close()
        for connection in list(self.connections):
            connection.transport.abort()


async def send(method, url, headers=None, body=b"", timeout=10.0):
    """A request of the sandbox itself (webhooks). Returns the status; raises OSError, ValueError or TimeoutError."""
    split = urlsplit(url)
    if split.scheme not in ("http", "https") or not split.hostname:
        raise ValueError("not an http url")
    context = None
    if split.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

    async def exchange():
        port = split.port or (443 if context else 80)
        reader, writer = await asyncio.open_connection(split.hostname, port, ssl=context)
        try:
            target = (split.path or "/") + ("?" + split.query if split.query else "")
            lines = ["%s %s HTTP/1.1" % (method, target), "Host: " + split.netloc.rpartition("@")[2],
                     "Content-Length: %d" % len(body), "Connection: close"]
            lines.extend("%s: %s" % item for item in (headers or {}).items())
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)
            await writer.drain()
            status = (await reader.readline()).split(b" ")
            if len(status) < 2 or not status[1].isdigit():
                raise OSError("no HTTP answer")
            return int(status[1])
        finally:
            writer.close()

    return await asyncio.wait_for(exchange(), timeout)
