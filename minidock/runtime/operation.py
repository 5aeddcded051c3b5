"""What an operation of a container's plan is, what the operations share, and how they find their targets."""

from __future__ import annotations

import errno
import os

from minidock.errors import SyscallError
from minidock.linux import cdata
from minidock.linux.libc import declare
from minidock.linux.paths import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, open_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from minidock.runtime.users import User

NO_LINKS = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
PATH_DIRECTORY = os.O_PATH | os.O_DIRECTORY
PROC_SUPER_MAGIC = 0x9FA0
S_IFMT, S_IFDIR, S_IFCHR = 0o170000, 0o040000, 0o020000
_MAX_LINKS = 40

_fstatfs = declare("fstatfs", cdata.c_int, cdata.c_void_p)


def filesystem_magic(fd: int) -> int:
    """The f_type of the file system that fd is on. Source: statfs(2)"""
    buffer = (cdata.c_long * 32)()
    _fstatfs(fd, cdata.addressof(buffer))
    return int(buffer[0])


class Setup:
    """What the operations hand on to one another inside the child.

    Shape: held: detached mounts by the target they are for; root_fd: the container's root after pivot_root;
           descriptors_fd: the host's /proc/self/fd where the container's /proc does not show this process, else -1;
           parent_fd: a byte comes here when the parent has made the container's groups, another one when it has
           connected its network, the end when it is gone;
           standard: what become the container's standard descriptors; tell_pid: takes the pid of a process that goes on
           in this one's place
    """

    __slots__ = (
        "console_fd",
        "descriptors_fd",
        "held",
        "null_fd",
        "parent_fd",
        "root_fd",
        "send_console",
        "standard",
        "tell_pid",
        "user",
    )

    def __init__(
        self,
        send_console: Callable[[int], None],
        tell_pid: Callable[[int], None] | None = None,
        standard: Sequence[int] = (),
    ) -> None:
        self.send_console = send_console
        self.tell_pid = tell_pid or _nobody_asks
        self.standard = standard
        self.held: dict[bytes, int] = {}
        self.root_fd = -1
        self.parent_fd = -1
        self.null_fd = -1
        self.console_fd = -1
        self.descriptors_fd = -1
        self.user: User | None = None

    def name_of(self, fd: int) -> bytes:
        """A path to just what a descriptor is, for calls that take no descriptor; may change the working directory."""
        if self.descriptors_fd < 0:
            return b"/proc/self/fd/%d" % fd
        os.fchdir(self.descriptors_fd)
        return b"%d" % fd

    def await_parent(self) -> None:
        """Stand still until the parent has done its next part; end when it has gone."""
        if not os.read(self.parent_fd, 1):
            os._exit(9)


def _nobody_asks(pid: int) -> None:
    """Where no process takes another's place."""


class Operation:
    """One step; `kind` is the trace's. Shape: describe() is what --explain shows, see trace.py"""

    __slots__ = ()
    kind = "mount"

    def describe(self) -> str:
        """Shell lines that do the same; what no shell can do is told in one that begins with "# "."""
        raise NotImplementedError

    def prepare(self) -> None:
        """In the parent, before there is a child to take the step; raises MinidockError."""

    def forget(self) -> None:
        """In the parent, once the step has been taken or will not be."""

    def execute(self, setup: Setup) -> None:
        """Take the step; raises SyscallError or another MinidockError."""
        raise NotImplementedError


def make_in_root(root_fd: int, path: bytes, *, is_directory: bool) -> int:
    """Open path beneath the root, making what is missing, directories 0755 and the file 0755 as runc does.

    Returns: an O_PATH descriptor; mount on it, not on the name
    Raises:  SyscallError
    """
    parts = [part for part in path.split(b"/") if part]
    handle = -1
    links = 0
    done = b""
    while True:
        try:
            return open_in_root(root_fd, b"/".join([done, *parts]) or b"/", os.O_PATH)
        except SyscallError as error:
            if error.errno != errno.ENOENT or not parts:
                raise
        # walk down to the first missing component
        handle = open_in_root(root_fd, done or b"/", PATH_DIRECTORY)
        try:
            name = parts.pop(0)
            target = _link_at(handle, name)
            if target is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise SyscallError(f"openat2({os.fsdecode(path)!r})", errno.ELOOP)
                parts = [part for part in target.split(b"/") if part] + parts
                done = b"" if target.startswith(b"/") else done
                continue
            if name not in (b".", b".."):
                _make_entry(handle, name, is_directory or bool(parts))
            done += b"/" + name
        finally:
            os.close(handle)


def _link_at(directory_fd: int, name: bytes) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=directory_fd)
    except OSError:
        return None


def _make_entry(directory_fd: int, name: bytes, is_directory: bool) -> None:
    try:
        if is_directory:
            os.mkdir(name, 0o755, dir_fd=directory_fd)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o755, dir_fd=directory_fd))
    except FileExistsError:
        pass
    except OSError as error:
        raise SyscallError(f"mkdir({os.fsdecode(name)!r})", error.errno or 0) from None
