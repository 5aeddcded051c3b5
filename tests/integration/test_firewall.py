"""minidock's nftables table: what nft(8) says of it, and that nobody else's is touched."""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from minidock.errors import SyscallError
from minidock.linux import nftables
from minidock.linux.nfnetlink import NLA_F_NESTED, Message, Nftables
from minidock.network import firewall
from minidock.network.firewall import NetworkRules, ensure_network, networks, remove_network
from minidock.network.ruleset import layout
from tests.integration.netns import Netns, namespaces, ruleset

PLAIN = NetworkRules("mdt0", ("172.30.0.0/16",))
BOTH = NetworkRules("mdt1", ("172.31.0.0/16", "fd00:31::/64"))
INTERNAL = NetworkRules("mdt2", ("172.29.0.0/16",), internal=True)
QUIET = NetworkRules("mdt3", ("172.28.0.0/16",), icc=False, masquerade=False)
ALL = (PLAIN, BOTH, INTERNAL, QUIET)

FOREIGN = """
table inet mine {
    set ports { type inet_service; elements = { 22, 80 } }
    chain in { type filter hook input priority filter; policy drop; tcp dport @ports accept; }
}
table ip nat {
    chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; oifname "eth0" masquerade; }
}
table ip filter {
    chain FORWARD { type filter hook forward priority filter; policy drop; }
}
"""


@pytest.fixture
def space() -> Iterator[Netns]:
    """A network namespace for the test."""
    with namespaces(1) as (one,):
        yield one


def _ensure(*rules: NetworkRules) -> list[str]:
    """Make these networks' rules; the `nft` lines that --explain shows."""
    lines: list[str] = []
    for one in rules:
        ensure_network(one, trace=lambda kind, text: lines.append(text))
    return lines


def test_the_lines_that_explain_shows_make_the_same_rules() -> None:
    with namespaces(2) as (ours, typed):
        lines = ours.call(_ensure, *ALL)
        typed.run("sh", "-ec", "\n".join(lines))
        assert ruleset(ours) == ruleset(typed)
        assert "iifname @bridges ip daddr 127.0.0.0/8 drop" in ruleset(ours)


def test_network_rules_are_made_once_and_removed_without_a_trace(space: Netns) -> None:
    assert space.call(_ensure, *ALL)
    assert space.call(_ensure, *ALL) == []
    assert space.call(networks) == {one.bridge for one in ALL}
    before = ruleset(space)
    space.call(_ensure, NetworkRules("mdt9", ("10.9.0.0/24",)))
    space.call(remove_network, "mdt9")
    assert ruleset(space) == before
    for one in ALL:
        space.call(remove_network, one.bridge)
        space.call(remove_network, one.bridge)
    assert space.call(networks) == set()
    assert ruleset(space) == ""


def test_a_changed_network_has_its_new_rules_only(space: Netns) -> None:
    space.call(_ensure, INTERNAL)
    space.call(_ensure, NetworkRules("mdt2", ("172.29.0.0/16",)))
    with namespaces(1) as (fresh,):
        fresh.call(_ensure, NetworkRules("mdt2", ("172.29.0.0/16",)))
        assert ruleset(space) == ruleset(fresh)


def test_other_tables_are_left_alone(space: Netns) -> None:
    space.run("nft", "-f", "-", stdin=FOREIGN)
    foreign = ruleset(space)
    space.call(_ensure, *ALL)
    assert ruleset(space).startswith(foreign)
    assert space.call(firewall.dropped_by_others) == ["ip filter FORWARD"]
    for one in ALL:
        space.call(remove_network, one.bridge)
    assert ruleset(space) == foreign


def test_rules_that_somebody_flushed_come_back_with_the_next_start(space: Netns) -> None:
    space.call(_ensure, PLAIN, BOTH)
    before = ruleset(space)
    space.run("nft", "flush", "ruleset")
    assert space.call(networks) == set()
    space.call(_ensure, PLAIN, BOTH)
    assert ruleset(space) == before


def test_rules_of_an_older_layout_are_written_anew(space: Netns) -> None:
    space.call(_ensure, PLAIN)
    before = ruleset(space)
    space.run("nft", "flush", "chain", "inet", "minidock", "forward")
    space.run("nft", "delete", "element", "inet", "minidock", "bridges", '{ "mdt0" }')
    space.run("nft", "add", "element", "inet", "minidock", "bridges", '{ "mdt0" comment "mdt0 0 icc,ipv4" }')
    assert space.call(_ensure, PLAIN)
    assert ruleset(space) == before


def test_many_networks_at_once(space: Netns) -> None:
    """Each reads, decides and changes while the others do; none is lost, none fails."""
    rules = [NetworkRules(f"mdt{number}", (f"10.{number}.0.0/24",)) for number in range(24)]
    failures: list[BaseException] = []

    def one(rule: NetworkRules) -> None:
        try:
            space.call(_ensure, rule)
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=one, args=(rule,)) for rule in rules]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert space.call(networks) == {rule.bridge for rule in rules}
    assert ruleset(space).count("iifname @internal drop") == 1


def _refused() -> tuple[str, int]:
    element = firewall.BRIDGES.element(["mdt7"], comment="mdt7")
    other = firewall.BRIDGES.element(["mdt8"], comment="mdt8")
    with Nftables() as socket:
        try:
            socket.commit([*nftables.add_elements([other]), *nftables.delete_elements([element])])
        except SyscallError as error:
            return error.call, error.errno or 0
    return "", 0


def test_a_refused_change_is_named_and_leaves_nothing(space: Netns) -> None:
    space.call(_ensure, PLAIN)
    before = ruleset(space)
    call, number = space.call(_refused)
    assert (call, number) == ("nft delete element inet minidock bridges '{ \"mdt7\" }'", 2)
    assert ruleset(space) == before


def _without_nested_flags(data: bytes) -> bytes:
    """pyroute2 sets the flag of nested attributes nowhere, nft and the kernel do."""
    found = b""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        value = data[4:length]
        if kind & NLA_F_NESTED:
            value = _without_nested_flags(value)
        found += struct.pack("=HH", length, kind & ~NLA_F_NESTED) + value + bytes(-length % 4)
        data = data[(length + 3) & ~3 :]
    return found


def _of_pyroute2(message: Message) -> Any:
    from pyroute2.netlink.nfnetlink import nftsocket

    kinds = {
        0: nftsocket.nft_table_msg,
        3: nftsocket.nft_chain_msg,
        6: nftsocket.nft_rule_msg,
        8: nftsocket.nft_rule_msg,
        9: nftsocket.nft_set_msg,
        12: nftsocket.nft_set_elem_list_msg,
        14: nftsocket.nft_set_elem_list_msg,
    }
    return kinds[message.kind]


def test_pyroute2_reads_our_messages_and_writes_the_same() -> None:
    """Of rules it can only read the expressions; sets with ranges it cannot even read."""
    key, target = ("tcp", "8080"), ("172.30.0.2", "80")
    messages = [
        *layout(),
        *nftables.add_elements([firewall.BRIDGES.element(["mdt0"], comment="mdt0 1 icc")]),
        *nftables.add_elements([firewall.PORTS4.element(key, target, "c" * 64)]),
        *nftables.delete_elements([firewall.PORTS4.element(key, target)]),
    ]
    written = 0
    for message in messages:
        if "flags interval" in message.text:
            continue
        raw = message.encode(7)
        read = _of_pyroute2(message)(raw)
        read.decode()
        if message.kind == 6:
            names = [one.get_attr("NFTA_EXPR_NAME") for one in read.get_attr("NFTA_RULE_EXPRESSIONS")]
            assert names[-1] in ("immediate", "masq", "nat")
            continue
        again = _of_pyroute2(message)()
        again["attrs"] = read["attrs"]
        again["nfgen_family"] = 1
        for field in ("type", "flags", "sequence_number"):
            again["header"][field] = read["header"][field]
        again.encode()
        ours, theirs = (data[:20] + _without_nested_flags(data[20:]) for data in (raw, bytes(again.data)))
        assert ours == theirs, message.text
        written += 1
    assert written > 20


def test_the_layout_has_a_new_number_when_it_changes() -> None:
    """The number tells the next start to write the rules anew; change it together with this digest."""
    text = "\n".join(message.text for message in layout())
    assert (firewall.LAYOUT, hashlib.sha256(text.encode()).hexdigest()[:16]) == (1, "4df588ecc22b869b")
