"""Tables, sizes, times and escapes as docker shows them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidock.cli import explain, failures, output, progress, report, sizes, spans, times
from minidock.errors import NoSuchImage, UsageError
from minidock.linux.mount import shell_word


def test_columns_are_as_wide_as_dockers() -> None:
    rows = [("REPOSITORY", "TAG", "IMAGE ID", "SIZE"), ("busybox", "test", "64f95755785d", "2MB")]
    assert output.layout(rows) == (
        "REPOSITORY   TAG       IMAGE ID       SIZE\nbusybox      test      64f95755785d   2MB\n"
    )


def test_columns_of_uneven_rows() -> None:
    # what Go's tabwriter prints for "a\tb\nlonger cell here\tc\n\nx\ty\n" with the same settings
    rows = [("a", "b"), ("longer cell here", "c"), ("",), ("x", "y")]
    assert output.layout(rows) == "a                  b\nlonger cell here   c\n\nx         y\n"


@given(st.text())
def test_nothing_that_steers_a_terminal_gets_out(text: str) -> None:
    shown = output.escape_controls(text)
    assert not any(ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0 for letter in shown)
    assert output.escape_controls(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü", "plain ü"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x9b31m", "\\x9b31m"),
        ("right\u202eleft", "right\\u202eleft"),
        ("byte \udcff", "byte \\xff"),
        ("wide\u3000blank", "wide\u3000blank"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    assert output.escape_controls(text) == shown


def test_errors_are_one_line_with_their_notes(capfd: pytest.CaptureFixture[str]) -> None:
    error = NoSuchImage("No such image: a\x1b[2J\nb")
    error.add_note("cleaning up: it failed")
    failures.report(error)
    said = capfd.readouterr().err
    assert said.splitlines() == [
        "minidock: No such image: a\\x1b[2J\\nb (minidock images lists what there is)",
        "minidock: cleaning up: it failed",
    ]


def test_one_failure_does_not_stop_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []

    def act(name: str) -> None:
        if name == "bad":
            raise UsageError("bad is bad")
        done.append(name)

    assert failures.for_each(["a", "bad", "c"], act) == 1
    assert done == ["a", "c"]
    assert failures.for_each(["a"], act) == 0
    assert capfd.readouterr().err == "minidock: bad is bad\n"


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (20000, "20kB"),
        (1982732, "1.98MB"),
        (2002732, "2MB"),
        (999999, "1e+03kB"),
        (123456789, "123MB"),
        (10**10, "10GB"),
    ],
)
def test_sizes(size: int, shown: str) -> None:
    # `docker images` says 1e+03kB too: Go's %.3g
    assert times.human_size(size) == shown


def test_memory() -> None:
    assert times.human_ram(25276502016) == "23.54GiB"


DAY_NS = 86400 * 10**9


@pytest.mark.parametrize(
    ("age_ns", "shown"),
    [
        (-5 * 10**9, "Less than a second ago"),
        (10**9, "1 second ago"),
        (59 * 10**9, "59 seconds ago"),
        (60 * 10**9, "About a minute ago"),
        (3599 * 10**9, "59 minutes ago"),
        (3600 * 10**9, "About an hour ago"),
        (47 * 3600 * 10**9, "47 hours ago"),
        (2 * DAY_NS, "2 days ago"),
        (14 * DAY_NS, "2 weeks ago"),
        (60 * DAY_NS, "2 months ago"),
        (730 * DAY_NS, "2 years ago"),
        (10**6 * DAY_NS, "292 years ago"),
    ],
)
def test_ages(age_ns: int, shown: str) -> None:
    now_ns = 1_800_000_000 * 10**9
    assert times.ago(now_ns - age_ns, now_ns) == shown


def test_local_times(monkeypatch: pytest.MonkeyPatch) -> None:
    moment_ns = 1_767_323_045_678_000_000
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert times.local_time(moment_ns) == "2026-01-02 03:04:05 +0000 UTC"
    assert times.local_rfc3339(moment_ns) == "2026-01-02T03:04:05Z"
    monkeypatch.setenv("TZ", "XST-5:30")
    time.tzset()
    assert times.local_time(moment_ns) == "2026-01-02 08:34:05 +0530 XST"
    assert times.local_rfc3339(moment_ns) == "2026-01-02T08:34:05+05:30"
    monkeypatch.delenv("TZ")
    time.tzset()


@pytest.mark.parametrize(
    ("text", "size"), [("64m", 64 << 20), ("1g", 1 << 30), ("512", 512), ("1.5k", 1536), ("2KiB", 2048), ("7b", 7)]
)
def test_sizes_in_options(text: str, size: int) -> None:
    assert sizes.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1..2", "١", "0x10"])
def test_bad_sizes_in_options(text: str) -> None:
    with pytest.raises(UsageError):
        sizes.parse_size(text)


@pytest.mark.parametrize(
    ("text", "span_ns"),
    [("42m", 2520 * 10**9), ("1h30m", 5400 * 10**9), ("1.5s", 1_500_000_000), ("10ms", 10**7), ("-2s", -2 * 10**9)],
)
def test_spans(text: str, span_ns: int) -> None:
    assert spans.parse_duration(text) == span_ns


@pytest.mark.parametrize("text", ["", "5", "m", "1x", "1.2.3s", "h1", "."])
def test_no_spans(text: str) -> None:
    assert spans.parse_duration(text) is None


def test_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XST-1")
    time.tzset()
    second = 10**9
    assert spans.parse_moment("1700000000") == 1_700_000_000 * second
    assert spans.parse_moment("1700000000.5") == 1_700_000_000 * second + second // 2
    assert spans.parse_moment("2023-11-14T22:13:20Z") == 1_700_000_000 * second
    assert spans.parse_moment("2023-11-14T23:13:20") == 1_700_000_000 * second
    assert spans.parse_moment("2023-11-14T23:13") == 1_699_999_980 * second
    assert spans.parse_moment("2023-11-14") == 1_699_916_400 * second
    assert spans.parse_moment("yesterday") is None
    before = spans.parse_moment("10s")
    assert before is not None and abs(time.time_ns() - 10 * second - before) < 5 * second
    monkeypatch.delenv("TZ")
    time.tzset()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_json_is_json(value: Any) -> None:
    for indent in (0, 4):
        text = report.to_json(value, indent=indent)
        assert json.loads(text) == value
        assert not any(ord(letter) < 0x20 and letter != "\n" or 0x7F <= ord(letter) < 0xA0 for letter in text)


def test_json_layout_is_dockers() -> None:
    assert report.to_json([{"a": [], "b": {}, "c": [1, "<"]}], indent=4) == (
        '[\n    {\n        "a": [],\n        "b": {},\n        "c": [\n            1,\n            "<"\n'
        "        ]\n    }\n]"
    )


def test_explain_lines_have_one_form(capfd: pytest.CaptureFixture[str]) -> None:
    explain.trace("mount", "mount -t overlay overlay /m")
    explain.trace("hash", "sha256sum < a  # image_id = b")
    explain.trace("hash", "# of a\x1b")
    explain.trace("write", "a")
    explain.trace("end", "CLONED")
    assert capfd.readouterr().err.splitlines() == [
        "mount -t overlay overlay /m  # mount",
        "sha256sum < a  # image_id = b",
        "# hash   of a\\x1b",
        "# write  a",
        "CLONED",
    ]


def test_no_progress_into_a_pipe() -> None:
    read_end, write_end = os.pipe()
    assert progress.progress_for(write_end) is None
    os.close(read_end)
    os.close(write_end)


def drained(master: int) -> str:
    """All that was written to a terminal whose other end is closed."""
    data = b""
    while True:
        try:
            data += os.read(master, 10000)
        except OSError:
            os.close(master)
            return data.decode()


def test_progress_redraws_its_lines() -> None:
    master, slave = pty.openpty()
    show = progress.progress_for(slave)
    assert show is not None
    assert progress.progress_for(slave, quiet=True) is None
    show("sha256:" + "a" * 64, "Waiting", 0, 0)
    show("sha256:" + "b" * 64, "Extracting", 500, 1000)
    show("sha256:" + "a" * 64, "Pull complete", 10, 10)
    os.close(slave)
    drawn = drained(master).split("\x1b")
    assert drawn[0].splitlines() == [
        "aaaaaaaaaaaa: Waiting",
        "bbbbbbbbbbbb: Extracting [=========================>                         ]  500B/1kB",
    ]
    assert drawn[1:] == ["[2A\r", "[2Kaaaaaaaaaaaa: Pull complete", "[2B\r"]


@pytest.mark.parametrize(
    "word",
    [
        "plain",
        "",
        "a b",
        "a'b",
        "$HOME",
        "a;b|c",
        "new\nline",
        "\x1b[31m",
        "tab\there'",
        "back\\slash\x01",
        "ü",
        "50%d\t",
        "end\n",
    ],
)
def test_explained_words_are_the_shells(word: str) -> None:
    written = shell_word(word)
    assert output.escape_controls(written) == written
    for shell in ("bash",) if word.endswith("\n") else ("bash", "sh"):
        done = subprocess.run([shell, "-c", f"printf %s {written}"], capture_output=True, check=True)
        assert done.stdout.decode() == word
