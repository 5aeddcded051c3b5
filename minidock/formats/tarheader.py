"""One header block of a tar: its numbers, its texts, its checksum.

Source: POSIX ustar; GNU tar manual, "Basic Tar Format"; Go archive/tar strconv.go
"""

from __future__ import annotations

from zlib import adler32

from minidock.errors import BadArchive

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
_SIGNED_64 = 1 << 63


def parse_number(field: bytes) -> int:
    """A header's number: octal text, or base 256 where the first bit is set. Raises BadArchive."""
    digits = field[:-1]
    if digits.isdigit() and not field[-1]:
        # As nearly all are written; what is not octal is told below.
        try:
            return int(digits, 8)
        except ValueError:
            pass
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


class Numbers(dict[bytes, int]):
    """Numbers already parsed: modes, owners and sizes repeat, so most fields cost one look-up."""

    def __missing__(self, field: bytes) -> int:
        value = parse_number(field)
        if len(self) < 4096:
            self[field] = value
        return value


def text_of(field: bytes) -> bytes:
    """A field's text, which ends at its first NUL byte or with the field."""
    cut = field.find(b"\0")
    return field if cut < 0 else field[:cut]


class Sums(dict[bytes, int]):
    """For a checksum field, what the low half of the whole block's Adler-32 must be.

    The low half is 1 + the sum of the bytes, modulo 65521; a block of ASCII sums up to less than that.
    """

    def __missing__(self, field: bytes) -> int:
        value = parse_number(field) - 256 + (adler32(field) & 0xFFFF)
        if len(self) < 4096:
            self[field] = value
        return value


def check_sum(block: bytes, field: bytes) -> None:
    """Compare the header's checksum with the sum of its bytes, unsigned as it should be, or signed as it once was."""
    expected = parse_number(field)
    rest = block[:148] + b" " * 8 + block[156:]
    if expected != sum(rest) and expected != sum(value - 256 if value > 127 else value for value in rest):
        raise BadArchive("tar: header with a wrong checksum")


def looks_like_tar(head: bytes) -> bool:
    """Whether a stream's first bytes are a header with a right checksum, or the end blocks of an empty tar."""
    block = head[:BLOCK]
    if len(block) < BLOCK or block == ZERO_BLOCK:
        return not block.strip(b"\0")
    try:
        check_sum(block, block[148:156])
    except BadArchive:
        return False
    return True
