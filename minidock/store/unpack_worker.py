"""One layer's unpacking, in a forked process that has made the layer's directory its root.

    blob --> feed (inflate, blob digest) --> window --> hash    sha256 of the tar's bytes
                                                   '--> writer  headers, files, tar-split; the main thread

A plain blob is mapped and needs neither feed nor window: each reads it in place at its own pace, and the hash, where
it is ahead, takes big files' data off the writer's hands. tar-split has no thread of its own: nearly all its work
holds Python's lock, and to hand it over took longer than to do it. All imports and opens come before chroot(2); after
it nothing is looked up by name but the layer's own files.
"""

from __future__ import annotations

import errno
import os
import sys

from minidock.errors import BadArchive, DigestMismatch, MinidockError, SyscallError
from minidock.formats.bytestream import BufferReader
from minidock.formats.compression import PIECE_BYTES, Decompressor, identify, sniff
from minidock.formats.crc64 import find_crc64
from minidock.formats.gojson import encode_json
from minidock.formats.tarheader import looks_like_tar
from minidock.formats.tarsplit import TarSplitWriter, fast_compressor
from minidock.formats.tarstream import TarEntry, TarReader, clean_name
from minidock.store.bytewindow import ByteWindow, Pipeline, Poisoned
from minidock.store.confinement import confine
from minidock.store.heavyfiles import HeavyFiles
from minidock.store.layerwriter import LayerWriter, show_name, stores_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from minidock.formats.bytestream import ByteReader
    from minidock.store.bytewindow import KeepingReader
    from minidock.store.unpack import UnpackJob

WINDOW_BYTES = 6 << 20
_PROGRESS_BYTES = 4 << 20
# From here on the kernel takes longer for a file's data than for handing it over, measured.
_HEAVY_BYTES = 128 << 10
_EVERYTHING = 1 << 62


class _Plain:
    """The decompressor of what is not compressed."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The data as they are."""
        yield data

    def finish(self) -> None:
        """Nothing can be missing."""


class LayerUnpacker:
    """The pipeline of one layer; prepare before chroot, run after it."""

    def __init__(
        self,
        job: UnpackJob,
        report: Callable[[int], None],
        trace: Callable[[str, str], None] | None = None,
        *,
        window_bytes: int = WINDOW_BYTES,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        from hashlib import sha256

        self._job = job
        self._report = report
        self._trace = trace
        self._piece_bytes = piece_bytes
        self._pipeline = Pipeline()
        self._tar_hash = sha256()
        self._blob_hash = sha256()
        self._tar_split = TarSplitWriter(job.tar_split_fd, fast_compressor())
        self._compression = job.blob.compression
        self._crc_of = find_crc64()
        if os.fstat(job.blob.fd).st_size < job.blob.offset + job.blob.length_bytes:
            raise BadArchive("truncated: its file ends before the layer does")
        if not self._compression:
            self._compression = sniff(os.pread(job.blob.fd, min(6, job.blob.length_bytes), job.blob.offset))
        self._input_bytes = 0
        self._end = _EVERYTHING
        self._window: ByteWindow | None = None
        self._mapped = self._map_blob() if self._compression == "none" else None
        self._keeper: KeepingReader | None = None
        self._reader: ByteReader
        self._hash_reader: ByteReader
        if self._mapped is not None:
            self._end = len(self._mapped)
            self._reader, self._hash_reader = BufferReader(self._mapped), BufferReader(self._mapped)
        else:
            kind = self._compression
            self._stream = _Plain() if kind == "none" else Decompressor(kind, piece_bytes=piece_bytes)
            self._window = ByteWindow(self._pipeline, window_bytes)
            self._reader = self._keeper = self._window.new_keeping_reader(self._tar_split.segment)
            self._hash_reader = self._window.new_reader()
        # How far tar-split has come in a mapped tar; of the current member: whether its data become a file, their CRC.
        self._recorded = 0
        self._crc = 0
        self._is_stored = False
        self._heavy = HeavyFiles(self._pipeline, self._fill)
        self._writer = LayerWriter(self._copy, job.time_ns, self._offer, self._heavy.settle)

    def _map_blob(self) -> memoryview | None:
        """A plain blob in memory; None if its file system cannot map files. Raises BadArchive if it is no tar."""
        from mmap import ALLOCATIONGRANULARITY, MADV_SEQUENTIAL, PROT_READ, mmap

        blob = self._job.blob
        head = os.pread(blob.fd, min(4096, blob.length_bytes), blob.offset)
        if not looks_like_tar(head):
            raise BadArchive(f"neither a tar nor compressed, but {identify(head)}")
        if not head:
            return memoryview(head)
        begin = blob.offset // ALLOCATIONGRANULARITY * ALLOCATIONGRANULARITY
        lead = blob.offset - begin
        try:
            mapping = mmap(blob.fd, lead + blob.length_bytes, prot=PROT_READ, offset=begin)
        except OSError:
            return None
        mapping.madvise(MADV_SEQUENTIAL)
        return memoryview(mapping)[lead:]

    def run(self) -> dict[str, Any]:
        """Unpack into the process's root directory; returns the result's fields. Raises MinidockError."""
        pipeline = self._pipeline
        try:
            if self._window is not None:
                pipeline.start("decompressor", self._feed)
            pipeline.start("hash", self._hash)
            self._write()
            pipeline.join()
            return self._result()
        except BaseException as error:  # noqa: BLE001 - the first error of any thread is raised instead
            pipeline.fail(error)
            first = pipeline.error or error
            raise first from None

    # the feed thread

    def _feed(self) -> None:
        assert self._window is not None
        blob, window, stream = self._job.blob, self._window, self._stream
        wants_digest = blob.blob_digest is not None
        position, end = blob.offset, blob.offset + blob.length_bytes
        while position < end:
            data = os.pread(blob.fd, min(self._piece_bytes, end - position), position)
            if not data:
                raise BadArchive("truncated: its file ends before the layer does")
            position += len(data)
            if wants_digest:
                self._blob_hash.update(data)
            for piece in stream.feed(data):
                window.feed(piece)
            self._input_bytes = position - blob.offset
        stream.finish()
        window.close()

    # the hash thread

    def _hash(self) -> None:
        update, heavy, check = self._tar_hash.update, self._heavy, self._pipeline.check
        for piece in self._hash_reader.pieces(_EVERYTHING):
            update(piece)
            heavy.fill_waiting()
            check()
        heavy.fill_all()

    def _fill(self, fd: int, entry: TarEntry, data: memoryview) -> None:
        """Write a big file that the writer left to this thread."""

        def copy(fd: int, size_bytes: int) -> None:
            for start in range(0, size_bytes, PIECE_BYTES):
                _write_all(fd, data[start : start + PIECE_BYTES])

        self._writer.fill(fd, entry, copy)

    # the main thread

    def _write(self) -> None:
        apply, member, end = self._writer.apply, self._tar_split.member, self._end
        next_report = _PROGRESS_BYTES
        for entry in TarReader(self._reader, self._mapped):
            path = clean_name(entry.name)
            start, data_bytes = entry.data_offset, entry.data_bytes
            if data_bytes and start + data_bytes > end:
                raise BadArchive(f"truncated within {show_name(entry.name)}")
            if self._trace is not None:
                self._trace_entry(entry)
            raw = self._take_raw(start)
            self._is_stored = data_bytes > 0 and stores_data(entry, path)
            if self._is_stored:
                apply(entry, path)
                member(raw, entry.name, data_bytes, self._crc)
                self._recorded += data_bytes
            else:
                # Data that are no file of the same bytes in the layer (sparse files, whiteouts with data) count as raw.
                member(raw, entry.name, 0, 0)
                apply(entry, path)
            if start >= next_report:
                next_report = start + _PROGRESS_BYTES
                self._pipeline.check()
                self._tell_progress()
        self._end_tar_split()
        self._heavy.close()
        self._writer.finish()
        self._tell_progress()

    def _take_raw(self, until: int) -> Any:
        """The bytes of the stream since the last member's data."""
        if self._keeper is not None:
            return self._keeper.take()
        assert self._mapped is not None
        start, self._recorded = self._recorded, until
        return self._mapped[start:until]

    def _end_tar_split(self) -> None:
        """What is left of the stream belongs to no member."""
        split, reader = self._tar_split, self._reader
        split.segment(self._take_raw(reader.position))
        for piece in reader.pieces(_EVERYTHING):
            split.segment(piece)
        split.close()

    def _tell_progress(self) -> None:
        self._report(self._input_bytes if self._mapped is None else self._reader.position)

    def _trace_entry(self, entry: TarEntry) -> None:
        assert self._trace is not None
        what = f" -> {show_name(entry.linkname)}" if entry.linkname else f" ({entry.size_bytes} bytes)"
        self._trace("write", f"{show_name(entry.name)} {entry.mode & 0o7777:04o} {entry.uid}:{entry.gid}{what}")

    def _copy(self, fd: int, size_bytes: int) -> None:
        """Move the current member's data to a file.

        A mapped blob's data are written out of the mapping, measured as cheap as sendfile(2) and cheaper for small
        files; the hash needs the pages mapped anyway.
        """
        reader, crc_of = self._reader, self._crc_of
        if self._mapped is not None and size_bytes <= PIECE_BYTES:
            # Most files: one piece, at a known place.
            data = reader.read(size_bytes)
            left = size_bytes - len(data)
            self._crc = crc_of(data)
            _write_all(fd, data)
        else:
            left = self._copy_pieces(fd, size_bytes)
        if left:
            raise BadArchive("truncated within the data of a member")

    def _copy_pieces(self, fd: int, size_bytes: int) -> int:
        """As _copy, for what comes in parts or takes long; returns how many bytes were missing."""
        reader, crc_of, keeper = self._reader, self._crc_of, None if self._is_stored else self._keeper
        next_report = reader.position + _PROGRESS_BYTES
        crc, left = 0, size_bytes
        for piece in reader.pieces(size_bytes):
            left -= len(piece)
            crc = crc_of(piece, crc)
            _write_all(fd, piece)
            if keeper is not None:
                keeper.keep(bytes(piece))
            if reader.position >= next_report:
                next_report += _PROGRESS_BYTES
                self._pipeline.check()
                self._tell_progress()
        self._crc = crc
        return left

    def _offer(self, fd: int, entry: TarEntry) -> bool:
        """Leave a big file to the hash thread, if that has already passed it; whether it was taken."""
        if entry.data_bytes < _HEAVY_BYTES or self._mapped is None or entry.xattrs:
            return False
        start, end = entry.data_offset, entry.data_offset + entry.data_bytes
        if self._hash_reader.position < end:
            return False
        data = self._mapped[start:end]
        if not self._heavy.offer(fd, entry, data):
            return False
        self._crc = self._crc_of(data)
        return True

    def _result(self) -> dict[str, Any]:
        job = self._job
        diff_id = "sha256:" + self._tar_hash.hexdigest()
        if job.blob.blob_digest is not None:
            # a mapped blob's bytes are the tar's
            digest = diff_id if self._mapped is not None else "sha256:" + self._blob_hash.hexdigest()
            if digest != job.blob.blob_digest:
                raise DigestMismatch("blob digest", expected=str(job.blob.blob_digest), actual=digest)
        if job.diff_id is not None and diff_id != job.diff_id:
            raise DigestMismatch("diff_id", expected=str(job.diff_id), actual=diff_id)
        return {
            "diff_id": diff_id,
            "size_bytes": self._writer.size_bytes,
            "tar_bytes": self._hash_reader.position,
            "entries": self._writer.entries,
            "warnings": self._writer.warnings,
        }


def _write_all(fd: int, data: Any) -> None:
    """Write data; raises BadArchive if they lie in a mapped file that was cut, OSError."""
    try:
        written = os.write(fd, data)
        while written < len(data):
            written += os.write(fd, data[written:])
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        raise BadArchive("truncated: its file was cut while it was read") from None


def preload(compressions: set[str]) -> None:
    """Import in the parent what its workers need, so that none of them has to; compressions as in LayerBlob."""
    import gc  # noqa: F401
    import hashlib  # noqa: F401
    import mmap  # noqa: F401

    find_crc64()
    fast_compressor()
    # Its C part is loaded when it first has a string.
    encode_json("")
    for kind in compressions - {"", "none"}:
        Decompressor(kind)


def enter_layer(diff_fd: int) -> None:
    """Make a layer's directory this process's root, shut the ways out of it, and set the umask aside.

    From here on a module or codec looked for by name would be the layer's: the ways to find one are closed.
    Raises: SyscallError
    """
    show_name(b"\xff\n")
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path.clear()
    os.umask(0)
    os.fchdir(diff_fd)
    try:
        os.chroot(".")
    except OSError as error:
        raise SyscallError("chroot(layer's diff directory)", error.errno or 0) from None
    confine()


def describe_error(error: BaseException) -> dict[str, Any]:
    """An error as values that survive a pipe; see unpack.rebuild_error."""
    if isinstance(error, DigestMismatch):
        return {
            "kind": "DigestMismatch",
            "what": error.what,
            "expected": error.expected,
            "actual": error.actual,
            "hint": error.hint,
        }
    if isinstance(error, SyscallError):
        return {"kind": "SyscallError", "call": error.call, "errno": error.errno or 0, "hint": error.hint}
    if isinstance(error, MinidockError):
        return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
    if isinstance(error, OSError):
        return {"kind": "SyscallError", "call": "unpack", "errno": error.errno or 0, "hint": ""}
    reason = "another thread failed" if isinstance(error, Poisoned) else f"{type(error).__name__}: {error}"
    return {"kind": "MinidockError", "message": f"the unpacker failed: {reason}".replace("\n", " "), "hint": ""}
