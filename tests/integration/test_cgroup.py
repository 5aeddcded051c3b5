"""Control groups: made, entered, frozen, emptied, removed; and the device list on both versions."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.errors import UsageError
from minidock.ids import random_hex64
from minidock.runtime import devices
from minidock.runtime.cgroup import Cgroup, hierarchies
from tests.conftest import lacking, missing
from tests.integration.launching import PYTHON, REPOSITORY, Bundle
from tests.patience import patience


@pytest.fixture
def group() -> Iterator[Cgroup]:
    made = Cgroup.create(random_hex64())
    if not made.paths:
        missing("no cgroup hierarchy is writable here")
    yield made
    made.kill_all()
    made.remove()


def _member(group: Cgroup, *argv: str) -> subprocess.Popen[bytes]:
    def enter() -> None:
        group.enter()
        # Containers are cloned into a v2 group; Popen cannot do that.
        if all(hierarchy.is_v2 for hierarchy, _ in group.paths):
            Path(f"{group.v2_path}/cgroup.procs").write_text("0")

    return subprocess.Popen(argv, preexec_fn=enter, stdout=subprocess.PIPE)


def test_create_enter_and_remove() -> None:
    identity = random_hex64()
    group = Cgroup.create(identity)
    process = _member(group, "sleep", "60")
    try:
        assert group.pids() == [process.pid]
        assert Cgroup.open(identity).pids() == [process.pid]
        inside = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{process.pid}/cgroup").read_text().splitlines())
        v1 = [hierarchy for hierarchy, _ in group.paths if not hierarchy.is_v2]
        for hierarchy in v1:
            assert inside[hierarchy.controllers] == f"/minidock/{identity}"
        if not v1:
            assert inside[""] == f"/minidock/{identity}"
        # Beside v1 the process stayed in its starter's group of v2.
        assert {path for each, path in Cgroup.of_process(process.pid).paths if not v1 or not each.is_v2} == {
            path for each, path in group.paths if not v1 or not each.is_v2
        }
    finally:
        group.kill_all()
        assert process.wait(patience(60)) == -9
        group.remove()
    assert list(Path("/sys/fs/cgroup").glob(f"**/{identity}")) == []


def test_freeze_stops_and_thaw_goes_on(group: Cgroup) -> None:
    process = _member(group, "sh", "-c", "while :; do echo x; done")
    assert process.stdout is not None
    process.stdout.read(10)
    group.freeze()
    os.set_blocking(process.stdout.fileno(), False)
    while process.stdout.read(1 << 20):
        continue
    assert process.stdout.read(1 << 20) is None, "it wrote on while it was frozen"
    group.thaw()
    os.set_blocking(process.stdout.fileno(), True)
    assert process.stdout.read(2) == b"x\n"
    group.kill_all()
    process.wait(patience(60))
    process.stdout.close()


def test_a_frozen_group_can_be_killed_after_thawing(group: Cgroup) -> None:
    process = _member(group, "sleep", "60")
    group.freeze()
    group.thaw()
    group.kill_all()
    assert process.wait(patience(60)) == -9
    assert process.stdout is not None
    process.stdout.close()


def test_a_frozen_group_can_be_killed(group: Cgroup) -> None:
    process = _member(group, "sleep", "60")
    group.freeze()
    assert group.is_frozen()
    group.kill_all()
    assert process.wait(patience(60)) == -9
    assert process.stdout is not None
    process.stdout.close()


def test_the_end_takes_along_who_is_inside() -> None:
    group = Cgroup.create(random_hex64())
    paths = [path for _, path in group.paths]
    process = _member(group, "sleep", "60")
    for path in paths:
        os.mkdir(path + "/own")
    group.end()
    assert process.wait(60) == -9
    assert process.stdout is not None
    process.stdout.close()
    assert not any(os.path.exists(path) for path in paths)


def test_groups_that_a_container_made_inside_are_removed(group: Cgroup) -> None:
    for _, path in group.paths:
        os.makedirs(path + "/own/deeper")
    paths = [path for _, path in group.paths]
    group.remove()
    assert not any(os.path.exists(path) for path in paths)


def test_a_parent_cannot_climb() -> None:
    for parent in ("../x", "a/../../b", "./a"):
        with pytest.raises(UsageError):
            Cgroup.create(random_hex64(), parent)


def test_device_list_v1(scratch: Path, busybox_layer: bytes) -> None:
    if not any("devices" in each.controllers.split(",") for each in hierarchies()):
        lacking("no v1 devices hierarchy")
    bundle = Bundle(scratch / "overlay2", busybox_layer).fill_init()
    script = (
        "mknod /tmp/loop b 7 0; head -c1 /tmp/loop 2>&1; head -c1 /dev/zero | wc -c; "
        "mknod /tmp/kmsg c 1 11; cat /tmp/kmsg"
    )
    done = bundle.run("sh", "-c", script)
    assert "head: /tmp/loop: Operation not permitted\n1\n" == done.stdout
    assert "Operation not permitted" in done.stderr
    assert bundle.run("sh", "-c", "head -c0 /dev/kmsg", privileged=True).returncode == 0


_PROBE = """
import os, sys
group, directory = sys.argv[1:]
open(group + "/cgroup.procs", "w").write("0")
for name, kind, device in (("null", 0o020666, (1, 3)), ("kmsg", 0o020666, (1, 11)), ("loop", 0o060666, (7, 0))):
    path = f"{directory}/{name}"
    os.mknod(path, kind, os.makedev(*device))
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        print(name, "open")
    except PermissionError:
        print(name, "refused")
"""


def test_device_list_v2(scratch: Path) -> None:
    """The eBPF program does on cgroup2 what the list does on v1; the kernel's verifier takes it."""
    v2 = next((each for each in hierarchies() if each.is_v2), None)
    if v2 is None:
        lacking("no cgroup2 mount")
        return
    path = f"{v2.mount_point}/minidock-test-{os.getpid()}"
    os.mkdir(path)
    try:
        before = subprocess.run([PYTHON, "-c", _PROBE, path, _sub(scratch, "a")], capture_output=True, text=True)
        assert before.stdout == "null open\nkmsg open\nloop open\n", before
        devices.restrict(Cgroup([(v2, path)]), privileged=False)
        after = subprocess.run([PYTHON, "-c", _PROBE, path, _sub(scratch, "b")], capture_output=True, text=True)
        assert after.stdout == "null open\nkmsg refused\nloop refused\n", after
    finally:
        Cgroup([(v2, path)]).remove()


def _sub(scratch: Path, name: str) -> str:
    (scratch / name).mkdir()
    return str(scratch / name)


@pytest.mark.parametrize("what", ["read-only", "missing", "v2-only"])
def test_other_hosts(what: str, scratch: Path, busybox_layer: bytes) -> None:
    """A host with read-only, no, or only v2 cgroups runs the same container, and says nothing about it."""
    bundle = Bundle(scratch / "overlay2", busybox_layer).fill_init()
    prepare = {
        "read-only": "for d in $(grep -o ' /sys/fs/cgroup[^ ]* ' /proc/self/mounts);"
        " do mount -o remount,bind,ro $d || exit 9; done",
        "missing": "umount -l /sys/fs/cgroup",
        "v2-only": "umount -l /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup",
    }[what]
    script = "cat /proc/self/cgroup | tail -1; ls /sys/fs/cgroup | grep -c cgroup.procs; echo ran"
    words = bundle.words("sh", "-c", script)
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", prepare + '; exec "$@"', "sh", *words],
        capture_output=True,
        text=True,
        timeout=patience(60),
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.splitlines()[-1] == "ran"
    if what == "v2-only":
        assert done.stdout == "0::/\n1\nran\n"


def test_without_the_right_to_raise_limits(scratch: Path, busybox_layer: bytes) -> None:
    """Limits are inherited, never raised: a caller with low hard limits is no obstacle."""
    bundle = Bundle(scratch / "overlay2", busybox_layer).fill_init()
    words = bundle.words("sh", "-c", "ulimit -n; ulimit -H -n")
    done = subprocess.run(["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *words], capture_output=True, text=True)
    assert done.stdout == "64\n64\n", done
    assert REPOSITORY
