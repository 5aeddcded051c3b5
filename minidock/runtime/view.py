"""Read-only views of images, containers and layers, mounted where the host sees them and without any process.

    layers              an overlay without an upper directory, whose source says whose view it is
    running container   a second, sealed mount of the very overlay that it runs on, so that both see the same

An overlay reads its lower directories through mounts of its own, read-only and without access times. What would move
times is the way there, the short names in `l/`, which are symlinks: so the overlay is mounted in a process that sees
the root sealed, and put from there where the host sees it.

Source: kernel Documentation/filesystems/overlayfs.rst, "Multiple lower layers"; fs/overlayfs/super.c, ovl_get_layers;
open_tree(2), move_mount(2)
"""

from __future__ import annotations

import os

from minidock.constants import DRIVER
from minidock.errors import SyscallError
from minidock.linux.mount import MS_NODEV, MS_NOSUID, MS_RDONLY, attach_tree, clone_tree, mount, seal_tree
from minidock.linux.namespaces import CLONE_NEWNS, set_namespaces
from minidock.store.overlay2 import OverlayMount
from minidock.store.sealing import in_sealed_process
from minidock.store.transaction import make_directory
from minidock.store.views import RUN, source_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from minidock.trace import Trace

_EMPTY = f"{RUN}/empty"


def make_run_directory(path: str) -> str:
    """Make a directory of minidock's below /run; returns it."""
    for part in (RUN, os.path.dirname(path), path):
        try:
            make_directory(part, 0o700)
        except FileExistsError:
            continue
    return path


def with_two_lowers(layers: Sequence[str]) -> list[str]:
    """Layers as an overlay without an upper takes them: at least two, so an empty directory below a single one."""
    return [*layers, make_run_directory(_EMPTY)] if len(layers) == 1 else list(layers)


def mount_layers(
    root_path: str, layers: Sequence[str], kind: str, identity: str, target: str, *, trace: Trace | None = None
) -> None:
    """Mount layers at target, read-only; nothing of the data root is changed by it, not even a time of access.

    Shape:  layers: `l/<link_id>`, topmost first; target: absolute, without symlinks
    Raises: SyscallError, MaxDepthExceeded
    """
    # A container's own layer may say by marks what it has of those below.
    marks = "metacopy" if kind == "container" else ""
    overlay = OverlayMount(f"{root_path}/{DRIVER}", with_two_lowers(layers), "", target, marks=marks)
    if trace:
        trace("mount", overlay.describe())
    source = os.fsencode(source_of(kind, identity, root_path))

    def make() -> int:
        os.chdir(overlay.overlay_path)
        try:
            mount(source, os.fsencode(target), b"overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, overlay.data)
        except SyscallError as error:
            # The call itself is a page long.
            raise SyscallError(f"overlay mount of {len(layers)} layers", error.errno or 0) from None
        return clone_tree(os.fsencode(target), recursive=False)

    _put(root_path, target, make)


def _put(root_path: str, target: str, make: Callable[[], int]) -> None:
    """Mount at target, in this mount namespace, the tree that make gives in a process that leaves no trace."""
    here = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SyscallError(f"open {target}", error.errno or 5) from None

        def act() -> None:
            tree = make()
            set_namespaces(here, CLONE_NEWNS)
            attach_tree(tree, place)

        try:
            in_sealed_process(root_path, act)
        finally:
            os.close(place)
    finally:
        os.close(here)


def mount_running(root_path: str, pidfd: int, target: str) -> None:
    """Mount at target, read-only, the root that a process has; raises SyscallError, ESRCH when it is gone."""

    def make() -> int:
        set_namespaces(pidfd, CLONE_NEWNS)
        tree = clone_tree(b"/", recursive=False)
        seal_tree(tree)
        return tree

    _put(root_path, target, make)
