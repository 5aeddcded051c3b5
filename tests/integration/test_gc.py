"""gc moves away what nothing refers to and nothing else; undo brings it back; nothing is lost by a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minidock.errors import Conflict, StoreError
from minidock.store.root import DataRoot
from minidock.verbs.fsck import fsck
from minidock.verbs.gc import apply_gc, empty_trash, plan_gc
from minidock.verbs.repair import plan_repair
from minidock.verbs.undo import list_trash, undo
from minidock.verbs.verify import verify
from tests import builders
from tests.bad_roots import BadRoot
from tests.damages import DAMAGES, exact_listing
from tests.integration.test_bad_roots import tool
from tests.integration.test_fsck import assert_all_works, bad, take_back, whole
from tests.integration.tool import PROJECT

__all__ = ["bad", "whole"]

GARBAGE = (
    *("directory without a record", "short name of nothing", "folder of a layer half stored", "record half removed"),
    *("config half written", "metadata of no image", "a second short name"),
)


def forget_image(root: BadRoot) -> None:
    """well:1 loses its container and config as if an engine had died in the middle of rmi; its layer stays."""
    assert tool(root.path, "rm", "well-box").returncode == 0
    path = root.image / "repositories.json"
    document = json.loads(path.read_text())
    (image_id,) = document["Repositories"].pop("well").values()
    path.write_text(json.dumps(document))
    (root.config.parent / image_id[7:]).unlink()


@pytest.fixture
def littered(bad: BadRoot) -> BadRoot:
    """A root with every kind of garbage."""
    for name in GARBAGE:
        DAMAGES[name][0](bad)
    forget_image(bad)
    return bad


def collect(path: Path) -> str:
    with DataRoot.open(str(path)) as root:
        return apply_gc(root, plan_gc(root))


def test_a_whole_root_has_no_garbage(bad: BadRoot) -> None:
    with DataRoot.open(str(bad.path), write=False) as root:
        plan = plan_gc(root)
    assert ([step.path for step in plan.steps], plan.remarks) == ([], [])
    assert "0 things, 0B" in tool(bad.path, "gc").stdout


def test_names_that_are_no_utf8_come_back(bad: BadRoot, scratch: Path) -> None:
    """Of things and in them; by a plan's file, too."""
    base = os.fsencode(bad.layerdb)
    for name in (b"tmp/\xff\xfe", b"tmp/a\nb", b"sha256/\xff", b"tmp/\x1b[2J"):
        os.mkdir(base + b"/" + name)
        os.mkdir(base + b"/" + name + b"/\xff\n")
    before = exact_listing(bad.path)
    assert tool(bad.path, "gc", "--plan", str(scratch / "plan")).returncode == 0
    done = tool(bad.path, "gc", "--apply", str(scratch / "plan"))
    assert (done.returncode, done.stderr) == (0, ""), done
    assert fsck(str(bad.path)).faults == []
    assert json.loads(tool(bad.path, "undo", "--list", "--json").stdout)[0]["State"] == "done"
    done = tool(bad.path, "undo")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert exact_listing(bad.path) == before
    assert tool(bad.path, "gc", "--empty-trash").returncode == 0


def test_a_broken_journal_is_in_nobodys_way(bad: BadRoot) -> None:
    for number, text in enumerate(
        (
            *(b"\xff\n", b"[]\n5\n", b'{"N":"x"}\n{"N":0,"Path":5}\n', b'{"Kind":1,"Made":"x","Times":[]}\n'),
            b'{"Kind":"gc","Made":1,"Times":{}}\n{"N":0}\n',
        )
    ):
        folder = bad.path / f"minidock/trash/broken{number}"
        folder.mkdir(parents=True)
        (folder / "journal").write_bytes(text)
    before = exact_listing(bad.path)
    DAMAGES["metadata of no image"][0](bad)
    collect(bad.path)
    assert set(exact_listing(bad.path)) == set(before)
    states = [one["State"] for one in json.loads(tool(bad.path, "undo", "--list", "--json").stdout)]
    assert sorted(states) == ["done", *["unreadable"] * 5]
    done = tool(bad.path, "undo", "broken1")
    assert (done.returncode, "journal cannot be read" in done.stderr) == (1, True)
    take_back(bad.path)
    assert [fault.kind for fault in fsck(str(bad.path)).faults] == ["metadata"]
    assert tool(bad.path, "gc", "--empty-trash").returncode == 0
    assert os.listdir(bad.path / "minidock/trash") == []


@pytest.mark.parametrize("name", ["all containers gone", "containers a symlink", "imagedb gone", "imagedb a symlink"])
def test_nothing_is_garbage_by_the_loss_of_a_place(bad: BadRoot, name: str) -> None:
    """What nobody seems to have may be had by what cannot be seen, say on a disk that is not mounted."""
    DAMAGES[name][0](bad)
    before = exact_listing(bad.path)
    with DataRoot.open(str(bad.path), write=False) as root:
        plan = plan_gc(root)
    assert [step.path for step in plan.steps] == []
    assert "fsck finds what may need them: " in plan.remarks[0] and "folder" in plan.remarks[0]
    assert exact_listing(bad.path) == before


def test_all_garbage_goes_and_comes_back(littered: BadRoot, scratch: Path) -> None:
    before = exact_listing(littered.path)
    done = tool(littered.path, "gc", "--plan", str(scratch / "plan"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    plan = json.loads((scratch / "plan").read_text())
    paths = {step["Path"] for step in plan["Steps"]}
    assert len(paths) == len(GARBAGE) + 3, paths
    assert all(step["Step"] == "move-away" and step["Proof"] and step["Bytes"] >= 0 for step in plan["Steps"])
    assert exact_listing(littered.path) == before
    assert tool(littered.path, "gc", "--apply", str(scratch / "plan")).returncode == 0
    left = exact_listing(littered.path)
    gone = {str(Path(path).relative_to(littered.path)) for path in set(before) - set(left)}
    assert {path for path in gone if os.path.dirname(path) not in gone} == paths
    assert fsck(str(littered.path)).faults == []
    with DataRoot.open(str(littered.path), write=False) as root:
        assert verify(root).is_whole
        assert plan_gc(root).steps == []
    done = tool(littered.path, "gc", "--apply", str(scratch / "plan"))
    assert done.returncode == 1
    assert "it is no longer proven that nothing needs it" in done.stderr
    take_back(littered.path)
    assert exact_listing(littered.path) == before


def test_the_trash_is_emptied(littered: BadRoot) -> None:
    trash_id = collect(littered.path)
    # What is deleted may have a mount in it, or a symlink out; neither is followed.
    outside = littered.path.parent / "outside"
    outside.mkdir()
    (outside / "canary").touch()
    kept = next(path for path in (littered.path / "minidock/trash" / trash_id).glob("*.old/diff") if path.is_dir())
    (kept / "out").symlink_to(outside)
    (kept / "mounted").mkdir()
    builders.run_command("mount", "--bind", outside, kept / "mounted")
    try:
        with DataRoot.open(str(littered.path)) as root, pytest.raises(Conflict, match="is a mount point"):
            empty_trash(root, [])
    finally:
        builders.run_command("umount", kept / "mounted")
    done = tool(littered.path, "gc", "--empty-trash", trash_id[:10])
    assert done.returncode == 0
    assert done.stdout.startswith(f"{trash_id}\nTotal reclaimed space: ")
    assert os.listdir(littered.path / "minidock/trash") == []
    assert os.listdir(outside) == ["canary"]
    assert "nothing to undo" in tool(littered.path, "undo").stderr
    assert tool(littered.path, "gc", "--empty-trash").stdout == "Total reclaimed space: 0B\n"
    assert fsck(str(littered.path)).faults == []


@pytest.mark.parametrize("name", ["record of a middle layer", "container without a mount record", "cache-id emptied"])
def test_what_a_repair_may_need_stays(bad: BadRoot, name: str) -> None:
    DAMAGES[name][0](bad)
    with DataRoot.open(str(bad.path), write=False) as root:
        plan = plan_gc(root)
    assert plan.steps == []
    assert "directories and layers stay" in plan.remarks[0]


def test_what_somebody_has_mounted_stays(bad: BadRoot, scratch: Path) -> None:
    """An orphan that only a process in a mount namespace of its own holds."""
    orphan = bad.overlay / ("4" * 64)
    (orphan / "diff").mkdir(parents=True)
    script = 'mount --bind "$1" "$2"; echo there; read line'
    alone = ("unshare", "-m", "--propagation", "private")
    words = [*alone, "sh", "-c", script, "sh", str(orphan / "diff"), str(bad.path / "tmp")]
    (bad.path / "tmp").mkdir()
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout and holder.stdout.readline() == b"there\n"
        with DataRoot.open(str(bad.path), write=False) as root:
            plan = plan_gc(root)
        assert plan.steps == []
        assert f"it is mounted at {bad.path}/tmp" in plan.remarks[0]
    finally:
        holder.kill()
        holder.communicate(timeout=20)
    with DataRoot.open(str(bad.path), write=False) as root:
        assert [step.path for step in plan_gc(root).steps] == [f"overlay2/{orphan.name}"]


def test_what_is_needed_by_now_stays(bad: BadRoot, session_scratch: Path) -> None:
    """Between plan and apply an image comes that has the layer."""
    forget_image(bad)
    with DataRoot.open(str(bad.path), write=False) as root:
        plan = plan_gc(root)
    assert len(plan.steps) == 3
    assert tool(bad.path, "pull-tar", "-q", str(session_scratch / "fsck.tar")).returncode == 0
    before = exact_listing(bad.path)
    with DataRoot.open(str(bad.path)) as root, pytest.raises(StoreError, match="no longer proven"):
        apply_gc(root, plan)
    assert exact_listing(bad.path) == before


def test_buildkit_keeps_what_it_knows(bad: BadRoot) -> None:
    forget_image(bad)
    (unused,) = {path.name for path in (bad.layerdb / "sha256").iterdir()} - {record.name for record, _ in bad.layers}
    (bad.path / "buildkit").mkdir()
    (bad.path / "buildkit/snapshots.db").write_bytes(b"\0" * 4096 + f"sha256:{unused}".encode())
    (bad.overlay / ("k" * 25)).mkdir()
    with DataRoot.open(str(bad.path), write=False) as root:
        plan = plan_gc(root)
    assert plan.steps == []
    assert "BuildKit's cache does" in plan.remarks[0]


KILLS = """
import os, signal, sys
from minidock.store.root import DataRoot
from minidock.verbs.gc import apply_gc, empty_trash, plan_gc
from minidock.verbs.repair import apply_repair, plan_repair
from minidock.verbs.undo import undo

left = int(sys.argv[3])

def audit(event, arguments):
    global left
    if event in ("os.rename", "os.link", "os.symlink", "os.mkdir", "os.utime", "os.remove", "os.rmdir") or (
        event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    ):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

with DataRoot.open(sys.argv[1]) as root:
    plan = {"repair": plan_repair, "gc": plan_gc}.get(sys.argv[2], lambda root: None)(root)
    sys.addaudithook(audit)
    if sys.argv[2] == "undo":
        undo(root)
    elif sys.argv[2] == "empty":
        empty_trash(root, [])
    elif plan.steps:
        (apply_repair if sys.argv[2] == "repair" else apply_gc)(root, plan)
"""


def killed(path: Path, what: str, number: int) -> bool:
    """Do it in a process that dies before its n-th change; whether it got so far."""
    script = f"import sys; sys.path.append({str(PROJECT)!r})\n{KILLS}"
    done = subprocess.run([sys.executable, "-I", "-c", script, path, what, str(number)])
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


@pytest.mark.many
@pytest.mark.parametrize("what", ["repair", "gc"])
def test_a_kill_at_any_point_loses_nothing(littered: BadRoot, scratch: Path, what: str) -> None:
    """At each change of the disk: what is left is finished by running it again, or taken back to the byte by undo."""
    if what == "repair":
        for name in ("all links, short names and lowers gone", "record of the top layer: an image without its chain"):
            DAMAGES[name][0](littered)
    number = 0
    is_killed = True
    while is_killed:
        number += 1 if what == "gc" or number < 20 else 3
        copy = scratch / f"kill{number}"
        builders.run_command("cp", "-a", littered.path, copy)
        kept = exact_listing(copy)
        is_killed = killed(copy, what, number)
        finish(copy, kept, what, 1 + number % 9)
        shutil.rmtree(copy)
    assert number > 20


def finish(path: Path, before: dict[str, tuple[object, ...]], what: str, number: int) -> None:
    """Take the half that a kill left back, which undo itself may be killed in, then do the whole."""
    with DataRoot.open(str(path)) as root:
        begun = [entry for entry in list_trash(root) if entry.rows]
    if begun:
        killed(path, "undo", number)
        with DataRoot.open(str(path)) as root:
            if not list_trash(root)[-1].is_undone:
                undo(root)
    assert exact_listing(path) == before
    with DataRoot.open(str(path)) as root:
        if what == "gc":
            apply_gc(root, plan_gc(root))
        else:
            from minidock.verbs.repair import apply_repair

            apply_repair(root, plan_repair(root))
    assert [fault for fault in fsck(str(path)).faults if fault.severity != "leftover" or what == "gc"] == []


@pytest.mark.many
def test_a_kill_while_the_trash_is_emptied(littered: BadRoot, scratch: Path) -> None:
    """What was kept is whole or gone, the root is as it was, and the next command that writes clears up."""
    collect(littered.path)
    before = exact_listing(littered.path)
    number, is_killed = 0, True
    while is_killed:
        number += 1 if number < 12 else 4
        copy = scratch / f"empty{number}"
        builders.run_command("cp", "-a", littered.path, copy)
        is_killed = killed(copy, "empty", number)
        with DataRoot.open(str(copy)) as root:
            (rows,) = [len(entry.rows) for entry in list_trash(root)] or (0,)
            assert rows in (0, len(GARBAGE) + 3)
        assert os.listdir(copy / "minidock/stage") == []
        assert [path[len(str(copy)) :] for path in exact_listing(copy)] == [
            path[len(str(littered.path)) :] for path in before
        ]
        shutil.rmtree(copy)
    assert number > 8


def test_a_root_works_after_gc(littered: BadRoot) -> None:
    collect(littered.path)
    done = tool(littered.path, "start", "-a", "sick-box")
    assert (done.returncode, done.stdout) == (0, "onetwo")


def test_repair_after_half_a_repair_goes_on(bad: BadRoot) -> None:
    """Without undo: the second repair mends what the first did not come to."""
    DAMAGES["all links, short names and lowers gone"][0](bad)
    assert killed(bad.path, "repair", 30)
    assert fsck(str(bad.path)).exit_status == 4
    with DataRoot.open(str(bad.path)) as root:
        from minidock.verbs.repair import apply_repair

        apply_repair(root, plan_repair(root))
    assert fsck(str(bad.path)).faults == []
    assert_all_works(bad.path)
