"""Nothing of the caller's or the host's gets in: descriptors, environment, keyring, working directory, the interpreter.

Asked by a program inside, for each way in which a process comes into a container.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minidock.linux.libc import MACHINE
from tests.integration.test_userns import MODE
from tests.integration.tool import Tool, command

pytestmark = pytest.mark.usefixtures("subordinate_ids")

BOX = "busybox:test"
KEY = "minidock-secret"
ADD_KEY, REQUEST_KEY, KEYCTL = (217, 218, 219) if MACHINE == "aarch64" else (248, 249, 250)
JOIN_SESSION_KEYRING, SESSION_KEYRING = 1, -3
libc = ctypes.CDLL(None, use_errno=True)
# The host's python and its libraries, where the image has none; and calls that the default filter keeps back.
PYTHON = (
    *("-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro"),
    *("--security-opt", "seccomp=unconfined"),
)
PROBE = f"""
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
descriptors = [os.readlink("/proc/self/fd/" + name) for name in os.listdir("/proc/self/fd") if int(name) < 3 or
               os.path.exists("/proc/self/fd/" + name)]
print(json.dumps({{
    "environment": dict(os.environ),
    "directory": os.getcwd(),
    "descriptors": sorted(name for name in descriptors if not name.startswith("/proc/")),
    "parent": os.getppid(),
    "key": libc.syscall({REQUEST_KEY}, b"user", {KEY.encode()!r}, None, 0),
    "error": ctypes.get_errno(),
    "mount points": sorted(line.split()[4] for line in open("/proc/self/mountinfo")),
}}))
"""
INSIDE = ("/usr/bin/python3", "-I", "-S", "-c", PROBE)
OWN = {"PATH", "HOSTNAME", "HOME", "LC_CTYPE"}
ENOKEY = 126


@pytest.fixture
def caller(tool: Tool, scratch: Path) -> Iterator[Any]:
    """Run commands as a caller with much to lose; returns what the program inside found."""
    secret = scratch / "secret"
    secret.mkdir()
    handles = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(40)]
    handles.append(os.open(secret, os.O_RDONLY | os.O_DIRECTORY))
    for handle in handles:
        os.set_inheritable(handle, True)

    def with_key() -> None:
        libc.syscall(KEYCTL, JOIN_SESSION_KEYRING, b"of-the-caller", 0, 0, 0)
        libc.syscall(ADD_KEY, b"user", KEY.encode(), b"x", 1, SESSION_KEYRING)

    def run(*words: str) -> dict[str, Any]:
        done = subprocess.run(
            command(*words),
            env={**tool.environment, "SECRET": "of the host", "LD_PRELOAD_": "x", "TERM": "of-the-caller"},
            cwd=secret,
            close_fds=False,
            preexec_fn=with_key,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    yield run
    for handle in handles:
        os.close(handle)


def test_the_caller_has_what_is_looked_for() -> None:
    """The probe finds the key where it is: it does not look past it."""
    code = (
        f"import ctypes; c = ctypes.CDLL(None); c.syscall({KEYCTL}, 1, b'x', 0, 0, 0); "
        f"c.syscall({ADD_KEY}, b'user', {KEY.encode()!r}, b'x', 1, -3); exec({PROBE!r})"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["key"] > 0


@pytest.mark.parametrize("how", ["run", "init", "userns", "pid", "exec", "exec-userns"])
def test_what_a_process_inside_finds(caller: Any, tool: Tool, scratch: Path, how: str) -> None:
    options: dict[str, tuple[str, ...]] = {
        "init": ("--init",),
        "userns": ("--userns", MODE),
        "exec-userns": ("--userns", MODE),
    }
    words = [*PYTHON, *options.get(how, ())]
    before = interpreter()
    if how == "pid":
        tool.good("run", "-d", "--name", "donor", BOX, "sleep", "1000")
        words += ["--pid", "container:donor"]
    if how.startswith("exec"):
        tool.good("run", "-d", "--name", "box", "--network", "none", *words, BOX, "sleep", "1000")
        found = caller("exec", "box", *INSIDE)
    else:
        found = caller("run", "--rm", "--network", "none", *words, BOX, *INSIDE)
    assert set(found["environment"]) <= OWN, found
    assert found["environment"]["PATH"] == "/bin:/usr/bin:/sbin:/usr/sbin", "the image's own"
    assert found["directory"] == "/"
    kinds = [name.partition(":")[0] for name in found["descriptors"]]
    assert sorted(kinds) == ["/dev/null", "pipe", "pipe"], found
    assert (found["key"], found["error"]) == (-1, ENOKEY), "the caller's session keyring"
    assert not [point for point in found["mount points"] if str(scratch) in point or point.startswith("/dev/shm/")]
    assert interpreter() == before


def interpreter() -> str:
    return hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).hexdigest()
