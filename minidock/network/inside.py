"""The child's part of the way into its networks: it waits until its links are there, and sets them up."""

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

    from minidock.network.attachment import Attachment
    from minidock.store.endpoints import Endpoint


def operations(attachment: Attachment) -> list[Operation]:
    """Wait for the links, and set them up."""
    plan: list[Operation] = [AwaitLinks([one.interface for one in attachment.endpoints])]
    if not any(one.address6 for one in attachment.endpoints):
        plan.append(_ipv6_off("lo"))
    for one in attachment.endpoints:
        if not one.address6:
            plan.append(_ipv6_off(one.interface))
        plan.append(ConfigureLink(one, is_gateway=one is attachment.gateway, is_gateway6=one is attachment.gateway6))
    return plan


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
