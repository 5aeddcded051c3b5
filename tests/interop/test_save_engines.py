"""save against the engines: equal layer tars from the same root, and archives that everybody loads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minidock.store.root import DataRoot
from minidock.verbs.pull_tar import pull_tar
from minidock.verbs.save import save
from tests import builders
from tests.conftest import Engine, missing


def rich_layers() -> list[bytes]:
    """Layers with what a rebuilt tar could get wrong: long and odd names, links, padding, whiteouts, trailing bytes."""
    bottom = builders.layer_tar(
        builders.directory(b"./"),
        builders.directory(b"./etc", mtime=1),
        builders.tar_member(b"./etc/conf", b"conf\n", uname=b"root", gname=b"root"),
        builders.tar_member(b"etc/empty", b"", mode=0o600),
        builders.tar_member(b"etc/512", bytes(range(256)) * 2),
        builders.tar_member(b"etc/513", b"x" * 513, uid=70_000),
        builders.hardlink(b"etc/linked", b"etc/conf"),
        builders.symlink(b"link", b"etc/conf"),
        builders.directory(b"d" * 90),
        builders.tar_member(b"d" * 90 + b"/" + b"e" * 90, b"long\n"),
        builders.tar_member("etc/zé".encode(), b"utf-8\n", pax={b"mtime": b"1600000000.5"}),
        builders.tar_member(b'etc/quote"back\\slash\n', b"odd\n"),
        builders.tar_member(b"etc/caf\xe9", b"latin\n"),
        builders.tar_member(b"big", os.urandom(64) * 40_000),
        builders.tar_member(b"fifo", type=b"6"),
        builders.tar_member(b"null", type=b"3", devmajor=1, devminor=3),
        end=bytes(10240),
    )
    middle = builders.layer_tar(
        builders.tar_member(b"etc/.wh.conf"),
        builders.directory(b"d" * 90),
        builders.tar_member(b"d" * 90 + b"/.wh..wh..opq"),
        builders.tar_member(b"d" * 90 + b"/new", b"new\n"),
    )
    return [bottom, middle, builders.layer_tar(), builders.layer_tar(builders.tar_member(b"top", b"top\n"))]


def read_saved(archive: Path) -> dict[str, tuple[list[str] | None, list[str]]]:
    """Each image of an archive: its tags, and the digests of its layer tars; symlinks between layers are followed."""
    found: dict[str, tuple[list[str] | None, list[str]]] = {}
    with tarfile.open(archive) as members:

        def content(name: str) -> bytes:
            file = members.extractfile(name)
            assert file is not None, name
            return file.read()

        for entry in json.loads(content("manifest.json")):
            layers = [hashlib.sha256(content(name)).hexdigest() for name in entry["Layers"]]
            image = hashlib.sha256(content(entry["Config"])).hexdigest()
            found[image] = (sorted(entry["RepoTags"] or []), layers)
    return found


@pytest.fixture
def rich_archive(scratch: Path) -> Path:
    layers = rich_layers()
    first = builders.ImageSpec(layers, tags=["rich:1", "rich:two", "other/rich:1"])
    second = builders.ImageSpec([*layers[:2], builders.busybox_layer(), layers[1]], tags=["second:1"])
    return builders.docker_archive(scratch / "rich.tar", first, second)


@pytest.fixture
def loaded(running: Engine, rich_archive: Path) -> Iterator[Engine]:
    """The engine, with the two images."""
    running.docker("load", "-i", rich_archive)
    yield running
    running.docker("rmi", "-f", "rich:1", "rich:two", "other/rich:1", "second:1", check=False)


def test_layer_tars_equal_the_engines(loaded: Engine, scratch: Path) -> None:
    """On the engine's own root, while it runs, which stays as it is."""
    before = builders.tree_listing(loaded.root / "image")
    with DataRoot.open(str(loaded.root), write=False) as root:
        save(root, ["rich:1", "rich:two", "second"], str(scratch / "ours.tar"))
    loaded.docker("save", "-o", scratch / "theirs.tar", "rich:1", "rich:two", "second")
    ours = read_saved(scratch / "ours.tar")
    assert len(ours) == 2
    assert ours == read_saved(scratch / "theirs.tar")
    assert builders.tree_listing(loaded.root / "image") == before


def test_a_name_without_tag_means_the_same_images(loaded: Engine, scratch: Path) -> None:
    for number, words in enumerate((["rich"], ["other/rich", "rich:1"], ["rich:1", "rich:1", "second:1"])):
        with DataRoot.open(str(loaded.root), write=False) as root:
            save(root, words, str(scratch / f"ours{number}.tar"))
        loaded.docker("save", "-o", scratch / f"theirs{number}.tar", *words)
        assert read_saved(scratch / f"ours{number}.tar") == read_saved(scratch / f"theirs{number}.tar"), words


def test_committed_images_and_parents(loaded: Engine, scratch: Path) -> None:
    """What the engine committed has its tar-split too, and a parent that is saved along is named."""
    try:
        loaded.docker("create", "--name", "rich-base", "second:1", "sh")
        (scratch / "file").write_text("by cp\n")
        loaded.docker("cp", scratch / "file", "rich-base:/etc/file")
        loaded.docker("commit", "rich-base", "child:1")
        words = ["second:1", "child:1"]
        with DataRoot.open(str(loaded.root), write=False) as root:
            save(root, words, str(scratch / "ours.tar"))
        loaded.docker("save", "-o", scratch / "theirs.tar", *words)
        assert read_saved(scratch / "ours.tar") == read_saved(scratch / "theirs.tar")

        def parents(archive: Path) -> dict[str, str]:
            with tarfile.open(archive) as members:
                file = members.extractfile("manifest.json")
                assert file is not None
                return {entry["RepoTags"][0]: entry.get("Parent", "") for entry in json.load(file)}

        assert parents(scratch / "ours.tar") == parents(scratch / "theirs.tar")
        assert parents(scratch / "ours.tar")["child:1"].startswith("sha256:")
    finally:
        loaded.docker("rm", "-f", "rich-base", check=False)
        loaded.docker("rmi", "-f", "child:1", check=False)


@pytest.fixture
def ours(data_root: Any, rich_archive: Path, scratch: Path) -> tuple[Path, Path, list[str]]:
    """A docker archive and an OCI archive of ours, and the IDs of the images in it."""
    loaded = pull_tar(data_root, str(rich_archive))
    names = ["rich:1", "second:1"]
    save(data_root, names, str(scratch / "docker.tar"))
    save(data_root, ["rich:two", "second:1"], str(scratch / "oci.tar"), format="oci")
    return scratch / "docker.tar", scratch / "oci.tar", [image.image_id for image in loaded]


def test_the_engine_loads_ours(running: Engine, ours: tuple[Path, Path, list[str]]) -> None:
    docker_tar, _, image_ids = ours
    try:
        running.docker("load", "-i", docker_tar)
        for name, image_id in zip(("rich:1", "second:1"), image_ids, strict=True):
            assert running.docker("inspect", "-f", "{{.Id}}", name).stdout.strip() == image_id
    finally:
        running.docker("rmi", "-f", "rich:1", "second:1", check=False)


def test_podman_loads_ours(ours: tuple[Path, Path, list[str]], scratch: Path) -> None:
    if not shutil.which("podman"):
        missing("podman is not installed")
    podman = ("podman", "--root", scratch / "podman", "--runroot", scratch / "run", "--storage-driver", "vfs")
    builders.run_command(*podman, "load", "-q", "-i", ours[0])
    for name, image_id in zip(("rich:1", "second:1"), ours[2], strict=True):
        said = builders.run_command(*podman, "image", "inspect", "-f", "{{.Id}}", name).stdout.strip()
        assert said == image_id.removeprefix("sha256:")


def test_skopeo_reads_ours(ours: tuple[Path, Path, list[str]], scratch: Path) -> None:
    if not shutil.which("skopeo"):
        missing("skopeo is not installed")
    docker_tar, oci_tar, image_ids = ours
    for number, source in enumerate(
        (f"docker-archive:{docker_tar}:rich:1", f"oci-archive:{oci_tar}:two", f"docker-archive:{docker_tar}:second:1")
    ):
        target = scratch / f"copied{number}"
        builders.run_command("skopeo", "copy", "-q", source, f"dir:{target}")
        manifest = json.loads((target / "manifest.json").read_text())
        assert manifest["config"]["digest"] == image_ids[number // 2]


def test_umoci_unpacks_ours(ours: tuple[Path, Path, list[str]], scratch: Path) -> None:
    if not shutil.which("umoci"):
        missing("umoci is not installed")
    (scratch / "layout").mkdir()
    builders.run_command("tar", "-xf", ours[1], "-C", scratch / "layout")
    builders.run_command("umoci", "unpack", "--image", f"{scratch / 'layout'}:two", scratch / "bundle")
    rootfs = scratch / "bundle/rootfs"
    assert (rootfs / "top").read_bytes() == b"top\n"
    assert not (rootfs / "etc/conf").exists()
    assert (rootfs / "etc/linked").read_bytes() == b"conf\n"
    assert os.listdir(rootfs / ("d" * 90)) == ["new"]
