"""docker attach: a running container's streams and terminal on one's own."""

from __future__ import annotations

import os

from minidock.errors import CommandError, ContainerNotRunning, UsageError
from minidock.runtime.attach import Attachment, Reports, Signals, open_process, refuse_foreign
from minidock.runtime.tty import DetachKeys, get_attributes, is_terminal, make_raw, parse_detach_keys, restore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.runtime.requests import Connection
    from minidock.store.containers import Container
    from minidock.store.root import DataRoot


def attach(
    root: DataRoot,
    container: str,
    *,
    no_stdin: bool = False,
    sig_proxy: bool = True,
    detach_keys: str = "",
    stdin_fd: int = 0,
    stdout_fd: int = 1,
    stderr_fd: int = 2,
) -> int | None:
    """Attach to a running container until it ends.

    Shape:   sig_proxy passes signals on to the container
    Returns: the exit code; None when the user detached
    Raises:  NoSuchContainer, UsageError; ContainerNotRunning in docker's words
    """
    keys = parse_detach_keys(detach_keys)
    found = root.containers.get(container)
    refuse_foreign(found)
    status = found.state.shown_status()
    if status == "paused":
        raise ContainerNotRunning("You cannot attach to a paused container, unpause it first")
    if status == "restarting":
        raise ContainerNotRunning("You cannot attach to a restarting container, wait until it is running")
    if not found.is_running():
        raise ContainerNotRunning("You cannot attach to a stopped container, start it first")
    is_tty = found.config.is_tty
    takes_input = found.config.opens_stdin and not no_stdin
    if is_tty and takes_input and not is_terminal(stdin_fd):
        raise UsageError("the input device is not a TTY")
    return attach_running(
        found, keys if is_tty else None, takes_input, (stdin_fd, stdout_fd, stderr_fd), sig_proxy=sig_proxy
    )


def attach_running(
    container: Container, keys: bytes | None, takes_input: bool, fds: tuple[int, int, int], *, sig_proxy: bool
) -> int | None:
    """Attach to this running container; keys: the detach keys of one with a terminal."""
    from minidock.runtime.requests import request_attachment

    stdin_fd, stdout_fd, stderr_fd = fds
    monitor_fd = open_process(container.state.monitor_pid, container.state.monitor_start_time)
    if monitor_fd < 0:
        raise CommandError(f"container {container.name} has no monitor to attach to", exit_code=1)
    raw = keys is not None and takes_input and is_terminal(stdin_fd)
    attributes = get_attributes(stdin_fd) if raw else None
    with Signals(passed_on=sig_proxy) as signals:
        try:
            connection = request_attachment(container, monitor_fd, stdout_fd, stderr_fd)
        finally:
            os.close(monitor_fd)
        try:
            if attributes is not None:
                make_raw(stdin_fd, attributes)
            attachment = _attachment(container, connection, signals, stdin_fd if takes_input else -1)
            try:
                if keys is not None and connection.input_fd >= 0:
                    size_fd = stdout_fd if is_terminal(stdout_fd) else stdin_fd
                    attachment.use_console(connection.input_fd, size_fd, DetachKeys(keys) if raw else None)
                return attachment.run()
            finally:
                attachment.close()
        finally:
            if attributes is not None:
                restore(stdin_fd, attributes)
            os.close(connection.control_fd)
            os.close(connection.report_fd)


def _attachment(container: Container, connection: Connection, signals: Signals, stdin_fd: int) -> Attachment:
    return Attachment(
        Reports(connection.report_fd),
        signals,
        control_fd=connection.control_fd,
        pidfd=open_process(container.state.pid, container.state.start_time),
        stdin_fd=stdin_fd,
        input_fd=connection.input_fd,
    )
