"""run -it on a real terminal: keys, size, detaching, and the terminal afterwards, whatever happened (D8)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.tool import Terminal, Tool, wait_until

BOX = "busybox:test"
READY = ("sh", "-c", "echo rea''dy; exec sh")


@pytest.fixture
def terminal(tool: Tool) -> Iterator[Callable[..., Terminal]]:
    """Make terminals that are closed at the end."""
    made: list[Terminal] = []

    def make(*words: str, **options: Any) -> Terminal:
        made.append(Terminal(tool, *words, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_shell_with_echo_size_and_exit_code(tool: Tool, terminal: Callable[..., Terminal]) -> None:
    shell = terminal("run", "-it", "--rm", BOX, *READY, rows=31, columns=97)
    shell.expect(b"ready\r\n")
    assert not shell.is_restored()
    shell.type(b"stty size; tty; echo $TERM\n")
    shell.expect(b"31 97\r\n")
    shell.expect(b"/dev/pts/0\r\nxterm\r\n")
    shell.resize(10, 20)
    shell.type(b"stty size\n")
    shell.expect(b"10 20\r\n")
    shell.type(b"exit 5\n")
    assert shell.wait() == 5
    assert shell.is_restored()


def test_ctrl_c_goes_to_the_program_inside(terminal: Callable[..., Terminal]) -> None:
    shell = terminal("run", "-it", "--rm", BOX, *READY)
    shell.expect(b"ready\r\n")
    shell.type(b"sh -c 'echo sle''eping; exec sleep 100'\n")
    shell.expect(b"sleeping\r\n")
    shell.type(b"\x03")
    shell.type(b"echo a''live\n")
    shell.expect(b"alive\r\n")
    # At its prompt the shell reads keys one by one; before that the kernel would swallow the key.
    shell.expect(b"# ")
    shell.type(b"\x04")
    shell.wait()
    assert shell.is_restored()


def test_detach_keys_leave_the_container_running(tool: Tool, terminal: Callable[..., Terminal]) -> None:
    shell = terminal("run", "-it", "--name", "box", BOX, *READY)
    shell.expect(b"ready\r\n")
    shell.type(b"\x10\x11")
    assert shell.wait() == 0
    assert shell.is_restored()
    assert tool.status("box") == "running"
    assert tool.good("exec", "box", "echo", "here") == "here"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_the_terminal_is_restored_when_the_starter_gets_a_signal(
    tool: Tool, terminal: Callable[..., Terminal], number: int
) -> None:
    trap = "trap 'exit 7' TERM HUP INT QUIT; echo rea''dy; while :; do sleep 0.1; done"
    shell = terminal("run", "-it", "--name", "box", BOX, "sh", "-c", trap)
    shell.expect(b"ready\r\n")
    os.kill(shell.process.pid, number)
    shell.wait()
    # After SIGKILL it is the monitor that restores, and it needs a moment to see that the starter has gone.
    wait_until(shell.is_restored, "the terminal's settings")
    if number == signal.SIGKILL:
        assert tool.status("box") == "running"
    else:
        assert shell.process.returncode == 7


def test_the_terminal_is_restored_when_the_monitor_is_killed(tool: Tool, terminal: Callable[..., Terminal]) -> None:
    shell = terminal("run", "-it", "--name", "box", BOX, *READY)
    shell.expect(b"ready\r\n")
    os.kill(tool.record("box")["MonitorPid"], signal.SIGKILL)
    assert shell.wait() == 137
    assert shell.is_restored()
    assert tool.status("box") == "exited"


def test_the_terminal_is_restored_when_the_container_is_killed(tool: Tool, terminal: Callable[..., Terminal]) -> None:
    shell = terminal("run", "-it", "--name", "box", BOX, *READY)
    shell.expect(b"ready\r\n")
    tool.good("kill", "box")
    assert shell.wait() == 137
    assert shell.is_restored()


@pytest.mark.parametrize("words", [("stop", "-t", "1"), ("rm", "-f"), ("kill", "-s", "SEGV"), ("restart", "-t", "0")])
def test_the_terminal_is_restored_when_another_command_ends_the_container(
    tool: Tool, terminal: Callable[..., Terminal], words: tuple[str, ...]
) -> None:
    shell = terminal("run", "-it", "--init", "--name", "box", BOX, *READY)
    shell.expect(b"ready\r\n")
    assert not shell.is_restored()
    tool.good(*words, "box")
    assert shell.wait() >= 128
    assert shell.is_restored()


def test_the_terminal_is_restored_when_init_itself_is_killed(tool: Tool, terminal: Callable[..., Terminal]) -> None:
    shell = terminal("run", "-it", "--init", "--name", "box", BOX, *READY)
    shell.expect(b"ready\r\n")
    os.kill(tool.record("box")["Pid"], signal.SIGKILL)
    assert shell.wait() == 137
    assert shell.is_restored()


@pytest.mark.parametrize("whom", ["starter", "container"])
def test_the_terminal_is_restored_after_an_exec_that_was_killed(
    tool: Tool, terminal: Callable[..., Terminal], whom: str
) -> None:
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "1000")
    shell = terminal("exec", "-it", "box", *READY)
    shell.expect(b"ready\r\n")
    assert not shell.is_restored()
    if whom == "starter":
        os.kill(shell.process.pid, signal.SIGKILL)
        shell.wait()
    else:
        tool.good("kill", "box")
        assert shell.wait() == 137
    wait_until(shell.is_restored, "the terminal's settings")


def test_the_terminal_is_restored_when_the_command_cannot_start(terminal: Callable[..., Terminal]) -> None:
    shell = terminal("run", "-it", "--rm", BOX, "nosuch")
    assert shell.wait() == 127
    assert shell.is_restored()


def test_what_was_typed_is_in_the_log(tool: Tool, terminal: Callable[..., Terminal]) -> None:
    shell = terminal("run", "-it", "--name", "box", BOX, *READY)
    shell.expect(b"ready\r\n")
    shell.type(b"exit\n")
    shell.wait()
    log = next(tool.directory("box").glob("*-json.log")).read_text()
    assert log.startswith('{"log":"ready\\r\\n","stream":"stdout"')


def test_exec_with_a_terminal(tool: Tool, terminal: Callable[..., Terminal]) -> None:
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "100")
    shell = terminal("exec", "-it", "box", *READY, rows=40, columns=50)
    shell.expect(b"ready\r\n")
    shell.type(b"stty size; tty\n")
    shell.expect(b"40 50\r\n/dev/pts/")
    shell.type(b"exit 9\n")
    assert shell.wait() == 9
    assert shell.is_restored()


def test_a_tty_without_input(tool: Tool) -> None:
    done = tool("run", "-t", "--rm", BOX, "sh", "-c", "test -t 1 && echo tty", stdin=-3)
    assert (done.returncode, done.stdout) == (0, "tty\n")


def test_detached_with_a_terminal(tool: Tool) -> None:
    tool.good("run", "-dit", "--name", "box", BOX, "sh")
    assert tool.status("box") == "running"
    assert tool.good("exec", "box", "sh", "-c", "readlink /proc/1/fd/0") == "/dev/pts/0"
    tool.good("kill", "box")
