"""minidock network inspect"""

from __future__ import annotations

from minidock.cli.failures import for_each
from minidock.cli.report import write_documents
from minidock.cli.session import open_root
from minidock.errors import NoSuchNetwork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Show what is known of networks; what is not found is told after the rest."""
    from minidock.verbs.network import inspect_network

    found: list[dict[str, Any]] = []
    missing: list[str] = []
    with open_root(options, write=False) as root:
        for name in options["names"]:
            try:
                found.append(inspect_network(root, name))
            except NoSuchNetwork:
                missing.append(name)
        if found or options["format"] is None:
            write_documents(found, options["format"])
        return for_each(missing, lambda name: (root.networks.get(name), None)[1])
