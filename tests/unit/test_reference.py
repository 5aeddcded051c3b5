"""References are read as distribution/reference reads them; the vectors are from its own tests and from docker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidock.errors import InvalidReference
from minidock.formats.reference import parse_reference, parse_tag

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest", "ubuntu:latest"),
        ("ubuntu:22.04", "docker.io/library/ubuntu:22.04", "ubuntu:22.04"),
        ("docker.io/ubuntu", "docker.io/library/ubuntu:latest", "ubuntu:latest"),
        ("docker.io/library/ubuntu", "docker.io/library/ubuntu:latest", "ubuntu:latest"),
        ("index.docker.io/foo", "docker.io/library/foo:latest", "foo:latest"),
        ("foo/bar", "docker.io/foo/bar:latest", "foo/bar:latest"),
        ("docker.io/foo/bar:t", "docker.io/foo/bar:t", "foo/bar:t"),
        ("library/library/x", "docker.io/library/library/x:latest", "library/library/x:latest"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
        ("127.0.0.1:5897/x/com:1", "127.0.0.1:5897/x/com:1", "127.0.0.1:5897/x/com:1"),
        ("Example.COM/x", "Example.COM/x:latest", "Example.COM/x:latest"),
        ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f:latest", "a__b/c--d.e_f:latest"),
        ("x:A_b.c-1", "docker.io/library/x:A_b.c-1", "x:A_b.c-1"),
        ("x:" + "t" * 128, "docker.io/library/x:" + "t" * 128, "x:" + "t" * 128),
        ("x@" + DIGEST, "docker.io/library/x@" + DIGEST, "x@" + DIGEST),
        ("x:1@" + DIGEST, "docker.io/library/x:1@" + DIGEST, "x:1@" + DIGEST),
    ],
)
def test_good_references_are_normalised(text: str, canonical: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert reference.canonical == canonical
    assert reference.familiar == familiar
    assert parse_reference(reference.canonical) == reference
    assert parse_reference(reference.familiar) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":tag",
        "x:",
        "x:-t",
        "x:.t",
        "x:" + "t" * 129,
        "x:a b",
        "x:y:z",
        "/x",
        "x/",
        "a//b",
        "a/../b",
        "../x",
        "-x",
        "x-",
        "x_",
        ".x",
        "a..b",
        "a___b",
        "a._b",
        "Ubuntu",
        "foo/Bar",
        "x\n",
        "x\x1b]0;t\x07",
        "ünï",
        "a" * 300,
        "docker.io/" + "a/" * 130 + "a",
        "-host.com/x",
        "host.com:port/x",
        "x@sha256:abc",
        "x@md5:" + "a" * 32,
        "x@" + DIGEST.upper(),
        "x@",
        "a" * 64,
        "0" * 64,
    ],
)
def test_bad_references_are_refused_in_one_printable_line(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse_reference(text)
    assert str(caught.value).isprintable()


def test_the_name_may_have_255_characters_and_no_more() -> None:
    longest = "a" * (255 - len("docker.io/library/"))
    assert parse_reference(longest).path == "library/" + longest
    with pytest.raises(InvalidReference, match="255"):
        parse_reference(longest + "a")


def test_the_store_keys_are_those_of_repositories_json() -> None:
    tagged = parse_reference("127.0.0.1:5897/x/com:1")
    assert (tagged.repository_key, tagged.store_key) == ("127.0.0.1:5897/x/com", "127.0.0.1:5897/x/com:1")
    by_digest = parse_reference("base@" + DIGEST)
    assert (by_digest.repository_key, by_digest.store_key) == ("base", "base@" + DIGEST)


def test_a_name_to_give_needs_no_digest_and_is_not_sha256() -> None:
    assert parse_tag("x").tag == "latest"
    for text in ("x@" + DIGEST, "sha256", "sha256:abc", "docker.io/library/sha256:1"):
        with pytest.raises(InvalidReference):
            parse_tag(text)
    assert parse_tag("me/sha256:1").familiar == "me/sha256:1"


_WORD = st.from_regex(r"\A[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+){0,3}\Z").filter(lambda word: len(word) < 40)
_TAG = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}\Z")


@given(st.lists(_WORD, min_size=1, max_size=3), _TAG)
def test_what_the_grammar_makes_is_read_back(words: list[str], tag: str) -> None:
    path = "/".join(words)
    reference = parse_reference(f"example.org/{path}:{tag}")
    assert (reference.domain, reference.path, reference.tag) == ("example.org", path, tag)


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_an_invalid_reference(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidReference:
        return
    assert parse_reference(reference.canonical) == reference
    assert ".." not in reference.path.split("/")
