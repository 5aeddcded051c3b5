"""Many containers at once, and processes killed at any moment: none lost, none left, nothing of them in the kernel."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import whole
from tests.integration.tool import Tool, wait_until

pytestmark = pytest.mark.root
QUIET = ("--network", "none", "busybox:test")
WORKERS = 8
EACH = 13
KILLS = whole(1000, 24)


def monitors(tool: Tool) -> list[str]:
    """Processes that hold this data root open."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        if any(path.startswith(str(tool.root)) for path in held) and pid != str(os.getpid()):
            found.append(pid)
    return found


def assert_clean(tool: Tool, ids: list[str]) -> None:
    """Nothing of these containers is anywhere."""
    assert os.listdir(tool.root / "containers") == []
    assert str(tool.root) not in Path("/proc/self/mountinfo").read_text()
    assert [path for one in ids for path in tool.groups_of(one)] == []
    assert os.listdir(tool.root / "minidock" / "stage") == []
    assert os.listdir(tool.root / "image/overlay2/layerdb/mounts") == []
    wait_until(lambda: not monitors(tool), "the end of every process that works on this root")


def test_a_hundred_containers_from_eight_processes(tool: Tool) -> None:
    before = len(os.listdir("/proc/self/fd"))

    def work(worker: int) -> list[str]:
        ids = []
        for number in range(EACH):
            name = f"w{worker}-{number}"
            ids.append(tool.good("run", "-d", "--name", name, *QUIET, "sh", "-c", f"echo {name}; exec sleep 500"))
        for number in range(EACH):
            name = f"w{worker}-{number}"
            assert tool.good("exec", name, "echo", name) == name
            assert tool.good("logs", name) == name
            if number % 2:
                tool.good("rm", "-f", name)
            else:
                tool.good("kill", name)
                assert tool.good("wait", name) == "137"
                tool.good("rm", name)
        return ids

    with ThreadPoolExecutor(WORKERS) as pool:
        ids = [one for found in pool.map(work, range(WORKERS)) for one in found]
    assert len(set(ids)) == WORKERS * EACH
    assert_clean(tool, ids)
    assert len(os.listdir("/proc/self/fd")) == before


def test_starters_and_monitors_killed_at_random(tool: Tool) -> None:
    chance = random.Random(4)
    ids: list[str] = []
    for number in range(KILLS):
        name = f"victim{number}"
        rm = ["--rm"] if number % 3 == 0 else []
        policy = ["--restart", "always"] if number % 3 == 1 else []
        words = ("run", *rm, *policy, "--name", name, *QUIET, "sleep", "500")
        starter = tool.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            starter.wait(chance.uniform(0, 0.4))
        except subprocess.TimeoutExpired:
            pass
        found = tool("inspect", name, "--format", "{{.Id}} {{.State.Status}}")
        if number % 2 and found.returncode == 0 and found.stdout.split()[1] == "running":
            os.kill(tool.record(name)["MonitorPid"], signal.SIGKILL)
            starter.wait(15)
        else:
            starter.kill()
            starter.wait()
        if found.returncode == 0:
            ids.append(found.stdout.split()[0])
    for line in tool.good("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}}").splitlines():
        container_id, state = line.split()
        alive = [pid for path in tool.groups_of(container_id) for pid in Path(path, "cgroup.procs").read_text().split()]
        assert bool(alive) == (state == "running"), line
        assert tool("start", container_id).returncode == 0
        tool.good("rm", "-f", container_id)
    assert_clean(tool, ids)


def test_exec_while_a_container_restarts_finds_it_or_says_so(tool: Tool) -> None:
    tool.good(
        "run", "-d", "--name", "loop", "--restart", "always", *QUIET, "sh", "-c", "echo x > /mark; sleep 0.3; exit 1"
    )
    seen = set()
    for _ in range(40):
        done = tool("exec", "loop", "hostname")
        seen.add(done.returncode)
        if done.returncode == 0:
            assert tool.inspect("loop")["Id"].startswith(done.stdout.strip())
        elif done.returncode == 1:
            assert "is restarting" in done.stderr or "is not running" in done.stderr, done.stderr
        else:
            assert done.returncode == 137, done.stderr
        if {0, 1} <= seen:
            break
    assert 0 in seen
    tool.good("rm", "-f", "loop")
    assert_clean(tool, [])
