"""Further commands about containers: their limits, what runs in them, their names."""

from __future__ import annotations

from typing import Annotated

import typer

from minidock.cli import tree_limits as limit
from minidock.cli.groups import app, container, declare
from minidock.cli.tree_containers import Many, One
from minidock.cli.tree_images import Explain, Format, NoTrunc

Some = Annotated[list[str] | None, typer.Argument(metavar="[CONTAINER...]", show_default=False)]


@declare("pause", (app, "pause"), (container, "pause"))
def pause(containers: Many, explain: Explain = False) -> None:
    """Pause all processes of containers."""


@declare("unpause", (app, "unpause"), (container, "unpause"))
def unpause(containers: Many, explain: Explain = False) -> None:
    """Let paused containers go on."""


@declare("top", (app, "top"), (container, "top"), interspersed=False)
def top(
    container: One,
    options: Annotated[list[str] | None, typer.Argument(metavar="[PS OPTIONS]", show_default=False)] = None,
) -> None:
    """Show the processes of a container."""


@declare("stats", (app, "stats"), (container, "stats"))
def stats(
    containers: Some = None,
    all: Annotated[bool, typer.Option("--all", "-a", show_default=False, help="Show stopped containers too")] = False,
    format: Format = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", show_default=False, help="Show one result and end")] = False,
    no_trunc: NoTrunc = False,
) -> None:
    """Show what containers use of CPU, memory, network and block I/O."""


@declare("update", (app, "update"), (container, "update"))
def update(
    containers: Many,
    memory: limit.Memory = None,
    memory_swap: limit.MemorySwap = None,
    memory_reservation: limit.MemoryReservation = None,
    cpus: limit.Cpus = None,
    cpu_shares: limit.CpuShares = None,
    cpu_period: limit.CpuPeriod = None,
    cpu_quota: limit.CpuQuota = None,
    cpuset_cpus: limit.CpusetCpus = None,
    cpuset_mems: limit.CpusetMems = None,
    pids_limit: limit.PidsLimit = None,
    blkio_weight: limit.BlkioWeight = None,
    restart: Annotated[
        str | None,
        typer.Option("--restart", metavar="POLICY", help="'no', 'on-failure[:n]', 'always' or 'unless-stopped'"),
    ] = None,
    explain: Explain = False,
) -> None:
    """Change limits and restart policy of containers, running or not."""


@declare("rename", (app, "rename"), (container, "rename"))
def rename(
    container: One,
    new_name: Annotated[str, typer.Argument(metavar="NEW_NAME", show_default=False)],
) -> None:
    """Rename a container."""


@declare("port", (app, "port"), (container, "port"))
def port(
    container: One,
    private_port: Annotated[str | None, typer.Argument(metavar="[PRIVATE_PORT[/PROTO]]", show_default=False)] = None,
) -> None:
    """List the published ports of a container."""
