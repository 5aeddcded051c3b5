"""minidock rename"""

from __future__ import annotations

from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Rename a container."""
    from minidock.verbs.rename import rename

    with open_root(options) as root:
        rename(root, options["container"], options["new_name"])
    return 0
