"""minidock network create"""

from __future__ import annotations

from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Make a network and print its ID."""
    from minidock.verbs.network import create_network
    from minidock.verbs.options import read_labels

    with open_root(options, create=True) as root:
        made = create_network(
            root,
            options["name"],
            driver=options["driver"],
            subnets=options["subnet"],
            gateways=options["gateway"],
            ip_ranges=options["ip_range"],
            internal=options["internal"],
            ipv6=options["ipv6"],
            labels=read_labels(options["label"]),
            options=dict(text.partition("=")[::2] for text in options["opt"]),
        )
    write_line(made.id)
    return 0
