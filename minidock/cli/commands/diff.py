"""minidock diff"""

from __future__ import annotations

from minidock.cli.output import escape_controls, write
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Show what a container changed."""
    from minidock.verbs.diff import diff

    with open_root(options, write=False) as root:
        changes = diff(root, options["container"])
    if options["json"]:
        from minidock.cli.report import to_json

        write(to_json([{"Kind": change.kind, "Path": change.path} for change in changes]) + "\n")
    else:
        write("".join(f"{change.kind} {escape_controls(change.path)}\n" for change in changes))
    return 0
