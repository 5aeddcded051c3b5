"""Two runs with the same input, two equal trees: names and times that come from the input instead of chance and clock.

What Docker's engine draws at random is derived from what it names: a layer's directory and short name from its
chain_id. What it takes from the clock is one given time: SOURCE_DATE_EPOCH, else when the image was made. How a
stream happened to arrive no longer shows in tar-split. At the end every record and directory that is later gets that
time, and the private directory of this program goes.
Source: reproducible-builds.org/specs/source-date-epoch
"""

from __future__ import annotations

import os
import time

from minidock.constants import PRIVATE_DIR
from minidock.errors import StoreBusy
from minidock.ids import CacheID, LinkID, sha256_hex
from minidock.store.references import COPY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.ids import ChainID
    from minidock.store.layerdb import StagedLayer
    from minidock.store.root import DataRoot

# The kernel stamps files by a clock that is up to one tick behind time(2).
_TICK_NS = 20_000_000
_SEGMENT_BYTES = 48 * 1024


class Reproducible:
    """How a data root is written reproducibly.

    Units: epoch_ns: the time that everything gets, in nanoseconds since 1970, None until it is known
    """

    __slots__ = ("_started_ns", "epoch_ns")

    def __init__(self, epoch_ns: int | None = None) -> None:
        self.epoch_ns = epoch_ns
        self._started_ns = time.time_ns() - _TICK_NS

    def suggest(self, created_ns: int) -> None:
        """The time to take when the caller gave none; times before 1970 become 1970."""
        if self.epoch_ns is None:
            self.epoch_ns = max(created_ns, 0)

    def now_ns(self) -> int:
        """What to say instead of the present time."""
        return self.epoch_ns or 0

    def prepare_layer(self, root: DataRoot, staged: StagedLayer, chain_id: ChainID) -> None:
        """Give a layer that is about to be published names of its own, and its tar-split one form."""
        staged.cache_id, staged.link_id = _free_names(root, chain_id)
        with open(f"{staged.path}/link", "w", encoding="ascii") as file:
            file.write(staged.link_id)
        _normalize_tar_split(f"{staged.record_path}/tar-split.json.gz")

    def finish(self, root: DataRoot) -> None:
        """Take the private directory away and give everything that is later the one time."""
        try:
            with root.lock():
                _remove_private(root)
        except StoreBusy:
            return
        # What is later, though from before, may come from a command that was killed; a build has no later times.
        latest_ns = min(self.now_ns(), self._started_ns - 1)
        for path in _written_paths(root):
            try:
                if os.lstat(path).st_mtime_ns > latest_ns:
                    os.utime(path, ns=(self.now_ns(), self.now_ns()), follow_symlinks=False)
            except FileNotFoundError:
                continue
        root.sync_content()


def _free_names(root: DataRoot, chain_id: ChainID) -> tuple[CacheID, LinkID]:
    """The first names derived from a chain_id that nothing has; a crash may have left a directory with the first."""
    number = 0
    while True:
        text = sha256_hex(f"minidock overlay2 directory\n{chain_id}\n{number}".encode("ascii"))
        bits = int(sha256_hex(f"minidock overlay2 link\n{chain_id}\n{number}".encode("ascii")), 16)
        link_id = LinkID.of_number(bits)
        if not os.path.lexists(f"{root.overlay_path}/{text}") and not os.path.lexists(
            f"{root.overlay_path}/l/{link_id}"
        ):
            return CacheID(text), link_id
        number += 1


def _normalize_tar_split(path: str) -> None:
    """Write a tar-split anew: raw bytes cut at fixed places, and compressed by the one library that is everywhere."""
    import zlib

    from minidock.formats.tarsplit import TarSplitWriter, read_tar_split

    temporary = path + ".new"
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(target, 0o644)
        writer = TarSplitWriter(target, zlib.compressobj(6, zlib.DEFLATED, 31))
        raw = bytearray()
        for entry in read_tar_split(source):
            if isinstance(entry, bytes):
                raw += entry
                while len(raw) >= _SEGMENT_BYTES:
                    writer.segment(bytes(raw[:_SEGMENT_BYTES]))
                    del raw[:_SEGMENT_BYTES]
                continue
            writer.segment(bytes(raw))
            raw.clear()
            writer.file(entry.name, entry.size_bytes, entry.crc)
        writer.segment(bytes(raw))
        writer.close()
    finally:
        os.close(source)
        os.close(target)
    os.rename(temporary, path)


def _remove_private(root: DataRoot) -> None:
    """Remove ROOT/minidock unless another command has something in it; whoever comes next makes it anew."""
    private = f"{root.path}/{PRIVATE_DIR}"
    try:
        os.rmdir(root.stage_path)
    except OSError:
        return
    for path in (f"{private}/lock", f"{root.path}/{COPY}"):
        if os.path.lexists(path):
            os.unlink(path)
    try:
        os.rmdir(private)
    except OSError:
        return


def _written_paths(root: DataRoot) -> list[str]:
    """All that commands which bring images write, but not the content of layers, which has times of its own."""
    paths = [
        root.path,
        f"{root.path}/image",
        f"{root.path}/containers",
        root.overlay_path,
    ]
    for where, directories, files in os.walk(f"{root.path}/{PRIVATE_DIR}"):
        paths.append(where)
        paths += [f"{where}/{name}" for name in (*directories, *files)]
    for where, directories, files in os.walk(root.image_path):
        paths.append(where)
        paths += [f"{where}/{name}" for name in (*directories, *files)]
    for name in os.listdir(root.overlay_path):
        path = f"{root.overlay_path}/{name}"
        paths.append(path)
        parts = os.listdir(path) if name == "l" else ("diff", "link", "lower", "work", "committed")
        paths += [f"{path}/{part}" for part in parts]
    return paths
