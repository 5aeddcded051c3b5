"""minidock timeline"""

from __future__ import annotations

from minidock.cli.output import warn, write
from minidock.cli.session import open_evidence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from minidock.formats.bodyfile import BodyLine

_LINES_AT_ONCE = 500


def handle(options: dict[str, Any]) -> int:
    """Write a body file."""
    from minidock.verbs.timeline import timeline

    faults: list[str] = []
    with open_evidence(options) as evidence:
        lines = timeline(evidence, options["name"] or "", hashes=options["hash"], faults=faults)
        if options["json"]:
            _write_json(lines)
        else:
            _write_text(lines)
    for fault in faults:
        warn(fault)
    return 0


def _write_text(lines: Iterator[BodyLine]) -> None:
    waiting: list[str] = []
    for line in lines:
        waiting.append(line.text() + "\n")
        if len(waiting) == _LINES_AT_ONCE:
            write("".join(waiting))
            waiting.clear()
    write("".join(waiting))


def _write_json(lines: Iterator[BodyLine]) -> None:
    import os

    from minidock.cli.report import to_json

    separator = "["
    for line in lines:
        document = {name: getattr(line, name) for name in line.__slots__}
        write(separator + to_json(document | {"name": os.fsdecode(line.name)}))
        separator = ",\n"
    write("[]\n" if separator == "[" else "]\n")
