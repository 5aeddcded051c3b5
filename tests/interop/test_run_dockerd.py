"""What a container sees, and what its init layer holds, compared with docker 20.10 on the same image."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests import builders
from tests.builders import directory, layer_tar, symlink, tar_member
from tests.integration.launching import Bundle


@pytest.fixture(scope="module")
def seen(dockerd: Any, session_scratch: Path, busybox_layer: bytes) -> Any:
    """Run one script in docker and in minidock; returns both outputs."""
    archive = builders.docker_archive(
        session_scratch / "run.tar", builders.ImageSpec([busybox_layer], tags=["seen:test"])
    )
    dockerd.docker("load", "-i", archive)
    count = iter(range(1000))

    def run(script: str, words: tuple[str, ...] = (), **options: Any) -> tuple[str, str]:
        theirs = dockerd.docker(
            "run", "--rm", "--network", "none", *words, "seen:test", "sh", "-c", script, check=False
        )
        base = session_scratch / f"overlay2-{next(count)}"
        files = {}
        bundle = Bundle(base, busybox_layer).fill_init()
        for name in ("resolv.conf", "hostname", "hosts"):
            (base / name).write_text("")
            files[f"/etc/{name}"] = str(base / name)
        ours = bundle.run("sh", "-c", script, etc_files=files, **options)
        assert theirs.returncode == ours.returncode, (theirs, ours)
        return theirs.stdout, ours.stdout

    yield run
    dockerd.docker("rmi", "-f", "seen:test")


def _mount_table(text: str) -> set[str]:
    """/proc/mounts without what names the data root: the overlay's directories and the size of its tmpfs."""
    lines = set()
    for line in text.splitlines():
        line = re.sub(r"^overlay / overlay (ro|rw),relatime,.*", r"overlay / overlay \1,relatime", line)
        lines.add(line)
    return lines


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ((), {}),
        (("--read-only",), {"read_only": True}),
        (("--tmpfs", "/t:size=1m,mode=700,exec"), {"tmpfs": [["/t", "size=1m,mode=700,exec"]]}),
        (("--tmpfs", "/root"), {"tmpfs": [["/root", ""]]}),
        (("--tmpfs", "/t:noatime,dev,uid=1000"), {"tmpfs": [["/t", "noatime,dev,uid=1000"]]}),
        (("--shm-size", "1m"), {"shm_size_bytes": 1 << 20}),
    ],
)
def test_mounts(seen: Any, words: tuple[str, ...], options: dict[str, Any]) -> None:
    theirs, ours = seen("cat /proc/mounts", words, **options)
    assert _mount_table(ours) == _mount_table(theirs)


@pytest.mark.parametrize(
    "script",
    [
        "ls -ln /dev /dev/pts /dev/shm /dev/mqueue | sed 's/[A-Z][a-z][a-z]  *[0-9]* [0-9:]*//'",
        "ls -lna / /etc | sed 's/  *[0-9]* [A-Z][a-z][a-z]  *[0-9]* [0-9:]*//' | grep -v 'proc$\\|sys$\\|total'",
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range",
        "ip link show lo | head -1; ls /sys/class/net",
        "ls /sys/fs/cgroup; ls -lnd /sys/fs/cgroup/* | cut -c1-10",
        "sort /sys/fs/cgroup/devices/devices.list",
        "grep -E 'Cap|Groups|NoNew|Sig[BI]' /proc/self/status",
        "umask; ulimit -n; cat /proc/self/oom_score_adj; pwd; env | sed s/HOSTNAME=.*/HOSTNAME/ | sort",
        "for f in acpi asound kcore keys latency_stats timer_list timer_stats sched_debug scsi; do "
        "ls -ld /proc/$f 2>/dev/null | cut -c1-10; cat /proc/$f 2>&1 | head -c 9; ls /proc/$f/ 2>/dev/null; "
        "done; ls /sys/firmware",
        "for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/domainname /proc/irq/default_smp_affinity "
        "/sys/kernel/uevent_helper /sys/fs/cgroup/memory/release_agent /proc/sysrq-trigger /sys/fs/cgroup/cpu/x; do "
        "(echo x > $f) 2>&1; done; mkdir /sys/fs/cgroup/cpu/x 2>&1; true",
        "mount -t tmpfs none /tmp 2>&1; mknod /tmp/d b 254 0 && head -c1 /tmp/d 2>&1; head -c1 /dev/zero | wc -c; "
        "hostname x 2>&1; true",
        "ps > /tmp/ps; wc -l < /tmp/ps; cat /proc/self/stat | cut -d' ' -f 4-6",
    ],
)
def test_sights(seen: Any, script: str) -> None:
    theirs, ours = seen(script)
    assert ours == theirs


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (("--cap-drop", "ALL"), {"cap_drop": ["ALL"]}),
        (("--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN"), {"cap_add": ["NET_ADMIN"], "cap_drop": ["CHOWN"]}),
        (("--cap-drop", "all", "--cap-add", "cap_chown"), {"cap_drop": ["all"], "cap_add": ["cap_chown"]}),
        (("-u", "1000"), {"user": "1000"}),
        (("-u", "alice"), {"user": "alice"}),
        (("-u", "alice:"), {"user": "alice:"}),
        (("-u", "alice:audio"), {"user": "alice:audio"}),
        (("-u", "alice:29"), {"user": "alice:29"}),
        (("-u", ":29"), {"user": ":29"}),
        (("-u", "1000:1000"), {"user": "1000:1000"}),
        (("-u", "4242"), {"user": "4242"}),
        (("-u", "2147483647"), {"user": "2147483647"}),
        (
            ("-u", "daemon", "--group-add", "audio", "--group-add", "77"),
            {"user": "daemon", "group_add": ["audio", "77"]},
        ),
        (("--group-add", "audio"), {"group_add": ["audio"]}),
        (("-u", "nosuch"), {"user": "nosuch"}),
        (("-u", "root:nosuch"), {"user": "root:nosuch"}),
        (("-u", "-1"), {"user": "-1"}),
        (("-u", "2147483648"), {"user": "2147483648"}),
        (("-u", "0:2147483648"), {"user": "0:2147483648"}),
        (("--group-add", "nosuch"), {"group_add": ["nosuch"]}),
        (("-w", "/made/here", "-u", "1000"), {"cwd": "/made/here", "user": "1000"}),
        (("-w", "/etc/passwd"), {"cwd": "/etc/passwd"}),
    ],
)
def test_identity(seen: Any, words: tuple[str, ...], options: dict[str, Any]) -> None:
    script = "grep -E 'Cap|Groups|Uid|Gid' /proc/self/status; echo $HOME; pwd; stat -c '%u %g %a' ."
    theirs, ours = seen(script, words, **options)
    assert ours == theirs


# name -> members of a second layer, after the plain busybox one
ODD_IMAGES: dict[str, list[bytes]] = {
    "plain": [],
    "directories-present": [
        *(directory(name, mode=0o711) for name in (b"dev", b"dev/pts", b"dev/shm", b"proc", b"sys")),
        directory(b"etc", mode=0o700, uid=7, gid=8),
    ],
    "hosts-dir": [
        directory(b"etc/hosts"),
        directory(b"etc/hosts/in"),
        directory(b".dockerenv"),
        directory(b"etc/mtab"),
    ],
    "resolv-symlink": [symlink(b"etc/resolv.conf", b"../run/stub"), symlink(b"etc/hostname", b"/etc/passwd")],
    "mtab-file": [tar_member(b"etc/mtab", b"text"), tar_member(b"etc/hosts", b"text", mode=0o600)],
    "etc-symlink": [tar_member(b".wh.etc"), directory(b"usr"), directory(b"usr/etc"), symlink(b"conf", b"usr/etc")],
    "dev-console-dir": [directory(b"dev"), directory(b"dev/console")],
    "dev-pts-symlink": [directory(b"dev"), symlink(b"dev/pts", b"/tmp"), tar_member(b"dev/shm", b"x")],
    "dev-symlink": [symlink(b"dev", b"run")],
    "dev-file": [tar_member(b"dev", b"")],
    "dev-console-node": [directory(b"dev"), tar_member(b"dev/console", type=b"3", devmajor=5, devminor=1)],
    "proc-symlink": [symlink(b"proc", b"/etc"), symlink(b"sys", b"tmp")],
    "proc-file": [tar_member(b"proc", b"x"), tar_member(b"sys", b"")],
    "everything-there": [
        *(directory(b"etc/" + name) for name in (b"hosts", b"hostname", b"resolv.conf", b"mtab")),
        *(directory(name) for name in (b"dev", b"dev/pts", b"dev/shm", b"dev/console", b".dockerenv")),
    ],
}
# what a third layer does to the second, so that whiteouts and opaque directories are seen through
THIRD_LAYERS: dict[str, list[bytes]] = {
    "directories-present": [tar_member(b"dev/.wh.pts"), tar_member(b".wh.proc")],
    "etc-symlink": [symlink(b"etc", b"usr/etc")],
    "hosts-dir": [directory(b"etc"), tar_member(b"etc/.wh..wh..opq"), tar_member(b"etc/new", b"")],
}


def _init_tree(diff: Path) -> list[tuple[Any, ...]]:
    """The init layer's entries, and which of its directories are opaque."""
    tree: list[tuple[Any, ...]] = builders.tree_listing(diff)
    for where, directories, _ in os.walk(diff):
        for name in directories:
            path = Path(where) / name
            if "trusted.overlay.opaque" in os.listxattr(path):
                tree.append(("opaque", str(path.relative_to(diff))))
    return sorted(tree, key=repr)


@pytest.mark.parametrize("name", sorted(ODD_IMAGES))
def test_init_layer(name: str, dockerd: Any, scratch: Path, busybox_layer: bytes) -> None:
    layers = [busybox_layer]
    for extra in (ODD_IMAGES[name], THIRD_LAYERS.get(name, [])):
        if extra:
            layers.append(layer_tar(*extra))
    tag = f"init-{name}:test"
    archive = builders.docker_archive(scratch / "image.tar", builders.ImageSpec(layers, tags=[tag]))
    dockerd.docker("load", "-i", archive)
    identity = dockerd.docker("create", "--network", "none", tag, "true").stdout.strip()
    try:
        upper = dockerd.docker("inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", identity).stdout.strip()
        theirs = Path(upper).parent
        lowers = (Path(str(theirs) + "-init") / "lower").read_text().split(":")
        ours = scratch / "diff"
        ours.mkdir()
        from minidock.runtime.initlayer import fill_init_layer

        warnings = fill_init_layer(str(dockerd.root / "overlay2"), lowers, str(ours))
        assert _init_tree(ours) == _init_tree(Path(str(theirs) + "-init") / "diff")
        replaced = {"dev-symlink", "dev-file", "dev-pts-symlink", "etc-symlink", "proc-file", "proc-symlink"}
        assert bool(warnings) == (name in replaced)
    finally:
        dockerd.docker("rm", "-f", identity)
        dockerd.docker("rmi", "-f", tag)


def test_init_fixture_is_a_bundle(scratch: Path, busybox_layer: bytes) -> None:
    """The hand-made directories that the comparisons above rest on are what the engine would mount."""
    bundle = Bundle(scratch / "overlay2", busybox_layer).fill_init()
    assert bundle.warnings == []
    assert (bundle.init_diff / "etc/mtab").is_symlink()
