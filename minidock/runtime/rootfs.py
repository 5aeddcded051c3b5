"""The operations that make a container's root: small objects that describe themselves and run.

They run in the cloned child, in the order in which the plan lists them. Host paths are held as detached
mounts before the root changes; after pivot_root the old root is gone, so every later name is resolved in
the container and cannot reach the host, and the targets that a hostile image or a shared volume could bend
are opened beneath the root and mounted on by descriptor.
"""

from __future__ import annotations

import errno
import os

from minidock.errors import SyscallError, UsageError
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
    shell_word,
    umount,
)
from minidock.linux.paths import open_in_root
from minidock.runtime.operation import (
    NO_LINKS,
    PATH_DIRECTORY,
    PROC_SUPER_MAGIC,
    S_IFDIR,
    S_IFMT,
    Operation,
    Setup,
    filesystem_magic,
    make_in_root,
)
from minidock.store.overlay2 import OverlayMount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Where --explain's lines have the old root for a while.
OLD_ROOT = "/.old"

PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
}


class MakePrivate(Operation):
    """Cut the new mount namespace off, so that nothing mounted here shows up on the host."""

    __slots__ = ()

    def describe(self) -> str:
        return describe_mount(None, b"/", None, MS_REC | MS_PRIVATE)

    def execute(self, setup: Setup) -> None:
        mount(None, b"/", None, MS_REC | MS_PRIVATE)


class HoldSource(Operation):
    """Keep a detached copy of a host mount until its target exists.

    Shape: keeps: slave, shared or one of these with an r; such a source is held before MakePrivate, all others after it
    """

    __slots__ = ("keeps", "recursive", "source", "target")

    def __init__(self, source: str, target: str, *, recursive: bool, keeps: str) -> None:
        self.keeps = keeps
        self.source = source
        self.target = os.fsencode(target)
        self.recursive = recursive

    def describe(self) -> str:
        flags = f"OPEN_TREE_CLONE{'|AT_RECURSIVE' if self.recursive else ''}"
        cut = ", before its propagation is cut, which a shell cannot" if self.keeps else ""
        return f"# open_tree({shell_word(self.source)}, {flags}) for {shell_word(os.fsdecode(self.target))}{cut}"

    def prepare(self) -> None:
        if self.keeps:
            from minidock.runtime.propagation import check_propagation

            check_propagation(self.source, self.keeps)

    def execute(self, setup: Setup) -> None:
        setup.held[self.target] = clone_tree(os.fsencode(self.source), recursive=self.recursive)


class MountOverlay(Operation):
    """Mount the container's layers as one overlay, with names short enough for one page of options.

    `merged` is only a name to mount on: after pivot_root nothing is there any more, and launch() removes it.
    """

    __slots__ = ("overlay", "path", "target")

    def __init__(self, overlay_path: str, mount_id: str, lowers: Sequence[str], *, marks: str = "") -> None:
        self.target = f"{mount_id}/merged"
        self.path = f"{overlay_path}/{self.target}"
        self.overlay = OverlayMount(overlay_path, list(lowers), mount_id, self.target, marks=marks)

    def describe(self) -> str:
        return f"mkdir -p -m 700 {shell_word(self.path)} && {self.overlay.describe()}"

    def execute(self, setup: Setup) -> None:
        self.make_target()
        try:
            self.overlay.execute()
        except SyscallError as error:
            # the kernel says no more than EINVAL when the file system below cannot carry an overlay
            hint = "the data root's file system cannot carry an overlay; dmesg says why" if error.errno == 22 else ""
            raise SyscallError(f"overlay mount of {self.path}", error.errno or 0, hint=hint) from None

    def make_target(self) -> None:
        """Make the directory to mount on; raises OSError."""
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            # left by a start that was killed; overlay mounts on it as on a new one
            return

    def forget(self) -> None:
        """In the parent: remove `merged`, which this mount namespace never had anything mounted on."""
        try:
            os.rmdir(self.path)
        except OSError:
            # an empty directory that harms nobody, and that the removal of the container takes along
            return


class PivotRoot(Operation):
    """Make the overlay the root and let go of the old one.

    A shell needs a name for the old root, and needs it for longer: until it has bound what is held by descriptor here.
    Source: pivot_root(2), 'pivot_root(".", ".")'; the kernel refuses a new root that is no mount point
    """

    __slots__ = ("new_root",)

    def __init__(self, new_root: str) -> None:
        self.new_root = new_root

    def describe(self) -> str:
        return (
            '# pivot_root(".", "."), umount2(".", MNT_DETACH); the shell keeps the old root until it has bound all\n'
            f"cd {shell_word(self.new_root)} && mkdir -m 700 {OLD_ROOT[1:]} && pivot_root . {OLD_ROOT[1:]} && cd /"
        )

    @staticmethod
    def describe_letting_go() -> str:
        """The shell line that takes the old root away, once nothing is bound from it any more."""
        return f"umount -l {OLD_ROOT} && rmdir {OLD_ROOT}"

    def execute(self, setup: Setup) -> None:
        os.chdir(self.new_root)
        pivot_root(b".", b".")
        umount(b".", MNT_DETACH)
        os.chdir("/")
        setup.root_fd = os.open("/", PATH_DIRECTORY | os.O_CLOEXEC)


def open_top(root_fd: int, path: bytes) -> int:
    """A directory to mount on, made if it is missing, never reached through a symlink; raises SyscallError."""
    try:
        return open_in_root(root_fd, path, PATH_DIRECTORY, resolve=NO_LINKS)
    except SyscallError as error:
        if error.errno != errno.ENOENT:
            raise
    os.mkdir(path, 0o755)
    return open_in_root(root_fd, path, PATH_DIRECTORY, resolve=NO_LINKS)


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
        handle = open_top(setup.root_fd, self.target)
        os.fchdir(handle)
        os.close(handle)
        mount(self.source, b".", self.fstype, self.flags, self.data)


class MountBelow(MountTop):
    """Mount on a directory of a file system that this plan mounted itself, made if it is missing."""

    __slots__ = ()

    def describe(self) -> str:
        return f"mkdir -p {shell_word(os.fsdecode(self.target))} && {super().describe()}"

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

    def describe(self) -> str:
        name = shell_word(os.fsdecode(self.target.rpartition(b"/")[2]))
        links = [f"ln -s {name} {shell_word('/sys/fs/cgroup/' + os.fsdecode(link))}" for link in self.links]
        return " && ".join([super().describe(), *links])

    def execute(self, setup: Setup) -> None:
        try:
            super().execute(setup)
        except OSError:
            return
        name = self.target.rpartition(b"/")[2]
        for link in self.links:
            os.symlink(name, b"/sys/fs/cgroup/" + link)


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


# What a read-only bind keeps of its source's own flags.
_KEPT = MS_NOSUID | MS_NODEV | MS_NOEXEC


def _describe_making(path: str, *, is_directory: bool) -> str:
    """The shell words that make a path unless it is there."""
    if is_directory:
        return f"mkdir -p {shell_word(path)}"
    file, folder = shell_word(path), shell_word(os.path.dirname(path))
    return f"{{ [ -e {file} ] || {{ mkdir -p {folder} && : > {file}; }}; }}"


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
        source = os.fsencode(OLD_ROOT + os.path.realpath(self.source))
        lines = [_describe_making(os.fsdecode(self.target), is_directory=self.is_directory)]
        lines.append(describe_mount(source, self.target, None, MS_BIND | (MS_REC if self.recursive else 0)))
        if self.propagation:
            lines.append(describe_mount(None, self.target, None, PROPAGATION[self.propagation]))
        if self.read_only:
            flags = MS_REMOUNT | MS_BIND | MS_RDONLY | os.statvfs(self.source).f_flag & _KEPT
            lines.append(describe_mount(None, self.target, None, flags))
        return " && ".join(lines)

    def execute(self, setup: Setup) -> None:
        target_fd = make_in_root(setup.root_fd, self.target, is_directory=self.is_directory)
        if filesystem_magic(target_fd) == PROC_SUPER_MAGIC and self.target not in _PROC_FILES:
            raise UsageError(f'cannot mount "{self.source}" at "{os.fsdecode(self.target)}": it is inside /proc')
        if (os.fstat(target_fd).st_mode & S_IFMT == S_IFDIR) != self.is_directory:
            raise UsageError(
                f'error mounting "{self.source}" to "{os.fsdecode(self.target)}": not a directory: Are you trying to '
                "mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the "
                "expected type"
            )
        tree_fd = setup.held[self.target]
        attach_tree(tree_fd, target_fd)
        os.close(target_fd)
        here = setup.name_of(tree_fd)
        if self.propagation:
            mount(None, here, None, PROPAGATION[self.propagation])
        if self.read_only:
            kept = os.fstatvfs(tree_fd).f_flag & _KEPT
            mount(None, here, None, MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


class MountTmpfs(Operation):
    """Mount a tmpfs as `--tmpfs` asks; a directory that the image has there keeps its mode."""

    __slots__ = ("data", "flags", "target")

    def __init__(self, target: str, flags: int, data: str) -> None:
        self.target = os.fsencode(target)
        self.flags = flags
        self.data = os.fsencode(data)

    def describe(self) -> str:
        target = shell_word(os.fsdecode(self.target))
        line = describe_mount(b"tmpfs", self.target, b"tmpfs", self.flags, self.data or None)
        if b"mode=" in self.data:
            return f"mkdir -p {target} && {line}"
        return f"mode=$(stat -c %a {target}) || mkdir -p {target}; {line} && chmod ${{mode:-1777}} {target}"

    def execute(self, setup: Setup) -> None:
        mode = -1
        try:
            handle = open_in_root(setup.root_fd, self.target, PATH_DIRECTORY)
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
            handle = open_in_root(setup.root_fd, self.target, PATH_DIRECTORY)
            os.chmod(setup.name_of(handle), mode)
            os.close(handle)


class MakeWorkdir(Operation):
    """Make the working directory as the engine does: owned by root, beneath the container's root."""

    __slots__ = ("path",)
    kind = "make"

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"mkdir -p {shell_word(self.path)}"

    def execute(self, setup: Setup) -> None:
        handle = make_in_root(setup.root_fd, os.fsencode(self.path), is_directory=True)
        is_directory = os.fstat(handle).st_mode & S_IFMT == S_IFDIR
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
