"""Forward readers over bytes: what the tar reader needs, and no more.

A reader has `position`, `read(n)` (short only at the end), `skip(n)` (returns how much there was) and
`pieces(n)` (n bytes as bounded buffers, short only at the end).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol

    class ByteReader(Protocol):
        """What TarReader reads from."""

        position: int

        def read(self, size: int) -> Any:
            """Size bytes as one buffer, fewer only at the end."""

        def skip(self, size: int) -> int:
            """Pass over size bytes; returns how many there were."""

        def pieces(self, size: int) -> Iterator[Any]:
            """Size bytes as bounded buffers, fewer only at the end."""


PIECE_BYTES = 1 << 20


class BufferReader:
    """Reads a buffer that is all there (bytes, or a mapped file) without copying it."""

    __slots__ = ("_end", "_view", "position")

    def __init__(self, buffer: Any, position: int = 0) -> None:
        self._view = memoryview(buffer).cast("B")
        self._end = len(self._view)
        self.position = position

    def read(self, size: int) -> memoryview:
        """Size bytes as a view, fewer only at the end."""
        start = self.position
        view = self._view[start : start + size]
        self.position = start + len(view)
        return view

    def skip(self, size: int) -> int:
        """Pass over size bytes; returns how many there were."""
        start = self.position
        self.position = min(self._end, start + size)
        return self.position - start

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Size bytes as views of at most PIECE_BYTES."""
        while size > 0:
            piece = self.read(min(size, PIECE_BYTES))
            if not piece:
                return
            size -= len(piece)
            yield piece


class FileReader:
    """Reads a file object (`read(n)`) or a descriptor; a descriptor that can seek is skipped over, not read."""

    def __init__(self, source: Any, *, head: bytes = b"") -> None:
        self.position = 0
        self._head = head
        self._fd = source if isinstance(source, int) else -1
        self._file = None if isinstance(source, int) else source
        self._seekable = False
        if self._fd >= 0:
            import stat

            self._seekable = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def _take(self, size: int) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        data = os.read(self._fd, size) if self._file is None else self._file.read(size)
        return data or b""

    def read(self, size: int) -> bytes:
        """Size bytes, fewer only at the end."""
        data = self._take(size)
        if len(data) < size and data:
            parts = [data]
            missing = size - len(data)
            while missing and (data := self._take(missing)):
                parts.append(data)
                missing -= len(data)
            data = b"".join(parts)
        self.position += len(data)
        return data

    def skip(self, size: int) -> int:
        """Pass over size bytes; returns how many there were."""
        if self._seekable and not self._head and size > 0:
            here = os.lseek(self._fd, 0, os.SEEK_CUR)
            there = max(here, min(here + size, os.fstat(self._fd).st_size))
            os.lseek(self._fd, there, os.SEEK_SET)
            self.position += there - here
            return there - here
        return sum(len(piece) for piece in self.pieces(size))

    def pieces(self, size: int) -> Iterator[bytes]:
        """Size bytes in parts of at most PIECE_BYTES."""
        while size > 0:
            piece = self._take(min(size, PIECE_BYTES))
            if not piece:
                return
            self.position += len(piece)
            size -= len(piece)
            yield piece
