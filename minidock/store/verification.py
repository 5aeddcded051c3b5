"""A layer's directory held against its tar: every byte by the diff_id, every attribute by the tar's own headers.

The tar is made again from tar-split and the directory and hashed, as for save. That alone misses what such a tar takes
from tar-split and not from the disk, see attributes.py. Both passes name all that differs, and stop at nothing.

Source: shared format notes §9
"""

from __future__ import annotations

import os

from minidock.errors import StoreCorrupt
from minidock.formats.tarsplit import crc64
from minidock.formats.tarstream import clean_name
from minidock.store.layertar import LayerFiles, read_steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.formats.tarsplit import FileEntry
    from minidock.store.layerdb import Layer
    from minidock.store.root import DataRoot
    from minidock.store.workers import Report

_WINDOW_BYTES = 1 << 18
_READ_BYTES = 1 << 20
_MAX_FINDINGS = 1000


class Finding:
    """One thing that is not as it was stored.

    Shape: kind: `content`, `size`, `missing`, `extra`, `type`, `mode`, `owner`, `mtime`, `target`, `device`, `xattr`,
           `link`, `digest`, `tar-split`, `record` or `config`; path: relative to the layer, empty for the layer itself
    """

    __slots__ = ("detail", "kind", "path")

    def __init__(self, kind: str, path: str, detail: str) -> None:
        self.kind = kind
        self.path = path
        self.detail = detail


class FindingList:
    """A bounded list of findings as plain values, which pass from process to process."""

    __slots__ = ("_left_out", "rows")

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []
        self._left_out = 0

    def add(self, kind: str, path: bytes, detail: str) -> None:
        """Add one thing found."""
        if len(self.rows) >= _MAX_FINDINGS:
            self._left_out += 1
            return
        self.rows.append((kind, os.fsdecode(path), detail))

    def end(self) -> list[tuple[str, str, str]]:
        """All rows, and how many did not fit."""
        if self._left_out:
            self.rows.append(("content", "", f"{self._left_out} more are not shown"))
        return self.rows


def findings_of(rows: list[Any]) -> list[Finding]:
    """What check_content and check_metadata return, as objects."""
    return [Finding(*row) for row in rows]


def check_content(root: DataRoot, layer: Layer, report: Report) -> list[tuple[str, str, str]]:
    """Make the layer's tar again and hash it; when that fails, name each file at fault.

    Returns: findings as plain tuples: kind, path, detail
    Raises:  SyscallError for what is no property of the layer, such as an I/O error
    """
    found = FindingList()
    split_path = root.layers.tar_split_path(layer.chain_id)
    files = LayerFiles(root.layers.diff_path(layer.cache_id), layer.diff_id)
    window = _HashWindow(report)
    try:
        for step in read_steps(split_path, layer.diff_id):
            if isinstance(step, bytes):
                window.put(step)
            else:
                _put_content(window, files, step, found)
        actual = "sha256:" + window.end()
        if actual != layer.diff_id:
            for step in read_steps(split_path, layer.diff_id):
                if not isinstance(step, bytes):
                    _check_sum(files, step, found)
            if not found.rows:
                found.add("digest", b"", f"its tar, made again, hashes to {actual}, not to {layer.diff_id}")
    except StoreCorrupt as error:
        found.add("tar-split", b"", error.message)
    finally:
        files.close()
    return found.end()


class _HashWindow:
    """Hashes what it is given, gathered in one buffer, into which files are read without a copy."""

    __slots__ = ("_done", "_hasher", "_held", "_report", "_view")

    def __init__(self, report: Report) -> None:
        from hashlib import sha256

        self._report = report
        self._hasher = sha256(usedforsecurity=False)
        self._view = memoryview(bytearray(_WINDOW_BYTES))
        self._held = self._done = 0

    def put(self, data: bytes) -> None:
        end = self._held + len(data)
        if end > _WINDOW_BYTES:
            self._flush()
            end = len(data)
            if end > _WINDOW_BYTES:
                self._hasher.update(data)
                self._done += end
                return
        self._view[self._held : end] = data
        self._held = end

    def put_file(self, handle: int, size_bytes: int) -> None:
        """Read size_bytes, fewer only at the file's end."""
        left = size_bytes
        while left:
            room = _WINDOW_BYTES - self._held
            # A small file is worth no second read.
            if not room or room < left <= _WINDOW_BYTES:
                self._flush()
                room = _WINDOW_BYTES
            count = os.readv(handle, (self._view[self._held : self._held + min(left, room)],))
            if not count:
                return
            self._held += count
            left -= count

    def _flush(self) -> None:
        self._hasher.update(self._view[: self._held])
        self._done += self._held
        self._held = 0
        self._report(self._done)

    def end(self) -> str:
        self._flush()
        return self._hasher.hexdigest()


def _put_content(window: _HashWindow, files: LayerFiles, step: FileEntry, found: FindingList) -> None:
    try:
        handle = files.open(step)
    except StoreCorrupt as error:
        _tell_damage(error, step, found)
        return
    try:
        window.put_file(handle, step.size_bytes)
    finally:
        os.close(handle)


def _tell_damage(error: StoreCorrupt, step: FileEntry, found: FindingList) -> None:
    what = error.message.rpartition("' ")[2] or error.message
    kind = "missing" if what == "is missing" else "size" if what.startswith("has ") else "type"
    found.add(kind, clean_name(step.name), what)


def _check_sum(files: LayerFiles, step: FileEntry, found: FindingList) -> None:
    try:
        handle = files.open(step)
    except StoreCorrupt:
        return
    checksum = 0
    try:
        while data := os.read(handle, _READ_BYTES):
            checksum = crc64(data, checksum)
    finally:
        os.close(handle)
    if checksum != step.crc:
        found.add("content", clean_name(step.name), f"was changed: CRC-64 {checksum:016x} instead of {step.crc:016x}")
