"""minidock run"""

from __future__ import annotations

from minidock.cli.commands.create import create_options
from minidock.cli.output import warn, write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Make a container, run it, and end as its command ended."""
    from minidock.verbs.run import run

    detach = options["detach"]
    wanted = create_options(options)
    with open_root(options) as root:
        # docker prints the ID before it starts the container, so it is there when the start fails as well
        created = write_line if detach else None
        result = run(root, options["image"], options["command"], wanted, detach=detach, warn=warn, created=created)
    return result.exit_code or 0
