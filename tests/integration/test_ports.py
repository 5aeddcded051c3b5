"""run -p, port, ps and inspect by the real command, with real connections to the published ports."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests import builders, netns
from tests.conftest import missing
from tests.integration.netns import Network, ask, fetch, namespaces, ruleset, serving
from tests.integration.test_networks import of_root
from tests.integration.tool import PROJECT, Tool, command, wait_until

BOX = "busybox:test"
# A web server that is there from its first answer on, for as many callers as come.
SERVE = "mkdir -p /www && echo served >/www/index.html && exec busybox httpd -f -p 80 -h /www"
FETCH = "busybox wget -q -O - http://{}:{}/"


def serve(tool: Tool, *options: str, name: str = "web") -> None:
    """Start a web server in a container and wait until it answers there."""
    tool.good("run", "-d", "--name", name, *options, BOX, "sh", "-c", SERVE)
    (place,) = tool.inspect(name)["NetworkSettings"]["Networks"].values()
    address = place["IPAddress"]
    wait_until(lambda: fetch(address, 80), "the server's answer")


def maps() -> str:
    """The published ports as the kernel has them."""
    lines = [
        line
        for name in ("ports4", "ports6", "address_ports4", "address_ports6")
        for line in builders.run_command("nft", "list", "map", "inet", "minidock", name).stdout.splitlines()
    ]
    return "\n".join(line for line in lines if "comment" in line)


@contextmanager
def outside() -> Iterator[netns.Namespace]:
    with netns.Namespace("ports", "198.51.100.1/24", "198.51.100.2/24") as made:
        yield made


def test_a_published_port_is_reached_from_everywhere_and_ends_with_the_container(tool: Tool) -> None:
    serve(tool, "-p", "8080:80")
    gateway = tool.inspect("web")["NetworkSettings"]["Gateway"]
    tool.good("run", "-d", "--name", "other", BOX, "sleep", "1000")
    with outside() as beyond:
        words = ["ip", "netns", "exec", beyond.name, *FETCH.format("198.51.100.2", 8080).split()]
        assert builders.run_command(*words).stdout == "served\n"
        for address in ("127.0.0.1", "198.51.100.2", gateway):
            assert fetch(address, 8080) == b"served\n"
        for name in ("other", "web"):
            for address in ("198.51.100.2", gateway):
                assert tool.good("exec", name, *FETCH.format(address, 8080).split()) == "served"
    tool.good("stop", "-t", "0", "web")
    assert maps() == ""
    assert fetch("127.0.0.1", 8080) == b""
    with socket.create_server(("127.0.0.1", 8080)):
        pass


def test_a_port_in_use_is_an_error_before_anything_has_started(tool: Tool) -> None:
    serve(tool, "-p", "8080:80")
    before = maps()
    failed = tool("run", "--name", "late", "-p", "8081:80", "-p", "8080:80", BOX, "touch", "/started")
    where = "driver failed programming external connectivity on endpoint late"
    message = f"{where}: Bind for 0.0.0.0:8080 failed: port is already allocated"
    assert failed.returncode == 125
    assert message in failed.stderr
    assert "by container " + tool.inspect("web")["Id"][:12] in failed.stderr
    assert tool.status("late") == "created"
    assert "/started" not in tool.good("diff", "late")
    assert maps() == before
    with socket.create_server(("127.0.0.1", 8082)):
        failed = tool("run", "--rm", "-p", "8082:80", BOX, "true")
        assert failed.returncode == 125
        assert "by another program" in failed.stderr
    # What was refused holds nothing.
    assert tool("run", "--rm", "-p", "8081:80", "-p", "8082:80", BOX, "true").returncode == 0


def test_all_exposed_ports_on_free_ones(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "web", "-P", "--expose", "80-81", "--expose", "53/udp", BOX, "sleep", "1000")
    ports = tool.inspect("web")["NetworkSettings"]["Ports"]
    assert sorted(ports) == ["53/udp", "80/tcp", "81/tcp"]
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    chosen = {key: int(bound[0]["HostPort"]) for key, bound in ports.items()}
    assert all(low <= number <= high for number in chosen.values())
    assert chosen["80/tcp"] != chosen["81/tcp"]
    assert tool.good("port", "web").splitlines() == [f"{key} -> 0.0.0.0:{chosen[key]}" for key in sorted(ports)]
    assert tool.good("port", "web", "81") == f"0.0.0.0:{chosen['81/tcp']}"
    failed = tool("port", "web", "82")
    assert failed.returncode == 1
    assert failed.stderr.endswith("Error: No public port '82/tcp' published for web\n")


def test_what_ps_shows(tool: Tool) -> None:
    tool.good(
        "run", "-d", "--name", "web", "-p", "8000-8002:8000-8002", "-p", "127.0.0.1:53:53/udp", BOX, "sleep", "1000"
    )
    tool.good("run", "-d", "--name", "plain", "--expose", "9", BOX, "sleep", "1000")
    shown = tool.good("ps", "--format", "{{.Names}}: {{.Ports}}").splitlines()
    assert shown == ["plain: 9/tcp", "web: 127.0.0.1:53->53/udp, 0.0.0.0:8000-8002->8000-8002/tcp"]
    tool.good("kill", "web")
    tool.good("wait", "web")
    assert tool.good("ps", "-a", "--filter", "name=web", "--format", "[{{.Ports}}]") == "[]"
    assert tool.inspect("web")["NetworkSettings"]["Ports"] == {}


def test_records_are_those_of_docker(tool: Tool) -> None:
    tool.good("create", "--name", "web", "-p", "8080:80", "-p", "127.0.0.1::81/udp", "--expose", "9", BOX)
    found = tool.inspect("web")
    assert found["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
        "81/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
    }
    assert list(found["Config"]["ExposedPorts"]) == ["80/tcp", "81/udp", "9/tcp"]
    assert found["NetworkSettings"]["Ports"] == {}
    raw = (tool.directory("web") / "config.v2.json").read_text()
    assert list(json.loads(raw)["Config"]).index("ExposedPorts") == 6


@pytest.mark.parametrize("network", ["host", "none"])
def test_networks_without_ports(tool: Tool, network: str) -> None:
    done = tool("run", "--name", "web", "--network", network, "-p", "80:80", BOX, "true")
    assert done.returncode == 0
    warned = "Published ports are discarded when using host network mode" in done.stderr
    assert warned == (network == "host")
    assert tool.inspect("web")["HostConfig"]["PortBindings"]


def test_another_container_s_network_has_its_own_ports(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "web", BOX, "sleep", "1000")
    failed = tool("run", "--network", "container:web", "-p", "80:80", BOX, "true")
    assert failed.returncode == 125
    assert "conflicting options: port publishing and the container type network mode" in failed.stderr


def test_wrong_words_make_nothing(tool: Tool) -> None:
    for words, message in (
        (("-p", "a:80"), "Invalid hostPort: a"),
        (("-p", "80/foo"), "Invalid proto: foo"),
        (("--expose", "80:80"), "invalid port format for --expose: 80:80"),
        (("-p", "1.2.3.4:80:80"), "bind: cannot assign requested address"),
        (("-p", "[::1]:80:80"), "the container has no IPv6 address"),
    ):
        failed = tool("run", "--rm", *words, BOX, "true")
        assert failed.returncode == 125
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr
    assert tool.good("ps", "-aq") == ""


def test_a_restart_policy_keeps_the_port(tool: Tool) -> None:
    serve(tool, "-p", "80", "--restart", "always")
    port = int(tool.good("port", "web", "80").rpartition(":")[2])
    pid = tool.record("web")["Pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: tool.status("web") == "running" and tool.record("web")["Pid"] != pid, "the restart")
    wait_until(lambda: fetch("127.0.0.1", port), "the server's answer")
    assert tool.good("port", "web", "80") == f"0.0.0.0:{port}"
    tool.good("rm", "-f", "web")
    assert maps() == ""


def test_a_killed_monitor_s_ports_are_given_back_by_the_next_command(tool: Tool) -> None:
    serve(tool, "-p", "8080:80")
    record = tool.record("web")
    os.kill(record["MonitorPid"], signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{record['Pid']}"), "the end of the container")
    assert maps() != ""
    tool.good("run", "--rm", BOX, "true")
    assert maps() == ""
    serve(tool, "-p", "8080:80", name="next")
    assert fetch("127.0.0.1", 8080) == b"served\n"


def test_rules_that_somebody_flushed_come_back_with_the_next_start(tool: Tool) -> None:
    serve(tool, "-p", "8080:80")
    builders.run_command("nft", "flush", "ruleset")
    assert fetch("127.0.0.1", 8080) == b""
    tool.good("restart", "-t", "0", "web")
    wait_until(lambda: fetch("127.0.0.1", 8080), "the server's answer")


def test_udp(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "name-server", "-p", "5353:53/udp", BOX, "sleep", "1000")
    with closing(Network(tool.record("name-server")["Pid"])) as inside, serving(inside, "0.0.0.0", 53, "udp"):
        gateway = tool.inspect("name-server")["NetworkSettings"]["Gateway"]
        assert ask("127.0.0.1", 5353, "udp") == gateway
        with outside() as beyond:
            code = "from tests.integration.netns import ask; print(ask('198.51.100.2', 5353, 'udp'))"
            words = ["ip", "netns", "exec", beyond.name, sys.executable, "-c", code]
            assert builders.run_command(*words, cwd=PROJECT).stdout == "198.51.100.1\n"


def _output(*words: str) -> str:
    return builders.run_command(*words, check=False, cwd=PROJECT).stdout


def test_ipv6(tool: Tool) -> None:
    tool.good("network", "create", "--ipv6", "--subnet", "fd00:db8:7::/64", "six")
    serve(tool, "--network", "six", "-p", "8080:80", "-p", "[::]:8081:80")
    found = tool.inspect("web")["NetworkSettings"]
    assert found["Ports"]["80/tcp"] == [
        {"HostIp": "::", "HostPort": "8081"},
        {"HostIp": "0.0.0.0", "HostPort": "8080"},
        {"HostIp": "::", "HostPort": "8080"},
    ]
    with netns.Namespace("six", "2001:db8:1::1/64", "2001:db8:1::2/64") as beyond:
        for port in (8080, 8081):
            code = f"from tests.integration.netns import fetch; print(fetch('2001:db8:1::2', {port}))"
            words = ["ip", "netns", "exec", beyond.name, sys.executable, "-c", code]
            # The new address is not there before the kernel has made sure that nobody else has it.
            wait_until(lambda words=words: "served" in _output(*words), "the page")
    assert fetch("fd00:db8:7::1", 8080) == b"served\n"
    assert fetch("127.0.0.1", 8080) == b"served\n"
    tool.good("rm", "-f", "web")
    assert maps() == ""
    tool.good("network", "rm", "six")


def test_containers_of_a_network_without_icc_meet_at_published_ports_only(tool: Tool) -> None:
    tool.good("network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "quiet")
    tool.good("run", "-d", "--name", "web", "--network", "quiet", "-p", "8080:80", BOX, "sh", "-c", SERVE)
    wait_until(lambda: fetch("127.0.0.1", 8080), "the server's answer")
    found = tool.inspect("web")["NetworkSettings"]["Networks"]["quiet"]
    tool.good("run", "-d", "--name", "other", "--network", "quiet", BOX, "sleep", "1000")
    for path in Path("/proc/sys/net/bridge").glob("bridge-nf-call-ip*tables"):
        # What keeps them apart is the bridge, with br_netfilter or without.
        path.write_text("0")
    reached = tool("exec", "other", "busybox", "wget", "-q", "-T", "1", "-O", "-", f"http://{found['IPAddress']}:80/")
    assert reached.returncode != 0
    assert tool.good("exec", "other", *FETCH.format(found["Gateway"], 8080).split()) == "served"
    tool.good("rm", "-f", "web", "other")
    tool.good("network", "rm", "quiet")


def test_ports_follow_the_way_out(tool: Tool) -> None:
    tool.good("network", "create", "after")
    serve(tool, "-p", "8080:80")
    tool.good("network", "connect", "after", "web")
    assert fetch("127.0.0.1", 8080) == b"served\n"
    tool.good("network", "disconnect", "bridge", "web")
    address = tool.inspect("web")["NetworkSettings"]["Networks"]["after"]["IPAddress"]
    assert f": {address} . 80" in maps()
    assert fetch("127.0.0.1", 8080) == b"served\n"
    tool.good("rm", "-f", "web")
    assert maps() == ""
    tool.good("network", "rm", "after")


@pytest.mark.parametrize(
    ("call", "number"), [("sendto", 9), ("sendto", 12), ("sendto", 16), ("listen", 1), ("rmdir", 1)]
)
def test_killed_at_a_step_of_publishing(tool: Tool, call: str, number: int) -> None:
    """strace kills each process, the starter, the monitor and the child, when it makes this call for this time."""
    if not shutil.which("strace"):
        missing("strace is not installed")
    kill = f"inject={call}:signal=SIGKILL:when={number}"
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", kill]
    words += command("run", "--rm", "--name", "web", "-p", "8080:80", BOX, "true")
    subprocess.run(words, env=tool.environment, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    for pid in of_root(tool):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not of_root(tool), "the end of every process")
    tool.good("run", "--rm", BOX, "true")
    assert maps() == ""
    tool.good("run", "--rm", "-p", "8080:80", BOX, "true")
    tool("rm", "-f", "web")


def test_explain_shows_what_one_would_type(tool: Tool) -> None:
    # What earlier tests left goes first.
    tool.good("run", "--rm", BOX, "true")
    builders.run_command("nft", "delete", "table", "inet", "minidock")
    done = tool("run", "--explain", "-d", "--name", "web", "-p", "8080:80", BOX, "sleep", "1000")
    bridge = re.search(r"ip link add \S+ up master (\S+) ", done.stderr)
    assert bridge, done.stderr
    container = tool.inspect("web")
    element = f'tcp . 8080 comment "{container["Id"]}" : {container["NetworkSettings"]["IPAddress"]} . 80'
    lines = [line.rpartition("  # network")[0] for line in done.stderr.splitlines() if line.endswith("# network")]
    assert f"nft add element inet minidock ports4 '{{ {element} }}'" in lines
    assert f"sysctl -w net.ipv4.conf.{bridge[1]}.route_localnet=1" in lines
    rules = builders.run_command("nft", "list", "ruleset").stdout
    with namespaces(1) as (typed,):
        typed.run("sh", "-ec", "\n".join(line for line in lines if line.startswith("nft ")))
        assert ruleset(typed) == rules
