"""minidock run"""

from __future__ import annotations

import os

from minidock.cli.commands.create import create_options
from minidock.cli.output import warn, write_line
from minidock.cli.session import open_root
from minidock.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Make a container, run it, and end as its command ended."""
    from minidock.verbs.run import run

    detach = options["detach"]
    # These two docker's client finds before it asks the engine, and ends with 1.
    if detach and options["attach"]:
        raise CommandError("Conflicting options: -a and -d", exit_code=1)
    if options["tty"] and options["interactive"] and not detach and not os.isatty(0):
        raise CommandError("the input device is not a TTY", exit_code=1)
    wanted = create_options(options)
    with open_root(options) as root:
        result = run(
            root,
            options["image"],
            options["command"],
            wanted,
            detach=detach,
            sig_proxy=options["sig_proxy"],
            detach_keys=options["detach_keys"] or "",
            warn=warn,
            # docker prints the ID before it starts the container, so it is there when the start fails as well
            created=write_line,
            last=True,
        )
    return result.exit_code or 0
