"""What a container uses, read from its control groups and its network namespace.

Source: kernel admin-guide/cgroup-v1/{cpuacct,memory,blkio-controller}, cgroup-v2.rst; moby daemon/stats_unix.go
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.runtime.cgroup import Cgroup

_NET_COLUMNS = 9


class Usage:
    """One look at a container; all zero for one that does not run.

    Units: taken_ns, cpu_ns nanoseconds; memory_bytes without the page cache that is easily given back
    """

    __slots__ = (
        "cpu_ns",
        "memory_bytes",
        "memory_limit_bytes",
        "processes",
        "read_bytes",
        "received_bytes",
        "sent_bytes",
        "taken_ns",
        "written_bytes",
    )

    def __init__(self) -> None:
        self.taken_ns = time.monotonic_ns()
        self.cpu_ns = self.processes = 0
        self.memory_bytes = self.memory_limit_bytes = 0
        self.received_bytes = self.sent_bytes = 0
        self.read_bytes = self.written_bytes = 0


def measure(group: Cgroup, pid: int, *, own_network: bool) -> Usage:
    """What the container of these groups uses now, pid being its first process."""
    usage = Usage()
    usage.cpu_ns = _cpu_ns(group)
    _measure_memory(group, usage)
    _measure_blocks(group, usage)
    path = group.path_of("pids") or group.v2_path
    usage.processes = _number(f"{path}/pids.current") if path else 0
    if own_network:
        _measure_network(pid, usage)
    return usage


def _text(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return (file.read(1 << 18) or b"").decode("ascii", "replace")
    except OSError:
        return ""


def _number(path: str) -> int:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else 0


def _field(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return 0


def _cpu_ns(group: Cgroup) -> int:
    v1 = group.path_of("cpuacct")
    if v1 is not None:
        return _number(f"{v1}/cpuacct.usage")
    return _field(_text(f"{group.v2_path}/cpu.stat"), "usage_usec") * 1000


def _measure_memory(group: Cgroup, usage: Usage) -> None:
    v1 = group.path_of("memory")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if v1 is not None:
        used, limit = _number(f"{v1}/memory.usage_in_bytes"), _number(f"{v1}/memory.limit_in_bytes")
        cache = _field(_text(f"{v1}/memory.stat"), "total_inactive_file")
    else:
        used, limit = _number(f"{group.v2_path}/memory.current"), _number(f"{group.v2_path}/memory.max")
        cache = _field(_text(f"{group.v2_path}/memory.stat"), "inactive_file")
    usage.memory_bytes = used - cache if cache < used else used
    usage.memory_limit_bytes = limit if 0 < limit < total else total


def _measure_blocks(group: Cgroup, usage: Usage) -> None:
    v1 = group.path_of("blkio")
    if v1 is None:
        for word in _text(f"{group.v2_path}/io.stat").split():
            key, _, value = word.partition("=")
            if key == "rbytes":
                usage.read_bytes += int(value)
            elif key == "wbytes":
                usage.written_bytes += int(value)
        return
    text = _text(f"{v1}/blkio.throttle.io_service_bytes_recursive")
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] == "Read":
            usage.read_bytes += int(words[2])
        elif len(words) == 3 and words[1] == "Write":
            usage.written_bytes += int(words[2])


def _measure_network(pid: int, usage: Usage) -> None:
    for line in _text(f"/proc/{pid}/net/dev").splitlines():
        name, colon, counts = line.partition(":")
        words = counts.split()
        if colon and name.strip() != "lo" and len(words) >= _NET_COLUMNS:
            usage.received_bytes += int(words[0])
            usage.sent_bytes += int(words[8])
