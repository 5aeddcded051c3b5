"""attach: the streams and the terminal of a container that runs already."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from minidock.errors import UsageError
from minidock.runtime.tty import DetachKeys, parse_detach_keys
from tests.integration.tool import Terminal, Tool, wait_until

pytestmark = pytest.mark.root
QUIET = ("--network", "none", "busybox:test")
ECHO = 'while read line; do echo "out $line"; echo "err $line" >&2; done; exit 4'
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def attachments(tool: Tool, name: str) -> int:
    """How many are attached: each has two pipes and its outputs in the monitor."""
    return len(os.listdir(f"/proc/{tool.record(name)['MonitorPid']}/fd"))


@pytest.fixture
def waiting(tool: Tool) -> Iterator[Tool]:
    """A container cc that answers each line on its input."""
    tool.good("run", "-d", "-i", "--name", "cc", *QUIET, "sh", "-c", ECHO)
    yield tool
    tool("rm", "-f", "cc")


def attach(tool: Tool, *words: str) -> subprocess.Popen[bytes]:
    """An attached command, once the monitor has taken it."""
    before = attachments(tool, "cc")
    process = tool.start("attach", *words, "cc", **PIPES)
    # Two pipes and two outputs; before that the monitor may only just have answered.
    wait_until(lambda: attachments(tool, "cc") >= before + 4, "the attachment")
    return process


def test_input_and_both_outputs_go_through_and_several_may_listen(waiting: Tool) -> None:
    writer, reader = attach(waiting), attach(waiting, "--no-stdin")
    assert writer.stdin and reader.stdout and writer.stdout and reader.stderr
    writer.stdin.write(b"one\n")
    writer.stdin.flush()
    assert writer.stdout.readline() == reader.stdout.readline() == b"out one\n"
    assert reader.stderr.readline() == b"err one\n"
    os.kill(waiting.inspect("cc")["State"]["Pid"], signal.SIGKILL)
    for process in (writer, reader):
        process.communicate(timeout=15)
        assert process.returncode == 137
    assert waiting.good("logs", "cc").startswith("out one")


def test_a_killed_attacher_leaves_the_container_and_nothing_in_its_monitor(waiting: Tool) -> None:
    before = attachments(waiting, "cc")
    for _ in range(3):
        process = attach(waiting)
        process.kill()
        process.communicate()
    wait_until(lambda: attachments(waiting, "cc") == before, "the monitor's descriptors as they were")
    assert waiting.status("cc") == "running"
    assert not [name for name in os.listdir(waiting.directory("cc")) if name.startswith("attach-")]


def test_a_stopped_reader_holds_only_its_container_back(waiting: Tool) -> None:
    process = attach(waiting)
    process.send_signal(signal.SIGSTOP)
    try:
        waiting.good("kill", "cc")
        assert waiting.status("cc") == "exited"
    finally:
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=15)
    assert process.returncode == 137


def test_signals_are_passed_on_unless_told_not_to(tool: Tool) -> None:
    script = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    for words, expected in (((), 9), (("--sig-proxy=false",), -signal.SIGTERM)):
        tool.good("run", "-d", "--name", "cc", *QUIET, "sh", "-c", script)
        wait_until(lambda: tool.good("logs", "cc") == "ready", "the trap")
        process = attach(tool, *words)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=15)
        assert process.returncode == expected
        assert tool.status("cc") == ("exited" if not words else "running")
        tool.good("rm", "-f", "cc")


def test_a_terminal_is_attached_and_left_by_its_keys(tool: Tool) -> None:
    tool.good("run", "-d", "-it", "--name", "cc", *QUIET, "sh")
    for keys, words in ((b"\x10\x11", ()), (b"\x01z", ("--detach-keys", "ctrl-a,z"))):
        terminal = Terminal(tool, "attach", *words, "cc", rows=31, columns=97)
        try:
            wait_until(lambda: not terminal.is_restored(), "the raw terminal")  # noqa: B023
            terminal.type(b"echo $((40+2)); stty size\r")
            terminal.expect(b"42\r\n")
            terminal.expect(b"31 97")
            terminal.type(keys)
            assert terminal.wait() == 1
            assert b"read escape sequence" in terminal.seen
            assert terminal.is_restored()
        finally:
            terminal.close()
        assert tool.status("cc") == "running"
    tool.good("rm", "-f", "cc")


def test_who_cannot_be_attached_to(tool: Tool) -> None:
    tool.good("create", "--name", "cc", *QUIET, "true")
    done = tool("attach", "cc")
    assert (done.returncode, done.stderr) == (1, "minidock: You cannot attach to a stopped container, start it first\n")
    assert tool("attach", "nobody").returncode == 1
    assert tool("attach", "--detach-keys", "ctrl-1", "cc").returncode != 0


def test_detach_keys_are_read_as_docker_reads_them() -> None:
    assert parse_detach_keys("") == b"\x10\x11"
    assert parse_detach_keys("a,ctrl-b,ctrl-@") == b"a\x02\x00"
    for text in ("ctrl-", "ab", "ctrl-1", "a,,b"):
        with pytest.raises(UsageError):
            parse_detach_keys(text)
    keys = DetachKeys(b"aab")
    assert keys.filter(b"xaxa") == b"xax"
    assert keys.filter(b"a") == b""
    assert keys.filter(b"b rest") == b""
    assert keys.detached
