"""docker cp's tars: entries of a tree into a stream, and a stream's entries into a tree."""

from __future__ import annotations

import os
import stat

from minidock.errors import BadArchive, UnsafePath
from minidock.formats import tarstream
from minidock.formats.tarstream import clean_name
from minidock.formats.tarwriter import HARD_LINK, encode_header
from minidock.store.treewriter import Attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minidock.formats.bytestream import FileReader
    from minidock.formats.tarstream import TarEntry
    from minidock.store.taroutput import TarOutput

# A file's type by that of its entry; a hard link's is most often a regular file's.
KINDS = {
    tarstream.REGULAR: stat.S_IFREG,
    tarstream.SPARSE: stat.S_IFREG,
    tarstream.LINK: stat.S_IFREG,
    tarstream.SYMLINK: stat.S_IFLNK,
    tarstream.CHARACTER: stat.S_IFCHR,
    tarstream.BLOCK_DEVICE: stat.S_IFBLK,
    tarstream.DIRECTORY: stat.S_IFDIR,
    tarstream.FIFO: stat.S_IFIFO,
}
_TYPES = {kind: type for type, kind in KINDS.items() if type not in (tarstream.SPARSE, tarstream.LINK)}


class TarEntries:
    """Puts entries into a tar, as TreeWriter puts them into a directory."""

    __slots__ = ("_stream",)

    def __init__(self, stream: TarOutput) -> None:
        self._stream = stream

    def put(
        self,
        path: bytes,
        attributes: Attributes,
        *,
        target: bytes = b"",
        first_link: bytes = b"",
        source_fd: int = -1,
    ) -> None:
        """Write one entry; a file that has become shorter is filled with zeros."""
        kind = stat.S_IFMT(attributes.mode)
        type = HARD_LINK if first_link else _TYPES[kind]
        size_bytes = attributes.size_bytes if type == tarstream.REGULAR else 0
        device = attributes.device if type in (tarstream.CHARACTER, tarstream.BLOCK_DEVICE) else 0
        header = encode_header(
            path + b"/" if type == tarstream.DIRECTORY else path,
            type,
            mode=stat.S_IMODE(attributes.mode),
            uid=attributes.uid,
            gid=attributes.gid,
            size_bytes=size_bytes,
            mtime_s=attributes.mtime_ns // 1_000_000_000,
            linkname=first_link or target,
            devmajor=os.major(device),
            devminor=os.minor(device),
            xattrs={b"security.capability": attributes.capability} if attributes.capability else None,
        )
        self._stream.put(header)
        if source_fd >= 0 and size_bytes:
            found = self._stream.copy(source_fd, size_bytes)
            self._stream.fill(size_bytes - found + -size_bytes % 512)


def unpack_entry(entry: TarEntry, reader: FileReader, put: Callable[..., object]) -> None:
    """Give one entry of a tar to put, such as TreeWriter's; raises UnsafePath, BadArchive, Conflict, SyscallError."""
    if entry.type == tarstream.GLOBAL_PAX:
        return
    if b".." in entry.name.split(b"/"):
        raise UnsafePath(f"a path that leaves its place: {os.fsdecode(entry.name)!r}")
    name = clean_name(entry.name)
    if not name or name == b".":
        return
    kind = KINDS.get(entry.type)
    if kind is None:
        raise BadArchive(f"an entry of unknown type {entry.type!r}: {os.fsdecode(name)!r}")
    if entry.sparse is not None:
        raise BadArchive(f"a sparse entry, which cp does not read: {os.fsdecode(name)!r}")
    attributes = Attributes(
        kind | entry.mode & 0o7777,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        os.makedev(entry.devmajor, entry.devminor),
        capability=(entry.xattrs or {}).get(b"security.capability", b""),
    )

    def content(out: int) -> None:
        missing = entry.data_bytes
        for piece in reader.pieces(entry.data_bytes):
            view = memoryview(piece)
            missing -= len(view)
            while view:
                view = view[os.write(out, view) :]
        if missing:
            raise BadArchive(f"the tar ends in the middle of {os.fsdecode(name)!r}")

    first = clean_name(entry.linkname) if entry.type == tarstream.LINK else b""
    target = entry.linkname if entry.type == tarstream.SYMLINK else b""
    put(name, attributes, target=target, first_link=first, content=content)
