"""minidock blame"""

from __future__ import annotations

import os
import stat

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
_PAGE_LETTERS = 1 << 16
_MOST_MOMENTS = 4096


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
    cells = _Cells()
    # One sees each path as it is found; a program that reads gets them by the page.
    most_letters = 0 if os.isatty(1) else _PAGE_LETTERS
    page: list[str] = []
    letters = 0
    try:
        for one in found:
            gone = "" if one.is_there else "  (not there any more)"
            text = f"{escape_controls(one.path)}{gone}\n{layout([cells.row(event) for event in one.events])}"
            page.append(text)
            letters += len(text)
            if letters > most_letters:
                write("".join(page))
                page, letters = [], 0
            count += 1
    finally:
        # What was found before an error is shown as well.
        write("".join(page))
    return count


class _Cells:
    """Rows of a table; what is the same for many paths is worded once. Shape: moments, modes, commands: their words"""

    __slots__ = ("_commands", "_modes", "_moments")

    def __init__(self) -> None:
        self._moments: dict[int, str] = {}
        self._modes: dict[int, str] = {}
        self._commands: dict[str, str] = {}

    def row(self, event: Event) -> list[str]:
        """What one layer did, in six cells."""
        what = ", ".join(event.why) or "-"
        if event.cause:
            what = f"{event.cause} at {escape_controls(event.cause_path)}"
        command = self._commands.get(event.created_by)
        if command is None:
            command = shorten(event.created_by.replace("\t", " "), _COMMAND_WIDTH)
            command = self._commands[event.created_by] = escape_controls(command) or "-"
        return [f"  {event.action}", event.layer, event.cache_id[:12], what, self._status(event), command]

    def _status(self, event: Event) -> str:
        if not event.mode:
            return "-"
        mode = self._modes.get(event.mode)
        if mode is None:
            mode = self._modes[event.mode] = stat.filemode(event.mode)
        second = event.mtime_ns // 1_000_000_000
        moment = self._moments.get(second)
        if moment is None:
            if len(self._moments) > _MOST_MOMENTS:
                self._moments.clear()
            moment = self._moments[second] = local_rfc3339(event.mtime_ns)
        size = "" if stat.S_ISDIR(event.mode) else f" {human_size(event.size_bytes)}"
        return f"{mode} {event.uid}:{event.gid}{size} {moment}"
