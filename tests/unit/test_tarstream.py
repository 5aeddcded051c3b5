"""The tar reader: against Python's own for sound archives, against itself for mutated ones."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidock.errors import BadArchive, FormatError
from minidock.formats import tarpax
from minidock.formats.bytestream import BufferReader, FileReader
from minidock.formats.tarheader import looks_like_tar
from minidock.formats.tarstream import TarEntry, TarReader, clean_name
from tests import builders, layer_cases
from tests.builders import layer_tar, tar_header, tar_member

# Raise it for a long hunt; each mutated archive takes well under a millisecond.
MUTATIONS = int(os.environ.get("MINIDOCK_FUZZ", "4000"))


def read_all(data: bytes) -> list[TarEntry]:
    return list(TarReader(BufferReader(data)))


def values(entry: TarEntry) -> tuple[object, ...]:
    return tuple(getattr(entry, name) for name in TarEntry.__slots__)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_tarfile_writes(format: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for number in range(60):
            info = tarfile.TarInfo("dir/" * (number % 20) + f"name-{number}" + "é" * (format == tarfile.PAX_FORMAT))
            info.type = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)[
                number % 5
            ]
            info.mode, info.uid, info.gid, info.mtime = 0o644 + number, number * 7, number * 9, 1_600_000_000 + number
            info.linkname = "target" * number if number % 5 in (2, 3) and number < 16 else ""
            if format == tarfile.PAX_FORMAT:
                info.mtime += 0.5
                info.uid = 3_000_000 + number
            info.devmajor, info.devminor = (number, number + 1) if number % 5 == 4 else (0, 0)
            info.size = number * 100 if number % 5 == 0 else 0
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    data = buffer.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        theirs = archive.getmembers()
    ours = read_all(data)
    assert len(ours) == len(theirs) == 60
    for entry, info in zip(ours, theirs, strict=True):
        assert entry.name.decode().rstrip("/") == info.name
        assert (entry.type, entry.mode, entry.uid, entry.gid) == (info.type, info.mode, info.uid, info.gid)
        assert (entry.size_bytes, entry.data_offset) == (info.size, info.offset_data)
        assert (entry.mtime_ns, entry.linkname.decode()) == (int(info.mtime * 10**9), info.linkname)
        assert (entry.devmajor, entry.devminor) == (info.devmajor, info.devminor)
        assert data[entry.header_offset : entry.header_offset + 512] != bytes(512)


@pytest.mark.parametrize("format", ["v7", "ustar", "gnu", "oldgnu", "pax"])
@pytest.mark.parametrize("sparse", [[], ["--sparse"]])
def test_reads_what_gnu_tar_writes(tmp_path: Path, format: str, sparse: list[str]) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"data" * 1000)
    (tree / "link").symlink_to("file")
    os.link(tree / "file", tree / "hard")
    with open(tree / "holes", "wb") as stream:
        for number in range(40):
            stream.seek(number << 18)
            stream.write(b"part %d" % number)
    os.utime(tree / "file", ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
    archive = tmp_path / "a.tar"
    words = ["tar", f"--format={format}", *sparse, "--sort=name", "-cf", str(archive), "-C", str(tree), "."]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode:
        assert sparse, done.stderr
        assert format in ("v7", "ustar")
        return
    entries = {clean_name(entry.name): entry for entry in read_all(archive.read_bytes())}
    assert set(entries) == {b"", b"file", b"link", b"hard", b"holes"}
    assert entries[b"link"].linkname == b"file"
    assert entries[b"holes"].size_bytes == (tree / "holes").stat().st_size
    assert entries[b"file"].mtime_ns // 10**9 == 1_600_000_000
    if sparse and format in ("gnu", "oldgnu", "pax"):
        assert len(entries[b"holes"].sparse or []) >= 40
        assert entries[b"holes"].data_bytes < 1 << 20


def test_a_pipe_reads_like_a_buffer() -> None:
    """Whether data are skipped in place, by seeking or by reading makes no difference."""
    data = layer_tar(
        *(tar_member(b"n%d" % number, b"x" * number * 50) for number in range(50)),
        layer_cases.sparse_1_0(b"s", 4 << 20, layer_cases.PARTS),
    )
    expected = [values(entry) for entry in read_all(data)]
    assert [values(entry) for entry in TarReader(FileReader(io.BytesIO(data)))] == expected
    assert [values(entry) for entry in TarReader(FileReader(io.BytesIO(data[700:]), head=data[:700]))] == expected
    read_end, write_end = os.pipe()
    feeder = os.fork()
    if feeder == 0:
        os.close(read_end)
        with open(write_end, "wb") as stream:
            stream.write(data)
        os._exit(0)
    os.close(write_end)
    assert [values(entry) for entry in TarReader(FileReader(read_end))] == expected
    os.close(read_end)
    os.waitpid(feeder, 0)


def test_a_file_is_skipped_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(layer_tar(tar_member(b"a", b"x" * 100_000), tar_member(b"b", b"y" * 1000)))
    fd = os.open(path, os.O_RDONLY)
    offsets = [(entry.name, os.pread(fd, 1, entry.data_offset)) for entry in TarReader(FileReader(fd))]
    assert offsets == [(b"a", b"x"), (b"b", b"y")]
    os.truncate(path, 50_000)
    os.lseek(fd, 0, os.SEEK_SET)
    with pytest.raises(BadArchive, match="truncated"):
        list(TarReader(FileReader(fd)))
    os.close(fd)


def test_signed_checksum() -> None:
    """Old tars summed up signed bytes."""
    header = bytearray(tar_header(b"caf\xe9"))
    total = sum(byte - 256 if byte > 127 else byte for byte in header[:148] + header[156:]) + 256
    header[148:156] = b"%06o\0 " % total
    assert read_all(bytes(header))[0].name == b"caf\xe9"


def test_base_256() -> None:
    [entry] = read_all(tar_header(b"f", uid=1 << 40, gid=-3, mtime=-1, type=b"2", linkname=b"x"))
    assert (entry.uid, entry.gid, entry.mtime_ns) == (1 << 40, -3, -(10**9))


def test_star_prefix() -> None:
    header = bytearray(tar_header(b"name", prefix=b"p" * 130, magic=b"ustar\x0000"))
    header[345 + 131 : 345 + 155] = b"00000000001 00000000002 "
    header[508:512] = b"tar\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert read_all(bytes(header))[0].name == b"p" * 130 + b"/name"


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=30, deadline=None)
def test_mutated_archives_end(seed: int) -> None:
    """Each ends soon with a result or one of our errors, and no entry claims what is not there."""
    chance = random.Random(seed)
    sources = list({**layer_cases.OK, **layer_cases.DIFFERS, **layer_cases.REFUSED}.values())
    for _ in range(MUTATIONS // 30):
        data = bytearray(chance.choice(sources)[:20_000])
        for _ in range(chance.randint(1, 6)):
            if not data:
                break
            place = chance.randrange(min(len(data), 4096))
            action = chance.randrange(4)
            if action == 0:
                data[place] = chance.randrange(256)
            elif action == 1:
                data[place : place + chance.randrange(30)] = chance.randbytes(chance.randrange(30))
            elif action == 2:
                data[place : place + 12] = chance.choice(
                    [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"77777777777\0", b"-1".ljust(12)]
                )
            else:
                del data[place:]
        if chance.random() < 0.8:
            fix_checksums(data)
        started = time.monotonic()
        end = 0
        try:
            for entry in TarReader(BufferReader(bytes(data))):
                assert entry.header_offset >= end
                assert entry.data_offset > entry.header_offset
                assert entry.data_bytes >= 0
                assert entry.size_bytes >= 0
                assert entry.sparse is None or sum(length for _, length in entry.sparse) == entry.data_bytes
                end = entry.data_offset
        except FormatError:
            pass
        assert time.monotonic() - started < 5


def fix_checksums(data: bytearray) -> None:
    """Make the first headers' sums right again, so that mutations get past them."""
    for start in range(0, min(len(data) - 511, 4096), 512):
        block = data[start : start + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(block)


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        (b"a/b", b"a/b"),
        (b"./a/b/", b"a/b"),
        (b"/a//b/./c/", b"a/b/c"),
        (b"a//", b"a"),
        (b".//a///", b"a"),
        (b"a/../b", b"b"),
        (b"../../b", b"b"),
        (b"a/../../../b/..", b""),
        (b"..", b""),
        (b".", b""),
        (b"./", b""),
        (b"/", b""),
        (b"", b""),
        (b"...", b"..."),
        (b".hidden/..x/x..", b".hidden/..x/x.."),
    ],
)
def test_clean_name(name: bytes, cleaned: bytes) -> None:
    assert clean_name(name) == cleaned


@given(st.lists(st.sampled_from([b"", b".", b"..", b"a", b".b", b"..c", b"d."]), max_size=8))
@settings(max_examples=1000)
def test_clean_name_like_posix(parts: list[bytes]) -> None:
    name = b"/".join(parts)
    assert b"/" + clean_name(name) == b"/" + os.path.normpath(b"/" + name).lstrip(b"/")


@given(st.integers(-(2**62), 2**62), st.text("0123456789", max_size=12))
def test_pax_time(seconds: int, digits: str) -> None:
    expected = seconds * 10**9
    if digits:
        fraction = int(digits[:9].ljust(9, "0"))
        expected += -fraction if seconds < 0 else fraction
    assert tarpax.parse_pax_time(f"{seconds}.{digits}".encode()) == expected


def test_pax_records_are_bounded() -> None:
    with pytest.raises(BadArchive, match="more than"):
        read_all(tar_header(b"x", type=b"x", size=(1 << 20) + 1) + bytes(2 << 20))
    records = b"".join(builders.pax_record(b"c%d" % number, b"v" * 100) for number in range(9000))
    [entry] = read_all(layer_tar(builders.pax_member(records), tar_member(b"f")))
    assert entry.name == b"f"


def test_looks_like_tar() -> None:
    assert looks_like_tar(tar_header(b"f") + b"x")
    assert looks_like_tar(tar_header(b"caf\xe9"))
    assert looks_like_tar(bytes(1024))
    assert looks_like_tar(b"")
    assert not looks_like_tar(tar_header(b"f", checksum=b"000001\0 "))
    assert not looks_like_tar(tar_header(b"f")[:511])
    assert not looks_like_tar(b"#!/bin/sh\n" * 100)
