"""Files made below one directory, entry by entry, each parent held open and no symlink followed by a name.

What stands in the way goes, as with docker cp: a file gives way to a file, but a directory never to a file nor a file
to a directory. Times of directories are set at the end.

Source: moby pkg/archive, Unpack with NoOverwriteDirNonDir
"""

from __future__ import annotations

import errno
import os
import stat

from minidock.errors import Conflict, SyscallError, UnsafePath
from minidock.store.treecopy import copy_content

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Attributes:
    """What an entry gets besides its content. Shape: mode with the file type's bits; capability: the xattr's bytes"""

    __slots__ = ("capability", "device", "gid", "mode", "mtime_ns", "size_bytes", "uid")

    def __init__(
        self,
        mode: int,
        uid: int,
        gid: int,
        mtime_ns: int,
        device: int = 0,
        *,
        size_bytes: int = 0,
        capability: bytes = b"",
    ) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime_ns = mtime_ns
        self.device = device
        self.size_bytes = size_bytes
        self.capability = capability


class TreeWriter:
    """Makes entries below an open directory.

    Shape: open_below: how a directory is opened that is reached through symlinks, e.g. in a container's root; without
           it such a path is refused; keeps_owner: whether entries get the owners that they come with
    """

    __slots__ = ("_folders", "_keeps_owner", "_open_below", "_parent", "_parent_fd", "_top_fd")

    def __init__(
        self, top_fd: int, *, keeps_owner: bool = True, open_below: Callable[[bytes], int] | None = None
    ) -> None:
        self._top_fd = top_fd
        self._keeps_owner = keeps_owner
        self._open_below = open_below
        self._parent = b""
        self._parent_fd = -1
        self._folders: dict[bytes, int] = {}

    def put(
        self,
        path: bytes,
        attributes: Attributes,
        *,
        target: bytes = b"",
        first_link: bytes = b"",
        source_fd: int = -1,
        content: Callable[[int], object] | None = None,
    ) -> None:
        """Make one entry.

        Shape:  source_fd has a regular file's bytes, or content writes them to the descriptor that it is given
        Raises: UnsafePath, Conflict, SyscallError
        """
        if source_fd >= 0:
            content = _copier(source_fd)
        folder, _, name = path.rpartition(b"/")
        if name in (b"", b".", b".."):
            raise UnsafePath(f"no name for a file: {os.fsdecode(path)!r}")
        try:
            parent = self._open_parent(folder)
            self._put(parent, name, path, attributes, target, first_link, content)
        except SyscallError:
            raise
        except OSError as error:
            raise SyscallError(f"write {os.fsdecode(path)!r}", error.errno or 5) from None

    def close(self) -> None:
        """Set the times of the directories, now that nothing more is made in them; raises SyscallError."""
        self._let_go()
        for path, mtime_ns in self._folders.items():
            try:
                handle = self._walk(path)
                os.utime(handle, ns=(mtime_ns, mtime_ns))
                os.close(handle)
            except SyscallError:
                raise
            except OSError as error:
                raise SyscallError(f"write {os.fsdecode(path)!r}", error.errno or 5) from None
        self._folders.clear()

    def abandon(self) -> None:
        """Let go of what is open, after a failure."""
        self._let_go()

    def _let_go(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._parent_fd = -1

    def _open_parent(self, folder: bytes) -> int:
        if self._parent_fd < 0 or folder != self._parent:
            self._let_go()
            self._parent_fd = self._walk(folder)
            self._parent = folder
        return self._parent_fd

    def _walk(self, path: bytes) -> int:
        handle = os.dup(self._top_fd)
        for name in path.split(b"/") if path else ():
            try:
                if name in (b"", b".", b".."):
                    raise UnsafePath(f"a path that leaves its place: {os.fsdecode(path)!r}")
                try:
                    below = os.open(name, _DIRECTORY_FLAGS, dir_fd=handle)
                except FileNotFoundError:
                    os.mkdir(name, 0o755, dir_fd=handle)
                    below = os.open(name, _DIRECTORY_FLAGS, dir_fd=handle)
                except OSError as error:
                    if self._open_below is None or error.errno not in (errno.ELOOP, errno.ENOTDIR):
                        raise
                    return self._open_below(path)
            finally:
                os.close(handle)
            handle = below
        return handle

    def _put(
        self,
        parent: int,
        name: bytes,
        path: bytes,
        attributes: Attributes,
        target: bytes,
        first_link: bytes,
        content: Callable[[int], object] | None,
    ) -> None:
        kind = stat.S_IFMT(attributes.mode)
        exists = self._make_room(parent, name, path, is_directory=kind == stat.S_IFDIR)
        if first_link:
            self._link(first_link, name, parent)
            return
        if kind == stat.S_IFDIR:
            if not exists:
                os.mkdir(name, 0o700, dir_fd=parent)
            handle = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
            self._finish(handle, attributes)
            os.close(handle)
            self._folders[path] = attributes.mtime_ns
        elif kind == stat.S_IFREG:
            handle = os.open(name, _FILE_FLAGS, 0o600, dir_fd=parent)
            try:
                if content is not None:
                    content(handle)
                self._finish(handle, attributes)
            finally:
                os.close(handle)
        else:
            self._special(parent, name, attributes, target)

    def _make_room(self, parent: int, name: bytes, path: bytes, *, is_directory: bool) -> bool:
        """Take a file of this name away; whether a directory is there that is to be used."""
        try:
            found = stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False
        shown = os.fsdecode(path)
        if found and not is_directory:
            raise Conflict(f'cannot overwrite directory "{shown}" with non-directory')
        if is_directory and not found:
            raise Conflict(f'cannot overwrite non-directory "{shown}" with directory')
        if not found:
            os.unlink(name, dir_fd=parent)
        return found

    def _link(self, first_link: bytes, name: bytes, parent: int) -> None:
        folder, _, first = first_link.rpartition(b"/")
        handle = self._walk(folder)
        try:
            os.link(first, name, src_dir_fd=handle, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(handle)

    def _special(self, parent: int, name: bytes, attributes: Attributes, target: bytes) -> None:
        if stat.S_ISLNK(attributes.mode):
            os.symlink(target, name, dir_fd=parent)
            if self._keeps_owner:
                os.chown(name, attributes.uid, attributes.gid, dir_fd=parent, follow_symlinks=False)
            times = (attributes.mtime_ns, attributes.mtime_ns)
            os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
            return
        os.mknod(name, stat.S_IFMT(attributes.mode) | 0o600, attributes.device, dir_fd=parent)
        # By descriptor: a container that swaps the name now gets nothing of the host changed.
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        here = b"/proc/self/fd/%d" % handle
        try:
            if stat.S_IFMT(os.fstat(handle).st_mode) != stat.S_IFMT(attributes.mode):
                raise Conflict(f"{os.fsdecode(name)!r} was replaced while it was written")
            if self._keeps_owner:
                os.chown(here, attributes.uid, attributes.gid)
            os.chmod(here, stat.S_IMODE(attributes.mode))
            os.utime(here, ns=(attributes.mtime_ns, attributes.mtime_ns))
        finally:
            os.close(handle)

    def _finish(self, handle: int, attributes: Attributes) -> None:
        if self._keeps_owner:
            os.fchown(handle, attributes.uid, attributes.gid)
        os.fchmod(handle, stat.S_IMODE(attributes.mode))
        if attributes.capability and self._keeps_owner:
            # After the owner, whose change takes it away.
            os.setxattr(handle, "security.capability", attributes.capability)
        os.utime(handle, ns=(attributes.mtime_ns, attributes.mtime_ns))


def _copier(source_fd: int) -> Callable[[int], object]:
    return lambda out: copy_content(source_fd, out)
