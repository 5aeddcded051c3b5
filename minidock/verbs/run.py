"""docker run: create a container and start it."""

from __future__ import annotations

import os

from minidock.errors import MinidockError, UsageError
from minidock.ids import ContainerID, random_hex64
from minidock.verbs.create import create
from minidock.verbs.options import CreateOptions
from minidock.verbs.start import ALREADY_RUNNING, parse_keys, start_container

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
    sig_proxy: bool = True,
    detach_keys: str = "",
    warn: Callable[[str], None] | None = None,
    created: Callable[[str], None] | None = None,
    last: bool = False,
) -> RunResult:
    """Run a command in a new container, with its output on these descriptors.

    Shape:   with options.interactive stdin_fd is the command's input; with options.tty it gets a terminal of its own;
             with options.streams only those of the three are attached; sig_proxy passes signals on; detach_keys as in
             attach; warn is called with each warning before the command starts, and so is created with the container's
             ID where it is run detached or no output is attached; last: as in exec_
    Raises:  NoSuchImage, NameInUse, UsageError; CommandError 126 or 127 when the command cannot be run, and then
             the container stays as created, unless options.rm
    """
    options = options or CreateOptions()
    keys = parse_keys(detach_keys)
    if detach and options.streams:
        raise UsageError("Conflicting options: -a and -d")
    outputs = (stdout_fd if options.attaches("stdout") else -1), (stderr_fd if options.attaches("stderr") else -1)
    if options.tty and outputs[0] < 0:
        # A terminal has one output.
        outputs = (stdout_fd if outputs[1] >= 0 else -1), -1
    if options.tty and options.interactive and not detach and not os.isatty(stdin_fd):
        raise UsageError("the input device is not a TTY")
    options.attach = not detach
    # Known beforehand, so that an interrupt at any point finds what --rm has to take away.
    container_id = ContainerID(random_hex64())
    try:
        container = create(root, image, command, options, container_id=container_id)
        if warn is not None:
            for warning in container.warnings:
                if warning:
                    warn(warning)
        if created is not None and (detach or max(outputs) < 0):
            created(container.id)
        exit_code = start_container(
            container,
            attach=not detach,
            interactive=options.interactive,
            fds=(stdin_fd, *outputs),
            keys=keys,
            sig_proxy=sig_proxy,
            last=last,
        )
    except BaseException as error:
        if options.rm:
            _remove(container_id, root, error)
        raise
    return RunResult(container_id, None if exit_code is ALREADY_RUNNING else exit_code)


def _remove(container_id: ContainerID, root: DataRoot, error: BaseException) -> None:
    """--rm also holds for a container that could not be started; one that runs is left to its monitor."""
    from minidock.errors import ContainerRunning, NoSuchContainer
    from minidock.verbs.rm import rm

    try:
        rm(root, container_id, volumes=True)
    except (ContainerRunning, NoSuchContainer):
        return
    except MinidockError as failure:
        error.add_note(f"removing the container: {failure}")
