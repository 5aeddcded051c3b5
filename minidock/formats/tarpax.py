"""PAX extended headers: records, numbers, times, and the maps of sparse files.

Source: POSIX pax, "pax Extended Header"; Go archive/tar strconv.go and reader.go, whose refusals are kept
"""

from __future__ import annotations

from minidock.errors import BadArchive

_SIGNED_64 = 1 << 63
_TEXT_KEYS = (b"path", b"linkpath", b"uname", b"gname")
XATTR_PREFIX = b"SCHILY.xattr."
# A map of more parts than this is refused; each part costs memory here, and a few bytes in the archive.
MAX_SPARSE_PARTS = 1 << 17

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def parse_decimal(text: bytes) -> int:
    """A decimal number as strconv.ParseInt takes it; raises BadArchive."""
    digits = text[1:] if text[:1] in (b"-", b"+") else text
    if not digits.isdigit() or len(digits) > 20:
        raise BadArchive(f"tar: not a number in an extended header: {text[:40]!r}")
    value = int(text)
    if not -_SIGNED_64 <= value < _SIGNED_64:
        raise BadArchive(f"tar: number out of range in an extended header: {text[:40]!r}")
    return value


def parse_pax_time(text: bytes) -> int:
    """Nanoseconds since 1970 of `seconds[.fraction]`, further digits cut; raises BadArchive."""
    seconds_text, dot, fraction_text = text.partition(b".")
    seconds = parse_decimal(seconds_text)
    if not dot or not fraction_text:
        return seconds * 1_000_000_000
    if not fraction_text.isdigit():
        raise BadArchive(f"tar: not a time in an extended header: {text[:40]!r}")
    fraction_ns = int(fraction_text[:9].ljust(9, b"0"))
    return seconds * 1_000_000_000 + (-fraction_ns if seconds_text.startswith(b"-") else fraction_ns)


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records of one extended header; later ones win.

    Returns: key to value; the repeated keys of sparse format 0.0 are gathered under b"GNU.sparse.map"
    Raises:  BadArchive
    """
    records: dict[bytes, bytes] = {}
    sparse_map: list[bytes] = []
    position, end = 0, len(data)
    while position < end:
        space = data.find(b" ", position, position + 21)
        length_text = data[position:space]
        if space < 0 or not length_text.isdigit():
            raise BadArchive("tar: bad record in an extended header")
        length = int(length_text)
        stop = position + length
        equals = data.find(b"=", space, stop)
        if length < 5 or stop > end or data[stop - 1] != 10 or equals < 0:
            raise BadArchive("tar: bad record in an extended header")
        key, value = data[space + 1 : equals], data[equals + 1 : stop - 1]
        if not key or b"\0" in (value if key in _TEXT_KEYS else key):
            raise BadArchive(f"tar: bad record in an extended header: {key[:40]!r}")
        position = stop
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            # 0.0 repeats these two keys by turns, once for each part
            if (len(sparse_map) % 2 == 0) != (key == b"GNU.sparse.offset") or b"," in value:
                raise BadArchive("tar: bad sparse map")
            if len(sparse_map) >= 2 * MAX_SPARSE_PARTS:
                raise BadArchive("tar: sparse map of too many parts")
            sparse_map.append(value)
        else:
            records[key] = value
    if sparse_map:
        records[b"GNU.sparse.map"] = b",".join(sparse_map)
    return records


def parse_sparse_pairs(numbers: list[bytes]) -> list[tuple[int, int]]:
    """(offset, length) parts out of alternating decimal numbers; raises BadArchive."""
    if len(numbers) % 2 or len(numbers) > 2 * MAX_SPARSE_PARTS:
        raise BadArchive("tar: bad sparse map")
    values = [parse_decimal(number) for number in numbers]
    return list(zip(values[::2], values[1::2], strict=True))


def read_sparse_map_1_0(read_block: Callable[[], bytes]) -> list[tuple[int, int]]:
    """The map that format 1.0 puts in front of the data, in whole blocks.

    Shape:  read_block() gives the next 512 bytes of the file's data; raises BadArchive at its end
    Raises: BadArchive
    Source: GNU tar manual, "PAX Format, Version 1.0"
    """
    buffer = b""
    numbers: list[bytes] = []
    wanted = 1
    while len(numbers) < wanted:
        cut = buffer.find(b"\n")
        if cut < 0:
            if len(buffer) > 32:
                raise BadArchive("tar: bad sparse map")
            buffer += read_block()
            continue
        numbers.append(buffer[:cut])
        buffer = buffer[cut + 1 :]
        if len(numbers) == 1:
            parts = parse_decimal(numbers[0])
            if not 0 <= parts <= MAX_SPARSE_PARTS:
                raise BadArchive("tar: sparse map of too many parts")
            wanted = 1 + 2 * parts
    return parse_sparse_pairs(numbers[1:])


def check_sparse(parts: list[tuple[int, int]], data_bytes: int, size_bytes: int) -> None:
    """Whether the parts lie in order inside the file and make up its data; raises BadArchive."""
    end = total = 0
    for offset, length in parts:
        if offset < end or length < 0 or offset + length > size_bytes:
            raise BadArchive("tar: sparse map that overlaps or leaves the file")
        end = offset + length
        total += length
    if total != data_bytes or size_bytes >= _SIGNED_64:
        raise BadArchive("tar: sparse map that does not fit the data")
