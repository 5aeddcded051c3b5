"""pull-tar and load: an archive's images become layers, configs and names of the data root.

Everything is read and checked in a private stage before anything is visible: the documents when the archive is
opened, the layers while they are unpacked (each against its diff_id, and its digest where the archive promises
one), and layers that are known already while they are read. Only then are layers published from the bottom up, then
configs, then parents, and names last. One bad image of an archive means that none of its images appears, and an
error takes back what the stage began.
"""

from __future__ import annotations

from minidock.errors import DigestMismatch
from minidock.formats.archive import open_archive
from minidock.formats.layercheck import check_layers
from minidock.ids import chain_ids_of
from minidock.store.distribution import note_blob
from minidock.store.unpack import UnpackJob, unpack_layers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.formats.archive import Archive, ArchivedImage, LayerBlob
    from minidock.formats.reference import Reference
    from minidock.ids import ChainID, DiffID, ImageID
    from minidock.store.layerdb import StagedLayer
    from minidock.store.root import DataRoot
    from minidock.store.transaction import Stage
    from minidock.store.unpack import UnpackedLayer
    from minidock.trace import Progress
    from minidock.verbs.import_ import ImportedImage


class LoadedImage:
    """What became of one image of an archive.

    Shape: new_layers, known_layers: chain_ids, bottom first, those unpacked for this image and all others; warnings:
           lines for the user; moved_tags: (familiar reference, the image it named before) for each name that moved
    """

    __slots__ = ("image_id", "known_layers", "moved_tags", "new_layers", "references", "warnings")

    def __init__(self, image_id: ImageID, references: list[Reference]) -> None:
        self.image_id = image_id
        self.references = references
        self.new_layers: list[ChainID] = []
        self.known_layers: list[ChainID] = []
        self.warnings: list[str] = []
        self.moved_tags: list[tuple[str, ImageID]] = []


def pull_tar(
    root: DataRoot,
    source: str | int,
    *,
    name: str | None = None,
    platform: str | None = None,
    progress: Progress | None = None,
) -> list[LoadedImage]:
    """Load the images of an archive, or make one of a root's tree.

    Shape:   source: a file, an OCI layout's directory, or "-" or a descriptor for a stream; name: a reference
             instead of those in the archive; platform: `os/arch[/variant]`, this machine's by default
    Returns: one LoadedImage for each image, in the archive's order
    Raises:  FormatError, InvalidReference, UsageError, NotFound, StoreError, SyscallError; the data root is then
             as it was before
    """
    # What cannot be given its names in the end need not be unpacked.
    root.references.all()
    with (
        root.stage() as stage,
        open_archive(source, spool_dir=stage.path, platform=platform, name=name, progress=progress) as archive,
    ):
        if archive.spooled_bytes:
            root.tell("write", f"{stage.path}: {archive.spooled_bytes} bytes spooled into a file without a name")
        root.tell("read", f"{archive.what}: {archive.kind}")
        if root.reproducible is not None and archive.images:
            root.reproducible.suggest(max(image.config.created_ns or 0 for image in archive.images))
        if archive.rootfs is not None:
            from minidock.verbs.import_ import make_image

            made = make_image(root, stage, archive.rootfs, name, platform=platform, progress=progress)
            return [_loaded(made)]
        return _Loader(root, stage, archive, progress).load()


class _Loader:
    """Carries one archive's images into the data root."""

    def __init__(self, root: DataRoot, stage: Stage, archive: Archive, progress: Progress | None) -> None:
        self._root = root
        self._stage = stage
        self._images = archive.images
        self._progress = progress
        self._opened: list[StagedLayer] = []
        self._checked: set[ChainID] = set()
        self._staged: dict[ChainID, tuple[StagedLayer, UnpackedLayer]] = {}
        # A chain that several images share is one entry: it is unpacked once.
        self._wanted: dict[ChainID, tuple[DiffID, LayerBlob]] = {}
        self._chains: list[list[ChainID]] = []
        for image in archive.images:
            diff_ids = image.config.diff_ids
            chain_ids = chain_ids_of(diff_ids)
            self._chains.append(chain_ids)
            for chain_id, diff_id, blob in zip(chain_ids, diff_ids, image.layers, strict=True):
                self._wanted.setdefault(chain_id, (diff_id, blob))

    def load(self) -> list[LoadedImage]:
        try:
            while True:
                self._unpack([chain for chain in self._wanted if not self._is_there(chain)])
                with self._root.lock():
                    # A layer that was there may have been removed by another command while others were unpacked.
                    if all(self._is_there(chain) for chain in self._wanted):
                        return self._publish()
        finally:
            for staged in self._opened:
                staged.close()

    def _is_there(self, chain_id: ChainID) -> bool:
        return chain_id in self._staged or self._root.layers.has(chain_id)

    def _unpack(self, missing: list[ChainID]) -> None:
        root = self._root
        self._check_known([chain for chain in self._wanted if chain not in missing and chain not in self._staged])
        for chain_id in missing:
            self._report(self._wanted[chain_id][1], "Waiting", 0)
        jobs = []
        staged_layers = []
        time_ns = root.now_ns() if root.reproducible else None
        for chain_id in missing:
            diff_id, blob = self._wanted[chain_id]
            packing = "" if blob.compression == "none" else f", {blob.compression} compressed"
            root.tell("read", f"{blob.key}: {blob.length_bytes} bytes from byte {blob.offset}{packing}")
            staged = root.layers.stage_layer(self._stage)
            self._opened.append(staged)
            staged_layers.append(staged)
            jobs.append(UnpackJob(blob.key, blob, staged.diff_fd, staged.tar_split_fd, diff_id, time_ns))
        unpacked_layers = unpack_layers(jobs, progress=self._progress, trace=root.trace) if jobs else []
        for chain_id, staged, unpacked in zip(missing, staged_layers, unpacked_layers, strict=True):
            diff_id = self._wanted[chain_id][0]
            if unpacked.diff_id != diff_id:
                raise DigestMismatch("layer", expected=diff_id, actual=unpacked.diff_id)
            self._staged[chain_id] = (staged, unpacked)

    def _check_known(self, known: list[ChainID]) -> None:
        """Layers that are there are not unpacked again, but the archive must still hold what it promises."""
        layers = [self._wanted[chain_id] for chain_id in known if chain_id not in self._checked]
        check_layers([(blob, diff_id) for diff_id, blob in layers])
        self._checked.update(known)
        for diff_id, blob in layers:
            if self._root.trace is not None:
                source = blob.describe()
                inputs = f"{source} | sha256sum  #" if source else f"# {blob.length_bytes} bytes in the archive:"
                self._root.tell("hash", f"{inputs} diff_id = {diff_id}, known already")
            self._report(blob, "Already exists", blob.length_bytes)

    def _report(self, blob: LayerBlob, state: str, done: int) -> None:
        if self._progress is not None:
            self._progress(blob.key, state, done, blob.length_bytes)

    def _publish(self) -> list[LoadedImage]:
        loaded: list[LoadedImage] = []
        for chain_ids in self._chains:
            known = [chain_id for chain_id in chain_ids if chain_id not in self._staged]
            if known:
                # On a broken layer every image is broken: better none.
                self._root.layers.links(known[-1])
        for image, chain_ids in zip(self._images, self._chains, strict=True):
            result = LoadedImage(image.config.image_id, image.references)
            result.warnings = list(image.warnings)
            self._publish_layers(image, chain_ids, result)
            self._root.images.add(image.config.raw)
            loaded.append(result)
        for image in self._images:
            if image.parent is not None:
                self._root.images.add(image.config.raw, parent=image.parent)
        _set_references(self._root, loaded)
        for diff_id, blob in self._wanted.values():
            if blob.blob_digest is not None and blob.blob_digest != diff_id:
                note_blob(self._root, blob.blob_digest, diff_id)
        return loaded

    def _publish_layers(self, image: ArchivedImage, chain_ids: list[ChainID], result: LoadedImage) -> None:
        parent: ChainID | None = None
        for chain_id, diff_id in zip(chain_ids, image.config.diff_ids, strict=True):
            # Another command may have published the same chain meanwhile; then ours is dropped.
            is_known = self._root.layers.has(chain_id)
            if chain_id in self._staged:
                staged, unpacked = self._staged.pop(chain_id)
                self._root.layers.publish(staged, parent, diff_id, unpacked.size_bytes)
                result.warnings += unpacked.warnings
                blob = self._wanted[chain_id][1]
                self._report(blob, "Pull complete", blob.length_bytes)
            (result.known_layers if is_known else result.new_layers).append(chain_id)
            parent = chain_id


def _set_references(root: DataRoot, loaded: list[LoadedImage]) -> None:
    """Point the names to their images, all at once or none."""
    named = [(reference, image) for image in loaded for reference in image.references]
    before = root.references.set_all([(reference, image.image_id) for reference, image in named])
    for (reference, image), old in zip(named, before, strict=True):
        if old is not None and old != image.image_id:
            image.moved_tags.append((reference.familiar, old))


def _loaded(made: ImportedImage) -> LoadedImage:
    """An imported tree in the words of this verb."""
    loaded = LoadedImage(made.image_id, [made.reference] if made.reference else [])
    (loaded.new_layers if made.is_new else loaded.known_layers).append(made.chain_id)
    loaded.warnings = made.warnings
    if made.reference and made.moved_from not in (None, made.image_id):
        loaded.moved_tags.append((made.reference.familiar, made.moved_from))
    return loaded
