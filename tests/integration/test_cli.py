"""The command line end to end: the real entry, real archives, a real data root."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests import builders

PROJECT = str(Path(__file__).resolve().parents[2])
# As minidock/entry.sh starts it: isolated, without site, the packages' directory added by hand.
ENTRY = f"""
import sys
sys.path.insert(0, {PROJECT!r})
sys.path += {[path for path in sys.path if "site-packages" in path]!r}
from minidock.__main__ import main
main()
"""
Cli: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]


def command(root: Path, *words: str | Path) -> list[str]:
    """The argv of one minidock command on a data root."""
    return [sys.executable, "-I", "-S", "-c", ENTRY, "--root", str(root), *map(str, words)]


@pytest.fixture
def cli(scratch: Path) -> Iterator[Cli]:
    """Run minidock on a data root of its own; the status is the test's to look at."""
    root = scratch / "root"

    def call(*words: str | Path, stdin: Any = subprocess.DEVNULL, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(root, *words), stdin=stdin, capture_output=True, text=True, timeout=60, check=False, **options
        )

    yield call
    if (root / "containers").is_dir() and os.listdir(root / "containers"):
        call("rm", "-f", *os.listdir(root / "containers"))


@pytest.fixture
def loaded(cli: Cli, busybox_archive: Path) -> Cli:
    """The same with the image busybox:test."""
    done = cli("pull-tar", busybox_archive)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Loaded image: busybox:test\n", "")
    return cli


def failed(done: subprocess.CompletedProcess[str], status: int, reason: str) -> None:
    """Assert one clear line on standard error, nothing else, and the exit status."""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("minidock: ")
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (status, "")


def test_the_spine(loaded: Cli) -> None:
    done = loaded("run", "--name", "one", "busybox:test", "sh", "-c", "echo hello; echo new > /data/four; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == ("hello\n", "", 3)
    assert loaded("diff", "one").stdout == "C /data\nA /data/four\n"
    image_id = loaded("commit", "-m", "fourth", "-c", "ENV A=b", "one", "busybox:next").stdout
    assert image_id.startswith("sha256:") and len(image_id) == 72
    assert loaded("run", "--rm", "busybox:next", "cat", "/data/four").stdout == "new\n"
    assert loaded("run", "--rm", "busybox:next", "sh", "-c", "echo $A").stdout == "b\n"
    history = loaded("history", "busybox:next").stdout.splitlines()
    assert history[0].split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert history[1].startswith(image_id[7:19]) and history[1].endswith("fourth")
    assert len(history) == 4
    failed(loaded("rmi", "busybox:test"), 1, "busybox:test")
    assert loaded("rm", "one").stdout == "one\n"
    removed = loaded("rmi", "busybox:next", "busybox:test").stdout.splitlines()
    assert removed[0] == "Untagged: busybox:next"
    assert f"Deleted: {image_id.strip()}" in removed
    assert loaded("images", "-q").stdout == ""


def test_commit_as_json_and_as_another_engine(loaded: Cli) -> None:
    loaded("run", "--name", "src", "busybox:test", "sh", "-c", "echo new > /four")
    facts = json.loads(loaded("commit", "--json", "--engine", "20.10", "--pause=false", "src", "out:1").stdout)
    document = json.loads(loaded("inspect", "out:1").stdout)[0]
    assert (document["Id"], document["RootFS"]["Layers"][-1]) == (facts["ImageID"], facts["DiffID"])
    assert document["DockerVersion"].startswith("20.10")
    assert facts["Reference"] == "out:1"
    assert json.loads(loaded("diff", "--json", "src").stdout) == [{"Kind": "A", "Path": "/four"}]


def test_tables(loaded: Cli) -> None:
    loaded("create", "--name", "two", "--label", "a=b", "busybox:test", "echo", "a long command, cut at twenty")
    images = loaded("images").stdout.splitlines()
    assert images[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert images[1].split()[:2] == ["busybox", "test"]
    rows = loaded("ps", "-a").stdout.splitlines()
    assert rows[0].split("  ")[0] == "CONTAINER ID"
    assert '"echo \'a long comman…"' in rows[1] and rows[1].endswith("two")
    assert len(loaded("ps").stdout.splitlines()) == 1
    assert loaded("ps", "-aq", "--no-trunc").stdout.strip() == loaded("inspect", "-f", "{{.Id}}", "two").stdout.strip()
    assert json.loads(loaded("ps", "-a", "--format", "json").stdout)["Labels"] == "a=b"
    assert loaded("container", "ls", "-a", "--format", r'table {{.Names}}\t{{.Label "a"}}').stdout == (
        "NAMES     a\ntwo       b\n"
    )


def test_load_from_standard_input(cli: Cli, busybox_archive: Path) -> None:
    for words in (["load"], ["pull-tar", "-"], ["load", "-q"], ["image", "load", "--json"]):
        with open(busybox_archive, "rb") as stream:
            done = cli(*words, stdin=stream)
        assert (done.returncode, done.stderr) == (0, "")
        if "--json" in words:
            assert json.loads(done.stdout)[0]["References"] == ["busybox:test"]
        else:
            assert done.stdout == "Loaded image: busybox:test\n"


def test_a_moved_tag_is_told(loaded: Cli, scratch: Path, busybox_layer: bytes) -> None:
    old = loaded("images", "-q", "--no-trunc").stdout.strip()
    other = builders.docker_archive(scratch / "o.tar", builders.ImageSpec([busybox_layer], tags=["busybox:test"]))
    assert loaded("load", "-i", other).stdout.splitlines() == [
        f"The image busybox:test already existed, renaming the old one with ID {old} to empty string",
        "Loaded image: busybox:test",
    ]
    assert "<none>" in loaded("images").stdout


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["run", "nope"], 125, "nope:latest"),
        (["create", "nope"], 1, "nope:latest"),
        (["run", "--network", "nosuch", "busybox:test"], 125, "network nosuch not found"),
        (["run", "--pull", "always", "busybox:test"], 125, "registry"),
        (["run", "--shm-size", "x", "busybox:test"], 125, "invalid size"),
        (["run", "busybox:test", "/nope"], 127, "/nope"),
        (["run", "busybox:test", "/data"], 126, "/data"),
        (["start", "-a", "nope"], 1, "No such container: nope"),
        (["exec", "nope", "true"], 1, "No such container: nope"),
        (["rm", "nope"], 1, "No such container: nope"),
        (["logs", "nope"], 1, "No such container: nope"),
        (["logs", "--since", "yesterday", "nope"], 1, "yesterday"),
        (["commit", "nope"], 1, "No such container: nope"),
        (["commit", "nope", "UPPER"], 1, "lowercase"),
        (["commit", "--engine", "new", "nope"], 1, "not an engine version"),
        (["diff", "nope"], 1, "No such container: nope"),
        (["rmi", "nope"], 1, "No such image: nope"),
        (["tag", "nope", "x"], 1, "No such image: nope"),
        (["tag", "busybox:test", "A/b"], 1, "lowercase"),
        (["history", "nope"], 1, "No such image: nope"),
        (["images", "--filter", "bad=1"], 1, "bad"),
        (["images", "--format", "{{.Bad}}"], 1, "can't evaluate field Bad"),
        (["ps", "--format", "{{.ID"], 1, "unclosed action"),
        (["ps", "--filter", "bad=1"], 1, "bad"),
        (["pull-tar", "/nope/archive.tar"], 1, "/nope/archive.tar"),
        (["pull-tar", "/etc/passwd"], 1, "/etc/passwd"),
        (["inspect", "--type", "plugin", "x"], 1, "plugin"),
    ],
)
def test_what_goes_wrong_is_one_line(loaded: Cli, words: list[str], status: int, reason: str) -> None:
    failed(loaded(*words), status, reason)


def test_only_bringing_images_makes_a_root(cli: Cli, scratch: Path) -> None:
    for words in (["images"], ["ps", "-a"], ["inspect", "x"], ["tag", "x", "y"], ["rm", "x"]):
        failed(cli(*words), 1, "no data root")
    failed(cli("run", "x"), 125, "no data root")
    assert not (scratch / "root").exists()


def test_a_failed_load_takes_its_new_root_back(cli: Cli, scratch: Path) -> None:
    (scratch / "text").write_text("no archive\n")
    for words in (["pull-tar", str(scratch / "text")], ["load", "-i", str(scratch / "missing")]):
        assert cli(*words).returncode == 1
        assert not (scratch / "root").exists()
        assert cli("--root", str(scratch / "deep/below/root"), *words).returncode == 1
        assert not (scratch / "deep").exists()
    # what was there before stays, an empty directory as well
    (scratch / "root").mkdir()
    assert cli("pull-tar", str(scratch / "text")).returncode == 1
    assert (scratch / "root").is_dir()


def test_inspect_tells_what_is_missing_after_the_rest(loaded: Cli) -> None:
    done = loaded("inspect", "busybox:test", "nope")
    assert done.returncode == 1
    assert json.loads(done.stdout)[0]["RepoTags"] == ["busybox:test"]
    assert done.stderr.startswith("minidock: No such object: nope") and done.stderr.count("\n") == 1
    two = loaded("inspect", "nope", "nope2")
    assert (two.returncode, two.stdout) == (1, "[]\n")
    assert [line.split(" (")[0] for line in two.stderr.splitlines()] == [
        "minidock: No such object: nope",
        "minidock: No such object: nope2",
    ]
    loaded("create", "--name", "sized", "busybox:test")
    assert loaded("inspect", "-s", "-f", "{{.SizeRw}}", "sized").stdout == "0\n"
    done = loaded("image", "inspect", "nope")
    assert (done.returncode, done.stdout) == (1, "[]\n")
    assert loaded("inspect", "-f", "{{.Os}} {{len .RootFS.Layers}}", "busybox:test").stdout == "linux 2\n"


def test_several_names_one_of_them_wrong(loaded: Cli) -> None:
    for name in ("aa", "bb"):
        loaded("create", "--name", name, "busybox:test")
    done = loaded("rm", "aa", "nope", "bb")
    assert (done.returncode, done.stdout) == (1, "aa\nbb\n")
    assert done.stderr.startswith("minidock: No such container: nope")


def test_hostile_words_from_an_image_do_not_reach_the_terminal(cli: Cli, scratch: Path, busybox_layer: bytes) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
    history = [{"created": "2026-01-02T03:04:05Z", "created_by": "RUN " + evil, "comment": evil}]
    config = builders.image_config([busybox_layer], config={"Labels": {"l" + evil: evil}}, history=history)
    image = builders.ImageSpec([busybox_layer], tags=["evil:1"], config=config)
    assert cli("pull-tar", builders.docker_archive(scratch / "evil.tar", image)).returncode == 0
    cli("create", "--name", "evil", "--label", "own=" + evil, "evil:1", evil)
    for words in (
        ["images"],
        ["history", "--no-trunc", "evil:1"],
        ["history", "--format", "json", "evil:1"],
        ["ps", "-a", "--no-trunc"],
        ["ps", "-a", "--format", '{{.Labels}} {{.Label "own"}} {{.Command}}'],
        ["inspect", "evil:1", "evil"],
        ["run", evil],
        ["--" + evil],
    ):
        done = cli(*words)
        said = done.stdout + done.stderr
        assert said
        assert not [letter for letter in said if letter < " " and letter not in "\n\t" or "\x7f" <= letter < "\xa0"]


def test_explain_shows_each_step_on_standard_error(cli: Cli, busybox_archive: Path) -> None:
    done = cli("pull-tar", "--explain", busybox_archive)
    assert done.stdout == "Loaded image: busybox:test\n"
    steps = done.stderr.splitlines()
    assert any(" | sha256sum  # diff_id = sha256:" in step for step in steps)
    assert any(step.startswith("# write") and "repositories.json" in step for step in steps)
    done = cli("run", "--rm", "--explain", "busybox:test", "true")
    assert done.returncode == 0
    mounts = [step for step in done.stderr.splitlines() if step.endswith("  # mount")]
    assert any("-t overlay" in mount and "lowerdir=l/" in mount for mount in mounts)


def test_a_reader_that_went_away_is_no_error(loaded: Cli, scratch: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        command(scratch / "root", "images"), stdout=write_end, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(write_end)
    assert done.stderr == b""
    assert done.returncode == 1


def test_a_full_disk_is_told(loaded: Cli, scratch: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(scratch / "root", "images"), stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        ["minidock: write to standard output: No space left on device (free some space and run the command again)"],
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_not_taken_by_files(cli: Cli, scratch: Path, busybox_archive: Path, closed: str) -> None:
    words = command(scratch / "root", "pull-tar", "--explain", busybox_archive)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *words], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert cli("images", "-q").stdout.count("\n") == 1
    inside = command(scratch / "root", "run", "--rm", "-i", "busybox:test", "sh", "-c", "ls -l /proc/$$/fd; exit 3")
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *inside], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 3
    if ">" not in closed:
        assert [line.split()[-3] for line in done.stdout.decode().splitlines() if "->" in line][:3] == ["0", "1", "2"]
    assert cli("run", "--rm", "busybox:test", "cat", "/data/one").stdout == "one\n"


def test_completion_offers_commands_and_options(cli: Cli, scratch: Path) -> None:
    def complete(line: str) -> str:
        environment = {
            **os.environ,
            "_MINIDOCK_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(line.count(" ")),
        }
        # completion sees the program's own words only
        words = [word for word in command(scratch) if word not in ("--root", str(scratch))]
        return subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=60).stdout

    assert "pull-tar" in complete("minidock pu").split()
    assert "--no-trunc" in complete("minidock images --no").split()


def test_without_root_rights(loaded: Cli, scratch: Path) -> None:
    # a copy, since an ordinary user may not even be let into the project's directory
    shutil.copytree(f"{PROJECT}/minidock", scratch / "lib" / "minidock")
    entry = f"import sys; sys.path.insert(0, {str(scratch / 'lib')!r}); from minidock.__main__ import main; main()"
    python = [os.path.realpath(sys.executable), "-I", "-S", "-c", entry, "--root", str(scratch / "root")]
    for words, status in ((["images"], 1), (["run", "busybox:test"], 125), (["load", "-i", "/etc/passwd"], 1)):
        done = subprocess.run(
            python + words, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False
        )
        failed(done, status, "needs root rights")


BROKEN = f"""
import sys
sys.path.insert(0, {PROJECT!r})
import minidock.cli.commands.images as images
def handle(options):
    raise ZeroDivisionError("by zero\\n")
images.handle = handle
from minidock.__main__ import main
sys.argv[1:] = ["images"]
main()
"""


def test_a_bug_is_one_line_too() -> None:
    def call(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", BROKEN],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment},
            timeout=60,
        )

    failed(call(), 125, "ZeroDivisionError: by zero\\n (a bug; MINIDOCK_DEBUG=1 shows where)")
    assert "Traceback" in call(MINIDOCK_DEBUG="1").stderr


def test_interrupting_ends_with_130(loaded: Cli, scratch: Path) -> None:
    assert loaded("run", "-d", "--name", "long", "busybox:test", "sh", "-c", "echo up; sleep 1000").returncode == 0
    with subprocess.Popen(
        command(scratch / "root", "logs", "-f", "long"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, b"")
    assert loaded("rm", "-f", "long").stdout == "long\n"


def test_running_containers(loaded: Cli) -> None:
    started = loaded("run", "-d", "--name", "job", "busybox:test", "sh", "-c", "trap 'exit 7' TERM; sleep 1000 & wait")
    assert len(started.stdout.strip()) == 64
    assert loaded("ps", "--format", "{{.Names}} {{.State}}").stdout == "job running\n"
    assert loaded("exec", "job", "cat", "/data/one").stdout == "one\n"
    assert loaded("exec", "-e", "A=b", "job", "sh", "-c", "echo $A; exit 9").returncode == 9
    failed(loaded("rm", "job"), 1, "running")
    assert loaded("stop", "-t", "5", "job").stdout == "job\n"
    assert loaded("wait", "job").stdout.strip() in ("7", "143")
    assert loaded("start", "job").stdout == "job\n"
    assert loaded("kill", "job").stdout == "job\n"
    assert loaded("wait", "job").stdout == "137\n"
    failed(loaded("kill", "job"), 1, "not running")
    failed(loaded("exec", "job", "true"), 1, "not running")


def test_create_then_start_attached(loaded: Cli) -> None:
    made = loaded("create", "--name", "once", "-i", "busybox:test", "sh", "-c", "cat; echo err >&2; exit 4")
    assert len(made.stdout.strip()) == 64
    read_end, write_end = os.pipe()
    os.write(write_end, b"through\n")
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        done = loaded("start", "-ai", "once", stdin=stream)
    assert (done.stdout, done.stderr, done.returncode) == ("through\n", "err\n", 4)
    logs = loaded("logs", "once")
    assert (logs.stdout, logs.stderr) == ("through\n", "err\n")
    stamped = loaded("logs", "-t", "once").stdout
    assert stamped.endswith("Z through\n") and len(stamped.split()[0]) == len("2026-01-02T03:04:05.123456789Z")
    assert loaded("logs", "--tail", "0", "once").stdout == ""
    assert loaded("logs", "--since", "1h", "once").stdout == "through\n"
    assert loaded("logs", "--until", "1h", "once").stdout == ""


def test_help_and_version(cli: Cli) -> None:
    help_text = cli("--help").stdout
    entry = [sys.executable, "-I", "-S", "-c", ENTRY]
    for words in ((), ("volume", "create")):
        shown = subprocess.run([*entry, "help", *words], capture_output=True, text=True, timeout=60, check=True).stdout
        assert shown == subprocess.run([*entry, *words, "--help"], capture_output=True, text=True, timeout=60).stdout
        assert shown.startswith("Usage: minidock ")
    for name in ("pull-tar", "run", "commit", "images", "container"):
        assert f"\n  {name} " in help_text
    assert cli("--version").stdout.startswith("minidock version ")
    assert json.loads(cli("version", "--format", "json").stdout)["Client"]["Version"]


def test_a_shell_on_a_terminal(loaded: Cli, scratch: Path) -> None:
    import pty
    import termios

    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with subprocess.Popen(
        command(scratch / "root", "run", "-it", "--name", "shell", "busybox:test", "sh"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    ) as process:
        os.write(master, b"tty; echo new > /data/typed; exit 5\n")
        assert process.wait(timeout=60) == 5
    assert termios.tcgetattr(slave) == before, "the terminal was not restored"
    os.close(slave)
    shown = b""
    try:
        while data := os.read(master, 4096):
            shown += data
    except OSError:
        os.close(master)
    assert b"/dev/pts/0" in shown or b"/dev/console" in shown
    assert loaded("diff", "shell").stdout.splitlines()[-1] == "A /data/typed"
