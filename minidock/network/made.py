"""The bridges of networks that somebody makes and removes by name, by pyroute2.

Here its 130 ms of import are no matter, and its names say what is done better than bytes. A start that finds a network
without its bridge, after a boot, makes the same by network/bridge.py; a test compares the two.
"""

from __future__ import annotations

import os

from minidock.errors import SyscallError
from minidock.network.bridge import alias_of, allow_forwarding, find_index, rules_of
from minidock.network.firewall import ensure_network, remove_network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.networks import Network, Pool
    from minidock.store.root import DataRoot


class _Route:
    """A pyroute2 socket as a context manager. Raises: SyscallError for every netlink error"""

    def __init__(self, what: str) -> None:
        self._what = what
        self._route: Any = None

    def __enter__(self) -> Any:
        from pyroute2 import IPRoute

        self._route = IPRoute()
        return self._route

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from pyroute2.netlink.exceptions import NetlinkError

        self._route.close()
        if isinstance(error, NetlinkError):
            raise SyscallError(self._what, error.code) from None


def make_bridge(root: DataRoot, network: Network) -> None:
    """Make a network's rules and its bridge, or take one that is there under the name that was asked for.

    Raises: SyscallError; what was made is removed then
    """
    name = network.bridge
    is_new = not find_index(name)
    ensure_network(rules_of(network), trace=root.trace)
    try:
        allow_forwarding(root, network)
        with _Route(f"make the bridge {name}") as route:
            if is_new:
                mac = random_mac()
                root.tell("network", f"ip link add {name} address {mac} type bridge")
                route.link("add", ifname=name, kind="bridge", address=mac)
            (index,) = route.link_lookup(ifname=name)
            if network.mtu and is_new:
                root.tell("network", f"ip link set {name} mtu {network.mtu}")
                route.link("set", index=index, mtu=network.mtu)
            for pool in network.pools:
                root.tell("network", f"ip address add {pool.gateway}/{pool.subnet.prefix} dev {name}")
                _add_address(route, index, pool)
            root.tell("network", f"ip link set {name} up")
            route.link("set", index=index, state="up")
            if is_new:
                route.link("set", index=index, ifalias=alias_of(root))
    except BaseException:
        remove_bridge(root, name, is_ours=is_new)
        raise


def _add_address(route: Any, index: int, pool: Pool) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    # IFA_F_NODAD for IPv6, the address of everybody for IPv4
    more: dict[str, Any] = {"flags": 2} if pool.is_ipv6 else {}
    if not pool.is_ipv6 and pool.subnet.prefix < 31:
        more["broadcast"] = pool.subnet.last
    try:
        route.addr("add", index=index, address=pool.gateway, prefixlen=pool.subnet.prefix, **more)
    except NetlinkError as error:
        # A bridge that was there may have it already.
        if error.code != 17:
            raise


def random_mac() -> str:
    """A hardware address as docker's bridges have them."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in os.urandom(4))


def remove_bridge(root: DataRoot, name: str, *, is_ours: bool = True) -> None:
    """Remove a bridge and its rules; one that has gone is fine, and one that somebody else made stays."""
    remove_network(name, trace=root.trace)
    if not is_ours or not find_index(name):
        return
    with _Route(f"remove the bridge {name}") as route:
        root.tell("network", f"ip link delete {name}")
        route.link("del", index=find_index(name))


def is_ours(root: DataRoot, name: str) -> bool:
    """Whether a bridge is of this data root's making."""
    if not find_index(name):
        return False
    with _Route(f"look at the bridge {name}") as route:
        (found,) = route.link("get", index=find_index(name))
        return bool(found.get("ifalias") == alias_of(root))
