"""A container's limits: from hostconfig.json's fields to the files of control groups.

`v1_files` and `v2_files` say what is to be written and touch nothing; `apply_limits` writes it. Whatever the host
cannot give is an error, since the caller asked for it; creation warns of it before, see runtime.hostlimits.

On a host with only v2 the groups stay at `/minidock/<container id>`, beside systemd's slices, as an engine with the
cgroupfs driver has them at `/docker`, or below the unit that systemd has delegated to us. Of the groups above, only
`cgroup.subtree_control` is written, and only to add a controller that a limit or `stats` needs; nothing of systemd's is
taken away or moved. A delegated group gives controllers on only once it has no process of its own, so those go into a
leaf.
Source: opencontainers/runc libcontainer/cgroups/{fs,fs2}; kernel admin-guide/cgroup-v1/, cgroup-v2.rst, "No Internal
Process Constraint"; systemd docs/CGROUP_DELEGATION.md
"""

from __future__ import annotations

import errno
import os

from minidock.errors import CommandError, MinidockError
from minidock.runtime.spec import LIMIT_FIELDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from minidock.runtime.cgroup import Cgroup
    from minidock.trace import Trace

    # controller, file, value
    File: TypeAlias = tuple[str, str, str]
    # path of a device -> "major:minor"
    Number: TypeAlias = Callable[[str], str]

PERIOD_US = 100_000
# Where the processes of a delegated group go; systemd's own name for it (DelegateSubgroup=).
SUPERVISOR = "supervisor"
_ROUNDS = 20
_UNLIMITED = -1
_V1_ALONE = (
    ("MemorySwappiness", "memory swappiness", "memory"),
    ("OomKillDisable", "disabling the OOM killer", "memory"),
    ("KernelMemory", "a limit of kernel memory", "memory"),
    ("CpuRealtimePeriod", "real-time CPU time", "cpu"),
    ("CpuRealtimeRuntime", "real-time CPU time", "cpu"),
)
_THROTTLES = (
    ("BlkioDeviceReadBps", "blkio.throttle.read_bps_device", "rbps"),
    ("BlkioDeviceWriteBps", "blkio.throttle.write_bps_device", "wbps"),
    ("BlkioDeviceReadIOps", "blkio.throttle.read_iops_device", "riops"),
    ("BlkioDeviceWriteIOps", "blkio.throttle.write_iops_device", "wiops"),
)


def limits_of(host: dict[str, Any]) -> dict[str, Any]:
    """The limits that a hostconfig.json sets; empty for a container without any."""
    # A swappiness of 0 is a wish, every other 0 is none.
    found = {key: host[key] for key in LIMIT_FIELDS if host.get(key)}
    if host.get("MemorySwappiness") == 0:
        found["MemorySwappiness"] = 0
    return found


def cpu_bandwidth(limits: dict[str, Any]) -> tuple[int, int]:
    """Period and quota in microseconds, 0 for what is not set. Source: moby daemon/daemon_unix.go, getCPUResources"""
    if limits.get("NanoCpus"):
        return PERIOD_US, limits["NanoCpus"] * PERIOD_US // 1_000_000_000
    return limits.get("CpuPeriod") or 0, limits.get("CpuQuota") or 0


def v1_files(limits: dict[str, Any], number: Number) -> list[File]:
    """What to write on v1, in order; memory and its swap are each given, their order depends on what was there."""
    files: list[File] = []
    if limits.get("Memory"):
        files.append(("memory", "memory.limit_in_bytes", str(limits["Memory"])))
    if limits.get("MemorySwap"):
        files.append(("memory", "memory.memsw.limit_in_bytes", str(max(limits["MemorySwap"], _UNLIMITED))))
    if limits.get("MemoryReservation"):
        files.append(("memory", "memory.soft_limit_in_bytes", str(limits["MemoryReservation"])))
    if limits.get("KernelMemory"):
        files.append(("memory", "memory.kmem.limit_in_bytes", str(limits["KernelMemory"])))
    if limits.get("OomKillDisable"):
        files.append(("memory", "memory.oom_control", "1"))
    if limits.get("MemorySwappiness") is not None:
        files.append(("memory", "memory.swappiness", str(limits["MemorySwappiness"])))
    if limits.get("CpuShares"):
        files.append(("cpu", "cpu.shares", str(limits["CpuShares"])))
    period, quota = cpu_bandwidth(limits)
    if period:
        files.append(("cpu", "cpu.cfs_period_us", str(period)))
    if quota:
        files.append(("cpu", "cpu.cfs_quota_us", str(quota)))
    for field, name in (("CpuRealtimePeriod", "cpu.rt_period_us"), ("CpuRealtimeRuntime", "cpu.rt_runtime_us")):
        if limits.get(field):
            files.append(("cpu", name, str(limits[field])))
    files += _cpuset(limits)
    if limits.get("PidsLimit"):
        files.append(("pids", "pids.max", _count(limits["PidsLimit"])))
    if limits.get("BlkioWeight"):
        files.append(("blkio", "blkio.weight", str(limits["BlkioWeight"])))
    for one in limits.get("BlkioWeightDevice") or ():
        files.append(("blkio", "blkio.weight_device", f"{number(one['Path'])} {one['Weight']}"))
    for field, name, _ in _THROTTLES:
        for one in limits.get(field) or ():
            files.append(("blkio", name, f"{number(one['Path'])} {one['Rate']}"))
    return files


def v2_files(limits: dict[str, Any], number: Number) -> list[File]:
    """What to write on v2; MemorySwappiness and OomKillDisable have no file there and are for the caller to refuse."""
    files: list[File] = []
    memory, swap = limits.get("Memory") or 0, limits.get("MemorySwap") or 0
    if swap:
        files.append(("memory", "memory.swap.max", "max" if swap < 0 else str(swap - max(memory, 0))))
    if memory:
        files.append(("memory", "memory.max", _count(memory)))
    if limits.get("MemoryReservation"):
        files.append(("memory", "memory.low", str(limits["MemoryReservation"])))
    if limits.get("CpuShares"):
        files.append(("cpu", "cpu.weight", str(weight_of_shares(limits["CpuShares"]))))
    period, quota = cpu_bandwidth(limits)
    if period or quota:
        files.append(("cpu", "cpu.max", f"{_count(quota)} {period or PERIOD_US}"))
    files += _cpuset(limits)
    if limits.get("PidsLimit"):
        files.append(("pids", "pids.max", _count(limits["PidsLimit"])))
    if limits.get("BlkioWeight"):
        files.append(("io", "io.weight", str(io_weight(limits["BlkioWeight"]))))
    for one in limits.get("BlkioWeightDevice") or ():
        files.append(("io", "io.weight", f"{number(one['Path'])} {io_weight(one['Weight'])}"))
    for field, _, key in _THROTTLES:
        for one in limits.get(field) or ():
            files.append(("io", "io.max", f"{number(one['Path'])} {key}={one['Rate']}"))
    return files


def weight_of_shares(shares: int) -> int:
    """cpu.weight, 1 to 10000, of v1's shares, 2 to 262144. Source: runc, ConvertCPUSharesToCgroupV2Value"""
    shares = min(max(shares, 2), 262144)
    return 1 + (shares - 2) * 9999 // 262142


def io_weight(weight: int) -> int:
    """io.weight, 1 to 10000, of v1's weight, 10 to 1000. Source: runc, ConvertBlkIOToIOWeightValue"""
    return 1 + (weight - 10) * 9999 // 990


def _count(value: int) -> str:
    return str(value) if value > 0 else "max"


def _cpuset(limits: dict[str, Any]) -> list[File]:
    pairs = (("CpusetCpus", "cpuset.cpus"), ("CpusetMems", "cpuset.mems"))
    return [("cpuset", file, str(limits[field])) for field, file in pairs if limits.get(field)]


def device_number(path: str) -> str:
    """`major:minor` of a block device; raises MinidockError."""
    try:
        device = os.stat(path).st_rdev
    except OSError as error:
        # As docker's client ends where something is not there.
        code = 127 if error.errno == errno.ENOENT else 125
        raise CommandError(f"stat {path}: {(error.strerror or '').lower()}", exit_code=code) from None
    return f"{os.major(device)}:{os.minor(device)}"


def apply_limits(group: Cgroup, limits: dict[str, Any], trace: Trace | None = None) -> None:
    """Write a container's limits into its groups, each where its controller is; raises MinidockError."""
    for controller, name, value in _memory_in_order(group, v1_files(limits, device_number)):
        path = group.path_of(controller)
        if path is not None:
            _write(_existing(path, name), value, trace)
            if name == "cpu.shares":
                _check_shares(f"{path}/{name}", int(value))
    v2 = group.v2_path
    for controller, name, value in v2_files(limits, device_number):
        if group.path_of("blkio" if controller == "io" else controller) is None:
            _write_v2(group, v2, controller, name, value, trace)
    for field, what, controller in _V1_ALONE:
        if limits.get(field) not in (None, False) and group.path_of(controller) is None:
            raise MinidockError(
                f"{what} is not possible on this host: it needs the {controller} controller of cgroup v1"
            )


def _check_shares(path: str, asked: int) -> None:
    """The kernel takes what is out of its bounds for the nearest that is not. Source: runc, fs/cpu.go"""
    given = int(_read(path))
    if given != asked:
        bound = "minimum" if given > asked else "maximum"
        raise MinidockError(f"the {bound} allowed cpu-shares is {given}")


def _memory_in_order(group: Cgroup, files: list[File]) -> list[File]:
    """Swap's limit may never be below memory's, not even between two writes; so the one that grows goes first."""
    swap = next((index for index, file in enumerate(files) if file[1] == "memory.memsw.limit_in_bytes"), -1)
    path = group.path_of("memory")
    if swap < 0 or path is None:
        return files
    name, value = files[swap][1:]
    if value == "-1" and not os.path.exists(f"{path}/{name}"):
        # Swap is not accounted here, so it has no limit already.
        return files[:swap] + files[swap + 1 :]
    try:
        now = int(_read(f"{path}/{name}"))
    except OSError:
        return files
    if value == "-1" or int(value) >= now:
        files.insert(0, files.pop(swap))
    return files


def _existing(path: str, name: str) -> str:
    """The weights are the CFQ scheduler's or BFQ's, whichever the kernel has."""
    if name in ("blkio.weight", "io.weight") and not os.path.exists(f"{path}/{name}"):
        return f"{path}/{name.replace('.', '.bfq.')}"
    return f"{path}/{name}"


def _write_v2(group: Cgroup, path: str | None, controller: str, name: str, value: str, trace: Trace | None) -> None:
    if path is None:
        raise MinidockError(f"cannot set {name}: there is no writable control group for {controller} on this host")
    mount_point = next(hierarchy.mount_point for hierarchy, _ in group.paths if hierarchy.is_v2)
    enable_controller(mount_point, path, controller, trace, delegated=group.delegated)
    if name == "memory.swap.max" and not os.path.exists(f"{path}/{name}"):
        # A kernel without swap: there is nothing to be limited.
        return
    _write(_existing(path, name), value, trace)


def enable_controller(
    mount_point: str, path: str, controller: str, trace: Trace | None = None, *, delegated: str = ""
) -> None:
    """Let a v2 group have a controller, from the root or the delegated group down; raises MinidockError.

    Shape: above the delegated group everything is its manager's, which has given it the controllers that it has
    """
    above = mount_point + delegated
    for word in path.removeprefix(above).strip("/").split("/"):
        try:
            if controller not in _read(f"{above}/cgroup.controllers").split():
                raise MinidockError(f"cannot limit by {controller}: the controller is not available in {above}")
            if controller not in _read(f"{above}/cgroup.subtree_control").split():
                if delegated and above == mount_point + delegated:
                    _clear(above, trace)
                _write(f"{above}/cgroup.subtree_control", f"+{controller}", trace)
        except OSError as error:
            if isinstance(error, MinidockError):
                raise
            raise MinidockError(f"cannot limit by {controller}: {above}: {error.strerror}") from None
        above = f"{above}/{word}"


def _clear(above: str, trace: Trace | None) -> None:
    """Move the processes of a group into a leaf below it, also those that are forked meanwhile."""
    for _ in range(_ROUNDS):
        # 0 stands for a process that this pid namespace does not have, and to this file for ourselves.
        pids = [pid for pid in _read(f"{above}/cgroup.procs").split() if pid != "0"]
        if not pids:
            return
        try:
            os.mkdir(f"{above}/{SUPERVISOR}", 0o755)
        except FileExistsError:
            pass
        for pid in pids:
            try:
                _write(f"{above}/{SUPERVISOR}/cgroup.procs", pid, trace)
            except MinidockError:
                # It has ended.
                continue


def _read(path: str) -> str:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, 1 << 16).decode("ascii", "replace")
    finally:
        os.close(handle)


def _write(path: str, value: str, trace: Trace | None) -> None:
    if trace:
        trace("cgroup", f"echo {value} > {path}")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(handle, value.encode("ascii"))
        finally:
            os.close(handle)
    except OSError as error:
        raise MinidockError(f"cannot write {value} to {path}: {error.strerror}") from None
