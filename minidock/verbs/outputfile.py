"""Where save and export write to: a descriptor, or a file that appears whole or not at all."""

from __future__ import annotations

import os
import stat

from minidock.errors import SyscallError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class OutputFile:
    """Opens the target of an archive; leaving its `with` without an error puts the file in place.

    Shape:  target: a path, replaced by a rename at the end, or a descriptor, which stays the caller's; verb for
            messages; fd is what to write to
    Raises: UsageError for a terminal, for a directory or a device, and where there is no such directory; SyscallError
    """

    def __init__(self, target: str | int, verb: str) -> None:
        self.fd = -1
        self.what = "standard output" if isinstance(target, int) else target
        self._target = target
        self._verb = verb
        self._temporary = ""

    def __enter__(self) -> OutputFile:
        if isinstance(self._target, int):
            if os.isatty(self._target):
                raise UsageError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
            self.fd = self._target
            return self
        self._check(self._target)
        folder = os.path.dirname(self._target) or "."
        self._temporary = f"{folder}/.minidock-{os.urandom(8).hex()}"
        try:
            self.fd = self._open(folder)
        except OSError as error:
            raise SyscallError(f"create a file in {folder}", error.errno or 5) from None
        return self

    def _check(self, path: str) -> None:
        """Source: docker/cli cli/command/utils.go, ValidateOutputPath"""
        refused = f"failed to {self._verb}: invalid output path"
        if not path or "\0" in path:
            raise UsageError(f"{refused}: {path!r}")
        folder = os.path.dirname(os.path.normpath(path))
        if folder and not os.path.isdir(folder):
            raise UsageError(f'{refused}: directory "{folder}" does not exist')
        try:
            mode = os.stat(path).st_mode
        except OSError:
            return
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "a device or a pipe"
            raise UsageError(f'{refused}: "{path}" is {kind}', hint="write to standard output instead")

    def _open(self, folder: str) -> int:
        # A file without a name is gone with this process, however that ends.
        try:
            return os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError:
            # Not every file system has O_TMPFILE (open(2)).
            return os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self._target, int):
            return
        try:
            if kind is None:
                self._put_in_place(self._target)
        except OSError as failure:
            raise SyscallError(f"write {self._target}", failure.errno or 5) from None
        finally:
            os.close(self.fd)
            self.fd = -1
            if os.path.lexists(self._temporary):
                os.unlink(self._temporary)

    def _put_in_place(self, target: str) -> None:
        if not os.fstat(self.fd).st_nlink:
            # With a descriptor Python calls linkat(2) and AT_SYMLINK_FOLLOW; else link(2), which would not follow.
            os.link(f"/proc/self/fd/{self.fd}", self._temporary, src_dir_fd=self.fd, follow_symlinks=True)
        os.rename(self._temporary, target)
