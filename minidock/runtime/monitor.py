"""The process that stands behind a container's process: launches it, carries its output, tells how it ended.

    starter ──fork──▶ (setsid) ──fork──▶ monitor ──launch──▶ container's first process
       ▲                                    │  ▲
       └──────── report pipe: started, exit ┘  └── pipes or console: output

The monitor belongs to no session and no terminal of the caller. While the starter is attached, the monitor
copies output straight to the starter's own descriptors, so no byte takes a detour; a slow reader holds the
container back, as with docker. When the starter goes away, the monitor goes on, and puts the terminal back if
the starter could not. When the monitor dies, the kernel kills the container (its parent-death signal).
"""

from __future__ import annotations

import os
import time

from minidock.errors import CommandError, MinidockError
from minidock.runtime.carry import Carrier, Listener, Source
from minidock.runtime.signals import default_signals, drain, ignore_signals, open_wake

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from minidock.runtime.cgroup import Cgroup
    from minidock.runtime.health import Health
    from minidock.runtime.logs import StreamLog

_MAX_FD = 1 << 30
REQUEST_PREFIX = "attach-"
_LOADED_NS = time.time_ns()


class Streams:
    """What monitor and starter share.

    Shape: report_write: messages to the starter; control_read: its end means that the starter has gone, a byte that it
           detached; stdin_read, stdin_write: the pipe to the container's input, -1 without; stdout_fd, stderr_fd: the
           starter's own, -1 when detached; terminal_fd, terminal_attributes: what to restore, -1 and None without;
           handover: a socket on which the console's descriptor is passed to the starter, or None
    """

    __slots__ = (
        "control_read",
        "handover",
        "keeps_stdin",
        "report_write",
        "stderr_fd",
        "stdin_read",
        "stdin_write",
        "stdout_fd",
        "terminal_attributes",
        "terminal_fd",
    )

    def __init__(self, *, report_write: int, control_read: int) -> None:
        self.report_write = report_write
        self.control_read = control_read
        self.stdin_read = self.stdin_write = -1
        self.stdout_fd = self.stderr_fd = -1
        self.terminal_fd = -1
        self.terminal_attributes: list[Any] | None = None
        self.handover: Any = None
        self.keeps_stdin = False


class Launched:
    """A process that runs its program.

    Shape: pidfd and console_fd (the master of its terminal, None without one) belong to the caller
    Units: start_time: clock ticks since boot
    """

    __slots__ = ("cgroup", "console_fd", "pid", "pidfd", "start_time")

    def __init__(self, pid: int, pidfd: int, console_fd: int | None, cgroup: Cgroup, start_time: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.start_time = start_time
        self.console_fd = console_fd
        self.cgroup = cgroup


class Job:
    """What a monitor launches and what is to be noted about it; a container's first process, or an exec's."""

    # Whether others may wake the monitor for a request.
    takes_requests = False
    # The directory in which they leave it.
    request_path = ""
    __slots__ = ("tty",)

    def __init__(self, tty: bool) -> None:
        self.tty = tty

    def descriptors(self) -> list[int]:
        """What the monitor must keep open for this job."""
        return []

    def sockets(self) -> list[int]:
        """What it must keep bound."""
        return []

    def kept(self) -> dict[str, Any] | None:
        """What a successor of this monitor needs of the job, once the process runs; None when there can be none."""
        return None

    def prepare(self) -> None:
        """Do in the starter, for a shorter launch, what the monitor would otherwise do; may be left out."""

    def launch(self, stdin_fd: int, stdout_fd: int, stderr_fd: int) -> Launched:
        """Start the process; raises MinidockError."""
        raise NotImplementedError

    def stream_log(self, name: str) -> StreamLog | None:
        """Where a stream's bytes are kept, None for nowhere."""
        return None

    def started(self, launched: Launched) -> None:
        """The process runs."""

    def health(self) -> Health | None:
        """What sees to the health of the process that has just been started; None for nothing."""
        return None

    def failed(self, error: MinidockError) -> None:
        """The process could not be started."""

    def ended(self, launched: Launched, exit_code: int) -> int | None:
        """The process has ended and its output has been carried.

        Returns: after how many milliseconds it is to be started again, None for never
        """
        return None

    def is_wanted(self) -> bool:
        """Whether it is still to be started again; asked whenever the monitor has been woken."""
        return False

    def begin_again(self) -> bool:
        """Prepare for another start; False when there is to be none."""
        return False

    def given_up(self) -> None:
        """There is no other start after all."""


def fork_monitor(job: Job, streams: Streams, *, last: bool = False) -> None:
    """Start the monitor; returns in the caller as soon as it exists.

    Shape: last: the calling process ends no later than the monitor or soon after, so that its end need not be waited
           for: whoever adopts it does that
    """
    child = os.fork()
    if child and last:
        return
    if child:
        try:
            os.waitpid(child, 0)
        except ChildProcessError:
            # The calling program ignores SIGCHLD, and the kernel has reaped it.
            return
        return
    try:
        os.setsid()
        if last or os.fork() == 0:
            Monitor(job, streams).main()
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - nothing leaves a forked process but through _exit
        _report_bug(streams.report_write, error)
        os._exit(1)


def _report_bug(report_write: int, error: BaseException) -> None:
    """Tell the starter why the monitor gives up; whoever holds no end of that pipe is not told."""
    try:
        os.write(report_write, f"bug {type(error).__name__}: {error}".replace("\n", " ").encode() + b"\n")
    except OSError:
        return


class Monitor:
    """The monitor's own state; lives in its process only."""

    __slots__ = ("carrier", "is_small", "job", "launched", "sources", "streams", "wake_fd")

    def __init__(self, job: Job, streams: Streams, *, is_small: bool = False) -> None:
        self.is_small = is_small
        self.job = job
        self.streams = streams
        self.sources: list[Source] = []
        self.wake_fd = -1

    def main(self) -> NoReturn:
        """Do the job and end."""
        default_signals()
        os.chdir("/")
        os.umask(0o022)
        self._close_foreign()
        launched = self._try_launch()
        self._be_ready(launched)
        streams = self.streams
        starter = Listener(
            streams.control_read, streams.report_write, [streams.stdout_fd, streams.stderr_fd], is_starter=True
        )
        self.carrier.add(starter)
        self._let_go_of_caller()
        self.job.started(launched)
        starter.tell(f"started {launched.pid} {launched.start_time}")
        self._stay()

    def go_on(self, launched: Launched, sources: list[Source]) -> NoReturn:
        """Take over from the program that this process was; see succession.py."""
        self.sources = sources
        self._be_ready(launched)
        if self.job.takes_requests and any(map(is_request, os.listdir(self.job.request_path))):
            # Whoever asked meanwhile may have woken the old one.
            self._woken()
        self._stay()

    def _be_ready(self, launched: Launched) -> None:
        self.launched = launched
        ignore_signals()
        if self.job.takes_requests:
            self.wake_fd = open_wake()
        self._new_carrier()

    def _stay(self) -> NoReturn:
        """Stay with the process, and with those that follow it."""
        while True:
            delay_ms = self._carry(self.launched)
            if delay_ms is None:
                os._exit(0)
            self._forget(self.launched)
            if not self._pause(delay_ms) or not self.job.begin_again():
                self.job.given_up()
                os._exit(0)
            self.launched = self._try_launch()
            self.is_small = False
            self._new_carrier()
            self.job.started(self.launched)

    def _new_carrier(self) -> None:
        self.carrier = Carrier(self.sources, left=self._listener_left, wake_fd=self.wake_fd, woken=self._woken)

    def _woken(self) -> None:
        """Somebody asks to be attached."""
        from minidock.runtime.requests import take_requests

        drain(self.wake_fd)
        console = self.job.tty
        input_fd = self.sources[0].fd if console else self.streams.stdin_write
        for listener in take_requests(self.job.request_path, input_fd):
            self.carrier.add(listener)
            for fd in listener.targets:
                if fd >= 0:
                    os.close(fd)

    def _try_launch(self) -> Launched:
        try:
            return self._launch()
        except MinidockError as error:
            self._fail(error)
        except OSError as error:
            self._fail(CommandError(f"the container could not be started: {error}", exit_code=125))

    def _carry(self, launched: Launched) -> int | None:
        """Carry output until the process has ended; when it is to be started again, None for never."""
        carrier = self.carrier
        health = self.job.health()
        if health is not None:
            # Each probe joins the container, which takes all that a start does.
            carrier.ask(health)
        elif not self.is_small:
            carrier.when_left_alone(self._become_small)
        carrier.carry(launched.pidfd)
        exit_code = _exit_code(launched.pid)
        # Recorded before the last bytes are handed over: a reader that stands still must not keep it from others.
        delay_ms = self.job.ended(launched, exit_code)
        carrier.flush()
        for listener in carrier.listeners:
            listener.tell(f"exit {exit_code}")
            listener.close()
        return delay_ms

    def _become_small(self) -> None:
        """Go on as another program, which has nothing in memory of what a start takes; returns where that fails."""
        self.is_small = True
        try:
            from minidock.runtime.succession import succeed
        except BaseException:  # noqa: BLE001 - an upgrade is replacing its file at this moment, by whatever
            return
        succeed(self, _LOADED_NS)

    def _forget(self, launched: Launched) -> None:
        """Give back what belonged to a process that has ended; its starter has been told the exit code and goes."""
        streams = self.streams
        for fd in (launched.pidfd, *(one.fd for one in self.sources)):
            os.close(fd)
        streams.report_write = streams.control_read = -1
        # The terminal is no business of a process that is started without a starter.
        streams.terminal_attributes = None
        self.sources = []
        if streams.stdin_write >= 0 and streams.keeps_stdin:
            os.close(streams.stdin_write)
            streams.stdin_read, streams.stdin_write = os.pipe2(os.O_CLOEXEC)

    def _pause(self, delay_ms: int) -> bool:
        """Wait before another start; False when somebody ends the container meanwhile."""
        import select

        poll = select.poll()
        poll.register(self.wake_fd, select.POLLIN)
        end = time.monotonic() + delay_ms / 1000
        while self.job.is_wanted():
            left_ms = int((end - time.monotonic()) * 1000)
            if left_ms <= 0:
                return True
            if poll.poll(left_ms):
                drain(self.wake_fd)
        return False

    def _fail(self, error: MinidockError) -> NoReturn:
        from minidock.formats.gojson import encode_json

        self.job.failed(error)
        words = {
            "exit_code": error.exit_code,
            "message": error.message,
            "hint": error.hint,
            "kind": type(error).__name__,
        }
        if not self._report("failed " + encode_json(words).decode("utf-8", "replace")):
            self._restore_terminal()
        os._exit(0)

    def _close_foreign(self) -> None:
        """Let go of every descriptor that is not the monitor's, the starter's ends of its pipes among them."""
        streams = self.streams
        keep = {0, 1, 2, *self.job.descriptors(), streams.report_write, streams.control_read, streams.stdin_read}
        keep |= {streams.stdout_fd, streams.stderr_fd, streams.terminal_fd}
        keep.update(self.job.sockets())
        if streams.keeps_stdin:
            keep.add(streams.stdin_write)
        if streams.handover is not None:
            keep.add(streams.handover.fileno())
        low = 0
        for fd in sorted(keep):
            # An empty range would reach close_range(2) as "up to the last one".
            if fd > low:
                os.closerange(low, fd)
            low = max(low, fd + 1)
        os.closerange(low, _MAX_FD)

    def _launch(self) -> Launched:
        streams = self.streams
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        if self.job.tty:
            launched = self.job.launch(null, null, null)
            os.close(null)
            if launched.console_fd is None:
                raise CommandError("the container's terminal did not come", exit_code=125)
            if streams.stdout_fd >= 0:
                from minidock.runtime.tty import copy_size

                copy_size(streams.terminal_fd if streams.terminal_fd >= 0 else streams.stdout_fd, launched.console_fd)
            self._add_source(launched.console_fd, "stdout")
            return launched
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        error_read, error_write = os.pipe2(os.O_CLOEXEC)
        stdin = streams.stdin_read if streams.stdin_read >= 0 else null
        launched = self.job.launch(stdin, out_write, error_write)
        for fd in (null, out_write, error_write, streams.stdin_read):
            if fd >= 0:
                os.close(fd)
        streams.stdin_read = -1
        self._add_source(out_read, "stdout")
        self._add_source(error_read, "stderr")
        return launched

    def _add_source(self, fd: int, name: str) -> None:
        os.set_blocking(fd, False)
        self.sources.append(Source(fd, self.job.stream_log(name)))

    def _let_go_of_caller(self) -> None:
        """Keep nothing of what the caller had open, so that no pipe of his waits for this container's end."""
        streams = self.streams
        if streams.handover is not None:
            _send_descriptor(streams.handover, self.sources[0].fd)
            streams.handover.close()
            streams.handover = None
        if streams.terminal_fd >= 0:
            streams.terminal_fd = os.dup(streams.terminal_fd)
        for fd in {streams.stdout_fd, streams.stderr_fd}:
            if fd > 2:
                os.close(fd)
        streams.stdout_fd = streams.stderr_fd = -1
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        if null > 2:
            os.close(null)

    def _report(self, message: str) -> bool:
        """Tell the starter; False when it has gone."""
        try:
            os.write(self.streams.report_write, message.encode("utf-8", "surrogateescape") + b"\n")
        except OSError:
            return False
        return True

    def _restore_terminal(self) -> None:
        """Put the caller's terminal back, since the starter was killed before it could."""
        if self.streams.terminal_attributes is not None:
            from minidock.runtime.tty import restore

            restore(self.streams.terminal_fd, self.streams.terminal_attributes)

    def _listener_left(self, listener: Listener, said_so: bool) -> None:
        """A listener detached and said so, or it died."""
        if not listener.is_starter:
            return
        if not said_so:
            self._restore_terminal()
        streams = self.streams
        if streams.stdin_write >= 0 and not streams.keeps_stdin:
            os.close(streams.stdin_write)
            streams.stdin_write = -1


def is_request(name: str) -> bool:
    """Whether a file in a container's directory is one by which somebody asks to be attached; see requests.py."""
    return name.startswith(REQUEST_PREFIX)


def _send_descriptor(handover: Any, fd: int) -> None:
    import _socket

    rights = fd.to_bytes(4, "little")
    try:
        handover.sendmsg([b"c"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    except OSError:
        return


def _exit_code(pid: int) -> int:
    """The container's exit code; 128 and the signal's number for one that was killed."""
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
