"""`ps --filter publish=` and `expose=`: containers by their ports. Source: moby daemon/list.go, portOp"""

from __future__ import annotations

from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_HIGHEST = 65535


def parse_ports(key: str, value: str) -> tuple[int, int, str]:
    """First and last port and the protocol of `80`, `80/udp`, `8000-8080/tcp`; raises UsageError in docker's words."""
    if ":" in value:
        raise UsageError(f"filter for '{key}' should not contain ':': {value}")
    numbers, _, protocol = value.partition("/")
    first, dash, last = numbers.partition("-")
    for word in (first, last if dash else first):
        if not (word.isascii() and word.isdecimal()):
            reason = (
                f'strconv.ParseUint: parsing "{word}": invalid syntax' if word else "empty string specified for ports."
            )
            raise UsageError(f"error while looking up for {key} {value}: {reason}")
        if len(word) > 5 or int(word) > _HIGHEST:
            raise UsageError(
                f'error while looking up for {key} {value}: strconv.ParseUint: parsing "{word}": value out of range'
            )
    start, end = int(first), int(last if dash else first)
    if end < start:
        raise UsageError(f"error while looking up for {key} {value}: Invalid range specified for the Port: {numbers}")
    return start, end, protocol.lower() or "tcp"


def has_port(ports: Mapping[str, Any], published: Sequence[str], exposed: Sequence[str]) -> bool:
    """Whether one of these ports is published, or one of those exposed; ports as NetworkSettings.Ports has them."""
    wanted = [parse_ports("expose", value) for value in exposed]
    outside = [parse_ports("publish", value) for value in published]
    for key, bound in ports.items():
        number, _, protocol = str(key).partition("/")
        if number.isdecimal() and _is_among(int(number), protocol, wanted):
            return True
        for one in bound or ():
            text = str(one.get("HostPort", "")) if isinstance(one, dict) else ""
            if text.isdecimal() and _is_among(int(text), protocol, outside):
                return True
    return False


def _is_among(port: int, protocol: str, ranges: Sequence[tuple[int, int, str]]) -> bool:
    return any(start <= port <= end and protocol == kind for start, end, kind in ranges)
