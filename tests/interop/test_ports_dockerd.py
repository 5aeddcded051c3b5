"""-p, -P and --expose against Docker 20.10 with its own bridge and rules, in a network namespace of its own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Engine, end_engines, missing
from tests.integration.tool import Tool
from tests.unit.test_portspec import SPECS, WRONG, WRONG_EXPOSE

BOX = "busybox:test"


class BridgeEngine(Engine):
    """An engine that does networks, where nobody sees it."""

    def words(self) -> list[str]:
        kept = [word for word in super().words() if word.partition("=")[0] not in _SWITCHED_OFF]
        return ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *kept]


_SWITCHED_OFF = ("--bridge", "--iptables", "--ip-forward", "--ip-masq")


@pytest.fixture(scope="module")
def engine(busybox_archive: Path) -> Iterator[Engine]:
    """Docker 20.10 with busybox:test, and with all that it does to a network namespace done to one of its own."""
    if not Path("/usr/sbin/dockerd").exists():
        missing("docker.io is not installed")
    made = BridgeEngine(Path(tempfile.mkdtemp(prefix="mdengine-", dir="/dev/shm")))
    made.start()
    try:
        made.docker("load", "-i", busybox_archive)
        yield made
        made.docker("rm", "-f", *made.docker("ps", "-aq").stdout.split(), check=False)
    finally:
        end_engines([made])


@pytest.fixture
def tool(scratch: Path, busybox_archive: Path) -> Iterator[Tool]:
    made = Tool(scratch / "root", busybox_archive)
    yield made
    made.close()


def _of_both(tool: Tool, engine: Engine, name: str) -> list[dict[str, Any]]:
    return [tool.inspect(name), json.loads(engine.docker("inspect", name).stdout)[0]]


def _only_ipv4(ports: dict[str, Any]) -> dict[str, Any]:
    """Without what docker-proxy serves on top: a container without an IPv6 address from an IPv6 one of the host."""
    return {key: bound and [one for one in bound if one["HostIp"] != "::"] for key, bound in ports.items()}


def test_records(tool: Tool, engine: Engine) -> None:
    words = [word for text in SPECS if text != "96:80/sctp" for word in ("-p", text)]
    for number, options in enumerate(
        (["-P", *words], ["--expose", "70-72", "--expose", "99/udp"], ["-p", "8300:80", "-p", "8301:80", "-p", "80"])
    ):
        name = f"records{number}"
        tool.good("create", "--name", name, *options, BOX)
        engine.docker("create", "--name", name, *options, BOX)
        ours, theirs = _of_both(tool, engine, name)
        for key in ("PortBindings", "PublishAllPorts"):
            assert json.dumps(ours["HostConfig"][key]) == json.dumps(theirs["HostConfig"][key])
        assert ours["Config"]["ExposedPorts"] == theirs["Config"]["ExposedPorts"]
        assert ours["NetworkSettings"]["Ports"] == theirs["NetworkSettings"]["Ports"] == {}
        engine.docker("rm", name)


def test_what_is_shown_of_running_containers(tool: Tool, engine: Engine) -> None:
    cases = {
        "one": ["-p", "8080:80", "-p", "127.0.0.1:8081:81/udp", "--expose", "9"],
        "range": ["-p", "8000-8002:80-82", "-p", "9000-9002:9000-9002/udp", "-p", "0.0.0.0:93:93"],
        "chosen": ["-p", "8500-8510:80"],
        "twice": ["-p", "8300:80", "-p", "8301:80", "-p", "8302:80"],
        "none": ["--network", "none", "-p", "91:80"],
        "exposed": ["--expose", "70-72", "--expose", "80", "--expose", "99/udp"],
    }
    for name, options in cases.items():
        words = ["run", "-d", "--name", name, *options, BOX, "sleep", "1000"]
        tool.good(*words)
        engine.docker(*words)
        ours, theirs = (one["NetworkSettings"]["Ports"] for one in _of_both(tool, engine, name))
        assert ours == _only_ipv4(theirs), name
        listed = ["ps", "--filter", f"name=^{name}$", "--format", "{{.Ports}}"]
        shown = [part for part in engine.docker(*listed).stdout.rstrip("\n").split(", ") if not part.startswith(":::")]
        assert tool.good(*listed) == ", ".join(shown), name
        rows = [row for row in engine.docker("port", name).stdout.splitlines() if ":::" not in row]
        assert sorted(tool.good("port", name).splitlines()) == sorted(rows), name
        engine.docker("rm", "-f", name)
        tool.good("rm", "-f", name)


def test_messages(tool: Tool, engine: Engine) -> None:
    words = [["-p", text] for text in WRONG] + [["--expose", text] for text in WRONG_EXPOSE]
    words += [["--network", "container:first", "-p", "80:80"], ["--network", "container:first", "--expose", "80"]]
    for run in (tool.good, engine.docker):
        run("run", "-d", "--name", "first", "-p", "8080:80", BOX, "sleep", "1000")
    for options in words:
        ours = tool("run", *options, BOX, "true")
        theirs = engine.docker("run", *options, BOX, "true", check=False)
        assert ours.returncode == theirs.returncode == 125, options
        message = theirs.stderr.splitlines()[0].removeprefix("docker: ").removeprefix("Error response from daemon: ")
        assert ours.stderr == f"minidock: {message.removesuffix('.')}\n", options
    host = ["run", "--rm", "--network", "host", "-p", "80:80", BOX, "true"]
    assert engine.docker(*host).stderr.removeprefix("WARNING: ") in tool(*host).stderr


def test_a_port_in_use(tool: Tool, engine: Engine) -> None:
    for run in (tool.good, engine.docker):
        run("run", "-d", "--name", "holder", "-p", "8090:80", BOX, "sleep", "1000")
    ours = tool("run", "--name", "late", "-p", "8090:81", BOX, "true")
    theirs = engine.docker("run", "--name", "late", "-p", "8090:81", BOX, "true", check=False)
    assert ours.returncode == theirs.returncode == 125
    message = "Bind for 0.0.0.0:8090 failed: port is already allocated"
    assert "endpoint late: " + message in ours.stderr
    assert message in theirs.stderr
    ours_after, theirs_after = _of_both(tool, engine, "late")
    assert ours_after["State"]["Status"] == theirs_after["State"]["Status"] == "created"
