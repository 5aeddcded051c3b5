"""vm/matrix: the suites over kernels and cgroup modes, two machines at a time, one line a leg."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from testmachine import image, kernels
from testmachine.cache import VM, MachineError, say
from testmachine.machine import Machine, clear, end_on_signals, run

WHOLE = ["tests/integration", "-m", "not many"]


def _files(*names: str) -> list[str]:
    """By file, since to collect the whole suite takes an emulated processor a minute."""
    return [f"tests/integration/test_{name}.py" for name in names]


GROUPS = _files("cgroup", "limits", "pause", "usage")
CI = _files("launch", "join", "store_mounts", "networks", "firewall") + GROUPS
SMOKE = CI + _files("userns", "commit", "life")
SYSTEMD = _files("systemd", "delegation", "enforced")
DOCKER = ["tests/interop/test_one_root_any_host.py"]


class Leg:
    """One machine and what runs in it."""

    def __init__(
        self, name: str, kernel: str, tests: list[str], *, quick: bool = False, cgroup: str = "v2", docker: bool = False
    ) -> None:
        self.name = name
        self.kernel = kernel
        self.tests = tests
        self.quick = quick
        self.cgroup = cgroup
        self.docker = docker


# Each kernel with what is marked `vm` (mounts, namespaces, networks, groups, commits, lives); each way of groups
# with what is marked `cgroup`; a real dockerd under cgroup v2 on a root that minidock wrote. `--whole`: all in place
# of `vm`.
LEGS = (
    Leg("5.10-quick", "5.10", SMOKE, quick=True),
    Leg("6.1-systemd-v2", "6.1", SMOKE),
    Leg("6.12-systemd-v2", "6.12", SMOKE),
    Leg("newest-quick", "newest", SMOKE, quick=True),
    Leg("6.1-systemd-hybrid", "6.1", GROUPS, cgroup="hybrid"),
    Leg("6.1-systemd-v1", "6.1", GROUPS, cgroup="v1"),
    Leg("6.1-docker-v2", "6.1", DOCKER, docker=True),
)
# What CI boots on every push: one full systemd with cgroup v2, one old kernel.
CI_LEGS = ("6.1-systemd-v2", "5.10-quick")


def counts_of(junit: Path) -> str:
    """How many tests a leg ran, passed and skipped, from its report."""
    if not junit.exists():
        return "no report"
    suite = ElementTree.parse(junit).getroot().find("testsuite")
    if suite is None:
        return "an empty report"
    total, bad, skipped = (int(suite.get(name, "0")) for name in ("tests", "failures", "skipped"))
    bad += int(suite.get("errors", "0"))
    return f"{total - bad - skipped} passed" + (f", {bad} failed" if bad else "") + f", {skipped} skipped"


def run_leg(leg: Leg, out: Path, *, in_place_of_smoke: list[str] = SMOKE, timeout_s: int) -> tuple[int, str]:
    """Run one leg.

    Shape:   out — the directory for its report (junit.xml), output and artifacts
    Returns: the exit status, and the leg's line
    """
    clear(out)
    began = time.monotonic()
    tests = in_place_of_smoke if leg.tests is SMOKE else leg.tests
    if not leg.quick and not leg.docker:
        tests = tests + SYSTEMD
    command = ["pytest", "-q", "-rs", "--durations=10", *tests]
    text = f"CI=1; export CI; exec {shlex.join(command)} --junitxml=$VM_OUT/junit.xml"
    try:
        machine = Machine(
            image.build(leg.docker), kernels.kit(leg.kernel), quick=leg.quick, cgroup=leg.cgroup, timeout_s=timeout_s
        )
        with open(out / "output", "wb") as output:
            status = run(machine, text, out, output.fileno())
        detail = counts_of(out / "junit.xml")
    except MachineError as error:
        status, detail = 125, str(error)
    word = "ok  " if status == 0 else "FAIL"
    return status, f"{word} {leg.name:<20} {detail}, {time.monotonic() - began:.0f} s"


def main() -> int:
    """Run the legs; 0 if all were green, 1 if a test failed, 125 if a machine did."""
    words = argparse.ArgumentParser(prog="vm/matrix", description="Run the test suites in every machine of the matrix.")
    words.add_argument("leg", nargs="*", metavar="LEG", help=f"default: all of {', '.join(leg.name for leg in LEGS)}")
    words.add_argument("--ci", action="store_true", help=f"only {' and '.join(CI_LEGS)}, with fewer files")
    words.add_argument("--whole", action="store_true", help="the whole integration suite on every kernel (hours)")
    words.add_argument(
        "--out", type=Path, default=VM / "cache/matrix", metavar="DIR", help="reports, one directory a leg"
    )
    words.add_argument("--at-once", type=int, default=2, metavar="N")
    words.add_argument("--timeout", type=int, default=7200, metavar="S", help="for one leg")
    chosen = words.parse_args()
    end_on_signals()
    names = {leg.name: leg for leg in LEGS}
    smoke = WHOLE if chosen.whole else CI if chosen.ci else SMOKE
    wanted = chosen.leg or (CI_LEGS if chosen.ci else names)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        words.error(f"no leg {unknown[0]!r}; there are {', '.join(names)}")

    def work(name: str) -> tuple[int, str]:
        status, line = run_leg(names[name], chosen.out / name, in_place_of_smoke=smoke, timeout_s=chosen.timeout)
        print(line, flush=True)
        if status not in (0, 125):
            say(f"{name}: " + "\n".join((chosen.out / name / "output").read_text().splitlines()[-40:]))
        return status, line

    try:
        with ThreadPoolExecutor(chosen.at_once) as pool:
            statuses = [status for status, _ in pool.map(work, wanted)]
    except MachineError as error:
        say(str(error))
        return 125
    return 125 if 125 in statuses else int(any(statuses))


if __name__ == "__main__":
    sys.exit(main())
