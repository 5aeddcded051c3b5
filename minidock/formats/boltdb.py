"""bbolt databases, read alone: the B+tree file in which Docker's engine keeps what it knows of its volumes.

    page       16 bytes: id u64, flags u16, count u16, overflow u32; then its elements
    meta       pages 0 and 1: magic, version, page size, flags, root bucket (page u64, sequence u64), freelist, pages,
               txid, and FNV-1a of what is before; the valid one with the higher txid is true
    branch     elements of 16 bytes: pos u32, ksize u32, page u64
    leaf       elements of 16 bytes: flags u32, pos u32, ksize u32, vsize u32; flag 1: the value is a bucket, a root
               page, or 0 and the page itself follows

A position counts from its element. The file may be another program's work of any kind: every place is checked, no
page is read twice, and what is read is bounded by the file.
Source: go.etcd.io/bbolt page.go, bucket.go, db.go
"""

from __future__ import annotations

from minidock.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 64 << 20
_MAGIC, _VERSION = 0xED0CDAED, 2
_HEADER_BYTES = _ELEMENT_BYTES = 16
_META_BYTES = 64
_BRANCH, _LEAF, _META = 1, 2, 4
_BUCKET_FLAG = 1
_MAX_DEPTH = 32
_PAGE_SIZES = tuple(1 << power for power in range(9, 17))


def _number(data: bytes | memoryview, offset: int, length: int) -> int:
    part = data[offset : offset + length]
    if offset < 0 or len(part) != length:
        raise FormatError("database: a page ends too early")
    return int.from_bytes(part, "little")


def _checksum(data: bytes) -> int:
    """FNV-1a of 64 bits."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


class _Meta:
    __slots__ = ("page_bytes", "root", "txid")

    def __init__(self, data: bytes, offset: int) -> None:
        start = offset + _HEADER_BYTES
        if (_number(data, start, 4), _number(data, start + 4, 4)) != (_MAGIC, _VERSION):
            raise FormatError("database: not bbolt, version 2")
        if _checksum(data[start : start + _META_BYTES - 8]) != _number(data, start + _META_BYTES - 8, 8):
            raise FormatError("database: the checksum of a meta page is wrong")
        self.page_bytes = _number(data, start + 8, 4)
        self.root = _number(data, start + 16, 8)
        self.txid = _number(data, start + 48, 8)
        if self.page_bytes not in _PAGE_SIZES:
            raise FormatError(f"database: pages of {self.page_bytes} bytes")


def _meta(data: bytes) -> _Meta:
    """The true meta page. The second one's place depends on the page size, which the first one tells if it is whole."""
    found: list[_Meta] = []
    for offset in (0, *_PAGE_SIZES):
        try:
            meta = _Meta(data, offset)
        except FormatError:
            continue
        if offset in (0, meta.page_bytes):
            found.append(meta)
    if not found:
        raise FormatError("database: no whole meta page of bbolt")
    return max(found, key=lambda meta: meta.txid)


class _Tree:
    """The pages of one database. Shape: seen: those that have been read"""

    __slots__ = ("_data", "_page_bytes", "_seen")

    def __init__(self, data: bytes, page_bytes: int) -> None:
        self._data = data
        self._page_bytes = page_bytes
        self._seen: set[int] = set()

    def items(self, page: int, depth: int = 0) -> Iterator[tuple[int, bytes, bytes]]:
        """Flags, key and value of all that hangs on a page, in the order of the keys."""
        if page in self._seen or depth > _MAX_DEPTH or page < 2:
            raise FormatError(f"database: page {page} in a circle")
        self._seen.add(page)
        start = page * self._page_bytes
        length = (_number(self._data, start + 12, 4) + 1) * self._page_bytes
        yield from self.items_of(memoryview(self._data)[start : start + length], depth)

    def items_of(self, view: memoryview, depth: int) -> Iterator[tuple[int, bytes, bytes]]:
        """The same of a page that has been found."""
        flags, count = _number(view, 8, 2), _number(view, 10, 2)
        if flags not in (_BRANCH, _LEAF):
            raise FormatError(f"database: a page of kind {flags}")
        for index in range(count):
            at = _HEADER_BYTES + index * _ELEMENT_BYTES
            if flags == _BRANCH:
                yield from self.items(_number(view, at + 8, 8), depth + 1)
                continue
            key_at = at + _number(view, at + 4, 4)
            key_bytes, value_bytes = _number(view, at + 8, 4), _number(view, at + 12, 4)
            end = key_at + key_bytes + value_bytes
            if end > len(view):
                raise FormatError("database: a value ends beyond its page")
            key, value = view[key_at : key_at + key_bytes], view[key_at + key_bytes : end]
            yield _number(view, at, 4), bytes(key), bytes(value)


def read_bucket(data: bytes, name: bytes) -> dict[bytes, bytes]:
    """The keys and values of a bucket at the top of a database; buckets within it are left out.

    Returns: nothing when there is no such bucket
    Raises:  FormatError
    """
    if len(data) > MAX_BYTES:
        raise FormatError(f"database: more than {MAX_BYTES} bytes")
    meta = _meta(data)
    tree = _Tree(data, meta.page_bytes)
    for flags, key, value in tree.items(meta.root):
        if flags & _BUCKET_FLAG and key == name:
            root = _number(value, 0, 8)
            items = tree.items(root) if root else tree.items_of(memoryview(value)[_HEADER_BYTES:], 0)
            return {key: content for flags, key, content in items if not flags & _BUCKET_FLAG}
    return {}
