"""The half-written roots of tests/bad_roots.py, written by Docker's engine: named, refused and left alone, too."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from minidock.store.root import DataRoot
from tests import builders
from tests.bad_roots import FAULTS, copy_root, full_listing, images
from tests.conftest import Engine
from tests.integration.test_bad_roots import REFUSED, USING, tool, warnings_of
from tests.interop.engines import NewEngine, Release


@pytest.fixture(scope="module")
def written(release: Release, new_engine_of: NewEngine, session_scratch: Path, busybox_layer: bytes) -> Path:
    """A root with two images and a container of each, left by an engine that was stopped."""
    engine = new_engine_of(release)
    engine.start()
    archive = builders.docker_archive(session_scratch / "bad-roots-dockerd.tar", *images(busybox_layer))
    engine.docker("load", "-i", archive)
    for word in ("sick", "well"):
        engine.docker("create", "--name", f"{word}-box", "--network", "none", f"{word}:1", "true")
    engine.stop()
    return engine.root


def test_a_whole_root_of_the_engine_has_no_faults(written: Path, scratch: Path) -> None:
    bad = copy_root(written, scratch / "root")
    before = full_listing(bad.path)
    done = tool(bad.path, "images")
    assert (done.returncode, done.stderr) == (0, "")
    assert full_listing(bad.path) == before
    assert "minidock" not in os.listdir(bad.path)
    for name in ("run", "start", "commit", "save"):
        done = tool(bad.path, *USING[name])
        assert (done.returncode, done.stderr) == (0, ""), name


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_of_an_engines_root(written: Path, scratch: Path, name: str) -> None:
    bad = copy_root(written, scratch / "root")
    refuses, damage = FAULTS[name]
    place = damage(bad)
    before = full_listing(bad.path)
    told = warnings_of(tool(bad.path, "ps", "-a"), bad.path)
    assert len([line for line in told if str(place) in line]) == 1, told
    for word in sorted(REFUSED[refuses]):
        done = tool(bad.path, *USING[word])
        assert done.returncode in (1, 125), (word, done)
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert full_listing(bad.path) == before
    image = bad.sick if refuses == "names" else "well:1"
    done = tool(bad.path, "run", "--rm", "--network", "none", image, "true")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_live_engine_at_work_is_no_fault(running: Engine, session_scratch: Path, busybox_layer: bytes) -> None:
    archive = builders.docker_archive(session_scratch / "bad-roots-live.tar", *images(busybox_layer))
    running.docker("load", "-i", archive)
    running.docker("run", "-d", "--name", "live-box", "--network", "none", "well:1", "sleep", "1000")
    try:
        worker = subprocess.Popen(
            ["/usr/bin/docker", "-H", f"unix://{running.socket}", "run", "--rm", "--network", "none", "sick:1", "true"],
            stdout=subprocess.DEVNULL,
        )
        while worker.poll() is None:
            with DataRoot.open(str(running.root), write=False) as root:
                assert root.faults() == []
        assert worker.returncode == 0
    finally:
        running.docker("rm", "-f", "live-box")
        running.docker("rmi", "-f", "sick:1", "well:1")
