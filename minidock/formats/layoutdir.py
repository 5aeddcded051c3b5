"""A directory as a source of blobs: only regular files below it, symlinks never followed."""

from __future__ import annotations

import os
import stat

from minidock.errors import BadArchive, SyscallError
from minidock.formats.tarindex import member_key
from minidock.linux.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, open_in_root


class DirectoryMembers:
    """The files below a directory, opened when they are asked for and closed with this object."""

    def __init__(self, path: str) -> None:
        self.what = path
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: dict[bytes, int] = {}

    def names(self) -> list[bytes]:
        """The names at the top of the directory."""
        return [os.fsencode(name) for name in os.listdir(self._fd)]

    def has_file(self, name: str) -> bool:
        """Whether there is a regular file of this name."""
        try:
            self.locate(name)
        except BadArchive:
            return False
        return True

    def locate(self, name: str) -> tuple[int, int, int]:
        """The descriptor, 0, and the size of a file; the descriptor stays owned by this object. Raises BadArchive."""
        key = member_key(os.fsencode(name))
        fd = self._open.get(key)
        if fd is None:
            fd = self._open_file(key, name)
            self._open[key] = fd
        return fd, 0, os.fstat(fd).st_size

    def _open_file(self, key: bytes, name: str) -> int:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW
        try:
            fd = open_in_root(self._fd, key, flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except SyscallError as error:
            raise BadArchive(f"{self.what}: cannot read {name[:100]!r}: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise BadArchive(f"{self.what}: {name[:100]!r} is not a regular file")
        return fd

    def close(self) -> None:
        """Close the directory and all files."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        os.close(self._fd)
