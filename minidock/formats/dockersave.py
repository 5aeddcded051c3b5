"""Archives with a `manifest.json` that lists images: docker save of any age, podman save, skopeo, kaniko.

Old engines store a layer that appears again as a symlink to its first place; both are followed inside the
archive only. Newer ones keep everything in blobs/sha256, named by digest, and a digest that a name promises is
held against the bytes.

Source: moby image/tarexport; shared format notes §10
"""

from __future__ import annotations

from minidock.constants import MAX_CONFIG_BYTES
from minidock.errors import BadManifest, InvalidReference
from minidock.formats.archivedimage import ArchivedImage, locate_layer, read_member
from minidock.formats.imageconfig import ImageConfig
from minidock.formats.reference import parse_tag
from minidock.ids import Digest, is_hex64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.formats.archivedimage import Members
    from minidock.formats.manifest import SavedImage
    from minidock.formats.reference import Reference
    from minidock.ids import ImageID


def read_saved_images(members: Members, manifest: list[SavedImage]) -> list[ArchivedImage]:
    """The images that a docker-save manifest lists, checked whole; raises FormatError, InvalidReference."""
    images = [_read_image(members, saved) for saved in manifest]
    _drop_foreign_parents(images)
    return images


def _read_image(members: Members, saved: SavedImage) -> ArchivedImage:
    references = [_parse_repo_tag(tag) for tag in saved.tags]
    raw = read_member(members, saved.config, limit_bytes=MAX_CONFIG_BYTES, digest=_promised_config(saved.config))
    config = ImageConfig.parse(raw).validate()
    if len(saved.layers) != len(config.diff_ids):
        raise BadManifest(
            f"{members.what}: the manifest lists {len(saved.layers)} layers, the config {len(config.diff_ids)} diff_ids"
        )
    layers = [
        locate_layer(members, name, diff_id, _promised_blob(name))
        for name, diff_id in zip(saved.layers, config.diff_ids, strict=True)
    ]
    return ArchivedImage(config, references, layers, parent=saved.parent)


def _parse_repo_tag(text: str) -> Reference:
    if ":" not in text.rpartition("/")[2]:
        raise InvalidReference(f"invalid tag {text[:100]!r}: the manifest must give name and tag")
    return parse_tag(text)


def _promised_blob(name: str) -> Digest | None:
    """The digest in `blobs/sha256/<hex>`."""
    folder, _, base = name.removeprefix("./").rpartition("/")
    return Digest.of_hex(base) if folder == "blobs/sha256" and is_hex64(base) else None


def _promised_config(name: str) -> Digest | None:
    """The digest in `<hex>.json` (docker, podman), `sha256:<hex>` (kaniko) or a blob's name."""
    base = name.rpartition("/")[2].removeprefix("sha256:").removesuffix(".json")
    return Digest.of_hex(base) if is_hex64(base) else None


def _drop_foreign_parents(images: list[ArchivedImage]) -> None:
    """Keep a parent only when it is in the same archive, and refuse one whose history is not the child's.

    Source: moby image/tarexport/load.go, validatedParentLinks and checkValidParent
    """
    configs: dict[ImageID, ImageConfig] = {image.config.image_id: image.config for image in images}
    for image in images:
        if image.parent is None:
            continue
        parent = configs.get(image.parent)
        if parent is None:
            image.parent = None
        elif not _is_child(image.config, parent):
            raise BadManifest(f"image {image.parent} is not a valid parent for {image.config.image_id}")


def _is_child(child: ImageConfig, parent: ImageConfig) -> bool:
    mine, theirs = child.document.get("history") or [], parent.document.get("history") or []
    return (not mine and not theirs) or mine[:-1] == theirs and len(mine) == len(theirs) + 1
