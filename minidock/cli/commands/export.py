"""minidock export"""

from __future__ import annotations

from minidock.cli.output import write_error
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Write a container's file system into a tar."""
    from minidock.store.sealing import seal
    from minidock.verbs.export import export, export_image
    from minidock.verbs.imagetree import is_image

    name, output, engine = options["container"], options["output"] or 1, options["engine"] or ""
    with open_root(options, write=False) as root:
        if is_image(options["root"], name):
            seal(root.path)
            written = export_image(root, name, output, engine=engine)
        else:
            written = export(root, name, output, engine=engine)
    for warning in written.warnings:
        write_error(f"minidock: warning: {warning}")
    return 0
