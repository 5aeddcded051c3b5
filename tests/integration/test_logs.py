"""minidock logs against what the container wrote."""

from __future__ import annotations

import json
import subprocess

from tests.integration.tool import Tool, wait_until

BOX = "busybox:test"


def test_each_stream_in_its_place_and_over_two_starts(tool: Tool) -> None:
    tool("run", "--name", "box", BOX, "sh", "-c", "echo out; echo err >&2")
    tool.good("start", "-a", "box")
    done = tool("logs", "box")
    assert (done.stdout, done.stderr) == ("out\nout\n", "err\nerr\n")


def test_tail_since_until_timestamps(tool: Tool) -> None:
    tool("run", "--name", "box", BOX, "seq", "1", "20")
    assert tool.good("logs", "--tail", "3", "box") == "18\n19\n20"
    assert tool.good("logs", "--tail", "0", "box") == ""
    assert len(tool.good("logs", "--tail", "all", "box").splitlines()) == 20
    stamped = tool.good("logs", "-t", "--tail", "1", "box")
    moment, _, text = stamped.partition(" ")
    assert (text, len(moment), moment[-1]) == ("20", 30, "Z")
    assert tool.good("logs", "--since", "2030-01-01T00:00:00Z", "box") == ""
    assert tool.good("logs", "--until", "2020-01-01T00:00:00Z", "box") == ""
    assert len(tool.good("logs", "--since", "10m", "box").splitlines()) == 20


def test_follow_sees_new_lines_and_ends_with_the_container(tool: Tool) -> None:
    script = "echo first; while ! test -e /go; do sleep 0.05; done; echo second; printf third"
    tool.good("run", "-d", "--name", "box", BOX, "sh", "-c", script)
    with tool.start("logs", "-f", "box", stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"first\n"
        tool.good("exec", "box", "touch", "/go")
        assert follower.stdout.read() == b"second\nthird"
        assert follower.wait(15) == 0


def test_the_last_line_is_there_after_much_output(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", BOX, "sh", "-c", "seq 1 50000; echo the end")
    assert tool.good("wait", "box") == "0"
    lines = tool.good("logs", "box").splitlines()
    assert (len(lines), lines[-1]) == (50_001, "the end")


def test_a_long_line_is_whole_again(tool: Tool) -> None:
    tool("run", "--name", "box", BOX, "sh", "-c", "head -c 50000 /dev/zero | tr '\\0' x; echo")
    log = next(tool.directory("box").glob("*-json.log")).read_text()
    assert [len(json.loads(line)["log"]) for line in log.splitlines()] == [16384, 16384, 16384, 849]
    assert tool.good("logs", "box") == "x" * 50_000


def test_never_started_and_unknown(tool: Tool) -> None:
    tool.good("create", "--name", "box", BOX, "true")
    assert tool.good("logs", "box") == ""
    done = tool("logs", "nosuch")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No such container: nosuch" in done.stderr


def test_a_log_that_cannot_be_written_does_not_stop_the_container(tool: Tool) -> None:
    tool.good("create", "--name", "box", BOX, "sh", "-c", "echo still here")
    directory = tool.directory("box")
    # /dev/full stands in for a full disk; the log itself may not be a symlink, so it is bound over.
    log = directory / f"{directory.name}-json.log"
    log.touch()
    subprocess.run(["mount", "--bind", "/dev/full", str(log)], check=True)
    try:
        assert tool.good("start", "-a", "box") == "still here"
    finally:
        # The monitor may hold it open for a moment more.
        subprocess.run(["umount", "--lazy", str(log)], check=True)


def test_follow_stops_when_its_reader_goes(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", BOX, "sh", "-c", "while echo tick; do sleep 0.05; done")
    follower = tool.start("logs", "-f", "box", stdout=subprocess.PIPE)
    assert follower.stdout is not None
    assert follower.stdout.readline() == b"tick\n"
    follower.stdout.close()
    wait_until(lambda: follower.poll() is not None, "the follower's end")
    tool.good("kill", "box")
