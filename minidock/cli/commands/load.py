"""minidock load"""

from __future__ import annotations

import os

from minidock.cli.commands.pull_tar import load_from
from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Load what `docker save` wrote, from a file or from standard input."""
    source: str | int = options["input"] or 0
    if source == 0 and os.isatty(0):
        raise UsageError("requested load from stdin, but stdin is empty", hint="name the archive with -i")
    return load_from(source, options)
