"""The README's first command on a bare Debian, which is a container of minidock's own.

The machine inside has neither Python nor pip, venv, libmagic or certificates; its root is an overlay, its packages
come from the same mirrors as this machine's. minidock sets itself up in there and does the main job once more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import builders, real_images
from tests.netns import outside

PROJECT = Path(__file__).resolve().parents[2]
MINIDOCK = Path(sys.executable).with_name("minidock")

# How this machine reaches its mirrors: the bare one has to reach them, too.
MIRROR_SETTINGS = ("/etc/pip.conf", "/usr/local/share/ca-certificates")


@pytest.mark.slow
def test_the_demo_on_a_bare_debian(scratch: Path) -> None:
    def minidock(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        words = (*outside(), MINIDOCK, "--root", scratch / "root", *words)
        return builders.run_command(*words, check=check, stdin=subprocess.DEVNULL)

    minidock("pull-tar", real_images.minbase())
    assert minidock("run", "--rm", "--network", "none", "minbase:1", "python3", check=False).returncode == 127
    binds = [word for path in MIRROR_SETTINGS if Path(path).exists() for word in ("-v", f"{path}:{path}:ro")]
    settings = ["-e", "MINIDOCK_VENV=/venv", "-e", "PIP_CERT=/etc/ssl/certs/ca-certificates.crt"]
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        settings += ["-e", name] if name in os.environ else []
    options = ["--privileged", "--network", "host", "-v", f"{PROJECT}:/src:ro", *binds, *settings]
    done = minidock("run", "--rm", *options, "minbase:1", "sh", "/src/tests/bootstrap", "demo")
    assert "bootstrap: installing with apt: python3 python3-venv" in done.stderr
    assert "bootstrap: making the environment /venv" in done.stderr
    assert "demo: all as it should be" in done.stdout
