"""minidock restart"""

from __future__ import annotations

from minidock.cli.failures import for_each
from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Restart containers and name those that were."""
    from minidock.verbs.restart import restart

    with open_root(options) as root:

        def restart_one(name: str) -> None:
            restart(root, name, timeout_s=options["timeout"], signal=options["signal"])
            write_line(name)

        return for_each(options["containers"], restart_one)
