"""The documents that say which blobs make an image: docker-save's manifest.json, OCI indexes and manifests.

Each is a stranger's JSON: its size is capped before it is parsed, its shape is checked before it is used, and a
document that could be read as two kinds is refused (CVE-2021-41190: one blob, an index to one tool and a
manifest to another). A repeated key's last value wins, as for every other reader.

Source: OCI image spec, manifest.md and image-index.md; moby image/tarexport; shared format notes §10
"""

from __future__ import annotations

from minidock.constants import MAX_LAYERS, MAX_MANIFEST_BYTES
from minidock.errors import BadManifest, FormatError, MaxDepthExceeded
from minidock.formats.gojson import parse_json, parse_json_any
from minidock.formats.platform import Platform
from minidock.ids import Digest, ImageID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
CONFIG_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
ATTESTATION_ANNOTATION = "vnd.docker.reference.type"
NAME_ANNOTATION = "io.containerd.image.name"
REF_ANNOTATION = "org.opencontainers.image.ref.name"

# Far above what any tool writes; a bound only so that no document makes us loop for long.
MAX_IMAGES = 1000


class SavedImage:
    """One element of docker-save's manifest.json.

    Shape: config and layers are names of members, layers bottom first; parent None when not given
    """

    __slots__ = ("config", "layers", "parent", "tags")

    def __init__(self, config: str, tags: list[str], layers: list[str], parent: ImageID | None) -> None:
        self.config = config
        self.tags = tags
        self.layers = layers
        self.parent = parent


class Descriptor:
    """What an index or a manifest says of a blob."""

    __slots__ = ("annotations", "digest", "media_type", "platform", "size_bytes")

    def __init__(self, document: dict[str, Any], what: str) -> None:
        """Check document; raises BadManifest."""
        try:
            self.digest = Digest.parse(document.get("digest", ""))
        except FormatError as error:
            raise BadManifest(f"{what}: {error.message[:200]}") from None
        size = document.get("size")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 63:
            raise BadManifest(f"{what}: {self.digest} has no usable size")
        self.size_bytes = size
        self.media_type = _text(document, "mediaType", what)
        annotations = _object(document, "annotations", what)
        self.annotations = {key: _text(annotations, key, what) for key in annotations}
        platform = _object(document, "platform", what)
        self.platform = (
            Platform(*(_text(platform, key, what) for key in ("os", "architecture", "variant"))) if platform else None
        )

    @property
    def is_attestation(self) -> bool:
        """Whether this is buildkit's provenance beside an image and no image."""
        unknown = self.platform is not None and (self.platform.os, self.platform.architecture) == ("unknown", "unknown")
        return unknown or ATTESTATION_ANNOTATION in self.annotations


class ImageManifest:
    """A manifest: the config's descriptor and those of the layers, bottom first."""

    __slots__ = ("config", "layers")

    def __init__(self, config: Descriptor, layers: list[Descriptor]) -> None:
        self.config = config
        self.layers = layers


def parse_manifest_json(raw: bytes) -> list[SavedImage] | ImageManifest:
    """Parse a `manifest.json`: docker-save's is a list of images, podman's docker-dir's an image manifest.

    Raises: BadManifest
    """
    what = "manifest.json"
    document = _json(raw, what)
    if isinstance(document, dict):
        manifest = _manifest_or_index(document, "", what)
        if isinstance(manifest, ImageManifest):
            return manifest
        raise BadManifest(f"{what}: an index stands where an image manifest is expected")
    if not isinstance(document, list):
        raise BadManifest(f"{what}: a list of images is expected")
    if not document:
        raise BadManifest(f"{what}: there is no image in it")
    if len(document) > MAX_IMAGES:
        raise BadManifest(f"{what}: {len(document)} images, more than {MAX_IMAGES}")
    return [_saved_image(entry, f"{what}, image {number}") for number, entry in enumerate(document, 1)]


def parse_manifest(raw: bytes, *, media_type: str, what: str) -> ImageManifest | list[Descriptor]:
    """Parse a manifest or an index, whichever it is.

    Shape:   media_type: what the descriptor promised, "" if nothing
    Returns: an ImageManifest, or an index's descriptors
    Raises:  BadManifest; also when the document could be both, or is not what was promised
    """
    document = _json(raw, what)
    if not isinstance(document, dict):
        raise BadManifest(f"{what}: a JSON object is expected")
    return _manifest_or_index(document, media_type, what)


def parse_index(raw: bytes, *, what: str) -> list[Descriptor]:
    """Parse an index; raises BadManifest, also when it is a manifest."""
    parsed = parse_manifest(raw, media_type="", what=what)
    if isinstance(parsed, ImageManifest):
        raise BadManifest(f"{what}: an image manifest stands where an index is expected")
    return parsed


def check_layout(raw: bytes) -> None:
    """Check the file `oci-layout`; raises BadManifest."""
    try:
        layout = parse_json(raw, what="oci-layout", limit_bytes=MAX_MANIFEST_BYTES)
    except FormatError as error:
        raise BadManifest(error.message) from None
    version = _text(layout, "imageLayoutVersion", "oci-layout")
    if not version.startswith("1."):
        raise BadManifest(f"oci-layout: version {version[:40]!r} is unknown")


def _manifest_or_index(document: dict[str, Any], promised: str, what: str) -> ImageManifest | list[Descriptor]:
    faces = [key for key in ("manifests", "layers", "fsLayers") if key in document]
    if len(faces) > 1 or ("manifests" in document and "config" in document):
        raise BadManifest(f"{what}: it is an index and a manifest at once")
    if faces == ["fsLayers"] or document.get("schemaVersion") != 2:
        raise BadManifest(f"{what}: schema version {str(document.get('schemaVersion'))[:20]!r} is not supported")
    said = _text(document, "mediaType", what)
    if promised and said and promised != said:
        raise BadManifest(f"{what}: media type {said[:100]!r} instead of the promised {promised[:100]!r}")
    media_type = said or promised
    if "manifests" in document:
        if media_type and media_type not in INDEX_TYPES:
            raise BadManifest(f"{what}: an index with the media type {media_type[:100]!r}")
        entries = _list(document, "manifests", what)
        if len(entries) > MAX_IMAGES:
            raise BadManifest(f"{what}: {len(entries)} manifests, more than {MAX_IMAGES}")
        return [Descriptor(_checked(entry, what), what) for entry in entries]
    if media_type and media_type not in MANIFEST_TYPES:
        raise BadManifest(f"{what}: a manifest with the media type {media_type[:100]!r}")
    layers = _list(document, "layers", what)
    _check_depth(len(layers), what)
    config = Descriptor(_object(document, "config", what), f"{what}, config")
    return ImageManifest(config, [Descriptor(_checked(entry, what), f"{what}, layer") for entry in layers])


def _saved_image(entry: Any, what: str) -> SavedImage:
    document = _checked(entry, what)
    config = _text(document, "Config", what)
    if not config:
        raise BadManifest(f"{what}: it names no config")
    layers = _texts(document, "Layers", what)
    _check_depth(len(layers), what)
    parent = _text(document, "Parent", what)
    try:
        parent_id = ImageID(ImageID.parse(parent)) if parent else None
    except FormatError as error:
        raise BadManifest(f"{what}: Parent: {error.message[:200]}") from None
    return SavedImage(config, _texts(document, "RepoTags", what), layers, parent_id)


def _check_depth(depth: int, what: str) -> None:
    if depth > MAX_LAYERS:
        raise MaxDepthExceeded(f"{what}: max depth exceeded: {depth} layers, the engine takes {MAX_LAYERS}")


def _json(raw: bytes, what: str) -> Any:
    try:
        return parse_json_any(raw, what=what, limit_bytes=MAX_MANIFEST_BYTES)
    except FormatError as error:
        raise BadManifest(error.message) from None


def _checked(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadManifest(f"{what}: a JSON object is expected")
    return value


def _object(document: dict[str, Any], key: str, what: str) -> dict[str, Any]:
    value = document.get(key)
    return {} if value is None else _checked(value, f"{what}, {key}")


def _list(document: dict[str, Any], key: str, what: str) -> list[Any]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadManifest(f"{what}: {key} must be a list")
    return value


def _text(document: dict[str, Any], key: str, what: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadManifest(f"{what}: {key[:60]!r} must be a string")
    return value


def _texts(document: dict[str, Any], key: str, what: str) -> list[str]:
    return [_text({key: item}, key, what) for item in _list(document, key, what)]
