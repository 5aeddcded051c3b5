"""Images put into the data root of a machine that is only being made, and the same tree whenever that is done."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import builders
from tests.integration.tool import command

EPOCH = 1_700_000_000
FOREIGN = "s390x"


def preload(root: Path, *words: str | Path, epoch: int | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    if epoch is not None:
        environment["SOURCE_DATE_EPOCH"] = str(epoch)
    return builders.run_command(*command("--root", root, *words), check=False, env=environment, timeout=60)


def good(root: Path, *words: str | Path, epoch: int | None = None) -> str:
    done = preload(root, *words, epoch=epoch)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listing(root: Path, *, with_times: bool = True) -> dict[bytes, tuple[Any, ...]]:
    """Everything about every file below a root, and about the root itself."""
    found: dict[bytes, tuple[Any, ...]] = {}
    base = os.fsencode(root)
    paths = [base]
    for where, directories, files in os.walk(base):
        paths += [os.path.join(where, name) for name in directories + files]
    for path in paths:
        status = os.lstat(path)
        content = ""
        if stat.S_ISLNK(status.st_mode):
            content = os.fsdecode(os.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
        names = sorted(os.listxattr(path, follow_symlinks=False))
        xattrs = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        time_ns = status.st_mtime_ns if with_times else 0
        facts = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_nlink, size, time_ns)
        found[path[len(base) :]] = (*facts, content, xattrs)
    return found


def differences(one: dict[bytes, tuple[Any, ...]], other: dict[bytes, tuple[Any, ...]]) -> list[str]:
    return sorted(
        f"{os.fsdecode(path)}: {one.get(path)} / {other.get(path)}"
        for path in one.keys() | other.keys()
        if one.get(path) != other.get(path)
    )


@pytest.fixture(scope="module")
def archive(session_scratch: Path, busybox_layer: bytes) -> Path:
    """Two images that share a layer, with parents that no entry makes, whiteouts, an opaque mark and an xattr."""
    upper = builders.layer_tar(
        builders.tar_member(b"implied/deeper/file", b"x" * 5000, mtime=1_500_000_000),
        builders.tar_member(b"etc/.wh.vanished", b""),
        builders.tar_member(b"gone/.wh.x", b""),
        builders.directory(b"home", mtime=1_500_000_001),
        builders.tar_member(b"home/.wh..wh..opq", b""),
        builders.tar_member(b"late/.wh.x", b""),
        builders.directory(b"late", mtime=1_500_000_002),
        builders.symlink(b"link", b"implied", mtime=1_500_000_003),
        *(builders.tar_member(b"many/%d" % number, b"%d" % number) for number in range(700)),
    )
    return builders.docker_archive(
        session_scratch / "preload.tar",
        builders.ImageSpec([busybox_layer, upper], tags=["app:1", "app:latest"]),
        builders.ImageSpec([busybox_layer], tags=["base:1"]),
    )


@pytest.fixture(scope="module")
def packed(archive: Path) -> Path:
    """The same, compressed, so that it is read as a stream."""
    target = archive.with_suffix(".tar.gz")
    target.write_bytes(gzip.compress(archive.read_bytes(), 1))
    return target


def foreign_archive(folder: Path, layer: bytes) -> Path:
    config = builders.image_config([layer], architecture=FOREIGN)
    image = builders.ImageSpec([layer], tags=["foreign:1"], config=config)
    return builders.docker_archive(folder / "foreign.tar", image)


def test_a_root_that_is_not_there_yet(scratch: Path, archive: Path) -> None:
    root = scratch / "rootfs/var/lib/docker"
    good(root, "pull-tar", "-q", archive)
    assert str(root) not in Path("/proc/self/mountinfo").read_text()
    modes = {
        "": 0o710,
        "image": 0o700,
        "image/overlay2": 0o700,
        "image/overlay2/imagedb/content/sha256": 0o700,
        "image/overlay2/repositories.json": 0o600,
        "overlay2": 0o710,
        "overlay2/l": 0o700,
        "containers": 0o710,
    }
    assert {name: stat.S_IMODE(os.lstat(root / name).st_mode) for name in modes} == modes
    assert os.listdir(root / "minidock/stage") == []
    assert good(root, "images", "-q").count("\n") == 3


def test_a_second_run_changes_nothing(scratch: Path, archive: Path) -> None:
    root = scratch / "root"
    good(root, "pull-tar", "-q", archive)
    before = listing(root)
    good(root, "pull-tar", "-q", archive)
    different = differences(before, listing(root))
    # The stage is where all work is done; only its time tells that there was some.
    assert [line.partition(":")[0] for line in different] == ["/minidock/stage"]


@pytest.mark.parametrize("words", [("--reproducible",), ()], ids=["option", "epoch"])
def test_two_fresh_roots_are_equal_to_the_byte(
    scratch: Path, archive: Path, packed: Path, words: tuple[str, ...]
) -> None:
    epoch = None if words else EPOCH
    roots = [scratch / name for name in ("one", "two", "three")]
    for root, source in zip(roots, (archive, packed, packed), strict=True):
        good(root, "pull-tar", "-q", *words, source, epoch=epoch)
    first, second, third = (listing(root) for root in roots)
    assert differences(first, second) == differences(second, third) == []
    assert len(first) > 700
    wanted_ns = EPOCH * 1_000_000_000 if epoch else 1_767_323_045_678_000_000
    for path, facts in first.items():
        parts = path.split(b"/")
        if b"diff" not in parts or parts[-1] in (b"implied", b"deeper", b"many", b"vanished", b"x", b"gone", b"diff"):
            assert facts[6] == wanted_ns, path
    assert b"/minidock" not in first
    good(roots[0], "pull-tar", "-q", *words, archive, epoch=epoch)
    assert differences(first, listing(roots[0])) == []
    # The tree is whole: what was left out or moved would show here.
    assert good(roots[0], "run", "--rm", "--network", "none", "app:1", "cat", "/many/699") == "699"
    good(roots[0], "save", "-o", scratch / "saved.tar", "app:1")


def test_a_run_that_was_killed_before(scratch: Path, archive: Path) -> None:
    good(scratch / "whole", "pull-tar", "-q", archive, epoch=EPOCH)
    wanted = listing(scratch / "whole")
    environment = {"PATH": os.environ["PATH"], "SOURCE_DATE_EPOCH": str(EPOCH)}
    ended = []
    for number in range(8):
        root = scratch / f"root{number}"
        words = command("--root", root, "pull-tar", "-q", archive)
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
        try:
            process.wait(0.06 + 0.02 * number)
        except subprocess.TimeoutExpired:
            process.kill()
        ended.append(process.wait())
        good(root, "pull-tar", "-q", archive, epoch=EPOCH)
        assert differences(wanted, listing(root)) == [], number
    assert -9 in ended


def test_without_it_names_are_drawn(scratch: Path, archive: Path) -> None:
    for name in ("one", "two"):
        good(scratch / name, "pull-tar", "-q", archive)
    one, two = (set(os.listdir(scratch / name / "overlay2")) for name in ("one", "two"))
    assert one & two == {"l"}


def test_load_import_and_commit(scratch: Path, archive: Path) -> None:
    roots = [scratch / name for name in ("one", "two")]
    tree = scratch / "tree.tar"
    tree.write_bytes(builders.layer_tar(builders.tar_member(b"a", b"a")))
    for root in roots:
        good(root, "load", "-q", "-i", archive, epoch=EPOCH)
        good(root, "import", "--reproducible", tree, "tree:1")
        assert good(root, "inspect", "-f", "{{.Created}}", "tree:1") == "1970-01-01T00:00:00Z\n"
    assert differences(*(listing(root) for root in roots)) == []
    images = []
    for root in roots:
        good(root, "create", "--name", "box", "--network", "none", "app:1", "true")
        images.append(good(root, "commit", "--reproducible", "box", "done:1"))
    assert images[0] == images[1]
    assert good(roots[0], "inspect", "-f", "{{.Created}}", "done:1") == "2026-01-02T03:04:05.678Z\n"
    # Without a change to any file there is no layer, and without --reproducible another image each time.
    assert good(roots[0], "commit", "box") != images[0]


def test_a_commit_of_equal_changes(scratch: Path, archive: Path) -> None:
    """What a container wrote has the times that it had there; all else is the same again."""
    script = "mkdir -p /made/deep && echo x >/made/file && touch -d @77 /made/file /made/deep /made"
    found = []
    for name in ("one", "two"):
        root = scratch / name
        good(root, "pull-tar", "-q", "--reproducible", archive)
        good(root, "run", "--name", "box", "--network", "none", "base:1", "sh", "-c", script)
        image_id = good(root, "commit", "box", "done:1", epoch=EPOCH)
        good(root, "rm", "box")
        (layer,) = [path.parents[2] for path in (root / "overlay2").glob("*/diff/made/file")]
        assert {path.name: path.stat().st_mtime for path in layer.iterdir()} == dict.fromkeys(os.listdir(layer), EPOCH)
        names = sorted(os.listdir(root / "overlay2")), sorted(os.listdir(root / "overlay2/l"))
        found.append((image_id, names, listing(layer)))
    assert found[0] == found[1]


def test_a_derived_name_that_is_taken(scratch: Path, archive: Path) -> None:
    root, other = scratch / "root", scratch / "other"
    good(other, "pull-tar", "-q", "--reproducible", archive)
    for name in os.listdir(other / "overlay2"):
        if name != "l":
            (root / "overlay2" / name / "diff").mkdir(parents=True)
            (root / "overlay2" / name / "diff/precious").write_text("mine")
    good(root, "pull-tar", "-q", "--reproducible", archive)
    assert all(
        (path / "diff/precious").read_text() == "mine"
        for path in (root / "overlay2").glob("*")
        if (path.name != "l" and (other / "overlay2" / path.name).exists())
    )
    assert good(root, "run", "--rm", "--network", "none", "app:1", "cat", "/many/7") == "7"


def test_an_image_for_another_machine(scratch: Path, busybox_layer: bytes) -> None:
    done = preload(scratch / "root", "pull-tar", "-q", foreign_archive(scratch, busybox_layer))
    assert done.returncode == 0
    assert FOREIGN in done.stderr and len(done.stderr.splitlines()) == 1
    (found,) = json.loads(good(scratch / "root", "inspect", "foreign:1"))
    assert found["Architecture"] == FOREIGN


def test_one_of_several_platforms(scratch: Path, busybox_layer: bytes) -> None:
    layout = scratch / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)

    def blob(data: bytes, media_type: str) -> dict[str, Any]:
        (layout / "blobs/sha256" / builders.sha256(data)[7:]).write_bytes(data)
        return {
            "mediaType": f"application/vnd.oci.image.{media_type}",
            "digest": builders.sha256(data),
            "size": len(data),
        }

    manifests = []
    for architecture in ("amd64", FOREIGN):
        layer = builders.layer_tar(builders.tar_member(b"arch", architecture.encode()))
        config = builders.image_config([layer], architecture=architecture)
        document = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob(config, "config.v1+json"),
            "layers": [blob(layer, "layer.v1.tar")],
        }
        entry = blob(json.dumps(document).encode(), "manifest.v1+json")
        manifests.append({**entry, "platform": {"os": "linux", "architecture": architecture}})
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
    nested = blob(json.dumps(index).encode(), "index.v1+json")
    nested["annotations"] = {"org.opencontainers.image.ref.name": "many:1"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [nested]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    root = scratch / "root"
    done = preload(root, "pull-tar", "-q", "--platform", f"linux/{FOREIGN}", layout)
    assert (done.returncode, done.stderr) == (0, "")
    assert good(root, "inspect", "-f", "{{.Architecture}}", "many:1") == f"{FOREIGN}\n"
    assert [path.read_text() for path in (root / "overlay2").glob("*/diff/arch")] == [FOREIGN]


@pytest.mark.parametrize("text", ["soon", "-1", "1e9", "99999999999999"])
def test_a_time_that_is_none(scratch: Path, archive: Path, text: str) -> None:
    environment = {"PATH": os.environ["PATH"], "SOURCE_DATE_EPOCH": text}
    words = command("--root", scratch / "root", "pull-tar", "-q", archive)
    done = builders.run_command(*words, check=False, env=environment, timeout=60)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "SOURCE_DATE_EPOCH" in line
    assert not (scratch / "root").exists()
