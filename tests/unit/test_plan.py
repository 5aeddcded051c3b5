"""The plan of a container's root, its words, and the pure rules behind it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import MaxDepthExceeded, UsageError
from minidock.linux import capabilities
from minidock.linux.namespaces import CLONE_NEWNET
from minidock.runtime.cgroup import Hierarchy
from minidock.runtime.devices import ALLOWED, device_program
from minidock.runtime.operation import make_in_root
from minidock.runtime.plan import BindMount, ContainerSpec, TmpfsMount, build_plan, clone_flags
from minidock.runtime.spec import DEFAULT_PATH, environment
from minidock.runtime.users import resolve_user

V1 = [Hierarchy("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct", False), Hierarchy("/sys/fs/cgroup/unified", "", True)]
V2 = [Hierarchy("/sys/fs/cgroup", "", True)]


def _spec(**options: Any) -> ContainerSpec:
    return ContainerSpec(
        container_id="c" * 64,
        overlay_path="/data/overlay2",
        lowers=["l/INIT", "l/TOP", "l/BASE"],
        mount_id="m" * 64,
        argv=["true"],
        **options,
    )


def _lines(spec: ContainerSpec, mounted: list[Hierarchy] | None = None) -> list[str]:
    return [operation.describe() for operation in build_plan(spec, V2 if mounted is None else mounted)]


def test_the_mount_namespace_is_cut_off_before_the_first_mount() -> None:
    lines = _lines(_spec())
    assert lines[0] == "mount --make-rprivate /"
    assert lines[1] == (
        f"mkdir -p -m 700 /data/overlay2/{'m' * 64}/merged && cd /data/overlay2 && "
        "mount -t overlay -o index=off,redirect_dir=off,metacopy=off,"
        f"lowerdir=l/INIT:l/TOP:l/BASE,upperdir={'m' * 64}/diff,workdir={'m' * 64}/work overlay {'m' * 64}/merged"
    )
    assert lines[2] == "unshare --cgroup"
    assert lines[3].splitlines()[1] == f"cd {'m' * 64}/merged && mkdir -m 700 .old && pivot_root . .old && cd /"


def test_too_many_layers_for_one_page() -> None:
    spec = _spec()
    spec.lowers = [f"l/{'A' * 26}"] * 140
    with pytest.raises(MaxDepthExceeded, match="140 layers"):
        build_plan(spec, V2)


def test_network_and_privileges_change_the_plan() -> None:
    assert clone_flags(_spec()) & CLONE_NEWNET
    assert not clone_flags(_spec(network="host")) & CLONE_NEWNET
    assert "ip link set lo up" in _lines(_spec())
    assert "ip link set lo up" not in _lines(_spec(network="host"))
    masked = [line for line in _lines(_spec()) if "/proc/kcore" in line]
    assert len(masked) == 1
    privileged = _lines(_spec(privileged=True))
    assert not [line for line in privileged if "/proc/kcore" in line or "remount" in line]
    assert "mount -t sysfs -o nosuid,nodev,noexec sysfs /sys" in privileged


def test_cgroups_of_each_kind_of_host() -> None:
    assert "mkdir -p /sys/fs/cgroup && mount -t cgroup2 -o ro,nosuid,nodev,noexec cgroup2 /sys/fs/cgroup" in _lines(
        _spec(), V2
    )
    hybrid = [line for line in _lines(_spec(), V1) if "/sys/fs/cgroup" in line]
    assert hybrid == [
        "mkdir -p /sys/fs/cgroup && mount -t tmpfs -o nosuid,nodev,noexec,mode=755 tmpfs /sys/fs/cgroup",
        "mkdir -p /sys/fs/cgroup/cpu,cpuacct && "
        "mount -t cgroup -o ro,nosuid,nodev,noexec,cpu,cpuacct cgroup /sys/fs/cgroup/cpu,cpuacct && "
        "ln -s cpu,cpuacct /sys/fs/cgroup/cpu && ln -s cpu,cpuacct /sys/fs/cgroup/cpuacct",
    ]
    assert not [line for line in _lines(_spec(), []) if "/sys/fs/cgroup" in line]


def test_mounts_are_sorted_and_the_callers_win(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spec = _spec(
        binds=[
            BindMount(str(tmp_path), "/a/b/c"),
            BindMount(str(tmp_path), "/x/../a"),
            BindMount(str(tmp_path / "file"), "/etc/hosts", read_only=True),
        ],
        tmpfs=[TmpfsMount("/run", "exec,size=1m,mode=1777,ro")],
        etc_files={"/etc/hosts": "/nosuch", "/etc/hostname": str(tmp_path / "file")},
    )
    ends = (" /a", "/a/b/c", "/etc/hosts", "/etc/hostname", "/run")
    lines = [line for line in _lines(spec) if line.endswith(ends) and not line.startswith("# ")]
    assert [line.rpartition(" ")[2] for line in lines] == ["/a", "/run", "/etc/hosts", "/etc/hostname", "/a/b/c"]
    assert lines[1] == "mkdir -p /run && mount -t tmpfs -o ro,nosuid,nodev,size=1m,mode=1777 tmpfs /run"
    assert lines[2].endswith("&& mount -o remount,bind,ro /etc/hosts")


def test_mounts_that_keep_their_propagation_are_held_before_the_cut(tmp_path: Path) -> None:
    spec = _spec(binds=[BindMount(str(tmp_path), "/s", propagation="rshared"), BindMount(str(tmp_path), "/p")])
    lines = _lines(spec)
    cut = lines.index("mount --make-rprivate /")
    assert [line.startswith("# open_tree(") for line in lines[cut - 1 : cut + 2]] == [True, False, True]
    assert "propagation" in lines[cut - 1]
    assert "propagation" not in lines[cut + 1]
    assert any(line.endswith("/s && mount --make-rshared /s") for line in lines)


@pytest.mark.parametrize("target", ["/", "//", "/a/..", ""])
def test_the_root_cannot_be_mounted_over(target: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="destination can't be '/'"):
        build_plan(_spec(binds=[BindMount(str(tmp_path), target)]), V2)


def test_dev_of_the_caller_replaces_ours(tmp_path: Path) -> None:
    lines = _lines(_spec(binds=[BindMount(str(tmp_path), "/dev")], tty=True))
    assert not [line for line in lines if "devpts" in line or "mqueue" in line or "/dev/console" in line]


@pytest.mark.parametrize(
    ("add", "drop", "privileged", "mask"),
    [
        ([], [], False, 0xA80425FB),
        ([], ["ALL"], False, 0),
        (["ALL"], [], False, capabilities.ALL),
        (["all"], ["cap_sys_admin"], False, capabilities.ALL & ~(1 << 21)),
        (["ALL"], ["ALL"], False, capabilities.ALL),
        (["NET_ADMIN"], ["CHOWN"], False, 0xA80435FA),
        (["chown"], ["all"], False, 1),
        ([], ["CHOWN"], True, capabilities.ALL),
    ],
)
def test_capabilities(add: list[str], drop: list[str], privileged: bool, mask: int) -> None:
    assert capabilities.container_set(add, drop, privileged=privileged)[0] == mask


def test_unknown_capabilities() -> None:
    for option, (add, drop) in {"CapAdd": (["bogus"], []), "CapDrop": ([], ["CAP_BOGUS"])}.items():
        with pytest.raises(UsageError, match=f'invalid {option}: unknown capability: "CAP_BOGUS"'):
            capabilities.container_set(add, drop, privileged=False)


def test_environment() -> None:
    assert environment([], hostname="", tty=False) == [DEFAULT_PATH]
    assert environment(["A=1", "PATH=/x", "A=2", "B"], hostname="h", tty=True) == [
        "PATH=/x",
        "HOSTNAME=h",
        "TERM=xterm",
        "A=2",
    ]
    assert environment(["A=1", "A", "PATH", "HOSTNAME"], hostname="h", tty=False) == []


def test_device_program_is_whole_instructions_and_ends_with_a_refusal() -> None:
    program = device_program(ALLOWED)
    assert len(program) % 8 == 0
    assert program[-16:] == b"\xb4\0\0\0\0\0\0\0" + b"\x95" + bytes(7)


PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\n\n  alice:x:1000:1001::/home/alice:/bin/sh\nbob:x:1000:5::/home/bob:/bin/sh\n"
    "7:x:70:70::/seven:\nbad\n"
)
GROUP = "root:x:0:\naudio:x:29:bob,alice\nalice:x:1001:\n29:x:300:\nodd:x:nine:alice\n"


@pytest.mark.parametrize(
    ("user", "group_add", "expected"),
    [
        ("", [], (0, 0, [0], "/root")),
        ("root", [], (0, 0, [0], "/root")),
        ("alice", [], (1000, 1001, [1001, 29, 0], "/home/alice")),
        ("1000", [], (1000, 1001, [1001, 29, 0], "/home/alice")),
        ("bob", [], (1000, 5, [5, 29], "/home/alice")),  # HOME is that of the uid's first entry, as runc has it
        ("alice:audio", [], (1000, 29, [29], "/home/alice")),
        ("alice:29", [], (1000, 29, [29], "/home/alice")),
        ("+1000", [], (1000, 1001, [1001, 29, 0], "/home/alice")),
        ("7", [], (7, 0, [0], "/")),
        ("4242", [], (4242, 0, [0], "/")),
        ("4242:77", ["audio", "88"], (4242, 77, [77, 29, 88], "/")),
        (":29", [], (0, 29, [29], "/root")),
    ],
)
def test_users(user: str, group_add: list[str], expected: tuple[int, int, list[int], str], tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    root_fd = os.open(tmp_path, os.O_PATH)
    try:
        found = resolve_user(root_fd, user, group_add)
        assert (found.uid, found.gid, found.groups, found.home) == expected
    finally:
        os.close(root_fd)


def test_users_without_any_file(tmp_path: Path) -> None:
    root_fd = os.open(tmp_path, os.O_PATH)
    try:
        found = resolve_user(root_fd, "")
        assert (found.uid, found.gid, found.groups, found.home) == (0, 0, [0], "/")
        with pytest.raises(UsageError, match="unable to find user root: no matching entries in passwd file"):
            resolve_user(root_fd, "root")
    finally:
        os.close(root_fd)


def test_make_in_root_stays_inside(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "absolute").symlink_to(outside)
    (root / "climbing").symlink_to("../../outside")
    (root / "loop").symlink_to("loop")
    (root / "file").write_text("")
    root_fd = os.open(root, os.O_PATH)
    try:
        for path, is_directory in (
            (b"/absolute/a/b", True),
            (b"climbing/c", True),
            (b"/../../x/../y/file", False),
            (b"/plain/file", False),
        ):
            handle = make_in_root(root_fd, path, is_directory=is_directory)
            assert os.readlink(f"/proc/self/fd/{handle}").startswith(str(root) + "/")
            assert (os.fstat(handle).st_mode & 0o170000 == 0o040000) == is_directory
            os.close(handle)
        assert list(outside.iterdir()) == []
        for path in (b"/loop/x", b"/file/x"):
            with pytest.raises(OSError):
                make_in_root(root_fd, path, is_directory=True)
    finally:
        os.close(root_fd)
