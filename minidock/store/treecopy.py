"""A directory's content copied with all that belongs to it: how a volume gets what the image has at its place.

The source is an image's tree, thus a stranger's: every name is looked up in an open descriptor of its directory and
never through a symlink, on both sides. Owners, modes, times, extended attributes, hard links, devices and FIFOs come
along; sockets do not.

Source: containerd continuity, fs.CopyDir, which the engine uses for volumes
"""

from __future__ import annotations

import errno
import os
import stat

from minidock.errors import SyscallError
from minidock.store.upper import allow_more_descriptors, walk_upper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from minidock.store.upper import UpperEntry

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTES = 1 << 20
# The overlay's own marks mean nothing outside of a layer.
_PRIVATE_XATTRS = ("trusted.overlay.", "user.overlay.")
_NO_XATTRS = (errno.ENOTSUP, errno.EPERM, errno.ENODATA)


def copy_tree(source_fd: int, target_fd: int, chosen: Collection[bytes] | None = None) -> None:
    """Make target_fd, an empty directory, the same as source_fd: content, and the directory's own owner and mode.

    Shape:  chosen: only these paths, and with each the directories above it; None for all
    Raises: SyscallError
    """
    allow_more_descriptors()
    try:
        _TreeCopy(target_fd, chosen).copy(source_fd)
    except SyscallError:
        raise
    except OSError as error:
        raise SyscallError(f"copy {error.filename or 'a tree'!r}", error.errno or 5) from None


class _TreeCopy:
    """One pass; times of directories are set when nothing more is made in them."""

    __slots__ = ("_chosen", "_levels", "_links", "_target_fd")

    def __init__(self, target_fd: int, chosen: Collection[bytes] | None) -> None:
        self._target_fd = target_fd
        self._chosen = chosen
        # For each open level: its directory, made here, and the status it will get.
        self._levels: list[tuple[int, os.stat_result]] = []
        self._links: dict[int, bytes] = {}

    def copy(self, source_fd: int) -> None:
        status = os.fstat(source_fd)
        try:
            for entry in walk_upper(source_fd):
                self._leave(entry.depth)
                if self._chosen is None or entry.path in self._chosen:
                    self._copy_entry(entry, self._levels[-1][0] if self._levels else self._target_fd)
        finally:
            self._leave(0)
        _copy_xattrs(source_fd, self._target_fd)
        _finish(self._target_fd, status)

    def _leave(self, depth: int) -> None:
        while len(self._levels) > depth:
            handle, status = self._levels.pop()
            _set_times(handle, status)
            os.close(handle)

    def _copy_entry(self, entry: UpperEntry, parent: int) -> None:
        status, base = entry.status, entry.base
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFSOCK:
            return
        if kind != stat.S_IFDIR and status.st_nlink > 1:
            first = self._links.setdefault(status.st_ino, entry.path)
            if first is not entry.path:
                self._link(first, base, parent)
                return
        if kind == stat.S_IFDIR:
            os.mkdir(base, 0o700, dir_fd=parent)
            handle = os.open(base, _DIRECTORY_FLAGS, dir_fd=parent)
            self._levels.append((handle, status))
            _copy_xattrs(entry.handle, handle)
            _set_owner(handle, status)
        elif kind == stat.S_IFREG:
            entry.open_file()
            try:
                _copy_file(entry, parent)
            finally:
                entry.close_file()
        else:
            self._make_special(entry, parent, kind)

    def _make_special(self, entry: UpperEntry, parent: int, kind: int) -> None:
        status, base = entry.status, entry.base
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(base, dir_fd=entry.parent_fd), base, dir_fd=parent)
        else:
            os.mknod(base, status.st_mode, status.st_rdev, dir_fd=parent)
        os.chown(base, status.st_uid, status.st_gid, dir_fd=parent, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            # Made by us a moment ago, in a directory that no one else can enter: a name is as good as a descriptor.
            os.chmod(base, stat.S_IMODE(status.st_mode), dir_fd=parent)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(base, ns=times, dir_fd=parent, follow_symlinks=False)

    def _link(self, first: bytes, base: bytes, parent: int) -> None:
        folder, _, name = first.rpartition(b"/")
        handle = _open_below(self._target_fd, folder)
        try:
            os.link(name, base, src_dir_fd=handle, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(handle)


def _open_below(top_fd: int, path: bytes) -> int:
    handle = os.dup(top_fd)
    for name in path.split(b"/") if path else ():
        try:
            below = os.open(name, _DIRECTORY_FLAGS, dir_fd=handle)
        finally:
            os.close(handle)
        handle = below
    return handle


def _copy_file(entry: UpperEntry, parent: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(entry.base, flags, 0o600, dir_fd=parent)
    try:
        copy_content(entry.handle, handle)
        _copy_xattrs(entry.handle, handle)
        _finish(handle, entry.status)
        _set_capability(entry.handle, handle)
    finally:
        os.close(handle)


def copy_content(source: int, target: int) -> int:
    """Copy what is left of one file to another, within the kernel where it can; the number of bytes."""
    total = 0
    while True:
        try:
            count = os.copy_file_range(source, target, 1 << 30)
        except OSError as error:
            if total or error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            break
        if not count:
            return total
        total += count
    while chunk := os.read(source, _CHUNK_BYTES):
        view = memoryview(chunk)
        while view:
            view = view[os.write(target, view) :]
        total += len(chunk)
    return total


def _copy_xattrs(source: int, target: int) -> None:
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return
        raise
    for name in names:
        if not name.startswith(_PRIVATE_XATTRS):
            try:
                os.setxattr(target, name, os.getxattr(source, name))
            except OSError as error:
                if error.errno not in _NO_XATTRS:
                    raise


def _set_capability(source: int, target: int) -> None:
    """Again at the end: the kernel takes a file's capability away when its owner changes."""
    try:
        os.setxattr(target, "security.capability", os.getxattr(source, "security.capability"))
    except OSError as error:
        if error.errno not in _NO_XATTRS:
            raise


def _set_owner(handle: int, status: os.stat_result) -> None:
    os.fchown(handle, status.st_uid, status.st_gid)
    os.fchmod(handle, stat.S_IMODE(status.st_mode))


def _set_times(handle: int, status: os.stat_result) -> None:
    os.utime(handle, ns=(status.st_atime_ns, status.st_mtime_ns))


def _finish(handle: int, status: os.stat_result) -> None:
    _set_owner(handle, status)
    _set_times(handle, status)
