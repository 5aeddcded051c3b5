"""`version`: which minidock this is, and what it runs on."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Go's words for the machine, which images and docker's own answers use.
GO_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "i386": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}


def version() -> dict[str, Any]:
    """Versions under docker's keys; client and server are one and the same program here."""
    from minidock import __version__

    system = os.uname()
    own = {
        "Version": __version__,
        "PythonVersion": ".".join(map(str, sys.version_info[:3])),
        "Os": "linux",
        "Arch": GO_ARCHITECTURES.get(system.machine, system.machine),
        "KernelVersion": system.release,
    }
    return {"Client": dict(own), "Server": dict(own)}
