"""The process that makes a layer's files beside the one that hashes them: the same layer, and no failure lost."""

from __future__ import annotations

import gzip
import os
import random
import select
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import StoreError, SyscallError
from minidock.formats.tarwriter import is_whiteout
from minidock.store import changes, filemaker
from tests import builders
from tests.integration.test_changes import Upper, Written, random_upper
from tests.integration.test_unpack_faults import children


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


def every_attribute(root: Path) -> dict[bytes, tuple[object, ...]]:
    """What a layer's directory holds, as far as a later mount can tell."""
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}
    base = os.fsencode(root)
    for where, directories, files in os.walk(base):
        for name in sorted(directories + files):
            path = os.path.join(where, name)
            status = os.lstat(path)
            names = sorted(os.listxattr(path, follow_symlinks=False))
            xattrs = {one: os.getxattr(path, one, follow_symlinks=False) for one in names}
            content = b""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            owner = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_nlink)
            # A whiteout has the time at which it was made.
            time_ns = 0 if is_whiteout(status) else status.st_mtime_ns
            same = first.setdefault(status.st_ino, path[len(base) :])
            found[path[len(base) :]] = (owner, time_ns, xattrs, content, same)
    return found


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper from the first entry on, whatever this machine has of processors."""
    monkeypatch.setattr(changes, "_HELPED_ENTRIES", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_same_layer(scratch: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """With a helper from the first entry, from one in the middle, or without one."""
    monkeypatch.setattr(filemaker, "_BATCH_FILES", batch)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    for seed in range(12):
        base = scratch / str(seed)
        base.mkdir()
        upper = Upper(base / "upper")
        random_upper(upper, random.Random(seed))
        made = []
        for name, entries in (("alone", 1 << 30), ("helped", 0), ("later", 5)):
            monkeypatch.setattr(changes, "_HELPED_ENTRIES", entries)
            made.append(Written(upper, base / name, "abc"[seed % 3]))
        alone, *others = made
        for other in others:
            assert other.layer.diff_id == alone.layer.diff_id, seed
            assert other.layer.size_bytes == alone.layer.size_bytes, seed
            assert every_attribute(other.diff) == every_attribute(alone.diff), seed
            assert gzip.decompress(other.split.read_bytes()) == gzip.decompress(alone.split.read_bytes()), seed


def test_many_files_have_a_helper(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    start = filemaker.MakerProcess.__init__

    def start_and_note(self: Any, made: Any) -> None:
        start(self, made)
        started.append(self._pid)

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(filemaker.MakerProcess, "__init__", start_and_note)
    upper = Upper(scratch / "upper")
    for number in range(50):
        upper.file(b"%d" % number)
    Written(upper, scratch / "few")
    assert not started
    for number in range(1000):
        upper.file(b"more-%d" % number, b"%d" % number)
    written = Written(upper, scratch / "many")
    assert len(started) == 1
    assert len(os.listdir(written.diff)) == 1050


def test_full_disk(scratch: Path, helped: None) -> None:
    """What the kernel refuses the helper is told as if it had been refused to us."""
    upper = Upper(scratch / "upper")
    for number in range(40):
        upper.file(b"%02d" % number, bytes(100_000))
    small = scratch / "small"
    small.mkdir()
    builders.run_command("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small)
    try:
        with pytest.raises(SyscallError, match=r"write layer: '\d\d'.*No space left on device"):
            Written(upper, small / "layer")
    finally:
        subprocess.run(["umount", small], check=False)


@pytest.mark.parametrize("files", [1, 2000])
def test_dead_helper(scratch: Path, helped: None, monkeypatch: pytest.MonkeyPatch, files: int) -> None:
    """Whether it is missed by the next batch or at the end."""
    start = filemaker.MakerProcess.__init__

    def start_and_kill(self: Any, made: Any) -> None:
        start(self, made)
        os.kill(self._pid, signal.SIGKILL)

    monkeypatch.setattr(filemaker.MakerProcess, "__init__", start_and_kill)
    upper = Upper(scratch / "upper")
    for number in range(files):
        upper.file(b"%d" % number)
    with pytest.raises(StoreError, match="ended early"):
        Written(upper, scratch / "layer")


def test_helper_ends_with_its_owner(scratch: Path, helped: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that is killed leaves no process that still writes."""
    upper = Upper(scratch / "upper")
    for number in range(200):
        upper.file(b"%d" % number)
    read_end, write_end = os.pipe()
    owner = os.fork()
    if not owner:

        def stay(self: Any) -> None:
            os.write(write_end, str(self._pid).encode())
            signal.pause()

        try:
            monkeypatch.setattr(filemaker.MakerProcess, "settle", stay)
            Written(upper, scratch / "layer")
        finally:
            os._exit(0)
    os.close(write_end)
    helper = os.pidfd_open(int(os.read(read_end, 20)))
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    poll = select.poll()
    poll.register(helper, select.POLLIN)
    assert poll.poll(60_000), "the helper outlived its owner"
    for handle in (helper, read_end):
        os.close(handle)
