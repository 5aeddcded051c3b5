"""Who still lives: containers whose monitor was killed, and commands of two pid namespaces that share a data root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_userns import MODE
from tests.integration.tool import PROJECT, Tool, command, wait_until

pytestmark = pytest.mark.usefixtures("subordinate_ids")

BOX = "busybox:test"
# A change of user clears the parent-death signal, and nobody ties the process to its monitor anew.
CLEARED = ("busybox", "su", "alice", "-s", "/bin/sh", "-c", "exec sleep 1000")


@pytest.fixture
def orphan(tool: Tool) -> Tool:
    """A container whose first process outlives its monitor."""
    tool.good("run", "-d", "--name", "box", BOX, *CLEARED)
    kill_monitor(tool)
    return tool


def kill_monitor(tool: Tool) -> None:
    """SIGKILL, once the container has let go of it."""
    record = tool.record("box")
    wait_until(lambda: "1000" in Path(f"/proc/{record['Pid']}/status").read_text().split("Uid:")[1][:20], "su")
    monitor = os.pidfd_open(record["MonitorPid"])
    signal.pidfd_send_signal(monitor, signal.SIGKILL)
    wait_until(lambda: not is_alive(record["MonitorPid"]), "the monitor's end")
    os.close(monitor)
    assert is_alive(record["Pid"])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_orphan_is_what_it_is(orphan: Tool) -> None:
    pid = orphan.record("box")["Pid"]
    assert orphan.status("box") == "running"
    assert orphan.good("ps", "--format", "{{.Names}} {{.State}}") == "box running"
    assert orphan.good("exec", "box", "id", "-u") == "0"
    assert orphan("rm", "box").returncode == 1
    orphan.good("exec", "box", "touch", "/made")
    assert "A /made" in orphan.good("diff", "box")
    orphan.good("commit", "box", "kept:1")
    orphan.good("pause", "box")
    assert orphan.status("box") == "paused"
    orphan.good("unpause", "box")
    assert orphan.good("start", "box") == "box", "as with any that runs"
    assert orphan.record("box")["Pid"] == pid
    waiting = orphan.start("wait", "box", stdout=subprocess.PIPE)
    orphan.good("stop", "-t", "0", "box")
    assert waiting.communicate(timeout=30)[0] == b"137\n"
    state = orphan.inspect("box")["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", 137, 0)
    assert not is_alive(pid)
    orphan.good("start", "box")
    assert orphan.status("box") == "running"
    assert orphan.good("run", "--rm", "kept:1", "ls", "/made") == "/made"


@pytest.mark.parametrize("verb", [("rm", "-f"), ("kill",), ("restart", "-t", "0")])
def test_an_orphan_is_ended_like_any_other(orphan: Tool, verb: tuple[str, ...]) -> None:
    pid = orphan.record("box")["Pid"]
    orphan.good(*verb, "box")
    assert not is_alive(pid)
    expected = {"rm": "", "kill": "box exited", "restart": "box running"}[verb[0]]
    assert orphan.good("ps", "-a", "--format", "{{.Names}} {{.State}}") == expected


def test_an_orphan_with_a_restart_policy_has_nobody_to_keep_it(tool: Tool) -> None:
    """It runs on, and once it has ended that is what is told, until somebody starts it again."""
    tool.good("run", "-d", "--name", "box", "--restart", "always", BOX, *CLEARED)
    kill_monitor(tool)
    assert tool.status("box") == "running"
    os.kill(tool.record("box")["Pid"], signal.SIGKILL)
    wait_until(lambda: tool.status("box") == "exited", "the end")
    assert tool.inspect("box")["State"]["ExitCode"] == 137
    tool.good("start", "box")
    tool.good("stop", "-t", "0", "box")
    assert tool.status("box") == "exited"


def test_an_orphan_of_rm_goes_with_the_next_command(tool: Tool) -> None:
    tool.good("run", "-d", "--rm", "--name", "box", BOX, *CLEARED)
    kill_monitor(tool)
    assert tool.good("ps", "--format", "{{.Names}}") == "box"
    tool.good("stop", "-t", "0", "box")
    tool.good("create", "--name", "next", BOX, "true")
    assert tool.good("ps", "-a", "--format", "{{.Names}}") == "next"


def test_a_container_of_any_kind_ends_with_its_monitor(tool: Tool) -> None:
    """The parent-death signal outlives the changes of user and the clones on the way to the program."""
    tool.good("run", "-d", "--name", "donor", BOX, "sleep", "1000")
    kinds: list[tuple[str, ...]] = [
        ("--userns", MODE),
        ("--userns", MODE, "--user", "1000"),
        ("--pid", "container:donor"),
        ("--user", "1000"),
        ("--init",),
    ]
    for words in kinds:
        tool.good("run", "-d", "--name", "box", *words, BOX, "sleep", "1000")
        record = tool.record("box")
        os.kill(record["MonitorPid"], signal.SIGKILL)
        wait_until(lambda pid=record["Pid"]: not is_alive(pid), f"the end of {words}")
        state = tool.inspect("box")["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 137), words
        tool.good("rm", "box")
    assert tool.status("donor") == "running"


class Elsewhere:
    """A shell in another pid namespace, with a /proc of its own, for commands on the same data root."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "1000"], start_new_session=True
        )
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.inside = int(wait_until(lambda: children.read_text().split(), "the first process there")[0])
        wait_until(lambda: Path(f"/proc/{self.inside}/comm").read_text() == "sleep\n", "its program")

    def words(self, *words: str) -> list[str]:
        return ["nsenter", "--target", str(self.inside), "--pid", "--mount", *words]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*command(*words)),
            env=self.tool.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def elsewhere(tool: Tool) -> Iterator[Elsewhere]:
    made = Elsewhere(tool)
    yield made
    made.close()


def test_a_container_runs_wherever_one_looks_from(tool: Tool, elsewhere: Elsewhere) -> None:
    """What cannot be done from there is refused; nothing takes it for dead, and no layer is mounted twice."""
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "1000")
    pid = tool.record("box")["Pid"]
    assert elsewhere("ps", "--format", "{{.Names}} {{.State}}").stdout == "box running\n"
    for words in (
        ("stop", "box"),
        ("kill", "box"),
        ("rm", "-f", "box"),
        ("exec", "box", "true"),
        ("pause", "box"),
        ("unpause", "box"),
        ("top", "box"),
        ("restart", "box"),
        ("cp", "box:/etc/passwd", "-"),
        ("export", "box"),
        ("run", "--rm", "--pid", "container:box", BOX, "true"),
        ("attach", "box"),
    ):
        done = elsewhere(*words)
        assert done.returncode != 0, words
        assert "is run from another pid namespace" in done.stderr, (words, done)
        assert len(done.stderr.splitlines()) == 1, (words, done)
    assert "You cannot remove a running container" in elsewhere("rm", "box").stderr
    assert elsewhere("start", "box").returncode == 0, "it runs already"
    assert elsewhere("commit", "box", "seen:1").returncode == 0
    elsewhere("container", "prune", "-f")
    assert (tool.status("box"), tool.record("box")["Pid"], is_alive(pid)) == ("running", pid, True)
    assert tool.good("exec", "box", "echo", "well") == "well"
    waiting = subprocess.Popen(
        elsewhere.words(*command("wait", "box")), env=tool.environment, stdout=subprocess.PIPE, text=True
    )
    tool.good("stop", "-t", "0", "box")
    assert waiting.communicate(timeout=30)[0] == "137\n"
    assert elsewhere("ps", "-a", "--format", "{{.Names}} {{.State}}").stdout == "box exited\n"


def test_and_the_other_way_round_until_that_namespace_is_gone(tool: Tool, elsewhere: Elsewhere) -> None:
    assert elsewhere("run", "-d", "--name", "box", "--restart", "always", BOX, "sleep", "1000").returncode == 0
    assert tool.status("box") == "running"
    assert "is run from another pid namespace" in tool("stop", "box").stderr
    elsewhere.close()
    # the kernel has killed everything that lived there, the monitor among them
    wait_until(lambda: tool.status("box") == "exited", "the end")
    assert tool.inspect("box")["State"]["ExitCode"] == 137
    tool.good("start", "box")
    assert tool.status("box") == "running"


STAGE = """
import sys
sys.path.insert(0, sys.argv[1])
from minidock.store.root import DataRoot
with DataRoot.open(sys.argv[2]) as root, root.stage() as stage:
    with open(stage.new_path("file"), "w") as file:
        file.write("made here")
    print(stage.path, flush=True)
    sys.stdin.read()
print("left in peace", flush=True)
"""


def test_a_stage_is_swept_only_when_its_owner_is_gone(tool: Tool, elsewhere: Elsewhere) -> None:
    """Seen from another pid namespace, where its owner's number is nobody's or another one's."""
    words = elsewhere.words(sys.executable, "-I", "-S", "-c", STAGE, str(PROJECT), str(tool.root))
    owners = []
    for _ in range(2):
        owner = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None and owner.stdin is not None
        owners.append((owner, Path(owner.stdout.readline().strip())))
    (peaceful, kept), (killed, lost) = owners
    tool.good("tag", BOX, "again:1")
    assert (kept / "1-file").read_text() == "made here"
    assert lost.is_dir()
    # its pid is that of nsenter, which has become the owner
    children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    os.kill(int(children[0]) if children else killed.pid, signal.SIGKILL)
    killed.wait(30)
    wait_until(lambda: tool("tag", BOX, "again:2").returncode == 0 and not lost.exists(), "the sweep")
    assert (kept / "1-file").exists()
    shown, _ = peaceful.communicate("", timeout=30)
    assert (shown, peaceful.returncode) == ("left in peace\n", 0)
    assert not kept.exists()
    assert list((tool.root / "minidock/stage").iterdir()) == []
