"""minidock volume inspect"""

from __future__ import annotations

from minidock.cli.failures import for_each
from minidock.cli.report import write_documents
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Show what is recorded of volumes; what is not found is told after the rest."""
    from minidock.verbs.inspect import inspect_volume

    found: list[dict[str, Any]] = []
    missing: list[str] = []
    with open_root(options, write=False) as root:
        for name in options["names"]:
            if root.volumes.has(name):
                found.append(inspect_volume(root, name))
            else:
                missing.append(name)
        if found or options["format"] is None:
            write_documents(found, options["format"])
        return for_each(missing[:1], lambda name: (root.volumes.get(name), None)[1])
