"""Docker's default seccomp profile, as rules by name, and Docker's JSON profiles read into the same form.

The list is that of engine 20.10.24, which tests/interop compares call by call: allowed calls, those that come
with a capability, and the few that depend on their arguments. Everything else fails with EPERM.
Source: the specification that dockerd 20.10.24 hands to runc; docs.docker.com/engine/security/seccomp
"""

from __future__ import annotations

import errno
import os

from minidock.errors import UsageError
from minidock.formats.gojson import parse_json
from minidock.linux.libc import MACHINE
from minidock.linux.libseccomp import ACTIONS, CARRIES_VALUE, COMPARISONS, Condition, Rule, compile_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MAX_PROFILE_BYTES = 4 << 20

ALLOWED = (
    "_llseek _newselect accept accept4 access adjtimex alarm bind brk capget capset chdir chmod chown chown32 "
    "clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep "
    "clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create "
    "epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 "
    "execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir "
    "fchmod fchmodat fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr "
    "fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_time64 futex_waitv "
    "futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid "
    "geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid "
    "getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname "
    "getsockopt gettid gettimeofday getuid getuid32 getxattr inotify_add_watch inotify_init inotify_init1 "
    "inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit "
    "io_uring_enter io_uring_register io_uring_setup ioctl ioprio_get ioprio_set ipc kill landlock_add_rule "
    "landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr "
    "llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise membarrier memfd_create memfd_secret mincore "
    "mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open "
    "mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap msgctl msgget msgrcv "
    "msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_open "
    "pidfd_send_signal pipe pipe2 poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease "
    "pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom "
    "recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir "
    "rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait "
    "rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity "
    "sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 "
    "sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget "
    "semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list "
    "set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 "
    "setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid "
    "setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown sigaltstack "
    "signalfd signalfd4 sigprocmask sigreturn socket socketcall socketpair splice stat stat64 statfs statfs64 statx "
    "symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete "
    "timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime "
    "timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname "
    "unlink unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev "
).split()

# capability -> the calls that it opens
WITH_CAPABILITY = {
    "DAC_READ_SEARCH": ("open_by_handle_at",),
    "SYS_ADMIN": (
        *("bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie"),
        *("mount", "mount_setattr", "move_mount", "name_to_handle_at", "open_tree", "perf_event_open", "quotactl"),
        *("quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare"),
    ),
    "SYS_BOOT": ("reboot",),
    "SYS_CHROOT": ("chroot",),
    "SYS_MODULE": ("delete_module", "finit_module", "init_module"),
    "SYS_NICE": ("get_mempolicy", "mbind", "set_mempolicy"),
    "SYS_PACCT": ("acct",),
    "SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"),
    "SYS_RAWIO": ("ioperm", "iopl"),
    "SYS_TIME": ("clock_settime", "settimeofday", "stime"),
    "SYS_TTY_CONFIG": ("vhangup",),
    "SYSLOG": ("syslog",),
}
# machine -> its own calls
WITH_MACHINE = {
    "x86_64": ("arch_prctl", "modify_ldt"),
    "i386": ("modify_ldt",),
    "aarch64": (
        *("arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls"),
    ),
    "ppc64le": ("sync_file_range2",),
    "s390x": ("s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"),
}
ARCHITECTURES = {
    "x86_64": ("x86_64", "x86", "x32"),
    "aarch64": ("aarch64", "arm"),
    "s390x": ("s390x", "s390"),
}
# PER_LINUX, PER_LINUX32, UNAME26, both, and the question which it is
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
NAMESPACE_FLAGS = 0x7E020000
# With earlier kernels a tracer could go round the filter.
PTRACE_SAFE_SINCE = (4, 8)

_ALLOW = ACTIONS["SCMP_ACT_ALLOW"]
_ERRNO = ACTIONS["SCMP_ACT_ERRNO"]
# uname's machine -> the word that profiles use
_PROFILE_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i686": "x86",
    "i386": "x86",
    "armv7l": "arm",
    "mips64": "mips64",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
}


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    numbers = os.uname().release.replace("-", ".").split(".")
    return int(numbers[0]), int(numbers[1])


def compile_default(capabilities: Sequence[str]) -> bytes:
    """The default profile's program for a container with these capabilities; raises UsageError."""
    return compile_filter(
        _ERRNO | errno.EPERM,
        ARCHITECTURES.get(MACHINE, ()),
        default_rules(capabilities, MACHINE, kernel_version()),
        unknown_enosys=True,
    )


def default_rules(capabilities: Sequence[str], machine: str, kernel: tuple[int, int]) -> list[Rule]:
    """The default profile's rules. Shape: capabilities without CAP_; machine as uname names it"""
    rules = [Rule(ALLOWED, _ALLOW), Rule(WITH_MACHINE.get(machine, ()), _ALLOW)]
    if kernel >= PTRACE_SAFE_SINCE:
        rules.append(Rule(("ptrace",), _ALLOW))
    for persona in PERSONALITIES:
        rules.append(Rule(("personality",), _ALLOW, [Condition(0, COMPARISONS["SCMP_CMP_EQ"], persona, 0)]))
    for capability, names in WITH_CAPABILITY.items():
        if capability in capabilities:
            rules.append(Rule(names, _ALLOW))
    if "SYS_ADMIN" not in capabilities:
        flags_argument = 1 if machine == "s390x" else 0
        masked = Condition(flags_argument, COMPARISONS["SCMP_CMP_MASKED_EQ"], NAMESPACE_FLAGS, 0)
        # clone3 hides its flags in memory; told that it is missing, C libraries take clone
        rules += [Rule(("clone",), _ALLOW, [masked]), Rule(("clone3",), _ERRNO | errno.ENOSYS)]
    return rules


def compile_profile(text: bytes, capabilities: Sequence[str]) -> bytes:
    """The program of a profile in Docker's JSON form.

    Returns: b"" for a profile that says nothing, which means no filter, as in docker
    Raises:  UsageError
    Source:  moby profiles/seccomp/seccomp_linux.go, setupSeccomp
    """
    profile = parse_json(text, what="the seccomp profile", limit_bytes=MAX_PROFILE_BYTES)
    default_word = profile.get("defaultAction") or ""
    blocks = profile.get("syscalls") or []
    if not default_word and not blocks:
        return b""
    if not isinstance(blocks, list):
        raise UsageError("seccomp profile: syscalls is not a list")
    default = _action(default_word, profile.get("defaultErrnoRet"))
    rules = [rule for block in blocks if (rule := _rule(block, capabilities)) is not None]
    permissive = default_word in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
    return compile_filter(
        default,
        _architectures(profile),
        rules,
        unknown_enosys=not permissive and default != _ERRNO | errno.ENOSYS,
    )


def _architectures(profile: dict[str, Any]) -> list[str]:
    plain, mapped = profile.get("architectures") or [], profile.get("archMap") or []
    if plain and mapped:
        raise UsageError(
            "'architectures' and 'archMap' were specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'"
        )
    for each in mapped:
        if _short(each.get("architecture")) == MACHINE:
            plain = [each["architecture"], *(each.get("subArchitectures") or [])]
            break
    return [_short(word) for word in plain]


def _short(word: object) -> str:
    return str(word).removeprefix("SCMP_ARCH_").lower()


def _action(word: object, value: object) -> int:
    if not isinstance(word, str) or word not in ACTIONS:
        raise UsageError(f"seccomp profile: invalid action {word!r}")
    if word not in CARRIES_VALUE:
        return ACTIONS[word]
    number = errno.EPERM if value is None else value
    if not isinstance(number, int) or not 0 <= number <= 0xFFFF:
        raise UsageError(f"seccomp profile: invalid errnoRet {value!r}")
    return ACTIONS[word] | number


def _rule(block: Any, capabilities: Sequence[str]) -> Rule | None:
    """One entry of `syscalls`; None when its includes and excludes leave it out here."""
    if not isinstance(block, dict):
        raise UsageError("seccomp profile: an entry of syscalls is not an object")
    if not _applies(block, capabilities):
        return None
    name, names = block.get("name") or "", block.get("names") or []
    if name and names:
        raise UsageError("'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'")
    conditions = []
    for argument in block.get("args") or []:
        index, word = argument.get("index", 0), argument.get("op")
        if word not in COMPARISONS or not isinstance(index, int) or not 0 <= index <= 5:
            raise UsageError(f"seccomp profile: invalid argument {argument!r}")
        first, second = argument.get("value", 0), argument.get("valueTwo", 0)
        conditions.append(Condition(index, COMPARISONS[word], first, second))
    return Rule([name] if name else names, _action(block.get("action"), block.get("errnoRet")), conditions)


def _applies(block: dict[str, Any], capabilities: Sequence[str]) -> bool:
    includes, excludes = block.get("includes") or {}, block.get("excludes") or {}
    machine = _PROFILE_MACHINES.get(MACHINE, MACHINE)

    def has(capability: object) -> bool:
        return str(capability).removeprefix("CAP_") in capabilities

    if machine in (excludes.get("arches") or ()) or any(map(has, excludes.get("caps") or ())):
        return False
    if excludes.get("minKernel") and kernel_version() >= _version(excludes["minKernel"]):
        return False
    if includes.get("arches") and machine not in includes["arches"]:
        return False
    if not all(map(has, includes.get("caps") or ())):
        return False
    return not (includes.get("minKernel") and kernel_version() < _version(includes["minKernel"]))


def _version(word: object) -> tuple[int, int]:
    major, _, minor = str(word).partition(".")
    if not major.isdigit() or not minor.isdigit():
        raise UsageError(f"seccomp profile: invalid minKernel {word!r}, expected MAJOR.MINOR")
    return int(major), int(minor)
