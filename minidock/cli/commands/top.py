"""minidock top"""

from __future__ import annotations

from minidock.cli.output import escape_controls, write
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# docker's table of this command alone is wider than its others.
_MINIMUM_WIDTH = 20
_PADDING = 3


def handle(options: dict[str, Any]) -> int:
    """Show a container's processes."""
    from minidock.verbs.top import top

    with open_root(options, write=False) as root:
        titles, rows = top(root, options["container"], options["options"] or ())
    table = [titles, *([escape_controls(cell) for cell in row] for row in rows)]
    widths = [
        max(_MINIMUM_WIDTH, _PADDING + max(len(row[column]) for row in table)) for column in range(len(titles) - 1)
    ]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        write("".join(cells) + row[-1] + "\n")
    return 0
