"""A container's life: start, stop, kill, wait, rm, and every process of ours dying in between (D9, E2, F6, F7)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from minidock.formats.containerconfig import time_of
from minidock.runtime.prepare import overlay_marks
from minidock.store.root import DataRoot
from tests.builders import ImageSpec, busybox_layer, docker_archive, image_config
from tests.integration.tool import Tool, wait_until
from tests.patience import patience

BOX = "busybox:test"
NEVER = "0001-01-01T00:00:00Z"


def run_box(tool: Tool, *words: str) -> dict[str, int]:
    """Start the container `box` in the background; its state record."""
    tool.good("run", "-d", "--name", "box", *words, BOX, "sleep", "100")
    record: dict[str, int] = tool.record("box")
    return record


def test_create_start_wait_rm(tool: Tool) -> None:
    made = tool.good("create", "--name", "box", BOX, "sh", "-c", "echo again; exit 3")
    state = tool.inspect("box")["State"]
    assert (state["Status"], state["StartedAt"], state["FinishedAt"]) == ("created", NEVER, NEVER)
    for _ in range(2):
        assert tool.good("start", "box") == "box"
        assert tool.good("wait", "box") == "3"
        state = tool.inspect("box")["State"]
        assert (state["Status"], state["ExitCode"], state["Running"]) == ("exited", 3, False)
        assert NEVER < state["StartedAt"] < state["FinishedAt"]
    done = tool("start", "-a", "box")
    assert (done.returncode, done.stdout) == (3, "again\n")
    assert tool.good("rm", made[:12]) == made[:12]
    assert tool.good("ps", "-aq") == ""


def test_what_was_written_is_there_after_a_restart(tool: Tool) -> None:
    tool("run", "--name", "box", BOX, "sh", "-c", "test -e /mark && exec cat /mark; echo kept > /mark")
    assert tool.good("start", "-a", "box") == "kept"


def test_only_what_others_have_run_is_searched_for_overlay_marks(tool: Tool) -> None:
    """A start notes when it was, so that the next one need not walk the upper directory."""
    run_box(tool)
    tool.good("kill", "box")
    wait_until(lambda: tool.status("box") == "exited", "the end")
    started = tool.inspect("box")["State"]["StartedAt"]
    assert int((tool.directory("box") / "minidock.life").read_text()) == time_of(started)
    with DataRoot.open(str(tool.root)) as root:
        container = root.containers.get("box")
        upper = root.layers.diff_path(container.layer.mount_id)
        os.mkdir(f"{upper}/moved")
        os.setxattr(f"{upper}/moved", "trusted.overlay.redirect", b"/data")
        assert overlay_marks(container) == ""
        container.state.started_ns += 1
        assert overlay_marks(container) == "redirect"


def test_start_of_a_running_container_changes_nothing(tool: Tool) -> None:
    record = run_box(tool)
    assert tool.good("start", "box") == "box"
    assert tool.record("box") == record


@pytest.mark.many
def test_fifty_starts_at_once_mount_one_upper_directory_once(tool: Tool) -> None:
    tool.good("create", "--name", "box", BOX, "sh", "-c", "echo start >> /starts; exec sleep 100")
    starters = [tool.start("start", "box", stdout=subprocess.DEVNULL) for _ in range(50)]
    assert [starter.wait(patience(60)) for starter in starters] == [0] * 50
    assert tool.good("exec", "box", "cat", "/starts") == "start"


def test_stop_asks_first_and_kills_then(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "kind", BOX, "sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done")
    run_box(tool)
    begun = time.monotonic()
    tool.good("stop", "-t", "30", "kind")
    assert time.monotonic() - begun < 20
    assert tool.inspect("kind")["State"]["ExitCode"] == 9
    tool.good("stop", "-t", "1", "box")
    assert tool.inspect("box")["State"]["ExitCode"] == 137
    # stopping what does not run is fine
    assert tool.good("stop", "box") == "box"


def test_stop_sends_the_image_s_own_signal(tool: Tool, scratch: Path) -> None:
    layer = busybox_layer()
    config = image_config([layer], config={"StopSignal": "SIGUSR1"})
    archive = docker_archive(scratch / "usr1.tar", ImageSpec([layer], tags=["usr1:test"], config=config))
    tool.good("load", "-i", archive)
    tool.good("run", "-d", "--name", "box", "usr1:test", "sh", "-c", "trap 'exit 4' USR1; while :; do sleep 0.05; done")
    tool.good("stop", "-t", "20", "box")
    assert tool.inspect("box")["State"]["ExitCode"] == 4


@pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "10"])
def test_kill_sends_any_signal(tool: Tool, name: str) -> None:
    tool.good(
        "run", "-d", "--name", "box", BOX, "sh", "-c", "trap 'exit 5' USR1; touch /on; while :; do sleep 0.05; done"
    )
    wait_until(lambda: tool("exec", "box", "cat", "/on").returncode == 0, "the trap")
    tool.good("kill", "-s", name, "box")
    assert tool.good("wait", "box") == "5"
    assert tool("kill", "-s", "NOPE", "box").stderr.count("Invalid signal: NOPE") == 1


def test_attached_signals_are_passed_on(tool: Tool) -> None:
    script = "trap 'exit 6' TERM; echo on; while :; do sleep 0.05; done"
    with tool.start("run", "--name", "box", BOX, "sh", "-c", script, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"on\n"
        starter.send_signal(signal.SIGTERM)
        assert starter.wait(patience(15)) == 6


def test_running_containers_are_not_removed_without_force(tool: Tool) -> None:
    record = run_box(tool)
    done = tool("rm", "box")
    assert done.returncode == 1
    assert "You cannot remove a running container" in done.stderr
    assert tool.record("box") == record
    identity = tool.inspect("box")["Id"]
    assert tool.good("rm", "-f", "box") == "box"
    assert tool.groups_of(identity) == []
    assert tool("rm", "box").stderr.count("No such container: box") == 1


def test_a_removed_container_with_rm_tells_its_waiters(tool: Tool) -> None:
    tool.good("run", "-d", "--rm", "--name", "box", BOX, "sh", "-c", "while ! test -e /go; do sleep 0.05; done; exit 8")
    waiters = [tool.start("wait", "box", stdout=subprocess.PIPE) for _ in range(3)]
    followers = [tool.start("logs", "-f", "box", stdout=subprocess.PIPE)]
    for waiter in waiters:
        wait_until(lambda one=waiter: _waits(one.pid), "the waiter to wait")
    tool.good("exec", "box", "touch", "/go")
    assert [waiter.communicate(timeout=patience(15))[0] for waiter in waiters] == [b"8\n"] * 3
    assert [follower.communicate(timeout=patience(15))[0] for follower in followers] == [b""]
    wait_until(lambda: tool.good("ps", "-aq") == "", "the removal")


def _waits(pid: int) -> bool:
    # poll(2) is call 7 on x86-64 and ppoll 73 on arm64: `wait` sleeps in it on the monitor's pidfd.
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("7", "271", "73")


def test_rm_of_a_rm_container_by_force(tool: Tool) -> None:
    for _ in range(5):
        tool.good("run", "-d", "--rm", "--name", "box", BOX, "sleep", "100")
        tool.good("rm", "-f", "box")
        assert tool.good("ps", "-aq") == ""


def test_the_container_outlives_its_starter(tool: Tool) -> None:
    starter = tool.start("run", "--name", "box", BOX, "sh", "-c", "echo on; sleep 100", stdout=subprocess.PIPE)
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"on\n"
    starter.kill()
    starter.communicate(timeout=patience(15))
    assert tool.status("box") == "running"
    tool.good("stop", "-t", "0", "box")
    assert tool.good("wait", "box") == "137"


def test_the_container_dies_with_its_monitor_and_nothing_is_left(tool: Tool) -> None:
    record = run_box(tool)
    identity = tool.inspect("box")["Id"]
    os.kill(record["MonitorPid"], signal.SIGKILL)
    wait_until(lambda: tool.status("box") == "exited", "the container's end")
    assert tool.inspect("box")["State"]["ExitCode"] == 137
    assert "Exited (137)" in tool.good("ps", "-a")
    assert tool.good("start", "box") == "box"
    assert tool.status("box") == "running"
    os.kill(tool.record("box")["MonitorPid"], signal.SIGKILL)
    assert tool.good("rm", "-f", "box") == "box"
    assert tool.groups_of(identity) == []


def test_a_rm_container_whose_monitor_was_killed_goes_with_the_next_create(tool: Tool) -> None:
    record = run_box(tool, "--rm")
    identity = tool.inspect("box")["Id"]
    os.kill(record["MonitorPid"], signal.SIGKILL)
    wait_until(lambda: tool.status("box") == "exited", "the container's end")
    tool.good("run", "--rm", BOX, "true")
    assert tool.good("ps", "-aq") == ""
    assert tool.groups_of(identity) == []


@pytest.mark.many
@pytest.mark.parametrize("seed", range(3))
def test_a_starter_killed_at_any_moment_leaves_nothing_half_made(tool: Tool, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(8):
        words = ["run", *(["--rm"] if number % 2 else []), BOX, "sh", "-c", "echo x > /f; sleep 0.05"]
        starter = tool.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            starter.wait(chance.random() * 0.15)
        except subprocess.TimeoutExpired:
            starter.kill()
            starter.wait(patience(10))
    wait_until(lambda: tool.good("ps", "-q") == "", "the containers' ends")
    # Opening the root for writing sweeps; what is left is whole containers, which can be started and removed.
    for name in tool.good("ps", "-aq").split():
        assert tool("start", "-a", name).returncode in (0, 1)
    tool("rm", "-f", *tool.good("ps", "-aq").split())
    tool.good("run", "--rm", BOX, "true")
    assert tool.good("ps", "-aq") == ""


@pytest.mark.many
@pytest.mark.parametrize("seed", range(3))
def test_a_monitor_killed_at_any_moment_leaves_nothing_running(tool: Tool, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(6):
        starter = tool.start("run", "--rm", BOX, "sh", "-c", "sleep 0.02", stderr=subprocess.DEVNULL)
        end = time.monotonic() + chance.random() * 0.15
        while time.monotonic() < end:
            _kill_monitors_of(tool, chance)
        assert starter.wait(patience(20)) in (0, 125, 137)
    wait_until(lambda: tool.good("ps", "-q") == "", "the containers' ends")
    tool("rm", "-f", *tool.good("ps", "-aq").split())
    tool.good("run", "--rm", BOX, "true")
    assert tool.good("ps", "-aq") == ""


def _kill_monitors_of(tool: Tool, chance: random.Random) -> None:
    """Kill one process with this root in its environment that has no terminal and no starter above it."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if str(tool.root).encode() not in (path / "environ").read_bytes():
                continue
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if int(fields[1]) not in (os.getpid(), 0) and int(fields[3]) != os.getsid(0) and chance.random() < 0.3:
            os.kill(int(path.name), signal.SIGKILL)


def forge(tool: Tool, **changes: object) -> None:
    """Write a running state into a stopped container's record."""
    tool("run", "--name", "box", BOX, "true")
    state = {
        "Status": "running",
        "BootID": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "Pid": os.getpid(),
        "StartTime": 1,
        "MonitorPid": 0,
        "MonitorStartTime": 0,
        "ExitCode": 0,
        "StartedAt": "2026-01-02T03:04:05Z",
        "FinishedAt": NEVER,
    }
    (tool.directory("box") / "minidock.state").write_text(json.dumps({**state, **changes}))


def own_start_time() -> int:
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


def test_a_reused_pid_is_not_taken_for_the_container(tool: Tool) -> None:
    forge(tool)
    state = tool.inspect("box")["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", 137, 0)
    assert tool("exec", "box", "true").returncode != 0
    assert tool("kill", "box").returncode == 1
    assert tool.good("stop", "box") == "box"
    assert tool.good("start", "-a", "box") == ""


def test_a_container_of_before_the_last_boot_is_not_running(tool: Tool) -> None:
    forge(tool, BootID="00000000-0000-0000-0000-000000000000", StartTime=own_start_time())
    state = tool.inspect("box")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 255)
    assert tool.good("ps", "-q") == ""
    assert tool.good("rm", "box") == "box"


def test_a_zombie_is_not_running(tool: Tool) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    stat = Path(f"/proc/{child}/stat")
    try:
        wait_until(lambda: " Z " in stat.read_text(), "the zombie")
        forge(tool, Pid=child, StartTime=int(stat.read_text().rpartition(")")[2].split()[19]))
        assert tool.status("box") == "exited"
        tool.good("rm", "box")
    finally:
        os.waitpid(child, 0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"Pid":"x"}', '{"Status":"running","Pid":-5}', "\0" * 100])
def test_a_damaged_state_file_hides_nothing(tool: Tool, text: str) -> None:
    tool("run", "--name", "box", BOX, "true")
    (tool.directory("box") / "minidock.state").write_text(text)
    assert tool.status("box") == "exited"
    assert tool.good("start", "-a", "box") == ""


def test_one_unreadable_container_does_not_hide_the_others(tool: Tool) -> None:
    tool.good("create", "--name", "whole", BOX, "true")
    made = tool.good("create", "--name", "broken", BOX, "true")
    config = tool.root / "containers" / made / "config.v2.json"
    config.write_text(config.read_text()[:100])
    assert [row.split()[-1] for row in tool.good("ps", "-a").splitlines()[1:]] == ["whole"]
    done = tool("start", made)
    assert done.returncode == 1
    assert "config.v2.json" in done.stderr
    config.write_text("{}")
    assert tool("inspect", made).returncode == 1
    config.write_text('{"ID":"x","Config":{}}')
    tool.good("rm", made)


def test_rm_never_reaches_through_a_mount(tool: Tool, scratch: Path) -> None:
    host = scratch / "host"
    host.mkdir()
    (host / "precious").write_text("keep me")
    tool("run", "--name", "box", BOX, "mkdir", "/below")
    upper = Path(tool.inspect("box")["GraphDriver"]["Data"]["UpperDir"])
    subprocess.run(["mount", "--bind", str(host), str(upper / "below")], check=True)
    try:
        done = tool("rm", "-f", "box")
        assert done.returncode == 1
        assert "mount point" in done.stderr
        assert (host / "precious").read_text() == "keep me"
        assert tool.status("box") == "exited"
    finally:
        subprocess.run(["umount", str(upper / "below")], check=True)
    tool.good("rm", "box")


def test_no_mount_of_a_container_is_seen_outside(tool: Tool) -> None:
    run_box(tool, "-v", "/etc:/host", "--tmpfs", "/t")
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    inside = tool.good("exec", "box", "cat", "/proc/self/mountinfo").splitlines()
    assert len(inside) > 10
    # Mounts of other engines come and go meanwhile; none may be of this data root, nor carry an id seen inside.
    assert [line for line in table if str(tool.root) in line] == []
    assert {line.split()[0] for line in table}.isdisjoint(line.split()[0] for line in inside)


def test_two_commands_at_once_end_in_one_clean_state(tool: Tool) -> None:
    for _ in range(3):
        tool.good("create", "--name", "box", BOX, "true")
        racers = [
            tool.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for words in (["start", "box"], ["rm", "-f", "box"], ["start", "box"], ["rm", "-f", "box"])
        ]
        for racer in racers:
            racer.wait(patience(30))
        tool("rm", "-f", "box")
        assert tool.good("ps", "-aq") == ""


def test_a_volume_of_the_image_is_a_plain_directory_for_now(tool: Tool, scratch: Path) -> None:
    layer = busybox_layer()
    config = image_config([layer], config={"Volumes": {"/home/alice": {}}})
    tool.good("load", "-i", docker_archive(scratch / "v.tar", ImageSpec([layer], tags=["v:test"], config=config)))
    assert tool.good("run", "--name", "box", "v:test", "sh", "-c", "echo x > /home/alice/f; cat /home/alice/f") == "x"
    assert tool.inspect("box")["Config"]["Volumes"] == {"/home/alice": {}}
