"""The last step before the container's program: a hundred bytes of our own instead of the host's python.

execve(2) resolves the program, its `#!` line and its ELF interpreter while /proc/self/exe still names the
caller's executable. An image that spells one of these `/proc/self/exe` would run the host's python with the
image's libraries and could later overwrite it (CVE-2019-5736). So the child first becomes this tiny static
program out of a sealed memfd, which nobody can write to, and that executes the image's program.

It calls fcntl(error_fd, F_SETFD, FD_CLOEXEC), execve(argv[0], argv + 1, envp), and if that returns,
write(error_fd, &result, 8) and exit_group(126). Where fcntl finds no error_fd it was started a second time,
by an image that asked for /proc/self/exe, and just ends.

For a process that joins a container it is also the way into the container's pid namespace: the joining process
stays outside, where a container with SYS_PTRACE cannot see it, becomes this program with the container's
capabilities and filter already on, and only then clones, with its parent as the clone's (CLONE_PARENT). What
appears inside has no interpreter, memory or descriptor of the host that could be taken over. It writes the
clone's pid to error_fd, as eight bytes; the clone ties itself to its parent's life and leads a session.
Source: runc libcontainer/exeseal, which copies all of runc for the same reason; elf(5); memfd_create(2)
"""

from __future__ import annotations

import fcntl
import os

from minidock.errors import SyscallError
from minidock.linux.libc import MACHINE, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.runtime.apparmor import Place

_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 1, 2, 0x10
_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, SHRINK, GROW, WRITE
_F_ADD_SEALS = 1033
_EINVAL = 22

_BASE = 0x400000
_HEADERS_BYTES = 64 + 56
# The instructions in front of those that differ: fcntl, test, jump.
_BEFORE_WORK_BYTES = 30


def _enter(error_fd: int, life_fd: int, *, tty: bool) -> bytes:
    """The clone into the pid namespace that setns(2) has chosen for children."""
    outside = b"".join(
        (
            b"\x50",  # push rax: the pid or -errno
            b"\x48\x89\xe6",  # mov rsi, rsp
            b"\xba\x08\0\0\0",  # mov edx, 8
            b"\xbf" + error_fd.to_bytes(4, "little"),  # mov edi, error_fd
            b"\xb8\1\0\0\0\x0f\x05",  # write
            b"\x31\xff",  # xor edi, edi
            b"\xb8\xe7\0\0\0\x0f\x05",  # exit_group
        )
    )
    life = life_fd.to_bytes(4, "little")
    take_terminal = b"\x31\xff\xbe\x0e\x54\0\0\x31\xd2\xb8\x10\0\0\0\x0f\x05"  # ioctl(0, TIOCSCTTY, 0)
    return b"".join(
        (
            b"\xbf\x11\x80\0\0",  # mov edi, CLONE_PARENT | SIGCHLD
            b"\x31\xf6\x31\xd2\x4d\x31\xd2\x4d\x31\xc0",  # xor esi, esi; edx; r10; r8
            b"\xb8\x38\0\0\0\x0f\x05",  # clone
            b"\x48\x85\xc0",  # test rax, rax
            b"\x74" + bytes((len(outside),)),  # jz, over what the process outside does
            outside,
            b"\xbf\1\0\0\0\xbe\x09\0\0\0\xb8\x9d\0\0\0\x0f\x05",  # prctl(PR_SET_PDEATHSIG, SIGKILL)
            b"\xbf" + life + b"\x48\x8d\x74\x24\xf8\xba\1\0\0\0\x31\xc0\x0f\x05",  # read(life_fd, rsp - 8, 1)
            b"\x48\x85\xc0",  # test rax, rax: 0, the end, when the parent is gone already
            b"\x75\x0c",  # jnz, over the next two
            b"\xbf\x09\0\0\0",  # mov edi, 9
            b"\xb8\xe7\0\0\0\x0f\x05",  # exit_group
            b"\xbf" + life + b"\xbe\2\0\0\0\xba\1\0\0\0\xb8\x48\0\0\0\x0f\x05",  # fcntl(life_fd, F_SETFD, 1)
            b"\xb8\x70\0\0\0\x0f\x05",  # setsid
            take_terminal if tty else b"",
        )
    )


def _code(error_fd: int, enter: bytes = b"", place: Place | None = None) -> bytes:
    """The program for x86-64; registers rdi, rsi, rdx are a system call's arguments, rax its number and result."""
    number = error_fd.to_bytes(4, "little")
    if place is not None:
        from minidock.runtime import apparmor

        enter += apparmor.code(place, error_fd, _BASE + _HEADERS_BYTES + _BEFORE_WORK_BYTES + len(enter))
    work = enter + b"".join(
        (
            b"\x58",  # pop rax: argc
            b"\x48\x8b\x3c\x24",  # mov rdi, [rsp]: argv[0], the path
            b"\x48\x8d\x74\x24\x08",  # lea rsi, [rsp+8]: argv + 1
            b"\x48\x8d\x54\xc4\x08",  # lea rdx, [rsp+rax*8+8]: envp
            b"\xb8\x3b\0\0\0",  # mov eax, 59 (execve)
            b"\x0f\x05",  # syscall
            b"\x50",  # push rax: -errno
            b"\x48\x89\xe6",  # mov rsi, rsp
            b"\xba\x08\0\0\0",  # mov edx, 8
            b"\xbf" + number,  # mov edi, error_fd
            b"\xb8\1\0\0\0",  # mov eax, 1 (write)
            b"\x0f\x05",  # syscall
        )
    )
    return b"".join(
        (
            b"\xb8\x48\0\0\0",  # mov eax, 72 (fcntl)
            b"\xbf" + number,  # mov edi, error_fd
            b"\xbe\2\0\0\0",  # mov esi, F_SETFD
            b"\xba\1\0\0\0",  # mov edx, FD_CLOEXEC
            b"\x0f\x05",  # syscall
            b"\x85\xc0",  # test eax, eax
            b"\x0f\x88" + len(work).to_bytes(4, "little"),  # js, to the exit
            work,
            b"\xbf\x7e\0\0\0",  # mov edi, 126
            b"\xb8\xe7\0\0\0",  # mov eax, 231 (exit_group)
            b"\x0f\x05",  # syscall
        )
    )


def _elf(code: bytes) -> bytes:
    """A static executable of one read-execute segment. Source: elf(5), Elf64_Ehdr and Elf64_Phdr"""
    size = _HEADERS_BYTES + len(code)

    def word(value: int, size_bytes: int) -> bytes:
        return value.to_bytes(size_bytes, "little")

    header = b"\x7fELF\2\1\1" + bytes(9) + word(2, 2) + word(62, 2) + word(1, 4) + word(_BASE + _HEADERS_BYTES, 8)
    header += word(64, 8) + word(0, 8) + word(0, 4) + word(64, 2) + word(56, 2) + word(1, 2) + bytes(6)
    segment = word(1, 4) + word(5, 4) + word(0, 8) + word(_BASE, 8) * 2 + word(size, 8) * 2 + word(0x1000, 8)
    return header + segment + code


def make_trampoline(
    error_fd: int, *, life_fd: int | None = None, tty: bool = False, place: Place | None = None
) -> int | None:
    """A sealed memfd with the program, which reports to error_fd.

    Shape:   life_fd: for a process that joins, a non-blocking pipe that ends with the parent; tty: the clone takes
             its standard input as its terminal; place: of an AppArmor profile to take on with the image's program

    Returns: a close-on-exec descriptor; None on a machine that the program is not written for, or where the
             kernel does not let a memfd be executed: then the child executes the image's program itself
    """
    if MACHINE != "x86_64":
        return None
    name, flags = b"minidock", _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    try:
        handle = syscall("memfd_create", name, flags | _MFD_EXEC)
    except SyscallError as error:
        # MFD_EXEC is new in Linux 6.3
        if error.errno != _EINVAL:
            return None
        handle = syscall("memfd_create", name, flags)
    enter = b"" if life_fd is None else _enter(error_fd, life_fd, tty=tty)
    os.write(handle, _elf(_code(error_fd, enter, place)))
    fcntl.fcntl(handle, _F_ADD_SEALS, _SEALS)
    return handle
