"""The operations that make a container's root: small objects that describe themselves and run.

They run in the cloned child, in the order in which the plan lists them. Host paths are held as detached
mounts before the root changes; after pivot_root the old root is gone, so every later name is resolved in
the container and cannot reach the host, and the targets that a hostile image or a shared volume could bend
are opened beneath the root and mounted on by descriptor.
"""

from __future__ import annotations

import ctypes
import errno
import os

from minidock.errors import SyscallError, UsageError
from minidock.linux.libc import declare
from minidock.linux.mount import (
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
    attach_tree,
    clone_tree,
    describe_mount,
    mount,
    pivot_root,
    umount,
)
from minidock.linux.namespaces import CLONE_NEWCGROUP, raise_loopback, unshare
from minidock.linux.paths import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, open_in_root
from minidock.linux.process import set_hostname
from minidock.runtime.users import resolve_user
from minidock.store.overlay2 import OverlayMount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from minidock.runtime.cgroup import Cgroup
    from minidock.runtime.users import User

NO_LINKS = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
PROC_SUPER_MAGIC = 0x9FA0
_PATH_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_MAX_LINKS = 40
_S_IFMT, _S_IFDIR, _S_IFCHR = 0o170000, 0o040000, 0o020000

PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
}

_fstatfs = declare("fstatfs", ctypes.c_int, ctypes.c_void_p)


def filesystem_magic(fd: int) -> int:
    """The f_type of the file system that fd is on. Source: statfs(2)"""
    buffer = (ctypes.c_long * 32)()
    _fstatfs(fd, ctypes.addressof(buffer))
    return int(buffer[0])


class Setup:
    """What the operations hand on to one another inside the child.

    Shape: held: detached mounts by the target they are for; root_fd: the container's root after pivot_root
    """

    __slots__ = ("console_fd", "held", "null_fd", "root_fd", "send_console", "user")

    def __init__(self, send_console: Callable[[int], None]) -> None:
        self.send_console = send_console
        self.held: dict[bytes, int] = {}
        self.root_fd = -1
        self.null_fd = -1
        self.console_fd = -1
        self.user: User | None = None


class Operation:
    """One step; `kind` is the trace's. Shape: describe() is a shell line that does the same"""

    __slots__ = ()
    kind = "mount"

    def describe(self) -> str:
        """A shell line that does the same."""
        raise NotImplementedError

    def execute(self, setup: Setup) -> None:
        """Take the step; raises SyscallError or another MinidockError."""
        raise NotImplementedError


class MakePrivate(Operation):
    """Cut the new mount namespace off, so that nothing mounted here shows up on the host."""

    __slots__ = ()

    def describe(self) -> str:
        return describe_mount(None, b"/", None, MS_REC | MS_PRIVATE)

    def execute(self, setup: Setup) -> None:
        mount(None, b"/", None, MS_REC | MS_PRIVATE)


class HoldSource(Operation):
    """Keep a detached copy of a host mount until its target exists.

    Shape: a source whose propagation is kept is held before MakePrivate, all others after it
    """

    __slots__ = ("recursive", "source", "target")

    def __init__(self, source: str, target: str, recursive: bool) -> None:
        self.source = source
        self.target = os.fsencode(target)
        self.recursive = recursive

    def describe(self) -> str:
        return f"exec {{held}}<{self.source}  # open_tree(OPEN_TREE_CLONE{'|AT_RECURSIVE' if self.recursive else ''})"

    def execute(self, setup: Setup) -> None:
        setup.held[self.target] = clone_tree(os.fsencode(self.source), recursive=self.recursive)


class MountOverlay(Operation):
    """Mount the container's layers as one overlay, with names short enough for one page of options.

    The mount covers the upper directory itself: it needs no directory of its own on the host, so nothing is left
    there however this process ends, and the overlay has its own hold of what it covers.
    """

    __slots__ = ("overlay", "target")

    def __init__(self, overlay_path: str, mount_id: str, lowers: Sequence[str]) -> None:
        self.target = f"{mount_id}/diff"
        self.overlay = OverlayMount(overlay_path, list(lowers), mount_id, self.target)

    def describe(self) -> str:
        return self.overlay.describe()

    def execute(self, setup: Setup) -> None:
        try:
            self.overlay.execute()
        except SyscallError as error:
            # the kernel says no more than EINVAL when the file system below cannot carry an overlay
            hint = "the data root's file system cannot carry an overlay; dmesg says why" if error.errno == 22 else ""
            where = f"{self.overlay.overlay_path}/{self.target}"
            raise SyscallError(f"overlay mount of {where}", error.errno or 0, hint=hint) from None


class PivotRoot(Operation):
    """Make the overlay the root and let go of the old one.

    Source: pivot_root(2), 'pivot_root(".", ".")'; the kernel refuses a new root that is no mount point
    """

    __slots__ = ("new_root",)

    def __init__(self, new_root: str) -> None:
        self.new_root = new_root

    def describe(self) -> str:
        return f"cd {self.new_root} && pivot_root . . && umount -l . && cd /"

    def execute(self, setup: Setup) -> None:
        os.chdir(self.new_root)
        pivot_root(b".", b".")
        umount(b".", MNT_DETACH)
        os.chdir("/")
        setup.root_fd = os.open("/", _PATH_DIRECTORY | os.O_CLOEXEC)


class MountTop(Operation):
    """Mount a kernel file system on a directory of the image's root, never through a symlink."""

    __slots__ = ("data", "flags", "fstype", "source", "target")

    def __init__(self, source: bytes, target: bytes, fstype: bytes, flags: int, data: bytes | None = None) -> None:
        self.source = source
        self.target = target
        self.fstype = fstype
        self.flags = flags
        self.data = data

    def describe(self) -> str:
        return describe_mount(self.source, self.target, self.fstype, self.flags, self.data)

    def execute(self, setup: Setup) -> None:
        try:
            handle = open_in_root(setup.root_fd, self.target, _PATH_DIRECTORY, resolve=NO_LINKS)
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
            os.mkdir(self.target, 0o755)
            handle = open_in_root(setup.root_fd, self.target, _PATH_DIRECTORY, resolve=NO_LINKS)
        os.fchdir(handle)
        os.close(handle)
        mount(self.source, b".", self.fstype, self.flags, self.data)


class MountBelow(MountTop):
    """Mount on a directory of a file system that this plan mounted itself, made if it is missing."""

    __slots__ = ()

    def execute(self, setup: Setup) -> None:
        try:
            os.mkdir(self.target, 0o755)
        except FileExistsError:
            pass
        mount(self.source, self.target, self.fstype, self.flags, self.data)


class MountCgroup(MountBelow):
    """Show a cgroup hierarchy; one that the kernel does not give to this namespace is left out."""

    __slots__ = ("links",)

    def __init__(self, target: bytes, fstype: bytes, flags: int, data: bytes | None, links: Sequence[bytes]) -> None:
        super().__init__(fstype, target, fstype, flags, data)
        self.links = links

    def execute(self, setup: Setup) -> None:
        try:
            super().execute(setup)
        except OSError:
            return
        name = self.target.rpartition(b"/")[2]
        for link in self.links:
            os.symlink(name, b"/sys/fs/cgroup/" + link)


class EnterCgroups(Operation):
    """Put this process into its v1 groups; into the v2 one it was cloned."""

    __slots__ = ("group",)
    kind = "cgroup"

    def __init__(self, group: Cgroup) -> None:
        self.group = group

    def describe(self) -> str:
        files = [f"{path}/{'cgroup.procs' if each.is_v2 else 'tasks'}" for each, path in self.group.paths]
        return f"echo $$ | tee {' '.join(files)}" if files else ":  # no cgroups here"

    def execute(self, setup: Setup) -> None:
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


class ResolveUser(Operation):
    """Find out who the process will be while nothing but the image's own files is in sight."""

    __slots__ = ("group_add", "text")
    kind = "read"

    def __init__(self, text: str, group_add: Sequence[str]) -> None:
        self.text = text
        self.group_add = list(group_add)

    def describe(self) -> str:
        return f"id {self.text.partition(':')[0] or '0'}  # in the image's own /etc/passwd and /etc/group"

    def execute(self, setup: Setup) -> None:
        setup.user = resolve_user(setup.root_fd, self.text, self.group_add)


class SetHostname(Operation):
    """Name the container."""

    __slots__ = ("name",)
    kind = "exec"

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self) -> str:
        return f"hostname {self.name}"

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
    kind = "write"

    def __init__(self, path: bytes, value: bytes) -> None:
        self.path = path
        self.value = value

    def describe(self) -> str:
        return f"echo {os.fsdecode(self.value)!r} > {os.fsdecode(self.path)}"

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


def make_in_root(root_fd: int, path: bytes, *, is_directory: bool) -> int:
    """Open path beneath the root, making what is missing, directories 0755 and the file 0755 as runc does.

    Returns: an O_PATH descriptor; mount on it, not on the name
    Raises:  SyscallError
    """
    parts = [part for part in path.split(b"/") if part]
    handle = -1
    links = 0
    done = b""
    while True:
        try:
            return open_in_root(root_fd, b"/".join([done, *parts]) or b"/", os.O_PATH)
        except SyscallError as error:
            if error.errno != errno.ENOENT or not parts:
                raise
        # walk down to the first missing component
        handle = open_in_root(root_fd, done or b"/", _PATH_DIRECTORY)
        try:
            name = parts.pop(0)
            target = _link_at(handle, name)
            if target is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise SyscallError(f"openat2({os.fsdecode(path)!r})", errno.ELOOP)
                parts = [part for part in target.split(b"/") if part] + parts
                done = b"" if target.startswith(b"/") else done
                continue
            if name not in (b".", b".."):
                _make_entry(handle, name, is_directory or bool(parts))
            done += b"/" + name
        finally:
            os.close(handle)


def _link_at(directory_fd: int, name: bytes) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=directory_fd)
    except OSError:
        return None


def _make_entry(directory_fd: int, name: bytes, is_directory: bool) -> None:
    try:
        if is_directory:
            os.mkdir(name, 0o755, dir_fd=directory_fd)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o755, dir_fd=directory_fd))
    except FileExistsError:
        pass
    except OSError as error:
        raise SyscallError(f"mkdir({os.fsdecode(name)!r})", error.errno or 0) from None


# What may be bound over inside /proc: files that programs such as lxcfs provide. Source: runc, checkProcMount
_PROC_FILES = frozenset(
    b"/proc/" + name
    for name in (
        b"cpuinfo",
        b"diskstats",
        b"meminfo",
        b"stat",
        b"swaps",
        b"uptime",
        b"loadavg",
        b"slabinfo",
        b"net/dev",
    )
)


class BindInto(Operation):
    """Attach a held host mount to a path in the container, by descriptor on both sides."""

    __slots__ = ("bind_flags", "is_directory", "propagation", "read_only", "recursive", "source", "target")

    def __init__(
        self, source: str, target: str, *, read_only: bool, recursive: bool, propagation: str, is_directory: bool
    ) -> None:
        self.source = source
        self.target = os.fsencode(target)
        self.read_only = read_only
        self.recursive = recursive
        self.propagation = propagation
        self.is_directory = is_directory

    def describe(self) -> str:
        line = describe_mount(os.fsencode(self.source), self.target, None, MS_BIND | (MS_REC if self.recursive else 0))
        if self.propagation:
            line += " && " + describe_mount(None, self.target, None, PROPAGATION[self.propagation])
        if self.read_only:
            line += " && " + describe_mount(None, self.target, None, MS_REMOUNT | MS_BIND | MS_RDONLY)
        return line

    def execute(self, setup: Setup) -> None:
        target_fd = make_in_root(setup.root_fd, self.target, is_directory=self.is_directory)
        if filesystem_magic(target_fd) == PROC_SUPER_MAGIC and self.target not in _PROC_FILES:
            raise UsageError(f'cannot mount "{self.source}" at "{os.fsdecode(self.target)}": it is inside /proc')
        if (os.fstat(target_fd).st_mode & _S_IFMT == _S_IFDIR) != self.is_directory:
            raise UsageError(
                f'error mounting "{self.source}" to "{os.fsdecode(self.target)}": not a directory: Are you trying to '
                "mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the "
                "expected type"
            )
        tree_fd = setup.held[self.target]
        attach_tree(tree_fd, target_fd)
        os.close(target_fd)
        here = b"/proc/self/fd/%d" % tree_fd
        if self.propagation:
            mount(None, here, None, PROPAGATION[self.propagation])
        if self.read_only:
            kept = os.fstatvfs(tree_fd).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
            mount(None, here, None, MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


class MountTmpfs(Operation):
    """Mount a tmpfs as `--tmpfs` asks; a directory that the image has there keeps its mode."""

    __slots__ = ("data", "flags", "target")

    def __init__(self, target: str, flags: int, data: str) -> None:
        self.target = os.fsencode(target)
        self.flags = flags
        self.data = os.fsencode(data)

    def describe(self) -> str:
        return describe_mount(b"tmpfs", self.target, b"tmpfs", self.flags, self.data or None)

    def execute(self, setup: Setup) -> None:
        mode = -1
        try:
            handle = open_in_root(setup.root_fd, self.target, _PATH_DIRECTORY)
            if b"mode=" not in self.data:
                mode = os.fstat(handle).st_mode & 0o7777
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
            handle = make_in_root(setup.root_fd, self.target, is_directory=True)
        if filesystem_magic(handle) == PROC_SUPER_MAGIC:
            raise UsageError(f'cannot mount a tmpfs at "{os.fsdecode(self.target)}": it is inside /proc')
        os.fchdir(handle)
        os.close(handle)
        mount(b"tmpfs", b".", b"tmpfs", self.flags, self.data or None)
        if mode >= 0:
            handle = open_in_root(setup.root_fd, self.target, _PATH_DIRECTORY)
            os.chmod(b"/proc/self/fd/%d" % handle, mode)
            os.close(handle)


class ReadOnlyPath(Operation):
    """Make one path of /proc read-only; one that this kernel lacks is fine."""

    __slots__ = ("path",)

    def __init__(self, path: bytes) -> None:
        self.path = path

    def describe(self) -> str:
        path = os.fsdecode(self.path)
        return f"[ ! -e {path} ] || {{ mount --rbind {path} {path} && mount -o remount,bind,ro {path}; }}"

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
            mount(b"/proc/self/fd/%d" % setup.null_fd, self.path, None, MS_BIND)
        except SyscallError as error:
            if error.errno == errno.ENOTDIR:
                mount(b"tmpfs", self.path, b"tmpfs", MS_RDONLY)
            elif error.errno != errno.ENOENT:
                raise


def open_null(root_fd: int) -> int:
    """The container's /dev/null as an O_PATH descriptor, sure to be device 1:3 (CVE-2025-31133)."""
    handle = open_in_root(root_fd, b"/dev/null", os.O_PATH, resolve=NO_LINKS)
    status = os.fstat(handle)
    if status.st_mode & _S_IFMT != _S_IFCHR or status.st_rdev != os.makedev(1, 3):
        raise UsageError("the container's /dev/null is not the null device")
    return handle


class MakeWorkdir(Operation):
    """Make the working directory as the engine does: owned by root, beneath the container's root."""

    __slots__ = ("path",)
    kind = "write"

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"mkdir -p {self.path}"

    def execute(self, setup: Setup) -> None:
        handle = make_in_root(setup.root_fd, os.fsencode(self.path), is_directory=True)
        is_directory = os.fstat(handle).st_mode & _S_IFMT == _S_IFDIR
        os.close(handle)
        if not is_directory:
            raise UsageError(f"Cannot mkdir: {self.path} is not a directory")


class ReadOnlyRoot(Operation):
    """Make the root read-only, last of all."""

    __slots__ = ()

    def describe(self) -> str:
        return describe_mount(None, b"/", None, MS_REMOUNT | MS_BIND | MS_RDONLY)

    def execute(self, setup: Setup) -> None:
        mount(None, b"/", None, MS_REMOUNT | MS_BIND | MS_RDONLY)
