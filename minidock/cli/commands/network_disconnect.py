"""minidock network disconnect"""

from __future__ import annotations

from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Take a container off a network."""
    from minidock.verbs.connect import disconnect

    with open_root(options) as root:
        disconnect(root, options["name"], options["container"], force=options["force"])
    return 0
