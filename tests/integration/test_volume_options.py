"""Volumes that are a mount: bind, tmpfs, a block device; seen by their containers, and left nowhere on the host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.formats.volumeoptions import VolumeMount
from minidock.runtime.volumemount import open_volume
from minidock.runtime.volumespace import find_space, hold_space
from tests.conftest import kernel_version, lacking, missing
from tests.integration.conftest import SubordinateIDs
from tests.integration.tool import Tool, wait_until
from tests.patience import patience

pytestmark = pytest.mark.root
QUIET = ("--network", "none", "busybox:test")


def mounts_of(tool: Tool) -> list[str]:
    """What is mounted below the data root in the host's own mount table."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(tool.root) in line]


def test_a_bound_directory(tool: Tool, scratch: Path) -> None:
    (scratch / "there").mkdir()
    (scratch / "there/old").write_text("old\n")
    options = ("-o", "type=none", "-o", f"device={scratch}/there", "-o", "o=bind")
    assert tool.good("volume", "create", *options, "bound") == "bound"
    assert json.loads((tool.root / "volumes/bound/opts.json").read_text()) == {
        "MountType": "none",
        "MountOpts": "bind",
        "MountDevice": f"{scratch}/there",
        "Quota": {"Size": 0},
    }
    assert (
        tool.good("run", "--name", "cc", "-v", "bound:/x", *QUIET, "sh", "-c", "cat /x/old; echo new >/x/new") == "old"
    )
    assert (scratch / "there/new").read_text() == "new\n"
    assert os.listdir(tool.root / "volumes/bound/_data") == []
    assert tool.good("cp", "cc:/x/new", "-").startswith("new\0")
    tool.good("cp", str(scratch / "there/old"), "cc:/x/copied")
    assert (scratch / "there/copied").read_text() == "old\n"
    refused = tool("run", "--rm", "-v", "bound:/x:ro", *QUIET, "touch", "/x/y")
    assert (refused.returncode, "Read-only file system" in refused.stderr) == (1, True)
    shown = json.loads(tool.good("volume", "inspect", "bound"))[0]
    assert shown["Options"] == {"device": f"{scratch}/there", "o": "bind", "type": "none"}
    assert mounts_of(tool) == []


def test_a_read_only_bind_and_what_the_image_has_there(tool: Tool, scratch: Path) -> None:
    (scratch / "empty").mkdir()
    options = ("-o", "type=none", "-o", f"device={scratch}/empty")
    tool.good("volume", "create", *options, "-o", "o=bind", "filled")
    assert tool.good("run", "--rm", "-v", "filled:/data", *QUIET, "cat", "/data/deep/three") == "three"
    assert (scratch / "empty/one").read_text() == "one\n"
    tool.good("volume", "create", *options, "-o", "o=bind,ro", "fixed")
    done = tool("run", "--rm", "-v", "fixed:/data", *QUIET, "sh", "-c", "cat /data/one; touch /data/x")
    assert (done.stdout, done.returncode) == ("one\n", 1)


def test_a_tmpfs(tool: Tool) -> None:
    wish = "type=volume,source=fast,target=/x,volume-opt=type=tmpfs,volume-opt=device=tmpfs,volume-opt=o=size=1m"
    script = "grep ' /x ' /proc/mounts; dd if=/dev/zero of=/x/big bs=64k count=32 2>/dev/null; stat -c %s /x/big"
    seen = tool.good("run", "--rm", "--mount", wish, *QUIET, "sh", "-c", script).split("\n")
    assert seen[0].startswith("tmpfs /x tmpfs ") and "size=1024k" in seen[0]
    assert int(seen[1]) == 1 << 20
    assert tool.good("volume", "inspect", "-f", "{{.Options.o}}", "fast") == "size=1m"
    assert mounts_of(tool) == []


def test_a_holder_is_found_whatever_else_it_opens_and_closes(scratch: Path) -> None:
    """Lower descriptors that are gone between listing and looking end no search: who looks has such ones itself."""
    (scratch / "_data").mkdir()
    wanted = VolumeMount({"type": "tmpfs", "device": "tmpfs"})
    low = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    space_fd = hold_space(str(scratch), lambda: open_volume(wanted, str(scratch / "_data")))
    for fd in low:
        os.close(fd)
    found = find_space(str(scratch))
    assert found >= 0
    assert os.fstat(found).st_ino == os.fstat(space_fd).st_ino
    os.close(found)
    os.close(space_fd)
    assert find_space(str(scratch)) == -1


SHARED = ("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=4m", "fast")


def test_a_tmpfs_is_one_for_all_its_containers(tool: Tool, scratch: Path) -> None:
    """And goes with the last of them: who comes later finds it empty."""
    tool.good(*SHARED)
    tool.good("run", "-d", "--name", "one", "-v", "fast:/x", "-v", "fast:/again", *QUIET, "sleep", "1000")
    tool.good("exec", "one", "sh", "-c", "echo kept >/x/file; echo more >/again/second")
    assert (
        tool.good("run", "--rm", "-v", "fast:/y:ro", *QUIET, "sh", "-c", "cat /y/*; touch /y/no || :") == "kept\nmore"
    )
    tool.good("run", "-d", "--name", "two", "--volumes-from", "one", *QUIET, "sleep", "1000")
    tool.good("create", "--name", "still", "-v", "fast:/z", *QUIET, "cat", "/z/file", "/z/sent")
    (scratch / "sent").write_text("sent\n")
    tool.good("cp", scratch / "sent", "still:/z/sent")
    tool.good("rm", "-f", "one")
    assert tool.good("exec", "two", "ls", "/x") == "file\nsecond\nsent"
    assert tool.good("start", "-a", "still") == "kept\nsent"
    assert mounts_of(tool) == []
    tool.good("kill", "two")
    tool("wait", "two")
    assert tool.good("run", "--rm", "-v", "fast:/x:nocopy", *QUIET, "ls", "/x") == ""


def test_a_tmpfs_in_use_is_filled_from_the_image_when_it_is_empty(tool: Tool) -> None:
    tool.good(*SHARED)
    tool.good("run", "-d", "--name", "one", "-v", "fast:/x", *QUIET, "sleep", "1000")
    assert tool.good("run", "--rm", "-v", "fast:/data", *QUIET, "ls", "/data") == "deep\none\ntwo"
    assert tool.good("exec", "one", "ls", "/x") == "deep\none\ntwo"


@pytest.mark.parametrize("victim", ["MonitorPid", "Pid"])
def test_a_tmpfs_outlives_whoever_of_its_holders_is_killed(tool: Tool, victim: str) -> None:
    """The first one's monitor made it; after SIGKILL the others go on with it, and with the last one it is gone."""
    tool.good(*SHARED)
    tool.good("run", "-d", "--name", "one", "-v", "fast:/x", *QUIET, "sh", "-c", "echo kept >/x/file; sleep 1000")
    wait_until(lambda: tool("exec", "one", "cat", "/x/file").stdout, "the file")
    tool.good("run", "-d", "--name", "two", "-v", "fast:/x", *QUIET, "sleep", "1000")
    for name in ("one", "two"):
        os.kill(tool.record(name)[victim], signal.SIGKILL)
        wait_until(lambda name=name: tool.status(name) == "exited", "the end")
        seen = tool.good("run", "--rm", "-v", "fast:/x", *QUIET, "ls", "/x")
        assert seen == ("file" if name == "one" else "")
    assert spaces(tool) == []


def test_a_tmpfs_of_containers_that_start_at_once_is_one(tool: Tool) -> None:
    tool.good(*SHARED)
    names = [f"c{number}" for number in range(6)]
    starters = [
        tool.start("run", "-d", "--name", name, "-v", "fast:/x", *QUIET, "sleep", "1000", stdout=subprocess.DEVNULL)
        for name in names
    ]
    assert [starter.wait(patience(60)) for starter in starters] == [0] * len(names)
    assert len(spaces(tool)) == 1
    for name in names:
        tool.good("exec", name, "touch", f"/x/{name}")
    assert tool.good("exec", names[0], "ls", "/x").split() == names
    tool.good("rm", "-f", *names)
    assert spaces(tool) == []
    tool.good("volume", "rm", "fast")


@pytest.mark.usefixtures("subordinate_ids")
def test_a_tmpfs_with_a_user_namespace_shows_the_same_owners(tool: Tool) -> None:
    if kernel_version() < (6, 3):
        lacking("no idmapped mounts of tmpfs before Linux 6.3")
    tool.good(*SHARED)
    tool.good("run", "-d", "--name", "one", "-v", "fast:/x", *QUIET, "sh", "-c", "touch /x/file; sleep 1000")
    wait_until(lambda: tool("exec", "one", "ls", "/x").stdout, "the file")
    words = ("--userns", f"remap:{SubordinateIDs.USER}", "-v", "fast:/x", *QUIET, "stat", "-c", "%u", "/x/file")
    done = tool("run", "--rm", *words)
    assert (done.stdout, done.stderr) == ("0\n", "")


def spaces(tool: Tool) -> list[str]:
    """The namespaces of the volume that monitors hold, by their descriptors."""
    record = (tool.root / "volumes/fast/minidock.mount").read_text().split("\n")
    found = set()
    for line in record[1 : record.index("end")]:
        folder = Path(f"/proc/{line.split()[0]}/fd")
        for link in folder.glob("*") if folder.is_dir() else ():
            try:
                found.add(os.readlink(link))
            except OSError:
                continue
    return sorted(name for name in found if name.startswith("mnt:"))


@pytest.fixture
def loop_device(scratch: Path) -> Iterator[str]:
    """A block device with an ext4 file system, on a file."""
    image = scratch / "disk"
    image.write_bytes(b"")
    os.truncate(image, 8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    device = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=False)
    if device.returncode:
        missing(f"no loop device here: {device.stderr}")
    yield device.stdout.strip()
    subprocess.run(["losetup", "-d", device.stdout.strip()], check=True)


def test_a_block_device_is_shared_by_its_containers(tool: Tool, loop_device: str) -> None:
    tool.good("volume", "create", "-o", "type=ext4", "-o", f"device={loop_device}", "-o", "o=noatime", "disk")
    tool.good("run", "-d", "--name", "cc", "-v", "disk:/x", *QUIET, "sleep", "1000")
    assert "noatime" in tool.good("exec", "cc", "grep", " /x ", "/proc/mounts")
    tool.good("run", "--rm", "-v", "disk:/y", *QUIET, "sh", "-c", "echo shared > /y/file")
    assert tool.good("exec", "cc", "cat", "/x/file") == "shared"
    tool.good("rm", "-f", "cc")
    assert mounts_of(tool) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["type=tmpfs"], 'missing required option: "device"'),
        (["device=/x"], 'missing required option: "type"'),
        (["size=1"], "quota size requested but no quota support"),
    ],
)
def test_refused_options(tool: Tool, options: list[str], words: str) -> None:
    flags = [word for option in options for word in ("-o", option)]
    done = tool("volume", "create", *flags, "bad")
    assert (done.returncode, words in done.stderr) == (1, True)
    assert tool.good("volume", "ls", "-q") == ""


def test_what_cannot_be_mounted_is_told_and_nothing_is_left(tool: Tool) -> None:
    tool.good("volume", "create", "-o", "type=none", "-o", "device=/nowhere", "-o", "o=bind", "lost")
    done = tool("run", "--rm", "-v", "lost:/x:nocopy", *QUIET, "true")
    assert (done.returncode, len(done.stderr.splitlines())) == (125, 1)
    assert "failed to mount local volume: mount /nowhere:" in done.stderr
    assert tool.good("ps", "-aq") == ""
