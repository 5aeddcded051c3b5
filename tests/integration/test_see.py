"""explain, blame, who and du on whole, damaged and dead roots; sha256sum, jq, find and du are the oracles."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import builders
from tests.conftest import missing
from tests.integration.looker import Looker, disk_bytes
from tests.integration.tool import command
from tests.seen_roots import age, images, stamps


@pytest.mark.parametrize("name", ["seen:1", "seen:2", "box"])
def test_the_shell_lines_of_explain_find_the_same(name: str, look: Looker) -> None:
    if not shutil.which("jq"):
        missing("jq is not installed")
    told = look.document("explain", name)
    script = look.good("explain", "--shell", name)
    done = builders.run_command("unshare", "--mount", "sh", "-eu", "-c", script)
    found = [line.split(" ") for line in done.stdout.splitlines()]
    assert ["image", told["image_id"]] in found
    assert ["config", told["image_id"]] in found
    for layer in told["layers"]:
        if layer["role"] != "layer":
            continue
        number = str(layer["number"])
        assert ["diff-id", number, layer["diff_id"]] in found
        assert ["chain-id", number, layer["chain_id"]] in found
        assert ["cache-id", number, layer["cache_id"]] in found
        assert ["link", number, layer["link_id"], f"../{layer['cache_id']}/diff"] in found
        if layer["lowers"]:
            assert ["lower", number, ":".join(layer["lowers"])] in found
        if layer["hash_input"]:
            assert builders.sha256(layer["hash_input"].encode()) == layer["chain_id"]
        else:
            assert layer["chain_id"] == layer["diff_id"]
    lowers = next(line[1] for line in found if line[0] == "lowerdir")
    if name == "box":
        assert f"lowerdir={lowers.partition(':')[2]}," in told["options"]
        assert told["options"].endswith(f"upperdir={told['mount_id']}/diff,workdir={told['mount_id']}/work")
        assert ["new"] in found
        assert ["home"] not in found
    else:
        assert told["options"].endswith(f"lowerdir={lowers}")
        assert ["new"] not in found
        assert ["data"] in found


def test_explain_as_a_tree(look: Looker) -> None:
    told = look.document("explain", "seen:1")
    text = look.good("explain", "--no-trunc", "seen:1")
    for layer in told["layers"]:
        assert layer["diff_id"] in text
        assert layer["chain_id"] in text
        assert f"overlay2/{layer['cache_id']}" in text
        assert f"l/{layer['link_id']} → ../{layer['cache_id']}/diff" in text
    assert f'sha256 of "{told["layers"][1]["hash_input"]}"' in text
    assert told["layers"][0]["shared_with"] == ["other:1", "seen:2"] or told["layers"][0]["shared_with"] == [
        "seen:2",
        "other:1",
    ]
    assert "\x1b" not in text
    assert look("explain", "nothing").returncode == 1


def _past(look: Looker, name: str, pattern: str, *words: str) -> dict[str, list[tuple[str, str]]]:
    found = look.document("blame", name, pattern, *words)
    return {one["path"]: [(event["action"], event["layer"]) for event in one["events"]] for one in found}


def test_blame_tells_every_version(look: Looker) -> None:
    assert _past(look, "box", "/etc/passwd") == {
        "/etc/passwd": [("changed", "container"), ("changed", "layer 2"), ("added", "layer 1")]
    }
    assert _past(look, "box", "data/*") == {
        "/data/again": [("added", "layer 2")],
        "/data/deep": [("changed", "layer 3"), ("added", "layer 2")],
        "/data/link": [("added", "layer 2")],
        "/data/moved": [("added", "container")],
        "/data/one": [("deleted", "layer 3"), ("added", "layer 2")],
        "/data/same": [("deleted", "container"), ("added", "layer 2")],
        "/data/two": [("deleted", "container"), ("added", "layer 2")],
    }
    assert _past(look, "seen:1", "**/alice") == {"/home/alice": [("deleted", "layer 3"), ("added", "layer 1")]}
    assert _past(look, "seen:1", "/data/deep/**") == {
        "/data/deep": [("changed", "layer 3"), ("added", "layer 2")],
        "/data/deep/four": [("added", "layer 3")],
        "/data/deep/three": [("deleted", "layer 3"), ("added", "layer 2")],
    }
    events = {one["path"]: one["events"] for one in look.document("blame", "box", "**")}
    assert events["/tmp"][0]["why"] == ["type"]
    assert events["/etc/passwd"][0]["why"] == ["data", "mtime"]
    assert events["/data/deep"][0]["why"] == ["opaque"]
    assert events["/home/alice"][0]["cause"] == "whiteout"
    assert events["/home/alice"][0]["cause_path"] == "/home"
    assert events["/data/deep/three"][0]["cause"] == "opaque"
    assert events["/data/one"][0]["created_by"] == "layer 2"


def test_blame_goes_over_all_that_find_sees(look: Looker) -> None:
    told = look.document("explain", "box")
    paths: set[str] = set()
    for layer in told["layers"]:
        top = look.root / layer["directory"] / "diff"
        words = ("find", top, "-mindepth", "1", "-printf", "/%P\\n")
        paths |= set(builders.run_command(*words).stdout.splitlines())
    blamed = look.document("blame", "box", "**")
    assert {one["path"] for one in blamed} == paths
    assert [one["path"] for one in blamed] == sorted(paths, key=lambda path: path.split("/"))


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("seen:1", "/etc/passwd"), 0),
        (("seen:1", "/data/one"), 0),
        (("seen:1", "/not/there"), 1),
        (("seen:1", "*.not"), 1),
        (("-F", "seen:1", "/etc/pass*"), 1),
        (("nothing:1", "/etc/passwd"), 2),
    ],
)
def test_blame_ends_like_grep(words: tuple[str, ...], status: int, look: Looker) -> None:
    done = look("blame", *words)
    assert done.returncode == status
    assert bool(done.stderr) == (status == 2)
    assert bool(done.stdout) == (status == 0)


def test_who_leads_there_and_back(look: Looker) -> None:
    told = look.document("explain", "box")
    bottom, middle = told["layers"][:2]
    for word in (
        middle["cache_id"],
        middle["cache_id"][:20],
        middle["link_id"],
        middle["link_id"][:8],
        f"l/{middle['link_id']}",
        middle["chain_id"],
        middle["chain_id"][7:30],
        middle["diff_id"],
        f"overlay2/{middle['cache_id']}",
        str(look.root / "overlay2" / middle["cache_id"] / "diff"),
        middle["record"],
    ):
        owner = look.document("who", word)[0]
        assert (owner["kind"], owner["identity"]) == ("layer", middle["chain_id"]), word
        assert owner["facts"]["directory"] == f"overlay2/{middle['cache_id']}"
        users = {name for user in owner["users"] for name in user["names"]}
        assert users == {"seen:1", "seen:2", "box"}
    owner = look.document("who", bottom["cache_id"])[0]
    assert {name for user in owner["users"] for name in user["names"]} == {"seen:1", "seen:2", "other:1", "box"}
    for word in (told["mount_id"], f"{told['mount_id']}-init", told["container_id"][:12], "box"):
        kinds = {(owner["kind"], name) for owner in look.document("who", word) for name in _names(owner)}
        assert kinds & {("directory", "box"), ("container", "seen:1")}, word
    assert look.document("who", "seen:1")[0]["layers"] == [
        [layer["label"], layer["cache_id"]] for layer in reversed(told["layers"][:3])
    ]
    volume = look.document("who", "volumes/store/_data")[0]
    assert [(user["names"], user["note"]) for user in volume["users"]] == [(["box"], "mounts it at /store")]
    for word in (
        "feedfeed",
        "overlay2/" + "f" * 64,
        "l/" + "Z" * 26,
        "volumes/none",
        "containers/" + "f" * 64,
        "Q" * 26,
    ):
        assert look("who", word).returncode == 1, word
    for word in ("overlay2/../../etc/passwd", look.root / "overlay2/../../../etc/passwd"):
        assert look("who", word).returncode == 2, word
    assert look("who", "/etc/passwd").returncode == 2


def _names(owner: dict[str, Any]) -> list[str]:
    return [name for user in owner["users"] for name in user["names"]]


def test_who_tells_where_a_file_is_to_be_seen(look: Looker) -> None:
    told = look.document("explain", "box")
    middle = told["layers"][1]
    owner = look.document("who", f"overlay2/{middle['cache_id']}/diff/etc/passwd")[0]
    notes = {user["names"][0]: user["note"] for user in owner["users"]}
    assert owner["path"] == "/etc/passwd"
    assert notes["seen:1"] == "its layer 2 of 3: the file is seen"
    assert notes["box"] == "stands on it: hidden by container (replaced at /etc/passwd)"
    owner = look.document("who", f"overlay2/{middle['cache_id']}/diff/data/one")[0]
    notes = {user["names"][0]: user["note"] for user in owner["users"]}
    assert notes["seen:1"] == "its layer 2 of 3: hidden by layer 3 (whiteout at /data/one)"
    assert notes["seen:2"] == "its layer 2 of 2: the file is seen"


def test_who_knows_a_mount(look: Looker, scratch: Path) -> None:
    told = look.document("explain", "seen:1")
    point = scratch / "point"
    point.mkdir()
    subprocess.run(
        ["mount", "-t", "overlay", "-o", "ro," + told["options"].split(",")[-1], "overlay", point],
        cwd=look.root / "overlay2",
        check=True,
    )
    try:
        assert look.document("who", point)[0]["identity"] == told["layers"][2]["chain_id"]
        assert look.document("who", point / "bin/busybox")[0]["identity"] == told["layers"][0]["chain_id"]
        owner = look.document("who", point / "etc/passwd")[0]
        assert (owner["identity"], owner["path"]) == (told["layers"][1]["chain_id"], "/etc/passwd")
    finally:
        subprocess.run(["umount", point], check=True)


def test_du_adds_up_to_the_disks_own_figure(look: Looker, scratch: Path) -> None:
    root = scratch / "copy"
    builders.run_command("cp", "-a", look.root, root)
    top = json.loads((root / "image/overlay2/repositories.json").read_text())["Repositories"]["seen"]["seen:1"]
    layer = next((root / "overlay2").glob("*/diff/bin/busybox"))
    os.link(layer, layer.with_name("second-name"))
    (root / "buildkit").mkdir()
    (root / "buildkit/cache.db").write_bytes(bytes(50_000))
    orphan = root / "overlay2" / ("4" * 64) / "diff"
    orphan.mkdir(parents=True)
    (orphan / "file").write_bytes(bytes(300_000))
    (root / "image/overlay2/layerdb/tmp/write-set-1").mkdir()
    (root / "overlay2/l" / ("B" * 26)).symlink_to(f"../{'5' * 64}/diff")
    with open(root / "volumes/store/_data/sparse", "wb") as file:
        file.truncate(5_000_000)
    account = Looker(root).document("du")
    assert account["total"]["allocated_bytes"] == disk_bytes(root)
    assert sum(usage["allocated_bytes"] for usage in account["headings"].values()) == disk_bytes(root)
    apparent = builders.run_command("du", "-sx", "--block-size=1", "--apparent-size", root).stdout.split()[0]
    assert account["total"]["apparent_bytes"] == int(apparent)
    orphans = {one["path"]: one for one in account["orphans"]}
    assert set(orphans) == {
        f"overlay2/{'4' * 64}",
        "image/overlay2/layerdb/tmp/write-set-1",
        f"overlay2/l/{'B' * 26}",
    }
    assert orphans[f"overlay2/{'4' * 64}"]["usage"]["allocated_bytes"] == disk_bytes(orphan.parent)
    assert account["headings"]["volumes"]["apparent_bytes"] > 5_000_000
    assert account["headings"]["other: buildkit"]["allocated_bytes"] == disk_bytes(root / "buildkit")
    for row in account["layers"]:
        directory, record = (
            root / "overlay2" / row["cache_id"],
            root / "image/overlay2/layerdb/sha256" / row["chain_id"][7:],
        )
        assert row["usage"]["allocated_bytes"] == disk_bytes(directory) + disk_bytes(record)
    images = {row["image_id"]: row for row in account["images"]}
    for row in account["images"]:
        assert row["total"]["allocated_bytes"] == row["unique"]["allocated_bytes"] + row["shared"]["allocated_bytes"]
    part = Looker(root).document("du", "seen:1", "box")
    assert {row["image_id"]: row["total"] for row in part["images"]} == {top: images[top]["total"]}
    assert part["containers"] == account["containers"]
    text = Looker(root).good("du")
    assert "no layer and no container has this directory" in text


def _used_bytes(disk: Path) -> int:
    builders.run_command("sync", "-f", disk)
    status = os.statvfs(disk)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
def test_du_tells_what_the_file_system_itself_counts(kind: str, scratch: Path, busybox_layer: bytes) -> None:
    """By df's figure, which knows no files: the room that a root takes is the room that went."""
    disk = scratch / "disk"
    disk.mkdir()
    if kind == "tmpfs":
        builders.run_command("mount", "-t", "tmpfs", "tmpfs", disk)
    else:
        if not shutil.which(f"mkfs.{kind}"):
            missing(f"mkfs.{kind} is not installed")
        with open(scratch / "image", "wb") as image:
            image.truncate(512 << 20)
        builders.run_command(f"mkfs.{kind}", "-q", scratch / "image")
        builders.run_command("mount", "-o", "loop", scratch / "image", disk)
    try:
        before = _used_bytes(disk)
        root = disk / "root"
        layer = builders.layer_tar(*(builders.tar_member(b"many/%d" % n, b"%d" % n * 900) for n in range(300)))
        specs = [*images(busybox_layer), builders.ImageSpec([busybox_layer, layer], tags=["many:1"])]
        look = Looker(root)
        look.good("pull-tar", "-q", builders.docker_archive(scratch / "seen.tar", *specs))
        look.good("create", "--name", "box", "--network", "none", "many:1", "true")
        upper = next(path for path in (root / "overlay2").glob("*-init")).name.removesuffix("-init")
        place = root / "overlay2" / upper / "diff"
        (place / "big").write_bytes(os.urandom(60 << 20))
        os.link(place / "big", place / "the same")
        with open(place / "sparse", "wb") as sparse:
            sparse.truncate(1 << 30)
        (place / "link").symlink_to("x" * 900)
        used = _used_bytes(disk) - before
        told = look.document("du")["total"]["allocated_bytes"]
        assert told == disk_bytes(root)
        # xfs makes its inodes by the chunk, which no file is told to take.
        assert abs(told - used) <= used / (1000 if kind != "xfs" else 100), (told, used)
    finally:
        builders.run_command("umount", disk)


@pytest.fixture
def read_only(look: Looker, scratch: Path) -> Iterator[Path]:
    """The root as a dead disk: a read-only mount."""
    target = scratch / "dead"
    target.mkdir()
    subprocess.run(["mount", "--bind", look.root, target], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
    yield target
    subprocess.run(["umount", target], check=True)


def test_a_dead_root_on_a_read_only_mount(read_only: Path, look: Looker) -> None:
    age(look.root)
    before = stamps(look.root)
    dead = Looker(read_only)
    for words in (("explain", "box"), ("blame", "box", "**"), ("who", "box"), ("du",)):
        dead.good(*words)
        look.good(*words)
    assert stamps(look.root) == before


def test_without_the_right_to_mount_times_are_kept_all_the_same(look: Looker) -> None:
    """Those of files and directories; and what cannot be seen then is said."""
    age(look.root)
    before = stamps(look.root)
    drop = ("setpriv", "--bounding-set", "-sys_admin")
    told = builders.run_command(*drop, *command("--root", look.root, "blame", "box", "**"))
    assert "without CAP_SYS_ADMIN" in told.stderr
    assert "/etc/passwd" in told.stdout
    builders.run_command(*drop, *command("--root", look.root, "du"))
    after = stamps(look.root)
    changed = [path for path in before if before[path] != after[path]]
    assert [path for path in changed if not os.path.islink(path)] == []


def test_memory_does_not_grow_with_the_files(scratch: Path) -> None:
    """A million take 14 MB in directories of 500, and 83 MB in a single one."""

    def peak_bytes(root: Path, *words: str) -> int:
        done = subprocess.Popen(command("--root", root, *words), stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(done.pid, 0)
        done.returncode = status
        assert status == 0
        return usage.ru_maxrss << 10

    roots = {}
    for count in (100, 40_000):
        roots[count] = scratch / str(count)
        for number in range(count // 100):
            folder = roots[count] / f"overlay2/{'c' * 64}/diff/folder{number:04d}"
            folder.mkdir(parents=True)
            for name in range(100):
                os.close(os.open(folder / f"a file of some length {name:03d}", os.O_CREAT | os.O_WRONLY))
    for words in (("timeline",), ("du",)):
        assert peak_bytes(roots[40_000], *words) - peak_bytes(roots[100], *words) < 8 << 20


def test_an_image_without_layers(scratch: Path) -> None:
    root = scratch / "root"
    spec = builders.ImageSpec([], tags=["empty:1"], config=builders.image_config([]))
    builders.run_command(*command("--root", root, "pull-tar", "-q", builders.docker_archive(scratch / "e.tar", spec)))
    look = Looker(root)
    assert look.document("explain", "empty:1")["layers"] == []
    assert "mount -t" not in look.good("explain", "--shell", "empty:1")
    builders.run_command("sh", "-eu", "-c", look.good("explain", "--shell", "empty:1"))
    assert look("blame", "empty:1", "**").returncode == 1
    assert look.good("explain", "--html", "-", "empty:1")
    assert look.good("explain", "--picture", "empty:1")
    assert look.good("timeline", "empty:1") == ""


def test_hostile_names_never_reach_the_terminal(scratch: Path, busybox_layer: bytes) -> None:
    evil = b"evil\x1b]0;title\x07\n\xff[red]"
    layer = builders.layer_tar(builders.tar_member(evil, b"x"))
    config = builders.image_config(
        [busybox_layer, layer], history=[{"created_by": "\x1b[2J[bold]one"}, {"created_by": "two\x9b1m"}]
    )
    spec = builders.ImageSpec([busybox_layer, layer], tags=["evil:1"], config=config)
    root = scratch / "root"
    builders.run_command(*command("--root", root, "pull-tar", "-q", builders.docker_archive(scratch / "a.tar", spec)))
    look = Looker(root)
    for words in (("explain", "evil:1"), ("blame", "evil:1", "*"), ("explain", "--json", "evil:1"), ("du",)):
        text = look.good(*words)
        assert all(letter.isprintable() or letter == "\n" for letter in text), words
    assert "\\x1b[2J[bold]one" in look.good("explain", "evil:1")
    assert stat.S_ISREG(look.document("blame", "evil:1", "evil*")[0]["events"][0]["mode"])
