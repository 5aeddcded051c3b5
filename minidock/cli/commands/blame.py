"""minidock blame"""

from __future__ import annotations

from minidock.cli.failures import report
from minidock.cli.output import escape_controls, layout, shorten, warn, write
from minidock.cli.session import open_evidence
from minidock.cli.times import human_size, local_rfc3339
from minidock.errors import MinidockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from minidock.verbs.blame import Blame, Event

_FOUND, _NONE, _ERROR = 0, 1, 2
_COMMAND_WIDTH = 60


def handle(options: dict[str, Any]) -> int:
    """Show the past of paths; grep's exit statuses."""
    from minidock.verbs.blame import blame

    faults: list[str] = []
    try:
        with open_evidence(options) as evidence:
            found = blame(evidence, options["name"], options["pattern"], is_fixed=options["fixed"], faults=faults)
            shown = _write_json(found) if options["json"] else _write_text(found)
    except MinidockError as error:
        report(error)
        return _ERROR
    for fault in faults:
        warn(fault)
    return _FOUND if shown else _NONE


def _write_json(found: Iterator[Blame]) -> int:
    from minidock.cli.report import to_json

    count = 0
    for one in found:
        write(("[" if not count else ",\n") + to_json(one.to_document()))
        count += 1
    write("]\n" if count else "[]\n")
    return count


def _write_text(found: Iterator[Blame]) -> int:
    count = 0
    for one in found:
        gone = "" if one.is_there else "  (not there any more)"
        rows = [[f"  {event.action}", *map(escape_controls, _cells(event))] for event in one.events]
        write(f"{escape_controls(one.path)}{gone}\n{layout(rows)}")
        count += 1
    return count


def _cells(event: Event) -> list[str]:
    import stat

    what = ", ".join(event.why)
    if event.cause:
        what = f"{event.cause} at {event.cause_path}"
    status = "-"
    if event.mode:
        size = "" if stat.S_ISDIR(event.mode) else f" {human_size(event.size_bytes)}"
        status = f"{stat.filemode(event.mode)} {event.uid}:{event.gid}{size} {local_rfc3339(event.mtime_ns)}"
    command = shorten(event.created_by.replace("\t", " "), _COMMAND_WIDTH)
    return [event.layer, event.cache_id[:12], what or "-", status, command or "-"]
