"""minidock run: exit codes, streams, options, and what is left behind."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests import builders
from tests.builders import tree_listing
from tests.integration.tool import Tool, wait_until

BOX = "busybox:test"


def test_streams_exit_code_and_removal(tool: Tool) -> None:
    before = tree_listing(tool.root)
    done = tool("run", "--rm", BOX, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert tree_listing(tool.root) == before


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["true"], 0),
        (["false"], 1),
        (["sh", "-c", "exit 255"], 255),
        # The first process of a pid namespace does not hear signals from within: the shell goes on.
        (["sh", "-c", "kill -9 $$; exit 4"], 4),
        (["sh", "-c", "sh -c 'kill -15 $$' 2>/dev/null; exit $?"], 143),
        (["nosuch"], 127),
        (["/bin/nosuch"], 127),
        (["/etc"], 126),
        (["/etc/passwd"], 126),
    ],
)
def test_exit_codes(tool: Tool, words: list[str], code: int) -> None:
    done = tool("run", "--rm", BOX, *words)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == (1 if code in (126, 127) else 0), done.stderr


def test_killed_from_outside_is_137(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "100")
    os.kill(tool.record("box")["Pid"], 9)
    assert tool.good("wait", "box") == "137"
    assert tool.inspect("box")["State"]["ExitCode"] == 137


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "nosuch", "true"], 125, "Unable to find image 'nosuch:latest' locally"),
        (["run", "--pull", "never", "nosuch:1", "true"], 125, "nosuch:1"),
        (["run", "--name", "-bad", BOX, "true"], 125, "Invalid container name (-bad)"),
        (["run", "-w", "rel", BOX, "true"], 125, "working directory 'rel' is invalid"),
        (["run", "--network", "nosuch", BOX, "true"], 125, "network nosuch not found"),
        (["run", "--cap-add", "nope", BOX, "true"], 125, 'unknown capability: "CAP_NOPE"'),
        (["run", "--mount", "type=bind,src=/nonex,dst=/x", BOX, "true"], 125, "bind source path does not exist"),
        (["run", "-v", "v:/x", BOX, "true"], 125, "volume name is too short"),
        (["run", "-v", "/tmp:/a", "-v", "/etc:/a", BOX, "true"], 125, "Duplicate mount point: /a"),
        (["run", "--env-file", "/nonex", BOX, "true"], 125, "no such file"),
        (["run", "--entrypoint", "", BOX], 125, "No command specified"),
        (["run", "-it", BOX, "true"], 1, "the input device is not a TTY"),
        (["run", "-u", "nobody-here", "--rm", BOX, "true"], 125, "nobody-here"),
    ],
)
def test_refused_with_one_line_and_nothing_left(tool: Tool, words: list[str], code: int, message: str) -> None:
    before = tree_listing(tool.root)
    done = tool(*words, stdin=subprocess.DEVNULL)
    assert message in done.stderr
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert tree_listing(tool.root) == before


def test_a_command_that_cannot_start_leaves_a_created_container_with_its_reason(tool: Tool) -> None:
    assert tool("run", "--name", "box", BOX, "nosuch").returncode == 127
    state = tool.inspect("box")["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", 127)
    assert "nosuch" in state["Error"]
    assert tool.groups_of(tool.inspect("box")["Id"]) == []


def test_name_in_use(tool: Tool) -> None:
    first = tool.good("create", "--name", "box", BOX, "true")
    done = tool("run", "--name", "box", BOX, "true")
    assert done.returncode == 125
    assert f'The container name "/box" is already in use by container "{first}"' in done.stderr


def test_standard_input_is_copied_to_its_end(tool: Tool) -> None:
    data = "".join(f"line {number}\n" for number in range(50_000))
    assert tool("run", "--rm", "-i", BOX, "wc", "-c", input=data).stdout.split() == [str(len(data))]
    # Without -i the container reads nothing, and the caller's input stays where it is.
    assert tool("run", "--rm", BOX, "wc", "-c", input=data).stdout.split() == ["0"]


def test_output_goes_on_after_the_end_of_input(tool: Tool) -> None:
    done = tool("run", "--rm", "-i", BOX, "sh", "-c", "cat; echo after; echo last >&2", input="in\n")
    assert (done.stdout, done.stderr) == ("in\nafter\n", "last\n")


def test_a_container_that_closes_its_input_does_not_hang_the_writer(tool: Tool) -> None:
    done = tool("run", "--rm", "-i", BOX, "sh", "-c", "exec <&-; echo closed", input="x" * 500_000)
    assert (done.returncode, done.stdout) == (0, "closed\n")


def test_ten_megabytes_come_through_whole_in_output_and_log(tool: Tool) -> None:
    with tool.start("run", "--name", "box", BOX, "seq", "1", "300000", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        data = process.stdout.read()
    assert data == b"".join(b"%d\n" % number for number in range(1, 300_001))
    assert tool("logs", "box").stdout.encode() == data


def test_a_slow_reader_holds_the_container_back_and_loses_nothing(tool: Tool) -> None:
    with tool.start("run", "--name", "box", BOX, "seq", "1", "100000", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        log = wait_until(lambda: list(tool.root.glob("containers/*/*-json.log")), "the log")[0]
        wait_until(lambda: log.stat().st_size > 0, "the first output")

        def settled() -> bool:
            size = log.stat().st_size
            time.monotonic()
            wait_until(lambda: process.poll() is None, "still running")
            return bool(size == log.stat().st_size)

        wait_until(settled, "the log standing still while nobody reads")
        data = process.stdout.read()
    assert data.count(b"\n") == 100_000
    assert data.endswith(b"100000\n")


def spent_ticks(pid: int) -> int:
    """Processor time of a process in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_waiting_for_a_slow_side_costs_no_processor_time(tool: Tool) -> None:
    read_end, write_end = os.pipe()
    command = ("run", "-i", "--name", "box", BOX, "sh", "-c", "seq 1 30000; sleep 100")
    starter = tool.start(*command, stdin=subprocess.PIPE, stdout=write_end)
    os.close(write_end)
    assert starter.stdin is not None
    # More than any pipe holds, so that starter and monitor both stand with something they cannot hand on.
    feeder = threading.Thread(target=lambda: _feed(starter, bytes(300_000)), daemon=True)
    feeder.start()
    wait_until(lambda: "Up" in tool.good("ps"), "the container")
    monitor = tool.record("box")["MonitorPid"]
    wait_until(lambda: Path(f"/proc/{monitor}/syscall").read_text().split()[0] in ("7", "73"), "the monitor to wait")
    before = spent_ticks(monitor), spent_ticks(starter.pid)
    select.select([], [], [], 0.6)
    # 60 ticks would be a full load.
    assert spent_ticks(monitor) - before[0] < 20
    assert spent_ticks(starter.pid) - before[1] < 20
    # Nor does the reader that stands still keep the end from being recorded, or the container from being removed.
    tool.good("rm", "-f", "box")
    with os.fdopen(read_end, "rb") as reader:
        seen = reader.read()
    whole = b"".join(b"%d\n" % number for number in range(1, 30_001))
    assert len(seen) > 64 << 10
    assert whole.startswith(seen)
    assert starter.wait(15) == 137
    feeder.join(15)


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(data)
        process.stdin.close()
    except BrokenPipeError:
        return


def test_from_a_thread_of_a_program_that_ignores_sigchld(tool: Tool) -> None:
    code = """
import os, signal, sys, threading
sys.path.append(sys.argv[1])
from minidock.store.root import DataRoot
from minidock.verbs.options import CreateOptions
from minidock.verbs.run import run
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
codes = []
def work():
    with DataRoot.open() as root:
        codes.append(run(root, "busybox:test", ["sh", "-c", "exit 6"], CreateOptions(rm=True)).exit_code)
threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(codes)
"""
    done = builders.run_command(
        sys.executable, "-c", code, Path(__file__).resolve().parents[2], env=tool.environment, timeout=60
    )
    assert done.stdout == "[6, 6, 6]\n"


def test_a_program_that_runs_several(tool: Tool, tmp_path: Path) -> None:
    """From the second on, what a launch needs is prepared before there is a monitor."""
    code = """if True:
    import os, sys
    sys.path.append(sys.argv[1])
    from minidock.errors import CommandError, MinidockError
    from minidock.store.root import DataRoot
    from minidock.verbs.exec import exec_
    from minidock.verbs.options import CreateOptions
    from minidock.verbs.rm import rm
    from minidock.verbs.run import run

    def tell(what, **options):
        try:
            done = run(root, "busybox:test", ["sh", "-c", what], CreateOptions(network="none", **options))
        except MinidockError as error:
            os.write(1, f"{error.exit_code} {error}\\n".encode())
        else:
            os.write(1, f"{done.exit_code}\\n".encode())

    with DataRoot.open() as root:
        tell("grep -c CapBnd:.00000000a80425fb /proc/self/status", rm=True)
        tell("grep CapBnd /proc/self/status", rm=True, cap_drop=["ALL"])
        tell("cat /here/file", rm=True, volumes=[f"{sys.argv[2]}:/here:ro"], read_only=True)
        tell("exit 1", rm=True, cap_add=["NET_ADMIN"], entrypoint="/nosuch")
        tell("id -u; cat /proc/1/comm", rm=True, init=True, user="7")
        first = run(root, "busybox:test", ["sleep", "100"], CreateOptions(network="none"), detach=True)
        tell("hostname", rm=True, isolation={"pid": f"container:{first.container_id}"}, hostname="guest")
        print(exec_(root, first.container_id, ["sh", "-c", "exit 3"]), exec_(root, first.container_id, ["false"]))
        rm(root, first.container_id, force=True)
    """
    (tmp_path / "file").write_text("seen\n")
    done = builders.run_command(
        sys.executable, "-c", code, Path(__file__).resolve().parents[2], tmp_path, env=tool.environment, timeout=60
    )
    assert done.stdout.splitlines() == [
        *("1", "0"),
        *("CapBnd:\t0000000000000000", "0"),
        *("seen", "0"),
        '127 exec: "/nosuch": stat /nosuch: no such file or directory',
        *("7", "docker-init", "0"),
        *("guest", "0"),
        "3 1",
    ]
    assert tool.good("ps", "-aq") == ""


def test_one_name_is_given_once(tool: Tool) -> None:
    makers = [
        tool.start("create", "--name", "box", BOX, "true", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(12)
    ]
    assert sorted(maker.wait(30) for maker in makers) == [0] + [1] * 11
    assert len(tool.good("ps", "-aq").split()) == 1


def test_closed_output_ends_the_command_and_not_the_container(tool: Tool) -> None:
    process = tool.start("run", "--name", "box", BOX, "yes", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    process.wait(15)
    assert tool.status("box") == "running"
    tool.good("kill", "box")


def test_nothing_of_the_caller_s_is_open_in_the_container_or_its_monitor(tool: Tool) -> None:
    read_end, write_end = os.pipe()
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "100", pass_fds=(write_end,))
    os.close(write_end)
    # If the monitor kept the pipe, this would block until the container's end.
    assert os.read(read_end, 1) == b""
    os.close(read_end)
    record = tool.record("box")
    for pid in (record["Pid"], record["MonitorPid"]):
        targets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert not [target for target in targets if target.startswith("/dev/pts")]
    assert sorted(os.listdir(f"/proc/{record['Pid']}/fd")) == ["0", "1", "2"]
    assert os.readlink(f"/proc/{record['MonitorPid']}/cwd") == "/"


def test_environment_hostname_user_workdir_and_entrypoint(tool: Tool, scratch: Path) -> None:
    (scratch / "env").write_text("B=file\nC=file\n")
    done = tool.good(
        *("run", "--rm", "--env-file", scratch / "env", "-e", "A=1", "-e", "B=flag", "-w", "/data", "-u", "alice"),
        *("--hostname", "box", BOX, "sh", "-c", "echo $A $B $C; pwd; id -u; id -g; hostname; echo $HOSTNAME $HOME"),
    )
    assert done.splitlines() == ["1 flag file", "/data", "1000", "1000", "box", "box /home/alice"]
    assert tool.good("run", "--rm", "--entrypoint", "echo", BOX, "a b") == "a b"


def test_default_hostname_is_the_short_id_and_hosts_are_written(tool: Tool) -> None:
    out = tool.good("run", "--name", "box", BOX, "sh", "-c", "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf")
    short = tool.inspect("box")["Id"][:12]
    lines = out.splitlines()
    assert lines[:3] == [short, short, "127.0.0.1\tlocalhost"]
    assert "ff02::2\tip6-allrouters" in lines


def test_bind_mounts(tool: Tool, scratch: Path) -> None:
    host = scratch / "host"
    host.mkdir()
    (host / "file").write_text("from the host\n")
    missing = scratch / "made" / "by-v"
    out = tool.good(
        *("run", "--rm", "-v", f"{host}:/ro:ro", "-v", f"{missing}:/new", "--mount", f"type=bind,src={host},dst=/rw"),
        *("--tmpfs", "/t:size=1m", BOX, "sh", "-c"),
        "cat /ro/file; touch /ro/x 2>&- || echo read-only; echo back > /rw/answer; touch /new/here /t/x && echo ok",
    )
    assert out.splitlines() == ["from the host", "read-only", "ok"]
    assert (host / "answer").read_text() == "back\n"
    assert (missing / "here").exists()


def test_read_only_root(tool: Tool) -> None:
    out = tool.good("run", "--rm", "--read-only", BOX, "sh", "-c", "touch /x 2>/dev/null || echo refused")
    assert out == "refused"


def test_init_passes_signals_and_reaps(tool: Tool) -> None:
    tool.good("run", "-d", "--init", "--name", "box", BOX, "sleep", "100")
    assert len(tool.good("exec", "box", "ps").splitlines()) >= 3
    begun = time.monotonic()
    tool.good("stop", "-t", "20", "box")
    # sleep has no handler: as first process it would ignore SIGTERM and last for the whole time-out.
    assert time.monotonic() - begun < 15
    assert tool.inspect("box")["State"]["ExitCode"] == 143


def test_cidfile_and_labels(tool: Tool, scratch: Path) -> None:
    path = scratch / "cid"
    made = tool.good("create", "--cidfile", path, "-l", "a=b", "--label", "c", BOX, "true")
    assert path.read_text() == made
    assert tool.inspect(made)["Config"]["Labels"] == {"a": "b", "c": ""}
    again = tool("run", "--cidfile", path, BOX, "true")
    assert again.returncode == 125
    assert "Container ID file found" in again.stderr


def test_records_are_docker_s_and_never_say_running(tool: Tool) -> None:
    tool.good("run", "-d", "--rm", "--name", "box", BOX, "sleep", "100")
    directory = tool.directory("box")
    config = json.loads((directory / "config.v2.json").read_text())
    host = json.loads((directory / "hostconfig.json").read_text())
    assert config["State"]["Running"] is False
    # A dockerd that takes this root over would delete a stopped container with AutoRemove.
    assert host["AutoRemove"] is False
    assert tool.inspect("box")["HostConfig"]["AutoRemove"] is True
    modes = {name: os.stat(directory / name).st_mode & 0o777 for name in os.listdir(directory)}
    assert modes["config.v2.json"] == 0o600
    assert modes[f"{directory.name}-json.log"] == 0o640
    assert os.stat(directory).st_mode & 0o777 == 0o710


def test_umask_of_the_caller_changes_nothing(tool: Tool) -> None:
    listings = []
    for mask in (0o022, 0o077, 0o000):
        name = f"box{mask}"
        tool.good("run", "--name", name, BOX, "touch", "/made", umask=mask)
        base = tool.directory(name)
        upper = Path(tool.inspect(name)["GraphDriver"]["Data"]["UpperDir"])
        modes = {path.name: path.stat().st_mode for path in (*base.iterdir(), *upper.iterdir())}
        listings.append({key: mode for key, mode in modes.items() if not key.endswith("-json.log")})
    assert listings[0] == listings[1] == listings[2]


def test_a_full_disk_is_one_line_and_nothing_is_left(scratch: Path, busybox_archive: Path) -> None:
    small = scratch / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], check=True)
    try:
        tool = Tool(small / "root", busybox_archive)
        before = tree_listing(tool.root)
        free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
        # Full at different points of the creation: nothing left, then a page more each time.
        for pages in range(6):
            (small / "filler").write_bytes(bytes(free - pages * 4096))
            done = tool("run", "--rm", BOX, "true")
            if done.returncode:
                assert done.returncode == 125
                assert "No space left on device" in done.stderr
                assert len(done.stderr.splitlines()) == 1
            assert tree_listing(tool.root) == before
            (small / "filler").unlink()
        assert tool("run", "--rm", BOX, "true").returncode == 0
    finally:
        # lazily: the last monitor may still be on its way out
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_what_the_image_loses_is_told(tool: Tool, scratch: Path) -> None:
    layer = builders.layer_tar(builders.directory(b"usr/etc"), builders.symlink(b"etc", b"usr/etc"))
    image = builders.ImageSpec([builders.layer_tar(builders.directory(b"bin")), layer], tags=["linked:test"])
    tool.good("load", "-i", builders.docker_archive(scratch / "linked.tar", image))
    done = tool("create", "--name", "box", "linked:test", "x")
    assert done.returncode == 0
    assert done.stderr.startswith("WARNING: ")
    assert "/etc" in done.stderr


def test_a_detached_run_tells_its_id_even_if_the_start_fails(tool: Tool) -> None:
    done = tool("run", "-d", "--name", "failed", BOX, "no-such-program")
    assert done.returncode == 127
    assert done.stdout == str(tool.inspect("failed")["Id"]) + "\n"
    assert done.stderr.count("\n") == 1 and "no-such-program" in done.stderr
