"""The rules of minidock's table, which never change; firewall.py tells what they are for.

Loaded only to make the table: a start finds it there.
"""

from __future__ import annotations

from minidock.linux import nftables as nft
from minidock.linux.nftrules import (
    IIFNAME_FIELD,
    IP6_DADDR_FIELD,
    IP6_SADDR_FIELD,
    IP_DADDR_FIELD,
    IP_SADDR_FIELD,
    L4PROTO_FIELD,
    NFPROTO_FIELD,
    OIFNAME_FIELD,
    PORT_FIELD,
    add_rule,
    dnat_by,
    from_loopback,
    is_answer,
    is_in,
    is_redirected,
    masquerade,
    not_from,
    to_loopback,
    to_this_host,
    verdict,
)
from minidock.network.firewall import (
    ADDRESS_PORTS4,
    ADDRESS_PORTS6,
    BRIDGES,
    INTERNAL,
    MASQUERADED,
    NETWORK_SETS,
    PORT_MAPS,
    PORTS4,
    PORTS6,
    TABLE,
    TALKING,
    WITHIN4,
    WITHIN6,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.linux.nfnetlink import Message
    from minidock.linux.nftrules import Clause


def layout() -> list[Message]:
    """The table with its sets, chains and rules; made once, and harmless when it is there already."""

    def base(name: str, kind: str, hook: str, priority: str) -> Message:
        return nft.add_base_chain(TABLE, name, kind, hook, priority)

    def rule(chain: str, *clauses: Clause) -> Message:
        return add_rule(TABLE, chain, *clauses)

    into, out_of = OIFNAME_FIELD, IIFNAME_FIELD
    protocol_port = (L4PROTO_FIELD, PORT_FIELD)
    drop, accept = verdict("drop"), verdict("accept")
    chains = [
        base("loopback_guard", "filter", "prerouting", "raw"),
        base("prerouting", "nat", "prerouting", "dstnat"),
        base("output", "nat", "output", "dstnat"),
        nft.add_chain(TABLE, "published"),
        base("forward", "filter", "forward", "filter"),
        base("postrouting", "nat", "postrouting", "srcnat"),
    ]
    names = ("loopback_guard", "prerouting", "output", "published", "forward", "postrouting")
    return [
        nft.add_table(TABLE),
        *(one.add(number) for number, one in enumerate((*NETWORK_SETS, *PORT_MAPS), 1)),
        *chains,
        *(nft.flush_chain(TABLE, name) for name in names),
        rule("loopback_guard", is_in([out_of], BRIDGES), to_loopback(), drop),
        rule("prerouting", not_from("lo"), to_loopback(), verdict("return")),
        rule("prerouting", to_this_host(), verdict("jump", "published")),
        rule("output", to_this_host(), verdict("jump", "published")),
        rule("published", dnat_by([IP_DADDR_FIELD, *protocol_port], ADDRESS_PORTS4)),
        rule("published", dnat_by(protocol_port, PORTS4)),
        rule("published", dnat_by([IP6_DADDR_FIELD, *protocol_port], ADDRESS_PORTS6)),
        rule("published", dnat_by(protocol_port, PORTS6)),
        rule("forward", is_in([out_of, into], TALKING), accept),
        rule("forward", is_in([out_of], INTERNAL), drop),
        rule("forward", is_in([into], INTERNAL), drop),
        rule("forward", is_in([into], BRIDGES), is_redirected(), accept),
        rule("forward", is_in([into], BRIDGES), is_answer(), accept),
        rule("forward", is_in([into], BRIDGES), drop),
        rule("postrouting", is_in([into], BRIDGES), from_loopback(), masquerade()),
        # Else the answer would go from container to container and past the translation. By the address, as a packet
        # that br_netfilter shows here has come by no link.
        rule("postrouting", is_in([into, IP_SADDR_FIELD], WITHIN4), is_redirected(), masquerade()),
        rule("postrouting", is_in([into, IP6_SADDR_FIELD], WITHIN6), is_redirected(), masquerade()),
        rule("postrouting", is_in([into], BRIDGES), verdict("return")),
        rule("postrouting", is_in([out_of, NFPROTO_FIELD], MASQUERADED), masquerade()),
    ]
