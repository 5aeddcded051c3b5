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
from tests import builders
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


def case(name: str, error: type[errors.MinidockError], words: str) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        CASES[name] = (make, error, words)
        return make

    return keep


def add(name: str, error: type[errors.MinidockError], words: str, data: bytes) -> None:
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
add("file-empty", errors.BadArchive, "is empty", b"")
add("file-zeros", errors.BadArchive, "archive is empty", bytes(10240))
add("file-png", errors.BadArchive, "libmagic says PNG image data", PNG)
add("file-text", errors.BadArchive, "libmagic says ASCII text", b"just words\n" * 100)
add("file-html", errors.BadArchive, "not an image archive", b"<!DOCTYPE html><html><body>404</body></html>\n" * 20)
add("file-gzip-png", errors.BadArchive, "not an image archive", gzip.compress(PNG))
add("file-gzip-nothing", errors.BadArchive, "empty", gzip.compress(b""))
add(
    "file-gzip-cut",
    errors.BadArchive,
    "archive: truncated gzip",
    gzip.compress(builders.outer_tar(saved()))[:-40],
)
add("file-xz-cut", errors.BadArchive, "archive: truncated xz", lzma.compress(builders.outer_tar(saved()))[:-40])


@case("file-gzip-corrupt", errors.BadArchive, "archive: corrupt gzip stream: ")
def _gzip_corrupt(_: str) -> bytes:
    data = bytearray(gzip.compress(builders.outer_tar(saved())))
    data[len(data) // 2] ^= 0xFF
    data[-8] ^= 0xFF
    return bytes(data)


add("outer-cut-in-member", errors.BadArchive, "truncated", builders.outer_tar(saved())[:1400])
add("outer-cut-in-header", errors.BadArchive, "truncated", builders.outer_tar(saved())[:700])
add(
    "outer-negative-size",
    errors.BadArchive,
    "negative",
    builders.tar_header(b"x", size=-1) + builders.outer_tar(saved()),
)
add(
    "outer-huge-size",
    errors.BadArchive,
    "truncated",
    builders.tar_header(b"manifest.json", size=1 << 60) + bytes(1024),
)
add("outer-bad-sum", errors.BadArchive, "", builders.tar_member(b"a", b"x") + b"\x01" * 512 + builders.END)
add(
    "outer-name-outside",
    errors.UnsafePath,
    "outside",
    builders.tar_member(b"../evil", b"x") + builders.outer_tar(saved()),
)
add(
    "outer-name-absolute",
    errors.UnsafePath,
    "absolute",
    builders.tar_member(b"/tmp/minidock-evil", b"x") + builders.outer_tar(saved()),
)

# --- manifest.json
add("manifest-not-json", errors.BadManifest, "not valid JSON", _with_manifest(b"{nope"))
add("manifest-empty-list", errors.BadManifest, "no image", _with_manifest(b"[]"))
add("manifest-number", errors.BadManifest, "list of images", _with_manifest(b"5"))
add("manifest-of-null", errors.BadManifest, "object", _with_manifest(b"[null]"))
add("manifest-nested", errors.BadManifest, "nested too deeply", _with_manifest(b"[" * 200_000))
add("manifest-5mb", errors.FormatError, "more than", _with_manifest(b"[" + b" " * (5 << 20) + b"]"))
add(
    "manifest-1000-images",
    errors.BadManifest,
    "more than",
    _with_manifest(json.dumps([{"Config": "x"}] * 1001).encode()),
)
add("manifest-no-config", errors.BadManifest, "names no config", _edited(_set("Config", None)))
add("manifest-config-list", errors.BadManifest, "string", _edited(_set("Config", ["x"])))
add("manifest-config-missing", errors.BadArchive, "not in there", _edited(_set("Config", "none.json")))
add("manifest-config-dotdot", errors.UnsafePath, "outside", _edited(_set("Config", "../../../../etc/passwd")))
add("manifest-layers-text", errors.BadManifest, "list", _edited(_set("Layers", "x.tar")))
add("manifest-layers-numbers", errors.BadManifest, "string", _edited(_set("Layers", [5])))
add("manifest-layer-missing", errors.BadArchive, "not in there", _edited(_set("Layers", ["none.tar"])))
add("manifest-layer-dotdot", errors.UnsafePath, "outside", _edited(_set("Layers", ["a/../../../etc/passwd"])))
add("manifest-layer-removed", errors.BadManifest, "0 layers", _edited(_set("Layers", [])))
add("manifest-tags-text", errors.BadManifest, "list", _edited(_set("RepoTags", "bad:1")))


@case("manifest-config-absolute", errors.UnsafePath, "absolute")
def _config_absolute(canary: str) -> bytes:
    return _edited(_set("Config", canary))


@case("manifest-layer-absolute", errors.UnsafePath, "absolute")
def _layer_absolute(canary: str) -> bytes:
    return _edited(_set("Layers", [canary]))


@case("manifest-config-symlink", errors.UnsafePath, "absolute")
def _config_symlink(canary: str) -> bytes:
    return _edited(_set("Config", "c"), ("c", ("symlink", canary)))


@case("manifest-layer-symlink", errors.UnsafePath, "absolute")
def _layer_symlink(canary: str) -> bytes:
    return _edited(_set("Layers", ["l"]), ("l", ("symlink", canary)))


@case("manifest-layer-symlink-dotdot", errors.UnsafePath, "outside")
def _layer_symlink_dotdot(canary: str) -> bytes:
    return _edited(_set("Layers", ["d/l"]), ("d/l", ("symlink", "../.." + canary)))


@case("manifest-layer-hardlink", errors.UnsafePath, "absolute")
def _layer_hardlink(canary: str) -> bytes:
    return _edited(_set("Layers", ["l"]), ("l", ("hardlink", canary)))


@case("manifest-layer-through-link", errors.BadArchive, "not in there")
def _layer_through_link(canary: str) -> bytes:
    return _edited(_set("Layers", ["d/canary"]), ("d", ("symlink", str(Path(canary).parent))))


add(
    "manifest-layer-symlink-loop",
    errors.UnsafePath,
    "too many levels",
    _edited(_set("Layers", ["a"]), ("a", ("symlink", "b")), ("b", ("symlink", "a"))),
)
add("manifest-layer-directory", errors.BadArchive, "not in there", _edited(_set("Layers", ["d"]), ("d/", None)))
add(
    "manifest-layer-fifo",
    errors.BadArchive,
    "not in there",
    builders.tar_member(b"f", type=b"6") + _edited(_set("Layers", ["f"])),
)


@case("manifest-extra-layer", errors.BadManifest, "2 layers")
def _extra_layer(_: str) -> bytes:
    return _edited(lambda document: document[0]["Layers"].append(document[0]["Layers"][0]))


@case("layers-126", errors.MaxDepthExceeded, "max depth exceeded")
def _layers_126(_: str) -> bytes:
    return builders.outer_tar(saved(ImageSpec([TINY] * 126, tags=["bad:1"])))


@case("layers-200", errors.MaxDepthExceeded, "max depth exceeded")
def _layers_200(_: str) -> bytes:
    return builders.outer_tar(saved(ImageSpec([TINY] * 200, tags=["bad:1"])))


@case("parent-wrong", errors.BadManifest, "not a valid parent")
def _parent_wrong(_: str) -> bytes:
    base = ImageSpec([OTHER], tags=["base:1"])

    def edit(document: Any) -> None:
        document[0]["Parent"] = builders.sha256(base.config)

    return builders.outer_tar(saved(image(), base, edit=edit))


add("parent-traversal", errors.BadManifest, "not a sha256", _edited(_set("Parent", "sha256:../../x")))

_BAD_TAGS = {
    "tag-upper": "Bad:1",
    "tag-long": "a" * 300 + ":1",
    "tag-dotdot": "../../x:1",
    "tag-hex": "a" * 64,
    "tag-without": "bad",
    "tag-digest": "bad@sha256:" + "a" * 64,
    "tag-empty": "",
    "tag-escape": "bad\x1b]0;x\x07:1",
    "tag-sha256": "sha256:1",
}


def _with_bad_tag(tag: str) -> bytes:
    """Two images, of which the first is good: nothing of it may appear either."""
    good, bad = ImageSpec([OTHER], tags=["good:1"]), ImageSpec([TINY], tags=["bad:1"])

    def edit(document: Any) -> None:
        document[1]["RepoTags"] = [tag]

    return builders.outer_tar(saved(good, bad, edit=edit))


for _name, _tag in _BAD_TAGS.items():
    add(_name, errors.InvalidReference, "", _with_bad_tag(_tag))

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
    add(_name, errors.FormatError, "", _with_config(_raw))

_BAD_DOCUMENTS: dict[str, dict[str, Any]] = {
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
}
for _name, _document in _BAD_DOCUMENTS.items():
    add(_name, errors.BadConfig, "", builders.outer_tar(saved(image(**_document))))
add(
    "diffid-count",
    errors.BadManifest,
    "1 layers, the config 2",
    builders.outer_tar(saved(ImageSpec([TINY], tags=["bad:1"], config=builders.image_config([TINY, OTHER])))),
)


@case("config-digest", errors.DigestMismatch, "expected")
def _config_digest(_: str) -> bytes:
    spec = image()
    return builders.outer_tar(
        (name, data.replace(b"layer 0", b"layer X") if name.endswith(".json") and data else data)
        for name, data in saved(spec)
    )


# --- layers
def _layer_replaced(data: bytes) -> bytes:
    return builders.outer_tar((name, data if name.endswith(".tar") else old) for name, old in saved())


add("diffid-wrong", errors.DigestMismatch, "expected", _layer_replaced(OTHER))
add("layer-empty", errors.FormatError, "", _layer_replaced(b""))
add("layer-png", errors.FormatError, "", _layer_replaced(PNG))
add("layer-cut", errors.FormatError, "", _layer_replaced(TINY[:700]))
add("layer-gzip-cut", errors.FormatError, "", _layer_replaced(gzip.compress(TINY)[:-9]))
add("layer-gzip-junk", errors.FormatError, "", _layer_replaced(gzip.compress(TINY) + b"junk" * 10))
add("layer-trailing", errors.FormatError, "", _layer_replaced(TINY + b"more"))

add(
    "v1-only",
    errors.BadManifest,
    "v1 format",
    builders.outer_tar([(n, d) for n, d in saved(style="v1") if n != "manifest.json" and not n.startswith("sha")]),
)
