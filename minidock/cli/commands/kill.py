"""minidock kill"""

from __future__ import annotations

from minidock.cli.failures import for_each
from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Send a signal and name the containers that got it."""
    from minidock.verbs.kill import kill

    with open_root(options) as root:

        def kill_one(name: str) -> None:
            kill(root, name, signal=options["signal"] or "KILL")
            write_line(name)

        return for_each(options["containers"], kill_one)
