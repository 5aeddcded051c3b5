"""Unpacking real layers as root: hostile ones by label, damaged ones, dead workers, small windows, full disks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.errors import BadArchive, UnsafePath
from minidock.formats.tarsplit import reassemble
from minidock.ids import DiffID, Digest
from minidock.linux.paths import open_in_root
from minidock.store.unpack import UnpackedLayer, UnpackJob, unpack_layers
from tests import builders, layer_cases

CANARY = Path(os.fsdecode(layer_cases.CANARY))


class Blob:
    """A layer's bytes in a file, as archives hand them over."""

    def __init__(self, fd: int, offset: int, length_bytes: int, compression: str = "", digest: str = "") -> None:
        self.fd = fd
        self.offset = offset
        self.length_bytes = length_bytes
        self.compression = compression
        self.blob_digest = Digest(digest) if digest else None

    def describe(self) -> str:
        """As of bytes that came through a pipe."""
        return ""


class Unpacked:
    """An unpacked layer with where it lies."""

    def __init__(self, layer: UnpackedLayer, diff: Path, tar_split: Path) -> None:
        self.layer = layer
        self.diff = diff
        self.tar_split = tar_split

    def reassembled(self) -> bytes:
        """The layer's tar, made again from the directory and tar-split."""
        root_fd = os.open(self.diff, os.O_RDONLY | os.O_DIRECTORY)
        split_fd = os.open(self.tar_split, os.O_RDONLY)
        try:
            return b"".join(reassemble(split_fd, lambda name: open_in_root(root_fd, name, os.O_RDONLY)))
        finally:
            os.close(root_fd)
            os.close(split_fd)


def new_job(base: Path, data: bytes, *, key: str = "layer", offset: int = 0, **words: str) -> UnpackJob:
    """A job whose blob lies at an offset in a file of its own; words: diff_id, compression, digest."""
    (base / "diff").mkdir(parents=True)
    (base / "diff").chmod(0o755)
    (base / "blob").write_bytes(b"\xa5" * offset + data + (b"\xa5" * 512 if offset else b""))
    blob_fd = os.open(base / "blob", os.O_RDONLY)
    diff_fd = os.open(base / "diff", os.O_RDONLY | os.O_DIRECTORY)
    split_fd = os.open(base / "tar-split", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    blob = Blob(blob_fd, offset, len(data), words.get("compression", ""), words.get("digest", ""))
    diff_id = DiffID(words["diff_id"]) if "diff_id" in words else None
    return UnpackJob(key, blob, diff_fd, split_fd, diff_id)


def close_job(job: UnpackJob) -> None:
    for fd in (job.blob.fd, job.diff_fd, job.tar_split_fd):
        os.close(fd)


def unpack_bytes(scratch: Path, data: bytes, *, offset: int = 0, **words: str) -> Unpacked:
    """Unpack one layer into scratch/layer."""
    base = scratch / "layer"
    shutil.rmtree(base, ignore_errors=True)
    job = new_job(base, data, offset=offset, **words)
    try:
        [layer] = unpack_layers([job])
    finally:
        close_job(job)
    return Unpacked(layer, base / "diff", base / "tar-split")


def _identity(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_mode, status.st_nlink, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@pytest.fixture
def canary() -> Iterator[Path]:
    """A host directory that must be the same afterwards."""
    shutil.rmtree(CANARY, ignore_errors=True)
    CANARY.mkdir()
    (CANARY / "whole").write_text("whole")
    before = _identity(CANARY), _identity(CANARY / "whole")
    yield CANARY
    assert [entry.name for entry in CANARY.iterdir()] == ["whole"]
    assert (CANARY / "whole").read_text() == "whole"
    assert before == (_identity(CANARY), _identity(CANARY / "whole"))
    shutil.rmtree(CANARY)


@pytest.mark.parametrize("label", [*layer_cases.OK, *layer_cases.DIFFERS])
def test_taken(label: str, scratch: Path, canary: Path) -> None:
    """The host stays whole, the digest is that of all bytes, and the tar comes back to the bit."""
    data = {**layer_cases.OK, **layer_cases.DIFFERS}[label]
    ours = unpack_bytes(scratch, data, offset=1000, diff_id=builders.sha256(data))
    assert ours.layer.tar_bytes == len(data)
    assert ours.reassembled() == data
    assert bool(ours.layer.warnings) == (label in layer_cases.WARNED)


@pytest.mark.parametrize("label", layer_cases.REFUSED)
def test_refused(label: str, scratch: Path, canary: Path) -> None:
    """One of our errors in one line that names the layer."""
    with pytest.raises(UnsafePath if label.startswith(("wh-empty", "wh-dot", "wh-root")) else BadArchive) as caught:
        unpack_bytes(scratch, layer_cases.REFUSED[label])
    assert str(caught.value).startswith("layer layer: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [label for label in layer_cases.DIFFERS if label.startswith("xattr-")])
def test_overlay_xattrs_are_never_set(label: str, scratch: Path) -> None:
    """They would hide or redirect other layers' files; the user is told of each."""
    ours = unpack_bytes(scratch, layer_cases.DIFFERS[label])
    for path in ours.diff.rglob("*"):
        assert not [name for name in os.listxattr(path, follow_symlinks=False) if ".overlay." in name]
    [warning] = ours.layer.warnings
    assert "belongs to overlayfs" in warning


@pytest.mark.parametrize("label", [label for label in layer_cases.DIFFERS if label.startswith("sparse-")])
def test_sparse_content(label: str, scratch: Path) -> None:
    """Every part in its place, zeros between, and hardly any of them on the disk."""
    parts = {"sparse-gnu-many": layer_cases.MANY_PARTS, "sparse-empty": []}.get(label, layer_cases.PARTS)
    size = (1 if label == "sparse-empty" else 4) << 20
    expected = bytearray(size)
    for offset, data in parts:
        expected[offset : offset + len(data)] = data
    ours = unpack_bytes(scratch, layer_cases.DIFFERS[label])
    assert (ours.diff / "f").read_bytes() == expected
    assert (ours.diff / "f").stat().st_blocks * 512 <= 8192 * max(1, len(parts))
    assert ours.layer.size_bytes == size + 1
    assert (ours.diff / "after").read_bytes() == b"x"


def test_root_of_the_layer_is_left_alone(scratch: Path) -> None:
    """No entry changes the mode, owner or time that the store gave to the layer's directory."""
    for label in ("root-mode-0", "root-is-file", "root-is-symlink"):
        ours = unpack_bytes(scratch, layer_cases.OK[label])
        status = ours.diff.stat()
        assert (status.st_mode, status.st_uid, status.st_gid) == (0o40755, 0, 0)
        assert [entry.name for entry in ours.diff.iterdir()] == ["f"]


def test_extreme_numbers(scratch: Path) -> None:
    owners = unpack_bytes(scratch, layer_cases.OK["owner-large"]).diff
    assert (owners / "a").stat().st_uid == 4294967294
    assert (owners / "b").stat().st_gid == 2**31
    owners = unpack_bytes(scratch, layer_cases.OK["owner-negative"]).diff
    assert ((owners / "a").stat().st_uid, (owners / "d").stat().st_uid) == (0, 4294967294)
    times = unpack_bytes(scratch, layer_cases.OK["pax-mtime-ns"]).diff
    assert (times / "f").stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert (times / "f").stat().st_atime_ns == 1_600_000_009_500_000_000
    assert (times / "d").stat().st_mtime_ns == 1_500_000_000_000_000_001
    assert (times / "s").lstat().st_mtime_ns == 1_400_000_000_500_000_000
    times = unpack_bytes(scratch, layer_cases.OK["mtime-out-of-range"]).diff
    assert (times / "neg").stat().st_mtime == (times / "far").stat().st_mtime == 0
    assert (times / "negative-symlink").lstat().st_mtime_ns == -1_500_000_000
