"""Restart policies: whether a container's process is started again, and how long to wait before.

There is no daemon: the container's own monitor keeps the policy, so it holds until the container is stopped, the
monitor is killed, or the machine goes down.
Source: moby restartmanager/restartmanager.go
"""

from __future__ import annotations

from minidock.errors import InvalidOption, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FIRST_DELAY_MS = 100
LONGEST_DELAY_MS = 60_000
# A process that ran for so long makes the next delay the first one again.
STEADY_NS = 10_000_000_000

_NAMES = ("", "no", "on-failure", "always", "unless-stopped")


class Restarts:
    """Counts a container's restarts since it was started by hand. Units: delay_ms: before the last of them"""

    __slots__ = ("count", "delay_ms")

    def __init__(self, count: int = 0, delay_ms: int = 0) -> None:
        self.delay_ms = delay_ms
        self.count = count

    def next_delay_ms(self, policy: dict[str, Any], exit_code: int, ran_ns: int) -> int | None:
        """How long to wait before the next start, None when there is none; what is told here is counted."""
        name, most = policy.get("Name"), policy.get("MaximumRetryCount") or 0
        if name == "on-failure":
            again = exit_code != 0 and (most == 0 or self.count < most)
        else:
            again = name in ("always", "unless-stopped")
        if not again:
            return None
        self.count += 1
        if ran_ns >= STEADY_NS or not self.delay_ms:
            self.delay_ms = FIRST_DELAY_MS
        else:
            self.delay_ms = min(2 * self.delay_ms, LONGEST_DELAY_MS)
        return self.delay_ms


def parse_restart_policy(text: str) -> dict[str, Any]:
    """`no`, `on-failure[:n]`, `always` or `unless-stopped` as hostconfig.json has it; raises UsageError."""
    name, colon, most = text.partition(":")
    if name not in _NAMES or (colon and not name):
        raise UsageError(f"invalid restart policy '{name}'" if name else "invalid restart policy format")
    count = 0
    if colon:
        digits = most.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 10):
            raise InvalidOption("maximum retry count must be an integer")
        count = int(most)
        if name != "on-failure":
            raise UsageError(f"maximum retry count cannot be used with restart policy '{name}'")
        if count < 0:
            raise UsageError("maximum retry count cannot be negative")
    return {"Name": name or "no", "MaximumRetryCount": count}
