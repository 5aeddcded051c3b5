"""The C library, opened once, with prototypes declared once.

`declare` gives a function whose failure raises SyscallError with the call as one would write it, so no
caller looks at errno.
"""

from __future__ import annotations

import os

from minidock.errors import SyscallError
from minidock.linux import cdata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _spell(value: object) -> str:
    if isinstance(value, bytes):
        return repr(os.fsdecode(value))
    return "NULL" if value is None else str(value)


def declare(name: str, *argtypes: Any, restype: Any = cdata.c_int) -> Callable[..., int]:
    """Bind a C function with its prototype.

    Returns: a callable with the C function's arguments and result; -1 raises SyscallError
    """
    function = cdata.function(name, restype, argtypes)

    def call(*arguments: Any) -> int:
        result: int = function(*arguments)
        if result == -1:
            raise SyscallError(f"{name}({', '.join(map(_spell, arguments))})", cdata.get_errno())
        return result

    return call


_syscall = cdata.function("syscall", cdata.c_long)

MACHINE = os.uname().machine

# Calls that glibc 2.31 (Debian 11) does not wrap. Numbers from 424 on are one table for every architecture
# (kernel: arch/*/entry/syscalls, "common" numbers since 5.1); older ones differ.
_OLD_NUMBERS = {
    "x86_64": {"pivot_root": 155, "seccomp": 317, "bpf": 321, "memfd_create": 319, "capset": 126, "capget": 125},
    "aarch64": {"pivot_root": 41, "seccomp": 277, "bpf": 280, "memfd_create": 279, "capset": 91, "capget": 90},
}
NUMBERS = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
    **_OLD_NUMBERS.get(MACHINE, _OLD_NUMBERS["x86_64"]),
}


def syscall(name: str, *arguments: Any) -> int:
    """Make a system call by number, for calls that the C library does not wrap.

    Shape:  arguments are ints, bytes, None or C's values and pointers
    Raises: SyscallError with the call and its arguments
    Source: syscall(2)
    """
    wide = [cdata.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = _syscall(cdata.c_long(NUMBERS[name]), *wide)
    if result == -1:
        raise SyscallError(f"{name}({', '.join(map(_spell, arguments))})", cdata.get_errno())
    return result
