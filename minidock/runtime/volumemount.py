"""A volume with mount options: mounted by the container's parent as a mount that is nowhere, and put into its root.

The engine mounts it on the host and counts its users; here every container has a mount of its own, which goes with
it, whatever kills it. A device, a bind and a network file system show the same files all the same; only a tmpfs is
then each container's own. It is made before the container's first process is, which may not open the device.
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


class HoldVolume(Operation):
    """Keep a volume's mount until its target exists. Shape: fd: -1 but between prepare and forget"""

    __slots__ = ("fd", "path", "target", "wanted")

    def __init__(self, wanted: VolumeMount, path: str, target: str) -> None:
        self.wanted = wanted
        self.path = path
        self.target = os.fsencode(target)
        self.fd = -1

    def describe(self) -> str:
        wanted = self.wanted
        if wanted.is_bind:
            return f"# open_tree({wanted.device}, OPEN_TREE_CLONE), in the parent: volume {self.path}"
        return f"# fsopen({wanted.fstype}), source {wanted.device}, options {wanted.data!r}: volume {self.path}"

    def prepare(self) -> None:
        self.fd = open_volume(self.wanted, self.path)

    def execute(self, setup: Setup) -> None:
        setup.held[self.target] = self.fd

    def forget(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
