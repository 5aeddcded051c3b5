"""Subnets and the addresses in them, as whole numbers: free ones, overlaps, docker's pools.

The standard library's ipaddress does this too, for 5 ms at each start.
Source: moby libnetwork/ipamutils/utils.go, the default address pools
"""

from __future__ import annotations

import _socket

from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from typing import Self


class Subnet:
    """A range of addresses. Shape: base: its first address as a number; bits: 32 or 128"""

    __slots__ = ("base", "bits", "prefix")

    def __init__(self, base: int, prefix: int, bits: int) -> None:
        self.base = base
        self.prefix = prefix
        self.bits = bits

    @classmethod
    def parse(cls, text: str, *, strict: bool = False) -> Self:
        """Read `ADDRESS/PREFIX`; strict: the address is the first one. Raises UsageError."""
        address, slash, length = text.partition("/")
        number, bits = number_of(address, text or " ")
        if not (slash and length.isascii() and length.isdecimal() and int(length) <= bits):
            raise UsageError(f"invalid CIDR address: {text}")
        prefix = int(length)
        base = number >> (bits - prefix) << (bits - prefix)
        if strict and base != number:
            raise UsageError(f"invalid network config: {text} has bits beyond its prefix")
        return cls(base, prefix, bits)

    def __str__(self) -> str:
        return f"{text_of(self.base, self.bits)}/{self.prefix}"

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return 1 << (self.bits - self.prefix)

    @property
    def first_host(self) -> str:
        """The address that a gateway gets when nobody chooses."""
        return text_of(self.base + (0 if self.size <= 2 else 1), self.bits)

    @property
    def last(self) -> str:
        """The highest address, which in IPv4 is everybody's."""
        return text_of(self.base + self.size - 1, self.bits)

    def holds(self, address: str) -> bool:
        """Whether an address lies in it; raises UsageError for what is no address."""
        number, bits = number_of(address)
        return bits == self.bits and self.base <= number < self.base + self.size

    def overlaps(self, other: Subnet) -> bool:
        """Whether an address lies in both."""
        return self.bits == other.bits and self.base < other.base + other.size and other.base < self.base + self.size

    def free_address(self, taken: Collection[str], within: Subnet | None = None) -> str:
        """The lowest address for a host that nobody has, in this part of it; empty when there is none.

        Shape: neither the first one nor, in IPv4, the last one of the whole subnet, which name it and everyone in it
        """
        part = within or self
        numbers = {number_of(address)[0] for address in taken}
        if self.size > 2:
            numbers.add(self.base)
            if self.bits == 32:
                numbers.add(self.base + self.size - 1)
        number = part.base
        while number < part.base + part.size:
            if number not in numbers:
                return text_of(number, self.bits)
            number += 1
        return ""


def number_of(address: str, shown: str = "") -> tuple[int, int]:
    """An address as a number, and its bits; raises UsageError."""
    try:
        raw = _socket.inet_pton(_socket.AF_INET6 if ":" in address else _socket.AF_INET, address)
    except (OSError, ValueError):
        raise UsageError(f"invalid {'CIDR' if shown else 'IP'} address: {shown.strip() or address}") from None
    return int.from_bytes(raw, "big"), len(raw) * 8


def text_of(number: int, bits: int) -> str:
    """The text of an address."""
    return _socket.inet_ntop(_socket.AF_INET if bits == 32 else _socket.AF_INET6, number.to_bytes(bits // 8, "big"))


def default_pools() -> Iterator[Subnet]:
    """The subnets that networks without one of their own get, in order."""
    for second in range(17, 32):
        yield Subnet.parse(f"172.{second}.0.0/16")
    for third in range(0, 256, 16):
        yield Subnet.parse(f"192.168.{third}.0/20")


def free_pool(taken: Iterable[Subnet]) -> Subnet:
    """The first of the default pools that overlaps nothing of what is taken; raises UsageError."""
    known = list(taken)
    for pool in default_pools():
        if not any(pool.overlaps(other) for other in known):
            return pool
    raise UsageError("could not find an available, non-overlapping IPv4 address pool among the defaults to assign")


def mac_of(address: str) -> str:
    """The hardware address that goes with an IPv4 one. Source: moby libnetwork/netutils, GenerateMACFromIP"""
    raw = number_of(address)[0].to_bytes(4, "big")
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x42, *raw))
