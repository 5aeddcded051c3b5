"""OCI image layouts (tar or directory) and the directories that podman calls docker-dir.

An index may name several images, and one image for several platforms, nested as deep as its maker liked.
Every blob is held against its descriptor's digest and size.

Source: OCI image spec, image-layout.md, image-index.md, descriptor.md; shared format notes §10
"""

from __future__ import annotations

from minidock.constants import MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES
from minidock.errors import BadArchive, BadManifest, InvalidReference
from minidock.formats.archivedimage import ArchivedImage, check_size, locate_layer, read_member
from minidock.formats.imageconfig import ImageConfig
from minidock.formats.manifest import (
    CONFIG_TYPES,
    MAX_IMAGES,
    NAME_ANNOTATION,
    REF_ANNOTATION,
    ImageManifest,
    check_layout,
    parse_index,
    parse_manifest,
)
from minidock.formats.platform import Platform
from minidock.formats.reference import parse_tag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.formats.archivedimage import Members
    from minidock.formats.manifest import Descriptor
    from minidock.formats.reference import Reference

_MAX_INDEX_DEPTH = 5


class _Candidate:
    """A manifest that may be the one to take, with the platform it is for."""

    __slots__ = ("manifest", "platform")

    def __init__(self, manifest: ImageManifest, platform: Platform) -> None:
        self.manifest = manifest
        self.platform = platform


class LayoutReader:
    """Reads the images of a layout for one platform."""

    def __init__(self, members: Members, wanted: Platform, *, blob_folder: str = "blobs/sha256/") -> None:
        self._members = members
        self._wanted = wanted
        self._blob_folder = blob_folder
        self._seen = 0

    def read_layout(self) -> list[ArchivedImage]:
        """The images of `index.json`; raises FormatError, InvalidReference."""
        what = self._members.what
        check_layout(read_member(self._members, "oci-layout", limit_bytes=MAX_MANIFEST_BYTES))
        raw = read_member(self._members, "index.json", limit_bytes=MAX_MANIFEST_BYTES)
        groups = _group(parse_index(raw, what=f"{what}: index.json"))
        images: list[ArchivedImage] = []
        for descriptors in groups:
            candidates: list[_Candidate] = []
            for descriptor in descriptors:
                candidates += self._candidates(descriptor, 0)
            if candidates:
                images.append(self._choose(candidates, _references_of(descriptors)))
        if not images:
            raise BadManifest(f"{what}: index.json names no image")
        return _merge(images)

    def read_image(self, manifest: ImageManifest, references: list[Reference]) -> ArchivedImage:
        """The image of a manifest; raises FormatError."""
        config = self._read_config(manifest.config)
        if len(manifest.layers) != len(config.diff_ids):
            raise BadManifest(
                f"{self._members.what}: the manifest lists {len(manifest.layers)} layers, "
                f"the config {len(config.diff_ids)} diff_ids"
            )
        layers = []
        for descriptor, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            name = self._blob_folder + descriptor.digest.hex
            if "+encrypted" in descriptor.media_type:
                raise BadManifest(f"{self._members.what}: layer {descriptor.digest} is encrypted")
            if not self._members.has_file(name):
                raise BadArchive(f"{self._members.what}: the blob of layer {descriptor.digest} is missing")
            blob = locate_layer(self._members, name, diff_id, descriptor.digest)
            check_size(self._members, name, blob.length_bytes, descriptor.size_bytes)
            layers.append(blob)
        return ArchivedImage(config, references, layers)

    def _candidates(self, descriptor: Descriptor, depth: int) -> list[_Candidate]:
        """The image manifests behind a descriptor; attestations and what is no image are left out."""
        if descriptor.is_attestation:
            return []
        self._seen += 1
        if depth > _MAX_INDEX_DEPTH or self._seen > MAX_IMAGES:
            raise BadManifest(f"{self._members.what}: indexes are nested too deeply or name too many manifests")
        parsed = self._read_document(descriptor)
        if isinstance(parsed, ImageManifest):
            if parsed.config.media_type and parsed.config.media_type not in CONFIG_TYPES:
                return []
            return [_Candidate(parsed, descriptor.platform or self._platform_of(parsed))]
        found: list[_Candidate] = []
        for inner in parsed:
            # A platform that cannot run here may be missing from the layout, so it is named but not read.
            if inner.platform is not None and self._wanted.rank(inner.platform) is None and not inner.is_attestation:
                found.append(_Candidate(_UNREAD, inner.platform))
            else:
                found += self._candidates(inner, depth + 1)
        return found

    def _read_document(self, descriptor: Descriptor) -> ImageManifest | list[Descriptor]:
        name = self._blob_folder + descriptor.digest.hex
        raw = read_member(
            self._members,
            name,
            limit_bytes=MAX_MANIFEST_BYTES,
            digest=descriptor.digest,
            size_bytes=descriptor.size_bytes,
        )
        what = f"{self._members.what}: manifest {descriptor.digest}"
        return parse_manifest(raw, media_type=descriptor.media_type, what=what)

    def _read_config(self, descriptor: Descriptor) -> ImageConfig:
        name = self._blob_folder + descriptor.digest.hex
        raw = read_member(
            self._members,
            name,
            limit_bytes=MAX_CONFIG_BYTES,
            digest=descriptor.digest,
            size_bytes=descriptor.size_bytes,
        )
        return ImageConfig.parse(raw).validate()

    def _platform_of(self, manifest: ImageManifest) -> Platform:
        config = self._read_config(manifest.config)
        if not config.architecture:
            return self._wanted
        return Platform(config.os, config.architecture, config.variant)

    def _choose(self, candidates: list[_Candidate], references: list[Reference]) -> ArchivedImage:
        best: _Candidate | None = None
        best_rank = -1
        for candidate in candidates:
            rank = self._wanted.rank(candidate.platform)
            if rank is not None and rank > best_rank:
                best, best_rank = candidate, rank
        if best is None and len(candidates) == 1 and candidates[0].manifest is not _UNREAD:
            # The only image there is: loaded as docker does; whoever reads the archive warns.
            best = candidates[0]
        if best is None:
            offered = ", ".join(sorted({str(candidate.platform) for candidate in candidates}))
            raise BadManifest(
                f"{self._members.what}: no image for {self._wanted}; there is one for {offered[:300]}",
                hint="choose with --platform",
            )
        return self.read_image(best.manifest, references)


_UNREAD = ImageManifest.__new__(ImageManifest)


def _group(descriptors: list[Descriptor]) -> list[list[Descriptor]]:
    """The top level's descriptors, those that are one image for several platforms together."""
    groups: dict[object, list[Descriptor]] = {}
    for number, descriptor in enumerate(descriptors):
        if descriptor.is_attestation:
            continue
        name = (descriptor.annotations.get(NAME_ANNOTATION, ""), descriptor.annotations.get(REF_ANNOTATION, ""))
        key: object = name
        if name == ("", "") and descriptor.platform is None:
            key = number
        groups.setdefault(key, []).append(descriptor)
    return list(groups.values())


def _references_of(descriptors: list[Descriptor]) -> list[Reference]:
    """The reference that the annotations give.

    Engines put the full name into an annotation of their own and the bare tag into the standard one; podman puts
    the full name there, and others free text, which names nothing.
    """
    annotations = descriptors[0].annotations
    full = annotations.get(NAME_ANNOTATION, "")
    if full:
        return [parse_tag(full)]
    text = annotations.get(REF_ANNOTATION, "")
    if ":" not in text and "/" not in text:
        return []
    try:
        return [parse_tag(text)]
    except InvalidReference:
        return []


def _merge(images: list[ArchivedImage]) -> list[ArchivedImage]:
    """Put together what the index names more than once, one entry for each tag."""
    merged: dict[str, ArchivedImage] = {}
    for image in images:
        first = merged.setdefault(image.config.image_id, image)
        if first is not image:
            first.references += [one for one in image.references if one not in first.references]
    return list(merged.values())
