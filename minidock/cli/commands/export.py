"""minidock export"""

from __future__ import annotations

from minidock.cli.output import write_error
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Write a container's file system into a tar."""
    from minidock.verbs.export import export

    with open_root(options, write=False) as root:
        written = export(root, options["container"], options["output"] or 1, engine=options["engine"] or "")
    for warning in written.warnings:
        write_error(f"minidock: warning: {warning}")
    return 0
