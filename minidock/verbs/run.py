"""docker run: create a container and start it."""

from __future__ import annotations

import os

from minidock.errors import MinidockError, UsageError
from minidock.verbs.create import create
from minidock.verbs.options import CreateOptions
from minidock.verbs.start import start_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minidock.store.root import DataRoot


class RunResult:
    """What came of a run. Shape: exit_code None when detached, from the beginning or by ctrl-p ctrl-q"""

    __slots__ = ("container_id", "exit_code")

    def __init__(self, container_id: str, exit_code: int | None) -> None:
        self.container_id = container_id
        self.exit_code = exit_code


def run(
    root: DataRoot,
    image: str,
    command: list[str],
    options: CreateOptions | None = None,
    *,
    detach: bool = False,
    stdin_fd: int = 0,
    stdout_fd: int = 1,
    stderr_fd: int = 2,
    warn: Callable[[str], None] | None = None,
    created: Callable[[str], None] | None = None,
) -> RunResult:
    """Run a command in a new container, with its output on these descriptors.

    Shape:   with options.interactive stdin_fd is the command's input; with options.tty it gets a terminal of its own;
             warn is called with each warning, and created with the container's ID, before the command starts
    Raises:  NoSuchImage, NameInUse, UsageError; CommandError 126 or 127 when the command cannot be run, and then
             the container stays as created, unless options.rm
    """
    options = options or CreateOptions()
    if options.tty and options.interactive and not detach and not os.isatty(stdin_fd):
        raise UsageError("the input device is not a TTY")
    options.attach = not detach
    container = create(root, image, command, options)
    if warn is not None:
        for warning in container.warnings:
            warn(warning)
    if created is not None:
        created(container.id)
    try:
        exit_code = start_container(
            container,
            attach=not detach,
            interactive=options.interactive,
            stdin_fd=stdin_fd,
            stdout_fd=stdout_fd,
            stderr_fd=stderr_fd,
        )
    except MinidockError as error:
        if options.rm:
            _remove(container.id, root, error)
        raise
    return RunResult(container.id, exit_code)


def _remove(container_id: str, root: DataRoot, error: MinidockError) -> None:
    """--rm also holds for a container that could not be started; the monitor may have done it already."""
    from minidock.errors import NoSuchContainer
    from minidock.verbs.rm import rm

    try:
        rm(root, container_id, volumes=True)
    except NoSuchContainer:
        return
    except MinidockError as failure:
        error.add_note(f"removing the container: {failure}")
