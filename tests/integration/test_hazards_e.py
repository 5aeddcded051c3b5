"""Overlay and the kernel: one upper for one container, interrupted copies, file systems that cannot carry a root."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minidock.runtime import backing
from tests.builders import run_command
from tests.integration.test_hazards_f import TIMES
from tests.integration.tool import Tool, wait_until

BOX = ("--network", "none", "busybox:test")


def change(tool: Tool, name: str, where: Path, options: str, script: str) -> list[str]:
    """Let overlayfs with other options than ours make changes in a container's layer; the marks that it has left."""
    data = tool.inspect(name)["GraphDriver"]["Data"]
    words = f"{options},lowerdir={data['LowerDir']},upperdir={data['UpperDir']},workdir={data['WorkDir']}"
    with mounted(where, "-t", "overlay", "-o", words, "none"):
        run_command("sh", "-ec", script, cwd=where)
    marks = set()
    for folder, folders, files in os.walk(data["UpperDir"]):
        for path in (f"{folder}/{base}" for base in (*folders, *files)):
            marks |= {word for word in os.listxattr(path, follow_symlinks=False) if word.startswith("trusted.overlay.")}
    return sorted(word.removeprefix("trusted.overlay.") for word in marks - {"trusted.overlay.origin"})


CHANGES = """
mv data/deep moved
mv data/one moved/first
chmod 700 data/two
mkdir data/deep
echo new >data/deep/other
ln data/two linked
mkdir made; mkfifo made/pipe; ln -s ../moved made/link
rm bin/false
"""
CHANGED = """C /bin
D /bin/false
C /data
C /data/deep
A /data/deep/other
D /data/deep/three
D /data/one
C /data/two
A /linked
A /made
A /made/link
A /made/pipe
A /moved
A /moved/first
A /moved/three"""
LOOK = """
cat /moved/first /moved/three /data/two /linked /made/link/first
stat -c '%a %h' /data/two
ls /data /data/deep /moved
test -e /bin/false || echo gone
"""
LOOKED = "one three two two one 700 2 /data: deep two /data/deep: other /moved: first three gone"


@pytest.mark.parametrize(
    ("options", "marks"),
    [
        ("redirect_dir=on,metacopy=off", ["opaque", "redirect"]),
        ("redirect_dir=on,metacopy=on", ["metacopy", "opaque", "redirect"]),
        ("redirect_dir=off,metacopy=off", ["opaque"]),
    ],
)
def test_e1_what_other_mount_options_have_left_is_committed_whole(
    tool: Tool, scratch: Path, options: str, marks: list[str]
) -> None:
    """Renamed directories and changed modes, whose content the upper directory alone does not have."""
    tool.good("create", "--name", "drifted", *BOX, "true")
    assert [mark for mark in change(tool, "drifted", scratch / "merged", options, CHANGES) if mark in marks] == marks
    assert tool.good("diff", "drifted") == CHANGED
    tool.good("commit", "drifted", "whole:1")
    told = tool.good("run", "--rm", "--network", "none", "whole:1", "sh", "-c", LOOK)
    assert told.split() == LOOKED.split()
    # The container itself runs on what it has, too, as often as one likes, and is read and written at rest.
    as_if_an_engine_had_run_it(tool, "drifted", ["sh", "-c", LOOK + "echo more >>/data/deep/other"])
    assert tool.good("start", "-a", "drifted").split() == LOOKED.split()
    assert tool.good("start", "-a", "drifted").split() == LOOKED.split()
    (scratch / "sent").write_text("sent\n")
    tool.good("cp", scratch / "sent", "drifted:/moved/sent")
    assert tool.good("cp", "drifted:/data/two", "-") and tool.good("cp", "drifted:/moved/first", scratch / "got") == ""
    assert (scratch / "got").read_text() == "one\n"
    view = tool.good("mount", "drifted")
    try:
        assert Path(view, "data/two").read_text() == "two\n"
        assert sorted(os.listdir(f"{view}/moved")) == ["first", "sent", "three"]
    finally:
        tool.good("umount", view)
    tool.good("commit", "drifted", "whole:2")
    script = "cat /data/two /moved/* /data/deep/other"
    told = tool.good("run", "--rm", "--network", "none", "whole:2", "sh", "-c", script)
    assert told.split() == "two one sent three new more more".split()
    layer = Path(tool.inspect("whole:1")["GraphDriver"]["Data"]["UpperDir"])
    copied = [path for path in (*layer.rglob("*"),) if not path.is_symlink()]
    assert {name for path in copied for name in os.listxattr(path)} <= {"trusted.overlay.opaque"}
    assert str(tool.root) not in Path("/proc/self/mountinfo").read_text()


def as_if_an_engine_had_run_it(tool: Tool, name: str, argv: list[str]) -> None:
    """What dockerd writes of a start and an end of its own, and what is to run next."""
    path = tool.directory(name) / "config.v2.json"
    document = json.loads(path.read_text())
    document.update(Path=argv[0], Args=argv[1:], HasBeenStartedBefore=True)
    document["State"].update(StartedAt="2024-05-01T10:00:00.5Z", FinishedAt="2024-05-01T10:00:01.5Z")
    path.write_text(json.dumps(document))


def test_e2_one_of_many_starts_makes_it_run(tool: Tool) -> None:
    """Fifty at once: the container runs once, and who came too late says so or finds it running, as with docker."""
    count = 50 if TIMES > 1 else 20
    tool.good("create", "--name", "one", *BOX, "sh", "-c", "echo started >>/starts; exec sleep 1000")
    starters = [tool.start("start", "one", stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(count)]
    for starter in starters:
        out, told = starter.communicate(timeout=120)
        assert (starter.returncode, out) == (0, b"one\n") or told.startswith(b"minidock: "), (out, told)
    wait_until(lambda: tool("exec", "one", "cat", "/starts").stdout, "the start")
    assert tool.good("exec", "one", "cat", "/starts") == "started"
    upper = tool.inspect("one")["GraphDriver"]["Data"]["UpperDir"]
    identity = os.path.basename(os.path.dirname(upper))
    users = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if identity in _root_mount(pid)]
    assert users == [str(tool.inspect("one")["State"]["Pid"])]


def _root_mount(pid: str) -> str:
    """What is mounted at a process's root."""
    try:
        table = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in table if line.split()[4] == "/"), "")


def test_e3_killed_while_a_large_file_is_copied_up(tool: Tool, scratch: Path) -> None:
    size_mib = 1024 if TIMES > 1 else 192
    script = f"dd if=/dev/zero of=/big bs=1M count={size_mib} 2>/dev/null"
    tool.good("run", "--name", "maker", *BOX, "sh", "-c", script, timeout=300)
    tool.good("commit", "maker", "big:1", timeout=300)
    tool.good("rm", "maker")
    script = "echo go; while :; do echo x >>/big; done"
    for turn in range(3 * TIMES):
        name = f"copier{turn}"
        tool.good("run", "-d", "--name", name, "--network", "none", "big:1", "sh", "-c", script)
        pid, monitor = tool.record(name)["Pid"], tool.record(name)["MonitorPid"]
        work = Path(tool.inspect(name)["GraphDriver"]["Data"]["WorkDir"]) / "work"
        # In the middle of the copy the kernel keeps it in the work directory.
        copied = work.parents[1] / "diff/big"
        wait_until(lambda work=work, copied=copied: any(work.iterdir()) or copied.exists(), "the copy to begin")
        os.kill((monitor, pid)[turn % 2], signal.SIGKILL)
        wait_until(lambda name=name: tool.status(name) == "exited", "the end", timeout_s=60)
        tool.good("start", name)
        assert (
            tool.good("exec", name, "sh", "-c", f"test $(stat -c %s /big) -ge {size_mib << 20} && echo whole")
            == "whole"
        )
        tool.good("rm", "-f", name)
    assert tool.good("run", "--rm", "--network", "none", "big:1", "stat", "-c", "%s", "/big") == str(size_mib << 20)


@contextmanager
def mounted(where: Path, *words: str | Path) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    run_command("mount", *words, where)
    try:
        yield where
    finally:
        run_command("umount", "-l", where)


def refusal(tool: Tool, root: Path, archive: Path) -> str:
    """What is said when a container cannot be run on this root; the archive may be refused already."""
    for words in (("load", "-i", str(archive)), ("run", "--rm", *BOX, "true")):
        done = tool("--root", str(root), *words)
        if done.returncode:
            assert done.stderr.count("\n") == 1, done.stderr
            assert "(a bug" not in done.stderr
            return done.stderr
    return ""


def test_e4_tmpfs_carries_a_root(tool: Tool, scratch: Path, busybox_archive: Path) -> None:
    with mounted(scratch / "t", "-t", "tmpfs", "none") as where:
        assert refusal(tool, where / "root", busybox_archive) == ""


def test_e4_overlay_on_overlay_is_named(tool: Tool, scratch: Path, busybox_archive: Path) -> None:
    for name in ("l", "u", "w"):
        (scratch / name).mkdir()
    options = f"lowerdir={scratch}/l,upperdir={scratch}/u,workdir={scratch}/w"
    with mounted(scratch / "o", "-t", "overlay", "-o", options, "none") as where:
        told = refusal(tool, where / "root", busybox_archive)
        assert "lies on overlay, which cannot hold what a container writes" in told


def test_e4_a_read_only_file_system_is_named(tool: Tool, scratch: Path, busybox_archive: Path) -> None:
    with mounted(scratch / "t", "-t", "tmpfs", "none") as where:
        run_command("mount", "-o", "remount,ro", where)
        assert "Read-only file system" in refusal(tool, where / "root", busybox_archive)


def test_e4_ext4_carries_a_root(tool: Tool, scratch: Path, busybox_archive: Path) -> None:
    image = scratch / "image"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    run_command("mkfs.ext4", "-q", "-F", image)
    with mounted(scratch / "x", "-o", "loop", image) as where:
        assert refusal(tool, where / "root", busybox_archive) == ""


@contextmanager
def formatted(where: Path, size_mib: int, *words: str) -> Iterator[Path]:
    """A file system of its own on a loop device; words: the mkfs command."""
    image = where.with_suffix(".image")
    with open(image, "wb") as file:
        file.truncate(size_mib << 20)
    run_command(*words, image)
    with mounted(where, "-o", "loop", image) as folder:
        yield folder
    image.unlink()


def test_e4_xfs_carries_a_root(tool: Tool, scratch: Path, busybox_archive: Path) -> None:
    with formatted(scratch / "x", 320, "mkfs.xfs", "-q") as where:
        assert refusal(tool, where / "root", busybox_archive) == ""


def test_e4_directories_without_kinds_are_named(tool: Tool, scratch: Path, busybox_archive: Path) -> None:
    """ext4 without filetype, for xfs with ftype=0, which newer kernels no longer mount: the mount itself is good."""
    with formatted(scratch / "x", 64, "mkfs.ext4", "-q", "-F", "-O", "^filetype") as where:
        root = where / "root"
        told = refusal(tool, root, busybox_archive)
        assert f"{root}/overlay2 is on a file system formatted without d_type support" in told
        assert not root.exists(), "a root that was only made for this is gone again"
        # A root that was copied there.
        run_command("cp", "-a", tool.root, root)
        assert "without d_type support" in tool("--root", root, "load", "-i", busybox_archive).stderr
        assert "Supports d_type: false" in tool.good("--root", root, "info")
    assert "Supports d_type: true" in tool.good("info")


def test_e4_no_trusted_attributes_is_named(tool: Tool, scratch: Path, busybox_archive: Path) -> None:
    """ramfs takes device nodes, and no attributes."""
    with mounted(scratch / "r", "-t", "ramfs", "none") as where:
        told = refusal(tool, where / "root", busybox_archive)
        assert "overlay2 is on a file system without trusted attributes, as a replaced directory needs one" in told
        assert "use another --root" in told


def test_e4_squashfs_is_named(tool: Tool, scratch: Path, busybox_archive: Path) -> None:
    """A root that was packed: to be read, and nothing can be made in it."""
    run_command("mksquashfs", tool.root, scratch / "packed", "-quiet", "-no-progress")
    with mounted(scratch / "s", "-t", "squashfs", "-o", "loop", scratch / "packed") as where:
        assert "busybox" in tool.good("--root", where, "images")
        for words in (("run", "--rm", *BOX, "true"), ("load", "-i", str(busybox_archive))):
            done = tool("--root", where, *words)
            assert done.returncode in (1, 125) and done.stderr.count("\n") == 1, done.stderr
            assert "Read-only file system" in done.stderr, done.stderr


def test_e4_the_trial_leaves_nothing(scratch: Path) -> None:
    with mounted(scratch / "t", "-t", "tmpfs", "none") as where:
        assert backing._lacking(str(where / "trial")) == ""
        assert list(where.iterdir()) == []
    assert backing.file_system_of("/proc") == "proc"
