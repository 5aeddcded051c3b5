"""minidock cp"""

from __future__ import annotations

import os

from minidock.cli.session import open_root
from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Copy files into or out of a container."""
    from minidock.verbs.cp import cp_from, cp_to

    source, target = options["source"], options["target"]
    for word, name in ((source, "source"), (target, "destination")):
        if not word:
            raise UsageError(f"{name} can not be empty")
    left, left_path = _split(source)
    right, right_path = _split(target)
    if left and right:
        raise UsageError("copying between containers is not supported")
    if not left and not right:
        raise UsageError("must specify at least one container source")
    follow = options["follow_link"]
    with open_root(options) as root:
        if left:
            if target == "-" and os.isatty(1):
                raise UsageError("refusing to write a tar to a terminal", hint="redirect standard output")
            cp_from(root, left, left_path, 1 if target == "-" else target, follow=follow, archive=options["archive"])
        else:
            cp_to(root, 0 if source == "-" else source, right, right_path, follow=follow)
    return 0


def _split(text: str) -> tuple[str, str]:
    """Container and path; a path of the host has no container. Source: docker/cli, splitCpArg"""
    if text.startswith(("/", ".")):
        return "", text
    container, colon, path = text.partition(":")
    if not colon or "/" in container:
        return "", text
    return container, path
