"""docker diff: what a container added, changed and deleted."""

from __future__ import annotations

import os
import stat

from minidock.errors import PartialUpper, SyscallError
from minidock.formats.tarwriter import is_whiteout
from minidock.formats.whiteout import OPAQUE_XATTR
from minidock.store.upper import CAPABILITY_XATTR, allow_more_descriptors, check_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.containers import Container
    from minidock.store.root import DataRoot

_SECOND_NS = 1_000_000_000
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
    """What the container changed; its init layer counts as part of what was there.

    Docker mounts both states and compares two whole trees. The same comes of the upper directory alone, looked up
    in the layers below as overlayfs would; and where docker's order is that of a Go map, this one is sorted. Only an
    upper directory that does not tell all, as one left behind by redirect_dir=on, takes the long way here, too.

    Raises: NoSuchContainer, StoreCorrupt, SyscallError
    Source: moby pkg/archive/changes.go, FileInfo.addChanges and statDifferent
    """
    source = root.containers.get(container)
    below: list[int] = []
    upper = -1
    allow_more_descriptors()
    try:
        for name in source.sound_layer().lowers:
            below.append(os.open(f"{root.overlay_path}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        upper = os.open(root.layers.diff_path(source.layer.mount_id), _DIRECTORY_FLAGS)
        return _inside(upper, below, "", is_opaque=False)
    except PartialUpper:
        pass
    except SyscallError:
        raise
    except OSError as error:
        raise SyscallError(f"diff: {error.filename!r}", error.errno or 0) from None
    finally:
        for handle in (*below, upper):
            if handle >= 0:
                os.close(handle)
    merged, before = open_both(root, source)
    try:
        return tree_changes(merged, before)
    finally:
        os.close(merged)
        os.close(before)


def open_both(root: DataRoot, source: Container) -> tuple[int, int]:
    """The whole tree of a container, and the one of the layers below it: descriptors, both the caller's to close.

    Shape:  the container may run, and then stands still
    Raises: StoreCorrupt, SyscallError
    """
    from minidock.runtime.merged import open_layers
    from minidock.store.overlay2 import check_rw, read_link

    layer = source.sound_layer()
    check_rw(root, layer)
    own = f"l/{read_link(root.overlay_path, layer.mount_id)}"
    merged = open_layers(root.overlay_path, [own, *layer.lowers], marks="metacopy", trace=root.trace)
    try:
        if len(layer.lowers) == 1:
            return merged, os.open(f"{root.overlay_path}/{layer.lowers[0]}", _DIRECTORY_FLAGS & ~os.O_NOFOLLOW)
        return merged, open_layers(root.overlay_path, layer.lowers, trace=root.trace)
    except BaseException:
        os.close(merged)
        raise


def tree_changes(merged: int, before: int) -> list[Change]:
    """What differs between two whole trees, a directory before its content.

    Raises: SyscallError
    Source: moby daemon/graphdriver/fsdiff.go, NaiveDiffDriver
    """
    try:
        return _inside(merged, [before], "", is_opaque=True, is_whole=True)
    except OSError as error:
        if isinstance(error, SyscallError):
            raise
        raise SyscallError(f"diff: {error.filename!r}", error.errno or 0) from None


class _Old:
    """What stood at a name before: its status, and the directories that overlayfs merges there, topmost first."""

    __slots__ = ("status", "parent", "below")

    def __init__(self) -> None:
        self.status: os.stat_result | None = None
        self.parent = -1
        self.below: list[int] = []

    def close(self) -> None:
        """Close the merged directories."""
        for handle in self.below:
            os.close(handle)


def _look_below(below: list[int], name: str) -> _Old:
    """Look a name up in a merged directory. Source: kernel overlayfs.rst, "Merged directories", "Whiteouts" """
    old = _Old()
    for lower in below:
        try:
            status = os.stat(name, dir_fd=lower, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if is_whiteout(status):
            break
        is_directory = stat.S_ISDIR(status.st_mode)
        if old.status is None:
            old.status, old.parent = status, lower
        elif not is_directory:
            break
        if not is_directory:
            break
        old.below.append(os.open(name, _DIRECTORY_FLAGS, dir_fd=lower))
        if _is_opaque(old.below[-1]):
            break
    return old


def _is_opaque(handle: int) -> bool:
    return OPAQUE_XATTR in os.listxattr(handle) and os.getxattr(handle, OPAQUE_XATTR) == b"y"


def _names_below(below: list[int]) -> set[str]:
    """The names of a merged directory."""
    names: set[str] = set()
    hidden: set[str] = set()
    for lower in below:
        for name in os.listdir(lower):
            if name in names or name in hidden:
                continue
            if is_whiteout(os.stat(name, dir_fd=lower, follow_symlinks=False)):
                hidden.add(name)
            else:
                names.add(name)
    return names


def _inside(upper: int, below: list[int], path: str, *, is_opaque: bool, is_whole: bool = False) -> list[Change]:
    """The changes of what is in one directory of the upper, or of a tree that is whole: what it lacks has gone."""
    names = set(os.listdir(upper))
    if is_opaque:
        names |= _names_below(below)
    changes: list[Change] = []
    for name in sorted(names, key=os.fsencode):
        old = _look_below(below, name)
        try:
            changes += _change(upper, name, old, f"{path}/{name}", is_whole)
        finally:
            old.close()
    return changes


def _change(upper: int, name: str, old: _Old, path: str, is_whole: bool) -> list[Change]:
    try:
        status = os.stat(name, dir_fd=upper, follow_symlinks=False)
    except FileNotFoundError:
        status = None
    if status is None or is_whiteout(status):
        return [Change("D", path)] if old.status else []
    own: list[Change] = []
    if old.status is None:
        own = [Change("A", path)]
    elif _differs(old.status, status) or _capability(old.parent, name) != _capability(upper, name):
        own = [Change("C", path)]
    if not stat.S_ISDIR(status.st_mode):
        return own
    handle = os.open(name, _DIRECTORY_FLAGS, dir_fd=upper)
    try:
        if not is_whole:
            check_whole(os.fsencode(path[1:]), os.listxattr(handle))
        inner = _inside(handle, old.below, path, is_opaque=is_whole or _is_opaque(handle), is_whole=is_whole)
    finally:
        os.close(handle)
    # A directory that looks untouched is still told, once something in it came, changed or went.
    return (own or [Change("C", path)]) + inner if inner else own


def _differs(old: os.stat_result, new: os.stat_result) -> bool:
    if (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev):
        return True
    if stat.S_ISDIR(new.st_mode):
        return False
    return old.st_size != new.st_size or not _is_same_time(old.st_mtime_ns, new.st_mtime_ns)


def _is_same_time(ours_ns: int, below_ns: int) -> bool:
    # A layer that came as a tar may have whole seconds only.
    if ours_ns % _SECOND_NS and below_ns % _SECOND_NS:
        return ours_ns == below_ns
    return ours_ns // _SECOND_NS == below_ns // _SECOND_NS


def _capability(parent: int, name: str) -> bytes:
    place = f"/proc/self/fd/{parent}/{name}"
    if CAPABILITY_XATTR not in os.listxattr(place, follow_symlinks=False):
        return b""
    return os.getxattr(place, CAPABILITY_XATTR, follow_symlinks=False)
