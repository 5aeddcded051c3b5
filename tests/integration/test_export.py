"""export and import: a container's tree goes out as a tar and comes in as an image; nothing stays mounted."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import (
    BadArchive,
    InvalidReference,
    MinidockError,
    NoSuchContainer,
    NotFound,
    StoreCorrupt,
    UsageError,
)
from minidock.store.root import DataRoot
from minidock.store.taroutput import TarOutput
from minidock.store.treetar import write_tree
from minidock.verbs.export import export
from minidock.verbs.import_ import import_
from minidock.verbs.pull_tar import pull_tar
from tests import builders
from tests.integration.tool import Tool, command, wait_until


def mounts(root: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{root}/")]


def exported(tool: Tool, name: str, **options: Any) -> dict[str, tarfile.TarInfo]:
    before = mounts(tool.root)
    with DataRoot.open(str(tool.root), write=False) as root:
        target = tool.root.parent / f"{name}.tar"
        written = export(root, name, str(target), **options)
    assert mounts(tool.root) == before
    assert written.tar_bytes == target.stat().st_size
    with tarfile.open(target) as archive:
        found = {member.name: member for member in archive}
    assert len(found) == written.entries
    return found


def test_stopped_container(tool: Tool) -> None:
    script = "echo new > /new; rm -r /data/deep; rm /data/one; mkdir /data/one; ln /data/two /linked; mknod /x c 1 3"
    tool.good("run", "--name", "box", "busybox:test", "sh", "-c", script)
    found = exported(tool, "box")
    assert found["new"].size == 4
    assert found["data/one"].isdir()
    assert not [name for name in found if "deep" in name or ".wh." in name]
    assert (found["linked"].type, found["linked"].linkname) == (tarfile.LNKTYPE, "data/two")
    assert found[".dockerenv"].mode == found["etc/hosts"].mode == 0o755
    assert found["etc/mtab"].linkname == "/proc/mounts"
    assert (found["x"].devmajor, found["x"].devminor) == (1, 3)
    assert list(found) == sorted(found, key=lambda name: name.split("/"))


def test_running_container_without_its_mounts(tool: Tool, scratch: Path) -> None:
    (scratch / "host").mkdir()
    (scratch / "host/secret").write_text("of the host")
    words = ("--tmpfs", "/tmp", "-v", f"{scratch / 'host'}:/mnt", "busybox:test")
    tool.good("run", "-d", "--name", "box", *words, "sh", "-c", "echo > /tmp/no; echo run > /run; exec sleep 1000")
    wait_until(lambda: "sleep" in tool("exec", "box", "ps").stdout, "the container's sleep")
    found = exported(tool, "box")
    assert found["run"].size == 4
    assert {"tmp", "mnt", "proc", "sys", "dev/pts", "dev/console"} <= set(found)
    assert not [name for name in found if name.startswith(("tmp/", "mnt/", "proc/", "sys/", "dev/pts/"))]
    assert found["etc/hosts"].size == 0, "what is mounted over it is not the container's"
    tool.good("kill", "box")
    tool.good("wait", "box")
    stopped = exported(tool, "box")
    assert list(stopped) == list(found)


def test_all_bytes_come_back(tool: Tool, data_root: DataRoot, scratch: Path) -> None:
    """The exported tree, imported and exported again, is the same tar but for the init layer's fresh files."""
    tool.good(
        "run", "--name", "box", "busybox:test", "sh", "-c", "dd if=/dev/urandom of=/r bs=999 count=4000; chown 7:8 /r"
    )
    exported(tool, "box")
    tar = tool.root.parent / "box.tar"
    image_id = tool.good("import", tar, "again:1")
    assert image_id.startswith("sha256:")
    made = import_(data_root, str(tar))
    assert data_root.images.get(made.image_id).config.diff_ids == [builders.sha256(tar.read_bytes())]
    tool.good("create", "--name", "dup", "again:1", "sh")
    exported(tool, "dup")
    with tarfile.open(tar) as first, tarfile.open(tool.root.parent / "dup.tar") as second:
        for member in first:
            other = second.getmember(member.name)
            facts = [(one.mode, one.uid, one.gid, one.size, one.type, one.linkname) for one in (member, other)]
            assert facts[0] == facts[1], member.name
            if member.isfile():
                left, right = first.extractfile(member), second.extractfile(other)
                assert left is not None and right is not None and left.read() == right.read()


def test_dialects(tool: Tool) -> None:
    tool.good("run", "--name", "box", "busybox:test", "sh", "-c", "touch /hers; chown 1000:29 /hers")
    old, middle, new = (exported(tool, "box", engine=engine)["hers"] for engine in ("20.10", "23", ""))
    assert (old.uname, old.gname) == ("alice", "audio")
    assert (middle.uname, middle.gname) == (new.uname, new.gname) == ("", "")
    with pytest.raises(UsageError):
        exported(tool, "box", engine="new")


@pytest.mark.parametrize(
    "word", ["ln -s /fifo /etc/passwd", "mkfifo /etc/passwd", "mkdir /etc/passwd", "echo : > /etc/passwd"]
)
def test_a_hostile_passwd(tool: Tool, word: str) -> None:
    tool.good("run", "--name", "box", "busybox:test", "sh", "-c", f"rm /etc/passwd; mkfifo /fifo; {word}")
    assert exported(tool, "box", engine="20.10")["bin"].uname == ""


def test_as_many_layers_as_an_image_can_have(tool: Tool, scratch: Path) -> None:
    layers = [builders.layer_tar(builders.tar_member(b"f%d" % number, b"%d" % number)) for number in range(125)]
    archive = builders.docker_archive(scratch / "in.tar", builders.ImageSpec(layers, tags=["many:125"]))
    tool.good("load", "-i", archive)
    tool.good("create", "--name", "box", "many:125", "none")
    found = exported(tool, "box")
    assert {f"f{number}" for number in range(125)} < set(found)
    tool.good("save", "-o", scratch / "out.tar", "many:125")
    with tarfile.open(scratch / "out.tar") as members:
        assert len(members.getnames()) == 125 + 2 + 2 + 4


def test_a_missing_layer_is_named(tool: Tool, scratch: Path) -> None:
    tool.good("create", "--name", "box", "busybox:test", "sh")
    with DataRoot.open(str(tool.root)) as root:
        layer = root.layers.stack(root.layers.all()[0])[-1]
        diff = root.layers.diff_path(layer.cache_id)
        os.rename(diff, diff + "-away")
        try:
            with pytest.raises(StoreCorrupt, match=f"{layer.cache_id}/diff: No such file"):
                export(root, "box", str(scratch / "out.tar"))
        finally:
            os.rename(diff + "-away", diff)
        with pytest.raises(NoSuchContainer):
            export(root, "none", str(scratch / "out.tar"))
    assert not (scratch / "out.tar").exists()


class _Meddler(TarOutput):
    """An output during whose first header of a file the tree changes, as a running container changes it."""

    def __init__(self, fd: int, meddle: dict[bytes, Any]) -> None:
        super().__init__(fd, "a test")
        self.meddle = meddle

    def put(self, data: bytes | memoryview) -> None:
        super().put(data)
        act = self.meddle.pop(bytes(data[:100]).rstrip(b"\0"), None)
        if act:
            act()


def test_a_tree_that_changes_meanwhile(scratch: Path) -> None:
    tree = scratch / "tree"
    (tree / "z").mkdir(parents=True)
    for name in ("a", "b", "c", "d", "e"):
        (tree / name).write_bytes(b"x" * 2_000_000 if name == "b" else b"1234")
    (tree / "z/inner").write_bytes(b"")

    def replace() -> None:
        (tree / "c").unlink()
        (tree / "d").unlink()
        (tree / "d").symlink_to("/etc/passwd")
        (tree / "z/inner").unlink()
        (tree / "z").rmdir()
        (tree / "z").write_bytes(b"no directory any more")

    handle = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    with open(scratch / "out.tar", "wb") as out:
        meddle = {
            b"a": replace,
            b"b": lambda: os.truncate(tree / "b", 1000),
            b"e": lambda: os.truncate(tree / "e", 400),
        }
        written = write_tree(handle, _Meddler(out.fileno(), meddle))
    os.close(handle)
    data = (scratch / "out.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {member.name: member for member in archive}
        shrunk, grown = archive.extractfile("b"), archive.extractfile("e")
        assert shrunk is not None and grown is not None
        assert shrunk.read() == b"x" * 1000 + bytes(1_999_000)
        assert grown.read() == b"1234"
    assert [name for name in found if name != "z"] == ["a", "b", "d", "e"]
    assert found["d"].issym()
    assert any("'b' became shorter" in warning for warning in written.warnings)


def test_sockets_and_deep_trees(scratch: Path) -> None:
    tree = scratch / "tree"
    deep = tree.joinpath(*["d" * 30] * 120)
    deep.mkdir(parents=True)
    os.mknod(tree / "socket", 0o140644)
    handle = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    with open(scratch / "out.tar", "wb") as out:
        written = write_tree(handle, TarOutput(out.fileno(), "a test"))
    os.close(handle)
    assert (written.entries, written.warnings) == (120, [])


def test_import_takes_any_tar_as_a_tree(data_root: DataRoot, scratch: Path, busybox_archive: Path) -> None:
    """Also an image archive, and whatever a stream is packed with; changes, message and platform reach the config."""
    made = import_(data_root, str(busybox_archive), "tree")
    layer = data_root.layers.get(made.chain_id)
    assert "manifest.json" in os.listdir(data_root.layers.diff_path(layer.cache_id))
    assert data_root.references.all() == {"tree:latest": made.image_id}
    packed = scratch / "packed.tar.gz"
    with open(packed, "wb") as file:
        subprocess.run(["gzip", "-c", busybox_archive], stdout=file, check=True)
    with open(packed, "rb") as file:
        options: dict[str, Any] = {"changes": ['CMD ["a"]', "USER 5"], "message": "words", "platform": "linux/arm64"}
        again = import_(data_root, file.fileno(), "tree", **options)
    assert (again.chain_id, again.is_new, again.moved_from) == (made.chain_id, False, made.image_id)
    document = data_root.images.get(again.image_id).config.document
    assert (document["config"]["Cmd"], document["config"]["User"]) == (["a"], "5")
    assert (document["architecture"], document["comment"], document["history"][0]["comment"]) == (
        "arm64",
        "words",
        "words",
    )


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"source": "http://example.org/root.tar"}, UsageError),
        ({"source": "/nowhere.tar"}, NotFound),
        ({"source": "/dev/shm"}, BadArchive),
        ({"source": "/etc/passwd"}, BadArchive),
        ({"changes": ["RUN rm"]}, UsageError),
        ({"changes": ["CMD [1]"]}, UsageError),
        ({"reference": "UPPER"}, InvalidReference),
        ({"reference": f"a@sha256:{'a' * 64}"}, MinidockError),
        ({"platform": "a/b/c/d"}, UsageError),
    ],
)
def test_import_refuses_and_leaves_nothing(
    data_root: DataRoot, busybox_archive: Path, words: dict[str, Any], error: type[MinidockError]
) -> None:
    before = builders.tree_listing(data_root.path)
    with pytest.raises(error):
        import_(data_root, **{"source": str(busybox_archive), **words})
    assert builders.tree_listing(data_root.path) == before


def test_pull_tar_still_makes_images_of_trees(data_root: DataRoot, scratch: Path, busybox_layer: bytes) -> None:
    (scratch / "root.tar").write_bytes(busybox_layer)
    (first,) = pull_tar(data_root, str(scratch / "root.tar"), name="a:1")
    assert [reference.familiar for reference in first.references] == ["a:1"]
    assert (len(first.new_layers), first.known_layers, first.moved_tags) == (1, [], [])
    (second,) = pull_tar(data_root, str(scratch / "root.tar"), name="a:1")
    assert (second.new_layers, second.known_layers) == ([], first.new_layers)
    assert second.moved_tags == [("a:1", first.image_id)]


def test_command_line(tool: Tool, scratch: Path) -> None:
    tool.good("create", "--name", "box", "busybox:test", "sh")
    assert tool.good("export", "-o", scratch / "c.tar", "box") == ""
    data = subprocess.run(command("container", "export", "box"), capture_output=True, env=tool.environment, check=True)
    assert data.stdout == (scratch / "c.tar").read_bytes()
    words = command("import", "-c", "ENV A=b", "-m", "text", "-", "in:1")
    made = subprocess.run(words, input=data.stdout, capture_output=True, env=tool.environment, check=True)
    assert made.stdout.decode().strip() == tool.good("images", "-q", "--no-trunc", "in:1")
    assert tool.good("run", "--rm", "in:1", "sh", "-c", "echo $A") == "b"
    assert tool("export", "none").returncode == tool("import", "/nowhere").returncode == 1
    failed = tool("export", "-o", "/nowhere/c.tar", "box")
    assert 'failed to export container: invalid output path: directory "/nowhere" does not exist' in failed.stderr
