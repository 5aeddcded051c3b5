"""A container's whole file system as one directory descriptor, and no mount anywhere that outlives it.

A process of its own makes or finds the mount in a mount namespace of its own; this process opens the directory
through /proc and the other ends. What is left is a mount that belongs to no namespace and goes with the descriptor.

    running   a copy of the container's root mount alone: what is mounted on top of it is not part of its layers
    stopped   its layers as a read-only overlay, so that nothing has to be prepared or cleaned up

Source: open_tree(2), OPEN_TREE_CLONE; setns(2); kernel Documentation/filesystems/overlayfs.rst, "Multiple lower layers"
"""

from __future__ import annotations

import os

from minidock.errors import SyscallError
from minidock.linux.mount import MS_PRIVATE, MS_REC, clone_tree, mount, shell_word
from minidock.linux.namespaces import CLONE_NEWNS, set_namespaces, unshare
from minidock.runtime.inchild import take_from_child
from minidock.store.overlay2 import OverlayMount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from minidock.trace import Trace

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def open_layers(overlay_path: str, layers: Sequence[str], *, marks: str = "", trace: Trace | None = None) -> int:
    """Open the tree that layers make together, for reading.

    Shape:   layers: `l/<link_id>`, topmost first, two at least; marks: those that are followed into the layers
             below, as in OverlayMount
    Returns: a descriptor of the root directory; the caller owns it
    Raises:  SyscallError, MaxDepthExceeded
    """
    overlay = OverlayMount(overlay_path, list(layers), "", f"{overlay_path}/l", marks=marks)
    if trace:
        trace("mount", f"unshare --mount sh -c {shell_word(overlay.describe())}")

    def act() -> int:
        unshare(CLONE_NEWNS)
        mount(None, b"/", None, MS_REC | MS_PRIVATE)
        try:
            overlay.execute()
        except SyscallError as error:
            # The call itself is a page long.
            raise SyscallError(f"overlay mount of {len(layers)} layers", error.errno or 0) from None
        return os.open(overlay.target, _FOLDER_FLAGS)

    return _open_in_child(act)


def open_root_of(pidfd: int) -> int:
    """Open the root of a process, without what is mounted on top of it.

    Returns: a descriptor of the root directory; the caller owns it
    Raises:  SyscallError, ESRCH when the process is gone
    """

    def act() -> int:
        set_namespaces(pidfd, CLONE_NEWNS)
        return clone_tree(b"/", recursive=False)

    return _open_in_child(act)


def open_mounted(path: str) -> int:
    """Open what is mounted at path in this mount namespace, without what is mounted on top of it.

    Returns: a descriptor of the root directory; the caller owns it
    Raises:  SyscallError
    """
    handle = clone_tree(os.fsencode(path), recursive=False)
    try:
        return os.open(".", _FOLDER_FLAGS, dir_fd=handle)
    except OSError as error:
        raise SyscallError(f"open({path!r})", error.errno or 5) from None
    finally:
        os.close(handle)


def _open_in_child(act: Callable[[], int]) -> int:
    """Have a child get a directory's descriptor, and open the same directory here."""
    return take_from_child(
        act, lambda pid, number: os.open(f"/proc/{pid}/fd/{number}", _FOLDER_FLAGS), "open a container's root"
    )
