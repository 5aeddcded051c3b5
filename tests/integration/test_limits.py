"""Limits as the kernel has them: written, felt by the process inside, changed while it runs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from minidock.runtime.cgroup import Cgroup, hierarchies
from tests.conftest import missing
from tests.integration.tool import Tool, command
from tests.patience import patience

BOX = "busybox:test"


def is_v1(controller: str) -> bool:
    """Whether this host has the controller in a hierarchy of v1."""
    return any(controller in each.controllers.split(",") for each in hierarchies())


def group_file(tool: Tool, name: str, controller: str, v1: str, v2: str) -> str | None:
    """The content of a file of the container's group; None for v2's limit of swap on a kernel that counts none."""
    return file_of(Cgroup.open(tool.inspect(name)["Id"]), controller, v1, v2)


def file_of(group: Cgroup, controller: str, v1: str, v2: str) -> str | None:
    """The same of the group itself."""
    path = group.path_of(controller)
    if path is not None:
        return Path(path, v1).read_text().strip()
    assert group.v2_path is not None, f"the container has no group of {controller}"
    if v2 == "memory.swap.max" and not Path(group.v2_path, v2).exists():
        assert Path(group.v2_path, "memory.max").exists()
        return None
    return Path(group.v2_path, v2).read_text().strip()


# options of one container; of each of its limits the controller, file and value on v1, file and value on v2
MB = 1 << 20
WANTED = (
    ("--memory=32m --memory-reservation=16m --cpus=0.5 -c 77 --cpuset-cpus=0 --cpuset-mems=0 --pids-limit=9", (
        ("memory", "memory.limit_in_bytes", str(32 * MB), "memory.max", str(32 * MB)),
        ("memory", "memory.memsw.limit_in_bytes", str(64 * MB), "memory.swap.max", str(32 * MB)),
        ("memory", "memory.soft_limit_in_bytes", str(16 * MB), "memory.low", str(16 * MB)),
        ("cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"),
        ("cpu", "cpu.shares", "77", "cpu.weight", "3"),
        ("cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"),
        ("cpuset", "cpuset.mems", "0", "cpuset.mems", "0"),
        ("pids", "pids.max", "9", "pids.max", "9"),
    )),
    ("--memory=32m --memory-swap=48m --cpu-period=50000 --cpu-quota=20000 --pids-limit=-1", (
        ("memory", "memory.memsw.limit_in_bytes", str(48 * MB), "memory.swap.max", str(16 * MB)),
        ("cpu", "cpu.cfs_period_us", "50000", "cpu.max", "20000 50000"),
        ("cpu", "cpu.cfs_quota_us", "20000", "cpu.max", "20000 50000"),
        ("pids", "pids.max", "max", "pids.max", "max"),
    )),
    ("--memory=32m --memory-swap=-1 --cpus=.25", (
        ("memory", "memory.limit_in_bytes", str(32 * MB), "memory.max", str(32 * MB)),
        ("memory", "memory.memsw.limit_in_bytes", None, "memory.swap.max", "max"),
        ("cpu", "cpu.cfs_quota_us", "25000", "cpu.max", "25000 100000"),
    )),
)  # fmt: skip


@pytest.mark.parametrize(("options", "limits"), WANTED, ids=[words for words, _ in WANTED])
def test_every_limit_is_in_its_file(tool: Tool, options: str, limits: tuple[tuple[Any, ...], ...]) -> None:
    group = Cgroup.open(tool.good("run", "-d", *options.split(), BOX, "sleep", "600"))
    for controller, v1, v1_value, v2, v2_value in limits:
        wanted = v1_value if is_v1(controller) else v2_value
        found = file_of(group, controller, v1, v2)
        if wanted is None:
            # No limit at all is a number of the kernel's there.
            assert int(str(found)) > 1 << 60
        else:
            assert found in (wanted, None), (v1, v2)


def test_swappiness_is_v1_s_alone(tool: Tool) -> None:
    """On v2 docker's warning, and a container without."""
    done = tool("run", "-d", "--name", "box", "--memory-swappiness=7", BOX, "sleep", "600")
    assert done.returncode == 0, done
    path = Cgroup.open(tool.inspect("box")["Id"]).path_of("memory")
    if path is not None:
        assert Path(path, "memory.swappiness").read_text() == "7\n"
    else:
        assert "WARNING: Your kernel does not support memory swappiness capabilities" in done.stderr


def test_memory_runs_out(tool: Tool) -> None:
    done = tool("run", "--name", "eater", "-m", "8m", BOX, "sh", "-c", "exec tail /dev/zero")
    assert done.returncode == 137, done
    state = tool.inspect("eater")["State"]
    assert (state["OOMKilled"], state["ExitCode"], state["Status"]) == (True, 137, "exited")
    assert tool("start", "-a", "eater").returncode == 137
    tool.good("run", "--name", "frugal", "-m", "8m", BOX, "true")
    assert tool.inspect("frugal")["State"]["OOMKilled"] is False


def test_an_exhausted_child_is_told_too(tool: Tool) -> None:
    """docker's OOMKilled is about the container, not about its first process alone."""
    assert tool("run", "--name", "box", "-m", "8m", BOX, "sh", "-c", "tail /dev/zero; exit 3").returncode == 3
    assert tool.inspect("box")["State"]["OOMKilled"] is True


def test_no_more_processes(tool: Tool) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 9 & done; echo all"
    done = tool("run", "--rm", "--pids-limit", "4", BOX, "sh", "-c", script)
    assert done.returncode != 0
    assert "Resource temporarily unavailable" in done.stderr
    assert "all" not in done.stdout


def test_one_cpu_only(tool: Tool) -> None:
    shown = tool.good("run", "--rm", "--cpuset-cpus", "0", BOX, "grep", "Cpus_allowed_list", "/proc/self/status")
    assert shown.split() == ["Cpus_allowed_list:", "0"]


def test_throttled_device(tool: Tool) -> None:
    device = next((name for name in ("vda", "sda", "nvme0n1", "loop0") if Path(f"/dev/{name}").exists()), None)
    if device is None:
        missing("no block device here")
    number = Path(f"/sys/class/block/{device}/dev")
    tool.good("run", "-d", "--name", "box", "--device-write-bps", f"/dev/{device}:1mb", BOX, "sleep", "600")
    if number.exists():
        on_v1, on_v2 = str(1 << 20), f"rbps=max wbps={1 << 20} riops=max wiops=max"
        expected = f"{number.read_text().strip()} {on_v1 if is_v1('blkio') else on_v2}"
        assert group_file(tool, "box", "blkio", "blkio.throttle.write_bps_device", "io.max") == expected


def test_a_missing_device_is_an_error_at_the_start(tool: Tool) -> None:
    done = tool("run", "--name", "box", "--device-read-iops", "/dev/nosuch:9", BOX, "true")
    assert done.returncode == 127
    assert "stat /dev/nosuch: no such file or directory" in done.stderr
    assert tool.groups_of(tool.inspect("box")["Id"]) == []


def test_shares_beyond_the_kernel_s_bounds_are_an_error(tool: Tool) -> None:
    """v1 takes the nearest that it allows, and says nothing; on v2 they become a weight."""
    for shares, message in (
        ("1", "the minimum allowed cpu-shares is 2"),
        ("262145", "the maximum allowed cpu-shares is"),
    ):
        done = tool("run", "--rm", "-c", shares, BOX, "true")
        if is_v1("cpu"):
            assert done.returncode == 125 and message in done.stderr
        else:
            assert done.returncode == 0


@pytest.mark.parametrize("prepare", ["mount -o remount,bind,ro", "umount"])
def test_a_limit_that_the_host_cannot_give_is_never_silent(tool: Tool, prepare: str) -> None:
    place = "/sys/fs/cgroup/memory" if is_v1("memory") else "/sys/fs/cgroup"
    words = ["unshare", "-m", "sh", "-c", f'{prepare} {place}; exec "$@"', "sh"]
    words += command("run", "-m", "64m", BOX, "true")
    done = subprocess.run(words, capture_output=True, text=True, env=tool.environment, timeout=patience(60))
    if prepare == "umount":
        assert done.returncode == 0, done
        assert "WARNING: Your kernel does not support memory limit capabilities" in done.stderr
    else:
        assert done.returncode == 125
        assert "memory" in done.stderr
