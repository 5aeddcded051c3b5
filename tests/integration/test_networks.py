"""Containers on bridges: addresses, names, ways out, and what is left when something dies; on real links."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.store.endpoints import NetworkLock
from minidock.store.root import DataRoot
from tests import netns
from tests.conftest import missing
from tests.integration.tool import Tool, command, wait_until
from tests.patience import patience

BOX = "busybox:test"


def links() -> dict[str, dict[str, object]]:
    """The links of the session's network, as iproute2 sees them."""
    found = json.loads(subprocess.run(["ip", "-j", "-d", "link"], capture_output=True, text=True, check=True).stdout)
    return {link["ifname"]: link for link in found}


def bridge_of(tool: Tool) -> str:
    """The name of the root's default bridge."""
    from minidock.store.networks import default_bridge_name

    return default_bridge_name(str(tool.root))


def members(tool: Tool) -> list[str]:
    """The containers that have an address on record."""
    folder = tool.root / "minidock/network/endpoints"
    return sorted(os.listdir(folder)) if folder.exists() else []


def assert_nothing_left(tool: Tool) -> None:
    """No address on record, no link, no rule of a port; the bridge stays, as docker0 does."""
    assert members(tool) == []
    wait_until(lambda: not [name for name in links() if name.startswith("veth")], "the end of the links", 60)


@pytest.fixture
def outside() -> Iterator[netns.Namespace]:
    """A machine beyond the host, 198.51.100.1 there and .2 here, that knows no way back into a container's network."""
    with netns.Namespace("outside", "198.51.100.1/24", "198.51.100.2/24") as made:
        yield made


def test_a_container_has_what_docker_gives_it(tool: Tool) -> None:
    script = "ip -o a; ip route; cat /etc/hosts /etc/hostname"
    shown = tool.good("run", "--rm", "-h", "named", BOX, "sh", "-c", script)
    lines = shown.splitlines()
    assert not [line for line in lines if "inet6" in line]
    address = re.search(r"eth0 +inet (172\.\d+\.0\.2/16) brd (172\.\d+)\.255\.255", shown)
    assert address, shown
    subnet = address[2]
    assert f"default via {subnet}.0.1 dev eth0 " in lines
    assert lines[-2:] == [f"{subnet}.0.2\tnamed", "named"]
    assert lines[-8] == "127.0.0.1\tlocalhost"
    assert_nothing_left(tool)


def test_two_containers_and_the_host_reach_each_other_by_address(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "first", BOX, "sleep", "1000")
    address = tool.inspect("first")["NetworkSettings"]["IPAddress"]
    gateway = tool.inspect("first")["NetworkSettings"]["Gateway"]
    tool.good("run", "--rm", BOX, "busybox", "ping", "-c", "1", "-w", "10", address)
    tool.good("run", "--rm", BOX, "busybox", "ping", "-c", "1", "-w", "10", gateway)
    netns.ping(address)


def test_the_way_out_leads_through_the_host_s_address(tool: Tool, outside: netns.Namespace) -> None:
    with outside.echo_peer(7777):
        seen = tool.good("run", "--rm", BOX, "busybox", "nc", "198.51.100.1", "7777")
    assert seen == "198.51.100.2"


def test_inspect_tells_of_the_network(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "1000")
    settings = tool.inspect("box")["NetworkSettings"]
    inside = tool.good("exec", "box", "ip", "-o", "-4", "address", "show", "dev", "eth0")
    assert f"inet {settings['IPAddress']}/{settings['IPPrefixLen']} " in inside
    link = tool.good("exec", "box", "cat", "/sys/class/net/eth0/address")
    last = settings["IPAddress"].split(".")
    assert link == settings["MacAddress"] == "02:42:" + ":".join(f"{int(part):02x}" for part in last)
    place = settings["Networks"]["bridge"]
    assert {key: place[key] for key in ("IPAddress", "Gateway", "MacAddress", "EndpointID")} == {
        key: settings[key] for key in ("IPAddress", "Gateway", "MacAddress", "EndpointID")
    }
    assert Path(settings["SandboxKey"]).exists()
    assert tool.inspect("box")["HostConfig"]["NetworkMode"] == "default"
    tool.good("stop", "-t", "0", "box")
    settings = tool.inspect("box")["NetworkSettings"]
    assert settings["IPAddress"] == settings["Networks"]["bridge"]["IPAddress"] == ""
    assert_nothing_left(tool)


def test_the_first_starts_of_a_root_may_overtake_each_other(data_root: DataRoot) -> None:
    """One makes the lock's directory, another has the lock before the first has made the next directory."""
    with NetworkLock(data_root):
        os.rmdir(data_root.endpoints.path)
        os.close(data_root.endpoints.hold("ab" * 32))
    assert data_root.endpoints.ids() == ["ab" * 32]


@pytest.mark.many
def test_fifty_starts_at_once_get_fifty_addresses(tool: Tool) -> None:
    words = ("run", "--rm", BOX, "ip", "-o", "-4", "address", "show", "dev", "eth0")
    running = [tool.start("run", "-d", "--name", f"box{number}", BOX, "sleep", "1000") for number in range(50)]
    assert [process.wait(patience(120)) for process in running] == [0] * 50
    names = [f"box{number}" for number in range(50)]
    addresses = [tool.inspect(name)["NetworkSettings"]["IPAddress"] for name in names]
    assert len(set(addresses)) == 50
    assert "inet " in tool.good(*words)
    tool.good("rm", "-f", *names)
    assert_nothing_left(tool)


def test_a_restarted_container_has_its_network_again(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", "--restart", "on-failure:2", BOX, "sh", "-c", "ip route; exit 1")
    wait_until(lambda: tool.inspect("box")["RestartCount"] == 2 and tool.status("box") == "exited", "two restarts")
    shown = tool.good("logs", "box").splitlines()
    assert len([line for line in shown if line.startswith("default via")]) == 3
    assert_nothing_left(tool)
    tool.good("start", "box")


def test_a_killed_monitor_leaves_nothing_after_the_next_command(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "1000")
    record = tool.record("box")
    os.kill(record["MonitorPid"], signal.SIGKILL)
    wait_until(lambda: tool.status("box") == "exited", "the container's end")
    assert members(tool)
    tool.good("run", "--rm", BOX, "true")
    assert_nothing_left(tool)
    tool.good("start", "box")
    assert tool.status("box") == "running"


def test_a_killed_starter_takes_no_address_along(tool: Tool) -> None:
    starter = tool.start("run", "--name", "box", BOX, "sleep", "1000", stdout=subprocess.DEVNULL)
    wait_until(lambda: "box" in tool.good("ps", "--format", "{{.Names}}").split(), "the container")
    address = tool.inspect("box")["NetworkSettings"]["IPAddress"]
    starter.kill()
    starter.wait(patience(10))
    other = tool.good("run", "--rm", BOX, "ip", "-o", "-4", "address", "show", "dev", "eth0")
    assert f" {address}/" not in other
    netns.ping(address)


def test_a_container_that_outlives_its_monitor_keeps_its_address(tool: Tool) -> None:
    # A change of user clears the signal that ties a process to its monitor.
    script = "busybox su -s /bin/sh alice -c 'exec sleep 1000'"
    tool.good("run", "-d", "--name", "box", BOX, "sh", "-c", f"exec {script}")
    address = tool.inspect("box")["NetworkSettings"]["IPAddress"]
    record = tool.record("box")
    wait_until(lambda: Path(f"/proc/{record['Pid']}/cmdline").read_bytes().startswith(b"sleep"), "the change of user")
    os.kill(record["MonitorPid"], signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{record['MonitorPid']}").exists(), "the monitor's end")
    assert tool.status("box") == "running"
    other = tool.good("run", "--rm", BOX, "ip", "-o", "-4", "address", "show", "dev", "eth0")
    assert f" {address}/" not in other
    netns.ping(address)
    tool.good("rm", "-f", "box")
    tool.good("run", "--rm", BOX, "true")
    assert_nothing_left(tool)


def of_root(tool: Tool) -> list[int]:
    """The processes that work on this root: starters and monitors, which have its name in their environment."""
    mark = f"MINIDOCK_ROOT={tool.root}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found


STEPS = [
    *(("sendto", number) for number in range(1, 9)),
    *(("flock", number) for number in (1, 3, 5, 7)),
    *(("mkdir", number) for number in (4, 8)),
    *(("rename", number) for number in range(1, 5)),
    *(("clone3", 1), ("write", 9), ("rmdir", 1), ("unlink", 3)),
]


@pytest.mark.many
@pytest.mark.parametrize(("call", "number"), STEPS)
def test_killed_at_a_step_of_the_set_up(tool: Tool, call: str, number: int) -> None:
    """strace kills each process, the starter, the monitor and the child, when it makes this call for this time."""
    if not shutil.which("strace"):
        missing("strace is not installed")
    kill = f"inject={call}:signal=SIGKILL:when={number}"
    told = tool.root.parent / "strace"
    words = ["strace", "-f", "-qq", "-o", str(told), "-e", f"trace={call}", "-e", kill]
    words += command("run", "--rm", "--name", "box", BOX, "true")
    subprocess.run(words, env=tool.environment, capture_output=True, timeout=patience(60), stdin=subprocess.DEVNULL)
    assert "killed by SIGKILL" in told.read_text(errors="replace")
    for pid in of_root(tool):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not of_root(tool) and not tool.good("ps", "-q"), "the end of every process")
    tool.good("run", "--rm", BOX, "true")
    assert_nothing_left(tool)
    tool("rm", "-f", "box")


def test_bridges_of_roots_that_are_no_more_are_removed(tool: Tool, scratch: Path, busybox_archive: Path) -> None:
    other = Tool(scratch / "other", busybox_archive)
    other.good("run", "--rm", BOX, "true")
    name = bridge_of(other)
    assert links()[name]["ifalias"] == f"minidock {other.root.stat().st_ino:x} {other.root}"
    other.close()
    (scratch / "other").rename(scratch / "moved")
    tool.good("run", "--rm", BOX, "true")
    assert name not in links()
    assert bridge_of(tool) in links()
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert name not in rules and bridge_of(tool) in rules


@pytest.mark.many
def test_two_data_roots_do_not_collide(tool: Tool, scratch: Path, busybox_archive: Path) -> None:
    other = Tool(scratch / "other", busybox_archive)
    starts = [each.start("run", "-d", "--name", "box", BOX, "sleep", "1000") for each in (tool, other)]
    assert [process.wait(patience(60)) for process in starts] == [0, 0]
    places = [each.inspect("box")["NetworkSettings"] for each in (tool, other)]
    assert places[0]["Gateway"] != places[1]["Gateway"]
    assert bridge_of(tool) != bridge_of(other)
    for place in places:
        netns.ping(place["IPAddress"])
    done = tool("exec", "box", "busybox", "ping", "-c", "1", "-w", "3", places[1]["IPAddress"])
    assert done.returncode == 1
    other.close()


def test_a_bridge_of_another_root_with_the_same_path(tool: Tool) -> None:
    """As when the path means another directory in a container that shares the host's network."""
    tool.good("run", "--rm", BOX, "true")
    name = bridge_of(tool)
    foreign = f"minidock abc123 {tool.root}"
    subprocess.run(["ip", "link", "set", name, "alias", foreign], check=True)
    tool.good("run", "--rm", BOX, "true")
    assert links()[name]["ifalias"] != foreign
    subprocess.run(["ip", "link", "set", name, "alias", foreign], check=True)
    subprocess.run("ip link add theirs0 type veth peer name theirs1".split(), check=True)
    subprocess.run(["ip", "link", "set", "theirs0", "master", name], check=True)
    try:
        done = tool("run", "--rm", BOX, "true")
        assert done.returncode == 125
        assert f"the bridge {name} is in use by another data root, {tool.root}" in done.stderr
    finally:
        subprocess.run(["ip", "link", "delete", "theirs0"], check=True)
    assert members(tool) == []
    tool.good("run", "--rm", BOX, "true")


def test_a_half_made_bridge_is_completed(tool: Tool) -> None:
    name = bridge_of(tool)
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    assert "default via" in tool.good("run", "--rm", BOX, "ip", "route")
    assert links()[name]["operstate"] in ("UP", "DOWN", "UNKNOWN") and "UP" in links()[name]["flags"]  # type: ignore[operator]


def test_another_container_s_network_is_shared(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "first", "-h", "giver", BOX, "sleep", "1000")
    script = "hostname; readlink /proc/self/ns/net; cat /etc/hosts /etc/hostname"
    inside = tool.good("exec", "first", "sh", "-c", script)
    assert tool.good("run", "--rm", "--network", "container:first", BOX, "sh", "-c", script) == inside
    tool.good("create", "--name", "guest", "--network", "container:first", BOX, "sh", "-c", script)
    identity = tool.inspect("first")["Id"]
    assert tool.inspect("guest")["HostConfig"]["NetworkMode"] == f"container:{identity}"
    tool.good("stop", "-t", "0", "first")
    done = tool("start", "-a", "guest")
    assert (done.returncode, done.stderr) == (
        1,
        f"minidock: cannot join network of a non running container: {identity}\n",
    )
    tool.good("start", "first")
    assert "giver" in tool.good("start", "-a", "guest")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--network", "container:first", "-h", "x"], "conflicting options: hostname and the network mode"),
        (["--network", "container:first", "--dns", "1.1.1.1"], "conflicting options: dns and the network mode"),
        (
            ["--network", "container:first", "--add-host", "a:1.1.1.1"],
            "conflicting options: custom host-to-IP mapping and the network mode",
        ),
        (
            ["--network", "container:first", "--mac-address", "02:42:00:00:00:01"],
            "conflicting options: mac-address and the network mode",
        ),
        (["--network", "container:"], "Invalid network mode: invalid container format container:<name|id>"),
        (["--network", "container:nosuch"], "No such container: nosuch"),
        (["--network", "nosuch"], "network nosuch not found"),
        (["--ip", "172.17.0.9"], "user specified IP address is supported on user defined networks only"),
        (
            ["--network-alias", "x"],
            "network-scoped aliases are only supported for user-defined networks",
        ),
        (["--dns", "x"], 'invalid argument "x" for "--dns" flag: x is not an ip address'),
        (["--add-host", "x"], 'invalid argument "x" for "--add-host" flag: bad format for add-host: "x"'),
        (["--mac-address", "x"], "x is not a valid mac address"),
    ],
)
def test_what_cannot_be_is_said_in_docker_s_words(tool: Tool, words: list[str], message: str) -> None:
    tool.good("create", "--name", "first", BOX, "true")
    done = tool("run", "--rm", *words, BOX, "true")
    assert done.returncode == 125
    assert done.stderr.startswith(f"minidock: {message}")
    assert len(done.stderr.splitlines()) == 1
    assert len(tool.good("ps", "-aq").split()) == 1


def test_names_of_one_s_own_choosing(tool: Tool) -> None:
    words = ["--dns", "192.0.2.53", "--dns-search", "example.com", "--dns-option", "ndots:2"]
    words += ["--add-host", "db:192.0.2.7", "--add-host", "up:host-gateway", "--mac-address", "92:d0:c6:0a:29:33"]
    script = "cat /etc/resolv.conf /sys/class/net/eth0/address; tail -3 /etc/hosts; ip route"
    shown = tool.good("run", "--rm", "-h", "me", *words, BOX, "sh", "-c", script).splitlines()
    assert shown[:4] == ["search example.com", "nameserver 192.0.2.53", "options ndots:2", "92:d0:c6:0a:29:33"]
    gateway = next(line.split()[2] for line in shown if line.startswith("default via"))
    assert shown[4:7] == ["192.0.2.7\tdb", f"{gateway}\tup", f"{gateway[:-1]}2\tme"]


def test_explain_tells_each_link_address_and_route(tool: Tool) -> None:
    told = tool("run", "--rm", "--explain", BOX, "true").stderr
    name = bridge_of(tool)
    for pattern in (
        rf"^ip link add {name} address 02:42:\S+ type bridge  # network$",
        rf"^ip address add 172\.\d+\.0\.1/16 broadcast 172\.\d+\.255\.255 dev {name}  # network$",
        rf"^ip link add veth\w{{7}} up master {name} type veth peer name eth0 address 02:42:ac:\S+ netns \S+  # net",
        r"^ip address add \S+/16 .* dev eth0 && ip link set eth0 up && ip route add default via \S+ dev eth0  # net",
    ):
        assert re.search(pattern, told, re.MULTILINE), (pattern, told)
