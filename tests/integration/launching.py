"""Launch a container from a hand-made overlay directory, in a process of its own as the monitor does.

As a module: Bundle and its run(). As a script (`python -I -S launching.py JSON`): one launch, with the
standard descriptors of the script; it ends as the container does, or prints the error and ends with its code.
"""

from __future__ import annotations

import os
import sys

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _main(text: str) -> int:
    sys.path.insert(0, REPOSITORY)
    import json

    from minidock.errors import MinidockError, UsageError
    from minidock.runtime.join import ExecSpec, exec_process
    from minidock.runtime.launch import BindMount, ContainerSpec, TmpfsMount, launch

    words = json.loads(text)
    spec = words["spec"]
    spec["binds"] = [BindMount(**each) for each in spec.get("binds", ())]
    spec["tmpfs"] = [TmpfsMount(*each) for each in spec.get("tmpfs", ())]
    trace = (lambda kind, line: print(f"{kind}: {line}", file=sys.stderr)) if words.get("trace") else None
    null = os.open("/dev/null", os.O_RDWR)
    status = 0

    def refuse() -> None:
        raise UsageError("not ready")

    try:
        first = launch(
            ContainerSpec(**spec),
            stdin_fd=0,
            stdout_fd=null if words.get("exec") else 1,
            stderr_fd=2,
            trace=trace,
            ready=refuse if words.get("is_never_ready") else None,
        )
    except MinidockError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    if words.get("print_pid"):
        print(first.pid, flush=True)
    launched = first
    try:
        for number, each in enumerate(words.get("exec") or ()):
            launched = exec_process(
                first.pid, first.pidfd, ExecSpec(**each), stdin_fd=0, stdout_fd=1, stderr_fd=2, trace=trace
            )
            if number + 1 < len(words["exec"]):
                os.waitpid(launched.pid, 0)
    except MinidockError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        status = error.exit_code
    else:
        if launched.console_fd is not None:
            _copy(launched.console_fd)
        status = os.waitstatus_to_exitcode(os.waitpid(launched.pid, 0)[1])
        status = status if status >= 0 else 128 - status
    if launched is not first or words.get("exec"):
        os.kill(first.pid, 9)
        os.waitpid(first.pid, 0)
    first.cgroup.remove()
    return status


def _copy(console_fd: int) -> None:
    while True:
        try:
            data = os.read(console_fd, 65536)
        except OSError:
            return
        os.write(1, data)


if __name__ == "__main__":
    os._exit(_main(sys.argv[1]))


import json  # noqa: E402
import subprocess  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from tests.patience import patience  # noqa: E402

PYTHON = sys.executable
PATH = "PATH=/bin:/usr/bin:/sbin:/usr/sbin"


class Bundle:
    """overlay2-style directories: some image layers, an init layer, a writable layer."""

    def __init__(self, base: Path, *layers: bytes) -> None:
        """Layers are tars, bottom first."""
        from minidock.ids import random_hex64

        self.overlay = base
        self.container_id = random_hex64()
        (base / "l").mkdir(parents=True)
        names: list[str] = []
        for number, layer in enumerate(layers):
            self._layer(f"layer{number}", f"L{number}")
            names.insert(0, f"l/L{number}")
            subprocess.run(
                ["tar", "-x", "--numeric-owner", "-p", "-C", str(base / f"layer{number}" / "diff")],
                input=layer,
                check=True,
            )
        self.image_lowers = names
        self._layer("init", "INIT")
        self.lowers = ["l/INIT", *names]
        self._layer("rw", "RW")
        self.upper = base / "rw" / "diff"
        self.init_diff = base / "init" / "diff"
        self.warnings: list[str] = []

    def _layer(self, name: str, link: str) -> None:
        for part in ("diff", "work"):
            (self.overlay / name / part).mkdir(parents=True)
        (self.overlay / "l" / link).symlink_to(f"../{name}/diff")

    def fill_init(self) -> Bundle:
        """Fill the init layer with the product's code."""
        from minidock.runtime.initlayer import fill_init_layer

        self.warnings = fill_init_layer(str(self.overlay), self.image_lowers, str(self.init_diff))
        return self

    def words(self, *argv: str, **options: Any) -> list[str]:
        """The command line that launches this."""
        outer = {key: options.pop(key) for key in ("exec", "trace", "print_pid", "is_never_ready") if key in options}
        spec = {
            "container_id": self.container_id,
            "overlay_path": str(self.overlay),
            "lowers": self.lowers,
            "mount_id": "rw",
            "argv": list(argv),
            "env": [PATH],
            **options,
        }
        return [PYTHON, "-I", "-S", os.path.abspath(__file__), json.dumps({"spec": spec, **outer})]

    def run(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Launch and wait; the result's return code is the container's, or that of minidock's error."""
        feed = options.pop("input", None)
        timeout_s = patience(options.pop("timeout_s", 60))
        return subprocess.run(
            self.words(*argv, **options),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL if feed is None else None,
            **({"input": feed} if feed is not None else {}),
        )

    def shell(self, script: str, **options: Any) -> str:
        """Run a script that must succeed; returns what it printed."""
        done = self.run("sh", "-c", script, **options)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done.stdout
