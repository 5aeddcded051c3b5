"""Containers' starts: run, exec, detached, from Python; and the memory they take.

The least a start can cost is a C program that does the same on the kernel, see floor.c; and runc on a bundle that is
ready, which has no image to look up, no layer to make and nothing to record.

Where the time of run() from Python goes, in ms of 12 where floor.c takes 1.9 (Linux 6.18, cgroup v1, a quiet guest of
two cores): 1.3 the container's layers and records; 0.5 its lock, specification and files for /etc; 0.3 what its launch
needs, made ready; 1.1 two forks until there is a monitor without a parent; 0.8 there until the clone; 1.0 the clone;
4.1 the child until exec, while the monitor makes groups, log and record; 1.5 two execs and the program; 1.3 groups,
layers and records removed; 0.3 reports. A quarter of all of it is the copying of pages that a forked interpreter
touches (1,500 of them at 2 microseconds): that, and no call that could be left out, is what keeps it above three times
floor.c. Each 100 MB that the calling program holds add another 13 ms, for three copies of its page tables.

Where the time of `exec true` goes, in ms of 19 where docker 20.10 takes 60: 0.5 the entry's shell; 5.0 the interpreter;
1.8 `os` and what reads the command line; 5.0 the other modules, of which 0.7 finding their files, 2.3 bringing their
code into memory that is new, 2.0 executing it; 0.8 the container's records and what the exec needs; 5.9 from the fork
of the monitor to the end: two forks and the 500 pages that are copied then, the child's way in, a seccomp filter of
1,214 instructions (0.3), the program, two reports. A third of docker's, then, and not a quarter: the interpreter's
start alone is a third of that quarter. `run` takes 29 ms where runc takes 23 to 27: the same beginning, 3 ms more for
the container's layers and records, 3 for what launches, 2 to remove it all.

Measured and left out: one file with the code of all modules (0.7 ms of exec, 1.2 of run, for a copy that can be stale);
code without docstrings and columns (0.2); without any function that is not called (0.4). Not tried: loading what
launches while the layers are made, in a monitor that is forked before it has a container (2 ms of run at most, for a
start that can fail in two processes at once); deleting what is removed after the end has been told (1 ms, and a root
that is not at rest).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests import builders
from tests.bench.cases import Hall, busybox
from tests.bench.peers import Docker, Minidock, Podman, timed
from tests.bench.table import Case, Measure
from tests.integration.tool import wait_until

PROJECT = Path(__file__).resolve().parents[2]
IMAGE = "busybox:bench"
RUN_LIMIT_KIB = 12 << 10
MONITOR_LIMIT_KIB = 4 << 10
ROUNDS = 21

# Reads lines and answers each with the nanoseconds of one run, like floor.c.
API = """
import os, sys, time
from minidock.store.root import DataRoot
from minidock.verbs.options import CreateOptions
from minidock.verbs.run import run
null = os.open("/dev/null", os.O_RDWR)
with DataRoot.open(sys.argv[1]) as root:
    for line in sys.stdin:
        begun = time.monotonic_ns()
        options = CreateOptions(rm=True, network="none")
        done = run(root, sys.argv[2], ["true"], options, stdin_fd=null, stdout_fd=null, stderr_fd=null)
        assert done.exit_code == 0
        print(time.monotonic_ns() - begun, flush=True)
"""


def _ready(hall: Hall, kind: type[Minidock]) -> Minidock:
    """The engine with the small image in it."""
    engine = hall.engine(kind)
    timed(*engine.load(busybox(hall)))
    return engine


def run_cases(hall: Hall) -> Iterator[Case]:
    """run --rm IMAGE true, without a network and on the default bridge."""
    contenders: dict[str, Measure] = {}
    for kind in (Minidock, Docker, Podman):
        engine = _ready(hall, kind)
        contenders[kind.name] = lambda _, engine=engine: engine.run(  # type: ignore[misc]
            "run", "--rm", "--network", "none", IMAGE, "true"
        )
    bundle = _bundle(hall)
    state = hall.fresh("runc")
    words = ("runc", "--root", state, "run", "--bundle", bundle)
    contenders["runc, ready bundle"] = lambda number: timed(*words, f"bench-{os.getpid()}-{number}")
    bars = {"docker": 0.20, "podman": 0.40, "runc, ready bundle": 1.2}
    yield Case("run --rm --network none true", contenders, bars, ROUNDS)
    engines = [hall.engine(kind) for kind in (Minidock, Docker)]
    bridged: dict[str, Measure] = {
        engine.name: lambda _, engine=engine: engine.run("run", "--rm", IMAGE, "true")  # type: ignore[misc]
        for engine in engines
    }
    yield Case("run --rm true, on the default bridge", bridged, {"docker": 0.5}, ROUNDS)


def _bundle(hall: Hall) -> Path:
    """What `runc spec` makes, with the image's files and `true` as its program."""
    bundle = hall.fresh("bundle")
    (bundle / "rootfs").mkdir(parents=True)
    layer = hall.scratch / "layer.tar"
    layer.write_bytes(builders.busybox_layer())
    builders.run_command("tar", "-xf", layer, "-C", bundle / "rootfs")
    builders.run_command("runc", "spec", cwd=bundle)
    document = json.loads((bundle / "config.json").read_text())
    document["process"].update(terminal=False, args=["true"])
    (bundle / "config.json").write_text(json.dumps(document))
    return bundle


def exec_cases(hall: Hall) -> Iterator[Case]:
    """exec of `true` in a container that runs."""
    engines = [_ready(hall, kind) for kind in (Minidock, Docker)]
    for engine in engines:
        engine.run("run", "-d", "--name", "inside", "--network", "none", IMAGE, "sleep", "10000")
    contenders: dict[str, Measure] = {
        engine.name: lambda _, engine=engine: engine.run("exec", "inside", "true")  # type: ignore[misc]
        for engine in engines
    }
    yield Case("exec true", contenders, {"docker": 0.25}, ROUNDS)
    for engine in engines:
        engine.run("rm", "-f", "inside")


def detach_cases(hall: Hall) -> Iterator[Case]:
    """run -d and start; each container is removed again, which is not measured."""
    engines = [_ready(hall, kind) for kind in (Minidock, Docker)]

    def measure(engine: Minidock, created: bool) -> float:
        words = ("--name", "detached", "--network", "none", IMAGE, "sleep", "10000")
        if created:
            engine.run("create", *words)
        seconds = engine.run("start", "detached") if created else engine.run("run", "-d", *words)
        engine.run("rm", "-f", "detached")
        return seconds

    for created, name in ((False, "run -d"), (True, "start")):
        contenders: dict[str, Measure] = {
            engine.name: lambda _, engine=engine, created=created: measure(engine, created)  # type: ignore[misc]
            for engine in engines
        }
        yield Case(name, contenders, {"docker": 0.25}, ROUNDS)


class Answering:
    """A process that answers each line with the nanoseconds that one container took."""

    def __init__(self, *words: str | Path) -> None:
        self.process = subprocess.Popen(
            [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __call__(self, _: int) -> float:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"bench: {self.process.args!r} ended with {self.process.wait()}")
        return int(answer) / 1e9

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


def api_cases(hall: Hall) -> Iterator[Case]:
    """run-and-wait of `true` from Python, without the interpreter's start, beside C on the bare kernel."""
    if not shutil.which("gcc"):
        raise SystemExit("bench: api needs gcc")
    engine = _ready(hall, Minidock)
    floor = hall.scratch / "floor"
    builders.run_command("gcc", "-O2", "-Wall", "-o", floor, PROJECT / "tests/bench/floor.c")
    where = hall.fresh("overlay")
    for name in ("lower", "upper", "work", "merged"):
        (where / name).mkdir(parents=True)
    layer = hall.scratch / "layer.tar"
    layer.write_bytes(builders.busybox_layer())
    builders.run_command("tar", "-xf", layer, "-C", where / "lower")
    for name in ("proc", "dev", "sys"):
        (where / "lower" / name).mkdir(exist_ok=True)
    contenders: dict[str, Measure] = {
        "minidock": Answering(sys.executable, "-c", API, engine.root, IMAGE),
        "C on the bare kernel": Answering(
            floor, where, "lowerdir=lower,upperdir=upper,workdir=work", "merged", "/bin/true"
        ),
    }
    for measure in contenders.values():
        measure(0)
    yield Case("run() from Python", contenders, {"C on the bare kernel": 3.0}, ROUNDS)
    for measure in contenders.values():
        assert isinstance(measure, Answering)
        measure.close()


# What the kernel reports of a process begins with the most that whoever started it has ever had, see setup_new_exec in
# fs/exec.c. So a command is started by a program smaller than itself, to which its orphans come as well.
LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
peaks = []
while True:
    try:
        _, status, usage = os.wait4(-1, 0)
    except ChildProcessError:
        break
    if status:
        sys.exit(f"ended with status {status}")
    peaks.append(usage.ru_maxrss)
own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(own, max(peaks))
"""


def memory_rows(hall: Hall) -> list[tuple[str, ...]]:
    """The peak of `run`, and what the monitor of a container that runs keeps for itself."""
    engine = _ready(hall, Minidock)
    # A root's first container has the seccomp filter compiled, which is kept; its networks have their bridge made.
    engine.run("run", "--rm", IMAGE, "true")
    rows = []
    # In whatever else the root has come to hold by now, of the other cases' containers.
    for name, network in (("memory, run", ("--network", "none")), ("memory, run, on the default bridge", ())):
        words = engine.words("run", "--rm", *network, IMAGE, "true")
        # The largest process: command, monitor, and each child up to the container's program.
        rows.append(_memory_row(name, max(_peak_kib(words) for _ in range(5)), RUN_LIMIT_KIB))
    engine.run("run", "-d", "--name", "watched", "--network", "none", IMAGE, "sleep", "10000")
    try:
        rows.append(_memory_row("memory, monitor", _monitor_kib(engine.root), MONITOR_LIMIT_KIB))
    finally:
        engine.run("rm", "-f", "watched")
    return rows


def _peak_kib(words: list[str | Path]) -> int:
    """The most that any process of a command has ever had resident, libraries shared with others included."""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, *map(str, words)]
    done = subprocess.run(launcher, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    own, peak = map(int, done.stdout.split())
    if peak <= own:
        raise SystemExit(f"bench: {words} takes less than what measures it, {own} KiB")
    return peak


def _monitor_kib(root: Path) -> int:
    """The private memory of the only container's monitor, once it has come to rest."""
    (record,) = (root / "containers").glob("*/minidock.state")
    place = Path(f"/proc/{json.loads(record.read_text())['MonitorPid']}")

    def rests() -> bool:
        return b"succession" in (place / "cmdline").read_bytes() and "poll" in (place / "wchan").read_text()

    wait_until(rests, "the monitor to be left alone", timeout_s=60)
    lines = (place / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def _memory_row(name: str, kib: int, limit_kib: int) -> tuple[str, ...]:
    verdict = "ok" if kib <= limit_kib else "MISSED"
    return (name, f"{kib / 1024:.1f} MB", "", "", "", f"{limit_kib >> 10} MB", verdict)
