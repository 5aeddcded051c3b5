"""minidock unpause"""

from __future__ import annotations

from minidock.cli.failures import for_each
from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Let paused containers go on and name them."""
    from minidock.verbs.pause import unpause

    with open_root(options) as root:

        def unpause_one(name: str) -> None:
            unpause(root, name)
            write_line(name)

        return for_each(options["containers"], unpause_one)
