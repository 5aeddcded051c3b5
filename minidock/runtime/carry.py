"""Output on its way: from the container's streams into the log and to the descriptors of those who listen."""

from __future__ import annotations

import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minidock.runtime.health import Health
    from minidock.runtime.logs import StreamLog

_CHUNK_BYTES = 64 << 10
# How long output may stay open without a byte after the first process has ended (moby: 3 s as well).
_DRAIN_MS = 3000
# How long nobody has listened by the time that the monitor is told.
ALONE_MS = 1000
_IN = select.POLLIN | select.POLLHUP | select.POLLERR


class Sink:
    """One of a listener's descriptors, written without ever blocking the monitor."""

    __slots__ = ("fd", "limit_bytes", "pending")

    def __init__(self, fd: int) -> None:
        # Opened anew, it is a non-blocking description of our own; flags set on the shared one would be the caller's.
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
        """Give the descriptor back."""
        os.close(self.fd)


def _is_file(fd: int) -> bool:
    return (os.fstat(fd).st_mode & 0o170000) == 0o100000


class Source:
    """One of the container's output streams."""

    __slots__ = ("fd", "log", "sinks")

    def __init__(self, fd: int, log: StreamLog | None) -> None:
        self.fd = fd
        self.log = log
        self.sinks: list[Sink] = []

    @property
    def is_held_back(self) -> bool:
        """Whether a listener has not taken yet what came before."""
        return any(sink.pending for sink in self.sinks)


class Listener:
    """Who gets the output: the starter, or one who attached later.

    Shape: control_fd: its end means that the listener has gone, a byte that it detached; report_fd: takes messages,
           one a line; targets: its descriptors for the sources, in their order, -1 for none
    """

    __slots__ = ("control_fd", "is_starter", "report_fd", "targets")

    def __init__(self, control_fd: int, report_fd: int, targets: list[int], *, is_starter: bool) -> None:
        self.control_fd = control_fd
        self.report_fd = report_fd
        self.targets = targets
        self.is_starter = is_starter

    def tell(self, message: str) -> None:
        """Send a message; one who has gone misses nothing."""
        try:
            os.write(self.report_fd, message.encode("utf-8", "surrogateescape") + b"\n")
        except OSError:
            return

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in (self.control_fd, self.report_fd):
            if fd >= 0:
                os.close(fd)
        self.control_fd = self.report_fd = -1


class Carrier:
    """Carries bytes, and never waits for a listener that has gone.

    Shape: left(listener, said_so) is called when a listener leaves; woken when wake_fd has been read
    """

    __slots__ = (
        "_alone_from",
        "_by_control",
        "_by_sink",
        "_by_source",
        "_left_alone",
        "_poll",
        "_sources",
        "ended",
        "health",
        "left",
        "wake_fd",
        "woken",
    )

    def __init__(
        self,
        sources: list[Source],
        *,
        left: Callable[[Listener, bool], None],
        wake_fd: int = -1,
        woken: Callable[[], None] | None = None,
    ) -> None:
        self._sources = sources
        self._poll = select.poll()
        self._by_source = {source.fd: source for source in sources}
        self._by_sink: dict[int, tuple[Source, Sink, Listener]] = {}
        self._by_control: dict[int, Listener] = {}
        self.left = left
        self.wake_fd = wake_fd
        self.woken = woken
        self.ended = False
        self.health: Health | None = None
        self._left_alone: Callable[[], None] | None = None
        self._alone_from = 0.0
        if wake_fd >= 0:
            self._poll.register(wake_fd, _IN)

    def ask(self, health: Health) -> None:
        """From now on see to the container's health, too."""
        self.health = health
        health.watch(self._poll)

    def when_left_alone(self, act: Callable[[], None]) -> None:
        """Call this, once, when for a while nobody has listened and the process goes on."""
        self._left_alone = act
        self._alone_from = time.monotonic()

    @property
    def listeners(self) -> list[Listener]:
        """Those who have not left."""
        return list(self._by_control.values())

    def add(self, listener: Listener) -> None:
        """From now on this listener gets the output, too."""
        self._by_control[listener.control_fd] = listener
        self._poll.register(listener.control_fd, _IN)
        for source, target in zip(self._sources, listener.targets, strict=False):
            if target >= 0 and source.fd in self._by_source:
                sink = Sink(target)
                source.sinks.append(sink)
                self._by_sink[sink.fd] = source, sink, listener

    def carry(self, pidfd: int) -> None:
        """Carry until the first process has ended and its streams are dry.

        Until the end a slow listener holds the container back; after it, what the streams still hold is taken at once.
        """
        self._poll.register(pidfd, select.POLLIN)
        for source in self._sources:
            self._poll.register(source.fd, _IN)
        while self._by_source or not self.ended:
            events = self._poll.poll(self._wait_ms())
            if not events and self.ended:
                break
            for fd, _ in events:
                if fd == pidfd:
                    self._process_ended(pidfd)
                else:
                    self._handle(fd)
            if self.health is not None:
                self.health.act()
            if self._left_alone is not None and self._alone_ms() <= 0:
                act, self._left_alone = self._left_alone, None
                act()
        for source in self._sources:
            if source.log is not None:
                source.log.finish()

    def _wait_ms(self) -> int | float | None:
        if self.ended:
            return _DRAIN_MS
        if self.health is not None:
            return self.health.left_ms()
        if self._left_alone is not None and not self._by_control:
            return max(self._alone_ms(), 0)
        return None

    def _alone_ms(self) -> int:
        """How long until the process is left alone; more than nothing while somebody listens, or it has ended."""
        if self.ended or self._by_control:
            return ALONE_MS
        return ALONE_MS - int((time.monotonic() - self._alone_from) * 1000)

    def flush(self) -> None:
        """Hand over what the listeners have not taken yet, unless they go."""
        while any(source.is_held_back for source in self._sources):
            for fd, _ in self._poll.poll():
                self._handle(fd)
        for source, sink, _ in list(self._by_sink.values()):
            self._drop(source, sink)

    def _process_ended(self, pidfd: int) -> None:
        self.ended = True
        if self.health is not None:
            self.health.close()
            self.health = None
        self._poll.unregister(pidfd)
        for fd in self._by_source:
            self._poll.register(fd, _IN)

    def _handle(self, fd: int) -> None:
        if fd in self._by_control:
            self._leave(self._by_control[fd])
        elif fd in self._by_sink:
            self._push(*self._by_sink[fd])
        elif fd in self._by_source:
            self._pull(self._by_source[fd])
        elif self.health is not None and fd == self.health.fd:
            self.health.take()
        elif fd == self.wake_fd and self.woken is not None:
            self.woken()

    def _pull(self, source: Source) -> None:
        try:
            data = os.read(source.fd, _CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            # A console whose last user has gone says EIO.
            data = b""
        if not data:
            self._unregister(source.fd)
            del self._by_source[source.fd]
            return
        if source.log is not None:
            source.log.feed(data, time.time_ns())
        for sink in list(source.sinks):
            sink.pending += data
            if sink.fd in self._by_sink:
                self._push(*self._by_sink[sink.fd])

    def _push(self, source: Source, sink: Sink, listener: Listener) -> None:
        """Write to a listener; while one does not take more, nothing more is read from the container."""
        if not sink.push():
            self._drop(source, sink)
            listener.tell("broken-pipe")
        elif sink.pending:
            self._poll.register(sink.fd, select.POLLOUT)
            if not self.ended:
                # Taken out and not only masked: the end of a stream is reported whatever the mask.
                self._unregister(source.fd)
        else:
            self._unregister(sink.fd)
            self._resume(source)

    def _resume(self, source: Source) -> None:
        if source.fd in self._by_source and (self.ended or not source.is_held_back):
            self._poll.register(source.fd, _IN)

    def _drop(self, source: Source, sink: Sink) -> None:
        self._unregister(sink.fd)
        del self._by_sink[sink.fd]
        source.sinks.remove(sink)
        sink.close()
        self._resume(source)

    def _leave(self, listener: Listener) -> None:
        try:
            said_so = bool(os.read(listener.control_fd, 1))
        except OSError:
            said_so = False
        self._poll.unregister(listener.control_fd)
        del self._by_control[listener.control_fd]
        for source, sink, owner in list(self._by_sink.values()):
            if owner is listener:
                self._drop(source, sink)
        self.left(listener, said_so)
        listener.close()
        self._alone_from = time.monotonic()

    def _unregister(self, fd: int) -> None:
        try:
            self._poll.unregister(fd)
        except KeyError:
            return
