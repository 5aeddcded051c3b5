"""The walk of an upper directory, in the order in which Docker's engine walks it.

An upper directory is what a container changed, so it is enemy ground: it may be deep, may hold FIFOs and
sockets, and a container that is not paused changes it under our hands. Every name is looked up in an open
descriptor of its directory and never through a symlink.

Source: moby pkg/archive, TarWithOptions; Go filepath.Walk; kernel Documentation/filesystems/overlayfs.rst
"""

from __future__ import annotations

import os
import stat

from minidock.errors import PartialUpper, StoreError, SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CAPABILITY_XATTR = "security.capability"
# What a mount without redirect_dir=off,metacopy=off leaves behind; the upper alone then tells half the truth.
_PARTIAL_XATTRS = ("trusted.overlay.redirect", "trusted.overlay.metacopy")

_MAX_PATH_BYTES = 4096
_DEPTH_WITHOUT_MORE_DESCRIPTORS = 200
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: should a FIFO take the file's place between lstat and open, nothing hangs.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class UpperEntry:
    """One name below an upper directory.

    Shape: path relative to the upper, as bytes; depth 0 for the root's own entries; parent_fd the open directory
           that holds base, valid until the walk goes on
    """

    __slots__ = ("path", "base", "status", "depth", "parent_fd", "handle")

    def __init__(
        self, path: bytes, base: bytes, status: os.stat_result, depth: int, parent_fd: int, handle: int
    ) -> None:
        self.path = path
        self.base = base
        self.status = status
        self.depth = depth
        self.parent_fd = parent_fd
        # The open directory itself, or a regular file after open_file, or -1.
        self.handle = handle

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.status.st_mode)

    def xattrs(self) -> list[str]:
        """The names of the file's own extended attributes; empty where the file system has none."""
        try:
            if self.handle >= 0:
                return os.listxattr(self.handle)
            return os.listxattr(b"/proc/self/fd/%d/%b" % (self.parent_fd, self.base), follow_symlinks=False)
        except OSError as error:
            return _no_xattrs(error, self.path)

    def xattr(self, name: str) -> bytes:
        """The value of one extended attribute."""
        if self.handle >= 0:
            return os.getxattr(self.handle, name)
        return os.getxattr(b"/proc/self/fd/%d/%b" % (self.parent_fd, self.base), name, follow_symlinks=False)

    def open_file(self) -> None:
        """Open the regular file that lstat(2) saw; its status is then the open file's.

        Raises: StoreError if another file stands there by now
        """
        self.handle = os.open(self.base, _FILE_FLAGS, dir_fd=self.parent_fd)
        now = os.fstat(self.handle)
        if now.st_ino != self.status.st_ino or now.st_dev != self.status.st_dev or not stat.S_ISREG(now.st_mode):
            self.close_file()
            raise _changed(self.path)
        self.status = now

    def close_file(self) -> None:
        """Close what open_file opened; a directory stays the walk's."""
        if self.handle >= 0 and not self.is_directory:
            os.close(self.handle)
            self.handle = -1


def _changed(path: bytes) -> StoreError:
    return StoreError(f"{os.fsdecode(path)!r} changed while it was read", hint="commit with --pause")


def _no_xattrs(error: OSError, path: bytes) -> list[str]:
    import errno

    if error.errno in (errno.ENOTSUP, errno.ENODATA):
        return []
    raise SyscallError(f"listxattr({os.fsdecode(path)!r})", error.errno or 0) from error


def check_whole(path: bytes, xattrs: list[str]) -> None:
    """Refuse an entry whose upper file is a mere pointer into a lower layer.

    Raises: PartialUpper
    Source: overlayfs.rst, "Redirecting directories" and "Metadata only copy up"
    """
    for name in _PARTIAL_XATTRS:
        if name in xattrs:
            raise PartialUpper(
                f"{os.fsdecode(path)!r} carries {name}: the container was mounted with redirect_dir or metacopy",
                hint="its upper directory is no whole difference; copy the file inside the container and remove it",
            )


def marks_in(upper_path: str) -> str:
    """What has to be on for a mount to show all that an upper directory says, which no container may change meanwhile.

    Shape:   upper_path: the directory's own, known to be one
    Returns: `metacopy`, which takes redirect_dir along, `redirect` or nothing
    Raises:  SyscallError, StoreError
    """
    found = ""
    handle = os.open(upper_path, _DIRECTORY_FLAGS)
    try:
        for entry in walk_upper(handle):
            xattrs = entry.xattrs()
            if _PARTIAL_XATTRS[1] in xattrs:
                return "metacopy"
            if _PARTIAL_XATTRS[0] in xattrs:
                found = "redirect"
    except OSError as error:
        if isinstance(error, SyscallError):
            raise
        raise SyscallError(f"look for overlay marks: {error.filename!r}", error.errno or 5) from None
    finally:
        os.close(handle)
    return found


def allow_more_descriptors() -> None:
    """Raise this process's limit of open files towards what the system allows it; deep trees need one a level."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(hard, 8192)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _list(directory_fd: int, opening: bool) -> tuple[list[bytes], set[bytes]]:
    """A directory's names, and which of them are regular files' where that is wanted.

    The listing itself tells it on most file systems. Names come backwards, so that pop() gives them in the order of
    raw bytes.
    """
    if not opening:
        return sorted(map(os.fsencode, os.listdir(directory_fd)), reverse=True), set()
    names: list[bytes] = []
    files: set[bytes] = set()
    with os.scandir(directory_fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            names.append(name)
            if entry.is_file(follow_symlinks=False):
                files.add(name)
    names.sort(reverse=True)
    return names, files


def walk_upper(upper_fd: int, *, skip_vanished: bool = False, opening: bool = False) -> Iterator[UpperEntry]:
    """Every entry below upper_fd, a directory before its content, names of one directory in raw byte order.

    Shape:   skip_vanished: a name that was listed and is gone by now is left out, instead of being an error; opening,
             which goes without that: regular files come open, with the open file's status, and the walk closes them
    Returns: entries that are valid until the next is asked for
    Raises:  SyscallError; StoreError for a path longer than the kernel's limit, which no engine could unpack, and for
             a file that another took the place of
    """
    # One level of the walk: the directory's descriptor, its path with a trailing slash, its names still to visit.
    levels: list[tuple[int, bytes, list[bytes], set[bytes]]] = [(upper_fd, b"", *_list(upper_fd, opening))]
    try:
        while levels:
            parent_fd, prefix, names, files = levels[-1]
            if not names:
                levels.pop()
                if levels:
                    os.close(parent_fd)
                continue
            base = names.pop()
            path = prefix + base
            if len(path) >= _MAX_PATH_BYTES:
                raise StoreError(f"path of more than {_MAX_PATH_BYTES} bytes: {os.fsdecode(path[:80])!r}...")
            depth = len(levels) - 1
            if base in files:
                handle = os.open(base, _FILE_FLAGS, dir_fd=parent_fd)
                try:
                    status = os.fstat(handle)
                    if not stat.S_ISREG(status.st_mode):
                        raise _changed(path)
                    yield UpperEntry(path, base, status, depth, parent_fd, handle)
                finally:
                    os.close(handle)
                continue
            try:
                status = os.stat(base, dir_fd=parent_fd, follow_symlinks=False)
            except FileNotFoundError:
                if skip_vanished:
                    continue
                raise
            if not stat.S_ISDIR(status.st_mode):
                yield UpperEntry(path, base, status, depth, parent_fd, -1)
                continue
            if depth == _DEPTH_WITHOUT_MORE_DESCRIPTORS:
                allow_more_descriptors()
            try:
                handle = os.open(base, _DIRECTORY_FLAGS, dir_fd=parent_fd)
            except (FileNotFoundError, NotADirectoryError):
                if skip_vanished:
                    continue
                raise
            levels.append((handle, path + b"/", [], set()))
            yield UpperEntry(path, base, status, depth, parent_fd, handle)
            levels[-1] = (handle, path + b"/", *_list(handle, opening))
    finally:
        for handle, *_ in levels[1:]:
            os.close(handle)
