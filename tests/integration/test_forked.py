"""A forked command is what a started one is: on the test machine the one stands for the other."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.forked import STARTED_BY, Forks
from tests.integration.tool import Tool

BOX = ("--network", "none", "busybox:test")


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    made = Forks()
    yield made
    made.end()


def both(forks: Forks, *words: str, **options: Any) -> tuple[int, str, str]:
    """What a command says, forked and started."""
    assert forks.takes(options)
    forked = forks.run([*STARTED_BY, *words], list(words), **options)
    started = subprocess.run([*STARTED_BY, *words], capture_output=True, text=True, **options)
    assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)
    return forked.returncode, forked.stdout, forked.stderr


def test_its_words_status_streams_and_surroundings(forks: Forks, tool: Tool, scratch: Path) -> None:
    environment = tool.environment
    assert both(forks, "images", "-q", env=environment)[0] == 0
    assert both(forks, "no-such-command", env=environment)[0] == 1
    assert both(forks, "run", "--rm", *BOX, "sh", "-c", "echo out; echo err >&2; exit 7", env=environment) == (
        7,
        "out\n",
        "err\n",
    )
    text = "line\n" * 100_000
    assert both(forks, "run", "-i", "--rm", *BOX, "cat", input=text, env=environment) == (0, text, "")
    assert both(forks, "run", "-i", "--rm", *BOX, "cat", stdin=subprocess.DEVNULL, env=environment) == (0, "", "")
    # What nobody reads is no error, and no death.
    assert both(forks, "run", "-i", "--rm", *BOX, "true", input=text, env=environment) == (0, "", "")
    (scratch / "here").mkdir()
    assert both(forks, "save", "-o", "saved.tar", "busybox:test", env=environment, cwd=scratch / "here")[0] == 0
    assert os.listdir(scratch / "here") == ["saved.tar"]
    before = os.umask(0o077)
    try:
        words = ("export", "-o", str(scratch / "umask.tar"), "box")
        tool.good("create", "--name", "box", *BOX, "true")
        forks.run(words, list(words), env=environment)
        assert (scratch / "umask.tar").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_one_that_takes_too_long_is_ended(forks: Forks, tool: Tool) -> None:
    words = ["run", "--rm", "--name", "box", *BOX, "sleep", "1000"]
    with pytest.raises(subprocess.TimeoutExpired):
        forks.run(words, words, env=tool.environment, timeout=1)
    tool("rm", "-f", "box")


def test_several_at_once(forks: Forks, tool: Tool) -> None:
    done = []

    def work(number: int) -> None:
        words = ["run", "--rm", *BOX, "sh", "-c", f"exit {number}"]
        done.append((number, forks.run(words, words, env=tool.environment).returncode))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [(number, number) for number in range(1, 5)]


def test_what_has_to_be_started(forks: Forks) -> None:
    assert not forks.takes({"stdout": 1}) and not forks.takes({"stdin": subprocess.PIPE})
    assert not forks.takes({"env": {**os.environ, "TZ": "Asia/Tokyo"}}) and not forks.takes({"preexec_fn": print})
    assert forks.takes({"env": dict(os.environ), "timeout": 5, "input": ""})
