"""The reader of bbolt files: whatever the file is, an answer or FormatError, and soon."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidock.errors import FormatError
from minidock.formats.boltdb import read_bucket

PAGE = 4096


def fnv(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def meta(number: int, root: int, txid: int, page_bytes: int = PAGE) -> bytes:
    body = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, page_bytes, 0, root, 0, 9, 9, txid)
    return (struct.pack("<QHHI", number, 4, 0, 0) + body + struct.pack("<Q", fnv(body))).ljust(PAGE, b"\0")


def leaf(number: int, items: list[tuple[int, bytes, bytes]], overflow: int = 0) -> bytes:
    head, body = struct.pack("<QHHI", number, 2, len(items), overflow), b""
    elements = b""
    for index, (flags, key, value) in enumerate(items):
        position = 16 * (len(items) - index) + len(body)
        elements += struct.pack("<IIII", flags, position, len(key), len(value))
        body += key + value
    return head + elements + body


def branch(number: int, pages: list[int]) -> bytes:
    elements = b"".join(struct.pack("<IIQ", 16 * (len(pages) - index), 0, page) for index, page in enumerate(pages))
    return struct.pack("<QHHI", number, 1, len(pages), 0) + elements


def database(*pages: bytes, txids: tuple[int, int] = (1, 2), roots: tuple[int, int] = (3, 2)) -> bytes:
    metas = meta(0, roots[0], txids[0]) + meta(1, roots[1], txids[1])
    return metas + b"".join(page.ljust(-(-len(page) // PAGE) * PAGE, b"\0") for page in pages)


def bucket(root: int, inline: bytes = b"") -> bytes:
    return struct.pack("<QQ", root, 0) + inline


INLINE = database(leaf(2, [(1, b"volumes", bucket(0, leaf(0, [(0, b"a", b"1"), (1, b"sub", bucket(5))])))]))
DEEP = database(
    branch(2, [3, 4]),
    leaf(3, [(0, b"plain", b"")]),
    leaf(4, [(1, b"volumes", bucket(5))]),
    branch(5, [6, 7]),
    leaf(6, [(0, b"a", b"1")]),
    leaf(7, [(0, b"b", b"x" * 9000)], overflow=2),
)


def test_an_inline_bucket_and_one_of_several_pages() -> None:
    assert read_bucket(INLINE, b"volumes") == {b"a": b"1"}
    assert read_bucket(DEEP, b"volumes") == {b"a": b"1", b"b": b"x" * 9000}
    assert read_bucket(DEEP, b"other") == {}


def test_the_newer_whole_meta_page_counts() -> None:
    pages = [
        leaf(number, [(1, b"volumes", bucket(0, leaf(0, [(0, name, b"")])))])
        for number, name in ((2, b"new"), (3, b"old"))
    ]
    assert read_bucket(database(*pages), b"volumes") == {b"new": b""}
    assert read_bucket(database(*pages, txids=(5, 2)), b"volumes") == {b"old": b""}
    torn = bytearray(database(*pages))
    torn[PAGE + 40] ^= 1
    assert read_bucket(bytes(torn), b"volumes") == {b"old": b""}
    torn[40] ^= 1
    with pytest.raises(FormatError, match="no whole meta page"):
        read_bucket(bytes(torn), b"volumes")
    torn = bytearray(database(*pages))
    torn[40] ^= 1
    assert read_bucket(bytes(torn), b"volumes") == {b"new": b""}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * PAGE,
        database(branch(2, [2])),
        database(branch(2, [3, 3]), leaf(3, [])),
        database(branch(2, [0])),
        database(branch(2, [999])),
        database(leaf(2, [(1, b"volumes", bucket(2))])),
        database(leaf(2, [(1, b"volumes", b"short")])),
        database(struct.pack("<QHHI", 2, 2, 60000, 0)),
        database(struct.pack("<QHHI", 2, 7, 1, 0)),
        database(struct.pack("<QHHIIIII", 2, 2, 1, 0, 1, 16, 1 << 31, 1 << 31)),
    ],
)
def test_what_is_no_database(data: bytes) -> None:
    with pytest.raises(FormatError):
        read_bucket(data, b"volumes")


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([INLINE, DEEP]), st.lists(st.tuples(st.integers(0, 1 << 15), st.integers(0, 255)), max_size=20))
def test_damage_of_any_kind_ends_soon(data: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for place, byte in changes:
        damaged[place % len(damaged)] = byte
    try:
        read_bucket(bytes(damaged), b"volumes")
    except FormatError:
        pass
