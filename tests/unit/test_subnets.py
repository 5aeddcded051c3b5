"""Subnets and addresses, against the standard library's ipaddress."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidock.errors import UsageError
from minidock.formats.subnets import Subnet, default_pools, free_pool, mac_of

TEXTS = st.one_of(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(lambda v: str(ipaddress.ip_interface(v))),
    st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(lambda v: str(ipaddress.IPv6Interface(v))),
)


@given(TEXTS)
def test_reading(text: str) -> None:
    subnet, theirs = Subnet.parse(text), ipaddress.ip_interface(text).network
    assert ipaddress.ip_network(str(subnet)) == theirs
    assert subnet.size == theirs.num_addresses
    assert subnet.holds(text.partition("/")[0])


@given(TEXTS, TEXTS)
def test_overlap(first: str, second: str) -> None:
    ours = Subnet.parse(first).overlaps(Subnet.parse(second))
    one, other = ipaddress.ip_interface(first).network, ipaddress.ip_interface(second).network
    assert ours == (one.version == other.version and one.overlaps(other))


@pytest.mark.parametrize("text", ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "x/8", "fd00::/129", "10.0.0.0/-1", "1/8"])
def test_nonsense(text: str) -> None:
    with pytest.raises(UsageError, match="invalid CIDR address"):
        Subnet.parse(text)


def test_free_addresses() -> None:
    subnet = Subnet.parse("10.9.0.0/29")
    taken = [subnet.first_host]
    given_out = []
    while address := subnet.free_address(taken):
        given_out.append(address)
        taken.append(address)
    assert given_out == ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"]
    assert Subnet.parse("10.9.0.0/24").free_address(["10.9.0.1"], Subnet.parse("10.9.0.128/25")) == "10.9.0.128"
    assert Subnet.parse("10.9.0.0/31").free_address(["10.9.0.0"]) == "10.9.0.1"
    assert Subnet.parse("fd00::/64").free_address(["fd00::1"]) == "fd00::2"


def test_pools_are_docker_s() -> None:
    pools = [str(pool) for pool in default_pools()]
    assert (pools[0], pools[14], pools[15], pools[-1]) == (
        "172.17.0.0/16",
        "172.31.0.0/16",
        "192.168.0.0/20",
        "192.168.240.0/20",
    )
    assert str(free_pool([Subnet.parse("172.17.9.9/32"), Subnet.parse("172.18.0.0/15")])) == "172.20.0.0/16"
    with pytest.raises(UsageError, match="could not find an available"):
        free_pool([Subnet.parse("0.0.0.0/0")])


def test_hardware_addresses_are_docker_s() -> None:
    assert mac_of("172.17.0.2") == "02:42:ac:11:00:02"
