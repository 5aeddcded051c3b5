"""A container joins its networks: addresses, a record of who has them, links, rules, names; and leaves them again.

The order is the one in which a kill does least harm. The record comes first, under the NetworkLock and held by a flock
(see store/endpoints.py); then bridges, which outlive containers; then the names in the other members' files; and after
the clone the links (attachment.py) and the published ports. Leaving goes the other way. `reclaim` does for the dead
what leaving does for the living, and every command that starts, removes or connects something begins with it.
"""

from __future__ import annotations

import os

from minidock.errors import ContainerRunning, MinidockError, SyscallError, UsageError
from minidock.formats.subnets import mac_of
from minidock.ids import random_hex64
from minidock.linux.netlink import Netlink, remove_link
from minidock.network.attachment import Attachment
from minidock.network.bridge import change, ensure_bridge, find_index
from minidock.network.hostfiles import change_hosts, own_lines, peer_lines
from minidock.network.leaving import HeldPlaces, forget_names, hosts_path, leave
from minidock.store.endpoints import Endpoint, Membership, NetworkLock
from minidock.store.networks import ENABLE_ICC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from minidock.network.publish import Claim
    from minidock.store.containers import Container
    from minidock.store.networks import Network, Pool
    from minidock.store.root import DataRoot

_DEFAULT_MODES = ("", "default", "bridge")


class Places:
    """A container's places for one run.

    Shape: fd: keeps the record alive while it is open in any process; lines: for the container's own hosts file;
           host_gateway: the host's address as the container sees it; claim: its host ports, None without any
    """

    __slots__ = ("attachment", "claim", "container_id", "fd", "has_ipv6", "host_gateway", "lines", "membership", "root")

    def __init__(self, root: DataRoot, membership: Membership, fd: int, attachment: Attachment) -> None:
        self.root = root
        self.container_id = membership.container_id
        self.membership = membership
        self.fd = fd
        self.attachment = attachment
        self.lines: list[str] = []
        gateway = self.attachment.gateway
        self.host_gateway = "" if gateway is None else gateway.gateway
        self.has_ipv6 = any(one.address6 for one in membership.endpoints)
        self.claim: Claim | None = None

    def connect(self, pid: int) -> None:
        """In the parent, after the clone: make the links and publish the ports; raises SyscallError, Conflict."""
        self.attachment.connect(pid, self.root.trace)
        gateway = self.attachment.gateway
        if self.claim is not None and gateway is not None:
            from minidock.network.publish import publish

            publish(self.container_id, gateway.bridge, gateway.addresses, self.claim.ports, trace=self.root.trace)

    def sockets(self) -> list[int]:
        """What a process must keep open for the container to keep its ports."""
        return [] if self.claim is None else self.claim.descriptors()

    def release(self) -> None:
        """Give everything back; what the kernel does not take along is removed."""
        with NetworkLock(self.root):
            # Read anew: the container may have been connected to other networks since.
            leave(self.root, self.root.endpoints.get(self.container_id) or self.membership)
            # The links go with the container's network, which has no process any more; to wait for that would take
            # longer than all the rest.
        self.close()

    def close(self) -> None:
        """Let go of the record and the ports, which another process may go on holding."""
        if self.claim is not None:
            self.claim.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def asked_networks(container: Container) -> dict[str, dict[str, Any]]:
    """The networks of a container's records, the one of NetworkMode first, with what was asked of each.

    Source: moby daemon/container_operations.go, updateContainerNetworkSettings
    """
    mode = container.config.host_text("NetworkMode")
    first = "bridge" if mode in _DEFAULT_MODES else mode
    # Of a container that another engine made, or that was taken off everything, nothing is recorded.
    asked = recorded_networks(container) or {first: {}}
    return {name: asked[name] for name in sorted(asked, key=lambda name: (name != first, name))}


def recorded_networks(container: Container) -> dict[str, dict[str, Any]]:
    """The networks that a container's records name, with what was asked of each."""
    settings = container.document.get("NetworkSettings")
    recorded = settings.get("Networks") if isinstance(settings, dict) else None
    found: dict[str, dict[str, Any]] = {}
    for name, endpoint in (recorded or {}).items():
        found["bridge" if name == "default" else name] = endpoint if isinstance(endpoint, dict) else {}
    return found


def join_networks(container: Container, hostname: str) -> Places:
    """Take a place for the container on each of its networks.

    Raises: NoSuchNetwork, UsageError, SyscallError; nothing is taken then
    """
    root = container.root
    with NetworkLock(root):
        others = reclaim_locked(root)
        wanted = [(root.networks.get(name), asked) for name, asked in asked_networks(container).items()]
        if any(member.container_id == container.id for member in others):
            # To wait for it would be to wait for who may be waiting for the lock that is held here.
            raise ContainerRunning(f"container {container.name} has not left its networks yet", hint="start it again")
        fd = root.endpoints.hold(container.id)
        places: Places | None = None
        try:
            with Netlink() as link:
                bridges = [ensure_bridge(root, network, link) for network, _ in wanted]
            endpoints = [
                place(container, network, asked, others, number, hostname)
                for number, (network, asked) in enumerate(wanted)
            ]
            membership = Membership(container.id, endpoints)
            places = Places(root, membership, fd, Attachment(endpoints, bridges))
            _claim_ports(container, places)
            root.endpoints.write(membership)
            places.lines = own_names(container, hostname, endpoints)
            for one in endpoints:
                places.lines += tell_names(root, one, container.id, others)
        except BaseException:
            root.endpoints.remove(container.id)
            if places is not None and places.claim is not None:
                places.claim.close()
            os.close(fd)
            raise
    return places


def resume_places(container: Container, held: HeldPlaces) -> Places:
    """The places of a container that is to be started once more, from what has kept them meanwhile.

    Raises: NoSuchNetwork, SyscallError
    """
    root = container.root
    with NetworkLock(root):
        membership = root.endpoints.get(container.id) or Membership(container.id, [])
        with Netlink() as link:
            bridges = [ensure_bridge(root, root.networks.get(one.network), link) for one in membership.endpoints]
    places = Places(root, membership, held.fd, Attachment(membership.endpoints, bridges))
    if membership.ports:
        from minidock.network.publish import resume_claim

        places.claim = resume_claim(membership.ports, held.sockets())
        places.attachment.has_ports = True
    return places


def _claim_ports(container: Container, places: Places) -> None:
    """Claim the host ports that are to be published; on an internal network there are none."""
    gateway = places.attachment.gateway
    host = container.config.host
    if gateway is None or not (host.get("PortBindings") or host.get("PublishAllPorts")):
        return
    from minidock.network.publish import claim_for

    places.claim = claim_for(container, gateway.addresses)
    places.membership.ports = [port.to_document() for port in places.claim.ports]
    places.attachment.has_ports = bool(places.claim.ports)


def own_names(container: Container, hostname: str, endpoints: Sequence[Endpoint]) -> list[str]:
    """The lines of a container's hosts file about itself."""
    domain = container.config.run_text("Domainname")
    return [line for one in endpoints for line in own_lines(one.addresses, hostname, domain)]


def tell_names(root: DataRoot, one: Endpoint, container_id: str, others: Sequence[Membership]) -> list[str]:
    """Put a newcomer's names into the others' files. Returns: their lines, for its own; none on the default network"""
    lines: list[str] = []
    for member in others:
        place = member.endpoint(one.network_id)
        if place is not None and place.names and member.container_id != container_id:
            lines += peer_lines(place.addresses, place.names)
            change_hosts(hosts_path(root, member.container_id), add=peer_lines(one.addresses, one.names))
    return lines


def place(
    container: Container,
    network: Network,
    asked: dict[str, Any],
    others: Sequence[Membership],
    number: int,
    hostname: str,
) -> Endpoint:
    """A new place on a network, with addresses that nobody has.

    Raises: UsageError when there is none, or the one asked for is not free
    """
    wished = asked.get("IPAMConfig")
    wished = wished if isinstance(wished, dict) else {}
    pool, pool6 = network.pool(), network.pool(ipv6=True)
    if pool is None:
        raise UsageError(f"network {network.name} has no IPv4 addresses")
    taken = [one for member in others for one in member.endpoints if one.network_id == network.id]
    address = _choose(pool, str(wished.get("IPv4Address") or ""), [one.address for one in taken])
    address6 = ""
    if pool6 is not None:
        address6 = _choose(pool6, str(wished.get("IPv6Address") or ""), [one.address6 for one in taken if one.address6])
    endpoint_id = random_hex64()
    # Only one network gets the hardware address that was asked for the container as a whole.
    mac = container.config.run_text("MacAddress") if number == 0 else ""
    return Endpoint(
        network=network.name,
        network_id=network.id,
        bridge=network.bridge,
        endpoint_id=endpoint_id,
        link=f"veth{endpoint_id[:7]}",
        interface=f"eth{number}",
        mac=mac or mac_of(address),
        address=address,
        prefix=pool.subnet.prefix,
        gateway="" if network.internal else pool.gateway,
        address6=address6,
        prefix6=pool6.subnet.prefix if pool6 is not None else 0,
        gateway6="" if pool6 is None or network.internal else pool6.gateway,
        mtu=network.mtu,
        names=[] if network.is_default else _names(container, asked, hostname),
        isolated=not network.has(ENABLE_ICC),
    )


def _names(container: Container, asked: dict[str, Any], hostname: str) -> list[str]:
    """What the others on a network may call a container: its name, its short ID, its aliases."""
    aliases = asked.get("Aliases")
    words = [container.name, *(aliases if isinstance(aliases, list) else ()), container.id[:12]]
    return list(dict.fromkeys(str(word) for word in words if word and not str(word).isspace()))


def _choose(pool: Pool, wished: str, taken: Sequence[str]) -> str:
    if wished:
        if not pool.subnet.holds(wished):
            raise UsageError(f"Invalid address {wished}: It does not belong to any of this network's subnets")
        if wished in taken or wished == pool.gateway:
            raise UsageError("Address already in use")
        return wished
    address = pool.subnet.free_address([*taken, pool.gateway], pool.ip_range)
    if not address:
        raise UsageError(f"no available IPv{6 if pool.is_ipv6 else 4} addresses on this network's address pools")
    return address


def rename_places(root: DataRoot, container_id: str, old: str, new: str) -> None:
    """Let the others on a running container's networks find it by its new name and no more by the old one."""
    with NetworkLock(root):
        others = reclaim_locked(root)
        member = next((each for each in others if each.container_id == container_id), None)
        if member is None:
            return
        for one in member.endpoints:
            if old in one.names:
                before = peer_lines(one.addresses, one.names)
                one.names = [new if name == old else name for name in one.names]
                for other in others:
                    if other is not member and other.endpoint(one.network_id) is not None:
                        after = peer_lines(one.addresses, one.names)
                        change_hosts(hosts_path(root, other.container_id), remove=before, add=after)
        root.endpoints.write(member)


def reclaim(root: DataRoot) -> None:
    """Give back what containers had that are dead; does nothing where no container has anything."""
    if root.writable and root.endpoints.ids():
        with NetworkLock(root):
            reclaim_locked(root)


def reclaim_locked(root: DataRoot) -> list[Membership]:
    """Give back what the dead had, and what is left of a connection cut short; the caller holds the NetworkLock.

    Returns: the living
    """
    members = root.endpoints.all()
    for member in members:
        # A process that has changed its user may outlive its monitor.
        member.is_live = member.is_live or _is_orphan(root, member.container_id)
        if not member.is_live:
            leave(root, member)
            for one in member.endpoints:
                remove_leftover(root, one)
            continue
        for one in [one for one in member.endpoints if one.is_passing]:
            drop_place(root, member, one)
    return [member for member in members if member.is_live]


def _is_orphan(root: DataRoot, container_id: str) -> bool:
    try:
        return root.containers.get(container_id).is_running()
    except MinidockError:
        return False


def drop_place(root: DataRoot, member: Membership, one: Endpoint) -> None:
    """Take one place away from a living container: its names from the others, its link, its record."""
    for other in root.endpoints.all():
        if other.container_id != member.container_id:
            forget_names(root, one, other)
    remove_leftover(root, one)
    member.endpoints.remove(one)
    root.endpoints.write(member)


def remove_leftover(root: DataRoot, one: Endpoint) -> None:
    """Remove the host's end of a pair, which goes by itself as soon as the container's network does."""
    if not find_index(one.link):
        return
    try:
        with Netlink() as link:
            change(root, link, remove_link(one.link))
    except SyscallError as error:
        # Gone meanwhile.
        if error.errno != 19:
            raise
