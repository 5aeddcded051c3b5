"""minidock network rm"""

from __future__ import annotations

from minidock.cli.failures import for_each
from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Remove networks and name those that went."""
    from minidock.verbs.network import remove_network

    with open_root(options) as root:

        def remove(name: str) -> None:
            remove_network(root, name)
            write_line(name)

        return for_each(options["names"], remove, absent_is_fine=options["force"])
