"""Namespaces of other containers: `--pid`, `--ipc`, `--uts`, `--network container:ID`.

The records name the other container by its ID. Which process that is, is found anew at each start, and held from
then on by a pidfd that was checked against its recorded start time, so no pid can be mistaken for another.

A pid namespace is entered as exec enters it, by the trampoline alone (see runtime.join): what prepares the container
never shows inside, where the other container may have been given SYS_PTRACE. So it cannot mount a procfs of that
namespace itself; it takes a copy of the mount that the other container has, and makes sure that it is one.
Source: moby daemon/container_operations_unix.go, getIpcContainer and getPidContainer; setns(2); open_tree(2)
"""

from __future__ import annotations

import errno
import os
import select

from minidock.errors import ContainerNotRunning, NoSuchContainer, SyscallError, UsageError
from minidock.linux.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID, attach_tree, clone_tree, describe_mount
from minidock.linux.namespaces import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    describe_flags,
    set_namespaces,
)
from minidock.runtime.attach import open_process, refuse_foreign
from minidock.runtime.operation import (
    PATH_DIRECTORY,
    PROC_SUPER_MAGIC,
    Operation,
    Setup,
    filesystem_magic,
)
from minidock.runtime.rootfs import open_top

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from minidock.store.containers import Container, ContainerStore

PREFIX = "container:"
_TMPFS_MAGIC = 0x01021994
_PROC_ROOT_INODE = 1
_SHM = "/dev/shm"


def has_ended(pidfd: int) -> bool:
    """Whether the process that a pidfd names is dead."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


class Joins:
    """Which namespaces of which containers.

    Shape: wanted: (one CLONE_NEW* flag, container ID); user_mode: the container's own UsernsMode, empty for none
    """

    __slots__ = ("containers", "user_mode", "wanted")

    def __init__(self, containers: ContainerStore, user_mode: str) -> None:
        self.containers = containers
        self.user_mode = user_mode
        self.wanted: list[tuple[int, str]] = []

    @property
    def flags(self) -> int:
        """The namespaces that are joined."""
        return sum(flag for flag, _ in self.wanted)

    def open(self) -> Joined:
        """Find the processes as they are now.

        Raises: NoSuchContainer, ContainerNotRunning, UsageError with docker's words
        """
        joined = Joined()
        try:
            for flag, container_id in self.wanted:
                found = _find(self.containers, flag, container_id)
                theirs = found.config.host_text("UsernsMode").removeprefix("host")
                if theirs != self.user_mode or (theirs and joined.has_other(found)):
                    raise UsageError(
                        f"cannot join a namespace of container {container_id}: it has another user namespace",
                        hint="--userns of both containers must be the same",
                    )
                joined.add(flag, found)
        except BaseException:
            joined.close()
            raise
        return joined


def _find(containers: ContainerStore, flag: int, container_id: str) -> Container:
    prefix = f"can't join IPC of container {container_id}: " if flag == CLONE_NEWIPC else ""
    try:
        found = containers.get(container_id)
    except NoSuchContainer as error:
        if flag == CLONE_NEWPID:
            prefix = f"cannot join PID of a non running container: {container_id}: "
        raise NoSuchContainer(prefix + error.message) from None
    refuse_foreign(found)
    if found.state.is_restarting():
        raise ContainerNotRunning(f"{prefix}Container {found.id} is restarting, wait until the container is running")
    if not found.is_running():
        if flag == CLONE_NEWNET:
            raise ContainerNotRunning(f"cannot join network of a non running container: {found.id}")
        raise ContainerNotRunning(f"{prefix}container {found.id} is not running")
    if flag == CLONE_NEWIPC and not _shares_ipc(found):
        raise UsageError(f"{prefix}non-shareable IPC (hint: use IpcMode:shareable for the donor container)")
    return found


def _shares_ipc(container: Container) -> bool:
    """Whether it was told to share, and its /dev/shm is the engine's."""
    mode = container.config.host_text("IpcMode")
    taken = any(point.get("Destination") == _SHM for point in container.config.mount_points)
    return (mode in ("shareable", "host") or mode.startswith(PREFIX)) and not taken


class Joined:
    """The processes whose namespaces are joined, each held by a pidfd; a context manager."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: list[tuple[int, int, Container]] = []

    def add(self, flag: int, container: Container) -> None:
        """Hold a container's first process; raises ContainerNotRunning."""
        pidfd = open_process(container.state.pid, container.state.start_time)
        if pidfd < 0:
            raise ContainerNotRunning(f"container {container.id} is not running")
        self._held.append((flag, pidfd, container))

    def has_other(self, container: Container) -> bool:
        """Whether another container than this one is among them."""
        return any(each.id != container.id for _, _, each in self._held)

    def pidfd_of(self, flag: int) -> int:
        """The process whose namespace of this kind is joined, -1 for none."""
        return next((pidfd for each, pidfd, _ in self._held if each == flag), -1)

    def operations(self) -> list[Operation]:
        """What the first process does before its root changes."""
        plan: list[Operation] = []
        for flag, pidfd, each in self._held:
            if flag == CLONE_NEWPID:
                plan.append(HoldProc(pidfd, each.state.pid))
                continue
            plan.append(JoinNamespace(flag, pidfd, each.id, each.state.pid))
            if flag == CLONE_NEWIPC:
                plan.append(HoldShm(pidfd, each.state.pid))
        return plan

    def pid_operations(self) -> list[Operation]:
        """What the process does before its root changes that is to live in the other's pid namespace."""
        return [
            JoinNamespace(flag, pidfd, each.id, each.state.pid)
            for flag, pidfd, each in self._held
            if flag == CLONE_NEWPID
        ]

    def open_user_namespace(self) -> int:
        """The user namespace that goes with the others, -1 when none is joined; raises ContainerNotRunning."""
        for _, pidfd, each in self._held:
            handle = os.open(f"/proc/{each.state.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            if has_ended(pidfd):
                os.close(handle)
                raise ContainerNotRunning(f"container {each.id} is not running")
            return handle
        return -1

    def close(self) -> None:
        """Let go of the processes."""
        while self._held:
            os.close(self._held.pop()[1])

    def __enter__(self) -> Joined:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JoinNamespace(Operation):
    """Enter one namespace of another container's process; a pid namespace is for the children."""

    __slots__ = ("container_id", "flag", "pid", "pidfd")
    kind = "clone"

    def __init__(self, flag: int, pidfd: int, container_id: str, pid: int) -> None:
        self.flag = flag
        self.pidfd = pidfd
        self.container_id = container_id
        self.pid = pid

    def describe(self) -> str:
        return f"nsenter --target {self.pid} {describe_flags(self.flag)}"

    def execute(self, setup: Setup) -> None:
        if self.flag == CLONE_NEWPID:
            # By another /proc than the container's, in which this process will not be.
            setup.descriptors_fd = os.open("/proc/self/fd", PATH_DIRECTORY | os.O_CLOEXEC)
        try:
            set_namespaces(self.pidfd, self.flag)
        except SyscallError as error:
            if error.errno == errno.ESRCH:
                raise UsageError(f"container {self.container_id} is not running") from None
            raise


class _HoldMount(Operation):
    """Keep a detached copy of a mount that another container has at a path."""

    __slots__ = ("pid", "pidfd")
    path = b""

    def __init__(self, pidfd: int, pid: int) -> None:
        self.pidfd = pidfd
        self.pid = pid

    def describe(self) -> str:
        path = os.fsdecode(self.path)
        return f"# setns(mnt), open_tree({path}, OPEN_TREE_CLONE) and back: the other container's own"

    def execute(self, setup: Setup) -> None:
        own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            set_namespaces(self.pidfd, CLONE_NEWNS)
            try:
                tree_fd = clone_tree(self.path, recursive=False, follow=False)
            finally:
                set_namespaces(own, CLONE_NEWNS)
        finally:
            os.close(own)
        self.check(tree_fd)
        setup.held[self.path] = tree_fd

    def check(self, tree_fd: int) -> None:
        """Make sure of what came; raises UsageError."""
        raise NotImplementedError


class HoldProc(_HoldMount):
    """A procfs of the joined pid namespace."""

    __slots__ = ()
    path = b"/proc"

    def check(self, tree_fd: int) -> None:
        is_proc = filesystem_magic(tree_fd) == PROC_SUPER_MAGIC and os.fstat(tree_fd).st_ino == _PROC_ROOT_INODE
        theirs = os.readlink(f"/proc/{self.pid}/ns/pid")
        # The number was the other's all along, if that still lives.
        if not is_proc or has_ended(self.pidfd) or os.readlink("1/ns/pid", dir_fd=tree_fd) != theirs:
            raise UsageError("the other container's /proc does not show its own processes")


class HoldShm(_HoldMount):
    """The memory file system that goes with the joined IPC namespace."""

    __slots__ = ()
    path = os.fsencode(_SHM)

    def check(self, tree_fd: int) -> None:
        if filesystem_magic(tree_fd) != _TMPFS_MAGIC:
            raise UsageError(f"the other container's {_SHM} is no memory file system")


class AttachHeld(Operation):
    """Put a mount of another container at the same path, on a directory that no symlink leads to."""

    __slots__ = ("path",)

    def __init__(self, path: bytes) -> None:
        self.path = path

    def describe(self) -> str:
        if self.path == HoldProc.path:
            return describe_mount(b"proc", self.path, b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        return f"# move_mount of what is held to {os.fsdecode(self.path)}"

    def execute(self, setup: Setup) -> None:
        target_fd = open_top(setup.root_fd, self.path)
        attach_tree(setup.held[self.path], target_fd)
        os.close(target_fd)


class InPidNamespace:
    """Where there is no trampoline: the process is cloned right into the pid namespace, and is not dumpable there.

    A context manager around the clone.
    """

    __slots__ = ("_own", "_pidfd", "_was_dumpable")

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self._own = -1
        self._was_dumpable = False

    def __enter__(self) -> None:
        from minidock.linux.process import PR_GET_DUMPABLE, prctl, set_dumpable

        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._was_dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 1
        set_dumpable(False)
        set_namespaces(self._pidfd, CLONE_NEWPID)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from minidock.linux.process import set_dumpable

        set_namespaces(self._own, CLONE_NEWPID)
        os.close(self._own)
        if self._was_dumpable:
            set_dumpable(True)


def resolve_mode(containers: ContainerStore, option: str, mode: str) -> str:
    """`container:NAME` with the ID in place of the name, as the records keep it; other modes as they are.

    Raises: NoSuchContainer
    """
    if not mode.startswith(PREFIX):
        return mode
    name = mode.removeprefix(PREFIX)
    if not name:
        raise UsageError(f'can\'t join {option.upper()} of container : invalid name or ID supplied: ""')
    return PREFIX + containers.get(name).id
