"""The data root by itself: opening, refusing, locking, sweeping, deleting. Nothing here needs root rights."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from pathlib import Path

import pytest

from minidock.errors import Conflict, StoreBusy, StoreCorrupt, StoreError, UsageError
from minidock.store import transaction
from minidock.store.root import DataRoot
from minidock.store.transaction import is_owner_alive, owner_token, start_time


def test_skeleton_has_dockers_modes_under_any_umask(scratch: Path) -> None:
    before = os.umask(0o077)
    try:
        DataRoot.open(str(scratch / "root")).close()
    finally:
        os.umask(before)
    modes = {
        "": 0o710,
        "image": 0o700,
        "image/overlay2/layerdb/sha256": 0o755,
        "overlay2": 0o710,
        "overlay2/l": 0o700,
        "containers": 0o710,
        "minidock": 0o700,
        "minidock/stage": 0o700,
    }
    for name, mode in modes.items():
        assert stat.S_IMODE(os.stat(scratch / "root" / name).st_mode) == mode, name


def test_reading_makes_nothing(scratch: Path) -> None:
    with pytest.raises(StoreError, match="no data root"):
        DataRoot.open(str(scratch / "absent"), write=False)
    (scratch / "empty").mkdir()
    with DataRoot.open(str(scratch / "empty"), write=False) as root:
        assert root.references.all() == {}
        assert root.images.ids() == []
        assert root.layers.all() == []
        assert not root.has_containers()
        with root.lock(shared=True):
            pass
        with pytest.raises(UsageError):
            root.lock().__enter__()
        with pytest.raises(UsageError):
            root.stage()
    assert os.listdir(scratch / "empty") == []


def test_no_root_is_made_unless_asked(scratch: Path) -> None:
    with pytest.raises(StoreError, match="no data root"):
        DataRoot.open(str(scratch / "absent"), create=False)
    assert os.listdir(scratch) == []


def test_missing_default_root_reads_as_empty(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINIDOCK_ROOT", raising=False)
    monkeypatch.setattr("minidock.store.root.DEFAULT_ROOT", str(scratch / "default"))
    with DataRoot.open(write=False) as root:
        assert root.images.ids() == []
        assert root.path == str(scratch / "default")


def test_root_from_the_environment_through_a_symlink(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (scratch / "link").symlink_to("real")
    monkeypatch.setenv("MINIDOCK_ROOT", str(scratch / "link"))
    (scratch / "real").mkdir()
    with DataRoot.open() as root:
        assert root.path == str(scratch / "real")


def test_a_file_is_no_root(scratch: Path) -> None:
    (scratch / "file").write_text("")
    with pytest.raises(StoreError):
        DataRoot.open(str(scratch / "file"))


@pytest.mark.parametrize("driver", ["vfs", "btrfs", "zfs", "fuse-overlayfs", "devicemapper"])
def test_other_drivers_roots_are_refused_by_name(scratch: Path, driver: str) -> None:
    (scratch / "image" / driver).mkdir(parents=True)
    with pytest.raises(StoreError, match=driver):
        DataRoot.open(str(scratch))
    assert os.listdir(scratch) == ["image"]


@pytest.mark.parametrize(
    "path", ["rootfs/overlayfs", "containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots/1"]
)
def test_the_containerd_store_is_refused_by_name(scratch: Path, path: str) -> None:
    (scratch / path).mkdir(parents=True)
    with pytest.raises(StoreError, match="containerd image store"):
        DataRoot.open(str(scratch))


def test_an_unused_containerd_directory_is_no_hindrance(scratch: Path) -> None:
    (scratch / "containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots").mkdir(parents=True)
    DataRoot.open(str(scratch)).close()


def test_lock_is_exclusive_between_processes_and_reentrant_within(scratch: Path) -> None:
    with DataRoot.open(str(scratch / "root")) as root:
        lock_path = scratch / "root/minidock/lock"
        with root.lock(), root.lock(), root.lock(shared=True), open(lock_path) as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with root.lock(shared=True):
            with open(lock_path) as other:
                fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with root.lock(), open(lock_path) as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with open(lock_path) as other:
                fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with open(lock_path) as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_forked_child_does_not_keep_the_lock(scratch: Path) -> None:
    with DataRoot.open(str(scratch / "root")) as root:
        inside, outside = os.pipe()
        with root.lock():
            child = os.fork()
            if child == 0:
                os.close(outside)
                os.read(inside, 1)
                os._exit(0)
        with open(scratch / "root/minidock/lock") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(outside)
        os.close(inside)
        os.waitpid(child, 0)


def test_a_running_engine_is_named(scratch: Path) -> None:
    with DataRoot.open(str(scratch / "root")) as root:
        (scratch / "root/volumes").mkdir()
        path = scratch / "root/volumes/metadata.db"
        path.write_bytes(b"")
        with open(path) as engine:
            fcntl.flock(engine, fcntl.LOCK_EX)
            with pytest.raises(StoreBusy, match=rf"\(pid {os.getpid()}\)"):
                root.lock().__enter__()
            assert root.references.all() == {}
        with root.lock(), open(path) as engine, pytest.raises(BlockingIOError):
            fcntl.flock(engine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(path) as engine:
            fcntl.flock(engine, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_owner_tokens() -> None:
    token = owner_token()
    boot, pid, started, namespace = token.split(".")
    assert namespace == f"n{os.stat('/proc/self/ns/pid').st_ino}"
    assert is_owner_alive(token + ".abc")
    assert not is_owner_alive(f"{boot}.{pid}.{int(started) + 1}.abc")
    assert not is_owner_alive(f"another-boot.{pid}.{started}.abc")
    assert not is_owner_alive(f"{boot}.4194305.{started}")
    for name in ("", ".", "..", "x", f"{boot}.../..", f"{boot}.{pid}", f"{boot}.-1.{started}", f"{boot}.{pid}.x"):
        assert not is_owner_alive(name)


def test_a_zombie_is_dead() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child}/stat").exists()
    assert start_time(child) is None
    os.waitpid(child, 0)


def test_the_sweep_takes_dead_owners_and_leaves_living_ones(scratch: Path) -> None:
    path = str(scratch / "root")
    with DataRoot.open(path) as root, root.stage() as stage:
        living = os.path.basename(stage.path)
        (scratch / "root/minidock/stage/dead.1.1.x/layer-1/diff").mkdir(parents=True)
        (scratch / "root/minidock/stage/dead.1.1.x/layer-1/diff/file").write_text("x")
        (scratch / "root/minidock/stage/dead.1.1.file").write_text("half")
        (scratch / "root/minidock/stage/dead.link").symlink_to("/etc")
        with DataRoot.open(path):
            assert os.listdir(root.stage_path) == [living]
    assert os.listdir(scratch / "root/minidock/stage") == []


def test_the_sweep_waits_for_nobody(scratch: Path) -> None:
    path = str(scratch / "root")
    DataRoot.open(path).close()
    (scratch / "root/minidock/stage/dead.1.1.x").mkdir()
    with open(scratch / "root/minidock/lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with DataRoot.open(path) as root:
            assert os.listdir(root.stage_path) == ["dead.1.1.x"]


@pytest.mark.parametrize(
    "marker",
    [
        "layer-../../../etc",
        "layer-" + "g" * 64 + "." + "a" * 64,
        "layer-" + "a" * 64 + "..",
        "image-../x".replace("/", "%"),
        "container-" + "a" * 64 + ".l",
        "remove-" + "a" * 64 + ".",
        "remove-x." + "a" * 64,
    ],
)
def test_markers_that_are_no_ids_do_nothing(scratch: Path, marker: str) -> None:
    path = str(scratch / "root")
    with DataRoot.open(path) as root:
        os.makedirs(f"{root.path}/containers/{'a' * 64}")
        before = sorted(os.listdir(root.path))
    stage = scratch / "root/minidock/stage/dead.1.1.x"
    stage.mkdir()
    (stage / marker.replace("/", "%")).write_text("")
    with DataRoot.open(path) as root:
        assert sorted(os.listdir(root.path)) == before
        assert os.listdir(root.overlay_path) == ["l"]
        assert os.listdir(f"{root.path}/containers") == ["a" * 64]
        assert os.listdir(root.stage_path) == []


def test_delete_tree_of_any_depth(scratch: Path) -> None:
    import resource

    handle = os.open(scratch, os.O_RDONLY)
    inner = os.open(scratch, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=inner)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
        deeper = os.open("d", os.O_RDONLY, dir_fd=inner)
        os.close(inner)
        inner = deeper
    os.close(inner)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Numbers that are free below the highest one in use would add to the limit.
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fillers = [os.open("/dev/null", os.O_RDONLY)]
    while fillers[-1] <= highest:
        fillers.append(os.open("/dev/null", os.O_RDONLY))
    # One a level for 101 levels, and a few for the moment.
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + 101 + 3, limits[1]))
    try:
        transaction.delete_tree(handle, "d")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for filler in (handle, *fillers):
            os.close(filler)
    assert os.listdir(scratch) == ["f"]


def test_delete_tree_does_not_follow_symlinks(scratch: Path) -> None:
    (scratch / "precious").mkdir()
    (scratch / "precious/file").write_text("x")
    (scratch / "tree").mkdir()
    (scratch / "tree/link").symlink_to("../precious")
    (scratch / "name").symlink_to("precious")
    handle = os.open(scratch, os.O_RDONLY)
    transaction.delete_tree(handle, "tree")
    transaction.delete_tree(handle, "name")
    transaction.delete_tree(handle, "absent")
    os.close(handle)
    assert os.listdir(scratch) == ["precious"]
    assert os.listdir(scratch / "precious") == ["file"]


def test_write_file_replaces_at_once(data_root: DataRoot) -> None:
    data_root.write_file("containers/x", b"one", 0o644)
    before = os.umask(0o077)
    try:
        data_root.write_file("containers/x", b"two", 0o666)
    finally:
        os.umask(before)
    path = Path(data_root.path, "containers/x")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert os.listdir(data_root.stage_path) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"x"',
        "nul",
        '{"Repositories":[]}',
        '{"Repositories":{"a":[]}}',
        '{"Repositories":{"a":{"a:1":5}}}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_broken_repositories_json_is_one_clear_error(data_root: DataRoot, text: str) -> None:
    Path(data_root.references.path).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreCorrupt, match=r"repositories\.json") as caught:
        data_root.references.all()
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreCorrupt):
        data_root.references.remove("a:1")
    assert Path(data_root.references.path).read_bytes() == text.encode("utf-8", "surrogateescape")


def test_repositories_json_as_docker_writes_it(data_root: DataRoot) -> None:
    from minidock.ids import ImageID

    image_id = ImageID("sha256:" + "ab" * 32)
    other = ImageID("sha256:" + "cd" * 32)
    references = data_root.references
    digest = "sha256:" + "e" * 64
    assert references.set("zoo", image_id) is None
    assert references.set("a.b:5/c:x", image_id) is None
    assert references.set(f"docker.io/library/zoo@{digest}", image_id) is None
    assert references.set("zoo:latest", other) == image_id
    raw = Path(references.path).read_bytes()
    assert raw == (
        b'{"Repositories":{"a.b:5/c":{"a.b:5/c:x":"%(one)b"},'
        b'"zoo":{"zoo:latest":"%(two)b","zoo@%(digest)b":"%(one)b"}}}'
        % {b"one": image_id.encode(), b"two": other.encode(), b"digest": digest.encode()}
    )
    assert references.of_image(image_id) == ["a.b:5/c:x", f"zoo@{digest}"]
    assert references.get("zoo") == other
    assert references.remove("zoo")
    assert not references.remove("zoo")
    references.remove(f"zoo@{digest}")
    assert json.loads(Path(references.path).read_bytes()) == {"Repositories": {"a.b:5/c": {"a.b:5/c:x": image_id}}}


def test_names_of_other_tools_survive_a_write(data_root: DataRoot) -> None:
    from minidock.ids import ImageID

    Path(data_root.references.path).write_text('{"Repositories":{"odd":{"odd:1":"not an id"}}}')
    assert data_root.references.all() == {}
    assert data_root.references.get("odd:1") is None
    data_root.references.set("new:1", ImageID("sha256:" + "1" * 64))
    assert b'"odd:1":"not an id"' in Path(data_root.references.path).read_bytes()


def test_parallel_tags_lose_nothing(scratch: Path) -> None:
    """Twelve processes put five names each into the one table at the same time."""
    from minidock.ids import ImageID

    path = str(scratch / "root")
    DataRoot.open(path).close()
    children = []
    for number in range(12):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for word in range(5):
                    with DataRoot.open(path) as root:
                        root.references.set(f"n{number}:{word}", ImageID("sha256:" + "a" * 64))
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 12
    with DataRoot.open(path) as root:
        assert len(root.references.all()) == 60


def test_an_exception_in_a_stage_leaves_nothing(data_root: DataRoot) -> None:
    with pytest.raises(Conflict), data_root.stage() as stage:
        data_root.layers.stage_layer(stage)
        raise Conflict("on purpose")
    assert os.listdir(data_root.stage_path) == []
    assert os.listdir(data_root.overlay_path) == ["l"]
