"""Roots of storage drivers that minidock does not speak, made by real engines: refused by name, and left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import builders
from tests.conftest import Engine
from tests.integration.tool import command
from tests.interop.engines import RELEASES, NewEngine, Release, SuiteEngine

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("images",),
    ("ps", "-a"),
    ("info",),
    ("pull-tar", "ARCHIVE"),
    ("run", "--rm", "busybox:test", "true"),
)


def refused(root: Path, archive: Path) -> list[str]:
    """What each command answers; none may succeed, take more than its line and a hint, or change anything."""
    before = builders.tree_listing(root)
    lines = []
    for words in COMMANDS:
        words = tuple(str(archive) if word == "ARCHIVE" else word for word in words)
        done = builders.run_command(*command("--root", root, *words), check=False)
        assert done.returncode in (1, 125), words
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) <= 2
        lines.append(done.stderr.splitlines()[0])
    assert builders.tree_listing(root) == before
    return lines


def test_vfs(spare: Callable[[], Engine], busybox_archive: Path) -> None:
    engine = spare()
    engine.driver = "vfs"
    engine.start()
    engine.docker("load", "-i", busybox_archive)
    engine.stop()
    for line in refused(engine.root, busybox_archive):
        assert f"the data root {engine.root} belongs to Docker's storage driver vfs" in line


class ContainerdStore(SuiteEngine):
    """An engine that keeps its images in containerd, as Docker 29 does unasked."""

    def words(self) -> list[str]:
        words = [word for word in super().words() if not word.startswith("--storage-driver")]
        return [*words, "--feature=containerd-snapshotter=true"]


@pytest.mark.engines
def test_containerd_image_store(new_engine_of: NewEngine, busybox_archive: Path) -> None:
    release: Release = RELEASES["28.5"]
    engine = ContainerdStore(new_engine_of(release).base, release)
    try:
        engine.start()
        engine.docker("load", "-i", busybox_archive)
        assert "io.containerd.snapshotter" in engine.docker("info", "-f", "{{.DriverStatus}}").stdout
    finally:
        engine.stop()
    for line in refused(engine.root, busybox_archive):
        assert f"the data root {engine.root} belongs to Docker's containerd image store" in line
