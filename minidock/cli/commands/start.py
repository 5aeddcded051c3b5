"""minidock start"""

from __future__ import annotations

from minidock.cli.failures import for_each
from minidock.cli.output import warn, write_error, write_line
from minidock.cli.session import open_root
from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Start containers; attached, end as the container's command ended."""
    from minidock.verbs.start import start

    names = options["containers"]
    attach = options["attach"] or options["interactive"]
    if attach and len(names) > 1:
        raise UsageError("you cannot start and attach multiple containers at once")
    with open_root(options) as root:
        if attach:
            wants = {"interactive": options["interactive"], "detach_keys": options["detach_keys"] or ""}
            return start(root, names[0], attach=True, warn=warn, last=True, **wants) or 0
        failed: list[str] = []

        def start_one(name: str) -> None:
            failed.append(name)
            start(root, name, warn=warn, last=len(names) == 1)
            failed.pop()
            write_line(name)

        status = for_each(names, start_one)
    if failed:
        write_error(f"minidock: failed to start containers: {', '.join(failed)}")
    return status
