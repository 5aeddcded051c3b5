"""The tar of a stored layer, made again to the bit.

tar-split.json.gz has everything but the files' content, and the layer's own directory has that: also what is a hard
link in the merged tree lies there, so nothing has to be mounted. What comes out is hashed on its way and must be
the layer's diff_id. The CRCs of tar-split are looked at only after that failed, to name the file at fault.

Source: moby layer/layer_store.go, TarStream; shared format notes §9
"""

from __future__ import annotations

import errno
import os
import stat

from minidock.errors import DigestMismatch, FormatError, StoreCorrupt, SyscallError
from minidock.formats.tarsplit import FileEntry, crc64, read_tar_split
from minidock.formats.tarstream import clean_name
from minidock.ids import DiffID
from minidock.linux.paths import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, open_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    from minidock.store.layerdb import Layer
    from minidock.store.root import DataRoot
    from minidock.store.taroutput import TarOutput

    Step: TypeAlias = bytes | FileEntry

# What a step takes in memory besides its bytes.
_STEP_BYTES = 100
_OPEN_FOLDERS = 32
_READ_BYTES = 1 << 20
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY
# O_NONBLOCK: should a FIFO take the file's place, nothing hangs.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# A folder on the way is missing, is none, or leads in circles.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_MEND = "remove the image and load it again; its files can be had by export of a container"


def read_steps(split_path: str, diff_id: DiffID) -> Iterator[Step]:
    """Raw bytes of a layer's tar, and the files whose content goes between them.

    Raises: StoreCorrupt when tar-split is missing or malformed; SyscallError
    """
    try:
        handle = os.open(split_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise StoreCorrupt(
            f"layer {diff_id}: tar-split.json.gz is missing, so its tar cannot be made again", hint=_MEND
        ) from None
    except OSError as error:
        raise SyscallError(f"open({split_path!r})", error.errno or 5) from None
    try:
        for entry in read_tar_split(handle):
            if isinstance(entry, bytes) or entry.size_bytes:
                yield entry
    except (FormatError, StoreCorrupt) as error:
        raise StoreCorrupt(f"{split_path}: {error.message}", hint=_MEND) from None
    finally:
        os.close(handle)


class LayerTar:
    """One layer's tar, measured and ready to be written.

    Units: size_bytes of the whole tar; kept_bytes of memory that its headers take
    """

    __slots__ = ("_diff_path", "_split_path", "_steps", "chain_id", "diff_id", "kept_bytes", "size_bytes")

    def __init__(self, root: DataRoot, layer: Layer, *, keep_bytes: int = 0) -> None:
        """Read the layer's tar-split.

        Shape:  keep_bytes: how much memory it may take, so that tar-split is not read again for writing
        Raises: StoreCorrupt when it is missing or malformed, or the layer's directory is missing
        """
        self.chain_id = layer.chain_id
        self.diff_id = layer.diff_id
        self.size_bytes = self.kept_bytes = 0
        self._diff_path = root.layers.diff_path(layer.cache_id)
        self._split_path = root.layers.tar_split_path(layer.chain_id)
        if not os.path.isdir(self._diff_path):
            raise StoreCorrupt(f"layer {self.diff_id}: its directory {self._diff_path} is missing", hint=_MEND)
        self._steps = self._measure(keep_bytes)

    def _measure(self, keep_bytes: int) -> list[Step] | None:
        kept: list[Step] | None = []
        for step in read_steps(self._split_path, self.diff_id):
            self.size_bytes += len(step) if isinstance(step, bytes) else step.size_bytes
            if kept is not None:
                kept.append(step)
                self.kept_bytes += _STEP_BYTES + len(step if isinstance(step, bytes) else step.name)
                if self.kept_bytes > keep_bytes:
                    kept, self.kept_bytes = None, 0
        return kept

    def _all_steps(self) -> Iterable[Step]:
        return read_steps(self._split_path, self.diff_id) if self._steps is None else self._steps

    def write(self, output: TarOutput) -> None:
        """Write the tar, size_bytes bytes.

        Raises: StoreCorrupt or DigestMismatch, naming the file that is not what it was; SyscallError
        """
        files = LayerFiles(self._diff_path, self.diff_id)
        try:
            output.start_hash(self.size_bytes)
            for step in self._all_steps():
                if isinstance(step, bytes):
                    output.put(step)
                else:
                    handle = files.open(step)
                    try:
                        if output.copy(handle, step.size_bytes) != step.size_bytes:
                            raise files.damaged(step, "became shorter while it was read")
                    finally:
                        os.close(handle)
            actual = DiffID("sha256:" + output.end_hash())
            if actual != self.diff_id:
                self._blame_file(files)
                raise DigestMismatch(
                    f"layer {self.diff_id}: its tar, made again",
                    expected=self.diff_id,
                    actual=actual,
                    hint="tar-split.json.gz or the layer's diff record was changed",
                )
        finally:
            try:
                output.close()
            finally:
                files.close()

    def _blame_file(self, files: LayerFiles) -> None:
        """Raise the error that names the first file whose content is not what was packed."""
        for step in self._all_steps():
            if isinstance(step, bytes):
                continue
            checksum = 0
            handle = files.open(step)
            try:
                while data := os.read(handle, _READ_BYTES):
                    checksum = crc64(data, checksum)
            finally:
                os.close(handle)
            if checksum != step.crc:
                raise DigestMismatch(
                    f"layer {self.diff_id}: file {os.fsdecode(step.name)!r}: CRC-64",
                    expected=f"{step.crc:016x}",
                    actual=f"{checksum:016x}",
                    hint=f"it was changed after its layer was stored; {_MEND}",
                )


class LayerFiles:
    """The regular files of a layer's directory, opened by names that nobody vouches for."""

    __slots__ = ("_diff_id", "_folders", "_root_fd")

    def __init__(self, diff_path: str, diff_id: DiffID) -> None:
        self._diff_id = diff_id
        self._folders: dict[bytes, int] = {}
        try:
            self._root_fd = os.open(diff_path, _FOLDER_FLAGS | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise SyscallError(f"open({diff_path!r})", error.errno or 5) from None

    def open(self, entry: FileEntry) -> int:
        """Open the file that an entry stands for; the caller owns the descriptor.

        Raises: StoreCorrupt unless it is a regular file of the entry's size; SyscallError
        """
        folder, _, base = clean_name(entry.name).rpartition(b"/")
        if b"\0" in entry.name:
            raise self.damaged(entry, "is missing")
        try:
            parent = self.folder(folder)
            # Before it is opened: opening a device may do something.
            status = os.stat(base, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise self.damaged(entry, "is no regular file any more")
            if status.st_size != entry.size_bytes:
                raise self.damaged(entry, f"has {status.st_size} bytes instead of {entry.size_bytes}")
            return os.open(base, _FILE_FLAGS, dir_fd=parent)
        except (FileNotFoundError, NotADirectoryError):
            raise self.damaged(entry, "is missing") from None
        except SyscallError as error:
            if error.errno not in _NOT_THERE:
                raise
            raise self.damaged(entry, "is missing") from None
        except OSError as error:
            raise SyscallError(f"open({os.fsdecode(entry.name)!r})", error.errno or 5) from None

    def folder(self, path: bytes) -> int:
        """An open directory of the layer, which stays this object's; raises SyscallError."""
        if not path:
            return self._root_fd
        handle = self._folders.get(path, -1)
        if handle < 0:
            if len(self._folders) >= _OPEN_FOLDERS:
                self._close_folders()
            # Symlinks are followed, but only inside the layer: its unpacker followed them in the same way.
            resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
            handle = self._folders[path] = open_in_root(self._root_fd, path, _FOLDER_FLAGS, resolve=resolve)
        return handle

    def damaged(self, entry: FileEntry, what: str) -> StoreCorrupt:
        """The error for a file that is not what the layer was stored with."""
        return StoreCorrupt(f"layer {self._diff_id}: file {os.fsdecode(entry.name)!r} {what}", hint=_MEND)

    def _close_folders(self) -> None:
        for handle in self._folders.values():
            os.close(handle)
        self._folders.clear()

    def close(self) -> None:
        """Close all directories."""
        self._close_folders()
        os.close(self._root_fd)
