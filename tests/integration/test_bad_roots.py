"""Half-written roots: each fault is named once by each command that shows the root, what is whole goes on working,
nothing ever stands on a stack with a hole in it, and nothing gets worse."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.store.root import DataRoot
from tests import builders
from tests.bad_roots import FAULTS, BadRoot, copy_root, full_listing, images
from tests.integration.tool import command

SHOWING = {
    "images": ("images", "-a"),
    "ps": ("ps", "-a"),
    "info": ("info",),
    "history": ("history", "well:1"),
    "inspect": ("inspect", "well:1", "well-box"),
}
USING = {
    "run": ("run", "--rm", "--network", "none", "sick:1", "true"),
    "create": ("create", "--network", "none", "sick:1", "true"),
    "start": ("start", "-a", "sick-box"),
    "commit": ("commit", "sick-box", "sick:2"),
    "save": ("save", "-o", "OUT", "sick:1"),
    "diff": ("diff", "sick-box"),
    "export": ("export", "-o", "OUT", "sick-box"),
}
REFUSED = {
    "image": {"run", "create", "start", "commit", "save", "diff", "export"},
    "stack": {"run", "create", "start", "commit", "diff", "export"},
    "config": {"run", "create", "commit", "save"},
    "box": {"start", "commit", "diff", "export"},
    "gone": {"start", "commit", "diff", "export"},
    "names": {"run", "create", "commit", "save"},
    "": set(),
}


def tool(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    words = tuple(str(root.parent / "saved.tar") if word == "OUT" else word for word in words)
    environment = {**os.environ, "MINIDOCK_ROOT": str(root), "LC_ALL": "C.UTF-8"}
    return builders.run_command(*command(*words), check=False, env=environment, timeout=60)


def warnings_of(done: subprocess.CompletedProcess[str], root: Path) -> list[str]:
    """The lines about the root; info warns of the machine, too."""
    return [line for line in done.stderr.splitlines() if line.startswith("WARNING: ") and str(root) in line]


@pytest.fixture(scope="module")
def whole(session_scratch: Path, busybox_layer: bytes) -> Path:
    """A root with both images and a container of each."""
    root = session_scratch / "whole"
    archive = builders.docker_archive(session_scratch / "bad-roots.tar", *images(busybox_layer))
    for words in (
        ("pull-tar", "-q", str(archive)),
        ("create", "--name", "sick-box", "--network", "none", "sick:1", "true"),
        ("create", "--name", "well-box", "--network", "none", "well:1", "true"),
    ):
        done = tool(root, *words)
        assert done.returncode == 0, done.stderr
    return root


def saved(whole: Path) -> bytes:
    """What save gives on the whole root."""
    path = whole.parent / "saved.tar"
    if not path.exists():
        assert tool(whole, *USING["save"]).returncode == 0
    return path.read_bytes()


@pytest.fixture
def bad(scratch: Path, whole: Path) -> Iterator[BadRoot]:
    yield copy_root(whole, scratch / "root")


def test_a_whole_root_has_no_faults(bad: BadRoot) -> None:
    before = full_listing(bad.path)
    for words in SHOWING.values():
        done = tool(bad.path, *words)
        assert (done.returncode, warnings_of(done, bad.path)) == (0, [])
    assert full_listing(bad.path) == before
    for name in ("run", "start", "commit", "save"):
        done = tool(bad.path, *USING[name])
        assert (done.returncode, done.stderr) == (0, ""), name


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_once_and_the_rest_is_shown(bad: BadRoot, name: str) -> None:
    refuses, damage = FAULTS[name]
    place = damage(bad)
    before = full_listing(bad.path)
    for word, words in SHOWING.items():
        if refuses == "names" and word in ("history", "inspect"):
            words = tuple(part.replace("well:1", "well-box") for part in words) if word == "inspect" else ("images",)
        done = tool(bad.path, *words)
        told = warnings_of(done, bad.path)
        assert len([line for line in told if str(place) in line]) == 1, (word, told)
        assert len(told) == len(set(told)) <= 3
        assert "Traceback" not in done.stderr
        assert done.returncode == 0, done.stderr
        if word == "images":
            assert ("well" in done.stdout) == (refuses != "names")
        if word == "ps":
            assert "well-box" in done.stdout
    assert full_listing(bad.path) == before


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_stands_on_a_hole_and_nothing_gets_worse(bad: BadRoot, whole: Path, name: str) -> None:
    refuses, damage = FAULTS[name]
    place = damage(bad)
    before = full_listing(bad.path)
    for word in sorted(REFUSED[refuses]):
        done = tool(bad.path, *USING[word])
        assert done.returncode in (1, 125), (word, done)
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("minidock: "), line
        if refuses in ("image", "stack"):
            assert any(str(part) in line for part in (bad.overlay, bad.layerdb)), line
            assert "load it again" in line, line
        elif refuses == "names":
            assert str(place) in line, line
    assert full_listing(bad.path) == before
    assert os.listdir(bad.path / "minidock/stage") == []
    if refuses == "names":
        done = tool(bad.path, "run", "--rm", "--network", "none", bad.sick, "true")
    else:
        done = tool(bad.path, "run", "--rm", "--network", "none", "well:1", "true")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    for word in sorted({"run", "start", "commit", "save"} - REFUSED[refuses]):
        done = tool(bad.path, *USING[word])
        assert (done.returncode, done.stderr) == (0, ""), (word, done.stderr)
        if word == "save":
            # Each layer is read by itself and checked by its digest: the way out of a broken stack.
            assert (bad.path.parent / "saved.tar").read_bytes() == saved(whole)


BROKEN_LAYERS = [name for name, (refuses, _) in FAULTS.items() if refuses in ("image", "stack")]


@pytest.mark.parametrize("name", BROKEN_LAYERS)
def test_no_image_is_loaded_onto_a_broken_layer(bad: BadRoot, name: str, session_scratch: Path) -> None:
    FAULTS[name][1](bad)
    before = full_listing(bad.path)
    done = tool(bad.path, "pull-tar", "-q", str(session_scratch / "bad-roots.tar"))
    if name.startswith("record of the top layer"):
        # Nothing is left of it that could be believed; so it comes anew.
        assert (done.returncode, done.stderr) == (0, "")
        assert tool(bad.path, *USING["run"]).returncode == 0
        return
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "load it again" in line
    assert full_listing(bad.path) == before
    assert os.listdir(bad.path / "minidock/stage") == []


@pytest.mark.parametrize("name", BROKEN_LAYERS)
def test_the_hint_mends(bad: BadRoot, name: str, session_scratch: Path) -> None:
    FAULTS[name][1](bad)
    archive = str(session_scratch / "bad-roots.tar")
    for words in (
        ("rm", "sick-box"),
        ("rmi", "sick:1"),
        ("pull-tar", "-q", archive),
        ("run", "--rm", "--network", "none", "sick:1", "cat", "/data/one", "/data/two"),
    ):
        done = tool(bad.path, *words)
        assert (done.returncode, done.stderr) == (0, ""), words
    assert done.stdout == "onetwo"
    for line in warnings_of(tool(bad.path, "info"), bad.path):
        # What no record leads to any more belongs to nobody.
        assert line.endswith(("no layer and no container has this directory", "which is not there")), line


@pytest.mark.parametrize("name", FAULTS)
def test_whatever_is_asked_the_answer_is_one_line(bad: BadRoot, name: str) -> None:
    FAULTS[name][1](bad)
    for words in (
        ("logs", "sick-box"),
        ("exec", "sick-box", "true"),
        ("stop", "sick-box"),
        ("tag", "sick:1", "sick:9"),
        ("rm", "-f", "sick-box"),
        ("rmi", "-f", "sick:1", "sick:9"),
        ("rmi", "-f", bad.sick),
        ("images", "-a", "--digests"),
        ("ps", "-a", "-s"),
        ("run", "--rm", "--network", "none", "well:1", "true"),
    ):
        done = tool(bad.path, *words)
        assert "Traceback" not in done.stderr, (words, done.stderr)
        assert done.returncode in (0, 1, 125), (words, done)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING: ")]
        assert len(lines) <= len(words)
        # docker's --force tells what is not there, and ends well.
        assert "-f" in words or bool(lines) == bool(done.returncode), (words, done.stderr)
    if FAULTS[name][0] != "names":
        assert done.returncode == 0


def test_another_command_at_work_is_no_fault(bad: BadRoot, session_scratch: Path) -> None:
    """Halves are everywhere while somebody writes; they are his, not faults."""
    script = (
        "for n in 1 2 3 4 5 6; do minidock rmi -f well:1 && minidock pull-tar -q $ARCHIVE && "
        "minidock run --rm --network none well:1 true || exit 1; done"
    )
    shim = bad.path.parent / "minidock"
    words = " ".join(shlex.quote(word) for word in command())
    shim.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    shim.chmod(0o755)
    environment = {
        "PATH": f"{shim.parent}:{os.environ['PATH']}",
        "MINIDOCK_ROOT": str(bad.path),
        "ARCHIVE": str(session_scratch / "bad-roots.tar"),
    }
    assert tool(bad.path, "rm", "well-box").returncode == 0
    writer = subprocess.Popen(["sh", "-c", script], env=environment, stdout=subprocess.DEVNULL)
    looks = 0
    while writer.poll() is None:
        with DataRoot.open(str(bad.path), write=False) as root:
            assert root.faults() == []
        looks += 1
    assert writer.returncode == 0
    assert looks > 20


def test_what_a_killed_command_left_is_swept_and_not_told(bad: BadRoot) -> None:
    stage = bad.path / f"minidock/stage/{'0' * 8}.1.1.dead"
    stage.mkdir()
    orphan = bad.overlay / ("6" * 64)
    (orphan / "diff").mkdir(parents=True)
    (stage / f"layer-{'7' * 64}.{orphan.name}").touch()
    assert warnings_of(tool(bad.path, "images"), bad.path) == []
    assert tool(bad.path, "tag", "well:1", "well:2").returncode == 0
    assert not orphan.exists()


def test_the_page_has_the_words_that_are_used() -> None:
    project = Path(__file__).resolve().parents[2]
    code = "".join((project / f"minidock/store/{name}.py").read_text() for name in ("survey", "references"))
    rows = [line.split("|") for line in (project / "docs/damaged-roots.md").read_text().splitlines() if "|" in line]
    words = [phrase for row in rows[2:] for phrase in re.findall(r"`([^`]+)`", row[2])]
    assert len(words) > 15
    assert [phrase for phrase in words if phrase not in code] == []
