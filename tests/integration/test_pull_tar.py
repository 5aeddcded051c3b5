"""pull-tar of good archives: every kind, every packing, from files, pipes and directories."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import resource
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

try:
    from compression import zstd  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    from backports import zstd

from minidock.errors import BadArchive, BadManifest, MinidockError, NotFound, UsageError
from minidock.formats.tarsplit import reassemble
from minidock.ids import ChainID
from minidock.store.root import DataRoot
from minidock.verbs.pull_tar import LoadedImage, pull_tar
from tests import builders
from tests.builders import ImageSpec
from tests.ocilayouts import Layout

ONE = builders.layer_tar(builders.directory(b"etc"), builders.tar_member(b"etc/one", b"one\n"))
TWO = builders.layer_tar(builders.tar_member(b"etc/two", b"two\n", uid=5), builders.symlink(b"link", b"etc/two"))
THREE = builders.layer_tar(builders.tar_member(b"etc/.wh.one", b""))
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "gzip in two members": lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
}


def check_layers(root: DataRoot, loaded: LoadedImage, spec: ImageSpec) -> None:
    """The image is there with its own bytes, and each layer's tar can be rebuilt to the bit."""
    image = root.images.get(loaded.image_id)
    assert image.raw == spec.config
    chain_ids = image.config.chain_ids
    assert [layer.chain_id for layer in root.layers.stack(chain_ids[-1])] == chain_ids[::-1]
    for chain_id, tar in zip(chain_ids, spec.layers, strict=True):
        assert rebuild(root, chain_id) == tar
    assert set(loaded.new_layers) | set(loaded.known_layers) == set(chain_ids)


def rebuild(root: DataRoot, chain_id: ChainID) -> bytes:
    diff = root.layers.diff_path(root.layers.get(chain_id).cache_id)

    def open_member(name: bytes) -> int:
        return os.open(os.path.join(os.fsencode(diff), name), os.O_RDONLY)

    with open(root.layers.tar_split_path(chain_id), "rb") as split:
        return b"".join(reassemble(split.fileno(), open_member))


def feed(data: bytes) -> int:
    """A pipe's reading end that gives data, in the sizes a pipe gives."""
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as out:
            out.write(data)

    threading.Thread(target=write, daemon=True).start()
    return reading


@pytest.mark.parametrize("style", ["v1", "oci", "podman"])
def test_several_images_that_share_layers(style: str, data_root: DataRoot, scratch: Path) -> None:
    specs = [ImageSpec([ONE, TWO], tags=["a:1", "a:latest"]), ImageSpec([ONE, TWO, THREE], tags=["quay.io/b/c:2"])]
    archive = builders.docker_archive(scratch / "archive", *specs, style=style)
    events: list[tuple[str, str]] = []
    loaded = pull_tar(data_root, str(archive), progress=lambda key, state, done, total: events.append((key, state)))
    for result, spec in zip(loaded, specs, strict=True):
        check_layers(data_root, result, spec)
        assert [str(reference) for reference in result.references] == spec.tags
        assert (result.moved_tags, result.warnings) == ([], [])
    assert [len(result.new_layers) for result in loaded] == [2, 1]
    assert loaded[1].known_layers == loaded[0].new_layers
    assert len(data_root.layers.all()) == len(os.listdir(data_root.overlay_path)) - 1 == 3
    assert sorted(data_root.references.all()) == ["a:1", "a:latest", "quay.io/b/c:2"]
    keys = [hashlib.sha256(layer).hexdigest()[:12] for layer in (ONE, TWO, THREE)]
    assert [event for event in events if event[1] == "Pull complete"] == [(key, "Pull complete") for key in keys]
    assert not os.listdir(data_root.stage_path)


@pytest.mark.parametrize("packing", PACKINGS)
def test_layers_in_every_compression(packing: str, data_root: DataRoot, scratch: Path) -> None:
    spec = ImageSpec([ONE, TWO], tags=["packed:1"])
    for style in ("podman", "oci"):
        archive = builders.docker_archive(scratch / style, spec, style=style, compress=PACKINGS[packing])
        (loaded,) = pull_tar(data_root, str(archive))
        check_layers(data_root, loaded, spec)
    layout = Layout()
    layout.manifests.append(layout.add_image(spec, compress=PACKINGS[packing]))
    (scratch / "layout").write_bytes(layout.tar())
    (loaded,) = pull_tar(data_root, str(scratch / "layout"))
    assert loaded.image_id == builders.sha256(spec.config)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("way", ["file", "descriptor", "pipe"])
def test_archives_in_every_compression(packing: str, way: str, data_root: DataRoot, scratch: Path) -> None:
    spec = ImageSpec([ONE, TWO], tags=["outer:1"])
    data = PACKINGS[packing](builders.docker_archive(scratch / "plain", spec).read_bytes())
    (scratch / "packed").write_bytes(data)
    if way == "file":
        (loaded,) = pull_tar(data_root, str(scratch / "packed"))
    else:
        fd = os.open(scratch / "packed", os.O_RDONLY) if way == "descriptor" else feed(data)
        (loaded,) = pull_tar(data_root, fd)
        os.close(fd)
    check_layers(data_root, loaded, spec)
    assert not os.listdir(data_root.stage_path)


def test_a_descriptor_is_read_from_where_it_stands_and_stays_the_callers(data_root: DataRoot, scratch: Path) -> None:
    archive = builders.docker_archive(scratch / "archive", ImageSpec([ONE], tags=["there:1"]))
    archive.write_bytes(b"#!/bin/sh\n" * 10 + archive.read_bytes())
    with open(archive, "rb", buffering=0) as stream:
        stream.seek(100)
        (loaded,) = pull_tar(data_root, stream.fileno())
        assert os.fstat(stream.fileno()).st_size > 100
    assert len(loaded.new_layers) == 1


def test_members_in_any_order_and_with_dot_slash(data_root: DataRoot, scratch: Path) -> None:
    spec = ImageSpec([ONE, TWO], tags=["order:1"])
    members = builders.docker_archive_members(spec)
    for order in (members, members[::-1]):
        named = [("./" + name, data) for name, data in order]
        (scratch / "archive").write_bytes(builders.outer_tar([("./", None), *named]))
        (loaded,) = pull_tar(data_root, str(scratch / "archive"))
        check_layers(data_root, loaded, spec)


def test_outer_tars_of_other_makers(data_root: DataRoot, scratch: Path) -> None:
    """GNU tar, Python's PAX, hard links for layers that repeat, and no end blocks."""
    spec = ImageSpec([ONE, ONE], tags=["made:1"])
    folder = scratch / "folder"
    for name, data in builders.docker_archive_members(spec, style="podman"):
        assert isinstance(data, bytes)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    layer = hashlib.sha256(ONE).hexdigest() + ".tar"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest[0]["Layers"][1] = "z" * 120 + "/again.tar"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / ("z" * 120)).mkdir()
    os.link(folder / layer, folder / ("z" * 120) / "again.tar")
    for form in ("gnu", "posix"):
        builders.run_command("tar", f"--format={form}", "-C", folder, "-cf", scratch / form, ".")
        (loaded,) = pull_tar(data_root, str(scratch / form))
        check_layers(data_root, loaded, spec)
    data = (scratch / "gnu").read_bytes()
    (scratch / "endless").write_bytes(builders.padded(data.rstrip(b"\0")))
    pull_tar(data_root, str(scratch / "endless"))


def test_a_second_time_everything_is_known(data_root: DataRoot, scratch: Path) -> None:
    spec = ImageSpec([ONE, TWO], tags=["twice:1"])
    archive = builders.docker_archive(scratch / "archive", spec)
    first = pull_tar(data_root, str(archive))[0]
    before = builders.tree_listing(data_root.path)
    events: list[str] = []
    second = pull_tar(data_root, str(archive), progress=lambda key, state, done, total: events.append(state))[0]
    assert (second.new_layers, second.known_layers) == ([], first.new_layers)
    assert second.moved_tags == []
    assert set(events) == {"Already exists"}
    assert builders.tree_listing(data_root.path) == before


def test_a_name_that_moves_is_told(data_root: DataRoot, scratch: Path) -> None:
    old = pull_tar(data_root, str(builders.docker_archive(scratch / "a", ImageSpec([ONE], tags=["name:1"]))))[0]
    new = pull_tar(data_root, str(builders.docker_archive(scratch / "b", ImageSpec([TWO], tags=["name:1"]))))[0]
    assert new.moved_tags == [("name:1", old.image_id)]
    assert data_root.references.get("name:1") == new.image_id
    assert data_root.references.of_image(old.image_id) == []
    assert data_root.images.get(old.image_id).raw


def test_a_name_of_ones_own(data_root: DataRoot, scratch: Path) -> None:
    archive = builders.docker_archive(scratch / "a", ImageSpec([ONE], tags=["theirs:1", "theirs:2"]))
    (loaded,) = pull_tar(data_root, str(archive), name="mine")
    assert data_root.references.all() == {"mine:latest": loaded.image_id}
    several = builders.docker_archive(scratch / "b", ImageSpec([ONE]), ImageSpec([TWO]))
    with pytest.raises(UsageError, match="2 images"):
        pull_tar(data_root, str(several), name="mine")


def test_an_image_without_a_name(data_root: DataRoot, scratch: Path) -> None:
    (loaded,) = pull_tar(data_root, str(builders.docker_archive(scratch / "a", ImageSpec([ONE]))))
    assert loaded.references == []
    assert data_root.references.all() == {}


def test_an_image_without_layers(data_root: DataRoot, scratch: Path) -> None:
    (loaded,) = pull_tar(data_root, str(builders.docker_archive(scratch / "a", ImageSpec([], tags=["scratch:1"]))))
    assert loaded.new_layers == []
    assert data_root.images.get(loaded.image_id).chain_id is None


def test_a_parent_in_the_same_archive_is_kept(data_root: DataRoot, scratch: Path) -> None:
    base, child = ImageSpec([ONE], tags=["base:1"]), ImageSpec([ONE, TWO], tags=["child:1"])
    stranger = ImageSpec([ONE, THREE], tags=["other:1"])
    members = dict(builders.docker_archive_members(base, child, stranger, style="podman"))
    manifest = json.loads(members["manifest.json"])  # type: ignore[arg-type]
    manifest[1]["Parent"] = builders.sha256(base.config)
    manifest[2]["Parent"] = "sha256:" + "0" * 64
    members["manifest.json"] = json.dumps(manifest).encode()
    (scratch / "a").write_bytes(builders.outer_tar(members.items()))
    loaded = pull_tar(data_root, str(scratch / "a"))
    assert [data_root.images.parent(image.image_id) for image in loaded] == [None, loaded[0].image_id, None]


def test_another_architecture_loads_with_a_warning(data_root: DataRoot, scratch: Path) -> None:
    spec = ImageSpec([ONE], tags=["far:1"], config=builders.image_config([ONE], architecture="s390x"))
    archive = str(builders.docker_archive(scratch / "a", spec))
    (loaded,) = pull_tar(data_root, archive)
    assert "linux/s390x" in loaded.warnings[0]
    assert pull_tar(data_root, archive, platform="linux/s390x")[0].warnings == []
    with pytest.raises(BadManifest, match="not for linux/arm64"):
        pull_tar(data_root, archive, platform="linux/arm64")


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("way", ["file", "pipe"])
def test_a_roots_tree_becomes_an_image(packing: str, way: str, data_root: DataRoot, scratch: Path) -> None:
    data = PACKINGS[packing](ONE)
    (scratch / "rootfs").write_bytes(data)
    source: str | int = str(scratch / "rootfs") if way == "file" else feed(data)
    (loaded,) = pull_tar(data_root, source, name="tree:1")
    if isinstance(source, int):
        os.close(source)
    assert data_root.references.all() == {"tree:1": loaded.image_id}
    config = data_root.images.get(loaded.image_id).config
    assert config.diff_ids == [builders.sha256(ONE)]
    assert (config.comment, config.history[0].comment) == ("Imported from -", "Imported from -")
    assert rebuild(data_root, config.chain_ids[0]) == ONE
    (again,) = pull_tar(data_root, str(scratch / "rootfs"))
    assert again.known_layers == loaded.new_layers
    assert again.references == []


def test_a_roots_tree_has_more_members_than_an_image_archive(
    data_root: DataRoot, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minidock.formats.tarindex.MAX_MEMBERS", 10)
    files = [builders.tar_member(b"f%d" % number) for number in range(50)]
    tree = builders.layer_tar(*files)
    (scratch / "tree").write_bytes(tree)
    (loaded,) = pull_tar(data_root, str(scratch / "tree"))
    assert rebuild(data_root, loaded.new_layers[0]) == tree
    images = builders.docker_archive(scratch / "a", ImageSpec([ONE])).read_bytes()
    (scratch / "a").write_bytes(images.rstrip(b"\0") + bytes(-len(images.rstrip(b"\0")) % 512) + tree)
    with pytest.raises(BadArchive, match="members"):
        pull_tar(data_root, str(scratch / "a"))


def test_each_step_is_told(scratch: Path) -> None:
    """What --explain shows of a load: the archive, each layer's place, hashes with their inputs, each write."""
    spec = ImageSpec([ONE, TWO], tags=["told:1"])
    archive = builders.docker_archive(scratch / "a", spec)
    lines: list[tuple[str, str]] = []
    with DataRoot.open(str(scratch / "root"), trace=lambda kind, text: lines.append((kind, text))) as root:
        (loaded,) = pull_tar(root, str(archive))
        bottom, top = loaded.new_layers
        assert lines[0] == ("read", f"{archive}: docker-save")
        with tarfile.open(archive) as opened:
            offsets = [member.offset_data for member in opened if member.name.endswith("layer.tar")]
        for layer, offset in zip(spec.layers, offsets, strict=True):
            assert ("read", f"{builders.sha256(layer)[7:19]}: {len(layer)} bytes from byte {offset}") in lines
        told = [text for kind, text in lines if kind == "hash"]
        assert any(bottom in text and builders.sha256(TWO) in text for text in told), "the chain ID's two inputs"
        assert any(text.endswith(f"sha256sum  # diff_id = {builders.sha256(ONE)}") for text in told)
        assert any(loaded.image_id in text and f"{len(spec.config)} bytes" in text for text in told)
        written = [text for kind, text in lines if kind == "write"]
        names = [Path(root.image_path, "repositories.json"), Path(root.path, "minidock/repositories.json")]
        assert written[-2:] == [*map(str, names)], "the names come last, and then their copy"
        for chain_id in (bottom, top):
            assert any(f"layerdb/sha256/{chain_id.hex}/" in text for text in written)
        again = len(lines)
        source = feed(archive.read_bytes())
        pull_tar(root, source)
        os.close(source)
        assert "spooled" in lines[again][1]
        assert not any("layerdb" in text for _, text in lines[again:])


# --- the ways in


def test_no_such_file(data_root: DataRoot, scratch: Path) -> None:
    for name in (str(scratch / "none.tar"), "", "a\0b"):
        with pytest.raises(NotFound, match="no such file"):
            pull_tar(data_root, name)


def test_what_cannot_be_read_is_one_error(data_root: DataRoot, scratch: Path) -> None:
    closed = 9999
    writable = os.open(scratch / "written", os.O_WRONLY | os.O_CREAT)
    for source, words in (
        (closed, "Bad file"),
        (writable, "Bad file"),
        ("/proc/self/mem", "Input/output"),
        ("/dev/null", "empty"),
    ):
        with pytest.raises(MinidockError, match=words):
            pull_tar(data_root, source)
    os.close(writable)
    with pytest.raises(BadArchive, match="without index.json"):
        pull_tar(data_root, str(scratch))


def test_a_fifo_is_a_stream(data_root: DataRoot, scratch: Path) -> None:
    archive = builders.docker_archive(scratch / "archive", ImageSpec([ONE], tags=["fifo:1"]))
    os.mkfifo(scratch / "fifo")
    threading.Thread(target=lambda: (scratch / "fifo").write_bytes(archive.read_bytes()), daemon=True).start()
    (loaded,) = pull_tar(data_root, str(scratch / "fifo"))
    assert len(loaded.new_layers) == 1


def test_what_docker_writes_for_each_layer(data_root: DataRoot, scratch: Path) -> None:
    spec = ImageSpec([ONE, TWO], tags=["files:1"])
    (loaded,) = pull_tar(data_root, str(builders.docker_archive(scratch / "a", spec)))
    bottom, top = (data_root.layers.get(chain_id) for chain_id in loaded.new_layers)
    record = Path(data_root.image_path, "layerdb/sha256", top.chain_id.hex)
    assert sorted(os.listdir(record)) == ["cache-id", "diff", "parent", "size", "tar-split.json.gz"]
    assert (record / "parent").read_text() == bottom.chain_id
    assert (record / "diff").read_text() == builders.sha256(TWO)
    assert (record / "size").read_text() == str(len("two\n") + len("etc/two"))
    directory = Path(data_root.overlay_path, top.cache_id)
    assert sorted(os.listdir(directory)) == ["committed", "diff", "link", "lower", "work"]
    assert (directory / "lower").read_text() == "l/" + Path(data_root.overlay_path, bottom.cache_id, "link").read_text()
    assert os.readlink(Path(data_root.overlay_path, "l", (directory / "link").read_text())) == f"../{top.cache_id}/diff"
    status = (directory / "diff/etc/two").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (5, 0o644)
    assert os.listdir(Path(data_root.image_path, "imagedb/metadata/sha256")) == []


def test_the_archive_is_never_held_in_memory(data_root: DataRoot, scratch: Path) -> None:
    """A child with 64 MB of data to have loads 200 MB, in place and through a pipe."""
    with open(scratch / "layer", "wb") as out:
        out.write(builders.tar_header(b"big", size=200 << 20))
        for _ in range(200):
            out.write(bytes(1 << 20))
        out.write(builders.END)
    with open(scratch / "layer", "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    config = builders.image_config(["sha256:" + digest])
    manifest = json.dumps([{"Config": "config.json", "Layers": ["layer.tar"], "RepoTags": ["big:1"]}]).encode()
    with tarfile.open(scratch / "archive", "w") as archive:
        archive.add(scratch / "layer", "layer.tar")
        for name, data in (("config.json", config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    os.unlink(scratch / "layer")
    reading, writing = os.pipe()
    feeder = os.fork()
    if feeder == 0:
        os.close(reading)
        with open(writing, "wb") as out, open(scratch / "archive", "rb") as source:
            while chunk := source.read(1 << 20):
                out.write(chunk)
        os._exit(0)
    os.close(writing)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            used = int(Path("/proc/self/statm").read_text().split()[5]) * 4096
            resource.setrlimit(resource.RLIMIT_DATA, (used + (64 << 20), used + (64 << 20)))
            pull_tar(data_root, reading)
            pull_tar(data_root, str(scratch / "archive"))
            status = 0
        finally:
            os._exit(status)
    os.close(reading)
    assert os.waitpid(child, 0)[1] == 0
    os.waitpid(feeder, 0)
    assert data_root.references.get("big:1") is not None
