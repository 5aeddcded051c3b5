"""AppArmor: which profile a container's processes are to be under, and how they get there. Loaded where a host has it.

A profile is taken on by the execve(2) after a word was written to /proc/self/attr: so it is the trampoline that writes
it, right before it executes the container's program. It goes through a descriptor of a procfs that was looked at, and
across no mount, since a container's procfs may have been covered by something that swallows the word (CVE-2019-16884,
CVE-2025-52881).

Docker's engine loads its profile docker-default itself; here it has to be loaded already, by an engine or by
apparmor_parser(8). Without it containers run as on a host without AppArmor, and `minidock info` says so.
Source: moby daemon/oci_linux.go, WithApparmor; runc libcontainer/apparmor; kernel security/apparmor/lsm.c, setprocattr
"""

from __future__ import annotations

import errno
import os

from minidock.errors import SyscallError, UsageError
from minidock.linux.paths import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV, open_in_root
from minidock.runtime.operation import NO_LINKS, PATH_DIRECTORY, PROC_SUPER_MAGIC, filesystem_magic

ENABLED = "/sys/module/apparmor/parameters/enabled"
PROFILES = "/sys/kernel/security/apparmor/profiles"
DEFAULT = "docker-default"
UNCONFINED = "unconfined"
# The newer one belongs to AppArmor alone, the older to whichever module came first.
PLACES = (b"self/attr/apparmor/", b"self/attr/")
ACROSS_NO_MOUNT = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS
_MAX_PROFILES_BYTES = 4 << 20


def is_enabled() -> bool:
    """Whether the kernel enforces profiles."""
    return _read(ENABLED)[:1] == b"Y"


def is_loaded(profile: str) -> bool:
    """Whether the kernel tells that it has a profile of this name; without a securityfs mounted it tells nothing."""
    name = os.fsencode(profile)
    return any(line.rpartition(b" (")[0] == name for line in _read(PROFILES).splitlines())


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_PROFILES_BYTES)
    except OSError:
        return b""


def chosen_profile(asked: str, *, privileged: bool) -> str:
    """The profile to take on, empty for none.

    Shape:  asked: of --security-opt apparmor=; on a host without AppArmor docker does not look at it either
    """
    if not is_enabled():
        return ""
    if asked:
        return asked
    if privileged:
        return UNCONFINED
    return DEFAULT if is_loaded(DEFAULT) else ""


def missing_default() -> bool:
    """Whether this host enforces profiles and has not docker's own, which containers would be under."""
    return is_enabled() and not is_loaded(DEFAULT)


def open_proc(root_fd: int) -> int:
    """The container's /proc, sure to be one; raises UsageError, SyscallError."""
    handle = open_in_root(root_fd, b"/proc", PATH_DIRECTORY, resolve=NO_LINKS)
    if filesystem_magic(handle) != PROC_SUPER_MAGIC or os.fstat(handle).st_ino != 1:
        os.close(handle)
        raise UsageError("the container's /proc is no procfs")
    return handle


def write_word(proc_fd: int, name: bytes, word: bytes) -> None:
    """Tell the kernel about this process's profile; raises SyscallError."""
    handle = -1
    for place in PLACES:
        try:
            handle = open_in_root(proc_fd, place + name, os.O_WRONLY, resolve=ACROSS_NO_MOUNT)
            break
        except SyscallError as error:
            if error.errno != errno.ENOENT or place == PLACES[-1]:
                raise failed(error.errno or 0) from None
    try:
        os.write(handle, word)
    except OSError as error:
        raise failed(error.errno or 0) from None
    finally:
        os.close(handle)


def failed(errno_value: int) -> SyscallError:
    """Docker's words for a profile that cannot be taken on."""
    return SyscallError("apparmor failed to apply profile: write /proc/self/attr/exec", errno_value)


class Place:
    """Where the trampoline finds what it needs: a descriptor's number that is kept free, and the words for the kernel.

    Shape: fd: in the child, open_proc's result is moved there
    """

    __slots__ = ("fd", "profile")

    def __init__(self, profile: str) -> None:
        self.profile = profile
        self.fd = os.open("/", PATH_DIRECTORY | os.O_CLOEXEC)
        if self.fd < 3:
            import fcntl

            low, self.fd = self.fd, fcntl.fcntl(self.fd, fcntl.F_DUPFD_CLOEXEC, 10)
            os.close(low)

    def fill(self, root_fd: int) -> None:
        """In the child: put the procfs there, for the next program to have."""
        handle = open_proc(root_fd)
        os.dup2(handle, self.fd, inheritable=True)
        os.close(handle)

    def take_on(self) -> None:
        """Where there is no trampoline: have the profile from the next program on; raises SyscallError."""
        write_word(self.fd, b"exec", b"exec " + os.fsencode(self.profile))
        os.set_inheritable(self.fd, False)

    def take_on_now(self) -> None:
        """For a process that stays this program: have the profile at once; raises SyscallError."""
        write_word(self.fd, b"current", b"changeprofile " + os.fsencode(self.profile))


# What a failed step adds to its errno, to be told apart from execve's.
FAILED = 0x10000


def code(place: Place, error_fd: int, address: int) -> bytes:
    """Instructions for the trampoline, x86-64: write the word, or report minus FAILED minus the errno and end.

    Shape: address: where the first byte will lie in memory
    """

    def build(data: int) -> tuple[bytes, bytes]:
        how = (os.O_WRONLY | os.O_CLOEXEC).to_bytes(8, "little") + bytes(8) + ACROSS_NO_MOUNT.to_bytes(8, "little")
        paths = [each + b"exec\0" for each in PLACES]
        word = b"exec " + os.fsencode(place.profile)
        at = data + len(how)
        opens = []
        for path in paths:
            opens.append(_open(place.fd, at, data))
            at += len(path)
        write = b"".join(
            (
                b"\x89\xc7",  # mov edi, eax: what was opened
                b"\xbe" + _word(at) + b"\xba" + _word(len(word)),  # mov esi, word; mov edx, its length
                b"\xb8\1\0\0\0\x0f\x05",  # write
                b"\x48\x85\xc0",  # test rax, rax
            )
        )
        tell = b"".join(
            (
                b"\x48\x2d" + _word(FAILED),  # sub rax, FAILED
                b"\x50\x48\x89\xe6\xba\x08\0\0\0",  # push rax; mov rsi, rsp; mov edx, 8
                b"\xbf" + _word(error_fd) + b"\xb8\1\0\0\0\x0f\x05",  # write to error_fd
                b"\xbf\x7e\0\0\0\xb8\xe7\0\0\0\x0f\x05",  # exit_group(126)
            )
        )
        # js to what tells, jns over it
        write += b"\x79" + bytes((len(tell),))
        # cmp eax, -ENOENT; jne, over the second try
        opened = opens[0] + b"\x83\xf8\xfe\x75" + bytes((len(opens[1]),)) + opens[1]
        # test rax, rax; js, over the write
        opened += b"\x48\x85\xc0\x78" + bytes((len(write),))
        close_on_exec = b"\xbf" + _word(place.fd) + b"\xbe\2\0\0\0\xba\1\0\0\0\xb8\x48\0\0\0\x0f\x05"
        return close_on_exec + opened + write + tell, b"".join((how, *paths, word))

    instructions, data = build(0)
    # a jump over the data, which lies behind the instructions
    skip = b"\xe9" + _word(len(data))
    instructions, data = build(address + len(instructions) + len(skip))
    return instructions + skip + data


def _word(value: int) -> bytes:
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


def _open(directory_fd: int, path: int, how: int) -> bytes:
    return b"".join(
        (
            b"\xbf" + _word(directory_fd),  # mov edi, directory_fd
            b"\xbe" + _word(path),  # mov esi, path
            b"\xba" + _word(how),  # mov edx, how
            b"\x41\xba\x18\0\0\0",  # mov r10d, 24
            b"\xb8" + _word(437) + b"\x0f\x05",  # openat2
        )
    )
