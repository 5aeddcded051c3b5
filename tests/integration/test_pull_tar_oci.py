"""pull-tar of OCI layouts and podman's docker-dir: indexes, platforms, names, directories."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import BadArchive, BadManifest, UsageError
from minidock.ids import Digest
from minidock.store.distribution import diff_id_of
from minidock.store.root import DataRoot
from minidock.verbs.pull_tar import pull_tar
from tests import builders, ocilayouts
from tests.builders import ImageSpec
from tests.integration.test_pull_tar import ONE, TWO, check_layers
from tests.ocilayouts import Layout


def multi(layout: Layout, tag: str = "multi:1") -> dict[str, builders.ImageSpec]:
    """An image for three platforms, with buildkit's attestation beside it."""
    specs = {}
    entries = []
    for number, text in enumerate(("linux/amd64", "linux/arm64/v8", "linux/arm/v6", "linux/arm/v7")):
        words = ocilayouts.platform(text)
        layer = builders.layer_tar(builders.tar_member(b"platform", text.encode()))
        extra: dict[str, Any] = {key: value for key, value in words.items() if key == "variant"}
        config = builders.image_config([layer], architecture=words["architecture"], **extra)
        specs[text] = ImageSpec([layer], config=config)
        entries.append(layout.add_image(specs[text], platform=words))
        if number == 0:
            note = {"vnd.docker.reference.type": "attestation-manifest"}
            entries.append({**entries[0], "platform": ocilayouts.platform("unknown/unknown"), "annotations": note})
    layout.manifests.append(layout.add_index(entries, annotations=ocilayouts.named(tag)))
    return specs


def test_the_platform_is_chosen_from_a_nested_index(data_root: DataRoot, scratch: Path) -> None:
    layout = Layout()
    specs = multi(layout)
    archive = scratch / "archive"
    archive.write_bytes(layout.tar())
    folder = str(layout.write(scratch / "folder"))
    wanted = {"linux/amd64": "linux/amd64", "arm64": "linux/arm64/v8", "linux/aarch64": "linux/arm64/v8"}
    wanted |= {"linux/arm/v6": "linux/arm/v6", "linux/arm": "linux/arm/v7", "linux/arm/v8": "linux/arm/v7"}
    for platform, chosen in wanted.items():
        for source in (str(archive), folder):
            (loaded,) = pull_tar(data_root, source, platform=platform)
            assert loaded.image_id == builders.sha256(specs[chosen].config), platform
            assert data_root.references.all() == {"multi:1": loaded.image_id}
    with pytest.raises(
        BadManifest, match="no image for linux/riscv64; there is one for linux/amd64, linux/arm, linux/arm/v6"
    ):
        pull_tar(data_root, str(archive), platform="linux/riscv64")
    with pytest.raises(UsageError, match="not a platform"):
        pull_tar(data_root, str(archive), platform="linux//x")


def test_platforms_that_are_not_in_the_layout_are_no_fault(data_root: DataRoot, scratch: Path) -> None:
    layout = Layout()
    specs = multi(layout)
    keep = {builders.sha256(specs["linux/arm64/v8"].config)}
    for spec in specs.values():
        if builders.sha256(spec.config) not in keep:
            layout.blobs.pop(builders.sha256(spec.config))
            layout.blobs.pop(builders.sha256(spec.layers[0]))
    (loaded,) = pull_tar(data_root, str(layout.write(scratch / "layout")), platform="arm64")
    assert loaded.image_id in keep


def test_an_index_may_be_the_platforms_of_one_image(data_root: DataRoot, scratch: Path) -> None:
    layout = Layout()
    for architecture in ("s390x", "amd64"):
        config = builders.image_config([ONE], architecture=architecture)
        words = {"os": "linux", "architecture": architecture}
        layout.manifests.append(layout.add_image(ImageSpec([ONE], config=config), platform=words))
    (loaded,) = pull_tar(data_root, str(layout.write(scratch / "layout")), platform="linux/amd64")
    assert data_root.images.get(loaded.image_id).config.architecture == "amd64"


def test_an_index_may_name_several_images_and_one_twice(data_root: DataRoot, scratch: Path) -> None:
    layout = Layout()
    one, two = ImageSpec([ONE]), ImageSpec([ONE, TWO])
    for spec, tag in ((one, "one:1"), (one, "one:latest"), (two, "two:1")):
        layout.manifests.append(layout.add_image(spec, annotations=ocilayouts.named(tag)))
    loaded = pull_tar(data_root, str(layout.write(scratch / "layout")))
    assert [[str(name) for name in image.references] for image in loaded] == [["one:1", "one:latest"], ["two:1"]]
    with pytest.raises(UsageError, match="2 images"):
        pull_tar(data_root, str(scratch / "layout"), name="mine")


@pytest.mark.parametrize(
    ("ref_name", "expected"),
    [
        ("docker.io/library/podman:1", ["podman:1"]),
        ("localhost/podman:1", ["localhost/podman:1"]),
        ("latest", []),
        ("some free text", []),
        ("Free/Text:x", []),
    ],
)
def test_the_standard_annotation_is_a_name_only_if_it_is_whole(
    ref_name: str, expected: list[str], data_root: DataRoot, scratch: Path
) -> None:
    layout = Layout()
    note = {"org.opencontainers.image.ref.name": ref_name}
    layout.manifests.append(layout.add_image(ImageSpec([ONE]), annotations=note))
    (loaded,) = pull_tar(data_root, str(layout.write(scratch / "layout")))
    assert [str(name) for name in loaded.references] == expected


def test_an_index_without_media_types(data_root: DataRoot, scratch: Path) -> None:
    layout = Layout()
    layout.index = {"schemaVersion": 2}
    descriptor = layout.add_image(ImageSpec([ONE]))
    del descriptor["mediaType"]
    layout.manifests.append(descriptor)
    (loaded,) = pull_tar(data_root, str(layout.write(scratch / "layout")))
    assert len(loaded.new_layers) == 1


def test_a_layout_directory_is_read_without_following_links(data_root: DataRoot, scratch: Path) -> None:
    layout = Layout()
    layout.manifests.append(layout.add_image(ImageSpec([ONE])))
    folder = layout.write(scratch / "layout")
    blob = folder / "blobs/sha256" / hashlib.sha256(ONE).hexdigest()
    blob.rename(scratch / "outside")
    blob.symlink_to(scratch / "outside")
    with pytest.raises(BadArchive, match="missing"):
        pull_tar(data_root, str(folder))
    blob.unlink()
    os.mkfifo(blob)
    with pytest.raises(BadArchive, match="missing"):
        pull_tar(data_root, str(folder))


def test_podmans_docker_dir(data_root: DataRoot, scratch: Path) -> None:
    spec = ImageSpec([ONE, TWO])
    layout = Layout()
    layers = [layout.add_blob(layer, "application/vnd.docker.image.rootfs.diff.tar.gzip") for layer in spec.layers]
    manifest = layout.manifest_of(spec.config, layers)
    manifest["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json"
    manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    folder = scratch / "folder"
    folder.mkdir()
    for digest, data in layout.blobs.items():
        (folder / digest[7:]).write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    (loaded,) = pull_tar(data_root, str(folder), name="dir:1")
    check_layers(data_root, loaded, spec)


def test_compressed_blobs_are_noted_for_later_pulls(data_root: DataRoot, scratch: Path) -> None:
    """image/overlay2/distribution, as the engine keeps it: a blob's digest leads to its layer's diff_id."""
    layout = Layout()
    layer = builders.layer_tar(builders.tar_member(b"a", b"a\n"))
    packed = gzip.compress(layer, mtime=0)
    layout.manifests.append(
        layout.add_image(ImageSpec([layer]), compress=lambda data: packed, annotations=ocilayouts.named("noted:1"))
    )
    pull_tar(data_root, str(layout.write(scratch / "layout")))
    digest = Digest.parse(builders.sha256(packed))
    assert diff_id_of(data_root, digest) == builders.sha256(layer)
    note = Path(data_root.image_path, "distribution/diffid-by-digest/sha256", digest.hex)
    assert note.read_text() == builders.sha256(layer)
    assert note.stat().st_mode & 0o777 == 0o644
    assert note.parent.parent.parent.stat().st_mode & 0o777 == 0o700
    # a plain layer's digest is its diff_id: nothing to note
    assert diff_id_of(data_root, Digest.parse(builders.sha256(layer))) is None
    # what is there but is not a diff_id is no answer, and is mended by the next load
    note.write_text("../../etc/passwd")
    assert diff_id_of(data_root, digest) is None
    pull_tar(data_root, str(scratch / "layout"))
    assert diff_id_of(data_root, digest) == builders.sha256(layer)
