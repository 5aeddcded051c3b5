"""The commands about volumes, and those that clear up, as they stand in the typer tree."""

from __future__ import annotations

from typing import Annotated

import typer

from minidock.cli.groups import app, container, declare, image, system, volume
from minidock.cli.tree_images import Explain, Filter, Format, InspectFormat

Names = Annotated[list[str], typer.Argument(metavar="VOLUME [VOLUME...]", show_default=False)]
Force = Annotated[bool, typer.Option("--force", "-f", show_default=False, help="Do not ask")]
PruneFilter = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="KEY=VALUE", help="'until=<time>', 'label=<key>[=<value>]' (repeatable)"),
]
Label = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Label (repeatable)")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", show_default=False, help="Show names only")]


@declare("volume_create", (volume, "create"))
def volume_create(
    name: Annotated[str | None, typer.Argument(metavar="[VOLUME]", show_default=False)] = None,
    driver: Annotated[str, typer.Option("--driver", "-d", metavar="NAME", help="Only 'local'")] = "local",
    label: Label = None,
    opt: Annotated[
        list[str] | None, typer.Option("--opt", "-o", metavar="KEY=VALUE", help="type, device, o: what to mount")
    ] = None,
    given_name: Annotated[str | None, typer.Option("--name", metavar="NAME", hidden=True)] = None,
) -> None:
    """Make a volume."""


@declare("volume_ls", (volume, "ls"), (volume, "list"))
def volume_ls(filter: Filter = None, format: Format = None, quiet: Quiet = False) -> None:
    """List volumes."""


@declare("volume_inspect", (volume, "inspect"))
def volume_inspect(names: Names, format: InspectFormat = None) -> None:
    """Show all that is recorded about volumes."""


@declare("volume_rm", (volume, "rm"), (volume, "remove"))
def volume_rm(
    names: Names,
    force: Annotated[
        bool, typer.Option("--force", "-f", show_default=False, help="One that is not there is fine")
    ] = False,
) -> None:
    """Remove volumes that no container uses."""


@declare("prune", (volume, "prune"), what="volume")
def volume_prune(
    all: Annotated[bool, typer.Option("--all", "-a", show_default=False, help="Remove named volumes too")] = False,
    filter: PruneFilter = None,
    force: Force = False,
) -> None:
    """Remove the anonymous volumes that no container uses."""


@declare("prune", (container, "prune"), what="container")
def container_prune(filter: PruneFilter = None, force: Force = False) -> None:
    """Remove all stopped containers."""


@declare("prune", (image, "prune"), what="image")
def image_prune(
    all: Annotated[
        bool, typer.Option("--all", "-a", show_default=False, help="Remove all images that no container uses")
    ] = False,
    filter: PruneFilter = None,
    force: Force = False,
) -> None:
    """Remove images without a name."""


@declare("prune", (system, "prune"), what="system")
def system_prune(
    all: Annotated[
        bool, typer.Option("--all", "-a", show_default=False, help="Remove all images that no container uses")
    ] = False,
    volumes: Annotated[
        bool, typer.Option("--volumes", show_default=False, help="Remove anonymous volumes too")
    ] = False,
    filter: PruneFilter = None,
    force: Force = False,
) -> None:
    """Remove stopped containers and what nothing uses."""


@declare("cp", (app, "cp"), (container, "cp"))
def cp(
    source: Annotated[str, typer.Argument(metavar="CONTAINER:PATH|PATH|-", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="PATH|CONTAINER:PATH|-", show_default=False)],
    archive: Annotated[
        bool, typer.Option("--archive", "-a", show_default=False, help="Keep the owners when copying out")
    ] = False,
    follow_link: Annotated[
        bool,
        typer.Option("--follow-link", "-L", show_default=False, help="Follow a symlink at the source"),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", show_default=False, help="Nothing is shown anyway")] = False,
    explain: Explain = False,
) -> None:
    """Copy between a container and the host, or out of an image; '-' is a tar on standard input or output."""


@declare("system_df", (system, "df"))
def system_df(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", show_default=False, help="Show each thing")] = False,
    format: Format = None,
) -> None:
    """Show what images, containers and volumes take on the disk."""
