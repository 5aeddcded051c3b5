"""Network namespaces of a test's own, held by a process each, and code and programs run inside them."""

from __future__ import annotations

import os
import pickle
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minidock.linux.namespaces import CLONE_NEWNET, set_namespaces
from tests import builders


class Netns:
    """A network namespace with its loopback up; it and all in it is gone when its holder has ended."""

    def __init__(self) -> None:
        words = ["unshare", "-n", "sh", "-c", "ip link set lo up && echo ready && exec sleep 600"]
        self.holder = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"ready\n"
        self.fd = os.open(f"/proc/{self.holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.pid = self.holder.pid

    def close(self) -> None:
        """End the holder; whatever else runs inside is the test's own."""
        os.close(self.fd)
        self.holder.kill()
        self.holder.wait()

    def run(self, *words: str, check: bool = True, stdin: str = "") -> str:
        """A program's output, run inside."""
        inside = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--", *words]
        return builders.run_command(*inside, input=stdin, check=check).stdout

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """A function's result, called in a forked process inside; what it raises is raised here."""
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(read_fd)
                set_namespaces(self.fd, CLONE_NEWNET)
                try:
                    outcome = (True, function(*arguments, **options))
                except BaseException as error:  # noqa: BLE001 - handed to the caller
                    error.add_note(traceback.format_exc())
                    outcome = (False, error)
                with os.fdopen(write_fd, "wb") as pipe:
                    pickle.dump(outcome, pipe)
            finally:
                os._exit(0)
        os.close(write_fd)
        with os.fdopen(read_fd, "rb") as pipe:
            data = pipe.read()
        os.waitpid(pid, 0)
        assert data, "the process inside died"
        done, value = pickle.loads(data)
        if not done:
            raise value
        return value


@contextmanager
def namespaces(count: int) -> Iterator[list[Netns]]:
    """Some network namespaces for the time of a test."""
    made: list[Netns] = []
    try:
        for _ in range(count):
            made.append(Netns())
        yield made
    finally:
        for one in made:
            one.close()


def ruleset(space: Netns) -> str:
    """All rules inside, as nft lists them."""
    return space.run("nft", "list", "ruleset")
