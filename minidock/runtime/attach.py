"""The starter's side of an attached container: input, signals, the raw terminal, the exit code.

Output is not handled here: the monitor writes it straight to the starter's descriptors.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import select

from minidock.errors import CommandError, Conflict, MinidockError, SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from minidock.store.containers import Container

_CHUNK_BYTES = 64 << 10
_IN = select.POLLIN | select.POLLHUP | select.POLLERR
EXIT_KILLED = 137


class Signals:
    """Collects the signals that are to be passed on, instead of dying of them.

    A context manager. Shape: fd becomes readable with one byte a signal; -1 outside the main thread, where Python
    cannot handle signals; passed_on False collects changes of the window's size alone
    """

    __slots__ = ("_old", "_old_wakeup", "_passed_on", "_write_fd", "fd")

    def __init__(self, *, passed_on: bool = True) -> None:
        self._passed_on = passed_on
        self.fd = self._write_fd = -1
        self._old: list[tuple[int, Any]] = []
        self._old_wakeup = -1

    def __enter__(self) -> Signals:
        from minidock.runtime.signals import FORWARDED

        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._old_wakeup = _signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        except ValueError:
            os.close(read_fd)
            os.close(write_fd)
            return self
        self.fd, self._write_fd = read_fd, write_fd
        for number in FORWARDED if self._passed_on else (_signal.SIGWINCH,):
            self._old.append((number, _signal.signal(number, _nothing)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.fd < 0:
            return
        for number, handler in self._old:
            _signal.signal(number, handler if handler is not None else _signal.SIG_DFL)
        _signal.set_wakeup_fd(self._old_wakeup)
        os.close(self.fd)
        os.close(self._write_fd)
        self.fd = -1

    def take(self) -> bytes:
        """The signals that came since the last call, one byte each."""
        try:
            return os.read(self.fd, 4096)
        except BlockingIOError:
            return b""


def _nothing(number: int, frame: Any) -> None:
    """The wake-up descriptor has told already."""


class Reports:
    """The monitor's messages, one a line."""

    __slots__ = ("_rest", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._rest = b""

    def next(self) -> str | None:
        """Wait for one message; None when the monitor has gone without another."""
        while b"\n" not in self._rest:
            data = os.read(self.fd, 4096)
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("utf-8", "surrogateescape")

    def has_more(self) -> bool:
        """Whether a whole message has been read already."""
        return b"\n" in self._rest

    def started(self) -> tuple[int, int]:
        """Wait until the container runs.

        Returns: (pid, start_time)
        Raises:  the monitor's error as it was raised there
        """
        message = self.next()
        if message is None:
            raise CommandError("the container's monitor died before the command was started", exit_code=125)
        word, _, rest = message.partition(" ")
        if word == "failed":
            raise _error_from(rest)
        if word == "bug":
            raise CommandError(f"the container's monitor gave up: {rest}", exit_code=125)
        pid, _, ticks = rest.partition(" ")
        return int(pid), int(ticks)


def _error_from(text: str) -> MinidockError:
    from minidock import errors
    from minidock.formats.gojson import parse_json

    value = parse_json(text.encode("utf-8", "replace"), what="monitor", limit_bytes=1 << 20)
    message, hint = str(value.get("message", "")), str(value.get("hint", ""))
    kind = getattr(errors, str(value.get("kind")), None)
    if isinstance(kind, type) and issubclass(kind, MinidockError) and kind.__init__ is MinidockError.__init__:
        return kind(message, hint=hint)
    return CommandError(message, exit_code=int(value.get("exit_code", 125)), hint=hint)


class Attachment:
    """Runs until the container ends or the user detaches.

    Shape: input_fd: the write end of the container's input pipe, or the console with a terminal, -1 without input;
           stdin_fd: what is copied there, -1 for nothing; console_fd: the container's console, -1 without;
           input_only: no output is wanted, so that the end of the input is the end of it all
    """

    __slots__ = (
        "_keys",
        "_pending",
        "console_fd",
        "control_fd",
        "input_fd",
        "input_only",
        "pidfd",
        "reports",
        "signals",
        "stdin_fd",
        "terminal_fd",
    )

    def __init__(
        self,
        reports: Reports,
        signals: Signals,
        *,
        control_fd: int,
        pidfd: int,
        stdin_fd: int,
        input_fd: int,
        input_only: bool = False,
    ) -> None:
        self.reports = reports
        self.signals = signals
        self.control_fd = control_fd
        self.pidfd = pidfd
        self.stdin_fd = stdin_fd
        self.input_fd = input_fd
        self.input_only = input_only
        self.console_fd = -1
        self.terminal_fd = -1
        self._pending = b""
        self._keys: Any = None

    def use_console(self, console_fd: int, terminal_fd: int, keys: Any) -> None:
        """The container has a terminal: pass its size on, and look for the detach keys."""
        self.console_fd = self.input_fd = console_fd
        self.terminal_fd = terminal_fd
        self._keys = keys
        self._resize()

    def close(self) -> None:
        """Give back what belongs to the attachment."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
        for fd in {self.console_fd, self.input_fd}:
            if fd >= 0:
                os.close(fd)

    def run(self) -> int | None:
        """Copy and forward until the end.

        Returns: the exit code; None when the user detached
        Raises:  BrokenPipeError when the caller's output is closed, as a writer of its own would get
        """
        poll = select.poll()
        poll.register(self.reports.fd, _IN)
        if self.signals.fd >= 0:
            poll.register(self.signals.fd, _IN)
        self._watch_input(poll)
        while True:
            for fd, events in poll.poll():
                if fd == self.reports.fd:
                    code = self._read_report()
                    if code is not None:
                        return code
                elif fd == self.signals.fd:
                    self._forward()
                elif fd == self.stdin_fd and not self._pending:
                    self._read_input(poll)
                    if self._keys is not None and self._keys.detached:
                        os.write(self.control_fd, b"d")
                        return None
                elif fd == self.input_fd:
                    if events & select.POLLERR and self.console_fd < 0:
                        self._end_input(poll)
                    else:
                        self._write_input(poll)
            if self.input_only and self.stdin_fd < 0:
                os.write(self.control_fd, b"d")
                return None

    def _read_report(self) -> int | None:
        while True:
            message = self.reports.next()
            if message is None:
                # The monitor was killed, and the kernel kills the container with it.
                if self.pidfd >= 0:
                    wait_process(self.pidfd)
                return EXIT_KILLED
            if message.startswith("exit "):
                return int(message[5:])
            if message == "broken-pipe":
                raise BrokenPipeError("the output is closed")
            if not self.reports.has_more():
                return None

    def _watch_input(self, poll: select.poll) -> None:
        if self.stdin_fd >= 0 and self.input_fd >= 0:
            os.set_blocking(self.input_fd, False)
            poll.register(self.stdin_fd, _IN)
            if self.console_fd < 0:
                poll.register(self.input_fd, 0)

    def _read_input(self, poll: select.poll) -> None:
        try:
            data = os.read(self.stdin_fd, _CHUNK_BYTES)
        except OSError:
            data = b""
        if not data:
            self._end_input(poll)
            return
        self._pending = self._keys.filter(data) if self._keys is not None else data
        if self._pending:
            self._write_input(poll)

    def _write_input(self, poll: select.poll) -> None:
        try:
            while self._pending:
                self._pending = self._pending[os.write(self.input_fd, self._pending) :]
        except BlockingIOError:
            poll.register(self.input_fd, select.POLLOUT)
            # Taken out and not only masked: the end of a pipe is reported whatever the mask.
            _unregister(poll, self.stdin_fd)
            return
        except OSError:
            # The container closed its input, or ended.
            self._end_input(poll)
            return
        if self.console_fd < 0:
            poll.register(self.input_fd, 0)
        else:
            _unregister(poll, self.input_fd)
        if self.stdin_fd >= 0:
            poll.register(self.stdin_fd, _IN)

    def _end_input(self, poll: select.poll) -> None:
        """Half close: the container reads the end of its input, and its output goes on."""
        self._pending = b""
        _unregister(poll, self.stdin_fd)
        self.stdin_fd = -1
        if self.console_fd < 0 and self.input_fd >= 0:
            _unregister(poll, self.input_fd)
            os.close(self.input_fd)
        self.input_fd = -1

    def _forward(self) -> None:
        for number in self.signals.take():
            if number == _signal.SIGWINCH and self.console_fd >= 0:
                self._resize()
                continue
            try:
                _signal.pidfd_send_signal(self.pidfd, number)
            except OSError:
                return

    def _resize(self) -> None:
        from minidock.runtime.tty import copy_size

        copy_size(self.terminal_fd, self.console_fd)


def _unregister(poll: select.poll, fd: int) -> None:
    try:
        poll.unregister(fd)
    except (KeyError, ValueError):
        return


def open_process(pid: int, start_time: int) -> int:
    """A pidfd of exactly this process, -1 when it has ended.

    Shape: start_time guards against a pid that was given anew meanwhile
    """
    from minidock.store.transaction import start_time as start_time_now

    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return -1
    if start_time_now(pid) != start_time:
        os.close(pidfd)
        return -1
    return pidfd


def refuse_foreign(container: Container) -> None:
    """Raise Conflict for a running container that only another pid namespace can reach."""
    if container.state.is_foreign() and (container.is_running() or container.state.is_restarting()):
        raise Conflict(
            f"container {container.name} is run from another pid namespace", hint="use minidock where it was started"
        )


def wait_process(pidfd: int, timeout_s: float | None = None) -> bool:
    """Wait for a process's end; False when the time is over first."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000))))


def receive_descriptor(handover: Any) -> int:
    """The container's console from the monitor; raises SyscallError."""
    import _socket
    import errno

    _, rights, _, _ = handover.recvmsg(1, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in rights:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return int.from_bytes(data[:4], "little")
    raise SyscallError("recvmsg(console)", errno.EBADF)
