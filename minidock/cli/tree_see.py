"""The commands that only look at a data root, as they stand in the typer tree."""

from __future__ import annotations

from typing import Annotated

import typer

from minidock.cli.groups import app, declare
from minidock.cli.tree_images import Json, NoTrunc

ImageOrContainer = Annotated[str, typer.Argument(metavar="IMAGE|CONTAINER", show_default=False)]


@declare("explain", (app, "explain"))
def explain(
    name: ImageOrContainer,
    json: Json = False,
    shell: Annotated[
        bool, typer.Option("--shell", show_default=False, help="Print shell lines that take each step anew")
    ] = False,
    picture: Annotated[
        bool, typer.Option("--picture", show_default=False, help="Draw the layers and what a write does to them")
    ] = False,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE|-", help="Write the picture as one HTML page")
    ] = None,
    no_trunc: NoTrunc = False,
) -> None:
    """Show the way from a name to the bytes on the disk: hashes with their inputs, directories, the mount."""


@declare("blame", (app, "blame"))
def blame(
    name: ImageOrContainer,
    pattern: Annotated[str, typer.Argument(metavar="PATH|GLOB", show_default=False)],
    fixed: Annotated[
        bool, typer.Option("--fixed", "-F", show_default=False, help="Take * ? [ in the path as they are")
    ] = False,
    json: Json = False,
) -> None:
    """Show which layer put, changed, hid or deleted a path; ends with 0 if found, 1 if not, 2 on errors."""


@declare("who", (app, "who"))
def who(
    word: Annotated[str, typer.Argument(metavar="DIR|LINK|HASH|NAME|PATH", show_default=False)],
    json: Json = False,
) -> None:
    """Show whose a directory, a short name, a hash, a mount or a file of the data root is, and who needs it."""


@declare("du", (app, "du"))
def du(
    names: Annotated[list[str] | None, typer.Argument(metavar="[IMAGE|CONTAINER...]", show_default=False)] = None,
    bytes: Annotated[bool, typer.Option("--bytes", "-b", show_default=False, help="Show bytes")] = False,
    no_trunc: NoTrunc = False,
    json: Json = False,
) -> None:
    """Show what layers, images and containers take on the disk, and whose every other byte of the data root is."""


@declare("timeline", (app, "timeline"))
def timeline(
    name: Annotated[str | None, typer.Argument(metavar="[IMAGE|CONTAINER]", show_default=False)] = None,
    hash: Annotated[bool, typer.Option("--hash", show_default=False, help="Add each file's MD5")] = False,
    json: Json = False,
) -> None:
    """Write the times of every file of every layer as a body file, which mactime makes a timeline of."""
