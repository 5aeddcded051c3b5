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
    if not left and not right and not _may_be_image(source):
        raise UsageError("must specify at least one container source")
    follow = options["follow_link"]
    if _copy_from_image(options, source, target):
        return 0
    with open_root(options) as root:
        if left:
            if target == "-" and os.isatty(1):
                raise UsageError("refusing to write a tar to a terminal", hint="redirect standard output")
            cp_from(root, left, left_path, 1 if target == "-" else target, follow=follow, archive=options["archive"])
        else:
            cp_to(root, 0 if source == "-" else source, right, right_path, follow=follow)
    return 0


def _may_be_image(text: str) -> bool:
    """Whether text may be IMAGE:/PATH with an image's name that docker takes for a path: it has a slash."""
    return not text.startswith(("/", ".")) and ":/" in text and not os.path.lexists(text)


def _copy_from_image(options: dict[str, Any], source: str, target: str) -> bool:
    """Copy out of an image, if the source names one and no container; False else."""
    from minidock.verbs.cp import cp_from_image
    from minidock.verbs.imagetree import is_image

    is_source = bool(_split(source)[0]) or _may_be_image(source)
    text = source if is_source else target
    # A tag has a colon, too; what follows an image's name begins with a slash, or is behind the last colon.
    name, colon, path = text.partition(":/")
    if not colon:
        name, _, path = text.rpartition(":")
    container = _split(text)[0]
    if container and container != name and _is_container(options["root"], container):
        return False
    if not is_image(options["root"], name):
        if not container:
            raise UsageError(f"no such image: {name}", hint="minidock images lists what there is")
        return False
    if not is_source:
        raise UsageError(f"{name} is an image, and an image cannot be written to", hint="create a container of it")
    if target == "-" and os.isatty(1):
        raise UsageError("refusing to write a tar to a terminal", hint="redirect standard output")
    with open_root(options, write=False) as root:
        from minidock.store.sealing import seal

        seal(root.path)
        output = 1 if target == "-" else target
        cp_from_image(root, name, path, output, follow=options["follow_link"], archive=options["archive"])
    return True


def _is_container(root_path: str | None, name: str) -> bool:
    from minidock.errors import NoSuchContainer
    from minidock.store.catalogue import Catalogue
    from minidock.store.evidence import Evidence

    with Evidence.open(root_path) as evidence:
        try:
            Catalogue(evidence).find_container(name)
        except NoSuchContainer:
            return False
    return True


def _split(text: str) -> tuple[str, str]:
    """Container and path; a path of the host has no container. Source: docker/cli, splitCpArg"""
    if text.startswith(("/", ".")):
        return "", text
    container, colon, path = text.partition(":")
    if not colon or "/" in container:
        return "", text
    return container, path
