"""What a process that unpacks a hostile layer can still do, should the layer ever take it over.

Its root is the layer's directory, and a chroot alone does not hold a process that may call chroot again. So the calls
that lead out of a root, to other processes, to new programs or into the kernel's own doors are refused by a seccomp
filter, and of the capabilities only those stay that making files takes: owners, modes, device nodes, `trusted.` and
`security.` attributes. One way stays open that no filter can tell from honest work: to make a disk's node and open it.
Source: seccomp(2); linux/audit.h, linux/filter.h; kernel arch/*/entry/syscalls for the numbers
"""

from __future__ import annotations

from minidock.errors import SyscallError
from minidock.linux.capabilities import NAMES, permitted, set_exactly
from minidock.linux.libc import MACHINE
from minidock.linux.process import PR_SET_NO_NEW_PRIVS, prctl
from minidock.linux.seccomp import PreparedFilter

# `trusted.overlay.opaque` takes SYS_ADMIN; what else it opens is shut by the filter.
_KEPT = sum(
    1 << NAMES.index(name) for name in ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP", "SYS_ADMIN")
)

# The audit word of the architecture, then the numbers of: chroot pivot_root mount umount2 setns unshare execve execveat
# ptrace process_vm_readv process_vm_writev open_by_handle_at socket socketpair bpf perf_event_open init_module
# finit_module delete_module kexec_load keyctl add_key request_key swapon quotactl reboot, kill tkill tgkill
# rt_sigqueueinfo rt_tgsigqueueinfo prlimit64
_OLD_NUMBERS = {
    "x86_64": (
        0xC000003E,
        (
            *(161, 155, 165, 166, 308, 272, 59, 322, 101, 310, 311, 304, 41, 53, 321, 298),
            *(175, 313, 176, 246, 250, 248, 249, 167, 179, 169, 62, 200, 234, 129, 297, 302),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(51, 41, 40, 39, 268, 97, 221, 281, 117, 270, 271, 265, 198, 199, 280, 241),
            *(105, 273, 106, 104, 219, 217, 218, 224, 60, 142, 129, 130, 131, 138, 240, 261),
        ),
    ),
}
# pidfd_send_signal io_uring_setup open_tree move_mount fsopen fsconfig fsmount fspick pidfd_open pidfd_getfd
# mount_setattr: one table for all architectures.
_NEW_NUMBERS = (424, 425, 428, 429, 430, 431, 432, 433, 434, 438, 442)
_LOAD_WORD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _EPERM = 0x7FFF0000, 0x00050001
_ARCHITECTURE_AT, _NUMBER_AT = 4, 0
_X32_BIT = 0x40000000


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return code.to_bytes(2, "little") + bytes((if_true, if_false)) + value.to_bytes(4, "little")


def filter_program(machine: str = MACHINE) -> bytes:
    """A program for seccomp(2) that refuses with EPERM what unpacking never does; empty for an unknown machine."""
    if machine not in _OLD_NUMBERS:
        return b""
    architecture, old = _OLD_NUMBERS[machine]
    numbers = (*old, *_NEW_NUMBERS)
    # Each comparison jumps over those that follow it, over the permission, to the refusal.
    code = [
        _instruction(_LOAD_WORD, _ARCHITECTURE_AT),
        _instruction(_JUMP_EQUAL, architecture, if_false=len(numbers) + 3),
        _instruction(_LOAD_WORD, _NUMBER_AT),
        _instruction(_JUMP_AT_LEAST, _X32_BIT, if_true=len(numbers) + 1),
        *(_instruction(_JUMP_EQUAL, number, if_true=len(numbers) - at) for at, number in enumerate(numbers)),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _EPERM),
    ]
    return b"".join(code)


def confine() -> None:
    """Give up, for good and for all threads to come, what making a layer's files does not take; raises SyscallError."""
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if _PROGRAM is not None:
        try:
            _PROGRAM.load()
        except SyscallError as error:
            # EINVAL: a kernel built without filters.
            if error.errno not in (22, 38):
                raise
    set_exactly(_KEPT & permitted())


# Laid out at import, since a layer's directory is the root by the time it is loaded.
_PROGRAM = PreparedFilter(filter_program()) if filter_program() else None
