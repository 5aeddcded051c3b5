"""Commands that are ended by a signal in the middle of their work."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests import builders
from tests.integration.tool import Tool, command, wait_until


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("words", [("pull-tar", "-"), ("load",), ("import", "-", "x:1")])
def test_a_command_that_is_ended_takes_back_what_it_began(tool: Tool, number: int, words: tuple[str, ...]) -> None:
    """In the middle of an archive that goes on coming: nothing is left for the next command to sweep."""
    before = builders.tree_listing(tool.root)
    stage = tool.root / "minidock/stage"
    with subprocess.Popen(
        command("--root", str(tool.root), *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(builders.tar_header(b"file", size=8 << 20) + bytes(4 << 20))
        process.stdin.flush()
        wait_until(lambda: list(stage.iterdir()), "the command to have begun")
        process.send_signal(number)
        said, complained = process.communicate(timeout=30)
    assert (process.returncode, said, complained) == (128 + number, b"", b"")
    assert builders.tree_listing(tool.root) == before


def test_an_ignored_signal_stays_ignored(tool: Tool, busybox_archive: Path) -> None:
    """As nohup has it."""
    words = command("--root", str(tool.root), "load", "-i", str(busybox_archive))
    script = "trap '' HUP; \"$@\" & wait_for=$!; kill -HUP $wait_for; wait $wait_for"
    done = subprocess.run(["sh", "-c", script, "sh", *words], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"Loaded image: busybox:test\n")
