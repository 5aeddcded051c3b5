"""minidock ps: rows, filters, and the states they show."""

from __future__ import annotations

import time

import pytest

from minidock.errors import NoSuchContainer, UsageError
from minidock.store.root import DataRoot
from minidock.verbs.ps import ps
from tests.integration.tool import Tool

BOX = "busybox:test"


@pytest.fixture
def many(tool: Tool) -> Tool:
    """One running, one exited with 3, one created container."""
    tool.good("create", "--name", "first", "-l", "tier=web", "-l", "x", BOX, "echo", "a b")
    tool("run", "--name", "second", "-l", "tier=db", BOX, "sh", "-c", "echo 12345 > /file; exit 3")
    tool.good("run", "-d", "--name", "third", BOX, "sleep", "100")
    return tool


def names(tool: Tool, *filters: str, **options: object) -> list[str]:
    """The names that ps gives, in its order."""
    with DataRoot.open(str(tool.root), write=False) as root:
        return [row.names for row in ps(root, filters=filters, **options)]  # type: ignore[arg-type]


def test_rows_newest_first(many: Tool) -> None:
    with DataRoot.open(str(many.root), write=False) as root:
        rows = ps(root, all=True, size=True)
    assert [row.names for row in rows] == ["third", "second", "first"]
    third, second, first = rows
    assert third.status.startswith("Up ")
    assert second.status.startswith("Exited (3) ")
    assert second.status.endswith(" ago")
    assert (first.status, first.state) == ("Created", "created")
    assert first.command == "echo 'a b'"
    assert {row.image for row in rows} == {BOX}
    assert (second.size_bytes, first.size_bytes) == (6, 0)
    assert first.root_size_bytes == (second.root_size_bytes or 0) - 6
    assert abs(time.time_ns() - first.created_ns) < 60 * 10**9
    assert (first.ports, first.networks) == ("", ["bridge"])


def test_without_all_only_what_runs(many: Tool) -> None:
    assert names(many) == ["third"]
    assert names(many, last=2) == ["third", "second"]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        (["name=ir"], ["third", "first"]),
        (["name=^/second$"], ["second"]),
        (["name=first", "name=second"], ["second", "first"]),
        (["label=x"], ["first"]),
        (["label=tier"], ["second", "first"]),
        (["label=tier=db"], ["second"]),
        (["label=tier", "label=x"], ["first"]),
        (["status=running"], ["third"]),
        (["status=created", "status=exited"], ["second", "first"]),
        (["exited=3"], ["second"]),
        (["exited=0"], []),
        (["ancestor=busybox:test"], ["third", "second", "first"]),
        (["ancestor=nosuch"], []),
        (["before=second"], ["first"]),
        (["since=second"], ["third"]),
        (["network=bridge"], ["third", "second", "first"]),
        (["name=first", "status=running"], []),
    ],
)
def test_filters(many: Tool, filters: list[str], wanted: list[str]) -> None:
    assert names(many, *filters, all=True) == wanted


def test_filter_by_id_and_status_without_all(many: Tool) -> None:
    identity = many.inspect("second")["Id"]
    assert names(many, f"id={identity[:12]}", all=True) == ["second"]
    assert names(many, "status=exited") == ["second"]


def test_bad_filters(many: Tool) -> None:
    for text in ("colour=red", "status=odd", "exited=x", "nonsense"):
        with pytest.raises(UsageError):
            names(many, text, all=True)
    with pytest.raises(NoSuchContainer):
        names(many, "before=nosuch", all=True)


def test_an_image_that_lost_its_name_is_shown_by_its_id(many: Tool) -> None:
    many.good("tag", BOX, "other:name")
    many.good("rmi", "-f", BOX)
    with DataRoot.open(str(many.root), write=False) as root:
        row = ps(root, all=True)[0]
    assert row.image == row.image_id
    assert row.image.startswith("sha256:")


def test_lookups(many: Tool) -> None:
    identity = many.inspect("first")["Id"]
    with DataRoot.open(str(many.root), write=False) as root:
        for text in (identity, identity[:12], identity[:8], "first", "/first"):
            assert root.containers.get(text).id == identity
        for text in ("", "nosuch", "f" * 64, "../x", identity[:12] + "zz"):
            with pytest.raises(NoSuchContainer):
                root.containers.get(text)


def test_control_characters_of_an_argument_do_not_reach_the_terminal(tool: Tool) -> None:
    tool.good("create", "--name", "box", BOX, "echo", "\x1b]0;title\x07\n")
    shown = tool.good("ps", "-a", "--no-trunc")
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_filters_by_ports(tool: Tool) -> None:
    tool.good(
        "run", "-d", "--name", "web", "-p", "127.0.0.1:18080:80", "--expose", "90/udp", "busybox:test", "sleep", "600"
    )
    tool.good("run", "-d", "--name", "none", "--network", "none", "busybox:test", "sleep", "600")
    for condition, expected in (
        ("publish=18080", "web"),
        ("publish=18000-18100/tcp", "web"),
        ("publish=18080/udp", ""),
        ("publish=80", ""),
        ("expose=80", "web"),
        ("expose=90/udp", "web"),
        ("expose=90", ""),
    ):
        assert tool.good("ps", "--filter", condition, "--format", "{{.Names}}") == expected, condition
