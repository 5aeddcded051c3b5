"""Manifests, indexes and platforms: any bytes are read or refused, and no document is two things."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidock.errors import BadManifest, FormatError, MaxDepthExceeded, StoreError, UsageError
from minidock.formats.manifest import ImageManifest, check_layout, parse_index, parse_manifest, parse_manifest_json
from minidock.formats.platform import Platform, host_platform, parse_platform

DIGEST = "sha256:" + "0123456789abcdef" * 4
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def descriptor(**changes: Any) -> dict[str, Any]:
    return {"mediaType": "x", "digest": DIGEST, "size": 3, **changes}


def manifest(**changes: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": descriptor(), "layers": [descriptor()], **changes}).encode()


def index(**changes: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": [descriptor()], **changes}).encode()


def test_a_list_of_saved_images() -> None:
    raw = b'[{"Config":"c","RepoTags":null,"Layers":["a","b"],"Parent":"","LayerSources":{}},{"Config":"d"}]\n'
    first, second = parse_manifest_json(raw)  # type: ignore[misc]
    assert (first.config, first.tags, first.layers, first.parent) == ("c", [], ["a", "b"], None)
    assert (second.config, second.layers) == ("d", [])


def test_the_last_of_two_equal_keys_wins() -> None:
    (image,) = parse_manifest_json(b'[{"Config":"a","Config":"b"}]')  # type: ignore[misc]
    assert image.config == "b"


def test_a_manifest_and_an_index() -> None:
    parsed = parse_manifest(manifest(mediaType=MANIFEST), media_type=MANIFEST, what="m")
    assert isinstance(parsed, ImageManifest)
    assert (parsed.config.digest, parsed.config.size_bytes, len(parsed.layers)) == (DIGEST, 3, 1)
    words = {"os": "linux", "architecture": "arm64", "variant": "v8"}
    (entry,) = parse_index(index(manifests=[descriptor(platform=words, annotations={"a": "b"})]), what="i")
    assert (str(entry.platform), entry.annotations, entry.is_attestation) == ("linux/arm64", {"a": "b"}, False)


@pytest.mark.parametrize(
    "changes",
    [
        {"platform": {"os": "unknown", "architecture": "unknown"}},
        {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
    ],
)
def test_attestations_are_told(changes: dict[str, Any]) -> None:
    (entry,) = parse_index(index(manifests=[descriptor(**changes)]), what="i")
    assert entry.is_attestation


@pytest.mark.parametrize("said", [None, MANIFEST, INDEX])
@pytest.mark.parametrize("promised", ["", MANIFEST, INDEX])
def test_no_document_is_an_index_and_a_manifest(said: str | None, promised: str) -> None:
    faces: list[dict[str, Any]] = [{"layers": []}, {"config": descriptor()}, {"fsLayers": []}]
    for extra in (*faces, {"layers": [], "config": descriptor()}):
        with pytest.raises(BadManifest, match="at once"):
            parse_manifest(index(mediaType=said, **extra), media_type=promised, what="two-faced")


@pytest.mark.parametrize(
    ("raw", "promised"),
    [
        (manifest(mediaType=INDEX), ""),
        (manifest(), INDEX),
        (manifest(mediaType=MANIFEST), INDEX),
        (index(mediaType=MANIFEST), ""),
        (index(), MANIFEST),
        (index(mediaType=INDEX), MANIFEST),
        (manifest(mediaType="text/plain"), "text/plain"),
    ],
)
def test_a_document_is_what_was_promised(raw: bytes, promised: str) -> None:
    with pytest.raises(BadManifest, match=r"media type"):
        parse_manifest(raw, media_type=promised, what="m")


@pytest.mark.parametrize(
    "raw",
    [
        manifest(schemaVersion=1),
        manifest(schemaVersion="2"),
        manifest(config=None),
        manifest(config=[]),
        manifest(layers="x"),
        manifest(layers=[None]),
        manifest(layers=[descriptor(size=-1)]),
        manifest(layers=[descriptor(size=True)]),
        manifest(layers=[descriptor(size=1 << 64)]),
        manifest(layers=[descriptor(size="3")]),
        manifest(layers=[descriptor(digest="sha256:../x")]),
        manifest(layers=[descriptor(digest=DIGEST.upper())]),
        manifest(layers=[descriptor(digest=5)]),
        manifest(layers=[descriptor(mediaType=5)]),
        index(manifests=[descriptor(platform="linux")]),
        index(manifests=[descriptor(platform={"os": 5})]),
        index(manifests=[descriptor(annotations={"a": 1})]),
        index(manifests={}),
        index(manifests=[descriptor()] * 1001),
        b"[]",
        b"null",
        b"{}",
        b"\xff",
    ],
)
def test_a_bad_document_is_refused_in_one_printable_line(raw: bytes) -> None:
    with pytest.raises(BadManifest) as caught:
        parse_manifest(raw, media_type="", what="m")
    assert str(caught.value).isprintable()


def test_the_126th_layer_is_one_too_many() -> None:
    parse_manifest(manifest(layers=[descriptor()] * 125), media_type="", what="m")
    with pytest.raises(MaxDepthExceeded):
        parse_manifest(manifest(layers=[descriptor()] * 126), media_type="", what="m")


def test_an_index_where_a_manifest_should_be() -> None:
    with pytest.raises(BadManifest, match="index stands"):
        parse_manifest_json(index())
    with pytest.raises(BadManifest, match="manifest stands"):
        parse_index(manifest(), what="index.json")


@pytest.mark.parametrize("raw", [b"{}", b'{"imageLayoutVersion":"2.0.0"}', b'{"imageLayoutVersion":1}', b"[]", b"x"])
def test_layouts_of_other_versions_are_refused(raw: bytes) -> None:
    check_layout(b'{"imageLayoutVersion":"1.0.0","more":1}')
    with pytest.raises(BadManifest):
        check_layout(raw)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(DIGEST),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "schemaVersion mediaType manifests layers config digest size platform os annotations Config Layers "
                "RepoTags Parent fsLayers".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(_JSON)
def test_any_json_is_read_or_refused(value: Any) -> None:
    raw = json.dumps(value).encode()
    for parse in (parse_manifest_json, lambda data: parse_manifest(data, media_type="", what="m"), check_layout):
        try:
            parse(raw)
        except (FormatError, StoreError) as error:
            assert str(error).isprintable()


# --- platforms


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("amd64", "linux/amd64"),
        ("LINUX/AMD64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/armhf", "linux/arm"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/v7", "linux/arm"),
        ("linux/i686", "linux/386"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_platforms_have_one_spelling(text: str, shown: str) -> None:
    assert str(parse_platform(text)) == shown


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux/../x", "linux/amd64\n", "li nux"])
def test_bad_platforms_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_platform(text)


def test_a_processor_runs_what_is_older() -> None:
    seven = parse_platform("linux/arm/v7")
    ranks = [seven.rank(parse_platform(f"linux/arm/{variant}")) for variant in ("v5", "v6", "v7", "v8")]
    assert ranks[3] is None
    assert ranks[0] is not None
    assert ranks[:3] == sorted(rank for rank in ranks[:3] if rank is not None)
    assert parse_platform("amd64").rank(parse_platform("linux/amd64/v2")) is None
    assert parse_platform("linux/amd64/v3").rank(parse_platform("amd64")) is not None
    assert parse_platform("amd64").rank(parse_platform("arm64")) is None
    assert host_platform().rank(host_platform()) == 100
    assert {Platform("linux", "x86_64"), Platform("", "amd64", "v1")} == {Platform("linux", "amd64")}
