"""A merged tree becomes a tar: docker export's writer, which is commit's over other directories.

The tree may be a running container's and change meanwhile. What vanishes is left out, and a file that shrinks is
filled with zeros up to the size that its header told, as every tar does; both are told as warnings.

Source: moby daemon/export.go, pkg/archive, TarWithOptions; shared format notes §8
"""

from __future__ import annotations

import errno
import os
import stat

from minidock.errors import StoreError, SyscallError
from minidock.formats.tarwriter import END_OF_ARCHIVE, LayerHeaders
from minidock.linux.paths import read_in_root
from minidock.store.upper import CAPABILITY_XATTR, walk_upper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minidock.store.taroutput import TarOutput
    from minidock.store.upper import UpperEntry

_MAX_WARNINGS = 100
_MAX_NAMES_BYTES = 4 << 20
# What opening a name gives when another file has taken its place.
_CHANGED = (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENOTDIR)


class WrittenTree:
    """What went into a tar. Shape: warnings: lines about names that changed while they were read"""

    __slots__ = ("entries", "warnings")

    def __init__(self) -> None:
        self.entries = 0
        self.warnings: list[str] = []


def write_tree(
    tree_fd: int,
    output: TarOutput,
    *,
    dialect: str = "c",
    owners: Callable[[int, int], tuple[int, int]] | None = None,
) -> WrittenTree:
    """Write everything below a directory as one tar.

    Shape:  tree_fd: the tree's root, which is no entry itself; dialect: which engine's headers, and owners: which IDs
            stand for those of the files, see tarwriter
    Raises: SyscallError, StoreError for a path too long for any engine
    """
    names = _TreeNames(tree_fd) if dialect == "a" else None
    return _TreeWriter(output, LayerHeaders(dialect, names, owners)).write(tree_fd)


class _TreeNames:
    """Owner names by the tree's own passwd and group: these engines export from inside the container's root.

    What else the host's name services would say there, such as nss-systemd's root, is not asked.
    """

    __slots__ = ("_groups", "_users")

    def __init__(self, tree_fd: int) -> None:
        self._users = _read_names(tree_fd, b"etc/passwd")
        self._groups = _read_names(tree_fd, b"etc/group")

    def __call__(self, uid: int, gid: int) -> tuple[bytes, bytes]:
        return self._users.get(uid, b""), self._groups.get(gid, b"")


def _read_names(tree_fd: int, path: bytes) -> dict[int, bytes]:
    """Number to name, the first line of each number counting; empty where there is no such file."""
    try:
        data = read_in_root(tree_fd, path, _MAX_NAMES_BYTES)
    except OSError:
        return {}
    names: dict[int, bytes] = {}
    for line in data.split(b"\n"):
        fields = line.split(b":")
        if len(fields) > 2 and fields[0] and not fields[0].startswith((b"#", b"+", b"-")) and fields[2].isdigit():
            names.setdefault(int(fields[2][:10]), fields[0])
    return names


class _TreeWriter:
    """One pass over a tree."""

    __slots__ = ("_first_links", "_headers", "_output", "_result")

    def __init__(self, output: TarOutput, headers: LayerHeaders) -> None:
        self._output = output
        self._headers = headers
        self._first_links: dict[int, bytes] = {}
        self._result = WrittenTree()

    def write(self, tree_fd: int) -> WrittenTree:
        path = b""
        try:
            for entry in walk_upper(tree_fd, skip_vanished=True):
                path = entry.path
                # tar has no form for a socket, and every engine leaves it out.
                if not stat.S_ISSOCK(entry.status.st_mode):
                    self._write_entry(entry)
        except (BrokenPipeError, SyscallError):
            raise
        except OSError as error:
            raise SyscallError(f"export {os.fsdecode(path)!r}", error.errno or 5) from None
        self._output.put(END_OF_ARCHIVE)
        self._output.flush()
        return self._result

    def _warn(self, path: bytes, what: str) -> None:
        if len(self._result.warnings) < _MAX_WARNINGS:
            self._result.warnings.append(f"{os.fsdecode(path)!r} {what} while it was read")

    def _write_entry(self, entry: UpperEntry) -> None:
        if stat.S_ISREG(entry.status.st_mode):
            try:
                entry.open_file()
            except StoreError:
                self._warn(entry.path, "was replaced")
                return
            except OSError as error:
                if error.errno not in _CHANGED:
                    raise
                self._warn(entry.path, "vanished")
                return
        try:
            self._write_open(entry)
        finally:
            entry.close_file()

    def _write_open(self, entry: UpperEntry) -> None:
        status = entry.status
        try:
            capability = entry.xattr(CAPABILITY_XATTR) if CAPABILITY_XATTR in entry.xattrs() else b""
            target = os.readlink(entry.base, dir_fd=entry.parent_fd) if stat.S_ISLNK(status.st_mode) else b""
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODATA, errno.EINVAL):
                raise
            self._warn(entry.path, "changed")
            return
        first_link = b""
        if status.st_nlink > 1 and not entry.is_directory:
            first = self._first_links.setdefault(status.st_ino, entry.path)
            first_link = b"" if first is entry.path else first
        _, header = self._headers.entry(
            entry.path, status, target=b"" if first_link else target, first_link=first_link, capability=capability
        )
        self._output.put(header)
        self._result.entries += 1
        if stat.S_ISREG(status.st_mode) and not first_link and status.st_size:
            found = self._output.copy(entry.handle, status.st_size)
            if found < status.st_size:
                self._warn(entry.path, "became shorter")
            self._output.fill(status.st_size - found + -status.st_size % 512)
