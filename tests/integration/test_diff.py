"""diff: what the upper directory says against the layers below; the interop tests hold it against the engine."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from minidock.errors import NoSuchContainer
from minidock.ids import CacheID
from minidock.store.containers import Container
from minidock.store.root import DataRoot
from minidock.verbs.create import create
from minidock.verbs.diff import Change, diff
from minidock.verbs.options import CreateOptions
from minidock.verbs.pull_tar import pull_tar
from tests import builders


@pytest.fixture
def container(data_root: DataRoot, scratch: Path) -> Container:
    lower = builders.layer_tar(
        builders.directory(b"d"),
        builders.tar_member(b"d/one", b"1"),
        builders.tar_member(b"d/two", b"2"),
        builders.directory(b"hidden"),
        builders.tar_member(b"hidden/deep", b"x"),
        builders.tar_member(b"gone", b"x"),
        builders.directory(b"replaced"),
        builders.tar_member(b"replaced/old", b"x"),
    )
    upper = builders.layer_tar(
        builders.tar_member(b".wh.gone"),
        builders.directory(b"replaced"),
        builders.tar_member(b"replaced/.wh..wh..opq"),
        builders.tar_member(b"replaced/new", b"x"),
    )
    archive = builders.docker_archive(scratch / "a.tar", builders.ImageSpec([lower, upper], tags=["base:1"]))
    pull_tar(data_root, str(archive))
    return create(data_root, "base:1", ["x"], CreateOptions(name="work"))


def changes(root: DataRoot, container: Container, scratch: Path, act: Callable[[Path], None]) -> list[str]:
    """Let the kernel's overlayfs make the changes, then ask."""
    merged = scratch / "merged"
    merged.mkdir()
    lowers = ":".join(container.layer.lowers)
    options = f"redirect_dir=off,metacopy=off,index=off,lowerdir={lowers}"
    options += f",upperdir={container.mount_id}/diff,workdir={container.mount_id}/work"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)]
    subprocess.run(command, check=True, cwd=root.overlay_path)
    try:
        act(merged)
    finally:
        subprocess.run(["umount", str(merged)], check=True)
    return [f"{change.kind} {change.path}" for change in diff(root, "work")]


def nothing(root: Path) -> None:
    (root / "d/one").read_text()


def copied_up_and_untouched(root: Path) -> None:
    os.close(os.open(root / "d/one", os.O_RDWR))


def all_three_kinds(root: Path) -> None:
    (root / "d/three").write_text("3")
    (root / "d/two").unlink()
    with open(root / "d/one", "a") as file:
        file.write("+")


def came_and_went(root: Path) -> None:
    (root / "d/x").write_text("x")
    (root / "d/x").unlink()


def added_where_a_lower_layer_deleted(root: Path) -> None:
    (root / "gone").write_text("back")
    (root / "replaced/old").write_text("back")


def made_anew(root: Path) -> None:
    shutil.rmtree(root / "hidden")
    (root / "hidden").mkdir()
    (root / "hidden/other").write_text("x")


def whole_tree(root: Path) -> None:
    shutil.rmtree(root / "d")
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/c").write_text("x")


def kinds_swapped(root: Path) -> None:
    shutil.rmtree(root / "d")
    (root / "d").write_text("file")


def only_the_mode(root: Path) -> None:
    (root / "d").chmod(0o700)
    os.chown(root / "hidden/deep", 1, 1)


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (nothing, []),
        (copied_up_and_untouched, []),
        (all_three_kinds, ["C /d", "C /d/one", "A /d/three", "D /d/two"]),
        (came_and_went, []),
        (added_where_a_lower_layer_deleted, ["A /gone", "C /replaced", "A /replaced/old"]),
        (made_anew, ["C /hidden", "D /hidden/deep", "A /hidden/other"]),
        (whole_tree, ["A /a", "A /a/b", "A /a/b/c", "D /d"]),
        (kinds_swapped, ["C /d"]),
        (only_the_mode, ["C /d", "C /hidden", "C /hidden/deep"]),
    ],
)
def test_changes(
    act: Callable[[Path], None], expected: list[str], data_root: DataRoot, container: Container, scratch: Path
) -> None:
    assert changes(data_root, container, scratch, act) == expected


def test_names_are_sorted_as_bytes_and_keep_their_bytes(
    data_root: DataRoot, container: Container, scratch: Path
) -> None:
    def act(root: Path) -> None:
        for name in (b"\xff", b"\xc3\xa9", b"B", b"a"):
            (root / os.fsdecode(name)).write_text("x")

    assert [os.fsencode(line) for line in changes(data_root, container, scratch, act)] == [
        b"A /B", b"A /a", b"A /\xc3\xa9", b"A /\xff",
    ]  # fmt: skip


def test_a_whiteout_over_nothing_is_no_change(data_root: DataRoot, container: Container) -> None:
    os.mknod(data_root.layers.diff_path(CacheID(container.mount_id)) + "/never-there", stat.S_IFCHR, 0)
    assert diff(data_root, "work") == []


def test_the_init_layer_is_no_change(data_root: DataRoot, container: Container) -> None:
    assert diff(data_root, container.id) == []
    with pytest.raises(NoSuchContainer):
        diff(data_root, "nobody")
    assert Change("A", "/x") != Change("D", "/x") and len({Change("A", "/x"), Change("A", "/x")}) == 1
