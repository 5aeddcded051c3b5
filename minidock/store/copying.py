"""Large files: read once, hashed on a second thread while the first checks and writes.

A small file is not worth a thread: handing it over costs more than hashing it. A file with holes keeps them
in the copy, while hash and checksum see the zeros that a tar holds.
"""

from __future__ import annotations

import errno
import os

from minidock.errors import StoreError
from minidock.formats.tarsplit import crc64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _queue import SimpleQueue
    from collections.abc import Iterator
    from typing import Protocol

    class Hasher(Protocol):
        """What hashlib's objects can do."""

        def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

        def hexdigest(self) -> str: ...


LARGE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_BUFFERS = 4
# Hashing one chunk takes a millisecond; a thread that has not answered for so long never will.
_WAIT_S = 120.0
_FICLONE = 0x40049409


def became_shorter() -> StoreError:
    """The error for a file that ends before the size that its header already tells."""
    return StoreError("a file became shorter while it was read", hint="commit with --pause")


class HashThread:
    """A thread that feeds one hash, in order, with a bounded number of buffers on their way."""

    __slots__ = ("_hasher", "_full", "_free")

    def __init__(self, hasher: Hasher) -> None:
        from _queue import SimpleQueue
        from _thread import start_new_thread

        self._hasher = hasher
        self._full: SimpleQueue[tuple[bytearray, int] | None] = SimpleQueue()
        self._free: SimpleQueue[bytearray | BaseException] = SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(bytearray(_CHUNK_BYTES))
        start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            while (item := self._full.get()) is not None:
                buffer, length = item
                self._hasher.update(memoryview(buffer)[:length])
                self._free.put(buffer)
        except BaseException as error:  # noqa: BLE001  handed to the waiting thread, which raises it
            self._free.put(error)

    def take(self) -> bytearray:
        """A buffer that is not in use; raises what the thread failed with."""
        from _queue import Empty

        try:
            buffer = self._free.get(timeout=_WAIT_S)
        except Empty:
            raise StoreError("the hashing thread does not answer") from None
        if isinstance(buffer, BaseException):
            raise buffer
        return buffer

    def give(self, buffer: bytearray, length: int) -> None:
        """Have the first length bytes hashed; the buffer comes back by take."""
        self._full.put((buffer, length))

    def drain(self) -> None:
        """Wait until all given bytes are hashed."""
        buffers = [self.take() for _ in range(_BUFFERS)]
        for buffer in buffers:
            self._free.put(buffer)

    def end(self) -> None:
        """Let the thread end after what it was given."""
        self._full.put(None)


def _extents(handle: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that hold data, in order, none beyond size_bytes."""
    position = 0
    while position < size_bytes:
        try:
            start = os.lseek(handle, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if start >= size_bytes:
            return
        position = min(os.lseek(handle, start, os.SEEK_HOLE), size_bytes)
        yield start, position


class LargeCopier:
    """Copies files while their bytes go into a hash; the thread starts with the first file that needs it."""

    __slots__ = ("_hasher", "_thread", "_may_clone")

    def __init__(self, hasher: Hasher) -> None:
        self._hasher = hasher
        self._thread: HashThread | None = None
        self._may_clone = True

    def copy(self, source: int, target: int, size_bytes: int, *, is_sparse: bool) -> int:
        """Copy size_bytes bytes from the start of source to the empty file target.

        Returns: the CRC-64 of the content, as tar-split records it
        Raises:  StoreError if source ends early; OSError
        """
        is_clone = self._clone(source, target)
        # A clone is read itself: what is hashed is then what is kept, even if the container writes meanwhile.
        origin, copy = (target, -1) if is_clone else (source, target)
        checksum = end = 0
        for start, stop in _extents(origin, size_bytes) if is_sparse else ((0, size_bytes),):
            checksum = self._zeros(start - end, checksum)
            checksum = self._data(origin, copy, start, stop, checksum)
            end = stop
        checksum = self._zeros(size_bytes - end, checksum)
        if is_clone or end < size_bytes:
            os.ftruncate(target, size_bytes)
        if self._thread:
            self._thread.drain()
        return checksum

    def close(self) -> None:
        """End the thread, if there is one."""
        if self._thread:
            self._thread.end()
            self._thread = None

    def _clone(self, source: int, target: int) -> bool:
        if not self._may_clone:
            return False
        from fcntl import ioctl

        try:
            ioctl(target, _FICLONE, source)
        except OSError:
            # Most file systems cannot; the copy below does the same with more work.
            self._may_clone = False
        return self._may_clone

    def _running_thread(self) -> HashThread:
        if self._thread is None:
            self._thread = HashThread(self._hasher)
        return self._thread

    def _zeros(self, count: int, checksum: int) -> int:
        if count <= 0:
            return checksum
        thread = self._running_thread()
        while count > 0:
            buffer = thread.take()
            length = min(count, _CHUNK_BYTES)
            piece = memoryview(buffer)[:length]
            piece[:] = bytes(length)
            thread.give(buffer, length)
            checksum = crc64(piece, checksum)
            count -= length
        return checksum

    def _data(self, origin: int, target: int, start: int, stop: int, checksum: int) -> int:
        thread = self._running_thread()
        while start < stop:
            buffer = thread.take()
            length = os.preadv(origin, [memoryview(buffer)[: min(_CHUNK_BYTES, stop - start)]], start)
            if not length:
                raise became_shorter()
            thread.give(buffer, length)
            piece = memoryview(buffer)[:length]
            if target >= 0:
                written = 0
                while written < length:
                    written += os.pwrite(target, piece[written:], start + written)
            checksum = crc64(piece, checksum)
            start += length
        return checksum
