"""minidock's own nftables table: ways out, isolation between networks, published ports.

    table inet minidock
        sets    bridges, internal, within4, within6, talking, masqueraded: an element for each network, as it applies
        maps    ports4, ports6, address_ports4, address_ports6: an element for each published port
        chains  loopback_guard, prerouting, output, published, forward, postrouting: rules that never change

Networks and ports come and go as elements; the rules look them up, at the same cost for one network as for a hundred.
Each element's comment begins with its owner, a bridge or a container's ID, so what a dead one left can be found.
Every change is one transaction, and no other table is read or touched. That has two sides: nobody's rules are lost,
but a packet that this table accepts may still be dropped by another (dropped_by_others finds whose policy would).

What the rules say:
- Packets into a network pass when they answer, or when they are to a published port, wherever they come from.
  So no network reaches another one's containers, except by ports that are published to everybody.
- An internal network passes nothing in or out, also not to published ports.
- Containers of one network talk freely; without icc nothing passes between them that the host could route.
- What leaves a network gets the address of the link by which it leaves.
- A published port is also reached by 127.0.0.1 of the host. That needs route_localnet on the bridge, which would open
  the host's own loopback services to containers (as CVE-2020-8558 did): loopback_guard drops packets from a bridge to
  127.0.0.0/8 before anything else sees them, and prerouting redirects none that come by a link.
"""

from __future__ import annotations

from minidock.errors import SyscallError
from minidock.linux import nftables as nft
from minidock.linux.nfnetlink import Nftables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from minidock.linux.nfnetlink import Message
    from minidock.trace import Trace

TABLE = "minidock"
# Part of every network's mark: with another layout the rules are written anew by the next start. See test_firewall.
LAYOUT = 1

BRIDGES = nft.NftSet(TABLE, "bridges", (nft.IFNAME,))
INTERNAL = nft.NftSet(TABLE, "internal", (nft.IFNAME,))
WITHIN4 = nft.NftSet(TABLE, "within4", (nft.IFNAME, nft.IPV4_ADDR), has_ranges=True)
WITHIN6 = nft.NftSet(TABLE, "within6", (nft.IFNAME, nft.IPV6_ADDR), has_ranges=True)
TALKING = nft.NftSet(TABLE, "talking", (nft.IFNAME, nft.IFNAME))
MASQUERADED = nft.NftSet(TABLE, "masqueraded", (nft.IFNAME, nft.NF_PROTO))
NETWORK_SETS = (BRIDGES, INTERNAL, WITHIN4, WITHIN6, TALKING, MASQUERADED)

_TARGET4 = (nft.IPV4_ADDR, nft.INET_SERVICE)
_TARGET6 = (nft.IPV6_ADDR, nft.INET_SERVICE)
PORTS4 = nft.NftSet(TABLE, "ports4", (nft.INET_PROTO, nft.INET_SERVICE), _TARGET4)
PORTS6 = nft.NftSet(TABLE, "ports6", (nft.INET_PROTO, nft.INET_SERVICE), _TARGET6)
ADDRESS_PORTS4 = nft.NftSet(TABLE, "address_ports4", (nft.IPV4_ADDR, nft.INET_PROTO, nft.INET_SERVICE), _TARGET4)
ADDRESS_PORTS6 = nft.NftSet(TABLE, "address_ports6", (nft.IPV6_ADDR, nft.INET_PROTO, nft.INET_SERVICE), _TARGET6)
PORT_MAPS = (PORTS4, PORTS6, ADDRESS_PORTS4, ADDRESS_PORTS6)

_ERESTART = 85
_NF_DROP = 0
_HOOK_FORWARD = 2


class NetworkRules:
    """What a network's rules are to do.

    Shape: bridge: its name; subnets: in CIDR form, IPv4 and IPv6; internal: no way out or in; icc: its containers may
           talk to each other; masquerade: they leave with the host's address
    """

    __slots__ = ("bridge", "icc", "internal", "masquerade", "subnets")

    def __init__(
        self,
        bridge: str,
        subnets: tuple[str, ...],
        *,
        internal: bool = False,
        icc: bool = True,
        masquerade: bool = True,
    ) -> None:
        self.bridge = bridge
        self.subnets = subnets
        self.internal = internal
        self.icc = icc
        self.masquerade = masquerade

    def elements(self) -> list[nft.Element]:
        """The network's elements; the first one, in bridges, says in its comment what the others are."""
        name = self.bridge
        kinds = [kind for kind, mark in (("ipv4", "."), ("ipv6", ":")) if any(mark in one for one in self.subnets)]
        if self.internal or not self.masquerade:
            kinds = []
        traits = [*(["icc"] if self.icc else []), *(["internal"] if self.internal else []), *kinds]
        found = [BRIDGES.element([name], comment=f"{name} {LAYOUT} {','.join(traits)}".rstrip())]
        for subnet in self.subnets:
            found.append((WITHIN6 if ":" in subnet else WITHIN4).element([name, subnet], comment=name))
        if self.icc:
            found.append(TALKING.element([name, name], comment=name))
        if self.internal:
            found.append(INTERNAL.element([name], comment=name))
        return found + [MASQUERADED.element([name, kind], comment=name) for kind in kinds]


def ensure_network(rules: NetworkRules, *, trace: Trace | None = None) -> None:
    """Make this bridge's rules, or make them anew when they are not as they should be.

    Raises: SyscallError
    """
    wanted = rules.elements()
    mark = wanted[0]
    question, kind, body = BRIDGES.listing()

    def plan(socket: Nftables) -> Sequence[Message]:
        answer = socket.get(question, kind, body + nft.one_of(mark))
        if answer is not None and any(one.comment == mark.comment for one in BRIDGES.elements_of([answer])):
            return ()
        is_laid = any(one.comment.split(" ")[1:2] == [str(LAYOUT)] for one in elements(socket, BRIDGES))
        mine = owned(socket, NETWORK_SETS, rules.bridge)
        changes = [*_deletions(mine), *_additions(wanted)]
        if is_laid:
            return changes
        from minidock.network.ruleset import layout

        return [*layout(), *changes]

    change(plan, trace=trace)


def remove_network(bridge: str, *, trace: Trace | None = None) -> None:
    """Remove this bridge's rules, if there are any, and with the last network's the whole table.

    Raises: SyscallError
    """

    def plan(socket: Nftables) -> Sequence[Message]:
        mine = owned(socket, NETWORK_SETS, bridge)
        if not mine:
            return ()
        everything = [one for found in (*NETWORK_SETS, *PORT_MAPS) for one in elements(socket, found)]
        if len(everything) == len(mine):
            return [nft.delete_table(TABLE)]
        return _deletions(mine)

    change(plan, trace=trace)


def networks() -> set[str]:
    """The bridges that have rules. Raises: SyscallError"""
    with Nftables() as socket:
        return {owner_of(one) for one in elements(socket, BRIDGES)}


def dropped_by_others() -> list[str]:
    """The chains of other tables by whose policy forwarded packets are dropped, `ip filter FORWARD`.

    This table cannot overrule them: what they do not accept themselves does not arrive.
    Raises: SyscallError
    """
    from minidock.linux.nfnetlink import attributes

    families = {1: "inet", 2: "ip", 10: "ip6"}
    found = []
    with Nftables() as socket:
        for number, family in families.items():
            for answer in socket.dump(f"nft list chains {family}", nft.GET_CHAIN, b"", family=number):
                values = dict(attributes(answer))
                hook = dict(attributes(values.get(4, b""))).get(1)
                policy = int.from_bytes(values.get(5, b"\xff"), "big")
                if hook and int.from_bytes(hook, "big") == _HOOK_FORWARD and policy == _NF_DROP:
                    names = [values[key].rstrip(b"\0").decode("utf-8", "replace") for key in (1, 3)]
                    found.append(" ".join((family, *names)))
    return found


def change(plan: Callable[[Nftables], Sequence[Message]], *, trace: Trace | None = None) -> None:
    """Read, decide, change: again from the start when somebody else has changed anything meanwhile.

    Shape:  plan: what is to be changed, given what there is; nothing for no change
    Raises: SyscallError
    """
    with Nftables() as socket:
        while True:
            generation = socket.generation()
            messages = plan(socket)
            try:
                socket.commit(messages, generation=generation)
            except SyscallError as error:
                if error.errno == _ERESTART:
                    continue
                raise
            if trace is not None:
                for message in messages:
                    trace("network", message.text)
            return


def owner_of(element: nft.Element) -> str:
    """Whose an element is: a bridge's name or a container's ID."""
    return element.comment.partition(" ")[0]


def owned(socket: Nftables, sets: Iterable[nft.NftSet], owner: str) -> list[nft.Element]:
    """The elements of these sets that are this owner's."""
    return [one for found in sets for one in elements(socket, found) if owner_of(one) == owner]


def elements(socket: Nftables, found_in: nft.NftSet) -> list[nft.Element]:
    """All elements of a set; none when the table is not there."""
    question, kind, body = found_in.listing()
    return found_in.elements_of(socket.dump(question, kind, body))


def _deletions(elements: Sequence[nft.Element]) -> list[Message]:
    return [message for some in _by_set(elements) for message in nft.delete_elements(some)]


def _additions(elements: Sequence[nft.Element]) -> list[Message]:
    return [message for some in _by_set(elements) for message in nft.add_elements(some)]


def _by_set(elements: Sequence[nft.Element]) -> list[list[nft.Element]]:
    groups: dict[str, list[nft.Element]] = {}
    for element in elements:
        groups.setdefault(element.set.name, []).append(element)
    return list(groups.values())
