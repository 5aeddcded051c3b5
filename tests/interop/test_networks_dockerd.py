"""Networks beside dockerd's own: the same files and documents, the same refusals, and containers that go to and fro."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import builders
from tests.conftest import Engine
from tests.integration.tool import Tool
from tests.interop.engines import RELEASES, NewEngine

BOX = "busybox:test"
# dockerd with a bridge, in a network that ends with it.
ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']
SCRIPT = (
    "cat /etc/hosts /etc/resolv.conf /etc/hostname; ip -o -4 address | sed 's/^[0-9]*//'; ip route; ip -6 -o address"
)


@pytest.fixture(scope="module")
def engine(new_engine_of: NewEngine, busybox_archive: Path) -> Iterator[Engine]:
    """One engine with a bridge and busybox:test."""
    made = new_engine_of(RELEASES["20.10"])
    made.prefix, made.bridge = ALONE, ""
    made.start()
    made.docker("load", "-i", busybox_archive)
    yield made
    made.stop()


@contextmanager
def own_network(name: str) -> Iterator[list[str]]:
    """The words that run a command in a network of its own, so that its first subnet is 172.17.0.0/16, as docker's."""
    name = f"{name}{os.getpid()}"
    builders.run_command("ip", "netns", "add", name)
    try:
        builders.run_command("ip", "-n", name, "link", "set", "lo", "up")
        yield ["ip", "netns", "exec", name]
    finally:
        builders.run_command("ip", "netns", "delete", name)


@pytest.fixture
def alone() -> Iterator[list[str]]:
    """One test's own network."""
    with own_network("alone") as words:
        yield words


@pytest.fixture
def tool(scratch: Path, busybox_archive: Path, alone: list[str]) -> Iterator[Tool]:
    """minidock on a fresh root, in that network."""
    made = Tool(scratch / "root", busybox_archive)
    made.prefix = alone
    yield made
    made.close()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--add-host", "db:192.0.2.7"),
        ("--dns", "192.0.2.53"),
        ("--dns-search", "example.com", "--dns-option", "ndots:3"),
        ("--dns", "192.0.2.53", "--dns", "2001:db8::53", "--dns-search", "."),
        ("--network", "none"),
        ("--network", "none", "--add-host", "db:192.0.2.7"),
        ("--mac-address", "92:d0:c6:0a:29:33"),
    ],
    ids=" ".join,
)
def test_files_addresses_and_routes(engine: Engine, tool: Tool, words: tuple[str, ...]) -> None:
    # One subnet for both: each is alone in a network of its own.
    command = ("run", "--rm", "-h", "same", *words, BOX, "sh", "-c", SCRIPT)
    ours, theirs = tool.good(*command), engine.docker(*command).stdout.rstrip("\n")
    if "none" in words:
        # ::1, which docker's switches off together with everything else that is IPv6, is left to the loopback.
        ours = "\n".join(line for line in ours.splitlines() if "inet6 ::1/128" not in line)
    assert ours == theirs


def shape(value: Any) -> Any:
    """A document with its leaves replaced by their types, and IDs and times in keys by stars."""
    if isinstance(value, dict):
        return {"*" if len(key) == 64 else key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


def lines_of(value: Any) -> str:
    """A document's shape, to be compared line by line."""
    return json.dumps(shape(value), indent=1)


def test_inspect(engine: Engine, tool: Tool) -> None:
    def look(call: Any) -> tuple[Any, Any]:
        for words in (
            ("network", "create", "--subnet", "10.7.0.0/24", "--label", "a=b", "front"),
            ("run", "-d", "--name", "box", BOX, "sleep", "1000"),
            ("run", "-d", "--name", "made", "--network", "front", "--network-alias", "x", BOX, "sleep", "1000"),
            ("network", "connect", "front", "box"),
        ):
            call(*words)
        documents = [json.loads(call("inspect", name))[0]["NetworkSettings"] for name in ("box", "made")]
        networks = [json.loads(call("network", "inspect", name))[0] for name in ("front", "bridge", "none", "host")]
        rows = [json.loads(line) for line in call("network", "ls", "--format", "{{json .}}").splitlines()]
        table = [line.split()[1:] for line in call("network", "ls").splitlines()[1:]]
        call("rm", "-f", "box", "made")
        call("network", "rm", "front")
        return (documents, networks), (rows, table)

    ours, our_rows = look(tool.good)
    theirs, their_rows = look(lambda *words: engine.docker(*words).stdout.rstrip("\n"))
    assert lines_of(ours[0]) == lines_of(theirs[0])
    for mine, other in zip(ours[1], theirs[1], strict=True):
        # docker tells of the default bridge's gateway after its second start only
        for one in (mine, other):
            one["IPAM"]["Config"] = [{"Subnet": each["Subnet"]} for each in one["IPAM"]["Config"]]
        keys = [key for key in mine if key not in ("Id", "Created", "Containers", "Options")]
        assert list(mine) == list(other)
        assert {key: mine[key] for key in keys} == {key: other[key] for key in keys}
        assert lines_of(mine["Containers"]) == lines_of(other["Containers"])
        assert set(mine["Options"]) == set(other["Options"])
    for key in ("IPAddress", "Gateway", "IPPrefixLen", "MacAddress"):
        assert [one["Networks"]["front"][key] for one in ours[0]] == [
            one["Networks"]["front"][key] for one in theirs[0]
        ]
    # IPv4 came with newer clients.
    assert [sorted({*row, "IPv4"}) for row in our_rows[0]] == [sorted({*row, "IPv4"}) for row in their_rows[0]]
    assert our_rows[1] == their_rows[1]


@pytest.mark.parametrize(
    "words",
    [
        ("network", "create", "front"),
        ("network", "create", "host"),
        ("network", "create", "--subnet", "10.7.0.128/25", "new"),
        ("network", "create", "--subnet", "10.8.0.0/24", "--gateway", "10.9.0.1", "new"),
        ("network", "create", "--subnet", "10.8.0.0/24", "--ip-range", "10.9.0.0/25", "new"),
        ("network", "create", "--gateway", "10.9.0.1", "new"),
        ("network", "create", "--subnet", "x", "new"),
        ("network", "create", "--subnet", "10.8.0.0/24", "--subnet", "10.9.0.0/24", "new"),
        ("network", "create", "-d", "nosuch", "new"),
        ("network", "rm", "bridge"),
        ("network", "connect", "nosuch", "box"),
        ("network", "connect", "front", "nosuch"),
        ("network", "connect", "host", "box"),
        ("network", "connect", "none", "box"),
        ("network", "connect", "--ip", "10.8.0.1", "front", "box"),
        ("network", "disconnect", "nosuch", "box"),
        ("network", "ls", "-f", "x=y"),
        ("run", "--rm", "--network", "nosuch", BOX, "true"),
        ("run", "--rm", "--network", "container:", BOX, "true"),
        ("run", "--rm", "--network", "container:nosuch", BOX, "true"),
        ("run", "--rm", "--network", "container:box", "-h", "x", BOX, "true"),
        ("run", "--rm", "--network", "container:box", "--dns", "192.0.2.1", BOX, "true"),
        ("run", "--rm", "--network", "container:box", "--add-host", "a:192.0.2.1", BOX, "true"),
        ("run", "--rm", "--network", "front", "--ip", "10.8.0.1", BOX, "true"),
        ("run", "--rm", "--network", "front", "--ip", "x", BOX, "true"),
        ("run", "--rm", "--mac-address", "x", BOX, "true"),
        ("run", "--rm", "--add-host", "x", BOX, "true"),
        ("run", "--rm", "--add-host", "x:y", BOX, "true"),
        ("run", "--rm", "--dns-search", "-x", BOX, "true"),
    ],
    ids=" ".join,
)
def test_refusals(refusing: tuple[Engine, Tool], words: tuple[str, ...]) -> None:
    engine, tool = refusing
    theirs, ours = engine.docker(*words, check=False), tool(*words)
    assert ours.returncode == theirs.returncode != 0
    assert theirs.stderr, theirs.stdout
    said = theirs.stderr.splitlines()[0].removeprefix("docker: ").removeprefix("Error response from daemon: ")
    assert ours.stderr.removeprefix("minidock: ").startswith(said.rstrip("."))
    assert ours.stdout == theirs.stdout


@pytest.fixture(scope="module")
def refusing(engine: Engine, session_scratch: Path, busybox_archive: Path) -> Iterator[tuple[Engine, Tool]]:
    """Both with a network `front` and a running container `box`."""
    tool = Tool(session_scratch / "refusing", busybox_archive)
    calls: list[Callable[..., Any]] = [lambda *words: engine.docker(*words, check=False), tool]
    with own_network("refusing") as tool.prefix:
        for call in calls:
            call("network", "create", "--subnet", "10.7.0.0/24", "front")
            call("run", "-d", "--name", "box", BOX, "sleep", "1000")
        yield engine, tool
        for call in calls:
            call("rm", "-f", "box")
            call("network", "rm", "front")
        tool.close()


def test_containers_go_to_docker_and_back(new_engine_of: NewEngine, busybox_archive: Path, alone: list[str]) -> None:
    engine = new_engine_of(RELEASES["20.10"])
    engine.prefix, engine.bridge = ALONE, ""
    tool = Tool(engine.root, busybox_archive)
    tool.prefix = alone
    script = "ip -o -4 address show dev eth0 | sed 's/^[0-9]*//'; tail -1 /etc/hosts"
    tool.good("run", "--name", "ours", "-h", "same", BOX, "sh", "-c", script)
    tool.good("network", "create", "front")
    tool.good("run", "--name", "elsewhere", "--network", "front", BOX, "true")
    before = tool.good("logs", "ours")
    engine.start()
    try:
        assert engine.docker("start", "-a", "ours").stdout.rstrip("\n") == before
        done = engine.docker("start", "elsewhere", check=False)
        assert done.returncode == 1 and "network front not found" in done.stderr
        engine.docker("run", "--name", "theirs", "-h", "same", BOX, "sh", "-c", script)
        engine.docker("create", "--name", "fresh", BOX, "ip", "route")
        engine.docker("network", "create", "back")
        engine.docker("run", "--name", "away", "--network", "back", BOX, "true")
    finally:
        engine.stop()
    assert tool.good("start", "-a", "ours") == before
    assert tool.good("start", "-a", "theirs") == before
    assert "default via" in tool.good("start", "-a", "fresh")
    done = tool("start", "away")
    assert (done.returncode, done.stderr.split(" (")[0]) == (1, "minidock: network back not found")
    tool.good("start", "-a", "elsewhere")
    tool.good("rm", "ours", "theirs", "fresh", "away", "elsewhere")
    tool.good("network", "rm", "front")
