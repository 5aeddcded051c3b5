"""Volumes: made, filled from the image, mounted, shared and removed, and never a way out of the image."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from minidock.store.root import DataRoot
from minidock.verbs.pull_tar import pull_tar
from tests import builders
from tests.integration.tool import Tool

SECRET = b"the host's secret"


def volumes(tool: Tool) -> list[str]:
    with DataRoot.open(str(tool.root), write=False) as root:
        return root.volumes.names()


def data(tool: Tool, name: str) -> Path:
    return tool.root / "volumes" / name / "_data"


def mounts(tool: Tool, name: str) -> dict[str, Any]:
    return {mount["Destination"]: mount for mount in tool.inspect(name)["Mounts"]}


def load(tool: Tool, tag: str, layer: bytes, **config: Any) -> None:
    layers = [builders.busybox_layer(), layer]
    document = builders.image_config(layers, config={"Cmd": ["sh"], **config})
    spec = builders.ImageSpec(layers, tags=[tag], config=document)
    archive = builders.docker_archive(tool.root.parent / "image.tar", spec)
    with DataRoot.open(str(tool.root)) as root:
        pull_tar(root, str(archive))


RICH = builders.layer_tar(
    builders.directory(b"rich", mode=0o1770, uid=5, gid=6, mtime=1_600_000_000),
    builders.tar_member(b"rich/file", b"content", uid=7, gid=8, mode=0o4751, mtime=1_600_000_001),
    builders.hardlink(b"rich/again", b"rich/file", uid=7, gid=8, mode=0o4751, mtime=1_600_000_001),
    builders.symlink(b"rich/link", b"/etc/passwd", uid=9),
    builders.directory(b"rich/deep", mode=0o711, mtime=1_600_000_002),
    builders.tar_member(b"rich/deep/pipe", type=b"6", mode=0o640),
    builders.tar_member(b"rich/deep/null", type=b"3", devmajor=1, devminor=3, mode=0o666),
    builders.tar_member(
        b"rich/cap",
        b"x",
        uid=3,
        pax={b"SCHILY.xattr.user.note": b"kept", b"SCHILY.xattr.security.capability": b"\1\0\0\2\0\x20" + bytes(14)},
    ),
    builders.symlink(b"short", b"/rich"),
    builders.tar_member(b"plain", b"no directory"),
)


def test_filled_with_all_that_the_image_has(tool: Tool) -> None:
    load(tool, "rich:1", RICH)
    tool.good("create", "--name", "box", "-v", "named:/short", "rich:1")
    top = data(tool, "named")
    with DataRoot.open(str(tool.root), write=False) as root:
        image = root.images.resolve("rich:1")
        assert image.chain_id is not None
        source = Path(root.layers.diff_path(root.layers.get(image.chain_id).cache_id)) / "rich"
    assert builders.tree_listing(top) == builders.tree_listing(source)
    for path in (Path(), Path("file"), Path("deep"), Path("cap"), Path("deep/null")):
        ours, theirs = (top / path).stat(), (source / path).stat()
        assert (ours.st_mode, ours.st_uid, ours.st_gid, ours.st_mtime_ns, ours.st_rdev) == (
            *(theirs.st_mode, theirs.st_uid, theirs.st_gid, theirs.st_mtime_ns, theirs.st_rdev),
        ), path
    assert (top / "file").stat().st_ino == (top / "again").stat().st_ino
    assert os.getxattr(top / "cap", "security.capability") == os.getxattr(source / "cap", "security.capability")
    assert (top / "link").is_symlink()
    assert (tool.root / "volumes").stat().st_mode & 0o777 == 0o701
    assert (tool.root / "volumes/named").stat().st_mode & 0o777 == 0o701


def test_what_is_there_stays(tool: Tool) -> None:
    tool.good("create", "-v", "mine:/nowhere", "busybox:test")
    (data(tool, "mine") / "own").write_text("mine")
    assert tool.good("run", "--rm", "-v", "mine:/data", "busybox:test", "ls", "/data") == "own"
    assert tool.good("run", "--rm", "-v", "bare:/data:nocopy", "busybox:test", "ls", "/data") == ""
    script = "ls /data; echo > /data/x || echo no"
    assert tool.good("run", "--rm", "-v", "bare:/data:ro", "busybox:test", "sh", "-c", script).splitlines()[-1] == "no"
    # Still empty, and this time it may be filled.
    assert "one" in os.listdir(data(tool, "bare"))


def test_anonymous_volumes_go_with_the_container(tool: Tool) -> None:
    load(tool, "rich:1", RICH, Volumes={"/rich": {}, "/new": {}})
    tool.good("run", "--name", "kept", "-v", "/more", "-v", "named:/named", "rich:1", "sh", "-c", "echo x > /rich/x")
    found = mounts(tool, "kept")
    assert sorted(found) == ["/more", "/named", "/new", "/rich"]
    assert sorted(tool.inspect("kept")["Config"]["Volumes"]) == ["/more", "/new", "/rich"]
    assert {(len(found[path]["Name"]), found[path]["Driver"]) for path in ("/more", "/new", "/rich")} == {(64, "local")}
    assert Path(found["/rich"]["Source"], "x").read_text() == "x\n"
    # Nothing of it is the container's own.
    assert "/rich" not in tool.good("diff", "kept")
    tool.good("create", "--name", "other", "--volumes-from", "kept:ro", "rich:1")
    assert {path: one["Name"] for path, one in mounts(tool, "other").items()} == {
        path: one["Name"] for path, one in found.items()
    }
    assert not any(one["RW"] for one in mounts(tool, "other").values())
    tool.good("rm", "-v", "kept")
    assert len(volumes(tool)) == 4
    tool.good("rm", "-v", "other")
    assert volumes(tool) == ["named"]
    assert tool.good("run", "--rm", "rich:1", "cat", "/rich/file") == "content"
    assert tool("run", "--rm", "rich:1", "nosuchcommand").returncode == 127
    tool.good("run", "-d", "--name", "gone", "--rm", "-v", "/more", "rich:1", "sleep", "1000")
    assert len(volumes(tool)) == 4
    tool.good("rm", "-f", "-v", "gone")
    assert volumes(tool) == ["named"]
    tool.good("create", "--name", "plain", "rich:1")
    tool.good("rm", "plain")
    assert len(volumes(tool)) == 3


def test_image_cannot_reach_the_host(tool: Tool, scratch: Path) -> None:
    host = scratch / "host"
    host.mkdir()
    (host / "secret").write_bytes(SECRET)
    text = os.fsencode(host)
    for number, prefix in enumerate((b"", b"../../../../../../..", b"/proc/self/root", b"/proc/1/root")):
        load(tool, f"bad:{number}", builders.layer_tar(builders.symlink(b"trap", prefix + text)))
        tool("create", "-v", f"stolen{number}:/trap", "-v", "/trap/x", f"bad:{number}")
    inside = builders.layer_tar(builders.directory(b"trap"), builders.symlink(b"trap/secret", text + b"/secret"))
    load(tool, "bad:in", inside)
    tool.good("create", "-v", "inside:/trap", "bad:in")
    assert os.readlink(data(tool, "inside") / "secret") == f"{host}/secret"
    for folder, _, names in os.walk(tool.root / "volumes"):
        for name in names:
            path = Path(folder, name)
            assert path.is_symlink() or path.read_bytes() != SECRET
    assert len(volumes(tool)) > 1
    assert (host / "secret").read_bytes() == SECRET


def test_failed_create_leaves_no_volume(tool: Tool) -> None:
    load(tool, "rich:1", RICH)
    done = tool("create", "-v", "first:/rich", "-v", "second:/plain", "-v", "/other", "rich:1")
    assert done.returncode == 1
    assert "cannot mount volume over existing file, file exists /plain" in done.stderr
    assert volumes(tool) == []
    assert tool.good("ps", "-aq") == ""
    assert os.listdir(tool.root / "minidock/stage") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--volumes-from", "nosuch"], "No such container: nosuch"),
        (["--volumes-from", ":ro"], "cannot be an empty string"),
        (["--volumes-from", "x:odd"], "invalid mode: odd"),
        (["-v", "aa:/x", "-v", "bb:/x"], "Duplicate mount point: /x"),
        (["-v", "aa:/x", "--tmpfs", "/x"], "Duplicate mount point: /x"),
    ],
)
def test_refused(tool: Tool, words: list[str], message: str) -> None:
    before = builders.tree_listing(tool.root)
    done = tool("create", *words, "busybox:test")
    assert message in done.stderr
    assert done.returncode == 1
    assert builders.tree_listing(tool.root) == before


def test_volume_that_cannot_be_mounted_keeps_its_container_from_starting(tool: Tool) -> None:
    tool.good("create", "--name", "box", "-v", "odd:/x", "busybox:test", "true")
    options = {"MountType": "nosuchfs", "MountOpts": "addr=1.2.3.4", "MountDevice": ":/x", "Quota": {"Size": 0}}
    (tool.root / "volumes/odd/opts.json").write_text(json.dumps(options))
    for words in (["start", "box"], ["create", "-v", "odd:/data", "busybox:test"]):
        done = tool(*words)
        assert "failed to mount local volume: mount :/x:" in done.stderr
        assert done.returncode == 1


def test_a_path_with_a_dot_is_the_caller_s(tool: Tool, scratch: Path) -> None:
    """As docker's client has it since 23.0; the engine's words are for what has none."""
    (scratch / "here/sub").mkdir(parents=True)
    (scratch / "here/sub/file").write_text("found\n")
    for path, where in (("./sub", "here"), ("..", "here/sub/.."), (".", "here/sub"), ("../sub/.", "here/sub")):
        words = (
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            f"{path}:/x:ro",
            "busybox:test",
            "find",
            "/x",
            "-name",
            "file",
        )
        assert tool.good(*words, cwd=scratch / where) == ("/x/here/sub/file" if path == ".." else "/x/file")
    done = tool("run", "--rm", "--network", "none", "-v", "sub/x:/x", "busybox:test", "true", cwd=scratch / "here")
    assert (done.returncode, "includes invalid characters for a local volume name" in done.stderr) == (125, True)


def test_a_tmpfs_of_mount_is_on_record(tool: Tool) -> None:
    words = ("--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770", "--mount", "type=tmpfs,target=/u,ro")
    tool.good(
        "create", "--name", "box", "--network", "none", *words, "busybox:test", "grep", "-E", " /[tu] ", "/proc/mounts"
    )
    assert [(each["Type"], each["Destination"], each["RW"]) for each in tool.inspect("box")["Mounts"]] == [
        ("tmpfs", "/t", True),
        ("tmpfs", "/u", False),
    ]
    assert tool.inspect("box")["HostConfig"]["Mounts"] == [
        {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}},
        {"Type": "tmpfs", "Target": "/u", "ReadOnly": True},
    ]
    seen = {line.split()[1]: line.split()[3].split(",") for line in tool.good("start", "-a", "box").splitlines()}
    assert {"rw", "size=1024k", "mode=1770"} <= set(seen["/t"]) and "ro" in seen["/u"]
