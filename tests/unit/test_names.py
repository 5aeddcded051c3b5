"""Names, environment, labels and signals as docker reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from minidock.errors import UsageError
from minidock.formats.human import human_duration
from minidock.runtime.signals import parse_signal
from minidock.verbs.options import check_name, generate_name, merge_env, read_env, read_labels


@pytest.mark.parametrize("name", ["ab", "a.b", "A-1_", "0x", "/box"])
def test_names(name: str) -> None:
    assert check_name(name) == name.removeprefix("/")


@pytest.mark.parametrize("name", ["a", "-a", ".ab", "a b", "a/b", "ä1", "//ab", "a\n", "/"])
def test_names_refused(name: str) -> None:
    with pytest.raises(UsageError, match="only \\[a-zA-Z0-9\\]"):
        check_name(name)


def test_generated_names_are_valid_and_new() -> None:
    taken: set[str] = set()
    for _ in range(3000):
        name = generate_name(taken)
        assert name not in taken
        assert check_name(name) == name
        taken.add(name)


def test_environment_given_comes_first_then_what_the_image_adds() -> None:
    # dockerd 20.10 for `-e A=1` on an image with PATH and B
    assert merge_env(["PATH=/bin", "B=2", "A=0"], ["A=1"]) == ["A=1", "PATH=/bin", "B=2"]
    # a bare name takes the image's variable away when the process starts
    assert merge_env(["PATH=/bin", "B=2"], ["B"]) == ["B", "PATH=/bin"]


def test_environment_from_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("GONE", raising=False)
    assert read_env(["HERE", "GONE", "X=", "Y=a=b"], []) == ["HERE=yes", "GONE", "X=", "Y=a=b"]


@pytest.mark.parametrize("entry", ["=x", "", "A\0B=1"])
def test_environment_refused(entry: str) -> None:
    with pytest.raises(UsageError, match="invalid environment variable"):
        read_env([entry], [])


def test_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("GONE", raising=False)
    path = tmp_path / "env"
    path.write_bytes(b"\xef\xbb\xbfA=1\n# comment\n\n  B=two words \nHERE\nGONE\nC=\r\n")
    assert read_env(["A=2"], [str(path)]) == ["A=1", "B=two words ", "HERE=yes", "C=", "A=2"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"A B=1\n", "contains whitespaces"),
        (b"=1\n", "no variable name"),
        (b"A=\xff\n", "invalid utf8 bytes at line 1"),
    ],
)
def test_env_file_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "env"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=message):
        read_env([], [str(path)])
    with pytest.raises(UsageError, match="no such file"):
        read_env([], [str(tmp_path / "nothing")])


def test_labels() -> None:
    assert read_labels(["a=b", "c", "d=e=f", "a=z"]) == {"a": "z", "c": "", "d": "e=f"}
    with pytest.raises(UsageError):
        read_labels(["=x"])


@pytest.mark.parametrize(
    ("text", "number"),
    [("TERM", 15), ("SIGTERM", 15), ("sigusr1", 10), ("9", 9), ("RTMIN+1", 35), ("SIGRTMIN", 34), ("RTMAX-1", 63)],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-9", "NOPE", "RTMIN+99", "RTMAX+1", "9999999999", "²"])
def test_signals_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Invalid signal"):
        parse_signal(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (5400, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_durations_in_docker_s_words(seconds: float, words: str) -> None:
    # The first values are units.HumanDuration's own tests.
    assert human_duration(int(seconds * 1_000_000_000)) == words
