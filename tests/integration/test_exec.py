"""minidock exec: the command, its streams and its codes."""

from __future__ import annotations

import os
import signal

import pytest

from tests.integration.tool import Tool, wait_until

BOX = "busybox:test"


@pytest.fixture
def box(tool: Tool) -> Tool:
    """A tool whose container `box` runs."""
    tool.good("run", "-d", "--name", "box", "-e", "A=image", "-w", "/data", "--hostname", "inside", BOX, "sleep", "100")
    return tool


def test_streams_and_exit_code(box: Tool) -> None:
    done = box("exec", "box", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


@pytest.mark.parametrize(("words", "code"), [(["nosuch"], 127), (["/etc"], 126), (["sh", "-c", "kill -9 $$"], 137)])
def test_codes_of_commands_that_fail(box: Tool, words: list[str], code: int) -> None:
    assert box("exec", "box", *words).returncode == code


def test_it_sees_what_the_container_is(box: Tool) -> None:
    out = box.good("exec", "-e", "B=2", "box", "sh", "-c", "echo $A $B; pwd; hostname; cat /proc/1/comm")
    assert out.splitlines() == ["image 2", "/data", "inside", "sleep"]
    out = box.good("exec", "-u", "alice", "-w", "/home/alice", "box", "sh", "-c", "id -un; pwd; echo $HOME")
    assert out.splitlines() == ["alice", "/home/alice", "/home/alice"]


def test_capabilities_and_privileged(box: Tool) -> None:
    plain = box.good("exec", "box", "grep", "CapEff", "/proc/self/status").split()[1]
    more = box.good("exec", "--privileged", "box", "grep", "CapEff", "/proc/self/status").split()[1]
    assert plain == "00000000a80425fb"
    assert int(more, 16) & 1 << 21


def test_input_and_no_input(box: Tool) -> None:
    assert box("exec", "-i", "box", "cat", input="through\n").stdout == "through\n"
    assert box("exec", "box", "cat", input="not this\n").stdout == ""


def test_detached(box: Tool) -> None:
    assert box.good("exec", "-d", "box", "sh", "-c", "echo done > /data/mark; sleep 50") == ""
    wait_until(lambda: box("exec", "box", "cat", "/data/mark").stdout == "done\n", "the detached command")
    assert "sleep 50" in box.good("exec", "box", "ps")


def test_no_descriptor_and_no_interpreter_is_open_to_the_container(box: Tool) -> None:
    read_end, write_end = os.pipe()
    out = box.good("exec", "box", "sh", "-c", "ls /proc/self/fd; readlink /proc/self/exe", pass_fds=(write_end,))
    os.close(read_end)
    os.close(write_end)
    # ls itself opens the directory as 3
    assert out.split() == ["0", "1", "2", "3", "/bin/busybox"]


def test_signals_are_passed_on(box: Tool) -> None:
    process = box.start("exec", "box", "sh", "-c", "trap 'exit 44' TERM; touch /data/on; while :; do sleep 0.05; done")
    wait_until(lambda: box("exec", "box", "cat", "/data/on").returncode == 0, "the command to run")
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 44


def test_it_ends_with_the_container(box: Tool) -> None:
    process = box.start("exec", "box", "sleep", "90")
    wait_until(lambda: "sleep 90" in box.good("exec", "box", "ps"), "the command to run")
    box.good("kill", "box")
    assert process.wait(15) == 137


@pytest.mark.parametrize("words", [["exec", "box", "true"], ["kill", "box"]])
def test_a_stopped_container_is_refused(tool: Tool, words: list[str]) -> None:
    tool.good("create", "--name", "box", BOX, "true")
    done = tool(*words)
    assert done.returncode != 0
    assert "is not running" in done.stderr
    assert len(done.stderr.splitlines()) == 1
