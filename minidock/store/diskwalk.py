"""What everything below a data root takes on the disk, each inode once, each under the thing it belongs to.

A place is the few first names of a path that tell whose it is: `overlay2/<id>`, `containers/<id>/log`. The walk goes
into no other file system, as `du -x` does; every inode is counted at the first of its names. Memory is that of the
hard links not yet seen with all their names.
"""

from __future__ import annotations

import os
import stat

from minidock.constants import DRIVER
from minidock.linux.paths import open_in_root
from minidock.store.evidence import RESOLVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.evidence import Evidence

_BLOCK_BYTES = 512
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

# Below these, each name is a place of its own; the longest that fits counts.
_FOLDERS = (
    DRIVER,
    "containers",
    "volumes",
    "minidock/stage",
    f"image/{DRIVER}/imagedb/content/sha256",
    f"image/{DRIVER}/imagedb/metadata/sha256",
    f"image/{DRIVER}/layerdb/sha256",
    f"image/{DRIVER}/layerdb/mounts",
    f"image/{DRIVER}/layerdb/tmp",
    f"image/{DRIVER}/distribution",
)
_SHORT_NAMES = f"{DRIVER}/l"


class Usage:
    """Room on the disk. Units: apparent_bytes: lengths; allocated_bytes: blocks; files: inodes of any kind"""

    __slots__ = ("allocated_bytes", "apparent_bytes", "files")

    def __init__(self, apparent_bytes: int = 0, allocated_bytes: int = 0, files: int = 0) -> None:
        self.apparent_bytes = apparent_bytes
        self.allocated_bytes = allocated_bytes
        self.files = files

    def add(self, other: Usage) -> None:
        """Count another's in."""
        self.apparent_bytes += other.apparent_bytes
        self.allocated_bytes += other.allocated_bytes
        self.files += other.files

    def to_document(self) -> dict[str, int]:
        """The same for a program to read."""
        return {
            "apparent_bytes": self.apparent_bytes,
            "allocated_bytes": self.allocated_bytes,
            "files": self.files,
        }


class DiskWalk:
    """The usage of each place of a root.

    Shape: places: place to its usage, the root itself as ""; faults: what could not be read, one line each; linked:
           what has further names outside of what was walked
    Raises: SyscallError when the root itself cannot be read
    """

    def __init__(self, evidence: Evidence, only: list[str] | None = None) -> None:
        self._evidence = evidence
        self._device = os.fstat(evidence.fd).st_dev
        self._links: dict[int, tuple[int, int]] = {}
        self.places: dict[str, Usage] = {}
        self.faults: list[str] = []
        if only is None:
            self._count(os.fstat(evidence.fd), "")
            self._walk(b"", "")
        for place in only or ():
            status = evidence.status(place)
            if status is not None:
                self._count(status, place)
                if stat.S_ISDIR(status.st_mode):
                    self._walk(os.fsencode(place), place)
        self.linked = Usage(0, sum(size for _, size in self._links.values()), len(self._links))

    def _count(self, status: os.stat_result, place: str) -> None:
        size = status.st_blocks * _BLOCK_BYTES
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            inode = status.st_ino
            left, _ = self._links.get(inode, (0, 0))
            if left:
                if left == 1:
                    del self._links[inode]
                else:
                    self._links[inode] = (left - 1, size)
                return
            self._links[inode] = (status.st_nlink - 1, size)
        usage = self.places.get(place)
        if usage is None:
            usage = self.places[place] = Usage()
        usage.apparent_bytes += status.st_size
        usage.allocated_bytes += size
        usage.files += 1

    def _walk(self, top: bytes, place: str) -> None:
        waiting = [(top, place)]
        while waiting:
            path, place = waiting.pop()
            try:
                handle = open_in_root(
                    self._evidence.fd, path or b".", _DIRECTORY_FLAGS | self._evidence.flags, resolve=RESOLVE
                )
            except OSError as error:
                self.faults.append(f"{os.fsdecode(path[:200])}: not counted: {error.strerror}")
                continue
            try:
                self._list(handle, path, place, waiting)
            finally:
                os.close(handle)

    def _list(self, handle: int, path: bytes, place: str, waiting: list[tuple[bytes, str]]) -> None:
        is_above = _is_above_places(place)
        prefix = path + b"/" if path else b""
        with os.scandir(handle) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                inner = _place_below(place, entry.name) if is_above else place
                is_directory = stat.S_ISDIR(status.st_mode)
                if is_directory and status.st_dev != self._device:
                    self.faults.append(f"{os.fsdecode(prefix)}{entry.name}: another file system, not counted")
                    continue
                self._count(status, inner)
                if is_directory:
                    waiting.append((prefix + os.fsencode(entry.name), inner))


def _is_above_places(place: str) -> bool:
    if not place or place in _FOLDERS or any(folder.startswith(place + "/") for folder in _FOLDERS):
        return True
    return place.startswith("containers/") and place.count("/") == 1


def _place_below(place: str, name: str) -> str:
    """The place of a name in a directory that is above or at a place's beginning."""
    if place.startswith("containers/"):
        is_log = name.startswith(place[11:]) and "-json.log" in name or name == "local-logs"
        return f"{place}/log" if is_log else place
    path = f"{place}/{name}" if place else name
    if path.startswith(f"{_SHORT_NAMES}/"):
        return _SHORT_NAMES
    return path
