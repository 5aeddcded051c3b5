"""The walk of layers against the kernel's own overlay of them; and that looking leaves no trace."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.errors import StoreError
from minidock.store.catalogue import Catalogue
from minidock.store.evidence import Evidence
from minidock.store.layerstack import stack_of
from minidock.store.stackwalk import StackWalk
from tests.integration.tool import Tool
from tests.seen_roots import CHANGES, age, images, stamps


@pytest.fixture
def mounted(scratch: Path) -> Iterator[Path]:
    yield scratch / "merged"
    subprocess.run(["umount", scratch / "merged"], check=False)


def random_layer(path: Path, chance: random.Random) -> None:
    """A layer of files, symlinks, whiteouts and opaque directories."""
    path.mkdir()
    for _ in range(40):
        where = path
        for _ in range(chance.randrange(3)):
            inner = where / chance.choice("abc")
            if inner.is_symlink() or (inner.exists() and not inner.is_dir()):
                break
            if not inner.exists() and not inner.is_symlink():
                inner.mkdir()
                if chance.random() < 0.25:
                    os.setxattr(inner, "trusted.overlay.opaque", b"y")
            where = inner
        name = where / chance.choice("abcdef")
        if os.path.lexists(name):
            continue
        kind = chance.random()
        if kind < 0.4:
            name.write_text(chance.choice("xyz"))
        elif kind < 0.5:
            name.symlink_to("a")
        elif kind < 0.8:
            os.mknod(name, stat.S_IFCHR, 0)


def _kernel_view(top: Path) -> dict[bytes, tuple[int, int, int]]:
    found: dict[bytes, tuple[int, int, int]] = {}
    for where, directories, files in os.walk(os.fsencode(top)):
        for name in (*directories, *files):
            path = os.path.join(where, name)
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                # The kernel lists a whiteout in a directory that merges with nothing, and does not find it.
                continue
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            found[os.path.relpath(path, os.fsencode(top))] = (status.st_mode, size, status.st_mtime_ns)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_the_merged_view_is_the_kernels(seed: int, scratch: Path, mounted: Path) -> None:
    chance = random.Random(seed)
    layers = [scratch / f"layer{number}" for number in range(4)]
    for layer in layers:
        random_layer(layer, chance)
    mounted.mkdir()
    options = "ro,redirect_dir=off,metacopy=off,lowerdir=" + ":".join(map(str, layers))
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", mounted], check=True)
    roots = [os.open(layer, os.O_RDONLY | os.O_DIRECTORY) for layer in layers]
    merged: dict[bytes, tuple[int, int, int]] = {}
    order: list[bytes] = []
    shown: set[bytes] = set()
    try:
        for entry in StackWalk(roots, hidden_too=False):
            top = entry.top
            assert top is not None
            size = 0 if top.is_directory else top.status.st_size
            merged[entry.path] = (top.status.st_mode, size, top.status.st_mtime_ns)
            order.append(entry.path)
        for entry in StackWalk(roots):
            if entry.top is not None:
                shown.add(entry.path)
            for version in entry.versions:
                assert version.cover is None or version.cover.layer < version.layer or version.cover.kind == "opaque"
    finally:
        for root in roots:
            os.close(root)
    assert merged == _kernel_view(mounted)
    assert shown == set(merged)
    assert order == sorted(order, key=lambda path: path.split(b"/"))


def test_deep_and_wide_trees_need_few_descriptors(scratch: Path) -> None:
    path = scratch / "layer"
    for _ in range(900):
        path = path / "d"
    path.mkdir(parents=True)
    (path / "end").write_text("")
    roots = [os.open(scratch / "layer", os.O_RDONLY | os.O_DIRECTORY) for _ in range(3)]
    try:
        most, count = 0, 0
        for entry in StackWalk(roots):
            last = entry.path
            count += 1
            if not count % 50:
                most = max(most, len(os.listdir("/proc/self/fd")))
        assert last.endswith(b"d/end")
        assert count == 901
        assert most < 600
    finally:
        for root in roots:
            os.close(root)


def test_a_changed_container_and_its_image_and_no_trace_of_the_look(
    scratch: Path, busybox_layer: bytes, tool: Tool
) -> None:
    from tests import builders

    archive = builders.docker_archive(scratch / "seen.tar", *images(busybox_layer))
    tool.good("pull-tar", "-q", archive)
    tool.good("run", "--name", "box", "--network", "none", "seen:2", "sh", "-c", CHANGES)
    age(tool.root)
    before = stamps(tool.root)
    with Evidence.open(str(tool.root)) as evidence:
        assert evidence.is_sealed
        catalogue = Catalogue(evidence)
        with stack_of(catalogue, "box") as stack:
            assert [layer.label for layer in stack.layers] == ["container", "init layer", "layer 2", "layer 1"]
            assert stack.faults == []
            entries = {
                entry.path: [(version.layer, version.cover and version.cover.kind) for version in entry.versions]
                for entry in StackWalk(stack.roots)
            }
            for entry in StackWalk(stack.roots):
                if entry.path == b"data/link":
                    assert entry.read_link(entry.versions[0]) == b"one"
        assert entries[b"etc/passwd"] == [(0, None), (2, "replaced"), (3, "replaced")]
        assert entries[b"data/two"] == [(0, None), (2, "whiteout")]
        with pytest.raises(OSError, match="Read-only"):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=evidence.fd)
    assert stamps(tool.root) == before


def test_symlinks_lead_nowhere(scratch: Path) -> None:
    (scratch / "root/overlay2").mkdir(parents=True)
    (scratch / "secret").write_text("secret")
    (scratch / "root/image").symlink_to(scratch)
    (scratch / "root/overlay2/file").symlink_to("/etc/passwd")
    (scratch / "root/overlay2/inside").symlink_to("../overlay2")
    with Evidence.open(str(scratch / "root")) as evidence:
        for path in ("image/secret", "overlay2/file", "../secret", "/etc/passwd", "overlay2/inside/file"):
            assert evidence.text(path) is None
            assert evidence.names(path) == []
        assert evidence.link_target("overlay2/file") == "/etc/passwd"
    with pytest.raises(StoreError, match="no data root of the driver overlay2"):
        Evidence.open(str(scratch))
