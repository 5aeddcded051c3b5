"""minidock pause"""

from __future__ import annotations

from minidock.cli.failures import for_each
from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Pause containers and name them."""
    from minidock.verbs.pause import pause

    with open_root(options) as root:

        def pause_one(name: str) -> None:
            pause(root, name)
            write_line(name)

        return for_each(options["containers"], pause_one)
