"""Fixtures for tests that run containers by the real command."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import builders
from tests.conftest import IN_VM
from tests.integration.looker import Looker
from tests.integration.tool import Tool, command
from tests.seen_roots import CHANGES, images

# They want a systemd that has the machine for itself and a kernel with AppArmor, as in a leg of vm/matrix.
collect_ignore = [] if IN_VM and Path("/run/systemd/system").is_dir() else ["test_systemd.py", "test_enforced.py"]


@pytest.fixture
def tool(scratch: Path, busybox_archive: Path) -> Iterator[Tool]:
    """minidock on a fresh root with busybox:test; at the end nothing of its containers may be left."""
    made = Tool(scratch / "root", busybox_archive)
    yield made
    made.close()


class SubordinateIDs:
    """The lines of a user in /etc/subuid and /etc/subgid, for as long as a test session lasts."""

    USER, FIRST, COUNT = f"minidocktest{os.getpid()}", 700000, 65536
    LINE = f"{USER}:{FIRST}:{COUNT}\n"

    def set(self, line: str) -> None:
        """Leave this as the user's only line, and the others' as they are."""
        for path in ("/etc/subuid", "/etc/subgid"):
            with open(path, "a+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                kept = "".join(each for each in file if each != self.LINE)
                file.truncate(0)
                file.write(kept + line)


@pytest.fixture(scope="session")
def subordinate_ids() -> Iterator[None]:
    """A user for --userns remap."""
    ids = SubordinateIDs()
    ids.set(ids.LINE)
    yield
    ids.set("")


@pytest.fixture(scope="session")
def seen_root(session_scratch: Path, busybox_layer: bytes) -> Path:
    """A root with the images of seen_roots and a container `box` of seen:1 that was changed; only to be looked at."""
    root = session_scratch / "seen"
    archive = builders.docker_archive(session_scratch / "seen.tar", *images(busybox_layer))
    for words in (
        ("pull-tar", "-q", archive),
        ("run", "--name", "box", "--network", "none", "-v", "store:/store", "seen:1", "sh", "-c", CHANGES),
    ):
        builders.run_command(*command("--root", root, *words), timeout=60)
    return root


@pytest.fixture
def look(seen_root: Path) -> Looker:
    """minidock on that root."""
    return Looker(seen_root)
