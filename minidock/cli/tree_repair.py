"""The commands that verify, mend and clear up a data root, as they stand in the typer tree."""

from __future__ import annotations

from typing import Annotated

import typer

from minidock.cli.groups import app, declare, image, system
from minidock.cli.tree_images import Explain, Json

Quiet = Annotated[bool, typer.Option("--quiet", "-q", show_default=False, help="Show only what is wrong")]


@declare("verify", (app, "verify"), (image, "verify"))
def verify(
    images: Annotated[list[str] | None, typer.Argument(metavar="[IMAGE...]", show_default=False)] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Hold every file of images against the digests and headers that it came with."""


@declare("fsck", (app, "fsck"), (system, "fsck"))
def fsck(
    repair: Annotated[
        bool, typer.Option("--repair", show_default=False, help="Mend what can be proven, after a plan was shown")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", show_default=False, help="Do not ask")] = False,
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="FILE", help="Only write the plan of repairs to FILE, '-' for output"),
    ] = None,
    apply: Annotated[
        str | None, typer.Option("--apply", metavar="FILE", help="Execute a plan that --plan wrote")
    ] = None,
    json: Json = False,
) -> None:
    """Name every fault in the structure of the data root; the exit status tells how bad it is."""


@declare("undo", (app, "undo"), (system, "undo"))
def undo(
    trash_id: Annotated[str | None, typer.Argument(metavar="[ID]", show_default=False)] = None,
    list: Annotated[bool, typer.Option("--list", "-l", show_default=False, help="Show what lies in the trash")] = False,
    json: Json = False,
) -> None:
    """Put back, byte for byte, what fsck --repair, gc or adopt replaced or took away."""


@declare("gc", (app, "gc"), (system, "gc"))
def gc(
    names: Annotated[list[str] | None, typer.Argument(metavar="[FILE|ID...]", show_default=False)] = None,
    plan: Annotated[
        bool, typer.Option("--plan", show_default=False, help="Show what nothing refers to, or write it to FILE")
    ] = False,
    apply: Annotated[
        str | None, typer.Option("--apply", metavar="PLAN", help="Move to the trash what a plan's file names")
    ] = None,
    empty_trash: Annotated[
        bool, typer.Option("--empty-trash", show_default=False, help="Delete the trash for good, or these IDs of it")
    ] = False,
    json: Json = False,
) -> None:
    """Find what nothing in the data root refers to; --apply moves it to a trash that undo restores."""


@declare("mount", (app, "mount"))
def mount(
    name: Annotated[str | None, typer.Argument(metavar="[IMAGE|CONTAINER|LAYER]", show_default=False)] = None,
    directory: Annotated[str | None, typer.Argument(metavar="[DIR]", show_default=False)] = None,
    json: Json = False,
    explain: Explain = False,
) -> None:
    """Mount a read-only view of an image, a container or a layer, or list what is mounted."""


@declare("umount", (app, "umount"))
def umount(
    directories: Annotated[list[str], typer.Argument(metavar="DIR [DIR...]", show_default=False)],
) -> None:
    """Take views away that `mount` made."""


@declare("adopt", (app, "adopt"), interspersed=False)
def adopt(
    directory: Annotated[str, typer.Argument(metavar="DIR", show_default=False)],
    command: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND] [ARG...]", show_default=False)] = None,
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="IMAGE", help="What lies below, where the directory no longer tells"),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name of the container")] = None,
    json: Json = False,
) -> None:
    """Make a container of what a lost one had written: an orphaned directory of overlay2/."""
