"""minidock as a person runs it: the real command on a root of its own, on pipes or on a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

from tests import builders
from tests.forked import STARTED_BY
from tests.patience import patience

PROJECT = Path(__file__).resolve().parents[2]
GROUPS = Path("/sys/fs/cgroup")


def command(*words: str | Path) -> list[str]:
    """The words that start minidock from this tree."""
    return [*STARTED_BY, *map(str, words)]


class Tool:
    """A data root with the image busybox:test."""

    def __init__(self, root: Path, archive: Path) -> None:
        from minidock.store.root import DataRoot
        from minidock.verbs.pull_tar import pull_tar

        self._stand_on(root)
        with DataRoot.open(str(root)) as opened:
            pull_tar(opened, str(archive))

    @classmethod
    def on(cls, root: Path) -> Tool:
        """A data root that is taken as it is."""
        tool = cls.__new__(cls)
        tool._stand_on(root)
        return tool

    def _stand_on(self, root: Path) -> None:
        self.root = root
        self.prefix: list[str] = []
        self.environment = {**os.environ, "MINIDOCK_ROOT": str(root), "LC_ALL": "C.UTF-8"}

    def __call__(self, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its failure is the caller's to judge."""
        options.setdefault("timeout", patience(60))
        return builders.run_command(*self.prefix, *command(*words), check=False, env=self.environment, **options)

    def good(self, *words: str | Path, **options: Any) -> str:
        """Run a command that must succeed; its output without the last newline."""
        done = self(*words, **options)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.rstrip("\n")

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command and leave it running."""
        return subprocess.Popen([*self.prefix, *command(*words)], env=self.environment, **options)

    def directory(self, name: str) -> Path:
        """The container's directory below containers/."""
        return self.root / "containers" / str(self.inspect(name)["Id"])

    def inspect(self, name: str) -> dict[str, Any]:
        """What inspect says of one container."""
        found: list[dict[str, Any]] = json.loads(self.good("inspect", name))
        return found[0]

    def status(self, name: str) -> str:
        """The state in one word."""
        return str(self.inspect(name)["State"]["Status"])

    def record(self, name: str) -> dict[str, Any]:
        """minidock.state of a running container."""
        found: dict[str, Any] = json.loads((self.directory(name) / "minidock.state").read_text())
        return found

    def groups_of(self, container_id: str) -> list[str]:
        """The control groups that carry this container's name."""
        return [str(path) for depth in ("", "*/") for path in GROUPS.glob(f"{depth}minidock/{container_id}")]

    def close(self) -> None:
        """End and remove every container."""
        names = self.good("ps", "-aq", "--no-trunc").split()
        if names:
            self("rm", "-f", *names)
        left = [path for name in names for path in self.groups_of(name)]
        assert not left, f"control groups left behind: {left}"
        assert not os.listdir(self.root / "containers")
        overlay = {name for name in os.listdir(self.root / "overlay2") if name.endswith("-init")}
        assert not overlay, f"layers left behind: {overlay}"
        assert not os.listdir(self.root / "minidock" / "stage")


def wait_until(condition: Any, what: str, timeout_s: float = 15) -> Any:
    """Ask again and again until the answer is true; the kernel tells nobody about these things."""
    end = time.monotonic() + patience(timeout_s)
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        select.select([], [], [], 0.02)
    raise AssertionError(f"waited {timeout_s} s in vain: {what}")


class Terminal:
    """A command on a terminal of its own, as a shell would start it; argv: another program's."""

    def __init__(
        self, tool: Tool, *words: str | Path, rows: int = 24, columns: int = 80, argv: list[str] | None = None
    ) -> None:
        self.master, slave = pty.openpty()
        self.slave_path = os.ttyname(slave)
        termios.tcsetwinsize(slave, (rows, columns))
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.seen = b""
        self.process = subprocess.Popen(
            argv or command(*words),
            # Whatever terminal the tests themselves are started on.
            env={**tool.environment, "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, termios.TIOCSCTTY, 0),
        )

    def type(self, text: bytes) -> None:
        """Press these keys."""
        os.write(self.master, text)

    def expect(self, text: bytes, timeout_s: float = 15) -> bytes:
        """Read until text has been shown; what was shown up to its end."""
        end = time.monotonic() + patience(timeout_s)
        while text not in self.seen:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                raise AssertionError(f"{text!r} was not shown in {timeout_s} s, but {self.seen!r}")
            try:
                data = os.read(self.master, 65536)
            except OSError:
                data = b""
            if not data:
                raise AssertionError(f"{text!r} was not shown before the end, but {self.seen!r}")
            self.seen += data
        position = self.seen.index(text) + len(text)
        shown, self.seen = self.seen[:position], self.seen[position:]
        return shown

    def resize(self, rows: int, columns: int) -> None:
        """Change the size, as dragging a window's corner does."""
        termios.tcsetwinsize(self.slave, (rows, columns))
        os.kill(self.process.pid, 28)

    def wait(self, timeout_s: float = 15) -> int:
        """The exit status, in the meantime reading what is shown."""

        def ended() -> bool:
            if select.select([self.master], [], [], 0)[0]:
                self.seen += os.read(self.master, 65536)
            return self.process.poll() is not None

        wait_until(ended, f"the end of the command; shown: {self.seen!r}", timeout_s)
        assert self.process.returncode is not None
        # The kernel may still be passing on the last of it.
        while select.select([self.master], [], [], 0.1)[0]:
            self.seen += os.read(self.master, 65536)
        return self.process.returncode

    def is_restored(self) -> bool:
        """Whether the terminal's settings are what they were."""
        return bool(termios.tcgetattr(self.slave) == self.before)

    def close(self) -> None:
        """End the command if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(patience(10))
        os.close(self.master)
        os.close(self.slave)
