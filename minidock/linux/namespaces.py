"""Namespaces: their flags, unshare(2), setns(2), and the loopback of a new network."""

from __future__ import annotations

import fcntl
import os

from minidock.linux import cdata
from minidock.linux.libc import declare

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# flag, word of unshare(1), name below /proc/PID/ns
NAMESPACES = (
    (CLONE_NEWNS, "mount", "mnt"),
    (CLONE_NEWPID, "pid", "pid"),
    (CLONE_NEWUTS, "uts", "uts"),
    (CLONE_NEWIPC, "ipc", "ipc"),
    (CLONE_NEWNET, "net", "net"),
    (CLONE_NEWCGROUP, "cgroup", "cgroup"),
    (CLONE_NEWUSER, "user", "user"),
)

_unshare = declare("unshare", cdata.c_int)
_setns = declare("setns", cdata.c_int, cdata.c_int)
_socket = declare("socket", cdata.c_int, cdata.c_int, cdata.c_int)

_AF_INET, _SOCK_DGRAM, _SOCK_CLOEXEC = 2, 2, 0o2000000
_SIOCSIFFLAGS = 0x8914
_IFREQ_LO_UP = b"lo".ljust(16, b"\0") + b"\1\0" + bytes(22)


def unshare(flags: int) -> None:
    """Move this process into new namespaces; raises SyscallError. Source: unshare(2)"""
    _unshare(flags)


def set_namespaces(fd: int, flags: int) -> None:
    """Join namespaces.

    Shape:  fd: a pidfd with any set of CLONE_NEW* flags (Linux 5.8), or a /proc/PID/ns/* descriptor with its one flag
    Raises: SyscallError
    Source: setns(2)
    """
    _setns(fd, flags)


def raise_loopback() -> None:
    """Bring `lo` up in this network namespace, what `ip link set lo up` does. Source: netdevice(7)"""
    handle = _socket(_AF_INET, _SOCK_DGRAM | _SOCK_CLOEXEC, 0)
    try:
        fcntl.ioctl(handle, _SIOCSIFFLAGS, _IFREQ_LO_UP)
    finally:
        os.close(handle)


def describe_flags(flags: int) -> str:
    """The unshare(1) options that ask for the same namespaces."""
    return " ".join(f"--{word}" for flag, word, _ in NAMESPACES if flags & flag)
