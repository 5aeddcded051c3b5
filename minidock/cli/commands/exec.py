"""minidock exec"""

from __future__ import annotations

from minidock.cli.output import write_error
from minidock.cli.session import open_root
from minidock.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Run a command in a running container, and end as it ended."""
    from minidock.verbs.exec import exec_

    try:
        with open_root(options) as root:
            code = exec_(
                root,
                options["container"],
                options["command"],
                env=_environment(options),
                workdir=options["workdir"] or "",
                user=options["user"] or "",
                privileged=options["privileged"],
                tty=options["tty"],
                interactive=options["interactive"],
                detach=options["detach"],
                detach_keys=options["detach_keys"] or "",
                last=True,
            )
    except CommandError as error:
        if options["detach"]:
            # Nobody waits for its exit code, so docker's client has only its own to give.
            error.exit_code = 1
        raise
    if code is None:
        # docker's client takes it for a failure
        write_error("read escape sequence")
        return 1
    return code


def _environment(options: dict[str, Any]) -> list[str]:
    """What --env-file and -e say; raises InvalidOption, UsageError."""
    if not options["env"] and not options["env_file"]:
        return []
    from minidock.errors import InvalidOption, UsageError
    from minidock.verbs.options import read_env

    try:
        of_files = read_env([], options["env_file"])
    except InvalidOption as error:
        # Where create's file is an option's value, exec's is read late, and what fails then ends with 1.
        raise UsageError(error.message) from None
    return of_files + read_env(options["env"], [])
