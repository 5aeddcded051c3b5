"""minidock logs"""

from __future__ import annotations

from minidock.cli.output import write_bytes
from minidock.cli.session import open_root
from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Show a container's output as it was written, each stream on its own descriptor."""
    from minidock.verbs.logs import logs

    with open_root(options, write=False) as root:
        found = logs(
            root,
            options["container"],
            follow=options["follow"],
            tail=_lines(options["tail"]),
            since=_moment("since", options["since"]),
            until=_moment("until", options["until"]),
            timestamps=options["timestamps"],
            details=options["details"],
        )
        for stream, time_ns, data in found:
            prefix = _stamp(time_ns) if options["timestamps"] else b""
            write_bytes(prefix + data, 2 if stream == "stderr" else 1)
    return 0


def _stamp(time_ns: int) -> bytes:
    from minidock.formats.gojson import format_time

    # docker pads the fraction to nine digits here
    whole, _, fraction = format_time(time_ns).removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}Z ".encode()


def _lines(text: str) -> int | None:
    if text.isascii() and text.isdecimal():
        return int(text)
    # as in docker, whatever is no number of lines means all
    return None


def _moment(name: str, text: str | None) -> int | None:
    """Nanoseconds since 1970 of an RFC 3339 time, a date, seconds since 1970, or a span back from now."""
    if not text:
        return None
    from minidock.cli.spans import parse_moment

    moment = parse_moment(text)
    if moment is None:
        raise UsageError(f'invalid value for "{name}": failed to parse value as time or duration: "{text}"')
    return moment
