"""minidock as one who only looks at a root runs it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests import builders
from tests.integration.tool import command


class Looker:
    """minidock on one root, for looking only."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return builders.run_command(*command("--root", self.root, *words), check=False, timeout=60)

    def good(self, *words: str | Path) -> str:
        done = self(*words)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert not done.stderr, done.stderr
        return done.stdout

    def document(self, *words: str | Path) -> Any:
        return json.loads(self.good(*words, "--json"))


def disk_bytes(root: Path) -> int:
    """What du says of a directory."""
    return int(builders.run_command("du", "-sx", "--block-size=1", root).stdout.split()[0])
