"""The process that stands behind a running container: launches it, keeps its log, records how it ended.

    starter ──fork──▶ (setsid) ──fork──▶ monitor ──launch──▶ container's first process
       ▲                                    │  ▲
       └──────── report pipe: started, exit ┘  └── pipes or console: output

The monitor belongs to no session and no terminal of the caller. While the starter is attached, the monitor
copies output straight to the starter's own descriptors, so no byte takes a detour; a slow reader holds the
container back, as with docker. When the starter goes away, the monitor goes on, and puts the terminal back if
the starter could not. When the monitor dies, the kernel kills the container (its parent-death signal).
"""

from __future__ import annotations

import _signal
import os
import select
import time

from minidock.errors import CommandError, MinidockError
from minidock.runtime.logs import LogFile, StreamLog
from minidock.store.containerstate import ContainerState
from minidock.store.transaction import boot_id, start_time, write_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.runtime.launch import Launched
    from minidock.runtime.plan import ContainerSpec
    from minidock.store.containers import Container, ContainerLock

_CHUNK_BYTES = 64 << 10
# How long output may stay open without a byte after the first process has ended (moby: 3 s as well).
_DRAIN_MS = 3000
_IN = select.POLLIN | select.POLLHUP | select.POLLERR


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


class _Sink:
    """One of the starter's descriptors, written without ever blocking the monitor."""

    __slots__ = ("fd", "limit_bytes", "pending")

    def __init__(self, fd: int) -> None:
        # Opening it anew gives a non-blocking description of our own: flags set on the shared one would be the caller's.
        self.limit_bytes = 1 << 20
        self.pending = b""
        try:
            self.fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            if _is_file(self.fd):
                # A second description has a position of its own and would overwrite; keep the caller's.
                os.close(self.fd)
                self.fd = os.dup(fd)
        except OSError:
            self.fd = os.dup(fd)
            self.limit_bytes = select.PIPE_BUF

    def push(self) -> bool:
        """Write what is pending as far as it goes; False once nobody reads any more."""
        while self.pending:
            try:
                done = os.write(self.fd, self.pending[: self.limit_bytes])
            except BlockingIOError:
                return True
            except OSError:
                return False
            self.pending = self.pending[done:]
            if self.limit_bytes == select.PIPE_BUF:
                return True
        return True

    def close(self) -> None:
        os.close(self.fd)


def _is_file(fd: int) -> bool:
    return (os.fstat(fd).st_mode & 0o170000) == 0o100000


class _Source:
    """One of the container's output streams."""

    __slots__ = ("fd", "log", "sink")

    def __init__(self, fd: int, log: StreamLog, sink: _Sink | None) -> None:
        self.fd = fd
        self.log = log
        self.sink = sink


def fork_monitor(container: Container, lock: ContainerLock, spec: ContainerSpec, streams: Streams) -> None:
    """Start the monitor; returns in the caller as soon as it exists.

    Shape: the lock passes to the monitor, which gives it up when the container runs
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    status = 1
    try:
        os.setsid()
        if os.fork() == 0:
            _Monitor(container, lock, spec, streams).main()
        status = 0
    finally:
        os._exit(status)


class _Monitor:
    """The monitor's own state; lives in its process only."""

    def __init__(self, container: Container, lock: ContainerLock, spec: ContainerSpec, streams: Streams) -> None:
        self.container = container
        self.lock = lock
        self.spec = spec
        self.streams = streams
        self.auto_remove = container.state.auto_remove
        self.exit_fd = -1
        self.sources: list[_Source] = []
        self.engine_fd = -1

    def main(self) -> None:
        _default_signals()
        os.chdir("/")
        os.umask(0o022)
        try:
            self.engine_fd = self.container.root.hold_against_engine()
            launched = self._launch()
        except MinidockError as error:
            self._record_failure(error)
            return
        except OSError as error:
            self._record_failure(CommandError(f"start of the container failed: {error}", exit_code=125))
            return
        started_ns = time.time_ns()
        _ignore_signals()
        state = self._publish(launched, started_ns)
        self._let_go_of_caller()
        self.lock.release()
        self._report(f"started {launched.pid} {launched.start_time}")
        self._copy_until_end(launched)
        exit_code = _exit_code(launched.pid)
        self._record_end(launched, state, exit_code)
        self._report(f"exit {exit_code}")

    def _launch(self) -> Launched:
        from minidock.runtime.launch import launch

        streams = self.streams
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        trace = self.container.root.trace
        log = LogFile(self.container.log_path)
        if self.spec.tty:
            launched = launch(self.spec, stdin_fd=null, stdout_fd=null, stderr_fd=null, trace=trace)
            os.close(null)
            self._add_source(launched.console_fd, StreamLog("stdout", log.write), streams.stdout_fd)
            return launched
        out_read, out_write = os.pipe()
        error_read, error_write = os.pipe()
        stdin = streams.stdin_read if streams.stdin_read >= 0 else null
        launched = launch(self.spec, stdin_fd=stdin, stdout_fd=out_write, stderr_fd=error_write, trace=trace)
        for fd in (null, out_write, error_write, streams.stdin_read):
            if fd >= 0:
                os.close(fd)
        streams.stdin_read = -1
        self._add_source(out_read, StreamLog("stdout", log.write), streams.stdout_fd)
        self._add_source(error_read, StreamLog("stderr", log.write), streams.stderr_fd)
        return launched

    def _add_source(self, fd: int | None, log: StreamLog, target: int) -> None:
        assert fd is not None
        os.set_blocking(fd, False)
        sink = _Sink(target) if target >= 0 else None
        self.sources.append(_Source(fd, log, sink))

    def _publish(self, launched: Launched, started_ns: int) -> ContainerState:
        """Say that it runs, and make what `wait` reads after an automatic removal."""
        pid = os.getpid()
        state = ContainerState(
            status="running",
            pid=launched.pid,
            start_time=launched.start_time,
            started_ns=started_ns,
            monitor_pid=pid,
            monitor_start_time=start_time(pid) or 0,
            boot_id=boot_id(),
            auto_remove=self.auto_remove,
        )
        if self.auto_remove:
            path = exit_path(self.container)
            if os.path.lexists(path):
                os.unlink(path)
            write_new(path, b"", 0o600)
            self.exit_fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self.container.write_state(state)
        return state

    def _let_go_of_caller(self) -> None:
        """Keep nothing of what the caller had open, so that no pipe of his waits for this container's end."""
        streams = self.streams
        if streams.handover is not None:
            _send_descriptor(streams.handover, self.sources[0].fd)
            streams.handover.close()
            streams.handover = None
        if streams.terminal_fd >= 0:
            streams.terminal_fd = os.dup(streams.terminal_fd)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for fd in (0, 1, 2):
            os.dup2(null, fd)

    def _report(self, message: str) -> None:
        try:
            os.write(self.streams.report_write, message.encode("utf-8", "surrogateescape") + b"\n")
        except OSError:
            return

    def _copy_until_end(self, launched: Launched) -> None:
        """Carry output until the first process has ended and its streams are dry."""
        poll = select.poll()
        poll.register(launched.pidfd, select.POLLIN)
        if self.streams.control_read >= 0:
            poll.register(self.streams.control_read, _IN)
        by_fd = {source.fd: source for source in self.sources}
        by_sink = {source.sink.fd: source for source in self.sources if source.sink is not None}
        for source in self.sources:
            poll.register(source.fd, _IN)
        ended = False
        while by_fd or not ended:
            waiting = any(source.sink and source.sink.pending for source in by_fd.values())
            events = poll.poll(_DRAIN_MS if ended and not waiting else None)
            if not events:
                break
            for fd, _ in events:
                if fd == launched.pidfd:
                    ended = True
                    poll.unregister(fd)
                elif fd == self.streams.control_read:
                    poll.unregister(fd)
                    self._starter_left(poll, by_fd, by_sink)
                elif fd in by_sink:
                    self._push(poll, by_sink[fd], by_fd, by_sink)
                elif fd in by_fd:
                    self._pull(poll, by_fd[fd], by_fd, by_sink)
        for source in self.sources:
            source.log.finish()

    def _pull(
        self, poll: select.poll, source: _Source, by_fd: dict[int, _Source], by_sink: dict[int, _Source]
    ) -> None:
        try:
            data = os.read(source.fd, _CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            # A console whose last user has gone says EIO.
            data = b""
        if not data:
            poll.unregister(source.fd)
            del by_fd[source.fd]
            return
        source.log.feed(data, time.time_ns())
        if source.sink is not None:
            source.sink.pending = data
            self._push(poll, source, by_fd, by_sink)

    def _push(
        self, poll: select.poll, source: _Source, by_fd: dict[int, _Source], by_sink: dict[int, _Source]
    ) -> None:
        """Write to the starter; while it does not take more, nothing more is read from the container."""
        sink = source.sink
        if sink is None:
            return
        if not sink.push():
            self._drop_sink(poll, source, by_fd, by_sink)
            self._report("broken-pipe")
        elif sink.pending:
            _register(poll, sink.fd, select.POLLOUT)
            _register(poll, source.fd, 0)
        else:
            _unregister(poll, sink.fd)
            if source.fd in by_fd:
                _register(poll, source.fd, _IN)

    def _drop_sink(
        self, poll: select.poll, source: _Source, by_fd: dict[int, _Source], by_sink: dict[int, _Source]
    ) -> None:
        if source.sink is not None:
            _unregister(poll, source.sink.fd)
            del by_sink[source.sink.fd]
            source.sink.close()
            source.sink = None
        if source.fd in by_fd:
            _register(poll, source.fd, _IN)

    def _starter_left(self, poll: select.poll, by_fd: dict[int, _Source], by_sink: dict[int, _Source]) -> None:
        streams = self.streams
        try:
            said_so = bool(os.read(streams.control_read, 1))
        except OSError:
            said_so = False
        os.close(streams.control_read)
        streams.control_read = -1
        if not said_so and streams.terminal_attributes is not None:
            from minidock.runtime.tty import restore

            restore(streams.terminal_fd, streams.terminal_attributes)
        if streams.stdin_write >= 0 and not streams.keeps_stdin:
            os.close(streams.stdin_write)
            streams.stdin_write = -1
        for source in self.sources:
            self._drop_sink(poll, source, by_fd, by_sink)

    def _record_end(self, launched: Launched, state: ContainerState, exit_code: int) -> None:
        for source in self.sources:
            if source.sink is not None:
                source.sink.close()
        try:
            launched.cgroup.kill_all()
            launched.cgroup.remove()
        except (MinidockError, OSError) as error:
            state.error = str(error)
        state.status = "exited"
        state.pid = 0
        state.exit_code = exit_code
        state.finished_ns = time.time_ns()
        try:
            if self.exit_fd >= 0:
                os.write(self.exit_fd, str(exit_code).encode("ascii"))
            self.container.record_exit(state, durable=not self.auto_remove)
            if self.auto_remove:
                remove_stopped(self.container)
        except (MinidockError, OSError):
            # The next command that looks at this container finds its process gone and says so.
            return

    def _record_failure(self, error: MinidockError) -> None:
        """The command could not be started: keep that with the container, and tell the starter."""
        from minidock.formats.gojson import encode_json

        exit_code = error.exit_code
        try:
            from minidock.runtime.cgroup import Cgroup

            Cgroup.open(self.container.id, self.spec.cgroup_parent).remove()
        except (MinidockError, OSError) as failure:
            error.add_note(f"cleaning up: {failure}")
        state = self.container.state
        state.exit_code = exit_code
        state.error = error.message
        try:
            self.container.record_exit(state, durable=not self.auto_remove)
            if self.auto_remove:
                self.container.root.containers.remove(self.container)
        except (MinidockError, OSError) as failure:
            error.add_note(f"cleaning up: {failure}")
        message = {"exit_code": exit_code, "message": error.message, "hint": error.hint, "kind": type(error).__name__}
        self._report("failed " + encode_json(message).decode("utf-8", "replace"))


def exit_path(container: Container) -> str:
    """The file that tells a waiting command how a container ended that is removed by then."""
    from minidock.store.containers import EXIT_FILE

    return f"{container.path}/{EXIT_FILE}"


def remove_stopped(container: Container) -> None:
    """Remove a container after its end, unless someone else does; raises MinidockError."""
    from minidock.errors import NoSuchContainer

    try:
        with container.lock():
            container.root.containers.remove(container)
    except NoSuchContainer:
        return


def _register(poll: select.poll, fd: int, events: int) -> None:
    poll.register(fd, events)


def _unregister(poll: select.poll, fd: int) -> None:
    try:
        poll.unregister(fd)
    except KeyError:
        return


def _send_descriptor(handover: Any, fd: int) -> None:
    import _socket

    rights = fd.to_bytes(4, "little")
    try:
        handover.sendmsg([b"c"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    except OSError:
        return


_IGNORED = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM, _signal.SIGUSR1, _signal.SIGUSR2)


def _default_signals() -> None:
    """Undo the starter's handlers; the container's process starts from these."""
    _signal.set_wakeup_fd(-1)
    from minidock.runtime.signals import FORWARDED

    for number in FORWARDED:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])


def _ignore_signals() -> None:
    """A signal sent to everything of the caller's must not take the monitor, and with it the container, away."""
    for number in _IGNORED:
        _signal.signal(number, _signal.SIG_IGN)


def _exit_code(pid: int) -> int:
    """The container's exit code; 128 and the signal's number for one that was killed."""
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
