"""`info`: the data root and the machine, under the keys of docker's API."""

from __future__ import annotations

import os

from minidock.constants import DRIVER
from minidock.errors import MinidockError
from minidock.store.fitness import has_kinds
from minidock.store.transaction import read_small, read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.root import DataRoot

# statfs(2) magic numbers, in the words that docker uses for them.
_FILE_SYSTEMS = {
    "btrfs": "btrfs",
    "ext2": "extfs",
    "ext3": "extfs",
    "ext4": "extfs",
    "f2fs": "f2fs",
    "overlay": "overlayfs",
    "tmpfs": "tmpfs",
    "xfs": "xfs",
    "zfs": "zfs",
}


def info(root: DataRoot) -> dict[str, Any]:
    """What docker info tells, as far as it means something without a daemon.

    Raises: StoreCorrupt
    Source: moby daemon/info.go; API 1.41, SystemInfo
    """
    import time

    from minidock import __version__
    from minidock.formats.gojson import format_time

    system = os.uname()
    name, number = _operating_system()
    states = _container_states(root)
    v2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    return {
        "Containers": sum(states.values()),
        "ContainersRunning": states["running"],
        "ContainersPaused": states["paused"],
        "ContainersStopped": states["stopped"],
        "Images": len(root.images.all()),
        "Driver": DRIVER,
        "DriverStatus": [
            ["Backing Filesystem", _backing_file_system(root)],
            ["Supports d_type", "true" if has_kinds(root.overlay_path) else "false"],
            ["Native Overlay Diff", "true"],
            ["userxattr", "false"],
        ],
        **_limits(),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2" if v2 else "1",
        "KernelVersion": system.release,
        "OperatingSystem": name,
        "OSVersion": number,
        "OSType": "linux",
        "Architecture": system.machine,
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "DockerRootDir": root.path,
        "Name": system.nodename,
        "SystemTime": format_time(time.time_ns()),
        "ServerVersion": __version__,
        "SecurityOptions": _security_options(),
        "Warnings": _warnings() or None,
    }


def _limits() -> dict[str, Any]:
    """What limits this host can give, under the names that docker info has for them. Source: moby pkg/sysinfo"""
    from minidock.runtime.hostlimits import HostLimits

    host = HostLimits()
    return {
        "MemoryLimit": host.has("memory", "memory.limit_in_bytes", "memory"),
        "SwapLimit": host.has("memory", "memory.memsw.limit_in_bytes", "memory"),
        "KernelMemory": host.has("memory", "memory.kmem.limit_in_bytes", ""),
        "CpuCfsPeriod": host.has("cpu", "cpu.cfs_period_us", "cpu"),
        "CpuCfsQuota": host.has("cpu", "cpu.cfs_quota_us", "cpu"),
        "CPUShares": host.has("cpu", "cpu.shares", "cpu"),
        "CPUSet": host.has("cpuset", "", "cpuset"),
        "PidsLimit": host.has("pids", "", "pids"),
        "OomKillDisable": host.has("memory", "memory.oom_control", ""),
    }


def _container_states(root: DataRoot) -> dict[str, int]:
    states = {"running": 0, "paused": 0, "stopped": 0}
    if root.has_containers():
        for container in root.containers.all():
            if not container.is_running():
                states["stopped"] += 1
            elif container.state.status == "paused":
                states["paused"] += 1
            else:
                states["running"] += 1
    return states


def _operating_system() -> tuple[str, str]:
    """PRETTY_NAME and VERSION_ID. Source: os-release(5)"""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = open(path, encoding="utf-8", errors="replace").read()
        except OSError:
            continue
        values = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
        return values.get("PRETTY_NAME", "Linux").strip("\"'"), values.get("VERSION_ID", "").strip("\"'")
    return "Linux", ""


def _backing_file_system(root: DataRoot) -> str:
    """The type of the file system with the layers. Source: proc(5), /proc/PID/mountinfo"""
    if root.fd < 0:
        return "unknown"
    device = os.fstat(root.fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    kind = "unknown"
    for line in os.fsdecode(read_table("/proc/self/mountinfo")).splitlines():
        fields = line.split()
        if fields[2] == wanted:
            kind = fields[fields.index("-") + 1]
    return _FILE_SYSTEMS.get(kind, kind)


def _security_options() -> list[str]:
    """What confines containers here, in the words of docker's API. Source: seccomp(2), actions_avail"""
    from minidock.runtime import apparmor

    options = ["name=apparmor"] if apparmor.is_enabled() else []
    if os.path.exists("/proc/sys/kernel/seccomp/actions_avail"):
        options.append("name=seccomp,profile=default")
    return options


def _warnings() -> list[str]:
    from minidock.runtime import apparmor

    warnings = []
    if apparmor.missing_default():
        warnings.append(f"WARNING: AppArmor's profile {apparmor.DEFAULT} is not loaded: containers run without it")
    try:
        if read_small("/proc/sys/net/ipv4/ip_forward").strip() == b"0":
            warnings.append("WARNING: IPv4 forwarding is disabled")
    except OSError:
        return warnings
    from minidock.network.firewall import dropped_by_others

    try:
        chains = dropped_by_others()
    except MinidockError:
        # Only root may ask.
        return warnings
    return warnings + [
        f"WARNING: {chain} drops what containers send beyond the host, unless it has rules for that" for chain in chains
    ]
