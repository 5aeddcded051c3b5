"""The session's own check for what is left behind, on sessions that leave something of each kind.

They run in a mount and network namespace of their own, which takes away what they leave.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
GROUP = Path("/sys/fs/cgroup/pids/minidock" if Path("/sys/fs/cgroup/pids").is_dir() else "/sys/fs/cgroup/minidock")

CLEAN = """
import os, subprocess, tempfile
from pathlib import Path
from tests import leaks

def scratch():
    return Path(tempfile.mkdtemp(prefix=leaks.scratch_prefix("leaking"), dir=leaks.SCRATCH))

def test_nothing():
    base = scratch()
    subprocess.run(["mount", "-t", "tmpfs", "none", base], check=True)
    with open(base / "file", "w"):
        assert subprocess.run(["sh", "-c", ":"]).returncode == 0
    subprocess.run(["umount", base], check=True)
    base.rmdir()
"""
LEAKING = """
    subprocess.run(["mount", "-t", "tmpfs", "none", scratch()], check=True)
    os.open("/dev/zero", os.O_RDONLY)
    subprocess.Popen(["sh", "-c", "exec >/dev/null 2>&1; sleep 600 & echo $!", "leaker"])
    os.makedirs(os.environ["LEAKED_GROUP"])
    subprocess.run(["ip", "link", "add", "leaked", "type", "veth", "peer", "name", "other"], check=True)
"""


def session(scratch: Path, test: str, group: Path, *, alone: bool) -> subprocess.CompletedProcess[str]:
    """A session of one test, with the check and nothing else of ours."""
    (scratch / "test_it.py").write_text(test)
    code = "import sys; from tests import leaks; leaks.PATIENCE_S = 1; import pytest\n"
    code += f"leaks.SCRATCH = leaks.Path({str(scratch)!r})\n"
    code += "sys.exit(pytest.main(sys.argv[1:], plugins=[leaks]))"
    words = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(scratch), str(scratch / "test_it.py")]
    return subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code, *words],
        cwd=PROJECT,
        env={**os.environ, "CI": "1" if alone else "", "LEAKED_GROUP": str(group)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_session_that_leaves_something_fails(scratch: Path) -> None:
    group = GROUP / f"{os.getpid():064x}"
    try:
        done = session(scratch, CLEAN + LEAKING, group, alone=True)
    finally:
        if group.exists():
            group.rmdir()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed, 1 error" in done.stdout
    for kind in ("process ", f"file {scratch}/leaking", "descriptor of /dev/zero", f"mount {scratch}/leaking"):
        assert f"\n  {kind}" in done.stdout.replace("\nE  ", "\n"), (kind, done.stdout)
    assert f"control group minidock/{group.name} of" in done.stdout
    assert "network leaked" in done.stdout


def test_a_session_that_leaves_nothing_passes(scratch: Path) -> None:
    done = session(scratch, CLEAN, scratch, alone=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
