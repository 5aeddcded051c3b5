"""Output on its way: from the container's streams into the log and to the starter's own descriptors."""

from __future__ import annotations

import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minidock.runtime.logs import StreamLog

_CHUNK_BYTES = 64 << 10
# How long output may stay open without a byte after the first process has ended (moby: 3 s as well).
_DRAIN_MS = 3000
_IN = select.POLLIN | select.POLLHUP | select.POLLERR


class Sink:
    """One of the starter's descriptors, written without ever blocking the monitor."""

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

    __slots__ = ("fd", "log", "sink")

    def __init__(self, fd: int, log: StreamLog | None, sink: Sink | None) -> None:
        self.fd = fd
        self.log = log
        self.sink = sink


class Carrier:
    """Carries bytes, and never waits for a starter that has gone.

    Shape: control_fd: its end means that the starter has gone, a byte that it detached, -1 without a starter;
           broken is called when the starter's output is closed, left(said_so) when the starter leaves
    """

    __slots__ = ("_by_sink", "_by_source", "_poll", "_sources", "broken", "control_fd", "ended", "left")

    def __init__(
        self,
        sources: list[Source],
        control_fd: int,
        *,
        broken: Callable[[], object],
        left: Callable[[bool], None],
    ) -> None:
        self._sources = sources
        self._poll = select.poll()
        self._by_source = {source.fd: source for source in sources}
        self._by_sink = {source.sink.fd: source for source in sources if source.sink is not None}
        self.control_fd = control_fd
        self.broken = broken
        self.left = left
        self.ended = False
        if control_fd >= 0:
            self._poll.register(control_fd, _IN)

    def carry(self, pidfd: int) -> None:
        """Carry until the first process has ended and its streams are dry.

        Until the end a slow starter holds the container back; after it, what the streams still hold is taken at once.
        """
        self._poll.register(pidfd, select.POLLIN)
        for source in self._sources:
            self._poll.register(source.fd, _IN)
        while self._by_source or not self.ended:
            events = self._poll.poll(_DRAIN_MS if self.ended else None)
            if not events:
                break
            for fd, _ in events:
                if fd == pidfd:
                    self._process_ended(pidfd)
                else:
                    self._handle(fd)
        for source in self._sources:
            if source.log is not None:
                source.log.finish()

    def flush(self) -> None:
        """Hand over what the starter has not taken yet, unless it goes."""
        while any(source.sink is not None and source.sink.pending for source in self._sources):
            for fd, _ in self._poll.poll():
                self._handle(fd)
        for source in self._sources:
            self._drop_sink(source)

    def _process_ended(self, pidfd: int) -> None:
        self.ended = True
        self._poll.unregister(pidfd)
        for fd in self._by_source:
            self._poll.register(fd, _IN)

    def _handle(self, fd: int) -> None:
        if fd == self.control_fd:
            self._starter_left()
        elif fd in self._by_sink:
            self._push(self._by_sink[fd])
        elif fd in self._by_source:
            self._pull(self._by_source[fd])

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
        if source.sink is not None:
            source.sink.pending += data
            self._push(source)

    def _push(self, source: Source) -> None:
        """Write to the starter; while it does not take more, nothing more is read from the container."""
        sink = source.sink
        if sink is None:
            return
        if not sink.push():
            self._drop_sink(source)
            self.broken()
        elif sink.pending:
            self._poll.register(sink.fd, select.POLLOUT)
            if not self.ended:
                # Taken out and not only masked: the end of a stream is reported whatever the mask.
                self._unregister(source.fd)
        else:
            self._unregister(sink.fd)
            if source.fd in self._by_source:
                self._poll.register(source.fd, _IN)

    def _drop_sink(self, source: Source) -> None:
        if source.sink is not None:
            self._unregister(source.sink.fd)
            del self._by_sink[source.sink.fd]
            source.sink.close()
            source.sink = None
        if source.fd in self._by_source:
            self._poll.register(source.fd, _IN)

    def _starter_left(self) -> None:
        try:
            said_so = bool(os.read(self.control_fd, 1))
        except OSError:
            said_so = False
        self._poll.unregister(self.control_fd)
        os.close(self.control_fd)
        self.control_fd = -1
        for source in self._sources:
            self._drop_sink(source)
        self.left(said_so)

    def _unregister(self, fd: int) -> None:
        try:
            self._poll.unregister(fd)
        except KeyError:
            return
