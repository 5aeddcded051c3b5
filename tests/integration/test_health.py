"""Health checks: run by the container's monitor, shown by ps and inspect."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from minidock.runtime.health import go_duration
from tests.integration.tool import Tool, wait_until

pytestmark = pytest.mark.root
QUIET = ("--network", "none", "busybox:test")
QUICK = ("--health-interval", "100ms", "--health-timeout", "5s", "--health-retries", "2")


def health(tool: Tool, name: str = "cc") -> dict[str, Any]:
    found: dict[str, Any] = tool.inspect(name)["State"]["Health"]
    return found


def test_healthy_then_unhealthy_then_healthy_again(tool: Tool) -> None:
    check = "cat /state; test ! -e /bad"
    tool.good(
        "run", "-d", "--name", "cc", "--health-cmd", check, *QUICK, *QUIET, "sh", "-c", "echo w >/state; sleep 999"
    )
    wait_until(lambda: health(tool)["Status"] == "healthy", "a first answer")
    assert "(healthy)" in tool.good("ps", "--format", "{{.Status}}")
    assert tool.good("ps", "-q", "--filter", "health=healthy")
    assert not tool.good("ps", "-q", "--filter", "health=unhealthy")
    tool.good("exec", "cc", "touch", "/bad")
    wait_until(lambda: health(tool)["Status"] == "unhealthy", "failures in a row")
    found = health(tool)
    assert found["FailingStreak"] >= 2
    assert found["Log"][-1]["ExitCode"] == 1
    assert found["Log"][-1]["Output"] == "w\n"
    assert "(unhealthy)" in tool.good("ps", "--format", "{{.Status}}")
    tool.good("exec", "cc", "rm", "/bad")
    wait_until(lambda: health(tool)["Status"] == "healthy", "its recovery")
    assert health(tool)["FailingStreak"] == 0
    wait_until(lambda: len(health(tool)["Log"]) == 5, "the longest log")
    before = health(tool)["Log"][-1]["Start"]
    wait_until(lambda: health(tool)["Log"][-1]["Start"] != before, "another probe")
    assert len(health(tool)["Log"]) == 5
    tool.good("stop", "-t", "0", "cc")
    assert "healthy" not in tool.good("ps", "-a", "--format", "{{.Status}}")


def test_a_check_that_hangs_is_given_up_and_leaves_no_process(tool: Tool) -> None:
    words = ("--health-cmd", "echo x; exec sleep 987", "--health-interval", "100ms", "--health-timeout", "200ms")
    tool.good("run", "-d", "--name", "cc", *words, "--health-retries", "1", *QUIET, "sleep", "999")
    assert health(tool)["Status"] == "starting"
    wait_until(lambda: health(tool)["Status"] == "unhealthy", "the time-out")
    last = health(tool)["Log"][0]
    assert (last["ExitCode"], last["Output"]) == (-1, "Health check exceeded timeout (200ms)")
    monitor = tool.record("cc")["MonitorPid"]
    tool.good("rm", "-f", "cc")
    wait_until(lambda: not os.path.exists(f"/proc/{monitor}"), "the monitor's end")
    left = [pid for pid in os.listdir("/proc") if pid.isdigit() and b"sleep\x00987" in _command_line(pid)]
    assert not left


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_failures_of_the_start_period_do_not_count_and_long_output_is_cut(tool: Tool) -> None:
    words = ("--health-cmd", "head -c 5000 /dev/zero | tr '\\0' x; exit 3", "--health-start-period", "1h", *QUICK)
    tool.good("run", "-d", "--name", "cc", *words, *QUIET, "sleep", "999")
    wait_until(lambda: len(health(tool)["Log"]) >= 3, "three failures")
    found = health(tool)
    assert (found["Status"], found["FailingStreak"]) == ("starting", 0)
    assert found["Log"][0]["Output"] == "x" * 4096 + "..."
    assert "(health: starting)" in tool.good("ps", "--format", "{{.Status}}")


def test_the_images_check_runs_unless_it_is_turned_off(tool: Tool) -> None:
    tool.good("create", "--name", "base", *QUIET, "true")
    config = {"Test": ["CMD", "test", "-e", "/bin/sh"], "Interval": 100_000_000}
    check = 'HEALTHCHECK --interval=100ms CMD ["test", "-e", "/bin/sh"]'
    tool.good("commit", "-c", check, "-c", 'CMD ["sleep", "999"]', "base", "checked:1")
    tool.good("run", "-d", "--name", "cc", "--network", "none", "checked:1")
    wait_until(lambda: health(tool)["Status"] == "healthy", "the image's check")
    tool.good("run", "-d", "--name", "dd", "--no-healthcheck", "--network", "none", "checked:1")
    found = tool.inspect("dd")
    assert "Health" not in found["State"]
    assert found["Config"]["Healthcheck"] == {"Test": ["NONE"]}
    tool.good("create", "--name", "ee", "--health-retries", "7", "--network", "none", "checked:1")
    assert tool.inspect("ee")["Config"]["Healthcheck"] == {**config, "Retries": 7}


def test_a_killed_monitor_takes_the_probe_along(tool: Tool) -> None:
    words = ("--health-cmd", "exec sleep 986", "--health-interval", "50ms")
    tool.good("run", "-d", "--name", "cc", *words, *QUIET, "sleep", "999")

    def probes() -> list[str]:
        return [pid for pid in os.listdir("/proc") if pid.isdigit() and b"sleep\x00986" in _command_line(pid)]

    wait_until(probes, "a probe")
    os.kill(tool.record("cc")["MonitorPid"], 9)
    wait_until(lambda: not probes(), "the probe's end")
    wait_until(lambda: tool.status("cc") == "exited", "the container's end")


def test_words_that_are_refused(tool: Tool) -> None:
    for words, message in (
        (("--no-healthcheck", "--health-cmd", "x"), "--no-healthcheck conflicts with --health-* options"),
        (("--health-interval", "-1s"), "--health-interval cannot be negative"),
        (("--health-interval", "1us"), "Interval in Healthcheck cannot be less than 1ms"),
        (("--health-retries", "-1"), "--health-retries cannot be negative"),
        (("--health-timeout", "soon"), "invalid duration"),
    ):
        done = tool("create", *words, *QUIET, "true")
        assert done.returncode != 0
        assert message in done.stderr, done.stderr
    assert json.loads(tool.good("ps", "-a", "--format", "json") or "[]") == []


def test_spans_as_go_prints_them() -> None:
    spans = {200_000_000: "200ms", 1_500_000_000: "1.5s", 30_000_000_000: "30s", 60_000_000_000: "1m0s"}
    assert {span: go_duration(span) for span in spans} == spans
    assert go_duration(3_661_000_000_000) == "1h1m1s"
