"""In what two versions of a path differ, and how alike their bytes are."""

from __future__ import annotations

import os
import stat

from minidock.formats.whiteout import is_overlay_xattr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.stackwalk import StackEntry, Version

TYPE, DATA, MODE, OWNER, MTIME, XATTR, TARGET, DEVICE = (
    "type",
    "data",
    "mode",
    "owner",
    "mtime",
    "xattr",
    "target",
    "device",
)
OPAQUE, IDENTICAL = "opaque", "identical copy-up"
_CHUNK_BYTES = 1 << 18
_SECOND_NS = 1_000_000_000


def changed_parts(entry: StackEntry, old: Version, new: Version) -> list[str]:
    """What makes the upper of two versions another file than the lower one; IDENTICAL when nothing does.

    Files of the same length are compared byte by byte. Raises: OSError
    """
    before, after = old.status, new.status
    if stat.S_IFMT(before.st_mode) != stat.S_IFMT(after.st_mode):
        return [TYPE]
    parts = status_parts(before, after)
    if stat.S_ISLNK(after.st_mode) and entry.read_link(old) != entry.read_link(new):
        parts.insert(0, TARGET)
    if stat.S_ISREG(after.st_mode) and (before.st_size != after.st_size or not _same_bytes(entry, old, new)):
        parts.insert(0, DATA)
    if plain_xattrs(entry.xattrs(old)) != plain_xattrs(entry.xattrs(new)):
        parts.append(XATTR)
    if new.is_opaque:
        parts.append(OPAQUE)
    return parts or [IDENTICAL]


def status_parts(before: os.stat_result, after: os.stat_result) -> list[str]:
    """The parts that lstat(2) alone tells, for two files of one type, their sizes left out."""
    parts = []
    if stat.S_IMODE(before.st_mode) != stat.S_IMODE(after.st_mode):
        parts.append(MODE)
    if (before.st_uid, before.st_gid) != (after.st_uid, after.st_gid):
        parts.append(OWNER)
    if before.st_rdev != after.st_rdev and not stat.S_ISDIR(after.st_mode):
        parts.append(DEVICE)
    if not is_same_time(before.st_mtime_ns, after.st_mtime_ns):
        parts.append(MTIME)
    return parts


def is_same_time(one_ns: int, other_ns: int) -> bool:
    """Whether two times are one; of a layer that came as a tar only whole seconds may be known."""
    if one_ns % _SECOND_NS and other_ns % _SECOND_NS:
        return one_ns == other_ns
    return one_ns // _SECOND_NS == other_ns // _SECOND_NS


def plain_xattrs(xattrs: dict[str, bytes]) -> dict[str, bytes]:
    """Without overlayfs' own, which belong to the mount and not to the file."""
    return {name: value for name, value in xattrs.items() if not is_overlay_xattr(os.fsencode(name))}


def _same_bytes(entry: StackEntry, old: Version, new: Version) -> bool:
    one = entry.open(old)
    try:
        other = entry.open(new)
        try:
            return have_same_bytes(one, other)
        finally:
            os.close(other)
    finally:
        os.close(one)


def have_same_bytes(one: int, other: int) -> bool:
    """Whether two open files hold the same; raises OSError."""
    while True:
        left, right = os.read(one, _CHUNK_BYTES), os.read(other, _CHUNK_BYTES)
        if left != right:
            return False
        if not left:
            return True
