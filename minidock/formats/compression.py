"""Compressed streams: told by their first bytes, read in bounded pieces, member after member.

Media types and file names are not looked at, since engines themselves mislabel (shared format notes §10).
All libraries are imported when a stream of their kind is met; isal is preferred to zlib and may be missing.
"""

from __future__ import annotations

import os

from minidock.errors import BadArchive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

PIECE_BYTES = 256 * 1024

# Dictionaries above this are refused: one archive must not decide how much memory its reader needs.
_MEMORY_LIMIT_BYTES = 128 << 20

_MAGIC = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))
SNIFF_BYTES = 6


def sniff(head: bytes) -> str:
    """Which compression a stream has, from its first SNIFF_BYTES bytes.

    Returns: "none", "gzip", "bzip2", "xz" or "zstd"
    """
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    # zstd's skippable frames, which pzstd and seekable writers put first
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return "zstd"
    return "none"


def identify(head: bytes) -> str:
    """What libmagic calls these bytes, for messages; "data" where libmagic is missing."""
    try:
        import magic

        return str(magic.from_buffer(head))
    except Exception:  # noqa: BLE001 - libmagic's own failures of any kind must not replace the message it decorates
        return "data"


def _zlib_member() -> tuple[Any, tuple[type[Exception], ...]]:
    library: Any
    try:
        from isal import isal_zlib

        library = isal_zlib
    except ImportError:
        import zlib

        library = zlib
    return library.decompressobj(wbits=31), (library.error,)


def _bzip2_member() -> tuple[Any, tuple[type[Exception], ...]]:
    import bz2

    return bz2.BZ2Decompressor(), (OSError, ValueError, EOFError)


def _xz_member() -> tuple[Any, tuple[type[Exception], ...]]:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_LIMIT_BYTES), (lzma.LZMAError,)


def _zstd_member() -> tuple[Any, tuple[type[Exception], ...]]:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from backports import zstd
    return zstd.ZstdDecompressor(), (zstd.ZstdError,)


_MEMBERS = {"gzip": _zlib_member, "bzip2": _bzip2_member, "xz": _xz_member, "zstd": _zstd_member}


class Decompressor:
    """One compressed stream of any number of members; zero bytes may follow the last one, nothing else may."""

    def __init__(self, kind: str, *, piece_bytes: int = PIECE_BYTES) -> None:
        self._piece_bytes = piece_bytes
        try:
            self._new_member: Callable[[], tuple[Any, tuple[type[Exception], ...]]] = _MEMBERS[kind]
        except KeyError:
            raise BadArchive(f"unknown compression: {kind}") from None
        self.kind = kind
        # zlib hands input back that it had no room for; the others keep it and say when they need more
        self._keeps_input = kind != "gzip"
        # The first member is made at once: a caller may be about to leave the place where modules are found.
        self._spare: Any
        self._spare, self._errors = self._new_member()
        self._member: Any = None
        self._members_done = 0
        self._head = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress a piece of input, in pieces of at most piece_bytes; must be exhausted before the next.

        Raises: BadArchive on corrupt data
        """
        while data:
            if self._member is None:
                data = self._begin_member(data)
                if not data:
                    return
            yield from self._feed_member(data)
            if not self._member.eof:
                return
            data = self._member.unused_data
            self._member = None
            self._members_done += 1

    def _begin_member(self, data: bytes) -> bytes:
        """Start the next member if data has the beginning of one; returns what it shall be fed."""
        if self._members_done and not self._head:
            data = data.lstrip(b"\0")
        data = self._head + data
        self._head = b""
        if self._members_done and data:
            # Junk is told from a member by its magic, which may be cut by the end of this piece.
            if len(data) < SNIFF_BYTES:
                self._head = data
                return b""
            if sniff(data) != self.kind:
                raise BadArchive(f"{self.kind} stream: trailing data that is not {self.kind}")
        if data:
            self._member = self._spare or self._new_member()[0]
            self._spare = None
        return data

    def _feed_member(self, data: bytes) -> Iterator[bytes]:
        member = self._member
        while True:
            try:
                out: bytes = member.decompress(data, self._piece_bytes)
            except self._errors as error:
                raise BadArchive(f"corrupt {self.kind} stream: {str(error) or type(error).__name__}") from None
            if out:
                yield out
            if member.eof:
                return
            if self._keeps_input:
                data = b""
                if member.needs_input:
                    return
            else:
                data = member.unconsumed_tail
                if not data and len(out) < self._piece_bytes:
                    return

    def finish(self) -> None:
        """Tell that the input has ended; raises BadArchive if a member is incomplete."""
        if self._member is not None or self._head or not self._members_done:
            raise BadArchive(f"truncated {self.kind} stream")


def decompressor(kind: str) -> Decompressor:
    """A Decompressor for "gzip", "bzip2", "xz" or "zstd"; raises BadArchive for anything else."""
    return Decompressor(kind)


class DecompressedFile:
    """A descriptor read through a decompressor ("none" copies), as a file that can only be read forwards."""

    def __init__(self, fd: int, kind: str, *, head: bytes = b"") -> None:
        self._pieces = self._decompress(fd, kind, head)
        self._left = memoryview(b"")

    @staticmethod
    def _decompress(fd: int, kind: str, head: bytes) -> Iterator[bytes]:
        stream = None if kind == "none" else Decompressor(kind)
        data = head or os.read(fd, PIECE_BYTES)
        while data:
            if stream is None:
                yield data
            else:
                yield from stream.feed(data)
            data = os.read(fd, PIECE_BYTES)
        if stream is not None:
            stream.finish()

    def readinto(self, buffer: Any) -> int:
        """Fill buffer; returns less than its length only at the end of the stream. Raises BadArchive."""
        target = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(target):
            if not self._left:
                self._left = memoryview(next(self._pieces, b""))
                if not self._left:
                    break
            size = min(len(self._left), len(target) - filled)
            target[filled : filled + size] = self._left[:size]
            self._left = self._left[size:]
            filled += size
        return filled

    def read(self, size: int = -1) -> bytes:
        """Read size bytes, fewer only at the end of the stream; -1 reads all. Raises BadArchive."""
        parts: list[bytes] = []
        while size:
            if not self._left:
                self._left = memoryview(next(self._pieces, b""))
                if not self._left:
                    break
            part = self._left if size < 0 else self._left[:size]
            parts.append(bytes(part))
            self._left = self._left[len(part) :]
            if size > 0:
                size -= len(part)
        return b"".join(parts)


def open_decompressed(fd: int, kind: str, *, head: bytes = b"") -> DecompressedFile:
    """A forward-only file of what fd's compressed stream holds.

    Shape: head: bytes already taken from fd, to be read first; kind as sniff gives it
    """
    return DecompressedFile(fd, kind, head=head)
