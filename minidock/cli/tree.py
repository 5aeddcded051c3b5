"""The command line's one definition: a typer tree with docker's spelling.

Help, errors and shell completion are served from here; `compile_grammar` makes the hot commands' grammar from it.
"""

from __future__ import annotations

from typing import Annotated

import typer

import minidock.cli.tree_containers
import minidock.cli.tree_images
import minidock.cli.tree_networks
import minidock.cli.tree_repair
import minidock.cli.tree_running
import minidock.cli.tree_see
import minidock.cli.tree_volumes  # noqa: F401
from minidock import __version__
from minidock.cli.groups import app, container, image, network, system, volume

for group in (container, image, network, system, volume):
    app.add_typer(group)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"minidock version {__version__}")
        raise typer.Exit


@app.callback()
def minidock_options(
    root: Annotated[
        str | None,
        typer.Option("--root", metavar="DIR", help="Data root (default $MINIDOCK_ROOT, then /var/lib/minidock)"),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", show_default=False, help="Show each real step on standard error as it happens")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-v",
            is_eager=True,
            callback=_show_version,
            show_default=False,
            help="Show the version and end",
        ),
    ] = False,
) -> None:
    """Docker's images and containers without a daemon, on Docker's own data root."""
