"""Capabilities: their names, docker's default set, and how a process takes on exactly one set.

Source: capabilities(7); include/uapi/linux/capability.h
"""

from __future__ import annotations

from minidock.errors import SyscallError, UsageError
from minidock.linux import cdata
from minidock.linux.libc import syscall
from minidock.linux.process import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAPBSET_DROP,
    PR_SET_KEEPCAPS,
    prctl,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# In the order of their numbers.
NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
ALL = (1 << len(NAMES)) - 1

# CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE
# SETFCAP: the engine's default. Source: moby oci/caps/defaults.go
DEFAULT = 0xA80425FB

SYS_ADMIN = 1 << NAMES.index("SYS_ADMIN")

_VERSION_3 = 0x20080522


class _Header(cdata.Structure):
    _fields_ = (("version", cdata.c_uint32), ("pid", cdata.c_int))


class _Data(cdata.Structure):
    _fields_ = (("effective", cdata.c_uint32), ("permitted", cdata.c_uint32), ("inheritable", cdata.c_uint32))


def permitted() -> int:
    """This process's permitted set as a bit mask; raises SyscallError. Source: capget(2)"""
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    syscall("capget", cdata.byref(header), cdata.byref(data))
    return int(data[0].permitted | data[1].permitted << 32)


def _parse(names: Sequence[str], option: str) -> tuple[int, bool]:
    mask, every = 0, False
    for name in names:
        word = name.upper()
        if word == "ALL":
            every = True
            continue
        try:
            mask |= 1 << NAMES.index(word.removeprefix("CAP_"))
        except ValueError:
            full = word if word.startswith("CAP_") else "CAP_" + word
            raise UsageError(f'invalid {option}: unknown capability: "{full}"') from None
    return mask, every


def container_set(add: Sequence[str], drop: Sequence[str], *, privileged: bool) -> tuple[int, int]:
    """The capabilities of a container from `--cap-add`, `--cap-drop` and `--privileged`.

    Returns: (mask, asked): asked are those the caller named, which must not be left out silently
    Raises:  UsageError for an unknown name, with docker's words
    Source:  moby oci/caps/utils.go, TweakCapabilities
    """
    added, add_all = _parse(add, "CapAdd")
    dropped, drop_all = _parse(drop, "CapDrop")
    if privileged:
        return ALL, 0
    if add_all:
        return ALL & ~dropped, added & ~dropped
    if drop_all:
        return added, added
    return DEFAULT & ~dropped | added, added


def words(mask: int) -> str:
    """The names in a mask as setpriv(1) and capsh(1) list them."""
    return ",".join(name.lower() for number, name in enumerate(NAMES) if mask >> number & 1)


def drop_bounding_except(mask: int) -> None:
    """Take every capability out of the bounding set that is not in mask; raises SyscallError.

    The kernel says EINVAL behind the last capability it knows.
    """
    for number in range(64):
        if not mask >> number & 1:
            try:
                prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
            except SyscallError as error:
                if error.errno != 22:
                    raise
                return


def keep_over_setuid(keep: bool) -> None:
    """Keep or drop the permitted set when all user IDs leave 0. Source: prctl(2), PR_SET_KEEPCAPS"""
    prctl(PR_SET_KEEPCAPS, int(keep), 0, 0, 0)


def set_exactly(mask: int, *, permitted_too: int = 0) -> None:
    """Make mask the effective and permitted set; inheritable and ambient become empty.

    Shape:  permitted_too: further ones that stay permitted, to be taken up again by a later call

    An inheritable set would give capabilities to programs of other users that carry file capabilities
    (CVE-2022-24769), so it stays empty, as in engines since that fix.

    Raises: SyscallError
    """
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    for half in (0, 1):
        data[half].effective = mask >> 32 * half & 0xFFFFFFFF
        data[half].permitted = (mask | permitted_too) >> 32 * half & 0xFFFFFFFF
    syscall("capset", cdata.byref(header), cdata.byref(data))
