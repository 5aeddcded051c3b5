"""Further commands about containers: what runs in them and what it says, their limits, their names."""

from __future__ import annotations

from typing import Annotated

import typer

from minidock.cli import tree_limits as limit
from minidock.cli.groups import app, container, declare
from minidock.cli.tree_containers import (
    Env,
    EnvFile,
    Interactive,
    KeysToDetach,
    Many,
    One,
    Privileged,
    SigProxy,
    Tty,
    User,
    Workdir,
)
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
    cpu_rt_period: limit.CpuRtPeriod = None,
    cpu_rt_runtime: limit.CpuRtRuntime = None,
    kernel_memory: limit.KernelMemory = None,
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


@declare("attach", (app, "attach"), (container, "attach"))
def attach(
    container: One,
    no_stdin: Annotated[bool, typer.Option("--no-stdin", show_default=False, help="Keep one's own input")] = False,
    sig_proxy: SigProxy = True,
    detach_keys: KeysToDetach = None,
) -> None:
    """Attach to a running container's streams."""


@declare("wait", (app, "wait"), (container, "wait"))
def wait(containers: Many) -> None:
    """Wait until containers end and print their exit codes."""


@declare("exec", (app, "exec"), (container, "exec"), interspersed=False)
def exec_(
    container: One,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND [ARG...]", show_default=False)],
    detach: Annotated[bool, typer.Option("--detach", "-d", show_default=False, help="Run in the background")] = False,
    detach_keys: KeysToDetach = None,
    interactive: Interactive = False,
    tty: Tty = False,
    env: Env = None,
    env_file: EnvFile = None,
    workdir: Workdir = None,
    user: User = None,
    privileged: Privileged = False,
    explain: Explain = False,
) -> None:
    """Run a further command in a running container."""


@declare("logs", (app, "logs"), (container, "logs"))
def logs(
    container: One,
    follow: Annotated[bool, typer.Option("--follow", "-f", show_default=False, help="Go on as output comes")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From this time on: RFC 3339, seconds, or '42m'")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Up to this time: RFC 3339, seconds, or '42m'")
    ] = None,
    tail: Annotated[str, typer.Option("--tail", "-n", metavar="LINES", help="Only the last lines")] = "all",
    timestamps: Annotated[
        bool, typer.Option("--timestamps", "-t", show_default=False, help="Show each line's time")
    ] = False,
    details: Annotated[
        bool, typer.Option("--details", show_default=False, help="Show what --log-opt labels and env added")
    ] = False,
) -> None:
    """Show a container's output."""
