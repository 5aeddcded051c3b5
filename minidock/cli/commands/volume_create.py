"""minidock volume create"""

from __future__ import annotations

from minidock.cli.output import write_line
from minidock.cli.session import open_root
from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Make a volume and print its name."""
    from minidock.verbs.options import read_labels
    from minidock.verbs.volume import create_volume

    if options["name"] and options["given_name"]:
        raise UsageError("conflicting options: either specify --name or provide positional arg, not both")
    name = options["name"] or options["given_name"] or ""
    with open_root(options, create=True) as root:
        made = create_volume(
            root, name, driver=options["driver"], labels=read_labels(options["label"]), options=options["opt"]
        )
    write_line(made.name)
    return 0
