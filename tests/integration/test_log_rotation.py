"""--log-driver and --log-opt: files of a bounded size, read as one log."""

from __future__ import annotations

import pytest

from tests.integration.tool import Tool, wait_until

pytestmark = pytest.mark.root
QUIET = ("--network", "none", "busybox:test")
ROTATED = ("--log-opt", "max-size=2k", "--log-opt", "max-file=3")


def files(tool: Tool, name: str) -> list[int]:
    """Sizes of the log's files, the newest first."""
    found = tool.inspect(name)
    paths = sorted(tool.directory(name).glob(f"{found['Id']}-json.log*"))
    return [path.stat().st_size for path in paths]


def test_old_records_go_and_the_newest_are_read_over_all_files(tool: Tool) -> None:
    tool.good("run", "--name", "cc", *ROTATED, *QUIET, "seq", "1", "200")
    sizes = files(tool, "cc")
    assert len(sizes) == 3
    assert all(2048 <= size < 2048 + 200 for size in sizes[1:])
    lines = tool.good("logs", "cc").split("\n")
    assert 40 < len(lines) < 200
    assert lines == [str(number) for number in range(201 - len(lines), 201)]
    for count in (0, 1, 5, 30, len(lines) - 1, 500):
        assert tool.good("logs", "-n", str(count), "cc").split("\n") == (lines[-count:] if count else [""])
    assert tool.inspect("cc")["HostConfig"]["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-size": "2k", "max-file": "3"},
    }


def test_one_file_alone_is_cut_and_a_follower_sees_every_line_through_rotations(tool: Tool) -> None:
    tool.good("run", "--name", "one", "--log-opt", "max-size=1k", *QUIET, "seq", "1", "100")
    assert len(files(tool, "one")) == 1
    assert tool.good("logs", "one").endswith("100")
    script = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo line $i; sleep 0.01; done; sleep 0.5"
    tool.good("run", "-d", "--name", "cc", *ROTATED, *QUIET, "sh", "-c", script)
    followed = tool.good("logs", "-f", "cc")
    assert followed.split("\n") == [f"line {number}" for number in range(1, 61)]
    assert len(files(tool, "cc")) > 1


def test_no_log_at_all(tool: Tool) -> None:
    done = tool("run", "--name", "cc", "--log-driver", "none", *QUIET, "echo", "seen")
    assert (done.returncode, done.stdout) == (0, "seen\n")
    assert files(tool, "cc") == []
    refused = tool("logs", "cc")
    assert refused.returncode != 0
    assert "configured logging driver does not support reading" in refused.stderr
    wait_until(lambda: tool.status("cc") == "exited", "its end")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--log-driver", "syslog"), "log driver 'syslog' is not there"),
        (("--log-opt", "colour=red"), "unknown log opt 'colour' for json-file log driver"),
        (("--log-opt", "max-size=big"), "invalid size: 'big'"),
        (("--log-opt", "max-file=0"), "max-file cannot be less than 1"),
        (("--log-opt", "compress=true"), "compress is not there"),
    ],
)
def test_bad_options(tool: Tool, words: tuple[str, ...], message: str) -> None:
    done = tool("create", *words, *QUIET, "true")
    assert done.returncode != 0
    assert message in done.stderr


def test_labels_and_variables_go_with_each_record_and_are_shown_as_details(tool: Tool) -> None:
    words = ("--log-opt", "labels=a,none", "--log-opt", "env-regex=^W", "-l", "a=1 2", "-l", "b=2", "-e", "WHO=me&you")
    tool.good("run", "--name", "cc", *words, *QUIET, "echo", "hello")
    assert tool.good("logs", "--details", "cc") == "WHO=me%26you,a=1+2 hello"
    assert tool.good("logs", "cc") == "hello"
    tool.good("run", "--name", "plain", *QUIET, "echo", "hello")
    assert tool.good("logs", "--details", "plain") == " hello"
    for bad in ("tag=x", "env-regex=("):
        refused = tool("run", "--log-opt", bad, *QUIET, "true")
        assert refused.returncode == 125 and refused.stderr.startswith("minidock: ")
