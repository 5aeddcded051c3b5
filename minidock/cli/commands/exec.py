"""minidock exec"""

from __future__ import annotations

from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Run a command in a running container, and end as it ended."""
    from minidock.verbs.exec import exec_
    from minidock.verbs.options import read_env

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
