"""Asking a container's monitor to attach somebody who comes later.

Who wants to attach listens on a unix socket in the container's directory, which only root may enter, and wakes the
monitor by a signal. The monitor connects, each side checks who the other is, and descriptors change hands: the
attacher's outputs, a pipe for reports and a pipe whose end tells that it has gone; and back the container's input.
A container to which nobody attaches pays nothing for it.
"""

from __future__ import annotations

import _socket
import os
import select

from minidock.errors import CommandError
from minidock.runtime.carry import Listener
from minidock.runtime.monitor import REQUEST_PREFIX, is_request
from minidock.runtime.signals import WAKE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minidock.store.containers import Container

_DESCRIPTORS = 4
# A root process that connects here and then says nothing is broken; the container must not wait for it.
_PATIENCE_MS = 1000


class Connection:
    """What an attacher got. Shape: input_fd: the container's input or console, -1 without"""

    __slots__ = ("control_fd", "input_fd", "report_fd")

    def __init__(self, control_fd: int, report_fd: int, input_fd: int) -> None:
        self.control_fd = control_fd
        self.report_fd = report_fd
        self.input_fd = input_fd


def _peer(connection: _socket.socket) -> tuple[int, int]:
    """Pid and uid of the other end."""
    raw = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    return int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little")


def _in_directory(path: str, act: Callable[[str], None], name: str) -> None:
    """Bind or connect by a short path: a data root may lie deeper than a socket's address is long."""
    directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        act(f"/proc/self/fd/{directory}/{name}")
    finally:
        os.close(directory)


def _send(connection: _socket.socket, word: bytes, descriptors: list[int]) -> None:
    rights = b"".join(fd.to_bytes(4, "little") for fd in descriptors)
    connection.sendmsg([word], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if rights else [])


def _receive(connection: _socket.socket) -> tuple[bytes, list[int]]:
    word, ancillary, _, _ = connection.recvmsg(16, _socket.CMSG_SPACE(4 * _DESCRIPTORS), _socket.MSG_CMSG_CLOEXEC)
    descriptors = [
        int.from_bytes(data[start : start + 4], "little")
        for level, kind, data in ancillary
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
        for start in range(0, len(data) - 3, 4)
    ]
    return word, descriptors


def _is_ready(*fds: int, timeout_ms: int | None = None) -> list[int]:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(timeout_ms)]


def request_attachment(container: Container, monitor_fd: int, stdout_fd: int, stderr_fd: int) -> Connection:
    """Be attached to a running container; its output goes to these descriptors from now on.

    Shape:  monitor_fd: a pidfd of its monitor
    Raises: CommandError when the container ends meanwhile
    """
    import _signal  # type: ignore[import-not-found]

    name = f"{REQUEST_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
    listening = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        _in_directory(container.path, listening.bind, name)
        listening.listen(1)
        _signal.pidfd_send_signal(monitor_fd, WAKE)
        if listening.fileno() not in _is_ready(listening.fileno(), monitor_fd):
            raise CommandError(f"container {container.name} ended before it could be attached to", exit_code=1)
        fd, _ = listening._accept()  # type: ignore[attr-defined]
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)
    finally:
        listening.close()
        _forget(f"{container.path}/{name}")
    try:
        if _peer(connection)[0] != container.state.monitor_pid:
            raise CommandError("the answer is not from the container's monitor", exit_code=1)
        return _exchange(connection, stdout_fd, stderr_fd)
    finally:
        connection.close()


def _exchange(connection: _socket.socket, stdout_fd: int, stderr_fd: int) -> Connection:
    report_read, report_write = os.pipe2(os.O_CLOEXEC)
    control_read, control_write = os.pipe2(os.O_CLOEXEC)
    try:
        _send(connection, b"attach", [stdout_fd, stderr_fd, control_read, report_write])
        word, descriptors = _receive(connection)
        if not word:
            raise CommandError("the container ended before it could be attached to", exit_code=1)
    except BaseException:
        os.close(report_read)
        os.close(control_write)
        raise
    finally:
        os.close(report_write)
        os.close(control_read)
    return Connection(control_write, report_read, descriptors[0] if descriptors else -1)


def take_requests(path: str, input_fd: int) -> list[Listener]:
    """The monitor's side: all who wait below path, each given the container's input, if it has one."""
    listeners = []
    for name in os.listdir(path):
        if is_request(name):
            listener = _answer(path, name, input_fd)
            if listener is not None:
                listeners.append(listener)
    return listeners


def _answer(path: str, name: str, input_fd: int) -> Listener | None:
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        _in_directory(path, connection.connect, name)
        _forget(f"{path}/{name}")
        if _peer(connection)[1] != os.geteuid() or not _is_ready(connection.fileno(), timeout_ms=_PATIENCE_MS):
            return None
        word, descriptors = _receive(connection)
        if word != b"attach" or len(descriptors) != _DESCRIPTORS:
            for fd in descriptors:
                os.close(fd)
            return None
        _send(connection, b"attached", [input_fd] if input_fd >= 0 else [])
    except OSError:
        # Its owner has gone; the name is all that is left.
        _forget(f"{path}/{name}")
        return None
    finally:
        connection.close()
    stdout_fd, stderr_fd, control_fd, report_fd = descriptors
    return Listener(control_fd, report_fd, [stdout_fd, stderr_fd], is_starter=False)


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
