"""nftables' tables, chains, rules, sets and elements as messages, each with the `nft` line that makes the same.

A rule is a list of clauses; a clause knows its words and the expressions of nftables' small machine that they stand
for: load a field of the packet into a register, compare, look up, act. Registers follow one another: the first field
of a lookup goes to register 1 and each further one right behind the one before, where the set's key has it.

Source: nft(8); kernel include/uapi/linux/netfilter/nf_tables.h; `nft --debug=netlink` shows the same expressions
"""

from __future__ import annotations

import _socket

from minidock.linux.nfnetlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    attribute,
    attributes,
    nested,
    number,
    text_attribute,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_NEW_TABLE, _DEL_TABLE = 0, 2
_NEW_CHAIN = 3
_NEW_RULE, _DEL_RULE = 6, 8
_NEW_SET = 9
_NEW_ELEMENTS, _DEL_ELEMENTS = 12, 14
GET_CHAIN = 4
GET_ELEMENTS = 13

HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
# The priorities that nft has names for in every family but bridge.
PRIORITIES = {"raw": -300, "dstnat": -100, "filter": 0, "srcnat": 100}

_SET_IS_MAP = 8
_ELEMENTS_IN_A_MESSAGE = 256
_LIST_ELEMENT = 1
_COMMENT = 0
_VERDICTS = {"drop": 0, "accept": 1, "jump": -3, "return": -5}
_EQ, _NEQ = 0, 1
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_META_IIFNAME, _META_OIFNAME, _META_NFPROTO, _META_L4PROTO = 6, 7, 15, 16
_CT_STATE, _CT_STATUS = 0, 2
_IPV4, _IPV6 = 2, 10


class Datatype:
    """A type of set keys and map values. Shape: number as nft(8) stores it, so that it can list the set"""

    __slots__ = ("length_bytes", "name", "names", "number")

    def __init__(self, name: str, number: int, length_bytes: int, names: dict[str, int] | None = None) -> None:
        self.name = name
        self.number = number
        self.length_bytes = length_bytes
        self.names = names

    def pack(self, value: str) -> bytes:
        """The value as a set keeps it, filled up to four bytes; raises OSError or ValueError."""
        if self.name == "ifname":
            return value.encode().ljust(self.length_bytes, b"\0")
        if self.name.endswith("_addr"):
            return _socket.inet_pton(_socket.AF_INET6 if self.length_bytes == 16 else _socket.AF_INET, value)
        plain = self.names[value] if self.names else int(value)
        return plain.to_bytes(self.length_bytes, "big").ljust(4, b"\0")

    def spell(self, data: bytes) -> str:
        """A packed value as one types it."""
        if self.name == "ifname":
            return f'"{data.rstrip(bytes(1)).decode()}"'
        if self.name.endswith("_addr"):
            return _socket.inet_ntop(_socket.AF_INET6 if self.length_bytes == 16 else _socket.AF_INET, data)
        plain = int.from_bytes(data[: self.length_bytes], "big")
        return next((word for word, value in (self.names or {}).items() if value == plain), str(plain))


IFNAME = Datatype("ifname", 41, 16)
NF_PROTO = Datatype("nf_proto", 2, 1, {"ipv4": _IPV4, "ipv6": _IPV6})
INET_PROTO = Datatype("inet_proto", 12, 1, {"tcp": 6, "udp": 17, "sctp": 132})
INET_SERVICE = Datatype("inet_service", 13, 2)
IPV4_ADDR = Datatype("ipv4_addr", 7, 4)
IPV6_ADDR = Datatype("ipv6_addr", 8, 16)


class NftSet:
    """A named set, or a map when it has data. Shape: key, data: their concatenated types"""

    __slots__ = ("data", "key", "name", "table")

    def __init__(self, table: str, name: str, key: Sequence[Datatype], data: Sequence[Datatype] = ()) -> None:
        self.table = table
        self.name = name
        self.key = tuple(key)
        self.data = tuple(data)

    @property
    def word(self) -> str:
        """What nft calls it."""
        return "map" if self.data else "set"

    def add(self, set_id: int) -> Message:
        """Make it, unless it is there. Shape: set_id: another one for each set of a batch"""
        kinds = _spell_types(self.key) + (f" : {_spell_types(self.data)}" if self.data else "")
        parts = [text_attribute(1, self.table), text_attribute(2, self.name)]
        if self.data:
            parts.append(number(3, _SET_IS_MAP))
        parts += [number(4, _type_number(self.key)), number(5, _length(self.key))]
        if self.data:
            parts += [number(6, _type_number(self.data)), number(7, _length(self.data))]
        parts += [number(10, set_id), attribute(13, self._byte_orders())]
        text = f"nft add {self.word} inet {self.table} {self.name} '{{ type {kinds}; }}'"
        return Message(text, _NEW_SET, NLM_F_CREATE, b"".join(parts))

    def _byte_orders(self) -> bytes:
        # Notes to nft(8) itself: a name of a link is in the machine's own byte order, 1, the rest in none, 0.
        notes = b"\0\4" + (1 if self.key == (IFNAME,) else 0).to_bytes(4, "little")
        return notes + (b"\1\4" + bytes(4) if self.data else b"")

    def listing(self) -> tuple[str, int, bytes]:
        """The question after its elements, for Nftables.dump; add what one_of says for a single one."""
        body = text_attribute(1, self.table) + text_attribute(2, self.name)
        return f"nft list {self.word} inet {self.table} {self.name}", GET_ELEMENTS, body

    def element(self, key: Sequence[str], data: Sequence[str] = (), comment: str = "") -> Element:
        """An element of these values."""
        packed = b"".join(kind.pack(value) for kind, value in zip(self.key, key, strict=True))
        value = b"".join(kind.pack(value) for kind, value in zip(self.data, data, strict=True))
        return Element(self, packed, value, comment)

    def elements_of(self, answers: Sequence[bytes]) -> list[Element]:
        """The elements in the kernel's answers to a listing."""
        found = []
        for answer in answers:
            for entry in _members(dict(attributes(answer)).get(3, b"")):
                values = dict(entry)
                found.append(Element(self, _value_of(values.get(1)), _value_of(values.get(2)), _comment_of(values)))
        return found


class Element:
    """One element of a set or a map. Shape: key, data: packed; comment: up to 128 bytes, as whose it is"""

    __slots__ = ("comment", "data", "key", "set")

    def __init__(self, set_: NftSet, key: bytes, data: bytes, comment: str) -> None:
        self.set = set_
        self.key = key
        self.data = data
        self.comment = comment

    def spell(self) -> str:
        """The element as one types it."""
        text = _spell_values(self.set.key, self.key)
        if self.comment:
            text += f' comment "{self.comment}"'
        return f"{text} : {_spell_values(self.set.data, self.data)}" if self.set.data else text

    def encode(self, *, key_only: bool = False) -> bytes:
        """The element as a member of a message's list."""
        parts = [nested(1, attribute(1, self.key))]
        if self.data and not key_only:
            parts.append(nested(2, attribute(1, self.data)))
        if self.comment and not key_only:
            note = self.comment.encode() + b"\0"
            parts.append(attribute(6, bytes((_COMMENT, len(note))) + note))
        return nested(_LIST_ELEMENT, *parts)


def add_elements(elements: Sequence[Element], *, exclusive: bool = False) -> list[Message]:
    """Put elements, all of one set, into it. Shape: exclusive: EEXIST when one is there already"""
    flags = NLM_F_CREATE | (NLM_F_EXCL if exclusive else 0)
    return _element_messages("create" if exclusive else "add", _NEW_ELEMENTS, flags, elements)


def delete_elements(elements: Sequence[Element]) -> list[Message]:
    """Take elements, all of one set, out of it; ENOENT when one is not there."""
    return _element_messages("delete", _DEL_ELEMENTS, 0, elements)


def _element_messages(verb: str, kind: int, flags: int, elements: Sequence[Element]) -> list[Message]:
    messages = []
    for start in range(0, len(elements), _ELEMENTS_IN_A_MESSAGE):
        some = elements[start : start + _ELEMENTS_IN_A_MESSAGE]
        head = some[0].set
        spelled = ", ".join(_spell_values(head.key, one.key) if verb == "delete" else one.spell() for one in some)
        body = text_attribute(1, head.table) + text_attribute(2, head.name)
        body += nested(3, *(one.encode(key_only=verb == "delete") for one in some))
        messages.append(
            Message(f"nft {verb} element inet {head.table} {head.name} '{{ {spelled} }}'", kind, flags, body)
        )
    return messages


def one_of(element: Element) -> bytes:
    """What to add to a listing's body to be told of this one element only."""
    return nested(3, element.encode(key_only=True))


def add_table(name: str) -> Message:
    """Make the table, unless it is there."""
    return Message(f"nft add table inet {name}", _NEW_TABLE, NLM_F_CREATE, text_attribute(1, name) + number(2, 0))


def delete_table(name: str) -> Message:
    """Remove the table and all that is in it; ENOENT when it is not there."""
    return Message(f"nft delete table inet {name}", _DEL_TABLE, 0, text_attribute(1, name))


def add_chain(table: str, name: str) -> Message:
    """Make a chain to jump to, unless it is there."""
    body = text_attribute(1, table) + text_attribute(3, name)
    return Message(f"nft add chain inet {table} {name}", _NEW_CHAIN, NLM_F_CREATE, body)


def add_base_chain(table: str, name: str, kind: str, hook: str, priority: str) -> Message:
    """Make a chain that the kernel enters, unless it is there. Shape: kind: filter or nat; priority: by name"""
    body = text_attribute(1, table) + text_attribute(3, name)
    body += nested(4, number(1, HOOKS[hook]), number(2, PRIORITIES[priority]))
    body += number(5, _VERDICTS["accept"]) + text_attribute(7, kind)
    # nft knows dstnat by name for prerouting only
    shown = PRIORITIES[priority] if priority == "dstnat" and hook == "output" else priority
    text = f"nft add chain inet {table} {name} '{{ type {kind} hook {hook} priority {shown}; policy accept; }}'"
    return Message(text, _NEW_CHAIN, NLM_F_CREATE, body)


def flush_chain(table: str, name: str) -> Message:
    """Remove a chain's rules."""
    body = text_attribute(1, table) + text_attribute(2, name)
    return Message(f"nft flush chain inet {table} {name}", _DEL_RULE, 0, body)


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
IP_DADDR_FIELD = Field("ip daddr", IPV4_ADDR, (_NETWORK_HEADER, 16), _IPV4)
IP6_DADDR_FIELD = Field("ip6 daddr", IPV6_ADDR, (_NETWORK_HEADER, 24), _IPV6)


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
        number(2, _IPV6 if is_ipv6 else _IPV4),
        number(3, _register(0)),
        number(5, _register(found_in.data[0].length_bytes)),
    )
    return Clause(f"dnat {'ip6' if is_ipv6 else 'ip'} to {words} map @{found_in.name}", *loads, lookup, nat)


def to_loopback() -> Clause:
    """The packet is for an address of 127.0.0.0/8."""
    return Clause(
        "ip daddr 127.0.0.0/8", *_family_is(_IPV4), _payload(1, _NETWORK_HEADER, 16, 1), _compare(_EQ, b"\x7f")
    )


def from_loopback() -> Clause:
    """The packet is from an address of 127.0.0.0/8."""
    return Clause(
        "ip saddr 127.0.0.0/8", *_family_is(_IPV4), _payload(1, _NETWORK_HEADER, 12, 1), _compare(_EQ, b"\x7f")
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
    code = number(1, _VERDICTS[word]) + (text_attribute(2, chain) if chain else b"")
    return Clause(f"{word} {chain}".rstrip(), _expression("immediate", number(1, 0), nested(2, nested(2, code))))


def masquerade() -> Clause:
    """Give the packet the address of the link by which it leaves."""
    return Clause("masquerade", _expression("masq"))


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(_LIST_ELEMENT, text_attribute(1, name), nested(2, *parts))


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
        offset += _padded(field.kind)
    return loads, " . ".join(field.words for field in fields)


def _register(offset: int) -> int:
    """The number of the register that is so many bytes behind the first: of 16 bytes from 1 on, of 4 from 8 on."""
    return 1 + offset // 16 if offset % 16 == 0 else 8 + offset // 4


def _padded(kind: Datatype) -> int:
    return (kind.length_bytes + 3) & ~3


def _length(kinds: Sequence[Datatype]) -> int:
    return kinds[0].length_bytes if len(kinds) == 1 else sum(map(_padded, kinds))


def _type_number(kinds: Sequence[Datatype]) -> int:
    value = 0
    for kind in kinds:
        value = value << 6 | kind.number
    return value


def _spell_types(kinds: Sequence[Datatype]) -> str:
    return " . ".join(kind.name for kind in kinds)


def _spell_values(kinds: Sequence[Datatype], data: bytes) -> str:
    words = []
    for kind in kinds:
        words.append(kind.spell(data[: kind.length_bytes]))
        data = data[_padded(kind) :]
    return " . ".join(words)


def _members(data: bytes) -> list[list[tuple[int, bytes]]]:
    return [attributes(member) for kind, member in attributes(data) if kind == _LIST_ELEMENT]


def _value_of(data: bytes | None) -> bytes:
    return dict(attributes(data or b"")).get(1, b"")


def _comment_of(values: dict[int, bytes]) -> str:
    notes = values.get(6, b"")
    while len(notes) >= 2:
        kind, length = notes[0], notes[1]
        if kind == _COMMENT:
            return notes[2 : 2 + length].rstrip(b"\0").decode("utf-8", "replace")
        notes = notes[2 + length :]
    return ""
