"""Spans of time in docker's words. Source: docker/go-units duration.go"""

from __future__ import annotations

_SECOND_NS = 1_000_000_000


def human_duration(span_ns: int) -> str:
    """`Less than a second`, `4 minutes`, `About an hour`, `3 weeks`...

    Units: span_ns nanoseconds, not negative
    """
    seconds = span_ns // _SECOND_NS
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    minutes = seconds // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = (seconds + 1800) // 3600
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{seconds // 3600 // 24 // 365} years"
