"""verify: what differs is named by its file, what is odd but as stored is whole, and nothing at all is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minidock.store.root import DataRoot
from minidock.verbs.pull_tar import pull_tar
from minidock.verbs.verify import verify
from tests import builders, layer_cases
from tests.bad_roots import BadRoot, copy_root, images
from tests.integration.test_bad_roots import tool
from tests.integration.tool import Terminal, Tool

LAYER = builders.layer_tar(
    builders.directory(b"d", mode=0o750, uid=7, gid=8),
    builders.tar_member(b"d/file", b"content\n" * 1000),
    builders.hardlink(b"d/name", b"d/file"),
    builders.tar_member(b"d/empty"),
    builders.tar_member(b"d/cap", b"x", pax={b"SCHILY.xattr.user.mark": b"1"}),
    builders.symlink(b"d/link", b"file"),
    builders.tar_member(b"d/fifo", type=b"6"),
    builders.tar_member(b"d/null", type=b"3", devmajor=1, devminor=3),
    builders.tar_member(b"d/.wh.gone"),
    builders.directory(b"o"),
    builders.tar_member(b"o/.wh..wh..opq"),
)


def _rewrite(path: Path) -> None:
    status = path.stat()
    data = path.read_bytes()
    path.write_bytes(b"X" + data[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    above = path.parent.stat()
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make(path)
    os.utime(path.parent, ns=(above.st_atime_ns, above.st_mtime_ns))


def _copy_apart(path: Path) -> None:
    shutil.copy2(path, path.with_name("apart"))
    os.replace(path.with_name("apart"), path)


def _symlink_to(path: Path) -> None:
    path.symlink_to("other")
    os.utime(path, ns=(0, 1_600_000_000 * 10**9), follow_symlinks=False)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "content": (lambda top: _rewrite(top / "d/file"), "d/file: was changed: CRC-64"),
    "size": (lambda top: os.truncate(top / "d/file", 5), "d/file: has 5 bytes instead of 8000"),
    "grown": (lambda top: (top / "d/empty").write_bytes(b"1"), "d/empty: has 1 bytes instead of 0"),
    "missing": (lambda top: _replace(top / "d/cap", lambda path: None), "d/cap: is missing"),
    "missing special": (lambda top: _replace(top / "d/fifo", lambda path: None), "d/fifo: is missing"),
    "type": (lambda top: _replace(top / "d/cap", lambda path: path.mkdir()), "d/cap: is no regular file any more"),
    "special type": (lambda top: _replace(top / "d/null", os.mkfifo), "d/null: is a fifo, not a character device"),
    "device": (
        lambda top: _replace(top / "d/null", lambda path: os.mknod(path, 0o20644, os.makedev(1, 5))),
        "d/null: is device 1:5 instead of 1:3",
    ),
    "mode": (lambda top: os.chmod(top / "d", 0o700), "d: has mode 0700 instead of 0750"),
    "owner": (lambda top: os.chown(top / "d/empty", 9, 9), "d/empty: belongs to 9:9 instead of 0:0"),
    "mtime": (lambda top: os.utime(top / "d/empty", (1, 1)), "d/empty: was changed at 1.000000000 instead of"),
    "target": (lambda top: _replace(top / "d/link", _symlink_to), "d/link: leads to 'other' instead of 'file'"),
    "link": (lambda top: _replace(top / "d/name", lambda path: shutil.copy2(top / "d/file", path)), "no hard link"),
    "extra": (lambda top: _replace(top / "d/stranger", lambda path: path.touch()), "d/stranger: is not in the layer"),
    "extra directory": (lambda top: _replace(top / "d/strange", lambda path: path.mkdir()), "d/strange: is not in"),
    "xattr gone": (lambda top: os.removexattr(top / "d/cap", "user.mark"), "d/cap: lacks 'user.mark'"),
    "xattr changed": (lambda top: os.setxattr(top / "d/cap", "user.mark", b"2"), "another value of 'user.mark'"),
    "xattr more": (lambda top: os.setxattr(top / "d/empty", "trusted.x", b""), "has 'trusted.x', which the tar"),
    "whiteout gone": (lambda top: _replace(top / "d/gone", lambda path: None), "the mark of its deletion is missing"),
    "whiteout a file": (lambda top: _replace(top / "d/gone", lambda path: path.touch()), "not the mark of a deletion"),
    "opaque gone": (lambda top: os.removexattr(top / "o", "trusted.overlay.opaque"), "o: lacks trusted.overlay.opaque"),
    "opaque more": (
        lambda top: os.setxattr(top / "d", "trusted.overlay.opaque", b"y"),
        "d: has trusted.overlay.opaque, which the tar does not",
    ),
    "redirect": (
        lambda top: os.setxattr(top / "d", "trusted.overlay.redirect", b"/x"),
        "d: has trusted.overlay.redirect",
    ),
}


@pytest.fixture(scope="module")
def stored(session_scratch: Path, busybox_layer: bytes) -> Path:
    """A root with one image whose top layer has a file of each kind."""
    root = session_scratch / "verify-root"
    spec = builders.ImageSpec([busybox_layer, LAYER], tags=["kinds:1"])
    with DataRoot.open(str(root)) as opened:
        pull_tar(opened, str(builders.docker_archive(session_scratch / "kinds.tar", spec)))
    return root


@pytest.fixture
def copy(scratch: Path, stored: Path) -> Iterator[tuple[Path, Path]]:
    """A copy of it, and the path of its top layer's content."""
    root = scratch / "root"
    builders.run_command("cp", "-a", stored, root)
    with DataRoot.open(str(root), write=False) as opened:
        chain_id = opened.images.resolve("kinds:1").chain_id
        assert chain_id
        yield root, root / "overlay2" / opened.layers.get(chain_id).cache_id / "diff"


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_named_and_nothing_else(copy: tuple[Path, Path], name: str) -> None:
    root, top = copy
    act, words = DAMAGES[name]
    act(top)
    done = tool(root, "verify", "-q")
    assert (done.returncode, done.stderr) == (1, ""), done
    told = [line for line in done.stdout.splitlines() if line.startswith("layer ")]
    assert [line for line in told if words in line], done.stdout
    # A file that is another one by now may differ in more than one thing.
    assert all(words.partition(":")[0].strip("'") in line or words in line for line in told), told
    assert "kinds:1: DAMAGED" in done.stdout


@pytest.mark.many
def test_odd_layers_are_whole(scratch: Path) -> None:
    with DataRoot.open(str(scratch / "root")) as root:
        for label, layer in {**layer_cases.OK, **layer_cases.DIFFERS}.items():
            spec = builders.ImageSpec([layer], tags=["odd:" + label])
            pull_tar(root, str(builders.docker_archive(scratch / "odd.tar", spec)))
        found = verify(root)
        told = [(layer.findings[0].path, layer.findings[0].detail) for layer in found.layers if layer.findings]
        assert (told, found.is_whole) == ([], True)
        assert len(found.images) > 70


def test_records_and_configs(scratch: Path, session_scratch: Path, busybox_layer: bytes) -> None:
    with DataRoot.open(str(scratch / "whole")) as root:
        pull_tar(root, str(builders.docker_archive(scratch / "two.tar", *images(busybox_layer))))
    assert tool(scratch / "whole", "create", "--name", "sick-box", "sick:1", "true").returncode == 0
    acts: dict[str, Callable[[BadRoot], object]] = {
        "the config hashes to": lambda bad: bad.config.write_bytes(bad.config.read_bytes() + b"\n"),
        "layerdb has no record of it": lambda bad: shutil.rmtree(bad.layers[1][0]),
        "do not fold to its chain ID": lambda bad: (bad.layers[1][0] / "diff").write_text("sha256:" + "1" * 64),
        "layerdb has the parent none": lambda bad: (bad.layers[2][0] / "parent").unlink(),
        "cache-id is missing": lambda bad: (bad.layers[0][0] / "cache-id").unlink(),
        "is missing": lambda bad: shutil.rmtree(bad.layers[0][1]),
        "tar-split.json.gz is missing": lambda bad: (bad.layers[0][0] / "tar-split.json.gz").unlink(),
        "tar-split": lambda bad: (bad.layers[0][0] / "tar-split.json.gz").write_bytes(b"\x1f\x8b\x08\0junk"),
    }
    for number, (words, act) in enumerate(acts.items()):
        bad = copy_root(scratch / "whole", scratch / f"copy{number}")
        act(bad)
        for image in ("sick:1", bad.sick):
            done = tool(bad.path, "verify", image)
            assert done.returncode == 1, (words, done)
            assert words in done.stdout, done.stdout
            assert "DAMAGED" in done.stdout
        assert tool(bad.path, "verify", "well:1").stdout.startswith("well:1: OK\n1 image, 1 layer, ")
        document = json.loads(tool(bad.path, "verify", "--json").stdout)
        assert document["Whole"] is False
        whole = {image["Names"][0]: image["Whole"] for image in document["Images"]}
        assert whole == {"sick:1": False, "well:1": True}


def test_it_ends_with_125_where_nothing_can_be_told(stored: Path, scratch: Path) -> None:
    for words, reason in (
        (("verify", "nobody"), "No such image: nobody:latest"),
        (("--root", str(scratch / "nowhere"), "verify"), "there is no data root"),
    ):
        done = tool(stored, *words)
        assert done.returncode == 125
        assert reason in done.stderr and len(done.stderr.splitlines()) == 1


def all_times(paths: list[str]) -> list[tuple[int, int, int]]:
    """Access, change and status times of each path, which asking does not change."""
    found = map(os.lstat, paths)
    return [(status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns) for status in found]


def test_nothing_is_written_not_even_an_access_time(copy: tuple[Path, Path]) -> None:
    root, top = copy
    shutil.rmtree(root / "minidock")
    (top / "out").symlink_to("/etc")
    paths = builders.run_command("find", root, "-print0").stdout.split("\0")[:-1]
    builders.run_command("find", root, "-exec", "touch", "-h", "-a", "-d", "2001-01-01", "{}", "+")
    for path in paths:
        os.utime(path, ns=(978307200 * 10**9, os.lstat(path).st_mtime_ns), follow_symlinks=False)
    before = all_times(paths)
    assert {times[0] for times in before} == {978307200 * 10**9}
    done = tool(root, "verify", "-q")
    assert "out: is not in the layer's tar" in done.stdout
    assert all_times(paths) == before
    assert not (root / "minidock").exists()


def test_a_read_only_root(copy: tuple[Path, Path], scratch: Path) -> None:
    root, _ = copy
    (scratch / "dead").mkdir()
    builders.run_command("mount", "--bind", "-o", "ro", root, scratch / "dead")
    try:
        assert tool(scratch / "dead", "verify").returncode == 0
    finally:
        subprocess.run(["umount", scratch / "dead"], check=True)


def test_hostile_links_lead_nowhere(copy: tuple[Path, Path], scratch: Path) -> None:
    """A directory of the layer is a symlink out of the root, to a tree that has all the files."""
    root, top = copy
    (scratch / "outside").mkdir()
    builders.run_command("cp", "-a", top / "d", scratch / "outside/d")
    _replace(top / "d", lambda path: path.symlink_to(scratch / "outside/d"))
    done = tool(root, "verify")
    assert done.returncode == 1
    assert "d/file: is missing" in done.stdout
    assert "d: is a symlink, not a directory" in done.stdout


def test_progress_is_for_terminals(tool: Tool) -> None:
    terminal = Terminal(tool, "verify", columns=100)
    try:
        terminal.expect(b"Verified")
        terminal.expect(b"busybox:test: OK")
        assert terminal.wait() == 0
    finally:
        terminal.close()
    done = tool("verify")
    assert done.stderr == ""
