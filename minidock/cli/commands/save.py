"""minidock save"""

from __future__ import annotations

from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Write images into an archive."""
    from minidock.verbs.save import save

    output = options["output"]
    with open_root(options, write=False) as root:
        save(root, options["images"], output or 1, format=options["format"], platform=options["platform"])
    return 0
