"""The operations around a container's root: its groups, names, network, user, and what is kept from it."""

from __future__ import annotations

import errno
import os

from minidock.errors import SyscallError, UsageError
from minidock.linux.mount import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    mount,
    shell_word,
)
from minidock.linux.namespaces import CLONE_NEWCGROUP, raise_loopback, set_namespaces, unshare
from minidock.linux.paths import open_in_root
from minidock.linux.process import set_hostname
from minidock.runtime.operation import (
    NO_LINKS,
    PROC_SUPER_MAGIC,
    S_IFCHR,
    S_IFMT,
    Operation,
    Setup,
    filesystem_magic,
)
from minidock.runtime.users import resolve_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.runtime.cgroup import Cgroup


class EnterCgroups(Operation):
    """Put this process into its v1 groups, once the parent has made them; into the v2 one it was cloned."""

    __slots__ = ("group",)
    kind = "cgroup"

    def __init__(self, group: Cgroup) -> None:
        self.group = group

    def describe(self) -> str:
        files = [f"{path}/{'cgroup.procs' if each.is_v2 else 'tasks'}" for each, path in self.group.paths]
        return "\n".join(f"echo 0 > {shell_word(file)}" for file in files) or "# no cgroups here"

    def execute(self, setup: Setup) -> None:
        setup.await_parent()
        self.group.enter()


class EnterCgroupNamespace(Operation):
    """Make this process's groups the root of what it sees of them."""

    __slots__ = ()
    kind = "clone"

    def describe(self) -> str:
        return "unshare --cgroup"

    def execute(self, setup: Setup) -> None:
        try:
            unshare(CLONE_NEWCGROUP)
        except SyscallError as error:
            # a kernel built without cgroups
            if error.errno != errno.EINVAL:
                raise


class LeaveCgroupNamespace(Operation):
    """Go back into the host's cgroup namespace: what was mounted meanwhile goes on showing this process's groups only.

    Source: cgroup_namespaces(7)
    """

    __slots__ = ("handle",)
    kind = "clone"

    def __init__(self) -> None:
        self.handle = -1

    def describe(self) -> str:
        return "# setns(CLONE_NEWCGROUP): back in the host's"

    def prepare(self) -> None:
        self.handle = os.open("/proc/self/ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)

    def forget(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def execute(self, setup: Setup) -> None:
        set_namespaces(self.handle, CLONE_NEWCGROUP)


class ResolveUser(Operation):
    """Find out who the process will be while nothing but the image's own files is in sight."""

    __slots__ = ("group_add", "text")
    kind = "read"

    def __init__(self, text: str, group_add: Sequence[str]) -> None:
        self.text = text
        self.group_add = list(group_add)

    def describe(self) -> str:
        return f"user {shell_word(self.text or '0')} in the image's own /etc/passwd and /etc/group"

    def execute(self, setup: Setup) -> None:
        setup.user = resolve_user(setup.root_fd, self.text, self.group_add)


class SetHostname(Operation):
    """Name the container."""

    __slots__ = ("name",)
    kind = "exec"

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self) -> str:
        return f"hostname {shell_word(self.name)}"

    def execute(self, setup: Setup) -> None:
        set_hostname(os.fsencode(self.name))


class RaiseLoopback(Operation):
    """Bring up `lo`, all there is in network `none`."""

    __slots__ = ()
    kind = "exec"

    def describe(self) -> str:
        return "ip link set lo up"

    def execute(self, setup: Setup) -> None:
        raise_loopback()


class WriteSysctl(Operation):
    """Set a sysctl of the container's own namespace; a kernel without it is fine."""

    __slots__ = ("path", "value")
    kind = "make"

    def __init__(self, path: bytes, value: bytes) -> None:
        self.path = path
        self.value = value

    def describe(self) -> str:
        path = shell_word(os.fsdecode(self.path))
        return f"[ ! -e {path} ] || echo {shell_word(os.fsdecode(self.value))} > {path}"

    def execute(self, setup: Setup) -> None:
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            if filesystem_magic(handle) == PROC_SUPER_MAGIC:
                os.write(handle, self.value)
        finally:
            os.close(handle)


_LOCKED = "ro,nosuid,nodev,noexec"


class ReadOnlyPath(Operation):
    """Make one path of /proc read-only; one that this kernel lacks is fine."""

    __slots__ = ("path",)

    def __init__(self, path: bytes) -> None:
        self.path = path

    def describe(self) -> str:
        path = os.fsdecode(self.path)
        return f"[ ! -e {path} ] || {{ mount --rbind {path} {path} && mount -o remount,bind,{_LOCKED} {path}; }}"

    def execute(self, setup: Setup) -> None:
        try:
            mount(self.path, self.path, None, MS_BIND | MS_REC)
        except SyscallError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        mount(None, self.path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


class MaskPath(Operation):
    """Hide one path of /proc or /sys behind /dev/null or an empty read-only directory."""

    __slots__ = ("path",)

    def __init__(self, path: bytes) -> None:
        self.path = path

    def describe(self) -> str:
        path = os.fsdecode(self.path)
        return f"[ -d {path} ] && mount -t tmpfs -o ro tmpfs {path} || [ ! -e {path} ] || mount --bind /dev/null {path}"

    def execute(self, setup: Setup) -> None:
        if setup.null_fd < 0:
            setup.null_fd = open_null(setup.root_fd)
        try:
            mount(setup.name_of(setup.null_fd), self.path, None, MS_BIND)
        except SyscallError as error:
            if error.errno == errno.ENOTDIR:
                mount(b"tmpfs", self.path, b"tmpfs", MS_RDONLY)
            elif error.errno != errno.ENOENT:
                raise


def open_null(root_fd: int) -> int:
    """The container's /dev/null as an O_PATH descriptor, sure to be device 1:3 (CVE-2025-31133)."""
    handle = open_in_root(root_fd, b"/dev/null", os.O_PATH, resolve=NO_LINKS)
    status = os.fstat(handle)
    if status.st_mode & S_IFMT != S_IFCHR or status.st_rdev != os.makedev(1, 3):
        raise UsageError("the container's /dev/null is not the null device")
    return handle
