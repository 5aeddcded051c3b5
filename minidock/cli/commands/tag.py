"""minidock tag"""

from __future__ import annotations

from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Give an image a further reference."""
    from minidock.verbs.tag import tag

    with open_root(options) as root:
        tag(root, options["source"], options["target"])
    return 0
