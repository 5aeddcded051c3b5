"""docker import: the tar of a root's tree becomes an image of one layer."""

from __future__ import annotations

from minidock.errors import UsageError
from minidock.formats.archive import open_rootfs
from minidock.formats.gojson import format_time
from minidock.formats.imageconfig import encode_config
from minidock.formats.platform import host_platform, parse_platform
from minidock.formats.reference import parse_tag
from minidock.ids import chain_id_of
from minidock.store.unpack import UnpackJob, unpack_layers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from minidock.formats.archive import LayerBlob
    from minidock.formats.platform import Platform
    from minidock.formats.reference import Reference
    from minidock.ids import ChainID, DiffID, ImageID
    from minidock.store.root import DataRoot
    from minidock.store.transaction import Stage
    from minidock.trace import Progress

# What the engine says for a file too, since its client sends every file as a stream.
_COMMENT = "Imported from -"


class ImportedImage:
    """A new image of one layer.

    Shape: is_new: whether the layer was not there before; moved_from: the image that had the reference, or None
    """

    __slots__ = ("chain_id", "image_id", "is_new", "moved_from", "reference", "warnings")

    def __init__(self, image_id: ImageID, chain_id: ChainID, *, is_new: bool) -> None:
        self.image_id = image_id
        self.chain_id = chain_id
        self.is_new = is_new
        self.reference: Reference | None = None
        self.moved_from: ImageID | None = None
        self.warnings: list[str] = []


def import_(
    root: DataRoot,
    source: str | int,
    reference: str | None = None,
    *,
    changes: Sequence[str] = (),
    message: str = "",
    platform: str | None = None,
    progress: Progress | None = None,
) -> ImportedImage:
    """Make an image of any tar, plain or compressed, whatever is in it.

    Shape:   source: a file, or "-" or a descriptor for a stream; changes are Dockerfile instructions; platform:
             `os/arch[/variant]`, this machine's by default
    Returns: ImportedImage; with a reference, the image that had it before becomes `<none>`
    Raises:  FormatError, InvalidReference, UsageError, NotFound, StoreError, SyscallError; the data root is then
             as it was before
    Source:  moby daemon/images/image_import.go
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise UsageError(f"{source[:80]}: minidock does not download", hint="fetch it and import the file")
    made_for, config, name = _parse_words(reference, changes, platform)
    # What cannot be given its name in the end need not be unpacked.
    root.references.all()
    with root.stage() as stage, open_rootfs(source, spool_dir=stage.path, progress=progress) as archive:
        if archive.spooled_bytes:
            root.tell("write", f"{stage.path}: {archive.spooled_bytes} bytes spooled into a file without a name")
        assert archive.rootfs is not None
        root.tell("read", f"{archive.what}: {archive.rootfs.length_bytes} bytes of tar")
        return _make(root, stage, archive.rootfs, name, made_for, config, message, progress)


def make_image(
    root: DataRoot,
    stage: Stage,
    blob: LayerBlob,
    reference: str | None,
    *,
    platform: str | None = None,
    progress: Progress | None = None,
) -> ImportedImage:
    """Make an image of an open tar, for those who found one where an image archive could have been."""
    made_for, config, name = _parse_words(reference, (), platform)
    return _make(root, stage, blob, name, made_for, config, "", progress)


def _parse_words(
    reference: str | None, changes: Sequence[str], platform: str | None
) -> tuple[Platform, dict[str, Any], Reference | None]:
    """What the caller said, checked before anything is read."""
    config: dict[str, Any] = {}
    if changes:
        from minidock.formats.instructions import apply_changes

        config = apply_changes(config, list(changes))
    return (
        parse_platform(platform) if platform else host_platform(),
        config,
        parse_tag(reference) if reference else None,
    )


def _make(
    root: DataRoot,
    stage: Stage,
    blob: LayerBlob,
    reference: Reference | None,
    made_for: Platform,
    config: dict[str, Any],
    message: str,
    progress: Progress | None,
) -> ImportedImage:
    if progress is not None:
        progress(blob.key, "Waiting", 0, blob.length_bytes)
    staged = root.layers.stage_layer(stage)
    try:
        time_ns = root.now_ns() if root.reproducible else None
        job = UnpackJob(blob.key, blob, staged.diff_fd, staged.tar_split_fd, None, time_ns)
        (unpacked,) = unpack_layers([job], progress=progress, trace=root.trace)
    finally:
        staged.close()
    raw = _encode_config(unpacked.diff_id, made_for, config, message or _COMMENT, root.now_ns())
    with root.lock():
        chain_id = chain_id_of(None, unpacked.diff_id)
        is_new = not root.layers.has(chain_id)
        root.layers.publish(staged, None, unpacked.diff_id, unpacked.size_bytes)
        made = ImportedImage(root.images.add(raw), chain_id, is_new=is_new)
        if reference is not None:
            made.reference = reference
            made.moved_from = root.references.set(reference, made.image_id)
    made.warnings = list(unpacked.warnings)
    if progress is not None:
        progress(blob.key, "Pull complete", blob.length_bytes, blob.length_bytes)
    return made


def _encode_config(diff_id: DiffID, made_for: Platform, config: dict[str, Any], comment: str, created_ns: int) -> bytes:
    """The config that docker import would write. Source: shared format notes §6.2"""
    created = format_time(created_ns)
    document: dict[str, Any] = {
        "architecture": made_for.architecture,
        "comment": comment,
        "config": config,
        "container_config": {},
        "created": created,
        "history": [{"created": created, "comment": comment}],
        "os": made_for.os,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    if made_for.variant:
        document["variant"] = made_for.variant
    return encode_config(document)
