"""The commands that verify, mend and clear up a data root, as they stand in the typer tree."""

from __future__ import annotations

from typing import Annotated

import typer

from minidock.cli.groups import app, declare, image
from minidock.cli.tree_images import Json

Quiet = Annotated[bool, typer.Option("--quiet", "-q", show_default=False, help="Show only what is wrong")]


@declare("verify", (app, "verify"), (image, "verify"))
def verify(
    images: Annotated[list[str] | None, typer.Argument(metavar="[IMAGE...]", show_default=False)] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Hold every file of images against the digests and headers that it came with."""
