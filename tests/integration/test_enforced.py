"""Containers under AppArmor where the kernel enforces it: only the test machine's kernels do, beside systemd."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.runtime import apparmor
from tests.integration.tool import Tool, wait_until

BOX = ("--network", "none", "busybox:test")
SHOW = ("cat", "/proc/self/attr/current")
UNDER = f"{apparmor.DEFAULT} (enforce)"
# The substance of what docker's engine loads under this name. Source: moby profiles/apparmor/template.go
RULES = """
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (send,receive) peer={name},
  ptrace (trace,read,tracedby,readby) peer={name},
  deny mount,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


def _parser(action: str, profile: str) -> None:
    subprocess.run(["apparmor_parser", "--skip-cache", action], input=profile, text=True, check=True)


@pytest.fixture(scope="module", autouse=True)
def profile() -> Iterator[None]:
    """docker-default in the kernel, as an engine's start leaves it."""
    assert apparmor.is_enabled() and not apparmor.is_loaded(apparmor.DEFAULT)
    rules = RULES.format(name=apparmor.DEFAULT)
    _parser("--add", rules)
    yield
    _parser("--remove", rules)


def test_every_process_of_a_container_is_under_docker_default(tool: Tool) -> None:
    assert tool.good("run", "--rm", *BOX, *SHOW) == UNDER
    tool.good("run", "-d", "--name", "box", "--init", *BOX, "sleep", "1000")
    assert tool.inspect("box")["AppArmorProfile"] == apparmor.DEFAULT
    # init, its child, and the exec's own.
    found = tool.good("exec", "box", "sh", "-c", "cat /proc/[0-9]*/attr/current").splitlines()
    assert len(found) >= 3 and set(found) == {UNDER}, found
    assert tool.good("exec", "box", *SHOW) == UNDER
    assert tool.good("exec", "-u", "1000", "box", *SHOW) == UNDER
    # Signals come from outside of the profile.
    tool.good("stop", "-t", "60", "box")
    assert tool.inspect("box")["State"]["ExitCode"] == 143
    tool.good("start", "box")
    assert tool.good("exec", "box", *SHOW) == UNDER


def test_with_what_else_confines(tool: Tool) -> None:
    """One step before the program: after capabilities are gone, beside no-new-privileges, on a terminal."""
    for words in (
        ("--security-opt", "no-new-privileges"),
        ("--cap-drop", "ALL", "-u", "1000:1000"),
        ("--read-only",),
        ("-t",),
    ):
        assert tool.good("run", "--rm", *words, *BOX, *SHOW).strip() == UNDER, words


def test_who_is_not_under_it(tool: Tool) -> None:
    for words in (("--privileged",), ("--security-opt", "apparmor=unconfined")):
        assert tool.good("run", "--rm", *words, *BOX, *SHOW) == "unconfined", words


def test_what_it_denies_is_denied_whatever_else_allows_it(tool: Tool) -> None:
    mount = "mkdir /new; mount -t tmpfs none /new && echo mounted"
    # A line that only shows help; as root it is anybody's who may write there.
    trigger = "echo h >/proc/sysrq-trigger && echo written"
    asked = ("--security-opt", f"apparmor={apparmor.DEFAULT}")
    for script, done in ((mount, "mounted"), (trigger, "written")):
        assert tool.good("run", "--rm", "--privileged", *BOX, "sh", "-c", script) == done
        bound = tool("run", "--rm", "--privileged", *asked, *BOX, "sh", "-c", script)
        assert (bound.returncode != 0, bound.stdout, "ermission denied" in bound.stderr) == (True, "", True), bound
    tool.good("run", "-d", "--name", "box", "--cap-add", "SYS_ADMIN", *BOX, "sleep", "1000")
    joined = tool("exec", "box", "sh", "-c", mount)
    assert (joined.returncode != 0, joined.stdout) == (True, "")
    # Privileges of an exec take no profile away.
    assert tool.good("exec", "--privileged", "box", *SHOW) == UNDER


def test_a_profile_of_one_s_own(tool: Tool) -> None:
    rules = RULES.format(name="minidock-test").replace("  file,\n", "  file,\n  deny /data/two r,\n")
    _parser("--add", rules)
    try:
        words = ("--security-opt", "apparmor=minidock-test", *BOX)
        assert tool.good("run", "--rm", *words, *SHOW) == "minidock-test (enforce)"
        done = tool("run", "--rm", *words, "cat", "/data/one", "/data/two")
        assert (done.stdout, "Permission denied" in done.stderr) == ("one\n", True), done
    finally:
        _parser("--remove", rules)
    done = tool("run", "--rm", *words, "true")
    assert done.returncode == 125, done
    assert "apparmor failed to apply profile: write /proc/self/attr/exec" in done.stderr


def test_a_probe_and_a_restart_are_under_it(tool: Tool) -> None:
    health = ("--health-cmd", "cat /proc/self/attr/current", "--health-interval", "1s")
    tool.good("run", "-d", "--name", "box", *health, *BOX, "sleep", "1000")
    logged = wait_until(lambda: tool.inspect("box")["State"]["Health"]["Log"], "a probe's result", 60)
    assert logged[0]["Output"].strip() == UNDER


def test_info_tells_of_it(tool: Tool) -> None:
    assert "name=apparmor" in tool.good("info", "--format", "{{json .SecurityOptions}}")
    rules = RULES.format(name=apparmor.DEFAULT)
    _parser("--remove", rules)
    try:
        done = tool("info")
        assert f"AppArmor's profile {apparmor.DEFAULT} is not loaded" in done.stdout + done.stderr
        assert tool.good("run", "--rm", *BOX, *SHOW) == "unconfined"
    finally:
        _parser("--add", rules)


def test_the_kernel_s_files_are_where_they_are_looked_for() -> None:
    assert Path(apparmor.PROFILES).exists() and Path(apparmor.ENABLED).exists()
