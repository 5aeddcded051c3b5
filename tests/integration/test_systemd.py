"""Containers' control groups beside systemd's, which reads and writes the same tree; in the test machine alone."""

from __future__ import annotations

import uuid
from pathlib import Path

from minidock.runtime.cgroup import Cgroup, hierarchies
from tests import builders
from tests.conftest import lacking
from tests.integration.tool import Tool, wait_until

BOX = "busybox:test"
LIMITS = ("-m", "32m", "--pids-limit", "9", "--cpus", "0.5")


def _groups_of(process: int) -> list[str]:
    """Where the limited controllers have it; on v1 systemd takes any engine's processes out of its groups of blkio."""
    lines = [line.split(":", 2)[1:] for line in Path(f"/proc/{process}/cgroup").read_text().splitlines()]
    return [path for names, path in lines if not names or {"memory", "pids", "cpu"} & set(names.split(","))]


def _limits(group: Cgroup) -> list[str]:
    files = (
        ("memory", "memory.limit_in_bytes", "memory.max"),
        ("pids", "pids.max", "pids.max"),
        ("cpu", "cpu.cfs_quota_us", "cpu.max"),
    )
    found = []
    for controller, v1, v2 in files:
        path = group.path_of(controller)
        found.append(Path(path, v1).read_text() if path else Path(str(group.v2_path), v2).read_text())
    return found


def test_systemd_at_work_leaves_limits_as_they_are(tool: Tool) -> None:
    """Units that want controllers come and go, and all is read anew; the container stays where and as it was."""
    tool.good("run", "-d", "--name", "box", *LIMITS, BOX, "sleep", "1000")
    tool.good("run", "-d", "--name", "plain", BOX, "sleep", "1000")
    box = tool.inspect("box")
    group = Cgroup.open(box["Id"])
    before = _groups_of(box["State"]["Pid"]), _limits(group)
    assert any(path == f"/minidock/{box['Id']}" for path in before[0])
    for properties in (["CPUWeight=50", "IOWeight=50"], ["MemoryMax=64M", "TasksMax=10", "CPUQuota=20%"]):
        words = [f"--property={each}" for each in properties]
        builders.run_command("systemd-run", "--quiet", "--wait", *words, "true", timeout=600)
        builders.run_command("systemctl", "daemon-reload", timeout=600)
    assert (_groups_of(box["State"]["Pid"]), _limits(group)) == before
    shown = tool.good("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}").splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in shown}
    assert (rows["box"][0], rows["box"][-1], rows["plain"][0]) == ("1", "32MiB", "1")
    assert rows["plain"][1] != "0B"
    failed = builders.run_command("systemctl", "--failed", "--plain", "--no-legend", timeout=600)
    assert "minidock" not in failed.stdout
    tool.good("rm", "-f", "box", "plain")
    builders.run_command("systemctl", "daemon-reload", timeout=600)


def test_a_container_in_a_scope_that_systemd_has_delegated(tool: Tool) -> None:
    """It is below the scope, whose controllers go down to it; systemd leaves it alone and ends it with the scope."""
    if not any(each.is_v2 for each in hierarchies()):
        lacking("no cgroup v2 hierarchy is mounted")
    unit = f"minidock-test-{uuid.uuid4().hex[:12]}.scope"
    tool.prefix = ["systemd-run", "--quiet", "--scope", f"--unit={unit}", "--property=Delegate=yes"]
    # A container's first process heeds no other.
    tool.prefix += ["--property=KillSignal=SIGKILL"]
    identity = tool.good("run", "-d", "--name", "box", *LIMITS, "--network", "none", BOX, "sleep", "1000")
    tool.prefix = []
    try:
        pid = tool.inspect("box")["State"]["Pid"]
        group = Cgroup.open(identity, delegated=tool.record("box")["Delegated"])
        where = f"/system.slice/{unit}/minidock/{identity}"
        if Path("/sys/fs/cgroup/cgroup.controllers").exists():
            assert set(_groups_of(pid)) == {where}
        else:
            assert where in Path(f"/proc/{pid}/cgroup").read_text()
        before = _groups_of(pid), _limits(group)
        assert before[1][:2] == [f"{32 << 20}\n", "9\n"]
        builders.run_command("systemctl", "daemon-reload", timeout=600)
        assert (_groups_of(pid), _limits(group)) == before
        assert tool.good("exec", "box", "echo", "inside") == "inside"
    finally:
        builders.run_command("systemctl", "stop", unit, timeout=600)
    wait_until(lambda: tool.status("box") == "exited", "the container to end with its scope")
    tool.good("rm", "box")
