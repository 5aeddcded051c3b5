"""Archives that no engine should load, each with the error that names its fault.

Where a case names a file outside, it is CANARY's; its content must appear in no message and no image.
"""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minidock import errors
from tests import builders, ocilayouts
from tests.builders import ImageSpec

SECRET = b"the-host-keeps-this-to-itself"
TINY = builders.layer_tar(builders.tar_member(b"etc/motd", b"hello\n"))
OTHER = builders.layer_tar(builders.tar_member(b"etc/other", b"other\n"))
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000100000001008060000001ff3ff61") + bytes(600)

Members = list[tuple[str, Any]]
Make = Callable[[str], bytes]
# name -> (make(path of the canary), error class, words in the message)
CASES: dict[str, tuple[Make, type[errors.MinidockError], str]] = {}


def write_canary(folder: Path) -> Path:
    """The file outside that no archive may read."""
    canary = folder / "canary"
    canary.write_bytes(SECRET)
    return canary


def _case(name: str, error: type[errors.MinidockError], words: str) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        CASES[name] = (make, error, words)
        return make

    return keep


def _add(name: str, error: type[errors.MinidockError], words: str, data: bytes) -> None:
    CASES[name] = (lambda _: data, error, words)


def image(**document: Any) -> ImageSpec:
    """A small image with changes to its config's document."""
    return ImageSpec([TINY], tags=["bad:1"], config=builders.image_config([TINY], **document))


def saved(*images: ImageSpec, edit: Callable[[Any], Any] | None = None, style: str = "podman") -> Members:
    """A docker-save archive's members, with the manifest's document changed."""
    members: Members = list(builders.docker_archive_members(*(images or (image(),)), style=style))
    if edit is None:
        return members
    changed: Members = []
    for name, data in members:
        if name == "manifest.json":
            document = json.loads(data)
            result = edit(document)
            data = json.dumps(document if result is None else result).encode()
        changed.append((name, data))
    return changed


def _with_config(raw: bytes) -> bytes:
    """An archive whose config has exactly these bytes, under their right name."""
    return builders.outer_tar(saved(ImageSpec([TINY], tags=["bad:1"], config=raw)))


def _with_manifest(raw: bytes) -> bytes:
    members = [(name, data) for name, data in saved() if name != "manifest.json"]
    return builders.outer_tar([*members, ("manifest.json", raw)])


def _edited(edit: Callable[[Any], Any], *extra: tuple[str, Any]) -> bytes:
    return builders.outer_tar([*saved(edit=edit), *extra])


def _set(key: str, value: Any) -> Callable[[Any], Any]:
    def edit(document: Any) -> None:
        document[0][key] = value

    return edit


# --- not an archive at all
_add("file-empty", errors.BadArchive, "is empty", b"")
_add("file-zeros", errors.BadArchive, "archive is empty", bytes(10240))
_add("file-png", errors.BadArchive, "libmagic says PNG image data", PNG)
_add("file-text", errors.BadArchive, "libmagic says ASCII text", b"just words\n" * 100)
_add("file-html", errors.BadArchive, "not an image archive", b"<!DOCTYPE html><html><body>404</body></html>\n" * 20)
_add("file-gzip-png", errors.BadArchive, "not an image archive", gzip.compress(PNG))
_add("file-gzip-nothing", errors.BadArchive, "empty", gzip.compress(b""))
_add("file-gzip-cut", errors.BadArchive, "truncated", gzip.compress(builders.outer_tar(saved()))[:-40])
_add("file-xz-cut", errors.BadArchive, "truncated", lzma.compress(builders.outer_tar(saved()))[:-40])


@_case("file-gzip-corrupt", errors.BadArchive, "corrupt")
def _gzip_corrupt(_: str) -> bytes:
    data = bytearray(gzip.compress(builders.outer_tar(saved())))
    data[len(data) // 2] ^= 0xFF
    data[-8] ^= 0xFF
    return bytes(data)


_add("outer-cut-in-member", errors.BadArchive, "truncated", builders.outer_tar(saved())[:1400])
_add("outer-cut-in-header", errors.BadArchive, "truncated", builders.outer_tar(saved())[:700])
_add(
    "outer-negative-size",
    errors.BadArchive,
    "negative",
    builders.tar_header(b"x", size=-1) + builders.outer_tar(saved()),
)
_add(
    "outer-huge-size",
    errors.BadArchive,
    "truncated",
    builders.tar_header(b"manifest.json", size=1 << 60) + bytes(1024),
)
_add("outer-bad-sum", errors.BadArchive, "", builders.tar_member(b"a", b"x") + b"\x01" * 512 + builders.END)
_add(
    "outer-name-outside",
    errors.UnsafePath,
    "outside",
    builders.tar_member(b"../evil", b"x") + builders.outer_tar(saved()),
)
_add(
    "outer-name-absolute",
    errors.UnsafePath,
    "absolute",
    builders.tar_member(b"/tmp/minidock-evil", b"x") + builders.outer_tar(saved()),
)

# --- manifest.json
_add("manifest-not-json", errors.BadManifest, "not valid JSON", _with_manifest(b"{nope"))
_add("manifest-empty-list", errors.BadManifest, "no image", _with_manifest(b"[]"))
_add("manifest-number", errors.BadManifest, "list of images", _with_manifest(b"5"))
_add("manifest-of-null", errors.BadManifest, "object", _with_manifest(b"[null]"))
_add("manifest-nested", errors.BadManifest, "nested too deeply", _with_manifest(b"[" * 200_000))
_add("manifest-5mb", errors.FormatError, "more than", _with_manifest(b"[" + b" " * (5 << 20) + b"]"))
_add(
    "manifest-1000-images",
    errors.BadManifest,
    "more than",
    _with_manifest(json.dumps([{"Config": "x"}] * 1001).encode()),
)
_add("manifest-no-config", errors.BadManifest, "names no config", _edited(_set("Config", None)))
_add("manifest-config-list", errors.BadManifest, "string", _edited(_set("Config", ["x"])))
_add("manifest-config-missing", errors.BadArchive, "not in there", _edited(_set("Config", "none.json")))
_add("manifest-config-dotdot", errors.UnsafePath, "outside", _edited(_set("Config", "../../../../etc/passwd")))
_add("manifest-layers-text", errors.BadManifest, "list", _edited(_set("Layers", "x.tar")))
_add("manifest-layers-numbers", errors.BadManifest, "string", _edited(_set("Layers", [5])))
_add("manifest-layer-missing", errors.BadArchive, "not in there", _edited(_set("Layers", ["none.tar"])))
_add("manifest-layer-dotdot", errors.UnsafePath, "outside", _edited(_set("Layers", ["a/../../../etc/passwd"])))
_add("manifest-layer-removed", errors.BadManifest, "0 layers", _edited(_set("Layers", [])))
_add("manifest-tags-text", errors.BadManifest, "list", _edited(_set("RepoTags", "bad:1")))


@_case("manifest-config-absolute", errors.UnsafePath, "absolute")
def _config_absolute(canary: str) -> bytes:
    return _edited(_set("Config", canary))


@_case("manifest-layer-absolute", errors.UnsafePath, "absolute")
def _layer_absolute(canary: str) -> bytes:
    return _edited(_set("Layers", [canary]))


@_case("manifest-config-symlink", errors.UnsafePath, "absolute")
def _config_symlink(canary: str) -> bytes:
    return _edited(_set("Config", "c"), ("c", ("symlink", canary)))


@_case("manifest-layer-symlink", errors.UnsafePath, "absolute")
def _layer_symlink(canary: str) -> bytes:
    return _edited(_set("Layers", ["l"]), ("l", ("symlink", canary)))


@_case("manifest-layer-symlink-dotdot", errors.UnsafePath, "outside")
def _layer_symlink_dotdot(canary: str) -> bytes:
    return _edited(_set("Layers", ["d/l"]), ("d/l", ("symlink", "../.." + canary)))


@_case("manifest-layer-hardlink", errors.UnsafePath, "absolute")
def _layer_hardlink(canary: str) -> bytes:
    return _edited(_set("Layers", ["l"]), ("l", ("hardlink", canary)))


@_case("manifest-layer-through-link", errors.BadArchive, "not in there")
def _layer_through_link(canary: str) -> bytes:
    return _edited(_set("Layers", ["d/canary"]), ("d", ("symlink", str(Path(canary).parent))))


_add(
    "manifest-layer-symlink-loop",
    errors.UnsafePath,
    "too many levels",
    _edited(_set("Layers", ["a"]), ("a", ("symlink", "b")), ("b", ("symlink", "a"))),
)
_add("manifest-layer-directory", errors.BadArchive, "not in there", _edited(_set("Layers", ["d"]), ("d/", None)))
_add(
    "manifest-layer-fifo",
    errors.BadArchive,
    "not in there",
    builders.tar_member(b"f", type=b"6") + _edited(_set("Layers", ["f"])),
)


@_case("manifest-extra-layer", errors.BadManifest, "2 layers")
def _extra_layer(_: str) -> bytes:
    return _edited(lambda document: document[0]["Layers"].append(document[0]["Layers"][0]))


@_case("layers-126", errors.MaxDepthExceeded, "max depth exceeded")
def _layers_126(_: str) -> bytes:
    return builders.outer_tar(saved(ImageSpec([TINY] * 126, tags=["bad:1"])))


@_case("layers-200", errors.MaxDepthExceeded, "max depth exceeded")
def _layers_200(_: str) -> bytes:
    return builders.outer_tar(saved(ImageSpec([TINY] * 200, tags=["bad:1"])))


@_case("parent-wrong", errors.BadManifest, "not a valid parent")
def _parent_wrong(_: str) -> bytes:
    base = ImageSpec([OTHER], tags=["base:1"])

    def edit(document: Any) -> None:
        document[0]["Parent"] = builders.sha256(base.config)

    return builders.outer_tar(saved(image(), base, edit=edit))


_add("parent-traversal", errors.BadManifest, "not a sha256", _edited(_set("Parent", "sha256:../../x")))

for _name, _tag in {
    "tag-upper": "Bad:1",
    "tag-long": "a" * 300 + ":1",
    "tag-dotdot": "../../x:1",
    "tag-hex": "a" * 64,
    "tag-without": "bad",
    "tag-digest": "bad@sha256:" + "a" * 64,
    "tag-empty": "",
    "tag-escape": "bad\x1b]0;x\x07:1",
    "tag-sha256": "sha256:1",
}.items():
    # The first image of two is good: nothing of it may appear either.
    _add(
        _name,
        errors.InvalidReference,
        "",
        builders.outer_tar(
            saved(
                ImageSpec([OTHER], tags=["good:1"]),
                ImageSpec([TINY], tags=["bad:1"]),
                edit=lambda document, tag=_tag: document[1].update(RepoTags=[tag]),
            )
        ),
    )

# --- the config
for _name, _raw in {
    "config-list": b"[]",
    "config-null": b"null",
    "config-text": b"hello",
    "config-empty": b"",
    "config-nested": b'{"a":' * 100_000,
    "config-no-rootfs": b'{"os":"linux"}',
    "config-17mb": b'{"a":"' + b"x" * (17 << 20) + b'"}',
}.items():
    _add(_name, errors.FormatError, "", _with_config(_raw))

for _name, _document in {
    "diffid-traversal": {"rootfs": {"type": "layers", "diff_ids": ["sha256:../../x"]}},
    "diffid-bad-algo": {"rootfs": {"type": "layers", "diff_ids": ["md5:" + "a" * 32]}},
    "diffid-upper": {"rootfs": {"type": "layers", "diff_ids": [builders.sha256(TINY).upper()]}},
    "config-windows": {"os": "windows"},
    "config-healthcheck": {"config": {"Healthcheck": {"Test": ["CMD"]}}},
    "config-env-text": {"config": {"Env": "PATH=/bin"}},
    "config-env-nameless": {"config": {"Env": ["=x"]}},
    "config-ports": {"config": {"ExposedPorts": {"http": {}}}},
    "config-stopsignal": {"config": {"StopSignal": 9}},
    "config-entrypoint": {"config": {"Entrypoint": {"a": 1}}},
    "config-history": {"history": [{}, {}, {}]},
    "config-time": {"created": "long ago"},
}.items():
    _add(_name, errors.BadConfig, "", builders.outer_tar(saved(image(**_document))))
_add(
    "diffid-count",
    errors.BadManifest,
    "1 layers, the config 2",
    builders.outer_tar(saved(ImageSpec([TINY], tags=["bad:1"], config=builders.image_config([TINY, OTHER])))),
)


@_case("config-digest", errors.DigestMismatch, "expected")
def _config_digest(_: str) -> bytes:
    spec = image()
    return builders.outer_tar(
        (name, data.replace(b"layer 0", b"layer X") if name.endswith(".json") and data else data)
        for name, data in saved(spec)
    )


# --- layers
def _layer_replaced(data: bytes) -> bytes:
    return builders.outer_tar((name, data if name.endswith(".tar") else old) for name, old in saved())


_add("diffid-wrong", errors.DigestMismatch, "expected", _layer_replaced(OTHER))
_add("layer-empty", errors.FormatError, "", _layer_replaced(b""))
_add("layer-png", errors.FormatError, "", _layer_replaced(PNG))
_add("layer-cut", errors.FormatError, "", _layer_replaced(TINY[:700]))
_add("layer-gzip-cut", errors.FormatError, "", _layer_replaced(gzip.compress(TINY)[:-9]))
_add("layer-gzip-junk", errors.FormatError, "", _layer_replaced(gzip.compress(TINY) + b"junk" * 10))
_add("layer-trailing", errors.FormatError, "", _layer_replaced(TINY + b"more"))

_add(
    "v1-only",
    errors.BadManifest,
    "v1 format",
    builders.outer_tar([(n, d) for n, d in saved(style="v1") if n != "manifest.json" and not n.startswith("sha")]),
)


# --- OCI
def _layout(change: Callable[[ocilayouts.Layout, dict[str, Any]], Any]) -> bytes:
    """A layout whose only manifest document is changed, or replaced, by `change`."""
    layout = ocilayouts.Layout()
    spec = image()
    layers = [layout.add_blob(layer, ocilayouts.LAYER) for layer in spec.layers]
    document = layout.manifest_of(spec.config, layers)
    replaced = change(layout, document)
    if isinstance(replaced, dict):
        layout.manifests.append(replaced)
    else:
        layout.manifests.append(layout.add_document(document, ocilayouts.MANIFEST))
    return layout.tar()


@_case("oci-layer-missing", errors.BadArchive, "missing")
def _oci_layer_missing(_: str) -> bytes:
    return _layout(lambda layout, document: layout.blobs.pop(document["layers"][0]["digest"]) and None)


@_case("oci-config-missing", errors.BadArchive, "not in there")
def _oci_config_missing(_: str) -> bytes:
    return _layout(lambda layout, document: layout.blobs.pop(document["config"]["digest"]) and None)


@_case("oci-blob-wrong", errors.DigestMismatch, "expected")
def _oci_blob_wrong(_: str) -> bytes:
    return _layout(lambda layout, document: layout.blobs.update({document["layers"][0]["digest"]: OTHER}))


@_case("oci-config-wrong", errors.DigestMismatch, "expected")
def _oci_config_wrong(_: str) -> bytes:
    def change(layout: ocilayouts.Layout, document: dict[str, Any]) -> None:
        digest = document["config"]["digest"]
        layout.blobs[digest] = layout.blobs[digest].replace(b"layer 0", b"layer X")

    return _layout(change)


@_case("oci-size-wrong", errors.BadArchive, "descriptor says")
def _oci_size_wrong(_: str) -> bytes:
    return _layout(lambda layout, document: document["layers"][0].update(size=5))


@_case("oci-size-negative", errors.BadManifest, "size")
def _oci_size_negative(_: str) -> bytes:
    return _layout(lambda layout, document: document["layers"][0].update(size=-1))


@_case("oci-digest-traversal", errors.BadManifest, "not a sha256")
def _oci_digest_traversal(_: str) -> bytes:
    return _layout(lambda layout, document: document["layers"][0].update(digest="sha256:../../../etc/passwd"))


@_case("oci-digest-sha512", errors.BadManifest, "not a sha256")
def _oci_digest_sha512(_: str) -> bytes:
    return _layout(lambda layout, document: document["config"].update(digest="sha512:" + "a" * 128))


@_case("oci-encrypted", errors.BadManifest, "encrypted")
def _oci_encrypted(_: str) -> bytes:
    return _layout(lambda layout, document: document["layers"][0].update(mediaType=ocilayouts.LAYER + "+encrypted"))


@_case("oci-layers-extra", errors.BadManifest, "2 layers")
def _oci_layers_extra(_: str) -> bytes:
    return _layout(lambda layout, document: document["layers"].append(document["layers"][0]))


for _name, _type in {"manifest": ocilayouts.MANIFEST, "index": ocilayouts.INDEX, "docker": ""}.items():

    @_case(f"oci-two-faced-{_name}", errors.BadManifest, "at once")
    def _two_faced(_: str, media_type: str = _type) -> bytes:
        def change(layout: ocilayouts.Layout, document: dict[str, Any]) -> dict[str, Any]:
            inner = layout.add_document(dict(document), ocilayouts.MANIFEST)
            document["manifests"] = [inner]
            document.pop("mediaType")
            return layout.add_document(document, media_type)

        return _layout(change)


@_case("oci-media-type-differs", errors.BadManifest, "instead of the promised")
def _media_type_differs(_: str) -> bytes:
    return _layout(lambda layout, document: layout.add_document(document, ocilayouts.INDEX))


@_case("oci-media-type-absent", errors.BadManifest, "media type")
def _media_type_absent(_: str) -> bytes:
    def change(layout: ocilayouts.Layout, document: dict[str, Any]) -> dict[str, Any]:
        document.pop("mediaType")
        return layout.add_document(document, ocilayouts.INDEX)

    return _layout(change)


@_case("oci-schema-1", errors.BadManifest, "schema version")
def _schema_1(_: str) -> bytes:
    return _layout(lambda layout, document: document.update(schemaVersion=1))


@_case("oci-nested-deep", errors.BadManifest, "nested too deeply")
def _nested_deep(_: str) -> bytes:
    def change(layout: ocilayouts.Layout, document: dict[str, Any]) -> dict[str, Any]:
        descriptor = layout.add_document(document, ocilayouts.MANIFEST)
        for _ in range(20):
            descriptor = layout.add_index([descriptor])
        return descriptor

    return _layout(change)


@_case("oci-index-fan", errors.BadManifest, "too many")
def _index_fan(_: str) -> bytes:
    def change(layout: ocilayouts.Layout, document: dict[str, Any]) -> dict[str, Any]:
        descriptor = layout.add_document(document, ocilayouts.MANIFEST)
        for _ in range(4):
            descriptor = layout.add_index([descriptor] * 500)
        return descriptor

    return _layout(change)


@_case("oci-only-attestation", errors.BadManifest, "names no image")
def _only_attestation(_: str) -> bytes:
    return _layout(
        lambda layout, document: layout.add_document(
            document, ocilayouts.MANIFEST, annotations={"vnd.docker.reference.type": "attestation-manifest"}
        )
    )


@_case("oci-artifact", errors.BadManifest, "names no image")
def _artifact(_: str) -> bytes:
    return _layout(lambda layout, document: document["config"].update(mediaType="application/vnd.cyclonedx+json"))


@_case("oci-no-platform", errors.BadManifest, "there is one for linux/mips64le, linux/s390x")
def _no_platform(_: str) -> bytes:
    def change(layout: ocilayouts.Layout, document: dict[str, Any]) -> dict[str, Any]:
        one = layout.add_document(document, ocilayouts.MANIFEST, platform=ocilayouts.platform("linux/s390x"))
        two = {**one, "platform": ocilayouts.platform("linux/mips64le")}
        return layout.add_index([one, two])

    return _layout(change)


@_case("oci-name-bad", errors.InvalidReference, "lowercase")
def _oci_name_bad(_: str) -> bytes:
    return _layout(
        lambda layout, document: layout.add_document(
            document, ocilayouts.MANIFEST, annotations={"io.containerd.image.name": "docker.io/library/BAD:1"}
        )
    )


_GOOD_LAYOUT = _layout(lambda layout, document: None)


def _layout_with(name: str, data: bytes | None) -> bytes:
    layout = ocilayouts.Layout()
    layout.manifests.append(layout.add_image(image()))
    members = [(old, content) for old, content in layout.members() if old != name]
    return builders.outer_tar(members if data is None else [*members, (name, data)])


_add("oci-no-index", errors.BadManifest, "without index.json", _layout_with("index.json", None))
_add("oci-index-text", errors.BadManifest, "JSON", _layout_with("index.json", b"hello"))
_add("oci-index-list", errors.BadManifest, "object", _layout_with("index.json", b"[]"))
_add("oci-version-9", errors.BadManifest, "unknown", _layout_with("oci-layout", b'{"imageLayoutVersion":"9.0.0"}'))
