"""Who may change the data root: a lock between commands of this program, and one against Docker's engine.

    ROOT/minidock/lock          flock: exclusive for each change, shared while something is only kept from removal
    ROOT/volumes/metadata.db    flock that dockerd holds exclusively for all its life; a writer here holds it shared
                                meanwhile, and dockerd then gives up starting after one second

Source: flock(2); shared format notes §13
"""

from __future__ import annotations

import fcntl
import os

from minidock.constants import PRIVATE_DIR
from minidock.errors import StoreBusy, SyscallError, UsageError
from minidock.store.transaction import read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from minidock.store.root import DataRoot


class Lock:
    """The root's lock while it is held; made by DataRoot.lock."""

    __slots__ = ("_restore", "root", "shared", "wait")

    def __init__(self, root: DataRoot, shared: bool, *, wait: bool = True) -> None:
        self.root = root
        self.shared = shared
        self.wait = wait
        self._restore = False

    def __enter__(self) -> Lock:
        root = self.root
        if not self.shared and not root.writable:
            raise UsageError(f"the data root {root.path} was opened for reading only")
        if root._depth == 0:
            self._take()
        elif not self.shared and not root._exclusive:
            fcntl.flock(root._lock_fd, fcntl.LOCK_EX)
            root._exclusive = self._restore = True
        root._depth += 1
        return self

    def _take(self) -> None:
        root = self.root
        if root.writable:
            root._engine_fd = root.hold_against_engine()
        try:
            flags = (os.O_RDWR | os.O_CREAT) if root.writable else os.O_RDONLY
            root._lock_fd = os.open(f"{root.path}/{PRIVATE_DIR}/lock", flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            kind = fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX
            fcntl.flock(root._lock_fd, kind if self.wait else kind | fcntl.LOCK_NB)
            if root.writable and not os.fstat(root._lock_fd).st_nlink:
                self._release()
                self._take_anew()
                return
        except BlockingIOError:
            self._release()
            raise StoreBusy(f"another command is changing the data root {root.path}") from None
        except (FileNotFoundError, PermissionError) as error:
            self._release()
            if root.writable and isinstance(error, FileNotFoundError) and os.path.isdir(root.path):
                self._take_anew()
                return
            # A root that minidock never wrote to has no lock, and no writer but dockerd, whom reading does not disturb.
            if root.writable:
                raise SyscallError(f"open({error.filename!r})", error.errno or 5) from None
        except BaseException:
            self._release()
            raise
        root._exclusive = not self.shared

    def _take_anew(self) -> None:
        """A reproducible command has taken the private directory away between its opening and the lock."""
        from minidock.store.root import make_skeleton

        make_skeleton(self.root.path)
        self._take()

    def _release(self) -> None:
        root = self.root
        for handle in (root._lock_fd, root._engine_fd):
            if handle >= 0:
                # Said aloud, since a process forked meanwhile shares the open file and would keep it locked.
                fcntl.flock(handle, fcntl.LOCK_UN)
                os.close(handle)
        root._lock_fd = root._engine_fd = -1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        root = self.root
        if root._depth == 0:
            return
        root._depth -= 1
        if root._depth == 0:
            self._release()
        elif self._restore:
            fcntl.flock(root._lock_fd, fcntl.LOCK_SH)
            root._exclusive = False


def hold_against_engine(root_path: str) -> int:
    """Take dockerd's own lock, shared; see DataRoot.hold_against_engine."""
    path = f"{root_path}/volumes/metadata.db"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _lock_holder(handle)
        os.close(handle)
        raise StoreBusy(
            f"dockerd{holder} is running on the data root {root_path}",
            hint="stop it first, or use another --root; reading works meanwhile",
        ) from None
    return handle


class EngineKeptOut:
    """dockerd does not run on this root, and cannot start on it, for the length of a `with` block.

    Raises: StoreBusy when it has the root now
    """

    __slots__ = ("_handle", "_root_path")

    def __init__(self, root_path: str) -> None:
        self._root_path = root_path
        self._handle = -1

    def __enter__(self) -> None:
        self._handle = hold_against_engine(self._root_path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle >= 0:
            os.close(self._handle)


def refuse_under_engine(root_path: str) -> None:
    """Raise StoreBusy while dockerd runs on this root: for what acts on a process before it takes the lock."""
    handle = hold_against_engine(root_path)
    if handle >= 0:
        os.close(handle)


def _lock_holder(handle: int) -> str:
    """` (pid N)` of the process that holds a flock on this open file. Source: proc(5), /proc/locks"""
    inode = os.fstat(handle).st_ino
    for line in read_table("/proc/locks").decode("ascii", "replace").splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
            return f" (pid {fields[4]})"
    return ""
