"""docker save: images become one archive, each layer's tar made again to the bit and checked on its way."""

from __future__ import annotations

from minidock.errors import MinidockError, NoSuchImage, StoreCorrupt, UsageError
from minidock.formats.platform import Platform, parse_platform
from minidock.formats.reference import parse_reference
from minidock.formats.savedarchive import ImageToSave, plan_archive
from minidock.formats.tarwriter import BLOCK_BYTES, END_OF_ARCHIVE
from minidock.ids import is_hex64
from minidock.store.layertar import LayerTar
from minidock.store.taroutput import TarOutput
from minidock.verbs.outputfile import OutputFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.formats.reference import Reference
    from minidock.ids import DiffID, ImageID
    from minidock.store.imagedb import Image
    from minidock.store.root import DataRoot

FORMATS = ("docker", "oci")
# Headers of all but monstrous images stay in memory between measuring and writing.
_KEPT_BYTES = 128 << 20


class SavedImages:
    """What went into an archive. Units: archive_bytes: the whole archive's length"""

    __slots__ = ("archive_bytes", "image_ids", "layers", "references")

    def __init__(
        self, image_ids: list[ImageID], references: list[Reference], layers: list[DiffID], archive_bytes: int
    ) -> None:
        self.image_ids = image_ids
        self.references = references
        self.layers = layers
        self.archive_bytes = archive_bytes


def save(
    root: DataRoot, names: Sequence[str], output: str | int, *, format: str = "docker", platform: str | None = None
) -> SavedImages:
    """Write images into one archive; the same images give the same bytes whenever and wherever that is done.

    Shape:   names: references, IDs, or repositories without a tag, which mean all their tags; output: a path or a
             descriptor; format: "docker" for all engines, "oci" for an OCI layout in a tar; platform: what each
             image must be made for
    Returns: SavedImages; a file appears only when it is whole, a stream that fails ends early
    Raises:  NoSuchImage, InvalidReference, UsageError, StoreCorrupt or DigestMismatch for a damaged layer, naming the
             file at fault, SyscallError
    Source:  moby image/tarexport/save.go
    """
    if format not in FORMATS:
        raise UsageError(f"{format[:40]!r} is no archive format", hint=f"it can be {' or '.join(FORMATS)}")
    if not names:
        raise UsageError("no image to save was named")
    chosen = _choose(root, names)
    if platform:
        _check_platforms(chosen, parse_platform(platform))
    layers: dict[DiffID, LayerTar] = {}
    images = [_prepare(root, image, references, chosen, layers) for image, references in chosen.values()]
    members = plan_archive(images, with_docker_manifest=format == "docker")
    with OutputFile(output, "save image") as file:
        root.tell("write", f"{file.what}: a {format} archive, images: {len(images)}, layers: {len(layers)}")
        stream = TarOutput(file.fd, file.what)
        for member in members:
            stream.put(member.header)
            start = stream.written_bytes
            if member.diff_id is not None:
                layer = layers[member.diff_id]
                root.tell("read", f"layer {layer.diff_id}: its files, {layer.size_bytes} bytes of tar to make again")
                _write_layer(root, layer, stream)
                root.tell("hash", f"# sha256 of {layer.size_bytes} bytes of tar: diff_id = {layer.diff_id}")
            else:
                stream.put(member.data)
            stream.fill((start - stream.written_bytes) % BLOCK_BYTES)
        stream.put(END_OF_ARCHIVE)
        stream.flush()
    saved = [reference for image in images for reference in image.references]
    return SavedImages(list(chosen), saved, list(layers), stream.written_bytes)


def _write_layer(root: DataRoot, layer: LayerTar, stream: TarOutput) -> None:
    try:
        layer.write(stream)
    except MinidockError as error:
        # No lock is held meanwhile, since whoever reads the stream may be slow.
        if not root.layers.has(layer.chain_id):
            raise NoSuchImage("an image was removed while it was saved") from error
        raise


def _choose(root: DataRoot, names: Sequence[str]) -> dict[ImageID, tuple[Image, list[Reference]]]:
    """The images in the order in which they were first named, each with the names it shall have in the archive."""
    chosen: dict[ImageID, tuple[Image, list[Reference]]] = {}
    for text in names:
        for image_id, reference in _find(root, text):
            if image_id not in chosen:
                chosen[image_id] = (root.images.get(image_id), [])
            references = chosen[image_id][1]
            # A name with a digest is a promise about a registry's manifest, which the archive cannot keep.
            if reference is not None and reference.digest is None and reference not in references:
                references.append(reference)
    return chosen


def _find(root: DataRoot, text: str) -> list[tuple[ImageID, Reference | None]]:
    if is_hex64(text.removeprefix("sha256:")):
        return [(root.images.resolve(text).image_id, None)]
    wanted = parse_reference(text)
    has_tag = "@" in text or ":" in text.rpartition("/")[2]
    if not has_tag:
        found = [
            (image_id, parse_reference(name))
            for name, image_id in sorted(root.references.all().items())
            if name.startswith((f"{wanted.repository_key}:", f"{wanted.repository_key}@"))
        ]
        if found:
            return [*found]
    image_id = root.references.get(wanted) if has_tag else None
    if image_id is not None:
        return [(image_id, wanted)]
    return [(root.images.resolve(text).image_id, None)]


def _check_platforms(chosen: dict[ImageID, tuple[Image, list[Reference]]], wanted: Platform) -> None:
    for image, references in chosen.values():
        config = image.config
        if wanted.rank(Platform(config.os, config.architecture, config.variant)) is None:
            name = references[0].familiar if references else image.image_id
            raise NoSuchImage(f"image {name} was found but does not provide the specified platform ({wanted})")


def _prepare(
    root: DataRoot,
    image: Image,
    references: list[Reference],
    chosen: dict[ImageID, tuple[Image, list[Reference]]],
    layers: dict[DiffID, LayerTar],
) -> ImageToSave:
    """Find and measure an image's layers, so that what is missing is told before the first byte is written."""
    config = image.config
    sizes = []
    for chain_id, diff_id in zip(config.chain_ids, config.diff_ids, strict=True):
        if diff_id not in layers:
            layer = root.layers.get(chain_id)
            if layer.diff_id != diff_id:
                raise StoreCorrupt(f"layer {chain_id}: its record says diff_id {layer.diff_id} instead of {diff_id}")
            kept_bytes = sum(known.kept_bytes for known in layers.values())
            layers[diff_id] = LayerTar(root, layer, keep_bytes=_KEPT_BYTES - kept_bytes)
        sizes.append((diff_id, layers[diff_id].size_bytes))
    parent = image.parent
    return ImageToSave(config, sizes, references, parent if parent in chosen else None)
