"""The sandbox's clock.

Belongs here: simulated time, and nothing else: now(), monotonic(), advance(), scale, sleep().
Does not belong here: any rule of a service (token life times, windows, budgets); those ask this clock.
Why: a test that has to wait ten minutes for a token to expire must be able to move time instead, and all
rules of both services must move together.
"""

import asyncio
import time
from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Clock:
    """Simulated time = an anchor plus the real time passed since, multiplied by scale."""

    def __init__(self, today=None, scale=1.0):
        real = time.time()
        if today is not None:
            # keep the time of day, replace the date
            date = datetime.fromisoformat(str(today)[:10]).date()
            shift = date - datetime.fromtimestamp(real, timezone.utc).date()
            real += shift.total_seconds()
        self._sim = real                    # simulated epoch seconds at the anchor
        self._real = time.monotonic()       # real monotonic seconds at the anchor
        self._start = real
        self._scale = float(scale)
        self._waiters = set()

    def time(self):
        """Simulated seconds since 1970 (float); the cheap form of now()."""
        return self._sim + (time.monotonic() - self._real) * self._scale

    def now(self):
        return EPOCH + timedelta(seconds=self.time())

    def monotonic(self):
        """Simulated seconds since the sandbox started."""
        return self.time() - self._start

    def advance(self, seconds):
        self._sim += float(seconds)
        self._wake()

    @property
    def scale(self):
        return self._scale

    @scale.setter
    def scale(self, value):
        value = float(value)
        if value < 0:
            raise ValueError("scale must not be negative")
        self._sim = self.time()
        self._real = time.monotonic()
        self._scale = value
        self._wake()

    def _wake(self):
        for event in list(self._waiters):
            event.set()

    async def sleep(self, seconds):
        """Waits simulated seconds; advance() and scale changes take effect at once."""
        deadline = self.time() + seconds
        while True:
            rest = deadline - self.time()
            if rest <= 0:
                return
            event = asyncio.Event()
            self._waiters.add(event)
            try:
                timeout = rest / self._scale if self._scale > 0 else None
                await asyncio.wait_for(event.wait(), timeout)
            except asyncio.TimeoutError:
                pass
            finally:
                self._waiters.discard(event)

    def describe(self):
        return {"now": iso(self.now()), "monotonic": round(self.monotonic(), 3), "scale": self._scale}


def iso(moment):
    """RFC 3339 in UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
