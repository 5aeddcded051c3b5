"""docker start: run a container that exists."""

from __future__ import annotations

import os

from minidock.errors import Conflict
from minidock.runtime.containerjob import ContainerJob
from minidock.runtime.prepare import container_spec, not_applied, write_etc_files
from minidock.runtime.session import Session
from minidock.runtime.settle import SettledLock
from minidock.store.containers import DiskErrors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minidock.store.containers import Container
    from minidock.store.root import DataRoot


def start(
    root: DataRoot,
    container: str,
    *,
    attach: bool = False,
    interactive: bool = False,
    stdin_fd: int = 0,
    stdout_fd: int = 1,
    stderr_fd: int = 2,
    warn: Callable[[str], None] | None = None,
) -> int | None:
    """Start a container; one that runs already is left alone.

    Shape:   attach waits for its end with its output on these descriptors; interactive gives it the input too;
             warn is called with each warning before the command starts
    Returns: the exit code when attached (None after ctrl-p ctrl-q), else None
    Raises:  NoSuchContainer; CommandError 126 or 127 when the command cannot be run
    """
    found = root.containers.get(container)
    if found.state.is_restarting() and not attach:
        return None
    if found.is_running():
        if found.state.status == "paused":
            raise Conflict("cannot start a paused container, try unpause instead")
        return _follow(root, found, stdout_fd, stderr_fd) if attach else None
    if warn is not None and (names := not_applied(found)):
        warn(f"container {found.name} has settings that minidock keeps but does not apply: {', '.join(names)}")
    return start_container(
        found, attach=attach, interactive=interactive, stdin_fd=stdin_fd, stdout_fd=stdout_fd, stderr_fd=stderr_fd
    )


def start_container(
    container: Container, *, attach: bool, interactive: bool, stdin_fd: int, stdout_fd: int, stderr_fd: int
) -> int | None:
    """Start this container; see start. One that another command has started meanwhile is left alone."""
    with SettledLock(container) as lock:
        if container.is_running() or container.state.is_restarting():
            return None
        # From here to the container's end, and before anything of it is written.
        engine_fd = container.root.hold_against_engine()

        def let_go() -> None:
            lock.release()
            if engine_fd >= 0:
                os.close(engine_fd)

        container.forget_asked_end()
        spec = container_spec(container)
        with DiskErrors(f"start container {container.name}"):
            write_etc_files(container, network=spec.network, hostname=spec.hostname)
        session = Session(
            ContainerJob(container, lock, spec, engine_fd),
            attach=attach,
            interactive=interactive,
            opens_stdin=container.config.opens_stdin,
            stdin_fd=stdin_fd,
            stdout_fd=stdout_fd,
            stderr_fd=stderr_fd,
            after_fork=let_go,
        )
        return session.run()


def _follow(root: DataRoot, container: Container, stdout_fd: int, stderr_fd: int) -> int:
    """Attach to the output of a container that runs already, from now on."""
    from minidock.verbs.logs import logs
    from minidock.verbs.wait import Ending

    ending = Ending(container)
    for stream, _, data in logs(root, container.id, follow=True, tail=0):
        os.write(stderr_fd if stream == "stderr" else stdout_fd, data)
    return ending.wait()
