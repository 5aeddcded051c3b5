"""commit of a container that runs: it stands still meanwhile, and always goes on."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.ids import CacheID
from minidock.runtime.cgroup import Cgroup
from minidock.runtime.pause import Paused
from minidock.store.containers import Container
from minidock.store.root import DataRoot
from minidock.verbs.commit import commit
from minidock.verbs.options import CreateOptions
from minidock.verbs.pull_tar import pull_tar
from minidock.verbs.rm import rm
from minidock.verbs.run import run

# Each turn writes one number into two files, the second never ahead of the first.
WRITER = "i=0; while true; do i=$((i+1)); echo $i >> /first; echo $i >> /second; done"


@pytest.fixture
def writer(data_root: DataRoot, busybox_archive: Path) -> Iterator[Container]:
    pull_tar(data_root, str(busybox_archive))
    run(data_root, "busybox:test", ["sh", "-c", WRITER], CreateOptions(name="writer"), detach=True)
    container = data_root.containers.get("writer")
    wait_for(lambda: os.path.exists(f"{data_root.layers.diff_path(CacheID(container.mount_id))}/second"))
    yield container
    rm(data_root, "writer", force=True)


def wait_for(condition: object, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "nothing happened in time"
        select.select([], [], [], 0.01)


def freezer_state(container: Container) -> str:
    group = Cgroup.open(container.id)
    v1 = group.path_of("freezer")
    if v1:
        return Path(v1, "freezer.state").read_text().strip()
    assert group.v2_path
    return "FROZEN" if Path(group.v2_path, "cgroup.freeze").read_text().strip() == "1" else "THAWED"


def is_going_on(root: DataRoot, container: Container) -> bool:
    path = Path(root.layers.diff_path(CacheID(container.mount_id)), "first")
    before = path.stat().st_size
    wait_for(lambda: path.stat().st_size > before)
    return True


def test_no_commit_is_torn(data_root: DataRoot, writer: Container) -> None:
    for _ in range(20):
        result = commit(data_root, "writer", "snapshot:1")
        assert result.chain_id
        layer = Path(data_root.layers.diff_path(data_root.layers.get(result.chain_id).cache_id))
        first, second = ((layer / name).read_text().splitlines() for name in ("first", "second"))
        assert 0 <= len(first) - len(second) <= 1 and first[: len(second)] == second
    assert freezer_state(writer) == "THAWED" and is_going_on(data_root, writer)


def test_without_pause_nothing_is_frozen(data_root: DataRoot, writer: Container) -> None:
    told: list[str] = []
    data_root.trace = lambda kind, text: told.append(f"{kind} {text}")
    commit(data_root, "writer")
    assert [line.split()[1] for line in told if line.startswith("cgroup ")] == ["freeze", "thaw"]
    told.clear()
    # The writer appends meanwhile, and what counts is how long each file was when it was opened.
    commit(data_root, "writer", pause=False)
    assert not [line for line in told if line.startswith("cgroup ")]


def test_a_killed_commit_leaves_no_frozen_container(data_root: DataRoot, writer: Container) -> None:
    reading, writing = os.pipe()
    victim = os.fork()
    if victim == 0:
        try:
            with Paused(writer.id, "", writer.path):
                os.write(writing, b"frozen")
                signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 16) == b"frozen"
    os.close(reading)
    assert freezer_state(writer) == "FROZEN"
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    wait_for(lambda: freezer_state(writer) == "THAWED")
    assert is_going_on(data_root, writer)
    # And the lock is free again for the next.
    assert commit(data_root, "writer").diff_id


def test_a_failure_thaws(data_root: DataRoot, writer: Container) -> None:
    spoiled = Path(data_root.layers.diff_path(CacheID(writer.mount_id)), ".wh.reserved")
    spoiled.write_text("")
    stage = os.listdir(data_root.stage_path)
    with pytest.raises(Exception, match="deletion"):
        commit(data_root, "writer")
    assert freezer_state(writer) == "THAWED" and os.listdir(data_root.stage_path) == stage
