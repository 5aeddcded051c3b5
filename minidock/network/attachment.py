"""The way of one start into its networks: what the parent does outside, and what the child does inside.

    parent (host's network)                          child (the container's network, paused in AwaitLinks)
    one message: a pair of links, one end up and      mounts its root meanwhile
    on the bridge, the other born inside
    a byte down the pipe ───────────────────────────▶ address, up, default route: one call for each link

The pair is made after the clone, and its inner end comes into being inside: there is no moment at which a kill would
leave it to the host, since a network namespace takes its links along. So a start cut short leaves an address on record
and nothing in the kernel, and the next command gives the address back.
"""

from __future__ import annotations

import _socket

from minidock.errors import SyscallError
from minidock.linux import netlink
from minidock.linux.netlink import Netlink
from minidock.runtime.operation import Operation, Setup
from minidock.runtime.surroundings import WriteSysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.store.endpoints import Endpoint
    from minidock.trace import Trace


class Attachment:
    """A container's links.

    Shape: bridges: the number of each endpoint's bridge, in the same order; has_ports: the container is to reach its
           own published ports, from its bridge's side
    """

    __slots__ = ("bridges", "endpoints", "gateway", "gateway6", "has_ports")

    def __init__(self, endpoints: Sequence[Endpoint], bridges: Sequence[int]) -> None:
        self.endpoints = list(endpoints)
        self.bridges = list(bridges)
        self.gateway = gateway_endpoint(self.endpoints)
        self.gateway6 = gateway_endpoint(self.endpoints, ipv6=True)
        self.has_ports = False

    def connect(self, pid: int, trace: Trace | None = None) -> None:
        """In the parent: make the pairs, their inner ends in the process's network; raises SyscallError."""
        requests = [
            netlink.make_veth(one.link, one.bridge, index, one.interface, one.mac, pid, one.mtu)
            for one, index in zip(self.endpoints, self.bridges, strict=True)
        ]
        for one in self.endpoints:
            # Where br_netfilter is loaded, a redirected packet does not leave the bridge.
            hairpin = self.has_ports and one is self.gateway
            if hairpin or one.isolated:
                requests.append(netlink.set_port(one.link, hairpin=hairpin, isolated=one.isolated))
        with Netlink() as link:
            for request in requests:
                if trace is not None:
                    trace("network", f"{request.text.removesuffix(str(pid))}$container")
                link.change(request)

    def operations(self) -> list[Operation]:
        """In the child: wait for the links, and set them up."""
        plan: list[Operation] = [AwaitLinks([one.interface for one in self.endpoints])]
        if not any(one.address6 for one in self.endpoints):
            plan.append(_ipv6_off("lo"))
        for one in self.endpoints:
            if not one.address6:
                plan.append(_ipv6_off(one.interface))
            plan.append(ConfigureLink(one, is_gateway=one is self.gateway, is_gateway6=one is self.gateway6))
        return plan


def gateway_endpoint(endpoints: Sequence[Endpoint], *, ipv6: bool = False) -> Endpoint | None:
    """The place through which the way out leads: one that leads both families out, else the first by its name.

    Source: moby libnetwork/sandbox.go, Less
    """
    candidates = [one for one in endpoints if (one.gateway6 if ipv6 else one.gateway)]
    return min(candidates, key=lambda one: (not (one.gateway and one.gateway6), one.network), default=None)


def _ipv6_off(interface: str) -> WriteSysctl:
    return WriteSysctl(b"/proc/sys/net/ipv6/conf/%s/disable_ipv6" % interface.encode("ascii"), b"1")


class AwaitLinks(Operation):
    """Stand still until the parent has made the links."""

    __slots__ = ("interfaces",)
    kind = "network"

    def __init__(self, interfaces: Sequence[str]) -> None:
        self.interfaces = list(interfaces)

    def describe(self) -> str:
        return f"until ip link show {self.interfaces[-1]} >/dev/null 2>&1; do sleep 0.01; done"

    def execute(self, setup: Setup) -> None:
        setup.await_parent()


class ConfigureLink(Operation):
    """Give one link its addresses, bring it up, and lead the way out through it."""

    __slots__ = ("endpoint", "is_gateway", "is_gateway6")
    kind = "network"

    def __init__(self, endpoint: Endpoint, *, is_gateway: bool, is_gateway6: bool) -> None:
        self.endpoint = endpoint
        self.is_gateway = is_gateway
        self.is_gateway6 = is_gateway6

    def requests(self, index: int) -> list[netlink.Request]:
        """The changes to a link of this number."""
        one, name = self.endpoint, self.endpoint.interface
        requests = [netlink.add_address(name, index, one.address, one.prefix)]
        if one.address6:
            requests.append(netlink.add_address(name, index, one.address6, one.prefix6))
        requests.append(netlink.raise_link(name, index))
        if self.is_gateway:
            requests.append(netlink.add_default_route(one.gateway, name, index))
        if self.is_gateway6:
            requests.append(netlink.add_default_route(one.gateway6, name, index))
        return requests

    def describe(self) -> str:
        return " && ".join(request.text for request in self.requests(0))

    def execute(self, setup: Setup) -> None:
        name = self.endpoint.interface
        try:
            index = _socket.if_nametoindex(name)
        except OSError as error:
            raise SyscallError(f"if_nametoindex({name!r})", error.errno or 19) from None
        with Netlink() as link:
            link.change(*self.requests(index))
