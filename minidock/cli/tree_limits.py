"""The options about limits, which `run`, `create` and `update` share."""

from __future__ import annotations

from typing import Annotated

import typer

Memory = Annotated[str | None, typer.Option("--memory", "-m", metavar="BYTES", help="Limit of memory, e.g. 512m")]
MemorySwap = Annotated[
    str | None, typer.Option("--memory-swap", metavar="BYTES", help="Limit of memory and swap together, -1 for none")
]
MemoryReservation = Annotated[
    str | None, typer.Option("--memory-reservation", metavar="BYTES", help="Soft limit of memory")
]
MemorySwappiness = Annotated[int | None, typer.Option("--memory-swappiness", metavar="0-100", help="Readiness to swap")]
OomKillDisable = Annotated[
    bool, typer.Option("--oom-kill-disable", show_default=False, help="Do not kill when memory is out")
]
Cpus = Annotated[str | None, typer.Option("--cpus", metavar="NUMBER", help="Number of CPUs, e.g. 1.5")]
CpuShares = Annotated[
    int | None, typer.Option("--cpu-shares", "-c", metavar="SHARES", help="CPU time relative to others, 1024 is usual")
]
CpuPeriod = Annotated[int | None, typer.Option("--cpu-period", metavar="MICROSECONDS", help="Period of the CPU quota")]
CpuQuota = Annotated[int | None, typer.Option("--cpu-quota", metavar="MICROSECONDS", help="CPU time in each period")]
CpusetCpus = Annotated[str | None, typer.Option("--cpuset-cpus", metavar="LIST", help="CPUs to run on, e.g. 0-2,5")]
CpusetMems = Annotated[str | None, typer.Option("--cpuset-mems", metavar="LIST", help="Memory nodes to use")]
PidsLimit = Annotated[
    int | None, typer.Option("--pids-limit", metavar="NUMBER", help="Limit of processes, -1 for none")
]
BlkioWeight = Annotated[
    int | None, typer.Option("--blkio-weight", metavar="10-1000", help="Share of block I/O, 0 for none")
]
BlkioWeightDevice = Annotated[
    list[str] | None,
    typer.Option("--blkio-weight-device", metavar="DEVICE:WEIGHT", help="Share of one device (repeatable)"),
]
DeviceReadBps = Annotated[
    list[str] | None, typer.Option("--device-read-bps", metavar="DEVICE:RATE", help="Bytes read a second (repeatable)")
]
DeviceWriteBps = Annotated[
    list[str] | None,
    typer.Option("--device-write-bps", metavar="DEVICE:RATE", help="Bytes written a second (repeatable)"),
]
DeviceReadIops = Annotated[
    list[str] | None, typer.Option("--device-read-iops", metavar="DEVICE:RATE", help="Reads a second (repeatable)")
]
DeviceWriteIops = Annotated[
    list[str] | None, typer.Option("--device-write-iops", metavar="DEVICE:RATE", help="Writes a second (repeatable)")
]
CpuRtPeriod = Annotated[
    int | None, typer.Option("--cpu-rt-period", metavar="MICROSECONDS", help="Period of the real-time CPU time")
]
CpuRtRuntime = Annotated[
    int | None, typer.Option("--cpu-rt-runtime", metavar="MICROSECONDS", help="Real-time CPU time in each period")
]
KernelMemory = Annotated[
    str | None, typer.Option("--kernel-memory", metavar="BYTES", help="Limit of kernel memory, of old kernels alone")
]
CgroupParent = Annotated[
    str | None, typer.Option("--cgroup-parent", metavar="PATH", help="Control group to put the container's below")
]
Cgroupns = Annotated[
    str | None, typer.Option("--cgroupns", metavar="MODE", help="Cgroup namespace: 'private' (default) or 'host'")
]
DeviceCgroupRule = Annotated[
    list[str] | None,
    typer.Option("--device-cgroup-rule", metavar="RULE", help="Allow devices, e.g. 'c 1:3 rwm' (repeatable)"),
]
