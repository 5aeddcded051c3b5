"""A data root that is only looked at: minidock's, dockerd's while it runs, or one copied from a dead disk.

Everything is read through a detached copy of the mount that the kernel keeps read-only and without access times, so
nothing can be written to the root by whatever is done with these descriptors, not even by reading a symlink. Where
the kernel or the rights do not allow such a copy, O_NOATIME keeps the times of files and directories (a symlink's
cannot be kept then). No lock is taken and no lock file made: the root may change under a reader's eyes, and what has
gone meanwhile is told as missing.

Every name is resolved beneath the root by the kernel, and no symlink of the root is ever followed.
Source: open_tree(2), mount_setattr(2), openat2(2), open(2) O_NOATIME
"""

from __future__ import annotations

import errno
import os
import stat

from minidock.constants import DEFAULT_ROOT, DRIVER
from minidock.errors import StoreError, SyscallError
from minidock.linux.paths import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, open_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW
_LIMIT_BYTES = 64 << 20


class Evidence:
    """An open data root for looking only; a context manager.

    Shape: path: absolute, without symlinks, for messages; fd: its directory; is_sealed: whether the kernel keeps
           everything reached through fd as it is; flags: what every open needs besides; sees_trusted: whether the
           kernel shows the attributes that make a directory opaque
    """

    __slots__ = ("fd", "flags", "is_sealed", "path", "sees_trusted")

    def __init__(self, path: str, fd: int, *, is_sealed: bool) -> None:
        self.path = path
        self.fd = fd
        self.is_sealed = is_sealed
        self.sees_trusted = is_sealed or _sees_trusted()
        self.flags = os.O_CLOEXEC | (0 if is_sealed else os.O_NOATIME)

    @classmethod
    def open(cls, path: str | None = None) -> Evidence:
        """Open a data root for looking.

        Shape:   path None means $MINIDOCK_ROOT, then /var/lib/minidock
        Raises:  StoreError for a missing root, one without overlay2, or missing rights
        """
        real = os.path.realpath(path or os.environ.get("MINIDOCK_ROOT") or DEFAULT_ROOT)
        try:
            fd, is_sealed = _open_sealed(real)
        except FileNotFoundError:
            raise StoreError(f"there is no data root at {real}", hint="minidock pull-tar makes one") from None
        except NotADirectoryError:
            raise StoreError(f"the data root {real} is not a directory") from None
        except PermissionError:
            raise StoreError(f"no access to {real}", hint="needs root rights") from None
        except OSError as error:
            raise SyscallError(f"open data root {real}", error.errno or errno.EIO) from None
        found = cls(real, fd, is_sealed=is_sealed)
        if not (found.is_directory(DRIVER) or found.is_directory(f"image/{DRIVER}")):
            found.close()
            raise StoreError(
                f"{real} is no data root of the driver {DRIVER}: it has neither {DRIVER} nor image/{DRIVER}",
                hint="name one with --root",
            )
        return found

    def close(self) -> None:
        """Let go of the root; closing twice is fine."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> Evidence:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open_directory(self, path: str) -> int:
        """A directory beneath the root; raises SyscallError. The caller owns the descriptor."""
        return open_in_root(self.fd, os.fsencode(path), os.O_RDONLY | os.O_DIRECTORY | self.flags, resolve=RESOLVE)

    def read(self, path: str, limit_bytes: int = _LIMIT_BYTES) -> bytes:
        """A regular file's bytes; raises SyscallError, and OSError for anything else or more than limit_bytes."""
        handle = open_in_root(self.fd, os.fsencode(path), _FILE_FLAGS | self.flags, resolve=RESOLVE)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            if status.st_size > limit_bytes:
                raise OSError(errno.EFBIG, f"larger than {limit_bytes} bytes", path)
            chunks = []
            while chunk := os.read(handle, 1 << 20):
                chunks.append(chunk)
            return b"".join(chunks)
        finally:
            os.close(handle)

    def text(self, path: str, limit_bytes: int = 1 << 16) -> str | None:
        """A small file's text, None when it cannot be read."""
        try:
            return self.read(path, limit_bytes).decode("ascii", "replace")
        except OSError:
            return None

    def word(self, path: str) -> str:
        """A small file's text without blanks at its ends, empty when it cannot be read."""
        return (self.text(path) or "").strip()

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted; none for a missing one."""
        try:
            handle = self.open_directory(path)
        except OSError:
            return []
        try:
            return sorted(os.listdir(handle))
        finally:
            os.close(handle)

    def status(self, path: str) -> os.stat_result | None:
        """lstat(2) of a name beneath the root, None when it is missing."""
        try:
            # With O_PATH and O_NOFOLLOW a symlink at the end is opened itself; only on the way it is refused.
            handle = open_in_root(self.fd, os.fsencode(path), os.O_PATH | os.O_NOFOLLOW, resolve=RESOLVE)
        except OSError:
            return None
        try:
            return os.fstat(handle)
        finally:
            os.close(handle)

    def is_directory(self, path: str) -> bool:
        """Whether there is a directory of this name beneath the root."""
        status = self.status(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def link_target(self, path: str) -> str | None:
        """What a symlink of the root says, None when it is none."""
        folder, _, name = path.rpartition("/")
        try:
            handle = self.open_directory(folder or ".")
        except OSError:
            return None
        try:
            return os.readlink(name, dir_fd=handle)
        except OSError:
            return None
        finally:
            os.close(handle)


def _sees_trusted() -> bool:
    """Whether this process may read trusted.* attributes. Source: xattr(7)"""
    from minidock.linux.capabilities import SYS_ADMIN, permitted

    return bool(permitted() & SYS_ADMIN)


def _open_sealed(path: str) -> tuple[int, bool]:
    """The directory through a read-only copy of its mount, and whether there could be one; raises OSError."""
    from minidock.linux.mount import clone_tree, seal_tree

    try:
        tree = clone_tree(os.fsencode(path), recursive=False)
    except SyscallError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL):
            raise
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), False
    try:
        seal_tree(tree)
        return os.open(b"/proc/self/fd/%d" % tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), True
    except SyscallError:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), False
    finally:
        os.close(tree)
