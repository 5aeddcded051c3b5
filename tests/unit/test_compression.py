"""Compressed streams, cut at every place and in every way."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minidock.errors import BadArchive
from minidock.formats.compression import Decompressor, decompressor, identify, open_decompressed, sniff


def zstd_compress(data: bytes) -> bytes:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from backports import zstd
    # with a checksum, without which zstd cannot tell damage
    return bytes(zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}))


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd_compress,
}
TEXT = b"".join(b"%d green bottles, " % number for number in range(300))


def inflate(stream: Decompressor, pieces: list[bytes]) -> bytes:
    out = b"".join(part for piece in pieces for part in stream.feed(piece))
    stream.finish()
    return out


def test_sniff() -> None:
    for kind, compress in COMPRESSORS.items():
        assert sniff(compress(b"x")[:6]) == kind
    assert sniff(b"\x50\x2a\x4d\x18\x04\0") == sniff(b"\x5f\x2a\x4d\x18\x04\0") == "zstd"
    for head in (b"", b"x", b"\x1f", b"ustar", b"\x60\x2a\x4d\x18\x04\0", b"hello world"):
        assert sniff(head) == "none"


def test_identify_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "gzip" in identify(gzip.compress(b"x")).lower()
    monkeypatch.setitem(sys.modules, "magic", None)
    assert identify(b"x") == "data"


@pytest.mark.parametrize("kind", COMPRESSORS)
@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
@pytest.mark.parametrize("piece_bytes", [1, 1000, 1 << 18])
def test_any_pieces(kind: str, size: int, piece_bytes: int) -> None:
    """Input and output in pieces of any size; two members, and zeros behind them."""
    compress = COMPRESSORS[kind]
    blob = compress(TEXT) + compress(b"") + compress(TEXT[:50]) + bytes(1024)
    pieces = [blob[start : start + size] for start in range(0, len(blob), size)]
    stream = Decompressor(kind, piece_bytes=piece_bytes)
    parts = [part for piece in pieces for part in stream.feed(piece)]
    stream.finish()
    assert b"".join(parts) == TEXT + TEXT[:50]
    assert max(map(len, parts)) <= piece_bytes


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_every_truncation(kind: str) -> None:
    blob = COMPRESSORS[kind](b"some short text")
    for end in range(len(blob)):
        with pytest.raises(BadArchive):
            inflate(decompressor(kind), [blob[:end]])


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_junk_behind(kind: str) -> None:
    blob = COMPRESSORS[kind](TEXT)
    for junk in (b"junk", b"x", bytes(100) + b"junk behind zeros"):
        with pytest.raises(BadArchive):
            inflate(decompressor(kind), [blob, junk])


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_corrupt(kind: str) -> None:
    blob = bytearray(COMPRESSORS[kind](TEXT))
    blob[len(blob) // 2] ^= 0xFF
    with pytest.raises(BadArchive, match=kind):
        assert inflate(decompressor(kind), [bytes(blob)]) == TEXT


def test_unknown_kind() -> None:
    with pytest.raises(BadArchive, match="unknown compression: lzip"):
        decompressor("lzip")


def test_zlib_without_isal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    blob = gzip.compress(TEXT) * 2
    assert inflate(decompressor("gzip"), [blob[:99], blob[99:]]) == TEXT * 2


@pytest.mark.parametrize("kind", ["none", *COMPRESSORS])
def test_file(kind: str, tmp_path: Path) -> None:
    blob = COMPRESSORS[kind](TEXT) if kind != "none" else TEXT
    (tmp_path / "f").write_bytes(blob)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    head = os.read(fd, 6)
    stream = open_decompressed(fd, kind, head=head)
    buffer = bytearray(100)
    assert stream.readinto(buffer) == 100
    assert bytes(buffer) == TEXT[:100]
    assert stream.read(0) == b""
    assert stream.read(50) == TEXT[100:150]
    assert stream.read() == TEXT[150:]
    assert stream.read(10) == b""
    assert stream.readinto(buffer) == 0
    os.close(fd)
