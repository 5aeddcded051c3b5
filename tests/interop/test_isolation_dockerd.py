"""Which calls pass the filter and which capabilities a process has: side by side with docker 20.10.

--privileged and --cap-add ALL are not among them: docker refuses both on a host that withholds a capability.
"""

from __future__ import annotations

import re
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
IDENTITY = re.compile("[0-9a-f]{64}")
STATUS = ("grep", "-E", "^(Cap|Seccomp|NoNewPrivs|Groups)", "/proc/self/status")


class Both:
    """docker and minidock, told the same words. Called, both must succeed, and what each printed comes back."""

    def __init__(self, dockerd: Any, tool: Tool) -> None:
        self.dockerd = dockerd
        self.tool = tool

    def __call__(self, *words: str) -> tuple[str, str]:
        return self.dockerd.docker(*words).stdout, self.tool.good(*words) + "\n"

    def refusals(self, *words: str) -> tuple[tuple[int, str], tuple[int, str]]:
        """Each one's exit code, and its message without what surrounds it and without IDs."""
        theirs, ours = self.dockerd.docker(*words, check=False), self.tool(*words)
        assert theirs.stdout == ours.stdout == ""
        lines = [line for line in theirs.stderr.splitlines() if "rror" in line or line.startswith("docker: ")]
        told = [line for line in lines if not line.startswith("time=")][0]
        told = told.removeprefix("docker: ").removeprefix("Error response from daemon: ").removesuffix(".")
        own = (
            ours.stderr.splitlines()[0].removeprefix("minidock: ").removesuffix(" (minidock ps -a lists what there is)")
        )
        return (theirs.returncode, IDENTITY.sub("ID", told)), (ours.returncode, IDENTITY.sub("ID", own))


@pytest.fixture(scope="module")
def both(dockerd: Any, session_scratch: Path, busybox_layer: bytes) -> Iterator[Both]:
    """Both with the same image."""
    archive = builders.docker_archive(
        session_scratch / "isolation.tar", builders.ImageSpec([busybox_layer], tags=[BOX])
    )
    dockerd.docker("load", "-i", archive)
    tool = Tool(session_scratch / "isolation-root", archive)

    yield Both(dockerd, tool)
    for words in (("rm", "-f", "seen", "giver", "keeper", "still", "guest"), ("rmi", "-f", BOX)):
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
def test_calls(both: Both, words: tuple[str, ...]) -> None:
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
def test_sets(both: Both, words: tuple[str, ...]) -> None:
    theirs, ours = both("run", "--rm", "--network", "none", *words, BOX, *STATUS)
    print(f"docker {words}:\n{theirs}minidock:\n{ours}")
    assert ours == theirs


def test_exec(both: Both) -> None:
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
def test_settings(both: Both, words: tuple[str, ...]) -> None:
    script = (
        "ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj /proc/sys/kernel/msgmax; "
        "cat /proc/sys/net/ipv4/ip_forward; ls -l /dev | grep -c .; ls -ln /dev/k 2>&1 | cut -c1-40; "
        "sort /sys/fs/cgroup/devices/devices.list; [ $(hostname) = $(cat /proc/sys/kernel/hostname) ] && echo same"
    )
    theirs, ours = both("run", "--rm", "--network", "none", *words, BOX, "sh", "-c", script)
    assert ours == theirs


def test_in_the_namespaces_of_another(both: Both) -> None:
    """What a container sees there, what is put on record, and what docker says where it cannot be."""
    for options in (("--name", "giver", "--ipc", "shareable"), ("--name", "keeper")):
        both("run", "-d", *options, "--network", "none", BOX, "sleep", "1000")
    both("create", "--name", "still", "--network", "none", BOX, "true")
    modes = ("--pid", "container:giver", "--ipc", "container:giver")
    both("run", "--rm", "--network", "none", "--ipc", "container:giver", BOX, "sh", "-c", "echo word > /dev/shm/note")
    script = (
        "tr '\\0' ' ' < /proc/1/cmdline; mount | grep -e ' /proc' -e mqueue -e ' /dev/shm' | sort; ls -n /dev; "
        "[ $$ != 1 ] && echo joined; ls /dev/shm /proc/1/root; [ $PPID = 0 ] && echo no parent"
    )
    asked: list[tuple[str, ...]] = [modes, modes[:2], modes[2:], (*modes, "--init"), ("--ipc", "none")]
    for words in asked:
        theirs, ours = both("run", "--rm", "--network", "none", *words, BOX, "sh", "-c", script)
        assert ours == theirs, words
    both("create", "--name", "guest", "--network", "none", *modes, BOX, "true")
    theirs, ours = both("inspect", "--format", "{{.HostConfig.PidMode}} {{.HostConfig.IpcMode}}", "guest")
    assert [word[:10] for word in ours.split()] == [word[:10] for word in theirs.split()] == ["container:"] * 2
    assert len(ours) == len(theirs)
    assert_refusals_are_equal(both)
    both("rm", "-f", "giver", "keeper", "still", "guest")


def assert_refusals_are_equal(both: Both) -> None:
    """Modes that cannot be, with their exit codes and words."""
    asked = [("--ipc", "container:keeper")]
    for mode in ("container:nope", "container:", "container", "container:still", "bogus"):
        asked += [("--pid", mode), ("--ipc", mode)]
    for option, mode in asked:
        theirs, ours = both.refusals("run", "--rm", "--network", "none", option, mode, BOX, "true")
        assert ours == theirs, (option, mode)
    for option in ("--pid", "--ipc"):
        theirs, ours = both.refusals("create", "--network", "none", option, "container:nope", BOX, "true")
        assert ours == theirs, option
