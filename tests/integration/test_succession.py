"""A monitor that is left alone becomes a small program; its container, and who comes later, see nothing of it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minidock.runtime.carry import ALONE_MS
from minidock.runtime.succession import MODULES, MORE
from tests.integration.netns import fetch
from tests.integration.tool import PROJECT, Terminal, Tool, wait_until

pytestmark = pytest.mark.root
BOX = "busybox:test"
QUIET = ("--network", "none", BOX)
LIMIT_KIB = 4 << 10


def is_small(pid: int) -> bool:
    """Whether this monitor has become the small program, and come to rest."""
    place = Path(f"/proc/{pid}")
    return b"succession" in (place / "cmdline").read_bytes() and "poll" in (place / "wchan").read_text()


def await_small(tool: Tool, name: str) -> int:
    """The monitor's pid, once it is small."""
    pid = int(tool.record(name)["MonitorPid"])
    wait_until(lambda: is_small(pid), "the monitor to become small", timeout_s=60)
    return pid


def descriptors(pid: int) -> list[str]:
    """What a process has open, by what it is; numbers of pipes and sockets left out."""
    folder = f"/proc/{pid}/fd"
    return sorted(os.readlink(f"{folder}/{fd}").partition("[")[0] for fd in os.listdir(folder))


def private_kib(pid: int) -> int:
    """The memory that a process shares with nobody and has not on disk."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))


def test_the_process_stays_what_it_is_and_becomes_small(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", *QUIET, "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done")
    before = tool.record("box")
    pid = await_small(tool, "box")
    kept = descriptors(pid)
    assert [one for one in kept if "memfd" in one or "python" in one] == []
    assert len(kept) == 3 + len(("root", "life", "log", "pidfd", "stdout", "stderr", "wake", "wake"))
    assert private_kib(pid) <= LIMIT_KIB
    status = Path(f"/proc/{pid}/status").read_text()
    assert "SigBlk:\t0000000000000000" in status
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(pid, number)
    assert tool.record("box") == before
    tool.good("stop", "box")
    assert tool.inspect("box")["State"]["ExitCode"] == 7
    assert tool.groups_of(tool.inspect("box")["Id"]) == []


def test_a_line_of_the_log_goes_on_where_it_stood(tool: Tool) -> None:
    tool.good("run", "-d", "-i", "--name", "box", "--log-opt", "max-size=1m", *QUIET, "sh", "-c", "printf half; read x")
    await_small(tool, "box")
    assert tool.good("logs", "box") == ""
    attached = tool.start("attach", "box", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert attached.communicate(b"word\n", timeout=30)[0] == b""
    assert attached.returncode == 0
    assert tool.good("logs", "box") == "half"


def test_a_detached_terminal_is_found_again(tool: Tool) -> None:
    terminal = Terminal(tool, "run", "-it", "--name", "box", *QUIET, "sh")
    terminal.expect(b"# ")
    terminal.type(b"\x10\x11")
    terminal.wait()
    terminal.close()
    await_small(tool, "box")
    again = Terminal(tool, "attach", "box")
    again.type(b"echo $((6*7))\n")
    again.expect(b"42")
    again.type(b"exit 5\n")
    assert again.wait() == 5
    again.close()


def test_a_killed_starter_leaves_a_small_monitor(tool: Tool) -> None:
    starter = tool.start("run", "--rm", "--name", "box", *QUIET, "sleep", "1000", stdout=subprocess.DEVNULL)
    wait_until(lambda: tool("inspect", "box").returncode == 0 and tool.status("box") == "running", "the start")
    starter.kill()
    starter.wait()
    await_small(tool, "box")
    waiting = tool.start("wait", "box", stdout=subprocess.PIPE)
    tool.good("kill", "box")
    assert waiting.communicate(timeout=30)[0].strip() in (b"137", b"")
    wait_until(lambda: tool("inspect", "box").returncode == 1, "the removal")


def test_a_restart_finds_its_network_and_ports(tool: Tool) -> None:
    serve = "mkdir -p /www && echo served >/www/index.html && exec busybox httpd -f -p 80 -h /www"
    port = ("-p", "127.0.0.1:18099:80")
    tool.good("run", "-d", "--name", "box", "--restart", "on-failure:3", *port, BOX, "sh", "-c", serve)
    await_small(tool, "box")
    address = tool.inspect("box")["NetworkSettings"]["IPAddress"]
    first = tool.record("box")["Pid"]
    assert tool("run", "--rm", *port, BOX, "true").returncode == 125
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: tool.status("box") == "running" and tool.record("box")["Pid"] != first, "the restart")
    found = tool.inspect("box")
    assert (found["RestartCount"], found["NetworkSettings"]["IPAddress"]) == (1, address)
    assert wait_until(lambda: fetch("127.0.0.1", 18099), "an answer from the published port") == b"served\n"
    await_small(tool, "box")
    assert tool("run", "--rm", *port, BOX, "true").returncode == 125
    tool.good("rm", "-f", "box")
    tool.good("run", "--rm", *port, BOX, "true")


def test_the_monitor_of_a_detached_exec_becomes_small(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", *QUIET, "sleep", "1000")
    pid = await_small(tool, "box")
    tool.good("exec", "-d", "box", "sleep", "1000")

    def other() -> int:
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes()
                children = Path(f"/proc/{entry}/task/{entry}/children").read_text().split()
                groups = [Path(f"/proc/{child}/cgroup").read_text() for child in children]
            except OSError:
                continue
            if b"succession" in words and int(entry) != pid and any(tool.inspect("box")["Id"] in one for one in groups):
                return int(entry)
        return 0

    monitor = wait_until(other, "the monitor of the exec to become small", timeout_s=60)
    tool.good("kill", "box")
    wait_until(lambda: not Path(f"/proc/{monitor}").exists(), "its end")


PROGRAM = """
import sys
from minidock.store.root import DataRoot
from minidock.verbs.options import CreateOptions
from minidock.verbs.run import run
sys.executable = sys.argv[2] or sys.executable
ballast = bytearray(b"x") * (64 << 20)
with DataRoot.open(sys.argv[1]) as root:
    run(root, "busybox:test", ["sleep", "1000"], CreateOptions(name="box", network="none"), detach=True)
"""


def start_from_a_program(tool: Tool, executable: str = "") -> None:
    words = [sys.executable, "-c", PROGRAM, str(tool.root), executable]
    subprocess.run(words, cwd=PROJECT, check=True, timeout=60)


def test_the_memory_of_the_calling_program_is_not_kept(tool: Tool) -> None:
    start_from_a_program(tool)
    assert private_kib(await_small(tool, "box")) <= LIMIT_KIB
    tool.good("stop", "-t", "0", "box")
    assert tool.inspect("box")["State"]["ExitCode"] == 137


@pytest.mark.parametrize("executable", ["/nowhere/python3", "/bin/true"])
def test_where_no_interpreter_can_be_executed_the_monitor_stays_as_it_is(tool: Tool, executable: str) -> None:
    start_from_a_program(tool, executable)
    pid = tool.record("box")["MonitorPid"]
    before = descriptors(pid)
    # Longer than a monitor waits.
    tool.good("exec", "box", "sleep", str(2 * ALONE_MS / 1000))
    assert private_kib(pid) > 64 << 10
    assert descriptors(pid) == before
    assert "SigBlk:\t0000000000000000" in Path(f"/proc/{pid}/status").read_text()
    tool.good("stop", "-t", "0", "box")
    assert tool.inspect("box")["State"]["ExitCode"] == 137


def test_what_it_loads_it_has_been_given() -> None:
    program = f"import sys; sys.path.append({str(PROJECT)!r}); import minidock.runtime.succession; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if name.partition(".")[0] == "minidock"} == set(MODULES)
    for name in MORE:
        assert importlib.util.find_spec(name) is not None, name


@pytest.mark.parametrize("change", ["removed", "touched"])
def test_an_upgrade_at_that_moment_does_no_harm(tool: Tool, scratch: Path, change: str) -> None:
    shutil.copytree(PROJECT / "minidock", scratch / "minidock")
    program = f"import sys; sys.path.insert(0, {str(scratch)!r}); sys.argv[0] = 'minidock'\n"
    program += "from minidock.__main__ import main; main()"
    words = [sys.executable, "-I", "-S", "-c", program, "run", "-d", "--name", "box", *QUIET, "sleep", "1000"]
    subprocess.run(words, env=tool.environment, check=True, stdout=subprocess.DEVNULL)
    pid = tool.record("box")["MonitorPid"]
    if change == "removed":
        shutil.rmtree(scratch / "minidock")
    else:
        for source in (scratch / "minidock").rglob("*.py"):
            source.write_text("raise SystemExit('half an upgrade')")
    # Longer than a monitor waits.
    tool.good("exec", "box", "sleep", str(2 * ALONE_MS / 1000))
    assert tool.record("box")["MonitorPid"] == pid
    tool.good("kill", "box")
    tool.good("rm", "box")
