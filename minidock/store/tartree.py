"""The tree that a tar would unpack to: of a root, of one layer, or the layers of an archive on each other.

Only headers are kept, contents are read where they lie; a compressed layer is first unpacked into a file without a
name. Memory grows with the number of entries, unlike that of directories.
"""

from __future__ import annotations

import os
import stat
import tempfile

from minidock.errors import BadArchive, UsageError
from minidock.formats import tarstream
from minidock.formats.archive import open_archive
from minidock.formats.compression import open_decompressed
from minidock.formats.tarstream import TarReader, clean_name
from minidock.formats.whiteout import OPAQUE_MARKER, PREFIX, is_overlay_xattr
from minidock.store.tarentries import KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from minidock.formats.archive import Archive
    from minidock.formats.archivedimage import LayerBlob
    from minidock.formats.tarstream import TarEntry

_PIECE_BYTES = 1 << 20


class _PlainReader:
    """A part of a file that is never moved in, as tarstream reads it."""

    def __init__(self, fd: int, offset: int, length_bytes: int) -> None:
        self._fd = fd
        self._offset = offset
        self._length = length_bytes
        self.position = 0

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        size = min(size, self._length - self.position)
        while size > 0 and (part := os.pread(self._fd, size, self._offset + self.position)):
            parts.append(part)
            self.position += len(part)
            size -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> int:
        size = min(size, self._length - self.position)
        self.position += size
        return size

    def pieces(self, size: int) -> Iterator[bytes]:
        while size > 0 and (piece := self.read(min(size, _PIECE_BYTES))):
            size -= len(piece)
            yield piece


class TarNode:
    """A node of a tar's tree; see trees.Node. Shape: children: None for anything but a directory"""

    __slots__ = (
        "_linkname",
        "_parts",
        "_xattrs",
        "children",
        "gid",
        "identity",
        "is_opaque",
        "mode",
        "mtime_ns",
        "path",
        "rdev",
        "size_bytes",
        "uid",
    )

    def __init__(self, mode: int = stat.S_IFDIR | 0o755) -> None:
        self.path = b""
        self.mode = mode
        self.uid = self.gid = self.rdev = self.size_bytes = self.mtime_ns = 0
        self.is_opaque = False
        self.identity: object = None
        self.children: dict[bytes, TarNode] | None = {} if stat.S_ISDIR(mode) else None
        self._linkname = b""
        self._xattrs: dict[bytes, bytes] | None = None
        # (fd, offset in it, length) of each part with data, and where in the file it begins.
        self._parts: list[tuple[int, int, int, int]] = []

    @classmethod
    def of_entry(cls, entry: TarEntry, fd: int, offset: int) -> TarNode:
        """The node of one member whose data lies in fd behind offset."""
        kind = KINDS.get(entry.type)
        if kind is None:
            raise BadArchive(f"an entry of unknown type {entry.type!r}: {os.fsdecode(entry.name)!r}")
        node = cls(kind | entry.mode & 0o7777)
        node.uid, node.gid, node.mtime_ns = entry.uid, entry.gid, entry.mtime_ns
        node.rdev = os.makedev(entry.devmajor, entry.devminor) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        node.size_bytes = entry.size_bytes if kind == stat.S_IFREG else len(entry.linkname)
        node._linkname = entry.linkname
        node._xattrs = entry.xattrs
        place = offset + entry.data_offset
        for start, length in entry.sparse if entry.sparse is not None else [(0, entry.data_bytes)]:
            if length:
                node._parts.append((fd, place, length, start))
                place += length
        return node

    def take_link(self, first: TarNode) -> None:
        """Be another name of a file."""
        for name in ("mode", "uid", "gid", "rdev", "size_bytes", "mtime_ns", "_parts", "_xattrs"):
            setattr(self, name, getattr(first, name))

    def target(self) -> bytes:
        """A symlink's target."""
        return self._linkname

    def xattrs(self) -> dict[str, bytes]:
        """The extended attributes."""
        found = self._xattrs or {}
        return {os.fsdecode(name): value for name, value in found.items() if not is_overlay_xattr(name)}

    def open(self) -> TarContent:
        """The bytes."""
        return TarContent(self._parts, self.size_bytes)


class TarContent:
    """A member's bytes, with zeros in the holes of a sparse one."""

    __slots__ = ("_parts", "_position", "_size")

    def __init__(self, parts: list[tuple[int, int, int, int]], size_bytes: int) -> None:
        self._parts = parts
        self._size = size_bytes
        self._position = 0

    def read(self, size: int) -> bytes:
        """Size bytes, fewer only at the end."""
        size = min(size, self._size - self._position)
        data = bytearray(size)
        for fd, offset, length, start in self._parts:
            first, last = max(start, self._position), min(start + length, self._position + size)
            if first < last:
                piece = os.pread(fd, last - first, offset + first - start)
                data[first - self._position : first - self._position + len(piece)] = piece
        self._position += size
        return bytes(data)

    def close(self) -> None:
        """The archive stays open for the others."""


class TarTree:
    """A tar file as a tree; see trees.Tree.

    Shape:  path: of a root's or a layer's tar, or an image archive with one image
    Raises: on entering: FormatError, NotFound, UsageError for an archive of several images, SyscallError
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._archive: Archive | None = None
        self._files: list[int] = []
        self._root = TarNode()
        self._skipped = False

    def __enter__(self) -> TarTree:
        self._archive = archive = open_archive(self._path, spool_dir=tempfile.gettempdir())
        try:
            if archive.rootfs is not None:
                self._add_layer(archive.rootfs)
            elif len(archive.images) != 1:
                raise UsageError(f"{self._path} holds {len(archive.images)} images", hint="name one of a data root")
            for image in archive.images:
                for blob in image.layers:
                    self._add_layer(blob)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._archive is not None:
            self._archive.members.close()
        for handle in self._files:
            os.close(handle)
        self._archive, self._files = None, []

    def _plain(self, blob: LayerBlob) -> tuple[int, int, int]:
        """Where a layer's uncompressed tar lies: descriptor, offset, length."""
        if blob.compression == "none":
            return blob.fd, blob.offset, blob.length_bytes
        handle = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._files.append(handle)
        source = os.open(f"/proc/self/fd/{blob.fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.lseek(source, blob.offset, os.SEEK_SET)
            stream = open_decompressed(source, blob.compression)
            while piece := stream.read(_PIECE_BYTES):
                os.write(handle, piece)
        finally:
            os.close(source)
        return handle, 0, os.lseek(handle, 0, os.SEEK_CUR)

    def _add_layer(self, blob: LayerBlob) -> None:
        fd, offset, length = self._plain(blob)
        entries: list[tuple[bytes, TarEntry]] = []
        hidden: list[tuple[bytes, bytes]] = []
        for entry in TarReader(_PlainReader(fd, offset, length)):
            if entry.type == tarstream.GLOBAL_PAX:
                continue
            folder, _, base = clean_name(entry.name).rpartition(b"/")
            if base.startswith(PREFIX):
                hidden.append((folder, base))
            elif base:
                entries.append((clean_name(entry.name), entry))
        # A layer's deletions are of what lies below it, whatever their place in the tar.
        for folder, base in hidden:
            node = self._find(folder)
            if node is not None and node.children is not None:
                if base == OPAQUE_MARKER:
                    node.children.clear()
                    node.is_opaque = True
                else:
                    node.children.pop(base[len(PREFIX) :], None)
        for name, entry in entries:
            self._put(name, entry, fd, offset)

    def _find(self, path: bytes) -> TarNode | None:
        node: TarNode | None = self._root
        for part in path.split(b"/") if path else ():
            if node is None or node.children is None:
                return None
            node = node.children.get(part)
        return node

    def _put(self, name: bytes, entry: TarEntry, fd: int, offset: int) -> None:
        parent = self._root
        *folders, base = name.split(b"/")
        for folder in folders:
            assert parent.children is not None
            below = parent.children.get(folder)
            if below is None or below.children is None:
                below = parent.children[folder] = TarNode()
            parent = below
        assert parent.children is not None
        old = parent.children.get(base)
        node = TarNode.of_entry(entry, fd, offset)
        if entry.type == tarstream.LINK:
            first = self._find(clean_name(entry.linkname))
            if first is None:
                raise BadArchive(f"a hard link to nothing: {os.fsdecode(name)!r}")
            node.take_link(first)
        if old is not None and old.children is not None and node.children is not None:
            node.children = old.children
            node.is_opaque = old.is_opaque
        parent.children[base] = node

    def walk(self) -> Iterator[TarNode]:
        """Every node below the root."""
        waiting = self._sorted(self._root, b"")
        while waiting:
            node = waiting.pop()
            self._skipped = False
            yield node
            if node.children and not self._skipped:
                waiting += self._sorted(node, node.path + b"/")

    def _sorted(self, node: TarNode, prefix: bytes) -> list[TarNode]:
        found = []
        for name in sorted(node.children or (), reverse=True):
            child = (node.children or {})[name]
            child.path = prefix + name
            found.append(child)
        return found

    def skip(self) -> None:
        """Do not go into the directory that the walk gave last."""
        self._skipped = True
