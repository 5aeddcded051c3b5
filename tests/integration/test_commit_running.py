"""commit of a container that runs: it stands still meanwhile, and always goes on."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.ids import CacheID
from minidock.runtime.cgroup import Cgroup
from minidock.runtime.pause import Paused
from minidock.runtime.userpause import pause_container
from minidock.store.containers import Container
from minidock.store.root import DataRoot
from minidock.verbs.commit import commit
from minidock.verbs.options import CreateOptions
from minidock.verbs.pause import unpause
from minidock.verbs.pull_tar import pull_tar
from minidock.verbs.rm import rm
from minidock.verbs.run import run
from tests.conftest import whole
from tests.integration.tool import command

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
    for _ in range(whole(200, 20)):
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
            with Paused(writer):
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


def is_waiting_for_a_lock(pid: int) -> bool:
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and line.split()[5] == str(pid) for line in lines)


@pytest.mark.parametrize("was_paused", [False, True])
def test_pause_and_unpause_wait_for_a_reader(data_root: DataRoot, writer: Container, was_paused: bool) -> None:
    """Neither does the reader's end thaw what the user has paused, nor does an unpause let it read a moving tree."""
    if was_paused:
        pause_container(writer)
    with Paused(writer):
        assert freezer_state(writer) == "FROZEN"
        words = command("--root", data_root.path, "unpause" if was_paused else "pause", "writer")
        # A process of its own that inherits no descriptor, the lock's above all.
        waiting = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        wait_for(lambda: is_waiting_for_a_lock(waiting.pid))
        assert freezer_state(writer) == "FROZEN"
    assert waiting.wait(30) == 0
    writer.reload()
    if was_paused:
        assert writer.state.status == "running" and is_going_on(data_root, writer)
        return
    assert (freezer_state(writer), writer.state.status) == ("FROZEN", "paused")
    assert commit(data_root, "writer").diff_id
    assert freezer_state(writer) == "FROZEN"
    unpause(data_root, "writer")
    assert is_going_on(data_root, writer)


def test_an_update_does_not_take_the_readers_lock_away(data_root: DataRoot, writer: Container) -> None:
    with Paused(writer):
        words = command("--root", data_root.path, "update", "--cpu-shares", "300", "writer")
        waiting = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        wait_for(lambda: is_waiting_for_a_lock(waiting.pid))
    assert waiting.wait(30) == 0
    writer.reload()
    assert writer.host_config["CpuShares"] == 300


def test_a_failure_thaws(data_root: DataRoot, writer: Container) -> None:
    spoiled = Path(data_root.layers.diff_path(CacheID(writer.mount_id)), ".wh.reserved")
    spoiled.write_text("")
    stage = os.listdir(data_root.stage_path)
    with pytest.raises(Exception, match="deletion"):
        commit(data_root, "writer")
    assert freezer_state(writer) == "THAWED" and os.listdir(data_root.stage_path) == stage
