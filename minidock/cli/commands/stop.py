"""minidock stop"""

from __future__ import annotations

from minidock.cli.failures import for_each
from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Stop containers and name those that stopped."""
    from minidock.verbs.stop import stop

    wanted: dict[str, Any] = {"signal": options["signal"]}
    if options["timeout"] is not None:
        wanted["timeout_s"] = options["timeout"]
    with open_root(options) as root:

        def stop_one(name: str) -> None:
            stop(root, name, **wanted)
            write_line(name)

        return for_each(options["containers"], stop_one)
