"""Hazard D6: who has the caller's terminal can type into it (TIOCSTI); nothing in a container has it."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_leaks import PYTHON
from tests.integration.tool import Terminal, Tool

BOX = "busybox:test"
# Types into every terminal that it has or can open, and tells of each whether that went in, and which one it is.
PROBE = """
import fcntl, glob, json, os, termios
found = {}
for name in ["0", "1", "2", "/dev/tty", "/dev/console", *glob.glob("/dev/pts/*"), *glob.glob("/proc/1/fd/*")]:
    try:
        fd = int(name) if name.isdigit() else os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
        status = os.fstat(fd)
        if not os.isatty(fd):
            continue
        for letter in "evil\\n":
            fcntl.ioctl(fd, termios.TIOCSTI, letter.encode())
        found[name] = [status.st_dev, status.st_rdev, "typed"]
    except OSError as error:
        found[name] = [0, 0, error.strerror]
print("FOUND" + json.dumps(found) + "END")
"""
INSIDE = ("/usr/bin/python3", "-I", "-S", "-c", PROBE)


def waiting(terminal: Terminal) -> int:
    """How many bytes have been typed into the caller's terminal and not been read."""
    return int.from_bytes(fcntl.ioctl(terminal.slave, termios.FIONREAD, bytes(4)), sys.byteorder)


def found_by(terminal: Terminal) -> dict[str, Any]:
    shown = terminal.expect(b"END", timeout_s=60).replace(b"\r\n", b"")
    found: dict[str, Any] = json.loads(shown.partition(b"FOUND")[2].removesuffix(b"END"))
    terminal.wait(60)
    return found


def test_the_probe_types_into_a_terminal_that_it_has(tool: Tool) -> None:
    """Where the kernel takes it at all: the looked-for would be seen."""
    if Path("/proc/sys/dev/tty/legacy_tiocsti").exists():
        assert Path("/proc/sys/dev/tty/legacy_tiocsti").read_text() == "1\n"
    terminal = Terminal(tool, argv=[sys.executable, "-I", "-S", "-c", PROBE])
    try:
        found = found_by(terminal)
        status = os.stat(terminal.slave_path)
        assert found["0"] == [status.st_dev, status.st_rdev, "typed"]
        assert waiting(terminal) >= len("evil\n")
    finally:
        terminal.close()


@pytest.mark.parametrize("how", ["run", "run -i", "run -t", "run -it", "run -it --init", "exec", "exec -i", "exec -it"])
def test_d6_nothing_inside_types_into_the_callers_terminal(tool: Tool, how: str) -> None:
    verb, *options = how.split()
    if verb == "exec":
        tool.good("run", "-d", "--name", "box", "--network", "none", *PYTHON, BOX, "sleep", "1000")
        words = ["exec", *options, "box", *INSIDE]
    else:
        words = ["run", "--rm", "--network", "none", *options, *PYTHON, BOX, *INSIDE]
    terminal = Terminal(tool, *words)
    try:
        found = found_by(terminal)
        device = os.stat(terminal.slave_path).st_dev
        typed = {name for name, (_, _, end) in found.items() if end == "typed"}
        # Without -t there is no terminal at all; with it, one of the container's own devpts.
        assert bool(typed) == any("t" in option for option in options), found
        assert all(found[name][0] != device for name in typed), found
        assert waiting(terminal) == 0
        assert terminal.is_restored()
    finally:
        terminal.close()
