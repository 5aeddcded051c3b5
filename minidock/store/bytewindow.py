"""One stream, several readers, a bounded window between the fastest and the slowest; and the poison that ends all.

Every wait is for a condition that some other thread's progress or failure signals, and is cut into slices after
which the threads' health is looked at again, so that a dead thread ends the pipeline and never hangs it.
"""

from __future__ import annotations

import threading
from collections import deque

from minidock.errors import MinidockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_WAIT_S = 1.0
_KEPT_BYTES = 1 << 16


class Poisoned(Exception):
    """Another thread of the pipeline failed; its error is the one to report."""


class Pipeline:
    """The threads of one layer: they end together, with the first error."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.error: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._running: set[str] = set()

    def fail(self, error: BaseException) -> None:
        """Record the first error and wake everybody."""
        with self.condition:
            if self.error is None and not isinstance(error, Poisoned):
                self.error = error
            self.condition.notify_all()

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run work in a thread; its exception poisons the pipeline."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - whatever ends a thread must end the pipeline
                self.fail(error)
            else:
                with self.condition:
                    self._running.discard(name)
                    self.condition.notify_all()

        self._running.add(name)
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def wait(self) -> None:
        """One bounded wait, with the condition held; raises Poisoned if the pipeline has failed."""
        self.check()
        self.condition.wait(_WAIT_S)
        self.check()

    def check(self) -> None:
        """Raise Poisoned if any thread has failed or died without a word."""
        if self.error is not None:
            raise Poisoned
        for thread in self._threads:
            if thread.name in self._running and not thread.is_alive():
                self.error = MinidockError(f"the {thread.name} thread of the unpacker died")
                raise Poisoned

    def join(self) -> None:
        """Wait until all threads have done their work; raises Poisoned."""
        with self.condition:
            while self._running:
                self.wait()
            self.check()


class ByteWindow:
    """A stream that one thread feeds and several read, each at its own pace.

    A reader's position is looked at without its being told; so whoever has read and then waits wakes the feeding
    thread first (Pipeline.condition.notify_all), or the window would look fuller than it is.
    """

    def __init__(self, pipeline: Pipeline, limit_bytes: int) -> None:
        self.pipeline = pipeline
        self._limit_bytes = limit_bytes
        self._readers: list[WindowReader] = []
        self._fed_bytes = 0
        self.closed = False

    def new_reader(self) -> WindowReader:
        """A reader from the stream's start; all readers are made before the first feed."""
        reader = WindowReader(self)
        self._readers.append(reader)
        return reader

    def new_keeping_reader(self, spill: Callable[[bytes], None]) -> KeepingReader:
        """As new_reader; spill as in KeepingReader."""
        reader = KeepingReader(self, spill)
        self._readers.append(reader)
        return reader

    def feed(self, data: bytes) -> None:
        """Add data; waits while the slowest reader is a window behind. Raises Poisoned."""
        pipeline = self.pipeline
        with pipeline.condition:
            while self._fed_bytes - min(reader.position for reader in self._readers) > self._limit_bytes:
                pipeline.wait()
            pipeline.check()
            self._fed_bytes += len(data)
            for reader in self._readers:
                reader.queue.append(data)
            pipeline.condition.notify_all()

    def close(self) -> None:
        """Tell that the stream has ended."""
        with self.pipeline.condition:
            self.closed = True
            self.pipeline.condition.notify_all()


class WindowReader:
    """One reader of a ByteWindow (see formats/bytestream for what a reader is)."""

    def __init__(self, window: ByteWindow) -> None:
        self._window = window
        self.queue: deque[bytes] = deque()
        self.position = 0
        self._left = memoryview(b"")

    def _next_chunk(self) -> bool:
        """Make the next chunk current; False at the end of the stream."""
        window = self._window
        condition = window.pipeline.condition
        with condition:
            condition.notify_all()
            while not self.queue:
                if window.closed:
                    return False
                window.pipeline.wait()
            window.pipeline.check()
            self._left = memoryview(self.queue.popleft())
        return True

    def read(self, size: int) -> Any:
        """Size bytes as one buffer, fewer only at the end; raises Poisoned."""
        left = self._left
        if len(left) >= size:
            self._left = left[size:]
            self.position += size
            return left[:size]
        return b"".join(self.pieces(size))

    def skip(self, size: int) -> int:
        """Pass over size bytes; returns how many there were."""
        return sum(len(piece) for piece in self.pieces(size))

    def pieces(self, size: int) -> Iterator[Any]:
        """Size bytes as views of the chunks, fewer only at the end; raises Poisoned."""
        while size > 0:
            if not self._left and not self._next_chunk():
                return
            piece = self._left[:size]
            self._left = self._left[len(piece) :]
            self.position += len(piece)
            size -= len(piece)
            yield piece


class KeepingReader(WindowReader):
    """Keeps what is read or passed over, but not what is taken in pieces, until it is asked for.

    Shape: spill(data) is given what was kept when it becomes long, so that memory stays bounded
    """

    def __init__(self, window: ByteWindow, spill: Callable[[bytes], None]) -> None:
        super().__init__(window)
        self._spill = spill
        self._kept: list[bytes] = []
        self._kept_bytes = 0

    def read(self, size: int) -> bytes:
        """Size bytes as one buffer, fewer only at the end; raises Poisoned."""
        data = bytes(super().read(size))
        self.keep(data)
        return data

    def skip(self, size: int) -> int:
        """Pass over size bytes; returns how many there were."""
        passed = 0
        for piece in self.pieces(size):
            self.keep(bytes(piece))
            passed += len(piece)
        return passed

    def keep(self, data: bytes) -> None:
        """Put data behind what is kept."""
        self._kept.append(data)
        self._kept_bytes += len(data)
        if self._kept_bytes > _KEPT_BYTES:
            self._spill(self.take())

    def take(self) -> bytes:
        """What was kept and not yet spilled."""
        data = b"".join(self._kept)
        self._kept.clear()
        self._kept_bytes = 0
        return data
