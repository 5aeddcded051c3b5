"""fsck names each damage, repair mends what can be proven and nothing else, undo gives the damage back to the byte."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.errors import MinidockError, StoreError
from minidock.store.faults import KINDS
from minidock.store.root import DataRoot
from minidock.verbs.fsck import fsck
from minidock.verbs.repair import apply_repair, plan_repair, read_plan
from minidock.verbs.undo import list_trash, undo
from minidock.verbs.verify import verify
from tests import builders
from tests.bad_roots import BadRoot, copy_root, images
from tests.damages import DAMAGES, exact_listing
from tests.integration.test_bad_roots import tool as minidock
from tests.integration.tool import Terminal, Tool, command


@pytest.fixture(scope="module")
def whole(session_scratch: Path, busybox_layer: bytes) -> Path:
    """A root with both images and a container of each."""
    root = session_scratch / "fsck-whole"
    if root.exists():
        return root
    archive = builders.docker_archive(session_scratch / "fsck.tar", *images(busybox_layer))
    for words in (
        ("pull-tar", "-q", str(archive)),
        ("create", "--name", "sick-box", "--network", "none", "sick:1", "cat", "/data/one", "/data/two"),
        ("create", "--name", "well-box", "--network", "none", "well:1", "true"),
    ):
        done = minidock(root, *words)
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def bad(scratch: Path, whole: Path) -> Iterator[BadRoot]:
    yield copy_root(whole, scratch / "root")


def repair(path: Path) -> str:
    """Mend what can be mended; the trash's ID."""
    with DataRoot.open(str(path), create=False, bare=True) as root:
        return apply_repair(root, plan_repair(root))


def take_back(path: Path) -> None:
    """Undo the newest."""
    with DataRoot.open(str(path), create=False, bare=True) as root:
        undo(root)


def assert_all_works(path: Path) -> None:
    """Each image runs with all of its layers, each container starts, and every byte is verified."""
    with DataRoot.open(str(path), write=False) as root:
        found = verify(root)
        assert found.is_whole, [
            (layer.chain_id, finding.detail) for layer in found.layers for finding in layer.findings
        ]
        assert len(found.images) == 2
        assert [fault for fault in root.faults() if not fault.endswith("nothing uses it")] == []
    for words, output in (
        (("start", "-a", "sick-box"), "onetwo"),
        (("run", "--rm", "--network", "none", "sick:1", "cat", "/data/one", "/data/two"), "onetwo"),
        (("run", "--rm", "--network", "none", "well:1", "cat", "/well"), "well"),
    ):
        done = minidock(path, *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, output, ""), words


def test_a_whole_root_is_clean(bad: BadRoot) -> None:
    before = exact_listing(bad.path)
    done = minidock(bad.path, "fsck")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{bad.path}: clean\n", "")
    done = minidock(bad.path, "fsck", "--repair", "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{bad.path}: clean\n", "")
    assert exact_listing(bad.path) == before


@pytest.mark.parametrize("name", DAMAGES)
def test_named_mended_and_undone(bad: BadRoot, name: str) -> None:
    act, kinds, mends = DAMAGES[name]
    act(bad)
    before = exact_listing(bad.path)
    found = fsck(str(bad.path))
    assert kinds <= {fault.kind for fault in found.faults}, [fault.line for fault in found.faults]
    assert found.exit_status in (2, 4)
    trash_id = repair(bad.path)
    left = fsck(str(bad.path))
    if not mends:
        assert trash_id == ""
        assert exact_listing(bad.path) == before
        # Opening the root for a change takes back what a dead command left.
        assert [fault for fault in left.faults if "/stage/" not in fault.path] == [
            fault for fault in found.faults if "/stage/" not in fault.path
        ]
        return
    assert trash_id
    assert [fault.line for fault in left.faults if fault.severity != "leftover"] == []
    mended = exact_listing(bad.path)
    take_back(bad.path)
    assert exact_listing(bad.path) == before
    assert set(fsck(str(bad.path)).faults) == set(found.faults)
    repair(bad.path)
    assert set(exact_listing(bad.path)) >= {path for path in mended if "/overlay2/l/" not in path}
    assert_all_works(bad.path)


def test_what_lists_name_fsck_names_too(bad: BadRoot, whole: Path, scratch: Path) -> None:
    """The quick glance of images and ps finds nothing that fsck does not."""
    for number, name in enumerate(DAMAGES):
        copy = copy_root(whole, scratch / f"copy{number}")
        DAMAGES[name][0](copy)
        with DataRoot.open(str(copy.path), write=False) as root:
            glance = root.faults()
        assert bool(glance) <= bool(fsck(str(copy.path)).faults), (name, glance)
        shutil.rmtree(copy.path)


def test_all_mendable_damages_of_one_layer_at_once(bad: BadRoot) -> None:
    for name in (
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
    ):
        DAMAGES[name][0](bad)
    before = exact_listing(bad.path)
    repair(bad.path)
    assert [fault.line for fault in fsck(str(bad.path)).faults] == []
    mended = exact_listing(bad.path)
    take_back(bad.path)
    assert exact_listing(bad.path) == before
    repair(bad.path)
    # Short names that nothing tells any more are made up anew.
    made = [{path for path in listing if "/overlay2/l/" not in path} for listing in (mended, exact_listing(bad.path))]
    assert made[0] == made[1]
    assert_all_works(bad.path)


def test_the_plan_as_a_file(bad: BadRoot, scratch: Path) -> None:
    DAMAGES["link emptied"][0](bad)
    DAMAGES["size with a newline"][0](bad)
    before = exact_listing(bad.path)
    done = minidock(bad.path, "fsck", "--plan", str(scratch / "plan"))
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "")
    document = json.loads((scratch / "plan").read_text())
    assert [step["Step"] for step in document["Steps"]] == ["put-text", "put-text"]
    assert exact_listing(bad.path) == before
    done = minidock(bad.path, "fsck", "--repair")
    assert done.returncode == 4
    assert "nothing was done; --yes does it" in done.stderr
    assert exact_listing(bad.path) == before
    size = bad.layers[2][0] / "size"
    size.write_text("7\n")
    done = minidock(bad.path, "fsck", "--apply", str(scratch / "plan"))
    assert done.returncode == 125
    assert "has changed since the plan was made (nothing was done; plan anew)" in done.stderr
    assert not (bad.path / "minidock/trash").exists()
    bad = copy_root(bad.path, scratch / "again")
    (bad.layers[2][0] / "size").write_text("4\n")
    assert minidock(bad.path, "fsck", "--plan", str(scratch / "plan")).returncode == 4
    assert minidock(bad.path, "fsck", "--apply", str(scratch / "plan")).returncode == 1
    assert minidock(bad.path, "fsck").returncode == 0
    (entry,) = json.loads(minidock(bad.path, "undo", "--list", "--json").stdout)
    assert (entry["State"], len(entry["Paths"])) == ("done", 2)
    assert minidock(bad.path, "undo", entry["Id"][:12]).returncode == 0
    assert minidock(bad.path, "fsck").returncode == 4
    assert "undone" in minidock(bad.path, "undo", "--list").stdout
    done = minidock(bad.path, "undo")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is nothing to undo" in done.stderr


def test_undo_refuses_what_somebody_changed(bad: BadRoot) -> None:
    DAMAGES["link emptied"][0](bad)
    DAMAGES["lower emptied in the middle"][0](bad)
    repair(bad.path)
    path = bad.layers[1][1] / "lower"
    path.write_text(path.read_text() + "\n")
    before = exact_listing(bad.path)
    with DataRoot.open(str(bad.path)) as root, pytest.raises(StoreError, match="was changed after it was put there"):
        undo(root)
    assert exact_listing(bad.path) == before


def test_bad_plans(bad: BadRoot, scratch: Path) -> None:
    for text, reason in (
        ("", "not valid JSON"),
        ("{}", "not a plan"),
        ('{"Plan":"gc","Version":1,"Root":"/","Steps":[],"Remarks":[]}', "a plan of gc"),
        ('{"Plan":"repair","Version":9,"Root":"/","Steps":[],"Remarks":[]}', "version 9"),
        (
            '{"Plan":"repair","Version":1,"Root":"/","Remarks":[],"Steps":[{"Step":"put-text","Path":"../../etc/x",'
            '"Why":"","Proof":"","Before":null,"Text":"x","Mode":420}]}',
            "",
        ),
    ):
        (scratch / "plan").write_text(text)
        done = minidock(bad.path, "fsck", "--apply", str(scratch / "plan"))
        assert done.returncode == 125, done
        assert len(done.stderr.splitlines()) == 1 and reason in done.stderr, done.stderr
    assert not (scratch.parent / "etc/x").exists()
    with pytest.raises(MinidockError):
        read_plan(str(scratch / "missing"), "repair")


def test_a_read_only_root_is_looked_at_and_planned(bad: BadRoot, scratch: Path) -> None:
    DAMAGES["link emptied"][0](bad)
    (scratch / "dead").mkdir()
    builders.run_command("mount", "--bind", "-o", "ro", bad.path, scratch / "dead")
    try:
        assert minidock(scratch / "dead", "fsck").returncode == 4
        done = minidock(scratch / "dead", "fsck", "--plan", "-")
        assert len(json.loads(done.stdout)["Steps"]) == 1
        done = minidock(scratch / "dead", "fsck", "--repair", "--yes")
        assert done.returncode == 125
        assert "Read-only file system" in done.stderr
    finally:
        builders.run_command("umount", scratch / "dead")


def test_json_and_nothing_written(bad: BadRoot) -> None:
    shutil.rmtree(bad.path / "minidock")
    DAMAGES["size with a newline"][0](bad)
    paths = builders.run_command("find", bad.path, "-print0").stdout.split("\0")[:-1]
    for path in paths:
        os.utime(path, ns=(978307200 * 10**9, os.lstat(path).st_mtime_ns), follow_symlinks=False)
    before = [os.lstat(path) for path in paths]
    done = minidock(bad.path, "fsck", "--json")
    assert [os.lstat(path) for path in paths] == before
    document = json.loads(done.stdout)
    (fault,) = document["Faults"]
    assert (done.returncode, document["Status"], fault["Kind"], fault["Severity"]) == (4, 4, "size", "error")
    assert bad.path / fault["Path"] == bad.layers[2][0] / "size"
    assert not (bad.path / "minidock").exists()


def test_the_trash_is_listed_in_order(bad: BadRoot) -> None:
    for name in ("link emptied", "size emptied"):
        DAMAGES[name][0](bad)
        repair(bad.path)
    with DataRoot.open(str(bad.path), write=False) as root:
        found = list_trash(root)
    assert [entry.is_whole for entry in found] == [True, True]
    assert found[0].made_ns <= found[1].made_ns


PAGE = Path(__file__).resolve().parents[2] / "docs/damaged-roots.md"


def test_the_page_has_every_kind_with_its_severity() -> None:
    rows = [
        line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `") and line.count("|") == 5
    ]
    told = {kind: row[2].strip() for row in rows for kind in re.findall(r"`([\w-]+)`", row[1])}
    assert set(told) == set(KINDS)
    for kind, (severity, _) in KINDS.items():
        assert severity in told[kind], kind
    assert set(KINDS) == {kind for _, kinds, _ in DAMAGES.values() for kind in kinds}


def test_the_commands_of_the_page(bad: BadRoot, scratch: Path) -> None:
    """Each block of the page runs as it stands, on a root with app:1."""
    assert minidock(bad.path, "tag", "sick:1", "app:1").returncode == 0
    DAMAGES["link emptied"][0](bad)
    DAMAGES["metadata of no image"][0](bad)
    shim = scratch / "minidock"
    shim.write_text(f'#!/bin/sh\nexec {" ".join(shlex.quote(word) for word in command())} "$@"\n')
    shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{scratch}:{os.environ['PATH']}", "MINIDOCK_ROOT": str(bad.path)}
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    (scratch / "view").mkdir()
    for block in blocks:
        for line in block.splitlines():
            done = builders.run_command("sh", "-c", line, check=False, cwd=scratch, env=environment)
            assert done.stderr == "", line
            assert done.returncode in ({0: 0} if "undo" in line else {0: 0, 1: 0, 4: 0}), line
        # A repair's undo gives the damage back, and what comes next needs a whole image.
        repair(bad.path)
    assert fsck(str(bad.path)).exit_status in (0, 2)


def _outside(bad: BadRoot, place: str) -> Path:
    """Where a part of the root is moved to, with a symlink left behind."""
    places = {
        "a layer's directory": bad.layers[1][1],
        "a layer's content": bad.layers[1][1] / "diff",
        "a layer's record": bad.layers[1][0],
        "all directories": bad.overlay,
        "all records": bad.layerdb,
        "the containers": bad.path / "containers",
    }
    outside = bad.path.parent / "outside"
    outside.mkdir()
    shutil.move(places[place], outside / "moved")
    places[place].symlink_to(outside / "moved")
    return outside


@pytest.mark.parametrize(
    "place",
    [
        "a layer's directory",
        "a layer's content",
        "a layer's record",
        "all directories",
        "all records",
        "the containers",
    ],
)
def test_no_symlink_leads_out(bad: BadRoot, place: str) -> None:
    """What a symlink leads to is neither read as the root's nor changed, whatever is done."""
    DAMAGES["link emptied"][0](bad)
    outside = _outside(bad, place)
    before = exact_listing(outside)
    assert fsck(str(bad.path)).exit_status == 4
    if place not in ("the containers",):
        done = minidock(bad.path, "verify", "sick:1")
        assert (done.returncode, done.stderr) == (1, ""), done
    for words in (("fsck", "--repair", "--yes"), ("gc",), ("undo",)):
        done = minidock(bad.path, *words)
        assert done.returncode in (0, 1, 4, 125)
        assert "Traceback" not in done.stderr and "a bug" not in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) <= 1, done.stderr
    assert exact_listing(outside) == before


def test_a_trash_that_leads_out(bad: BadRoot) -> None:
    DAMAGES["link emptied"][0](bad)
    outside = bad.path.parent / "outside"
    outside.mkdir()
    (bad.path / "minidock/trash").symlink_to(outside)
    for words in (("fsck", "--repair", "--yes"), ("undo",), ("gc", "--empty-trash")):
        done = minidock(bad.path, *words)
        assert done.returncode in (1, 125)
        assert "a symlink is on the way to it" in done.stderr, done.stderr
    assert os.listdir(outside) == []


def test_a_terminal_is_asked(tool: Tool) -> None:
    (record,) = [
        path for path in (tool.root / "image/overlay2/layerdb/sha256").iterdir() if not (path / "parent").exists()
    ]
    (record / "size").write_text("1\n")
    for answer, status in ((b"n\n", 4), (b"y\n", 1)):
        terminal = Terminal(tool, "fsck", "--repair", columns=200)
        try:
            terminal.expect(b"printf %s 1 >")
            terminal.expect(b"[y/N] ")
            terminal.type(answer)
            assert terminal.wait() == status
        finally:
            terminal.close()
    assert (record / "size").read_text() == "1"
