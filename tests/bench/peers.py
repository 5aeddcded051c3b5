"""The contenders: minidock and what it is measured against, each on roots of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import Engine

MINIDOCK = Path(sys.executable).with_name("minidock")


def timed(*words: str | Path, environment: dict[str, str] | None = None) -> float:
    """The wall seconds of one command, which must succeed; its output goes nowhere."""
    start = time.perf_counter()
    done = subprocess.run(
        [str(word) for word in words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"bench: {[str(word) for word in words]} ended with {done.returncode}: {done.stderr.decode()}")
    return seconds


def unmount_below(base: Path) -> None:
    """Unmount what an engine left mounted below its directory."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        where = line.split()[4]
        if where == str(base) or where.startswith(f"{base}/"):
            subprocess.run(["umount", "-l", where], check=False)


class Minidock:
    """minidock through its installed command."""

    name = "minidock"

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / "minidock"

    def words(self, *words: str | Path) -> list[str | Path]:
        """The whole command line of an engine's command."""
        return [MINIDOCK, "--root", self.root, *words]

    def load(self, archive: Path) -> list[str | Path]:
        """The command line that loads an archive."""
        return self.words("pull-tar", archive)

    def run(self, *words: str | Path) -> float:
        """Run one command, and its wall seconds."""
        return timed(*self.words(*words))

    def forget(self, *images: str) -> None:
        """Remove images; not measured."""
        self.run("rmi", "-f", *images)

    def close(self) -> None:
        """Remove everything the engine made."""
        unmount_below(self.root)
        shutil.rmtree(self.root, ignore_errors=True)


class Docker(Minidock):
    """Debian's dockerd on a data root of its own, asked by docker's client."""

    name = "docker"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.engine = Engine(base / "docker")
        # In the bench's own network, which it made when it loaded tests.conftest.
        self.engine.bridge = ""
        self.engine.start()

    def words(self, *words: str | Path) -> list[str | Path]:
        """The whole command line of an engine's command."""
        return ["/usr/bin/docker", "-H", f"unix://{self.engine.socket}", *words]

    def load(self, archive: Path) -> list[str | Path]:
        """The command line that loads an archive."""
        return self.words("load", "-q", "-i", archive)

    def close(self) -> None:
        """Stop the daemon and remove its roots."""
        self.engine.stop()
        unmount_below(self.engine.base)
        shutil.rmtree(self.engine.base, ignore_errors=True)


class Podman(Minidock):
    """podman with crun on a storage of its own, in a mount namespace where crun finds plain cgroup2.

    crun refuses hybrid cgroups, so cgroups are off for it, which spares podman work. podman's own defaults for
    nofile and nproc need CAP_SYS_RESOURCE, which test machines often lack, hence the ulimits. Entering the mount
    namespace costs about a millisecond.
    """

    name = "podman"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.root = base / "podman"
        self.root.mkdir(parents=True)
        script = "mount -t cgroup2 none /sys/fs/cgroup && echo ready && exec cat"
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.holder.stdout and self.holder.stdout.readline() == b"ready\n"

    def words(self, *words: str | Path) -> list[str | Path]:
        """The whole command line of an engine's command."""
        storage: list[str | Path] = [
            "--root",
            self.root / "root",
            "--runroot",
            self.root / "run",
            "--storage-driver",
            "overlay",
        ]
        runtime = ["--cgroup-manager", "cgroupfs", "--runtime", "crun", "--log-level", "error"]
        extra: list[str] = []
        if words[0] in ("run", "create"):
            extra = ["--cgroups", "disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        enter = ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt"]
        return [*enter, "podman", *storage, *runtime, words[0], *extra, *words[1:]]

    def load(self, archive: Path) -> list[str | Path]:
        """The command line that loads an archive."""
        return self.words("load", "-q", "-i", archive)

    def close(self) -> None:
        """End the holder of the namespace and remove the storage."""
        assert self.holder.stdin
        self.holder.stdin.close()
        self.holder.wait(10)
        unmount_below(self.root)
        shutil.rmtree(self.root, ignore_errors=True)


def anonymous_peak_bytes(*words: str | Path) -> int:
    """The peak of anonymous and shared memory of a command with all its children, sampled every 5 ms."""
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_anonymous_bytes, _family(process.pid))))
        try:
            process.wait(0.005)
        except subprocess.TimeoutExpired:
            continue
    if process.returncode:
        raise SystemExit(f"bench: {[str(word) for word in words]} ended with {process.returncode}")
    return peak


def _family(pid: int) -> list[int]:
    family = [pid]
    for member in family:
        try:
            for thread in os.listdir(f"/proc/{member}/task"):
                children = Path(f"/proc/{member}/task/{thread}/children").read_text()
                family.extend(int(child) for child in children.split())
        except OSError:
            continue
    return family


def _anonymous_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return sum(int(fields[key].split()[0]) << 10 for key in ("Pss_Anon", "Pss_Shmem"))
