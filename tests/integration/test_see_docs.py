"""docs/see.md does what it says: its commands run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from tests import builders
from tests.conftest import missing
from tests.seen_roots import CHANGES, images

PAGE = (Path(__file__).resolve().parents[2] / "docs/see.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_pages_commands_run(scratch: Path, busybox_layer: bytes) -> None:
    if not shutil.which("jq"):
        missing("jq is not installed")
    upper, lower, _ = images(busybox_layer)
    upper.tags, lower.tags = ["shop:2"], ["shop:1"]
    archive = builders.docker_archive(scratch / "shop-images.tar", upper, lower)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MINIDOCK_ROOT": str(scratch / "root"),
    }

    def run(script: str) -> str:
        words = ("unshare", "--mount", "sh", "-eu", "-c", script)
        return builders.run_command(*words, cwd=scratch, env=environment, timeout=120).stdout

    run(f"minidock pull-tar -q {archive}; minidock run --name edit --network none shop:2 sh -c '{CHANGES}'")
    explained, blamed, compared, owned, counted, timed = map(run, BLOCKS)
    for words in (
        "shop:2  an image in",
        '"container_name": "edit"',
        "What happens when a container writes",
        "chain-id 3",
    ):
        assert words in explained
    assert "<!DOCTYPE html>" in (scratch / "shop.html").read_text()
    for words in ("  changed   container", "whiteout at /data/one", "\n/etc/passwd\n"):
        assert words in blamed
    for words in ("A /new/file\n", "D /data/one\n", "rename from /data/same", "+++ b/etc/passwd\n"):
        assert words in compared
    for words in ("hidden by layer 2", "short name l/", "\n  container "):
        assert words in owned
    assert "total" in counted
    assert timed == ""
    assert len((scratch / "body").read_text().splitlines()) > 50
    assert len((scratch / "whole").read_text().splitlines()) > 50
    shown = set(re.findall(r"^minidock (\w+)", "\n".join(BLOCKS), re.MULTILINE))
    assert shown >= {"explain", "blame", "diff", "who", "du", "timeline"}
