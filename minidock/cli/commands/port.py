"""minidock port"""

from __future__ import annotations

from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Print a container's published ports, or one port's."""
    from minidock.verbs.port import port

    wanted = options["private_port"] or ""
    with open_root(options, write=False) as root:
        for key, bound in port(root, options["container"], wanted):
            write_line(bound if wanted else f"{key} -> {bound}")
    return 0
