"""Options of run that few ask for: each has its effect, or is refused in one line that says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from minidock.errors import UsageError
from minidock.runtime.devices import device_rule
from tests.integration.tool import Tool

pytestmark = pytest.mark.root
QUIET = ("--network", "none", "busybox:test")


def test_a_device_rule_opens_what_is_closed(tool: Tool) -> None:
    make = "mknod /x c 1 2 && dd if=/x of=/dev/null bs=1 count=1 2>&1 | tail -n 1"
    closed = tool("run", "--rm", *QUIET, "sh", "-c", make)
    assert "not permitted" in closed.stdout
    words = ("--device-cgroup-rule", "c 1:2 r")
    opened = tool.good("run", "--name", "cc", *words, *QUIET, "sh", "-c", make)
    assert "not permitted" not in opened
    assert tool.inspect("cc")["HostConfig"]["DeviceCgroupRules"] == ["c 1:2 r"]


def test_device_rules() -> None:
    assert device_rule("c 1:3 rwm") == [("c", 1, 3, "rwm")]
    assert device_rule("a *:* m") == [("b", -1, -1, "m"), ("c", -1, -1, "m")]
    for text in ("", "c", "c 1 r", "c 1:2", "d 1:2 r", "c 1:2 x", "c 1:2 rwmr", "c -1:2 r", "c 1:2  r", "c 1:1e9 r"):
        with pytest.raises(UsageError, match="invalid device cgroup format"):
            device_rule(text)


def test_domain_name(tool: Tool) -> None:
    words = ("--hostname", "web", "--domainname", "example.org")
    seen = tool.good("run", "--name", "cc", *words, *QUIET, "cat", "/proc/sys/kernel/domainname", "/etc/hostname")
    assert seen.split() == ["example.org", "web"]
    assert tool.inspect("cc")["Config"]["Domainname"] == "example.org"


def test_the_image_must_be_of_the_platform(tool: Tool) -> None:
    tool.good("run", "--rm", "--platform", "linux/amd64", *QUIET, "true")
    refused = tool("run", "--rm", "--platform", "linux/arm64", *QUIET, "true")
    assert refused.returncode == 125
    assert "does not match the specified platform: wanted linux/arm64, actual: linux/amd64" in refused.stderr
    assert tool.good("ps", "-aq") == ""


def test_a_parent_group(tool: Tool) -> None:
    try:
        tool.good("run", "-d", "--name", "cc", "--cgroup-parent", "/life-tests/deep", *QUIET, "sleep", "1000")
        found = tool.inspect("cc")
        groups = Path(f"/proc/{found['State']['Pid']}/cgroup").read_text()
        assert f"/life-tests/deep/{found['Id']}" in groups
        assert found["HostConfig"]["CgroupParent"] == "/life-tests/deep"
        assert tool.good("top", "cc").count("sleep 1000") == 1
        tool.good("pause", "cc")
        tool.good("unpause", "cc")
        tool.good("rm", "-f", "cc")
    finally:
        for path in sorted(Path("/sys/fs/cgroup").glob("*/life-tests/**/"), key=lambda one: -len(one.parts)):
            path.rmdir()


def test_the_cgroup_namespace(tool: Tool) -> None:
    """Its own unless the host's is asked for; in the host's it sees where it is, and on v1 no more."""
    for mode, words in (("private", ()), ("private", ("--cgroupns", "private")), ("host", ("--cgroupns", "host"))):
        tool.good("run", "-d", "--name", "cc", *words, *QUIET, "sleep", "1000")
        found = tool.inspect("cc")
        assert found["HostConfig"]["CgroupnsMode"] == mode
        inside = tool.good("exec", "cc", "cat", "/proc/self/cgroup", "/proc/1/cgroup")
        assert (f"/minidock/{found['Id']}" in inside) == (mode == "host")
        outside = Path("/proc/self/ns/cgroup").readlink()
        assert (Path(f"/proc/{found['State']['Pid']}/ns/cgroup").readlink() == outside) == (mode == "host")
        # On v1 each hierarchy shows the container's own group; v2 has one, which shows all of it.
        if Path("/sys/fs/cgroup/pids").is_dir():
            shown = tool("exec", "cc", "ls", "-d", "/sys/fs/cgroup/pids/minidock", "/sys/fs/cgroup/pids/tasks").stdout
            assert shown == "/sys/fs/cgroup/pids/tasks\n"
        tool.good("rm", "-f", "cc")


@pytest.mark.parametrize(
    "line",
    [
        "--cgroup-parent ../up",
        "--cgroupns host --userns remap",
        "--cgroupns container:x",
        "--gpus all",
        "--link a:b",
        "--storage-opt size=1g",
        "--runtime kata",
        "--isolation process",
        "--volume-driver nfs",
        "--platform linux/",
        "--pull always",
        "--pull sometimes",
        "--restart always --rm",
        "--device-cgroup-rule x",
    ],
)
def test_refusals_are_one_line_and_leave_nothing(tool: Tool, line: str) -> None:
    done = tool("run", *line.split(), *QUIET, "true")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (125, "", 1), done.stderr
    assert tool.good("ps", "-aq") == ""
