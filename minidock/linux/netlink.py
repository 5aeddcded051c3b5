"""A route netlink socket, and its messages as bytes: links, addresses, routes.

pyroute2 does the same and much more, but to import it takes as long as a whole start of a container. So what a start
needs is written here, a dozen messages, and a test holds their bytes against those of pyroute2.

A Request knows the `ip` line that does the same, for --explain and for errors; several may go in one call.
Source: netlink(7), rtnetlink(7); kernel include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,veth}.h
"""

from __future__ import annotations

import _socket
import os
import struct

from minidock.errors import SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

AF_NETLINK, AF_INET, AF_INET6 = 16, 2, 10
_SOCK_RAW, _SOCK_CLOEXEC = 3, 0o2000000
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
IFLA_NET_NS_PID, IFLA_IFALIAS = 19, 20
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
IFF_UP = 1
_IFA_F_NODAD = 2
_TABLE_MAIN, _PROTO_BOOT, _SCOPE_UNIVERSE, _UNICAST = 254, 3, 0, 1

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE_BYTES = 1 << 16
_ERRNO_NODEV = 19


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, filled up to four bytes."""
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _name(text: str) -> bytes:
    return text.encode("ascii") + b"\0"


def pack_address(text: str) -> bytes:
    """An address's 4 or 16 bytes; raises OSError for anything else."""
    return _socket.inet_pton(AF_INET6 if ":" in text else AF_INET, text)


def unpack_address(raw: bytes) -> str:
    """The text of 4 or 16 bytes."""
    return _socket.inet_ntop(AF_INET6 if len(raw) == 16 else AF_INET, raw)


class Request:
    """One change. Shape: text: the `ip` line that does the same; body: what follows the message's header"""

    __slots__ = ("body", "flags", "kind", "text")

    def __init__(self, text: str, kind: int, flags: int, body: bytes) -> None:
        self.text = text
        self.kind = kind
        self.flags = NLM_F_REQUEST | NLM_F_ACK | flags
        self.body = body

    def encode(self, sequence: int) -> bytes:
        """The message's bytes."""
        return _HEADER.pack(16 + len(self.body), self.kind, self.flags, sequence, 0) + self.body


class Netlink:
    """A socket in the network namespace that the process is in now; a context manager.

    Raises: SyscallError from every method, with the text of the request that the kernel refused
    """

    __slots__ = ("_sequence", "_socket")

    def __init__(self) -> None:
        try:
            self._socket = _socket.socket(AF_NETLINK, _SOCK_RAW | _SOCK_CLOEXEC, 0)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        except OSError as error:
            raise SyscallError("socket(AF_NETLINK)", error.errno or 0) from None
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def change(self, *requests: Request) -> None:
        """Have the kernel make these changes, in one call and in order; the first that it refuses is raised.

        Shape: those after a refused one are tried all the same, as the kernel goes through what it was sent
        """
        first = self._sequence + 1
        self._send(b"".join(request.encode(first + number) for number, request in enumerate(requests)))
        self._sequence += len(requests)
        failed: SyscallError | None = None
        waiting = len(requests)
        while waiting:
            for sequence, kind, body in self._receive():
                if kind == _NLMSG_ERROR and first <= sequence <= self._sequence:
                    waiting -= 1
                    number = -int.from_bytes(body[:4], "little", signed=True)
                    if number and failed is None:
                        failed = SyscallError(requests[sequence - first].text, number)
        if failed is not None:
            raise failed

    def ask(self, what: str, kind: int, body: bytes, *, many: bool = False) -> list[bytes]:
        """The bodies of the kernel's answers to one question; what: the question as an `ip` line."""
        self._sequence += 1
        flags = NLM_F_REQUEST | (NLM_F_DUMP if many else NLM_F_ACK)
        self._send(_HEADER.pack(16 + len(body), kind, flags, self._sequence, 0) + body)
        answers: list[bytes] = []
        while True:
            for sequence, answer, payload in self._receive():
                if sequence != self._sequence:
                    continue
                if answer == _NLMSG_DONE:
                    return answers
                if answer == _NLMSG_ERROR:
                    number = -int.from_bytes(payload[:4], "little", signed=True)
                    if number:
                        raise SyscallError(what, number)
                    return answers
                answers.append(payload)

    def link_index(self, name: str) -> int:
        """The number of a link, 0 when there is none of this name."""
        link = self.link(name)
        return 0 if link is None else link[0]

    def link(self, name: str) -> tuple[int, dict[int, bytes]] | None:
        """Number and attributes of a link, None when there is none of this name."""
        body = _LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, _name(name))
        try:
            found = self.ask(f"ip link show {name}", RTM_GETLINK, body)
        except SyscallError as error:
            if error.errno == _ERRNO_NODEV:
                return None
            raise
        return _link_of(found[0]) if found else None

    def links(self) -> list[tuple[int, dict[int, bytes]]]:
        """Number and attributes of every link."""
        return [_link_of(body) for body in self.ask("ip link", RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0), many=True)]

    def addresses(self) -> list[tuple[int, str, int]]:
        """(link number, address, prefix length) of every address."""
        found = []
        for body in self.ask("ip address", RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0), many=True):
            _, prefix, _, _, index = _ADDRESS.unpack_from(body)
            values = dict(attributes(body[8:]))
            raw = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
            if raw:
                found.append((index, unpack_address(raw), prefix))
        return found

    def routes(self) -> list[tuple[str, int]]:
        """(address, prefix length) of every route of the main table but the default ones."""
        found = []
        for body in self.ask("ip route", RTM_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0), many=True):
            _, prefix, _, _, table, _, _, _, _ = _ROUTE.unpack_from(body)
            raw = dict(attributes(body[12:])).get(_RTA_DST)
            if raw and prefix and table == _TABLE_MAIN:
                found.append((unpack_address(raw), prefix))
        return found

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise SyscallError("send(AF_NETLINK)", error.errno or 0) from None

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except OSError as error:
            raise SyscallError("recv(AF_NETLINK)", error.errno or 0) from None
        while len(data) >= 16:
            length, kind, _, sequence, _ = _HEADER.unpack_from(data)
            yield sequence, kind, data[16:length]
            data = data[max(16, (length + 3) & ~3) :]


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes that follow a message's fixed part."""
    while len(data) >= 4:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < 4:
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


def _link_of(body: bytes) -> tuple[int, dict[int, bytes]]:
    return _LINK.unpack_from(body)[2], dict(attributes(body[16:]))


def kind_of(values: dict[int, bytes]) -> str:
    """What kind of link these attributes are of: bridge, veth, or nothing for a device."""
    return dict(attributes(values.get(IFLA_LINKINFO, b""))).get(_INFO_KIND, b"").rstrip(b"\0").decode("ascii")


def text_of(values: dict[int, bytes], kind: int) -> str:
    """A text attribute; empty when it is missing."""
    return os.fsdecode(values.get(kind, b"").rstrip(b"\0"))


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def make_bridge(name: str, mac: str) -> Request:
    """A bridge with a hardware address of its own, which no port's replaces."""
    body = _LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, _name(name)) + attribute(IFLA_ADDRESS, _mac(mac))
    body += attribute(IFLA_LINKINFO, attribute(_INFO_KIND, b"bridge\0"))
    text = f"ip link add {name} address {mac} type bridge"
    return Request(text, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def make_veth(name: str, bridge: str, bridge_index: int, peer: str, peer_mac: str, pid: int, mtu: int = 0) -> Request:
    """A pair of links: one up and on the bridge, the other inside the process's network, where it is born."""
    size = attribute(IFLA_MTU, mtu.to_bytes(4, "little")) if mtu else b""
    inner = _LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, _name(peer)) + attribute(IFLA_ADDRESS, _mac(peer_mac))
    inner += attribute(IFLA_NET_NS_PID, pid.to_bytes(4, "little")) + size
    body = _LINK.pack(0, 0, 0, IFF_UP, IFF_UP) + attribute(IFLA_IFNAME, _name(name)) + size
    body += attribute(IFLA_MASTER, bridge_index.to_bytes(4, "little"))
    info = attribute(_INFO_KIND, b"veth\0") + attribute(_INFO_DATA, attribute(_VETH_PEER, inner))
    body += attribute(IFLA_LINKINFO, info)
    words = f" mtu {mtu}" if mtu else ""
    text = (
        f"ip link add {name} up master {bridge}{words} type veth peer name {peer} address {peer_mac}{words} netns {pid}"
    )
    return Request(text, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def raise_link(name: str, index: int) -> Request:
    """Bring a link up."""
    return Request(f"ip link set {name} up", RTM_NEWLINK, 0, _LINK.pack(0, 0, index, IFF_UP, IFF_UP))


def set_mtu(name: str, index: int, mtu: int) -> Request:
    """The largest packet; said of a bridge that is there, it holds whatever its ports have."""
    body = _LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_MTU, mtu.to_bytes(4, "little"))
    return Request(f"ip link set {name} mtu {mtu}", RTM_NEWLINK, 0, body)


def set_alias(name: str, index: int, alias: str) -> Request:
    """Say of a link what it is for, up to 255 bytes."""
    body = _LINK.pack(0, 0, index, 0, 0) + attribute(IFLA_IFALIAS, os.fsencode(alias)[:255])
    return Request(f"ip link set {name} alias {alias!r}", RTM_NEWLINK, 0, body)


def set_port(name: str, *, hairpin: bool = False, isolated: bool = False) -> Request:
    """Set up a bridge's port: it may send back what came in by it, it is kept from the other isolated ones."""
    # linux/if_link.h: IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA; IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED
    values = (attribute(4, b"\1") if hairpin else b"") + (attribute(33, b"\1") if isolated else b"")
    slave = attribute(4, b"bridge\0") + attribute(5, values)
    body = _LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, _name(name)) + attribute(IFLA_LINKINFO, slave)
    words = " hairpin on" * hairpin + " isolated on" * isolated
    return Request(f"ip link set {name} type bridge_slave{words}", RTM_NEWLINK, 0, body)


def remove_link(name: str) -> Request:
    """Remove a link; one of a pair takes the other along."""
    body = _LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, _name(name))
    return Request(f"ip link delete {name}", RTM_DELLINK, 0, body)


def add_address(name: str, index: int, address: str, prefix: int) -> Request:
    """Give a link an address, IPv6 without waiting for others that might have it."""
    raw = pack_address(address)
    if len(raw) == 16:
        body = _ADDRESS.pack(AF_INET6, prefix, _IFA_F_NODAD, 0, index)
        body += attribute(_IFA_LOCAL, raw) + attribute(_IFA_ADDRESS, raw)
        text = f"ip -6 address add {address}/{prefix} dev {name} nodad"
    else:
        host_bits = (1 << (32 - prefix)) - 1
        body = _ADDRESS.pack(AF_INET, prefix, 0, 0, index) + attribute(_IFA_LOCAL, raw) + attribute(_IFA_ADDRESS, raw)
        text = f"ip address add {address}/{prefix} dev {name}"
        if prefix < 31:
            broadcast = (int.from_bytes(raw, "big") | host_bits).to_bytes(4, "big")
            body += attribute(_IFA_BROADCAST, broadcast)
            text = f"ip address add {address}/{prefix} broadcast {unpack_address(broadcast)} dev {name}"
    return Request(text, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def _default_route(gateway: str, name: str, index: int) -> tuple[str, bytes]:
    raw = pack_address(gateway)
    family = AF_INET6 if len(raw) == 16 else AF_INET
    body = _ROUTE.pack(family, 0, 0, 0, _TABLE_MAIN, _PROTO_BOOT, _SCOPE_UNIVERSE, _UNICAST, 0)
    body += attribute(_RTA_GATEWAY, raw) + attribute(_RTA_OIF, index.to_bytes(4, "little"))
    return f"{'-6 ' if family == AF_INET6 else ''}route {{}} default via {gateway} dev {name}", body


def add_default_route(gateway: str, name: str, index: int) -> Request:
    """The way out."""
    words, body = _default_route(gateway, name, index)
    return Request("ip " + words.format("add"), RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body)


def remove_default_route(gateway: str, name: str, index: int) -> Request:
    """Close the way out."""
    words, body = _default_route(gateway, name, index)
    return Request("ip " + words.format("delete"), RTM_DELROUTE, 0, body)
