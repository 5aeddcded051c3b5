"""Networks that somebody makes: their commands, names on them, isolation, and connections of running containers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_networks import BOX, assert_nothing_left, links, members, of_root
from tests.integration.tool import Tool, command, wait_until


@pytest.fixture(autouse=True)
def removed(tool: Tool) -> Iterator[None]:
    """Every network that a test made is removed with it, and its bridge is gone then."""
    yield
    containers = tool.good("ps", "-aq").split()
    if containers:
        tool("rm", "-f", *containers)
    names = tool.good("network", "ls", "-q", "--filter", "type=custom").split()
    if names:
        tool.good("network", "rm", *names)
    assert not [name for name in links() if name.startswith("br-")]


def seen(tool: Tool, name: str) -> dict[str, Any]:
    """What inspect tells of a network."""
    found: list[dict[str, Any]] = json.loads(tool.good("network", "inspect", name))
    return found[0]


def place(tool: Tool, name: str, network: str) -> dict[str, Any]:
    """What inspect tells of a container's place on a network."""
    found: dict[str, Any] = tool.inspect(name)["NetworkSettings"]["Networks"][network]
    return found


def reaches(tool: Tool, name: str, target: str) -> bool:
    """Whether a packet of a container gets there and back."""
    return tool("exec", name, "busybox", "ping", "-c", "1", "-w", "5", target).returncode == 0


def test_containers_find_each_other_by_name(tool: Tool) -> None:
    tool.good("network", "create", "front")
    tool.good("run", "-d", "--name", "web", "--network", "front", "--network-alias", "www", BOX, "sleep", "1000")
    tool.good("run", "-d", "--name", "db", "--network", "front", BOX, "sleep", "1000")
    short = tool.inspect("web")["Id"][:12]
    for target in ("web", "www", short):
        assert reaches(tool, "db", target), target
    assert reaches(tool, "web", "db")
    tool.good("exec", "db", "sh", "-c", "echo '192.0.2.1 mine' >>/etc/hosts")
    tool.good("rename", "web", "site")
    assert reaches(tool, "db", "site") and not reaches(tool, "db", "web")
    assert reaches(tool, "db", "www")
    tool.good("rename", "site", "web")
    tool.good("rm", "-f", "web")
    hosts = tool.good("exec", "db", "cat", "/etc/hosts")
    assert "web" not in hosts and "192.0.2.1 mine" in hosts
    tool.good("run", "-d", "--name", "web", "--network", "front", BOX, "sleep", "1000")
    assert reaches(tool, "db", "web")
    assert "www" not in tool.good("exec", "db", "cat", "/etc/hosts")


def test_networks_are_isolated(tool: Tool) -> None:
    tool.good("network", "create", "one")
    tool.good("network", "create", "two")
    tool.good("network", "create", "closed", "--internal")
    tool.good("network", "create", "mute", "-o", "com.docker.network.bridge.enable_icc=false")
    for name, network in (("a", "one"), ("b", "two"), ("c", "closed"), ("d", "closed"), ("e", "mute"), ("f", "mute")):
        tool.good("run", "-d", "--name", f"box-{name}", "--network", network, BOX, "sleep", "1000")
    address = {name: place(tool, f"box-{name}", net)["IPAddress"] for name, net in (("b", "two"), ("c", "closed"))}
    assert not reaches(tool, "box-a", address["b"])
    assert not reaches(tool, "box-c", address["b"])
    assert reaches(tool, "box-d", address["c"])
    assert not reaches(tool, "box-a", "box-b")
    assert tool.good("exec", "box-c", "ip", "route").count("default") == 0
    assert not reaches(tool, "box-e", "box-f")
    tool.good("network", "connect", "two", "box-a")
    assert reaches(tool, "box-a", address["b"])


def test_addresses_are_those_that_were_asked_for(tool: Tool) -> None:
    words = ["--subnet", "10.7.0.0/24", "--gateway", "10.7.0.254", "--ip-range", "10.7.0.128/25", "--ipv6"]
    tool.good("network", "create", *words, "--subnet", "fd00:7::/64", "--label", "a=b", "front")
    shown = seen(tool, "front")
    assert shown["IPAM"]["Config"] == [
        {"Subnet": "10.7.0.0/24", "IPRange": "10.7.0.128/25", "Gateway": "10.7.0.254"},
        {"Subnet": "fd00:7::/64"},
    ]
    assert (shown["EnableIPv6"], shown["Labels"], shown["Internal"]) == (True, {"a": "b"}, False)
    chosen = ["--ip", "10.7.0.9", "--ip6", "fd00:7::99"]
    tool.good("run", "-d", "--name", "fixed", "--network", "front", *chosen, BOX, "sleep", "1000")
    tool.good("run", "-d", "--name", "free", "--network", "front", BOX, "sleep", "1000")
    keys = ("IPAddress", "IPPrefixLen", "Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen", "IPv6Gateway")
    fixed, free = place(tool, "fixed", "front"), place(tool, "free", "front")
    assert [fixed[key] for key in keys] == ["10.7.0.9", 24, "10.7.0.254", "fd00:7::99", 64, "fd00:7::1"]
    assert free["IPAddress"] == "10.7.0.128"
    inside = tool.good("exec", "fixed", "sh", "-c", "ip -o a; ip route; ip -6 route; cat /etc/hosts")
    for words_inside in ("10.7.0.9/24", "fd00:7::99/64", "default via 10.7.0.254", "default via fd00:7::1"):
        assert words_inside in inside
    assert not [line for line in inside.splitlines() if "fd00:" in line and "tentative" in line]
    assert tool("exec", "free", "busybox", "ping", "-6", "-c", "1", "-w", "10", "fixed").returncode == 0
    assert list(seen(tool, "front")["Containers"].values())[0]["IPv4Address"].startswith("10.7.0.")
    for words, message in (
        (["--ip", "10.7.0.9"], "Address already in use"),
        (["--ip", "10.8.0.9"], "Invalid address 10.8.0.9: It does not belong to any of this network's subnets"),
        (["--ip", "x"], "invalid IPv4 address: x"),
    ):
        done = tool("run", "--rm", "--network", "front", *words, BOX, "true")
        assert (done.returncode, done.stderr) == (125, f"minidock: {message}\n")
    tool.good("rm", "-f", "fixed")
    tool.good("run", "--rm", "--network", "front", *chosen, BOX, "true")


def test_no_address_is_left(tool: Tool) -> None:
    tool.good("network", "create", "--subnet", "10.7.0.0/30", "small")
    tool.good("run", "-d", "--name", "first", "--network", "small", BOX, "sleep", "1000")
    done = tool("run", "--rm", "--network", "small", BOX, "true")
    assert done.returncode == 125
    assert done.stderr == "minidock: no available IPv4 addresses on this network's address pools\n"
    tool.good("rm", "-f", "first")
    tool.good("run", "--rm", "--network", "small", BOX, "true")


def test_a_running_container_is_connected_and_disconnected(tool: Tool) -> None:
    tool.good("network", "create", "front", "--subnet", "10.7.0.0/24")
    tool.good("run", "-d", "--name", "peer", "--network", "front", BOX, "sleep", "1000")
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "1000")
    assert not reaches(tool, "box", "10.7.0.2")
    tool.good("network", "connect", "--alias", "also", "--ip", "10.7.0.50", "front", "box")
    assert reaches(tool, "box", "peer") and reaches(tool, "peer", "also") and reaches(tool, "peer", "box")
    assert place(tool, "box", "front")["IPAddress"] == "10.7.0.50"
    assert "10.7.0.50/24" in tool.good("exec", "box", "ip", "-o", "address", "show", "dev", "eth1")
    done = tool("network", "connect", "front", "box")
    assert (done.returncode, done.stderr) == (
        1,
        "minidock: endpoint with name box already exists in network front\n",
    )
    tool.good("restart", "-t", "0", "box")
    assert place(tool, "box", "front")["IPAddress"] == "10.7.0.50"
    assert tool.good("exec", "box", "ip", "route").count("default via") == 1
    tool.good("network", "disconnect", "bridge", "box")
    assert "default via 10.7.0.1" in tool.good("exec", "box", "ip", "route")
    tool.good("network", "disconnect", "front", "box")
    assert "eth" not in tool.good("exec", "box", "ip", "-o", "address")
    assert "box" not in tool.good("exec", "peer", "cat", "/etc/hosts")
    assert "peer" not in tool.good("exec", "box", "cat", "/etc/hosts")
    done = tool("network", "disconnect", "front", "box")
    identity = tool.inspect("box")["Id"]
    assert done.stderr == f"minidock: container {identity} is not connected to network front\n"
    tool.good("network", "connect", "bridge", "box")
    assert "default via" in tool.good("exec", "box", "ip", "route")


def test_a_stopped_container_is_connected_for_its_next_start(tool: Tool) -> None:
    tool.good("network", "create", "front")
    tool.good("create", "--name", "box", BOX, "ip", "-o", "-4", "address")
    tool.good("network", "connect", "front", "box")
    assert set(tool.inspect("box")["NetworkSettings"]["Networks"]) == {"bridge", "front"}
    shown = tool.good("start", "-a", "box")
    assert "eth0" in shown and "eth1" in shown
    tool.good("network", "disconnect", "bridge", "box")
    assert "eth1" not in tool.good("start", "-a", "box")


def test_a_container_without_a_network_is_taken_off_none(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", "--network", "none", BOX, "sleep", "1000")
    tool.good("network", "disconnect", "none", "box")
    assert tool.inspect("box")["NetworkSettings"]["Networks"] == {}
    tool.good("restart", "-t", "0", "box")
    assert "eth0" not in tool.good("exec", "box", "ip", "address")


@pytest.mark.parametrize(("call", "number"), [("sendto", 2), ("sendto", 4), ("sendto", 6), ("rename", 2)])
@pytest.mark.parametrize("verb", ["connect", "disconnect"])
def test_a_connection_cut_short_is_cleared_up(tool: Tool, verb: str, call: str, number: int) -> None:
    tool.good("network", "create", "front")
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "1000")
    if verb == "disconnect":
        tool.good("network", "connect", "front", "box")
    kill = f"inject={call}:signal=SIGKILL:when={number}"
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", kill]
    words += command("network", verb, "front", "box")
    subprocess.run(words, env=tool.environment, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    monitors = {tool.record("box")["MonitorPid"]}
    wait_until(lambda: set(of_root(tool)) <= monitors, "the end of the command")
    tool.good("run", "--rm", BOX, "true")
    record = json.loads((tool.root / "minidock/network/endpoints" / tool.inspect("box")["Id"] / "record").read_text())
    inside = tool.good("exec", "box", "ip", "-o", "-4", "address")
    for one in record["Endpoints"]:
        assert f"{one['address']}/{one['prefix']}" in inside
    assert inside.count("eth") == 2 * len(record["Endpoints"])
    own = {one["link"] for one in record["Endpoints"]}
    # Those of the container that has just ended may take a moment.
    wait_until(lambda: {name for name in links() if name.startswith("veth")} == own, "the links on record alone", 60)


def test_the_bridge_of_a_start_is_that_of_create(tool: Tool) -> None:
    words = ["--subnet", "10.7.0.0/24", "--ipv6", "--subnet", "fd00:7::/64"]
    words += ["-o", "com.docker.network.bridge.name=named0", "-o", "com.docker.network.driver.mtu=1400"]
    tool.good("network", "create", *words, "front")

    def look() -> tuple[Any, Any]:
        link = links()["named0"]
        shown = subprocess.run(["ip", "-j", "address", "show", "named0"], capture_output=True, text=True, check=True)
        addresses = [
            (one["local"], one["prefixlen"], one.get("broadcast"), one["scope"])
            for one in json.loads(shown.stdout)[0]["addr_info"]
            if one["scope"] == "global"
        ]
        kept = {key: link[key] for key in ("mtu", "ifalias", "link_type")}
        flags = set(link["flags"]) & {"UP", "BROADCAST", "MULTICAST"}  # type: ignore[call-overload]
        return (kept, sorted(flags), link["address"][:5]), addresses  # type: ignore[index]

    def rules() -> list[str]:
        """The elements of sets that are this bridge's; the start also clears up after networks of earlier tests."""
        shown = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        sets = [one["set"] for one in json.loads(shown)["nftables"] if "set" in one]
        return sorted(
            f"{each['name']} {element}" for each in sets for element in each.get("elem", ()) if "named0" in str(element)
        )

    made, ruled = look(), rules()
    assert made[0][0] == {
        "mtu": 1400,
        "ifalias": f"minidock {tool.root.stat().st_ino:x} {tool.root}",
        "link_type": "ether",
    }
    subprocess.run(["ip", "link", "delete", "named0"], check=True)
    assert "mtu 1400" in tool.good("run", "--rm", "--network", "front", BOX, "ip", "link", "show", "eth0")
    wait_until(lambda: not [name for name in links() if name.startswith("veth")], "the end of the links", 60)
    assert look() == made
    assert rules() == ruled
    tool.good("network", "rm", "front")
    assert "named0" not in links() and rules() == []


def test_a_bridge_of_somebody_else_stays(tool: Tool) -> None:
    subprocess.run(["ip", "link", "add", "theirs0", "type", "bridge"], check=True)
    try:
        tool.good("network", "create", "-o", "com.docker.network.bridge.name=theirs0", "front")
        assert "default via" in tool.good("run", "--rm", "--network", "front", BOX, "ip", "route")
        tool.good("network", "rm", "front")
        assert "theirs0" in links()
    finally:
        subprocess.run(["ip", "link", "delete", "theirs0"], check=True)


def test_rm_and_prune(tool: Tool) -> None:
    for name in ("one", "two", "three"):
        tool.good("network", "create", name, *(["--label", "keep"] if name == "three" else []))
    tool.good("run", "-d", "--name", "box", "--network", "one", BOX, "sleep", "1000")
    identity = seen(tool, "one")["Id"]
    done = tool("network", "rm", "one", "nosuch", "two")
    assert (done.returncode, done.stdout) == (1, "two\n")
    assert done.stderr.splitlines() == [
        f"minidock: error while removing network: network one id {identity} has active endpoints",
        "minidock: network nosuch not found (minidock network ls lists what there is)",
    ]
    assert tool.good("network", "prune", "-f", "--filter", "label!=keep") == ""
    assert tool.good("network", "prune", "-f") == "Deleted Networks:\nthree"
    tool.good("stop", "-t", "0", "box")
    tool.good("network", "rm", identity[:12])
    done = tool("start", "box")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1,
        "minidock: network one not found (minidock network ls lists what there is)",
    )
    tool.good("network", "create", "one")
    tool.good("start", "box")
    tool.good("rm", "-f", "box")
    asked = tool("network", "prune", input="n\n")
    assert asked.stdout.startswith("WARNING! This will remove all custom networks not used by at least one container.")
    assert "Deleted Networks:\none\n" in tool.good("system", "prune", "-f")


def test_ls(tool: Tool) -> None:
    identity = tool.good("network", "create", "front", "--label", "a=b", "--internal")
    lines = tool.good("network", "ls").splitlines()
    assert lines[0].split("   ")[0] == "NETWORK ID"
    assert [line.split()[1:] for line in lines[1:]] == [
        ["bridge", "bridge", "local"],
        ["front", "bridge", "local"],
        ["host", "host", "local"],
        ["none", "null", "local"],
    ]
    assert tool.good("network", "ls", "-q", "-f", "name=ron") == identity[:12]
    assert tool.good("network", "ls", "-q", "--no-trunc", "-f", "dangling=true") == identity
    template = '{{.Name}} {{.Driver}} {{.Scope}} {{.IPv6}} {{.Internal}} {{.Labels}} {{.Label "a"}}'
    assert tool.good("network", "ls", "-f", "label=a", "--format", template) == "front bridge local false true a=b b"
    done = tool("network", "ls", "-f", "x=y")
    assert (done.returncode, done.stderr) == (1, "minidock: Invalid filter 'x'\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["front"], "network with name front already exists"),
        (["host"], "operation is not permitted on predefined host network"),
        (["--subnet", "10.7.0.128/25", "new"], "Pool overlaps with other one on this address space"),
        (["--subnet", "10.8.0.0/24", "--gateway", "10.9.0.1", "new"], "no matching subnet for gateway 10.9.0.1"),
        (["--subnet", "10.8.0.0/24", "--ip-range", "10.9.0.0/25", "new"], "no matching subnet for range 10.9.0.0/25"),
        (["--gateway", "10.9.0.1", "new"], "every ip-range or gateway must have a corresponding subnet"),
        (["--subnet", "x", "new"], "Invalid subnet x : invalid CIDR address: x"),
        (
            ["--subnet", "10.8.0.0/24", "--subnet", "10.9.0.0/24", "new"],
            "bridge driver doesn't support multiple subnets",
        ),
        (["-d", "macvlan", "new"], 'plugin "macvlan" not found (networks of minidock are bridges)'),
        (["a/b"], 'invalid network name "a/b", only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed'),
        (["-o", "com.docker.network.driver.mtu=x", "new"], "invalid MTU: x"),
    ],
)
def test_what_create_refuses(tool: Tool, words: list[str], message: str) -> None:
    tool.good("network", "create", "--subnet", "10.7.0.0/24", "front")

    def look() -> tuple[list[str], list[str]]:
        # Links of earlier tests' containers may be on their way out.
        bridges = sorted(name for name in links() if not name.startswith("veth"))
        return sorted(os.listdir(tool.root / "minidock/network")), bridges

    before = look()
    done = tool("network", "create", *words)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"minidock: {message}\n")
    assert look() == before


@pytest.mark.parametrize("number", (1, 3, 5, 7))
def test_create_killed_at_any_message(tool: Tool, number: int) -> None:
    """What is left of it is nothing, or a network that works and can be removed."""
    kill = f"inject=sendto:signal=SIGKILL:when={number}"
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=sendto", "-e", kill]
    words += command("network", "create", "front")
    subprocess.run(words, env=tool.environment, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    if tool("network", "inspect", "front").returncode == 0:
        assert "default via" in tool.good("run", "--rm", "--network", "front", BOX, "ip", "route")
        tool.good("network", "rm", "front")
    assert not [name for name in links() if name.startswith("br-")]
    tool.good("network", "create", "front")


def test_a_killed_container_s_names_are_forgotten(tool: Tool) -> None:
    tool.good("network", "create", "front")
    tool.good("run", "-d", "--name", "stays", "--network", "front", BOX, "sleep", "1000")
    tool.good("run", "-d", "--name", "dies", "--network", "front", BOX, "sleep", "1000")
    os.kill(tool.record("dies")["MonitorPid"], signal.SIGKILL)
    wait_until(lambda: tool.status("dies") == "exited", "the container's end")
    tool.good("run", "--rm", BOX, "true")
    assert "dies" not in tool.good("exec", "stays", "cat", "/etc/hosts")
    assert members(tool) == [tool.inspect("stays")["Id"]]
    tool.good("rm", "-f", "stays")
    assert_nothing_left(tool)


def test_the_library_does_the_same(tool: Tool, scratch: Path) -> None:
    from minidock.store.root import DataRoot
    from minidock.verbs.connect import connect, disconnect
    from minidock.verbs.network import create_network, inspect_network, list_networks, prune_networks

    tool.good("run", "-d", "--name", "box", BOX, "sleep", "1000")
    with DataRoot.open(str(tool.root)) as root:
        made = create_network(root, "front", subnets=["10.7.0.0/24"])
        connect(root, "front", "box", address="10.7.0.77")
        assert [network.name for network in list_networks(root, ["id=" + made.id[:5]])] == ["front"]
        (only,) = inspect_network(root, "front")["Containers"].values()
        assert only["IPv4Address"] == "10.7.0.77/24"
        assert prune_networks(root) == []
        disconnect(root, "front", "box")
        assert prune_networks(root) == ["front"]
