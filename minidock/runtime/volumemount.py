"""A volume with mount options: mounted by the container's parent as a mount that is nowhere, and put into its root.

The engine mounts it on the host and counts its users; here every container has a mount of its own, which goes with
it, whatever kills it. A device, a bind and a network file system show the same files all the same; of a tmpfs there is
one for all, see volumespace.py. It is made before the container's first process is, which may not open the device.
"""

from __future__ import annotations

import os

from minidock.errors import SyscallError, UsageError
from minidock.linux.mount import clone_tree, new_mount
from minidock.runtime.operation import Operation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.formats.volumeoptions import VolumeMount
    from minidock.runtime.operation import Setup
    from minidock.runtime.spec import BindMount


def open_volume(wanted: VolumeMount, path: str) -> int:
    """The mount that a volume's options ask for, attached nowhere; path: where the engine would have it, for messages.

    Returns: a close-on-exec descriptor of its root
    Raises:  UsageError in the engine's words
    """
    try:
        if wanted.is_bind:
            return clone_tree(os.fsencode(wanted.device), recursive=wanted.is_recursive)
        return new_mount(os.fsencode(wanted.fstype), wanted.configuration(), wanted.attributes())
    except SyscallError as error:
        reason = os.strerror(error.errno or 5).lower()
        raise UsageError(
            f"error while mounting volume '{path}': failed to mount local volume: "
            f"mount {wanted.device}:{path}, data: {wanted.data}: {reason}"
        ) from None


def hold_volume(wanted: VolumeMount, path: str) -> tuple[int, int]:
    """The mount that a volume's options ask for, shared with whoever uses it where that makes a difference.

    Shape:   path: its _data, as for open_volume
    Returns: a descriptor of its root, and one to be kept open for as long as it is used, -1 for none
    Raises:  UsageError in the engine's words; SyscallError
    """
    if not wanted.keeps_content:
        return open_volume(wanted, path), -1
    if is_mounted(path):
        return clone_tree(os.fsencode(path), recursive=False), -1
    from minidock.runtime.volumespace import hold_space, open_space

    space_fd = hold_space(os.path.dirname(path), lambda: open_volume(wanted, path))
    try:
        return open_space(space_fd), space_fd
    except BaseException:
        os.close(space_fd)
        raise


def is_mounted(path: str) -> bool:
    """Whether the volume of this _data is mounted on the host, as by an engine whose containers run on without it."""
    return os.stat(path).st_dev != os.stat(os.path.dirname(path)).st_dev


class HoldVolume(Operation):
    """Keep a volume's mount until its target exists. Shape: fd: -1 but between prepare and forget"""

    __slots__ = ("bind", "fd", "path", "target", "wanted")

    def __init__(self, bind: BindMount, target: str) -> None:
        assert bind.volume is not None
        self.bind = bind
        self.wanted = bind.volume
        self.path = bind.source
        self.target = os.fsencode(target)
        self.fd = -1

    def describe(self) -> str:
        wanted = self.wanted
        if wanted.is_bind:
            return f"# open_tree({wanted.device}, OPEN_TREE_CLONE), in the parent: volume {self.path}"
        return f"# fsopen({wanted.fstype}), source {wanted.device}, options {wanted.data!r}: volume {self.path}"

    def prepare(self) -> None:
        self.fd, self.bind.space_fd = hold_volume(self.wanted, self.path)

    def execute(self, setup: Setup) -> None:
        setup.held[self.target] = self.fd

    def forget(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
