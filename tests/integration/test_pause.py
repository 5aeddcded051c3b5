"""A container that its user paused, and what other commands do with it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.integration.tool import Tool, wait_until

BOX = "busybox:test"
COUNT = "i=0; while :; do i=$((i+1)); echo $i > /count; done"


def counter(tool: Tool, name: str) -> str:
    """What the container's program has written last, read from its layer."""
    upper = tool.inspect(name)["GraphDriver"]["Data"]["UpperDir"]
    return Path(upper, "count").read_text() if Path(upper, "count").exists() else ""


def start(tool: Tool, name: str = "box", *words: str) -> None:
    tool.good("run", "-d", "--name", name, *words, BOX, "sh", "-c", COUNT)
    wait_until(lambda: counter(tool, name), "the first number")


def test_pause_and_unpause(tool: Tool) -> None:
    start(tool)
    assert tool.good("pause", "box") == "box"
    state = tool.inspect("box")["State"]
    assert (state["Status"], state["Running"], state["Paused"]) == ("paused", True, True)
    assert tool.good("ps", "--format", "{{.Status}}").endswith("(Paused)")
    assert tool.good("ps", "-q", "--filter", "status=paused")
    before = counter(tool, "box")
    again = tool("pause", "box")
    assert (again.returncode, again.stderr.strip().endswith("is already paused")) == (1, True)
    refused = tool("exec", "box", "true")
    assert refused.returncode != 0
    assert "is paused, unpause the container before exec" in refused.stderr
    assert counter(tool, "box") == before
    assert tool.good("unpause", "box") == "box"
    assert tool.status("box") == "running"
    wait_until(lambda: counter(tool, "box") != before, "it goes on")
    again = tool("unpause", "box")
    assert (again.returncode, again.stderr.strip().endswith("is not paused")) == (1, True)


def test_what_is_not_running_cannot_be_paused(tool: Tool) -> None:
    tool.good("create", "--name", "box", BOX, "true")
    for verb, word in (("pause", "running"), ("unpause", "paused")):
        done = tool(verb, "box", "nosuch")
        assert done.returncode == 1
        assert f"is not {word}" in done.stderr
        assert "No such container: nosuch" in done.stderr


def test_stop_kill_and_rm_end_a_paused_container(tool: Tool) -> None:
    for number, words in enumerate((("stop", "-t", "5"), ("stop", "-t", "0"), ("kill",), ("rm", "-f"))):
        name = f"box{number}"
        start(tool, name)
        tool.good("pause", name)
        tool.good(*words, name)
        if words[0] != "rm":
            assert tool.inspect(name)["State"]["Status"] == "exited"
            tool.good("start", name)
            tool.good("rm", "-f", name)


def test_a_signal_that_is_survived_unpauses(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", BOX, "sh", "-c", "trap 'echo got' TERM; while :; do sleep 0.1; done")
    tool.good("pause", "box")
    tool.good("kill", "-s", "TERM", "box")
    wait_until(lambda: tool.good("logs", "box") == "got", "the signal arrives")
    assert tool.status("box") == "running"


def test_commit_leaves_a_paused_container_paused(tool: Tool) -> None:
    start(tool)
    tool.good("pause", "box")
    before = counter(tool, "box")
    tool.good("commit", "box", "made:1")
    assert tool.status("box") == "paused"
    assert counter(tool, "box") == before
    assert tool.good("run", "--rm", "made:1", "cat", "/count") == before.strip()


def test_killed_between_freezing_and_recording(tool: Tool) -> None:
    """The record still says running; unpause knows better."""
    from minidock.runtime.cgroup import Cgroup

    start(tool)
    Cgroup.open(tool.inspect("box")["Id"]).freeze()
    before = counter(tool, "box")
    assert tool.good("unpause", "box") == "box"
    wait_until(lambda: counter(tool, "box") != before, "it goes on")


def test_a_paused_container_whose_monitor_is_killed(tool: Tool) -> None:
    """The kernel's signal waits in the frozen process until something lets it go."""
    start(tool)
    tool.good("pause", "box")
    os.kill(tool.record("box")["MonitorPid"], signal.SIGKILL)
    tool("unpause", "box")
    wait_until(lambda: tool.status("box") == "exited", "its end")
