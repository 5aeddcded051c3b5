"""The way of one start into its networks: what the parent does outside; see inside.py for the child's part.

    parent (host's network)                          child (the container's network, paused in AwaitLinks)
    one message: a pair of links, one end up and      mounts its root meanwhile
    on the bridge, the other born inside
    a byte down the pipe ───────────────────────────▶ address, up, default route: one call for each link

The pair is made after the clone, and its inner end comes into being inside: there is no moment at which a kill would
leave it to the host, since a network namespace takes its links along. So a start cut short leaves an address on record
and nothing in the kernel, and the next command gives the address back.
"""

from __future__ import annotations

from minidock.linux import netlink
from minidock.linux.netlink import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.runtime.operation import Operation
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
        # Loaded by the process that launches, and not by the one that only takes the addresses.
        from minidock.network.inside import operations

        return operations(self)


def gateway_endpoint(endpoints: Sequence[Endpoint], *, ipv6: bool = False) -> Endpoint | None:
    """The place through which the way out leads: one that leads both families out, else the first by its name.

    Source: moby libnetwork/sandbox.go, Less
    """
    candidates = [one for one in endpoints if (one.gateway6 if ipv6 else one.gateway)]
    return min(candidates, key=lambda one: (not (one.gateway and one.gateway6), one.network), default=None)
