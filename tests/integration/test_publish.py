"""Published ports and ways out, with real packets between network namespaces.

outside ── host ── mdt0 ── first, second      172.30.0.0/16, fd00:30::/64
              ├─── mdt1 ── stranger           172.31.0.0/16
              └─── mdt2 ── hermit             172.29.0.0/16, internal
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidock.errors import Conflict, UsageError
from minidock.formats.portspec import PortRequest, PublishedPort
from minidock.network.firewall import (
    NetworkRules,
    dropped_by_others,
    ensure_network,
    networks,
    remove_network,
)
from minidock.network.publish import claim, publish, published, unpublish
from tests.integration.netns import Netns, ask, ask_in_vain, give_addresses, join, namespaces, ruleset, serving

HOST, OUTSIDE = "192.0.2.1", "192.0.2.2"
HOST6, OUTSIDE6 = "2001:db8::1", "2001:db8::2"
FIRST, SECOND, STRANGER, HERMIT = "172.30.0.2", "172.30.0.3", "172.31.0.2", "172.29.0.2"
FIRST6, GATEWAY6 = "fd00:30::2", "fd00:30::1"
GATEWAY = "172.30.0.1"
ID = "c" * 64
OTHER_ID = "d" * 64


class Town:
    """The namespaces by name, joined as drawn above, with the firewall's rules and no published port."""

    def __init__(self, spaces: list[Netns]) -> None:
        self.host, self.outside, self.first, self.second, self.stranger, self.hermit = spaces
        host = self.host
        for name in ("ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1"):
            host.run("sysctl", "-qw", f"net.{name}")
        join(host, "out", self.outside, "eth0")
        give_addresses(host, "out", f"{HOST}/24", f"{HOST6}/64")
        give_addresses(self.outside, "eth0", f"{OUTSIDE}/24", f"{OUTSIDE6}/64")
        bridges = {
            "mdt0": ([f"{GATEWAY}/16", f"{GATEWAY6}/64"], [(self.first, [FIRST, FIRST6]), (self.second, [SECOND])]),
            "mdt1": (["172.31.0.1/16"], [(self.stranger, [STRANGER])]),
            "mdt2": (["172.29.0.1/16"], [(self.hermit, [HERMIT])]),
        }
        for bridge, (gateways, members) in bridges.items():
            host.run("ip", "link", "add", bridge, "type", "bridge")
            host.run("ip", "link", "set", bridge, "up")
            give_addresses(host, bridge, *gateways)
            for number, (space, addresses) in enumerate(members):
                join(host, f"{bridge}v{number}", space, "eth0")
                host.run("ip", "link", "set", f"{bridge}v{number}", "master", bridge)
                host.run("bridge", "link", "set", "dev", f"{bridge}v{number}", "hairpin", "on")
                for address in addresses:
                    give_addresses(space, "eth0", f"{address}/64" if ":" in address else f"{address}/16")
                space.run("ip", "route", "add", "default", "via", gateways[0].partition("/")[0])
                if len(addresses) > 1:
                    space.run("ip", "-6", "route", "add", "default", "via", GATEWAY6)
            rules = NetworkRules(bridge, tuple(gateways), internal=bridge == "mdt2")
            host.call(ensure_network, rules)

    def publish(self, *ports: PublishedPort) -> None:
        """Publish these ports of the first container, IPv4 and IPv6."""
        self.host.call(publish, ID, "mdt0", (f"{FIRST}/16", f"{FIRST6}/64"), ports)


@pytest.fixture
def town() -> Iterator[Town]:
    with namespaces(6) as spaces:
        yield Town(spaces)


@pytest.fixture(params=["bridge frames are filtered", "bridge frames are not filtered"])
def either_town(town: Town, request: pytest.FixtureRequest) -> Town:
    """With br_netfilter, as where docker runs, and without: a packet takes another way through the hooks."""
    on = "1" if request.param == "bridge frames are filtered" else "0"
    for family in ("iptables", "ip6tables"):
        path = f"/proc/sys/net/bridge/bridge-nf-call-{family}"
        if os.path.exists(path):
            town.host.run("sh", "-c", f"echo {on} >{path}")
    return town


def _tcp(host_ip: str = "", host_port: int = 8080, container_port: int = 80) -> PublishedPort:
    return PublishedPort("tcp", host_ip, host_port, container_port)


def test_a_way_out_with_the_hosts_address(town: Town) -> None:
    """The world outside has no route back to a container's address."""
    with serving(town.outside, OUTSIDE, 7000), serving(town.outside, OUTSIDE, 7000, "udp"):
        assert town.first.call(ask, OUTSIDE, 7000) == HOST
        assert town.stranger.call(ask, OUTSIDE, 7000, "udp") == HOST
        assert town.hermit.call(ask_in_vain, OUTSIDE, 7000) == "silence"
    with serving(town.outside, OUTSIDE6, 7000):
        assert town.first.call(ask, OUTSIDE6, 7000) == HOST6


def test_networks_are_isolated(town: Town) -> None:
    """Not even by the host as a router, for who knows the way."""
    with serving(town.first, FIRST, 80), serving(town.hermit, HERMIT, 80):
        assert town.second.call(ask, FIRST, 80) == SECOND
        assert town.stranger.call(ask_in_vain, FIRST, 80) == "silence"
        assert town.hermit.call(ask_in_vain, FIRST, 80) == "silence"
        assert town.first.call(ask_in_vain, HERMIT, 80) == "silence"
        town.outside.run("ip", "route", "add", "172.16.0.0/12", "via", HOST)
        assert town.outside.call(ask_in_vain, FIRST, 80) == "silence"
        assert town.outside.call(ask_in_vain, HERMIT, 80) == "silence"
        # The host itself is no stranger to any of them.
        assert town.host.call(ask, FIRST, 80) == GATEWAY
        assert town.host.call(ask, HERMIT, 80) == "172.29.0.1"


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_published_port_from_everywhere(either_town: Town, kind: str) -> None:
    town = either_town
    before = ruleset(town.host)
    town.publish(PublishedPort(kind, "", 8080, 80))
    assert town.host.call(published) == {ID}
    with serving(town.first, "0.0.0.0", 80, kind):
        assert town.outside.call(ask, HOST, 8080, kind) == OUTSIDE
        assert town.host.call(ask, "127.0.0.1", 8080, kind) == GATEWAY
        assert town.host.call(ask, HOST, 8080, kind) == HOST
        assert town.host.call(ask, GATEWAY, 8080, kind) == GATEWAY
        assert town.second.call(ask, GATEWAY, 8080, kind) == GATEWAY
        assert town.second.call(ask, HOST, 8080, kind) == GATEWAY
        assert town.first.call(ask, HOST, 8080, kind) == GATEWAY
        assert town.stranger.call(ask, HOST, 8080, kind) == STRANGER
        assert town.hermit.call(ask_in_vain, "172.29.0.1", 8080, kind) == "silence"
    with serving(town.first, "::", 80, kind):
        assert town.outside.call(ask, HOST6, 8080, kind) == OUTSIDE6
        assert town.host.call(ask, HOST6, 8080, kind) == HOST6
    town.host.call(unpublish, ID)
    town.host.call(unpublish, ID)
    assert town.host.call(published) == set()
    assert ruleset(town.host) == before
    assert town.outside.call(ask_in_vain, HOST, 8080, kind) in ("ECONNREFUSED", "silence")


def test_a_port_of_one_address_only(town: Town) -> None:
    town.publish(_tcp("127.0.0.1", 8080), _tcp(HOST, 8081), _tcp(HOST6, 8082))
    with serving(town.first, "0.0.0.0", 80):
        assert town.host.call(ask, "127.0.0.1", 8080) == GATEWAY
        assert town.outside.call(ask, HOST, 8080) == "ECONNREFUSED"
        assert town.outside.call(ask, HOST, 8081) == OUTSIDE
        assert town.host.call(ask, "127.0.0.1", 8081) == "ECONNREFUSED"
    with serving(town.first, "::", 80):
        assert town.outside.call(ask, HOST6, 8082) == OUTSIDE6


def _datagram(destination: str, port: int, source: str) -> bytes:
    """An IPv4 packet with a UDP datagram in it, as one needs raw sockets to send."""
    udp = struct.pack(">HHHH", 5000, port, 8 + 4, 0) + b"psst"
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0)
    total = sum(struct.unpack(">10H", head + addresses))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return b"".join((head[:10], checksum.to_bytes(2, "big"), addresses, udp))


def _send_raw(packet: bytes, to_mac: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as raw:
        raw.sendto(packet, ("eth0", 0x0800, 0, 0, bytes.fromhex(to_mac.replace(":", ""))))


def test_nobody_on_a_link_reaches_the_hosts_loopback(town: Town) -> None:
    """route_localnet is on for published ports; a container or a neighbour that sends to 127.0.0.1 gets nowhere."""
    town.publish(PublishedPort("udp", "127.0.0.1", 8080, 80))
    assert town.host.run("sysctl", "-n", "net.ipv4.conf.mdt0.route_localnet") == "1\n"
    attackers = ((town.outside, OUTSIDE, "out"), (town.second, SECOND, "mdt0"))
    macs = {}
    for link in ("out", "mdt0"):
        found = re.search(r"link/ether (\S+)", town.host.run("ip", "link", "show", link))
        assert found
        macs[link] = found[1]
    with town.host.socket(socket.SOCK_DGRAM) as service, town.first.socket(socket.SOCK_DGRAM) as server:
        service.bind(("127.0.0.1", 9000))
        server.bind(("0.0.0.0", 80))
        for one in (service, server):
            one.settimeout(0.5)
        for space, address, link in attackers:
            for port, target in ((9000, service), (8080, server)):
                space.call(_send_raw, _datagram("127.0.0.1", port, address), macs[link])
                with pytest.raises(TimeoutError):
                    target.recv(100)
        # The same packet to an open port comes in, and to the loopback once the guard is away.
        service.settimeout(10)
        with town.host.socket(socket.SOCK_DGRAM) as public:
            public.settimeout(10)
            public.bind(("0.0.0.0", 9001))
            town.second.call(_send_raw, _datagram(GATEWAY, 9001, SECOND), macs["mdt0"])
            assert public.recv(100) == b"psst"
        town.host.run("nft", "flush", "chain", "inet", "minidock", "loopback_guard")
        town.second.call(_send_raw, _datagram("127.0.0.1", 9000, SECOND), macs["mdt0"])
        assert service.recv(100) == b"psst"


def test_without_icc_the_host_routes_nothing_between_containers(town: Town) -> None:
    town.host.call(ensure_network, NetworkRules("mdt0", (f"{GATEWAY}/16",), icc=False))
    town.first.run("ip", "route", "add", f"{SECOND}/32", "via", GATEWAY)
    town.second.run("ip", "route", "add", f"{FIRST}/32", "via", GATEWAY)
    town.publish(_tcp())
    with serving(town.first, "0.0.0.0", 80):
        assert town.second.call(ask_in_vain, FIRST, 80) == "silence"
        assert town.second.call(ask, GATEWAY, 8080) == GATEWAY


def test_ports_of_one_container_leave_anothers_alone(town: Town) -> None:
    town.publish(_tcp())
    town.host.call(publish, OTHER_ID, "mdt0", (SECOND,), [_tcp(host_port=8081)])
    with serving(town.first, FIRST, 80), serving(town.second, SECOND, 80):
        town.host.call(unpublish, ID)
        assert town.host.call(published) == {OTHER_ID}
        assert town.outside.call(ask, HOST, 8081) == OUTSIDE
        # Whoever could claim the port owns it: the rules of one that was killed give way.
        town.publish(_tcp(host_port=8081))
        assert town.host.call(published) == {ID}
        assert town.outside.call(ask, HOST, 8081) == OUTSIDE


def test_what_another_table_drops_is_dropped(town: Town) -> None:
    """As where dockerd's FORWARD chain has the policy drop; it is for that table to let minidock's bridges through."""
    town.publish(_tcp())
    town.host.run("nft", "add", "table", "ip", "filter")
    town.host.run(
        "nft", "add", "chain", "ip", "filter", "FORWARD", "{ type filter hook forward priority 0; policy drop; }"
    )
    assert town.host.call(dropped_by_others) == ["ip filter FORWARD"]
    with serving(town.first, FIRST, 80), serving(town.outside, OUTSIDE, 7000):
        assert town.first.call(ask_in_vain, OUTSIDE, 7000) == "silence"
        assert town.outside.call(ask_in_vain, HOST, 8080) == "silence"
        for option in ("-i", "-o"):
            town.host.run("iptables", "-I", "FORWARD", option, "mdt0", "-j", "ACCEPT")
        assert town.first.call(ask, OUTSIDE, 7000) == HOST
        assert town.outside.call(ask, HOST, 8080) == OUTSIDE


def test_many_ports_at_once(town: Town) -> None:
    town.publish(*(_tcp(host_port=port, container_port=port) for port in range(20000, 23000)))
    with serving(town.first, FIRST, 22999):
        assert town.outside.call(ask, HOST, 22999) == OUTSIDE
    town.host.call(unpublish, ID)
    assert town.host.call(published) == set()


def test_publishing_twice_changes_nothing(town: Town) -> None:
    town.publish(_tcp(), _tcp("127.0.0.1", 8081))
    before = ruleset(town.host)
    town.publish(_tcp(), _tcp("127.0.0.1", 8081))
    assert ruleset(town.host) == before


def test_what_cannot_be_published(town: Town) -> None:
    before = ruleset(town.host)
    with pytest.raises(UsageError, match="no IPv6 address"):
        town.host.call(publish, ID, "mdt0", (FIRST,), [_tcp("::1")])
    with pytest.raises(Conflict, match=r"Bind for 0\.0\.0\.0:8080 failed"):
        town.host.call(publish, ID, "mdt0", (FIRST,), [_tcp(), _tcp(container_port=81)])
    assert ruleset(town.host) == before


def test_with_the_last_network_the_table_goes(town: Town) -> None:
    town.publish(_tcp())
    for bridge in ("mdt0", "mdt1", "mdt2"):
        town.host.call(remove_network, bridge)
    assert town.host.call(networks) == set()
    town.host.call(unpublish, ID)
    assert town.host.call(published) == set()


def _any(first: int, last: int = 0, protocol: str = "tcp", host_ip: str = "") -> PortRequest:
    return PortRequest(protocol, host_ip, first, last or first, 80)


def _claim_twice(protocol: str) -> str:
    held = claim([_any(8080, protocol=protocol)], endpoint="one")
    assert held.ports[0].host_port == 8080
    with pytest.raises(Conflict) as caught:
        claim([_any(8079), _any(8080, protocol=protocol)], endpoint="two")
    # Nothing of a refused claim is kept.
    claim([_any(8079)]).close()
    held.close()
    claim([_any(8080, protocol=protocol)]).close()
    return caught.value.message


def _claims_of_others() -> None:
    held = claim([_any(8080)])
    for options in ((), (socket.SO_REUSEADDR,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)):
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")):
            with socket.socket(family, socket.SOCK_STREAM) as other:
                for option in options:
                    other.setsockopt(socket.SOL_SOCKET, option, 1)
                with pytest.raises(OSError, match="in use"):
                    other.bind((address, 8080))
    assert ask("127.0.0.1", 8080) == "ECONNREFUSED"
    held.close()


def _claim_from_a_range() -> list[int]:
    with socket.create_server(("127.0.0.1", 8001)):
        first = claim([_any(8000, 8002), _any(8000, 8002)])
        with pytest.raises(Conflict, match="all ports are allocated"):
            claim([_any(8000, 8002)])
        any_port = claim([_any(0), _any(0, protocol="udp")])
        return [one.host_port for one in (*first.ports, *any_port.ports)]


def _claim_after_a_server() -> None:
    """A connection that the server ended first leaves its port in TIME_WAIT."""
    with socket.create_server(("127.0.0.1", 8080)) as server:
        client = socket.create_connection(("127.0.0.1", 8080))
        connection, _ = server.accept()
        connection.close()
        assert client.recv(1) == b""
        client.close()
    assert "06" in [line.split()[3] for line in Path("/proc/net/tcp").read_text().splitlines()]
    claim([_any(8080)]).close()


class TestClaims:
    """Host ports claimed before a start."""

    @pytest.fixture
    def space(self) -> Iterator[Netns]:
        with namespaces(1) as (one,):
            yield one

    @pytest.mark.parametrize("protocol", ["tcp", "udp"])
    def test_a_port_in_use(self, space: Netns, protocol: str) -> None:
        message = space.call(_claim_twice, protocol)
        where = "driver failed programming external connectivity on endpoint two"
        assert message == f"{where}: Bind for 0.0.0.0:8080 failed: port is already allocated"

    def test_nobody_else_gets_a_claimed_port(self, space: Netns) -> None:
        space.call(_claims_of_others)

    def test_a_port_from_a_range(self, space: Netns) -> None:
        space.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40010")
        assert space.call(_claim_from_a_range) == [8000, 8002, 40000, 40000]

    def test_old_connections_do_not_keep_a_port(self, space: Netns) -> None:
        space.call(_claim_after_a_server)

    def test_an_address_that_is_not_the_hosts(self, space: Netns) -> None:
        with pytest.raises(UsageError, match=r"listen tcp 1\.2\.3\.4:80: bind: cannot assign requested address"):
            space.call(claim, [_any(80, host_ip="1.2.3.4")])

    def test_a_host_without_ipv6(self, space: Netns) -> None:
        space.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        space.call(_claim_from_a_range)
