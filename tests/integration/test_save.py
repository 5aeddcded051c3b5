"""save: archives that come back to the bit, and layers that are not what they were."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import DigestMismatch, MinidockError, NoSuchImage, StoreCorrupt, SyscallError, UsageError
from minidock.store.root import DataRoot
from minidock.verbs.pull_tar import pull_tar
from minidock.verbs.rmi import rmi
from minidock.verbs.save import save
from tests import builders
from tests.integration.tool import Terminal, Tool, command

LAYER = builders.layer_tar(
    builders.directory(b"etc"),
    builders.tar_member(b"etc/conf", b"conf\n"),
    builders.tar_member(b"etc/other", b"other\n"),
    builders.directory(b"deep"),
    builders.directory(b"deep/er"),
    builders.tar_member(b"deep/er/leaf", b"leaf\n"),
    builders.tar_member(b"large", bytes(range(256)) * 9000),
)


@pytest.fixture
def root(data_root: DataRoot, scratch: Path) -> DataRoot:
    """A data root with the image damage:1 of one layer."""
    pull_tar(
        data_root, str(builders.docker_archive(scratch / "in.tar", builders.ImageSpec([LAYER], tags=["damage:1"])))
    )
    return data_root


def layer_directory(root: DataRoot) -> Path:
    layer = root.layers.get(root.layers.all()[0])
    return Path(root.layers.diff_path(layer.cache_id))


def record(root: DataRoot, name: str) -> Path:
    return Path(root.layers.path) / root.layers.all()[0].hex / name


def saved(root: DataRoot, target: Path, *names: str, **options: Any) -> bytes:
    save(root, list(names), str(target), **options)
    return target.read_bytes()


def members_of(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        return {name: file.read() for name, file in files.items() if file}


def test_round_trip_to_another_root(root: DataRoot, scratch: Path, busybox_archive: Path) -> None:
    """The same IDs and names, and from the other root, filled at another time, the very same bytes."""
    pull_tar(root, str(busybox_archive))
    names = ("damage:1", "busybox:test")
    first = saved(root, scratch / "one.tar", *names)
    with DataRoot.open(str(scratch / "other")) as other:
        loaded = pull_tar(other, str(scratch / "one.tar"))
        assert [image.image_id for image in loaded] == [root.images.resolve(name).image_id for name in names]
        assert other.references.all() == root.references.all()
        assert saved(other, scratch / "two.tar", *names) == first
    assert saved(root, scratch / "three.tar", *names) == first
    with DataRoot.open(str(scratch / "oci")) as other:
        saved(root, scratch / "oci.tar", *names, format="oci")
        loaded = pull_tar(other, str(scratch / "oci.tar"))
        assert [image.image_id for image in loaded] == [root.images.resolve(name).image_id for name in names]
    assert "manifest.json" not in members_of((scratch / "oci.tar").read_bytes())


def test_layers_of_every_tar_dialect(data_root: DataRoot, scratch: Path) -> None:
    """Whoever packed the layer, its tar comes back as it was."""
    tree = scratch / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d/file").write_bytes(b"x" * 1000)
    (tree / ("n" * 150)).write_bytes(b"long")
    os.symlink("s" * 150, tree / "link")
    os.link(tree / "d/file", tree / "hard")
    layers = []
    for form in ("gnu", "ustar", "pax", "oldgnu"):
        layers.append(
            subprocess.run(
                ["tar", f"--format={form}", "--sort=name", "-cf", "-", "-C", tree, "."], capture_output=True
            ).stdout
        )
    for style, layer in zip(("v1", "oci", "podman", "v1"), layers, strict=True):
        spec = builders.ImageSpec([layer], tags=["dialect:1"])
        (image,) = pull_tar(data_root, str(builders.docker_archive(scratch / "in.tar", spec, style=style)))
        digest = builders.sha256(layer).removeprefix("sha256:")
        assert members_of(saved(data_root, scratch / "out.tar", image.image_id))[f"blobs/sha256/{digest}"] == layer


def test_headers_that_do_not_fit_into_memory_are_read_twice(
    root: DataRoot, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = saved(root, scratch / "one.tar", "damage:1")
    monkeypatch.setattr("minidock.verbs.save._KEPT_BYTES", 600)
    assert saved(root, scratch / "two.tar", "damage:1") == expected


def test_names_and_ids(root: DataRoot, scratch: Path) -> None:
    image_id = root.images.resolve("damage:1").image_id
    root.references.set("damage:2", image_id)
    root.references.set(f"damage@sha256:{'a' * 64}", image_id)

    def tags(*names: str) -> list[str] | None:
        (entry,) = json.loads(members_of(saved(root, scratch / "out.tar", *names))["manifest.json"])
        found: list[str] | None = entry["RepoTags"]
        return found

    assert tags("damage") == ["damage:1", "damage:2"]
    assert tags("damage:2", "docker.io/library/damage:1", "damage:2") == ["damage:2", "damage:1"]
    assert tags(image_id) is tags(image_id[7:]) is tags(image_id[7:19]) is None
    assert tags(f"damage@sha256:{'a' * 64}") is None
    for name in ("damage:3", "nothing", "f" * 64, "sha256:" + "e" * 64):
        with pytest.raises(NoSuchImage):
            tags(name)
    with pytest.raises(UsageError):
        save(root, [], str(scratch / "out.tar"))


def test_image_without_layers(data_root: DataRoot, scratch: Path) -> None:
    spec = builders.ImageSpec([], tags=["empty:1"])
    (image,) = pull_tar(data_root, str(builders.docker_archive(scratch / "in.tar", spec)))
    saved(data_root, scratch / "out.tar", "empty:1")
    with DataRoot.open(str(scratch / "other")) as other:
        assert pull_tar(other, str(scratch / "out.tar"))[0].image_id == image.image_id


def test_a_layer_that_stands_twice_in_one_image(data_root: DataRoot, scratch: Path) -> None:
    other = builders.layer_tar(builders.tar_member(b"etc/.wh.conf"))
    spec = builders.ImageSpec([LAYER, other, LAYER, other], tags=["twice:1"])
    (image,) = pull_tar(data_root, str(builders.docker_archive(scratch / "in.tar", spec)))
    with tarfile.open(fileobj=io.BytesIO(saved(data_root, scratch / "out.tar", "twice:1"))) as archive:
        names = archive.getnames()
    assert len(names) == len(set(names)) == 2 + 2 + 2 + 4
    with DataRoot.open(str(scratch / "other")) as root:
        assert pull_tar(root, str(scratch / "out.tar"))[0].image_id == image.image_id


def test_platform_and_format_are_checked(root: DataRoot, scratch: Path) -> None:
    saved(root, scratch / "out.tar", "damage:1", platform="linux/amd64")
    with pytest.raises(NoSuchImage, match="linux/arm64"):
        save(root, ["damage:1"], str(scratch / "out.tar"), platform="linux/arm64")
    with pytest.raises(UsageError, match="docker or oci"):
        save(root, ["damage:1"], str(scratch / "out.tar"), format="v1")


def _change(path: Path) -> None:
    path.write_bytes(b"CONF\n")


def _lengthen(path: Path) -> None:
    path.write_bytes(b"conf\nconf\n")


def _remove(path: Path) -> None:
    path.unlink()


def _point_outside(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def _make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _make_socket(path: Path) -> None:
    path.unlink()
    os.mknod(path, 0o140644)


def _make_device(path: Path) -> None:
    path.unlink()
    os.mknod(path, 0o20644, os.makedev(1, 5))


def _move_folder_outside(path: Path) -> None:
    outside = path.parents[3] / "outside"
    os.rename(path.parent, outside)
    path.parent.symlink_to(outside)


@pytest.mark.parametrize(
    "damage",
    [
        _change,
        _lengthen,
        _remove,
        _point_outside,
        _make_fifo,
        _make_directory,
        _make_socket,
        _make_device,
        _move_folder_outside,
    ],
)
def test_a_damaged_file_is_named(root: DataRoot, scratch: Path, damage: Callable[[Path], None]) -> None:
    target = scratch / "out.tar"
    target.write_text("what was there")
    damage(layer_directory(root) / "etc/conf")
    with pytest.raises((DigestMismatch, StoreCorrupt), match=r"file 'etc/conf'") as caught:
        save(root, ["damage:1"], str(target))
    assert "\n" not in str(caught.value)
    assert target.read_text() == "what was there"
    assert sorted(os.listdir(scratch)) == ["in.tar", "out.tar", "root"]


def test_a_symlink_within_the_layer_is_followed(root: DataRoot, scratch: Path) -> None:
    """As the layer's unpacker followed it; the bytes are the same, and that is what counts."""
    expected = saved(root, scratch / "one.tar", "damage:1")
    diff = layer_directory(root)
    os.rename(diff / "deep", diff / "moved")
    (diff / "deep").symlink_to("/moved")
    assert saved(root, scratch / "two.tar", "damage:1") == expected


@pytest.mark.parametrize("length", [None, 0, 20, -9])
def test_a_damaged_tar_split_is_told_before_anything_is_written(
    root: DataRoot, scratch: Path, length: int | None
) -> None:
    path = record(root, "tar-split.json.gz")
    if length is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:length])
    read_end, write_end = os.pipe()
    try:
        with pytest.raises(StoreCorrupt, match=r"tar-split\.json\.gz"):
            save(root, ["damage:1"], write_end)
        os.set_blocking(read_end, False)
        with pytest.raises(BlockingIOError):
            os.read(read_end, 1)
    finally:
        os.close(read_end)
        os.close(write_end)


def _lines(*entries: dict[str, Any]) -> bytes:
    return gzip.compress(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))


@pytest.mark.parametrize(
    "entries",
    [
        [{"type": 1, "name": "../../../../../etc/hostname", "size": 5, "payload": "AAAAAAAAAAA=", "position": 0}],
        [{"type": 1, "name": "/etc/hostname", "size": 1 << 60, "payload": "AAAAAAAAAAA=", "position": 0}],
        [{"type": 1, "name": "etc/co\0nf", "size": 5, "payload": "AAAAAAAAAAA=", "position": 0}],
        [{"type": 1, "name": "..", "size": 5, "payload": "AAAAAAAAAAA=", "position": 0}],
        [{"type": 1, "name": "etc/conf", "size": -5, "payload": "AAAAAAAAAAA=", "position": 0}],
        [{"type": 2, "payload": "AAAA", "position": 0}],
        [{"type": 2, "payload": "?", "position": 0}],
        [{"type": 7}],
        [],
    ],
)
def test_a_hostile_tar_split(root: DataRoot, scratch: Path, entries: list[dict[str, Any]]) -> None:
    """Nothing from outside the layer gets out, and nothing is taken for a layer that is none."""
    record(root, "tar-split.json.gz").write_bytes(_lines(*entries))
    with pytest.raises((StoreCorrupt, DigestMismatch)):
        save(root, ["damage:1"], str(scratch / "out.tar"))
    assert not (scratch / "out.tar").exists()


def test_random_damage_to_tar_split(root: DataRoot, scratch: Path) -> None:
    """Whatever stands there, save gives the true layer or one clear error, and never hangs."""
    expected = saved(root, scratch / "out.tar", "damage:1")
    path = record(root, "tar-split.json.gz")
    good = gzip.decompress(path.read_bytes())
    pieces = [
        b'"',
        b"{",
        b"\\u0000",
        b"\\ud800",
        b"..",
        b"/",
        b"9",
        b"-1",
        b"null",
        b"[]",
        b"\n",
        b"\xff",
        b"true",
        b"",
    ]
    errors = 0
    for seed in range(150):
        chance = random.Random(seed)
        lines = good.split(b"\n")
        for _ in range(chance.choice((1, 1, 3))):
            number = chance.randrange(len(lines))
            place = chance.randrange(len(lines[number]) + 1)
            # Mostly at the end, where the short fields of a line are, and not within its base64.
            if chance.random() < 0.7:
                place = max(0, len(lines[number]) - chance.randrange(1, 60))
            cut = chance.randrange(4)
            lines[number] = lines[number][:place] + chance.choice(pieces) + lines[number][place + cut :]
        if chance.random() < 0.2:
            chance.shuffle(lines)
        path.write_bytes(gzip.compress(b"\n".join(lines), 1))
        try:
            assert saved(root, scratch / "out.tar", "damage:1") == expected
        except MinidockError as error:
            assert str(error) and "\n" not in str(error)
            errors += 1
    assert errors > 50


def test_a_wrong_record(root: DataRoot, scratch: Path) -> None:
    record(root, "diff").write_text("sha256:" + "0" * 64)
    with pytest.raises(StoreCorrupt, match="diff_id"):
        save(root, ["damage:1"], str(scratch / "out.tar"))


def test_a_missing_layer(root: DataRoot, scratch: Path) -> None:
    os.rename(layer_directory(root).parent, scratch / "away")
    with pytest.raises(StoreCorrupt, match="is missing"):
        save(root, ["damage:1"], str(scratch / "out.tar"))


def test_an_image_removed_meanwhile(root: DataRoot, scratch: Path) -> None:
    def remove(kind: str, text: str) -> None:
        if kind == "read":
            with DataRoot.open(root.path) as other:
                rmi(other, ["damage:1"])

    root.trace = remove
    with pytest.raises(NoSuchImage, match="removed while it was saved"):
        save(root, ["damage:1"], str(scratch / "out.tar"))
    assert not (scratch / "out.tar").exists()


def test_killed_at_any_moment(tool: Tool, scratch: Path) -> None:
    """Nothing is left beside the target, which is whole or not there."""
    whole = tool.good("save", "-o", scratch / "whole.tar", "busybox:test")
    assert whole == ""
    (scratch / "out").mkdir()
    for hundredths in range(2, 14):
        process = tool.start("save", "-o", scratch / "out/it.tar", "busybox:test", stderr=subprocess.DEVNULL)
        try:
            process.wait(hundredths / 100)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        left = os.listdir(scratch / "out")
        assert left in ([], ["it.tar"])
        if left:
            assert (scratch / "out/it.tar").read_bytes() == (scratch / "whole.tar").read_bytes()
            (scratch / "out/it.tar").unlink()


def test_where_the_archive_may_go(root: DataRoot, scratch: Path) -> None:
    (scratch / "kept").write_text("kept")
    (scratch / "link").symlink_to("kept")
    os.mkfifo(scratch / "fifo")
    for target in ("fifo", ".", "nowhere/out.tar", ""):
        path = str(scratch / target) if target else ""
        with pytest.raises(UsageError, match="failed to save image: invalid output path"):
            save(root, ["damage:1"], path)
    # As docker does it: the name is replaced, not what it points to.
    save(root, ["damage:1"], str(scratch / "link"))
    assert (scratch / "kept").read_text() == "kept"
    assert not (scratch / "link").is_symlink()
    assert (scratch / "link").stat().st_mode & 0o777 == 0o600
    with open("/dev/full", "wb") as full, pytest.raises(SyscallError, match="No space left"):
        save(root, ["damage:1"], full.fileno())
    assert not [name for name in os.listdir(scratch) if name.startswith(".")]


def test_file_systems_without_unnamed_files(root: DataRoot, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There O_TMPFILE is no more than the O_DIRECTORY in it."""
    expected = saved(root, scratch / "one.tar", "damage:1")
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)
    assert saved(root, scratch / "two.tar", "damage:1") == expected
    _change(layer_directory(root) / "etc/conf")
    with pytest.raises(DigestMismatch):
        save(root, ["damage:1"], str(scratch / "three.tar"))
    assert sorted(os.listdir(scratch)) == ["in.tar", "one.tar", "root", "two.tar"]


def test_trace(root: DataRoot, scratch: Path) -> None:
    seen: list[str] = []
    root.trace = lambda kind, text: seen.append(kind)
    save(root, ["damage:1"], str(scratch / "out.tar"))
    assert seen == ["write", "read", "hash"]


def test_command_line(tool: Tool, scratch: Path) -> None:
    whole = subprocess.run(command("save", "busybox:test"), capture_output=True, env=tool.environment, check=True)
    assert tool.good("save", "-o", scratch / "out.tar", "busybox:test") == ""
    assert whole.stdout == (scratch / "out.tar").read_bytes()
    assert tool.good("image", "save", "--format=oci", "-o", str(scratch / "oci.tar"), "busybox") == ""
    failed = tool("save", "-o", scratch / "none.tar", "busybox:none")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "No such image: busybox:none" in failed.stderr
    assert not (scratch / "none.tar").exists()
    assert tool("save").returncode == 1


def test_a_reader_that_goes_away(tool: Tool) -> None:
    process = tool.start("save", "busybox:test", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1000)
    process.stdout.close()
    assert process.wait(30) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_terminal_is_refused(tool: Tool) -> None:
    terminal = Terminal(tool, "save", "busybox:test")
    try:
        terminal.expect(b"cowardly refusing to save to a terminal. Use the -o flag or redirect")
        assert terminal.wait() == 1
    finally:
        terminal.close()
