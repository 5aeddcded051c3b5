"""The groups of commands, and how a command enters them: once defined, under every name docker has for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import typer

from minidock.cli.pflag import FIXED, HANDLER, Command, Group

Declaration: TypeAlias = Callable[..., None]

PLAIN: dict[str, Any] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "cls": Group,
    "no_args_is_help": True,
}

app = typer.Typer(name="minidock", help="Docker's images and containers without a daemon.", **PLAIN)
container = typer.Typer(name="container", help="Manage containers", add_completion=False, **PLAIN)
image = typer.Typer(name="image", help="Manage images", add_completion=False, **PLAIN)
system = typer.Typer(name="system", help="Manage the data root", add_completion=False, **PLAIN)
network = typer.Typer(name="network", help="Manage networks", add_completion=False, **PLAIN)
volume = typer.Typer(name="volume", help="Manage volumes", add_completion=False, **PLAIN)


def declare(
    handler: str,
    *places: tuple[typer.Typer, str],
    interspersed: bool = True,
    **fixed: str,
) -> Callable[[Declaration], Declaration]:
    """Enter a declaration into the tree.

    Shape:   handler names minidock.cli.commands.<handler>; places are (group, name), the first one is the command's
             own, the others are docker's further names for it; interspersed False ends the options at the first
             argument; fixed are options that a place implies
    """

    def enter(declaration: Declaration) -> Declaration:
        setattr(declaration, HANDLER, handler)
        setattr(declaration, FIXED, fixed)
        settings = {"allow_interspersed_args": interspersed}
        for number, (group, name) in enumerate(places):
            hidden = group is not app and number > 0 and places[number - 1][0] is group
            group.command(name, cls=Command, context_settings=settings, hidden=hidden)(declaration)
        return declaration

    return enter
