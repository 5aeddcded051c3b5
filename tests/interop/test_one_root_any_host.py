"""Both engines on one root in few commands, for hosts of other kinds: the test machine runs this under cgroup v2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from minidock.runtime import apparmor
from tests.conftest import Engine
from tests.integration.tool import Tool

BOX = "busybox:test"
WRITE = "echo out; echo new > /data/new; rm /data/one; mkdir /data/made; exit 3"


def test_there_and_back(new_engine: Callable[[], Engine], busybox_archive: Path) -> None:
    engine = new_engine()
    tool = Tool(engine.root, busybox_archive)
    assert tool("run", "--name", "ran", "--network", "none", BOX, "sh", "-c", WRITE).returncode == 3
    tool.good("create", "--name", "fresh", "--network", "none", BOX, "cat", "/data/two")
    tool.good("commit", "--engine", "20.10", "ran", "ours:1")

    engine.start()
    docker = engine.docker
    try:
        info = json.loads(docker("info", "--format", "{{json .}}").stdout)
        assert info["CgroupVersion"] == ("2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "1")
        assert sorted(docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()) == [BOX, "ours:1"]
        assert (
            docker("ps", "-a", "--format", "{{.Names}} {{.Status}}").stdout.splitlines()[0].startswith("fresh Created")
        )
        assert docker("start", "-a", "fresh").stdout == "two\n"
        assert docker("logs", "ran").stdout == "out\n"
        # In the order of one of Go's maps.
        assert sorted(docker("diff", "ran").stdout.splitlines()) == [
            "A /data/made",
            "A /data/new",
            "C /data",
            "D /data/one",
        ]
        docker("commit", "ran", "theirs:1")
        ours, theirs = (json.loads(docker("inspect", name).stdout)[0]["RootFS"] for name in ("ours:1", "theirs:1"))
        assert ours["Layers"] == theirs["Layers"]
        done = docker(
            "run", "--name", "by-docker", "--network", "none", "ours:1", "sh", "-c", "cat /data/new; rm /data/two"
        )
        assert done.stdout == "new\n"
        docker("rm", "fresh")
    finally:
        engine.stop()

    if apparmor.is_enabled():
        # The engine has loaded its profile, which stays.
        shown = tool.good("run", "--rm", "--network", "none", BOX, "cat", "/proc/self/attr/current")
        assert shown == "docker-default (enforce)"
    assert "by-docker" in tool.good("ps", "-a", "--format", "{{.Names}}").split()
    assert "D /data/two" in tool.good("diff", "by-docker").splitlines()
    tool.good("commit", "by-docker", "again:1")
    assert tool.good("run", "--rm", "--network", "none", "again:1", "ls", "/data").split() == ["deep", "made", "new"]
    assert tool.good("run", "--rm", "--network", "none", "theirs:1", "cat", "/data/new") == "new"
    tool.close()
