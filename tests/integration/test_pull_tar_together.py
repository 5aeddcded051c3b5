"""pull-tar beside other commands, and on a disk that is too small."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import MinidockError
from minidock.store import unpack
from minidock.store.root import DataRoot
from minidock.verbs import pull_tar as module
from minidock.verbs.pull_tar import pull_tar
from minidock.verbs.rmi import rmi
from tests import builders
from tests.builders import ImageSpec

ONE = builders.layer_tar(builders.tar_member(b"one", b"1" * 100_000))
TWO = builders.layer_tar(builders.tar_member(b"two", b"2\n"))


def in_child(action: Any) -> int:
    """Run an action in a forked process; its status is 0 when it returned."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return child


def test_four_at_once_make_each_layer_once(data_root: DataRoot, scratch: Path) -> None:
    archive = builders.docker_archive(scratch / "a", ImageSpec([ONE, TWO], tags=["same:1"]))
    gate, opener = os.pipe()

    def load() -> None:
        os.close(opener)
        os.read(gate, 1)
        with DataRoot.open(data_root.path) as root:
            pull_tar(root, str(archive))

    children = [in_child(load) for _ in range(4)]
    os.close(opener)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]
    os.close(gate)
    assert len(data_root.layers.all()) == 2
    # Two layers and l/; what lost the race is gone.
    assert len(os.listdir(data_root.overlay_path)) == 3
    assert len(os.listdir(data_root.overlay_path + "/l")) == 2
    assert os.listdir(data_root.stage_path) == []
    assert data_root.references.get("same:1") is not None


def test_different_archives_at_once_keep_all_names(data_root: DataRoot, scratch: Path) -> None:
    names = [f"name{number}:1" for number in range(6)]
    archives = [builders.docker_archive(scratch / name, ImageSpec([ONE], tags=[name])) for name in names]

    def load(archive: Path) -> None:
        with DataRoot.open(data_root.path) as root:
            pull_tar(root, str(archive))

    children = [in_child(lambda archive=archive: load(archive)) for archive in archives]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    assert sorted(data_root.references.all()) == names


def test_a_known_layer_removed_meanwhile_is_unpacked_after_all(
    data_root: DataRoot, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull_tar(data_root, str(builders.docker_archive(scratch / "a", ImageSpec([ONE], tags=["base:1"]))))
    archive = builders.docker_archive(scratch / "b", ImageSpec([ONE, TWO], tags=["top:1"]))
    rounds: list[int] = []

    def slow(jobs: list[unpack.UnpackJob], **options: Any) -> list[unpack.UnpackedLayer]:
        rounds.append(len(jobs))
        if len(rounds) == 1:
            with DataRoot.open(data_root.path) as other:
                rmi(other, ["base:1"])
        return unpack.unpack_layers(jobs, **options)

    monkeypatch.setattr(module, "unpack_layers", slow)
    (loaded,) = pull_tar(data_root, str(archive))
    assert rounds == [1, 1]
    assert len(loaded.new_layers) == 2
    assert len(data_root.layers.stack(loaded.new_layers[-1])) == 2
    assert os.listdir(data_root.stage_path) == []


@pytest.fixture
def small_disk(scratch: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    disk = scratch / "disk"
    disk.mkdir()
    builders.run_command("mount", "-t", "tmpfs", "-o", "size=2m", "none", disk)
    yield disk
    builders.run_command("umount", disk)


def test_a_full_disk_is_one_line_and_everything_is_taken_back(small_disk: Path, scratch: Path) -> None:
    big = builders.layer_tar(builders.tar_member(b"big", os.urandom(4 << 20)))
    archive = builders.docker_archive(scratch / "a", ImageSpec([TWO, big], tags=["big:1"]))
    with DataRoot.open(str(small_disk / "root")) as root:
        before = builders.tree_listing(root.path)
        with pytest.raises(MinidockError, match="No space left on device") as caught:
            pull_tar(root, str(archive))
        assert str(caught.value).isprintable()
        with subprocess.Popen(["gzip", "-1", "-c", archive], stdout=subprocess.PIPE) as packed:
            assert packed.stdout is not None
            with pytest.raises(MinidockError, match="No space left on device"):
                pull_tar(root, packed.stdout.fileno())
        assert builders.tree_listing(root.path) == before
        pull_tar(root, str(builders.docker_archive(scratch / "b", ImageSpec([TWO]))))


def test_a_stream_that_inflates_without_end_leaves_room_on_the_disk(scratch: Path) -> None:
    """A gzip bomb of 512 MB on a disk of 100 MB: refused while a fiftieth of the disk is still free."""
    disk = scratch / "disk"
    disk.mkdir()
    builders.run_command("mount", "-t", "tmpfs", "-o", "size=100m", "none", disk)
    head = builders.tar_header(b"zeros", size=512 << 20)
    bomb = gzip.compress(head) + gzip.compress(bytes(64 << 20)) * 8
    (scratch / "bomb").write_bytes(bomb)
    least = []

    def watch(key: str, state: str, done: int, total: int) -> None:
        status = os.statvfs(disk)
        least.append(status.f_bavail * status.f_frsize)

    with DataRoot.open(str(disk / "root")) as root, pytest.raises(MinidockError, match="No space left"):
        pull_tar(root, str(scratch / "bomb"), progress=watch)
    assert min(least) >= (100 << 20) // 50 - (1 << 20)
    assert os.statvfs(disk).f_bavail > 0.99 * os.statvfs(disk).f_blocks
    builders.run_command("umount", disk)


def test_an_interrupt_takes_everything_back(data_root: DataRoot, scratch: Path) -> None:
    """Ctrl-C while a stream does not end."""
    before = builders.tree_listing(data_root.path)
    reading, writing = os.pipe()

    def load() -> None:
        os.close(writing)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with DataRoot.open(data_root.path) as root:
                pull_tar(root, reading)
        except KeyboardInterrupt:
            return

    child = in_child(load)
    os.close(reading)
    data = builders.docker_archive(scratch / "a", ImageSpec([ONE])).read_bytes()
    os.write(writing, data[:70_000])
    deadline = time.monotonic() + 30
    while not os.listdir(data_root.stage_path) and time.monotonic() < deadline:
        os.sched_yield()
    os.kill(child, signal.SIGINT)
    assert os.waitpid(child, 0)[1] == 0
    os.close(writing)
    assert builders.tree_listing(data_root.path) == before
