"""tar-split: the checksum's vectors, lines as the engine writes them, and streams made again."""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidock.errors import DigestMismatch, FormatError, MinidockError, StoreCorrupt
from minidock.formats import tarsplit
from minidock.formats.crc64 import crc64_portable, find_crc64
from minidock.formats.tarsplit import FileEntry, TarSplitWriter, read_tar_split, reassemble

VECTORS = [(b"", 0), (b"123456789", 0xB90956C775A41001)]


@pytest.mark.parametrize("crc64", [crc64_portable, find_crc64(), tarsplit.crc64])
def test_checksum_vectors(crc64: Callable[..., int]) -> None:
    for data, expected in VECTORS:
        assert crc64(data) == expected
    assert base64.b64encode(crc64(b"a\n").to_bytes(8, "big")) == b"YUQgAAAAAAA="
    assert base64.b64encode(crc64(b"hello\n").to_bytes(8, "big")) == b"YUw+7uLYEAA="


@given(st.binary(max_size=300), st.integers(0, 70_000), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_portable_checksum_is_the_same(data: bytes, repeat: int, cut: int) -> None:
    data = (data * (repeat // max(1, len(data)) + 1))[:repeat]
    assert crc64_portable(data) == tarsplit.crc64(data)
    assert crc64_portable(data[cut:], crc64_portable(data[:cut])) == tarsplit.crc64(data)


def written(path: Path, fill: Callable[[TarSplitWriter], None]) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    writer = TarSplitWriter(fd)
    fill(writer)
    writer.close()
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def test_lines(tmp_path: Path) -> None:
    def fill(writer: TarSplitWriter) -> None:
        writer.segment(b"header")
        writer.file(b"etc/", 0, 0)
        writer.segment(b"header")
        writer.file(b'bin/<&>"\n', 5, tarsplit.crc64(b"12345"))
        writer.segment(b"")
        writer.file("größe\u2028".encode(), 0, 0)
        writer.file(b"caf\xe9", 0, 0)
        writer.segment(bytes(100_000))

    os.close(written(tmp_path / "split", fill))
    lines = gzip.decompress((tmp_path / "split").read_bytes()).split(b"\n")
    assert lines.pop() == b""
    assert lines[0] == b'{"type":2,"payload":"aGVhZGVy","position":0}'
    assert lines[1] == b'{"type":1,"name":"etc/","payload":null,"position":1}'
    checksum = base64.b64encode(tarsplit.crc64(b"12345").to_bytes(8, "big"))
    name = b'bin/\\u003c\\u0026\\u003e\\"\\n'
    assert lines[3] == b'{"type":1,"name":"%b","size":5,"payload":"%b","position":3}' % (name, checksum)
    assert lines[4] == '{"type":1,"name":"größe\\u2028","payload":null,"position":4}'.encode()
    assert lines[5] == b'{"type":1,"name_raw":"Y2Fm6Q==","payload":null,"position":5}'
    assert [json.loads(line)["position"] for line in lines] == list(range(len(lines)))
    assert b"".join(base64.b64decode(json.loads(line)["payload"]) for line in lines[6:]) == bytes(100_000)


def test_member_is_segment_and_file(tmp_path: Path) -> None:
    """The short way writes the same lines."""
    members = [
        (b"raw", b"etc/", 0),
        (b"", b"f", 3),
        (b"r" * 60_000, b"g", 0),
        (b"x", b"caf\xe9<", 4),
        (b"raw", b"h", 5),
    ]

    def short(writer: TarSplitWriter) -> None:
        for raw, name, size in members:
            writer.member(raw, name, size, size * 77)

    def long(writer: TarSplitWriter) -> None:
        for raw, name, size in members:
            writer.segment(raw)
            writer.file(name, size, size * 77)

    os.close(written(tmp_path / "short", short))
    os.close(written(tmp_path / "long", long))
    assert gzip.decompress((tmp_path / "short").read_bytes()) == gzip.decompress((tmp_path / "long").read_bytes())


NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name)
PARTS = st.lists(st.one_of(st.binary(max_size=2000), st.tuples(NAMES, st.binary(max_size=100))), max_size=30)


@given(PARTS)
@settings(max_examples=60, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes | tuple[bytes, bytes]]) -> None:
    path = tmp_path_factory.mktemp("split") / "split"
    files: list[bytes] = []

    def fill(writer: TarSplitWriter) -> None:
        for part in parts:
            if isinstance(part, bytes):
                writer.segment(part)
            else:
                writer.file(part[0], len(part[1]), tarsplit.crc64(part[1]))

    def open_member(name: bytes) -> int:
        read_end, write_end = os.pipe()
        os.write(write_end, files.pop(0))
        os.close(write_end)
        return read_end

    fd = written(path, fill)
    entries = list(read_tar_split(fd))
    assert [entry.name for entry in entries if isinstance(entry, FileEntry)] == [
        part[0] for part in parts if isinstance(part, tuple)
    ]
    files = [part[1] for part in parts if isinstance(part, tuple) and part[1]]
    os.lseek(fd, 0, os.SEEK_SET)
    expected = b"".join(part if isinstance(part, bytes) else part[1] for part in parts)
    assert b"".join(reassemble(fd, open_member)) == expected
    os.close(fd)


def test_changed_file_is_noticed(tmp_path: Path) -> None:
    fd = written(tmp_path / "split", lambda writer: writer.file(b"d/../f", 5, tarsplit.crc64(b"12345")))
    for content in (b"12346", b"1234", b""):
        (tmp_path / "f").write_bytes(content)
        os.lseek(fd, 0, os.SEEK_SET)
        with pytest.raises(DigestMismatch, match="'d/../f'"):
            list(reassemble(fd, lambda name: os.open(tmp_path / os.fsdecode(name), os.O_RDONLY)))
    os.close(fd)


@pytest.mark.parametrize(
    "text",
    [
        b"not json",
        b"[]",
        b'{"type":3,"payload":null,"position":0}',
        b'{"type":1,"name":"f","size":-1,"payload":null,"position":0}',
        b'{"type":1,"name":"f","size":"1","payload":null,"position":0}',
        b'{"type":1,"name":"f","size":1,"payload":"AAAA","position":0}',
        b'{"type":2,"payload":"%%%=","position":0}',
        b'{"type":2,"payload":7,"position":0}',
    ],
)
def test_corrupt_lines(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "split").write_bytes(gzip.compress(text + b"\n"))
    fd = os.open(tmp_path / "split", os.O_RDONLY)
    with pytest.raises((StoreCorrupt, FormatError)):
        list(read_tar_split(fd))
    os.close(fd)


def test_truncated_stream(tmp_path: Path) -> None:
    data = gzip.compress(b'{"type":2,"payload":"aGVhZGVy","position":0}\n')
    (tmp_path / "split").write_bytes(data[:-5])
    fd = os.open(tmp_path / "split", os.O_RDONLY)
    with pytest.raises(MinidockError, match="truncated"):
        list(read_tar_split(fd))
    os.close(fd)


def test_engines_optional_last_segment(tmp_path: Path) -> None:
    """20.10 ends with an empty segment; sizes and names may be left out."""
    lines = (
        b'{"type":2,"payload":"aGVhZGVy","position":0}\n{"type":2,"payload":"","position":1}\n{"type":1,"payload":null}'
    )
    (tmp_path / "split").write_bytes(gzip.compress(lines))
    fd = os.open(tmp_path / "split", os.O_RDONLY)
    first, second, third = read_tar_split(fd)
    os.close(fd)
    assert (first, second) == (b"header", b"")
    assert isinstance(third, FileEntry)
    assert (third.name, third.size_bytes) == (b"", 0)


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    """However well it was packed; and what is kept of it meanwhile is bounded."""
    (tmp_path / "split").write_bytes(gzip.compress(b'{"type":2,"payload":"' + b"A" * (72 << 20), 1))
    handle = os.open(tmp_path / "split", os.O_RDONLY)
    try:
        with pytest.raises(StoreCorrupt, match="a line without end"):
            list(read_tar_split(handle))
    finally:
        os.close(handle)
