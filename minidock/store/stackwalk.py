"""The walk of several layers at once: every path with what each layer holds there, and what hides what.

One directory is listed once a layer, whatever the number of questions: the walk of a merged tree, of a single layer,
of all versions of a path. Names come in raw byte order, a directory before its content. Memory is the listing of one
directory a level; descriptors are bounded too, and those of upper levels are opened again when the walk comes back.
Every name is looked up in an open descriptor of its directory and never through a symlink.

What hides a name, as overlayfs sees it: a whiteout, an opaque directory, or another kind of file above it, at the name
itself or at a directory on the way to it.
Source: kernel overlayfs.rst, "whiteouts and opaque directories"
"""

from __future__ import annotations

import errno
import os
import stat

from minidock.errors import StoreError, SyscallError
from minidock.formats.tarwriter import is_whiteout
from minidock.formats.whiteout import OPAQUE_XATTR
from minidock.linux.paths import open_in_root
from minidock.store.evidence import RESOLVE
from minidock.store.upper import allow_more_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol

    class Chooser(Protocol):
        """Which names a walk goes to. Shape: a mark stands for how far a path has matched; None for not at all"""

        def start(self) -> object:
            """The mark of the root."""

        def names(self, mark: object) -> list[bytes] | None:
            """The only names to look for below a directory with this mark, None for all."""

        def step(self, mark: object, name: bytes) -> object | None:
            """The mark of a name below a directory with this mark."""

        def is_wanted(self, mark: object) -> bool:
            """Whether a path with this mark is to be yielded, and not only walked through."""


WHITEOUT, OPAQUE, REPLACED = "whiteout", "opaque", "replaced"
_MAX_PATH_BYTES = 4096
_OPEN_DESCRIPTORS = 512
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: should a FIFO take the file's place between lstat and open, nothing hangs.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Cover:
    """Why a lower version is hidden. Shape: layer: who hides it, 0 the topmost; kind; path: where it does so"""

    __slots__ = ("kind", "layer", "path")

    def __init__(self, layer: int, kind: str, path: bytes) -> None:
        self.layer = layer
        self.kind = kind
        self.path = path


class Version:
    """What one layer holds at a path.

    Shape: layer: 0 the topmost; cover: the nearest one above that hides this version, None when nothing does
    """

    __slots__ = ("cover", "is_opaque", "layer", "status")

    def __init__(self, layer: int, status: os.stat_result, cover: Cover | None, is_opaque: bool) -> None:
        self.layer = layer
        self.status = status
        self.cover = cover
        self.is_opaque = is_opaque

    @property
    def is_whiteout(self) -> bool:
        """Whether this version is a deletion."""
        return is_whiteout(self.status)

    @property
    def is_directory(self) -> bool:
        """Whether this version is a directory."""
        return stat.S_ISDIR(self.status.st_mode)


class _Level:
    """One directory of the walk in all the layers that have it, topmost first."""

    __slots__ = ("covers", "fds", "layers", "mark", "names", "path")

    def __init__(self, path: bytes, layers: list[int], covers: list[Cover | None], mark: object) -> None:
        self.path = path
        self.layers = layers
        self.covers = covers
        self.mark = mark
        self.fds = [-1] * len(layers)
        # For each layer its names still to visit, last one first.
        self.names: list[list[bytes]] = []


class StackEntry:
    """One path, valid until the walk goes on. Shape: path: relative, as bytes; versions: topmost layer first"""

    __slots__ = ("_level", "_walk", "base", "mark", "path", "versions")

    def __init__(self, walk: StackWalk, level: _Level, base: bytes, versions: list[Version], mark: object) -> None:
        self._walk = walk
        self._level = level
        self.base = base
        self.path = level.path + base
        self.versions = versions
        self.mark = mark

    @property
    def top(self) -> Version | None:
        """What the merged tree shows here, None for nothing."""
        first = self.versions[0]
        return None if first.cover is not None or first.is_whiteout else first

    def parent(self, version: Version) -> int:
        """The open directory that holds a version; raises OSError."""
        return self._walk.handle(self._level, self._level.layers.index(version.layer))

    def read_link(self, version: Version) -> bytes:
        """A symlink's target; raises OSError."""
        return os.readlink(self.base, dir_fd=self.parent(version))

    def open(self, version: Version) -> int:
        """Open a version's regular file; raises OSError, also when another kind of file stands there by now."""
        handle = os.open(self.base, _FILE_FLAGS | self._walk.flags, dir_fd=self.parent(version))
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(self.path))
        return handle

    def xattrs(self, version: Version) -> dict[str, bytes]:
        """A version's extended attributes, those of overlayfs included; empty where the file system has none."""
        place = b"/proc/self/fd/%d/%b" % (self.parent(version), self.base)
        try:
            names = os.listxattr(place, follow_symlinks=False)
            return {name: os.getxattr(place, name, follow_symlinks=False) for name in names}
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.ENODATA, errno.ENOENT):
                return {}
            raise


class StackWalk:
    """Iterates over the entries of a stack of layers.

    Shape:  roots: each layer's content, opened, topmost first, -1 for one that is missing; they stay the caller's;
            flags: what every open needs besides (O_NOATIME); chooser: which paths; hidden_too False leaves out what
            the merged tree does not show
    Raises: SyscallError; StoreError for a path longer than the kernel's limit
    """

    def __init__(
        self, roots: list[int], *, flags: int = 0, chooser: Chooser | None = None, hidden_too: bool = True
    ) -> None:
        self.flags = flags
        self._roots = roots
        self._chooser = chooser
        self._hidden_too = hidden_too
        self._levels: list[_Level] = []
        self._open_count = 0
        self._next: _Level | None = None
        allow_more_descriptors()

    def skip(self) -> None:
        """Do not go into the directory that was yielded last."""
        self._next = None

    def participants(self) -> list[int]:
        """The layers whose directories merge in the directory that was yielded last."""
        return self._next.layers if self._next is not None else []

    def __iter__(self) -> Iterator[StackEntry]:
        layers = [layer for layer, root in enumerate(self._roots) if root >= 0]
        mark = self._chooser.start() if self._chooser else None
        self._levels = [_Level(b"", layers, [None] * len(layers), mark)]
        self._list(self._levels[0])
        try:
            while self._levels:
                level = self._levels[-1]
                base, holders = _take_name(level.names)
                if not holders:
                    self._close(self._levels.pop())
                    continue
                entry = self._look(level, base, holders)
                if entry is None:
                    continue
                if self._chooser is None or self._chooser.is_wanted(entry.mark):
                    yield entry
                if self._next is not None:
                    self._descend(self._next)
        except OSError as error:
            if isinstance(error, SyscallError):
                raise
            raise SyscallError(f"read {error.filename!r}", error.errno or errno.EIO) from None
        finally:
            for level in self._levels:
                self._close(level)
            self._levels = []

    def _look(self, level: _Level, base: bytes, holders: list[int]) -> StackEntry | None:
        """What the layers hold at one name, and in self._next the directory to go to afterwards."""
        self._next = None
        mark = self._chooser.step(level.mark, base) if self._chooser else None
        if self._chooser and mark is None:
            return None
        path = level.path + base
        versions: list[Version] = []
        inner: list[tuple[int, Cover | None]] = []
        own: Cover | None = None
        merging = -1
        for place in holders:
            layer = level.layers[place]
            try:
                status = os.stat(base, dir_fd=self.handle(level, place), follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue
            cover = _nearest(own, level.covers[place])
            is_directory = stat.S_ISDIR(status.st_mode)
            if cover is None and merging >= 0 and not is_directory and not is_whiteout(status):
                cover = Cover(merging, REPLACED, path)
            is_opaque = is_directory and self._is_opaque(level, place, base)
            if cover is not None and not self._hidden_too:
                break
            versions.append(Version(layer, status, cover, is_opaque))
            if is_directory:
                inner.append((layer, cover))
                merging = layer
                if is_opaque:
                    own = Cover(layer, OPAQUE, path)
            else:
                own = Cover(layer, WHITEOUT if is_whiteout(status) else REPLACED, path)
        if not versions or (not self._hidden_too and versions[0].is_whiteout):
            return None
        if inner:
            names = [layer for layer, _ in inner]
            self._next = _Level(path + b"/", names, [cover for _, cover in inner], mark)
        return StackEntry(self, level, base, versions, mark)

    def _is_opaque(self, level: _Level, place: int, base: bytes) -> bool:
        try:
            where = b"/proc/self/fd/%d/%b" % (self.handle(level, place), base)
            return os.getxattr(where, OPAQUE_XATTR, follow_symlinks=False) == b"y"
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.ENOTSUP, errno.ENOENT):
                return False
            raise

    def handle(self, level: _Level, place: int) -> int:
        """The open directory of a level in one of its layers, opened again if need be; raises OSError."""
        if level.fds[place] < 0:
            root = self._roots[level.layers[place]]
            path = level.path[:-1] or b"."
            flags = _DIRECTORY_FLAGS | self.flags
            level.fds[place] = open_in_root(root, path, flags, resolve=RESOLVE)
            self._open_count += 1
        return level.fds[place]

    def _descend(self, level: _Level) -> None:
        if len(level.path) >= _MAX_PATH_BYTES:
            raise StoreError(f"path of more than {_MAX_PATH_BYTES} bytes: {os.fsdecode(level.path[:80])!r}...")
        above = self._levels[-1]
        flags = _DIRECTORY_FLAGS | self.flags
        base = level.path[len(above.path) : -1]
        for place, layer in enumerate(level.layers):
            parent = self.handle(above, above.layers.index(layer))
            try:
                level.fds[place] = os.open(base, flags, dir_fd=parent)
            except (FileNotFoundError, NotADirectoryError):
                continue
            self._open_count += 1
        if self._open_count > _OPEN_DESCRIPTORS:
            for other in self._levels:
                self._close(other)
        self._levels.append(level)
        self._list(level)

    def _list(self, level: _Level) -> None:
        chosen = self._chooser.names(level.mark) if self._chooser else None
        if chosen is not None:
            chosen.sort(reverse=True)
            level.names = [list(chosen) for _ in level.layers]
        elif self._chooser is not None:
            level.names = self._choose(level, self._chooser)
        else:
            level.names = [self._all_names(level, place) for place in range(len(level.layers))]
        for names in level.names:
            names.sort(reverse=True)

    def _place(self, level: _Level, place: int) -> Any:
        """What lists a directory: by a path its names come as bytes; but a path opens it anew, without O_NOATIME."""
        handle = self.handle(level, place)
        return handle if self.flags & os.O_NOATIME else b"/proc/self/fd/%d" % handle

    def _all_names(self, level: _Level, place: int) -> list[bytes]:
        try:
            names = os.listdir(self._place(level, place))
        except FileNotFoundError:
            return []
        return names if names and isinstance(names[0], bytes) else list(map(os.fsencode, names))

    def _entries(self, level: _Level, place: int) -> Iterator[os.DirEntry[Any]]:
        try:
            with os.scandir(self._place(level, place)) as entries:
                yield from entries
        except FileNotFoundError:
            return

    def _choose(self, level: _Level, chooser: Chooser) -> list[list[bytes]]:
        """The names that matter, told by the listing alone: those wanted, and directories on the way to such."""
        step, is_wanted, mark = chooser.step, chooser.is_wanted, level.mark
        kept: list[list[bytes]] = []
        others: list[list[bytes]] = []
        ways: set[bytes] = set()
        for place in range(len(level.layers)):
            names: list[bytes] = []
            files: list[bytes] = []
            for entry in self._entries(level, place):
                name = entry.name if isinstance(entry.name, bytes) else os.fsencode(entry.name)
                below = step(mark, name)
                if below is None:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    ways.add(name)
                    names.append(name)
                elif is_wanted(below):
                    names.append(name)
                elif len(level.layers) > 1:
                    files.append(name)
            kept.append(names)
            others.append(files)
        # A file that nobody asks for still hides what another layer has in a directory of its name.
        for names, files in zip(kept, others, strict=True):
            names += ways.intersection(files)
        return kept

    def _close(self, level: _Level) -> None:
        for place, handle in enumerate(level.fds):
            if handle >= 0:
                os.close(handle)
                level.fds[place] = -1
                self._open_count -= 1


def _take_name(lists: list[list[bytes]]) -> tuple[bytes, list[int]]:
    """The lowest of the layers' last names, taken off, and the places of the layers that had it."""
    if len(lists) == 1:
        return (lists[0].pop(), [0]) if lists[0] else (b"", [])
    heads = [names[-1] for names in lists if names]
    if not heads:
        return b"", []
    lowest = min(heads)
    holders = []
    for place, names in enumerate(lists):
        if names and names[-1] == lowest:
            names.pop()
            holders.append(place)
    return lowest, holders


def _nearest(own: Cover | None, inherited: Cover | None) -> Cover | None:
    """Of two covers the one that lies closer above; the higher directory's where one layer has both."""
    if own is None or inherited is None:
        return own or inherited
    return own if own.layer > inherited.layer else inherited
