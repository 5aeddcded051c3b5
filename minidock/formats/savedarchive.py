"""Image archives to write: what stands in them besides the layers.

The docker form is that of engines since 25, which older ones, podman and skopeo load as well: OCI blobs and index,
and beside them manifest.json and `repositories`. The OCI form is the same without these two. All names are sorted and
no time is the present one, so the same images always give the same bytes.

Source: moby image/tarexport/save.go; OCI image-spec image-layout.md; shared format notes §11
"""

from __future__ import annotations

from minidock.formats.gojson import encode_json
from minidock.formats.tarwriter import DIRECTORY, REGULAR, encode_header
from minidock.ids import DiffID, Digest, sha256_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.formats.imageconfig import ImageConfig
    from minidock.formats.reference import Reference
    from minidock.ids import ImageID

_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'
_BLOBS = "blobs/sha256/"
_LAST_TIME_S = 0o77777777777


class ImageToSave:
    """One image as it goes into an archive.

    Shape: layers: (diff_id, bytes of its tar), bottom first; parent only when it goes into the same archive
    """

    __slots__ = ("config", "layers", "parent", "references")

    def __init__(
        self,
        config: ImageConfig,
        layers: list[tuple[DiffID, int]],
        references: list[Reference],
        parent: ImageID | None = None,
    ) -> None:
        self.config = config
        self.layers = layers
        self.references = references
        self.parent = parent


class ArchiveMember:
    """One entry of the archive, in the archive's order.

    Shape: data: its content, empty for a directory; diff_id: set for a layer, whose tar is the content
    """

    __slots__ = ("data", "diff_id", "header")

    def __init__(self, header: bytes, data: bytes = b"", diff_id: DiffID | None = None) -> None:
        self.header = header
        self.data = data
        self.diff_id = diff_id


def plan_archive(images: list[ImageToSave], *, with_docker_manifest: bool) -> list[ArchiveMember]:
    """Every entry of the archive, in the order in which it is to be written."""
    blobs: dict[str, tuple[bytes | int, int]] = {}
    index: list[dict[str, Any]] = []
    documents: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    is_ambiguous = _has_double_tags(images)
    for image in images:
        created_s = min(max((image.config.created_ns or 0) // 1_000_000_000, 0), _LAST_TIME_S)
        for diff_id, size_bytes in image.layers:
            blobs.setdefault(diff_id[7:], (size_bytes, created_s))
        manifest = encode_json(_manifest(image))
        for data in (image.config.raw, manifest):
            blobs[sha256_hex(data)] = (data, created_s)
        full_names = is_ambiguous and not with_docker_manifest
        index += _index_entries(image, manifest, full_names=full_names)
        documents.append(_docker_manifest(image))
        for reference in image.references:
            if image.layers and reference.tag:
                tags = repositories.setdefault(reference.familiar_name, {})
                tags[reference.tag] = image.layers[-1][0][7:]
    files = {
        "index.json": encode_json({"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": index}),
        "oci-layout": _LAYOUT,
    }
    if with_docker_manifest:
        files["manifest.json"] = encode_json(documents) + b"\n"
        if repositories:
            files["repositories"] = encode_json(repositories, sort_keys=True) + b"\n"
    members = [_folder("blobs/"), _folder(_BLOBS)]
    for name, (content, created_s) in sorted(blobs.items()):
        size_bytes = content if isinstance(content, int) else len(content)
        header = _file_header(_BLOBS + name, size_bytes, created_s)
        if isinstance(content, int):
            members.append(ArchiveMember(header, diff_id=DiffID("sha256:" + name)))
        else:
            members.append(ArchiveMember(header, content))
    members += [ArchiveMember(_file_header(name, len(files[name]), 0), files[name]) for name in sorted(files)]
    return members


def _folder(name: str) -> ArchiveMember:
    return ArchiveMember(encode_header(name.encode("ascii"), DIRECTORY, mode=0o755))


def _file_header(name: str, size_bytes: int, mtime_s: int) -> bytes:
    return encode_header(name.encode("ascii"), REGULAR, mode=0o644, size_bytes=size_bytes, mtime_s=mtime_s)


def _descriptor(media_type: str, digest: str, size_bytes: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size_bytes}


def _manifest(image: ImageToSave) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": _descriptor(_CONFIG_TYPE, image.config.image_id, len(image.config.raw)),
        "layers": [_descriptor(_LAYER_TYPE, diff_id, size_bytes) for diff_id, size_bytes in image.layers],
    }


def _index_entries(image: ImageToSave, manifest: bytes, *, full_names: bool) -> list[dict[str, Any]]:
    """One descriptor a name, or one without a name."""
    bare = _descriptor(_MANIFEST_TYPE, Digest("sha256:" + sha256_hex(manifest)), len(manifest))
    return [
        {
            **bare,
            "annotations": {
                "io.containerd.image.name": reference.canonical,
                "org.opencontainers.image.ref.name": reference.canonical if full_names else reference.tag,
            },
        }
        for reference in image.references
    ] or [bare]


def _has_double_tags(images: list[ImageToSave]) -> bool:
    """Whether a tag alone would be said twice, as of `a:1` and `b:1` in a form that knows no repositories."""
    tags = [reference.tag for image in images for reference in image.references]
    return len(set(tags)) < len(tags)


def _docker_manifest(image: ImageToSave) -> dict[str, Any]:
    """The image's entry in manifest.json. Source: moby image/tarexport/tarexport.go, manifestItem"""
    document: dict[str, Any] = {
        "Config": _BLOBS + image.config.image_id.hex,
        "RepoTags": [reference.familiar for reference in image.references] or None,
        "Layers": [_BLOBS + diff_id.hex for diff_id, _ in image.layers],
    }
    if image.parent:
        document["Parent"] = image.parent
    sources = {
        diff_id: {"mediaType": _LAYER_TYPE, "size": size_bytes, "digest": diff_id}
        for diff_id, size_bytes in sorted(image.layers)
    }
    if sources:
        document["LayerSources"] = sources
    return document
