"""layerdb, imagedb and overlay2 directories: what is written, and that nothing read from disk is believed unchecked."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import (
    BadConfig,
    FormatError,
    InvalidReference,
    MaxDepthExceeded,
    MinidockError,
    NoSuchImage,
    NoSuchLayer,
    StoreCorrupt,
    UsageError,
)
from minidock.ids import CacheID, ChainID, DiffID, ImageID, LinkID
from minidock.store import overlay2
from minidock.store.layerdb import Layer
from minidock.store.root import DataRoot
from minidock.verbs.history import history
from minidock.verbs.images import list_images, match_path
from minidock.verbs.inspect import inspect, inspect_image
from minidock.verbs.tag import tag


def diff_id(number: int) -> DiffID:
    return DiffID("sha256:" + hashlib.sha256(b"%d" % number).hexdigest())


def build(root: DataRoot, *numbers: int) -> list[Layer]:
    """Publish layers with these diff_ids, bottom first."""
    layers: list[Layer] = []
    with root.stage() as stage, root.lock():
        for number in numbers:
            staged = root.layers.stage_layer(stage)
            Path(staged.path, "diff", f"file{number}").write_text("x" * number)
            os.write(staged.tar_split_fd, b"split")
            parent = layers[-1].chain_id if layers else None
            layers.append(root.layers.publish(staged, parent, diff_id(number), number))
    return layers


def add(root: DataRoot, *numbers: int, **document: Any) -> ImageID:
    build(root, *numbers)
    raw = {"os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id(n) for n in numbers]}, **document}
    return root.images.add(json.dumps(raw).encode())


def test_chain_id_vectors(data_root: DataRoot) -> None:
    bottom = DiffID("sha256:ccdbb80308cc5ef43b605ac28fac29c6a597f89f5a169bbedbb8dec29c987439")
    top = DiffID("sha256:63c99163f47292f80f9d24c5b475751dbad6dc795596e935c5c7f1c73dc08107")
    with data_root.stage() as stage:
        first = data_root.layers.publish(data_root.layers.stage_layer(stage), None, bottom, 0)
        second = data_root.layers.publish(data_root.layers.stage_layer(stage), first.chain_id, top, 0)
    assert str(first.chain_id) == str(bottom)
    assert second.chain_id == "sha256:8d8dceacec7085abcab1f93ac1128765bc6cf0caac334c821e01546bd96eb741"


def test_files_of_a_layer(data_root: DataRoot) -> None:
    one, two, three = build(data_root, 1, 2, 3)
    base = Path(data_root.overlay_path)
    links = [(base / layer.cache_id / "link").read_text() for layer in (one, two, three)]
    assert not (base / one.cache_id / "lower").exists()
    assert not (base / one.cache_id / "work").exists()
    assert (base / two.cache_id / "lower").read_text() == f"l/{links[0]}"
    assert (base / three.cache_id / "lower").read_text() == f"l/{links[1]}:l/{links[0]}"
    assert (base / three.cache_id / "work").is_dir()
    for layer, link in zip((one, two, three), links, strict=True):
        assert (base / layer.cache_id / "committed").read_bytes() == b""
        assert os.readlink(base / "l" / link) == f"../{layer.cache_id}/diff"
    record = Path(data_root.layers.path, three.chain_id.hex)
    assert {path.name: path.read_text() for path in record.iterdir()} == {
        "cache-id": three.cache_id,
        "diff": three.diff_id,
        "parent": two.chain_id,
        "size": "3",
        "tar-split.json.gz": "split",
    }
    assert [layer.chain_id for layer in data_root.layers.stack(three.chain_id)] == [
        three.chain_id,
        two.chain_id,
        one.chain_id,
    ]
    assert data_root.layers.links(three.chain_id) == links[::-1]


def test_a_known_chain_is_taken_and_ours_dropped(data_root: DataRoot) -> None:
    first = build(data_root, 1, 2)
    again = build(data_root, 1, 2, 3)
    assert [layer.cache_id for layer in again[:2]] == [layer.cache_id for layer in first]
    assert len(os.listdir(data_root.overlay_path)) == 4
    assert len(os.listdir(data_root.overlay_path + "/l")) == 3


def test_depth(data_root: DataRoot) -> None:
    layers = build(data_root, *range(1, 126))
    assert len(data_root.layers.links(layers[-1].chain_id)) == 125
    with pytest.raises(MaxDepthExceeded, match="max depth exceeded"), data_root.stage() as stage:
        data_root.layers.publish(data_root.layers.stage_layer(stage), layers[-1].chain_id, diff_id(126), 0)
    assert os.listdir(data_root.stage_path) == []
    mount = overlay2.OverlayMount(
        data_root.overlay_path,
        ["l/" + LinkID.random() for _ in range(126)],
        CacheID("a" * 64),
        "/mnt",
    )
    assert len(mount.data) < 4096
    assert mount.describe().startswith(
        f"cd {data_root.overlay_path} && mount -t overlay -o index=off,redirect_dir=off,metacopy=off,lowerdir=l/"
    )
    with pytest.raises(MaxDepthExceeded):
        overlay2.OverlayMount(data_root.overlay_path, ["l/X"] * 129, "", "/mnt")


def test_release_keeps_what_is_used(data_root: DataRoot) -> None:
    image_id = add(data_root, 1, 2)
    side = build(data_root, 1, 2, 3, 4)
    assert data_root.layers.release(side[0].chain_id) == []
    assert data_root.layers.release(side[3].chain_id) == [side[3].chain_id, side[2].chain_id]
    assert data_root.images.remove(image_id) == [side[1].chain_id, side[0].chain_id]
    assert os.listdir(data_root.overlay_path) == ["l"]


POISON = ["../../../etc", "..", "", "/etc", "a" * 63, "A" * 64, "a" * 64 + "/..", "l"]


@pytest.mark.parametrize("text", POISON)
@pytest.mark.parametrize("name", ["cache-id", "diff", "parent"])
def test_poisoned_layer_records(data_root: DataRoot, name: str, text: str) -> None:
    if name == "parent" and not text:
        return
    layers = build(data_root, 1, 2)
    Path(data_root.layers.path, layers[1].chain_id.hex, name).write_text(text)
    for question in (data_root.layers.get, data_root.layers.stack, data_root.layers.links):
        with pytest.raises(StoreCorrupt):
            question(layers[1].chain_id)


@pytest.mark.parametrize("text", ["", "x", "1\n", "-1", "1e3", "9" * 30, "٣"])
def test_poisoned_sizes(data_root: DataRoot, text: str) -> None:
    layer = build(data_root, 1)[0]
    Path(data_root.layers.path, layer.chain_id.hex, "size").write_text(text)
    with pytest.raises(StoreCorrupt):
        data_root.layers.get(layer.chain_id)
    with pytest.raises(StoreCorrupt):
        data_root.layers.size(layer.chain_id)


def test_records_are_trimmed_but_not_the_size(data_root: DataRoot) -> None:
    one, two = build(data_root, 1, 2)
    for name in ("cache-id", "diff", "parent"):
        path = Path(data_root.layers.path, two.chain_id.hex, name)
        path.write_text(path.read_text() + "\n")
    assert data_root.layers.get(two.chain_id).parent == one.chain_id


@pytest.mark.parametrize("text", ["../l", "", "A" * 25, "a" * 26, "A" * 26 + "/..", "../../x"])
def test_poisoned_link_names(data_root: DataRoot, text: str) -> None:
    layer = build(data_root, 1)[0]
    Path(data_root.overlay_path, layer.cache_id, "link").write_text(text)
    with pytest.raises(StoreCorrupt):
        data_root.layers.links(layer.chain_id)


@pytest.mark.parametrize("text", ["l/../../etc", "/etc", "l/" + "A" * 26, "..", "l/", "x" * 5000])
def test_poisoned_lowers(data_root: DataRoot, text: str) -> None:
    two = build(data_root, 1, 2)[1]
    Path(data_root.overlay_path, two.cache_id, "lower").write_text(text)
    with pytest.raises(StoreCorrupt):
        data_root.layers.links(two.chain_id)
    with pytest.raises(StoreCorrupt):
        overlay2.rw_lowers(data_root, two.cache_id)


@pytest.mark.parametrize("target", ["/etc", "../../../etc/diff", "../" + "a" * 64, "../" + "a" * 64 + "/../diff"])
def test_short_names_must_lead_to_a_layer(data_root: DataRoot, target: str) -> None:
    one, two = build(data_root, 1, 2)
    link = Path(data_root.overlay_path, "l", overlay2.read_link(data_root.overlay_path, one.cache_id))
    link.unlink()
    link.symlink_to(target)
    with pytest.raises(StoreCorrupt):
        data_root.layers.links(two.chain_id)


def test_parents_in_a_circle(data_root: DataRoot) -> None:
    one, two = build(data_root, 1, 2)
    Path(data_root.layers.path, one.chain_id.hex, "parent").write_text(two.chain_id)
    with pytest.raises(StoreCorrupt, match="circle"):
        data_root.layers.stack(two.chain_id)


def test_missing_layers_and_images(data_root: DataRoot) -> None:
    nothing = ChainID("sha256:" + "0" * 64)
    with pytest.raises(NoSuchLayer):
        data_root.layers.get(nothing)
    with pytest.raises(FormatError):
        data_root.layers.get(ChainID("sha256:../x"))
    with pytest.raises(NoSuchLayer):
        data_root.images.add(json.dumps({"rootfs": {"diff_ids": [nothing]}}).encode())
    with pytest.raises(BadConfig):
        data_root.images.add(b"{}")
    assert data_root.images.ids() == []


def test_images_resolve(data_root: DataRoot) -> None:
    image_id = add(data_root, 1)
    other = add(data_root, 1, created="2026-01-01T00:00:00Z")
    tag(data_root, image_id, "base:1")
    tag(data_root, "base:1", "base")
    for text in ("base:1", "base", "docker.io/library/base:1", image_id, image_id.hex, image_id.hex[:20]):
        assert data_root.images.resolve(text).image_id == image_id, text
    assert data_root.images.get(image_id).last_updated_ns > 10**18
    assert data_root.images.get(other).last_updated_ns == 0
    for text in ("absent", "base:2", image_id.hex[:20] + "zz", "0" * 64, "sha256:" + "0" * 64):
        with pytest.raises(NoSuchImage, match="^No such image"):
            data_root.images.resolve(text)
    for text in ("", "UPPER", "a b", "../x", "x:y:z", "\x1b[31m"):
        with pytest.raises(InvalidReference) as caught:
            data_root.images.resolve(text)
        assert "\x1b" not in str(caught.value)
    for bad in ("x@sha256:" + "0" * 64, "sha256:x", "UP"):
        with pytest.raises(InvalidReference):
            tag(data_root, "base", bad)


def test_an_ambiguous_id_names_no_image(data_root: DataRoot) -> None:
    ids = [add(data_root, 1, comment=str(number)) for number in range(40)]
    firsts = [image_id.hex[0] for image_id in ids]
    twice = next(letter for letter in firsts if firsts.count(letter) > 1)
    with pytest.raises(NoSuchImage) as caught:
        data_root.images.resolve(twice)
    assert "image IDs begin with" in str(caught.value)


def test_damaged_configs_are_no_images(data_root: DataRoot) -> None:
    image_id = add(data_root, 1)
    content = Path(data_root.images.path)
    (content / ("0" * 64)).write_text("{}")
    (content / ".tmp-x").write_text("{}")
    nothing = b'{"os":"linux"}'
    (content / hashlib.sha256(nothing).hexdigest()).write_bytes(nothing)
    assert [row.image_id for row in list_images(data_root)] == [image_id]
    assert [image.image_id for image in data_root.images.all()] == [image_id]
    with pytest.raises(StoreCorrupt, match="not to its name"):
        data_root.images.get(ImageID("sha256:" + "0" * 64))


def test_an_image_without_its_layer_is_not_listed(data_root: DataRoot) -> None:
    image_id = add(data_root, 1, 2)
    os.rename(f"{data_root.layers.path}/{data_root.layers.all()[0].hex}", f"{data_root.path}/away")
    assert list_images(data_root) == []
    with pytest.raises(MinidockError):
        inspect_image(data_root, image_id)


def test_history_that_claims_more_layers_than_there_are(data_root: DataRoot) -> None:
    image_id = add(data_root, 1, history=[{"created_by": "a"}, {"created_by": "b"}])
    with pytest.raises(BadConfig, match="too many non-empty layers"):
        history(data_root, image_id)


def test_rows_with_digests(data_root: DataRoot) -> None:
    image_id = add(data_root, 1)
    one, two = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    for name in ("a:1", "a:2", f"a@{one}", f"a@{two}", f"b@{one}"):
        data_root.references.set(name, image_id)

    def rows(digests: bool) -> list[tuple[str, str, str]]:
        listed = list_images(data_root, digests=digests)
        return sorted((row.repository, row.tag, row.digest) for row in listed)

    assert rows(True) == sorted(
        [("a", "1", one), ("a", "1", two), ("a", "2", one), ("a", "2", two), ("b", "<none>", one)]
    )
    assert [row[:2] for row in rows(False)] == [("a", "1"), ("a", "2"), ("b", "<none>")]


@pytest.mark.parametrize("text", ["bad=1", "dangling=x", "until=1h", "x"])
def test_unknown_filters(data_root: DataRoot, text: str) -> None:
    with pytest.raises(UsageError):
        list_images(data_root, filters=[text])


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*c", "abc", True),
        ("a*", "a", True),
        ("a*", "ab/c", False),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^c]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("a\\*b", "a*b", True),
        ("a\\*b", "ab", False),
        ("a?b", "a☺b", True),
        ("a???b", "a☺b", False),
        ("a?b", "a/b", False),
        ("[\\]a]", "]", True),
        ("[\\-]", "-", True),
        ("[x\\-]", "x", True),
        ("[a-b-c]", "a", None),
        ("[]a]", "]", None),
        ("[", "a", None),
        ("[^bc", "a", None),
        ("a[", "ab", None),
        ("[-]", "-", None),
        ("*x", "xxx", True),
        ("", "", True),
        ("", "a", False),
    ],
)
def test_go_path_match(pattern: str, text: str, expected: bool | None) -> None:
    """Go's own table, path/match_test.go."""
    if expected is None:
        with pytest.raises(InvalidReference):
            match_path(pattern, text)
    else:
        assert match_path(pattern, text) is expected


def test_inspect_tries_all_names(data_root: DataRoot) -> None:
    image_id = add(data_root, 1)
    tag(data_root, image_id, "here:1")
    found: list[dict[str, Any]] = []
    with pytest.raises(MinidockError, match="No such object: absent") as caught:
        inspect(data_root, ["absent", "here:1", "UPPER"], found=found)
    assert [document["Id"] for document in found] == [image_id]
    assert caught.value.__notes__
    with pytest.raises(UsageError):
        inspect(data_root, ["here:1"], type="plugin")
