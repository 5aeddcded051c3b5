"""minidock exec"""

from __future__ import annotations

from minidock.cli.session import open_root
from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Run a command in a running container, and end as it ended."""
    import os

    from minidock.verbs.exec import exec_
    from minidock.verbs.options import read_env

    if options["tty"] and options["interactive"] and not options["detach"] and not os.isatty(0):
        raise UsageError("the input device is not a TTY")
    with open_root(options) as root:
        return exec_(
            root,
            options["container"],
            options["command"],
            env=read_env(options["env"], options["env_file"]),
            workdir=options["workdir"] or "",
            user=options["user"] or "",
            privileged=options["privileged"],
            tty=options["tty"],
            interactive=options["interactive"],
            detach=options["detach"],
        )
