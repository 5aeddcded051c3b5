"""Containers that live in another container's namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.tool import PROJECT, Terminal, Tool, wait_until

BOX = "busybox:test"
NAMES = ("pid", "ipc", "uts", "mnt", "net", "cgroup")


def namespaces(tool: Tool, name: str) -> dict[str, str]:
    """The namespaces of a container's first process."""
    pid = tool.inspect(name)["State"]["Pid"]
    return {each: os.readlink(f"/proc/{pid}/ns/{each}") for each in NAMES}


@pytest.fixture
def donor(tool: Tool) -> Tool:
    tool.good("run", "-d", "--name", "donor", "--ipc", "shareable", "--hostname", "known", BOX, "sleep", "1000")
    return tool


def test_just_the_namespaces_that_were_asked_for(donor: Tool) -> None:
    theirs = namespaces(donor, "donor")
    for option in ("pid", "ipc", "uts"):
        donor.good("run", "-d", "--name", option, f"--{option}", "container:donor", BOX, "sleep", "1000")
        ours = namespaces(donor, option)
        assert [name for name in NAMES if ours[name] == theirs[name]] == [option]
        # a further process is where the container is
        inside = donor.good("exec", option, "sh", "-c", f"for n in {' '.join(NAMES)}; do readlink /proc/$$/ns/$n; done")
        assert inside.split() == list(ours.values())
    donor.good(
        "run",
        "-d",
        "--name",
        "all",
        *(f"--{each}=container:donor" for each in ("pid", "ipc", "uts")),
        BOX,
        "sleep",
        "9",
    )
    ours = namespaces(donor, "all")
    assert [name for name in NAMES if ours[name] == theirs[name]] == ["pid", "ipc", "uts"]


def test_processes_memory_and_name_are_shared(donor: Tool) -> None:
    """Seen through the container's own /proc, with all that keeps a container's /proc from harm in its place."""
    out = donor.good(
        "run", "--rm", "--pid", "container:donor", BOX, "sh", "-c", "cat /proc/1/cmdline; echo; echo $$; ps"
    )
    lines = out.splitlines()
    assert lines[0] == "sleep\x001000\0"
    assert int(lines[1]) > 1
    assert "sleep 1000" in out
    own = donor.good("run", "--rm", BOX, "sh", "-c", "mount | grep ' /proc'; cat /proc/keys; ls -l /dev/fd/0 | wc -l")
    joined = donor.good(
        "run", "--rm", "--pid", "container:donor", BOX, "sh", "-c",
        "mount | grep ' /proc'; cat /proc/keys; ls -l /dev/fd/0 | wc -l",
    )  # fmt: skip
    assert joined == own
    refused = donor(
        "run", "--rm", "--pid", "container:donor", BOX, "sh", "-c", "echo x > /proc/sys/kernel/core_pattern"
    )
    assert (refused.returncode, "Read-only file system" in refused.stderr) == (1, True)

    donor.good("run", "--rm", "--ipc", "container:donor", BOX, "sh", "-c", "echo word > /dev/shm/note")
    assert donor.good("exec", "donor", "cat", "/dev/shm/note") == "word"
    donor.good("run", "--rm", "--ipc", "container:donor", "--sysctl", "kernel.msgmax=4321", BOX, "true")
    assert donor.good("exec", "donor", "cat", "/proc/sys/kernel/msgmax") == "4321"
    assert donor.good("run", "--rm", "--uts", "container:donor", BOX, "hostname") == "known"


def test_mounts_read_only_root_and_devices_go_with_it(donor: Tool, scratch: Path) -> None:
    """What is mounted by a descriptor's name, in a container whose /proc does not show who prepares it."""
    (scratch / "host").mkdir()
    (scratch / "host" / "file").write_text("of the host\n")
    words = ("-v", f"{scratch}/host:/there:ro", "--tmpfs", "/data", "--device", "/dev/null:/dev/other", "--read-only")
    script = "cat /there/file; ! touch /there/x && ! touch /x && touch /data/x && ls /data /dev/other; stat -c %a /data"
    done = donor("run", "--rm", "--pid", "container:donor", *words, BOX, "sh", "-c", script)
    assert done.stdout.split("\n") == ["of the host", "/dev/other", "", "/data:", "x", "755", ""], done
    assert done.stderr.count("Read-only file system") == 2


def test_on_a_terminal(donor: Tool) -> None:
    terminal = Terminal(donor, "run", "-it", "--rm", "--pid", "container:donor", BOX, "sh")
    try:
        terminal.expect(b"# ")
        terminal.type(b"tty; cut -d' ' -f7,8 /proc/$$/stat; exit 3\n")
        terminal.expect(b"/dev/pts/0\r\n")
        number, group = terminal.expect(b"\r\n").split()
        assert int(number) > 0 and int(group) > 1, "it has a controlling terminal and is in its foreground"
        assert terminal.wait() == 3
    finally:
        terminal.close()


def test_it_ends_with_the_other_s_first_process(donor: Tool) -> None:
    donor.good("run", "-d", "--name", "guest", "--pid", "container:donor", BOX, "sleep", "1000")
    donor.good("stop", "-t", "0", "donor")
    assert donor.good("wait", "guest") == "137"
    done = donor("start", "-a", "guest")
    identity = donor.inspect("donor")["Id"]
    assert (done.returncode, done.stderr) == (1, f"minidock: container {identity} is not running\n")
    donor.good("start", "donor")
    donor.good("start", "guest")
    assert namespaces(donor, "guest")["pid"] == namespaces(donor, "donor")["pid"], "found anew at each start"


def test_its_own_policy_finds_the_other_s_new_process(donor: Tool) -> None:
    donor.good("run", "-d", "--name", "guest", "--ipc", "container:donor", "--restart", "always", BOX, "sleep", "1000")
    before = donor.inspect("guest")["State"]["Pid"]
    donor.good("restart", "-t", "0", "donor")
    os.kill(before, 9)

    def is_back() -> bool:
        state = donor.inspect("guest")["State"]
        return state["Status"] == "running" and state["Pid"] not in (0, before)

    wait_until(is_back, "the restart")
    assert namespaces(donor, "guest")["ipc"] == namespaces(donor, "donor")["ipc"]


def test_records_name_the_container_by_its_id(donor: Tool) -> None:
    identity = donor.inspect("donor")["Id"]
    donor.good(
        "create", "--name", "guest", *(f"--{each}=container:donor" for each in ("pid", "ipc", "uts")), BOX, "true"
    )
    host = donor.inspect("guest")["HostConfig"]
    assert {host["PidMode"], host["IpcMode"], host["UTSMode"]} == {f"container:{identity}"}
    donor.good("rename", "donor", "renamed")
    donor.good("start", "-a", "guest")
    donor.good("rm", "-f", "renamed")
    done = donor("start", "-a", "guest")
    words = f"minidock: cannot join PID of a non running container: {identity}: No such container: {identity}"
    assert (done.returncode, done.stderr.startswith(words), done.stderr.count("\n")) == (1, True, 1), done.stderr


REFUSED = (
    (("--pid", "container:nope"), "No such container: nope"),
    (("--pid", "container:"), "--pid: invalid PID mode"),
    (("--pid", "container"), "--pid: invalid PID mode"),
    (("--pid", "container:a:b"), "--pid: invalid PID mode"),
    (("--ipc", "container:"), 'can\'t join IPC of container : invalid name or ID supplied: ""'),
    (("--ipc", "bogus"), "Invalid IPC mode: bogus"),
    (("--uts", "container:nope"), "No such container: nope"),
    (("--uts", "container:donor", "--hostname", "x"), "conflicting options: hostname and the UTS mode"),
    (("--ipc", "container:private"), "non-shareable IPC (hint: use IpcMode:shareable for the donor container)"),
    (("--ipc", "container:none"), "non-shareable IPC (hint: use IpcMode:shareable for the donor container)"),
    (("--pid", "container:still"), " is not running"),
    (("--ipc", "container:still"), " is not running"),
)


def test_refusals_leave_nothing(donor: Tool) -> None:
    donor.good("run", "-d", "--name", "private", BOX, "sleep", "1000")
    donor.good("run", "-d", "--name", "none", "--ipc", "none", BOX, "sleep", "1000")
    donor.good("create", "--name", "still", BOX, "true")
    before = donor.good("ps", "-aq")
    for words, message in REFUSED:
        done = donor("run", "--rm", *words, BOX, "true")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (125, "", 1), (words, done)
        assert message in done.stderr, words
    assert donor.good("ps", "-aq") == before


def test_no_shared_memory_at_all(tool: Tool) -> None:
    assert tool.good("run", "--rm", "--ipc", "none", BOX, "sh", "-c", "ls /dev") == tool.good(
        "run", "--rm", BOX, "sh", "-c", "ls /dev | grep -v shm"
    )


def test_a_container_with_ptrace_sees_nothing_of_who_prepares_its_guests(donor: Tool) -> None:
    """The guest appears in the other's pid namespace with the guest's own capabilities, and not a moment sooner."""
    watch = (
        "while read -r key value; do case $key in CapPrm:) own=$value;; esac; done < /proc/1/status; "
        "echo $own > /own; while :; do for p in /proc/[2-9] /proc/[1-9][0-9]*; do "
        "while read -r key value; do case $key in CapPrm:) [ $value = $own ] || echo $value >> /caught; break;; esac; "
        "done < $p/status; done; done 2>/dev/null"
    )
    donor.good("run", "-d", "--name", "watcher", "--cap-add", "SYS_PTRACE", BOX, "sh", "-c", watch)
    for _ in range(10):
        donor.good("run", "--rm", "--cap-add", "SYS_PTRACE", "--pid", "container:watcher", BOX, "true")
    assert donor.good("exec", "watcher", "sh", "-c", "cat /own; cat /caught 2>/dev/null; true") == "00000000a80c25fb"


def test_where_no_program_can_be_put_in_between(donor: Tool) -> None:
    """Another architecture, or a kernel without executable memfds: cloned right into the namespace."""
    code = f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
from minidock.runtime import trampoline
trampoline.MACHINE = "another"
sys.argv = ["minidock", "run", "--rm", "--pid", "container:donor", "{BOX}", "sh", "-c", "readlink /proc/$$/ns/pid; ps"]
from minidock.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        env=donor.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[0] == namespaces(donor, "donor")["pid"], done
    assert "sleep 1000" in done.stdout
