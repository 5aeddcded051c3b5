"""SIGKILL at random moments of real commands; the next command finds everything whole and leaves nothing over."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minidock.store.root import DataRoot
from tests import builders
from tests.conftest import whole
from tests.integration.test_store_crash import verify

PROJECT = Path(__file__).parents[2]
KILLS = whole(1000, 14)


def start(root: Path, *words: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "minidock", "--root", str(root), *map(str, words)]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(root: Path, *words: str | Path) -> float:
    """Run a command to its end; its seconds."""
    begun = time.monotonic()
    assert start(root, *words).wait(60) == 0
    return time.monotonic() - begun


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """SIGKILL after a while; whether it was still at work."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        return True
    return False


@pytest.fixture
def archive(scratch: Path, busybox_layer: bytes) -> Path:
    """Three layers, the topmost with enough files that an unpacking takes a while."""
    many = [builders.tar_member(b"many/%d" % number, b"%d" % number * 400) for number in range(1500)]
    layers = [
        busybox_layer,
        builders.layer_tar(builders.directory(b"many"), *many),
        builders.layer_tar(builders.directory(b"last"), builders.tar_member(b"last/one", bytes(3 << 20))),
    ]
    return builders.docker_archive(scratch / "archive.tar", builders.ImageSpec(layers, tags=["killed:1"]))


def bytes_used(root: Path) -> int:
    return sum(entry.lstat().st_blocks for entry in root.rglob("*")) * 512


def test_load_and_rmi_killed_at_random(scratch: Path, archive: Path) -> None:
    chance = random.Random(4)
    root = scratch / "root"
    load_s = finish(root, "load", "-i", archive)
    full = _state(root)
    rmi_s = finish(root, "rmi", "killed:1")
    empty = _state(root)
    used = bytes_used(root)
    killed = 0
    for turn in range(KILLS):
        if turn % 2 == 0:
            killed += kill_after(start(root, "load", "-i", archive), chance.uniform(0.3, 1.0) * load_s)
        else:
            finish(root, "load", "-i", archive)
            killed += kill_after(start(root, "rmi", "killed:1"), chance.uniform(0.3, 1.0) * rmi_s)
        state = _state(root)
        assert state in (full, empty), f"turn {turn}"
        if state == full:
            finish(root, "rmi", "killed:1")
        assert bytes_used(root) <= used, f"turn {turn} left something"
    assert killed >= KILLS // 4


def _state(root: Path) -> dict[str, object]:
    with DataRoot.open(str(root)) as opened:
        return verify(opened)


def test_create_commit_and_rm_killed_at_random(scratch: Path, archive: Path) -> None:
    chance = random.Random(8)
    root = scratch / "root"
    finish(root, "load", "-i", archive)
    finish(root, "run", "--name", "first", "--network", "none", "killed:1", "sh", "-c", "echo 1 >/new; rm -r /many")
    took_s = {"create": finish(root, "create", "--network", "none", "killed:1", "true")}
    took_s["commit"] = finish(root, "commit", "first", "new:1")
    finish(root, "rmi", "new:1")
    finish(root, "rm", *_names(root, "first"))
    before = _state(root)
    used = bytes_used(root)
    killed = 0
    for turn in range(KILLS):
        verb = ("create", "commit", "rm")[turn % 3]
        if verb == "create":
            process = start(root, "create", "--network", "none", "killed:1", "true")
        elif verb == "commit":
            process = start(root, "commit", "first", f"new:{turn}")
        else:
            finish(root, "create", "--network", "none", "killed:1", "true")
            process = start(root, "rm", *_names(root, "first"))
        killed += kill_after(process, chance.uniform(0.4, 1.0) * took_s.get(verb, took_s["create"]))
        state = _state(root)
        references = state["references"]
        assert isinstance(references, dict)
        assert set(references) <= {"killed:1", f"new:{turn}"}
        for name in set(references) - {"killed:1"}:
            finish(root, "rmi", name)
        if others := _names(root, "first"):
            finish(root, "rm", *others)
        assert _state(root) == before, f"turn {turn}, {verb}"
        assert bytes_used(root) <= used, f"turn {turn}, {verb}: something is left"
    assert killed >= KILLS // 4


def _names(root: Path, but: str) -> list[str]:
    """The names of all containers but one."""
    with DataRoot.open(str(root), write=False) as opened:
        return [container.name for container in opened.containers.all() if container.name != but]
