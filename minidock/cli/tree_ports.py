"""The options of `create` and `run` about ports, as they stand in the typer tree."""

from __future__ import annotations

from typing import Annotated

import typer

Publish = Annotated[
    list[str] | None,
    typer.Option("--publish", "-p", metavar="[[IP:]PORT:]PORT[/PROTO]", help="Publish on the host (repeatable)"),
]
PublishAll = Annotated[
    bool, typer.Option("--publish-all", "-P", show_default=False, help="Publish all exposed ports, on free ones")
]
Expose = Annotated[
    list[str] | None, typer.Option("--expose", metavar="PORT[/PROTO]", help="Port that others may use (repeatable)")
]
