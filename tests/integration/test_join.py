"""A further process in a running container."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.launching import PYTHON, REPOSITORY, Bundle
from tests.patience import patience


@pytest.fixture
def bundle(scratch: Path, busybox_layer: bytes) -> Bundle:
    return Bundle(scratch / "overlay2", busybox_layer).fill_init()


def _exec(bundle: Bundle, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    launch = options.pop("launch", {})
    return bundle.run("sleep", "60", exec=[{"argv": list(argv), "env": ["PATH=/bin"], **options}], **launch)


def test_it_shares_all_namespaces_and_groups(bundle: Bundle) -> None:
    script = (
        "for n in mnt pid uts ipc net cgroup; do "
        "[ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo $n; done; "
        '[ "$(cat /proc/self/cgroup)" = "$(cat /proc/1/cgroup)" ] || echo groups; '
        "readlink /proc/self/root; pwd; readlink /proc/1/exe"
    )
    done = _exec(bundle, "sh", "-c", script)
    assert done.stdout == "/\n/\n/bin/busybox\n", done


@pytest.mark.parametrize(
    ("argv", "options", "code", "words"),
    [
        (["sh", "-c", "exit 9"], {}, 9, ""),
        (["sh", "-c", "kill -TERM $$"], {}, 143, ""),
        (["nosuch"], {}, 127, 'exec: "nosuch": executable file not found in $PATH'),
        (["/etc/passwd"], {}, 126, 'exec: "/etc/passwd": permission denied'),
        (["true"], {"user": "nosuch"}, 126, "unable to find user nosuch"),
        (["true"], {"cwd": "/nosuch"}, 126, 'chdir to cwd ("/nosuch") failed: no such file or directory'),
        (["true"], {"cwd": "/proc/self/fd/9"}, 126, "chdir to cwd"),
    ],
)
def test_exit_codes(bundle: Bundle, argv: list[str], options: dict[str, Any], code: int, words: str) -> None:
    done = _exec(bundle, *argv, **options)
    assert (done.returncode, words in done.stderr) == (code, True), done


def test_user_directory_and_environment(bundle: Bundle) -> None:
    script = "id; pwd; env | sort; echo again > /dev/stdout"
    done = _exec(bundle, "sh", "-c", script, user="alice", cwd="/tmp", env=["PATH=/bin", "A=1"], hostname="box")
    lines = done.stdout.splitlines()
    assert lines[:2] == ["uid=1000(alice) gid=1000(alice) groups=29(audio),1000(alice)", "/tmp"]
    assert {"A=1", "HOME=/home/alice", "HOSTNAME=box", "PATH=/bin"} <= set(lines)
    assert lines[-1] == "again"


def test_terminal(bundle: Bundle) -> None:
    done = _exec(bundle, "sh", "-c", "tty; stat -c %u $(tty); echo $TERM", tty=True, user="alice")
    assert done.stdout.replace("\r", "").split() == ["/dev/pts/0", "1000", "xterm"]


def test_a_false_devpts_gives_no_terminal(bundle: Bundle, scratch: Path) -> None:
    false = scratch / "dev"
    (false / "pts").mkdir(parents=True)
    os.mknod(false / "null", 0o020666, os.makedev(1, 3))
    (false / "pts" / "ptmx").write_text("")
    done = _exec(bundle, "tty", tty=True, launch={"binds": [{"source": str(false), "target": "/dev"}]})
    assert (done.returncode, "is no devpts" in done.stderr) == (126, True), done


def test_a_container_that_ended(bundle: Bundle) -> None:
    """The pidfd stands for that process alone; one that has ended is said to have ended."""
    code = """
import os, sys
sys.path.insert(0, sys.argv[1])
from minidock.errors import ContainerNotRunning
from minidock.runtime.join import ExecSpec, exec_process
pid = os.fork()
if pid == 0:
    os._exit(0)
pidfd = os.pidfd_open(pid)
for reap in (False, True):
    if reap:
        os.waitpid(pid, 0)
    else:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        exec_process(pid, pidfd, ExecSpec(argv=["true"]), stdin_fd=0, stdout_fd=1, stderr_fd=2)
    except ContainerNotRunning as error:
        print(error)
"""
    done = subprocess.run(
        [PYTHON, "-I", "-S", "-c", code, REPOSITORY], capture_output=True, text=True, timeout=patience(30)
    )
    assert done.stdout.count("is not running") == 2, done


def test_it_dies_with_its_caller_and_with_its_container(bundle: Bundle) -> None:
    done = bundle.run("sleep", "0.3", exec=[{"argv": ["sleep", "60"], "env": ["PATH=/bin"]}])
    assert done.returncode == 137
