"""Hazards B: archives, manifests and configs that lie. One clear line, and nothing changed in the data root."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import BadArchive, DigestMismatch, MinidockError, StoreCorrupt, UnsafePath
from minidock.formats.archive import open_archive
from minidock.store.root import DataRoot
from minidock.verbs.pull_tar import pull_tar
from tests import bad_archives, bad_layouts, builders, ocilayouts
from tests.bad_archives import CASES, TINY
from tests.builders import ImageSpec
from tests.conftest import missing

assert bad_layouts  # importing it adds its cases


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("name", CASES)
def test_a_bad_archive_changes_nothing(name: str, data_root: DataRoot, scratch: Path) -> None:
    make, error, words = CASES[name]
    canary = bad_archives.write_canary(scratch)
    archive = scratch / "archive"
    archive.write_bytes(make(str(canary)))
    before, files = builders.tree_listing(data_root.path), open_files()
    with pytest.raises(error) as caught:
        pull_tar(data_root, str(archive))
    line = str(caught.value)
    assert words in line
    assert line.isprintable(), "one line without control characters"
    assert len(line) < 1000
    assert bad_archives.SECRET.decode() not in line
    assert builders.tree_listing(data_root.path) == before
    assert open_files() == files
    assert canary.read_bytes() == bad_archives.SECRET


@pytest.mark.parametrize(
    "name", ["diffid-wrong", "config-digest", "oci-blob-wrong", "layer-cut", "manifest-layer-symlink", "tag-upper"]
)
def test_a_bad_archive_from_a_pipe_changes_nothing_either(name: str, data_root: DataRoot, scratch: Path) -> None:
    make, error, _ = CASES[name]
    data = make(str(bad_archives.write_canary(scratch)))
    for stored in (data, gzip.compress(data, 1)):
        before = builders.tree_listing(data_root.path)
        reading, writing = os.pipe()
        feeder = os.fork()
        if feeder == 0:
            os.close(reading)
            with open(writing, "wb") as out:
                out.write(stored)
            os._exit(0)
        os.close(writing)
        with pytest.raises(error):
            pull_tar(data_root, reading)
        os.close(reading)
        os.waitpid(feeder, 0)
        assert builders.tree_listing(data_root.path) == before


def test_one_bad_image_of_several_and_none_appears(data_root: DataRoot, scratch: Path) -> None:
    good = ImageSpec([bad_archives.OTHER], tags=["good:1"])
    bad = ImageSpec([bad_archives.OTHER, TINY], tags=["bad:1"])
    members = bad_archives.saved(good, bad)
    layer = hashlib.sha256(TINY).hexdigest() + ".tar"
    archive = scratch / "archive"
    archive.write_bytes(
        builders.outer_tar(
            (name, TINY.replace(b"hello", b"jello") if name == layer else data) for name, data in members
        )
    )
    before = builders.tree_listing(data_root.path)
    with pytest.raises(DigestMismatch):
        pull_tar(data_root, str(archive))
    assert builders.tree_listing(data_root.path) == before


def test_a_failure_leaves_the_images_that_were_there(data_root: DataRoot, scratch: Path) -> None:
    good = builders.docker_archive(scratch / "good", ImageSpec([TINY], tags=["same:1"]))
    (loaded,) = pull_tar(data_root, str(good))
    bad = scratch / "bad"
    members = bad_archives.saved(ImageSpec([TINY, bad_archives.OTHER], tags=["same:1"]))
    broken = hashlib.sha256(bad_archives.OTHER).hexdigest() + ".tar"
    bad.write_bytes(builders.outer_tar((name, b"" if name == broken else data) for name, data in members))
    before = builders.tree_listing(data_root.path)
    with pytest.raises(MinidockError):
        pull_tar(data_root, str(bad))
    assert builders.tree_listing(data_root.path) == before
    assert data_root.references.get("same:1") == loaded.image_id


def test_an_error_while_publishing_takes_everything_back(
    data_root: DataRoot, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step, writing the names of two images, fails: layers and images go again, and no name appears."""
    archive = builders.docker_archive(
        scratch / "a", ImageSpec([TINY], tags=["one:1"]), ImageSpec([TINY, bad_archives.OTHER], tags=["two:1"])
    )

    def failing(self: Any, repositories: Any) -> Any:
        assert {"one", "two"} <= set(repositories)
        raise StoreCorrupt("no room")

    monkeypatch.setattr(type(data_root.references), "_store", failing)
    before = builders.tree_listing(data_root.path)
    with pytest.raises(StoreCorrupt):
        pull_tar(data_root, str(archive))
    assert builders.tree_listing(data_root.path) == before


def test_names_that_lead_out_of_the_archive_never_touch_the_disk(data_root: DataRoot, scratch: Path) -> None:
    """`d -> /host` and `d/x`: podman once wrote x into the host's directory."""
    host = scratch / "host"
    host.mkdir()
    (host / "kept").write_text("kept")
    good = builders.outer_tar(bad_archives.saved())
    link = builders.symlink(b"d", os.fsencode(host)) + builders.tar_member(b"d/x", b"evil")
    archive = scratch / "archive"
    archive.write_bytes(link + good)
    pull_tar(data_root, str(archive))
    assert os.listdir(host) == ["kept"]
    archive.write_bytes(builders.tar_member(os.fsencode(host)[1:].join([b"../" * 9, b"/x"]), b"evil") + good)
    with pytest.raises(UnsafePath):
        pull_tar(data_root, str(archive))
    assert os.listdir(host) == ["kept"]


@pytest.mark.parametrize("style", ["podman", "oci"])
@pytest.mark.parametrize("compress", [None, gzip.compress])
def test_a_known_layer_must_still_be_in_the_archive(
    style: str, compress: Any, data_root: DataRoot, scratch: Path
) -> None:
    """Engines skip such a layer's file: missing, damaged or another's, the archive is as bad as on a fresh root."""
    spec = ImageSpec([TINY], tags=["known:1"])
    pull_tar(data_root, str(builders.docker_archive(scratch / "a", spec)))
    members = builders.docker_archive_members(spec, style=style, compress=compress)
    layer = compress(TINY) if compress else TINY
    (name,) = (name for name, data in members if data == layer)
    other = compress(bad_archives.OTHER) if compress else bad_archives.OTHER
    archive = scratch / "b"
    before = builders.tree_listing(data_root.path)
    for wrong, error in ((None, BadArchive), (other, DigestMismatch), (layer[:-10], MinidockError)):
        changed = [(old, wrong if old == name else data) for old, data in members if old != name or wrong is not None]
        archive.write_bytes(builders.outer_tar(changed))
        with pytest.raises(error):
            pull_tar(data_root, str(archive))
        assert builders.tree_listing(data_root.path) == before
    archive.write_bytes(builders.outer_tar(members))
    (loaded,) = pull_tar(data_root, str(archive))
    assert loaded.new_layers == []


def test_no_flipped_byte_makes_a_wrong_image(data_root: DataRoot, scratch: Path) -> None:
    """Each byte in turn: either an error, or the very image, or a layer that the unpacking will refuse."""
    spec = ImageSpec([TINY], tags=["flip:1"])
    data = builders.padded(builders.outer_tar(bad_archives.saved(spec)).rstrip(b"\0")) + builders.END
    wanted = builders.sha256(spec.config)
    path = scratch / "archive"
    outcomes = {"refused": 0, "same": 0, "layer": 0}
    passed: list[bytes] = []
    for position in range(len(data)):
        flipped = data[:position] + bytes([data[position] ^ 0x01]) + data[position + 1 :]
        path.write_bytes(flipped)
        try:
            with open_archive(str(path), spool_dir=str(scratch)) as archive:
                if archive.rootfs is not None:
                    # Only a damaged name "manifest.json" could do that, and the header's sum covers it.
                    raise AssertionError(f"byte {position}: taken for a root's tree")
                (image,) = archive.images
                assert image.config.image_id == wanted, f"byte {position}"
                (blob,) = image.layers
                layer = os.pread(blob.fd, blob.length_bytes, blob.offset)
        except MinidockError:
            outcomes["refused"] += 1
            continue
        if builders.sha256(layer) == wanted_layer(image):
            outcomes["same"] += 1
        else:
            outcomes["layer"] += 1
            passed.append(flipped)
    assert min(outcomes.values()) > 100, outcomes
    before = builders.tree_listing(data_root.path)
    for flipped in passed[:: len(passed) // 25]:
        path.write_bytes(flipped)
        with pytest.raises(MinidockError):
            pull_tar(data_root, str(path))
    assert builders.tree_listing(data_root.path) == before


def wanted_layer(image: Any) -> str:
    return str(image.config.diff_ids[0])


def test_labels_and_names_of_an_image_steer_nothing_on_the_host(data_root: DataRoot, scratch: Path) -> None:
    """Every option's name as label, variable and annotation: strace sees nothing opened or run by those values."""
    if shutil.which("strace") is None:
        missing("strace is not installed")
    words = "root data-root MINIDOCK_ROOT volume mount bind device cap_add privileged runtime hook config env_file"
    labels = {word: str(scratch / "steered") for word in words.split()}
    run = {"Labels": labels, "Env": [f"{key}={value}" for key, value in labels.items()], "Volumes": {}}
    config = builders.image_config([TINY], config=run, author=labels["root"], comment=labels["root"])
    layout = ocilayouts.Layout()
    layout.manifests.append(layout.add_image(ImageSpec([TINY], config=config), annotations=labels))
    folder = layout.write(scratch / "layout")
    script = (
        "import sys; from minidock.store.root import DataRoot; from minidock.verbs.pull_tar import pull_tar\n"
        "with DataRoot.open(sys.argv[1]) as root: print(len(pull_tar(root, sys.argv[2])))"
    )
    trace = scratch / "trace"
    strace = ("strace", "-f", "-qq", "-e", "trace=%file,execve", "-s", "300", "-o", trace)
    done = builders.run_command(*strace, sys.executable, "-c", script, data_root.path, folder)
    assert done.stdout == "1\n"
    calls = trace.read_text()
    assert str(folder / "index.json") in calls or "index.json" in calls
    assert "steered" not in calls
    assert calls.count("execve(") == 1


def test_labels_of_ten_megabytes_load(data_root: DataRoot, scratch: Path) -> None:
    config = builders.image_config([TINY], config={"Labels": {"big": "x" * (10 << 20)}})
    (loaded,) = pull_tar(data_root, str(builders.docker_archive(scratch / "a", ImageSpec([TINY], config=config))))
    assert data_root.images.get(loaded.image_id).raw == config


@pytest.mark.many
def test_125_layers_load(data_root: DataRoot, scratch: Path) -> None:
    layers = [builders.layer_tar(builders.tar_member(b"f%d" % number, b"x")) for number in range(125)]
    (loaded,) = pull_tar(data_root, str(builders.docker_archive(scratch / "a", ImageSpec(layers, tags=["deep:1"]))))
    assert len(loaded.new_layers) == 125
    assert len(data_root.layers.links(loaded.new_layers[-1])) == 125
