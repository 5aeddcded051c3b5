"""--restart: the container's monitor starts its process again, until somebody ends it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from minidock.runtime.restarts import LONGEST_DELAY_MS, Restarts, parse_restart_policy
from tests.integration.tool import Tool, wait_until

pytestmark = pytest.mark.root
QUIET = ("--network", "none", "busybox:test")


def count(tool: Tool, name: str) -> int:
    return int(tool.inspect(name)["RestartCount"])


def test_delays_double_up_to_a_minute_and_start_anew_after_a_steady_run() -> None:
    restarts = Restarts()
    always = parse_restart_policy("always")
    delays = [restarts.next_delay_ms(always, 0, 1) for _ in range(13)]
    assert delays[:4] == [100, 200, 400, 800]
    assert delays[-2:] == [LONGEST_DELAY_MS] * 2
    assert restarts.next_delay_ms(always, 0, 10_000_000_000) == 100
    few = Restarts()
    policy = parse_restart_policy("on-failure:2")
    assert [few.next_delay_ms(policy, code, 1) for code in (1, 0, 1, 1)] == [100, None, 200, None]


def test_on_failure_ends_after_its_retries(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "few", "--restart", "on-failure:2", *QUIET, "sh", "-c", "echo again; exit 3")
    wait_until(lambda: tool.status("few") == "exited", "the last retry")
    found = tool.inspect("few")
    assert (found["RestartCount"], found["State"]["ExitCode"], found["State"]["Restarting"]) == (2, 3, False)
    assert found["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    assert tool.good("logs", "few") == "again\nagain\nagain"
    assert tool.groups_of(found["Id"]) == []
    tool.good("start", "few")
    wait_until(lambda: tool.status("few") == "exited", "the last retry after a start by hand")
    assert tool.good("logs", "few").count("again") == 6


def test_a_container_that_waits_to_restart_is_shown_so_and_can_be_ended(tool: Tool) -> None:
    for number, words in enumerate((("stop", "-t", "0"), ("kill",), ("rm", "-f"))):
        name = f"loop{number}"
        tool.good("run", "-d", "--name", name, "--restart", "always", *QUIET, "sh", "-c", "exit 1")
        wait_until(lambda name=name: count(tool, name) >= 4, "some restarts")
        state: dict[str, Any] = wait_until(
            lambda name=name: (found := tool.inspect(name)["State"])["Restarting"] and found,
            "the pause before a restart",
        )
        assert (state["Status"], state["Running"], state["Pid"], state["ExitCode"]) == ("restarting", True, 0, 1)
        shown = tool.good("ps", "--format", "{{.Names}} {{.Status}}")
        assert shown.startswith((f"{name} Restarting (1) ", f"{name} Up "))
        refused = tool("rm", name)
        assert refused.returncode == 1
        assert "You cannot remove a r" in refused.stderr
        monitor = tool.record(name)["MonitorPid"]
        tool.good(*words, name)
        wait_until(lambda monitor=monitor: not os.path.exists(f"/proc/{monitor}"), "the monitor's end")
        if words[0] == "rm":
            assert tool("inspect", name).returncode == 1
        else:
            assert tool.status(name) == "exited"
            assert not (tool.directory(name) / "minidock.stop").exists()


def test_stop_ends_a_running_container_for_good_and_a_crash_does_not(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "server", "--restart", "unless-stopped", *QUIET, "sleep", "1000")
    pid = tool.inspect("server")["State"]["Pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: tool.inspect("server")["State"]["Pid"] not in (0, pid), "another process")
    assert count(tool, "server") == 1
    tool.good("stop", "-t", "0", "server")
    found = tool.inspect("server")
    assert (found["State"]["Status"], found["State"]["ExitCode"], found["RestartCount"]) == ("exited", 137, 1)


def test_an_attached_run_ends_with_the_first_process(tool: Tool) -> None:
    done = tool("run", "--name", "first", "--restart", "always", *QUIET, "sh", "-c", "echo once; exit 7")
    assert (done.returncode, done.stdout) == (7, "once\n")
    wait_until(lambda: count(tool, "first") >= 1, "a restart after the starter has gone")
    tool.good("rm", "-f", "first")


def test_a_killed_monitor_leaves_a_container_that_is_down(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "orphan", "--restart", "always", *QUIET, "sh", "-c", "exit 5")
    wait_until(lambda: count(tool, "orphan") >= 4 and tool.status("orphan") == "restarting", "the pause")
    os.kill(tool.record("orphan")["MonitorPid"], signal.SIGKILL)
    wait_until(lambda: tool.status("orphan") == "exited", "the truth about it")
    assert tool.inspect("orphan")["State"]["ExitCode"] in (5, 137)
    tool.good("start", "orphan")
    tool.good("rm", "-f", "orphan")


def test_descriptors_of_the_monitor_do_not_grow(tool: Tool) -> None:
    script = "sleep 0.05; exit 1"
    tool.good("run", "-d", "-i", "--name", "steady", "--restart", "always", *QUIET, "sh", "-c", script)
    monitor = tool.record("steady")["MonitorPid"]
    before = len(os.listdir(f"/proc/{monitor}/fd"))
    wait_until(lambda: count(tool, "steady") >= 5 and tool.status("steady") == "restarting", "a later pause")
    # At the first look it may not have closed yet what belonged to the first process.
    assert len(os.listdir(f"/proc/{monitor}/fd")) <= before
    record = tool.directory("steady") / "minidock.state"

    def descriptors_in_a_pause(restarts: int) -> int:
        """How many there are while the monitor waits between two runs, 0 when it does not."""
        if count(tool, "steady") < restarts:
            return 0
        before = record.read_text()
        waits = "poll" in Path(f"/proc/{monitor}/wchan").read_text()
        found = len(os.listdir(f"/proc/{monitor}/fd"))
        return found if waits and '"Status":"restarting"' in before and record.read_text() == before else 0

    before = wait_until(lambda: descriptors_in_a_pause(1), "a pause", timeout_s=60)
    assert wait_until(lambda: descriptors_in_a_pause(5), "a later pause", timeout_s=60) == before
    tool.good("rm", "-f", "steady")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--restart", "sometimes"), "invalid restart policy 'sometimes'"),
        (("--restart", "on-failure:x"), "maximum retry count must be an integer"),
        (("--restart", "always:3"), "maximum retry count cannot be used with restart policy 'always'"),
        (("--restart", "always", "--rm"), "Conflicting options: --restart and --rm"),
    ],
)
def test_bad_policies(tool: Tool, words: tuple[str, ...], message: str) -> None:
    done = tool("run", *words, *QUIET, "true")
    assert done.returncode == 125
    assert message in done.stderr


def test_what_other_commands_say_while_it_waits_to_restart(tool: Tool) -> None:
    script = "n=$(cat /n 2>/dev/null); n=$((n+1)); echo $n >/n; exit $n"
    tool.good("run", "-d", "--name", "loop", "--restart", "always", *QUIET, "sh", "-c", script)

    def meanwhile(*words: str) -> subprocess.CompletedProcess[str] | None:
        """The command's answer, if the container waited to restart all the time."""
        before = tool.inspect("loop")
        done = tool(*words)
        after = tool.inspect("loop")
        still = before["State"]["Restarting"] and after["State"]["Restarting"]
        if not still or before["RestartCount"] != after["RestartCount"]:
            tool("unpause", "loop")
            return None
        return done

    for line in ("pause loop", "top loop"):
        done = wait_until(lambda line=line: meanwhile(*line.split()), "a command within the pause before a restart", 60)
        assert (done.returncode, "is restarting, wait until the container is running" in done.stderr) == (1, True)
    for line in ("update --cpu-shares 300 loop", "commit loop of:loop"):
        tool.good(*line.split())
    assert tool.good("cp", "loop:/n", "-").startswith("n\0")
    tool.good("rename", "loop", "loop2")
    last = wait_until(lambda: (found := tool.inspect("loop2")["State"])["Restarting"] and found["ExitCode"], "a pause")
    # As docker's, it waits for the next end, not for the last one.
    assert int(tool.good("wait", "loop2")) > last
    tool.good("rm", "-f", "loop2")
