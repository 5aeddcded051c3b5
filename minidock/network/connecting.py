"""A running container is connected to one more network, or taken off one.

The place is put on record as passing before the kernel is asked for anything, and as whole, or away, after. All of it
happens under the NetworkLock, so who has the lock and finds a passing place knows that a kill came in between, and
takes the rest of it away; see joining.reclaim_locked.
"""

from __future__ import annotations

import os

from minidock.errors import Conflict, ContainerNotRunning, SyscallError, UsageError
from minidock.linux import netlink
from minidock.linux.namespaces import CLONE_NEWNET, set_namespaces
from minidock.linux.netlink import Netlink
from minidock.network.attachment import gateway_endpoint
from minidock.network.bridge import change, ensure_bridge
from minidock.network.hostfiles import change_hosts, peer_lines
from minidock.network.inside import ConfigureLink
from minidock.network.joining import (
    drop_place,
    own_names,
    place,
    reclaim_locked,
    tell_names,
)
from minidock.network.leaving import hosts_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from minidock.store.containers import Container
    from minidock.store.endpoints import Endpoint, Membership
    from minidock.store.networks import Network
    from minidock.store.root import DataRoot


class _Inside:
    """In another process's network for the length of a `with` block; the caller has one thread."""

    __slots__ = ("_own", "_pidfd")

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd
        self._own = -1

    def __enter__(self) -> Netlink:
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            set_namespaces(self._pidfd, CLONE_NEWNET)
            return Netlink()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        set_namespaces(self._own, CLONE_NEWNET)
        os.close(self._own)


def connect_running(container: Container, network: Network, asked: dict[str, Any], hostname: str) -> None:
    """Plug a running container into a network; the caller holds the NetworkLock.

    Raises: Conflict when it is there already; UsageError, SyscallError, and then it is as it was
    """
    root = container.root
    others = reclaim_locked(root)
    member, pidfd = _hold(container)
    try:
        if member.endpoint(network.id) is not None:
            raise Conflict(f"endpoint with name {container.name} already exists in network {network.name}")
        numbers = {one.interface for one in member.endpoints}
        number = next(number for number in range(len(numbers) + 1) if f"eth{number}" not in numbers)
        with Netlink() as link:
            index = ensure_bridge(root, network, link)
            one = place(container, network, asked, others, number, hostname)
            one.is_passing = True
            before = list(member.endpoints)
            member.endpoints.append(one)
            root.endpoints.write(member)
            try:
                pair = netlink.make_veth(
                    one.link, one.bridge, index, one.interface, one.mac, container.state.pid, one.mtu
                )
                change(root, link, pair)
                if one.isolated:
                    change(root, link, netlink.set_port(one.link, isolated=True))
                with _Inside(pidfd) as inside:
                    _configure(root, inside, one, before, member.endpoints)
            except BaseException:
                drop_place(root, member, one)
                raise
        lines = own_names(container, hostname, [one]) + tell_names(root, one, container.id, others)
        change_hosts(hosts_path(root, container.id), add=lines)
        one.is_passing = False
        root.endpoints.write(member)
        _move_ports(root, member, before)
    finally:
        os.close(pidfd)


def disconnect_running(container: Container, network: Network, hostname: str) -> None:
    """Unplug a running container; the caller holds the NetworkLock and knows that it is there."""
    root = container.root
    others = reclaim_locked(root)
    member, pidfd = _hold(container)
    try:
        one = member.endpoint(network.id)
        if one is None:
            return
        one.is_passing = True
        root.endpoints.write(member)
        before = list(member.endpoints)
        lines = own_names(container, hostname, [one])
        for other in others:
            shared = other.endpoint(network.id)
            if shared is not None and other.container_id != container.id:
                lines += peer_lines(shared.addresses, shared.names)
        change_hosts(hosts_path(root, container.id), remove=lines)
        drop_place(root, member, one)
        with _Inside(pidfd) as inside:
            _lead_out(root, inside, [each for each in before if each is not one], before)
        _move_ports(root, member, before)
    finally:
        os.close(pidfd)


def _move_ports(root: DataRoot, member: Membership, before: list[Endpoint]) -> None:
    """Let the published ports lead to the network that the way out leads through. Source: moby libnetwork, sbJoin"""
    new = gateway_endpoint(member.endpoints)
    if not member.ports or new is gateway_endpoint(before):
        return
    from minidock.formats.portspec import PublishedPort
    from minidock.network.publish import publish, unpublish

    if new is None:
        unpublish(member.container_id, trace=root.trace)
        return
    ports = [PublishedPort.from_document(one) for one in member.ports]
    with Netlink() as link:
        change(root, link, netlink.set_port(new.link, hairpin=True, isolated=new.isolated))
    # One of an IPv6 address leads nowhere while the container has none.
    kept = [port for port in ports if new.address6 or ":" not in port.host_ip]
    publish(member.container_id, new.bridge, new.addresses, kept, trace=root.trace)


def _hold(container: Container) -> tuple[Membership, int]:
    from minidock.runtime.attach import open_process

    state = container.state
    pidfd = open_process(state.pid, state.start_time)
    if pidfd < 0:
        raise ContainerNotRunning(f"Container {container.id} is not running")
    member = container.root.endpoints.get(container.id)
    if member is None:
        os.close(pidfd)
        raise UsageError(f"container {container.name} has no place on record", hint="start it anew")
    return member, pidfd


def _configure(root: DataRoot, inside: Netlink, one: Endpoint, before: list[Endpoint], after: list[Endpoint]) -> None:
    """Set up a new link, from within the container's network."""
    index = inside.link_index(one.interface)
    if not one.address6:
        path = f"/proc/sys/net/ipv6/conf/{one.interface}/disable_ipv6"
        if os.path.exists(path):
            root.tell("write", f"echo 1 > {path}")
            with open(path, "wb", buffering=0) as file:
                file.write(b"1")
    change(root, inside, *ConfigureLink(one, is_gateway=False, is_gateway6=False).requests(index))
    _lead_out(root, inside, after, before)


def _lead_out(root: DataRoot, inside: Netlink, after: list[Endpoint], before: list[Endpoint]) -> None:
    """Let the way out lead through the right one of a container's networks."""
    for ipv6 in (False, True):
        old, new = gateway_endpoint(before, ipv6=ipv6), gateway_endpoint(after, ipv6=ipv6)
        if old is new:
            continue
        for endpoint, make in ((old, netlink.remove_default_route), (new, netlink.add_default_route)):
            if endpoint is None:
                continue
            index = inside.link_index(endpoint.interface)
            gateway = endpoint.gateway6 if ipv6 else endpoint.gateway
            try:
                change(root, inside, make(gateway, endpoint.interface, index))
            except SyscallError as error:
                # The old way went with its link.
                if endpoint is new or error.errno not in (3, 19):
                    raise
