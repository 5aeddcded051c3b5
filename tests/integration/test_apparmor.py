"""A profile's way past a procfs that was tampered with, and a host without AppArmor."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from minidock.runtime import apparmor
from tests.integration.tool import Tool
from tests.unit.test_apparmor import through

BOX = "busybox:test"
EXDEV = 18


def test_what_is_mounted_over_the_place_gets_nothing(scratch: Path) -> None:
    """CVE-2019-16884, CVE-2025-52881: the word must not end where nobody reads it."""
    folder = scratch / "self/attr/apparmor"
    folder.mkdir(parents=True)
    for path in (folder / "exec", folder.parent / "exec", scratch / "false"):
        path.write_text("")
    subprocess.run(["mount", "--bind", scratch / "false", folder / "exec"], check=True)
    try:
        assert through(scratch) == f"told {-apparmor.FAILED - EXDEV} status 126\n"
        handle = os.open(scratch, os.O_PATH)
        with pytest.raises(OSError, match="apparmor failed to apply profile") as caught:
            apparmor.write_word(handle, b"exec", b"exec x")
        os.close(handle)
        assert caught.value.errno == EXDEV
    finally:
        subprocess.run(["umount", folder / "exec"], check=True)
    assert {path.read_text() for path in (folder / "exec", folder.parent / "exec", scratch / "false")} == {""}


def test_a_false_proc_is_noticed(scratch: Path) -> None:
    for below in ("", "/self"):
        (scratch / "proc").mkdir(exist_ok=True)
        if below:
            subprocess.run(["mount", "--bind", f"/proc{below}", scratch / "proc"], check=True)
        handle = os.open(scratch, os.O_PATH)
        try:
            with pytest.raises(Exception, match="is no procfs"):
                apparmor.open_proc(handle)
        finally:
            os.close(handle)
            if below:
                subprocess.run(["umount", scratch / "proc"], check=True)
    handle = os.open("/", os.O_PATH)
    os.close(apparmor.open_proc(handle))
    os.close(handle)


def test_docker_s_records_and_silence_on_a_host_without_it(tool: Tool) -> None:
    """With AppArmor in the kernel this test says what inspect shows of a started container; without, of a profile."""
    asked = ("--security-opt", "apparmor=mine")
    if apparmor.is_enabled():
        expected = apparmor.chosen_profile("", privileged=False)
        tool.good("run", "-d", "--name", "box", BOX, "sleep", "1000")
        assert tool.inspect("box")["AppArmorProfile"] == expected
        shown = tool.good("exec", "box", "cat", "/proc/self/attr/current")
        assert shown.startswith(expected or "unconfined")
        done = tool("run", "--rm", "--security-opt", "apparmor=no-such-profile", BOX, "true")
        assert (done.returncode != 0, "apparmor failed to apply profile" in done.stderr) == (True, True), done
        return
    tool.good("run", "-d", "--name", "box", *asked, BOX, "sleep", "1000")
    found = tool.inspect("box")
    assert (found["AppArmorProfile"], found["HostConfig"]["SecurityOpt"]) == ("mine", ["apparmor=mine"])
    assert tool.good("exec", "box", "echo", "runs") == "runs"
