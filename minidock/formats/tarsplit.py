"""tar-split: what a layer's tar holds besides the files' data, so that the tar can be made again to the bit.

A gzip stream of JSON lines. A segment has raw bytes (the padding of the file before and all headers up to the
next data), a file entry stands for the data of one member, with its CRC-64; entries without data have no size.

Source: shared format notes §9; github.com/vbatts/tar-split, tar/storage/entry.go
"""

from __future__ import annotations

import os
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64

from minidock.errors import DigestMismatch, StoreCorrupt
from minidock.formats.crc64 import crc64_portable, find_crc64
from minidock.formats.gojson import encode_json, parse_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_SEGMENT_BYTES = 48 * 1024
_FLUSH_LINES = 128
_MAX_LINE_BYTES = 64 << 20
_READ_BYTES = 1 << 20
# Names of these alone stand in JSON as they are.
_PLAIN_BYTES = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@,=~ "

# Letters that JSON leaves as they are; a name of these alone, as most are, needs no encoder.
_PLAIN = b"/._-+@:,=~%#[]{}() 0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_PLAIN_SEGMENT = b'{"type":2,"payload":"'
_PLAIN_FILE = b'{"type":1,"name":"'
# A header and the member behind it, as every engine writes them, which is nearly all there is; read in one step.
# What is no base64 is left to the decoder: here it would take a set of letters, twice the time of a search for a quote.
_PAIR = (
    rb'\{"type":2,"payload":"([^"]+)","position":\d+\}\n\{"type":1,"name":"([^"\\\n]*)",'
    rb'(?:"size":(\d{1,18}),"payload":"([A-Za-z0-9+/=]{12})"|"payload":null),"position":\d+\}\n'
)

_fast_crc64: Callable[..., int] | None = None


def crc64(data: Any, value: int = 0) -> int:
    """CRC-64/GO-ISO of data, continuing from the checksum of what came before."""
    global _fast_crc64
    if _fast_crc64 is None:
        _fast_crc64 = find_crc64()
    return _fast_crc64(data, value) if value else _fast_crc64(data)


def fast_compressor() -> Any:
    """The fastest compressor to gzip that this machine has."""
    try:
        from isal import isal_zlib
    except ImportError:
        return _plain_compressor()
    return isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)


def _plain_compressor() -> Any:
    import zlib

    return zlib.compressobj(1, zlib.DEFLATED, 31)


def _encode_name(name: bytes) -> bytes:
    try:
        return b'"name":' + encode_json(name.decode("utf-8"))
    except UnicodeDecodeError:
        return b'"name_raw":"' + b2a_base64(name, newline=False) + b'"'


class TarSplitWriter:
    """Writes one tar-split stream to a descriptor, which stays the caller's."""

    def __init__(self, fd: int, compressor: Any = None) -> None:
        """Begin a stream; compressor: a zlib object for gzip, else what is fastest for the length of the stream."""
        self._fd = fd
        self._compressor = compressor
        self._lines: list[bytes] = []
        self._position = 0

    def segment(self, data: Any) -> None:
        """Add raw bytes of the tar; long ones become several segments, which readers join again."""
        for start in range(0, len(data), _SEGMENT_BYTES):
            payload = b2a_base64(data[start : start + _SEGMENT_BYTES], newline=False)
            self._lines.append(b'{"type":2,"payload":"%b","position":%d}\n' % (payload, self._position))
            self._position += 1
            if start:
                self._flush()

    def file(self, name: bytes, size_bytes: int, crc: int) -> None:
        """Add a member: its name as in the tar, and size and CRC-64 of its data (0 and 0 if it has none)."""
        word = _encode_name(name) if name.translate(None, _PLAIN) else b'"name":"%b"' % name
        if size_bytes:
            checksum = b2a_base64(crc.to_bytes(8, "big"), newline=False)
            self._lines.append(
                b'{"type":1,%b,"size":%d,"payload":"%b","position":%d}\n' % (word, size_bytes, checksum, self._position)
            )
        else:
            self._lines.append(b'{"type":1,%b,"payload":null,"position":%d}\n' % (word, self._position))
        self._position += 1
        if len(self._lines) >= _FLUSH_LINES:
            self._flush()

    def member(self, raw: Any, name: bytes, size_bytes: int, crc: int) -> None:
        """Add raw bytes and the member behind them, as segment and file do, in one step for the common case."""
        if len(raw) > _SEGMENT_BYTES or not len(raw) or name.translate(None, _PLAIN):
            self.segment(raw)
            self.file(name, size_bytes, crc)
            return
        position = self._position
        self._position = position + 2
        payload = b2a_base64(raw, newline=False)
        if size_bytes:
            checksum = b2a_base64(crc.to_bytes(8, "big"), newline=False)
            self._lines.append(
                b'{"type":2,"payload":"%b","position":%d}\n{"type":1,"name":"%b","size":%d,"payload":"%b","position":%d}\n'
                % (payload, position, name, size_bytes, checksum, position + 1)
            )
        else:
            self._lines.append(
                b'{"type":2,"payload":"%b","position":%d}\n{"type":1,"name":"%b","payload":null,"position":%d}\n'
                % (payload, position, name, position + 1)
            )
        if len(self._lines) >= _FLUSH_LINES:
            self._flush()

    def _flush(self) -> None:
        if self._compressor is None:
            self._compressor = fast_compressor()
        data = self._compressor.compress(b"".join(self._lines))
        self._lines.clear()
        self._write(data)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        """Write what is buffered and the gzip trailer; the descriptor stays open."""
        if self._compressor is None:
            # A short stream: a library that is faster takes longer to load.
            self._compressor = _plain_compressor()
        self._flush()
        self._write(self._compressor.flush())


class FileEntry:
    """A member: where size_bytes is not 0, the file's data with this CRC-64 come next."""

    __slots__ = ("crc", "name", "size_bytes")

    def __init__(self, name: bytes, size_bytes: int, crc: int) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.crc = crc


def _blocks(fd: int) -> Iterator[bytes]:
    """The stream's text in blocks of whole lines; the last may lack its newline."""
    from minidock.formats.compression import open_decompressed

    stream = open_decompressed(fd, "gzip")
    # Parts of a line whose end was not read yet.
    parts: list[bytes] = []
    line_bytes = 0
    while data := stream.read(1 << 16):
        end = data.rfind(b"\n") + 1
        if end:
            yield b"".join((*parts, data[:end]))
            parts, line_bytes = [], 0
        parts.append(data[end:])
        line_bytes += len(data) - end
        if line_bytes > _MAX_LINE_BYTES:
            raise StoreCorrupt("tar-split: a line without end")
    if line_bytes:
        yield b"".join(parts)


def _parse_line(line: bytes) -> bytes | FileEntry:
    return _parse_plain_line(line) or _parse_any_line(line)


def _parse_plain_line(line: bytes) -> bytes | FileEntry | None:
    """A line as every engine writes it, read without JSON; None for all others. Raises Base64Error"""
    if line.startswith(_PLAIN_SEGMENT):
        payload, _, rest = line[len(_PLAIN_SEGMENT) :].partition(b'"')
        return a2b_base64(payload, strict_mode=True) if _is_position(rest) else None
    if not line.startswith(_PLAIN_FILE):
        return None
    name, _, rest = line[len(_PLAIN_FILE) :].partition(b'"')
    if b"\\" in name:
        return None
    if rest.startswith(b',"payload":null,') and _is_position(rest[15:]):
        return FileEntry(name, 0, 0)
    size, _, rest = rest.removeprefix(b',"size":').partition(b',"payload":"')
    checksum, _, rest = rest.partition(b'"')
    if not (size.isdigit() and len(size) < 19 and len(checksum) == 12 and _is_position(rest)):
        return None
    return FileEntry(name, int(size), int.from_bytes(a2b_base64(checksum, strict_mode=True), "big"))


def _is_position(rest: bytes) -> bool:
    return rest.startswith(b',"position":') and rest.endswith(b"}") and rest[12:-1].isdigit()


def _parse_any_line(line: bytes) -> bytes | FileEntry:
    document = parse_json(line, what="tar-split", limit_bytes=_MAX_LINE_BYTES)
    payload = a2b_base64(document.get("payload") or "", strict_mode=True)
    if document.get("type") == 2:
        return payload
    if raw := document.get("name_raw"):
        name = a2b_base64(raw, strict_mode=True)
    else:
        name = str(document.get("name", "")).encode("utf-8", "surrogateescape")
    size = document.get("size", 0)
    if document.get("type") != 1 or type(size) is not int or size < 0 or len(payload) not in (0, 8):
        raise StoreCorrupt("tar-split: an entry of an unknown kind")
    return FileEntry(name, size, int.from_bytes(payload, "big"))


def read_tar_split(fd: int) -> Iterator[bytes | FileEntry]:
    """Segments, as raw bytes of the tar, and file entries in order; raises FormatError or StoreCorrupt."""
    from re import compile

    match_pair = compile(_PAIR).match
    try:
        for block in _blocks(fd):
            position = 0
            while position < len(block):
                pair = match_pair(block, position)
                if pair is not None:
                    raw, name, size, checksum = pair.groups()
                    yield a2b_base64(raw, strict_mode=True)
                    if size is None:
                        yield FileEntry(name, 0, 0)
                    else:
                        yield FileEntry(name, int(size), int.from_bytes(a2b_base64(checksum, strict_mode=True), "big"))
                    position = pair.end()
                    continue
                end = block.find(b"\n", position)
                line = block[position:] if end < 0 else block[position:end]
                position = len(block) if end < 0 else end + 1
                if line:
                    yield _parse_line(line)
    except (Base64Error, TypeError, ValueError):
        raise StoreCorrupt("tar-split: an entry that is not base64") from None


def reassemble(tar_split_fd: int, open_member: Callable[[bytes], int]) -> Iterator[bytes]:
    """Make the layer's tar again.

    Shape:   open_member(path) opens a file beneath the layer's directory; path is relative and has no `..`, but
             a symlink in it may lead anywhere, so the kernel has to resolve it in that directory
    Returns: the tar's bytes in bounded pieces
    Raises:  DigestMismatch if a file is not what it was, StoreCorrupt
    """
    # A commit only writes, and need not load the reader of tars.
    from minidock.formats.tarstream import clean_name

    for entry in read_tar_split(tar_split_fd):
        if isinstance(entry, bytes):
            yield entry
        elif entry.size_bytes:
            yield from _member_data(entry, open_member(clean_name(entry.name)))


def _member_data(entry: FileEntry, fd: int) -> Iterator[bytes]:
    try:
        left, crc = entry.size_bytes, 0
        while left and (data := os.read(fd, min(left, _READ_BYTES))):
            crc = crc64(data, crc)
            left -= len(data)
            yield data
    finally:
        os.close(fd)
    if left or crc != entry.crc:
        raise DigestMismatch(
            f"layer file {os.fsdecode(entry.name)!r}: CRC-64",
            expected=f"{entry.crc:016x}",
            actual=f"{crc:016x}",
            hint="the file was changed after its layer was stored",
        )


__all__ = [
    "FileEntry",
    "TarSplitWriter",
    "crc64",
    "crc64_portable",
    "fast_compressor",
    "read_tar_split",
    "reassemble",
]
