"""A power cut at every step: what reached the disk by then, mounted anew, must hold only images that verify.

The data root lies on an ext4 image behind a loop device; at each step that the store tells, the backing file is
copied, as it would be found by a machine whose power failed at that moment. Nothing but what was synced is in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.errors import SyscallError
from minidock.store.root import DataRoot
from minidock.verbs.rmi import rmi
from tests.builders import run_command
from tests.conftest import missing
from tests.integration.test_store_crash import add_container, add_image, verify

SIZE_BYTES = 48 << 20


@pytest.fixture
def disk(scratch: Path) -> Iterator[Path]:
    """A mounted ext4 file system whose backing file is scratch/disk.img; nothing is written back unasked."""
    image = scratch / "disk.img"
    with open(image, "wb") as file:
        file.truncate(SIZE_BYTES)
    # The journal's commit interval is set beyond the test, so that only syncs bring anything to the disk.
    run_command("mkfs.ext4", "-q", "-F", image)
    where = scratch / "disk"
    where.mkdir()
    if run_command("mount", "-o", "loop,commit=3600", image, where, check=False).returncode:
        missing("no loop device can be mounted here")
    yield where
    run_command("umount", where)


def snapshot(scratch: Path, number: int) -> None:
    run_command("cp", "--sparse=always", scratch / "disk.img", scratch / f"cut{number}.img")


def after_the_cut(scratch: Path, number: int) -> set[str]:
    """Mount a snapshot, reopen its root, check every listed image's content; return the names that survived."""
    image = scratch / f"cut{number}.img"
    where = scratch / "cut"
    where.mkdir(exist_ok=True)
    run_command("mount", "-o", "loop", image, where)
    try:
        if not (where / "root/minidock/stage").is_dir():
            return set()
        for name in os.listdir(where / "root/minidock/stage"):
            # After a power cut there is another boot id; this process lives on, so its stages are renamed instead.
            os.rename(where / "root/minidock/stage" / name, where / "root/minidock/stage" / f"earlier-boot.{name}")
        with DataRoot.open(str(where / "root")) as root:
            verify(root)
            for image_id in root.references.all().values():
                chain_id = root.images.get(image_id).chain_id
                assert chain_id is not None
                for layer in root.layers.stack(chain_id):
                    content = Path(root.layers.diff_path(layer.cache_id))
                    for file in content.iterdir():
                        assert file.read_text() == file.name, f"cut {number}: a layer's file is not whole"
            return set(root.references.all())
    finally:
        run_command("umount", where)
        image.unlink()


def test_power_cut_at_every_step(scratch: Path, disk: Path) -> None:
    taken = 0

    def cut(kind: str, text: str) -> None:
        nonlocal taken
        del kind, text
        taken += 1
        snapshot(scratch, taken)

    with DataRoot.open(str(disk / "root")) as root:
        os.sync()
        add_image(root, ["a", "b"], "base:1")
        root.trace = cut
        add_image(root, ["a", "b", "c", "d"], "new:1")
        added = taken + 1
        snapshot(scratch, added)
        taken = added
        rmi(root, ["new:1"])
        cut("", "")
    survived = [after_the_cut(scratch, number) for number in range(1, taken + 1)]
    # What a command has said is done stays done; what it is doing may be there or not, but never by halves.
    assert survived[added - 1] == {"base:1", "new:1"}
    assert survived[-1] == {"base:1"}
    assert all(names in ({"base:1"}, {"base:1", "new:1"}) for names in survived)
    assert taken > 20


def test_no_room_is_told_by_every_command(scratch: Path) -> None:
    """On a file system without a free inode each command ends in one line that says so, and changes nothing."""
    where = scratch / "small"
    where.mkdir()
    run_command("mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=60", "none", where)
    try:
        with DataRoot.open(str(where / "root")) as root:
            add_image(root, ["a"], "base:1")
            before = verify(root)
            fillers: list[Path] = []
            with pytest.raises(OSError, match="No space left"):
                while True:
                    fillers.append(where / f"filler{len(fillers)}")
                    fillers[-1].touch()
            image_id = root.images.ids()[0]
            for left in range(6):
                for action in (
                    lambda: rmi(root, ["base:1"]),
                    lambda: add_image(root, ["a", "b"], "new:1"),
                    lambda: add_container(root, root.layers.all()[0]),
                    lambda: root.references.set("new:2", image_id),
                ):
                    try:
                        action()
                    except SyscallError as error:
                        assert "No space left on device (free some space" in str(error)
                    else:
                        break
                    assert verify(root) == before, f"{left} inodes were free"
                else:
                    fillers.pop().unlink(missing_ok=True)
                    continue
                break
            assert left > 0
    finally:
        run_command("umount", where)


def test_a_full_disk_leaves_nothing(scratch: Path) -> None:
    """ENOSPC while a layer is filled, on a tmpfs of 2 MB: one error, and every byte is given back."""
    where = scratch / "small"
    where.mkdir()
    run_command("mount", "-t", "tmpfs", "-o", "size=2m", "none", where)
    try:
        with DataRoot.open(str(where / "root")) as root:
            add_image(root, ["a"], "base:1")
            before = verify(root)
            free = shutil.disk_usage(where).free
            with pytest.raises(OSError, match="No space left"), root.stage() as stage:
                staged = root.layers.stage_layer(stage)
                with open(f"{staged.path}/diff/big", "wb", buffering=0) as file:
                    for _ in range(64):
                        file.write(bytes(1 << 16))
            staged.close()
            assert verify(root) == before
            assert shutil.disk_usage(where).free == free
    finally:
        run_command("umount", where)
