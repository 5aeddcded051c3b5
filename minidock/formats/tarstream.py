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
from minidock.formats.tarheader import (
    BLOCK,
    ZERO_BLOCK,
    Numbers,
    Sums,
    check_sum,
    parse_number,
    text_of,
)
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

# Types whose header says it all, unless an extended header came before.
_SIMPLE = frozenset((REGULAR, LINK, SYMLINK, DIRECTORY, FIFO))
# name mode uid gid size mtime checksum type; what most headers leave empty is looked at where it stands
_HEADER = Struct("100s8s8s8s12s12s8sc")
_LINKNAME = slice(157, 257)
_MAGIC = slice(257, 265)
_PREFIX = slice(345, 500)


def clean_name(name: bytes) -> bytes:
    """A member's name relative to the layer's root, as Go's path cleaning gives it; `..` stops at the root.

    Returns: the name without leading or trailing slash; empty for the root itself
    """
    if name.startswith(b"./"):
        name = name[2:]
    if name.endswith(b"/"):
        name = name.rstrip(b"/")
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
        header_offset: int = 0,
        data_offset: int = 0,
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
        self.data_offset = data_offset
        self.devmajor = 0
        self.devminor = 0
        self.atime_ns: int | None = None
        self.xattrs: dict[bytes, bytes] | None = None
        self.sparse: list[tuple[int, int]] | None = None


class TarReader:
    """The entries of a tar stream, up to its end blocks or the end of its bytes.

    After the iteration `reader.position` is behind the end blocks; what follows them belongs to nobody. Extended
    headers of one kind are capped at 1 MiB. Global headers are given as entries of type GLOBAL_PAX without data.

    Shape: whole — the reader's stream from position 0, for one that is all in memory; then headers cost no call of it
    """

    def __init__(self, reader: ByteReader, whole: memoryview | None = None) -> None:
        self.reader = reader
        self._whole = whole
        self._numbers = Numbers()
        self._sums = Sums()
        self._next_header = self._data_end = reader.position

    def __iter__(self) -> Iterator[TarEntry]:
        # The common entry's whole way is in this loop and _parse_header: calls are what such a reader spends.
        reader, whole = self.reader, self._whole
        while True:
            start = self._next_header
            block = bytes(whole[start : start + BLOCK]) if whole is not None else b""
            if len(block) == BLOCK:
                reader.position = start + BLOCK
            else:
                if reader.position != start:
                    self._skip_rest(start)
                    start = reader.position
                block = bytes(reader.read(BLOCK))
            if len(block) < BLOCK or block[0] == 0:
                checked = self._check_end(block)
                if checked is None:
                    return
                block = checked
            entry = self._parse_header(block, start)
            if entry.type not in _SIMPLE:
                extended = self._finish_entry(entry, block)
                if extended is None:
                    return
                entry = extended
            self._data_end = entry.data_offset + entry.data_bytes
            yield entry

    def _skip_rest(self, start: int) -> None:
        distance = start - self.reader.position
        if distance < 0 or self.reader.skip(distance) != distance:
            # Go, too, takes a stream that ends within the padding of its last member.
            if distance < 0 or self.reader.position < self._data_end:
                raise BadArchive("tar: truncated in the data of a member")
            self._next_header = self.reader.position

    def _check_end(self, block: bytes) -> bytes | None:
        """None at the end: two zero blocks, or the end of the bytes before a block; else the block itself."""
        if len(block) < BLOCK:
            if block:
                raise BadArchive("tar: truncated within a header")
            return None
        if block == ZERO_BLOCK:
            block = bytes(self.reader.read(BLOCK))
            if block and block != ZERO_BLOCK:
                raise BadArchive("tar: truncated within a header" if len(block) < BLOCK else "tar: lone zero block")
            return None
        return block

    def _parse_header(self, block: bytes, start: int) -> TarEntry:
        name, mode, uid, gid, size, mtime, checksum, type = _HEADER.unpack_from(block)
        if not block.isascii() or adler32(block) & 0xFFFF != self._sums[checksum]:
            check_sum(block, checksum)
        numbers = self._numbers
        if not name[-1]:
            name = name[: name.index(0)]
        elif 0 in name:
            name = text_of(name)
        linkname = text_of(block[_LINKNAME]) if block[157] else b""
        size_bytes = numbers[size]
        if size_bytes < 0:
            raise BadArchive("tar: member with a negative size")
        if block[345]:
            name = self._join_prefix(block, name)
        data_offset = self.reader.position
        entry = TarEntry(
            name,
            type,
            numbers[mode],
            numbers[uid],
            numbers[gid],
            size_bytes,
            numbers[mtime] * 1_000_000_000,
            linkname,
            start,
            data_offset,
        )
        if type in _WITHOUT_DATA:
            entry.data_bytes = 0
            self._next_header = data_offset
        else:
            self._next_header = data_offset + (size_bytes + 511 & -BLOCK)
        return entry

    def _finish_entry(self, entry: TarEntry, block: bytes) -> TarEntry | None:
        """Read extended headers up to the header that they belong to, and apply them; None at the stream's end."""
        pax: dict[bytes, bytes] = {}
        long_name = long_link = b""
        start = entry.header_offset
        while True:
            type = entry.type
            if type == _PAX:
                pax = parse_pax(self._read_extended(entry))
            elif type == GLOBAL_PAX:
                parse_pax(self._read_extended(entry))
                entry.size_bytes = entry.data_bytes = 0
                entry.data_offset = self._next_header = self.reader.position
                entry.header_offset = start
                return entry
            elif type == _GNU_NAME:
                long_name = text_of(self._read_extended(entry))
            elif type == _GNU_LINK:
                long_link = text_of(self._read_extended(entry))
            else:
                break
            checked = self._check_end(bytes(self.reader.read(BLOCK)))
            if checked is None:
                return None
            block = checked
            entry = self._parse_header(block, start)
        if pax:
            self._apply_pax(entry, pax)
        entry.name = long_name or entry.name
        entry.linkname = long_link or entry.linkname
        self._place(entry, block, pax)
        return entry

    def _place(self, entry: TarEntry, block: bytes, pax: dict[bytes, bytes]) -> None:
        """Find out the final type, size and whereabouts of an entry that is not a simple one."""
        if entry.type == _OLD_REGULAR:
            entry.type = DIRECTORY if entry.name.endswith(b"/") else REGULAR
        elif entry.type in (CHARACTER, BLOCK_DEVICE) and block[257:262] == b"ustar":
            entry.devmajor, entry.devminor = self._numbers[block[329:337]], self._numbers[block[337:345]]
        stored_bytes = entry.data_bytes = 0 if entry.type in _WITHOUT_DATA else entry.size_bytes
        data_start = self.reader.position
        if entry.type == SPARSE:
            data_start = self._read_gnu_sparse(entry, block)
        elif pax:
            self._read_pax_sparse(entry, pax)
        entry.data_offset = self.reader.position
        self._next_header = data_start + (stored_bytes + 511 & -BLOCK)

    def _join_prefix(self, block: bytes, name: bytes) -> bytes:
        magic, prefix = block[_MAGIC], block[_PREFIX]
        if magic[:6] == b"ustar\0":
            prefix = text_of(prefix[:131] if block[508:] == b"tar\0" else prefix)
            return prefix + b"/" + name if prefix else name
        if magic == b"ustar  \0":
            return self._gnu_prefix(prefix) + name
        return name

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

    @staticmethod
    def _gnu_prefix(field: bytes) -> bytes:
        """A prefix where GNU keeps times: Go wrote such headers once, and takes them if they are no times."""
        try:
            parse_number(field[:12])
            if field[12]:
                parse_number(field[12:24])
        except BadArchive:
            prefix = text_of(field)
            if prefix.isascii():
                return prefix + b"/"
        return b""

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
                numbers.append(parse_number(area[position : position + 12]))
                numbers.append(parse_number(area[position + 12 : position + 24]))
            if not extended:
                break
            if len(numbers) > 2 * 4096:
                raise BadArchive("tar: sparse map of too many parts")
            area = bytes(self.reader.read(BLOCK))
            if len(area) < BLOCK:
                raise BadArchive("tar: truncated within a sparse map")
            area, extended = area[:504], area[504]
        entry.size_bytes = parse_number(block[483:495])
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
