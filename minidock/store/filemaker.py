"""The files of a new layer, made by this process or, where they are many, by a second one at its side.

To make a file takes the kernel longer than to read one, and asks for nothing but the file itself: so a helper makes
them, in order, while the walk hashes those that follow. Its end of a pipe gets them in batches; it answers when it is
asked to settle, or when it fails, and ends with the pipe.
"""

from __future__ import annotations

import os
import stat

from minidock.errors import StoreError, SyscallError
from minidock.formats.tarwriter import portable_capability
from minidock.formats.whiteout import OPAQUE_XATTR
from minidock.store.upper import CAPABILITY_XATTR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TypeAlias

    # mode with the file's type, uid, gid, time in ns, security.capability or empty
    Attributes: TypeAlias = tuple[int, int, int, int, bytes]

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BATCH_FILES = 64
_BATCH_BYTES = 1 << 18
_LENGTH_BYTES = 8
_SETTLED = b"."
_SIGKILL = 9


class FileMaker:
    """Makes files below a layer's directory; paths are relative to it, and what is above them is there."""

    __slots__ = ("_diff_fd",)

    def __init__(self, diff_fd: int) -> None:
        self._diff_fd = diff_fd

    def whiteout(self, path: bytes, uid: int, gid: int) -> None:
        """Overlayfs' mark of a deleted name."""
        os.mknod(path, stat.S_IFCHR, 0, dir_fd=self._diff_fd)
        if uid or gid:
            os.chown(path, uid, gid, dir_fd=self._diff_fd, follow_symlinks=False)

    def directory(self, path: bytes) -> None:
        """A directory that close_directory will follow."""
        os.mkdir(path, 0o700, dir_fd=self._diff_fd)

    def close_directory(self, path: bytes, attributes: Attributes, is_opaque: bool) -> None:
        """Give a directory, when its content is whole, its own attributes."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._diff_fd)
        try:
            if is_opaque:
                os.setxattr(handle, OPAQUE_XATTR, b"y")
            self.set_attributes(handle, attributes)
        finally:
            os.close(handle)

    def link(self, path: bytes, first: bytes) -> None:
        """Another name of a file made before."""
        fd = self._diff_fd
        os.link(first, path, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)

    def special(self, path: bytes, attributes: Attributes, target: bytes, device: int) -> None:
        """A symlink, a device or a FIFO."""
        fd, (mode, uid, gid, time_ns, capability) = self._diff_fd, attributes
        is_link = stat.S_ISLNK(mode)
        if is_link:
            os.symlink(target, path, dir_fd=fd)
        else:
            os.mknod(path, stat.S_IFMT(mode) | 0o600, device, dir_fd=fd)
        if uid or gid:
            os.chown(path, uid, gid, dir_fd=fd, follow_symlinks=False)
        if capability:
            place = b"/proc/self/fd/%d/%b" % (fd, path)
            os.setxattr(place, CAPABILITY_XATTR, portable_capability(capability), follow_symlinks=False)
        if not is_link:
            os.chmod(path, mode & 0o7777, dir_fd=fd)
        os.utime(path, ns=(time_ns, time_ns), dir_fd=fd, follow_symlinks=False)

    def file(self, path: bytes, attributes: Attributes, data: bytes) -> None:
        """A regular file."""
        handle = self.create(path)
        try:
            if data:
                written = os.write(handle, data)
                while written < len(data):
                    written += os.write(handle, data[written:])
            self.set_attributes(handle, attributes)
        finally:
            os.close(handle)

    def create(self, path: bytes) -> int:
        """A new regular file, open; the descriptor is the caller's, who sets the attributes last."""
        return os.open(path, _CREATE, 0o600, dir_fd=self._diff_fd)

    @staticmethod
    def set_attributes(handle: int, attributes: Attributes) -> None:
        """Owner, capability, mode and time of an open file."""
        mode, uid, gid, time_ns, capability = attributes
        # This order: chown drops setuid bits and capabilities, and writing anything moves the time.
        if uid or gid:
            os.fchown(handle, uid, gid)
        if capability:
            os.setxattr(handle, CAPABILITY_XATTR, portable_capability(capability))
        os.fchmod(handle, mode & 0o7777)
        os.utime(handle, ns=(time_ns, time_ns))


class MakerProcess:
    """The process that makes files beside this one; it has FileMaker' ways to make them.

    What fails in it is raised here, by a later call: SyscallError, StoreError.
    """

    __slots__ = ("_answers", "_batch", "_batch_bytes", "_commands", "_pid")

    def __init__(self, files: FileMaker) -> None:
        taken, self._commands = os.pipe2(os.O_CLOEXEC)
        self._answers, answers = os.pipe2(os.O_CLOEXEC)
        self._batch: list[tuple[Any, ...]] = []
        self._batch_bytes = 0
        self._pid = os.fork()
        if not self._pid:
            os.close(self._commands)
            os.close(self._answers)
            _help(files, taken, answers)
        os.close(taken)
        os.close(answers)

    def whiteout(self, path: bytes, uid: int, gid: int) -> None:
        """As FileMaker'."""
        self._add(0, path, uid, gid)

    def directory(self, path: bytes) -> None:
        """As FileMaker'."""
        self._add(1, path)

    def close_directory(self, path: bytes, attributes: Attributes, is_opaque: bool) -> None:
        """As FileMaker'."""
        self._add(2, path, attributes, is_opaque)

    def link(self, path: bytes, first: bytes) -> None:
        """As FileMaker'."""
        self._add(3, path, first)

    def special(self, path: bytes, attributes: Attributes, target: bytes, device: int) -> None:
        """As FileMaker'."""
        self._add(4, path, attributes, target, device)

    def file(self, path: bytes, attributes: Attributes, data: bytes) -> None:
        """As FileMaker'."""
        self._batch_bytes += len(data)
        self._add(5, path, attributes, data)

    def _add(self, *command: Any) -> None:
        self._batch.append(command)
        if len(self._batch) >= _BATCH_FILES or self._batch_bytes >= _BATCH_BYTES:
            self._send()

    def _send(self) -> None:
        from marshal import dumps

        data = dumps(self._batch)
        self._batch.clear()
        self._batch_bytes = 0
        view = memoryview(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        try:
            while view:
                view = view[os.write(self._commands, view) :]
        except BrokenPipeError:
            self._hear()

    def _hear(self) -> None:
        """Wait for an answer, which is all well or an error to raise."""
        # One write of the helper's, so one read.
        answer = os.read(self._answers, 1 << 16)
        if answer == _SETTLED:
            return
        if not answer:
            raise StoreError("the process that makes the layer's files ended early", hint="run the command again")
        from marshal import loads

        path, number, reason = loads(answer)
        if number:
            raise SyscallError(f"write layer: {os.fsdecode(path)!r}", number)
        raise StoreError(f"write layer: {os.fsdecode(path)!r}: {reason}")

    def settle(self) -> None:
        """Wait until all that was asked for is there."""
        if self._batch:
            self._send()
        self._send()
        self._hear()

    def end(self) -> None:
        """Let it go, at once; what is not settled may be left undone."""
        if not self._pid:
            return
        os.close(self._commands)
        os.close(self._answers)
        try:
            os.kill(self._pid, _SIGKILL)
            os.waitpid(self._pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        self._pid = 0


def _help(files: FileMaker, taken: int, answers: int) -> NoReturn:
    """The helper's whole life."""
    path = b""
    try:
        from marshal import dumps, loads

        ways = (files.whiteout, files.directory, files.close_directory, files.link, files.special, files.file)
        with open(taken, "rb") as commands:
            while length := commands.read(_LENGTH_BYTES):
                batch = loads(commands.read(int.from_bytes(length, "big")))
                for way, path, *words in batch:
                    ways[way](path, *words)
                if not batch:
                    os.write(answers, _SETTLED)
    except OSError as error:
        os.write(answers, dumps((path, error.errno or 5, "")))
    except BaseException as error:  # noqa: BLE001 - a forked process has nobody above it
        os.write(answers, dumps((path, 0, f"{type(error).__name__}: {error}")))
    finally:
        os._exit(0)
