"""Big files whose data the hash thread writes: the same layer whoever writes them, and no failure lost."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import SyscallError
from minidock.store import heavyfiles, unpack_worker
from tests import builders
from tests.builders import directory, hardlink, layer_tar, tar_member
from tests.integration.test_filemaker import every_attribute
from tests.integration.test_unpack import unpack_bytes

BIG = [tar_member(b"d/%02d" % number, os.urandom(70_000 + number), mode=0o4755, uid=7, gid=8) for number in range(40)]
LAYER = layer_tar(
    directory(b"d"),
    tar_member(b"first", os.urandom(3_000_000), mtime=1000),
    # What the link says holds for both names, though the data may still be on their way.
    hardlink(b"second", b"first", mode=0o600, uid=3, mtime=2000),
    *BIG,
    tar_member(b"capable", os.urandom(200_000), pax={b"SCHILY.xattr.user.kept": b"v"}),
    tar_member(b"small", b"x"),
)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer begins when the hash is through, so that all that is big enough is left to its thread."""
    monkeypatch.setattr(unpack_worker, "_HEAVY_BYTES", 1 << 16)
    hashed = threading.Event()
    fill_all, write = heavyfiles.HeavyFiles.fill_all, unpack_worker.LayerUnpacker._write

    def fill_when_hashed(self: Any) -> None:
        hashed.set()
        fill_all(self)

    def write_when_hashed(self: Any) -> None:
        assert hashed.wait(60)
        write(self)

    monkeypatch.setattr(heavyfiles.HeavyFiles, "fill_all", fill_when_hashed)
    monkeypatch.setattr(unpack_worker.LayerUnpacker, "_write", write_when_hashed)


@pytest.mark.parametrize("waiting", [1, 16])
def test_same_layer(scratch: Path, offered: None, monkeypatch: pytest.MonkeyPatch, waiting: int) -> None:
    monkeypatch.setattr(heavyfiles, "_MAX_WAITING", waiting)
    taken = unpack_bytes(scratch / "taken", LAYER, diff_id=builders.sha256(LAYER))
    assert taken.reassembled() == LAYER
    monkeypatch.setattr(unpack_worker, "_HEAVY_BYTES", 1 << 60)
    alone = unpack_bytes(scratch / "alone", LAYER, diff_id=builders.sha256(LAYER))
    assert every_attribute(taken.diff) == every_attribute(alone.diff)
    assert taken.layer.size_bytes == alone.layer.size_bytes
    first = os.stat(taken.diff / "first")
    assert (first.st_mtime_ns, first.st_uid, first.st_mode & 0o7777) == (2000 * 10**9, 3, 0o600)
    assert os.stat(taken.diff / "d/00").st_mode & 0o7777 == 0o4755


def test_files_are_offered(scratch: Path, offered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture does what the other tests need: without anybody to fill them, the big files are missed."""
    monkeypatch.setattr(unpack_worker.LayerUnpacker, "_fill", lambda self, fd, entry, data: os.close(fd))
    emptied = unpack_bytes(scratch, LAYER)
    sizes = {path.name: path.stat().st_size for path in emptied.diff.rglob("*") if path.is_file()}
    assert sizes["first"] == 0
    assert sizes["capable"] == 200_000
    assert sizes["small"] == 1


def test_full_disk(scratch: Path, offered: None) -> None:
    """There is room for the archive and for half of its file."""
    builders.run_command("mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", scratch)
    try:
        with pytest.raises(SyscallError, match="unpack big: No space left on device") as caught:
            unpack_bytes(scratch / "layer", layer_tar(tar_member(b"big", bytes(6_000_000))))
        assert caught.value.errno == 28
    finally:
        subprocess.run(["umount", scratch], check=False)
