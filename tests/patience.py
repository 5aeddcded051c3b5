"""How long tests wait for what has to come: several times longer on the test machine's emulated processor."""

from __future__ import annotations

import os

_TIMES = 10 if os.environ.get("MINIDOCK_VM") == "1" else 1


def patience(seconds: float) -> float:
    """The time that something may take here which takes at most `seconds` on a processor of its own."""
    return seconds * _TIMES
