"""Which AppArmor profile is chosen, and the instructions that hand it to the kernel, run for real on real files.

What a kernel does with the word is tested in the test machine (tests/integration/test_enforced.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minidock.linux.libc import MACHINE
from minidock.runtime import apparmor
from tests.conftest import missing

PROJECT = Path(__file__).resolve().parents[2]
LOADED = "/usr/bin/man (enforce)\ndocker-default (enforce)\nmine (special) (complain)\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's two files, neither there yet."""
    monkeypatch.setattr(apparmor, "ENABLED", str(tmp_path / "enabled"))
    monkeypatch.setattr(apparmor, "PROFILES", str(tmp_path / "profiles"))
    return tmp_path


def test_a_host_without_apparmor(host: Path) -> None:
    for text in (None, "N\n"):
        if text:
            (host / "enabled").write_text(text)
        for asked, privileged in (("", False), ("mine", False), ("", True)):
            assert apparmor.chosen_profile(asked, privileged=privileged) == ""
            assert not apparmor.missing_default()


def test_a_host_with_docker_s_profile(host: Path) -> None:
    (host / "enabled").write_text("Y\n")
    (host / "profiles").write_text(LOADED)
    assert apparmor.chosen_profile("", privileged=False) == "docker-default"
    assert apparmor.chosen_profile("", privileged=True) == "unconfined"
    assert apparmor.chosen_profile("mine", privileged=True) == "mine"
    assert apparmor.chosen_profile("unconfined", privileged=False) == "unconfined"
    assert not apparmor.missing_default()
    assert apparmor.is_loaded("mine (special)") and not apparmor.is_loaded("docker")


def test_a_host_where_no_engine_has_loaded_it(host: Path) -> None:
    (host / "enabled").write_text("Y\n")
    # no securityfs mounted; no profile at all; others'
    for text in (None, "", "/usr/bin/man (enforce)\n"):
        if text is not None:
            (host / "profiles").write_text(text)
        assert apparmor.chosen_profile("", privileged=False) == ""
        assert apparmor.missing_default()
    # whoever is named is tried: the kernel refuses what it does not know
    assert apparmor.chosen_profile("gone", privileged=False) == "gone"


RUN = """
import os, sys
sys.path.insert(0, sys.argv[1])
from minidock.linux.process import exec_descriptor
from minidock.runtime.apparmor import Place
from minidock.runtime.trampoline import make_trampoline
read, write = os.pipe()
place = Place("some profile")
directory = os.open(sys.argv[2], os.O_RDONLY)
if os.fork() == 0:
    os.close(read)
    os.set_inheritable(write, True)
    os.dup2(directory, place.fd, inheritable=True)
    handle = make_trampoline(write, place=place)
    script = b"ls /proc/self/fd | tr '\\\\n' ' '; exit 7"
    exec_descriptor(handle, [b"/bin/sh", b"sh", b"-c", script], [b"PATH=/bin:/usr/bin"])
os.close(write)
told = os.read(read, 100)
status = os.waitstatus_to_exitcode(os.wait()[1])
print("told", int.from_bytes(told, "little", signed=True) if told else 0, "status", status)
"""


def through(place: Path) -> str:
    """What comes of a program that is started with a profile, its word going below this directory."""
    if MACHINE != "x86_64":
        missing("the instructions are x86-64's")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", RUN, str(PROJECT), str(place)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.parametrize("below", ["attr/apparmor", "attr"])
def test_the_word_is_written_right_before_the_program(tmp_path: Path, below: str) -> None:
    """In the newer place or the older one; the program has nothing of it but its name in the kernel."""
    folder = tmp_path / "42" / below
    folder.mkdir(parents=True)
    (folder / "exec").write_text("")
    (tmp_path / "self").symlink_to("42")
    shown = through(tmp_path)
    assert (folder / "exec").read_text() == "exec some profile"
    descriptors, _, outcome = shown.partition("told")
    assert outcome == " 0 status 7\n"
    assert {"0", "1", "2"} <= set(descriptors.split()) <= {"0", "1", "2", "3"}


@pytest.mark.parametrize(("make", "errno"), [("nothing", 2), ("directory", 21)])
def test_where_it_cannot_be_written_there_is_no_program(tmp_path: Path, make: str, errno: int) -> None:
    folder = tmp_path / "self" / "attr" / "apparmor"
    folder.mkdir(parents=True)
    if make == "directory":
        (folder / "exec").mkdir()
        (folder.parent / "exec").mkdir()
    assert through(tmp_path) == f"told {-apparmor.FAILED - errno} status 126\n"
    place = apparmor.Place("x")
    os.close(place.fd)
    assert "apparmor failed to apply profile" in str(apparmor.failed(errno))
