"""nftables' rules as messages, each with the `nft` line that makes the same.

A rule is a list of clauses; a clause knows its words and the expressions of nftables' small machine that they stand
for: load a field of the packet into a register, compare, look up, act. Registers follow one another: the first field
of a lookup goes to register 1 and each further one right behind the one before, where the set's key has it.

Source: nft(8); kernel include/uapi/linux/netfilter/nf_tables.h; `nft --debug=netlink` shows the same expressions
"""

from __future__ import annotations

from minidock.linux.nfnetlink import NLM_F_APPEND, NLM_F_CREATE, Message, attribute, nested, number, text_attribute
from minidock.linux.nftables import (
    IFNAME,
    INET_PROTO,
    INET_SERVICE,
    IPV4,
    IPV4_ADDR,
    IPV6,
    IPV6_ADDR,
    LIST_ELEMENT,
    NF_PROTO,
    VERDICTS,
    Datatype,
    NftSet,
    padded_bytes,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_NEW_RULE = 6
_EQ, _NEQ = 0, 1
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_META_IIFNAME, _META_OIFNAME, _META_NFPROTO, _META_L4PROTO = 6, 7, 15, 16
_CT_STATE, _CT_STATUS = 0, 2


class Clause:
    """A part of a rule. Shape: words as one types them; expressions: encoded"""

    __slots__ = ("expressions", "words")

    def __init__(self, words: str, *expressions: bytes) -> None:
        self.words = words
        self.expressions = expressions


def add_rule(table: str, chain: str, *clauses: Clause) -> Message:
    """Append a rule to a chain."""
    expressions = b"".join(one for clause in clauses for one in clause.expressions)
    body = text_attribute(1, table) + text_attribute(2, chain) + nested(4, expressions)
    text = f"nft add rule inet {table} {chain} {' '.join(clause.words for clause in clauses)}"
    return Message(text.replace('"lo"', "lo"), _NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, body)


class Field:
    """Something of a packet that can be looked up. Shape: family: the only nfproto that has it, 0 for any"""

    __slots__ = ("family", "kind", "load", "words")

    def __init__(self, words: str, kind: Datatype, load: tuple[int, ...], family: int = 0) -> None:
        self.words = words
        self.kind = kind
        self.load = load
        self.family = family

    def encode(self, register: int) -> bytes:
        """The expression that loads it into a register."""
        if len(self.load) == 1:
            return _expression("meta", number(1, register), number(2, self.load[0]))
        base, offset = self.load
        return _payload(register, base, offset, self.kind.length_bytes)


IIFNAME_FIELD = Field("iifname", IFNAME, (_META_IIFNAME,))
OIFNAME_FIELD = Field("oifname", IFNAME, (_META_OIFNAME,))
NFPROTO_FIELD = Field("meta nfproto", NF_PROTO, (_META_NFPROTO,))
L4PROTO_FIELD = Field("meta l4proto", INET_PROTO, (_META_L4PROTO,))
PORT_FIELD = Field("th dport", INET_SERVICE, (_TRANSPORT_HEADER, 2))
IP_SADDR_FIELD = Field("ip saddr", IPV4_ADDR, (_NETWORK_HEADER, 12), IPV4)
IP6_SADDR_FIELD = Field("ip6 saddr", IPV6_ADDR, (_NETWORK_HEADER, 8), IPV6)
IP_DADDR_FIELD = Field("ip daddr", IPV4_ADDR, (_NETWORK_HEADER, 16), IPV4)
IP6_DADDR_FIELD = Field("ip6 daddr", IPV6_ADDR, (_NETWORK_HEADER, 24), IPV6)


def is_in(fields: Sequence[Field], found_in: NftSet) -> Clause:
    """The fields together are an element of the set."""
    loads, words = _load_key(fields)
    return Clause(
        f"{words} @{found_in.name}", *loads, _expression("lookup", text_attribute(1, found_in.name), number(2, 1))
    )


def dnat_by(fields: Sequence[Field], found_in: NftSet) -> Clause:
    """Send the connection to the address and port that the map has for the fields."""
    is_ipv6 = found_in.data[0] is IPV6_ADDR
    loads, words = _load_key(fields)
    lookup = _expression("lookup", text_attribute(1, found_in.name), number(2, 1), number(3, 1))
    nat = _expression(
        "nat",
        number(1, 1),
        number(2, IPV6 if is_ipv6 else IPV4),
        number(3, _register(0)),
        number(5, _register(found_in.data[0].length_bytes)),
    )
    return Clause(f"dnat {'ip6' if is_ipv6 else 'ip'} to {words} map @{found_in.name}", *loads, lookup, nat)


def to_loopback() -> Clause:
    """The packet is for an address of 127.0.0.0/8."""
    return Clause(
        "ip daddr 127.0.0.0/8", *_family_is(IPV4), _payload(1, _NETWORK_HEADER, 16, 1), _compare(_EQ, b"\x7f")
    )


def from_loopback() -> Clause:
    """The packet is from an address of 127.0.0.0/8."""
    return Clause(
        "ip saddr 127.0.0.0/8", *_family_is(IPV4), _payload(1, _NETWORK_HEADER, 12, 1), _compare(_EQ, b"\x7f")
    )


def not_from(link: str) -> Clause:
    """The packet came in by another link."""
    return Clause(f'iifname != "{link}"', IIFNAME_FIELD.encode(1), _compare(_NEQ, IFNAME.pack(link)))


def to_this_host() -> Clause:
    """The packet is for one of the host's own addresses."""
    # NFT_FIB_RESULT_ADDRTYPE of the destination is RTN_LOCAL, a number in the machine's own byte order.
    load = _expression("fib", number(1, 1), number(2, 3), number(3, 2))
    return Clause("fib daddr type local", load, _compare(_EQ, (2).to_bytes(4, "little")))


def is_redirected() -> Clause:
    """The connection's destination was translated: it is to a published port."""
    return Clause("ct status dnat", *_conntrack_bit(_CT_STATUS, 1 << 5))


def is_answer() -> Clause:
    """The packet belongs to a connection that has been let through before, or is about one."""
    return Clause("ct state established,related", *_conntrack_bit(_CT_STATE, 1 << 1 | 1 << 2))


def verdict(word: str, chain: str = "") -> Clause:
    """The end of a rule: accept, drop, return, or jump to a chain."""
    code = number(1, VERDICTS[word]) + (text_attribute(2, chain) if chain else b"")
    return Clause(f"{word} {chain}".rstrip(), _expression("immediate", number(1, 0), nested(2, nested(2, code))))


def masquerade() -> Clause:
    """Give the packet the address of the link by which it leaves."""
    return Clause("masquerade", _expression("masq"))


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(LIST_ELEMENT, text_attribute(1, name), nested(2, *parts))


def _payload(register: int, base: int, offset: int, length: int) -> bytes:
    return _expression("payload", number(1, register), number(2, base), number(3, offset), number(4, length))


def _compare(operator: int, value: bytes) -> bytes:
    return _expression("cmp", number(1, 1), number(2, operator), nested(3, attribute(1, value)))


def _family_is(family: int) -> tuple[bytes, ...]:
    return (NFPROTO_FIELD.encode(1), _compare(_EQ, bytes((family,)))) if family else ()


def _conntrack_bit(key: int, bits: int) -> tuple[bytes, ...]:
    mask, none = nested(4, attribute(1, bits.to_bytes(4, "little"))), nested(5, attribute(1, bytes(4)))
    return (
        _expression("ct", number(1, 1), number(2, key)),
        _expression("bitwise", number(1, 1), number(2, 1), number(3, 4), mask, none),
        _compare(_NEQ, bytes(4)),
    )


def _load_key(fields: Sequence[Field]) -> tuple[list[bytes], str]:
    loads = [one for field in fields for one in _family_is(field.family)]
    offset = 0
    for field in fields:
        loads.append(field.encode(_register(offset)))
        offset += padded_bytes(field.kind)
    return loads, " . ".join(field.words for field in fields)


def _register(offset: int) -> int:
    """The number of the register that is so many bytes behind the first: of 16 bytes from 1 on, of 4 from 8 on."""
    return 1 + offset // 16 if offset % 16 == 0 else 8 + offset // 4
