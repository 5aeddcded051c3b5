"""export and import against Docker's engine: the same container gives the same bytes, the same tar the same config."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minidock.store.root import DataRoot
from minidock.verbs.export import export
from minidock.verbs.import_ import import_
from tests import builders
from tests.conftest import Engine
from tests.interop.engines import Release

CHANGES = """
set -e
echo one > /one; ln /one /linked; ln -s /one /pointer; mkfifo -m 600 /fifo; mknod /dev/mine c 1 7
rm /data/one; mkdir /data/one; echo in > /data/one/in; rm -r /home; mkdir /home; echo new > /home/new
echo more >> /etc/passwd; chmod 4755 /bin/busybox; chown 1000:29 /tmp; touch -d @-5 /old; mkdir -m 1777 /o
echo x > /o.t
mkdir -p /deep/$(printf '%090d' 1)/$(printf '%090d' 2); echo long > /deep/$(printf '%090d' 1)/$(printf '%090d' 2)/leaf
dd if=/dev/zero of=/zeros bs=1000 count=2500 2> /dev/null; echo > /etc/hosts; chown 3000000:12345 /one
"""


@pytest.fixture
def image(running: Engine, busybox_archive: Path) -> Iterator[str]:
    running.docker("load", "-i", busybox_archive)
    running.docker("tag", "busybox:test", "exportbase:1")
    running.docker("rmi", "busybox:test")
    yield "exportbase:1"
    running.docker("rmi", "-f", "exportbase:1", check=False)


def theirs(engine: Engine, container: str, path: Path) -> bytes:
    engine.docker("export", "-o", path, container)
    return path.read_bytes()


def ours(engine: Engine, container: str, path: Path, version: str) -> bytes:
    with DataRoot.open(str(engine.root), write=False) as root:
        written = export(root, container, str(path), engine=version)
    assert not written.warnings
    data = path.read_bytes()
    assert written.tar_bytes == len(data)
    return data


def mounts_below(engine: Engine) -> list[str]:
    """What is mounted in an engine's directory."""
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in table if line.split()[4].startswith(f"{engine.base}/")]


def compare(engine: Engine, scratch: Path, version: str) -> bytes:
    """The container `exported` by both; where they differ, the first entry that does is shown."""
    mine = ours(engine, "exported", scratch / "ours.tar", version)
    other = theirs(engine, "exported", scratch / "theirs.tar")
    if mine != other:
        lists = [builders.run_command("tar", "-tvf", scratch / name).stdout for name in ("ours.tar", "theirs.tar")]
        for left, right in zip(lists[0].split("\n"), lists[1].split("\n"), strict=False):
            assert left == right
    assert mine == other
    return mine


@pytest.mark.parametrize("is_running", [False, True])
def test_equal_bytes(running: Engine, release: Release, image: str, scratch: Path, is_running: bool) -> None:
    script = CHANGES + ("exec sleep 1000" if is_running else "")
    tail = ("--tmpfs", "/tmp:size=1m") if is_running else ()
    run = ("run", "--name", "exported", "--network", "none", *tail)
    try:
        if is_running:
            running.docker(*run, "-d", image, "sh", "-c", script)
            running.docker("exec", "exported", "sh", "-c", "until test -s /etc/hosts -a -e /zeros; do :; done")
            running.docker("exec", "exported", "sh", "-c", "until ps | grep -q '[s]leep 1000'; do :; done")
        else:
            running.docker(*run, image, "sh", "-c", script)
            # What no program of the image can do; revision 3 goes out as revision 2.
            upper = running.docker("inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", "exported").stdout.strip()
            words = (0x03000001, 1 << 10, 0, 0, 0, 1000)
            os.setxattr(f"{upper}/zeros", "security.capability", struct.pack("<6I", *words))
        mounts = mounts_below(running)
        data = compare(running, scratch, release.label)
        assert is_running or b"SCHILY.xattr.security.capability=\1\0\0\2" in data
        assert mounts_below(running) == mounts
    finally:
        running.docker("rm", "-f", "exported", check=False)


def test_never_started(running: Engine, release: Release, image: str, scratch: Path) -> None:
    try:
        running.docker("create", "--name", "exported", image, "true")
        compare(running, scratch, release.label)
    finally:
        running.docker("rm", "-f", "exported", check=False)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("-m", "a message"),
        ("-c", 'CMD ["sh", "-c", "id"]', "-c", "ENV A=b C=d", "-c", "EXPOSE 80"),
        ("-c", "ENTRYPOINT run me", "-c", "USER 5", "-c", "WORKDIR /x", "-c", "LABEL a=b", "-c", "VOLUME /v"),
    ],
)
def test_import_makes_the_same_config(running: Engine, data_root: Any, scratch: Path, words: tuple[str, ...]) -> None:
    tar = scratch / "root.tar"
    tar.write_bytes(builders.busybox_layer())
    image_id = running.docker("import", *words, tar).stdout.strip()
    try:
        content = running.root / "image/overlay2/imagedb/content/sha256"
        expected = json.loads((content / image_id.removeprefix("sha256:")).read_text())
    finally:
        running.docker("rmi", image_id, check=False)
    changes = [word for flag, word in zip(words[::2], words[1::2], strict=True) if flag == "-c"]
    message = words[1] if words[:1] == ("-m",) else ""
    made = import_(data_root, str(tar), "imported:1", changes=changes, message=message)
    document = json.loads(data_root.images.get(made.image_id).raw)
    for found in (expected, document):
        # The moment, and the version of an engine that minidock is not.
        for key in ("created", "docker_version"):
            found.pop(key, None)
        found["history"][0].pop("created")
    assert document == expected
    assert list(document["config"]) == list(expected["config"])


def test_export_import_round_trip(running: Engine, release: Release, image: str, data_root: Any, scratch: Path) -> None:
    """What we export, the engine imports; what it exports, we import: one layer, one digest."""
    try:
        running.docker("run", "--name", "exported", "--network", "none", image, "sh", "-c", CHANGES)
        data = ours(running, "exported", scratch / "ours.tar", release.label)
        image_id = subprocess.run(
            ["/usr/bin/docker", "-H", f"unix://{running.socket}", "import", "-", "reimported:1"],
            input=data,
            capture_output=True,
            check=True,
        )
        assert image_id.stdout.startswith(b"sha256:")
        facts = json.loads(running.docker("inspect", "reimported:1").stdout)[0]
        theirs(running, "exported", scratch / "theirs.tar")
        made = import_(data_root, str(scratch / "theirs.tar"))
        assert data_root.images.get(made.image_id).config.diff_ids == facts["RootFS"]["Layers"]
    finally:
        running.docker("rm", "-f", "exported", check=False)
        running.docker("rmi", "-f", "reimported:1", check=False)
