"""The options of `create` and `run` about security and isolation, as they stand in the typer tree."""

from __future__ import annotations

from typing import Annotated

import typer

SecurityOpt = Annotated[
    list[str] | None,
    typer.Option("--security-opt", metavar="NAME=VALUE", help="seccomp=FILE|unconfined, no-new-privileges, ..."),
]
Pid = Annotated[
    str | None, typer.Option("--pid", metavar="MODE", help="'host' or 'container:NAME': see those processes")
]
Ipc = Annotated[
    str | None, typer.Option("--ipc", metavar="MODE", help="'private', 'shareable', 'none', 'host' or 'container:NAME'")
]
Uts = Annotated[str | None, typer.Option("--uts", metavar="MODE", help="'host' or 'container:NAME': have that name")]
Userns = Annotated[
    str | None,
    typer.Option("--userns", metavar="MODE", help="'host', or 'remap[:USER]': root inside is one of USER's subuids"),
]
OomScoreAdj = Annotated[
    int | None, typer.Option("--oom-score-adj", metavar="SCORE", help="-1000 to 1000: how soon memory runs out for it")
]
Sysctl = Annotated[
    list[str] | None, typer.Option("--sysctl", metavar="KEY=VALUE", help="Kernel setting of its own (repeatable)")
]
Ulimit = Annotated[
    list[str] | None, typer.Option("--ulimit", metavar="NAME=SOFT[:HARD]", help="Resource limit (repeatable)")
]
Device = Annotated[
    list[str] | None, typer.Option("--device", metavar="HOST[:INSIDE[:rwm]]", help="Show a device inside (repeatable)")
]
