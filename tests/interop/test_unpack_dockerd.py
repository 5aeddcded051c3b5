"""Unpacked layers against the engine's own: the same trees, the same tar-split, the same refusals."""

from __future__ import annotations

import base64
import gzip
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import MinidockError
from tests import builders, layer_cases
from tests.conftest import Engine, missing
from tests.integration.test_unpack import Unpacked, unpack_bytes

# Times that the engine takes from its own clock: missing parents and whiteouts.
CLOCK_SLACK_NS = 3600 * 10**9


def describe_tree(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """Everything below root that a container could see, by path; hard links as groups of names."""
    tree: dict[bytes, tuple[Any, ...]] = {}
    inodes: dict[int, bytes] = {}
    base = os.fsencode(root)
    for where, directories, files in os.walk(base):
        for path in sorted([where] + [os.path.join(where, name) for name in directories + files]):
            relative = path[len(base) :]
            if relative in tree:
                continue
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            content: Any = None
            if kind == stat.S_IFREG:
                content = Path(os.fsdecode(path)).read_bytes()
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                content = status.st_rdev
            first = inodes.setdefault(status.st_ino, relative) if kind != stat.S_IFDIR else relative
            xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in _xattrs(path)}
            mtime = status.st_mtime_ns if relative else 0
            tree[relative] = (status.st_mode, status.st_uid, status.st_gid, content, first, mtime, xattrs)
    return tree


def _xattrs(path: bytes) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


def assert_same_tree(ours: Path, theirs: Path, label: str) -> None:
    """Compare but for the times that nobody chose."""
    left, right = describe_tree(ours), describe_tree(theirs)
    assert left.keys() == right.keys(), label
    for path, mine in left.items():
        other = right[path]
        if abs(mine[5] - other[5]) < CLOCK_SLACK_NS and mine[5] > 1_700_000_000 * 10**9:
            mine, other = (*mine[:5], 0, mine[6]), (*other[:5], 0, other[6])
        assert mine == other, (label, path)


def tar_split_of(data: bytes) -> list[tuple[Any, ...]]:
    """The entries, with segments that follow each other joined."""
    entries: list[tuple[Any, ...]] = []
    for line in gzip.decompress(data).splitlines():
        entry = json.loads(line)
        if entry["type"] == 2:
            payload = base64.b64decode(entry["payload"] or "")
            if entries and entries[-1][0] == "segment":
                payload = entries.pop()[1] + payload
            if payload:
                entries.append(("segment", payload))
        else:
            entries.append(
                ("file", entry.get("name"), entry.get("name_raw"), entry.get("size", 0), entry.get("payload"))
            )
    return entries


def load(dockerd: Engine, scratch: Path, layers: list[bytes], tag: str) -> str:
    """Load an image of these layers; returns the error, empty if it went well."""
    archive = builders.docker_archive(scratch / "image.tar", builders.ImageSpec(layers, tags=[tag]))
    done = dockerd.docker("load", "-i", archive, check=False)
    archive.unlink()
    return "" if done.returncode == 0 else done.stderr.strip() or "failed"


def engine_layers(dockerd: Engine) -> dict[str, tuple[Path, Path]]:
    """diff_id -> (diff directory, layerdb directory) of what the engine holds."""
    database = dockerd.root / "image/overlay2/layerdb/sha256"
    found = {}
    for chain in database.iterdir():
        cache_id = (chain / "cache-id").read_text()
        found[(chain / "diff").read_text()] = (dockerd.root / "overlay2" / cache_id / "diff", chain)
    return found


@pytest.fixture(scope="module")
def loaded(dockerd: Engine, session_scratch: Path) -> Any:
    """All harmless layers as one image of the engine."""
    assert load(dockerd, session_scratch, list(layer_cases.OK.values()), "layercases:ok") == ""
    yield engine_layers(dockerd)
    dockerd.docker("rmi", "layercases:ok")


@pytest.mark.parametrize("label", layer_cases.OK)
def test_same_as_engine(loaded: dict[str, tuple[Path, Path]], label: str, scratch: Path) -> None:
    layer = layer_cases.OK[label]
    ours: Unpacked = unpack_bytes(scratch, layer)
    theirs, record = loaded[builders.sha256(layer)]
    assert ours.layer.diff_id == builders.sha256(layer)
    assert_same_tree(ours.diff, theirs, label)
    assert str(ours.layer.size_bytes) == (record / "size").read_text()
    if label not in layer_cases.OWN_TAR_SPLIT:
        assert tar_split_of(ours.tar_split.read_bytes()) == tar_split_of((record / "tar-split.json.gz").read_bytes())


@pytest.mark.parametrize("label", ["sparse-1.0", "sparse-0.1", "sparse-0.0", "sparse-empty"])
def test_sparse_files_read_alike(dockerd: Engine, label: str, scratch: Path) -> None:
    """Holes here, zeros there, the same content."""
    layer = layer_cases.DIFFERS[label]
    assert load(dockerd, scratch, [layer], "layercases:sparse") == ""
    ours = unpack_bytes(scratch, layer)
    assert_same_tree(ours.diff, engine_layers(dockerd)[ours.layer.diff_id][0], label)
    assert (ours.diff / "f").stat().st_blocks * 512 < 1 << 20
    dockerd.docker("rmi", "layercases:sparse")


@pytest.mark.parametrize("label", layer_cases.REFUSED)
def test_refused_by_engine_too(dockerd: Engine, label: str, scratch: Path) -> None:
    layer = layer_cases.REFUSED[label]
    assert load(dockerd, scratch, [layer], "layercases:refused") != ""
    with pytest.raises(MinidockError):
        unpack_bytes(scratch, layer)


def test_real_image_like_engine(dockerd: Engine, scratch: Path) -> None:
    """A minbase Debian: every file, owner, time and xattr, and tar-split's entries."""
    from tests import real_images

    if not os.path.exists("/usr/bin/mmdebstrap"):
        missing("mmdebstrap is not installed")
    layer = real_images.minbase_rootfs()
    dockerd.docker("load", "-i", real_images.minbase())
    ours = unpack_bytes(scratch, layer.read_bytes())
    theirs, record = engine_layers(dockerd)[ours.layer.diff_id]
    assert_same_tree(ours.diff, theirs, "minbase")
    assert str(ours.layer.size_bytes) == (record / "size").read_text()
    assert tar_split_of(ours.tar_split.read_bytes()) == tar_split_of((record / "tar-split.json.gz").read_bytes())
    dockerd.docker("rmi", "minbase:1")
