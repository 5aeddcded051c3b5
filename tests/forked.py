"""minidock's commands as forks of one process that has all of it loaded, on the test machine's emulated processor.

To start an interpreter and load a command takes such a processor ten times as long as what most commands do. There, and
there alone, a command whose output a test waits for is not started but forked: it is a process with its own arguments,
environment, directory and standard descriptors all the same. Commands that tests start in any other way (on a terminal,
in the background, through another program) are started as a user would start them.
"""

from __future__ import annotations

import array
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

IS_EMULATED = os.environ.get("MINIDOCK_EMULATED") == "1"
PROJECT = Path(__file__).resolve().parents[1]
_BEFORE = f"import sys; sys.path.append({str(PROJECT)!r}); sys.argv[0] = 'minidock'\n"
# The words that start minidock from this tree.
STARTED_BY = [sys.executable, "-I", "-c", f"{_BEFORE}from minidock.__main__ import main; main()"]
# Read once, as an interpreter starts; without any it takes the last of these itself.
_LOCALES = ("", "C", "POSIX", "C.UTF-8")
_OPTIONS = {"env", "cwd", "input", "timeout", "stdin"}
_MAX_REQUEST_BYTES = 1 << 18
_PIECE_BYTES = 1 << 16


class Forks:
    """The process that has everything loaded, seen from a test session."""

    def __init__(self) -> None:
        self._zone = os.environ.get("TZ")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = f"{_BEFORE}from tests.forked import serve; serve({theirs.fileno()})"
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", code],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "LC_ALL": _LOCALES[-1]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        # Its standard output is a pipe as a command's is; it ends when everything has been loaded.
        assert self._process.stdout is not None
        self._process.stdout.read()
        self._process.stdout.close()

    def takes(self, options: dict[str, Any]) -> bool:
        """Whether a command with these options of subprocess.run may be forked."""
        if not options.keys() <= _OPTIONS or options.get("stdin") not in (None, subprocess.DEVNULL):
            return False
        environment = options.get("env") or os.environ
        locale = next((found for name in ("LC_ALL", "LC_CTYPE", "LANG") if (found := environment.get(name))), "")
        return locale in _LOCALES and environment.get("TZ") == self._zone

    def run(self, words: Sequence[str], arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as subprocess.run with capture_output and text does.

        Shape:  words: what it would have been started by; arguments: those after the program's name
        """
        given = options.get("input")
        inputs = os.pipe() if given is not None else None
        stdin = inputs[0] if inputs else os.open("/dev/null", os.O_RDONLY) if "stdin" in options else os.dup(0)
        outputs = os.pipe(), os.pipe()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mask = os.umask(0)
        os.umask(mask)
        request = {
            "arguments": arguments,
            "environment": dict(options.get("env") or os.environ),
            "directory": os.fspath(options.get("cwd") or os.getcwd()),
            "umask": mask,
        }
        passed = array.array("i", [stdin, outputs[0][1], outputs[1][1], theirs.fileno()])
        self._control.sendmsg([json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
        for fd in passed[:3]:
            os.close(fd)
        theirs.close()
        pid = int(ours.recv(64))
        read = [outputs[0][0], outputs[1][0]]
        try:
            texts = _exchange(read, inputs[1] if inputs else -1, (given or "").encode(), options.get("timeout"))
            status = int(ours.recv(64))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            ours.recv(64)
            raise subprocess.TimeoutExpired(list(words), options["timeout"]) from None
        finally:
            ours.close()
            for fd in read:
                os.close(fd)
        return subprocess.CompletedProcess(list(words), os.waitstatus_to_exitcode(status), *texts)

    def end(self) -> None:
        """Let the process go."""
        self._control.close()
        self._process.wait(60)


def _exchange(read: list[int], write: int, data: bytes, timeout: float | None) -> list[str]:
    """Write one stream and read the others to their ends; raises TimeoutError."""
    end = None if timeout is None else time.monotonic() + timeout
    texts = dict.fromkeys(read, b"")
    with selectors.DefaultSelector() as selector:
        for fd in read:
            selector.register(fd, selectors.EVENT_READ)
        if write >= 0:
            os.set_blocking(write, False)
            selector.register(write, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(None if end is None else max(0, end - time.monotonic()))
            if not ready and end is not None and time.monotonic() >= end:
                if write >= 0 and write in selector.get_map():
                    os.close(write)
                raise TimeoutError
            for key, _ in ready:
                if key.fd == write:
                    try:
                        data = data[os.write(write, data[:_PIECE_BYTES]) if data else 0 :]
                    except BrokenPipeError:
                        data = b""
                    if not data:
                        selector.unregister(write)
                        os.close(write)
                elif piece := os.read(key.fd, _PIECE_BYTES):
                    texts[key.fd] += piece
                else:
                    selector.unregister(key.fd)
    # As subprocess does in text mode.
    return [texts[fd].decode().replace("\r\n", "\n").replace("\r", "\n") for fd in read]


def serve(control_fd: int) -> NoReturn:
    """The other side: load everything, then fork a command at each request until the session is gone."""
    import pkgutil

    import minidock

    for found in pkgutil.walk_packages(minidock.__path__, "minidock."):
        __import__(found.name)
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 1)
    control = socket.socket(fileno=control_fd)
    replies: dict[int, tuple[int, int]] = {}
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fd in replies:
                reply, pid = replies.pop(key.fd)
                selector.unregister(key.fd)
                os.close(key.fd)
                _tell(reply, os.waitpid(pid, 0)[1])
                os.close(reply)
                continue
            data, passed, _, _ = socket.recv_fds(control, _MAX_REQUEST_BYTES, 4)
            if not data:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                _become(json.loads(data), passed[:3])
            for fd in passed[:3]:
                os.close(fd)
            pidfd = os.pidfd_open(pid)
            replies[pidfd] = passed[3], pid
            selector.register(pidfd, selectors.EVENT_READ)
            _tell(passed[3], pid)


def _tell(reply: int, number: int) -> None:
    try:
        os.write(reply, str(number).encode())
    except BrokenPipeError:
        pass


def _become(request: dict[str, Any], standard: list[int]) -> NoReturn:
    """In the fork: be the command."""
    from minidock.__main__ import main

    try:
        # All numbers that were passed are above the standard ones, which the server has.
        for number, fd in enumerate(standard):
            os.dup2(fd, number)
        os.closerange(3, 1 << 16)
        os.chdir(request["directory"])
        os.umask(request["umask"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv[1:] = request["arguments"]
        main()
    finally:
        os._exit(70)


_forks: Forks | None = None


def run(words: list[str], options: dict[str, Any]) -> subprocess.CompletedProcess[str] | None:
    """Run a command of minidock's as a fork; None for what is to be started."""
    global _forks
    count = len(STARTED_BY)
    if not IS_EMULATED or words[:count] != STARTED_BY or sum(map(len, words)) > _MAX_REQUEST_BYTES // 4:
        return None
    if _forks is None:
        _forks = Forks()
    return _forks.run(words, words[count:], **options) if _forks.takes(options) else None


def end() -> None:
    """Let the process go that commands were forked from; once a session."""
    if _forks is not None:
        _forks.end()
