"""SIGKILL before every single change of the file system, in each of the store's transactions; then one reopening.

A forked child takes the step count's word and kills itself with SIGKILL right before its Nth change. The parent
opens the root once more and demands: exactly the state before or the state after, nothing unnamed left behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minidock.ids import ChainID, ContainerID, DiffID, ImageID, random_hex64
from minidock.store import overlay2, volumes
from minidock.store.root import DataRoot
from minidock.verbs.rmi import rmi
from minidock.verbs.tag import tag

CHANGES = ("rename", "mkdir", "symlink", "unlink", "rmdir", "write", "fsync", "fchmod", "chmod")


def diff_id(word: str) -> DiffID:
    return DiffID("sha256:" + hashlib.sha256(word.encode()).hexdigest())


def config_of(words: list[str], **more: Any) -> bytes:
    document = {"os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id(word) for word in words]}, **more}
    return json.dumps(document).encode()


def add_image(root: DataRoot, words: list[str], reference: str | None, *, parent: ImageID | None = None) -> ImageID:
    """What pull-tar and commit do: layers bottom up, the config, the name."""
    with root.stage() as stage, root.lock():
        below: ChainID | None = None
        for word in words:
            staged = root.layers.stage_layer(stage)
            Path(staged.path, "diff", word).write_text(word)
            os.write(staged.tar_split_fd, word.encode())
            below = root.layers.publish(staged, below, diff_id(word), len(word)).chain_id
        image_id = root.images.add(config_of(words), parent=parent)
        if reference:
            root.references.set(reference, image_id)
    return image_id


def add_container(root: DataRoot, chain_id: ChainID) -> ContainerID:
    """What create does, with an empty record."""
    container_id = ContainerID(random_hex64())
    with root.stage() as stage:
        overlay2.create_rw(root, stage, container_id, chain_id)
        os.mkdir(f"{root.path}/containers/{container_id}")
        root.write_file(f"containers/{container_id}/config.v2.json", b"{}\n")
    return container_id


def remove_container(root: DataRoot, container_id: ContainerID) -> None:
    """What rm does."""
    with root.stage() as stage, root.lock():
        overlay2.remove_rw(root, stage, container_id)
        stage.remove_tree(f"{root.path}/containers/{container_id}")


def verify(root: DataRoot) -> dict[str, object]:
    """Check every link between the records, and that there is nothing that no record names; return what is there."""
    cache_ids: set[str] = set()
    chains = root.layers.all()
    for chain_id in chains:
        layer = root.layers.get(chain_id)
        assert layer.parent is None or root.layers.has(layer.parent)
        assert root.layers.links(chain_id)
        assert Path(root.layers.tar_split_path(chain_id)).read_bytes()
        assert os.listdir(root.layers.diff_path(layer.cache_id))
        cache_ids.add(layer.cache_id)
    containers = sorted(os.listdir(f"{root.path}/containers"))
    mounts = sorted(os.listdir(root.layers.mounts_path))
    assert containers == mounts
    for name in mounts:
        layer_of = overlay2.read_rw(root, name)
        cache_ids |= {layer_of.mount_id, layer_of.init_id}
        assert root.layers.has(layer_of.chain_id)
    assert set(os.listdir(root.overlay_path)) == cache_ids | {"l"}
    links = {os.readlink(f"{root.overlay_path}/l/{name}")[3:-5] for name in os.listdir(f"{root.overlay_path}/l")}
    assert links == cache_ids
    assert len(os.listdir(f"{root.overlay_path}/l")) == len(cache_ids)
    assert os.listdir(root.stage_path) == []
    images = root.images.ids()
    for image_id in images:
        image = root.images.get(image_id)
        assert image.chain_id is not None
        assert root.layers.has(image.chain_id)
    assert set(root.references.all().values()) <= set(images)
    content = os.listdir(root.images.path)
    assert len(content) == len(images), "no temporary files"
    return {
        "images": images,
        "references": root.references.all(),
        "chains": chains,
        "containers": len(containers),
        "parents": root.images.parents(),
        "volumes": root.volumes.names(),
    }


def run_and_die(path: str, action: Callable[[DataRoot], object], step: int) -> bool:
    """Run action in a child that dies before its Nth change; whether it died."""
    child = os.fork()
    if child == 0:
        count = 0

        def dying(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal count
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **named)

            return call

        status = 1
        try:
            with DataRoot.open(path) as root:
                for name in CHANGES:
                    setattr(os, name, dying(getattr(os, name)))
                action(root)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def prepare_nothing(root: DataRoot) -> None:
    del root


def prepare_base(root: DataRoot) -> None:
    add_image(root, ["a", "b"], "base:1")


def prepare_family(root: DataRoot) -> None:
    base = add_image(root, ["a", "b"], None)
    middle = add_image(root, ["a", "b", "c"], None, parent=base)
    add_image(root, ["a", "b", "c", "d", "e"], "top:1", parent=middle)
    add_image(root, ["a", "x"], "other:1")


def prepare_container(root: DataRoot) -> None:
    prepare_base(root)
    add_container(root, root.layers.all()[-1])


def prepare_volumes(root: DataRoot) -> None:
    """A container with two volumes that nobody named and one that has a name."""
    prepare_base(root)
    container_id = add_container(root, root.layers.all()[-1])
    points = {}
    for name in ("1" * 64, "2" * 64, "named"):
        root.volumes.create(name)
        Path(root.volumes.path, name, "_data/file").write_text("x")
        spec = {"Type": "volume", "Source": "named" if name == "named" else ""}
        points[f"/{name}"] = {"Type": "volume", "Name": name, "Driver": "local", "Spec": spec}
    record = {"ID": container_id, "Name": "/c", "Config": {}, "MountPoints": points}
    root.write_file(f"containers/{container_id}/config.v2.json", json.dumps(record).encode())


def remove_with_volumes(root: DataRoot) -> None:
    """What rm -v does, and the monitor of a --rm container."""
    container = root.containers.all()[0]
    with container.lock():
        volumes.remove_with_volumes(container)


def top_chain(root: DataRoot) -> ChainID:
    chain_id = root.images.resolve("base:1").chain_id
    assert chain_id is not None
    return chain_id


CASES: dict[str, tuple[Callable[[DataRoot], object], Callable[[DataRoot], object]]] = {
    "add": (prepare_nothing, lambda root: add_image(root, ["a", "b", "c"], "new:1")),
    "add on known layers": (prepare_base, lambda root: add_image(root, ["a", "b", "c"], "new:1")),
    "commit": (
        prepare_base,
        lambda root: add_image(root, ["a", "b", "c"], "new:1", parent=root.images.resolve("base:1").image_id),
    ),
    "move a tag": (prepare_family, lambda root: tag(root, "other:1", "another:2")),
    "rmi with its parents": (prepare_family, lambda root: rmi(root, ["top:1"])),
    "rmi by ID": (prepare_base, lambda root: rmi(root, [root.images.ids()[0].hex[:12]])),
    "create": (prepare_base, lambda root: add_container(root, top_chain(root))),
    "rm": (
        prepare_container,
        lambda root: remove_container(root, ContainerID(os.listdir(f"{root.path}/containers")[0])),
    ),
    "rm -v": (prepare_volumes, remove_with_volumes),
}


@pytest.mark.parametrize("case", CASES)
def test_sigkill_before_each_change(scratch: Path, case: str) -> None:
    prepare, action = CASES[case]
    step = 0
    died = True
    while died:
        step += 1
        path = str(scratch / f"root{step}")
        with DataRoot.open(path) as root:
            prepare(root)
            before = verify(root)
        died = run_and_die(path, action, step)
        with DataRoot.open(path) as root:
            now = verify(root)
        if step == 1:
            done = scratch / "done"
            with DataRoot.open(str(done)) as other:
                prepare(other)
                action(other)
                after = verify(other)
        assert now in ((before, after) if died else (after,)), f"killed before change {step}"
    assert step > 4, "the child was killed at several places"


def test_kill_while_sweeping(scratch: Path) -> None:
    """The sweep itself may be killed anywhere; the next one ends it."""
    step = 0
    died = True
    while died:
        step += 1
        path = str(scratch / f"root{step}")
        with DataRoot.open(path) as root:
            prepare_family(root)
        # Killed in the middle of a removal with parents, so that the sweep has something to finish.
        assert run_and_die(path, lambda root: rmi(root, ["top:1"]), 22)
        died = _sweep_and_die(path, step)
        with DataRoot.open(path) as root:
            state = verify(root)
        assert state["references"] == {"other:1": root.references.all()["other:1"]}
        assert len(root.images.ids()) == 1
    assert step > 4


def _sweep_and_die(path: str, step: int) -> bool:
    child = os.fork()
    if child == 0:
        count = 0

        def dying(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal count
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **named)

            return call

        for name in CHANGES:
            setattr(os, name, dying(getattr(os, name)))
        DataRoot.open(path).close()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("case", CASES)
def test_each_change_fails_once(scratch: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC instead of a kill: the command ends in one of our errors, and the state is the one before or after."""
    import errno

    from minidock.errors import MinidockError

    prepare, action = CASES[case]
    step = 0
    failed = True
    while failed:
        step += 1
        with DataRoot.open(str(scratch / f"root{step}")) as root:
            prepare(root)
            before = verify(root)
            failed = False
            count = 0

            def failing(function: Callable[..., Any], step: int = step) -> Callable[..., Any]:
                def call(*arguments: Any, **named: Any) -> Any:
                    nonlocal count
                    count += 1
                    if count == step:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
                    return function(*arguments, **named)

                return call

            with monkeypatch.context() as patch:
                for name in ("rename", "mkdir", "symlink", "write", "fsync"):
                    patch.setattr(os, name, failing(getattr(os, name)))
                try:
                    action(root)
                except (MinidockError, OSError):
                    failed = True
        with DataRoot.open(str(scratch / f"root{step}")) as root:
            state = verify(root)
        if step == 1:
            with DataRoot.open(str(scratch / "done")) as root:
                prepare(root)
                action(root)
                after = verify(root)
        assert state in ((before, after) if failed else (after,)), f"change {step} failed"
    assert step > 3
