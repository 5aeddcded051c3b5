"""The cases of `bad_archives` that are OCI layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidock import errors
from tests import bad_archives, builders, ocilayouts
from tests.bad_archives import add, case


def _layout(change: Callable[[ocilayouts.Layout, dict[str, Any]], Any]) -> bytes:
    """A layout whose only manifest document is changed, or replaced, by `change`."""
    layout = ocilayouts.Layout()
    spec = bad_archives.image()
    layers = [layout.add_blob(layer, ocilayouts.LAYER) for layer in spec.layers]
    document = layout.manifest_of(spec.config, layers)
    replaced = change(layout, document)
    if isinstance(replaced, dict):
        layout.manifests.append(replaced)
    else:
        layout.manifests.append(layout.add_document(document, ocilayouts.MANIFEST))
    return layout.tar()


@case("oci-layer-missing", errors.BadArchive, "missing")
def _oci_layer_missing(_: str) -> bytes:
    return _layout(lambda layout, document: layout.blobs.pop(document["layers"][0]["digest"]) and None)


@case("oci-config-missing", errors.BadArchive, "not in there")
def _oci_config_missing(_: str) -> bytes:
    return _layout(lambda layout, document: layout.blobs.pop(document["config"]["digest"]) and None)


@case("oci-blob-wrong", errors.DigestMismatch, "expected")
def _oci_blob_wrong(_: str) -> bytes:
    return _layout(lambda layout, document: layout.blobs.update({document["layers"][0]["digest"]: bad_archives.OTHER}))


@case("oci-config-wrong", errors.DigestMismatch, "expected")
def _oci_config_wrong(_: str) -> bytes:
    def change(layout: ocilayouts.Layout, document: dict[str, Any]) -> None:
        digest = document["config"]["digest"]
        layout.blobs[digest] = layout.blobs[digest].replace(b"layer 0", b"layer X")

    return _layout(change)


@case("oci-size-wrong", errors.BadArchive, "descriptor says")
def _oci_size_wrong(_: str) -> bytes:
    return _layout(lambda layout, document: document["layers"][0].update(size=5))


@case("oci-size-negative", errors.BadManifest, "size")
def _oci_size_negative(_: str) -> bytes:
    return _layout(lambda layout, document: document["layers"][0].update(size=-1))


@case("oci-digest-traversal", errors.BadManifest, "not a sha256")
def _oci_digest_traversal(_: str) -> bytes:
    return _layout(lambda layout, document: document["layers"][0].update(digest="sha256:../../../etc/passwd"))


@case("oci-digest-sha512", errors.BadManifest, "not a sha256")
def _oci_digest_sha512(_: str) -> bytes:
    return _layout(lambda layout, document: document["config"].update(digest="sha512:" + "a" * 128))


@case("oci-encrypted", errors.BadManifest, "encrypted")
def _oci_encrypted(_: str) -> bytes:
    return _layout(lambda layout, document: document["layers"][0].update(mediaType=ocilayouts.LAYER + "+encrypted"))


@case("oci-layers-extra", errors.BadManifest, "2 layers")
def _oci_layers_extra(_: str) -> bytes:
    return _layout(lambda layout, document: document["layers"].append(document["layers"][0]))


for _name, _type in {"manifest": ocilayouts.MANIFEST, "index": ocilayouts.INDEX, "docker": ""}.items():

    @case(f"oci-two-faced-{_name}", errors.BadManifest, "at once")
    def _two_faced(_: str, media_type: str = _type) -> bytes:
        def change(layout: ocilayouts.Layout, document: dict[str, Any]) -> dict[str, Any]:
            inner = layout.add_document(dict(document), ocilayouts.MANIFEST)
            document["manifests"] = [inner]
            document.pop("mediaType")
            return layout.add_document(document, media_type)

        return _layout(change)


@case("oci-media-type-differs", errors.BadManifest, "instead of the promised")
def _media_type_differs(_: str) -> bytes:
    return _layout(lambda layout, document: layout.add_document(document, ocilayouts.INDEX))


@case("oci-media-type-absent", errors.BadManifest, "media type")
def _media_type_absent(_: str) -> bytes:
    def change(layout: ocilayouts.Layout, document: dict[str, Any]) -> dict[str, Any]:
        document.pop("mediaType")
        return layout.add_document(document, ocilayouts.INDEX)

    return _layout(change)


@case("oci-schema-1", errors.BadManifest, "schema version")
def _schema_1(_: str) -> bytes:
    return _layout(lambda layout, document: document.update(schemaVersion=1))


@case("oci-nested-deep", errors.BadManifest, "nested too deeply")
def _nested_deep(_: str) -> bytes:
    def change(layout: ocilayouts.Layout, document: dict[str, Any]) -> dict[str, Any]:
        descriptor = layout.add_document(document, ocilayouts.MANIFEST)
        for _ in range(20):
            descriptor = layout.add_index([descriptor])
        return descriptor

    return _layout(change)


@case("oci-index-fan", errors.BadManifest, "too many")
def _index_fan(_: str) -> bytes:
    def change(layout: ocilayouts.Layout, document: dict[str, Any]) -> dict[str, Any]:
        descriptor = layout.add_document(document, ocilayouts.MANIFEST)
        for _ in range(4):
            descriptor = layout.add_index([descriptor] * 500)
        return descriptor

    return _layout(change)


@case("oci-only-attestation", errors.BadManifest, "names no image")
def _only_attestation(_: str) -> bytes:
    return _layout(
        lambda layout, document: layout.add_document(
            document, ocilayouts.MANIFEST, annotations={"vnd.docker.reference.type": "attestation-manifest"}
        )
    )


@case("oci-artifact", errors.BadManifest, "names no image")
def _artifact(_: str) -> bytes:
    return _layout(lambda layout, document: document["config"].update(mediaType="application/vnd.cyclonedx+json"))


@case("oci-no-platform", errors.BadManifest, "there is one for linux/mips64le, linux/s390x")
def _no_platform(_: str) -> bytes:
    def change(layout: ocilayouts.Layout, document: dict[str, Any]) -> dict[str, Any]:
        one = layout.add_document(document, ocilayouts.MANIFEST, platform=ocilayouts.platform("linux/s390x"))
        two = {**one, "platform": ocilayouts.platform("linux/mips64le")}
        return layout.add_index([one, two])

    return _layout(change)


@case("oci-name-bad", errors.InvalidReference, "lowercase")
def _oci_name_bad(_: str) -> bytes:
    return _layout(
        lambda layout, document: layout.add_document(
            document, ocilayouts.MANIFEST, annotations={"io.containerd.image.name": "docker.io/library/BAD:1"}
        )
    )


def _layout_with(name: str, data: bytes | None) -> bytes:
    layout = ocilayouts.Layout()
    layout.manifests.append(layout.add_image(bad_archives.image()))
    members = [(old, content) for old, content in layout.members() if old != name]
    return builders.outer_tar(members if data is None else [*members, (name, data)])


add("oci-no-index", errors.BadManifest, "without index.json", _layout_with("index.json", None))
add("oci-index-text", errors.BadManifest, "JSON", _layout_with("index.json", b"hello"))
add("oci-index-list", errors.BadManifest, "object", _layout_with("index.json", b"[]"))
add("oci-version-9", errors.BadManifest, "unknown", _layout_with("oci-layout", b'{"imageLayoutVersion":"9.0.0"}'))
