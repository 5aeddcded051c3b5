"""Tar entries become files, inside a layer's directory that is the process's root.

The caller has chrooted into the layer's directory, so the kernel resolves every path, symlink and `..` inside it
and no safety costs a call for each file. The rest is what Docker's engine does with an entry (shared format notes
§7), apart from two things: overlayfs' own xattrs are never set from a tar, and nothing already unpacked is ever
removed except a whiteout, since such a layer could not be exported again.
"""

from __future__ import annotations

import errno
import os
import stat

from minidock.errors import BadArchive, MinidockError, SyscallError, UnsafePath
from minidock.formats import tarstream
from minidock.formats.tarstream import clean_name
from minidock.formats.whiteout import OPAQUE_MARKER, OPAQUE_XATTR, PREFIX, hidden_name, is_overlay_xattr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minidock.formats.tarstream import TarEntry

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
_LATEST_NS = (1 << 63) - 1
_NOBODY = 0xFFFFFFFF
MAX_WARNINGS = 100

# Failures that the tar's own content causes; all others are the machine's.
_ARCHIVE_ERRNOS = frozenset(
    (
        errno.ENOENT,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.E2BIG,
        errno.ERANGE,
    )
)


def show_name(name: bytes) -> str:
    """A hostile name as one short printable line."""
    text = name.decode("utf-8", "backslashreplace")
    text = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= 160 else text[:120] + "..." + text[-30:]


def _file_time(time_ns: int) -> int:
    # Docker's engine sets what the years 1970 to 2262 do not hold to 1970.
    return time_ns if 0 <= time_ns <= _LATEST_NS else 0


def _owner(number: int) -> int:
    # As the system call cuts it; -1 leaves the owner, which is root then.
    number &= 0xFFFFFFFF
    return -1 if number == _NOBODY else number


def stores_data(entry: TarEntry, path: bytes) -> bool:
    """Whether the entry's data become a file of the same bytes in the layer; path is its cleaned name."""
    if entry.type != tarstream.REGULAR or entry.sparse is not None or not path:
        return False
    return PREFIX not in path or not path.rpartition(b"/")[2].startswith(PREFIX)


class _LateDirectory:
    """What is set on a directory when nothing more will be put into it."""

    __slots__ = ("atime_ns", "gid", "mode", "mtime_ns", "uid", "xattrs")

    def __init__(self, entry: TarEntry, mode: int) -> None:
        self.mode = mode
        self.uid = entry.uid
        self.gid = entry.gid
        self.mtime_ns = entry.mtime_ns
        self.atime_ns = entry.atime_ns
        self.xattrs = entry.xattrs


# How many inodes a layer leaves to the host, and after how many entries it looks.
_SPARE_INODES = 1024


class LayerWriter:
    """Writes one layer's entries below the process's root directory.

    Shape: copy(fd, size_bytes) moves that many bytes of the current member's data to fd's position; offer(fd, entry)
           may leave a new file to another thread, which calls fill; settle() waits until that has none left; time_ns
           as in UnpackJob
    Units: size_bytes: what all files hold together, each inode once, as layerdb's `size`
    """

    def __init__(
        self,
        copy: Callable[[int, int], None],
        time_ns: int | None,
        offer: Callable[[int, TarEntry], bool],
        settle: Callable[[], None],
    ) -> None:
        self._copy = copy
        self._offer = offer
        self._settle = settle
        self._time_ns = time_ns
        self._timeless: set[bytes] = set()
        self.size_bytes = 0
        self.entries = 0
        self.warnings: list[str] = []
        self._directories: dict[bytes, _LateDirectory] = {}
        self._devices_0_0: set[bytes] = set()
        self._opaque: set[bytes] = set()
        self._makers = {
            tarstream.REGULAR: self._regular,
            tarstream.SPARSE: self._regular,
            tarstream.DIRECTORY: self._directory,
            tarstream.SYMLINK: self._symlink,
            tarstream.LINK: self._link,
            tarstream.CHARACTER: self._device,
            tarstream.BLOCK_DEVICE: self._device,
            tarstream.FIFO: self._device,
            tarstream.GLOBAL_PAX: self._nothing,
        }

    def apply(self, entry: TarEntry, path: bytes) -> None:
        """Put one entry into the layer at path, its cleaned name; raises BadArchive, UnsafePath or SyscallError."""
        try:
            if PREFIX in path or not path:
                self._apply_special(entry, path)
            else:
                self.entries += 1
                if not self.entries % _SPARE_INODES:
                    self._spare_inodes()
                self._makers[entry.type](entry, path)
        except FileExistsError:
            raise BadArchive(f"{show_name(entry.name)}: the same path twice in one layer") from None
        except KeyError:
            raise BadArchive(f"{show_name(entry.name)}: members of type {entry.type!r} are not supported") from None
        except (OSError, ValueError) as error:
            if isinstance(error, MinidockError):
                raise
            raise self._explain(entry, error) from None

    @staticmethod
    def _spare_inodes() -> None:
        """Stop a layer of countless files while the host still has inodes; raises SyscallError(ENOSPC)."""
        status = os.statvfs(".")
        # f_files is 0 where inodes are not limited, as on btrfs
        if status.f_files and status.f_favail < _SPARE_INODES:
            hint = "free some, or use a file system with more inodes"
            raise SyscallError(f"only {status.f_favail} inodes are left", errno.ENOSPC, hint=hint)

    def _apply_special(self, entry: TarEntry, path: bytes) -> None:
        if not path or entry.type == tarstream.GLOBAL_PAX:
            # The layer's root is ours: an entry for it is neither followed nor applied, whatever its type.
            return
        self.entries += 1
        parent, slash, name = path.rpartition(b"/")
        if name.startswith(PREFIX):
            self._whiteout(entry, parent + slash, name)
        else:
            self._makers[entry.type](entry, path)

    @staticmethod
    def _explain(entry: TarEntry, error: Exception) -> MinidockError:
        if not isinstance(error, OSError):
            return BadArchive(f"{show_name(entry.name)}: {error}")
        number = error.errno or errno.EIO
        if number in _ARCHIVE_ERRNOS:
            what = f" -> {show_name(entry.linkname)}" if entry.linkname else ""
            return BadArchive(f"{show_name(entry.name)}{what}: {os.strerror(number)}")
        return SyscallError(f"unpack {show_name(entry.name)}", number)

    def _make_way(self, error: OSError, path: bytes) -> None:
        """Make a second attempt possible: create missing parents, or remove a whiteout that the new entry replaces."""
        if error.errno == errno.ENOENT:
            self._make_parents(path)
        elif error.errno == errno.EEXIST and self._is_whiteout(path):
            os.unlink(path)
            self._timeless.discard(path)
        else:
            raise error

    def _is_whiteout(self, path: bytes) -> bool:
        status = os.lstat(path)
        return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0 and path not in self._devices_0_0

    def _make_parents(self, path: bytes) -> None:
        end = path.find(b"/")
        while end >= 0:
            try:
                os.mkdir(path[:end], 0o755)
                self._timeless.add(path[:end])
            except FileExistsError:
                pass
            end = path.find(b"/", end + 1)

    def _nothing(self, entry: TarEntry, path: bytes) -> None:
        self.entries -= 1

    def _regular(self, entry: TarEntry, path: bytes) -> None:
        mode = entry.mode & 0o7777
        try:
            fd = os.open(path, _CREATE, mode)
        except OSError as error:
            self._make_way(error, path)
            fd = os.open(path, _CREATE, mode)
        if entry.sparse is not None or not self._offer(fd, entry):
            self._complete(fd, entry, self._copy)
        self.size_bytes += entry.size_bytes

    def fill(self, fd: int, entry: TarEntry, copy: Callable[[int, int], None]) -> None:
        """Complete a file that offer took, in the other thread; raises BadArchive or SyscallError."""
        try:
            self._complete(fd, entry, copy)
        except OSError as error:
            if isinstance(error, MinidockError):
                raise
            raise self._explain(entry, error) from None

    def _complete(self, fd: int, entry: TarEntry, copy: Callable[[int, int], None]) -> None:
        """Put data into a new file, and then what a write would undo; closes it."""
        try:
            if entry.sparse is not None:
                self._fill_sparse(fd, entry)
            elif entry.data_bytes:
                copy(fd, entry.data_bytes)
            if entry.uid or entry.gid:
                os.chown(fd, _owner(entry.uid), _owner(entry.gid))
                if entry.mode & 0o7000:
                    os.chmod(fd, entry.mode & 0o7777)
            if entry.xattrs:
                self._set_xattrs(fd, entry)
            mtime_ns = entry.mtime_ns
            if not 0 <= mtime_ns <= _LATEST_NS:
                mtime_ns = 0
            atime_ns = mtime_ns if entry.atime_ns is None else _file_time(max(entry.atime_ns, entry.mtime_ns))
            os.utime(fd, ns=(atime_ns, mtime_ns))
        finally:
            os.close(fd)

    def _fill_sparse(self, fd: int, entry: TarEntry) -> None:
        for offset, length in entry.sparse or ():
            os.lseek(fd, offset, os.SEEK_SET)
            self._copy(fd, length)
        os.ftruncate(fd, entry.size_bytes)

    def _directory(self, entry: TarEntry, path: bytes) -> None:
        mode = entry.mode & 0o7777
        late_mode = mode if mode & 0o7000 else -1
        try:
            os.mkdir(path, mode & 0o777)
        except OSError as error:
            if path in self._directories:
                raise
            if error.errno == errno.EEXIST and stat.S_ISDIR(os.lstat(path).st_mode):
                # made as a parent before its own entry came, or reached by another name
                late_mode = mode
            else:
                self._make_way(error, path)
                os.mkdir(path, mode & 0o777)
        self._directories[path] = _LateDirectory(entry, late_mode)

    def _symlink(self, entry: TarEntry, path: bytes) -> None:
        try:
            os.symlink(entry.linkname, path)
        except OSError as error:
            self._make_way(error, path)
            os.symlink(entry.linkname, path)
        self.size_bytes += len(entry.linkname)
        if entry.uid or entry.gid:
            os.chown(path, _owner(entry.uid), _owner(entry.gid), follow_symlinks=False)
        if entry.xattrs:
            self._set_xattrs(path, entry)
        # Only a symlink's time may lie before 1970: the engine sets it by another call.
        mtime_ns = entry.mtime_ns if -_LATEST_NS <= entry.mtime_ns <= _LATEST_NS else 0
        os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def _link(self, entry: TarEntry, path: bytes) -> None:
        # What a link sets is set on its target, too, and last.
        self._settle()
        target = clean_name(entry.linkname) or b"."
        try:
            self._hard_link(target, path)
        except OSError as error:
            self._make_way(error, path)
            self._hard_link(target, path)
        status = os.lstat(path)
        mode = entry.mode & 0o7777
        uid, gid = _owner(entry.uid), _owner(entry.gid)
        changed = (uid not in (-1, status.st_uid)) or (gid not in (-1, status.st_gid))
        if changed:
            os.chown(path, uid, gid, follow_symlinks=False)
        if entry.xattrs:
            self._set_xattrs(path, entry)
        if not stat.S_ISLNK(status.st_mode):
            if changed or stat.S_IMODE(status.st_mode) != mode:
                os.chmod(path, mode)
            self._set_times(path, entry)

    @staticmethod
    def _hard_link(target: bytes, path: bytes) -> None:
        try:
            os.link(target, path, follow_symlinks=False)
        except PermissionError:
            raise BadArchive(f"{show_name(path)}: hard link to {show_name(target)}, which is a directory") from None

    def _device(self, entry: TarEntry, path: bytes) -> None:
        mode = entry.mode & 0o7777
        if entry.type == tarstream.FIFO:
            kind, device = stat.S_IFIFO, 0
        else:
            kind = stat.S_IFCHR if entry.type == tarstream.CHARACTER else stat.S_IFBLK
            device = os.makedev(entry.devmajor & 0xFFF, entry.devminor & 0xFFFFF)
        try:
            self._make_node(path, kind | mode, device)
        except PermissionError:
            # Without the right to make devices (a user namespace) the engine leaves them out, too.
            self._warn(f"{show_name(entry.name)}: no right to make a device, left out")
            return
        if kind == stat.S_IFCHR and device == 0:
            self._devices_0_0.add(path)
        if entry.uid or entry.gid:
            os.chown(path, _owner(entry.uid), _owner(entry.gid), follow_symlinks=False)
            if mode & 0o7000:
                os.chmod(path, mode)
        if entry.xattrs:
            self._set_xattrs(path, entry)
        self._set_times(path, entry)

    def _make_node(self, path: bytes, mode: int, device: int) -> None:
        try:
            os.mknod(path, mode, device)
        except OSError as error:
            self._make_way(error, path)
            os.mknod(path, mode, device)

    @staticmethod
    def _set_times(path: bytes, entry: TarEntry) -> None:
        mtime_ns = _file_time(entry.mtime_ns)
        atime_ns = mtime_ns if entry.atime_ns is None else _file_time(max(entry.atime_ns, entry.mtime_ns))
        os.utime(path, ns=(atime_ns, mtime_ns), follow_symlinks=False)

    def _whiteout(self, entry: TarEntry, parent: bytes, name: bytes) -> None:
        if name == OPAQUE_MARKER:
            self._make_opaque(parent)
            return
        try:
            path = parent + hidden_name(name)
        except UnsafePath:
            raise UnsafePath(f"{show_name(entry.name)}: whiteout of nothing or of its own directory") from None
        try:
            os.mknod(path, stat.S_IFCHR, 0)
        except FileNotFoundError:
            self._make_parents(path)
            os.mknod(path, stat.S_IFCHR, 0)
        self._timeless.add(path)
        if entry.uid or entry.gid:
            os.chown(path, _owner(entry.uid), _owner(entry.gid), follow_symlinks=False)

    def _make_opaque(self, parent: bytes) -> None:
        if parent in self._opaque:
            raise FileExistsError(errno.EEXIST, "opaque marker")
        self._opaque.add(parent)
        directory = parent or b"."
        try:
            os.setxattr(directory, OPAQUE_XATTR, b"y")
        except FileNotFoundError:
            self._make_parents(parent)
            os.setxattr(directory, OPAQUE_XATTR, b"y")
        except NotADirectoryError:
            # `file/.wh..wh..opq`: the engine marks the file, and only a container on it fails
            os.setxattr(directory.rstrip(b"/"), OPAQUE_XATTR, b"y")

    def _set_xattrs(self, target: int | bytes, entry: TarEntry) -> None:
        for name, value in (entry.xattrs or {}).items():
            if is_overlay_xattr(name):
                self._warn(f"{show_name(entry.name)}: {show_name(name)} belongs to overlayfs and was not set")
                continue
            try:
                if isinstance(target, int):
                    os.setxattr(target, name, value)
                else:
                    os.setxattr(target, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise
                self._warn(f"{show_name(entry.name)}: {show_name(name)}: {os.strerror(error.errno)}")

    def _warn(self, text: str) -> None:
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(text)

    def finish(self) -> None:
        """Give all directories their owners, modes, xattrs and times; raises SyscallError or BadArchive."""
        for path, late in self._directories.items():
            entry = tarstream.TarEntry(
                path, tarstream.DIRECTORY, late.mode, late.uid, late.gid, 0, late.mtime_ns, b"", 0
            )
            entry.xattrs, entry.atime_ns = late.xattrs, late.atime_ns
            try:
                if late.uid or late.gid:
                    os.chown(path, _owner(late.uid), _owner(late.gid), follow_symlinks=False)
                if late.mode >= 0:
                    os.chmod(path, late.mode)
                if late.xattrs:
                    self._set_xattrs(path, entry)
                self._set_times(path, entry)
            except OSError as error:
                raise self._explain(entry, error) from None
        if self._time_ns is not None:
            for path in self._timeless.difference(self._directories):
                os.utime(path, ns=(self._time_ns, self._time_ns), follow_symlinks=False)
