"""minidock umount"""

from __future__ import annotations

from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Take views away."""
    from minidock.verbs.mount import umount

    with open_root(options, write=False) as root:
        for directory in options["directories"]:
            umount(root, directory)
    return 0
