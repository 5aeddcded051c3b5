"""The test machine itself: what goes in comes out; its failures are not the command's; CI's legs of the matrix."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import VM_MARKS, missing
from tests.netns import outside
from tests.vm.legs import Legs

PROJECT = Path(__file__).resolve().parents[2]
BOX = "6.1"


def _vm(tool: str, *words: str | Path, timeout: int = 1500) -> subprocess.CompletedProcess[str]:
    command = [*outside(), str(PROJECT / "vm" / tool), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def built() -> Iterator[None]:
    """The machine's parts, built before anything is timed out."""
    for program in ("qemu-system-x86_64", "mmdebstrap", "cpio"):
        if not shutil.which(program):
            missing(f"{program} is not installed")
    done = _vm("build", "--kernel", "6.1", "--kernel", "5.10")
    assert done.returncode == 0, done.stderr
    yield


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_output_status_and_artifacts(built: None, scratch: Path) -> None:
    script = "uname -r; id -u; seq 100000; mkdir $VM_OUT/deep; echo left >$VM_OUT/deep/file; echo said >&2; exit 7"
    done = _vm("run", "--quick", "--out", scratch / "out", "--", script)
    lines = done.stdout.splitlines()
    assert done.returncode == 7, done.stderr
    assert lines[0].startswith("6.1.") and lines[1] == "0"
    assert lines[2:-1] == [str(number) for number in range(1, 100001)]
    assert lines[-1] == "said"
    assert (scratch / "out/deep/file").read_text() == "left\n"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_machine_that_fails_is_told_from_a_command_that_does(built: None) -> None:
    panicked = _vm("run", "--quick", "--", "echo c >/proc/sysrq-trigger")
    assert panicked.returncode == 125
    assert "the machine ended without a status" in panicked.stderr and "sysrq" in panicked.stderr
    late = _vm("run", "--quick", "--timeout", "1", "--", "true")
    assert (late.returncode, "did not end within 1 s" in late.stderr) == (125, True)
    for words in (("--kernel", "2.4"), ("--quick", "--cgroup", "v1")):
        refused = _vm("run", *words, "--", "true")
        assert (refused.returncode, len(refused.stderr.splitlines())) == (125, 1), refused.stderr


def test_legs_name_the_marked_files() -> None:
    """The matrix names files, since collecting the whole suite takes an emulated processor a minute."""
    sys.path.insert(0, str(PROJECT / "vm"))
    from testmachine.matrix import GROUPS, SMOKE

    for mark, words in (("vm", SMOKE), ("cgroup", GROUPS)):
        marked = {f"tests/integration/{stem}.py" for stem, marks in VM_MARKS.items() if mark in marks}
        assert set(words) == marked


def test_the_vagrantfile_is_valid(scratch: Path) -> None:
    if not shutil.which("vagrant"):
        missing("vagrant is not installed")
    environment = {**os.environ, "VAGRANT_HOME": str(scratch), "VAGRANT_CHECKPOINT_DISABLE": "1"}
    environment["VAGRANT_DOTFILE_PATH"] = str(scratch / "dot")
    done = subprocess.run(["vagrant", "validate"], cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert (done.returncode, "validated successfully" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.vagrant
@pytest.mark.timeout(7200)
def test_vagrant_up_and_destroy(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for program in ("vagrant", "libvirtd", "virsh", "dnsmasq", "rsync"):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            missing(f"{program} is not installed")
    box = _vm("box", "--kernel", BOX)
    assert box.returncode == 0, box.stderr
    place = Path("/var/tmp") / scratch.name
    place.mkdir()
    try:
        words = ["unshare", "--mount", "--net", "--propagation", "private", "sh"]
        words += [str(PROJECT / "tests/vm/vagrant_round.sh"), str(PROJECT), box.stdout.strip(), str(place)]
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        with capsys.disabled():
            print("\n" + done.stdout + done.stderr, end="")
        assert done.returncode == 0
        assert "hello from the machine" in done.stdout and "status 5" in done.stdout
        assert done.stdout.rstrip().endswith("== done")
        assert "left:" not in done.stdout
        # Others may mount and unmount on this machine meanwhile; what is the round's own is told by its place.
        mounts = Path("/proc/self/mountinfo").read_text()
        assert "libvirt" not in mounts and str(place) not in mounts
    finally:
        shutil.rmtree(place)


@pytest.mark.matrix
@pytest.mark.timeout(3600)
def test_the_legs_of_ci(legs_of_ci: Legs, capsys: pytest.CaptureFixture[str]) -> None:
    """The last test: they have run beside all others."""
    code, lines, errors = legs_of_ci.wait()
    with capsys.disabled():
        print("\n" + lines, end="")
    assert code == 0, lines + errors
    legs = [line.split() for line in lines.splitlines()]
    assert sorted(leg[1] for leg in legs) == ["5.10-quick", "6.1-systemd-v2"]
    # Counted from each leg's own report: a leg that ran nothing is no leg.
    assert all(leg[0] == "ok" and int(leg[2]) > 120 for leg in legs), legs
    assert all((legs_of_ci.out / leg[1] / "junit.xml").exists() for leg in legs)
