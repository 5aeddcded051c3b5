"""docker export: a container's whole file system as one tar, and nothing of it left mounted."""

from __future__ import annotations

import os

from minidock.errors import Conflict, StoreError, SyscallError
from minidock.linux.mount import shell_word
from minidock.linux.process import pidfd_open
from minidock.runtime.attach import refuse_foreign
from minidock.runtime.containerroot import user_map_of_running
from minidock.runtime.merged import open_layers, open_mounted, open_root_of
from minidock.store.overlay2 import check_rw, read_link
from minidock.store.taroutput import TarOutput
from minidock.store.transaction import mounts_below
from minidock.store.treetar import write_tree
from minidock.verbs.commit import Dialect
from minidock.verbs.outputfile import OutputFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.runtime.usermap import UserMap
    from minidock.store.containers import Container
    from minidock.store.root import DataRoot


class ExportedTree:
    """What went into a tar. Units: tar_bytes: its whole length; warnings: names that changed meanwhile"""

    __slots__ = ("entries", "tar_bytes", "warnings")

    def __init__(self, entries: int, tar_bytes: int, warnings: list[str]) -> None:
        self.entries = entries
        self.tar_bytes = tar_bytes
        self.warnings = warnings


def export(root: DataRoot, container: str, output: str | int, *, engine: str = "") -> ExportedTree:
    """Write what a container sees as its root, without what is mounted into it.

    Shape:   output: a path or a descriptor; engine: the Docker version whose bytes are written, "" for the newest
    Returns: ExportedTree; a file appears only when it is whole, a stream that fails ends early
    Raises:  NoSuchContainer, UsageError, StoreCorrupt for a damaged stack of layers, SyscallError
    Source:  moby daemon/export.go
    """
    dialect = Dialect(engine)
    source = root.containers.get(container)
    if source.state.status == "dead":
        raise Conflict(f"You cannot export container {source.id} which is Dead")
    refuse_foreign(source)
    tree, user_map = _open_tree(root, source)
    try:
        with OutputFile(output, "export container") as file:
            root.tell("write", f"{file.what}: the tree of container {source.id.short}")
            stream = TarOutput(file.fd, file.what)
            written = write_tree(
                tree, stream, dialect=dialect.tar, owners=None if user_map is None else user_map.inside
            )
            if not os.path.isdir(source.path):
                raise StoreError(f"container {source.id.short} was removed while it was read")
    finally:
        os.close(tree)
    return ExportedTree(written.entries, stream.written_bytes, written.warnings)


def export_image(root: DataRoot, image: str, output: str | int, *, engine: str = "") -> ExportedTree:
    """Write what an image's layers make together, whose data root may be opened for reading only; else as export.

    Raises: NoSuchImage, InvalidReference, StoreCorrupt for a damaged stack of layers, SyscallError
    """
    from minidock.verbs.imagetree import open_image

    dialect = Dialect(engine)
    tree = open_image(root, image)
    try:
        with OutputFile(output, "export image") as file:
            root.tell("write", f"{file.what}: the tree of image {image}")
            stream = TarOutput(file.fd, file.what)
            written = write_tree(tree, stream, dialect=dialect.tar)
    finally:
        os.close(tree)
    return ExportedTree(written.entries, stream.written_bytes, written.warnings)


def _open_tree(root: DataRoot, source: Container) -> tuple[int, UserMap | None]:
    """The tree, and the map of its owners where they are those of a user namespace."""
    if source.is_running():
        handle = _open_running(root, source)
        if handle >= 0:
            return handle, user_map_of_running(source)
    layer = source.layer
    # Where docker's engine runs the container, its mount is in sight and is the one whole truth.
    mounted = f"{root.overlay_path}/{layer.mount_id}/merged"
    if mounted in mounts_below(root.overlay_path):
        root.tell("mount", f"exec 9<{shell_word(mounted)}  # open_tree(OPEN_TREE_CLONE)")
        return open_mounted(mounted), None
    check_rw(root, layer)
    own = f"l/{read_link(root.overlay_path, layer.mount_id)}"
    return open_layers(root.overlay_path, [own, *layer.lowers], marks="metacopy", trace=root.trace), None


def _open_running(root: DataRoot, source: Container) -> int:
    """The tree of a running container, or -1 when it has just ended."""
    pid = source.state.pid
    try:
        pidfd = pidfd_open(pid)
    except SyscallError:
        return -1
    try:
        # The number may have gone to another process before it was opened; now it is held.
        if not source.is_running():
            return -1
        root.tell("mount", f"nsenter --target {pid} --mount sh -c 'exec 9</'  # open_tree(OPEN_TREE_CLONE)")
        return open_root_of(pidfd)
    except SyscallError:
        source.reload()
        if source.is_running():
            raise
        return -1
    finally:
        os.close(pidfd)
