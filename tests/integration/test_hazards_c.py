"""Hazards C: making the root of a hostile image. The canary is a host directory that nothing may change."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import builders
from tests.builders import directory, layer_tar, symlink, tar_member
from tests.integration.launching import Bundle
from tests.integration.tool import Tool, command
from tests.patience import patience


@pytest.fixture
def canary(scratch: Path) -> Iterator[Path]:
    """A host directory that looks inviting; it must be the same afterwards."""
    base = scratch / "canary"
    for name in ("pts", "shm", "self/fd", "sys/kernel", "fs/cgroup"):
        (base / name).mkdir(parents=True)
    for name in ("hosts", "hostname", "resolv.conf", "mtab", "console", "null", "passwd"):
        (base / name).write_text("canary\n")
    before = builders.tree_listing(base)
    yield base
    assert builders.tree_listing(base) == before
    assert (base / "hosts").read_text() == "canary\n"
    assert str(scratch) not in Path("/proc/self/mountinfo").read_text()


def _etc_files(scratch: Path) -> dict[str, str]:
    files = {}
    for name in ("hosts", "hostname", "resolv.conf"):
        (scratch / f"ours-{name}").write_text(f"ours {name}\n")
        files[f"/etc/{name}"] = str(scratch / f"ours-{name}")
    return files


LOOK = (
    "cat /etc/hosts /etc/hostname /etc/resolv.conf; readlink /etc/mtab; echo x > /dev/null; "
    "ls -l /dev/null | cut -c1-10; "
    "grep -c ' /proc proc ' /proc/mounts; grep -c ' /sys sysfs ' /proc/mounts; grep -c ' /dev tmpfs ' /proc/mounts"
)
SEEN = "ours hosts\nours hostname\nours resolv.conf\n/proc/mounts\ncrw-rw-rw-\n1\n1\n1\n"


@pytest.mark.parametrize(
    "name",
    [
        "resolv-symlink",
        "hostname-symlink-rel",
        "etc-symlink",
        "etc-becomes-file",
        "mtab-file",
        "dev-symlink",
        "dev-file",
        "dev-console-file",
        "dev-pts-symlink",
        "dev-shm-file",
        "dev-null-symlink",
        "proc-symlink",
        "proc-file",
        "sys-symlink",
    ],
)
def test_c1_c2_c3_odd_images_start_and_touch_nothing(
    name: str, canary: Path, scratch: Path, busybox_layer: bytes
) -> None:
    where = os.fsencode(canary)
    relative = b"../../../../../../../.." + where
    second = {
        "resolv-symlink": [
            symlink(b"etc/resolv.conf", where + b"/resolv.conf"),
            symlink(b"etc/hosts", where + b"/hosts"),
        ],
        "hostname-symlink-rel": [symlink(b"etc/hostname", relative + b"/hostname")],
        "etc-symlink": [symlink(b"etc", where)],
        "etc-becomes-file": [tar_member(b"etc", b"file")],
        "mtab-file": [tar_member(b"etc/mtab", b"file")],
        "dev-symlink": [symlink(b"dev", where)],
        "dev-file": [tar_member(b"dev", b"file")],
        "dev-console-file": [directory(b"dev"), tar_member(b"dev/console", b"file")],
        "dev-pts-symlink": [directory(b"dev"), symlink(b"dev/pts", where + b"/pts"), symlink(b"dev/shm", where)],
        "dev-shm-file": [directory(b"dev"), tar_member(b"dev/shm", b"file")],
        "dev-null-symlink": [directory(b"dev"), symlink(b"dev/null", where + b"/null")],
        "proc-symlink": [symlink(b"proc", where)],
        "proc-file": [tar_member(b"proc", b"file")],
        "sys-symlink": [symlink(b"sys", relative)],
    }[name]
    first = busybox_layer
    if name in ("etc-symlink", "etc-becomes-file"):
        first = layer_tar(*_members_without_etc())
    bundle = Bundle(scratch / "overlay2", first, layer_tar(*second)).fill_init()
    for tty in (False, True):
        done = bundle.run("sh", "-c", LOOK, etc_files=_etc_files(scratch), tty=tty)
        assert done.stdout.replace("\r", "") == SEEN, done


def _members_without_etc() -> list[bytes]:
    binary = Path("/bin/busybox").read_bytes()
    return [
        directory(b"bin"),
        tar_member(b"bin/busybox", binary, mode=0o755),
        *(symlink(b"bin/" + word, b"busybox") for word in (b"sh", b"cat", b"grep", b"ls", b"readlink")),
        tar_member(b"bin/cut", b'#!/bin/sh\nexec /bin/busybox cut "$@"\n', mode=0o755),
    ]


@pytest.mark.parametrize("name", ["hosts-dir", "hostname-dir"])
def test_c1_a_directory_in_place_of_a_file_is_one_clear_error(
    name: str, canary: Path, scratch: Path, busybox_layer: bytes
) -> None:
    target = name.partition("-")[0].encode()
    bundle = Bundle(scratch / "overlay2", busybox_layer, layer_tar(directory(b"etc/" + target))).fill_init()
    done = bundle.run("true", etc_files=_etc_files(scratch))
    assert (done.returncode, "Are you trying to mount a directory onto a file" in done.stderr) == (125, True)


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_c3_a_symlink_made_by_an_earlier_run_is_refused(
    name: str, canary: Path, scratch: Path, busybox_layer: bytes
) -> None:
    """The rw layer is above the init layer, so a restart may meet what docker's init layer cannot mend."""
    bundle = Bundle(scratch / "overlay2", busybox_layer).fill_init()
    (bundle.upper / name).symlink_to(canary)
    done = bundle.run("true")
    assert done.returncode == 125
    assert "Too many levels of symbolic links" in done.stderr or "Not a directory" in done.stderr, done.stderr


@pytest.mark.many
def test_c4_mount_targets_swapped_while_they_are_mounted(canary: Path, scratch: Path, busybox_layer: bytes) -> None:
    volume, source = scratch / "volume", scratch / "source"
    (volume / "real").mkdir(parents=True)
    source.mkdir()
    (source / "mark").write_text("mark\n")
    bundle = Bundle(scratch / "overlay2", busybox_layer).fill_init()
    ended = threading.Event()

    (volume / "target").symlink_to(canary)
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(volume / "real"), os.fsencode(volume / "target")

    def swap() -> None:
        while not ended.is_set():
            # RENAME_EXCHANGE: the name is always there, now a directory, now a symlink to the canary
            libc.renameat2(-100, names[0], -100, names[1], 2)

    thread = threading.Thread(target=swap)
    thread.start()
    outcomes = set()
    try:
        for _ in range(40):
            done = bundle.run(
                "true",
                binds=[
                    {"source": str(volume), "target": "/volume"},
                    {"source": str(source), "target": "/volume/target/sub"},
                ],
            )
            outcomes.add(done.returncode)
            assert "Traceback" not in done.stderr
    finally:
        ended.set()
        thread.join()
    assert outcomes <= {0, 125}


def test_c5_a_false_null_device_is_not_used_to_mask(canary: Path, scratch: Path, busybox_layer: bytes) -> None:
    false_dev = scratch / "dev"
    false_dev.mkdir()
    (false_dev / "null").symlink_to(canary / "null")
    bundle = Bundle(scratch / "overlay2", busybox_layer).fill_init()
    done = bundle.run("true", binds=[{"source": str(false_dev), "target": "/dev"}])
    assert done.returncode == 125
    (false_dev / "null").unlink()
    (false_dev / "null").write_text("")
    done = bundle.run("true", binds=[{"source": str(false_dev), "target": "/dev"}])
    assert (done.returncode, "is not the null device" in done.stderr) == (125, True), done.stderr


def test_c6_the_kernel_cannot_be_written_to(scratch: Path, busybox_layer: bytes) -> None:
    bundle = Bundle(scratch / "overlay2", busybox_layer).fill_init()
    script = (
        "for f in /proc/sys/kernel/core_pattern /proc/sys/vm/panic_on_oom /proc/irq/default_smp_affinity "
        "/sys/kernel/uevent_helper /sys/fs/cgroup/memory/memory.limit_in_bytes; do "
        "(echo x > $f) 2>/dev/null && echo written $f; done; mkdir /sys/fs/cgroup/memory/x 2>/dev/null && echo made; "
        "mount -o remount,rw /proc/sys 2>/dev/null && echo remounted; true"
    )
    assert bundle.shell(script) == ""


def test_c7_nothing_propagates_to_a_shared_host(scratch: Path, busybox_layer: bytes) -> None:
    host = scratch / "host"
    host.mkdir()
    bundle = Bundle(scratch / "overlay2", busybox_layer).fill_init()
    words = bundle.words(
        "sh",
        "-c",
        "echo up; read line",
        tty=False,
        binds=[{"source": str(host), "target": "/host"}],
        tmpfs=[["/host/t", ""]],
    )
    script = f"""
        mount --make-rshared /; mount --bind {host} {host}; mount --make-shared {host}
        before=$(cat /proc/self/mountinfo | sed 's/^[0-9]* //')
        mkfifo {scratch}/in; exec 5<>{scratch}/in
        "$@" < {scratch}/in > {scratch}/out &
        while ! grep -q up {scratch}/out; do :; done
        during=$(cat /proc/self/mountinfo | sed 's/^[0-9]* //')
        echo >&5; wait
        after=$(cat /proc/self/mountinfo | sed 's/^[0-9]* //')
        [ "$before" = "$during" ] && [ "$before" = "$after" ]
    """
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "sh", *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done


@pytest.mark.parametrize(
    ("propagation", "seen_inside", "seen_outside"),
    [
        ("", False, False),
        ("rprivate", False, False),
        ("rslave", True, False),
        ("rshared", True, True),
    ],
)
def test_c7_propagation_only_as_asked(
    propagation: str, seen_inside: bool, seen_outside: bool, scratch: Path, busybox_layer: bytes
) -> None:
    host = scratch / "host"
    (host / "a").mkdir(parents=True)
    (host / "b").mkdir()
    bundle = Bundle(scratch / "overlay2", busybox_layer).fill_init()
    inner = "mount -t tmpfs inside /host/b; echo up; read line; grep -c ' /host/a ' /proc/mounts; true"
    words = bundle.words(
        "sh",
        "-c",
        inner,
        privileged=True,
        binds=[{"source": str(host), "target": "/host", "propagation": propagation}],
    )
    script = f"""
        mount --bind {host} {host}; mount --make-shared {host}
        mkfifo {scratch}/in; exec 5<>{scratch}/in
        "$@" < {scratch}/in > {scratch}/out &
        while ! grep -q up {scratch}/out; do :; done
        mount -t tmpfs outside {host}/a
        grep -c ' {host}/b ' /proc/self/mounts
        echo >&5; wait; sed 1d {scratch}/out
    """
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "sh", *words], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == [str(int(seen_outside)), str(int(seen_inside))], done


def test_c8_no_way_back_to_the_host(scratch: Path, busybox_layer: bytes) -> None:
    """Nothing of the old root is mounted, and climbing out of a chroot ends in the container's root."""
    bundle = Bundle(scratch / "overlay2", busybox_layer).fill_init()
    table = bundle.shell("cat /proc/self/mountinfo").splitlines()
    kernel = {"overlay", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}
    assert {line.split(" - ")[1].split()[0] for line in table} <= kernel
    assert [line.split()[4] for line in table if " - overlay " in line] == ["/"]
    root = os.stat("/")
    script = (
        "mkdir -p /jail/bin; cp /bin/busybox /jail/bin/busybox; "
        "busybox chroot /jail /bin/busybox sh -c 'busybox true' 2>/dev/null; "
        "cd /; cd ../../../../..; stat -c '%d %i' . ; readlink /proc/1/cwd; readlink /proc/1/root"
    )
    first, cwd, inside = bundle.shell(script).splitlines()[-3:]
    assert (cwd, inside) == ("/", "/")
    assert first != f"{root.st_dev} {root.st_ino}"


def test_c9_a_data_root_with_the_mount_options_own_letters(scratch: Path, busybox_layer: bytes) -> None:
    bundle = Bundle(scratch / "a:b,c\\d" / "overlay2", busybox_layer).fill_init()
    assert bundle.shell("echo fine > /file; cat /file") == "fine\n"
    assert (bundle.upper / "file").read_text() == "fine\n"


@pytest.mark.parametrize(
    ("propagation", "kind", "message"),
    [
        ("shared", "private", "but it is not a shared mount"),
        ("rshared", "slave", "but it is not a shared mount"),
        ("rslave", "private", "but it is not a shared or slave mount"),
        ("slave", "slave", ""),
        ("rshared", "shared", ""),
    ],
)
def test_c7_a_propagation_that_the_host_cannot_give_is_an_error(
    propagation: str, kind: str, message: str, tool: Tool, scratch: Path
) -> None:
    host = scratch / "host"
    (host / "below").mkdir(parents=True)
    words = command("run", "--rm", "--network", "none", "-v", f"{host}/below:/x:{propagation}", "busybox:test", "true")
    script = f"""
        mount --bind {host} {host}; mount --make-private {host}
        [ {kind} = private ] || mount --make-shared {host}
        if [ {kind} = slave ]; then unshare -m --propagation slave "$@"; exit; fi
        exec "$@"
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *words],
        capture_output=True,
        text=True,
        timeout=patience(60),
        env=tool.environment,
    )
    if message:
        assert (done.returncode, done.stderr) == (125, f"minidock: path {host}/below is mounted on {host} {message}\n")
    else:
        assert (done.returncode, done.stderr) == (0, "")
