"""diff between any two trees, against the kernel's overlays of them and against a container's own diff."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from minidock.store.evidence import Evidence
from minidock.verbs.compare import compare
from tests import builders
from tests.integration.looker import Looker
from tests.integration.test_stackwalk import random_layer
from tests.seen_roots import age, stamps


def _lay(root: Path, names: list[str], chance: random.Random) -> None:
    """A root of bare overlay2 directories, each on all before it, topmost last."""
    (root / "overlay2/l").mkdir(parents=True)
    lowers: list[str] = []
    for number, name in enumerate(names):
        folder = root / "overlay2" / name
        folder.mkdir()
        random_layer(folder / "diff", chance)
        link = f"{number:026d}".replace("0", "A").replace("1", "B")
        (folder / "link").write_text(link)
        (root / "overlay2/l" / link).symlink_to(f"../{name}/diff")
        if lowers:
            (folder / "lower").write_text(":".join(lowers))
        lowers.insert(0, f"l/{link}")


def _tree(top: Path, layers: list[Path]) -> dict[str, os.stat_result]:
    """What the kernel shows of some layers."""
    top.mkdir()
    options = "ro,redirect_dir=off,metacopy=off,lowerdir=" + ":".join(map(str, layers))
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", top], check=True)
    found: dict[str, os.stat_result] = {}
    try:
        for where, directories, files in os.walk(top):
            for name in (*directories, *files):
                try:
                    found["/" + os.path.relpath(os.path.join(where, name), top)] = os.lstat(os.path.join(where, name))
                except FileNotFoundError:
                    continue
    finally:
        subprocess.run(["umount", top], check=True)
    return found


def _docker_changes(old: dict[str, os.stat_result], new: dict[str, os.stat_result]) -> set[tuple[str, str]]:
    """docker's rules, told once more and plainly, for two whole trees."""
    changes: set[tuple[str, str]] = set()
    for path, after in new.items():
        before = old.get(path)
        if before is None:
            changes.add(("A", path))
        elif (before.st_mode, before.st_rdev) != (after.st_mode, after.st_rdev) or (
            not stat.S_ISDIR(after.st_mode)
            and (before.st_size != after.st_size or before.st_mtime_ns != after.st_mtime_ns)
        ):
            changes.add(("C", path))
    for path in old:
        parent = os.path.dirname(path)
        if path not in new and (parent == "/" or (parent in new and stat.S_ISDIR(new[parent].st_mode))):
            changes.add(("D", path))
    for _, path in set(changes):
        while (path := os.path.dirname(path)) != "/":
            if path in old and not any((kind, path) in changes for kind in "AC"):
                changes.add(("C", path))
    return changes


@pytest.mark.parametrize("seed", range(10))
def test_any_two_stacks_differ_as_two_mounted_trees(seed: int, scratch: Path) -> None:
    chance = random.Random(seed)
    root = scratch / "root"
    names = [digit * 64 for digit in "bcde"]
    _lay(root, names, chance)
    layers = [root / "overlay2" / name / "diff" for name in reversed(names)]
    trees = {2: _tree(scratch / "lower", layers[2:]), 4: _tree(scratch / "upper", layers)}
    with Evidence.open(str(root)) as evidence:
        for old, new in ((2, 4), (4, 2), (4, 4)):
            for why in (False, True):
                found = list(compare(evidence, names[old - 1], names[new - 1], why=why))
                plain = {(one.kind, one.path) for one in found if one.why != ["identical copy-up"]}
                assert plain == _docker_changes(trees[old], trees[new])
                paths = [one.path for one in found]
                assert paths == sorted(paths, key=lambda path: path.split("/"))


def test_a_container_against_what_is_below_it(look: Looker) -> None:
    own = look.document("diff", "box")
    told = look.document("diff", "--why", "--content", "box")
    assert [(one["Kind"], one["Path"]) for one in told] == [(one["Kind"], one["Path"]) for one in own]
    why = {one["Path"]: one for one in told}
    assert why["/etc/passwd"]["Why"] == ["data", "mtime"]
    assert (why["/etc/passwd"]["OldSize"], why["/etc/passwd"]["NewSize"]) == (30, 8)
    assert why["/etc/passwd"]["Diff"] == [
        "--- a/etc/passwd",
        "+++ b/etc/passwd",
        "@@ -1 +1 @@",
        "-root:x:0:0:root:/root:/bin/sh",
        "+changed",
    ]
    assert (why["/data/moved"]["Why"], why["/data/moved"]["RenamedFrom"]) == (["rename"], "/data/same")
    assert why["/data/same"]["Why"] == ["rename"]
    text = look.good("diff", "--why", "box")
    assert "A /data/moved\trename from /data/same\t0B -> 280B\n" in text
    assert text.endswith(" added, 4 changed, 2 deleted, -29B\n") or "added" in text.splitlines()[-1]


def test_images_layers_and_tars_in_any_pair(look: Looker, scratch: Path) -> None:
    told = look.document("explain", "seen:1")
    expected = look.good("diff", "seen:2", "seen:1")
    assert expected == "C /data\nC /data/deep\nA /data/deep/four\nD /data/deep/three\nD /data/one\nD /home\nC /tmp\n"
    builders.run_command("cp", "-a", look.root, scratch / "copy")
    copy = Looker(scratch / "copy")
    for number in ("1", "2"):
        copy.good("save", f"seen:{number}", "-o", scratch / f"seen{number}.tar")
    subprocess.run(["gzip", "-k", scratch / "seen2.tar"], check=True)
    middle, top = told["layers"][1], told["layers"][2]
    lowers = (middle["chain_id"], middle["diff_id"][7:25], middle["cache_id"], scratch / "seen2.tar.gz")
    uppers = ("seen:1", top["chain_id"][:30], top["cache_id"][:16], scratch / "seen1.tar")
    for lower, upper in zip(lowers, uppers, strict=True):
        assert look.good("diff", lower, upper) == expected, (lower, upper)
    assert look.good("diff", scratch / "seen1.tar", "seen:1") == ""
    copy.good("export", "-o", scratch / "box.tar", "box")
    assert copy.good("diff", "--why", scratch / "box.tar", "box").startswith("0 added, 0 changed, 0 deleted")
    assert {one["Why"][0] for one in look.document("diff", "--why", "seen:2", "seen:1") if one["Path"] == "/tmp"} == {
        "type"
    }
    opaque = [one for one in look.document("diff", "--why", "seen:2", "seen:1") if one["Path"] == "/data/deep"]
    assert opaque[0]["Why"] == ["opaque"]


def test_why_tells_each_part(scratch: Path) -> None:
    root = scratch / "root"
    names = ["b" * 64, "c" * 64]
    _lay(root, names, random.Random(1))
    for name in names:
        top = root / "overlay2" / name / "diff"
        for inner in top.iterdir():
            subprocess.run(["rm", "-rf", inner], check=True)
        for part in ("data", "mode", "owner", "mtime", "xattr", "same", "touched"):
            (top / part).write_text("text")
            os.utime(top / part, ns=(0, 1_000_000_000))
        os.symlink("one", top / "target")
    top = root / "overlay2" / names[1] / "diff"
    (top / "data").write_text("abcd")
    (top / "mode").chmod(0o755)
    os.chown(top / "owner", 5, 6)
    os.setxattr(top / "xattr", "user.colour", b"red")
    (top / "target").unlink()
    os.symlink("two", top / "target")
    for part in ("data", "owner"):
        os.utime(top / part, ns=(0, 1_000_000_000))
    os.utime(top / "mtime", ns=(0, 9_000_000_000))
    os.utime(
        top / "target",
        ns=(0, os.lstat(root / "overlay2" / names[0] / "diff/target").st_mtime_ns),
        follow_symlinks=False,
    )
    with Evidence.open(str(root)) as evidence:
        found = {one.path: one.why for one in compare(evidence, names[0], names[1], why=True)}
    assert found == {
        "/data": ["data"],
        "/mode": ["mode"],
        "/owner": ["owner"],
        "/mtime": ["mtime"],
        "/xattr": ["xattr"],
        "/same": ["identical copy-up"],
        "/touched": ["identical copy-up"],
        "/target": ["target"],
    }


def test_a_tars_odd_members(scratch: Path, look: Looker) -> None:
    tree = scratch / "tree"
    (tree / "d").mkdir(parents=True)
    with open(tree / "d/holes", "wb") as file:
        file.truncate(100_000)
        file.seek(50_000)
        file.write(b"middle")
    os.link(tree / "d/holes", tree / "d/again")
    (tree / "d/links").symlink_to("holes")
    os.mkfifo(tree / "d/pipe")
    for name, words in (
        ("plain", ["--format=gnu"]),
        ("sparse", ["--format=gnu", "-S"]),
        ("pax", ["--format=posix", "-S"]),
    ):
        subprocess.run(["tar", "-C", tree, *words, "-cf", scratch / f"{name}.tar", "."], check=True)
    for name in ("sparse", "pax"):
        assert look.good("diff", "--why", scratch / "plain.tar", scratch / f"{name}.tar").startswith(
            "0 added, 0 changed"
        )
    with tarfile.open(scratch / "odd.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../../up"))
    assert look.good("diff", scratch / "plain.tar", scratch / "odd.tar") == "D /d\nA /up\n"


def test_what_cannot_be_compared_is_said(look: Looker, scratch: Path) -> None:
    for words in (
        ("seen:1", "nothing"),
        ("nothing", "seen:1"),
        ("seen:1", scratch / "missing.tar"),
        ("--why", "seen:1"),
    ):
        done = look("diff", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1, done.stderr
    age(look.root)
    before = stamps(look.root)
    look.good("diff", "--why", "--content", "other:1", "box")
    json.loads(look.good("diff", "--json", "other:1", "box"))
    assert stamps(look.root) == before
