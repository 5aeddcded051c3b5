"""The operations of a container with a user namespace of its own: root inside, an ordinary user outside.

Two processes share the plan. The first one is root of the host: it shows the layers through one idmapped mount, so
that what is 0 on the disk is the container's 0, mounts the overlay of them as the container's root (what overlayfs
itself makes must have a mapped owner), makes the device nodes, which a user namespace may not, and holds the host's
mounts. Then it enters the user namespace, clones the second one as its sibling into namespaces that belong to that
user namespace, and ends. The second one attaches what was held, and goes on as any container's.

A new procfs and sysfs may be mounted in a user namespace only where others are in full sight, so the old root goes
after that.
Source: user_namespaces(7); mount_setattr(2); kernel fs/namespace.c, mount_too_revealing
"""

from __future__ import annotations

import errno
import os

from minidock.errors import SyscallError, UsageError
from minidock.linux.capabilities import permitted, set_exactly
from minidock.linux.mount import (
    MNT_DETACH,
    MS_NOSUID,
    attach_tree,
    clone_tree,
    map_tree,
    new_mount,
    pivot_root,
    shell_word,
    umount,
)
from minidock.linux.namespaces import CLONE_NEWUSER, describe_flags, set_namespaces
from minidock.linux.process import SIGKILL, clone_sibling, set_parent_death_signal
from minidock.linux.userns import make_user_namespace, set_filesystem_ids
from minidock.runtime.devices import HostDevice, MakeDevices
from minidock.runtime.operation import PATH_DIRECTORY, Operation, Setup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.runtime.rootfs import MountOverlay
    from minidock.runtime.usermap import UserMap

_ATTRIBUTE_STRICTATIME = 0x20


class Remapped:
    """A container's user namespace, held by a descriptor; a new one, or that of a container that it joins."""

    __slots__ = ("fd", "user_map")

    def __init__(self, user_map: UserMap, fd: int = -1) -> None:
        self.user_map = user_map
        self.fd = fd if fd >= 0 else make_user_namespace(user_map.uids.lines(), user_map.gids.lines())

    def close(self) -> None:
        """Let go of the namespace."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def outer_operations(self, overlay: MountOverlay, devices: Sequence[HostDevice] | None) -> list[Operation]:
        """What the host's root does, once the host's mounts are held. Shape: devices None for no /dev of our own"""
        plan: list[Operation] = [
            MakeMerged(overlay),
            MapLayers(overlay.overlay.overlay_path, self),
            ActAsRoot(self.user_map),
            overlay,
            HoldRoot(overlay.path),
        ]
        return plan if devices is None else [*plan, HoldDevices(devices, self.user_map)]


def _map(tree_fd: int, userns_fd: int, what: str, *, recursive: bool = False) -> None:
    try:
        map_tree(tree_fd, userns_fd, recursive=recursive)
    except SyscallError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        raise UsageError(
            f"--userns: {what} cannot be shown with other IDs: its file system or this kernel has no idmapped mounts; "
            "run without --userns, or with the data root on ext4, xfs or btrfs and Linux 5.19 or newer"
        ) from None


class MapHeld(Operation):
    """Show a held volume or file of the data root with the container's IDs."""

    __slots__ = ("recursive", "remapped", "source", "target")

    def __init__(self, source: str, target: str, remapped: Remapped, recursive: bool) -> None:
        self.source = source
        self.target = os.fsencode(target)
        self.remapped = remapped
        self.recursive = recursive

    def describe(self) -> str:
        return f"# mount_setattr(MOUNT_ATTR_IDMAP {self.remapped.user_map.uids.describe()}) on {self.source}"

    def execute(self, setup: Setup) -> None:
        _map(setup.held[self.target], self.remapped.fd, self.source, recursive=self.recursive)


class MakeMerged(Operation):
    """Make the directory to mount on, while its place can still be written."""

    __slots__ = ("overlay",)

    def __init__(self, overlay: MountOverlay) -> None:
        self.overlay = overlay

    def describe(self) -> str:
        return f"mkdir -p -m 700 {shell_word(self.overlay.path)}"

    def execute(self, setup: Setup) -> None:
        self.overlay.make_target()


class MapLayers(Operation):
    """Mount overlay2/ over itself with the container's IDs, for the overlay to find its layers there."""

    __slots__ = ("path", "remapped")

    def __init__(self, path: str, remapped: Remapped) -> None:
        self.path = path
        self.remapped = remapped

    def describe(self) -> str:
        ids = self.remapped.user_map.uids.describe()
        return f"mount --bind -o X-mount.idmap='{ids}' {shell_word(self.path)} {shell_word(self.path)}"

    def execute(self, setup: Setup) -> None:
        tree_fd = clone_tree(os.fsencode(self.path), recursive=False)
        _map(tree_fd, self.remapped.fd, self.path)
        target_fd = os.open(self.path, PATH_DIRECTORY | os.O_CLOEXEC)
        attach_tree(tree_fd, target_fd)
        os.close(target_fd)
        os.close(tree_fd)


class ActAsRoot(Operation):
    """Make files as the container's root from now on, with all that the host's root may."""

    __slots__ = ("user_map",)
    kind = "exec"

    def __init__(self, user_map: UserMap) -> None:
        self.user_map = user_map

    def describe(self) -> str:
        uid, gid = self.user_map.root()
        return f"# setfsgid({gid}), setfsuid({uid}), and all capabilities in effect again"

    def execute(self, setup: Setup) -> None:
        self.user_map.give_streams(setup.standard)
        set_filesystem_ids(*self.user_map.root())
        set_exactly(permitted())


class HoldRoot(Operation):
    """Keep a detached copy of the overlay, which the second process attaches."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"# open_tree({shell_word(self.path)}, OPEN_TREE_CLONE)"

    def execute(self, setup: Setup) -> None:
        setup.held[b"/"] = clone_tree(os.fsencode(self.path), recursive=False)


class HoldDevices(Operation):
    """Fill a detached /dev with the device nodes, which only the host's root can make."""

    __slots__ = ("nodes",)

    def __init__(self, devices: Sequence[HostDevice], user_map: UserMap) -> None:
        root = user_map.root()
        for device in devices:
            if device.name.startswith("/"):
                # They are made before there is a root to make it in.
                raise UsageError(f"--userns: a device can only be below /dev, not at {device.name}")
        self.nodes = MakeDevices(devices, owner=root)

    def describe(self) -> str:
        return f"mount -t tmpfs -o nosuid,strictatime,mode=755,size=65536k tmpfs /dev && {self.nodes.describe()}"

    def execute(self, setup: Setup) -> None:
        options = ((b"source", b"tmpfs"), (b"mode", b"755"), (b"size", b"65536k"))
        tree_fd = new_mount(b"tmpfs", options, MS_NOSUID | _ATTRIBUTE_STRICTATIME)
        os.fchdir(tree_fd)
        self.nodes.make_here()
        setup.held[b"/dev"] = tree_fd


class EnterUserNamespace(Operation):
    """Enter it, and clone the container's first process into namespaces that belong to it."""

    __slots__ = ("flags", "remapped")
    kind = "clone"

    def __init__(self, remapped: Remapped, flags: int) -> None:
        self.remapped = remapped
        self.flags = flags

    def describe(self) -> str:
        ids = self.remapped.user_map
        return (
            f"unshare --fork {describe_flags(self.flags | CLONE_NEWUSER)} --propagation unchanged "
            f"--map-users {ids.uids.describe()} --map-groups {ids.gids.describe()} --setuid 0 --setgid 0"
        )

    def execute(self, setup: Setup) -> None:
        set_namespaces(self.remapped.fd, CLONE_NEWUSER)
        if clone_sibling(self.flags):
            os._exit(0)
        set_parent_death_signal(SIGKILL)
        # Its own number, by the host's /proc, which is still in sight.
        setup.tell_pid(int(os.readlink("/proc/self")))
        os.setsid()
        become_root()


def become_root() -> None:
    """In a user namespace just entered: be its root, who until now was nobody there."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


class AttachRoot(Operation):
    """Make the held overlay the root; the old one stays underneath for a moment, see the module's head."""

    __slots__ = ()

    def describe(self) -> str:
        return "mount --bind /proc/self/fd/$held / && cd /proc/self/fd/$held && pivot_root . ."

    def execute(self, setup: Setup) -> None:
        tree_fd = setup.held[b"/"]
        old = os.open("/", PATH_DIRECTORY | os.O_CLOEXEC)
        attach_tree(tree_fd, old)
        os.close(old)
        os.fchdir(tree_fd)
        pivot_root(b".", b".")
        setup.root_fd = os.open("/", PATH_DIRECTORY | os.O_CLOEXEC)


class LetGoOfOldRoot(Operation):
    """The end of what AttachRoot began."""

    __slots__ = ()

    def describe(self) -> str:
        return "umount -l . && cd /"

    def execute(self, setup: Setup) -> None:
        os.fchdir(setup.root_fd)
        umount(b".", MNT_DETACH)
        os.chdir("/")
