"""Whether a host's mount can give what a bind asks of its propagation.

Source: moby daemon/oci_linux.go, ensureShared, ensureSharedOrSlave; proc(5), /proc/PID/mountinfo, optional fields
"""

from __future__ import annotations

import os

from minidock.errors import UsageError
from minidock.store.transaction import read_table, unescape


def check_propagation(source: str, propagation: str) -> None:
    """Raise UsageError, in the engine's words, unless mounts can go the way that propagation says.

    Shape: source: a path of the host; propagation: shared, slave or one of these with an r
    """
    path = os.path.realpath(source)
    point, words = "", ""
    for line in os.fsdecode(read_table("/proc/self/mountinfo")).splitlines():
        fields = line.split(" - ")[0].split(" ")
        here = unescape(fields[4])
        # Of several at one place the last one is on top.
        if len(here) >= len(point) and (path + "/").startswith(here.rstrip("/") + "/"):
            point, words = here, " ".join(fields[6:])
    is_shared = "shared:" in words
    if propagation.endswith("shared") and not is_shared:
        raise UsageError(f"path {source} is mounted on {point} but it is not a shared mount")
    if propagation.endswith("slave") and not is_shared and "master:" not in words:
        raise UsageError(f"path {source} is mounted on {point} but it is not a shared or slave mount")
