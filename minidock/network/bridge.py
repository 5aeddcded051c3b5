"""A network's bridge in the kernel: made when a container first needs it, completed when it is only half there.

A bridge belongs to a network namespace, a network's record to a data root, and the two meet anew at each start: the
namespace that the command runs in is asked for the bridge, and gets it if it has none (after a boot, or in another
namespace). Half of a bridge, left by a kill, looks like none and is completed. The file of the namespace itself
(/proc/self/ns/net) is what is locked meanwhile: it is one and the same for every data root whose bridges meet there, so
that two first starts never choose one subnet.

The alias of a bridge names its data root, by path and inode: in another mount namespace the same path may be another
root. Such a bridge is taken over, or refused while something is plugged in. Where a new bridge is made, those of roots
that are no more are removed, unless something is plugged in.

For the reason of the raw messages see linux/netlink.py; networks that somebody makes by name are made by made.py.
"""

from __future__ import annotations

import _socket
import fcntl
import os

from minidock.errors import Conflict, SyscallError
from minidock.formats.subnets import Subnet, free_pool
from minidock.linux import netlink
from minidock.linux.netlink import IFLA_IFALIAS, IFLA_IFNAME, IFLA_MASTER, Netlink
from minidock.network.firewall import NetworkRules, ensure_network, remove_network
from minidock.store.networks import ENABLE_ICC, ENABLE_MASQUERADE, Pool
from minidock.store.transaction import read_small, write_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from minidock.store.networks import Network
    from minidock.store.root import DataRoot

ALIAS = "minidock "
_MAX_ALIAS = 255
_FORWARD = (("net.ipv4.ip_forward", False), ("net.ipv6.conf.all.forwarding", True))


class NamespaceLock:
    """Held while bridges are chosen and made in this network namespace; a context manager."""

    __slots__ = ("_fd",)

    def __enter__(self) -> None:
        self._fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)


def rules_of(network: Network) -> NetworkRules:
    """What the firewall is to know of a network."""
    return NetworkRules(
        bridge=network.bridge,
        subnets=tuple(str(pool.subnet) for pool in network.pools),
        internal=network.internal,
        icc=network.has(ENABLE_ICC),
        masquerade=network.has(ENABLE_MASQUERADE),
    )


def alias_of(root: DataRoot) -> str:
    """What a bridge says of its data root."""
    return f"{ALIAS}{os.fstat(root.fd).st_ino:x} {root.path}"[:_MAX_ALIAS]


def _root_of(alias: str) -> str:
    """The path in an alias, empty for one that is not ours."""
    return alias.removeprefix(ALIAS).partition(" ")[2] if alias.startswith(ALIAS) else ""


def find_index(name: str) -> int:
    """The number of a link in this network namespace, 0 for none."""
    try:
        return _socket.if_nametoindex(name)
    except OSError:
        return 0


def ensure_bridge(root: DataRoot, network: Network, link: Netlink) -> int:
    """Make the network's bridge and rules, or what is missing of them.

    Shape:   fills in the pools of the default network, which are its bridge's
    Returns: the bridge's number
    Raises:  SyscallError; UsageError when no subnet is free; Conflict when a link of its name is no bridge, or another
             data root's with something plugged in
    """
    index = _find_own(root, network, link)
    if index and _is_whole(network, index, link):
        ensure_network(rules_of(network), trace=root.trace)
        return index
    with NamespaceLock():
        index = _find_own(root, network, link)
        if index and _is_whole(network, index, link):
            return index
        _remove_orphans(root, link)
        if not network.pools:
            network.pools = [Pool(free_pool(taken_subnets(root, link)))]
        # The rules first: a bridge that is there has them.
        ensure_network(rules_of(network), trace=root.trace)
        allow_forwarding(root, network)
        return _make(root, network, index, link)


def _find_own(root: DataRoot, network: Network, link: Netlink) -> int:
    """The number of the network's bridge, 0 when there is none yet."""
    found = link.link(network.bridge)
    if found is None:
        return 0
    index, values = found
    if netlink.kind_of(values) != "bridge":
        raise Conflict(f"the link {network.bridge} is there and is no bridge", hint="rename or remove it")
    alias, own = netlink.text_of(values, IFLA_IFALIAS), alias_of(root)
    if alias == own or not _root_of(alias):
        return index
    if any(values.get(IFLA_MASTER) == index.to_bytes(4, "little") for _, values in link.links()):
        raise Conflict(
            f"the bridge {network.bridge} is in use by another data root, {_root_of(alias)}",
            hint="end its containers, or use another --root",
        )
    change(root, link, netlink.set_alias(network.bridge, index, own))
    return index


def _is_whole(network: Network, index: int, link: Netlink) -> bool:
    """Whether a bridge has its addresses; those of the default network are read from it."""
    own = [(address, prefix) for number, address, prefix in link.addresses() if number == index]
    if network.is_default:
        for address, prefix in own:
            if ":" not in address:
                network.pools = [Pool(Subnet.parse(f"{address}/{prefix}"), address)]
                return True
        return False
    return all((pool.gateway, pool.subnet.prefix) in own for pool in network.pools)


def look_at(network: Network) -> bool:
    """Whether the network's bridge is there and whole; fills in the pools of the default network then."""
    index = find_index(network.bridge)
    with Netlink() as link:
        return bool(index) and _is_whole(network, index, link)


def host_address(root: DataRoot) -> str:
    """The host's address on the default network, empty while that has no bridge here."""
    network = root.networks.default()
    return network.pools[0].gateway if look_at(network) else ""


def taken_subnets(root: DataRoot, link: Netlink) -> list[Subnet]:
    """What no new network may overlap: the namespace's routes and addresses, the root's networks, the resolvers."""
    taken = [Subnet.parse(f"{address}/{prefix}") for address, prefix in link.routes()]
    taken += [Subnet.parse(f"{address}/{prefix}") for _, address, prefix in link.addresses()]
    taken += [pool.subnet for network in root.networks.made() for pool in network.pools]
    from minidock.network.hostfiles import host_name_servers

    for server in host_name_servers():
        taken.append(Subnet.parse(f"{server}/{128 if ':' in server else 32}"))
    return taken


def bridge_subnets(root: DataRoot, link: Netlink) -> list[Subnet]:
    """The subnets of networks, of this data root's and of those whose bridges are in this namespace."""
    bridges = {index for index, values in link.links() if netlink.text_of(values, IFLA_IFALIAS).startswith(ALIAS)}
    own = [pool.subnet for network in root.networks.made() for pool in network.pools]
    for index, address, prefix in link.addresses():
        if index in bridges and not address.startswith("fe80:"):
            own.append(Subnet.parse(f"{address}/{prefix}"))
    return own


def _make(root: DataRoot, network: Network, index: int, link: Netlink) -> int:
    name = network.bridge
    if not index:
        mac = "02:42:" + ":".join(f"{byte:02x}" for byte in os.urandom(4))
        change(root, link, netlink.make_bridge(name, mac))
        index = find_index(name)
    here = {(address, prefix) for number, address, prefix in link.addresses() if number == index}
    requests = [
        netlink.add_address(name, index, pool.gateway, pool.subnet.prefix)
        for pool in network.pools
        if (pool.gateway, pool.subnet.prefix) not in here
    ]
    if network.mtu:
        requests.insert(0, netlink.set_mtu(name, index, network.mtu))
    # In one call, during which nobody is killed: a bridge with its address is whole.
    change(root, link, netlink.raise_link(name, index), netlink.set_alias(name, index, alias_of(root)), *requests)
    return index


def change(root: DataRoot, link: Netlink, *requests: netlink.Request) -> None:
    """Tell the changes as `ip` lines, and make them; raises SyscallError."""
    for request in requests:
        root.tell("network", request.text)
    link.change(*requests)


def allow_forwarding(root: DataRoot, network: Network) -> None:
    """Let packets through from one link to another, and keep on record what the host had set before."""
    for key, is_ipv6 in _FORWARD:
        path = "/proc/sys/" + key.replace(".", "/")
        if (is_ipv6 and not network.ipv6) or not os.path.exists(path):
            continue
        before = read_small(path)
        if before.strip() != b"0":
            continue
        record = f"{root.path}/minidock/network/{key}.before"
        if not os.path.exists(record):
            write_new(record, before, 0o600)
        root.tell("write", f"sysctl -w {key}=1")
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(handle, b"1")
        except OSError as error:
            raise SyscallError(f"sysctl -w {key}=1", error.errno or 5) from None
        finally:
            os.close(handle)


def _remove_orphans(root: DataRoot, link: Netlink) -> None:
    """Remove the bridges of data roots that are no more; one with something plugged in stays."""
    links = link.links()
    used = {values.get(IFLA_MASTER) for _, values in links}
    for index, values in links:
        path = _root_of(netlink.text_of(values, IFLA_IFALIAS))
        if not path or os.path.lexists(path) or index.to_bytes(4, "little") in used:
            continue
        remove_bridge(root, netlink.text_of(values, IFLA_IFNAME), link)


def remove_bridge(root: DataRoot, name: str, link: Netlink) -> None:
    """Remove a bridge and its rules; one that has gone is fine."""
    remove_network(name, trace=root.trace)
    if find_index(name):
        try:
            change(root, link, netlink.remove_link(name))
        except SyscallError as error:
            if error.errno != 19:
                raise
