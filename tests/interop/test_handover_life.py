"""The commands around a container's life and its surroundings, asked of a root that the other engine has written.

Labels of volumes are no part of it: docker keeps them in a database of its own, `volumes/metadata.db`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Engine
from tests.integration.tool import Tool
from tests.interop.engines import NewEngine, Release
from tests.interop.test_handover_to_docker import BOX

pytestmark = pytest.mark.parametrize("direction", ["to_docker", "from_docker"])
# Answers what it is sent, so that an attached client sees the end of it.
ECHO = "read line; echo got $line; exit 5"
Ask = Callable[..., str]
Run = Callable[..., subprocess.CompletedProcess[str]]


class Both:
    """One root and both programs. Shape: run: the one that is asked, of a root that the other wrote"""

    def __init__(self, engine: Engine, run: Run) -> None:
        self.engine = engine
        self.run = run

    def asked(self, *words: str) -> str:
        """What is answered; must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout.strip()


def write(ask: Ask, base: Path) -> None:
    """A volume, containers that stopped, and images, by either program."""
    ask("volume", "create", "named")
    ask("volume", "create", "spare")
    words = ("--network", "none", "-v", "named:/v", "-v", "/anonymous", BOX)
    ask("run", "--name", "box", *words, "sh", "-c", "echo kept >/v/file; echo mine >/mine; exec true")
    ask("create", "--name", "sleeper", *words, "sleep", "1000")
    ask("create", "-i", "--name", "talker", "--network", "none", BOX, "sh", "-c", ECHO)
    ask("create", "--name", "useless", "--network", "none", BOX, "true")
    (base / "from-host").write_text("host\n")


@pytest.fixture(scope="module")
def to_docker(release: Release, new_engine_of: NewEngine, busybox_archive: Path) -> Iterator[Both]:
    engine = new_engine_of(release)
    engine.base.mkdir(exist_ok=True)
    write(Tool(engine.root, busybox_archive).good, engine.base)
    engine.start()
    yield Both(engine, lambda *words, **options: engine.docker(*words, check=False, **options))
    engine.docker("rm", "-f", "-v", "box", "sleeper", "talker", check=False)
    engine.stop()


@pytest.fixture(scope="module")
def from_docker(release: Release, new_engine_of: NewEngine, busybox_archive: Path) -> Iterator[Both]:
    engine = new_engine_of(release)
    engine.start()
    engine.docker("load", "-i", busybox_archive)
    write(lambda *words: engine.docker(*words).stdout, engine.base)
    engine.stop()
    tool = Tool(engine.root, busybox_archive)
    yield Both(engine, tool)
    tool("rm", "-f", "-v", "box", "sleeper", "talker")


@pytest.fixture
def both(release: Release, direction: str, request: pytest.FixtureRequest) -> Both:
    found: Both = request.getfixturevalue(direction)
    return found


def test_cp(both: Both, scratch: Path) -> None:
    both.asked("cp", "box:/mine", str(scratch / "out"))
    assert (scratch / "out").read_text() == "mine\n"
    both.asked("cp", str(both.engine.base / "from-host"), "box:/data/in")
    both.asked("cp", "box:/data/in", str(scratch / "back"))
    assert (scratch / "back").read_text() == "host\n"
    assert "A /data/in" in both.asked("diff", "box").splitlines()
    # What is in a volume is reached as the container would see it.
    both.asked("cp", "sleeper:/v/file", str(scratch / "volume"))
    assert (scratch / "volume").read_text() == "kept\n"


def test_pause_top_stats_update_and_port(both: Both) -> None:
    both.asked("start", "sleeper")
    try:
        both.asked("pause", "sleeper")
        assert both.asked("inspect", "-f", "{{.State.Status}}", "sleeper") == "paused"
        both.asked("unpause", "sleeper")
        assert both.asked("inspect", "-f", "{{.State.Status}}", "sleeper") == "running"
        assert [line.split()[-2:] for line in both.asked("top", "sleeper").splitlines()][1:] == [["sleep", "1000"]]
        both.asked("update", "-m", "60m", "--memory-swap", "-1", "sleeper")
        assert both.asked("inspect", "-f", "{{.HostConfig.Memory}}", "sleeper") == str(60 << 20)
        row = both.asked("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "sleeper")
        assert row == "sleeper 1"
        assert both.asked("port", "sleeper") == ""
        assert both.asked("exec", "sleeper", "cat", "/v/file") == "kept"
    finally:
        both.asked("stop", "-t", "0", "sleeper")


def test_attach(both: Both) -> None:
    both.asked("start", "talker")
    done = both.run("attach", "talker", input="word\n")
    assert (done.returncode, done.stdout) == (5, "got word\n")
    assert both.asked("logs", "talker") == "got word"


def test_volumes(both: Both) -> None:
    names = both.asked("volume", "ls", "-q").split()
    assert {"named", "spare"} <= set(names)
    (found,) = json.loads(both.asked("volume", "inspect", "named"))
    assert found["Driver"] == "local"
    assert found["Mountpoint"] == f"{both.engine.root}/volumes/named/_data"
    both.asked("volume", "create", "new")
    both.asked("volume", "rm", "new", "spare")
    assert "spare" not in both.asked("volume", "ls", "-q").split()
    both.asked("volume", "create", "useless")
    both.asked("volume", "prune", "-f")
    assert "named" in both.asked("volume", "ls", "-q").split()


def test_prune_and_df(both: Both) -> None:
    rows = both.asked("system", "df", "--format", "{{.Type}} {{.TotalCount}}").splitlines()
    assert "Images 1" in rows
    both.asked("tag", BOX, "unused:1")
    both.asked("start", "sleeper")
    try:
        both.asked("container", "prune", "-f")
        assert both.asked("ps", "-a", "--format", "{{.Names}}").split() == ["sleeper"]
        both.asked("image", "prune", "-f")
        both.asked("system", "prune", "-f")
        assert both.asked("exec", "sleeper", "cat", "/v/file") == "kept"
    finally:
        both.asked("rm", "-f", "-v", "sleeper")
    both.asked("image", "prune", "-a", "-f")
    assert both.asked("images", "-q") == ""
