"""Which calls pass the filter and which capabilities a process has: side by side with docker 20.10.

--privileged and --cap-add ALL are not among them: docker refuses both on a host that withholds a capability.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import builders
from tests.integration.tool import Tool

PROBE = Path(builders.__file__).with_name("probe_calls.py")
BOX = "isolation:test"
# the host's python and its libraries, where the image has none
BINDS = (
    *("-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro"),
    *("-v", f"{PROBE}:/probe.py:ro"),
)
CALLS = ("/usr/bin/python3", "-I", "-S", "/probe.py")
STATUS = ("grep", "-E", "^(Cap|Seccomp|NoNewPrivs|Groups)", "/proc/self/status")


@pytest.fixture(scope="module")
def both(dockerd: Any, session_scratch: Path, busybox_layer: bytes) -> Iterator[Any]:
    """Run the same words with both; returns what each printed."""
    archive = builders.docker_archive(
        session_scratch / "isolation.tar", builders.ImageSpec([busybox_layer], tags=[BOX])
    )
    dockerd.docker("load", "-i", archive)
    tool = Tool(session_scratch / "isolation-root", archive)

    def run(*words: str) -> tuple[str, str]:
        return dockerd.docker(*words).stdout, tool.good(*words) + "\n"

    yield run
    for words in (("rm", "-f", "seen"), ("rmi", "-f", BOX)):
        dockerd.docker(*words, check=False)
    tool.close()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--cap-drop", "ALL"),
        ("--cap-add", "SYS_ADMIN"),
        ("--cap-add", "SYS_PTRACE", "--cap-add", "SYS_NICE", "--cap-add", "SYSLOG"),
        ("--security-opt", "no-new-privileges", "--user", "1000"),
        ("--security-opt", "seccomp=unconfined"),
    ],
)
def test_calls(both: Any, words: tuple[str, ...]) -> None:
    theirs, ours = both("run", "--rm", "--network", "none", *BINDS, *words, BOX, *CALLS)
    assert len(theirs.splitlines()) > 500
    assert ours.splitlines() == theirs.splitlines()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--user", "1000", "--group-add", "27"),
        ("--cap-drop", "ALL", "--cap-add", "CHOWN"),
        ("--security-opt", "no-new-privileges"),
        ("--security-opt", "seccomp=unconfined"),
    ],
)
def test_sets(both: Any, words: tuple[str, ...]) -> None:
    theirs, ours = both("run", "--rm", "--network", "none", *words, BOX, *STATUS)
    print(f"docker {words}:\n{theirs}minidock:\n{ours}")
    assert ours == theirs


def test_exec(both: Any) -> None:
    both("run", "-d", "--name", "seen", "--network", "none", *BINDS, BOX, "sleep", "1000")
    theirs, ours = both("exec", "seen", *CALLS)
    assert ours.splitlines() == theirs.splitlines()
    for options in ((), ("-u", "1000")):
        theirs, ours = both("exec", *options, "seen", *STATUS)
        assert ours == theirs, options


@pytest.mark.parametrize(
    "words",
    [
        ("--ulimit", "nofile=100:200", "--ulimit", "core=0"),
        ("--oom-score-adj", "300"),
        ("--sysctl", "kernel.msgmax=5000", "--sysctl", "net.ipv4.ip_forward=1"),
        ("--device", "/dev/kmsg:/dev/k:rw"),
        ("--uts", "host"),
    ],
)
def test_settings(both: Any, words: tuple[str, ...]) -> None:
    script = (
        "ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj /proc/sys/kernel/msgmax; "
        "cat /proc/sys/net/ipv4/ip_forward; ls -l /dev | grep -c .; ls -ln /dev/k 2>&1 | cut -c1-40; "
        "sort /sys/fs/cgroup/devices/devices.list; [ $(hostname) = $(cat /proc/sys/kernel/hostname) ] && echo same"
    )
    theirs, ours = both("run", "--rm", "--network", "none", *words, BOX, "sh", "-c", script)
    assert ours == theirs
