"""Restart policies, health checks, names and attach: docker's words and ours, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Engine
from tests.integration.tool import Tool, wait_until

pytestmark = pytest.mark.root
QUIET = ("--network", "none", "busybox:test")
LIFE = ("--restart", "on-failure:1", "--log-opt", "max-size=10k", "--log-opt", "max-file=2", "--stop-timeout", "3")
HEALTH = ("--health-cmd", "echo fine", "--health-interval", "200ms", "--health-retries", "2")


class Pair:
    """The same command for both."""

    def __init__(self, tool: Tool, engine: Engine) -> None:
        self.tool = tool
        self.engine = engine

    def both(self, *words: str) -> tuple[tuple[int, str, str], tuple[int, str, str]]:
        """Exit code, output and message of minidock and of docker; the latter's without its prefixes."""
        ours = self.tool(*words)
        theirs = self.engine.docker(*words, check=False)
        message = theirs.stderr.strip().split("\n")[0]
        for prefix in ("Error response from daemon: ", "docker: "):
            message = message.replace(prefix, "")
        own = ours.stderr.strip().split("\n")[0].removeprefix("minidock: ")
        return (ours.returncode, ours.stdout, own), (theirs.returncode, theirs.stdout, message.rstrip("."))

    def inspect(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Both documents."""
        return self.tool.inspect(name), json.loads(self.engine.docker("inspect", name).stdout)[0]


@pytest.fixture
def pair(scratch: Path, dockerd: Engine, busybox_archive: Path) -> Any:
    """A fresh root of ours, and the session's engine with the same image."""
    tool = Tool(scratch / "root", busybox_archive)
    dockerd.docker("load", "-i", str(busybox_archive))
    yield Pair(tool, dockerd)
    names = dockerd.docker("ps", "-aq", "--filter", "name=lifeopt").stdout.split()
    if names:
        dockerd.docker("rm", "-f", *names)
    tool.close()


def test_what_inspect_says_of_restarts_and_health(pair: Pair) -> None:
    pair.both("run", "-d", "--name", "lifeopt1", *LIFE, *HEALTH, *QUIET, "sleep", "60")
    for tell in (pair.tool.inspect, lambda name: pair.inspect(name)[1]):
        wait_until(lambda tell=tell: tell("lifeopt1")["State"]["Health"]["Status"] == "healthy", "health")
    ours, theirs = pair.inspect("lifeopt1")
    for key in ("RestartPolicy", "LogConfig"):
        assert ours["HostConfig"][key] == theirs["HostConfig"][key]
    for key in ("Healthcheck", "StopTimeout"):
        assert ours["Config"][key] == theirs["Config"][key]
    assert list(ours["State"]) == list(theirs["State"])
    assert list(ours["State"]["Health"]) == list(theirs["State"]["Health"])
    last, their_last = ours["State"]["Health"]["Log"][-1], theirs["State"]["Health"]["Log"][-1]
    assert list(last) == list(their_last)
    assert (last["ExitCode"], last["Output"]) == (their_last["ExitCode"], their_last["Output"]) == (0, "fine\n")
    shown = ("ps", "--filter", "name=lifeopt1", "--format", "{{.Names}} {{.State}}")
    ours_shown, theirs_shown = pair.both(*shown)
    assert ours_shown[1] == theirs_shown[1]
    # Nobody asks it any more.
    for words, status in (("pause", "lifeopt1"), "paused"), (("stop", "-t", "0", "lifeopt1"), "exited"):
        pair.both(*words)
        for document in pair.inspect("lifeopt1"):
            assert (document["State"]["Status"], document["State"]["Health"]["Status"]) == (status, "unhealthy")
    assert [done[1] for done in pair.both(*shown[:-2], "-aq", "--filter", "health=healthy")] == ["", ""]


def test_retries_are_counted_alike(pair: Pair) -> None:
    pair.both("run", "-d", "--name", "lifeopt2", "--restart", "on-failure:2", *QUIET, "sh", "-c", "echo x; exit 6")
    wait_until(lambda: all(one["State"]["Status"] == "exited" for one in pair.inspect("lifeopt2")), "both ends")
    ours, theirs = pair.inspect("lifeopt2")
    assert ours["RestartCount"] == theirs["RestartCount"] == 2
    assert ours["State"]["ExitCode"] == theirs["State"]["ExitCode"] == 6
    assert pair.both("logs", "lifeopt2")[0][1] == pair.both("logs", "lifeopt2")[1][1] == "x\n" * 3


@pytest.mark.parametrize(
    "words",
    [
        ("rename", "lifeopt3", "lifeopt3"),
        ("rename", "lifeopt3", "-no"),
        ("attach", "lifeopt3"),
        ("create", "--restart", "sometimes", *QUIET, "true"),
        ("create", "--restart", "always:3", *QUIET, "true"),
        ("create", "--restart", "always", "--rm", *QUIET, "true"),
        ("create", "--no-healthcheck", "--health-cmd", "x", *QUIET, "true"),
        ("create", "--health-retries", "-1", *QUIET, "true"),
    ],
)
def test_refusals(pair: Pair, words: tuple[str, ...]) -> None:
    pair.both("create", "--name", "lifeopt3", *QUIET, "true")
    ours, theirs = pair.both(*words)
    assert ours[0] != 0 and theirs[0] != 0
    assert theirs[2] in ours[2] or ours[2] in theirs[2], (ours, theirs)


def test_what_disk_usage_tells_through_a_template(pair: Pair) -> None:
    pair.both("volume", "create", "--label", "of=lifeopt", "lifeopt4v")
    words = ("--name", "lifeopt4", "--label", "k=v", "-v", "lifeopt4v:/x")
    pair.both("create", *words, *QUIET, "sh", "-c", "echo a sentence of more than twenty letters")
    both = pair.both("system", "df", "-v", "--format", "{{json .}}")
    ours, theirs = (json.loads(done[1]) for done in both)
    assert sorted(ours) == sorted(theirs) and not both[0][1].endswith("\n")
    for kind, name, found, varies in (
        ("Images", "Repository", "busybox", {"Containers", "SharedSize", "UniqueSize"}),
        ("Containers", "Names", "lifeopt4", {"ID", "CreatedAt", "RunningFor", "Platform"}),
        ("Volumes", "Name", "lifeopt4v", {"Mountpoint", "Availability", "Group", "Status"}),
    ):
        own, other = ([row for row in rows if row[name] == found][0] for rows in (ours[kind], theirs[kind]))
        assert varies - {"Platform", "Availability", "Group", "Status"} <= own.keys()
        assert {key: own.get(key) for key in own if key not in varies} == {
            key: other[key] for key in other if key not in varies
        }
    template = '{{range .Volumes}}{{if eq .Name "lifeopt4v"}}{{.Links}} {{.Label "of"}}{{end}}{{end}}'
    assert [done[1] for done in pair.both("system", "df", "-v", "--format", template)] == ["1 lifeopt"] * 2
    listing = ("volume", "ls", "--filter", "name=lifeopt4v", "--format", 'table {{.Name}}\t{{.Label "of"}}')
    assert [done[1].split() for done in pair.both(*listing)] == ["VOLUME NAME of lifeopt4v lifeopt".split()] * 2
    pair.both("rm", "-v", "lifeopt4")
    pair.both("volume", "rm", "lifeopt4v")
