"""What `commit --change` makes of Dockerfile instructions; the interop tests hold the same against the engine."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidock.errors import MinidockError, UsageError
from minidock.formats.instructions import apply_changes
from minidock.formats.shellwords import expand_word, expand_words

ENV = ["A=1", "PATH=/bin:/usr/bin", "EMPTY=", "WORDS=two words"]


@pytest.mark.parametrize(
    ("word", "result"),
    [
        ("plain", "plain"),
        ("$A", "1"),
        ("${A}x", "1x"),
        ("$Ax", ""),
        ("x$", "x$"),
        ("'$A'", "$A"),
        ('"$A b"', "1 b"),
        ('"a\\"b\\n"', 'a"b\\n'),
        ("a\\ b", "a b"),
        ("${NONE:-x$A}", "x1"),
        ("${EMPTY:-x}", "x"),
        ("${A:-x}", "1"),
        ("${A:+x}", "x"),
        ("${NONE:+x}", ""),
        ("$1", ""),
        ("$12x", "x"),
        ("end\\", "end"),
    ],
)
def test_expansion(word: str, result: str) -> None:
    assert expand_word(word, ENV) == result


@pytest.mark.parametrize("word", ["'open", '"open', "${A", "${", "${}", "${A:", "${A:%x}", "${A-x}", "${NONE:?no}"])
def test_broken_words_end_in_one_line(word: str) -> None:
    with pytest.raises(UsageError):
        expand_word(word, ENV)


def test_a_variable_outside_of_quotes_becomes_several_words() -> None:
    assert expand_words("$WORDS", ENV) == ["two", "words"]
    assert expand_words("\"$WORDS\" '' x", ENV) == ["two words", "", "x"]


def test_the_config_that_came_in_stays_as_it_was() -> None:
    config: dict[str, Any] = {"Env": ["A=1"], "Labels": {"a": "b"}, "OnBuild": ["RUN x"]}
    apply_changes(config, ["ENV A=2 B=3", "LABEL c=d", "ONBUILD RUN y"])
    assert config == {"Env": ["A=1"], "Labels": {"a": "b"}, "OnBuild": ["RUN x"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("RUN x", "run is not a valid change command"),
        ("FROM x", "from is not a valid change command"),
        ("COPY a b", "copy is not a valid change command"),
        ("nonsense", "nonsense is not a valid change command"),
        ("", "no instructions"),
        ("ENV", "at least one argument"),
        ("ENV a", "two arguments"),
        ("ENV a=b c", "can't find ="),
        ("ENV =b", "blank"),
        ("EXPOSE", "at least one"),
        ("EXPOSE http", "Invalid containerPort"),
        ("EXPOSE 90-80", "Invalid range"),
        ("EXPOSE 70000", "Invalid containerPort"),
        ("EXPOSE 80/icmp", "Invalid containerPort"),
        ("USER", "exactly one"),
        ("WORKDIR", "exactly one"),
        ("WORKDIR $NONE", "cannot normalize nothing"),
        ("VOLUME", "at least one"),
        ('VOLUME ["", "/x"]', "empty string"),
        ("ONBUILD", "at least one"),
        ("ONBUILD ONBUILD RUN x", "Chaining"),
        ("ONBUILD from x", "FROM isn't allowed"),
        ("HEALTHCHECK", "at least one"),
        ("HEALTHCHECK NONE x", "takes no arguments"),
        ("HEALTHCHECK WGET x", "Unknown type"),
        ("HEALTHCHECK CMD", "Missing command"),
        ("HEALTHCHECK --every=1s CMD x", "Unknown flag"),
        ("HEALTHCHECK --interval=1 CMD x", "invalid duration"),
        ("HEALTHCHECK --interval=1us CMD x", "less than 1ms"),
        ("HEALTHCHECK --retries=-1 CMD x", "negative"),
        ('SHELL ["/bin/sh", "-c"]', "shell is not a valid change command"),
        ('CMD ["a", 1]', "strings only"),
    ],
)
def test_what_docker_refuses_is_refused(change: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        apply_changes({}, [change])


def test_durations_as_go_writes_them() -> None:
    check = apply_changes({}, ["HEALTHCHECK --interval=1h2m3s --timeout=1.5s --start-period=500ms CMD x"])[
        "Healthcheck"
    ]
    assert (check["Interval"], check["Timeout"], check["StartPeriod"]) == (3723 * 10**9, 1_500_000_000, 500_000_000)


def test_the_shell_of_the_image_runs_the_shell_form() -> None:
    changed = apply_changes({"Shell": ["/bin/ash", "-ec"]}, ["ENTRYPOINT c"])
    assert changed["Cmd"] is None and changed["Entrypoint"] == ["/bin/ash", "-ec", "c"]
    assert apply_changes({"Shell": ["/bin/ash", "-ec"]}, ["CMD a b"])["Cmd"] == ["/bin/ash", "-ec", "a b"]


def test_broken_json_is_the_shell_form() -> None:
    assert apply_changes({}, ["CMD ['a']"])["Cmd"] == ["/bin/sh", "-c", "['a']"]


INSTRUCTIONS = st.sampled_from(["CMD", "ENV", "LABEL", "EXPOSE", "USER", "VOLUME", "WORKDIR", "HEALTHCHECK", "ONBUILD"])


@given(st.lists(st.tuples(INSTRUCTIONS, st.text(alphabet="ab=\"'$\\{}:- []1,#\n\u00e9", max_size=30)), max_size=4))
def test_any_text_ends_in_a_config_or_one_of_our_errors(changes: list[tuple[str, str]]) -> None:
    try:
        assert isinstance(apply_changes({"Env": ENV}, [f"{word} {rest}" for word, rest in changes]), dict)
    except MinidockError as error:
        assert "\n" not in error.message or any("\n" in rest for _, rest in changes)
