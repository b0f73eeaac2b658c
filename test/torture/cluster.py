"""The server that is tortured: start, stop, kill, and a small client.

Belongs here: processes and signals of one private cluster (made by scripts/private-cluster), and just enough of
PostgreSQL's protocol to run statements over its Unix socket.
Does not belong here: what is done to it and when (torture.py).
Why a client of our own: psql would be a process for every question, and the kills come by the second.
"""

import os
import signal
import socket
import struct
import subprocess
import threading
import time


class SqlError(Exception):
    """An ERROR, or the end of the connection (state 57P01 and its like; lost when there was no word at all)."""

    def __init__(self, state, text):
        super().__init__("%s: %s" % (state, text))
        self.state = state
        self.text = text


class Connection:
    """One session; simple queries only."""

    def __init__(self, path, database, name="torture", timeout=120.0):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.buffer = b""
        self.pid = None
        try:
            self.socket.connect(path)
            words = b"user\0postgres\0database\0%s\0application_name\0%s\0\0" % (database.encode(), name.encode())
            self.socket.sendall(struct.pack("!II", 8 + len(words), 196608) + words)
            self._until_ready()
        except OSError as error:
            self.close()
            raise SqlError("lost", str(error)) from None
        except SqlError:
            self.close()
            raise

    def close(self):
        self.socket.close()

    def _take(self, size):
        while len(self.buffer) < size:
            piece = self.socket.recv(65536)
            if not piece:
                raise OSError("the connection was closed")
            self.buffer += piece
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def _until_ready(self):
        rows, failure = [], None
        while True:
            try:
                kind, size = struct.unpack("!cI", self._take(5))
                body = self._take(size - 4)
            except OSError as error:
                raise failure or SqlError("lost", str(error)) from None
            if kind == b"D":
                rows.append(self._row(body))
            elif kind == b"E":
                fields = {part[:1]: part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part}
                failure = SqlError(fields.get(b"C", "?"), fields.get(b"M", "") + (" / " + fields[b"D"] if b"D" in fields else ""))
            elif kind == b"K":
                self.pid = struct.unpack("!I", body[:4])[0]
            elif kind == b"R" and struct.unpack("!I", body[:4])[0] != 0:
                raise SqlError("28000", "the server wants a password")
            elif kind == b"Z":
                if failure:
                    raise failure
                return rows

    @staticmethod
    def _row(body):
        count, = struct.unpack("!H", body[:2])
        values, at = [], 2
        for _ in range(count):
            size, = struct.unpack("!i", body[at:at + 4])
            at += 4
            values.append(None if size < 0 else body[at:at + size].decode("utf-8"))
            at += max(size, 0)
        return values

    def run(self, sql):
        """The rows of the last statement, values as text."""
        body = sql.encode("utf-8") + b"\0"
        try:
            self.socket.sendall(b"Q" + struct.pack("!I", 4 + len(body)) + body)
        except OSError:
            pass                        # what the server said last is still to be read
        return self._until_ready()


class Cluster:
    def __init__(self, directory, database):
        self.directory = directory
        self.database = database
        self.data = os.path.join(directory, "data")
        self.log = os.path.join(directory, "server.log")
        with open(os.path.join(directory, "bindir"), encoding="utf-8") as handle:
            self.bindir = handle.read().strip()
        self.socket = os.path.join(directory, ".s.PGSQL.5432")
        self.shared = None
        self.lock = threading.Lock()

    # --- asking ------------------------------------------------------------------

    def connect(self, name="torture", database=None):
        return Connection(self.socket, database or self.database, name)

    def sql(self, sql):
        """One question over a connection that is kept while it lives; not from two threads at once."""
        with self.lock:
            if self.shared is None:
                self.shared = self.connect()
            try:
                return self.shared.run(sql)
            except SqlError as error:
                if error.state == "lost" or error.state.startswith(("57P", "08")):
                    self.shared.close()
                    self.shared = None
                raise

    def value(self, sql):
        rows = self.sql(sql)
        return rows[0][0] if rows else None

    # --- processes ------------------------------------------------------------------

    def postmaster(self):
        try:
            with open(os.path.join(self.data, "postmaster.pid"), encoding="utf-8") as handle:
                return int(handle.readline())
        except (OSError, ValueError):
            return None

    def children(self, postmaster):
        """{pid: title} of the server's processes."""
        found = {}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                with open("/proc/%s/stat" % name, encoding="utf-8") as handle:
                    parent = int(handle.read().rpartition(")")[2].split()[1])
                if parent != postmaster:
                    continue
                with open("/proc/%s/cmdline" % name, encoding="utf-8", errors="replace") as handle:
                    found[int(name)] = handle.read().rstrip("\0 ")
            except (OSError, ValueError, IndexError):
                continue
        return found

    def process(self, words):
        """The pid of a process whose title has these words, or None."""
        postmaster = self.postmaster()
        for pid, title in (self.children(postmaster) if postmaster else {}).items():
            if words in title:
                return pid
        return None

    @staticmethod
    def kill(pid, number=signal.SIGKILL):
        """False when there is nobody to be killed."""
        try:
            os.kill(pid, number)
        except (ProcessLookupError, TypeError):
            return False
        return True

    # --- the server --------------------------------------------------------------------

    def pg_ctl(self, *words):
        return subprocess.run([os.path.join(self.bindir, "pg_ctl"), "-D", self.data, "-s", *words], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode

    def start(self, wait=True, seconds=60):
        """Starts the server; after a SIGKILL of the postmaster its orphans may hold on for a moment."""
        end = time.monotonic() + seconds
        while True:
            code = self.pg_ctl("start", "-l", self.log, "-w" if wait else "-W", "-t", "60")
            if code == 0 or time.monotonic() > end:
                return code == 0
            time.sleep(0.05)

    def stop(self, mode):
        return self.pg_ctl("stop", "-m", mode, "-w", "-t", "60") == 0

    def alive(self):
        try:
            return self.value("SELECT 1") == "1"
        except SqlError:
            return False

    def wait_alive(self, seconds=60):
        end = time.monotonic() + seconds
        while not self.alive():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True
