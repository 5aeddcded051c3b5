"""Compressed layers, whole and damaged, and layers with wrong digests."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from minidock.errors import BadArchive, DigestMismatch
from tests import builders, layer_cases
from tests.builders import directory, layer_tar, symlink, tar_member
from tests.integration.test_unpack import unpack_bytes

SEVERAL = layer_tar(
    directory(b"d"),
    *(tar_member(b"d/%d" % number, os.urandom(number * 37)) for number in range(120)),
    tar_member(b"long" * 60, b"x" * 70_000),
    symlink(b"s", b"d"),
    layer_cases.sparse_1_0(b"sparse", 4 << 20, layer_cases.PARTS),
    tar_member(b".wh.gone", b"data"),
    # More than is kept of what becomes no file: tar-split gets it in parts.
    tar_member(b".wh.large", os.urandom(300_001)),
    tar_member(b"last", b"x"),
)


def zstd_compress(data: bytes) -> bytes:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from backports import zstd
    return bytes(zstd.compress(data))


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd_compress,
}


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_compressed(kind: str, scratch: Path) -> None:
    blob = COMPRESSORS[kind](SEVERAL)
    ours = unpack_bytes(
        scratch, blob, offset=4097, diff_id=builders.sha256(SEVERAL), digest=builders.sha256(blob), compression=kind
    )
    assert ours.reassembled() == SEVERAL


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_compressed_in_members(kind: str, scratch: Path) -> None:
    """Streams of several members are one stream."""
    cut = len(SEVERAL) // 3
    blob = COMPRESSORS[kind](SEVERAL[:cut]) + COMPRESSORS[kind](b"") + COMPRESSORS[kind](SEVERAL[cut:])
    assert unpack_bytes(scratch, blob).layer.diff_id == builders.sha256(SEVERAL)


@pytest.mark.parametrize("kind", COMPRESSORS)
@pytest.mark.parametrize("damage", ["truncated", "corrupt", "junk", "empty-tail"])
def test_compressed_and_damaged(kind: str, damage: str, scratch: Path) -> None:
    blob = bytearray(COMPRESSORS[kind](SEVERAL))
    if damage == "truncated":
        del blob[len(blob) // 2 :]
    elif damage == "corrupt":
        blob[len(blob) // 2] ^= 0x55
    elif damage == "junk":
        blob += b"junk behind the last member"
    else:
        del blob[-1:]
    with pytest.raises((BadArchive, DigestMismatch)):
        unpack_bytes(scratch, bytes(blob), diff_id=builders.sha256(SEVERAL))


@pytest.mark.parametrize("compress", [lambda data: data, gzip.compress])
def test_wrong_digests(scratch: Path, compress: Callable[[bytes], bytes]) -> None:
    blob = compress(SEVERAL)
    wrong = "sha256:" + "0" * 64
    with pytest.raises(DigestMismatch, match="diff_id: expected sha256:0000") as caught:
        unpack_bytes(scratch, blob, diff_id=wrong)
    assert caught.value.actual == builders.sha256(SEVERAL)
    with pytest.raises(DigestMismatch, match="blob digest: expected sha256:0000") as caught:
        unpack_bytes(scratch, blob, digest=wrong)
    assert caught.value.actual == builders.sha256(blob)
