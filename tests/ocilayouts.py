"""OCI image layouts for tests, written without the product's own code: as tar members or as a directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests import builders

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'


class Layout:
    """A layout being made: blobs by digest, and the index's descriptors."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: list[dict[str, Any]] = []
        self.index: dict[str, Any] = {"schemaVersion": 2, "mediaType": INDEX}

    def add_blob(self, data: bytes, media_type: str, **extra: Any) -> dict[str, Any]:
        """Store bytes and return their descriptor."""
        digest = builders.sha256(data)
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data), **extra}

    def add_document(self, document: dict[str, Any], media_type: str, **extra: Any) -> dict[str, Any]:
        """Store a JSON document and return its descriptor."""
        return self.add_blob(json.dumps(document).encode(), media_type, **extra)

    def add_image(self, image: builders.ImageSpec, *, compress: Any = None, **extra: Any) -> dict[str, Any]:
        """Store an image and return its manifest's descriptor."""
        layers = [self.add_blob(compress(layer) if compress else layer, LAYER) for layer in image.layers]
        return self.add_document(self.manifest_of(image.config, layers), MANIFEST, **extra)

    def manifest_of(self, config: bytes, layers: list[dict[str, Any]]) -> dict[str, Any]:
        """A manifest document; the config is stored too."""
        return {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.add_blob(config, CONFIG),
            "layers": layers,
        }

    def add_index(self, manifests: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
        """Store a nested index and return its descriptor."""
        return self.add_document({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}, INDEX, **extra)

    def members(self) -> list[tuple[str, bytes | None | tuple[str, str]]]:
        """The members of a layout in a tar."""
        blobs: list[tuple[str, bytes | None | tuple[str, str]]] = [
            ("blobs/sha256/" + digest[7:], data) for digest, data in self.blobs.items()
        ]
        index = json.dumps({**self.index, "manifests": self.manifests}).encode()
        return [*blobs, ("index.json", index), ("oci-layout", LAYOUT)]

    def tar(self) -> bytes:
        """The layout as a tar."""
        return builders.outer_tar(self.members())

    def write(self, folder: Path) -> Path:
        """The layout as a directory."""
        for name, data in self.members():
            assert isinstance(data, bytes)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder


def platform(text: str) -> dict[str, str]:
    """A descriptor's platform object from `os/architecture[/variant]`."""
    return dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))


def named(reference: str) -> dict[str, str]:
    """The annotations with which engines name an image in an index."""
    return {
        "io.containerd.image.name": "docker.io/library/" + reference,
        "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
    }
