"""Steps that a crash may cut anywhere: a private stage, one rename to publish, and a sweep of what dead owners left.

A stage is the directory ROOT/minidock/stage/<boot id>.<pid>.<start time>.n<pid namespace>.<random>. Its owner holds a
flock on it, by which alone a process of another pid namespace that shares the data root can know the owner. Whatever is
being made or removed lies in it, or is named by an empty marker file in it before the data root itself changes:

    layer-<chain hex>.<cache_id>           this layer is being published or released
    image-<hex>                            this image is being added or removed
    container-<container_id>.<mount_id>    this container is being made
    remove-<container_id>.<mount_id>       this container is being removed
    volume-<name>                          this volume is being removed with its container

Leaving the stage in peace drops the markers; leaving it by an exception, or dying, has `recovery.settle` read
them (at once, or at the next opening of the root for writing) and take back what nothing refers to. So a kill
at any moment leaves either the old state, or the new one, or garbage that names itself.
"""

from __future__ import annotations

import errno
import fcntl
import os

from minidock.errors import Conflict, MinidockError, SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from minidock.store.layerdb import StagedLayer
    from minidock.store.root import DataRoot

# A directory tree is walked with one descriptor a level; below this depth its subdirectories are first moved up,
# so that neither the descriptors nor the interpreter's stack bound the depth that can be deleted.
_MAX_WALK_DEPTH = 100
# And so many subdirectories are noted before the walk goes down, so that their number does not bound it either.
_MAX_NOTED = 1000

# The file system has no more room, no more inodes, or is broken: nothing that any code could have foreseen.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE)

_token = ""
_token_pid = 0
_boot_id = ""


def boot_id() -> str:
    """The kernel's random name for this boot. Source: proc(5), /proc/sys/kernel/random/boot_id"""
    global _boot_id
    _boot_id = _boot_id or read_small("/proc/sys/kernel/random/boot_id").decode("ascii").strip()
    return _boot_id


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None for one that is gone or a zombie.

    Source: proc(5), /proc/PID/stat, fields 3 and 22; the name in field 2 may itself hold blanks and brackets
    """
    try:
        fields = read_small(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])


def owner_token() -> str:
    """The name of this very process, told apart from any other by boot id, pid, start time and pid namespace."""
    global _token, _token_pid
    pid = os.getpid()
    if _token_pid != pid:
        _token = f"{boot_id()}.{pid}.{start_time(pid) or 0}.n{pid_namespace()}"
        _token_pid = pid
    return _token


def is_owner_alive(name: str) -> bool:
    """Whether the process that a stage name starts with still lives; names of another form count as dead."""
    boot, _, rest = name.partition(".")
    pid, _, rest = rest.partition(".")
    started = rest.partition(".")[0]
    if boot != boot_id() or not pid.isdecimal() or not started.isdecimal():
        return False
    return start_time(int(pid)) == int(started)


def pid_namespace() -> int:
    """The number of this process's pid namespace. Source: namespaces(7), "The /proc/pid/ns/ directory\""""
    return os.stat("/proc/self/ns/pid").st_ino


def is_foreign(name: str) -> bool:
    """Whether a stage's owner is of this boot but of another pid namespace, so that its pid says nothing here."""
    words = name.split(".")
    return len(words) > 3 and words[0] == boot_id() and words[3][:1] == "n" and words[3] != f"n{pid_namespace()}"


def is_stage_owned(stage_path: str, name: str) -> bool:
    """Whether somebody still works in a stage, seen from whatever pid namespace."""
    if not is_foreign(name):
        return is_owner_alive(name)
    handle = hold_stage(stage_path, name, fcntl.LOCK_SH)
    if handle is None:
        return True
    if handle >= 0:
        os.close(handle)
    return False


def hold_stage(stage_path: str, name: str, kind: int = fcntl.LOCK_EX) -> int | None:
    """Take the flock of a stage whose owner is gone.

    Returns: a descriptor that holds it until it is closed, -1 for what is no directory, None when its owner has it
    """
    try:
        handle = os.open(f"{stage_path}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def read_small(path: str, chunk_bytes: int = 1 << 16, *, most_bytes: int = 64 << 20) -> bytes:
    """A small file's bytes, in as few system calls as can be; raises OSError, EFBIG for more than most_bytes."""
    # A pipe in the place of a record would keep its reader for ever.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        data = os.read(handle, chunk_bytes)
        if len(data) < 4096:
            return data
        chunks, left = [data], most_bytes - len(data)
        while chunk := os.read(handle, chunk_bytes):
            left -= len(chunk)
            if left < 0:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
            chunks.append(chunk)
        return b"".join(chunks)
    except OSError as error:
        # read(2) knows no path.
        error.filename = path
        raise
    finally:
        os.close(handle)


def read_table(path: str) -> bytes:
    """A table of /proc, whole: the kernel gives whole lines of at most a page at each read. Raises OSError

    Source: kernel fs/seq_file.c, seq_read_iter
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(handle, 1 << 16):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(handle)


def write_new(path: str, data: bytes, mode: int, *, durable: bool = False) -> None:
    """Create a file that must not exist, with exactly this mode whatever the umask; raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(handle, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        if durable:
            os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: str, mode: int) -> None:
    """Create a directory that must not exist, with exactly this mode whatever the umask; raises OSError."""
    try:
        os.mkdir(path, mode)
        os.chmod(path, mode)
    except OSError as error:
        raise told(error) from None


def told(error: OSError) -> OSError:
    """The error to raise instead when the file system itself is at its end, which every caller tells the same way."""
    if isinstance(error, SyscallError) or error.errno not in _DISK_ERRORS:
        return error
    return SyscallError(f"write {error.filename or 'to the data root'}", error.errno or errno.EIO)


def sync_directory(path: str) -> None:
    """Make renames and new names in a directory survive a power cut; raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unescape(field: str) -> str:
    """A path as mountinfo spells it, with its octal escapes undone."""
    if "\\" not in field:
        return field
    parts = field.split("\\")
    text = parts[0] + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts[1:])
    return os.fsdecode(text.encode("latin-1", "surrogateescape"))


def mounts_below(path: str) -> list[str]:
    """Mount points of this namespace at path or below it, path given without symlinks.

    Source: proc(5), /proc/PID/mountinfo; blanks, tabs, newlines and backslashes are octal escapes there
    """
    table = os.fsdecode(read_table("/proc/self/mountinfo"))
    points = []
    for line in table.splitlines():
        point = unescape(line.split(" ", 5)[4])
        if point == path or point.startswith(path + "/"):
            points.append(point)
    return points


def refuse_mounted(path: str) -> None:
    """Raise Conflict when something is mounted at or below path, whose deletion would reach into it."""
    points = mounts_below(path)
    if points:
        raise Conflict(f"cannot remove {path}: {points[-1]} is a mount point", hint=f"umount {points[-1]} first")


def _delete_directory(parent_fd: int, name: str, depth: int, top_fd: int, queue: list[str]) -> None:
    handle, found = -1, True
    try:
        while True:
            try:
                # Most are empty; why another one cannot be removed shows when it is looked at.
                os.rmdir(name, dir_fd=parent_fd)
                return
            except OSError:
                if not found:
                    raise
            if handle < 0:
                # Imported here: neither listing nor making needs it.
                from minidock.linux.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, open_in_root

                resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH
                handle = open_in_root(parent_fd, os.fsencode(name), os.O_DIRECTORY | os.O_NOFOLLOW, resolve=resolve)
            # POSIX leaves open what a listing shows while entries go; a second look finds what the first missed.
            found = _delete_entries(handle, depth, top_fd, queue)
    finally:
        if handle >= 0:
            os.close(handle)


def _delete_entries(handle: int, depth: int, top_fd: int, queue: list[str]) -> bool:
    """Delete or move away the entries of an open directory; False once a look at all of them has found none."""
    found = False
    directories = []
    os.lseek(handle, 0, os.SEEK_SET)
    with os.scandir(handle) as entries:
        for entry in entries:
            found = True
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=handle)
                continue
            directories.append(entry.name)
            if len(directories) == _MAX_NOTED:
                break
    # Only now, when the listing's own descriptor is closed.
    for name in directories:
        if depth < _MAX_WALK_DEPTH:
            _delete_directory(handle, name, depth + 1, top_fd, queue)
        else:
            moved = f"deep-{os.urandom(8).hex()}"
            os.rename(name, moved, src_dir_fd=handle, dst_dir_fd=top_fd)
            queue.append(moved)
    return found


def delete_tree(parent_fd: int, name: str) -> None:
    """Delete a directory tree, or a file, and never step through a mount or a symlink.

    Shape:   name is one component below parent_fd; a missing one is fine
    Raises:  SyscallError (EXDEV at a mount point, whose content stays)
    Source:  openat2(2), RESOLVE_NO_XDEV: bind mounts of the same file system are told apart too
    """
    queue = [name]
    while queue:
        current = queue.pop()
        try:
            try:
                os.unlink(current, dir_fd=parent_fd)
            except IsADirectoryError:
                _delete_directory(parent_fd, current, 0, parent_fd, queue)
        except FileNotFoundError:
            continue
        except SyscallError as error:
            if error.errno != 2:
                raise
        except OSError as error:
            raise SyscallError(f"remove {error.filename or current!r}", error.errno or 5) from None


class Stage:
    """A private directory of the data root in which things are made before, and put after, they are visible.

    Shape: path, fd: the directory; discard_on_exit: whether leaving deletes it (else the next sweep does);
           opened: what is closed on leaving
    """

    __slots__ = ("_count", "discard_on_exit", "fd", "opened", "path", "root")

    def __init__(self, root: DataRoot) -> None:
        self.root = root
        self.path = f"{root.stage_path}/{owner_token()}.{os.urandom(6).hex()}"
        self.discard_on_exit = True
        self.fd = -1
        self.opened: list[StagedLayer] = []
        self._count = 0

    def __enter__(self) -> Stage:
        while not self._make():
            self.path = f"{self.root.stage_path}/{owner_token()}.{os.urandom(6).hex()}"
        self.root.stages.append(self)
        return self

    def _make(self) -> bool:
        """Make the directory and hold it; False when a sweep of another pid namespace was quicker."""
        try:
            make_directory(self.path, 0o700)
        except FileNotFoundError:
            # A reproducible command has taken the private directory away meanwhile.
            from minidock.store.lock import refuse_under_engine
            from minidock.store.root import make_skeleton

            # Or none has ever been made, since dockerd was at work when the root was opened.
            refuse_under_engine(self.root.path)
            make_skeleton(self.root.path)
            make_directory(self.path, 0o700)
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        try:
            if os.stat(self.path).st_ino == os.fstat(self.fd).st_ino:
                return True
        except FileNotFoundError:
            pass
        os.close(self.fd)
        self.fd = -1
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self in self.root.stages:
            self.root.stages.remove(self)
        for one in self.opened:
            one.close()
        try:
            self._end(error)
        finally:
            # Only now: whoever takes the flock takes the stage.
            os.close(self.fd)
            self.fd = -1

    def _end(self, error: BaseException | None) -> None:
        if not self.discard_on_exit:
            self._abandon()
            return
        try:
            if error is not None and any(name.startswith(MARKERS) for name in os.listdir(self.path)):
                from minidock.store.recovery import settle

                settle(self.root, self.path)
            else:
                self._discard()
        except (OSError, MinidockError) as failure:
            self._abandon()
            if error is None:
                raise
            error.add_note(f"cleaning up: {failure}")
        if isinstance(error, OSError) and told(error) is not error:
            raise told(error) from error

    def _abandon(self) -> None:
        # This process may live on, and while it does the sweep would spare a stage of its name.
        if os.path.isdir(self.path):
            os.rename(self.path, f"{self.root.stage_path}/left.{os.urandom(12).hex()}")

    def _discard(self) -> None:
        try:
            os.rmdir(self.path)
        except OSError:
            # Markers go first: once the deletion of a tree has begun, nothing is left to take back.
            for name in os.listdir(self.path):
                if name.startswith(MARKERS):
                    os.unlink(f"{self.path}/{name}")
            discard(self.root, self.path)

    def new_path(self, word: str) -> str:
        """A path in the stage that nothing uses yet, and that no marker is named like."""
        self._count += 1
        return f"{self.path}/{self._count}-{word}"

    def mark(self, kind: str, name: str) -> None:
        """Write down, before the data root changes, what is about to change; see the module's head.

        All of it is in the file's name: a name appears at once, content might be cut off.
        """
        path = f"{self.path}/{kind}-{name}"
        if not os.path.lexists(path):
            write_new(path, b"", 0o600)

    def remove_tree(self, path: str, *, is_checked: bool = False) -> bool:
        """Take a file or directory out of the data root at once, and delete it when the stage ends.

        Shape:   path without symlinks, on the data root's file system; is_checked: the caller has just made sure that
                 nothing is mounted in it
        Returns: False when there is no such file
        Raises:  Conflict when something is mounted below it; SyscallError
        """
        if not is_checked:
            refuse_mounted(path)
        self.root.tell("remove", path)
        try:
            os.rename(path, self.new_path("trash"))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SyscallError(f"rename({path!r})", error.errno or 5) from None
        return True


MARKERS = ("layer-", "image-", "container-", "remove-", "volume-")


def discard(root: DataRoot, path: str) -> None:
    """Delete a stage directory or a temporary file; what another process deletes at the same time is no error."""
    parent, _, name = path.rpartition("/")
    handle = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        delete_tree(handle, name)
    finally:
        os.close(handle)
