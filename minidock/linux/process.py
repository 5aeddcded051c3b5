"""Processes: clone3, pidfds, prctl, exec, session keyrings, descriptor ranges."""

from __future__ import annotations

import errno
import os

from minidock.errors import SyscallError
from minidock.linux import cdata
from minidock.linux.libc import MACHINE, NUMBERS, declare, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SIGKILL = 9
SIGCHLD = 17

CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000

PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CLOSE_RANGE_CLOEXEC = 4
_AT_EMPTY_PATH = 0x1000
_KEYCTL_JOIN_SESSION_KEYRING = 1

NUMBERS.setdefault("execveat", 281 if MACHINE == "aarch64" else 322)
NUMBERS.setdefault("clone", 220 if MACHINE == "aarch64" else 56)
NUMBERS.setdefault("keyctl", 219 if MACHINE == "aarch64" else 250)


class _CloneArgs(cdata.Structure):
    # linux/sched.h, struct clone_args, CLONE_ARGS_SIZE_VER2 (with the cgroup member, Linux 5.7)
    _fields_ = tuple(
        (name, cdata.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    )


# The interpreter's lock stays held during the call, so that the child starts with the lock in a known state.
_raw_syscall = cdata.function("syscall", cdata.c_long, locked=True)

prctl = declare("prctl", cdata.c_int, cdata.c_ulong, cdata.c_ulong, cdata.c_ulong, cdata.c_ulong)
_sethostname = declare("sethostname", cdata.c_char_p, cdata.c_size_t)


def clone_process(flags: int, cgroup_fd: int | None = None) -> tuple[int, int]:
    """Fork with clone3(2), into new namespaces and, on cgroup2, right into a group.

    Shape:   flags: CLONE_NEW*; the caller has one thread only
    Returns: (pid, pidfd) in the parent, (0, -1) in the child; the pidfd is close-on-exec
    Raises:  SyscallError
    Source:  clone3(2)
    """
    pidfd = cdata.c_int(-1)
    arguments = _CloneArgs(
        flags=flags | CLONE_PIDFD | (0 if cgroup_fd is None else CLONE_INTO_CGROUP),
        pidfd=cdata.addressof(pidfd),
        exit_signal=SIGCHLD,
        cgroup=0 if cgroup_fd is None else cgroup_fd,
    )
    pid: int = _raw_syscall(
        cdata.c_long(NUMBERS["clone3"]), cdata.byref(arguments), cdata.c_size_t(cdata.sizeof(arguments))
    )
    if pid == -1:
        raise SyscallError(f"clone3(flags={flags:#x})", cdata.get_errno())
    return pid, pidfd.value if pid else -1


def clone_sibling(flags: int = 0) -> int:
    """Fork, with clone(2), a process whose parent is this one's own.

    By clone(2), since the default filter, which may be on already, refuses clone3(2).

    Shape:   flags: CLONE_NEW*; the caller has one thread only, and its parent waits for the child
    Returns: its pid as we see it, 0 in the child
    Raises:  SyscallError
    Source:  clone(2), CLONE_PARENT
    """
    nothing = cdata.c_long(0)
    wanted = cdata.c_long(flags | CLONE_PARENT | SIGCHLD)
    pid: int = _raw_syscall(cdata.c_long(NUMBERS["clone"]), wanted, nothing, nothing, nothing, nothing)
    if pid == -1:
        raise SyscallError(f"clone(flags={flags | CLONE_PARENT | SIGCHLD:#x})", cdata.get_errno())
    return pid


def pidfd_open(pid: int) -> int:
    """A close-on-exec descriptor of a process; raises SyscallError(ESRCH). Source: pidfd_open(2)"""
    return syscall("pidfd_open", pid, 0)


def pidfd_send_signal(pidfd: int, signal_number: int) -> None:
    """Send a signal to exactly that process; raises SyscallError(ESRCH). Source: pidfd_send_signal(2)"""
    syscall("pidfd_send_signal", pidfd, signal_number, None, 0)


def start_time_of(pid: int) -> int:
    """When a process was started; together with the boot ID and the pid this names it for good.

    Units:   clock ticks since boot
    Returns: 0 when there is no such process
    Source:  proc(5), /proc/pid/stat, field 22; the command name may hold spaces and parentheses
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as stat:
            line = stat.read() or b""
    except OSError:
        return 0
    fields = line[line.rfind(b")") + 2 :].split()
    return int(fields[19]) if len(fields) > 19 else 0


def set_dumpable(dumpable: bool) -> None:
    """Forbid or allow that others open /proc/self/exe, mem and fd of this process. Source: prctl(2), ptrace(2)"""
    prctl(PR_SET_DUMPABLE, int(dumpable), 0, 0, 0)


def set_parent_death_signal(signal_number: int) -> None:
    """Have the kernel send this signal when the parent thread ends; a change of user clears it. Source: prctl(2)"""
    prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def close_on_exec_from(first_fd: int) -> None:
    """Mark every descriptor from first_fd on close-on-exec; raises SyscallError. Source: close_range(2)"""
    try:
        syscall("close_range", first_fd, 0xFFFFFFFF, CLOSE_RANGE_CLOEXEC)
    except SyscallError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        mark_each_close_on_exec(first_fd)


def mark_each_close_on_exec(first_fd: int) -> None:
    """What close_on_exec_from does where close_range(2) has no CLOSE_RANGE_CLOEXEC (Linux before 5.11).

    One by one up to the limit and never fewer than 4,096, since the limit may just have been lowered: to list
    /proc/self/fd would be to look up a name in the container.
    """
    for fd in range(first_fd, max(os.sysconf("SC_OPEN_MAX"), 4096)):
        try:
            os.set_inheritable(fd, False)
        except OSError:
            continue


def close_from(first_fd: int) -> None:
    """Close every descriptor from first_fd on; raises SyscallError. Source: close_range(2)"""
    syscall("close_range", first_fd, 0xFFFFFFFF, 0)


def join_new_session_keyring(name: bytes) -> None:
    """Leave the caller's session keyring for a fresh one; a kernel without keyrings is fine. Source: keyctl(2)"""
    try:
        syscall("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, name, 0, 0, 0)
    except SyscallError:
        return


def set_hostname(name: bytes) -> None:
    """Name this UTS namespace; raises SyscallError. Source: sethostname(2)"""
    _sethostname(name, len(name))


_execve = declare("execve", cdata.c_char_p, cdata.c_void_p, cdata.c_void_p)


def exec_program(path: bytes, arguments: Sequence[bytes], environment: Sequence[bytes]) -> None:
    """Become another program; returns only by raising SyscallError.

    Shape:  environment as a list, since os.execve would drop entries without `=` and repeated ones
    Source: execve(2)
    """
    argv, envp = _vector(arguments), _vector(environment)
    _execve(path, cdata.addressof(argv), cdata.addressof(envp))


def exec_descriptor(fd: int, arguments: Sequence[bytes], environment: Sequence[bytes]) -> None:
    """Become the program that fd is; returns only by raising SyscallError. Source: execveat(2), AT_EMPTY_PATH"""
    syscall("execveat", fd, b"", _vector(arguments), _vector(environment), _AT_EMPTY_PATH)


def _vector(words: Sequence[bytes]) -> cdata.Array[cdata.c_char_p]:
    return (cdata.c_char_p * (len(words) + 1))(*words, None)
