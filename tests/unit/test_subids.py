"""Subordinate IDs and the maps made of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidock.errors import FormatError, UsageError
from minidock.formats.subids import MAX_EXTENTS, IdMap, parse_id_map, subordinate_map

FILE = b"root:1:1\nann:200000:1000\nbob:300000:65536\n1001:500000:10\nann:100000:500\n# ann:1:1\nann:1\n\n"


def test_all_ranges_of_one_user_lowest_first() -> None:
    found = subordinate_map(FILE, {"ann", "1001"}, what="/etc/subuid")
    assert found.lines() == b"0 100000 500\n500 200000 1000\n1500 500000 10\n"
    assert found.describe() == "0:100000:500 500:200000:1000 1500:500000:10"
    assert [found.outside(each) for each in (0, 499, 500, 1499, 1509, 1510)] == [
        100000,
        100499,
        200000,
        200999,
        500009,
        -1,
    ]
    assert [found.inside(each) for each in (0, 99999, 100000, 100500, 500009)] == [-1, -1, 0, -1, 1509]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"bob:1:2\n", "/etc/subuid has no range of IDs for ann"),
        (b"ann:x:2\n", "not a range of IDs"),
        (b"ann:-5:2\n", "not a range of IDs"),
        (b"ann:0:65536\n", "not a range of IDs that may be given away"),
        (b"ann:100000:0\n", "not a range of IDs that may be given away"),
        (b"ann:4294967290:100\n", "not a range of IDs that may be given away"),
        (b"ann:100000:100\nann:100050:100\n", "the ranges of ann overlap at 100050"),
        (b"".join(b"ann:%d:1\n" % (2 * each + 2) for each in range(MAX_EXTENTS + 1)), "more than the kernel's 340"),
    ],
)
def test_files_that_give_no_map(text: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        subordinate_map(text, {"ann"}, what="/etc/subuid")


@given(st.lists(st.tuples(st.integers(1, 1 << 31), st.integers(1, 1 << 20)), min_size=1, max_size=20))
def test_a_map_and_back(ranges: list[tuple[int, int]]) -> None:
    text = b"".join(b"ann:%d:%d\n" % each for each in ranges)
    try:
        found = subordinate_map(text, {"ann"}, what="/etc/subuid")
    except UsageError as error:
        assert "overlap" in error.message
        return
    assert parse_id_map(found.lines()).extents == found.extents
    size = sum(count for _, count in set(ranges))
    for inside in {0, size // 2, size - 1}:
        assert found.inside(found.outside(inside)) == inside
    assert found.outside(size) == -1


@pytest.mark.parametrize("text", [b"0 1\n", b"a b c\n", b"0 -1 5\n"])
def test_what_is_no_map(text: bytes) -> None:
    with pytest.raises(FormatError):
        parse_id_map(text)


def test_the_kernel_s_own_form() -> None:
    text = b"         0     300000      65536\n"
    assert parse_id_map(text).extents == IdMap([(0, 300000, 65536)]).extents
