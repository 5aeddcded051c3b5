"""Deleting beside mounts, and removing while others use: nothing outside the data root may ever be reached."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from minidock.errors import Conflict, MinidockError, NoSuchImage, SyscallError
from minidock.ids import ChainID
from minidock.linux.mount import MNT_DETACH, MS_BIND, mount, umount
from minidock.store import overlay2, transaction
from minidock.store.root import DataRoot
from minidock.verbs.rmi import rmi
from tests.builders import run_command
from tests.conftest import Engine
from tests.integration.test_store_crash import add_container, add_image, remove_container, verify


@pytest.fixture
def precious(scratch: Path) -> Path:
    """A host directory that no command may change."""
    where = scratch / "precious"
    where.mkdir()
    (where / "file").write_text("keep")
    return where


def bind(source: Path, target: str) -> None:
    mount(os.fsencode(source), os.fsencode(target), None, MS_BIND)


def top(root: DataRoot, name: str) -> ChainID:
    chain_id = root.images.resolve(name).chain_id
    assert chain_id is not None
    return chain_id


def test_a_mount_is_seen_behind_any_number_of_others(scratch: Path) -> None:
    """The kernel's table comes a page at a time, so a first read never holds it whole."""
    points = [str(scratch / f"{number:03d}") for number in range(60)]
    made: list[str] = []
    try:
        for point in points:
            os.mkdir(point)
            mount(b"tmpfs", os.fsencode(point), b"tmpfs", 0, b"size=4k")
            made.append(point)
        assert transaction.mounts_below(str(scratch)) == points
    finally:
        for point in made:
            umount(os.fsencode(point), MNT_DETACH)


@pytest.mark.parametrize("where", ["diff/data", "diff", "merged", ""])
def test_rm_refuses_a_container_with_something_mounted(scratch: Path, precious: Path, where: str) -> None:
    with DataRoot.open(str(scratch / "root with\tblank")) as root:
        add_image(root, ["a"], "base:1")
        container_id = add_container(root, top(root, "base:1"))
        target = f"{root.overlay_path}/{overlay2.read_rw(root, container_id).mount_id}/{where}".rstrip("/")
        Path(target).mkdir(exist_ok=True)
        before = verify(root)
        bind(precious, target)
        try:
            with pytest.raises(Conflict, match="is a mount point"):
                remove_container(root, container_id)
            assert os.listdir(root.stage_path) == []
        finally:
            umount(os.fsencode(target), MNT_DETACH)
        assert (precious / "file").read_text() == "keep"
        if where == "merged":
            os.rmdir(target)
        assert verify(root) == before
        remove_container(root, container_id)
        rmi(root, ["base:1"])
        assert os.listdir(root.overlay_path) == ["l"]
    assert (precious / "file").read_text() == "keep"


def test_rmi_refuses_a_layer_with_something_mounted(
    scratch: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DataRoot.open(str(scratch / "root")) as root:
        add_image(root, ["a", "b"], "base:1")
        bottom = root.layers.stack(top(root, "base:1"))[-1]
        target = root.layers.diff_path(bottom.cache_id)
        bind(precious, target)
        try:
            before = verify(root)
            with pytest.raises(Conflict, match="is a mount point"):
                rmi(root, ["base:1"])
            assert verify(root) == before
            # And if it goes unseen until the layers' turn, the next command after the umount ends what was begun.
            monkeypatch.setattr(type(root.layers), "refuse_mounted", lambda store, chain_id: None)
            with pytest.raises(Conflict, match="is a mount point"):
                rmi(root, ["base:1"])
            DataRoot.open(str(scratch / "root")).close()
        finally:
            umount(os.fsencode(target), MNT_DETACH)
    with DataRoot.open(str(scratch / "root")) as root:
        assert os.listdir(root.overlay_path) == ["l"]
        verify(root)
    assert (precious / "file").read_text() == "keep"


def test_deletion_stops_at_a_bind_mount_of_the_same_file_system(scratch: Path, precious: Path) -> None:
    """The table is looked at first; and should a mount appear after that, the walk itself does not enter it."""
    tree = scratch / "tree/deep/er"
    tree.mkdir(parents=True)
    bind(precious, str(tree))
    handle = os.open(scratch, os.O_RDONLY)
    try:
        with pytest.raises(SyscallError) as caught:
            transaction.delete_tree(handle, "tree")
        assert caught.value.errno == 18
    finally:
        os.close(handle)
        umount(os.fsencode(tree), MNT_DETACH)
    assert (precious / "file").read_text() == "keep"


def test_the_sweep_leaves_a_stage_with_a_mount_for_later(scratch: Path, precious: Path) -> None:
    path = scratch / "root"
    DataRoot.open(str(path)).close()
    target = path / "minidock/stage/dead.1.1.x/trash-1/data"
    target.mkdir(parents=True)
    bind(precious, str(target))
    try:
        with DataRoot.open(str(path)) as root:
            add_image(root, ["a"], "base:1")
            assert os.listdir(root.stage_path) == ["dead.1.1.x"]
    finally:
        umount(os.fsencode(target), MNT_DETACH)
    with DataRoot.open(str(path)) as root:
        assert os.listdir(root.stage_path) == []
    assert (precious / "file").read_text() == "keep"


def test_overlay_of_125_layers_mounts(scratch: Path) -> None:
    words = [f"w{number}" for number in range(125)]
    with DataRoot.open(str(scratch / "a:b,c\\d 'e")) as root:
        add_image(root, words, "deep:1")
        container_id = add_container(root, top(root, "deep:1"))
        layer = overlay2.read_rw(root, container_id)
        target = scratch / "merged"
        target.mkdir()
        overlay = overlay2.OverlayMount(root.overlay_path, layer.lowers, layer.mount_id, str(target))
        for in_shell in (False, True):
            if in_shell:
                run_command("sh", "-c", overlay.describe())
            else:
                _in_child(overlay.execute)
            try:
                assert sorted(os.listdir(target)) == sorted(words)
                (target / "new").write_text("x")
                (target / "w3").unlink()
            finally:
                umount(os.fsencode(target))
            upper = Path(root.overlay_path, layer.mount_id, "diff")
            assert sorted(os.listdir(upper)) == ["new", "w3"]
            for left in upper.iterdir():
                left.unlink()


def _in_child(action: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_storm_of_images_and_containers_on_one_base(scratch: Path) -> None:
    """Six processes add, use and remove images that share their lower layers; nothing is lost, nothing is left."""
    path = str(scratch / "root")
    with DataRoot.open(path) as root:
        add_image(root, ["base"], "base:1")
    children = []
    for number in range(6):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _storm(path, number)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    with DataRoot.open(path) as root:
        state = verify(root)
    assert list(state["references"]) == ["base:1"]  # type: ignore[call-overload]
    assert state["containers"] == 0


def _storm(path: str, number: int) -> None:
    chance = random.Random(number)
    for turn in range(6):
        with DataRoot.open(path) as root:
            shared = f"shared{chance.randrange(2)}"
            name = f"n{number}:{turn}"
            add_image(root, ["base", shared, f"own{number}"], name)
            try:
                chain_id = top(root, name)
                container_id = add_container(root, chain_id)
                assert root.layers.links(chain_id)
                remove_container(root, container_id)
                rmi(root, [name], force=True)
            except NoSuchImage:
                raise AssertionError(f"{name} was lost") from None
            except MinidockError as error:
                raise AssertionError(str(error)) from error


def test_dockerd_does_not_start_on_a_root_that_is_held(new_engine: Callable[[], Engine]) -> None:
    engine = new_engine()
    engine.start()
    engine.stop()
    with DataRoot.open(str(engine.root)) as root:
        handle = root.hold_against_engine()
        try:
            with pytest.raises(AssertionError, match="volume store metadata database: timeout"):
                engine.start()
            with root.lock():
                assert root.images.ids() == []
        finally:
            os.close(handle)
            engine.process = None
    engine.start()
    engine.stop()


def test_overlay2_on_another_file_system_is_told(scratch: Path) -> None:
    """Layers are renamed into place, so a separate file system below overlay2/ cannot work; it must say so."""
    with DataRoot.open(str(scratch / "root")) as root:
        target = os.fsencode(root.overlay_path)
        mount(b"none", target, b"tmpfs", 0, b"size=1m")
        try:
            os.mkdir(root.overlay_path + "/l", 0o700)
            with pytest.raises(SyscallError, match="must lie on the data root's own file system"):
                add_image(root, ["a"], "base:1")
            assert os.listdir(root.overlay_path) == ["l"]
            assert root.layers.all() == []
            assert os.listdir(root.stage_path) == []
        finally:
            umount(target, MNT_DETACH)
