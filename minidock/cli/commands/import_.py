"""minidock import"""

from __future__ import annotations

from minidock.cli.output import write_error, write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Make an image of a root's tar and print its ID."""
    from minidock.verbs.import_ import import_

    with open_root(options, create=True) as root:
        made = import_(
            root,
            options["archive"],
            options["reference"],
            changes=options["change"] or (),
            message=options["message"] or "",
            platform=options["platform"],
        )
    for warning in made.warnings:
        write_error(f"minidock: warning: {warning}")
    write_line(made.image_id)
    return 0
