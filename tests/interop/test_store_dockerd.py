"""Docker's engine and minidock on one and the same data root, each while the other is away: they must agree."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import MinidockError, StoreBusy
from minidock.ids import ImageID
from minidock.store.root import DataRoot
from minidock.verbs.history import history
from minidock.verbs.images import list_images
from minidock.verbs.info import info
from minidock.verbs.inspect import inspect_image
from minidock.verbs.rmi import rmi
from minidock.verbs.tag import tag
from tests import builders
from tests.conftest import Engine

IMAGES = "{{.ID}}|{{.Repository}}|{{.Tag}}|{{.Digest}}"
HISTORY = "{{json .}}"


def second_layer(word: bytes) -> bytes:
    return builders.layer_tar(builders.directory(b"data"), builders.tar_member(b"data/" + word, word))


def created(second: int, layers: list[bytes], **more: Any) -> bytes:
    return builders.image_config(layers, created=f"2026-02-03T04:05:{second:02d}.5Z", **more)


@pytest.fixture(scope="module")
def engine(new_engine: Callable[[], Engine], busybox_layer: bytes, session_scratch: Path) -> Iterator[Engine]:
    """An engine with several images: shared layers, children by commit, no name, many names, empty layers."""
    engine = new_engine()
    engine.start()
    one, two = second_layer(b"one"), second_layer(b"two")
    empty_steps = [
        {"created": "2026-01-02T03:04:05Z", "created_by": "ADD base", "comment": "the base"},
        {"created": "2026-01-02T03:04:06Z", "created_by": "ENV a=<b>", "empty_layer": True},
        {"created": "2026-01-02T03:04:07Z", "created_by": "RUN x", "author": "me"},
    ]
    labelled = {"Labels": {"kind": "odd", "a": "b=c"}, "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}}
    specs = [
        builders.ImageSpec(
            [busybox_layer, one], tags=["one:1", "one:2", "team/one:x"], config=created(1, [busybox_layer, one])
        ),
        builders.ImageSpec(
            [busybox_layer, two],
            tags=["two:latest"],
            config=created(2, [busybox_layer, two], history=empty_steps, config=labelled, author="A", comment="c"),
        ),
        builders.ImageSpec(
            [busybox_layer],
            tags=["example.com:5000/base:1"],
            config=created(3, [busybox_layer], docker_version="9", variant="v8", container="c" * 64),
        ),
        builders.ImageSpec([busybox_layer, one, two], config=created(4, [busybox_layer, one, two])),
        builders.ImageSpec([one], tags=["gone:1"], config=created(5, [one])),
    ]
    engine.docker("load", "-i", builders.docker_archive(session_scratch / "store-interop.tar", *specs))
    engine.docker("tag", "one:1", "aaa:tagged")
    engine.docker("create", "--name", "holder", "--network", "none", "two:latest", "true")
    engine.docker("commit", "-m", "said", "holder", "child:1")
    # A listing is ordered by whole seconds, and by chance within one.
    builders.run_command("sleep", "1.1")
    engine.docker("create", "--name", "holder2", "--network", "none", "child:1", "true")
    engine.docker("commit", "holder2", "child:2")
    engine.docker("rmi", "child:1", check=False)
    yield engine


def docker_images(engine: Engine, *words: str) -> list[str]:
    return engine.docker("images", "--no-trunc", "--format", IMAGES, *words).stdout.splitlines()


def our_images(root: DataRoot, **options: Any) -> list[str]:
    rows = list_images(root, **options)
    return [f"{row.image_id}|{row.repository}|{row.tag}|{row.digest}" for row in rows]


def by_image(lines: list[str]) -> list[list[str]]:
    """Rows grouped by image in the order of appearance; the engine's order within an image is a Go map's."""
    groups: dict[str, list[str]] = {}
    for line in lines:
        groups.setdefault(line.partition("|")[0], []).append(line)
    return [sorted(group) for group in groups.values()]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], {}),
        (["-a"], {"all": True}),
        (["--digests"], {"digests": True}),
        (["-f", "dangling=true"], {"filters": ["dangling=true"]}),
        (["-f", "dangling=false"], {"filters": ["dangling=false"]}),
        (["-f", "label=kind"], {"filters": ["label=kind"]}),
        (["-f", "label=kind=odd", "-f", "label=a=b=c"], {"filters": ["label=kind=odd", "label=a=b=c"]}),
        (["-f", "label=kind=even"], {"filters": ["label=kind=even"]}),
        (["-f", "before=two"], {"filters": ["before=two"]}),
        (["-f", "since=two"], {"filters": ["since=two"]}),
        (["-f", "reference=*"], {"filters": ["reference=*"]}),
        (["-f", "reference=*:1"], {"filters": ["reference=*:1"]}),
        (["-f", "reference=*/*:[x-z]"], {"filters": ["reference=*/*:[x-z]"]}),
        (["one"], {"reference": "one"}),
        (["one:2"], {"reference": "one:2"}),
        (["absent"], {"reference": "absent"}),
    ],
)
def test_images_are_listed_alike(engine: Engine, words: list[str], options: dict[str, Any]) -> None:
    with DataRoot.open(str(engine.root), write=False) as root:
        ours = our_images(root, **options)
    theirs = docker_images(engine, *words)
    if "--digests" not in words:
        assert len(ours) == len(theirs)
    assert by_image(ours) == by_image(theirs)


def test_image_sizes(engine: Engine) -> None:
    with DataRoot.open(str(engine.root), write=False) as root:
        for row in list_images(root, all=True):
            size = engine.docker("inspect", "--format", "{{.Size}}", row.image_id).stdout.strip()
            assert row.size_bytes == int(size)


@pytest.mark.parametrize("name", ["one:1", "two", "example.com:5000/base:1", "child:2", "gone:1"])
def test_inspect_alike(engine: Engine, name: str) -> None:
    theirs = json.loads(engine.docker("inspect", "--type", "image", name).stdout)[0]
    with DataRoot.open(str(engine.root), write=False) as root:
        ours = inspect_image(root, name)
    assert ours == theirs
    assert list(ours) == list(theirs)
    assert list(ours["Config"]) == list(theirs["Config"])


def test_inspect_by_id(engine: Engine) -> None:
    nameless = docker_images(engine, "-f", "dangling=true")[0].partition("|")[0]
    theirs = json.loads(engine.docker("inspect", nameless[7:20]).stdout)[0]
    with DataRoot.open(str(engine.root), write=False) as root:
        assert inspect_image(root, nameless[7:20]) == theirs
        assert inspect_image(root, nameless) == theirs
        assert inspect_image(root, nameless[7:]) == theirs
        assert inspect_image(root, nameless[:20]) == theirs


@pytest.mark.parametrize("name", ["one:1", "two", "child:2", "gone:1"])
def test_history_alike(engine: Engine, name: str) -> None:
    import time

    text = engine.docker("history", "--no-trunc", "--human=false", "--format", HISTORY, name).stdout
    theirs = [json.loads(line) for line in text.splitlines()]
    with DataRoot.open(str(engine.root), write=False) as root:
        ours = [
            {
                "Comment": row.comment,
                "CreatedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.created_ns // 10**9)),
                "CreatedBy": row.created_by,
                "ID": row.image_id,
                "Size": str(row.size_bytes),
            }
            for row in history(root, name)
        ]
    for row in theirs:
        del row["CreatedSince"]
    assert ours == theirs


@pytest.mark.parametrize(
    "name", ["absent", "absent:1", "f" * 64, "sha256:" + "0" * 64, "library/absent", "0123456789ab"]
)
def test_unknown_images_in_the_same_words(engine: Engine, name: str) -> None:
    answer = engine.docker("history", name, check=False).stderr.strip()
    with DataRoot.open(str(engine.root), write=False) as root, pytest.raises(MinidockError) as caught:
        history(root, name)
    assert "Error response from daemon: " + caught.value.message == answer


def test_info_alike(engine: Engine) -> None:
    theirs = json.loads(engine.docker("info", "--format", "{{json .}}").stdout)
    with DataRoot.open(str(engine.root), write=False) as root:
        ours = info(root)
    # About a module that docker's networks need, and minidock's do not.
    warnings = [line for line in theirs["Warnings"] or () if "bridge-nf-call" not in line]
    theirs["Warnings"] = warnings or None
    for key in set(ours) - {"ServerVersion", "SystemTime", "SecurityOptions"}:
        assert ours[key] == theirs[key], key
    assert set(ours) <= set(theirs)


def test_writing_is_refused_while_dockerd_runs(engine: Engine) -> None:
    assert engine.process is not None
    before = (engine.root / "image/overlay2/repositories.json").read_bytes()
    with DataRoot.open(str(engine.root)) as root:
        with pytest.raises(StoreBusy, match=f"pid {engine.process.pid}"):
            tag(root, "one:1", "new:1")
        with pytest.raises(StoreBusy):
            rmi(root, ["one:1"])
        assert not os.path.exists(root.stage_path)
        assert our_images(root)
    assert (engine.root / "image/overlay2/repositories.json").read_bytes() == before


REMOVALS: list[tuple[list[str], dict[str, bool]]] = [
    (["one:1"], {}),
    (["two"], {}),
    (["child:2"], {}),
    (["absent"], {}),
    (["aaa:tagged"], {}),
    (["one:2"], {}),
    (["ID:team/one:x"], {}),
    (["ID:two"], {}),
    (["ID:two"], {"force": True}),
    (["gone:1"], {}),
    (["example.com:5000/base:1"], {}),
    (["two"], {"force": True}),
    (["UPPER"], {}),
]


def test_rmi_says_and_does_the_same(new_engine: Callable[[], Engine], engine: Engine) -> None:
    """Two copies of one root: dockerd removes from the one what we remove from the other, line by line."""
    engine.docker("rm", "holder2", check=False)
    ids = {name: engine.docker("inspect", "--format", "{{.Id}}", name).stdout.strip() for name in ("team/one:x", "two")}
    engine.stop()
    twin = new_engine()
    twin.base.mkdir(parents=True, exist_ok=True)
    builders.run_command("cp", "-a", engine.root, twin.root)
    engine.start()
    lines: list[list[str]] = []
    for names, options in REMOVALS:
        words = [ids[name[3:]][7:19] if name.startswith("ID:") else name for name in names]
        done = engine.docker("rmi", *(["-f"] if options.get("force") else []), *words, check=False)
        text = (done.stdout + done.stderr).replace("Error response from daemon: ", "").replace("Error: ", "")
        lines.append(text.strip().splitlines())
    with DataRoot.open(str(twin.root)) as root:
        for (names, options), theirs in zip(REMOVALS, lines, strict=True):
            words = [ids[name[3:]][7:19] if name.startswith("ID:") else name for name in names]
            try:
                ours = [f"{kind}: {text}" for kind, text in rmi(root, words, force=options.get("force", False))]
            except MinidockError as error:
                ours = [error.message]
            if names != ["UPPER"]:
                assert ours == theirs, names
            else:
                assert "must be lowercase" in ours[0]
        left = our_images(root, all=True)
        assert by_image(left) == by_image(docker_images(engine, "-a"))
        chains = [chain_id.hex for chain_id in root.layers.all()]
    assert chains == sorted(os.listdir(engine.root / "image/overlay2/layerdb/sha256"))
    assert len(os.listdir(twin.root / "overlay2")) == len(os.listdir(engine.root / "overlay2"))


def write_image(root: DataRoot, layers: list[tuple[bytes, dict[str, bytes]]], reference: str) -> ImageID:
    """Lay an image down through the store alone: content, tar-split made here by hand, config, name."""
    import base64
    import gzip

    from minidock.ids import ChainID, DiffID

    with root.stage() as stage, root.lock():
        parent: ChainID | None = None
        for tar, files in layers:
            staged = root.layers.stage_layer(stage)
            _extract(tar, f"{staged.path}/diff")
            # One segment and no files: the whole tar is in the tar-split itself.
            segment = json.dumps({"type": 2, "payload": base64.b64encode(tar).decode(), "position": 0}) + "\n"
            os.write(staged.tar_split_fd, gzip.compress(segment.encode(), 1))
            parent = root.layers.publish(
                staged, parent, DiffID(builders.sha256(tar)), sum(map(len, files.values()))
            ).chain_id
        image_id = root.images.add(builders.image_config([tar for tar, _ in layers]))
        root.references.set(reference, image_id)
    return image_id


def _extract(tar: bytes, where: str) -> None:
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        archive.extractall(where)


def test_dockerd_takes_a_root_we_wrote(new_engine: Callable[[], Engine], busybox_layer: bytes, scratch: Path) -> None:
    engine = new_engine()
    second = second_layer(b"hello")
    os.umask(0o077)
    try:
        with DataRoot.open(str(engine.root)) as root:
            image_id = write_image(root, [(busybox_layer, {}), (second, {"hello": b"hello"})], "ours:1")
            tag(root, "ours:1", "again:2")
    finally:
        os.umask(0o022)
    engine.start()
    try:
        assert {line.split("|")[1] for line in docker_images(engine)} == {"ours", "again"}
        assert engine.docker("inspect", "--format", "{{.Id}}", "ours:1").stdout.strip() == image_id
        assert len(engine.docker("history", "-q", "ours:1").stdout.splitlines()) == 2
        ran = engine.docker("run", "--rm", "--network", "none", "ours:1", "cat", "/data/hello")
        assert ran.stdout == "hello"
        # save rebuilds each layer from its tar-split and refuses it unless it hashes to the diff_id
        engine.docker("save", "-o", scratch / "saved.tar", "ours:1")
        assert engine.docker("rmi", "ours:1").stdout == "Untagged: ours:1\n"
        assert engine.docker("rmi", "again:2").stdout.count("Deleted: ") == 3
        assert sorted(os.listdir(engine.root / "overlay2")) == ["l"]
        assert os.listdir(engine.root / "overlay2/l") == []
    finally:
        engine.stop()


def test_modes_equal_dockerds(engine: Engine, scratch: Path) -> None:
    """Every directory and file of the store has the mode that the engine gives its own, whatever the umask."""
    os.umask(0o077)
    try:
        with DataRoot.open(str(scratch / "root")) as root:
            write_image(root, [(second_layer(b"a"), {}), (second_layer(b"b"), {})], "x:1")
            root.images.touch(root.images.ids()[0])
    finally:
        os.umask(0o022)
    theirs = {_kind(path): mode for path, mode in _modes(engine.root)}
    for path, mode in _modes(scratch / "root"):
        if not path.startswith("minidock"):
            assert theirs.get(_kind(path), mode) == mode, path


def _modes(root: Path) -> list[tuple[str, int]]:
    found = []
    for where, directories, files in os.walk(root):
        if "/diff" in where or "/buildkit" in where or "/containerd" in where:
            continue
        for name in directories + files:
            path = os.path.join(where, name)
            found.append((os.path.relpath(path, root), os.lstat(path).st_mode & 0o7777))
    return [*found, (".", os.stat(root).st_mode & 0o7777)]


def _kind(path: str) -> str:
    parts = ["<id>" if len(part) >= 26 else part for part in path.split("/")]
    return "/".join(parts)


def _rows(text: str) -> list[list[str]]:
    """The lines' words without an age in seconds: between two commands one may pass."""
    return sorted(re.sub(r"\b\d+ seconds ago", "seconds ago", line).split() for line in text.splitlines())


def test_digest_rows_by_the_command(engine: Engine, scratch: Path) -> None:
    """An image with two digests of one repository: a row for each where digests are shown, one row where not."""
    import sys

    engine.stop()
    path = engine.root / "image/overlay2/repositories.json"
    kept = path.read_bytes()
    try:
        document = json.loads(kept)
        image_id = next(iter(next(iter(document["Repositories"].values())).values()))
        digests = ["sha256:" + letter * 64 for letter in "ab"]
        document["Repositories"]["pulled"] = {"pulled:1": image_id, **{f"pulled@{one}": image_id for one in digests}}
        document["Repositories"]["only"] = {f"only@{one}": image_id for one in digests}
        path.write_text(json.dumps(document))
        engine.start()
        for words in ([], ["--digests"], ["--format", "{{.Repository}} {{.Tag}} {{.Digest}}"], ["-q"], ["pulled"]):
            theirs = engine.docker("images", *words).stdout
            command = [sys.executable, "-m", "minidock", "--root", str(engine.root), "images", *words]
            ours = builders.run_command(*command, cwd=Path(__file__).parents[2]).stdout
            assert _rows(ours) == _rows(theirs), words
    finally:
        engine.stop()
        path.write_bytes(kept)
        engine.start()
