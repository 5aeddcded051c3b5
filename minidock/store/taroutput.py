"""Where a tar goes: large writes out of one buffer, with the hash of what passed where one is wanted.

Headers and small files share a buffer, so that ten thousand small files do not make twenty thousand writes; the
hash of a large tar is taken by a second thread while the first reads and writes on.
"""

from __future__ import annotations

import os

from minidock.errors import SyscallError
from minidock.store.copying import LARGE_BYTES, HashThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.copying import Hasher

_BUFFER_BYTES = 1 << 20


class TarOutput:
    """Writes to a descriptor, which stays the caller's. Units: written_bytes: what has been put so far

    Raises (each method): BrokenPipeError when the reader went away; SyscallError for all else, such as a full disk
    """

    __slots__ = ("_buffer", "_fd", "_hasher", "_storage", "_thread", "_used", "_what", "written_bytes")

    def __init__(self, fd: int, what: str) -> None:
        self._fd = fd
        self._what = what
        self._use(bytearray(_BUFFER_BYTES))
        self._used = 0
        self._hasher: Hasher | None = None
        self._thread: HashThread | None = None
        self.written_bytes = 0

    def _use(self, storage: bytearray) -> None:
        self._storage = storage
        self._buffer = memoryview(storage)

    def put(self, data: bytes | memoryview) -> None:
        """Write bytes."""
        length = len(data)
        self.written_bytes += length
        end = self._used + length
        if end <= _BUFFER_BYTES:
            self._buffer[self._used : end] = data
            self._used = end
            return
        view = memoryview(data)
        while view:
            if self._used == _BUFFER_BYTES:
                self.flush()
            piece = view[: _BUFFER_BYTES - self._used]
            self._buffer[self._used : self._used + len(piece)] = piece
            self._used += len(piece)
            view = view[len(piece) :]

    def copy(self, source_fd: int, size_bytes: int) -> int:
        """Write up to size_bytes bytes read from source_fd; returns how many there were."""
        left = size_bytes
        while left:
            if self._used == _BUFFER_BYTES:
                self.flush()
            count = os.readv(source_fd, [self._buffer[self._used : self._used + left]])
            if not count:
                break
            self._used += count
            left -= count
        self.written_bytes += size_bytes - left
        return size_bytes - left

    def fill(self, size_bytes: int) -> None:
        """Write zeros."""
        while size_bytes > 0:
            piece = min(size_bytes, _BUFFER_BYTES)
            self.put(bytes(piece))
            size_bytes -= piece

    def flush(self) -> None:
        """Hand everything to the kernel."""
        data = self._buffer[: self._used]
        if self._thread:
            # The thread reads the buffer that is written here; nobody changes it before `take` gives it back.
            self._thread.give(self._storage, self._used)
        elif self._hasher:
            self._hasher.update(data)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SyscallError(f"write {self._what}", error.errno or 5) from None
        self._used = 0
        if self._thread:
            self._use(self._thread.take())

    def start_hash(self, size_bytes: int) -> None:
        """Take the sha256 of what comes from here on; size_bytes is about how much that will be."""
        from hashlib import sha256

        self.flush()
        self._hasher = sha256(usedforsecurity=False)
        if size_bytes >= LARGE_BYTES:
            self._thread = HashThread(self._hasher)
            self._use(self._thread.take())

    def end_hash(self) -> str:
        """The digest of what was written since start_hash, in hexadecimal."""
        assert self._hasher is not None
        self.flush()
        if self._thread:
            self._thread.give(self._storage, 0)
            self._thread.drain()
        digest = self._hasher.hexdigest()
        self.close()
        self._hasher = None
        return digest

    def close(self) -> None:
        """End the helper thread, if one runs; what is not flushed is lost."""
        if self._thread:
            self._thread.end()
            self._thread = None
            self._use(bytearray(_BUFFER_BYTES))
