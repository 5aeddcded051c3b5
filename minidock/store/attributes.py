"""Each file of a layer held against its tar's headers: mode, owner, times, links, xattrs; and files that no tar names.

What an unpacker leaves out on purpose is no difference: the root's own entry, times outside of what the engines can
store, overlayfs' private marks, xattrs that the file system cannot hold.
Source: shared format notes §7
"""

from __future__ import annotations

import errno
import os
import stat

from minidock.errors import BadArchive, StoreCorrupt, SyscallError
from minidock.formats import tarstream
from minidock.formats.tarstream import TarReader, clean_name
from minidock.formats.whiteout import OPAQUE_MARKER, OPAQUE_XATTR, PREFIX, is_overlay_xattr
from minidock.ids import is_hex64
from minidock.linux.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, open_in_root
from minidock.store.layertar import LayerFiles, read_steps
from minidock.store.verification import FindingList

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from minidock.formats.tarsplit import FileEntry
    from minidock.formats.tarstream import TarEntry
    from minidock.store.layerdb import Layer
    from minidock.store.root import DataRoot
    from minidock.store.workers import Report

_READ_BYTES = 1 << 20
_LATEST_NS = (1 << 63) - 1
_NOBODY = 0xFFFFFFFF
# Set by the kernel or by security modules, never by a tar.
_KERNEL_XATTRS = ("security.selinux", "security.ima", "security.evm", "system.", "trusted.overlay.")

_KINDS = {
    tarstream.REGULAR: stat.S_IFREG,
    tarstream.SPARSE: stat.S_IFREG,
    tarstream.DIRECTORY: stat.S_IFDIR,
    tarstream.SYMLINK: stat.S_IFLNK,
    tarstream.CHARACTER: stat.S_IFCHR,
    tarstream.BLOCK_DEVICE: stat.S_IFBLK,
    tarstream.FIFO: stat.S_IFIFO,
}
_KIND_NAMES = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symlink",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
}


class _HeaderReader:
    """The tar's bytes as TarReader wants them, with holes where the files' content is."""

    __slots__ = ("_hole", "_offset", "_piece", "_steps", "position")

    def __init__(self, steps: Iterator[bytes | FileEntry]) -> None:
        self._steps = steps
        self._piece = b""
        self._offset = self._hole = 0
        self.position = 0

    def _fill(self) -> bool:
        """Whether there is a piece or a hole to go on with."""
        while self._offset == len(self._piece) and not self._hole:
            step = next(self._steps, None)
            if step is None:
                return False
            if isinstance(step, bytes):
                self._piece, self._offset = step, 0
            else:
                self._hole = step.size_bytes
        return True

    def read(self, size: int) -> bytes:
        start, end = self._offset, self._offset + size
        if end <= len(self._piece):
            # Nearly always: a piece is the padding of one file and the header of the next.
            self._offset = end
            self.position += size
            return self._piece[start:end]
        parts = []
        while size and self._fill() and not self._hole:
            part = self._piece[self._offset : self._offset + size]
            self._offset += len(part)
            self.position += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def skip(self, size: int) -> int:
        left = size
        while left:
            if available := self._hole:
                self._hole = available - left if available > left else 0
            elif available := len(self._piece) - self._offset:
                self._offset += left if available > left else available
            else:
                # A whole hole, as nearly all are, is passed without being kept.
                step = next(self._steps, None)
                if step is None:
                    break
                if isinstance(step, bytes):
                    self._piece, self._offset = step, 0
                    continue
                available = step.size_bytes
                if available > left:
                    self._hole = available - left
            left = left - available if left > available else 0
        self.position += size - left
        return size - left

    def pieces(self, size: int) -> Iterator[bytes]:
        while size > 0 and (piece := self.read(min(size, _READ_BYTES))):
            size -= len(piece)
            yield piece


def check_metadata(root: DataRoot, layer: Layer, report: Report) -> list[tuple[str, str, str]]:
    """Hold what the tar's headers say against each file's attributes, and look for files that no header names.

    Shape:   changes the working directory, so it belongs into a process of its own
    Returns: findings as plain tuples: kind, path, detail
    Raises:  SyscallError for what is no property of the layer
    """
    look = _Look(root, layer)
    try:
        reader = _HeaderReader(read_steps(root.layers.tar_split_path(layer.chain_id), layer.diff_id))
        for entry in TarReader(reader):
            if entry.type != tarstream.GLOBAL_PAX and (path := clean_name(entry.name)):
                look.entry(entry, path)
        look.finish()
    except StoreCorrupt:
        # check_content tells it
        pass
    except BadArchive as error:
        look.found.add("tar-split", b"", f"its headers cannot be read: {error.message}")
    finally:
        look.files.close()
    report(0)
    return look.found.end()


class _Look:
    """One pass over a layer's directory. What a later header may still change is kept back until the end."""

    def __init__(self, root: DataRoot, layer: Layer) -> None:
        self.found = FindingList()
        self._top = root.layers.diff_path(layer.cache_id)
        self.files = LayerFiles(self._top, layer.diff_id)
        # BuildKit keeps the directory that the build wrote, with sockets, finer times and attributes of no tar.
        self._is_original = not is_hex64(layer.cache_id)
        self._folder_path: bytes | None = None
        self._folder = self._folder_inode = -1
        # A million names fit into memory as hashes of (directory's inode, name).
        self._seen: set[int] = set()
        self._parents: set[int] = set()
        self._shared: dict[int, tuple[bytes, TarEntry]] = {}
        self._whiteouts: dict[bytes, str] = {}
        self._opaque: set[bytes] = set()
        self._opaque_files: set[bytes] = set()
        self._unsupported: dict[str, bool] = {}

    def _enter(self, folder: bytes) -> bool:
        """Open a directory of the layer, and know it and those above it as named by the tar."""
        if folder == self._folder_path:
            return self._folder >= 0
        self._folder_path = folder
        try:
            end = folder.find(b"/")
            while end >= 0:
                self._parents.add(os.fstat(self.files.folder(folder[:end])).st_ino)
                end = folder.find(b"/", end + 1)
            self._folder = self.files.folder(folder)
            # Short names from here on: the way through /proc would cost more than the call itself.
            os.fchdir(self._folder)
            self._folder_inode = os.fstat(self._folder).st_ino
            self._parents.add(self._folder_inode)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            self._folder = -1
        return self._folder >= 0

    def entry(self, entry: TarEntry, path: bytes) -> None:
        """Hold one header against its file."""
        folder, _, base = path.rpartition(b"/")
        if base == OPAQUE_MARKER:
            self._opaque.add(folder)
            return
        is_whiteout = base.startswith(PREFIX)
        if is_whiteout:
            base = base[len(PREFIX) :]
            path = folder + b"/" + base if folder else base
        if b"\0" in path or not self._enter(folder):
            self.found.add("missing", path, "is missing")
            return
        try:
            status = os.lstat(base)
        except FileNotFoundError:
            self.found.add("missing", path, "the mark of its deletion is missing" if is_whiteout else "is missing")
            return
        self._seen.add(hash((self._folder_inode, base)))
        if is_whiteout:
            if not stat.S_ISCHR(status.st_mode) or status.st_rdev:
                self._whiteouts[path] = f"is {_name_of(status)}, not the mark of a deletion"
            return
        if self._whiteouts:
            # The file that replaces a whiteout of the same layer.
            self._whiteouts.pop(path, None)
        if entry.type == tarstream.LINK:
            self._link(entry, path, status)
            return
        if status.st_nlink > 1 or entry.type == tarstream.DIRECTORY:
            # A further link's header, or the same directory's by another name, may change what this one says.
            self._kind(entry, path, status)
            self._shared[status.st_ino] = path, entry
            return
        self._attributes(entry, path, base, status)

    def _link(self, entry: TarEntry, path: bytes, status: os.stat_result) -> None:
        """A further name of a file: its header's attributes count for all of them."""
        target = clean_name(entry.linkname)
        known = self._shared.get(status.st_ino)
        if known is None:
            self.found.add("link", path, f"is no hard link to {os.fsdecode(target)!r} any more")
            return
        first = known[1]
        if not stat.S_ISLNK(status.st_mode):
            first.mode, first.mtime_ns = entry.mode, entry.mtime_ns
        first.uid, first.gid = entry.uid, entry.gid
        if entry.xattrs:
            first.xattrs = {**(first.xattrs or {}), **entry.xattrs}

    def _kind(self, entry: TarEntry, path: bytes, status: os.stat_result) -> bool:
        kind = _KINDS.get(entry.type, 0)
        if stat.S_IFMT(status.st_mode) != kind:
            self.found.add("type", path, f"is {_name_of(status)}, not {_KIND_NAMES.get(kind, 'what it was')}")
            return False
        if kind == stat.S_IFREG and status.st_size != entry.size_bytes:
            self.found.add("size", path, f"has {status.st_size} bytes instead of {entry.size_bytes}")
        return True

    def _attributes(self, entry: TarEntry, path: bytes, base: bytes, status: os.stat_result) -> None:
        if not self._kind(entry, path, status):
            return
        mode = status.st_mode
        if not stat.S_ISLNK(mode) and (mode ^ entry.mode) & 0o7777:
            self.found.add("mode", path, f"has mode {mode & 0o7777:04o} instead of {entry.mode & 0o7777:04o}")
        if status.st_uid != entry.uid or status.st_gid != entry.gid:
            uid, gid = _owner(entry.uid), _owner(entry.gid)
            if (status.st_uid, status.st_gid) != (uid, gid):
                self.found.add("owner", path, f"belongs to {status.st_uid}:{status.st_gid} instead of {uid}:{gid}")
        if status.st_mtime_ns != entry.mtime_ns and not self._is_same_time(entry, status):
            self.found.add(
                "mtime", path, f"was changed at {_moment(status.st_mtime_ns)} instead of {_moment(entry.mtime_ns)}"
            )
        if stat.S_ISLNK(mode):
            target = os.readlink(base)
            if target != entry.linkname:
                self.found.add("target", path, f"leads to {_text(target)} instead of {_text(entry.linkname)}")
        elif entry.type in (tarstream.CHARACTER, tarstream.BLOCK_DEVICE):
            device = os.makedev(entry.devmajor & 0xFFF, entry.devminor & 0xFFFFF)
            if status.st_rdev != device:
                numbers = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
                self.found.add("device", path, f"is device {numbers} instead of {entry.devmajor}:{entry.devminor}")
        self._xattrs(entry, path, base, status)

    def _is_same_time(self, entry: TarEntry, status: os.stat_result) -> bool:
        expected = entry.mtime_ns
        if not 0 <= expected <= _LATEST_NS and not (stat.S_ISLNK(status.st_mode) and -_LATEST_NS <= expected):
            expected = 0
        actual = status.st_mtime_ns
        if actual == expected:
            return True
        # File systems without finer times cut, and a build's own directory knows more than its tar.
        return actual // 10**9 == expected // 10**9 and (not actual % 10**9 or self._is_original)

    def _xattrs(self, entry: TarEntry, path: bytes, base: bytes, status: os.stat_result) -> None:
        try:
            names = os.listxattr(base, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENODATA):
                raise
            names = []
        if not names and not entry.xattrs:
            return
        expected = {
            os.fsdecode(name): value for name, value in (entry.xattrs or {}).items() if not is_overlay_xattr(name)
        }
        for name, value in expected.items():
            if name not in names:
                if not self._is_unsupported(name, status.st_mode):
                    self.found.add("xattr", path, f"lacks {name!r}")
            elif os.getxattr(base, name, follow_symlinks=False) != value:
                self.found.add("xattr", path, f"has another value of {name!r}")
        for name in names:
            if entry.xattrs and os.fsencode(name) in entry.xattrs:
                # One of overlayfs' marks out of a tar, which Docker's engine sets.
                continue
            if name == OPAQUE_XATTR:
                self._opaque_files.add(path)
            elif name in ("trusted.overlay.redirect", "trusted.overlay.metacopy"):
                self.found.add("xattr", path, f"has {name}, which no layer's tar sets")
            elif name not in expected and not name.startswith(_KERNEL_XATTRS) and not self._is_original:
                self.found.add("xattr", path, f"has {name!r}, which the tar does not")

    def _is_unsupported(self, name: str, mode: int) -> bool:
        """Whether such a file on this file system cannot hold xattrs of the name's kind."""
        kind = name.partition(".")[0]
        if kind == "user" and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            return True
        if kind not in self._unsupported:
            try:
                os.getxattr(self._top, kind + ".minidock")
                self._unsupported[kind] = False
            except OSError as error:
                self._unsupported[kind] = error.errno in (errno.ENOTSUP, errno.EPERM)
        return self._unsupported[kind]

    def finish(self) -> None:
        """Tell what could not be judged before all headers were read."""
        for path, detail in self._whiteouts.items():
            self.found.add("type", path, detail)
        for path, entry in self._shared.values():
            folder, _, base = path.rpartition(b"/")
            if self._enter(folder):
                try:
                    status = os.lstat(base)
                except FileNotFoundError:
                    continue
                if stat.S_IFMT(status.st_mode) == _KINDS.get(entry.type, 0):
                    self._attributes(entry, path, base, status)
        for folder in self._opaque - self._opaque_files:
            if not self._is_opaque(folder):
                self.found.add("xattr", folder, f"lacks {OPAQUE_XATTR}: what lies below shows through")
        for folder in self._opaque_files - self._opaque:
            self.found.add("xattr", folder, f"has {OPAQUE_XATTR}, which the tar does not: what lies below is hidden")
        self._look_for_more()

    def _is_opaque(self, folder: bytes) -> bool:
        try:
            if folder and self._enter(folder):
                return os.getxattr(self._folder, OPAQUE_XATTR) == b"y"
            # `file/.wh..wh..opq` marks the file
            parent, _, base = folder.rpartition(b"/")
            if self._enter(parent):
                return os.getxattr(base or b".", OPAQUE_XATTR, follow_symlinks=False) == b"y"
        except OSError:
            return False
        return False

    def _look_for_more(self) -> None:
        """Tell each name that no header had, a directory without what is in it."""
        queue = [b""]
        while queue:
            folder = queue.pop()
            resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
            try:
                handle = open_in_root(self.files.folder(b""), folder, os.O_RDONLY | os.O_DIRECTORY, resolve=resolve)
            except SyscallError as error:
                if error.errno not in (errno.ENAMETOOLONG, errno.EXDEV):
                    raise
                self.found.add("extra", folder, f"cannot be looked into: {error.strerror}")
                continue
            try:
                queue += reversed(self._names_below(handle, folder + b"/" if folder else b""))
            finally:
                os.close(handle)

    def _names_below(self, handle: int, prefix: bytes) -> list[bytes]:
        """Look at one directory; returns the directories in it that are to be looked at, sorted."""
        below: list[bytes] = []
        inode = os.fstat(handle).st_ino
        # By a name of bytes: what is asked for by descriptor comes as text.
        os.fchdir(handle)
        with os.scandir(b".") as entries:
            for entry in entries:
                name = entry.name
                is_directory = entry.is_dir(follow_symlinks=False)
                is_known = hash((inode, name)) in self._seen
                if is_known or (is_directory and entry.inode() in self._parents):
                    if is_directory:
                        below.append(prefix + name)
                elif not self._is_original or not stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                    self.found.add("extra", prefix + name, "is not in the layer's tar")
        return sorted(below)


def _name_of(status: os.stat_result) -> str:
    return _KIND_NAMES.get(stat.S_IFMT(status.st_mode), "something else")


def _owner(number: int) -> int:
    # As the unpacker's system call cut it; -1 left root.
    number &= 0xFFFFFFFF
    return 0 if number == _NOBODY else number


def _text(data: bytes) -> str:
    return repr(os.fsdecode(data))[:200]


def _moment(time_ns: int) -> str:
    return f"{time_ns // 10**9}.{time_ns % 10**9:09d}"
