"""docs/handover.md names tests that exist, each run with every release of Docker that it speaks of."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache

from tests.house import source

TABLE = (source.PROJECT / "docs/handover.md").read_text()
RELEASES = ("20.10", "26.1", "28.5")
COLUMNS = ("test_handover_to_docker.py", "test_handover_from_docker.py")
GROUPS = ("container", "image", "volume", "network", "system")
ALIASES = {"ls": "ps", "list": "ps", "remove": "rm"}
# Commands that say nothing about a root that the other engine could have written, or that docker does not have.
EXEMPT = {
    **dict.fromkeys(("info", "version"), "about the program, tested with every root"),
    **dict.fromkeys(("network",), "networks are kept in a database of dockerd's own, which minidock does not read"),
    **dict.fromkeys(("pull-tar",), "docker's load, in whose row it stands"),
    **dict.fromkeys(
        ("mount", "umount", "verify", "fsck", "undo", "gc", "blame", "who", "du", "explain", "timeline", "adopt"),
        "docker has no such command; each has tests of its own on docker's roots",
    ),
}


def commands() -> set[str]:
    """Every command of the tree, a group's with the group's name before it."""
    import typer.main

    import minidock.cli.tree  # noqa: F401 - it fills the groups
    from minidock.cli.groups import app

    found = set()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        found |= {f"{name} {inner}" for inner in below} if below else {name}
    return found


@cache
def collected() -> frozenset[str]:
    """The IDs of all tests against engines, as pytest finds them."""
    words = ["-m", "pytest", "--collect-only", "-q", "-m", "engines or not engines", "tests/interop"]
    done = subprocess.run([sys.executable, *words], cwd=source.PROJECT, capture_output=True, text=True, check=True)
    return frozenset(line.removeprefix("tests/interop/") for line in done.stdout.splitlines() if "::" in line)


def rows() -> list[list[str]]:
    """The cells of both tables, without their heads."""
    lines = [line.strip("|").split("|") for line in TABLE.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line] for line in lines if "asked" not in line[1] and line[1].strip() != "proof"]


def named() -> list[str]:
    """Every test of the tables, with its file."""
    found = []
    for cells in rows():
        for column, cell in enumerate(cells[1:]):
            tests = re.findall(r"`([\w.:]+)`", cell)
            assert tests, cells
            found += [test if "::" in test else f"{COLUMNS[column]}::{test}" for test in tests]
    return found


def test_every_test_runs_with_every_release() -> None:
    tests = collected()
    missing = [
        f"{name}[{release}]"
        for name in named()
        for release in RELEASES
        if not any(test.startswith(f"{name}[{release}") for test in tests)
    ]
    assert not missing, "\n".join(missing)


def test_every_command_has_its_row() -> None:
    """A new one gets a row, or a reason to have none; `image ls` and its like are the plain commands again."""
    told = {word for cells in rows() if len(cells) == 3 for word in re.findall(r"`([^`]+)`", cells[0])}
    told |= {word.split()[0] for word in told if word.split()[0] not in GROUPS}
    wanted = {name for name in commands() if not {name.split()[0], name.split()[-1]} & set(EXEMPT)}
    aliases = {
        name for name in wanted if name.split()[0] in GROUPS and ALIASES.get(name.split()[1], name.split()[1]) in told
    }
    assert not sorted(wanted - told - aliases)


def test_tests_named_in_the_text_exist() -> None:
    for name in re.findall(r"`(test_\w+\.py::\w+)", TABLE):
        assert any(test.split("[")[0] == name for test in collected()), name
