"""minidock rmi"""

from __future__ import annotations

from minidock.cli.failures import for_each
from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Remove images."""
    from minidock.verbs.rmi import rmi

    with open_root(options) as root:

        def remove(name: str) -> None:
            for what, text in rmi(root, [name], force=options["force"], no_prune=options["no_prune"]):
                write_line(f"{what}: {text}")

        return for_each(options["images"], remove, absent_is_fine=options["force"])
