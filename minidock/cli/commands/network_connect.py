"""minidock network connect"""

from __future__ import annotations

from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Connect a container to a network."""
    from minidock.verbs.connect import connect

    with open_root(options) as root:
        connect(
            root,
            options["name"],
            options["container"],
            address=options["ip"] or "",
            address6=options["ip6"] or "",
            aliases=options["alias"],
        )
    return 0
