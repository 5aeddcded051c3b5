"""nftables' tables, chains, sets and elements as messages, each with the `nft` line that makes the same.

Source: nft(8); kernel include/uapi/linux/netfilter/nf_tables.h
"""

from __future__ import annotations

import _socket

from minidock.linux.nfnetlink import (
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
_DEL_RULE = 8
_NEW_SET = 9
_NEW_ELEMENTS, _DEL_ELEMENTS = 12, 14
GET_CHAIN = 4
GET_ELEMENTS = 13

HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
# The priorities that nft has names for in every family but bridge.
PRIORITIES = {"raw": -300, "dstnat": -100, "filter": 0, "srcnat": 100}

_SET_HAS_RANGES, _SET_IS_MAP, _SET_IS_CONCATENATED = 4, 8, 0x80
_ELEMENTS_IN_A_MESSAGE = 256
LIST_ELEMENT = 1
_COMMENT = 0
VERDICTS = {"drop": 0, "accept": 1, "jump": -3, "return": -5}
IPV4, IPV6 = 2, 10


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
NF_PROTO = Datatype("nf_proto", 2, 1, {"ipv4": IPV4, "ipv6": IPV6})
INET_PROTO = Datatype("inet_proto", 12, 1, {"tcp": 6, "udp": 17, "sctp": 132})
INET_SERVICE = Datatype("inet_service", 13, 2)
IPV4_ADDR = Datatype("ipv4_addr", 7, 4)
IPV6_ADDR = Datatype("ipv6_addr", 8, 16)


class NftSet:
    """A named set, or a map when it has data.

    Shape: key, data: their concatenated types; has_ranges: the last part of a key is a prefix, `172.17.0.0/16`; such a
           key has two parts at least
    """

    __slots__ = ("data", "has_ranges", "key", "name", "table")

    def __init__(
        self,
        table: str,
        name: str,
        key: Sequence[Datatype],
        data: Sequence[Datatype] = (),
        *,
        has_ranges: bool = False,
    ) -> None:
        self.table = table
        self.name = name
        self.key = tuple(key)
        self.data = tuple(data)
        self.has_ranges = has_ranges

    @property
    def word(self) -> str:
        """What nft calls it."""
        return "map" if self.data else "set"

    def add(self, set_id: int) -> Message:
        """Make it, unless it is there. Shape: set_id: another one for each set of a batch"""
        kinds = _spell_types(self.key) + (f" : {_spell_types(self.data)}" if self.data else "")
        flags = _SET_HAS_RANGES | _SET_IS_CONCATENATED if self.has_ranges else 0
        parts = [text_attribute(1, self.table), text_attribute(2, self.name)]
        parts.append(number(3, flags | (_SET_IS_MAP if self.data else 0)))
        parts += [number(4, _type_number(self.key)), number(5, _length(self.key))]
        if self.data:
            parts += [number(6, _type_number(self.data)), number(7, _length(self.data))]
        if self.has_ranges:
            fields = [nested(LIST_ELEMENT, number(1, kind.length_bytes)) for kind in self.key]
            parts.append(nested(9, nested(2, *fields)))
        parts += [number(10, set_id), attribute(13, self._byte_orders())]
        words = f"type {kinds};{' flags interval;' if self.has_ranges else ''}"
        text = f"nft add {self.word} inet {self.table} {self.name} '{{ {words} }}'"
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
        end = b""
        if self.has_ranges:
            address, _, length = key[-1].partition("/")
            first, last = _ends_of(self.key[-1].pack(address), int(length))
            end = _pack(self.key[:-1], key[:-1]) + last
            packed = _pack(self.key[:-1], key[:-1]) + first
        else:
            packed = _pack(self.key, key)
        return Element(self, packed, _pack(self.data, data), comment, end)

    def elements_of(self, answers: Sequence[bytes]) -> list[Element]:
        """The elements in the kernel's answers to a listing."""
        found = []
        for answer in answers:
            for entry in _members(dict(attributes(answer)).get(3, b"")):
                values = dict(entry)
                key, data, end = (_value_of(values.get(kind)) for kind in (1, 2, 10))
                found.append(Element(self, key, data, _comment_of(values), end))
        return found


class Element:
    """One element of a set or a map.

    Shape: key, data: packed; comment: up to 128 bytes, as whose it is; end: the last key of a range, else empty
    """

    __slots__ = ("comment", "data", "end", "key", "set")

    def __init__(self, set_: NftSet, key: bytes, data: bytes, comment: str, end: bytes = b"") -> None:
        self.set = set_
        self.key = key
        self.data = data
        self.comment = comment
        self.end = end

    def spell_key(self) -> str:
        """The key as one types it."""
        text = _spell_values(self.set.key, self.key)
        if self.end:
            width = self.set.key[-1].length_bytes
            spread = int.from_bytes(self.key[-width:], "big") ^ int.from_bytes(self.end[-width:], "big")
            text += f"/{8 * width - spread.bit_length()}"
        return text

    def spell(self) -> str:
        """The element as one types it."""
        text = self.spell_key()
        if self.comment:
            text += f' comment "{self.comment}"'
        return f"{text} : {_spell_values(self.set.data, self.data)}" if self.set.data else text

    def encode(self, *, key_only: bool = False) -> bytes:
        """The element as a member of a message's list."""
        parts = [nested(1, attribute(1, self.key))]
        if self.end:
            parts.append(nested(10, attribute(1, self.end)))
        if self.data and not key_only:
            parts.append(nested(2, attribute(1, self.data)))
        if self.comment and not key_only:
            note = self.comment.encode() + b"\0"
            parts.append(attribute(6, bytes((_COMMENT, len(note))) + note))
        return nested(LIST_ELEMENT, *parts)


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
        spelled = ", ".join(one.spell_key() if verb == "delete" else one.spell() for one in some)
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
    body += number(5, VERDICTS["accept"]) + text_attribute(7, kind)
    # nft knows dstnat by name for prerouting only
    shown = PRIORITIES[priority] if priority == "dstnat" and hook == "output" else priority
    text = f"nft add chain inet {table} {name} '{{ type {kind} hook {hook} priority {shown}; policy accept; }}'"
    return Message(text, _NEW_CHAIN, NLM_F_CREATE, body)


def flush_chain(table: str, name: str) -> Message:
    """Remove a chain's rules."""
    body = text_attribute(1, table) + text_attribute(2, name)
    return Message(f"nft flush chain inet {table} {name}", _DEL_RULE, 0, body)


def padded_bytes(kind: Datatype) -> int:
    """What a value of this type takes beside others."""
    return (kind.length_bytes + 3) & ~3


def _length(kinds: Sequence[Datatype]) -> int:
    return kinds[0].length_bytes if len(kinds) == 1 else sum(map(padded_bytes, kinds))


def _type_number(kinds: Sequence[Datatype]) -> int:
    value = 0
    for kind in kinds:
        value = value << 6 | kind.number
    return value


def _pack(kinds: Sequence[Datatype], values: Sequence[str]) -> bytes:
    return b"".join(kind.pack(value) for kind, value in zip(kinds, values, strict=True))


def _ends_of(address: bytes, length: int) -> tuple[bytes, bytes]:
    """The first and the last address of a prefix."""
    host_bits = (1 << (8 * len(address) - length)) - 1
    first = int.from_bytes(address, "big") & ~host_bits
    return first.to_bytes(len(address), "big"), (first | host_bits).to_bytes(len(address), "big")


def _spell_types(kinds: Sequence[Datatype]) -> str:
    return " . ".join(kind.name for kind in kinds)


def _spell_values(kinds: Sequence[Datatype], data: bytes) -> str:
    words = []
    for kind in kinds:
        words.append(kind.spell(data[: kind.length_bytes]))
        data = data[padded_bytes(kind) :]
    return " . ".join(words)


def _members(data: bytes) -> list[list[tuple[int, bytes]]]:
    return [attributes(member) for kind, member in attributes(data) if kind == LIST_ELEMENT]


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
