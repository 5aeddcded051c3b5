"""Volumes with options and labels: docker's records read, ours accepted, and the same words refused alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Engine
from tests.integration.tool import Tool

QUIET = ("--network", "none", "busybox:test")
CREATES = (
    "-o type=tmpfs -o device=tmpfs -o o=size=1m,uid=5 --label a=1 one",
    "-o type=none -o device=HERE -o o=bind two",
    "--label x=y three",
    "-o type=tmpfs bad",
    "-o other=1 bad",
    "-o o=bind bad",
    "-d other bad",
)
WISH = "type=volume,source=five,target=/v,volume-opt=type=none,volume-opt=device=HERE,volume-opt=o=bind,volume-nocopy"


def test_both_ways(new_engine: Callable[[], Engine], scratch: Path, busybox_archive: Path) -> None:
    (scratch / "here").mkdir()
    (scratch / "here/file").write_text("there\n")
    engine = new_engine()
    engine.start()
    engine.docker("load", "-i", busybox_archive)
    tool = Tool(scratch / "root", busybox_archive)

    def both(*words: str) -> tuple[tuple[int, str, str], tuple[int, str, str]]:
        line = [word.replace("HERE", str(scratch / "here")) for word in words]
        theirs, ours = engine.docker(*line, check=False), tool(*line)
        message = theirs.stderr.strip().removeprefix("Error response from daemon: ")
        own = ours.stderr.strip().removeprefix("minidock: ")
        return (ours.returncode, ours.stdout, own), (theirs.returncode, theirs.stdout, message)

    for words in CREATES:
        ours, theirs = both("volume", "create", *words.split())
        assert ours[:2] == theirs[:2] and theirs[2].split("\n")[0] in ours[2], words
    assert both("create", "--name", "cc", "--mount", WISH, *QUIET, "cat", "/v/file")[0][0] == 0
    for name in ("one", "two", "five"):
        path = f"volumes/{name}/opts.json"
        assert (tool.root / path).read_bytes() == (engine.root / path).read_bytes()
    ours, theirs = (json.loads(text[1])[0] for text in both("inspect", "cc"))
    assert ours["HostConfig"]["Mounts"] == theirs["HostConfig"]["Mounts"]
    for key in ("Labels", "Options"):
        template = "{{range $k, $v := ." + key + "}}{{$k}}={{$v}} {{end}}"
        for name in ("one", "two", "three", "five"):
            ours, theirs = both("volume", "inspect", "-f", template, name)
            assert ours == theirs
    tool.close()
    engine.docker("volume", "create", "--label", "keep=me", "four")
    engine.stop()
    # minidock on docker's root: labels out of metadata.db, and a prune that heeds them.
    left = Tool.on(engine.root)
    assert json.loads(left.good("volume", "inspect", "four", "one"))[0]["Labels"] == {"keep": "me"}
    assert left.good("volume", "ls", "-q", "--filter", "label=keep") == "four"
    assert left.good("volume", "ls", "-q", "--filter", "label=a=1") == "one"
    assert left.good("start", "-a", "cc") == "there"
    left.good("volume", "prune", "-a", "-f", "--filter", "label!=keep")
    assert left.good("volume", "ls", "-q").split() == ["five", "four", "one", "two"]
    left.good("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "--label", "l=1", "six")
    engine.start()
    assert (
        engine.docker("run", "--rm", "-v", "six:/x", *QUIET, "grep", "-c", " /x tmpfs", "/proc/mounts").stdout == "1\n"
    )
    assert engine.docker("start", "-a", "cc").stdout == "there\n"
    engine.stop()
