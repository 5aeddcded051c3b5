"""minidock attach"""

from __future__ import annotations

from minidock.cli.output import write_error
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Attach to a container, and end as its command ends."""
    from minidock.verbs.attach import attach

    with open_root(options) as root:
        code = attach(
            root,
            options["container"],
            no_stdin=options["no_stdin"],
            sig_proxy=options["sig_proxy"],
            detach_keys=options["detach_keys"] or "",
        )
    if code is None:
        # docker's client takes it for a failure
        write_error("read escape sequence")
        return 1
    return code
