"""The init layer: the files, directories and links that must be there before a container's mounts.

The engine mounts the image with an empty directory on top, removes whatever is no directory on the way to
twelve paths, and makes what is missing. Only the end state counts, so nothing is mounted here: what the
merged view would show at those paths is found by asking the layers one by one with descriptors that follow
no link, and the fresh directory, in which there is nothing to follow, is filled accordingly.
Source: moby daemon/initlayer/setup_unix.go; shared format notes §4
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.trace import Trace

# What the engine makes: path below one directory -> kind. Order as listed, parents before children.
_TOP = ((".dockerenv", "file"), ("proc", "directory"), ("sys", "directory"))
_BELOW = (
    ("dev", (("pts", "directory"), ("shm", "directory"), ("console", "file"))),
    ("etc", (("resolv.conf", "file"), ("hosts", "file"), ("hostname", "file"), ("mtab", "link"))),
)

_DIRECTORY, _LINK, _DEVICE, _TYPE = 0o040000, 0o120000, 0o020000, 0o170000
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE = "trusted.overlay.opaque"
_WORDS = {0o040000: "directory", 0o120000: "symlink", 0o020000: "device", 0o060000: "device"}


class _Merged:
    """What the merged view of some directories, topmost first, shows at one name."""

    __slots__ = ("directories", "kind", "status")

    def __init__(self, parents: Sequence[int], name: str) -> None:
        self.kind = "absent"
        self.status: os.stat_result | None = None
        self.directories: list[int] = []
        for parent in parents:
            try:
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                continue
            kind = status.st_mode & _TYPE
            if kind != _DIRECTORY:
                if not self.directories and not (kind == _DEVICE and status.st_rdev == 0):
                    self.kind, self.status = _WORDS.get(kind, "file"), status
                return
            if not self.directories:
                self.kind, self.status = "directory", status
            handle = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
            self.directories.append(handle)
            if _is_opaque(handle):
                return

    def close(self) -> None:
        while self.directories:
            os.close(self.directories.pop())


def _is_opaque(handle: int) -> bool:
    try:
        return os.getxattr(handle, _OPAQUE) == b"y"
    except OSError:
        return False


def _copy_up(target: int, name: str, source: int, status: os.stat_result) -> int:
    """Make a directory as overlayfs copies one up: same owner, mode and extended attributes."""
    os.mkdir(name, 0o700, dir_fd=target)
    handle = os.open(name, _OPEN_DIRECTORY, dir_fd=target)
    os.fchown(handle, status.st_uid, status.st_gid)
    for attribute in os.listxattr(source):
        if not attribute.startswith("trusted.overlay."):
            os.setxattr(handle, attribute, os.getxattr(source, attribute))
    os.fchmod(handle, status.st_mode & 0o7777)
    return handle


class _Filler:
    """The init layer's diff directory and what happened while filling it."""

    def __init__(self, trace: Trace | None, diff_path: str) -> None:
        self.trace = trace
        self.diff_path = diff_path
        self.warnings: list[str] = []

    def make(self, parent: int, where: str, name: str, kind: str, seen: str) -> None:
        """Make one entry, unless the image has a directory at its place.

        Shape: seen: what the merged view shows there
        """
        if seen == "directory":
            return
        if self.trace:
            self.trace("link" if kind == "link" else "write", f"{self.diff_path}/{where}{name}")
        if kind == "directory":
            if seen != "absent":
                self.warnings.append(
                    f"the image has a {seen} at /{where}{name}; the container gets an empty directory, as docker's"
                )
            self.directory(parent, name, opaque=seen != "absent")
        elif kind == "link":
            os.symlink("/proc/mounts", name, dir_fd=parent)
        else:
            handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755, dir_fd=parent)
            os.close(handle)

    def directory(self, parent: int, name: str, *, opaque: bool) -> None:
        """Make a directory; over something that was removed the kernel makes it opaque."""
        os.mkdir(name, 0o755, dir_fd=parent)
        if not opaque:
            return
        handle = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
        try:
            os.setxattr(handle, _OPAQUE, b"y")
        finally:
            os.close(handle)

    def fill_below(self, top: int, lowers: Sequence[int], name: str, entries: Sequence[tuple[str, str]]) -> None:
        """Make the entries of /dev or /etc, and that directory itself where need be."""
        merged = _Merged(lowers, name)
        parent = -1
        try:
            if merged.kind != "directory":
                if merged.kind != "absent":
                    self.warnings.append(
                        f"the image has a {merged.kind} at /{name}; the container gets an empty directory there, "
                        "as docker's, and does not see what it pointed to"
                    )
                self.directory(top, name, opaque=merged.kind != "absent")
                parent = os.open(name, _OPEN_DIRECTORY, dir_fd=top)
            for entry, kind in entries:
                found = _Merged(merged.directories, entry)
                found.close()
                if found.kind == "directory":
                    continue
                if parent < 0 and merged.status is not None:
                    parent = _copy_up(top, name, merged.directories[0], merged.status)
                self.make(parent, name + "/", entry, kind, found.kind)
        finally:
            merged.close()
            if parent >= 0:
                os.close(parent)


def fill_init_layer(
    overlay_path: str, lowers: Sequence[str], diff_path: str, *, trace: Trace | None = None
) -> list[str]:
    """Fill a container's init layer.

    Shape:   overlay_path is ROOT/overlay2; lowers as in the init layer's `lower` file, topmost first, `l/XXX`;
             diff_path is the init layer's diff directory, empty
    Returns: warnings, one line each, about things of the image that the container will not see
    Raises:  OSError; whoever made the diff directory removes it
    """
    umask = os.umask(0)
    opened: list[int] = []
    try:
        for lower in lowers:
            opened.append(os.open(f"{overlay_path}/{lower}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        top = os.open(diff_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.append(top)
        layers = opened[:-1]
        filler = _Filler(trace, diff_path)
        for name, kind in _TOP:
            merged = _Merged(layers, name)
            merged.close()
            filler.make(top, "", name, kind, merged.kind)
        for name, entries in _BELOW:
            filler.fill_below(top, layers, name, entries)
        return filler.warnings
    finally:
        os.umask(umask)
        for handle in opened:
            os.close(handle)
