"""docker diff: what a container added, changed and deleted."""

from __future__ import annotations

import errno
import os
import stat

from minidock.errors import SyscallError
from minidock.formats.tarwriter import is_whiteout
from minidock.linux.paths import open_in_root
from minidock.store.overlay2 import rw_lowers
from minidock.store.upper import OPAQUE_XATTR, UpperEntry, walk_upper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot

_SECOND_NS = 1_000_000_000


class Change:
    """One changed path. Shape: kind: A added, C changed, D deleted; path: absolute, undecodable bytes as surrogates"""

    __slots__ = ("kind", "path")

    def __init__(self, kind: str, path: str) -> None:
        self.kind = kind
        self.path = path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Change) and (self.kind, self.path) == (other.kind, other.path)

    def __hash__(self) -> int:
        return hash((self.kind, self.path))

    def __repr__(self) -> str:
        return f"Change({self.kind!r}, {self.path!r})"


def diff(root: DataRoot, container: str) -> list[Change]:
    """What the container changed, in docker's order; its init layer counts as part of what was there.

    Raises: NoSuchContainer, StoreCorrupt, SyscallError
    Source: moby pkg/archive/changes.go, changes and overlayDeletedFile. One difference: a symlink below is looked
            at itself, while docker follows it on the host and takes a changed dangling one for a new file
    """
    source = root.containers.get(container)
    lowers: list[int] = []
    try:
        for name in rw_lowers(root, source.mount_id):
            lowers.append(os.open(f"{root.overlay_path}/{name}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        upper_fd = os.open(root.layers.diff_path(source.layer.mount_id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        lowers.append(upper_fd)
        return _changes(upper_fd, lowers[:-1])
    finally:
        for handle in lowers:
            os.close(handle)


def _changes(upper_fd: int, lowers: list[int]) -> list[Change]:
    changes: list[Change] = []
    told: set[bytes] = set()
    for entry in walk_upper(upper_fd):
        kind = _kind(entry, lowers)
        if not kind:
            continue
        if entry.is_directory:
            told.add(entry.path)
        parent = entry.path.rpartition(b"/")[0]
        if kind != "C" and parent and parent not in told:
            # A directory that looks untouched is still told, once something in it came or went.
            told.add(parent)
            changes.append(Change("C", "/" + os.fsdecode(parent)))
        changes.append(Change(kind, "/" + os.fsdecode(entry.path)))
    return changes


def _kind(entry: UpperEntry, lowers: list[int]) -> str:
    """A, C or D; empty for a directory that is there only because of what is in it."""
    if is_whiteout(entry.status):
        return "D"
    if entry.is_directory and OPAQUE_XATTR in entry.xattrs() and entry.xattr(OPAQUE_XATTR) == b"y":
        return "D"
    for lower in lowers:
        below = _status_below(lower, entry.path)
        if below is not None:
            return "" if entry.is_directory and _is_same_directory(entry.status, below) else "C"
    return "A"


def _status_below(lower: int, path: bytes) -> os.stat_result | None:
    try:
        handle = open_in_root(lower, path, os.O_PATH | os.O_NOFOLLOW)
    except SyscallError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    try:
        return os.fstat(handle)
    finally:
        os.close(handle)


def _is_same_directory(ours: os.stat_result, below: os.stat_result) -> bool:
    return (
        stat.S_ISDIR(below.st_mode)
        and ours.st_size == below.st_size
        and ours.st_mode == below.st_mode
        and _is_same_time(ours.st_mtime_ns, below.st_mtime_ns)
    )


def _is_same_time(ours_ns: int, below_ns: int) -> bool:
    # A layer that came as a tar may have whole seconds only.
    if ours_ns % _SECOND_NS and below_ns % _SECOND_NS:
        return ours_ns == below_ns
    return ours_ns // _SECOND_NS == below_ns // _SECOND_NS
