"""Published ports: the host's ports claimed before a start, and the rules that lead them into a container.

A claim is a bound socket for each port, kept by the container's monitor to its end, as docker-proxy keeps one: no
other program and no other container gets the port meanwhile, and when the monitor dies the kernel gives it back. The
sockets take no connections; the rules redirect these before any socket is asked.

The port's owner is therefore whoever holds its socket. Rules of a port that could be claimed belong to a container
whose monitor was killed, and publish replaces them.
"""

from __future__ import annotations

import _socket
import errno

from minidock.errors import Conflict, SyscallError, UsageError
from minidock.formats.portspec import PortRequest, PublishedPort, requests_of
from minidock.linux import nftables as nft
from minidock.network import firewall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from minidock.linux.nfnetlink import Message, Nftables
    from minidock.store.containers import Container
    from minidock.trace import Trace

__all__ = ("Claim", "PortRequest", "PublishedPort", "claim", "publish", "published", "unpublish")

_KINDS = {
    "tcp": (_socket.SOCK_STREAM, 6),
    "udp": (_socket.SOCK_DGRAM, 17),
    "sctp": (_socket.SOCK_STREAM, 132),
}
_SOCK_CLOEXEC = 0o2000000
_IPV6_V6ONLY = 26
_LAST_PORT = 65535
# Of a kernel that lacks the protocol or the family: nobody else can bind such a port either.
_LACKING = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)


class Claim:
    """Host ports that nobody else can have until close. Shape: ports in the order of the requests"""

    __slots__ = ("_sockets", "ports")

    def __init__(self) -> None:
        self.ports: list[PublishedPort] = []
        self._sockets: list[_socket.socket] = []

    def descriptors(self) -> list[int]:
        """The sockets, for a process that is to keep them."""
        return [one.fileno() for one in self._sockets]

    def take(self, descriptors: Sequence[int]) -> None:
        """Keep sockets that are bound already."""
        self._sockets += [_socket.socket(fileno=fd) for fd in descriptors]

    def close(self) -> None:
        """Give the ports back, as far as this process holds them."""
        for one in self._sockets:
            one.close()
        self._sockets.clear()

    def add(self, protocol: str, host_ip: str, port: int) -> None:
        """Bind one port at every address that host_ip stands for; raises OSError and keeps none of them then."""
        made = []
        try:
            for address in (host_ip,) if host_ip else ("0.0.0.0", "::"):
                try:
                    made.append(_bound(protocol, address, port))
                except OSError as error:
                    # A host without IPv6, by its kernel or by disable_ipv6, has nothing to claim there.
                    without_ipv6 = not host_ip and address == "::" and error.errno == errno.EADDRNOTAVAIL
                    if error.errno not in _LACKING and not without_ipv6:
                        raise
        except OSError:
            for one in made:
                one.close()
            raise
        self._sockets += made


def _bound(protocol: str, address: str, port: int) -> _socket.socket:
    """A socket that holds the port and answers nobody."""
    kind, number = _KINDS[protocol]
    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    made = _socket.socket(family, kind | _SOCK_CLOEXEC, number)
    try:
        if family == _socket.AF_INET6:
            made.setsockopt(_socket.IPPROTO_IPV6, _IPV6_V6ONLY, 1)
        if protocol != "tcp":
            made.bind((address, port))
            return made
        # The ends of old connections, in TIME_WAIT for a minute, must not keep the port; only who listens does. To
        # listen settles that, and without SO_REUSEADDR afterwards nobody else can bind what has been bound here.
        made.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen(0)
        made.shutdown(_socket.SHUT_RD)
        made.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 0)
    except OSError:
        made.close()
        raise
    return made


def claim(requests: Sequence[PortRequest], *, endpoint: str = "") -> Claim:
    """Claim a host port for each request, or none.

    Shape:   endpoint: the container's name, for errors
    Raises:  Conflict when a port is in use, UsageError when an address is not the host's; in docker's words
    """
    made = Claim()
    where = f"driver failed programming external connectivity on endpoint {endpoint}: " if endpoint else ""
    try:
        for request in requests:
            port = _claim_one(made, request, where)
            made.ports.append(PublishedPort(request.protocol, request.host_ip, port, request.container_port))
    except BaseException:
        made.close()
        raise
    return made


def _claim_one(made: Claim, request: PortRequest, where: str) -> int:
    first, last = request.first_port, request.last_port
    if not first:
        first, last = _ephemeral_range()
    for port in range(first, last + 1):
        try:
            made.add(request.protocol, request.host_ip, port)
            return port
        except OSError as error:
            shown = f"{request.host_ip or '0.0.0.0'}:{port}"
            if error.errno != errno.EADDRINUSE:
                reason = error.strerror.lower() if error.strerror else str(error)
                raise UsageError(f"{where}listen {request.protocol} {shown}: bind: {reason}") from None
            if first == last:
                raise Conflict(
                    f"{where}Bind for {shown} failed: port is already allocated", hint=_user_of(port)
                ) from None
    raise Conflict(f"{where}Bind for {request.host_ip or '0.0.0.0'} failed: all ports are allocated")


def _user_of(port: int) -> str:
    """Which container has a port, as a hint."""
    number = port.to_bytes(2, "big") + bytes(2)
    try:
        for owner, element in _all_elements():
            if element.key.endswith(number):
                return f"by container {owner[:12]}"
    except SyscallError:
        return ""
    return "by another program; ss -lntup tells which"


def _ephemeral_range() -> tuple[int, int]:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", "rb") as file:
            first, last = map(int, file.read().split())
    except (OSError, ValueError):
        return 49153, _LAST_PORT
    return first, last


def claim_for(container: Container, addresses: tuple[str, ...]) -> Claim:
    """Claim what a container's records ask to publish.

    Shape:  addresses: the container's, to which the ports are to lead
    Raises: as claim; UsageError too when it has no address of a port's family
    """
    bindings = container.config.host.get("PortBindings")
    exposed = container.config.run.get("ExposedPorts")
    if not isinstance(bindings, dict | None) or not isinstance(exposed, dict | None):
        raise UsageError(f"container {container.name}: its records about ports are damaged")
    requests = requests_of(bindings, exposed, publish_all=container.config.host_flag("PublishAllPorts"))
    made = claim(requests, endpoint=container.name)
    try:
        _elements_for(container.id, addresses, made.ports)
    except BaseException:
        made.close()
        raise
    return made


def resume_claim(documents: Sequence[list[Any]], descriptors: Sequence[int]) -> Claim:
    """A claim from what is on record of its ports, and the sockets that hold them; raises FormatError."""
    made = Claim()
    made.ports = [PublishedPort.from_document(document) for document in documents]
    made.take(descriptors)
    return made


def publish(
    container_id: str,
    bridge: str,
    addresses: tuple[str, ...],
    ports: Sequence[PublishedPort],
    *,
    trace: Trace | None = None,
) -> None:
    """Lead claimed ports into a container, in place of what was published for it before.

    Shape:   bridge: of a network with rules, see firewall.ensure_network; addresses: the container's there
    Raises:  UsageError when it has no address of a port's family, Conflict, SyscallError
    """
    wanted = _elements_for(container_id, addresses, ports)
    if any(_is_for_loopback(port.host_ip) for port in ports):
        # Safe by the firewall's loopback_guard, which is there before.
        _let_loopback_route(bridge, trace)

    def plan(socket: Nftables) -> Sequence[Message]:
        deletions: list[Message] = []
        additions: list[Message] = []
        for found_in in firewall.PORT_MAPS:
            mine = [one for one in wanted if one.set is found_in]
            keys = {one.key for one in mine}
            present = firewall.elements(socket, found_in)
            old = [one for one in present if one.key in keys or firewall.owner_of(one) == container_id]
            deletions += nft.delete_elements(old)
            additions += nft.add_elements(mine)
        return deletions + additions

    firewall.change(plan, trace=trace)


def unpublish(container_id: str, *, trace: Trace | None = None) -> None:
    """Remove the rules of a container's ports, if there are any. Raises: SyscallError"""

    def plan(socket: Nftables) -> Sequence[Message]:
        maps = [firewall.elements(socket, found_in) for found_in in firewall.PORT_MAPS]
        mine = [[one for one in found if firewall.owner_of(one) == container_id] for found in maps]
        return [message for some in mine for message in nft.delete_elements(some)]

    firewall.change(plan, trace=trace)


def published() -> set[str]:
    """The IDs of the containers that have ports published. Raises: SyscallError"""
    return {owner for owner, _ in _all_elements()}


def _all_elements() -> list[tuple[str, nft.Element]]:
    from minidock.linux.nfnetlink import Nftables

    with Nftables() as socket:
        maps = [firewall.elements(socket, found_in) for found_in in firewall.PORT_MAPS]
    return [(firewall.owner_of(one), one) for found in maps for one in found]


def _elements_for(container_id: str, addresses: Sequence[str], ports: Sequence[PublishedPort]) -> list[nft.Element]:
    plain = [address.partition("/")[0] for address in addresses]
    ipv4 = next((one for one in plain if ":" not in one), "")
    ipv6 = next((one for one in plain if ":" in one), "")
    found: dict[tuple[str, bytes], nft.Element] = {}
    for port in ports:
        is_ipv6 = ":" in port.host_ip
        if port.host_ip and not (ipv6 if is_ipv6 else ipv4):
            family = "IPv6" if is_ipv6 else "IPv4"
            raise UsageError(f"{port.host_ip}:{port.host_port}: the container has no {family} address")
        key, target = (port.protocol, str(port.host_port)), str(port.container_port)
        made = []
        if port.host_ip in ("", "0.0.0.0") and ipv4:
            made.append(firewall.PORTS4.element(key, (ipv4, target), container_id))
        if port.host_ip in ("", "::") and ipv6:
            made.append(firewall.PORTS6.element(key, (ipv6, target), container_id))
        if port.host_ip not in ("", "0.0.0.0", "::"):
            map_, address = (firewall.ADDRESS_PORTS6, ipv6) if is_ipv6 else (firewall.ADDRESS_PORTS4, ipv4)
            made.append(map_.element((port.host_ip, *key), (address, target), container_id))
        for one in made:
            if (one.set.name, one.key) in found:
                shown = f"{port.host_ip or '0.0.0.0'}:{port.host_port}"
                raise Conflict(f"Bind for {shown} failed: port is already allocated")
            found[one.set.name, one.key] = one
    return list(found.values())


def _is_for_loopback(host_ip: str) -> bool:
    return host_ip in ("", "0.0.0.0") or host_ip.startswith("127.")


def _let_loopback_route(bridge: str, trace: Trace | None) -> None:
    path = f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet"
    try:
        with open(path, "rb", buffering=0) as file:
            if file.read(1) == b"1":
                return
        if trace is not None:
            trace("network", f"sysctl -w net.ipv4.conf.{bridge}.route_localnet=1")
        with open(path, "wb", buffering=0) as file:
            file.write(b"1\n")
    except OSError as error:
        raise SyscallError(f"write({path})", error.errno or 0) from None
