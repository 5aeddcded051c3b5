"""Moments as `logs --since` takes them.

Source: moby api/types/time/timestamp.go, GetTimestamp; Go time.ParseDuration
"""

from __future__ import annotations

import time

from minidock.errors import FormatError
from minidock.formats.gojson import parse_time

_UNITS_NS = (
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3600_000_000_000),
)


def parse_duration(text: str) -> int | None:
    """Nanoseconds of a span such as `1h30m` or `1.5s`; None if it is no span."""
    rest = text.removeprefix("-").removeprefix("+")
    if not rest:
        return None
    total = 0.0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        letters = len(rest) - len(rest.lstrip("nuµmsh"))
        unit, rest = rest[:letters], rest[letters:]
        factor = dict(_UNITS_NS).get(unit)
        if factor is None or number.count(".") > 1 or not number.strip("."):
            return None
        total += float(number) * factor
    return -int(total) if text.startswith("-") else int(total)


def parse_moment(text: str) -> int | None:
    """Nanoseconds since 1970; None if the text is no moment.

    Shape: RFC 3339 with or without an offset (local time then), a date, `seconds[.fraction]`, or a span back from now
    """
    span_ns = parse_duration(text)
    if span_ns is not None:
        return time.time_ns() - span_ns
    seconds, _, fraction = text.partition(".")
    if seconds.isascii() and seconds.removeprefix("-").isdecimal() and (fraction or "0").isdecimal():
        return int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
    for form, offset in ((text, ""), (text + "Z", "local"), (text + ":00Z", "local"), (text + "T00:00:00Z", "local")):
        try:
            moment_ns = parse_time(form)
        except FormatError:
            continue
        return moment_ns - _local_offset_ns(moment_ns) if offset else moment_ns
    return None


def _local_offset_ns(moment_ns: int) -> int:
    return (time.localtime(moment_ns // 1_000_000_000).tm_gmtoff or 0) * 1_000_000_000
