"""The documents and headers of an archive to write."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from minidock.formats import tarsplit
from minidock.formats.imageconfig import ImageConfig
from minidock.formats.reference import parse_reference
from minidock.formats.savedarchive import ArchiveMember, ImageToSave, plan_archive
from minidock.formats.tarsplit import FileEntry
from minidock.ids import DiffID
from tests import builders


def image(*tags: str, layers: tuple[tuple[str, int], ...] = (("1", 3), ("2", 5)), **document: Any) -> ImageToSave:
    diff_ids = [DiffID("sha256:" + digit * 64) for digit, _ in layers]
    config = ImageConfig.parse(builders.image_config(diff_ids, **document))
    sized = [(diff_id, size) for diff_id, (_, size) in zip(diff_ids, layers, strict=True)]
    return ImageToSave(config, sized, [parse_reference(tag) for tag in tags])


def written(members: list[ArchiveMember]) -> tuple[list[str], dict[str, Any]]:
    """All names in order, and the JSON documents; layers are filled with zeros."""
    data = b""
    for member in members:
        data += member.header
        if member.diff_id:
            size = int(member.header[124:135], 8)
            data += builders.padded(bytes(size))
        else:
            data += builders.padded(member.data)
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as archive:
        names = archive.getnames()
        documents: dict[str, Any] = {}
        for name in names:
            file = archive.extractfile(name)
            content = file.read() if file else b""
            if content.startswith((b"{", b"[")):
                documents[name] = json.loads(content)
                if name.startswith("blobs/"):
                    assert name.endswith(hashlib.sha256(content).hexdigest())
    return names, documents


def test_docker_form() -> None:
    names, documents = written(plan_archive([image("a:1", "quay.io/b:2")], with_docker_manifest=True))
    assert names == sorted(names)
    assert names[:2] == ["blobs", "blobs/sha256"]
    assert names[-4:] == ["index.json", "manifest.json", "oci-layout", "repositories"]
    (entry,) = documents["manifest.json"]
    assert entry["RepoTags"] == ["a:1", "quay.io/b:2"]
    assert entry["Layers"] == ["blobs/sha256/" + digit * 64 for digit in "12"]
    assert documents["repositories"] == {"a": {"1": "2" * 64}, "quay.io/b": {"2": "2" * 64}}
    manifests = documents["index.json"]["manifests"]
    assert [one["annotations"]["io.containerd.image.name"] for one in manifests] == [
        "docker.io/library/a:1",
        "quay.io/b:2",
    ]
    assert [one["annotations"]["org.opencontainers.image.ref.name"] for one in manifests] == ["1", "2"]
    manifest = documents["blobs/sha256/" + manifests[0]["digest"][7:]]
    assert [layer["size"] for layer in manifest["layers"]] == [3, 5]
    assert "blobs/sha256/" + manifest["config"]["digest"][7:] == entry["Config"]


def test_oci_form_and_its_names() -> None:
    names, documents = written(plan_archive([image("a:1"), image("b:2", author="x")], with_docker_manifest=False))
    assert names[-2:] == ["index.json", "oci-layout"]
    found = [one["annotations"]["org.opencontainers.image.ref.name"] for one in documents["index.json"]["manifests"]]
    assert found == ["1", "2"]
    _, documents = written(plan_archive([image("a:1"), image("b:1", author="x")], with_docker_manifest=False))
    found = [one["annotations"]["org.opencontainers.image.ref.name"] for one in documents["index.json"]["manifests"]]
    assert found == ["docker.io/library/a:1", "docker.io/library/b:1"]


def test_shared_layers_stand_once_and_nameless_images_too() -> None:
    names, documents = written(plan_archive([image(), image(author="x")], with_docker_manifest=True))
    assert len(names) == len(set(names)) == 2 + 2 + 4 + 3
    assert [entry["RepoTags"] for entry in documents["manifest.json"]] == [None, None]
    assert [one.get("annotations") for one in documents["index.json"]["manifests"]] == [None, None]


def test_layers_of_any_size_and_images_of_any_age() -> None:
    for created, expected in (
        ("2026-01-02T03:04:05.9Z", 1767323045),
        ("0001-01-01T00:00:00Z", 0),
        (None, 0),
        ("9999-01-01T00:00:00Z", 0o77777777777),
    ):
        planned = image("a:1", layers=(("1", 9 << 30),), created=created)
        (header,) = [member.header for member in plan_archive([planned], with_docker_manifest=True) if member.diff_id]
        with tarfile.open(fileobj=io.BytesIO(header)) as archive:
            info = archive.next()
        assert info is not None
        assert (info.size, info.mtime) == (9 << 30, expected)


NAMES = st.text(min_size=1).map(lambda text: text.encode("utf-8", "replace"))
ENTRIES = st.lists(
    st.one_of(
        st.binary(max_size=600),
        st.builds(FileEntry, st.binary(min_size=1, max_size=40), st.just(0), st.just(0)),
        st.builds(FileEntry, NAMES, st.integers(1, 1 << 50), st.integers(0, (1 << 64) - 1)),
    ),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(ENTRIES)
def test_plain_lines_are_read_as_json_is(entries: list[bytes | FileEntry]) -> None:
    """The short way of reading tar-split gives what the JSON parser gives, or leaves the line to it."""

    def values(entry: bytes | FileEntry) -> object:
        return entry if isinstance(entry, bytes) else (entry.name, entry.size_bytes, entry.crc)

    class Lines(tarsplit.TarSplitWriter):
        def __init__(self) -> None:
            super().__init__(-1)
            self.all: list[bytes] = []

        def _flush(self) -> None:
            self.all += self._lines
            self._lines.clear()

    writer = Lines()
    for entry in entries:
        if isinstance(entry, bytes):
            writer.segment(entry)
        else:
            writer.file(entry.name, entry.size_bytes, entry.crc)
    writer._flush()
    for line in writer.all:
        plain, full = tarsplit._parse_plain_line(line.rstrip()), tarsplit._parse_any_line(line.rstrip())
        if plain is not None:
            assert values(plain) == values(full)
        else:
            assert b"\\" in line or b"name_raw" in line


def test_lines_that_only_look_plain_are_left_to_the_parser() -> None:
    for line in (
        b'{"type":2,"payload":"AAAA","position":0,"type":1}',
        b'{"type":2,"payload":"AAAA","position":-1}',
        b'{"type":1,"name":"a","size":-1,"payload":"AAAAAAAAAAA=","position":0}',
        b'{"type":1,"name":"a","size":1,"payload":"AAAA","position":0}',
        b'{"type":1,"name":"a","size":1.5,"payload":"AAAAAAAAAAA=","position":0}',
        b'{"type":1,"name":"a","position":0}',
        b'{"type":1,"name":"a',
        b"",
    ):
        assert tarsplit._parse_plain_line(line) is None, line
