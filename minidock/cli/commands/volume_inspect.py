"""minidock volume inspect"""

from __future__ import annotations

from minidock.cli.failures import for_each
from minidock.cli.report import write_documents
from minidock.cli.session import open_root
from minidock.cli.times import local_rfc3339

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.volumes import Volume


def handle(options: dict[str, Any]) -> int:
    """Show what is recorded of volumes; what is not found is told after the rest."""
    found: list[dict[str, Any]] = []
    missing: list[str] = []
    with open_root(options, write=False) as root:
        for name in options["names"]:
            if root.volumes.has(name):
                found.append(_document(root.volumes.get(name)))
            else:
                missing.append(name)
        if found or options["format"] is None:
            write_documents(found, options["format"])
        return for_each(missing[:1], lambda name: (root.volumes.get(name), None)[1])


def _document(volume: Volume) -> dict[str, Any]:
    return {
        "CreatedAt": local_rfc3339(volume.created_ns),
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": volume.data_path,
        "Name": volume.name,
        "Options": volume.options or (None if volume.labels is None else {}),
        "Scope": "local",
    }
