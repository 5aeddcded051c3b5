"""What a hot command costs before it does anything: the modules it loads and its system calls, seen by strace.

strace sees the entry shim, the interpreter, the monitor and the container alike, so nothing hides in a forked
process. The written lists are in hot_modules/, one file for each command: its first line is the count of system
calls, the others the modules that may be loaded from disk. Make them again, after a change that is meant, with
`python -m tests.house.hot`, and read the difference before committing it.
"""

from __future__ import annotations

import compileall
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests import builders, netns
from tests.house import source

LISTS = Path(__file__).with_name("hot_modules")
WRITTEN_FOR = (3, 11)
OPENED = re.compile(r'openat\([^"]*"([^"]+\.(?:pyc|py|so))"[^=]*= \d')
CALL = re.compile(r"^\d+ +\w+\(")
RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>")
UNFINISHED = " <unfinished ...>"

# Scenes in the order in which they are played: each command finds what the earlier ones left.
SCENES: dict[str, tuple[str, ...]] = {
    "run": ("run", "--rm", "--network", "none", "busybox:test", "true"),
    "run_bridge": ("run", "--rm", "busybox:test", "true"),
    "create": ("create", "--name", "still", "--network", "none", "busybox:test", "true"),
    "start": ("start", "still"),
    "logs": ("logs", "running"),
    "exec": ("exec", "running", "true"),
    "ps": ("ps", "-a"),
    "images": ("images",),
    "inspect": ("inspect", "running"),
    "stop": ("stop", "-t", "0", "running"),
    "commit": ("commit", "running", "busybox:committed"),
    "rm": ("rm", "running"),
}

# Part of the interpreter itself in Debian's build, files beside it in others.
BUILT_IN_SOMEWHERE = {
    "_blake2",
    "_sha256",
    "_sha2",
    "_struct",
    "_socket",
    "binascii",
    "fcntl",
    "select",
    "_random",
    "math",
}

# None of these may be loaded by a hot command, whatever the lists say.
FORBIDDEN = {
    *("typer", "click", "rich", "pydantic", "pyroute2", "magic", "typing", "dataclasses", "logging", "subprocess"),
    *("asyncio", "re", "json", "pathlib", "argparse", "tempfile", "shutil", "enum", "inspect", "site"),
}


def _module(path: str) -> str | None:
    """The module that a file opened by the interpreter holds; None for a file that is no module."""
    stdlib = sysconfig.get_path("stdlib")
    roots = [f"{stdlib}/lib-dynload", sysconfig.get_path("purelib"), stdlib, str(source.PROJECT)]
    real = os.path.realpath(path)
    for root in map(os.path.realpath, roots):
        if real.startswith(root + "/"):
            parts = real[len(root) + 1 :].replace("__pycache__/", "").split("/")
            parts[-1] = parts[-1].partition(".")[0]
            return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return None


def _whole(lines: list[str]) -> Iterator[str]:
    """The calls, each on one line; strace cuts one in two when another process makes a call meanwhile."""
    begun: dict[str, str] = {}
    for line in lines:
        pid = line.partition(" ")[0]
        if line.endswith(UNFINISHED):
            begun[pid] = line.removesuffix(UNFINISHED)
        elif resumed := RESUMED.match(line):
            yield begun.pop(pid, pid) + line[resumed.end() :]
        else:
            yield line
    yield from begun.values()


class Cost:
    """Modules loaded and system calls made by one command with all its processes."""

    def __init__(self, trace: str) -> None:
        lines = list(_whole(trace.splitlines()))
        self.calls = sum(1 for line in lines if CALL.match(line))
        opened = (match[1] for line in lines if (match := OPENED.search(line)))
        self.modules = sorted({module for path in opened if (module := _module(path))})


class Stage:
    """A scratch data root with one image and one running container, on which the scenes are played."""

    def __init__(self, scratch: Path, archive: Path) -> None:
        self.scratch = scratch
        self.command = Path(sys.executable).with_name("minidock")
        self.environment = {"PATH": os.environ["PATH"], "MINIDOCK_ROOT": str(scratch / "root"), "LC_ALL": "C.UTF-8"}
        compileall.compile_dir(source.PACKAGE, quiet=2)
        self.minidock("pull-tar", str(archive))
        # The bridge is there from now on, as it is for all but the first container after a boot.
        self.minidock("run", "--rm", "busybox:test", "true")
        self.minidock("run", "-d", "--name", "running", "--network", "none", "busybox:test", "sleep", "1000")

    def minidock(self, *words: str) -> None:
        """Run a command that is not measured."""
        builders.run_command(self.command, *words, env=self.environment, stdin=subprocess.DEVNULL)

    def measure(self, name: str) -> Cost:
        """Play one scene under strace."""
        trace = self.scratch / f"{name}.strace"
        # --seccomp-bpf would be quicker but hides calls; the container's own seccomp filter is not disturbed.
        words: list[str | Path] = ["strace", "-f", "-qq", "-s", "300", "-o", trace, self.command, *SCENES[name]]
        builders.run_command(*words, env=self.environment, stdin=subprocess.DEVNULL)
        return Cost(trace.read_text(errors="replace"))

    def close(self) -> None:
        """Remove the containers, so that nothing runs or is mounted any more."""
        for name in ("running", "still"):
            words = (self.command, "rm", "-f", name)
            builders.run_command(*words, env=self.environment, check=False, stdin=subprocess.DEVNULL)


def read_list(name: str) -> tuple[int, set[str]]:
    """The written count of system calls and the modules that a command may load."""
    first, *modules = (LISTS / f"{name}.txt").read_text().split("\n")
    return int(first.split()[-1]), {line for line in modules if line}


def write_lists() -> None:
    """Measure every command and write its list."""
    layer = builders.busybox_layer()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="minidock-hot-") as folder:
        archive = builders.docker_archive(
            Path(folder, "busybox.tar"), builders.ImageSpec([layer], tags=["busybox:test"])
        )
        stage = Stage(Path(folder), archive)
        try:
            for name in SCENES:
                cost = stage.measure(name)
                lines = [f"system calls: {cost.calls}", *cost.modules]
                (LISTS / f"{name}.txt").write_text("\n".join(lines) + "\n")
                forbidden = sorted({module.partition(".")[0] for module in cost.modules} & FORBIDDEN)
                print(f"{name}: {cost.calls} system calls, {len(cost.modules)} modules", *forbidden)
        finally:
            stage.close()


if __name__ == "__main__":
    if sys.version_info[:2] != WRITTEN_FOR:
        raise SystemExit(f"the lists are written for Python {'.'.join(map(str, WRITTEN_FOR))}")
    netns.enter_own()
    write_lists()
