"""Shared fixtures: scratch data roots on tmpfs, a real engine as oracle, small images."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import builders, forked, netns
from tests.leaks import nothing_is_left, scratch_prefix
from tests.vm.legs import legs_of_ci

__all__ = ("legs_of_ci", "nothing_is_left")

# Before anything is started: engines and containers are in the session's network, too.
netns.enter_own()

# A shell that starts a session in the background has it ignore these (nohup SIGHUP), and so would every command.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

IN_CI = os.environ.get("CI") == "1"
# In the test machine (vm/run), which is of many kinds.
IN_VM = os.environ.get("MINIDOCK_VM") == "1"


# The catalogue of hazards asks for counts that take hours of a small machine together.
IS_WHOLE = os.environ.get("MINIDOCK_WHOLE") == "1"


# A test's limit is made for a processor that runs at full speed.
_TIMES_AS_LONG = 4


def whole(whole_count: int, everyday_count: int) -> int:
    """How often a hazard is tried: the catalogue's count where MINIDOCK_WHOLE=1 asks for it, else a smaller one."""
    return whole_count if IS_WHOLE else everyday_count


def missing(reason: str) -> None:
    """Skip with a printed reason; in CI nothing may be missing, so there it is a failure."""
    if IN_CI:
        pytest.fail(f"must not be skipped in CI: {reason}")
    pytest.skip(reason)


# What the test machine's matrix (vm/matrix) runs: mounts, namespaces, networks and control groups, each in few seconds
# on an emulated processor; and what cannot run there, since it wants package mirrors or other engines.
VM_MARKS = {
    "test_launch": ("vm",),
    "test_join": ("vm",),
    "test_userns": ("vm",),
    "test_store_mounts": ("vm",),
    "test_networks": ("vm",),
    "test_firewall": ("vm",),
    "test_cgroup": ("vm", "cgroup"),
    "test_limits": ("vm", "cgroup"),
    "test_pause": ("vm", "cgroup"),
    "test_usage": ("vm", "cgroup"),
    "test_commit": ("vm",),
    "test_life": ("vm",),
    "test_bad_roots": ("many",),
    "test_fsck": ("many",),
    "test_hazards_joining": ("many",),
    "test_store_crash": ("many",),
    "test_store_kill": ("many",),
    "test_together": ("many",),
    "test_unpack_model": ("many",),
    "test_clean_machine": ("native",),
    "test_real_images": ("native",),
}


def lacking(reason: str) -> None:
    """Skip what a kernel or a host of another kind has not: the test machine's matrix is made of such differences."""
    if not IN_VM:
        missing(reason)
    pytest.skip(reason)


def kernel_version() -> tuple[int, int]:
    """The running kernel's first two numbers."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


def _is_narrowed(config: pytest.Config) -> bool:
    """Whether of the whole directory only what is marked `vm` runs: the rest takes an emulated processor hours."""
    is_chosen = any(str(word).startswith("-m") for word in config.invocation_params.args)
    return IN_VM and forked.IS_EMULATED and not IS_WHOLE and not is_chosen


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _is_narrowed(config):
        terminalreporter.write_line(
            "emulated processor: of tests/integration what is marked `vm`, and files that are named; -m chooses others"
        )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.parent.name != "integration" or not collection_path.name.startswith("test_"):
        return None
    if "vm" in VM_MARKS.get(collection_path.stem, ()) or not _is_narrowed(config):
        return None
    named = {Path(config.invocation_params.dir, word.partition("::")[0]).resolve() for word in config.args}
    return True if collection_path not in named else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = Path(str(item.path))
        if "integration" in path.parts or "interop" in path.parts:
            item.add_marker(pytest.mark.root)
        if "integration" in path.parts:
            for mark in VM_MARKS.get(path.stem, ()):
                item.add_marker(mark)
        if IN_VM:
            _fit_the_machine(item)


def _fit_the_machine(item: pytest.Item) -> None:
    """Leave out what the test machine cannot have, and what would take its emulated processor too long."""
    if item.get_closest_marker("native"):
        item.add_marker(pytest.mark.skip(reason="native: needs package mirrors or other engines"))
    if not forked.IS_EMULATED:
        return
    if item.get_closest_marker("many") and not IS_WHOLE:
        item.add_marker(pytest.mark.skip(reason="many: minutes on an emulated processor; MINIDOCK_WHOLE=1 runs it"))
    limit = item.get_closest_marker("timeout")
    seconds = float(limit.args[0] if limit else item.config.getini("timeout"))
    item.add_marker(pytest.mark.timeout(_TIMES_AS_LONG * seconds), append=False)


@pytest.fixture(autouse=True)
def _needs_root(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("root") and os.geteuid() != 0:
        missing("needs root: mounts, namespaces and ownership are real")


def remove_tree(path: Path) -> None:
    """Remove what a test made, of whatever depth: shutil.rmtree of Python 3.11 fails below some 900 directories."""
    subprocess.run(["rm", "-rf", "--one-file-system", path], check=False, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="session", autouse=True)
def _outside_stays_as_it_is() -> Iterator[None]:
    """In CI, where nobody else is at work: what containers' networks need is made in the session's own alone."""
    before = netns.outside_state() if IN_CI and os.geteuid() == 0 else {}
    yield
    if before:
        assert netns.outside_state() == before


@pytest.fixture(scope="session", autouse=True)
def _end_forks(nothing_is_left: None) -> Iterator[None]:
    """What the session's commands are forked from ends with it."""
    yield
    forked.end()


@pytest.fixture
def scratch() -> Iterator[Path]:
    """An empty directory on tmpfs, where neither sync nor deletion costs much."""
    base = Path(tempfile.mkdtemp(prefix=scratch_prefix("md-test"), dir="/dev/shm"))
    base.chmod(0o755)
    yield base
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    left = [mount for mount in mounts if mount.startswith(str(base))]
    for mount in reversed(left):
        subprocess.run(["umount", "-l", mount], check=False)
    remove_tree(base)
    assert not left, f"the test left mounts behind: {left}"


@pytest.fixture
def data_root(scratch: Path) -> Iterator[Any]:
    """An open, empty minidock data root."""
    from minidock.store.root import DataRoot

    with DataRoot.open(str(scratch / "root")) as root:
        yield root


@pytest.fixture(scope="session")
def session_scratch() -> Iterator[Path]:
    """A directory on tmpfs for the whole session."""
    base = Path(tempfile.mkdtemp(prefix=scratch_prefix("md-session"), dir="/dev/shm"))
    base.chmod(0o755)
    yield base
    remove_tree(base)


@pytest.fixture(scope="session")
def busybox_layer() -> bytes:
    """A bottom layer with the host's static busybox."""
    if not Path("/bin/busybox").exists():
        missing("busybox-static is not installed")
    return builders.busybox_layer()


@pytest.fixture(scope="session")
def busybox_archive(session_scratch: Path, busybox_layer: bytes) -> Path:
    """A docker-save archive (old style) of one image `busybox:test` with two layers."""
    second = builders.layer_tar(
        builders.directory(b"data"),
        builders.tar_member(b"data/one", b"one\n"),
        builders.tar_member(b"data/two", b"two\n"),
        builders.directory(b"data/deep"),
        builders.tar_member(b"data/deep/three", b"three\n"),
    )
    image = builders.ImageSpec([busybox_layer, second], tags=["busybox:test"])
    return builders.docker_archive(session_scratch / "busybox.tar", image)


class Engine:
    """A dockerd of our own, with its own data root, exec root and socket."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / "root"
        self.socket = base / "docker.sock"
        self.pidfile = base / "docker.pid"
        self.driver = "overlay2"
        self.prefix: list[str] = []
        self.bridge = "none"
        self.process: subprocess.Popen[bytes] | None = None

    def words(self) -> list[str]:
        """The command line that starts dockerd."""
        return [
            *self.prefix,
            "/usr/sbin/dockerd",
            f"--data-root={self.root}",
            f"--exec-root={self.base / 'exec'}",
            f"--pidfile={self.pidfile}",
            f"--host=unix://{self.socket}",
            *([f"--bridge={self.bridge}", "--ip-forward=false"] if self.bridge else []),
            "--iptables=false",
            "--ip-masq=false",
            f"--storage-driver={self.driver}",
        ]

    def client(self) -> list[str]:
        """The words that start the docker client."""
        return ["/usr/bin/docker"]

    def start(self) -> None:
        """Start dockerd on the root and wait until it answers."""
        self.base.mkdir(parents=True, exist_ok=True)
        log = open(self.base / "log", "ab")
        self.process = subprocess.Popen(self.words(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        log.close()
        for _ in range(600):
            if self.docker("version", check=False).returncode == 0:
                return
            if self.process.poll() is not None:
                break
            try:
                self.process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        raise AssertionError("dockerd did not start:\n" + (self.base / "log").read_text()[-3000:])

    def stop(self) -> None:
        """Stop dockerd and wait for its end; the root stays."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
            self.process = None

    def docker(self, *words: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the client against this engine."""
        return builders.run_command(*self.client(), "-H", f"unix://{self.socket}", *words, check=check, **options)


@pytest.fixture(scope="session")
def new_engine() -> Iterator[Callable[[], Engine]]:
    """Make further engines, each with a fresh root; all end with the session."""
    if not Path("/usr/sbin/dockerd").exists():
        lacking("docker.io is not installed")
    engines: list[Engine] = []

    def make() -> Engine:
        engines.append(Engine(Path(tempfile.mkdtemp(prefix=scratch_prefix("mdengine"), dir="/dev/shm"))))
        return engines[-1]

    yield make
    end_engines(engines)


def end_engines(engines: list[Engine]) -> None:
    """Stop these engines and remove what they had."""
    for engine in engines:
        engine.stop()
    for engine in engines:
        unmount_below(engine.base)
        remove_tree(engine.base)


def unmount_below(base: Path) -> None:
    """Take away mounts that an engine's end has left."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        if line.split()[4].startswith(f"{base}/"):
            subprocess.run(["umount", "-l", line.split()[4]], check=False)


@pytest.fixture(scope="session")
def dockerd(new_engine: Callable[[], Engine]) -> Engine:
    """One running engine (Debian's 20.10) shared by the session; tests remove what they make in it."""
    engine = new_engine()
    engine.start()
    return engine
