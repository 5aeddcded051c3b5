"""The hot commands load few modules and make few system calls: held by written lists, see tests/house/hot.py."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.house import hot

# Timers, retries and the size of the environment move the count a little.
MARGIN = 1.15


@pytest.fixture(scope="module")
def costs(session_scratch: Path, busybox_archive: Path) -> Iterator[dict[str, hot.Cost]]:
    """The cost of every hot command, played once in order."""
    if not shutil.which("strace"):
        missing("strace is not installed")
    folder = session_scratch / "hot"
    folder.mkdir()
    stage = hot.Stage(folder, busybox_archive)
    try:
        yield {name: stage.measure(name) for name in hot.SCENES}
    finally:
        stage.close()


@pytest.mark.root
@pytest.mark.parametrize("name", hot.SCENES)
def test_modules(name: str, costs: dict[str, hot.Cost]) -> None:
    loaded = set(costs[name].modules)
    assert loaded, "strace saw no module at all: the test is blind"
    assert not {module.partition(".")[0] for module in loaded} & hot.FORBIDDEN
    _, allowed = hot.read_list(name)
    loaded -= hot.BUILT_IN_SOMEWHERE
    if sys.version_info[:2] != hot.WRITTEN_FOR:
        # The standard library's own imports differ between versions; ours do not.
        loaded = {module for module in loaded if module.startswith("minidock")}
    assert not loaded - allowed, f"{name} now also loads {sorted(loaded - allowed)}"


@pytest.mark.root
@pytest.mark.parametrize("name", hot.SCENES)
def test_system_calls(name: str, costs: dict[str, hot.Cost]) -> None:
    if sys.version_info[:2] != hot.WRITTEN_FOR:
        return
    written, _ = hot.read_list(name)
    assert 200 < costs[name].calls <= written * MARGIN


def test_lists_are_free_of_what_is_forbidden() -> None:
    for name in hot.SCENES:
        _, allowed = hot.read_list(name)
        assert not {module.partition(".")[0] for module in allowed} & hot.FORBIDDEN, name


def test_the_shim_starts_python_isolated_and_without_site(scratch: Path) -> None:
    """Also when it is reached through symlinks from another directory."""
    real = Path(sys.executable).with_name("minidock")
    (scratch / "bin").mkdir()
    (scratch / "bin/first").symlink_to(real)
    (scratch / "second").symlink_to("bin/first")
    for command in (real, scratch / "bin/first", scratch / "second"):
        done = subprocess.run([command, "--version"], capture_output=True, text=True, cwd=scratch)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("minidock"), done.stdout
    environment = {"PATH": f"{scratch / 'bin'}:/usr/bin:/bin", "PYTHONPATH": "/nowhere", "PYTHONSTARTUP": "/nowhere"}
    done = subprocess.run(["first", "--version"], capture_output=True, text=True, cwd="/", env=environment)
    assert done.returncode == 0, done.stderr
