"""Parent and child between clone and exec: the pipes between them, and what comes back."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import fcntl
import os

from minidock.errors import CommandError, MinidockError, SyscallError, UsageError
from minidock.linux import capabilities
from minidock.linux.process import clone_process, pidfd_open
from minidock.runtime.cgroup import Cgroup
from minidock.runtime.child import exec_error, run_child
from minidock.runtime.trampoline import make_trampoline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from minidock.runtime.apparmor import Place

_MSG_CMSG_CLOEXEC = 0x40000000
# What the trampoline adds to the errno of what it does before execve. Source: runtime.apparmor
_FAILED = 0x10000
# What tell_pid writes: a letter and a number.
_NEXT_BYTES = 9


def allowed_capabilities(add: Sequence[str], drop: Sequence[str], *, privileged: bool) -> int:
    """The capability mask of a new process, within what this process has itself.

    Raises: UsageError for one that was asked for by name and is not ours to give
    """
    mask, asked = capabilities.container_set(add, drop, privileged=privileged)
    ours = capabilities.permitted()
    if asked & ~ours:
        names = capabilities.words(asked & ~ours)
        raise UsageError(f"unable to apply caps: operation not permitted: {names}", hint="this host withholds them")
    return mask & ours


class Exchange:
    """The pipes between parent and child: errors up, the parent's life down, the terminal's master up.

    Shape: joins: for a process that joins a container through the trampoline, whose clone is the process then;
           clone_pid: its pid, known after outcome(); hands_over: the cloned child is followed by a sibling, whose pid
           is next_pid, known after outcome(); place: of the AppArmor profile
    """

    __slots__ = (
        "_early",
        "clone_pid",
        "console_child",
        "console_parent",
        "error_read",
        "error_write",
        "hands_over",
        "joins",
        "life_read",
        "life_write",
        "next_pid",
        "place",
        "trampoline",
    )

    def __init__(self, tty: bool, *, joins: bool = False, hands_over: bool = False, apparmor: str = "") -> None:
        self.place: Place | None = None
        if apparmor:
            from minidock.runtime.apparmor import Place

            self.place = Place(apparmor)
        self.hands_over = hands_over
        self.next_pid = 0
        self._early = b""
        self.error_read, self.error_write = _high_pipe()
        self.life_read, self.life_write = _high_pipe()
        life_fd = self.life_read if joins else None
        self.trampoline = make_trampoline(self.error_write, life_fd=life_fd, tty=tty, place=self.place)
        self.joins = joins and self.trampoline is not None
        self.clone_pid = 0
        self.console_parent = self.console_child = -1
        if tty:
            import _socket

            parent, child = _socket.socketpair()
            self.console_parent, self.console_child = (_high(parent.detach()), _high(child.detach()))

    def close_parent_side(self) -> None:
        """In the child: let go of the parent's ends, so that its death is seen."""
        for handle in (self.error_read, self.life_write, self.console_parent):
            if handle >= 0:
                os.close(handle)

    def close_child_side(self) -> None:
        """In the parent: let go of the child's ends, so that its success is seen."""
        for handle in (self.error_write, self.life_read, self.console_child):
            if handle >= 0:
                os.close(handle)
        if self.trampoline is not None:
            os.close(self.trampoline)
        if self.place is not None:
            os.close(self.place.fd)

    def close_rest(self) -> None:
        """In the parent, after the outcome is known."""
        for handle in (self.error_read, self.life_write, self.console_parent):
            if handle >= 0:
                os.close(handle)

    def release_child(self) -> None:
        """In the parent: let the child, which waits for the parent's next part, go on."""
        os.write(self.life_write, b"n")

    def send_console(self, master: int) -> None:
        """In the child: pass the terminal's master to the parent."""
        _send_fd(self.console_child, master)

    def tell_pid(self, pid: int) -> None:
        """In the sibling that follows the child: say its pid, before anything else."""
        os.write(self.error_write, b"N" + pid.to_bytes(8, "little"))

    def await_next(self) -> int:
        """In the parent: the pid of the sibling that follows the child, 0 when the child has failed before."""
        if self.next_pid:
            return self.next_pid
        while len(self._early) < _NEXT_BYTES and (chunk := os.read(self.error_read, _NEXT_BYTES - len(self._early))):
            self._early += chunk
        if self._early.startswith(b"N") and len(self._early) == _NEXT_BYTES:
            self.next_pid, self._early = int.from_bytes(self._early[1:], "little"), b""
        return self.next_pid

    def outcome(self) -> MinidockError | None:
        """In the parent: wait until the program runs (None) or the child says why not."""
        if self.hands_over and not self.next_pid and not self.await_next() and not self._early:
            return CommandError("the container's first process was killed before it began", exit_code=125)
        data = self._early
        while chunk := os.read(self.error_read, 8192):
            data += chunk
        if data.startswith(b"P"):
            # the trampoline ran: the program's path, and if it could not be executed, minus the errno
            program, _, data = data[1:].partition(b"\0")
            if _is_message(data):
                return _as_error(data)
            results = [
                int.from_bytes(data[start : start + 8], "little", signed=True) for start in range(0, len(data), 8)
            ]
            self.clone_pid = next((result for result in results if result > 0), 0)
            failed = next((result for result in results if result < 0), 0)
            if self.place is not None and failed < -_FAILED:
                from minidock.runtime.apparmor import failed as apparmor_failed

                return apparmor_failed(-failed - _FAILED)
            if failed:
                return exec_error(program, -failed)
            if self.joins and not self.clone_pid:
                return CommandError(f"exec {os.fsdecode(program)}: killed before it began", exit_code=126)
            return None
        return _as_error(data) if data else None

    def receive_console(self) -> int | None:
        """In the parent: the terminal's master, None if the child failed before."""
        return _receive_fd(self.console_parent) if self.console_parent >= 0 else None


def _is_message(data: bytes) -> bool:
    """Whether it is the child's words, and not numbers of eight bytes, whose upper half is all zeros or all ones."""
    return data[:2] in (b"C\0", b"S\0", b"U\0") and data[4:8] not in (bytes(4), b"\xff" * 4)


def _as_error(data: bytes) -> MinidockError:
    """What the child reported; see child.report."""
    kind, code, text = data.decode("utf-8", "surrogateescape").split("\0", 2)
    if kind == "C":
        return CommandError(text, exit_code=int(code))
    if kind == "S":
        return SyscallError(text, int(code))
    return UsageError(text)


def _high(handle: int) -> int:
    """Move a descriptor above the standard three, where a caller with closed ones may have got it."""
    if handle > 2:
        return handle
    moved = fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(handle)
    return moved


def _high_pipe() -> tuple[int, int]:
    first, second = os.pipe2(os.O_CLOEXEC)
    return _high(first), _high(second)


def _send_fd(channel: int, handle: int) -> None:
    end = _unix_socket(channel)
    try:
        end.sendmsg([b"c"], [(1, 1, handle.to_bytes(4, "little"))])
    finally:
        end.detach()


def _receive_fd(channel: int) -> int | None:
    end = _unix_socket(channel)
    try:
        _, ancillary, _, _ = end.recvmsg(1, 64, _MSG_CMSG_CLOEXEC)
    finally:
        end.detach()
    for _, _, data in ancillary:
        return int.from_bytes(data[:4], "little")
    return None


def _unix_socket(handle: int):  # type: ignore[no-untyped-def]
    import _socket

    return _socket.socket(1, 1, 0, handle)


def clone_and_settle(
    flags: int,
    exchange: Exchange,
    work: Callable[[], NoReturn],
    group: Cgroup,
    parts: Sequence[Callable[[int], None]] = (),
) -> tuple[int, int, int | None]:
    """Clone a child into the v2 group that does this work, and wait until its program runs.

    Shape:   parts: what the parent does while the child works, each called with the pid and then told to the child,
             which may wait for it; of a child that hands over, all but the first get the sibling's pid
    Returns: (pid, pidfd, the terminal's master or None)
    Raises:  what the child reported; the child is reaped then
    """
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    try:
        pid, pidfd = _clone(flags, group)
        if pid == 0:
            exchange.close_parent_side()
            run_child(work, exchange.error_write)
    except SyscallError:
        exchange.close_child_side()
        exchange.close_rest()
        raise
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
    console: int | None = None
    lost: SyscallError | None = None
    try:
        exchange.close_child_side()
        follower = pid
        for number, part in enumerate(parts):
            if number and exchange.hands_over:
                follower = exchange.await_next()
            if not follower or (lost := _take_part(exchange, part, follower)):
                break
        console = exchange.receive_console()
        error = exchange.outcome() or lost
    except BaseException:
        _end(pid, pidfd)
        if exchange.next_pid:
            _kill(exchange.next_pid)
        raise
    finally:
        exchange.close_rest()
    if error is not None:
        _end(pid, pidfd)
        for follower in (exchange.next_pid, exchange.clone_pid):
            if follower:
                _reap(follower)
        if console is not None:
            os.close(console)
        raise error
    for follower in (exchange.next_pid, exchange.clone_pid):
        if follower:
            _end(pid, pidfd)
            pid, pidfd = follower, pidfd_open(follower)
    return pid, pidfd, console


def _take_part(exchange: Exchange, part: Callable[[int], None], pid: int) -> SyscallError | None:
    """Do a part of the parent's and let the child go on. Returns: the error where it has ended, and may say why"""
    try:
        part(pid)
        exchange.release_child()
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EPIPE):
            raise
        return error if isinstance(error, SyscallError) else SyscallError("write(pipe)", error.errno)
    return None


def _clone(flags: int, group: Cgroup) -> tuple[int, int]:
    """Clone into the v2 group, or without it where that cannot be."""
    cgroup_fd = group.open_v2()
    if cgroup_fd is None:
        return clone_process(flags)
    try:
        return clone_process(flags, cgroup_fd)
    except SyscallError as error:
        if error.errno not in (errno.EBUSY, errno.EACCES, errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL, errno.E2BIG):
            raise
        return clone_process(flags)
    finally:
        os.close(cgroup_fd)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return


def _end(pid: int, pidfd: int) -> None:
    _kill(pid)
    os.close(pidfd)


def _kill(pid: int) -> None:
    """End and reap a child that has not been reaped."""
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        pass
    os.waitpid(pid, 0)
