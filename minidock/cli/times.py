"""Times and sizes as docker words them.

Source: docker/go-units duration.go and size.go; Go time.Time.String
"""

from __future__ import annotations

import time

from minidock.formats.human import human_duration

_SECOND_NS = 1_000_000_000
_LARGEST_SPAN_NS = (1 << 63) - 1
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def ago(moment_ns: int, now_ns: int) -> str:
    """How long ago a moment was; docker's client knows whole seconds of the moment only."""
    span_ns = now_ns - moment_ns // _SECOND_NS * _SECOND_NS
    # Go's Duration ends after 292 years, and so does what docker says of an image without a date.
    return human_duration(min(span_ns, _LARGEST_SPAN_NS)) + " ago"


def human_size(size_bytes: float, digits: int = 3) -> str:
    """A size with decimal prefixes: `1.98MB`."""
    unit = 0
    while size_bytes >= 1000 and unit < len(_UNITS) - 1:
        size_bytes /= 1000
        unit += 1
    return f"{size_bytes:.{digits}g}{_UNITS[unit]}"


def human_ram(size_bytes: float) -> str:
    """A size with binary prefixes: `23.54GiB`."""
    unit = 0
    while size_bytes >= 1024 and unit < len(_BINARY_UNITS) - 1:
        size_bytes /= 1024
        unit += 1
    return f"{size_bytes:.4g}{_BINARY_UNITS[unit]}"


def local_time(moment_ns: int) -> str:
    """A moment as Go prints a time without a fraction: `2026-01-02 03:04:05 +0000 UTC`."""
    moment = time.localtime(moment_ns // _SECOND_NS)
    return f"{_date(moment)} {_clock(moment)} {_offset(moment)} {moment.tm_zone}"


def local_rfc3339(moment_ns: int) -> str:
    """A moment in RFC 3339 with the local offset: `2026-01-02T03:04:05Z`."""
    moment = time.localtime(moment_ns // _SECOND_NS)
    offset = _offset(moment)
    zone = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:]}"
    return f"{_date(moment)}T{_clock(moment)}{zone}"


def _date(moment: time.struct_time) -> str:
    return f"{moment.tm_year:04d}-{moment.tm_mon:02d}-{moment.tm_mday:02d}"


def _clock(moment: time.struct_time) -> str:
    return f"{moment.tm_hour:02d}:{moment.tm_min:02d}:{moment.tm_sec:02d}"


def _offset(moment: time.struct_time) -> str:
    minutes = (moment.tm_gmtoff or 0) // 60
    sign = "-" if minutes < 0 else "+"
    return f"{sign}{abs(minutes) // 60:02d}{abs(minutes) % 60:02d}"
