"""minidock history"""

from __future__ import annotations

import time

from minidock.cli.format import write_listing
from minidock.cli.output import short_id, shorten, write
from minidock.cli.session import Reading
from minidock.cli.times import ago, human_size, local_rfc3339

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minidock.verbs.history import HistoryRow

_COMMAND_WIDTH = 45


def handle(options: dict[str, Any]) -> int:
    """Show an image's history."""
    from minidock.verbs.history import history

    with Reading(options) as root:
        found = history(root, options["image"])
    full = options["no_trunc"]
    if options["quiet"] and not options["format"]:
        write("".join(_id(row, full) + "\n" for row in found))
        return 0
    human = options["human"]
    columns = (
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince") if human else ("CREATED AT", "CreatedAt"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    )
    fields = (*columns, ("CREATED", "CreatedSince"), ("CREATED AT", "CreatedAt"))
    now_ns = time.time_ns()
    rows = [_row(row, full=full, human=human, now_ns=now_ns) for row in found]
    write_listing(rows, columns, options["format"], fields=fields)
    return 0


def _id(row: HistoryRow, full: bool) -> str:
    return row.image_id if full else short_id(row.image_id)


def _row(row: HistoryRow, *, full: bool, human: bool, now_ns: int) -> Callable[[str], str]:
    def text_of(field: str) -> str:
        if field == "ID":
            return _id(row, full)
        if field == "CreatedBy":
            text = row.created_by.replace("\t", " ")
            return text if full else shorten(text, _COMMAND_WIDTH)
        if field == "Size":
            return human_size(row.size_bytes) if human else str(row.size_bytes)
        if field == "CreatedAt" or not human and field == "CreatedSince":
            return local_rfc3339(row.created_ns)
        if field == "CreatedSince":
            return ago(row.created_ns, now_ns)
        return row.comment

    return text_of
