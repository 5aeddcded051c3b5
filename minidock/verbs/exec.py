"""docker exec: one more process in a running container."""

from __future__ import annotations

import os

from minidock.errors import CommandError, Conflict, ContainerNotRunning, UsageError
from minidock.runtime.attach import open_process, refuse_foreign
from minidock.runtime.join import ExecPreparation, exec_process
from minidock.runtime.monitor import Job
from minidock.runtime.prepare import exec_spec
from minidock.runtime.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from minidock.runtime.launch import Launched
    from minidock.runtime.spec import ExecSpec
    from minidock.store.root import DataRoot


class _ExecJob(Job):
    """The new process; nothing of it is recorded."""

    __slots__ = ("pid", "pidfd", "prepared", "root", "spec")

    def __init__(self, root: DataRoot, pid: int, pidfd: int, spec: ExecSpec) -> None:
        super().__init__(spec.tty)
        self.root = root
        self.pid = pid
        self.pidfd = pidfd
        self.spec = spec
        self.prepared = ExecPreparation(pid, pidfd, spec)

    def descriptors(self) -> list[int]:
        """The container's first process."""
        return [self.pidfd]

    def kept(self) -> dict[str, Any]:
        """Nothing: the process is all."""
        return {"descriptors": []}

    def launch(self, stdin_fd: int, stdout_fd: int, stderr_fd: int) -> Launched:
        """Join the container."""
        return exec_process(
            self.pid,
            self.pidfd,
            self.spec,
            stdin_fd=stdin_fd,
            stdout_fd=stdout_fd,
            stderr_fd=stderr_fd,
            trace=self.root.trace,
            prepared=self.prepared,
        )


def exec_(
    root: DataRoot,
    container: str,
    command: Sequence[str],
    *,
    env: Sequence[str] = (),
    workdir: str = "",
    user: str = "",
    privileged: bool = False,
    tty: bool = False,
    interactive: bool = False,
    detach: bool = False,
    detach_keys: str = "",
    stdin_fd: int = 0,
    stdout_fd: int = 1,
    stderr_fd: int = 2,
    last: bool = False,
) -> int | None:
    """Run a command in a running container, with its output on these descriptors.

    Shape:   detach_keys as in attach; last: the calling process ends after this, so that there is one process less to
             wait for
    Returns: its exit code, 0 when detached; None when the user detached by the detach keys
    Raises:  NoSuchContainer, ContainerNotRunning; CommandError 126 or 127 when the command cannot be run
    """
    if tty and interactive and not detach and not os.isatty(stdin_fd):
        raise UsageError("the input device is not a TTY")
    keys = _keys(detach_keys)
    if workdir and not workdir.startswith("/"):
        raise CommandError(
            f"the working directory '{workdir}' is invalid, it needs to be an absolute path", exit_code=126
        )
    found = root.containers.get(container)
    refuse_foreign(found)
    if found.state.is_restarting():
        raise ContainerNotRunning(f"Container {found.id} is restarting, wait until the container is running")
    pidfd = open_process(found.state.pid, found.state.start_time) if found.is_running() else -1
    if pidfd < 0:
        raise ContainerNotRunning(f"Container {found.id} is not running")
    if found.state.status == "paused":
        os.close(pidfd)
        raise Conflict(f"Container {container} is paused, unpause the container before exec")
    try:
        spec = exec_spec(found, command, env=env, workdir=workdir, user=user, privileged=privileged, tty=tty)
        session = Session(
            _ExecJob(root, found.state.pid, pidfd, spec),
            attach=not detach,
            interactive=interactive,
            opens_stdin=interactive,
            stdin_fd=stdin_fd,
            stdout_fd=stdout_fd,
            stderr_fd=stderr_fd,
            detach_keys=keys,
            last=last,
        )
        code = session.run()
        return 0 if detach else code
    finally:
        os.close(pidfd)


def _keys(detach_keys: str) -> bytes:
    if not detach_keys:
        return b""
    from minidock.runtime.tty import parse_detach_keys

    return parse_detach_keys(detach_keys)
