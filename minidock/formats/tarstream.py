"""A strict reader of tar streams, for input that may be hostile: V7, USTAR, PAX, GNU and star.

It takes and refuses what Go's archive/tar takes and refuses, since engines decide with that whether a layer is
sound; names are bytes; an entry costs constant memory; a negative, huge or lying size can neither loop nor
allocate. The standard library's tarfile is not used: it looped for ever on such input (hazards A17).

    for entry in TarReader(reader):         # skips what is left of the entry before
        entry.name, entry.data_bytes ...
        reader.pieces(entry.data_bytes)     # or entry.data_offset, for readers that can seek
"""

from __future__ import annotations

from struct import Struct
from zlib import adler32

from minidock.constants import MAX_EXTENDED_HEADER_BYTES
from minidock.errors import BadArchive
from minidock.formats.tarpax import (
    XATTR_PREFIX,
    check_sparse,
    parse_decimal,
    parse_pax,
    parse_pax_time,
    parse_sparse_pairs,
    read_sparse_map_1_0,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from minidock.formats.bytestream import ByteReader

BLOCK = 512

REGULAR = b"0"
LINK = b"1"
SYMLINK = b"2"
CHARACTER = b"3"
BLOCK_DEVICE = b"4"
DIRECTORY = b"5"
FIFO = b"6"
SPARSE = b"S"
GLOBAL_PAX = b"g"
_OLD_REGULAR = b"\0"
_PAX = b"x"
_GNU_NAME = b"L"
_GNU_LINK = b"K"
_WITHOUT_DATA = frozenset((LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))

_ZERO_BLOCK = bytes(BLOCK)
# name mode uid gid size mtime checksum type linkname magic+version, uname gname skipped, devmajor devminor prefix
_HEADER = Struct("100s8s8s8s12s12s8sc100s8s64x8s8s155s12x")
_SIGNED_64 = 1 << 63


def clean_name(name: bytes) -> bytes:
    """A member's name relative to the layer's root, as Go's path cleaning gives it; `..` stops at the root.

    Returns: the name without leading or trailing slash; empty for the root itself
    """
    if name.startswith(b"./"):
        name = name[2:]
    if name.endswith(b"/"):
        name = name[:-1]
    if name and name[0] != 46 and name[0] != 47 and b"/." not in name and b"//" not in name:
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part and part != b".":
            parts.append(part)
    return b"/".join(parts)


class TarEntry:
    """One member: the header's values with extended headers applied.

    Shape:  type as in the header (old regular files told apart as REGULAR or DIRECTORY); xattrs and sparse are None
            where there are none; sparse: (offset, length) parts in order, whose data follow each other in the stream
    Units:  size_bytes of the file, data_bytes of what the stream holds of it; offsets count from the stream's start,
            header_offset that of the first extended header; times in ns since 1970, atime_ns None if not given
    """

    __slots__ = (
        "atime_ns",
        "data_bytes",
        "data_offset",
        "devmajor",
        "devminor",
        "gid",
        "header_offset",
        "linkname",
        "mode",
        "mtime_ns",
        "name",
        "size_bytes",
        "sparse",
        "type",
        "uid",
        "xattrs",
    )

    def __init__(
        self,
        name: bytes,
        type: bytes,
        mode: int,
        uid: int,
        gid: int,
        size_bytes: int,
        mtime_ns: int,
        linkname: bytes,
        header_offset: int,
    ) -> None:
        self.name = name
        self.type = type
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size_bytes = size_bytes
        self.data_bytes = size_bytes
        self.mtime_ns = mtime_ns
        self.linkname = linkname
        self.header_offset = header_offset
        self.data_offset = 0
        self.devmajor = 0
        self.devminor = 0
        self.atime_ns: int | None = None
        self.xattrs: dict[bytes, bytes] | None = None
        self.sparse: list[tuple[int, int]] | None = None


def _parse_number(field: bytes) -> int:
    """A header's number: octal text, or base 256 where the first bit is set. Raises BadArchive."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        # The first bit marks the encoding, the second one is the sign.
        value = value - (1 << bits) if field[0] & 0x40 else value - (1 << (bits - 1))
        if not -_SIGNED_64 <= value < _SIGNED_64:
            raise BadArchive("tar: number out of range in a header")
        return value
    text = field.strip(b" \0")
    cut = text.find(b"\0")
    if cut >= 0:
        text = text[:cut]
    if not text:
        return 0
    if not text.isdigit():
        raise BadArchive(f"tar: not a number in a header: {field!r}")
    try:
        return int(text, 8)
    except ValueError:
        raise BadArchive(f"tar: not a number in a header: {field!r}") from None


class _Numbers(dict[bytes, int]):
    """Numbers already parsed: modes, owners and sizes repeat, so most fields cost one look-up."""

    def __missing__(self, field: bytes) -> int:
        value = _parse_number(field)
        if len(self) < 4096:
            self[field] = value
        return value


def _text(field: bytes) -> bytes:
    cut = field.find(b"\0")
    return field if cut < 0 else field[:cut]


def _check_sum(block: bytes, field: bytes) -> None:
    """Compare the header's checksum; unsigned sums by Adler-32, whose low half is 1 + the sum of the bytes.

    Half a block sums up to less than Adler's modulus of 65521, so two halves are exact.
    """
    expected = _parse_number(field)
    blanks = 256 - (adler32(field) & 0xFFFF) + 1
    if (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2 + blanks == expected:
        return
    signed = sum(value - 256 if value > 127 else value for value in (*block[:148], *block[156:])) + 256
    if signed != expected:
        raise BadArchive("tar: header with a wrong checksum")


class TarReader:
    """The entries of a tar stream, up to its end blocks or the end of its bytes.

    After the iteration `reader.position` is behind the end blocks; what follows them belongs to nobody. Extended
    headers of one kind are capped at 1 MiB. Global headers are given as entries of type GLOBAL_PAX without data.
    """

    def __init__(self, reader: ByteReader) -> None:
        self.reader = reader
        self._numbers = _Numbers()
        self._next_header = reader.position
        self._pax: dict[bytes, bytes] = {}
        self._long_name = b""
        self._long_link = b""

    def __iter__(self) -> Iterator[TarEntry]:
        reader = self.reader
        while True:
            start = self._next_header
            if reader.position != start:
                self._skip_rest(start)
            entry = self._next_entry(start)
            if entry is None:
                return
            yield entry

    def _skip_rest(self, start: int) -> None:
        distance = start - self.reader.position
        if distance < 0 or self.reader.skip(distance) != distance:
            # Go, too, takes a stream that ends within the padding of its last member.
            if distance < 0 or distance >= BLOCK:
                raise BadArchive("tar: truncated in the data of a member")
            self._next_header = self.reader.position

    def _next_entry(self, start: int) -> TarEntry | None:
        self._pax = {}
        self._long_name = self._long_link = b""
        while True:
            block = self._read_header()
            if block is None:
                return None
            entry, magic, device_fields = self._parse_header(block, start)
            type = entry.type
            if type == _PAX:
                self._pax = parse_pax(self._read_extended(entry))
            elif type == GLOBAL_PAX:
                parse_pax(self._read_extended(entry))
                entry.size_bytes = entry.data_bytes = 0
                entry.data_offset = self.reader.position
                self._next_header = entry.data_offset
                return entry
            elif type == _GNU_NAME:
                self._long_name = _text(self._read_extended(entry))
            elif type == _GNU_LINK:
                self._long_link = _text(self._read_extended(entry))
            else:
                self._finish_entry(entry, block, magic, device_fields)
                return entry

    def _read_header(self) -> bytes | None:
        """The next header block, None at the end (two zero blocks, or the end of the bytes before a block)."""
        block = bytes(self.reader.read(BLOCK))
        if len(block) < BLOCK:
            if block:
                raise BadArchive("tar: truncated within a header")
            return None
        if block == _ZERO_BLOCK:
            block = bytes(self.reader.read(BLOCK))
            if block and block != _ZERO_BLOCK:
                raise BadArchive("tar: truncated within a header" if len(block) < BLOCK else "tar: lone zero block")
            return None
        return block

    def _parse_header(self, block: bytes, start: int) -> tuple[TarEntry, bytes, tuple[bytes, bytes]]:
        (name, mode, uid, gid, size, mtime, checksum, type, linkname, magic, major, minor, prefix) = _HEADER.unpack(
            block
        )
        _check_sum(block, checksum)
        numbers = self._numbers
        if name[-1] == 0:
            name = name[: name.index(0)]
        elif 0 in name:
            name = _text(name)
        if linkname[0]:
            linkname = _text(linkname)
        else:
            linkname = b""
        size_bytes = numbers[size]
        if size_bytes < 0:
            raise BadArchive("tar: member with a negative size")
        if prefix[0] and magic[:6] == b"ustar\0":
            prefix = _text(prefix[:131] if block[508:] == b"tar\0" else prefix)
            name = prefix + b"/" + name if prefix else name
        elif prefix[0] and magic == b"ustar  \0":
            name = self._gnu_prefix(prefix) + name
        entry = TarEntry(
            name,
            type,
            numbers[mode],
            numbers[uid],
            numbers[gid],
            size_bytes,
            _parse_number(mtime) * 1_000_000_000,
            linkname,
            start,
        )
        return entry, magic, (major, minor)

    @staticmethod
    def _gnu_prefix(field: bytes) -> bytes:
        """A prefix where GNU keeps times: Go wrote such headers once, and takes them if they are no times."""
        try:
            _parse_number(field[:12])
            if field[12]:
                _parse_number(field[12:24])
        except BadArchive:
            prefix = _text(field)
            if prefix.isascii():
                return prefix + b"/"
        return b""

    def _read_extended(self, entry: TarEntry) -> bytes:
        """The data of an extended header, with its padding passed over."""
        size = entry.size_bytes
        if size > MAX_EXTENDED_HEADER_BYTES:
            raise BadArchive(f"tar: extended header of {size} bytes, more than {MAX_EXTENDED_HEADER_BYTES}")
        data = bytes(self.reader.read(size))
        padding = -size % BLOCK
        if len(data) < size or self.reader.skip(padding) < padding:
            raise BadArchive("tar: truncated within an extended header")
        return data

    def _finish_entry(self, entry: TarEntry, block: bytes, magic: bytes, device_fields: tuple[bytes, bytes]) -> None:
        if self._pax:
            self._apply_pax(entry, self._pax)
        if self._long_name:
            entry.name = self._long_name
        if self._long_link:
            entry.linkname = self._long_link
        if entry.type == _OLD_REGULAR:
            entry.type = DIRECTORY if entry.name.endswith(b"/") else REGULAR
        if magic[:5] == b"ustar":
            major, minor = device_fields
            if entry.type in (CHARACTER, BLOCK_DEVICE):
                entry.devmajor, entry.devminor = self._numbers[major], self._numbers[minor]
        if entry.type in _WITHOUT_DATA:
            entry.data_bytes = 0
        else:
            entry.data_bytes = entry.size_bytes
        end_base = self.reader.position
        stored_bytes = entry.data_bytes
        if entry.type == SPARSE:
            end_base = self._read_gnu_sparse(entry, block)
        elif self._pax:
            self._read_pax_sparse(entry, self._pax)
        entry.data_offset = self.reader.position
        self._next_header = end_base + stored_bytes + (-stored_bytes % BLOCK)

    @staticmethod
    def _apply_pax(entry: TarEntry, records: dict[bytes, bytes]) -> None:
        xattrs: dict[bytes, bytes] = {}
        for key, value in records.items():
            if not value:
                continue
            if key == b"path":
                entry.name = value
            elif key == b"linkpath":
                entry.linkname = value
            elif key == b"size":
                entry.size_bytes = parse_decimal(value)
            elif key == b"uid":
                entry.uid = parse_decimal(value)
            elif key == b"gid":
                entry.gid = parse_decimal(value)
            elif key == b"mtime":
                entry.mtime_ns = parse_pax_time(value)
            elif key == b"atime":
                entry.atime_ns = parse_pax_time(value)
            elif key == b"ctime":
                parse_pax_time(value)
            elif key.startswith(XATTR_PREFIX):
                xattrs[key[len(XATTR_PREFIX) :]] = value
        if entry.size_bytes < 0:
            raise BadArchive("tar: member with a negative size")
        entry.xattrs = xattrs or None

    def _read_gnu_sparse(self, entry: TarEntry, block: bytes) -> int:
        """Old GNU sparse files: the map in the header and in blocks behind it; returns where the data begin."""
        numbers: list[int] = []
        area, extended = block[386:482], block[482]
        while True:
            for position in range(0, len(area) - 23, 24):
                if not area[position]:
                    break
                numbers.append(_parse_number(area[position : position + 12]))
                numbers.append(_parse_number(area[position + 12 : position + 24]))
            if not extended:
                break
            if len(numbers) > 2 * 4096:
                raise BadArchive("tar: sparse map of too many parts")
            area = bytes(self.reader.read(BLOCK))
            if len(area) < BLOCK:
                raise BadArchive("tar: truncated within a sparse map")
            area, extended = area[:504], area[504]
        entry.size_bytes = _parse_number(block[483:495])
        entry.sparse = list(zip(numbers[::2], numbers[1::2], strict=True))
        check_sparse(entry.sparse, entry.data_bytes, entry.size_bytes)
        return self.reader.position

    def _read_pax_sparse(self, entry: TarEntry, records: dict[bytes, bytes]) -> None:
        """GNU sparse formats 0.0, 0.1 and 1.0, told by their records."""
        version = records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b"")
        is_1_0 = version == (b"1", b"0")
        if not is_1_0 and (version not in ((b"", b""), (b"0", b"0"), (b"0", b"1")) or b"GNU.sparse.map" not in records):
            return
        if entry.type in _WITHOUT_DATA:
            raise BadArchive("tar: sparse map on a member without data")
        entry.name = records.get(b"GNU.sparse.name") or entry.name
        size = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
        if size:
            entry.size_bytes = parse_decimal(size)
        if is_1_0:
            end = self.reader.position + entry.data_bytes

            def read_block() -> bytes:
                block = bytes(self.reader.read(BLOCK)) if self.reader.position + BLOCK <= end else b""
                if len(block) < BLOCK:
                    raise BadArchive("tar: truncated within a sparse map")
                return block

            parts = read_sparse_map_1_0(read_block)
            entry.data_bytes = end - self.reader.position
        else:
            text = records[b"GNU.sparse.map"]
            parts = parse_sparse_pairs(text.split(b",")) if text else []
        check_sparse(parts, entry.data_bytes, entry.size_bytes)
        entry.sparse = parts
