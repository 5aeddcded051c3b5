"""One layer's unpacking, in a forked process that has made the layer's directory its root.

    blob --> feed (inflate, blob digest) --> window --> hash       sha256 of the tar's bytes
                                                   |--> writer     headers, files; the main thread
                                                   '--> tar-split  CRC-64, headers' bytes, gzip

A plain blob is mapped and needs neither feed nor window: each reads it in place at its own pace. All imports and
opens come before chroot(2); after it nothing is looked up by name but the layer's own files.
"""

from __future__ import annotations

import errno
import os
import sys
from collections import deque

from minidock.errors import BadArchive, DigestMismatch, MinidockError, SyscallError
from minidock.formats.bytestream import BufferReader
from minidock.formats.compression import PIECE_BYTES, Decompressor, identify, sniff
from minidock.formats.crc64 import find_crc64
from minidock.formats.tarheader import looks_like_tar
from minidock.formats.tarsplit import TarSplitWriter
from minidock.formats.tarstream import TarEntry, TarReader, clean_name
from minidock.store.bytewindow import ByteWindow, Pipeline, Poisoned
from minidock.store.confinement import confine
from minidock.store.layerwriter import LayerWriter, show_name, stores_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from minidock.formats.bytestream import ByteReader
    from minidock.store.unpack import UnpackJob

    # An event for the tar-split thread: so many raw bytes, then a member of this name and size (None: no member)
    Event = tuple[int, bytes | None, int]

WINDOW_BYTES = 6 << 20
_BATCH_EVENTS = 256
_MAX_BATCHES = 64
_PROGRESS_BYTES = 4 << 20
_EVERYTHING = 1 << 62


class _Recorder:
    """What the writer tells the tar-split thread, in batches, never held back while the writer waits."""

    def __init__(self, pipeline: Pipeline, batch_events: int) -> None:
        self._pipeline = pipeline
        self._batch_events = batch_events
        self._batch: list[Event] = []
        self._batches: deque[list[Event]] = deque()
        self.recorded = 0
        self._closed = False

    def add(self, until: int, name: bytes | None, size_bytes: int) -> None:
        """Raw bytes up to a position of the stream, then a member with data of size_bytes."""
        self._batch.append((until - self.recorded, name, size_bytes))
        self.recorded = until + size_bytes
        if len(self._batch) >= self._batch_events:
            self.flush()

    def flush(self) -> None:
        """Hand over what there is."""
        if not self._batch:
            return
        pipeline = self._pipeline
        with pipeline.condition:
            pipeline.condition.notify_all()
            while len(self._batches) >= _MAX_BATCHES:
                pipeline.wait()
            self._batches.append(self._batch)
            pipeline.condition.notify_all()
        self._batch = []

    def close(self) -> None:
        """No more events: what is left of the stream belongs to no member."""
        self.flush()
        with self._pipeline.condition:
            self._closed = True
            self._pipeline.condition.notify_all()

    def next_batch(self) -> list[Event] | None:
        """The next batch, None after the last one; raises Poisoned."""
        pipeline = self._pipeline
        with pipeline.condition:
            pipeline.condition.notify_all()
            while not self._batches:
                if self._closed:
                    return None
                pipeline.wait()
            batch = self._batches.popleft()
            pipeline.condition.notify_all()
            return batch


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
        batch_events: int = _BATCH_EVENTS,
    ) -> None:
        from hashlib import sha256

        self._job = job
        self._report = report
        self._trace = trace
        self._piece_bytes = piece_bytes
        self._pipeline = Pipeline()
        self._recorder = _Recorder(self._pipeline, batch_events)
        self._tar_hash = sha256()
        self._blob_hash = sha256()
        self._tar_split = TarSplitWriter(job.tar_split_fd)
        self._compression = job.blob.compression
        self._crc_of = find_crc64()
        if os.fstat(job.blob.fd).st_size < job.blob.offset + job.blob.length_bytes:
            raise BadArchive("truncated: its file ends before the layer does")
        if not self._compression:
            self._compression = sniff(os.pread(job.blob.fd, min(6, job.blob.length_bytes), job.blob.offset))
        self._input_bytes = 0
        self._end = _EVERYTHING
        self._window: ByteWindow | None = None
        view = self._map_blob() if self._compression == "none" else None
        self._is_mapped = view is not None
        if view is not None:
            self._end = len(view)
            self._readers: list[ByteReader] = [BufferReader(view) for _ in range(3)]
        else:
            kind = self._compression
            self._stream = _Plain() if kind == "none" else Decompressor(kind, piece_bytes=piece_bytes)
            self._window = ByteWindow(self._pipeline, window_bytes)
            readers = [self._window.new_reader() for _ in range(3)]
            readers[0].set_before_wait(self._hand_over)
            self._readers = list(readers)
        self._reader = self._readers[0]
        self._writer = LayerWriter(self._copy, job.time_ns)

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
            pipeline.start("tar-split", self._write_tar_split)
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
        update = self._tar_hash.update
        for piece in self._readers[1].pieces(_EVERYTHING):
            update(piece)
            self._pipeline.check()

    # the tar-split thread

    def _write_tar_split(self) -> None:
        reader, split = self._readers[2], self._tar_split
        read, crc_of, member = reader.read, self._crc_of, split.member
        while (batch := self._recorder.next_batch()) is not None:
            for raw_bytes, name, size_bytes in batch:
                if name is None or raw_bytes > PIECE_BYTES:
                    for piece in reader.pieces(raw_bytes):
                        split.segment(piece)
                    raw = b""
                else:
                    raw = read(raw_bytes)
                if name is None:
                    continue
                crc = 0
                if size_bytes > PIECE_BYTES:
                    for piece in reader.pieces(size_bytes):
                        crc = crc_of(piece, crc)
                elif size_bytes:
                    crc = crc_of(read(size_bytes))
                member(raw, name, size_bytes, crc)
        for piece in reader.pieces(_EVERYTHING):
            split.segment(piece)
        split.close()

    # the main thread

    def _hand_over(self) -> None:
        """Before the writer waits: let the tar-split reader come up to where the writer is."""
        position = self._reader.position
        if position > self._recorder.recorded:
            self._recorder.add(position, None, 0)
        self._recorder.flush()

    def _write(self) -> None:
        reader, record, apply, end = self._reader, self._recorder.add, self._writer.apply, self._end
        next_report = _PROGRESS_BYTES
        for entry in TarReader(reader):
            path = clean_name(entry.name)
            start, data_bytes = entry.data_offset, entry.data_bytes
            if not data_bytes:
                record(start, entry.name, 0)
            elif start + data_bytes > end:
                raise BadArchive(f"truncated within {show_name(entry.name)}")
            elif stores_data(entry, path):
                record(start, entry.name, data_bytes)
            else:
                # The layer has no file of these bytes (sparse files, whiteouts with data): tar-split keeps them.
                record(start, entry.name, 0)
                record(start + data_bytes, None, 0)
            if self._trace is not None:
                self._trace_entry(entry)
            apply(entry, path)
            if start >= next_report:
                next_report = start + _PROGRESS_BYTES
                self._pipeline.check()
                self._tell_progress()
        reader.skip(_EVERYTHING)
        self._recorder.close()
        self._writer.finish()
        self._tell_progress()

    def _tell_progress(self) -> None:
        self._report(self._reader.position if self._is_mapped else self._input_bytes)

    def _trace_entry(self, entry: TarEntry) -> None:
        assert self._trace is not None
        what = f" -> {show_name(entry.linkname)}" if entry.linkname else f" ({entry.size_bytes} bytes)"
        self._trace("write", f"{show_name(entry.name)} {entry.mode & 0o7777:04o} {entry.uid}:{entry.gid}{what}")

    def _copy(self, fd: int, size_bytes: int) -> None:
        """Move the current member's data to a file.

        A mapped blob's data are written out of the mapping, measured as cheap as sendfile(2) and cheaper for small
        files; the hash needs the pages mapped anyway.
        """
        reader, left = self._reader, size_bytes
        next_report = reader.position + _PROGRESS_BYTES
        try:
            # Most files are one piece, which needs no generator.
            is_small = self._is_mapped and size_bytes <= PIECE_BYTES
            for piece in (reader.read(size_bytes),) if is_small else reader.pieces(size_bytes):
                left -= len(piece)
                written = os.write(fd, piece)
                while written < len(piece):
                    written += os.write(fd, piece[written:])
                if reader.position >= next_report:
                    next_report += _PROGRESS_BYTES
                    self._pipeline.check()
                    self._tell_progress()
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            raise BadArchive("truncated: its file was cut while it was read") from None
        if left:
            raise BadArchive("truncated within the data of a member")

    def _result(self) -> dict[str, Any]:
        job = self._job
        diff_id = "sha256:" + self._tar_hash.hexdigest()
        if job.blob.blob_digest is not None:
            # a mapped blob's bytes are the tar's
            digest = diff_id if self._is_mapped else "sha256:" + self._blob_hash.hexdigest()
            if digest != job.blob.blob_digest:
                raise DigestMismatch("blob digest", expected=str(job.blob.blob_digest), actual=digest)
        if job.diff_id is not None and diff_id != job.diff_id:
            raise DigestMismatch("diff_id", expected=str(job.diff_id), actual=diff_id)
        return {
            "diff_id": diff_id,
            "size_bytes": self._writer.size_bytes,
            "tar_bytes": self._readers[1].position,
            "entries": self._writer.entries,
            "warnings": self._writer.warnings,
        }


def preload(compressions: set[str]) -> None:
    """Import in the parent what its workers need, so that none of them has to; compressions as in LayerBlob."""
    import gc  # noqa: F401
    import hashlib  # noqa: F401
    import json  # noqa: F401
    import mmap  # noqa: F401
    import signal  # noqa: F401

    find_crc64()
    TarSplitWriter(-1)
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
