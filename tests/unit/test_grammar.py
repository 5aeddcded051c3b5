"""The compiled grammar reads command lines as the typer tree does, and is the tree's own."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minidock.cli import compile_grammar
from minidock.cli.grammar import parse
from minidock.cli.grammar_data import ALIASES, COMMANDS, GLOBAL
from minidock.cli.usage import parse_with_typer

HOT = "commit create diff exec history images inspect kill load logs ps pull-tar rm rmi run start stop tag wait".split()
QUIET = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read_by_typer(argv: list[str]) -> Any:
    """The invocation that the tree gives, or its exit status; what it prints is dropped."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return parse_with_typer(argv)


def test_data_is_current() -> None:
    assert Path(compile_grammar.DATA_PATH).read_text() == compile_grammar.compile_grammar(), (
        "the tree changed: run python -m minidock.cli.compile_grammar"
    )


def test_every_hot_command_is_there() -> None:
    assert set(HOT) <= set(COMMANDS)
    for handler, *_ in COMMANDS.values():
        assert Path(f"minidock/cli/commands/{handler}.py").is_file() or __import__(f"minidock.cli.commands.{handler}")


# A value may look like anything, even like an option; a word must not, or it would be one.
values = st.sampled_from(["", "a", "x=y", "-", "--", "-it", "--rm", "ü\udc80", "a b", "=", "1"]) | st.text(max_size=6)
words = st.sampled_from(["busybox", "-", "a/b:c", "", "sh", "x=y"]) | st.text(max_size=6).filter(
    lambda text: not text.startswith("-")
)
numbers = st.integers(-(10**6), 10**9).map(str)
truths = st.sampled_from(["true", "false", "1", "0", "T", "F", "TRUE", "False"])


@st.composite
def option_words(draw: st.DrawFn, options: Any) -> list[str]:
    """One option in one of its spellings, or several switches in one word."""
    names, _, kind, _ = draw(st.sampled_from(options))
    name = draw(st.sampled_from(names))
    if kind == "flag":
        switches = [short[1] for own, _, kind, _ in options if kind == "flag" for short in own if len(short) == 2]
        if len(name) == 2 and draw(st.booleans()):
            bundle = "-" + "".join(draw(st.lists(st.sampled_from(switches), min_size=1, max_size=4)))
            return [bundle + draw(st.sampled_from(["", "=true", "=false"]))]
        return [name + draw(st.just("") | truths.map(lambda truth: "=" + truth))]
    value = draw(numbers if kind == "int" else values)
    if draw(st.booleans()):
        return [name, value]
    if len(name) == 2:
        return [name + "=" + value] if not value or value[0] == "=" or draw(st.booleans()) else [name + value]
    return [name + "=" + value]


@st.composite
def well_formed(draw: st.DrawFn) -> list[str]:
    """A command line with nothing wrong in it."""
    name = draw(st.sampled_from(sorted(COMMANDS) + sorted(ALIASES)))
    _, _, interspersed, options, arguments = COMMANDS[ALIASES.get(name, name)]
    argv: list[str] = []
    for _ in range(draw(st.integers(0, 2))):
        argv += draw(option_words(GLOBAL))
    argv += name.split()
    given_words: list[str] = []
    for _, minimum, is_list in arguments:
        if is_list:
            given_words += draw(st.lists(words, min_size=minimum, max_size=4))
        elif minimum or draw(st.booleans()):
            given_words.append(draw(words))
    given_options = draw(st.lists(option_words(options), max_size=4)) if options else []
    if interspersed:
        chunks = draw(st.permutations([*given_options, *([word] for word in given_words)]))
        return argv + [word for chunk in chunks for word in chunk]
    argv += [word for chunk in given_options for word in chunk]
    if draw(st.booleans()):
        argv.append("--")
    return argv + given_words


@QUIET
@given(well_formed())
def test_well_formed_lines_are_read_alike(argv: list[str]) -> None:
    read = parse(argv)
    assert read is not None
    assert read == read_by_typer(argv)


SOUP = (
    "run images ps exec image container ls inspect rm -it -i -d -e A=b --env --env=A=b --rm --rm=false --rm=maybe -q"
    " -qa -aq -n -n=3 -n3 -5 --last 7 --last=x busybox sh -c -- - --help --bad -z --root /r --root=/r --explain"
    " --format --filter -f --no-trunc --time -t 5 -t=5 --type image --version --pause=false -p=0 -H=false"
).split()


@QUIET
@given(st.lists(st.sampled_from([*SOUP, ""]), max_size=8))
def test_any_words_are_read_alike(argv: list[str]) -> None:
    read = parse(argv)
    by_typer = read_by_typer(argv)
    if read is None:
        assert isinstance(by_typer, int), "the grammar left to typer what typer finds in order"
    else:
        assert read == by_typer


@pytest.mark.parametrize("name", HOT)
def test_help_is_left_to_typer(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse([name, "--help"]) is None
    assert parse_with_typer([name, "--help"]) == 0
    assert f"Usage: minidock {name}" in capsys.readouterr().out


def test_options_end_at_the_image() -> None:
    read = parse(["run", "-it", "--rm", "-eA=b", "-e", "C", "ubuntu", "ls", "-l", "--", "--rm=false"])
    assert read is not None
    handler, options = read
    assert handler == "run"
    assert (options["interactive"], options["tty"], options["rm"]) == (True, True, True)
    assert options["env"] == ["A=b", "C"]
    assert (options["image"], options["command"]) == ("ubuntu", ["ls", "-l", "--", "--rm=false"])


def test_global_and_own_explain_are_one() -> None:
    for argv in (["--explain", "run", "x"], ["run", "--explain", "x"]):
        read = parse(argv)
        assert read is not None and read[1]["explain"] is True
        assert read == read_by_typer(argv)


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["images", "--bad"], 125, "unknown flag: --bad"),
        (["images", "-x"], 125, "unknown shorthand flag: 'x' in -x"),
        (["run", "-itz", "x"], 125, "unknown shorthand flag: 'z' in -itz"),
        (["run", "-e"], 125, "flag needs an argument: 'e' in -e"),
        (["run", "--env"], 125, "flag needs an argument: --env"),
        (["run", "--rm=maybe", "x"], 125, 'invalid argument "maybe" for "--rm" flag'),
        (["stop", "-t", "abc", "x"], 125, "invalid argument"),
        (["run"], 1, '"minidock run" requires at least 1 argument.'),
        (["exec", "x"], 1, '"minidock exec" requires at least 2 arguments.'),
        (["tag", "x"], 1, '"minidock tag" requires exactly 2 arguments.'),
        (["images", "a", "b"], 1, '"minidock images" requires at most 1 argument.'),
        (["nope"], 1, "minidock: 'nope' is not a minidock command."),
        (["image", "nope"], 1, "minidock: 'nope' is not a minidock image command."),
        (["images", "--\x1b[31mred"], 125, "unknown flag: --\\x1b[31mred"),
    ],
)
def test_usage_errors_in_dockers_words(
    argv: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parse(argv) is None
    assert parse_with_typer(argv) == status
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert "--help'." in error
