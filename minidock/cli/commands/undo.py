"""minidock undo"""

from __future__ import annotations

from minidock.cli.format import write_table
from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.trash import Entry


def handle(options: dict[str, Any]) -> int:
    """Take back what fsck --repair, gc or adopt did, or list it."""
    from minidock.cli.report import to_json
    from minidock.errors import UsageError
    from minidock.verbs.undo import list_trash, undo

    if options["list"]:
        if options["trash_id"]:
            raise UsageError("--list takes no ID")
        with open_root(options, write=False) as root:
            found = list_trash(root)
        if options["json"]:
            write_line(to_json([_document(entry) for entry in found]))
        else:
            titles = [(title, "") for title in ("ID", "MADE BY", "STEPS", "STATE")]
            write_table(titles, [[entry.trash_id, entry.kind, str(len(entry.rows)), _state(entry)] for entry in found])
        return 0
    with open_root(options, bare=True) as root:
        entry = undo(root, options["trash_id"] or "")
    write_line(
        to_json(_document(entry)) if options["json"] else f"{entry.trash_id}: {len(entry.rows)} steps taken back"
    )
    return 0


def _state(entry: Entry) -> str:
    if entry.is_undone:
        return "undone"
    if entry.is_broken:
        return "unreadable"
    return "done" if entry.is_whole else "interrupted"


def _document(entry: Entry) -> dict[str, Any]:
    return {
        "Id": entry.trash_id,
        "Kind": entry.kind,
        "Made": entry.made_ns,
        "State": _state(entry),
        "Paths": [row["Path"] for row in entry.rows],
    }
