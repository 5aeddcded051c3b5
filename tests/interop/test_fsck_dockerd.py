"""Damaged roots of Docker's engine, mended by minidock: the engine starts on them and runs every image."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from minidock.store.root import DataRoot
from minidock.verbs.fsck import fsck
from minidock.verbs.verify import verify
from tests import builders
from tests.bad_roots import copy_root, images
from tests.conftest import Engine
from tests.damages import DAMAGES, exact_listing
from tests.integration.test_bad_roots import tool
from tests.integration.test_fsck import repair, take_back
from tests.interop.engines import NewEngine, Release

# What minidock alone has.
OWN = {"a dead command's stage"}
# Damages that can lie in one root side by side, and together are every kind that is mended.
TOGETHER = (
    (
        *(
            "all links, short names and lowers gone",
            "size emptied",
            "tar-split cut",
            "cache-id emptied",
            "diff emptied",
        ),
        *(
            "parent missing: half a stack",
            "mount-id emptied",
            "committed on a container",
            "container marked as running",
        ),
        *("repositories.json emptied", "config of a wrong hash", "parent image that is not there"),
    ),
    (
        *("records of both upper layers gone", "all short names gone", "init-id missing"),
        *("work of a container missing", "repositories.json cut"),
    ),
    (
        *("record of a middle layer", "link emptied", "lower in a wrong order", "container without a mount record"),
        *("a name of an image that is not there", "config cut, with a whole copy beside it"),
    ),
    (
        *("cache-id of another layer", "short name of another layer", "parent at the bottom", "size with a newline"),
        *("parent of a container missing", "repositories.json of another shape", "tar-split missing"),
    ),
)


@pytest.fixture(scope="module")
def written(release: Release, new_engine_of: NewEngine, session_scratch: Path, busybox_layer: bytes) -> Path:
    """A root with two images and a container of each, left by an engine that was stopped."""
    engine = new_engine_of(release)
    engine.start()
    archive = builders.docker_archive(session_scratch / "fsck-dockerd.tar", *images(busybox_layer))
    engine.docker("load", "-i", archive)
    engine.docker("create", "--name", "sick-box", "--network", "none", "sick:1", "cat", "/data/one", "/data/two")
    engine.docker("create", "--name", "well-box", "--network", "none", "well:1", "true")
    engine.stop()
    return engine.root


def test_a_whole_root_of_the_engine(written: Path, scratch: Path) -> None:
    bad = copy_root(written, scratch / "root")
    before = exact_listing(bad.path)
    done = tool(bad.path, "fsck")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{bad.path}: clean\n", "")
    done = tool(bad.path, "verify", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert exact_listing(bad.path) == before
    assert "minidock" not in os.listdir(bad.path)


@pytest.mark.parametrize("name", [name for name in DAMAGES if name not in OWN])
def test_each_damage_of_an_engines_root(written: Path, scratch: Path, name: str) -> None:
    bad = copy_root(written, scratch / "root")
    act, kinds, mends = DAMAGES[name]
    act(bad)
    before = exact_listing(bad.path)
    found = fsck(str(bad.path))
    assert kinds <= {fault.kind for fault in found.faults}, [fault.line for fault in found.faults]
    trash_id = repair(bad.path)
    left = fsck(str(bad.path))
    if not mends:
        assert (trash_id, exact_listing(bad.path), left.faults) == ("", before, found.faults)
        return
    assert [fault.line for fault in left.faults if fault.severity != "leftover"] == []
    with DataRoot.open(str(bad.path), write=False) as root:
        assert verify(root).is_whole
    take_back(bad.path)
    assert exact_listing(bad.path) == before


@pytest.mark.parametrize("names", TOGETHER, ids=lambda names: f"{len(names)} damages, {names[0]}")
def test_the_engine_works_on_what_was_mended(
    written: Path, scratch: Path, release: Release, new_engine_of: NewEngine, names: tuple[str, ...]
) -> None:
    engine: Engine = new_engine_of(release)
    engine.base.mkdir(exist_ok=True)
    bad = copy_root(written, engine.root)
    for name in names:
        DAMAGES[name][0](bad)
    repair(bad.path)
    assert [fault.line for fault in fsck(str(bad.path)).faults if fault.severity != "leftover"] == []
    engine.start()
    try:
        assert engine.docker("start", "-a", "sick-box").stdout == "onetwo"
        for image, path, output in (("sick:1", "/data/two", "two"), ("well:1", "/well", "well")):
            done = engine.docker("run", "--rm", "--network", "none", image, "cat", path)
            assert (done.stdout, done.stderr) == (output, "")
            engine.docker("save", "-o", scratch / "saved.tar", image)
        engine.docker("commit", "sick-box", "again:1")
        assert engine.docker("run", "--rm", "--network", "none", "again:1", "cat", "/data/one").stdout == "one"
        names_there = json.loads((bad.image / "repositories.json").read_text())["Repositories"]
        assert set(names_there) == {"sick", "well", "again"}
    finally:
        engine.stop()
    with DataRoot.open(str(bad.path), write=False) as root:
        assert verify(root).is_whole


def test_beside_a_running_engine(running: Engine, session_scratch: Path, busybox_layer: bytes, scratch: Path) -> None:
    """Looking works and disturbs nothing; a change is refused."""
    archive = builders.docker_archive(session_scratch / "fsck-live.tar", *images(busybox_layer))
    running.docker("load", "-i", archive)
    running.docker("run", "-d", "--name", "fsck-box", "--network", "none", "well:1", "sleep", "1000")
    try:
        done = tool(running.root, "fsck")
        assert (done.returncode, done.stdout) == (0, f"{running.root}: clean\n")
        assert "somebody is at work" in done.stderr
        assert tool(running.root, "verify", "sick:1", "well:1").returncode == 0
        assert "somebody is at work" in tool(running.root, "gc").stdout
        assert tool(running.root, "cp", "well:1:/well", str(scratch / "well")).returncode == 0
        (scratch / "plan").write_text(
            '{"Plan":"repair","Version":1,"Root":"/","Remarks":[],"Steps":[{"Step":"put-directory","Path":"new",'
            '"Why":"","Proof":"","Before":null,"Mode":448}]}'
        )
        done = tool(running.root, "fsck", "--apply", str(scratch / "plan"))
        assert done.returncode == 125
        assert "is running on the data root" in done.stderr
        assert not (running.root / "new").exists()
    finally:
        running.docker("rm", "-f", "fsck-box")
        running.docker("rmi", "-f", "sick:1", "well:1")
