"""Life cycle under fire: calls that fail, kills and interrupts at any moment, stale state, many at once.

The counts are small here; MINIDOCK_WHOLE=1 takes those that docs and issue ask for, MINIDOCK_FAULTS=N others.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import select
import shutil
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from minidock.errors import MinidockError
from minidock.store.root import DataRoot
from minidock.verbs.commit import commit
from minidock.verbs.create import create
from minidock.verbs.options import CreateOptions
from minidock.verbs.pull_tar import pull_tar
from minidock.verbs.rm import rm
from minidock.verbs.rmi import rmi
from minidock.verbs.tag import tag
from tests import builders
from tests.conftest import missing, whole
from tests.integration.test_store_crash import verify
from tests.integration.tool import Tool, command, wait_until

TIMES = int(os.environ.get("MINIDOCK_FAULTS", str(whole(40, 1))))
BOX = ("--network", "none", "busybox:test")
FAILING = (
    *("rename", "mkdir", "symlink", "link", "unlink", "rmdir", "write", "fsync", "fchmod", "chmod", "open"),
    *("mknod", "utime", "chown", "lchown", "setxattr", "stat", "listdir", "scandir", "readlink", "ftruncate"),
)

ACTIONS: dict[str, Callable[[DataRoot, Path], object]] = {
    "load": lambda root, archive: pull_tar(root, str(archive.with_name("other.tar"))),
    "create": lambda root, _: create(root, "busybox:test", ["true"], CreateOptions(name="new", network="none")),
    "commit": lambda root, _: commit(root, "changed", "new:1"),
    "tag": lambda root, _: tag(root, "busybox:test", "new:2"),
    "rm": lambda root, _: rm(root, "changed"),
    "rmi": lambda root, _: rmi(root, ["spare:1"]),
}


@pytest.fixture(scope="module")
def prepared(busybox_archive: Path, session_scratch: Path) -> Path:
    """A root with two images and a container that has changed something; copied for each injection."""
    base = session_scratch / "faults"
    base.mkdir()
    layer = builders.layer_tar(builders.directory(b"s"), builders.tar_member(b"s/file", b"spare\n"))
    spare = builders.ImageSpec([builders.busybox_layer(), layer], tags=["spare:1"])
    with DataRoot.open(str(base / "root")) as root:
        pull_tar(root, str(busybox_archive))
        pull_tar(root, str(builders.docker_archive(base / "spare.tar", spare)))
    tool = Tool(base / "root", busybox_archive)
    tool.good("run", "--name", "changed", *BOX, "sh", "-c", "echo new >/file; rm -r /data/deep; mkdir /made")
    other = builders.layer_tar(*(builders.tar_member(b"o%d" % number, b"x" * 5000) for number in range(40)))
    builders.docker_archive(base / "other.tar", builders.ImageSpec([other], tags=["other:1"]))
    return base


def copy_of(prepared: Path, where: Path) -> Path:
    """The prepared root once more; its layers' directories too, so that nothing is shared."""
    builders.run_command("cp", "-a", prepared / "root", where)
    return where


class Fails:
    """The Nth of all calls that it stands in for fails; kill: the process dies there instead."""

    def __init__(self, number: int, code: int) -> None:
        self.left = number
        self.code = code

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                if not self.code:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(self.code, os.strerror(self.code), str(arguments[0]) if arguments else None)
            return function(*arguments, **named)

        return call


def inject(path: Path, action: Callable[[DataRoot, Path], object], archive: Path, number: int, code: int) -> str:
    """Do it in a child in which the Nth call fails; how that ended: done, told, killed, or a bug's name."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        verdict = "no verdict"
        try:
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 2)
            with DataRoot.open(str(path)) as root:
                fails = Fails(number, code)
                for name in FAILING:
                    setattr(os, name, fails.around(getattr(os, name)))
                action(root, archive)
                verdict = "done" if fails.left > 0 else "done all the same"
        except (MinidockError, OSError):
            verdict = "told"
        except BaseException as error:  # noqa: BLE001 - the verdict is what the parent judges
            verdict = f"{type(error).__name__}: {error}"
        finally:
            # Not by os.write, which may be the one that fails.
            with open(write_end, "wb", buffering=0) as file:
                file.write(verdict.encode())
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as file:
        verdict = file.read().decode()
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else verdict


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, 0], ids=["EIO", "ENOSPC", "SIGKILL"])
@pytest.mark.parametrize("verb", ACTIONS)
def test_f2_any_call_may_fail(scratch: Path, prepared: Path, verb: str, code: int) -> None:
    """The state is the one before or the one after, and nothing is left that the next command does not clean."""
    action = ACTIONS[verb]
    with DataRoot.open(str(copy_of(prepared, scratch / "before"))) as root:
        before = verify(root)
    path = copy_of(prepared, scratch / "after")
    assert inject(path, action, prepared / "x", 1 << 30, code) == "done"
    with DataRoot.open(str(path)) as root:
        after = without_times(verify(root))
    chance = random.Random(f"{verb} {code}")
    stride = max(1, 30 // TIMES)
    number, ends = 1, set()
    while True:
        path = copy_of(prepared, scratch / f"root{number}")
        verdict = inject(path, action, prepared / "x", number, code)
        assert verdict in ("done", "done all the same", "told", "killed"), f"call {number}: {verdict}"
        with DataRoot.open(str(path)) as root:
            state = verify(root)
            assert root.faults() == [], f"call {number}"
        if verdict.startswith("done"):
            assert without_times(state) == after, f"call {number}: {verdict}"
        else:
            assert state == before or without_times(state) == after, f"call {number}: {verdict}"
        shutil.rmtree(path)
        ends.add(verdict)
        if verdict == "done":
            break
        number += chance.randint(1, 2 * stride - 1)
    assert ends & {"told", "killed"}, "nothing was injected"


def without_times(state: dict[str, Any]) -> dict[str, Any]:
    """What two runs of one command have in common: a commit's config has the time in it."""
    references = sorted(str(name) for name in state["references"])
    return {"references": references, "chains": state["chains"], "containers": state["containers"]}


CALLS = (
    *("mount", "umount2", "pivot_root", "clone3", "openat2", "move_mount", "open_tree", "sethostname", "setresuid"),
    *("setgroups", "seccomp", "capset", "execveat", "keyctl", "unshare", "setsid", "chdir", "fchdir", "mknodat"),
    *("pipe2", "flock", "rename", "mkdir", "symlink", "memfd_create", "close_range", "pidfd_open", "rmdir"),
)


@pytest.mark.many
def test_f8_each_step_of_run_may_fail(tool: Tool) -> None:
    """Nothing of the container is left anywhere, whatever call it was; and the next run is as good as any."""
    if shutil.which("strace") is None:
        missing("strace is not installed")
    tool.good("run", "--rm", *BOX, "true")
    links = set(os.listdir("/sys/class/net"))
    ends: dict[str, list[int]] = {}
    for name in CALLS:
        for number in (1,) if TIMES == 1 else (1, 2, 3, 5, 8, 13, 21):
            words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}"]
            words += ["-e", f"inject={name}:error=EIO:when={number}"]
            done = subprocess.run(
                [*words, *command("run", "--rm", "--name", "broken", *BOX, "true")],
                env=tool.environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            where = f"{name} {number}: {done.returncode} {done.stderr}"
            assert "Traceback" not in done.stderr and "(a bug" not in done.stderr, where
            assert done.returncode in (0, 1, 125, 126, 127, 128 + 9, 255), where
            ends.setdefault(name, []).append(done.returncode)
            for left in tool.good("ps", "-aq", "--no-trunc").split():
                assert tool.status(left) != "running", where
                tool.good("rm", left)
            assert str(tool.root) not in Path("/proc/self/mountinfo").read_text(), where
            # What a failing call has kept a command from deleting, the next one that writes deletes.
            tool.good("tag", "busybox:test", "busybox:next")
            assert os.listdir(tool.root / "minidock/stage") == [], where
            with DataRoot.open(str(tool.root)) as root:
                verify(root)
    tool.good("run", "--rm", *BOX, "true")
    assert {code for codes in ends.values() for code in codes} >= {125}, "nothing was injected"
    assert set(os.listdir("/sys/class/net")) - links == set() or os.environ.get("CI") != "1"


def test_f6_after_a_reboot(tool: Tool) -> None:
    """Five containers ran when the machine went down: their records are of another boot, their processes gone."""
    for number in range(5):
        rm_too = ["--rm"] if number == 4 else []
        policy = ["--restart", "always"] if number == 3 else []
        words = (*rm_too, *policy, "--name", f"was{number}", *BOX, "sh", "-c", f"echo {number} >/kept; sleep 1000")
        tool.good("run", "-d", *words)
    wait_until(lambda: "4" in tool("exec", "was4", "cat", "/kept").stdout, "the last to have written")
    for number in range(5):
        record = tool.record(f"was{number}")
        os.kill(record["MonitorPid"], signal.SIGKILL)
        wait_until(lambda pid=record["Pid"]: not Path(f"/proc/{pid}").exists(), "the end of a process")
    for path in tool.root.glob("containers/*/minidock.state"):
        record = json.loads(path.read_text())
        # Under another boot id these numbers may be anybody's; here they are of a process that lives.
        numbers = dict.fromkeys(("Pid", "MonitorPid"), os.getpid())
        path.write_text(json.dumps({**record, **numbers, "BootID": "00000000-0000-0000-0000-000000000000"}))
    rows = tool.good("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines()
    assert {row.split()[1] for row in rows} == {"exited"}, rows
    assert tool.good("ps", "-q") == ""
    assert tool.good("commit", "was0", "saved:1").startswith("sha256:")
    assert tool.good("run", "--rm", "--network", "none", "saved:1", "cat", "/kept") == "0"
    tool.good("start", "was1")
    assert tool.good("exec", "was1", "cat", "/kept") == "1"
    tool.good("rm", "was2")
    assert tool.good("ps", "-aq", "--filter", "name=was4") == "", "a --rm container goes with the next command"


def test_f9_interrupts_at_random_points(tool: Tool, busybox_archive: Path) -> None:
    """SIGINT ends a command with 130, or comes too late or to the container; no trace of a container is left."""
    chance = random.Random(9)
    begun = time.monotonic()
    tool.good("run", "--rm", *BOX, "true")
    took_s = time.monotonic() - begun
    tool.good("run", "--name", "kept", *BOX, "sh", "-c", "echo 1 >/one")
    seen = set()
    for turn in range(5 * TIMES):
        for words in (
            ("run", "--rm", *BOX, "true"),
            ("commit", "kept", "made:1"),
            ("load", "-i", str(busybox_archive)),
            ("create", "--name", "new", *BOX, "true"),
        ):
            process = tool.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
            try:
                process.wait(chance.uniform(0.1, 1.2) * took_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
            told = process.communicate(timeout=60)[1].decode()
            seen.add(process.returncode)
            # Before the command's own code runs, Python itself tells of the interrupt.
            assert process.returncode in (0, 130, -2) or "\nKeyboardInterrupt" in told, (turn, words, told)
            assert "(a bug" not in told, (turn, words, told)
            tool("rm", "-f", "new")
            tool("rmi", "made:1")
    assert seen & {130, -2}, "no interrupt came in time"
    assert tool.good("ps", "-aq").count("\n") == 0
    with DataRoot.open(str(tool.root)) as root:
        verify(root)
        assert root.faults() == []
    assert str(tool.root) not in Path("/proc/self/mountinfo").read_text()


SURROUNDINGS: dict[str, str] = {
    "no HOME, LANG=C": 'exec env -i PATH=/usr/bin:/bin LANG=C MINIDOCK_ROOT="$MINIDOCK_ROOT" "$@"',
    "umask 077": 'umask 077; exec "$@"',
    "umask 000": 'umask 000; exec "$@"',
    "standard input closed": 'exec "$@" <&-',
    "all streams closed": 'exec "$@" <&- >&- 2>&-',
    "/run read-only": "exec unshare --mount sh -c '"
    + 'mount --bind /run /run; mount -o remount,bind,ro /run; exec "$@"'
    + '\' sh "$@"',
    "PYTHON* of another": 'PYTHONHOME=/nowhere PYTHONPATH=/nowhere PYTHONSTARTUP=/nowhere exec "$@"',
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_f9_odd_surroundings(tool: Tool, busybox_archive: Path, scratch: Path, name: str) -> None:
    """What is made is the same to the byte and the mode; what is run gives the same."""
    script = SURROUNDINGS[name]

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        shell = ["sh", "-c", script, "sh", *command(*words)]
        return builders.run_command(*shell, check=False, env=tool.environment, timeout=60)

    plain = scratch / "plain"
    tool.good("--root", plain, "load", "-i", busybox_archive)
    assert run("--root", str(scratch / "odd"), "load", "-i", str(busybox_archive)).returncode == 0
    assert modes(scratch / "odd") == modes(plain)
    done = run("run", "--name", "odd", *BOX, "sh", "-c", "umask; echo 1 >/one; exit 3")
    assert done.returncode == 3, done.stderr
    assert done.stdout == ("" if "all" in name else "0022\n")
    assert tool.good("diff", "odd") == "A /one"
    assert run("commit", "odd", "odd:1").returncode == 0
    assert run("rm", "odd").returncode == 0


def modes(root: Path) -> list[tuple[int, int]]:
    """Kind and mode of every file, in an order that does not depend on random names."""
    return sorted((path.lstat().st_mode, len(path.parts)) for path in root.rglob("*"))


def test_f3_many_change_the_names_at_once(tool: Tool) -> None:
    """Each tag that a command has acknowledged is there, each that was removed is not."""
    tool.good("run", "--name", "base", *BOX, "sh", "-c", "echo x >/x")

    def work(number: int) -> str:
        if number % 5 == 0:
            tool.good("commit", "base", f"made:{number}")
        else:
            tool.good("tag", "busybox:test", f"made:{number}")
        if number % 2:
            tool.good("rmi", f"made:{number}")
            return ""
        return f"made:{number}"

    count = 50 if TIMES > 1 else 24
    with ThreadPoolExecutor(count) as pool:
        kept = {name for name in pool.map(work, range(count)) if name}
    listed = tool.good("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert {name for name in listed if name.startswith("made:")} == kept
    with DataRoot.open(str(tool.root)) as root:
        verify(root)
        assert root.faults() == []


@pytest.mark.many
def test_f5_images_go_while_containers_are_made_of_them(tool: Tool) -> None:
    """Names come and go under rmi -f on a common base: what was made of an image stays whole, and no layer is lost."""
    tool.good("run", "--name", "base", *BOX, "sh", "-c", "echo x >/x")
    rounds = whole(100, 4)

    def work(number: int) -> list[str]:
        chance, kept = random.Random(number), []
        for turn in range(rounds):
            name, own = f"derived:{chance.randrange(3)}", f"kept{number}-{turn}"
            tool.good("commit", "base", f"derived:{chance.randrange(3)}")
            run = tool("run", "--rm", "--network", "none", name, "cat", "/x")
            made = tool("create", "--name", own, "--network", "none", name, "cat", "/x")
            gone = tool("rmi", "-f", f"derived:{chance.randrange(3)}")
            assert (run.returncode, run.stdout) == (0, "x\n") or "Unable to find image" in run.stderr, run
            assert made.returncode == 0 or "Unable to find image" in made.stderr, made
            assert gone.returncode == 0 or "No such image" in gone.stderr, gone
            kept += [] if made.returncode else [own]
        return kept

    with ThreadPoolExecutor(6) as pool:
        kept = [name for names in pool.map(work, range(6)) for name in names]
    assert kept
    for name in kept:
        assert tool.good("start", "-a", name) == "x"
    tool.good("rm", "base", *kept)
    # The base last: an image that others are made of stays.
    tool.good("rmi", "-f", *set(tool.good("images", "-q", "--filter", "since=busybox:test").split()))
    tool.good("rmi", "busybox:test")
    with DataRoot.open(str(tool.root)) as root:
        verify(root)
        assert root.faults() == []
        assert root.layers.all() == [], "nothing refers to any"


def test_d13_a_large_output_ends_with_its_last_line(tool: Tool) -> None:
    """The reader stands still until the pipe is full and a while longer, which holds the container back, then reads."""
    size = whole(1 << 30, 32 << 20)
    script = f"yes $(printf %01000d 0) | head -c {size}; echo; echo last"
    process = tool.start("run", "--name", "loud", *BOX, "sh", "-c", script, stdout=subprocess.PIPE)
    assert process.stdout
    fd = process.stdout.fileno()
    wait_until(lambda: int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), "little") >= 1 << 16, "a full pipe")
    # Nobody tells that nothing happens.
    select.select([], [], [], whole(10, 1))
    assert tool.status("loud") == "running"
    total, tail = 0, b""
    while chunk := os.read(fd, 1 << 20):
        total += len(chunk)
        tail = (tail + chunk)[-16:]
    assert process.wait(60) == 0
    assert (total, tail[-7:]) == (size + len("\nlast\n"), b"0\nlast\n")
    assert tool.good("logs", "--tail", "1", "loud") == "last"
    process.stdout.close()


def test_d13_a_large_output_of_a_detached_container_is_logged_to_its_last_line(tool: Tool) -> None:
    """Nothing is lost between the end of the process and the end of the log, and a bounded log stays bounded."""
    size = whole(1 << 30, 32 << 20)
    script = f"yes $(printf %01000d 0) | head -c {size}; echo; echo last"
    bounded = ("--log-opt", "max-size=1m", "--log-opt", "max-file=3")
    for name, options in (("all", ()), ("bounded", bounded)):
        tool.good("run", "-d", "--name", name, *options, *BOX, "sh", "-c", script)
        assert tool.good("wait", name, timeout=600) == "0"
        assert tool.good("logs", "--tail", "1", name) == "last"
        files = list(tool.directory(name).glob("*-json.log*"))
        if options:
            assert len(files) == 3 and sum(file.stat().st_size for file in files) < 4 << 20
        else:
            assert sum(file.stat().st_size for file in files) > size
        tool.good("rm", name)
