"""minidock stats"""

from __future__ import annotations

import select

from minidock.cli.format import write_listing
from minidock.cli.output import short_id, write
from minidock.cli.session import open_root
from minidock.cli.times import human_ram, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minidock.verbs.stats import Stats

_COLUMNS = (
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
)
_FIELDS = (*_COLUMNS, ("CONTAINER", "Container"))
_INTERVAL_S = 1.0
_CLEAR = "\x1b[2J\x1b[H"


def handle(options: dict[str, Any]) -> int:
    """Show what containers use, once or until interrupted."""
    from minidock.verbs.stats import Watch

    with open_root(options, write=False) as root:
        watch = Watch(root, options["containers"] or (), all=options["all"])
        watch.look()
        while True:
            select.select([], [], [], _INTERVAL_S)
            rows = [_row(one, full=options["no_trunc"]) for one in watch.look()]
            if not options["no_stream"]:
                write(_CLEAR)
            write_listing(rows, _COLUMNS, options["format"], fields=_FIELDS)
            if options["no_stream"]:
                return 0


def _row(one: Stats, *, full: bool) -> Callable[[str], str]:
    usage = one.usage

    def text_of(field: str) -> str:
        if field == "ID":
            return one.id if full else short_id(one.id)
        if field == "Name":
            return one.container_name
        if field == "Container":
            return one.asked
        if field == "CPUPerc":
            return f"{one.cpu_share * 100:.2f}%"
        if field == "MemUsage":
            return f"{human_ram(usage.memory_bytes)} / {human_ram(usage.memory_limit_bytes)}"
        if field == "MemPerc":
            return f"{100 * usage.memory_bytes / (usage.memory_limit_bytes or 1):.2f}%"
        if field == "NetIO":
            return f"{human_size(usage.received_bytes)} / {human_size(usage.sent_bytes)}"
        if field == "BlockIO":
            return f"{human_size(usage.read_bytes)} / {human_size(usage.written_bytes)}"
        return {"PIDs": str(usage.processes)}[field]

    return text_of
