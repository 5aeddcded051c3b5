"""File trees to be held against each other: the merged view of layers, and the tree that a tar would unpack to.

Both are walked in the same order (names as raw bytes, a directory before its content), one node at a time, and a walk
can be told not to go into the directory it has just given.
"""

from __future__ import annotations

import os
import stat

from minidock.store.filechange import plain_xattrs
from minidock.store.stackwalk import StackWalk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from minidock.store.layerstack import LayerStack
    from minidock.store.stackwalk import StackEntry, Version

    class Content(Protocol):
        """A regular file's bytes from its beginning."""

        def read(self, size: int) -> bytes:
            """Size bytes, fewer only at the end."""

        def close(self) -> None:
            """Let go of the file."""

    class Node(Protocol):
        """One name of a tree.

        Shape: path relative; mode with the type; identity: equal only for one and the same file in one layer, or, of
               directories, for trees that are made of the same layers from here on; None when that is unknown
        """

        path: bytes
        mode: int
        uid: int
        gid: int
        rdev: int
        size_bytes: int
        mtime_ns: int
        is_opaque: bool
        identity: object

        def target(self) -> bytes:
            """A symlink's target."""

        def xattrs(self) -> dict[str, bytes]:
            """The extended attributes, overlayfs' own left out."""

        def open(self) -> Content:
            """A regular file's bytes, readable also after the walk has gone on."""

    class Tree(Protocol):
        """A tree; a context manager."""

        def __enter__(self) -> Tree: ...

        def __exit__(self, *error: object) -> None: ...

        def walk(self) -> Iterator[Node]:
            """Every node below the root."""

        def skip(self) -> None:
            """Do not go into the directory that the walk gave last."""


class OpenFile:
    """An open descriptor as a Content."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int) -> bytes:
        """Size bytes, fewer only at the end; raises OSError."""
        data = os.read(self._fd, size)
        while 0 < len(data) < size and (more := os.read(self._fd, size - len(data))):
            data += more
        return data

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


class StackNode:
    """A node of merged layers; see Node."""

    __slots__ = (
        "_entry",
        "_tree",
        "_version",
        "gid",
        "identity",
        "is_opaque",
        "mode",
        "mtime_ns",
        "path",
        "rdev",
        "size_bytes",
        "uid",
    )

    def __init__(self, tree: StackTree, entry: StackEntry, version: Version, identity: object) -> None:
        self._tree = tree
        self._entry = entry
        self._version = version
        self.path = entry.path
        self.identity = identity
        self.is_opaque = version.is_opaque
        status = version.status
        self.mode = status.st_mode
        self.uid = status.st_uid
        self.gid = status.st_gid
        self.rdev = status.st_rdev
        self.size_bytes = status.st_size
        self.mtime_ns = status.st_mtime_ns

    def target(self) -> bytes:
        """A symlink's target; only before the walk goes on."""
        return self._entry.read_link(self._version)

    def xattrs(self) -> dict[str, bytes]:
        """The extended attributes; only before the walk goes on."""
        return plain_xattrs(self._entry.xattrs(self._version))

    def open(self) -> OpenFile:
        """The bytes; the file is looked up anew, beneath its layer."""
        return OpenFile(self._tree.open_file(self._version.layer, self.path))


class StackTree:
    """What a stack of layers shows, without its topmost `above` layers; see Tree."""

    def __init__(self, stack: LayerStack, *, above: int = 0) -> None:
        self._stack = stack
        self._above = above
        self._walk: StackWalk | None = None

    def __enter__(self) -> StackTree:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def walk(self) -> Iterator[StackNode]:
        """Every node below the root."""
        roots = self._stack.roots[self._above :]
        self._walk = walk = StackWalk(roots, flags=self._stack.catalogue.evidence.flags, hidden_too=False)
        names = [layer.cache_id for layer in self._stack.layers[self._above :]]
        for entry in walk:
            version = entry.versions[0]
            if version.is_directory:
                identity: object = tuple(names[layer] for layer in walk.participants())
            else:
                identity = (names[version.layer], version.status.st_ino)
            yield StackNode(self, entry, version, identity)

    def skip(self) -> None:
        """Do not go into the directory that the walk gave last."""
        if self._walk is not None:
            self._walk.skip()

    def open_file(self, layer: int, path: bytes) -> int:
        """A regular file of one layer; raises OSError."""
        from minidock.linux.paths import open_in_root
        from minidock.store.evidence import RESOLVE

        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | self._stack.catalogue.evidence.flags
        handle = open_in_root(self._stack.roots[self._above + layer], path, flags, resolve=RESOLVE)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(22, "not a regular file", os.fsdecode(path))
        return handle
