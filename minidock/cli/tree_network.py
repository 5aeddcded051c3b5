"""The options of `create` and `run` about networks, as they stand in the typer tree."""

from __future__ import annotations

from typing import Annotated

import typer

Network = Annotated[
    str | None,
    typer.Option("--network", "--net", metavar="NETWORK", help="'bridge', 'none', 'host', 'container:NAME' or a name"),
]
Alias = Annotated[
    list[str] | None,
    typer.Option("--network-alias", "--net-alias", metavar="NAME", help="Further name on its network (repeatable)"),
]
Ip = Annotated[str | None, typer.Option("--ip", metavar="ADDRESS", help="IPv4 address, e.g. 172.30.100.104")]
Ip6 = Annotated[str | None, typer.Option("--ip6", metavar="ADDRESS", help="IPv6 address, e.g. 2001:db8::33")]
MacAddress = Annotated[
    str | None, typer.Option("--mac-address", metavar="ADDRESS", help="Hardware address, e.g. 92:d0:c6:0a:29:33")
]
Dns = Annotated[list[str] | None, typer.Option("--dns", metavar="ADDRESS", help="Name server (repeatable)")]
DnsSearch = Annotated[
    list[str] | None, typer.Option("--dns-search", metavar="DOMAIN", help="Domain to look names up in (repeatable)")
]
DnsOption = Annotated[
    list[str] | None, typer.Option("--dns-option", "--dns-opt", metavar="OPTION", help="Resolver option (repeatable)")
]
AddHost = Annotated[
    list[str] | None,
    typer.Option("--add-host", metavar="NAME:ADDRESS", help="Line of /etc/hosts, 'host-gateway' the host (repeatable)"),
]
