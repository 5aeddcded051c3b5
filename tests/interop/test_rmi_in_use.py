"""rmi of images that containers use, stopped and running: dockerd and minidock side by side, each on its own root."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import builders
from tests.conftest import Engine

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def archive(scratch: Path, busybox_layer: bytes) -> Path:
    second = builders.layer_tar(builders.tar_member(b"in-use", b"1"))
    image = builders.ImageSpec([busybox_layer, second], tags=["in-use:1", "in-use:2", "elsewhere/in-use:1"])
    return builders.docker_archive(scratch / "in-use.tar", image)


class Both:
    """The same words to both engines; container IDs differ and are told as <id>."""

    def __init__(self, engine: Engine, root: Path) -> None:
        self.engine = engine
        self.root = root
        self.ids: tuple[str, str] = ("", "")

    def ours(self, *words: str | Path) -> tuple[int, str]:
        command = [sys.executable, "-m", "minidock", "--root", self.root, *words]
        done = builders.run_command(*command, check=False, cwd=PROJECT)
        return done.returncode, done.stdout + done.stderr

    def theirs(self, *words: str | Path) -> tuple[int, str]:
        done = self.engine.docker(*words, check=False)
        return done.returncode, done.stdout + done.stderr

    def container(self, *words: str) -> None:
        ours, theirs = self.ours(*words), self.theirs(*words)
        assert ours[0] == theirs[0] == 0, (ours, theirs)
        self.ids = (ours[1].strip(), theirs[1].strip())

    def same(self, *words: str | Path) -> str:
        """Run on both, demand the same lines and status, return the lines."""
        our_status, ours = self.ours(*words)
        their_status, theirs = self.theirs(*words)
        theirs = theirs.replace("Error response from daemon: ", "minidock: ").replace("Error: ", "minidock: ")
        ours = ours.replace(" (minidock images lists what there is)", "")
        ours = ours.replace(self.ids[0][:12], "<id>") if self.ids[0] else ours
        theirs = theirs.replace(self.ids[1][:12], "<id>") if self.ids[1] else theirs
        assert ours.split() == theirs.split()
        assert our_status == their_status
        return ours


@pytest.fixture
def both(dockerd: Engine, scratch: Path, archive: Path) -> Iterator[Both]:
    pair = Both(dockerd, scratch / "root")
    for load in (pair.ours, pair.theirs):
        assert load("load", "-i", archive)[0] == 0
    yield pair
    for run in (pair.ours, pair.theirs):
        run("rm", "-f", "holder")
        for name in ("in-use:1", "in-use:2", "elsewhere/in-use:1"):
            run("rmi", "-f", name)
        listed = run("images", "-q")[1].split()
        if run == pair.theirs and listed:
            run("rmi", "-f", *listed)


def test_a_stopped_container_uses_it(both: Both) -> None:
    both.container("create", "--name", "holder", "--network", "none", "in-use:1", "true")
    image_id = both.theirs("images", "-q", "in-use:1")[1].strip()
    both.same("rmi", image_id)
    assert "Untagged: in-use:2" in both.same("rmi", "in-use:2")
    both.same("rmi", "elsewhere/in-use:1")
    assert "(must force) - container <id>" in both.same("rmi", "in-use:1")
    assert "by stopped container <id>" in both.same("rmi", image_id)
    both.same("rmi", "-f", image_id)
    both.same("rmi", image_id)


def test_a_running_container_uses_it(both: Both) -> None:
    both.container("run", "-d", "--name", "holder", "--network", "none", "in-use:1", "sleep", "600")
    image_id = both.theirs("images", "-q", "in-use:1")[1].strip()
    assert "(cannot be forced)" in both.same("rmi", "-f", image_id)
    both.same("rmi", "in-use:2")
    both.same("rmi", "elsewhere/in-use:1")
    both.same("rmi", "in-use:1")
    both.same("rmi", image_id)
    assert both.same("rmi", "-f", "in-use:1").split() == ["Untagged:", "in-use:1"]
    assert "by running container <id>" in both.same("rmi", image_id)
    both.ours("rm", "-f", "holder")
    both.theirs("rm", "-f", "holder")
    assert both.same("rmi", image_id).count("Deleted: ") >= 2


def test_names_that_are_no_images(both: Both) -> None:
    both.same("rmi", "absent")
    both.same("rmi", "absent:1", "in-use:2", "absent:2")
    both.same("rmi", "-f", "absent")
    both.same("tag", "absent", "x:1")
    both.same("history", "absent")
    both.same("tag", "in-use:1", "sha256:x")
