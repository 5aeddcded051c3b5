"""layerdb: what is known of each read-only layer, under the name of its chain_id.

    layerdb/sha256/<chain hex>/   cache-id, diff (the diff_id), parent (a chain_id; absent at the bottom), size,
                                  tar-split.json.gz: what the layer's tar held besides the files' content
    layerdb/mounts/<container>/   mount-id, init-id, parent: which layers a container stands on

A layer appears by one rename of its whole directory, after its content is in place, and disappears the same way
before its content does. So a record always has its content, whenever the machine stops.
Source: moby layer/filestore.go; shared format notes §2.3, §2.4, §12
"""

from __future__ import annotations

import os

from minidock.constants import MAX_LAYERS
from minidock.errors import FormatError, MaxDepthExceeded, NoSuchLayer, StoreCorrupt, SyscallError
from minidock.ids import CacheID, ChainID, DiffID, LinkID, chain_id_of, is_hex64, random_hex64
from minidock.store import overlay2
from minidock.store.transaction import (
    Stage,
    make_directory,
    mounts_below,
    read_small,
    refuse_mounted,
    sync_directory,
    write_new,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot

_TAR_SPLIT = "tar-split.json.gz"


class Layer:
    """One read-only layer. Units: size_bytes: the files' sizes together, as `images` and `history` show it."""

    __slots__ = ("cache_id", "chain_id", "diff_id", "parent", "size_bytes")

    def __init__(
        self, chain_id: ChainID, diff_id: DiffID, parent: ChainID | None, cache_id: CacheID, size_bytes: int
    ) -> None:
        self.chain_id = chain_id
        self.diff_id = diff_id
        self.parent = parent
        self.cache_id = cache_id
        self.size_bytes = size_bytes


class StagedLayer:
    """A layer being made: an overlay2 directory in the stage, to be filled and then published.

    Shape: path: the directory, its content below `diff`; diff_fd: `diff`, opened; tar_split_fd: an empty file opened
           for reading and writing; both are closed by publish, or with the stage
    """

    __slots__ = ("cache_id", "diff_fd", "link_id", "path", "record_path", "tar_split_fd")

    def __init__(self, stage: Stage) -> None:
        self.cache_id = CacheID(random_hex64())
        self.link_id = LinkID.random()
        self.diff_fd = self.tar_split_fd = -1
        stage.opened.append(self)
        self.path = stage.new_path("tree")
        self.record_path = stage.new_path("record")
        overlay2.prepare_directory(self.path, self.link_id)
        make_directory(self.record_path, 0o700)
        write_new(f"{self.record_path}/{_TAR_SPLIT}", b"", 0o644)
        self.diff_fd = os.open(f"{self.path}/diff", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.tar_split_fd = os.open(f"{self.record_path}/{_TAR_SPLIT}", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Close both descriptors; closing twice is fine."""
        for handle in (self.diff_fd, self.tar_split_fd):
            if handle >= 0:
                os.close(handle)
        self.diff_fd = self.tar_split_fd = -1


class LayerStore:
    """The layers of a data root."""

    __slots__ = ("_root", "mounts_path", "path")

    def __init__(self, root: DataRoot) -> None:
        self._root = root
        self.path = f"{root.image_path}/layerdb/sha256"
        self.mounts_path = f"{root.image_path}/layerdb/mounts"

    def has(self, chain_id: ChainID) -> bool:
        """Whether this layer is there; raises OSError where that cannot be told."""
        try:
            os.stat(f"{self.path}/{ChainID.parse(chain_id).hex}")
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def all(self) -> list[ChainID]:
        """The chain_ids of all layers, sorted."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return []
        return [ChainID("sha256:" + name) for name in sorted(names) if is_hex64(name)]

    def get(self, chain_id: ChainID) -> Layer:
        """A layer's record; raises NoSuchLayer, and StoreCorrupt when a file of it is missing or malformed."""
        where = f"{self.path}/{ChainID.parse(chain_id).hex}"
        try:
            cache_id = CacheID.parse(_read(where, "cache-id"))
            diff_id = DiffID(DiffID.parse(_read(where, "diff")))
            size_bytes = _parse_size(_read(where, "size", strip=False))
            parent = _read(where, "parent", default="")
            above = ChainID(ChainID.parse(parent)) if parent else None
        except FileNotFoundError as error:
            if not os.path.isdir(where):
                raise NoSuchLayer(f"no such layer: {where}", hint=overlay2.MEND) from None
            raise StoreCorrupt(f"{where}: {os.path.basename(error.filename)} is missing", hint=overlay2.MEND) from None
        except FormatError as error:
            raise StoreCorrupt(f"{where}: {error.message}", hint=overlay2.MEND) from None
        except OSError as error:
            raise SyscallError(f"read {error.filename}", error.errno or 5) from None
        return Layer(ChainID(chain_id), diff_id, above, cache_id, size_bytes)

    def size(self, chain_id: ChainID) -> int:
        """Only a layer's own size in bytes; raises NoSuchLayer, StoreCorrupt."""
        path = f"{self.path}/{chain_id[7:]}/size"
        try:
            return _parse_size(read_small(path).decode("ascii", "replace"))
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchLayer(f"no such layer: {path[:-5]}", hint=overlay2.MEND) from None
        except FormatError as error:
            raise StoreCorrupt(f"{path}: {error.message}", hint=overlay2.MEND) from None

    def stack(self, chain_id: ChainID) -> list[Layer]:
        """A layer and all below it, top first; raises NoSuchLayer, StoreCorrupt."""
        layers: list[Layer] = []
        below: ChainID | None = chain_id
        while below is not None:
            if len(layers) > overlay2.MAX_LOWERS:
                raise StoreCorrupt(f"layer {chain_id} has no bottom: its parents form a circle")
            layers.append(self.get(below))
            below = layers[-1].parent
        return layers

    def links(self, chain_id: ChainID) -> list[LinkID]:
        """The link_ids of a layer and all below it, top first, after a check that the whole stack is there.

        Whoever mounts, extends or exports a stack asks here first.
        Raises: NoSuchLayer, StoreCorrupt, naming the part that is missing and what to do
        """
        return overlay2.check_stack(self._root.overlay_path, self.directories(chain_id))

    def directories(self, chain_id: ChainID) -> list[str]:
        """The cache_ids of a layer and all below it, top first, by the records alone.

        Raises: NoSuchLayer, StoreCorrupt
        """
        top = self.get(chain_id)
        found: list[str] = [top.cache_id]
        below: str = top.parent or ""
        while below:
            if len(found) > overlay2.MAX_LOWERS:
                raise StoreCorrupt(f"layer {chain_id} has no bottom: its parents form a circle")
            where = f"{self.path}/{ChainID.parse(below).hex}"
            try:
                found.append(CacheID.parse(_read(where, "cache-id")))
                below = _read(where, "parent", default="")
                if below:
                    ChainID.parse(below)
            except FileNotFoundError:
                if not os.path.isdir(where):
                    raise NoSuchLayer(f"no such layer: {where}", hint=overlay2.MEND) from None
                raise StoreCorrupt(f"{where}: cache-id is missing", hint=overlay2.MEND) from None
            except FormatError as error:
                raise StoreCorrupt(f"{where}: {error.message}", hint=overlay2.MEND) from None
            except OSError as error:
                raise SyscallError(f"read {error.filename}", error.errno or 5) from None
        return found

    def diff_path(self, cache_id: CacheID) -> str:
        """The directory with a layer's content."""
        return f"{self._root.overlay_path}/{CacheID.parse(cache_id)}/diff"

    def tar_split_path(self, chain_id: ChainID) -> str:
        """The file from which the layer's tar can be rebuilt."""
        return f"{self.path}/{ChainID.parse(chain_id).hex}/{_TAR_SPLIT}"

    def stage_layer(self, stage: Stage) -> StagedLayer:
        """Begin a new layer in the stage."""
        return StagedLayer(stage)

    def publish(self, staged: StagedLayer, parent: ChainID | None, diff_id: DiffID, size_bytes: int) -> Layer:
        """Make a filled layer visible on top of parent, or drop it when the chain is known already.

        Shape:   called from the bottom up, inside the stage that the layer was begun in
        Raises:  MaxDepthExceeded at the 126th layer, NoSuchLayer for the parent, SyscallError
        """
        root = self._root
        stage = root.stages[-1]
        staged.close()
        with root.lock():
            chain_id = chain_id_of(parent, diff_id)
            inputs = f"printf %s '{parent} {diff_id}' | sha256sum  #" if parent else "# the bottom layer's diff_id:"
            root.tell("hash", f"{inputs} chain_id = {chain_id}")
            if self.has(chain_id):
                self.links(chain_id)
                known = self.get(chain_id)
                os.rename(staged.path, stage.new_path("trash"))
                return known
            try:
                return self._publish(stage, staged, chain_id, parent, diff_id, size_bytes)
            except OSError as error:
                if isinstance(error, SyscallError):
                    raise
                raise SyscallError(f"publish layer {chain_id[:19]}: {error.filename}", error.errno or 5) from None

    def _publish(
        self,
        stage: Stage,
        staged: StagedLayer,
        chain_id: ChainID,
        parent: ChainID | None,
        diff_id: DiffID,
        size_bytes: int,
    ) -> Layer:
        root = self._root
        if root.reproducible is not None:
            root.reproducible.prepare_layer(root, staged, chain_id)
        if parent is not None:
            links = self.links(parent)
            if len(links) >= MAX_LAYERS:
                raise MaxDepthExceeded(f"max depth exceeded: an image has at most {MAX_LAYERS} layers")
            overlay2.add_lowers(staged.path, [f"l/{link_id}" for link_id in links])
            overlay2.commit_directory(f"{root.overlay_path}/{self.get(parent).cache_id}")
            write_new(f"{staged.record_path}/parent", parent.encode("ascii"), 0o644)
        overlay2.commit_directory(staged.path)
        write_new(f"{staged.record_path}/cache-id", staged.cache_id.encode("ascii"), 0o644)
        write_new(f"{staged.record_path}/diff", diff_id.encode("ascii"), 0o644)
        write_new(f"{staged.record_path}/size", b"%d" % size_bytes, 0o644)
        stage.mark("layer", f"{chain_id.hex}.{staged.cache_id}")
        root.unsynced = True
        overlay2.publish_directory(root, staged.path, staged.cache_id, staged.link_id)
        target = f"{self.path}/{chain_id.hex}"
        root.tell("write", f"{target}/ (cache-id, diff, size, tar-split.json.gz{', parent' if parent else ''})")
        os.rename(staged.record_path, target)
        return Layer(chain_id, diff_id, parent, staged.cache_id, size_bytes)

    def refuse_mounted(self, chain_id: ChainID) -> None:
        """Raise Conflict when something is mounted in this layer or one below it; a missing layer is fine."""
        points = mounts_below(self._root.overlay_path)
        if not points or not self.has(chain_id):
            return
        for layer in self.stack(chain_id):
            refuse_mounted(f"{self._root.overlay_path}/{layer.cache_id}")

    def used(self) -> set[ChainID]:
        """Chains that an image ends at, or a container stands on; what lies below them is used through them."""
        root = self._root
        chains = {image.chain_id for image in root.images.all() if image.chain_id}
        try:
            names = os.listdir(self.mounts_path)
        except FileNotFoundError:
            names = []
        for name in names:
            parent = _read(f"{self.mounts_path}/{name}", "parent", default="")
            if parent.startswith("sha256:") and is_hex64(parent[7:]):
                chains.add(ChainID(parent))
        return chains

    def release(self, chain_id: ChainID) -> list[ChainID]:
        """Remove a layer, and then each below it, as long as no image, no container and no other layer needs it.

        Returns: the chain_ids removed, top down
        Raises:  Conflict when something is mounted in a layer
        """
        if not self._root.stages:
            with self._root.stage():
                return self.release(chain_id)
        stage = self._root.stages[-1]
        with self._root.lock():
            used = self.used()
            children: dict[str, int] = {}
            for other in self.all():
                parent = _read(f"{self.path}/{other.hex}", "parent", default="")
                children[parent] = children.get(parent, 0) + 1
            unused: list[tuple[ChainID, str]] = []
            current: ChainID | None = chain_id
            while current is not None and self.has(current) and current not in used and not children.get(current):
                cache_id, below = self.remains(current)
                unused.append((current, cache_id))
                current = below
                if current:
                    children[current] -= 1
            # All are named before the first goes: after a crash the upper ones no longer lead to those below.
            for chain_id, cache_id in unused:
                if cache_id:
                    refuse_mounted(f"{self._root.overlay_path}/{cache_id}")
                stage.mark("layer", f"{chain_id.hex}.{cache_id}")
            for chain_id, _ in unused:
                record = f"{self.path}/{chain_id.hex}"
                self._root.tell("remove", record)
                os.rename(record, stage.new_path("trash"))
            if unused:
                # No record may come back after a power cut whose content did not.
                sync_directory(self.path)
            for _, cache_id in unused:
                if cache_id:
                    overlay2.delete_directory(self._root, cache_id, is_checked=True)
        return [chain_id for chain_id, _ in unused]

    def remains(self, chain_id: ChainID) -> tuple[str, ChainID | None]:
        """For removal: a layer's cache_id and parent as far as its record still tells, else "" and None."""
        where = f"{self.path}/{chain_id.hex}"
        cache_id, parent = _read(where, "cache-id", default=""), _read(where, "parent", default="")
        try:
            cache_id = CacheID.parse(cache_id)
        except FormatError:
            cache_id = ""
        try:
            return cache_id, ChainID(ChainID.parse(parent))
        except FormatError:
            return cache_id, None


def _read(where: str, name: str, *, default: str | None = None, strip: bool = True) -> str:
    try:
        text = read_small(f"{where}/{name}").decode("ascii", "replace")
    except (FileNotFoundError, NotADirectoryError):
        if default is None:
            raise
        return default
    return text.strip() if strip else text


def _parse_size(text: str) -> int:
    # Docker's engine drops a layer whose size has a newline; so what is written is strict, and what is read too.
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise FormatError(f"size is not a decimal number: {text[:40]!r}")
    return int(text)
