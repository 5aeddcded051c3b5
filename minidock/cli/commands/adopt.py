"""minidock adopt"""

from __future__ import annotations

from minidock.cli.output import write_error, write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Make a container of an orphaned directory, and print its ID."""
    from minidock.cli.report import to_json
    from minidock.verbs.adopt import adopt

    with open_root(options) as root:
        made = adopt(
            root,
            options["directory"],
            image=options["image"] or "",
            name=options["name"] or "",
            command=options["command"] or [],
        )
    if options["json"]:
        write_line(to_json({"Id": made.container.id, "Image": made.image, "Trash": made.trash_id}))
        return 0
    for warning in made.container.warnings:
        write_error(f"WARNING: {warning}")
    write_line(made.container.id)
    return 0
