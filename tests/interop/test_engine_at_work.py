"""A data root on which dockerd is at work, and in which minidock has never written anything."""

from __future__ import annotations

import os
from pathlib import Path

from tests.integration.tool import Tool
from tests.interop.engines import NewEngine, Release

BOX = "busybox:test"


def test_a_root_at_work_in_which_minidock_never_wrote_stays_so(
    release: Release, new_engine_of: NewEngine, busybox_archive: Path
) -> None:
    engine = new_engine_of(release)
    engine.start()
    try:
        engine.docker("load", "-i", busybox_archive)
        engine.docker("run", "-d", "--network", "none", "--name", "box", BOX, "sleep", "1000")
        engine.docker("create", "--network", "none", "--name", "still", BOX, "true")
        tool = Tool.on(engine.root)
        before = sorted(os.listdir(engine.root))
        for words in (("rm", "-f", "box"), ("run", BOX, "true"), ("load", "-i", busybox_archive), ("tag", BOX, "x")):
            refused = tool(*words)
            assert refused.returncode and " is running on the data root" in refused.stderr, refused.stderr
        for line in ("volume create vv", "commit still", "pause box", "update -m 9m box"):
            assert " is running on the data root" in tool(*line.split()).stderr, line
        assert tool.good("exec", "box", "cat", "/data/two") == "two"
        assert tool.good("cp", "still:/data/one", "-").startswith("one")
        assert sorted(os.listdir(engine.root)) == before
        assert engine.docker("ps", "-a", "--format", "{{.Names}} {{.State}}").stdout == "still created\nbox running\n"
        engine.docker("rm", "-f", "box", "still")
    finally:
        engine.stop()
