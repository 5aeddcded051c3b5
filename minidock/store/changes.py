"""An upper directory becomes a layer in one pass: tar bytes hashed, tar-split recorded, files copied.

The tar itself is never stored, as Docker does not store it either: the layer's directory and tar-split give
it back to the bit. The new directory is what unpacking that tar would leave: whole-second times, no xattr
but security.capability, whiteouts as devices of their own, and none of overlayfs' private marks but opaque.

Source: moby pkg/archive, tarAppender; shared format notes §3.3, §8, §9
"""

from __future__ import annotations

import os
import stat

from minidock.errors import StoreError, SyscallError
from minidock.formats.tarsplit import TarSplitWriter, crc64, crc64_portable
from minidock.formats.tarwriter import (
    BLOCK_BYTES,
    END_OF_ARCHIVE,
    LayerHeaders,
    is_whiteout,
)
from minidock.formats.whiteout import OPAQUE_XATTR, PREFIX
from minidock.ids import DiffID, sha256_hex
from minidock.store.copying import LARGE_BYTES, LargeCopier, became_shorter
from minidock.store.filemaker import FileMaker, MakerProcess
from minidock.store.upper import CAPABILITY_XATTR, UpperEntry, check_whole, walk_upper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.copying import Hasher
    from minidock.store.filemaker import Attributes
    from minidock.trace import Trace

_LAST_TIME_S = (1 << 63) // 1_000_000_000
# Up to here the libraries that hash faster take longer to load than they save.
_SMALL_BYTES = 1 << 16
_ZEROS = bytes(BLOCK_BYTES)
# From so many entries on, a second process makes the layer's files.
_HELPED_ENTRIES = 64


class WrittenLayer:
    """What one pass over an upper directory found.

    Units: size_bytes as layerdb counts it (regular files and symlinks, each inode once); tar_bytes of the whole tar
    """

    __slots__ = ("diff_id", "size_bytes", "tar_bytes", "entries")

    def __init__(self, diff_id: DiffID, size_bytes: int, tar_bytes: int, entries: int) -> None:
        self.diff_id = diff_id
        self.size_bytes = size_bytes
        self.tar_bytes = tar_bytes
        self.entries = entries


class _TarStream:
    """The tar as it goes by: into the hash, and its headers into tar-split."""

    __slots__ = ("hasher", "split", "tar_bytes", "entries", "_blocks", "_padding")

    def __init__(self, tar_split_fd: int) -> None:
        self.hasher = _LayerHash()
        self.split = TarSplitWriter(tar_split_fd)
        self.tar_bytes = 0
        self.entries = 0
        self._blocks = b""
        self._padding = b""

    def header(self, blocks: bytes) -> None:
        """Padding of the last file and the header of the next; payload_done follows."""
        self._blocks = blocks = self._padding + blocks
        self.hasher.update(blocks)

    def payload_done(self, name: bytes, size_bytes: int, checksum: int) -> None:
        """Record an entry whose content, if any, has gone through the hash."""
        self.split.member(self._blocks, name, size_bytes, checksum)
        self.entries += 1
        self.tar_bytes += len(self._blocks) + size_bytes
        self._padding = _ZEROS[: -size_bytes % BLOCK_BYTES]

    def file(self, name: bytes, header: bytes, data: bytes) -> None:
        """A small file in one step: its header, its content."""
        blocks = self._padding + header
        size_bytes = len(data)
        # Up to here a library that is faster takes longer to load than it saves.
        crc_of = crc64 if self.tar_bytes > _SMALL_BYTES else crc64_portable
        self.hasher.update(blocks + data)
        self.split.member(blocks, name, size_bytes, crc_of(data) if size_bytes else 0)
        self.entries += 1
        self.tar_bytes += len(blocks) + size_bytes
        self._padding = _ZEROS[: -size_bytes % BLOCK_BYTES]

    def end(self) -> None:
        """Write the end blocks and finish tar-split."""
        self.header(END_OF_ARCHIVE)
        self.split.segment(self._blocks)
        self.tar_bytes += len(self._blocks)
        self.split.close()


class _LayerHash:
    """sha256 of the tar. OpenSSL, whose loading takes a tenth of a short commit, comes when it is worth it."""

    __slots__ = ("_pieces", "_held_bytes", "_openssl")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._openssl: Hasher | None = None

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add bytes; bytes objects are kept until there are enough of them to be worth a call."""
        if isinstance(data, bytes):
            self._pieces.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > _SMALL_BYTES:
                self._flush()
        else:
            self._flush().update(data)

    def _flush(self) -> Hasher:
        if self._openssl is None:
            self._openssl = _openssl_sha256()
        self._openssl.update(b"".join(self._pieces))
        self._pieces.clear()
        self._held_bytes = 0
        return self._openssl

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""
        return self._flush().hexdigest() if self._openssl else sha256_hex(b"".join(self._pieces))


def _openssl_sha256() -> Hasher:
    try:
        from _hashlib import openssl_sha256
    except ImportError:
        from hashlib import sha256

        return sha256()
    return openssl_sha256(usedforsecurity=False)


def _host_names(uid: int, gid: int) -> tuple[bytes, bytes]:
    import grp
    import pwd

    try:
        user = os.fsencode(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        user = b""
    try:
        return user, os.fsencode(grp.getgrgid(gid).gr_name)
    except (KeyError, OverflowError):
        return user, b""


class HostNames:
    """The host's owner names, asked once for each pair; what LayerHeaders wants for dialect a."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[bytes, bytes]] = {}

    def __call__(self, uid: int, gid: int) -> tuple[bytes, bytes]:
        names = self._known.get((uid, gid))
        if names is None:
            names = self._known[uid, gid] = _host_names(uid, gid)
        return names


def _attributes(status: os.stat_result, capability: bytes) -> Attributes:
    # The engine's unpacker puts what Go's clock cannot hold at the epoch.
    seconds = status.st_mtime_ns // 1_000_000_000
    time_ns = seconds * 1_000_000_000 if 0 <= seconds <= _LAST_TIME_S else 0
    return status.st_mode, status.st_uid, status.st_gid, time_ns, capability


class _LayerWriter:
    """One pass over an upper directory into a layer directory."""

    __slots__ = (
        *("_stream", "_headers", "_first_links", "_open", "_copier", "_trace", "size_bytes", "path"),
        *("_here", "_files", "_helper", "_has_processors"),
    )

    def __init__(self, diff_fd: int, stream: _TarStream, dialect: str, trace: Trace | None) -> None:
        self._here = FileMaker(diff_fd)
        # Where files are made: here at first, later perhaps by the helper.
        self._files: FileMaker | MakerProcess = self._here
        self._helper: MakerProcess | None = None
        self._has_processors = len(os.sched_getaffinity(0)) > 1
        self._stream = stream
        self._headers = LayerHeaders(dialect, HostNames())
        self._first_links: dict[int, bytes] = {}
        # Directories whose content is still being written; their owner, mode and time come last.
        self._open: list[tuple[bytes, Attributes, bool]] = []
        self._copier = LargeCopier(stream.hasher)
        self._trace = trace
        self.size_bytes = 0
        self.path = b""

    def write(self, entry: UpperEntry) -> None:
        """Put one entry, as walk_upper opens it, into the tar stream and into the layer's directory."""
        self.path = entry.path
        status = entry.status
        if self._stream.entries >= _HELPED_ENTRIES and self._helper is None and self._has_processors:
            self._files = self._helper = MakerProcess(self._here)
        if len(self._open) > entry.depth:
            self._close_directories(entry.depth)
        is_regular = stat.S_ISREG(status.st_mode)
        if not is_regular:
            if stat.S_ISSOCK(status.st_mode):
                return
            if is_whiteout(status):
                self._write_whiteout(entry)
                return
        if entry.base.startswith(PREFIX):
            raise StoreError(
                f"{os.fsdecode(entry.path)!r}: a layer reads a name that begins with .wh. as a deletion",
                hint="rename it in the container and commit again",
            )
        xattrs = entry.xattrs()
        capability, is_opaque = b"", False
        if xattrs:
            check_whole(entry.path, xattrs)
            capability = entry.xattr(CAPABILITY_XATTR) if CAPABILITY_XATTR in xattrs else b""
            is_opaque = OPAQUE_XATTR in xattrs and entry.xattr(OPAQUE_XATTR) == b"y"
        if is_regular and status.st_nlink < 2:
            self._write_regular(entry, capability)
        elif stat.S_ISDIR(status.st_mode):
            self._write_directory(entry, capability, is_opaque)
        else:
            self._write_file(entry, capability)

    def finish(self) -> None:
        """Give the directories still open their owner, mode and time, and wait until all is there."""
        self._close_directories(0)
        if self._helper is not None:
            self._helper.settle()

    def end(self) -> None:
        """End the helpers."""
        self._copier.close()
        if self._helper is not None:
            self._helper.end()

    def _say(self, what: str, path: bytes, note: str = "") -> None:
        if self._trace:
            self._trace("write", f"layer {what} {os.fsdecode(path)!r}{note}")

    def _link_to_first(self, entry: UpperEntry) -> bytes:
        first = self._first_links.setdefault(entry.status.st_ino, entry.path)
        return b"" if first is entry.path else first

    def _write_whiteout(self, entry: UpperEntry) -> None:
        status = entry.status
        first_link = self._link_to_first(entry) if status.st_nlink > 1 else b""
        name, header = self._headers.entry(entry.path, status, first_link=first_link)
        self._say("whiteout", entry.path)
        self._stream.header(header)
        self._stream.payload_done(name, 0, 0)
        self._files.whiteout(entry.path, status.st_uid, status.st_gid)

    def _write_directory(self, entry: UpperEntry, capability: bytes, is_opaque: bool) -> None:
        name, header = self._headers.entry(entry.path, entry.status, capability=capability)
        self._say("opaque directory" if is_opaque else "directory", entry.path)
        self._stream.header(header)
        self._stream.payload_done(name, 0, 0)
        if is_opaque:
            name, header = self._headers.opaque_marker(entry.path, entry.status)
            self._stream.header(header)
            self._stream.payload_done(name, 0, 0)
        self._files.directory(entry.path)
        self._open.append((entry.path, _attributes(entry.status, capability), is_opaque))

    def _close_directories(self, depth: int) -> None:
        while len(self._open) > depth:
            self._files.close_directory(*self._open.pop())

    def _write_file(self, entry: UpperEntry, capability: bytes) -> None:
        first_link = self._link_to_first(entry) if entry.status.st_nlink > 1 else b""
        mode = entry.status.st_mode
        if first_link:
            name, header = self._headers.entry(entry.path, entry.status, first_link=first_link, capability=capability)
            self._say("link", entry.path, f" to {os.fsdecode(first_link)!r}")
            self._stream.header(header)
            self._stream.payload_done(name, 0, 0)
            self._files.link(entry.path, first_link)
        elif stat.S_ISREG(mode):
            self._write_regular(entry, capability)
        else:
            self._write_special(entry, capability)

    def _write_special(self, entry: UpperEntry, capability: bytes) -> None:
        status, path = entry.status, entry.path
        is_link = stat.S_ISLNK(status.st_mode)
        target = os.readlink(entry.base, dir_fd=entry.parent_fd) if is_link else b""
        name, header = self._headers.entry(path, status, target=target, capability=capability)
        self._say("symlink" if is_link else "special file", path)
        self._stream.header(header)
        self._stream.payload_done(name, 0, 0)
        self._files.special(path, _attributes(status, capability), target, status.st_rdev)
        self.size_bytes += len(target)

    def _write_regular(self, entry: UpperEntry, capability: bytes) -> None:
        status = entry.status
        size_bytes = status.st_size
        name, header = self._headers.entry(entry.path, status, capability=capability)
        if self._trace:
            self._say("file", entry.path, f" {size_bytes} bytes")
        is_sparse = status.st_blocks * 512 < size_bytes
        if size_bytes >= LARGE_BYTES or is_sparse:
            self._stream.header(header)
            checksum = self._copy_large(entry, is_sparse, _attributes(status, capability))
            self._stream.payload_done(name, size_bytes, checksum)
        else:
            data = _read_small(entry.handle, size_bytes) if size_bytes else b""
            self._files.file(entry.path, _attributes(status, capability), data)
            self._stream.file(name, header, data)
        self.size_bytes += size_bytes

    def _copy_large(self, entry: UpperEntry, is_sparse: bool, attributes: Attributes) -> int:
        """Copy a file through the hash, here, as soon as all is there that goes before; returns its checksum."""
        if self._helper is not None:
            self._helper.settle()
        copy = self._here.create(entry.path)
        try:
            checksum = self._copier.copy(entry.handle, copy, entry.status.st_size, is_sparse=is_sparse)
            self._here.set_attributes(copy, attributes)
        finally:
            os.close(copy)
        return checksum


def _read_small(source: int, size_bytes: int) -> bytes:
    data = os.read(source, size_bytes)
    while len(data) < size_bytes:
        more = os.read(source, size_bytes - len(data))
        if not more:
            raise became_shorter()
        data += more
    return data


def write_layer(
    upper_fd: int, diff_fd: int, tar_split_fd: int, *, dialect: str = "c", trace: Trace | None = None
) -> WrittenLayer:
    """Turn an upper directory into the content of a new layer.

    Shape:   diff_fd an empty directory; tar_split_fd an empty file for tar-split.json.gz; all stay the caller's
    Returns: WrittenLayer, whose diff_id is the one that Docker's commit gives for the same upper directory
    Raises:  StoreError for an upper that cannot be told in a layer, SyscallError; diff_fd is then half filled
    Source:  shared format notes §8
    """
    stream = _TarStream(tar_split_fd)
    writer = _LayerWriter(diff_fd, stream, dialect, trace)
    try:
        for entry in walk_upper(upper_fd, opening=True):
            writer.write(entry)
        writer.finish()
        stream.end()
    except SyscallError:
        raise
    except OSError as error:
        raise SyscallError(f"write layer: {os.fsdecode(writer.path)!r}", error.errno or 0) from error
    finally:
        writer.end()
    diff_id = DiffID("sha256:" + stream.hasher.hexdigest())
    return WrittenLayer(diff_id, writer.size_bytes, stream.tar_bytes, stream.entries)
