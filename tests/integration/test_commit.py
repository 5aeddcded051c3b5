"""commit: the image, its layer and its records; and that a failure leaves nothing."""

from __future__ import annotations

import os
import random
import select
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import InvalidReference, MaxDepthExceeded, NoSuchContainer, StoreError, SyscallError, UsageError
from minidock.formats.tarsplit import reassemble
from minidock.ids import CacheID, chain_id_of
from minidock.store.containers import Container
from minidock.store.root import DataRoot
from minidock.verbs.commit import Dialect, commit
from minidock.verbs.create import create
from minidock.verbs.options import CreateOptions
from minidock.verbs.pull_tar import pull_tar
from tests import builders

EMPTY_HISTORY_KEYS = {"created", "created_by", "empty_layer"}


@pytest.fixture
def loaded(data_root: DataRoot, busybox_archive: Path) -> DataRoot:
    pull_tar(data_root, str(busybox_archive))
    return data_root


def new_container(root: DataRoot, name: str = "work", image: str = "busybox:test") -> Container:
    """A container that was never started, with one file written into its upper directory."""
    container = create(root, image, ["sh", "-c", "exit"], CreateOptions(name=name))
    (upper_of(root, container) / "new").write_text("new\n")
    return container


def upper_of(root: DataRoot, container: Container) -> Path:
    return Path(root.layers.diff_path(CacheID(container.mount_id)))


def tar_of(root: DataRoot, chain_id: Any) -> bytes:
    """The layer's tar, rebuilt from what the store has."""
    diff = Path(root.layers.diff_path(root.layers.get(chain_id).cache_id))
    handle = os.open(root.layers.tar_split_path(chain_id), os.O_RDONLY)
    try:
        return b"".join(reassemble(handle, lambda name: os.open(diff / os.fsdecode(name), os.O_RDONLY)))
    finally:
        os.close(handle)


def test_a_new_image_stands_on_the_old_layers(loaded: DataRoot) -> None:
    container = new_container(loaded)
    base = loaded.images.resolve("busybox:test")
    directories = set(os.listdir(loaded.overlay_path))
    result = commit(loaded, "work", "mine/new:1", author="Me", message="why")
    image = loaded.images.resolve("mine/new:1")
    assert (image.image_id, result.reference, image.parent) == (result.image_id, "mine/new:1", base.image_id)
    assert result.diff_id is not None
    assert image.config.diff_ids == [*base.config.diff_ids, result.diff_id]
    assert image.chain_id == result.chain_id == chain_id_of(base.chain_id, result.diff_id)
    # One directory more: the layers below are shared.
    assert len(set(os.listdir(loaded.overlay_path)) - directories) == 1
    assert builders.sha256(tar_of(loaded, result.chain_id)) == result.diff_id
    layer = loaded.layers.get(image.chain_id)
    assert (layer.parent, layer.size_bytes) == (base.chain_id, len("new\n")) and result.size_bytes == layer.size_bytes
    own = Path(loaded.overlay_path, layer.cache_id)
    assert sorted(os.listdir(own)) == ["committed", "diff", "link", "lower", "work"]
    assert (own / "lower").read_text().split(":") == [
        f"l/{link}" for link in loaded.layers.links(base.chain_id or layer.chain_id)
    ]
    last = image.config.history[-1]
    assert (last.created_by, last.author, last.comment, last.empty_layer) == ("sh -c exit", "Me", "why", False)
    document = image.config.document
    assert document["container"] == container.id and document["created"] == last.created
    assert "comment" not in document and document["author"] == "Me"
    # The container itself was only read.
    assert (upper_of(loaded, container) / "new").read_text() == "new\n"


def test_a_stop_signal_that_does_not_exist_is_refused(loaded: DataRoot) -> None:
    create(loaded, "busybox:test", ["true"], CreateOptions(name="idle"))
    with pytest.raises(UsageError, match="Invalid signal: foo"):
        commit(loaded, "idle", "box:1", changes=["STOPSIGNAL foo"])
    made = commit(loaded, "idle", "box:1", changes=["STOPSIGNAL SIGUSR1"])
    assert loaded.images.get(made.image_id).config.config.stop_signal == "SIGUSR1"


def test_nothing_changed_adds_no_layer(loaded: DataRoot) -> None:
    create(loaded, "busybox:test", ["true"], CreateOptions(name="idle"))
    base = loaded.images.resolve("busybox:test")
    layers = loaded.layers.all()
    result = commit(loaded, "idle", "idle:1")
    image = loaded.images.get(result.image_id)
    assert result.diff_id is None and result.size_bytes == 0 and result.chain_id == base.chain_id
    assert image.config.diff_ids == base.config.diff_ids and loaded.layers.all() == layers
    assert image.config.history[-1].empty_layer
    assert set(image.config.document["history"][-1]) == EMPTY_HISTORY_KEYS


def test_the_same_upper_twice_is_one_layer(loaded: DataRoot) -> None:
    new_container(loaded)
    first, second = commit(loaded, "work"), commit(loaded, "work", message="again")
    assert first.image_id != second.image_id
    assert (first.diff_id, first.chain_id) == (second.diff_id, second.chain_id)
    assert os.listdir(loaded.stage_path) == []


def test_a_moved_reference_leaves_the_old_image_without_a_name(loaded: DataRoot) -> None:
    container = new_container(loaded)
    first = commit(loaded, "work", "app")
    (upper_of(loaded, container) / "more").write_text("more\n")
    second = commit(loaded, "work", "app:latest")
    assert loaded.references.of_image(second.image_id) == ["app:latest"]
    assert loaded.references.of_image(first.image_id) == [] and first.image_id in loaded.images.ids()


def test_committed_images_stack_and_give_containers(loaded: DataRoot) -> None:
    new_container(loaded)
    commit(loaded, "work", "one")
    new_container(loaded, "again", "one")
    result = commit(loaded, "again", "two")
    image = loaded.images.get(result.image_id)
    assert len(image.config.diff_ids) == 4 and len(image.config.history) == 4
    assert image.parent == loaded.images.resolve("one").image_id


@pytest.mark.parametrize(
    ("engine", "tar", "first_keys"),
    [
        ("", "c", ["created", "created_by", "author"]),
        ("28.5.2", "c", ["created", "created_by", "author"]),
        ("24", "c", ["created", "author", "created_by"]),
        ("23", "b", ["created", "author", "created_by"]),
        ("20.10.27", "b", ["created", "author", "created_by"]),
        ("20.10", "a", ["created", "author", "created_by"]),
        ("20.10.24+dfsg1", "a", ["created", "author", "created_by"]),
    ],
)
def test_engines_write_their_own_bytes(engine: str, tar: str, first_keys: list[str], loaded: DataRoot) -> None:
    assert Dialect(engine).tar == tar
    new_container(loaded)
    document = loaded.images.get(commit(loaded, "work", author="A", engine=engine).image_id).config.document
    assert list(document["history"][-1])[:3] == first_keys
    assert document.get("docker_version", "") == engine
    assert list(document) == sorted(document)


def test_changes_change_the_image_and_not_the_container(loaded: DataRoot) -> None:
    container = new_container(loaded)
    result = commit(loaded, "work", changes=["ENV A=1", 'CMD ["a"]', "LABEL x=y"])
    image = loaded.images.get(result.image_id).config
    assert image.config.cmd == ["a"] and "A=1" in image.config.env and image.config.labels == {"x": "y"}
    assert image.document["container_config"]["Cmd"] == ["sh", "-c", "exit"]
    assert image.history[-1].created_by == "sh -c exit"
    assert loaded.containers.get(container.id).config.run["Cmd"] == ["sh", "-c", "exit"]


def files_of(root: DataRoot) -> list[tuple[Any, ...]]:
    return builders.tree_listing(root.path)


def too_deep_name(root: DataRoot, container: Container) -> None:
    (upper_of(root, container) / ".wh.reserved").write_text("")


def vanishing_upper(root: DataRoot, container: Container) -> None:
    upper = upper_of(root, container)
    upper.rename(upper.with_name("elsewhere"))


FAILURES: list[tuple[dict[str, Any], Callable[[DataRoot, Container], None] | None, type[Exception]]] = [
    ({"container": "nobody"}, None, NoSuchContainer),
    ({"reference": "Not/Valid"}, None, InvalidReference),
    ({"reference": "a@sha256:" + "0" * 64}, None, InvalidReference),
    ({"changes": ["RUN x"]}, None, UsageError),
    ({"engine": "newest"}, None, UsageError),
    ({}, too_deep_name, StoreError),
    ({}, vanishing_upper, Exception),
]


@pytest.mark.parametrize(("arguments", "spoil", "error"), FAILURES)
def test_a_failure_leaves_nothing(
    arguments: dict[str, Any],
    spoil: Callable[[DataRoot, Container], None] | None,
    error: type[Exception],
    loaded: DataRoot,
) -> None:
    container = new_container(loaded)
    with loaded.lock():
        pass
    if spoil:
        spoil(loaded, container)
    before = files_of(loaded)
    with pytest.raises(error) as caught:
        commit(loaded, **{"container": "work", **arguments})
    assert "\n" not in str(caught.value)
    assert files_of(loaded) == before


def test_a_failure_after_the_layer_takes_it_back(loaded: DataRoot) -> None:
    new_container(loaded)
    before = files_of(loaded)
    # A mount point can be read but not replaced, so the very last step fails.
    names = loaded.references.path
    builders.run_command("mount", "--bind", names, names)
    try:
        with pytest.raises(SyscallError, match=r"repositories\.json"):
            commit(loaded, "work", "never:seen")
    finally:
        builders.run_command("umount", names)
    assert files_of(loaded) == before


@pytest.mark.many
def test_125_layers_can_be_committed_and_not_one_more(data_root: DataRoot, scratch: Path) -> None:
    layers = [builders.layer_tar(builders.tar_member(b"f%d" % number, b"x")) for number in range(124)]
    pull_tar(data_root, str(builders.docker_archive(scratch / "deep.tar", builders.ImageSpec(layers, tags=["deep:1"]))))
    new_container(data_root, "almost", "deep:1")
    assert len(data_root.images.get(commit(data_root, "almost", "full:1").image_id).config.diff_ids) == 125
    new_container(data_root, "full", "full:1")
    before = files_of(data_root)
    with pytest.raises(MaxDepthExceeded, match="125"):
        commit(data_root, "full")
    assert files_of(data_root) == before


def test_a_container_without_an_image_gives_a_parentless_one(loaded: DataRoot) -> None:
    container = new_container(loaded)
    container.document["Image"] = ""
    container.change_document(lambda document: document.update(container.document))
    image = loaded.images.get(commit(loaded, "work").image_id)
    assert len(image.config.diff_ids) == len(image.config.history) == 1 and image.parent is None
    assert image.config.architecture in ("amd64", "arm64", "arm", "386", "riscv64", "ppc64le", "s390x", "loong64")


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("", [{"created": "2026-01-02T03:04:05.67Z", "created_by": "a"}, {"created_by": "b", "empty_layer": True}]),
        (
            "20.10",
            [
                {"created": "2026-01-02T03:04:05.67Z", "created_by": "a"},
                {"created": "0001-01-01T00:00:00Z", "created_by": "b", "empty_layer": True},
            ],
        ),
    ],
)
def test_inherited_history_is_written_as_the_engine_reads_it(
    engine: str, expected: list[dict[str, Any]], data_root: DataRoot, scratch: Path
) -> None:
    layer = builders.layer_tar(builders.tar_member(b"f", b"x"))
    history = [
        {"created": "2026-01-02T03:04:05.670000Z", "created_by": "a", "author": "", "empty_layer": False, "more": 1},
        {"created_by": "b", "empty_layer": True},
    ]
    more: dict[str, Any] = {"os.version": "1", "os.features": ["x"], "variant": "v8"}
    config = builders.image_config([layer], history=history, **more)
    image = builders.ImageSpec([layer], tags=["old:1"], config=config)
    pull_tar(data_root, str(builders.docker_archive(scratch / "old.tar", image)))
    new_container(data_root, "work", "old:1")
    document = data_root.images.get(commit(data_root, "work", engine=engine).image_id).config.document
    assert document["history"][:2] == expected
    assert (document["os.version"], document["os.features"], document["variant"]) == ("1", ["x"], "v8")


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_callers_umask_changes_nothing(umask: int, loaded: DataRoot) -> None:
    container = new_container(loaded)
    upper = upper_of(loaded, container)
    (upper / "made").mkdir()
    os.mkfifo(upper / "made/fifo")
    for path, mode in ((upper / "made", 0o2775), (upper / "made/fifo", 0o666), (upper / "new", 0o4664)):
        path.chmod(mode)
    before = os.umask(umask)
    try:
        chain_id = commit(loaded, "work", "masked:1").chain_id
    finally:
        os.umask(before)
    assert chain_id
    own = Path(loaded.overlay_path, loaded.layers.get(chain_id).cache_id)
    modes = {str(path.relative_to(own)): stat.S_IMODE(path.lstat().st_mode) for path in (own, *own.rglob("*"))}
    assert modes == {
        ".": 0o710,
        "committed": 0o600,
        "diff": 0o755,
        "diff/made": 0o2775,
        "diff/made/fifo": 0o666,
        "diff/new": 0o4664,
        "link": 0o644,
        "lower": 0o644,
        "work": 0o700,
    }


def test_a_full_disk_leaves_nothing(scratch: Path, busybox_archive: Path) -> None:
    place = scratch / "small"
    place.mkdir()
    builders.run_command("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place)
    try:
        with DataRoot.open(str(place / "root")) as root:
            pull_tar(root, str(busybox_archive))
            container = new_container(root)
            (upper_of(root, container) / "large").write_bytes(os.urandom(13 << 20))
            before = files_of(root)
            with pytest.raises(SyscallError, match="No space left"):
                commit(root, "work", "large:1")
            assert files_of(root) == before
    finally:
        builders.run_command("umount", place)


def layers_without_owner(root: DataRoot) -> set[str]:
    """Directories of overlay2/ that neither layerdb nor a container names."""
    known = {root.layers.get(chain_id).cache_id for chain_id in root.layers.all()}
    for container in root.containers.all():
        known |= {CacheID(container.mount_id), CacheID(container.init_id)}
    return set(os.listdir(root.overlay_path)) - known - {"l"}


def test_kills_at_any_point_leave_the_old_state_or_the_new(loaded: DataRoot) -> None:
    container = new_container(loaded)
    upper = upper_of(loaded, container)
    for number in range(300):
        (upper / f"file{number}").write_bytes(b"x" * number)
    images = loaded.images.ids()
    source = random.Random(5)
    for turn in range(12):
        victim = os.fork()
        if victim == 0:
            try:
                with DataRoot.open(loaded.path) as own:
                    for message in range(50):
                        commit(own, "work", "killed:1", message=f"{turn}.{message}")
            finally:
                os._exit(0)
        select.select([], [], [], source.uniform(0.0, 0.15))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        with DataRoot.open(loaded.path) as root:
            assert os.listdir(root.stage_path) == []
            assert not layers_without_owner(root)
            for image_id in root.images.ids():
                image = root.images.get(image_id)
                assert image.chain_id and len(root.layers.stack(image.chain_id)) == len(image.config.diff_ids)
    final = commit(loaded, "work", "killed:1", message="last")
    assert final.chain_id and builders.sha256(tar_of(loaded, final.chain_id)) == final.diff_id
    assert set(images) < set(loaded.images.ids())


def test_the_steps_told_are_the_steps_taken(loaded: DataRoot) -> None:
    container = new_container(loaded)
    told: list[tuple[str, str]] = []
    loaded.trace = lambda kind, text: told.append((kind, text))
    result = commit(loaded, "work", "app:1")
    lines = [f"{kind} {text}" for kind, text in told]
    text = "\n".join(lines)
    assert f"read {upper_of(loaded, container)}" in text
    assert f"= {result.diff_id}" in text and "2048 bytes of tar, 1 entries" in text
    assert str(result.image_id) in text
    layer = loaded.layers.get(result.chain_id) if result.chain_id else None
    assert layer and f"{loaded.overlay_path}/{layer.cache_id}" in text and f"{layer.parent} {layer.diff_id}" in text
    moved = next(index for index, line in enumerate(lines) if "app:1 -> " in line)
    assert moved > next(index for index, line in enumerate(lines) if "/imagedb/content/" in line)
