"""Health checks: a command run in the container now and then, by the container's own monitor.

Each probe is a forked process that joins the container, as exec does, and tells its end through a pipe, so that
the monitor never waits for it. What is known is kept in minidock.health beside the container's other records.
Source: moby daemon/health.go
"""

from __future__ import annotations

import os
import select
import time

from minidock.errors import FormatError, MinidockError
from minidock.formats.containerconfig import time_text
from minidock.formats.gojson import encode_json, parse_json
from minidock.store.containerstate import replace_file
from minidock.store.transaction import read_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from minidock.store.containers import Container

HEALTH_FILE = "minidock.health"
DEFAULT_INTERVAL_NS = DEFAULT_TIMEOUT_NS = 30_000_000_000
DEFAULT_RETRIES = 3
KEPT_RESULTS = 5
MAX_OUTPUT_BYTES = 4096


def health_check(container: Container) -> dict[str, Any] | None:
    """The container's Healthcheck object, None when it has no command to ask with."""
    check = container.light_config.run.get("Healthcheck")
    if not isinstance(check, dict):
        return None
    test = check.get("Test")
    if not isinstance(test, list) or len(test) < 2 or test[0] not in ("CMD", "CMD-SHELL"):
        return None
    return check


def read_health(container: Container) -> dict[str, Any] | None:
    """What the last probes said, in docker's shape; None without a health check, or before the first start."""
    if health_check(container) is None:
        return None
    try:
        raw = read_small(f"{container.path}/{HEALTH_FILE}")
        return parse_json(raw, what=HEALTH_FILE, limit_bytes=1 << 20)
    except (FileNotFoundError, FormatError):
        return None


def shown_health(container: Container) -> dict[str, Any] | None:
    """The same as it is shown: nobody asks a container that stands still or has ended, and so it is unhealthy.

    Source: moby container/health.go, CloseMonitorChannel
    """
    health = read_health(container)
    if health is not None and container.state.shown_status() != "running":
        health["Status"] = "unhealthy"
    return health


def _argv(container: Container, test: list[str]) -> list[str]:
    if test[0] == "CMD":
        return [str(word) for word in test[1:]]
    shell = container.light_config.run.get("Shell") or ["/bin/sh", "-c"]
    return [*map(str, shell), str(test[1])]


class Health:
    """The probes of one run of a container.

    Shape: the monitor asks left_ms how long it may wait, calls act when that is over, and take when fd is readable
    """

    __slots__ = (
        "_check",
        "_container",
        "_data",
        "_deadline_ns",
        "_next_ns",
        "_poll",
        "_probe_pid",
        "_probe_started_ns",
        "_started_ns",
        "document",
        "fd",
    )

    def __init__(self, container: Container, check: dict[str, Any], started_ns: int) -> None:
        self._container = container
        self._check = check
        self._started_ns = started_ns
        self._next_ns = time.monotonic_ns() + self._number("Interval", DEFAULT_INTERVAL_NS)
        self._deadline_ns = self._probe_started_ns = 0
        self._probe_pid = 0
        self._data = b""
        self._poll: select.poll | None = None
        self.fd = -1
        old = read_health(container) or {}
        self.document: dict[str, Any] = {"Status": "starting", "FailingStreak": 0, "Log": old.get("Log") or []}
        self._save()

    def _number(self, key: str, default: int) -> int:
        value = self._check.get(key)
        return value if isinstance(value, int) and value > 0 else default

    def watch(self, poll: select.poll) -> None:
        """Let the probes' answers be waited for together with all else."""
        self._poll = poll

    def left_ms(self) -> int:
        """How long until there is something to do."""
        moment = self._deadline_ns if self._probe_pid else self._next_ns
        return max(0, (moment - time.monotonic_ns() + 999_999) // 1_000_000)

    def act(self) -> None:
        """Begin a probe, or give one up that takes too long."""
        if self.left_ms():
            return
        if not self._probe_pid:
            self._begin()
            return
        self._end_probe()
        timeout_ns = self._number("Timeout", DEFAULT_TIMEOUT_NS)
        self._judge(-1, f"Health check exceeded timeout ({go_duration(timeout_ns)})")

    def take(self) -> None:
        """Read what the probe says; its end is its answer."""
        data = os.read(self.fd, 65536)
        if data:
            self._data += data
            return
        code, _, output = self._data.partition(b"\n")
        self._end_probe()
        known = code.removeprefix(b"-").isdigit()
        self._judge(int(code) if known else -1, output.decode("utf-8", "replace") if known else "the probe was killed")

    def close(self) -> None:
        """The container has ended."""
        if self._probe_pid:
            self._end_probe()

    def _begin(self) -> None:
        self._data = b""
        self._probe_started_ns = time.time_ns()
        self._deadline_ns = time.monotonic_ns() + self._number("Timeout", DEFAULT_TIMEOUT_NS)
        self.fd, write_fd = os.pipe2(os.O_CLOEXEC)
        self._probe_pid = os.fork()
        if self._probe_pid == 0:
            _probe(self._container, _argv(self._container, self._check["Test"]), write_fd)
        os.close(write_fd)
        if self._poll is not None:
            self._poll.register(self.fd, select.POLLIN)

    def _end_probe(self) -> None:
        from minidock.runtime.signals import SIGNALS

        if self._poll is not None:
            self._poll.unregister(self.fd)
        os.close(self.fd)
        self.fd = -1
        # A child of ours that nobody has waited for: its number cannot be another's.
        os.kill(self._probe_pid, SIGNALS["KILL"])
        os.waitpid(self._probe_pid, 0)
        self._probe_pid = 0

    def _judge(self, exit_code: int, output: str) -> None:
        """Put a result on record, and learn from it how the container is."""
        now_ns = time.time_ns()
        document = self.document
        result = {
            "Start": time_text(self._probe_started_ns),
            "End": time_text(now_ns),
            "ExitCode": exit_code,
            "Output": output,
        }
        document["Log"] = [*document["Log"], result][-KEPT_RESULTS:]
        if exit_code == 0:
            document["FailingStreak"] = 0
            document["Status"] = "healthy"
        else:
            spared_ns = self._number("StartPeriod", 0)
            if document["Status"] != "starting" or self._probe_started_ns - self._started_ns >= spared_ns:
                document["FailingStreak"] += 1
                if document["FailingStreak"] >= self._number("Retries", DEFAULT_RETRIES):
                    document["Status"] = "unhealthy"
        self._next_ns = time.monotonic_ns() + self._number("Interval", DEFAULT_INTERVAL_NS)
        self._save()

    def _save(self) -> None:
        try:
            replace_file(f"{self._container.path}/{HEALTH_FILE}", encode_json(self.document) + b"\n", 0o600)
        except OSError:
            # A full disk is no reason to stop the container; the next result may be kept again.
            return


def go_duration(span_ns: int) -> str:
    """A span as Go prints it: `1.5s`, `30s`, `1m0s`, `250ms`."""
    if span_ns < 1_000_000_000:
        return f"{span_ns / 1_000_000:g}ms"
    minutes, rest = divmod(span_ns, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{rest / 1_000_000_000:g}s"


def _probe(container: Container, argv: list[str], write_fd: int) -> NoReturn:
    """The forked process: join the container, gather the output, tell the exit code and that."""
    try:
        answer = _run(container, argv)
    except (MinidockError, OSError) as error:
        text = error.message if isinstance(error, MinidockError) else str(error)
        answer = b"-1\n" + text.encode("utf-8", "replace")
    except BaseException:  # noqa: BLE001 - nothing leaves a forked process but through _exit
        os._exit(1)
    try:
        view = memoryview(answer)
        while view:
            view = view[os.write(write_fd, view) :]
    finally:
        os._exit(0)


def _run(container: Container, argv: list[str]) -> bytes:
    import _signal  # type: ignore[import-not-found]

    from minidock.linux.process import SIGKILL, set_parent_death_signal
    from minidock.runtime.attach import open_process
    from minidock.runtime.join import exec_process
    from minidock.runtime.prepare import exec_spec

    _signal.set_wakeup_fd(-1)
    set_parent_death_signal(SIGKILL)
    container.reload()
    spec = exec_spec(container, argv, env=(), workdir="", user="", privileged=False, tty=False)
    pidfd = open_process(container.state.pid, container.state.start_time)
    if pidfd < 0:
        return b"-1\nthe container is not running"
    output_read, output_write = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    launched = exec_process(
        container.state.pid, pidfd, spec, stdin_fd=null, stdout_fd=output_write, stderr_fd=output_write
    )
    os.close(output_write)
    output = b""
    cut = b""
    while data := os.read(output_read, 65536):
        room = MAX_OUTPUT_BYTES - len(output)
        output += data[:room]
        if len(data) > room:
            cut = b"..."
    _, status = os.waitpid(launched.pid, 0)
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    return str(code).encode() + b"\n" + output + cut
