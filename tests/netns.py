"""The network namespace that a test session lives in, and those that tests make.

As root, a session leaves the machine's own network before its first test: what containers' networks need there (links,
addresses, routes, rules, sysctls) is made in a namespace that ends with the session. What needs the package mirror says
so, with outside().
"""

from __future__ import annotations

import ctypes
import os

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_outside_fd = -1


def unshare_network() -> None:
    """Move this process into a new network, with nothing in it but a loopback that is up."""
    if _libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
    os.spawnlp(os.P_WAIT, "ip", "ip", "link", "set", "lo", "up")


def enter_own() -> None:
    """Leave the machine's network for one of the session's own; once a session."""
    global _outside_fd
    if _outside_fd < 0 and os.geteuid() == 0:
        _outside_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        unshare_network()


def outside() -> list[str]:
    """The words before a command that has to reach the package mirror."""
    return [] if _outside_fd < 0 else ["nsenter", f"--net=/proc/{os.getpid()}/fd/{_outside_fd}"]
