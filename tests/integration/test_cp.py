"""cp: docker's rules for what lands where, running and stopped, streams, and no way out for a hostile container."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minidock.errors import MinidockError
from minidock.store.root import DataRoot
from minidock.verbs.cp import cp_from, cp_to
from tests import builders
from tests.integration.tool import Tool, command

BOX = "busybox:test"


@pytest.fixture(params=["running", "stopped"])
def box(request: pytest.FixtureRequest, tool: Tool) -> Iterator[Tool]:
    """A container `box` with a few files, and a volume at /volume."""
    script = "mkdir -p /dir/sub; echo G > /dir/sub/g; echo F > /file; ln -s /dir /link; ln -s file /short"
    script += "; echo V > /volume/v"
    tool.good("run", "--name", "box", "-v", "vol:/volume", BOX, "sh", "-c", script)
    if request.param == "running":
        tool.good("commit", "box", "made:1")
        tool.good("rm", "box")
        tool.good("run", "-d", "--name", "box", "-v", "vol:/volume", "made:1", "sleep", "1000")
    yield tool
    assert str(tool.root) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def host(scratch: Path) -> Path:
    top = scratch / "host"
    (top / "tree/below").mkdir(parents=True)
    (top / "tree/below/deep").write_text("deep\n")
    (top / "one").write_text("one\n")
    (top / "to-one").symlink_to("one")
    return top


def inside(tool: Tool, *words: str) -> str:
    """What a command sees in the container's root, as it is now, running or not."""
    if tool.status("box") == "running":
        return tool.good("exec", "box", *words)
    tool.good("commit", "box", "look:1")
    return tool.good("run", "--rm", "-v", "vol:/volume", "look:1", *words)


def test_into_a_container(box: Tool, host: Path) -> None:
    os.chown(host / "one", 1234, 4321)
    os.chmod(host / "one", 0o4751)
    for target in ("/new", "/dir", "/dir/sub/", "/file", "/volume", "/short"):
        box.good("cp", host / "one", f"box:{target}")
    box.good("cp", host / "tree", "box:/tree2")
    box.good("cp", host / "tree", "box:/tree2")
    box.good("cp", f"{host}/tree/.", "box:/tree3")
    box.good("cp", f"{host}/tree/.", "box:tree3")
    box.good("cp", host / "to-one", "box:/dir/link")
    box.good("cp", "-L", host / "to-one", "box:/dir/followed")
    box.good("cp", "-a", "-q", host / "one", "box:/link/in-link")
    assert inside(box, "sh", "-c", "cat /new /dir/one /dir/sub/one /file /volume/one /dir/followed /dir/in-link") == (
        "\n".join(["one"] * 7)
    )
    assert inside(box, "sh", "-c", "find /tree2 /tree3 | sort").split() == [
        *("/tree2", "/tree2/below", "/tree2/below/deep", "/tree2/tree", "/tree2/tree/below", "/tree2/tree/below/deep"),
        *("/tree3", "/tree3/below", "/tree3/below/deep"),
    ]
    assert inside(box, "readlink", "/dir/link") == "one"
    assert inside(box, "stat", "-c", "%a %u %g", "/new") == "4751 1234 4321"


def test_out_of_a_container(box: Tool, host: Path) -> None:
    box.good("cp", "box:/file", host / "out")
    box.good("cp", "box:/dir", host / "dir")
    box.good("cp", "box:dir", host / "dir")
    box.good("cp", "box:/dir/.", host / "content")
    box.good("cp", "box:/link", host / "link")
    box.good("cp", "-L", "box:/link", host / "followed")
    box.good("cp", "box:/link/", host / "slash")
    box.good("cp", "box:/volume", host / "volume")
    assert (host / "out").read_text() == "F\n"
    assert (host / "dir/sub/g").read_text() == (host / "dir/dir/sub/g").read_text() == "G\n"
    assert (host / "content/sub/g").exists()
    assert os.readlink(host / "link") == "/dir"
    assert (host / "followed/sub/g").exists()
    assert (host / "slash/sub/g").exists()
    assert (host / "volume/v").read_text() == "V\n"


def test_streams(box: Tool, host: Path) -> None:
    tar = subprocess.run(command("cp", "box:/dir", "-"), env=box.environment, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        assert archive.getnames() == ["dir", "dir/sub", "dir/sub/g"]
        member = archive.extractfile("dir/sub/g")
        assert member is not None
        assert member.read() == b"G\n"
    tar = subprocess.run(command("cp", "box:/file", "-"), env=box.environment, capture_output=True, check=True).stdout
    done = subprocess.run(command("cp", "-", "box:/volume"), env=box.environment, input=tar, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert inside(box, "cat", "/volume/file") == "F"
    # Through a symlink that the container has, and never out of it.
    odd = builders.layer_tar(builders.tar_member(b"link/through", b"x", uid=5), builders.symlink(b"up", b"/etc"))
    done = subprocess.run(command("cp", "-", "box:/"), env=box.environment, input=odd, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert inside(box, "stat", "-c", "%u", "/dir/through") == "5"
    for bad, message in (
        (builders.layer_tar(builders.tar_member(b"../out", b"x")), b".."),
        (odd[:512], b"ends"),
        (b"no tar" * 200, b""),
    ):
        done = subprocess.run(command("cp", "-", "box:/volume"), env=box.environment, input=bad, capture_output=True)
        assert (done.returncode, message in done.stderr) == (1, True), (bad[:40], done.stderr)
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("{host}/one", "box:/nonexist/", "no such directory"),
        ("{host}/one", "box:/nodir/x", "No such container:path: box:/nodir"),
        ("{host}/tree", "box:/file", "cannot copy directory"),
        ("{host}/one", "box:/file/", "no such directory"),
        ("{host}/none", "box:/", "lstat {host}/none: no such file or directory"),
        ("box:/nope", "{host}/x", "No such container:path: box:/nope"),
        ("box:/dir", "{host}/one", "cannot copy directory"),
        ("box:/file", "{host}/no/x", 'invalid output path: directory "{host}/no" does not exist'),
        ("box:/file/", "{host}/x", "Not a directory"),
        ("nosuch:/x", ".", "No such container: nosuch"),
        ("a", "b", "must specify at least one container source"),
        ("box:/a", "box:/b", "copying between containers is not supported"),
        ("box:/a", "", "destination can not be empty"),
        ("-", "box:/file", 'destination "box:/file" must be a directory'),
        ("-", "-", "must specify at least one container source"),
    ],
)
def test_refused(tool: Tool, host: Path, source: str, target: str, message: str) -> None:
    tool.good("run", "--name", "box", BOX, "sh", "-c", "mkdir /dir; echo F > /file")
    before = builders.tree_listing(host)
    done = tool("cp", source.format(host=host), target.format(host=host), stdin=subprocess.DEVNULL)
    assert message.format(host=host) in done.stderr
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert builders.tree_listing(host) == before


def test_read_only_root(tool: Tool, host: Path) -> None:
    for words in (["run", "-d"], ["create"]):
        name = words[0]
        tool.good(*words, "--name", name + "ro", "--read-only", "-v", "vol:/volume", BOX, "sleep", "1000")
        assert "read-only" in tool("cp", host / "one", f"{name}ro:/x").stderr
        tool.good("cp", host / "one", f"{name}ro:/volume/{name}")
    assert sorted(os.listdir(tool.root / "volumes/vol/_data")) == ["create", "run"]


def test_links_stay_in_the_container(box: Tool, host: Path) -> None:
    text = os.fsencode(host)
    trap = builders.layer_tar(
        builders.symlink(b"host", text),
        builders.symlink(b"up", b"../../../../../.." + text),
        builders.symlink(b"magic", b"/proc/1/root" + text),
        builders.symlink(b"one", text + b"/one"),
    )
    subprocess.run(command("cp", "-", "box:/"), env=box.environment, input=trap, check=True)
    before = builders.tree_listing(host)
    for name in ("host", "up", "magic"):
        assert box("cp", host / "tree/below/deep", f"box:/{name}/stolen").returncode == 1
        assert box("cp", f"box:/{name}/one", host.parent / "leak").returncode == 1
        assert box("cp", "-L", f"box:/{name}", host.parent / "leak").returncode == 1
    # A dangling link's place is inside as well.
    box("cp", "-L", "box:/one", host.parent / "leak")
    box("cp", host / "tree/below/deep", "box:/one")
    assert not (host.parent / "leak").exists()
    assert builders.tree_listing(host) == before
    assert (host / "one").read_text() == "one\n"


def test_names_swapped_while_copying(tool: Tool, host: Path) -> None:
    """Hazard D12: a running container that swaps a directory with a symlink to the host gets nothing out or in."""
    swap = (
        "mkdir -p /real /t/d; echo inside > /real/one; cd /; "
        f"while :; do rm -rf /swap; ln -s {host} /swap; rm /swap; cp -r /real /swap; done"
    )
    tool.good("run", "-d", "--name", "swap", BOX, "sh", "-c", swap)
    before = builders.tree_listing(host)
    out = host.parent / "out"
    done = refused = 0
    with DataRoot.open(str(tool.root)) as root:
        actions: tuple[Callable[[], None], ...] = (
            lambda: cp_from(root, "swap", "/swap/one", str(out)),
            lambda: cp_to(root, str(host / "tree/below/deep"), "swap", "/swap/one"),
            lambda: cp_to(root, str(host / "tree"), "swap", "/swap/"),
        )
        for _ in range(150):
            for act in actions:
                try:
                    act()
                    done += 1
                except MinidockError:
                    refused += 1
                if out.exists():
                    assert out.read_text() in ("inside\n", "deep\n")
                    out.unlink()
    assert done
    assert refused
    assert builders.tree_listing(host) == before
    assert (host / "one").read_text() == "one\n"
