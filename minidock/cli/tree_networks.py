"""The commands about networks, as they stand in the typer tree."""

from __future__ import annotations

from typing import Annotated

import typer

from minidock.cli.groups import declare, network
from minidock.cli.tree_images import Explain, Filter, Format, InspectFormat, NoTrunc
from minidock.cli.tree_network import Ip, Ip6
from minidock.cli.tree_volumes import Force, PruneFilter

Names = Annotated[list[str], typer.Argument(metavar="NETWORK [NETWORK...]", show_default=False)]
One = Annotated[str, typer.Argument(metavar="NETWORK", show_default=False)]
Container = Annotated[str, typer.Argument(metavar="CONTAINER", show_default=False)]


@declare("network_create", (network, "create"))
def network_create(
    name: One,
    driver: Annotated[str, typer.Option("--driver", "-d", metavar="NAME", help="Only 'bridge'")] = "bridge",
    subnet: Annotated[
        list[str] | None, typer.Option("--subnet", metavar="CIDR", help="Addresses, one range a family (repeatable)")
    ] = None,
    gateway: Annotated[
        list[str] | None, typer.Option("--gateway", metavar="ADDRESS", help="The host's address there (repeatable)")
    ] = None,
    ip_range: Annotated[
        list[str] | None, typer.Option("--ip-range", metavar="CIDR", help="Part that containers get (repeatable)")
    ] = None,
    internal: Annotated[bool, typer.Option("--internal", show_default=False, help="No way out or in")] = False,
    ipv6: Annotated[bool, typer.Option("--ipv6", show_default=False, help="IPv6 too; needs a --subnet of it")] = False,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Label (repeatable)")] = None,
    opt: Annotated[
        list[str] | None,
        typer.Option("--opt", "-o", metavar="KEY=VALUE", help="com.docker.network.bridge.name, ... (repeatable)"),
    ] = None,
    explain: Explain = False,
) -> None:
    """Make a network."""


@declare("network_ls", (network, "ls"), (network, "list"))
def network_ls(
    filter: Filter = None,
    format: Format = None,
    no_trunc: NoTrunc = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", show_default=False, help="Show IDs only")] = False,
) -> None:
    """List networks."""


@declare("network_inspect", (network, "inspect"))
def network_inspect(
    names: Names,
    format: InspectFormat = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", show_default=False, help="docker's; there is no more to show")
    ] = False,
) -> None:
    """Show all that is recorded about networks."""


@declare("network_rm", (network, "rm"), (network, "remove"))
def network_rm(
    names: Names,
    force: Annotated[
        bool, typer.Option("--force", "-f", show_default=False, help="One that is not there is fine")
    ] = False,
    explain: Explain = False,
) -> None:
    """Remove networks that no running container is on."""


@declare("network_connect", (network, "connect"))
def network_connect(
    name: One,
    container: Container,
    alias: Annotated[
        list[str] | None, typer.Option("--alias", metavar="NAME", help="Further name there (repeatable)")
    ] = None,
    ip: Ip = None,
    ip6: Ip6 = None,
    explain: Explain = False,
) -> None:
    """Connect a container, running or not, to one more network."""


@declare("network_disconnect", (network, "disconnect"))
def network_disconnect(
    name: One,
    container: Container,
    force: Annotated[
        bool, typer.Option("--force", "-f", show_default=False, help="A container that has gone is fine")
    ] = False,
    explain: Explain = False,
) -> None:
    """Take a container off a network."""


@declare("prune", (network, "prune"), what="network")
def network_prune(filter: PruneFilter = None, force: Force = False) -> None:
    """Remove the networks that no running container is on."""
