"""minidock wait"""

from __future__ import annotations

from minidock.cli.failures import for_each
from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Wait for containers and print how each ended."""
    from minidock.verbs.wait import wait

    with open_root(options, write=False) as root:
        return for_each(options["containers"], lambda name: write_line(str(wait(root, name))))
