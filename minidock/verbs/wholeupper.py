"""An upper directory that tells by itself what a container changed, for one whose own does not.

Overlayfs with redirect_dir=on renames a directory of a lower layer by a mark, and with metacopy=on changes an owner or
a mode without the file's content. Our mounts have both off, but hosts differ, and so do the engines that ran a
container. What such an upper directory leaves out is in the merged tree, so this one is compared with the tree below,
name by name, as docker's engine does on these hosts; what differs is copied to where no mark is needed.

Source: moby daemon/graphdriver/fsdiff.go, NaiveDiffDriver; kernel overlayfs.rst, "Redirecting directories", "Metadata
only copy up"
"""

from __future__ import annotations

import os
import stat

from minidock.errors import SyscallError
from minidock.linux.paths import open_in_root
from minidock.store.transaction import make_directory
from minidock.store.treecopy import copy_tree
from minidock.verbs.diff import open_both, tree_changes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.containers import Container
    from minidock.store.root import DataRoot

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def make_whole_upper(root: DataRoot, source: Container, target: str) -> None:
    """Make the directory target, which with the container's lower layers gives its tree without any mark.

    Raises: StoreCorrupt, SyscallError; the caller removes what is there then
    """
    root.tell("read", "the merged tree, since the container was mounted with redirect_dir or metacopy")
    make_directory(target, 0o755)
    target_fd = os.open(target, _DIRECTORY_FLAGS)
    merged, before = open_both(root, source)
    try:
        changes = tree_changes(merged, before)
        copy_tree(merged, target_fd, {os.fsencode(one.path[1:]) for one in changes if one.kind != "D"})
        _delete(target_fd, [os.fsencode(one.path[1:]) for one in changes if one.kind == "D"])
    except OSError as error:
        if isinstance(error, SyscallError):
            raise
        raise SyscallError(f"make a whole upper directory: {error.filename!r}", error.errno or 5) from None
    finally:
        for handle in (merged, before, target_fd):
            os.close(handle)


def _delete(target_fd: int, paths: list[bytes]) -> None:
    """Put a whiteout at each path; the directory it is in looks as before."""
    for path in paths:
        folder, _, base = path.rpartition(b"/")
        handle = open_in_root(target_fd, folder or b".", _DIRECTORY_FLAGS)
        try:
            status = os.fstat(handle)
            os.mknod(base, stat.S_IFCHR, 0, dir_fd=handle)
            os.utime(handle, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(handle)
