"""systemd's delegation rules: below a delegated unit the groups are in its group, else at the root as docker's are.

What systemd does with Delegate=yes is done here by hand: an attribute on a unit's group.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.runtime.cgroup import Hierarchy, hierarchies
from tests.builders import run_command
from tests.conftest import lacking
from tests.integration.tool import Tool, command, wait_until

BOX = ("--network", "none", "busybox:test")
ALONE = Path("/sys/fs/cgroup/cgroup.controllers").exists()


@pytest.fixture
def hierarchy() -> Hierarchy:
    found = next((each for each in hierarchies() if each.is_v2), None)
    if found is None:
        lacking("no cgroup v2 hierarchy is mounted")
    assert found is not None
    return found


@pytest.fixture
def unit(hierarchy: Hierarchy) -> Iterator[Path]:
    """A unit's group as systemd makes one, with the controllers that it gives to a delegated one."""
    path = Path(hierarchy.mount_point) / f"minidock-test-{uuid.uuid4().hex[:12]}.service"
    if ALONE:
        (path.parent / "cgroup.subtree_control").write_text("+memory +pids")
    path.mkdir()
    yield path
    for folder in sorted((Path(name) for name, _, _ in os.walk(path)), key=lambda one: -len(one.parts)):
        # The monitor may still be on its way out.
        wait_until(lambda folder=folder: _remove(folder), f"{folder} to be empty")


def _remove(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def run_in(tool: Tool, group: Path, *words: str) -> str:
    """Run a command of ours as a process of a group."""
    group.mkdir(exist_ok=True)
    script = 'echo $$ >"$0" && exec "$@"'
    done = run_command("sh", "-c", script, group / "cgroup.procs", *command(*words), env=tool.environment, timeout=60)
    return done.stdout.strip()


def group_of(tool: Tool, name: str) -> str:
    """Where a container's first process is in the v2 hierarchy."""
    lines = Path(f"/proc/{tool.inspect(name)['State']['Pid']}/cgroup").read_text().splitlines()
    return next(line for line in lines if line.startswith("0::")).removeprefix("0::")


@pytest.mark.parametrize("name", ["trusted.delegate", "user.delegate"])
@pytest.mark.parametrize("inner", [".", "payload"])
def test_below_a_delegated_unit(tool: Tool, unit: Path, inner: str, name: str) -> None:
    os.setxattr(unit, name, b"1")
    identity = run_in(tool, unit / inner, "run", "-d", "--name", "box", *BOX, "sleep", "1000")
    made = unit / "minidock" / identity
    assert group_of(tool, "box") == f"/{unit.name}/minidock/{identity}"
    # v1 hierarchies in which the unit has no group have theirs where they always were.
    others = [each for each in hierarchies() if not each.is_v2]
    assert all(os.path.isdir(f"{each.mount_point}/minidock/{identity}") for each in others)
    # Who comes later is of another group, and finds it all the same.
    tool.good("pause", "box")
    tool.good("unpause", "box")
    assert tool.good("top", "box").count("sleep 1000") == 1
    assert tool.good("exec", "box", "echo", "inside") == "inside"
    tool.good("restart", "-t", "0", "box")
    tool.good("rm", "-f", "box")
    assert not made.exists()


def test_elsewhere_at_the_root(tool: Tool, unit: Path) -> None:
    """Units that are not delegated, or whose part of one belongs to another manager's unit; and --cgroup-parent."""
    for group, mark in ((unit, b""), (unit, b"0"), (unit / "inner.scope", b"1")):
        if mark:
            os.setxattr(unit, "trusted.delegate", mark)
        identity = run_in(tool, group, "run", "-d", "--name", "box", *BOX, "sleep", "1000")
        assert group_of(tool, "box") == f"/minidock/{identity}"
        tool.good("rm", "-f", "box")
    words = ("--cgroup-parent", f"/{unit.name}/chosen")
    identity = run_in(tool, unit, "run", "-d", "--name", "box", *words, *BOX, "sleep", "1000")
    assert group_of(tool, "box") == f"/{unit.name}/chosen/{identity}"
    tool.good("rm", "-f", "box")
    for each in hierarchies():
        for folder in (f"{each.mount_point}/{unit.name}/chosen", f"{each.mount_point}/{unit.name}"):
            if not each.is_v2:
                os.rmdir(folder)


def test_what_a_kill_leaves_in_a_delegated_unit_is_cleaned(tool: Tool, unit: Path) -> None:
    os.setxattr(unit, "trusted.delegate", b"1")
    identity = run_in(tool, unit, "run", "-d", "--name", "box", *BOX, "sleep", "1000")
    record = tool.record("box")
    for pid in (record["MonitorPid"], record["Pid"]):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: tool.status("box") == "exited", "the end to be seen")
    tool.good("start", "box")
    assert group_of(tool, "box") == f"/minidock/{identity}", "started by a process outside of the unit"
    assert not (unit / "minidock" / identity).exists()


def test_a_limit_in_a_delegated_unit(tool: Tool, unit: Path) -> None:
    """On v2 a group with processes gives no controller on: the unit's own processes go into a leaf."""
    os.setxattr(unit, "trusted.delegate", b"1")
    identity = run_in(tool, unit, "run", "-d", "--name", "box", "-m", "32m", *BOX, "sleep", "1000")
    if ALONE:
        assert (unit / "minidock" / identity / "memory.max").read_text() == f"{32 << 20}\n"
        assert (unit / "cgroup.procs").read_text() == ""
        assert str(tool.record("box")["MonitorPid"]) in (unit / "supervisor/cgroup.procs").read_text().split()
    else:
        limit = Path(f"/sys/fs/cgroup/memory/minidock/{identity}/memory.limit_in_bytes")
        assert limit.read_text() == f"{32 << 20}\n"
    assert tool.good("exec", "box", "echo", "inside") == "inside"
    tool.good("rm", "-f", "box")


def test_rm_finds_what_a_launch_cut_short_has_left(tool: Tool, unit: Path) -> None:
    os.setxattr(unit, "trusted.delegate", b"1")
    identity = run_in(tool, unit / "payload", "create", "--name", "box", *BOX, "true")
    left = unit / "minidock" / identity
    left.mkdir(parents=True)
    run_in(tool, unit / "payload", "rm", "box")
    assert not left.exists()
