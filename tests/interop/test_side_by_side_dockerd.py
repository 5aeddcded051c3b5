"""What keeps a container from the host, under 26 sets of flags: side by side with docker 20.10 on the same machine."""

from __future__ import annotations

import re
from pathlib import Path

from tests.interop.test_isolation_dockerd import BOX, Both, both

assert both

MASKED = "asound acpi kcore keys latency_stats timer_list timer_stats sched_debug scsi"
# Mounts with their options; masked paths by what they are and hold; read-only ones by what a write says; who one is.
SCRIPT = f"""
sort /proc/mounts
for p in $(for n in {MASKED}; do echo /proc/$n; done) /sys/firmware; do
  bytes=$(head -c 100 $p 2>/dev/null | wc -c)
  echo "$p: $(stat -c '%F %t:%T' $p 2>/dev/null), $bytes bytes, $(ls $p 2>/dev/null | wc -l) entries"
done
for p in /proc/bus /proc/fs /proc/irq /proc/sys /sys /sys/fs/cgroup/memory; do mkdir $p/new 2>&1; done
for p in sysrq-trigger sys/kernel/core_pattern sys/vm/panic_on_oom; do (: >> /proc/$p) 2>&1; done
grep -E '^(Cap|Seccomp|NoNewPrivs|Groups|Uid|Gid)' /proc/self/status
ls -ln /dev | sed 's/ [A-Z][a-z][a-z] .*:.. / /' ; ulimit -a; umask; pwd; cat /proc/self/oom_score_adj
for n in pid ipc uts net; do [ "$(readlink /proc/self/ns/$n)" = "$(readlink /proc/1/ns/$n)" ] && echo own $n; done; true
"""
SETS: list[tuple[str, ...]] = [
    (),
    ("--read-only",),
    ("--tmpfs", "/t:size=1m,mode=700,exec"),
    ("--tmpfs", "/root"),
    ("-v", "{host}:/there"),
    ("-v", "{host}:/there:ro"),
    ("--mount", "type=bind,source={host},target=/there,readonly"),
    (
        "-v",
        "/data",
    ),
    ("--user", "1000:1000"),
    ("--user", "alice", "--group-add", "27"),
    ("--cap-drop", "ALL"),
    ("--cap-add", "SYS_ADMIN"),
    ("--cap-drop", "ALL", "--cap-add", "CHOWN", "--user", "1000"),
    ("--security-opt", "no-new-privileges"),
    ("--security-opt", "seccomp=unconfined"),
    ("--security-opt", "systempaths=unconfined"),
    ("--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770,readonly"),
    ("--ipc", "none"),
    ("--ipc", "host"),
    ("--pid", "host"),
    ("--uts", "host"),
    ("--network", "host"),
    ("--shm-size", "1m"),
    ("--device", "/dev/kmsg:/dev/k"),
    ("-w", "/work/deep"),
    ("--ulimit", "nofile=100:200", "--userns", "host"),
]


def comparable(text: str) -> list[str]:
    """Without what names a data root; one below /dev/shm itself is in sight with --ipc host."""
    lines = [line for line in text.splitlines() if " /dev/shm/" not in line]
    return [re.sub(r"^overlay / overlay (r[ow]),relatime,.*", r"overlay / overlay \1,relatime", line) for line in lines]


def test_side_by_side(both: Both, scratch: Path) -> None:
    """The whole table is printed; a failed test shows the lines that differ."""
    differing = []
    for words in SETS:
        asked = [word.replace("{host}", str(scratch)) for word in words]
        network = () if "--network" in words else ("--network", "none")
        theirs, ours = map(comparable, both("run", "--rm", *network, *asked, BOX, "sh", "-c", SCRIPT))
        width = max(map(len, theirs))
        print(
            f"\n=== {' '.join(words)}\n" + "\n".join(f"{a:{width}} | {b}" for a, b in zip(theirs, ours, strict=False))
        )
        left, right = set(theirs) - set(ours), set(ours) - set(theirs)
        if left or right or len(theirs) != len(ours):
            differing.append(f"{' '.join(words)}:\n docker: {sorted(left)}\n minidock: {sorted(right)}")
        assert len(theirs) > 60, theirs
    assert not differing, "\n".join(differing)


CGROUPS = "cat /proc/self/cgroup; grep cgroup /proc/self/mountinfo | cut -d' ' -f4-; ls /sys/fs/cgroup/*"


def test_cgroup_namespaces(both: Both) -> None:
    """docker's default on cgroup v1 is the host's, ours always one of its own; asked for, each is the same for both."""
    for mode in ("host", "private"):
        words = ("run", "--rm", "--network", "none", "--cgroupns", mode, BOX, "sh", "-c", CGROUPS)
        theirs, ours = both(*words)
        # The source of a mount is a name without a meaning.
        plain = [
            re.sub("/(docker|minidock)/[0-9a-f]{64}|(?<=cgroup )[^ ]+(?= rw)", "GROUP", text) for text in (theirs, ours)
        ]
        assert plain[0] == plain[1]
        assert ("/minidock/" in ours) == (mode == "host")
