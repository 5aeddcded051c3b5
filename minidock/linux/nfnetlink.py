"""A netfilter netlink socket for nftables: whole changes or none, and what there is.

A batch is one transaction: the kernel puts all of its messages into force at once, or none. A batch may name the
generation of the rules that its sender has read; when somebody has changed anything since, the kernel refuses it,
and the sender reads again. So no lock is needed among those who change the same table.

Source: netlink(7); kernel include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h, net/netfilter/nfnetlink.c
"""

from __future__ import annotations

import _socket
import struct

from minidock.errors import SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x4, 0x300, 0x10
NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x200, 0x400, 0x800
NLA_F_NESTED = 0x8000
NFPROTO_INET = 1

_AF_NETLINK, _SOCK_RAW, _SOCK_CLOEXEC, _NETLINK_NETFILTER = 16, 3, 0o2000000, 12
_SOL_NETLINK, _NETLINK_CAP_ACK, _SO_SNDBUFFORCE = 270, 10, 32
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_BATCH_BEGIN, _BATCH_END, _SUBSYSTEM = 0x10, 0x11, 10
_BATCH_GENID = 1
_GENERATION_ID = 1
_GET_GENERATION = 16
_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct(">BBH")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE_BYTES = 1 << 16
_ENOENT, _EINTR = 2, 4


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, filled up to four bytes."""
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def text_attribute(kind: int, text: str) -> bytes:
    """A text with its closing NUL."""
    return attribute(kind, text.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """A 32-bit number; nftables' are big-endian."""
    return attribute(kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def attributes(data: bytes) -> list[tuple[int, bytes]]:
    """Kind and payload of the attributes in data; a truncated one ends the list."""
    found = []
    position = 0
    while position + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < 4 or position + length > len(data):
            break
        found.append((kind & 0x3FFF, data[position + 4 : position + length]))
        position += (length + 3) & ~3
    return found


class Message:
    """One change to nftables. Shape: text: the `nft` line that makes the same change; body: the attributes"""

    __slots__ = ("body", "flags", "kind", "text")

    def __init__(self, text: str, kind: int, flags: int, body: bytes) -> None:
        self.text = text
        self.kind = kind
        self.flags = flags
        self.body = body

    def encode(self, sequence: int, *, acknowledge: bool = False) -> bytes:
        """The message's bytes."""
        flags = NLM_F_REQUEST | self.flags | (NLM_F_ACK if acknowledge else 0)
        return _frame(_SUBSYSTEM << 8 | self.kind, flags, sequence, NFPROTO_INET, 0, self.body)


def _frame(kind: int, flags: int, sequence: int, family: int, resource: int, body: bytes) -> bytes:
    length = _HEADER.size + _FAMILY.size + len(body)
    return _HEADER.pack(length, kind, flags, sequence, 0) + _FAMILY.pack(family, 0, resource) + body


class Nftables:
    """A socket in the network namespace that the process is in now; a context manager."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self) -> None:
        self._sequence = 0
        try:
            self._socket = _socket.socket(_AF_NETLINK, _SOCK_RAW | _SOCK_CLOEXEC, _NETLINK_NETFILTER)
            # An error does not repeat the change it is about, so that all of them fit.
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        except OSError as error:
            raise SyscallError("socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER)", error.errno or 0) from None

    def __enter__(self) -> Nftables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def generation(self) -> int:
        """The number of the rules' present state; any change by anybody in this network namespace raises it."""
        (body,) = self._ask("nft list ruleset", _GET_GENERATION, b"")
        return int.from_bytes(dict(attributes(body))[_GENERATION_ID], "big")

    def get(self, what: str, kind: int, body: bytes) -> bytes | None:
        """The attributes of the one thing asked for; None when there is no such thing.

        Shape:  what: the question as an `nft` line
        Raises: SyscallError
        """
        try:
            return self._ask(what, kind, body)[0]
        except SyscallError as error:
            if error.errno == _ENOENT:
                return None
            raise

    def dump(self, what: str, kind: int, body: bytes, *, family: int = NFPROTO_INET) -> list[bytes]:
        """The attributes of all that match, as they were at one moment; nothing when their table is not there.

        Shape:  family: of which tables, 0 for all
        Raises: SyscallError
        """
        while True:
            try:
                return self._ask(what, kind, body, flags=NLM_F_DUMP, family=family)
            except SyscallError as error:
                if error.errno == _ENOENT:
                    return []
                if error.errno != _EINTR:
                    raise

    def commit(self, messages: Sequence[Message], *, generation: int = 0) -> None:
        """Make these changes, all or none.

        Shape:  generation: refuse, with ERESTART, when the rules are not in this state any more; 0 for any
        Raises: SyscallError with the text of the first change that the kernel refused
        """
        if not messages:
            return
        first = self._sequence + 1
        guard = number(_BATCH_GENID, generation) if generation else b""
        parts = [_frame(_BATCH_BEGIN, NLM_F_REQUEST, first, 0, _SUBSYSTEM, guard)]
        for position, message in enumerate(messages, 1):
            parts.append(message.encode(first + position, acknowledge=position == len(messages)))
        self._sequence = first + len(messages) + 1
        parts.append(_frame(_BATCH_END, NLM_F_REQUEST, self._sequence, 0, _SUBSYSTEM, b""))
        data = b"".join(parts)
        if len(data) > _RECEIVE_BYTES:
            # The usual buffer holds a few thousand changes.
            self._socket.setsockopt(_socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(data))
        self._send(data)
        refused: SyscallError | None = None
        while True:
            for sequence, kind, _, body in self._receive():
                if kind != _NLMSG_ERROR or not first <= sequence <= self._sequence:
                    continue
                errno_value = -struct.unpack_from("=i", body)[0]
                position = sequence - first
                if errno_value and refused is None:
                    refused = SyscallError(messages[position - 1].text if position else "nft -f", errno_value)
                # The kernel answers in order; about the batch as a whole it says nothing else.
                if position in (0, len(messages)):
                    if refused is not None:
                        raise refused
                    return

    def _ask(self, what: str, kind: int, body: bytes, *, flags: int = 0, family: int = NFPROTO_INET) -> list[bytes]:
        self._sequence += 1
        asked = NLM_F_REQUEST | (flags or NLM_F_ACK)
        self._send(_frame(_SUBSYSTEM << 8 | kind, asked, self._sequence, family, 0, body))
        answers: list[bytes] = []
        interrupted = False
        while True:
            for sequence, answer, answer_flags, payload in self._receive():
                if sequence != self._sequence:
                    continue
                interrupted |= bool(answer_flags & NLM_F_DUMP_INTR)
                if answer in (_NLMSG_DONE, _NLMSG_ERROR):
                    errno_value = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
                    if errno_value or interrupted:
                        raise SyscallError(what, errno_value or _EINTR)
                    return answers
                answers.append(payload[_FAMILY.size :])

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise SyscallError("send(NETLINK_NETFILTER)", error.errno or 0) from None

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        """The messages of one datagram: (sequence, kind, flags, what follows the header)."""
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except OSError as error:
            raise SyscallError("recv(NETLINK_NETFILTER)", error.errno or 0) from None
        found = []
        position = 0
        while position + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, position)
            if length < _HEADER.size:
                break
            found.append((sequence, kind, flags, data[position + _HEADER.size : position + length]))
            position += (length + 3) & ~3
        return found
