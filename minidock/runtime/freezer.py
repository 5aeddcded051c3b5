"""Stopping all processes of a control group, and letting them go on.

Source: kernel Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst, cgroup-v2.rst (cgroup.freeze)
"""

from __future__ import annotations

import os
import select

from minidock.errors import MinidockError
from minidock.runtime.cgroup import write_control
from minidock.store.transaction import read_small

_WAIT_MS = 10_000


def freeze_v1(path: str, state: str) -> None:
    """Write FROZEN or THAWED to a freezer.state until it says so itself; raises MinidockError."""
    for _ in range(_WAIT_MS):
        write_control(path, state)
        if read_small(path).decode("ascii").strip() == state:
            return
        select.select([], [], [], 0.001)
    write_control(path, "THAWED")
    raise MinidockError(f"the container could not be frozen within {_WAIT_MS // 1000} seconds")


def freeze_v2(path: str, frozen: bool) -> None:
    """Stop a v2 group, and wait until it stands still, or let it go on; raises MinidockError."""
    handle = os.open(path + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        write_control(path + "/cgroup.freeze", "1" if frozen else "0")
        if not frozen:
            return
        poll = select.poll()
        poll.register(handle, select.POLLPRI)
        while b"frozen 1" not in os.pread(handle, 4096, 0):
            if not poll.poll(_WAIT_MS):
                write_control(path + "/cgroup.freeze", "0")
                raise MinidockError(f"the container could not be frozen within {_WAIT_MS // 1000} seconds")
    finally:
        os.close(handle)
