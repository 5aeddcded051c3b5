"""Our route netlink messages are, byte for byte, those that pyroute2 makes of the same words."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from minidock.linux import netlink
from minidock.linux.netlink import Request

CREATE = netlink.NLM_F_CREATE | netlink.NLM_F_EXCL


def link(kind: int, asked: int, *attrs: Any, **fields: Any) -> bytes:
    """A message about a link."""
    return encoded(ifinfmsg(), kind, asked, attrs, fields)


def address(*attrs: Any, **fields: Any) -> bytes:
    """A message that adds an address."""
    return encoded(ifaddrmsg(), netlink.RTM_NEWADDR, CREATE, attrs, fields)


def route(kind: int, flags: int, *attrs: Any, **fields: Any) -> bytes:
    """A message about a route."""
    return encoded(rtmsg(), kind, flags, attrs, fields)


def encoded(message: Any, kind: int, flags: int, attrs: Any, fields: dict[str, Any]) -> bytes:
    """What pyroute2 would send, with sequence number 7."""
    for key, value in fields.items():
        message[key] = value
    message["attrs"] = list(attrs)
    message["header"].update(
        type=kind, flags=netlink.NLM_F_REQUEST | netlink.NLM_F_ACK | flags, sequence_number=7, pid=0
    )
    message.encode()
    return bytes(message.data)


def veth_info(peer: str, mac: str, pid: int) -> dict[str, Any]:
    """IFLA_LINKINFO of a pair."""
    inner = {"attrs": [("IFLA_IFNAME", peer), ("IFLA_ADDRESS", mac), ("IFLA_NET_NS_PID", pid)]}
    return {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", inner)]})]}


MAC = "02:42:ac:11:00:02"
SAME: dict[str, tuple[Request, Any]] = {
    "bridge": (
        netlink.make_bridge("minidock0", MAC),
        lambda: link(
            netlink.RTM_NEWLINK,
            CREATE,
            ("IFLA_IFNAME", "minidock0"),
            ("IFLA_ADDRESS", MAC),
            ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "bridge")]}),
        ),
    ),
    "MTU": (
        netlink.set_mtu("minidock0", 4, 1400),
        lambda: link(netlink.RTM_NEWLINK, 0, ("IFLA_MTU", 1400), index=4),
    ),
    "pair": (
        netlink.make_veth("veth0123456", "minidock0", 9, "eth0", MAC, 4321),
        lambda: link(
            netlink.RTM_NEWLINK,
            CREATE,
            ("IFLA_IFNAME", "veth0123456"),
            ("IFLA_MASTER", 9),
            ("IFLA_LINKINFO", veth_info("eth0", MAC, 4321)),
            flags=1,
            change=1,
        ),
    ),
    "up": (
        netlink.raise_link("eth0", 3),
        lambda: link(netlink.RTM_NEWLINK, 0, index=3, flags=1, change=1),
    ),
    "remove": (
        netlink.remove_link("veth0123456"),
        lambda: link(netlink.RTM_DELLINK, 0, ("IFLA_IFNAME", "veth0123456")),
    ),
    "IPv4 address": (
        netlink.add_address("eth0", 3, "172.17.0.2", 16),
        lambda: address(
            ("IFA_LOCAL", "172.17.0.2"),
            ("IFA_ADDRESS", "172.17.0.2"),
            ("IFA_BROADCAST", "172.17.255.255"),
            family=2,
            prefixlen=16,
            index=3,
        ),
    ),
    "IPv4 address of two": (
        netlink.add_address("eth0", 3, "10.0.0.1", 31),
        lambda: address(("IFA_LOCAL", "10.0.0.1"), ("IFA_ADDRESS", "10.0.0.1"), family=2, prefixlen=31, index=3),
    ),
    "IPv6 address": (
        netlink.add_address("eth0", 3, "fd00::2", 64),
        lambda: address(
            ("IFA_LOCAL", "fd00::2"), ("IFA_ADDRESS", "fd00::2"), family=10, prefixlen=64, flags=2, index=3
        ),
    ),
    "IPv4 route": (
        netlink.add_default_route("172.17.0.1", "eth0", 3),
        lambda: route(
            netlink.RTM_NEWROUTE,
            CREATE,
            ("RTA_GATEWAY", "172.17.0.1"),
            ("RTA_OIF", 3),
            family=2,
            table=254,
            proto=3,
            scope=0,
            type=1,
        ),
    ),
    "IPv6 route, removed": (
        netlink.remove_default_route("fd00::1", "eth0", 3),
        lambda: route(
            netlink.RTM_DELROUTE,
            0,
            ("RTA_GATEWAY", "fd00::1"),
            ("RTA_OIF", 3),
            family=10,
            table=254,
            proto=3,
            scope=0,
            type=1,
        ),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_bytes(name: str) -> None:
    request, theirs = SAME[name]
    assert request.encode(7) == theirs()


def test_alias() -> None:
    ours = netlink.set_alias("minidock0", 4, "minidock /var/lib/minidock").encode(7)
    message = ifinfmsg(ours)
    message.decode()
    assert (message["index"], message.get_attr("IFLA_IFALIAS")) == (4, "minidock /var/lib/minidock")
