"""Which streams are attached, by what keys one leaves, and what is said of it: docker and minidock side by side."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Engine
from tests.integration.tool import Terminal, Tool, command, wait_until

pytestmark = pytest.mark.root
QUIET = ("--network", "none", "busybox:test")
TALK = "cat; echo out; echo err >&2; exit 7"
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


class Side:
    """docker or minidock, by the words that start it."""

    def __init__(self, tool: Tool, argv: Callable[..., list[str]]) -> None:
        self.tool = tool
        self.argv = argv

    def __call__(self, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """Run to the end: exit code, output and message, with what is different by chance cut away."""
        done = subprocess.run(
            self.argv(*words), input=stdin, capture_output=True, timeout=60, env=self.tool.environment, check=False
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        line = err.split("\n")[0]
        for prefix in ("minidock: ", "docker: ", "Error response from daemon: "):
            line = line.removeprefix(prefix)
        return done.returncode, re.sub("[0-9a-f]{64}", "ID", out), re.sub("[0-9a-f]{64}", "ID", line.rstrip("."))

    def terminal(self, *words: str) -> Terminal:
        """Start on a terminal."""
        return Terminal(self.tool, argv=self.argv(*words))

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start and leave running."""
        return subprocess.Popen(self.argv(*words), env=self.tool.environment, **options)

    def status(self, name: str) -> str:
        """The container's state, nothing while it is not there."""
        return self("inspect", "-f", "{{.State.Status}}", name)[1].strip()


@pytest.fixture(scope="module")
def sides(dockerd: Engine, session_scratch: Path, busybox_archive: Path) -> Iterator[tuple[Side, Side]]:
    """minidock and docker, each with busybox:test."""
    tool = Tool(session_scratch / "streams-root", busybox_archive)
    dockerd.docker("load", "-i", str(busybox_archive))
    host = f"unix://{dockerd.socket}"
    yield Side(tool, command), Side(tool, lambda *words: [*dockerd.client(), "-H", host, *words])
    tool.close()


@pytest.fixture
def both(sides: tuple[Side, Side]) -> Iterator[tuple[Side, Side]]:
    """Both, without the container `streams` afterwards."""
    yield sides
    for side in sides:
        side("rm", "-f", "-v", "streams")


@pytest.mark.parametrize(
    "words",
    [
        ["-i"],
        ["-a", "stdout"],
        ["-a", "STDERR"],
        ["-a", "stdout", "-a", "stderr"],
        ["-i", "-a", "stdout"],
        ["-i", "-a", "stderr"],
        ["-a", "stdin", "-a", "stdout", "-i"],
        ["-a", "nothing"],
        ["-d", "-a", "stdin"],
        ["--sig-proxy=false", "-i"],
        ["-t", "-i"],
    ],
)
def test_what_is_attached(both: tuple[Side, Side], words: list[str]) -> None:
    ours, theirs = (side("run", "--name", "streams", *words, *QUIET, "sh", "-c", TALK, stdin=b"in\n") for side in both)
    assert ours == theirs
    if all(side.status("streams") for side in both):
        ours, theirs = (side("inspect", "-f", FACTS, "streams") for side in both)
        assert ours == theirs


FACTS = "{{.Config.AttachStdin}} {{.Config.AttachStdout}} {{.Config.AttachStderr}} {{.Config.StdinOnce}}"


def test_input_alone_ends_with_the_input(both: tuple[Side, Side]) -> None:
    results = []
    for side in both:
        results.append(side("run", "--name", "streams", "-i", "-a", "stdin", *QUIET, "sh", "-c", TALK, stdin=b"in\n"))
        assert side("wait", "streams") == (0, "7\n", "")
        results.append(side("logs", "streams"))
        results.append(side("inspect", "-f", FACTS, "streams"))
    assert results[:3] == results[3:]
    assert results[0] == (0, "ID\n", "")


@pytest.mark.parametrize("words", ["-a", "-i", "-ai"])
def test_start_attached(both: tuple[Side, Side], words: str) -> None:
    for side in both:
        # Without an input given, a container that was made with one would wait for it.
        made = ["-i"] if "i" in words else []
        side("create", *made, "--name", "streams", *QUIET, "sh", "-c", TALK)
    ours, theirs = (side("start", words, "streams", stdin=b"again\n") for side in both)
    assert ours == theirs == (7, "again\nout\n" if "i" in words else "out\n", "err")


KEYS = ("--detach-keys", "a,ctrl-b")


@pytest.mark.parametrize("verb", ["run", "start", "attach", "exec"])
def test_leaving_by_keys(both: tuple[Side, Side], verb: str) -> None:
    told = []
    for side in both:
        if verb != "run":
            side("run", "-dit", "--name", "streams", *QUIET, "cat")
        lines = {
            "run": ["run", "-it", *KEYS, "--name", "streams", *QUIET, "cat"],
            "start": ["start", "-ai", *KEYS, "streams"],
            "attach": ["attach", *KEYS, "streams"],
            "exec": ["exec", "-it", *KEYS, "streams", "cat"],
        }
        terminal = side.terminal(*lines[verb])
        try:
            wait_until(lambda side=side: side.status("streams") == "running", "the container")
            terminal.type(b"one\r")
            terminal.expect(b"one\r\none\r\n")
            terminal.type(b"a\x02")
            told.append((terminal.wait(), b"read escape sequence" in terminal.seen))
            assert terminal.is_restored()
        finally:
            terminal.close()
        assert side.status("streams") == "running"
    assert told[0] == told[1]


def test_a_running_container_is_attached_to_by_start(both: tuple[Side, Side]) -> None:
    script = 'while read line; do echo "got $line"; done; exit 4'
    told = []
    for side in both:
        side("run", "-di", "--name", "streams", *QUIET, "sh", "-c", script)
        process = side.start("start", "-ai", "streams", **PIPES)
        assert process.stdin and process.stdout
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"got one\n"
        assert side("kill", "streams")[0] == 0
        out, err = process.communicate(timeout=30)
        told.append((process.returncode, out, err))
        side("rm", "-f", "streams")
    assert told[0] == told[1]


@pytest.mark.parametrize("proxy", ["true", "false"])
def test_signals_are_passed_on_or_not(both: tuple[Side, Side], proxy: str) -> None:
    script = "trap 'exit 9' TERM; echo ready; while true; do sleep 0.1; done"
    told = []
    for side in both:
        words = ("run", f"--sig-proxy={proxy}", "--name", "streams", *QUIET, "sh", "-c", script)
        process = side.start(*words, **PIPES)
        assert process.stdout and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        if proxy == "true":
            assert process.returncode == 9
        told.append(side.status("streams"))
    assert told == [{"true": "exited", "false": "running"}[proxy]] * 2


@pytest.mark.parametrize(
    "line",
    [
        "-d % true",
        "-d % nope",
        "-d -t % true",
        "-it % true",
        "-i % cat",
        "-e A=b -e HOME % sh -c :",
        "--env-file FILE % sh -c set",
        "--env-file /nope % true",
        "-w /data % pwd",
        "-w /new/place % pwd",
        "-w data % pwd",
        "-u 12:34 % id",
        "-u nobody-here % id",
        "% nope",
        "% /etc",
        "% false",
    ],
)
def test_exec(both: tuple[Side, Side], scratch: Path, line: str) -> None:
    (scratch / "env").write_text("FROM=file\n")
    words = [{"%": "streams", "FILE": str(scratch / "env")}.get(word, word) for word in line.split()]
    for side in both:
        side("run", "-d", "--name", "streams", *QUIET, "sleep", "600")
    ours, theirs = (side("exec", *words, stdin=b"typed\n") for side in both)
    if "nope" in words and words[0] != "--env-file":
        # 20.10 mistakes it for what cannot be executed, 126, and newer engines do not
        assert (ours[0], theirs[0]) in ((127, 126), (127, 127), (1, 1)), (ours, theirs)
        return
    if ours[0] == 126:
        # The runtime's own words, which docker has on its standard output
        assert theirs[0] == 126
        return
    if words[-1] == "set":
        assert "FROM='file'" in ours[1] and "FROM='file'" in theirs[1]
        return
    assert ours == theirs


def test_details_of_logs(both: tuple[Side, Side]) -> None:
    words = ("--log-opt", "labels=a", "--log-opt", "env=WHO", "-l", "a=1 2", "-e", "WHO=me&you/~*")
    for side in both:
        side("run", "--name", "streams", *words, *QUIET, "sh", "-c", "echo one; echo two >&2")
    ours, theirs = (side("logs", "--details", "streams") for side in both)
    assert ours == theirs and "WHO=" in ours[1]
