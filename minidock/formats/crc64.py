"""CRC-64/GO-ISO, the checksum of tar-split; fastcrc where it is installed, big integers where not."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MASK = (1 << 64) - 1
_POLYNOMIAL = 0xD800000000000000
_BLOCK_BYTES = 32 * 1024


def _make_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_table: list[int] = []


def _fold(bits: int, length: int) -> tuple[int, int]:
    """Shorten a message of `length` bits, first bit lowest, to one with the same remainder.

    The polynomial is x^64 + x^4 + x^3 + x + 1, and squaring is linear over GF(2), so for m a power of two
    x^(64m) = x^(4m) + x^(3m) + x^m + 1: the first h bits move 64m places on by four shifts instead of h steps.
    """
    step = 1
    while 128 * step < length:
        step *= 2
    while step:
        while length > 128 * step:
            head = min(60 * step, length - 64 * step)
            first = bits & ((1 << head) - 1)
            bits >>= head
            # A bit moved by x^-64m * (x^4m + x^3m + x^m + 1): 64m places on, less 4m, 3m, m and 0.
            shift = 64 * step - head
            bits ^= first << shift ^ first << (shift - step) ^ first << (shift - 3 * step) ^ first << (shift - 4 * step)
            length -= head
        step //= 2
    return bits, length


def crc64_portable(data: Any, value: int = 0) -> int:
    """crc64 without any library, about 200 MB/s."""
    if not _table:
        _table.extend(_make_table())
    view = memoryview(data).cast("B")
    value ^= _MASK
    for start in range(0, len(view), _BLOCK_BYTES):
        block = view[start : start + _BLOCK_BYTES]
        if len(block) >= 32:
            bits = int.from_bytes(block, "little") ^ value
            bits, length = _fold(bits, 8 * len(block))
            # length is a whole number of bytes or is filled with zero bits in front, which change nothing
            bits <<= -length % 8
            block = memoryview(bits.to_bytes((length + 7) // 8, "little"))
            value = 0
        for byte in block:
            value = value >> 8 ^ _table[(value ^ byte) & 255]
    return value ^ _MASK


def find_crc64() -> Callable[..., int]:
    """The fastest crc64(data, value=0) of this machine."""
    try:
        from fastcrc.crc64 import go_iso
    except ImportError:
        return crc64_portable
    fast: Callable[..., int] = go_iso
    return fast
