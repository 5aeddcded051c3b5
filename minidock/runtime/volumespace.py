"""One mount of a volume for all containers that use it, where what it holds is nowhere but in that mount: a tmpfs.

The engine mounts such a volume on the host while it is in use. Here it is the root of a mount namespace in which there
is nothing else and no process. Who runs a container that uses the volume holds that namespace by a descriptor, whatever
the container does with its own mounts; the first one makes it, the others find it among the first one's descriptors.
So it goes with the last of them, whatever kills them, and nothing has to be cleaned up.

    ROOT/volumes/<name>/minidock.mount   "<boot> <number of the namespace> <of the holders' pid namespace>\\n", a line
                                         "<pid> <start time>\\n" for each holder, "end\\n"; what follows is void

The record is a hint where to look; a descriptor that is found has to be of that namespace. Whoever reads or changes it
has a flock on it.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket

from minidock.linux.mount import MNT_DETACH, MS_PRIVATE, MS_REC, attach_tree, clone_tree, mount, pivot_root, umount
from minidock.linux.namespaces import CLONE_NEWNS, set_namespaces, unshare
from minidock.runtime.inchild import take_from_child
from minidock.store.transaction import boot_id, pid_namespace, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_BYTES = 1 << 20
_PURPOSE = "mount a volume for several containers"


def hold_space(path: str, make_mount: Callable[[], int]) -> int:
    """Become a holder of the namespace that has this volume's mount, which is made if nobody holds it.

    Shape:   path: the volume's directory; make_mount: gives the detached mount that it is to have
    Returns: a close-on-exec descriptor of the namespace; the mount lives as long as one is open
    Raises:  SyscallError, and what make_mount raises
    """
    handle = os.open(f"{path}/minidock.mount", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        number, holders = _read(handle)
        space_fd = _find(number, holders)
        if space_fd < 0:
            space_fd = _make(f"{path}/_data", make_mount)
            holders = []
        own = os.getpid(), start_time(os.getpid()) or 0
        _write(handle, os.fstat(space_fd).st_ino, sorted({*holders, own}))
        return space_fd
    finally:
        os.close(handle)


def find_space(path: str) -> int:
    """The namespace that has this volume's mount, -1 if nobody holds it; see hold_space."""
    try:
        handle = os.open(f"{path}/minidock.mount", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        return _find(*_read(handle))
    finally:
        os.close(handle)


def open_space(space_fd: int) -> int:
    """A detached copy of the mount that such a namespace has; raises SyscallError."""
    ours, theirs = socket.socketpair()

    def send() -> int:
        set_namespaces(space_fd, CLONE_NEWNS)
        tree_fd = clone_tree(b"/", recursive=False)
        theirs.sendmsg([b"m"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [tree_fd]))])
        return tree_fd

    def receive(pid: int, number: int) -> int:
        # Not through /proc: what is opened there ends with the child's own descriptor.
        _, rights, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
        return int.from_bytes(rights[0][2][:4], "little")

    with ours, theirs:
        return take_from_child(send, receive, _PURPOSE)


def _make(place: str, make_mount: Callable[[], int]) -> int:
    """A mount namespace that has nothing but this mount, which nothing is mounted below; place: a directory."""
    tree_fd = make_mount()

    def be_root() -> int:
        unshare(CLONE_NEWNS)
        mount(None, b"/", None, MS_REC | MS_PRIVATE)
        place_fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        attach_tree(tree_fd, place_fd)
        os.chdir(place)
        pivot_root(b".", b".")
        umount(b".", MNT_DETACH)
        return place_fd

    def open_namespace(pid: int, number: int) -> int:
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    try:
        return take_from_child(be_root, open_namespace, _PURPOSE)
    finally:
        os.close(tree_fd)


def _find(number: int, holders: list[tuple[int, int]]) -> int:
    for pid, started in holders:
        try:
            handle = _find_at(number, pid, started)
        except OSError:
            # It is just ending.
            continue
        if handle >= 0:
            return handle
    return -1


def _find_at(number: int, pid: int, started: int) -> int:
    """A descriptor of the namespace that this process has, -1 for none; raises OSError."""
    if start_time(pid) != started:
        return -1
    folder = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(folder):
            try:
                if os.readlink(name, dir_fd=folder) != f"mnt:[{number}]":
                    continue
                handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
            except OSError:
                # Closed since it was listed, as what listed it is where the process is this one.
                continue
            if os.fstat(handle).st_ino == number:
                return handle
            os.close(handle)
        return -1
    finally:
        os.close(folder)


def _read(handle: int) -> tuple[int, list[tuple[int, int]]]:
    """The namespace's number and its holders, of this boot and pid namespace."""
    head, *lines = os.pread(handle, _MAX_BYTES, 0).decode("ascii", "replace").split("\n")
    words = head.split(" ")
    if "end" not in lines or len(words) != 3 or words[::2] != [boot_id(), str(pid_namespace())]:
        return 0, []
    pairs = [line.split(" ") for line in lines[: lines.index("end")]]
    try:
        return int(words[1]), [(int(pid), int(started)) for pid, started in pairs]
    except ValueError:
        return 0, []


def _write(handle: int, number: int, holders: list[tuple[int, int]]) -> None:
    """Note who holds the namespace, those that live."""
    lines = [f"{boot_id()} {number} {pid_namespace()}\n"]
    lines += [f"{pid} {started}\n" for pid, started in holders if start_time(pid) == started]
    data = "".join([*lines, "end\n"]).encode("ascii")
    os.pwrite(handle, data, 0)
    os.ftruncate(handle, len(data))
