"""Limits: the words of the command line, docker's checks of them, and the files they become on v1 and v2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minidock.cli.limits import parse_cpus, read_limits
from minidock.errors import MinidockError, UsageError
from minidock.runtime.cgroup import Cgroup, Hierarchy
from minidock.runtime.hostlimits import parse_cpuset
from minidock.runtime.limits import apply_limits, io_weight, limits_of, v1_files, v2_files, weight_of_shares

MB = 1 << 20
V1_AND_V2: tuple[tuple[dict[str, Any], list[str], list[str]], ...] = (
    ({"Memory": 8 * MB}, ["memory.limit_in_bytes 8388608"], ["memory.max 8388608"]),
    (
        {"Memory": 8 * MB, "MemorySwap": 10 * MB},
        ["memory.limit_in_bytes 8388608", "memory.memsw.limit_in_bytes 10485760"],
        ["memory.swap.max 2097152", "memory.max 8388608"],
    ),
    (
        {"Memory": 8 * MB, "MemorySwap": -1},
        ["memory.limit_in_bytes 8388608", "memory.memsw.limit_in_bytes -1"],
        ["memory.swap.max max", "memory.max 8388608"],
    ),
    ({"MemoryReservation": 9}, ["memory.soft_limit_in_bytes 9"], ["memory.low 9"]),
    ({"CpuShares": 512}, ["cpu.shares 512"], ["cpu.weight 20"]),
    ({"NanoCpus": 1_500_000_000}, ["cpu.cfs_period_us 100000", "cpu.cfs_quota_us 150000"], ["cpu.max 150000 100000"]),
    ({"CpuQuota": 5000}, ["cpu.cfs_quota_us 5000"], ["cpu.max 5000 100000"]),
    ({"CpuQuota": -1}, ["cpu.cfs_quota_us -1"], ["cpu.max max 100000"]),
    ({"CpuPeriod": 5000}, ["cpu.cfs_period_us 5000"], ["cpu.max max 5000"]),
    ({"CpusetCpus": "0-1"}, ["cpuset.cpus 0-1"], ["cpuset.cpus 0-1"]),
    ({"CpusetMems": "0"}, ["cpuset.mems 0"], ["cpuset.mems 0"]),
    ({"PidsLimit": 7}, ["pids.max 7"], ["pids.max 7"]),
    ({"PidsLimit": -1}, ["pids.max max"], ["pids.max max"]),
    ({"BlkioWeight": 500}, ["blkio.weight 500"], ["io.weight 4950"]),
    (
        {"BlkioWeightDevice": [{"Path": "/dev/x", "Weight": 10}]},
        ["blkio.weight_device 8:1 10"],
        ["io.weight 8:1 1"],
    ),
    (
        {
            "BlkioDeviceReadBps": [{"Path": "/dev/x", "Rate": 5}],
            "BlkioDeviceWriteIOps": [{"Path": "/dev/y", "Rate": 6}],
        },
        ["blkio.throttle.read_bps_device 8:1 5", "blkio.throttle.write_iops_device 8:1 6"],
        ["io.max 8:1 rbps=5", "io.max 8:1 wiops=6"],
    ),
    ({"OomKillDisable": True}, ["memory.oom_control 1"], []),
    ({"MemorySwappiness": 0}, ["memory.swappiness 0"], []),
)  # fmt: skip


@pytest.mark.parametrize(
    "limits, v1, v2", V1_AND_V2, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
def test_files(limits: dict[str, Any], v1: list[str], v2: list[str]) -> None:
    assert [f"{name} {value}" for _, name, value in v1_files(limits, lambda path: "8:1")] == v1
    assert [f"{name} {value}" for _, name, value in v2_files(limits, lambda path: "8:1")] == v2


def test_conversions_at_their_ends() -> None:
    assert [weight_of_shares(shares) for shares in (1, 2, 1024, 262144, 1 << 30)] == [1, 1, 39, 10000, 10000]
    assert [io_weight(weight) for weight in (10, 1000)] == [1, 10000]


def test_no_limit_is_no_file() -> None:
    host = {"Memory": 0, "CpusetCpus": "", "BlkioWeightDevice": [], "PidsLimit": None, "MemorySwappiness": None}
    assert limits_of({**host, "OomKillDisable": False, "Binds": ["/a:/b"]}) == {}


def test_v2_controllers_are_enabled_from_the_root_down(scratch: Path) -> None:
    """A v2 hierarchy of plain files: they take what is written, so it can be read back."""
    group = scratch / "minidock" / "box"
    group.mkdir(parents=True)
    for folder in (scratch, group.parent, group):
        (folder / "cgroup.controllers").write_text("cpu memory\n")
        (folder / "cgroup.subtree_control").write_text("cpu\n" if folder == scratch else "")
    (group / "memory.max").write_text("")
    hierarchy = Hierarchy(str(scratch), "", True)
    apply_limits(Cgroup([(hierarchy, str(group))]), {"Memory": 7 * MB})
    assert (group / "memory.max").read_text() == str(7 * MB)
    assert (scratch / "cgroup.subtree_control").read_text() == "+memory"
    assert (group.parent / "cgroup.subtree_control").read_text() == "+memory"
    assert (group / "cgroup.subtree_control").read_text() == "", "a group with processes gives nothing on"


def test_v2_without_swap(scratch: Path) -> None:
    """The default of twice the memory must not fail where the kernel has no swap to limit."""
    group = scratch / "box"
    group.mkdir()
    (scratch / "cgroup.controllers").write_text("memory\n")
    (scratch / "cgroup.subtree_control").write_text("memory\n")
    (group / "memory.max").write_text("")
    apply_limits(Cgroup([(Hierarchy(str(scratch), "", True), str(group))]), {"Memory": 7 * MB, "MemorySwap": 14 * MB})
    assert (group / "memory.max").read_text() == str(7 * MB)
    assert not (group / "memory.swap.max").exists()


@pytest.mark.parametrize("limits", [{"PidsLimit": 5}, {"MemorySwappiness": 5}, {"OomKillDisable": True}])
def test_v2_refuses_what_it_has_not(limits: dict[str, Any], scratch: Path) -> None:
    (scratch / "box").mkdir()
    (scratch / "cgroup.controllers").write_text("cpu memory\n")
    with pytest.raises(MinidockError):
        apply_limits(Cgroup([(Hierarchy(str(scratch), "", True), str(scratch / "box"))]), limits)


@pytest.mark.parametrize("limits", [{"Memory": 7 * MB}, {"CpuShares": 5}, {"BlkioWeight": 100}])
def test_without_any_group_every_limit_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(MinidockError, match="no writable control group"):
        apply_limits(Cgroup(()), limits)


@pytest.mark.parametrize(
    "text, nano",
    [("1", 10**9), ("1.5", 15 * 10**8), (".25", 25 * 10**7), ("0.000000001", 1), ("2e-1", 2 * 10**8), ("-1", -(10**9))],
)
def test_cpus(text: str, nano: int) -> None:
    assert parse_cpus(text) == nano


@pytest.mark.parametrize("text", ["", "x", "1.0000000001", "1..5", "1,5", "0x1", "١"])
def test_cpus_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_cpus(text)


def test_words_of_the_command_line() -> None:
    words = {
        "memory": "1.5g",
        "memory_swap": "-1",
        "cpus": "0.5",
        "pids_limit": 0,
        "memory_swappiness": -1,
        "device_read_bps": ["/dev/sda:1mb"],
        "device_write_iops": ["/dev/sda:30"],
        "blkio_weight_device": ["/dev/sda:200"],
    }
    assert read_limits(words) == {
        "Memory": 3 << 29,
        "MemorySwap": -1,
        "NanoCpus": 500_000_000,
        "PidsLimit": 0,
        "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": MB}],
        "BlkioDeviceWriteIOps": [{"Path": "/dev/sda", "Rate": 30}],
        "BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 200}],
    }


@pytest.mark.parametrize(
    "option, text, reason",
    [
        ("memory", "x", 'invalid argument "x" for "-m, --memory" flag: invalid size: \'x\''),
        ("memory_swap", "-2", 'invalid argument "-2" for "--memory-swap" flag: invalid size: \'-2\''),
        ("device_read_bps", ["sda:1"], "bad format for device path: sda:1"),
        ("device_read_bps", ["/dev/sda"], "bad format: /dev/sda"),
        ("device_write_iops", ["/dev/sda:1mb"], "invalid rate for device: /dev/sda:1mb. The correct format is"),
        ("blkio_weight_device", ["/dev/sda:5"], "invalid weight for device: /dev/sda:5"),
        ("memory_swappiness", 101, "invalid value: 101. Valid memory swappiness range is 0-100"),
    ],
)
def test_words_refused(option: str, text: Any, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_limits({option: text})
    assert reason in caught.value.message


def test_cpuset_lists() -> None:
    assert parse_cpuset("0-2,5") == {0, 1, 2, 5}
    assert [parse_cpuset(text) for text in ("", "x", "2-1", "1-", "-1", "0,,1")] == [None] * 6


def test_what_is_made_on_v2_hands_down_what_stats_reads(scratch: Path) -> None:
    """In groups of minidock's own making alone, and nothing that is handed down already."""
    (scratch / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    (scratch / "cgroup.subtree_control").write_text("memory pids\n")
    told: list[str] = []
    for _ in range(2):
        Cgroup.create("c" * 64, mounted=[Hierarchy(str(scratch), "", True)], trace=lambda _, text: told.append(text))
    written = [line for line in told if line.startswith("echo")]
    assert written == [f"echo +{name} > {scratch}/cgroup.subtree_control" for name in ("cpu", "io")]
