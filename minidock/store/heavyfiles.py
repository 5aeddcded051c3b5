"""Big files of a layer, whose data another thread than the tar's reader writes, so that two cores share the copying.

The kernel copies a file's data without Python's lock, the rest of unpacking mostly holds it: two threads gain by
sharing big files, and would only wait for each other over small ones.
"""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minidock.formats.tarstream import TarEntry
    from minidock.store.bytewindow import Pipeline

    HeavyFile = tuple[int, TarEntry, Any]

# A descriptor each.
_MAX_WAITING = 16


class HeavyFiles:
    """A bounded queue of files to fill.

    Shape: fill(fd, entry, data) writes a file and closes its descriptor
    """

    def __init__(self, pipeline: Pipeline, fill: Callable[[int, TarEntry, Any], None]) -> None:
        self._pipeline = pipeline
        self._fill = fill
        self._waiting: deque[HeavyFile] = deque()
        self._unfilled = 0
        self._closed = False

    def offer(self, fd: int, entry: TarEntry, data: Any) -> bool:
        """Leave a file to the other thread, descriptor included; False if that has enough to do."""
        if self._unfilled >= _MAX_WAITING:
            return False
        with self._pipeline.condition:
            self._unfilled += 1
            self._waiting.append((fd, entry, data))
            self._pipeline.condition.notify_all()
        return True

    def fill_waiting(self) -> None:
        """Fill what waits now; for the other thread, as all that follows but close and settle."""
        while self._waiting:
            self._fill(*self._waiting.popleft())
            with self._pipeline.condition:
                self._unfilled -= 1
                self._pipeline.condition.notify_all()

    def fill_all(self) -> None:
        """Fill what comes, until close; raises Poisoned."""
        while True:
            self.fill_waiting()
            with self._pipeline.condition:
                if not self._waiting:
                    if self._closed:
                        return
                    self._pipeline.wait()

    def settle(self) -> None:
        """Wait until every file that was taken is whole; raises Poisoned."""
        if self._unfilled:
            with self._pipeline.condition:
                while self._unfilled:
                    self._pipeline.wait()

    def close(self) -> None:
        """No more files will be offered."""
        with self._pipeline.condition:
            self._closed = True
            self._pipeline.condition.notify_all()
