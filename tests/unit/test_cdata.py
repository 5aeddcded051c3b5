"""C's types without ctypes: the same as those of ctypes."""

from __future__ import annotations

import ctypes
import errno
import os

import pytest

from minidock.linux import cdata

SIMPLE = [name for name in cdata.__all__ if name.startswith("c_")]


@pytest.mark.parametrize("name", SIMPLE)
def test_a_type_is_that_of_ctypes(name: str) -> None:
    ours, theirs = getattr(cdata, name), getattr(ctypes, name)
    assert ours is not theirs
    assert (ours._type_, cdata.sizeof(ours)) == (theirs._type_, ctypes.sizeof(theirs))


def test_what_is_no_simple_type_is_the_very_same() -> None:
    for name in set(cdata.__all__) - set(SIMPLE) - {"function", "create_string_buffer"}:
        assert getattr(cdata, name) is getattr(ctypes, name)


@pytest.mark.parametrize("given", [(b"word",), (b"word", 9), (b"word", 4), (7,), (b"a\0b",)])
def test_a_buffer_is_that_of_ctypes(given: tuple[bytes | int, ...]) -> None:
    ours = cdata.create_string_buffer(*given)  # type: ignore[arg-type]
    theirs = ctypes.create_string_buffer(*given)  # type: ignore[arg-type]
    assert (ours.raw, len(ours), ours.value) == (theirs.raw, len(theirs), theirs.value)
    with pytest.raises(ValueError, match="too long"):
        cdata.create_string_buffer(b"word", 3)


@pytest.mark.parametrize("locked", [False, True])
def test_a_function_keeps_errno(locked: bool) -> None:
    close = cdata.function("close", cdata.c_int, (cdata.c_int,), locked=locked)
    assert (close(-1), cdata.get_errno()) == (-1, errno.EBADF)
    read_end, write_end = os.pipe()
    assert (close(read_end), close(write_end)) == (0, 0)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(read_end)
    length = cdata.function("strlen", cdata.c_size_t, (cdata.c_char_p,), locked=locked)
    assert length(b"four") == 4


def test_a_function_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no_such_function"):
        cdata.function("no_such_function", cdata.c_int)
