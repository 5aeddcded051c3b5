"""What limits this host can give, and docker's checks of what was asked for.

Source: moby daemon/daemon_unix.go, verifyPlatformContainerResources; pkg/sysinfo
"""

from __future__ import annotations

import os

from minidock.errors import UsageError
from minidock.runtime.cgroup import hierarchies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MIN_MEMORY = 6 << 20
_GONE = "or the cgroup is not mounted."
# field, the file that must be there on v1, the controller on v2 ("" for none), docker's warning
_CHECKS = (
    ("Memory", "memory", "memory.limit_in_bytes", "memory",
     f"Your kernel does not support memory limit capabilities {_GONE} Limitation discarded."),
    ("MemorySwappiness", "memory", "memory.swappiness", "",
     f"Your kernel does not support memory swappiness capabilities {_GONE} Memory swappiness discarded."),
    ("MemoryReservation", "memory", "memory.soft_limit_in_bytes", "memory",
     f"Your kernel does not support memory soft limit capabilities {_GONE} Limitation discarded."),
    ("KernelMemory", "memory", "memory.kmem.limit_in_bytes", "",
     f"Your kernel does not support kernel memory limit capabilities {_GONE} Limitation discarded."),
    ("OomKillDisable", "memory", "memory.oom_control", "",
     "Your kernel does not support OomKillDisable. OomKillDisable discarded."),
    ("PidsLimit", "pids", "", "pids",
     f"Your kernel does not support PIDs limit capabilities {_GONE} PIDs limit discarded."),
    ("CpuShares", "cpu", "cpu.shares", "cpu",
     f"Your kernel does not support CPU shares {_GONE} Shares discarded."),
    ("CpuPeriod", "cpu", "cpu.cfs_period_us", "cpu",
     f"Your kernel does not support CPU CFS scheduler {_GONE} CPU period discarded."),
    ("CpuQuota", "cpu", "cpu.cfs_quota_us", "cpu",
     f"Your kernel does not support CPU CFS scheduler {_GONE} CPU quota discarded."),
    ("CpusetCpus", "cpuset", "", "cpuset", f"Your kernel does not support cpuset {_GONE} Cpuset discarded."),
    ("CpusetMems", "cpuset", "", "cpuset", f"Your kernel does not support cpuset {_GONE} Cpuset discarded."),
    ("BlkioWeight", "blkio", "blkio.weight", "io",
     f"Your kernel does not support Block I/O weight {_GONE} Weight discarded."),
    ("BlkioWeightDevice", "blkio", "blkio.weight_device", "io",
     f"Your kernel does not support Block I/O weight_device {_GONE} Weight-device discarded."),
    ("BlkioDeviceReadBps", "blkio", "blkio.throttle.read_bps_device", "io",
     f"Your kernel does not support BPS Block I/O read limit {_GONE} Block I/O BPS read limit discarded."),
    ("BlkioDeviceWriteBps", "blkio", "blkio.throttle.write_bps_device", "io",
     f"Your kernel does not support BPS Block I/O write limit {_GONE} Block I/O BPS write limit discarded."),
    ("BlkioDeviceReadIOps", "blkio", "blkio.throttle.read_iops_device", "io",
     f"Your kernel does not support IOPS Block read limit {_GONE} Block I/O IOPS read limit discarded."),
    ("BlkioDeviceWriteIOps", "blkio", "blkio.throttle.write_iops_device", "io",
     f"Your kernel does not support IOPS Block write limit {_GONE} Block I/O IOPS write limit discarded."),
)  # fmt: skip


class HostLimits:
    """The control groups of this host, asked file by file."""

    __slots__ = ("_v1", "_v2", "_v2_controllers")

    def __init__(self) -> None:
        self._v1: dict[str, str] = {}
        self._v2 = ""
        self._v2_controllers: list[str] = []
        for each in hierarchies():
            if each.is_v2:
                self._v2 = each.mount_point
                self._v2_controllers = _text(f"{each.mount_point}/cgroup.controllers").split()
            else:
                self._v1.update(dict.fromkeys(each.controllers.split(","), each.mount_point))

    def has(self, controller: str, file: str, v2_controller: str) -> bool:
        """Whether a controller with this file is there."""
        if controller in self._v1:
            return not file or os.path.exists(f"{self._v1[controller]}/{file}")
        return bool(v2_controller) and v2_controller in self._v2_controllers

    def cpuset(self, name: str) -> str:
        """The host's CPUs or memory nodes, `0-3`."""
        if "cpuset" in self._v1:
            return _text(f"{self._v1['cpuset']}/{name}").strip()
        return _text(f"{self._v2}/{name}.effective").strip()


def _text(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return (file.read(1 << 16) or b"").decode("ascii", "replace")
    except OSError:
        return ""


def verify_limits(limits: dict[str, Any], *, update: bool = False) -> list[str]:
    """Check limits as docker's engine does; those that this host cannot give are taken out, with a warning each.

    Shape:  limits has fields of hostconfig.json and is changed
    Raises: UsageError
    """
    host = HostLimits()
    _check_realtime(limits, host)
    warnings = [_drop(limits, check) for check in _CHECKS if limits.get(check[0]) and not host.has(*check[1:4])]
    if limits.get("MemorySwappiness") == 0 and not host.has("memory", "memory.swappiness", ""):
        warnings.append(_drop(limits, _CHECKS[1]))
    _check_memory(limits, host, warnings, update=update)
    _check_cpu(limits, host)
    for field, file, what, nodes in (
        ("CpusetCpus", "cpuset.cpus", "cpuset cpus", "CPUs"),
        ("CpusetMems", "cpuset.mems", "cpuset mems", "memory nodes"),
    ):
        if limits.get(field):
            _check_cpuset(limits[field], host.cpuset(file), what, nodes)
    if limits.get("BlkioWeight") and not 10 <= limits["BlkioWeight"] <= 1000:
        raise UsageError("Range of blkio weight is from 10 to 1000")
    return list(dict.fromkeys(warnings))


def _drop(limits: dict[str, Any], check: tuple[str, str, str, str, str]) -> str:
    del limits[check[0]]
    if check[0] == "Memory":
        limits.pop("MemorySwap", None)
    return check[4]


def _check_memory(limits: dict[str, Any], host: HostLimits, warnings: list[str], *, update: bool) -> None:
    memory, swap = limits.get("Memory") or 0, limits.get("MemorySwap") or 0
    if memory and memory < MIN_MEMORY:
        raise UsageError("Minimum memory limit allowed is 6MB")
    if memory > 0 and swap != -1 and not host.has("memory", "memory.memsw.limit_in_bytes", "memory"):
        warnings.append(f"Your kernel does not support swap limit capabilities {_GONE} Memory limited without swap.")
        swap = limits["MemorySwap"] = -1
    if 0 < swap < memory:
        raise UsageError("Minimum memoryswap limit should be larger than memory limit, see usage")
    if not memory and swap > 0 and not update:
        raise UsageError("You should always set the Memory limit when using Memoryswap limit, see usage")
    swappiness = limits.get("MemorySwappiness")
    if swappiness is not None and not 0 <= swappiness <= 100:
        raise UsageError(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    reservation = limits.get("MemoryReservation") or 0
    if 0 < reservation < MIN_MEMORY:
        raise UsageError("Minimum memory reservation allowed is 6MB")
    if 0 < memory < reservation:
        raise UsageError("Minimum memory limit can not be less than memory reservation limit, see usage")
    if (limits.get("KernelMemory") or 0) > 0:
        warnings.append("Specifying a kernel memory limit is deprecated and will be removed in a future release.")
        if limits["KernelMemory"] < MIN_MEMORY:
            raise UsageError("Minimum kernel memory limit allowed is 6MB")
    if limits.get("OomKillDisable") and not memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system "
            "running out of resources."
        )
    if memory > 0 and not swap and not update:
        limits["MemorySwap"] = memory * 2


def _check_realtime(limits: dict[str, Any], host: HostLimits) -> None:
    """Source: moby runconfig/hostconfig_unix.go, validateResources"""
    period, runtime = limits.get("CpuRealtimePeriod") or 0, limits.get("CpuRealtimeRuntime") or 0
    if (period or runtime) and not host.has("cpu", "cpu.rt_period_us", ""):
        raise UsageError("Your kernel does not support CPU real-time scheduler")
    if period and runtime > period:
        raise UsageError("cpu real-time runtime cannot be higher than cpu real-time period")


def _check_cpu(limits: dict[str, Any], host: HostLimits) -> None:
    nano = limits.get("NanoCpus") or 0
    period, quota = limits.get("CpuPeriod") or 0, limits.get("CpuQuota") or 0
    if nano > 0 and period > 0:
        raise UsageError("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if nano > 0 and quota > 0:
        raise UsageError("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if nano > 0 and not host.has("cpu", "cpu.cfs_quota_us", "cpu"):
        raise UsageError(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted"
        )
    # Go's NumCPU, too, is what this process may use.
    count = len(os.sched_getaffinity(0))
    if nano and not 0 < nano <= count * 1_000_000_000:
        raise UsageError(f"Range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available")
    if period and not 1000 <= period <= 1_000_000:
        raise UsageError("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < quota < 1000:
        raise UsageError("CPU cfs quota can not be less than 1ms (i.e. 1000)")


def _check_cpuset(asked: str, available: str, what: str, nodes: str) -> None:
    wanted = parse_cpuset(asked)
    if wanted is None:
        raise UsageError(f"Invalid value {asked} for {what}: invalid format: {asked}")
    if not wanted <= (parse_cpuset(available) or set()):
        raise UsageError(f"Requested {nodes} are not available - requested {asked}, available: {available}")


def parse_cpuset(text: str) -> set[int] | None:
    """The numbers of a list such as `0-2,5`; None for a text that is no such list. Source: moby pkg/parsers"""
    found: set[int] = set()
    for word in text.split(","):
        first, dash, last = word.partition("-")
        if not dash:
            last = first
        if not all(number.isascii() and number.isdecimal() and len(number) < 6 for number in (first, last)):
            return None
        if int(first) > int(last):
            return None
        found.update(range(int(first), int(last) + 1))
    return found
