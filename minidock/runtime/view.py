"""Read-only views of images, containers and layers, mounted where the host sees them and without any process.

    layers              an overlay without an upper directory, whose source says whose view it is
    running container   a second, sealed mount of the very overlay that it runs on, so that both see the same

Source: kernel Documentation/filesystems/overlayfs.rst, "Multiple lower layers"; open_tree(2)
"""

from __future__ import annotations

import os

from minidock.errors import SyscallError
from minidock.linux.mount import MS_NODEV, MS_NOSUID, MS_RDONLY, attach_tree, clone_tree, mount, seal_tree
from minidock.linux.namespaces import CLONE_NEWNS, set_namespaces
from minidock.store.overlay2 import OverlayMount
from minidock.store.transaction import make_directory
from minidock.store.views import RUN, SOURCE

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
    overlay_path: str, layers: Sequence[str], kind: str, identity: str, target: str, *, trace: Trace | None = None
) -> None:
    """Mount layers at target, read-only.

    Shape:  layers: `l/<link_id>`, topmost first; target: absolute, without symlinks
    Raises: SyscallError, MaxDepthExceeded
    """
    overlay = OverlayMount(overlay_path, with_two_lowers(layers), "", target)
    if trace:
        trace("mount", overlay.describe())
    source = f"{SOURCE}{kind}:{identity}".encode("ascii")

    def act() -> None:
        os.chdir(overlay_path)
        try:
            mount(source, os.fsencode(target), b"overlay", MS_RDONLY | MS_NOSUID | MS_NODEV, overlay.data)
        except SyscallError as error:
            # The call itself is a page long.
            raise SyscallError(f"overlay mount of {len(layers)} layers", error.errno or 0) from None

    _in_child(act)


def mount_running(pidfd: int, target: str) -> None:
    """Mount at target, read-only, the root that a process has; raises SyscallError, ESRCH when it is gone."""

    def act() -> None:
        here = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        set_namespaces(pidfd, CLONE_NEWNS)
        tree = clone_tree(b"/", recursive=False)
        seal_tree(tree)
        set_namespaces(here, CLONE_NEWNS)
        attach_tree(tree, place)

    _in_child(act)


def _in_child(act: Callable[[], None]) -> None:
    """Do it in a process of its own, since it changes the working directory or the mount namespace."""
    answer, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if not pid:
        try:
            try:
                act()
                words = ""
            except SyscallError as error:
                words = f"{error.call[:3000]}\0{error.errno}"
            except OSError as error:
                words = f"mount {error.filename or ''}\0{error.errno or 5}"
            os.write(tell, words.encode("utf-8", "surrogateescape"))
        finally:
            os._exit(0)
    os.close(tell)
    try:
        told = os.read(answer, 4096).decode("utf-8", "surrogateescape").split("\0")
    finally:
        os.close(answer)
        os.waitpid(pid, 0)
    if len(told) == 2:
        raise SyscallError(told[0], int(told[1]))
