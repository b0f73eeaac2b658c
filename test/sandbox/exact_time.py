"""Time as Exact Online writes it.

Belongs here: the wall clock of the Dutch site (CET/CEST) and the /Date(ms)/ form, which counts that wall clock as if
it were UTC; parsing datetime'...' literals of a filter.
Does not belong here: the simulated clock itself (clock.py).
Why: the sandbox must not depend on a time zone database, and the odd form of the dates is the same everywhere.
"""

import calendar
from datetime import date, datetime, timedelta

EPOCH = datetime(1970, 1, 1)
DAY_MS = 86400000
_CHANGES = {}


def _changes(year):
    """(summer begins, summer ends) of a year, as UTC seconds: last Sundays of March and October, 01:00 UTC."""
    if year not in _CHANGES:
        found = []
        for month in (3, 10):
            day = 31 - (date(year, month, 31).weekday() + 1) % 7
            found.append(calendar.timegm((year, month, day, 1, 0, 0)))
        _CHANGES[year] = tuple(found)
    return _CHANGES[year]


def offset(utc_seconds):
    """Seconds the Dutch wall clock is ahead of UTC at that instant."""
    year = (EPOCH + timedelta(seconds=utc_seconds)).year
    begins, ends = _changes(year)
    return 7200 if begins <= utc_seconds < ends else 3600


def local_ms(utc_seconds):
    """The millisecond count of /Date()/ for an instant."""
    return int((utc_seconds + offset(utc_seconds)) * 1000)


def utc_seconds(naive_ms):
    """The instant of a wall clock count; in the repeated hour of October the first one."""
    guess = naive_ms / 1000 - 7200
    return guess if offset(guess) == 7200 else naive_ms / 1000 - 3600


def day_ms(day):
    """Midnight of a date, the form of the date-only fields."""
    return (day - date(1970, 1, 1)).days * DAY_MS


def day_of(naive_ms):
    return (EPOCH + timedelta(milliseconds=naive_ms)).date()


def naive(naive_ms):
    return EPOCH + timedelta(milliseconds=naive_ms)


def parse_literal(text):
    """'2026-03-05T13:00:00' or shorter, as a wall clock count; ValueError when it is not a date."""
    text = text.strip()
    if text.endswith("Z"):
        text = text[:-1]
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        raise ValueError("no zone expected")
    return int((moment - EPOCH).total_seconds() * 1000 + 0.5)
