"""minidock update"""

from __future__ import annotations

from minidock.cli.failures import for_each
from minidock.cli.limits import read_limits
from minidock.cli.output import write_error, write_line
from minidock.cli.session import open_root
from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Change limits of containers and name them."""
    from minidock.verbs.update import update

    limits = read_limits(options)
    if not limits and options["restart"] is None:
        raise UsageError("you must provide one or more flags when using this command")
    with open_root(options) as root:

        def update_one(name: str) -> None:
            warnings = update(root, name, limits, restart=options["restart"])
            write_line(name)
            for warning in warnings:
                write_error(warning)

        return for_each(options["containers"], update_one)
