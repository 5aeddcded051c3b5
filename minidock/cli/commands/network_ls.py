"""minidock network ls"""

from __future__ import annotations

from minidock.cli.format import write_listing
from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minidock.store.networks import Network


_COLUMNS = (("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope"))
_FIELDS = (
    ("CREATED AT", "CreatedAt"),
    ("DRIVER", "Driver"),
    ("NETWORK ID", "ID"),
    ("IPV4", "IPv4"),
    ("IPV6", "IPv6"),
    ("INTERNAL", "Internal"),
    ("LABELS", "Labels"),
    ("NAME", "Name"),
    ("SCOPE", "Scope"),
)


def handle(options: dict[str, Any]) -> int:
    """List networks."""
    from minidock.verbs.network import list_networks

    with open_root(options, write=False) as root:
        found = list_networks(root, options["filter"])
    no_trunc = options["no_trunc"]
    if options["quiet"] and not options["format"]:
        for network in found:
            write_line(network.id if no_trunc else network.id[:12])
        return 0
    write_listing(
        [_row(network, no_trunc=no_trunc) for network in found],
        _COLUMNS,
        options["format"],
        fields=_FIELDS,
        methods={"Label": lambda row, key: row(f"Label {key}")},
    )
    return 0


def _row(network: Network, *, no_trunc: bool) -> Callable[[str], str]:
    from minidock.formats.containerconfig import time_text

    values = {
        "ID": network.id if no_trunc else network.id[:12],
        "Name": network.name,
        "Driver": network.driver,
        "Scope": "local",
        "IPv4": _word(network.driver == "bridge"),
        "IPv6": _word(network.ipv6),
        "Internal": _word(network.internal),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(network.labels.items())),
    }

    def text_of(field: str) -> str:
        if field == "CreatedAt":
            date, _, clock = time_text(network.created_ns).removesuffix("Z").partition("T")
            return f"{date} {clock} +0000 UTC"
        if field.startswith("Label "):
            return network.labels.get(field.removeprefix("Label "), "")
        return values[field]

    return text_of


def _word(value: bool) -> str:
    return "true" if value else "false"
