"""docs/ports.md does what it says: its commands run as they stand, its forms of -p are read."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from minidock.formats.portspec import port_documents
from tests import builders

PAGE = (Path(__file__).resolve().parents[2] / "docs/ports.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ROWS = [row for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE) if row != "`-p`"]


def test_the_page_s_commands(scratch: Path, busybox_layer: bytes) -> None:
    archive = builders.docker_archive(scratch / "tiny.tar", builders.ImageSpec([busybox_layer], tags=["tiny:1"]))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MINIDOCK_ROOT": str(scratch / "root")}
    builders.run_command("minidock", "pull-tar", archive, env=environment)
    shown = [builders.run_command("sh", "-eux", "-c", block, cwd=scratch, env=environment).stdout for block in BLOCKS]
    assert "80/tcp -> 0.0.0.0:8080\n" in shown[0]
    assert "127.0.0.1:8443->443/tcp" in shown[0]
    assert re.search(r'elements = \{ tcp \. 8080 comment "\w{64}" : [\d.]+ \. 80', shown[0])
    assert 'comment "md-' in shown[1]
    assert "oifname @bridges ct status dnat accept" in shown[1]


def test_the_forms_of_the_table() -> None:
    forms = [form for row in ROWS for form in re.findall(r"`([^`]+)`", row)]
    assert len(forms) == 10
    for form in forms:
        port_documents([form], [])
