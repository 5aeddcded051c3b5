"""Docker's engines of several releases, each real: Debian's own builds, the newer ones in a chroot made once.

A newer engine runs in a private mount namespace whose root is its suite's tree; /dev, /proc and /sys are the host's,
so a data root below /dev/shm has the same path for the engine and for us. Its mounts end with it.
Kept in $MINIDOCK_TEST_CACHE (default /var/tmp/minidock-tests), about 300 MB a suite; nothing but Debian packages.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from tests import builders
from tests.conftest import Engine, missing
from tests.netns import outside
from tests.real_images import CACHE

MIRROR = os.environ.get("MINIDOCK_TEST_MIRROR", "http://deb.debian.org/debian")
PACKAGES = "docker.io,docker-cli,containerd,runc,mount,procps"

# Become the suite's tree, with the host's devices, and then dockerd: one process from beginning to end. Not by chroot,
# which containers would leave again: who enters a mount namespace stands at its root.
ENTER = """set -e
tree=$1; shift
mount --bind "$tree" "$tree"
cd "$tree"
for place in dev sys proc; do mount --rbind "/$place" "$place"; done
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
pivot_root . mnt
/usr/bin/umount -l /mnt
exec "$@"
"""


class Release:
    """One release of Docker's engine: where Debian has it, and which bytes its commits are made of."""

    def __init__(self, label: str, suite: str, dialect: str, *, flags: tuple[str, ...] = ()) -> None:
        self.label = label
        self.suite = suite
        self.dialect = dialect
        self.flags = flags

    def __repr__(self) -> str:
        return self.label


RELEASES = {
    release.label: release
    for release in (
        Release("20.10", "", "a"),
        Release("26.1", "trixie", "c", flags=("--ip6tables=false",)),
        Release("28.5", "sid", "c", flags=("--ip6tables=false",)),
    )
}


def suite_tree(release: Release) -> Path:
    """The suite's tree with the engine in it, made by mmdebstrap if it is not there yet."""
    CACHE.mkdir(parents=True, exist_ok=True)
    tree = CACHE / f"engine-{release.label}"
    with open(CACHE / f".{tree.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # `docker top` runs ps; a tree of an earlier time has none.
        if not (tree / "usr/bin/ps").exists():
            shutil.rmtree(tree, ignore_errors=True)
            part = CACHE / f"part-{tree.name}"
            shutil.rmtree(part, ignore_errors=True)
            _make_tree(release, part)
            part.rename(tree)
    return tree


def _make_tree(release: Release, part: Path) -> None:
    if not shutil.which("mmdebstrap"):
        missing("mmdebstrap is not installed")
    # Unpacked and not configured: programs and libraries are all that is needed.
    # A mirror that lags behind has lists of sid that are past their date.
    words = ["--variant=extract", f"--include={PACKAGES}", '--aptopt=Acquire::Check-Valid-Until "false"']
    words.append('--aptopt=Apt::Install-Recommends "false"')
    builders.run_command(*outside(), "mmdebstrap", *words, release.suite, part, MIRROR)
    for name in ("bin", "sbin", "lib", "lib64"):
        if not os.path.lexists(part / name):
            (part / name).symlink_to(f"usr/{name}")
    for name in ("dev", "sys", "proc", "run", "tmp", "mnt", "etc/docker"):
        (part / name).mkdir(parents=True, exist_ok=True)
    version = builders.run_command("chroot", part, "dockerd", "--version").stdout
    if f" {release.label}." not in version:
        raise AssertionError(f"Debian's {release.suite} no longer has Docker {release.label}, but {version}")


class SuiteEngine(Engine):
    """An engine of a newer Debian, with the client that belongs to it."""

    def __init__(self, base: Path, release: Release) -> None:
        super().__init__(base)
        self.release = release
        self.tree = suite_tree(release)

    def words(self) -> list[str]:
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "enter", str(self.tree)]
        return [*enter, *super().words(), *self.release.flags]

    def client(self) -> list[str]:
        # The loader of its own suite, and no chroot: paths mean what they mean to us.
        libraries = f"{self.tree}/usr/lib/{os.uname().machine}-linux-gnu"
        loader = next((self.tree / "usr/lib64").glob("ld-linux*"), None) or self.tree / "usr/lib/ld-linux-aarch64.so.1"
        return [str(loader), "--library-path", libraries, f"{self.tree}/usr/bin/docker"]

    def stop(self) -> None:
        super().stop()
        # After a dockerd that had to be killed its containerd is left, and with it the namespace.
        pidfile = self.base / "exec/containerd/containerd.pid"
        if pidfile.exists() and (pid := pidfile.read_text().strip()):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if os.fsencode(self.base) in command:
                    os.kill(int(pid), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                pass


def engine_of(release: Release, base: Path) -> Engine:
    """An engine of this release, not yet started, with everything of its own below base."""
    return SuiteEngine(base, release) if release.suite else Engine(base)


NewEngine = Callable[[Release], Engine]
