"""The tar that an engine would make of a layer's directory, hashed, with or without its tar-split.

A layer that a commit made has no other tar than this, so a directory whose record is lost proves by its hash what it
is. What came from elsewhere was packed in another way and proves nothing.
Source: shared format notes §8
"""

from __future__ import annotations

import os
import stat

from minidock.errors import SyscallError
from minidock.formats.tarsplit import TarSplitWriter, crc64
from minidock.formats.tarwriter import DIALECTS, END_OF_ARCHIVE, LayerHeaders, is_whiteout, padding
from minidock.formats.whiteout import OPAQUE_XATTR
from minidock.store.changes import HostNames
from minidock.store.upper import CAPABILITY_XATTR, walk_upper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.upper import UpperEntry

_READ_BYTES = 1 << 20


def find_dialect(diff_path: str, diff_id: str) -> str:
    """The dialect in which a directory's tar has this diff_id, "" for none; raises SyscallError, StoreError."""
    for dialect in reversed(DIALECTS):
        if pack_layer(diff_path, dialect) == diff_id:
            return dialect
    return ""


def pack_layer(diff_path: str, dialect: str, tar_split_fd: int = -1) -> str:
    """Hash a directory's tar.

    Shape:   tar_split_fd: an empty file that gets tar-split, or -1
    Returns: the diff_id
    Raises:  SyscallError, StoreError for what no tar can hold
    """
    handle = os.open(diff_path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        packer = _Packer(dialect, tar_split_fd)
        for entry in walk_upper(handle):
            if not stat.S_ISSOCK(entry.status.st_mode):
                packer.put(entry)
        return packer.end()
    except SyscallError:
        raise
    except OSError as error:
        raise SyscallError(f"read {diff_path}", error.errno or 5) from None
    finally:
        os.close(handle)


class _Packer:
    """One pass over a directory."""

    __slots__ = ("_first_links", "_hasher", "_headers", "_padding", "_split", "_whiteout")

    def __init__(self, dialect: str, tar_split_fd: int) -> None:
        from hashlib import sha256

        self._hasher = sha256(usedforsecurity=False)
        self._headers = LayerHeaders(dialect, HostNames() if dialect == "a" else None)
        self._split = TarSplitWriter(tar_split_fd) if tar_split_fd >= 0 else None
        self._first_links: dict[int, bytes] = {}
        self._whiteout = b""
        self._padding = b""

    def _header(self, name: bytes, header: bytes, size_bytes: int = 0, checksum: int = 0) -> None:
        data = self._padding + header
        self._padding = b""
        if self._split:
            self._split.segment(data)
            self._split.file(name, size_bytes, checksum)

    def put(self, entry: UpperEntry) -> None:
        """Add one file."""
        status = entry.status
        capability = entry.xattr(CAPABILITY_XATTR) if CAPABILITY_XATTR in entry.xattrs() else b""
        target = os.readlink(entry.base, dir_fd=entry.parent_fd) if stat.S_ISLNK(status.st_mode) else b""
        first = b""
        if is_whiteout(status):
            # In the container that was committed all deletions were one inode; here each has its own.
            self._whiteout, first = self._whiteout or entry.path, self._whiteout
        elif status.st_nlink > 1 and not entry.is_directory:
            first = self._first_links.setdefault(status.st_ino, entry.path)
            first = b"" if first is entry.path else first
        name, header = self._headers.entry(
            entry.path, status, target=b"" if first else target, first_link=first, capability=capability
        )
        self._hasher.update(self._padding + header)
        if stat.S_ISREG(status.st_mode) and status.st_size and not first:
            checksum = self._data(entry)
            self._header(name, header, status.st_size, checksum)
            self._padding = padding(status.st_size)
            return
        self._header(name, header)
        if entry.is_directory and OPAQUE_XATTR in entry.xattrs() and entry.xattr(OPAQUE_XATTR) == b"y":
            name, header = self._headers.opaque_marker(entry.path, status)
            self._hasher.update(header)
            self._header(name, header)

    def _data(self, entry: UpperEntry) -> int:
        entry.open_file()
        checksum = 0
        try:
            while data := os.read(entry.handle, _READ_BYTES):
                self._hasher.update(data)
                checksum = crc64(data, checksum)
        finally:
            entry.close_file()
        return checksum

    def end(self) -> str:
        """Add the end blocks; the diff_id."""
        self._hasher.update(self._padding + END_OF_ARCHIVE)
        if self._split:
            self._split.segment(self._padding + END_OF_ARCHIVE)
            self._split.close()
        return "sha256:" + self._hasher.hexdigest()
