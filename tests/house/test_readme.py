"""The README's commands and code run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import builders
from tests.house import source

README = (source.PROJECT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*languages: str) -> list[str]:
    """The fenced blocks in one of these languages, in order."""
    return [text for language, text in BLOCK.findall(README) if language in languages]


def environment(scratch: Path) -> dict[str, str]:
    """The environment of a person who has the virtual environment on the PATH and a scratch data root."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "MINIDOCK_ROOT": str(scratch / "root")}


def remove_containers(scratch: Path) -> None:
    """End what a failed block may have left running."""
    words = 'for name in $(minidock ps -aq); do minidock rm -f "$name"; done'
    subprocess.run(["sh", "-c", words], env=environment(scratch), cwd=scratch, check=False)


def test_the_two_commands_are_those_of_the_bootstrap() -> None:
    named = re.findall(r"^sh tests/bootstrap (\w+)", README, re.MULTILINE)
    assert named == ["demo", "test"]
    done = subprocess.run(["sh", "tests/bootstrap", "nothing"], cwd=source.PROJECT, capture_output=True, text=True)
    assert done.returncode == 1
    for word in named:
        assert word in done.stderr
    assert "sh tests/bootstrap test" in (source.PROJECT / ".ci/run").read_text()


@pytest.mark.root
def test_shell_blocks_run(scratch: Path) -> None:
    scripts = [text for text in blocks("sh", "console") if "tests/bootstrap" not in text]
    assert scripts
    try:
        for script in scripts:
            done = builders.run_command("sh", "-eux", "-c", script, cwd=scratch, env=environment(scratch))
            assert "hello\n" in done.stdout
            assert "A /file\n" in done.stdout
            assert "changed\n" in done.stdout
            assert "one file" in done.stdout
    finally:
        remove_containers(scratch)


@pytest.mark.root
def test_python_blocks_run(scratch: Path, busybox_layer: bytes) -> None:
    builders.docker_archive(scratch / "tiny.tar", builders.ImageSpec([busybox_layer], tags=["tiny:1"]))
    scripts = blocks("python")
    assert scripts
    for script in scripts:
        (scratch / "readme.py").write_text(script)
        done = builders.run_command(sys.executable, "readme.py", cwd=scratch, env=environment(scratch))
        shown = done.stdout.split("\n")
        assert shown[0].endswith("['docker.io/library/tiny:1']") or shown[0].endswith("['tiny:1']"), done.stdout
        assert re.fullmatch(r"0( sha256:[0-9a-f]{64}){3}", shown[1]), done.stdout


@pytest.mark.root
def test_the_demo_passes() -> None:
    done = builders.run_command(sys.executable, source.PROJECT / "tests/demo.py")
    assert "demo: all as it should be" in done.stdout


@pytest.mark.root
def test_every_command_of_the_table_exists(scratch: Path) -> None:
    rows = [line.split("|")[1] for line in README.replace("\\|", "/").splitlines() if line.startswith("| `")]
    words = {match.split()[0] for row in rows for match in re.findall(r"`([^`]+)`", row)}
    assert len(words) > 15
    for word in sorted(words):
        done = subprocess.run(["minidock", word, "--help"], env=environment(scratch), capture_output=True, text=True)
        assert done.returncode == 0, (word, done.stderr)


def test_dependencies_are_all_justified() -> None:
    project = (source.PROJECT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert listed
    for name in re.findall(r'^    "([\w.-]+)', listed[1], re.MULTILINE):
        assert f"\n| {name} |" in README, name
