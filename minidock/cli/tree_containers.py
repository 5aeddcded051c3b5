"""The commands about containers, as they stand in the typer tree."""

from __future__ import annotations

from typing import Annotated

import typer

from minidock.cli import tree_isolation as isolation
from minidock.cli import tree_life as life
from minidock.cli import tree_limits as limit
from minidock.cli import tree_network as net
from minidock.cli import tree_ports as port_options
from minidock.cli.groups import app, container, declare
from minidock.cli.tree_images import Explain, Filter, Format, InspectFormat, Json, NoTrunc, Reproducible

Many = Annotated[list[str], typer.Argument(metavar="CONTAINER [CONTAINER...]", show_default=False)]
One = Annotated[str, typer.Argument(metavar="CONTAINER", show_default=False)]
Image = Annotated[str, typer.Argument(metavar="IMAGE", show_default=False)]
CommandWords = Annotated[list[str] | None, typer.Argument(metavar="[COMMAND] [ARG...]", show_default=False)]
Env = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", metavar="NAME[=VALUE]", help="Set a variable, or pass on the caller's (repeatable)"),
]
EnvFile = Annotated[
    list[str] | None, typer.Option("--env-file", metavar="FILE", help="Read variables from a file (repeatable)")
]
Workdir = Annotated[str | None, typer.Option("--workdir", "-w", metavar="DIR", help="Working directory inside")]
User = Annotated[
    str | None, typer.Option("--user", "-u", metavar="USER[:GROUP]", help="Names or numbers, resolved inside")
]
Interactive = Annotated[bool, typer.Option("--interactive", "-i", show_default=False, help="Keep standard input open")]
Tty = Annotated[bool, typer.Option("--tty", "-t", show_default=False, help="Give the command a terminal")]
Privileged = Annotated[bool, typer.Option("--privileged", show_default=False, help="All capabilities and devices")]
Name = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name of the container")]
Label = Annotated[list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="Label (repeatable)")]
LabelFile = Annotated[
    list[str] | None, typer.Option("--label-file", metavar="FILE", help="Read labels from a file (repeatable)")
]
Hostname = Annotated[str | None, typer.Option("--hostname", "-h", metavar="NAME", help="Host name inside")]
Entrypoint = Annotated[
    str | None, typer.Option("--entrypoint", metavar="PROGRAM", help="Use this instead of the image's entrypoint")
]
Volume = Annotated[
    list[str] | None,
    typer.Option(
        "--volume", "-v", metavar="[SOURCE:]TARGET[:OPTIONS]", help="Bind a host path, or mount a volume (repeatable)"
    ),
]
VolumesFrom = Annotated[
    list[str] | None,
    typer.Option("--volumes-from", metavar="CONTAINER[:ro]", help="Mount what that container mounts (repeatable)"),
]
Mount = Annotated[
    list[str] | None,
    typer.Option("--mount", metavar="type=bind,source=...,target=...", help="Bind, volume or tmpfs mount (repeatable)"),
]
Tmpfs = Annotated[
    list[str] | None, typer.Option("--tmpfs", metavar="TARGET[:OPTIONS]", help="Mount a tmpfs (repeatable)")
]
ReadOnly = Annotated[bool, typer.Option("--read-only", show_default=False, help="Make the root read-only")]
CapAdd = Annotated[
    list[str] | None, typer.Option("--cap-add", metavar="CAPABILITY", help="Add a capability (repeatable)")
]
CapDrop = Annotated[
    list[str] | None, typer.Option("--cap-drop", metavar="CAPABILITY", help="Drop a capability (repeatable)")
]
GroupAdd = Annotated[list[str] | None, typer.Option("--group-add", metavar="GROUP", help="Further group (repeatable)")]
Init = Annotated[
    bool, typer.Option("--init", show_default=False, help="Run a small init that reaps and passes signals on")
]
Detach = Annotated[
    bool, typer.Option("--detach", "-d", show_default=False, help="Run in the background and print the ID")
]
Rm = Annotated[bool, typer.Option("--rm", show_default=False, help="Remove the container when it ends")]
Attach = Annotated[
    list[str] | None,
    typer.Option("--attach", "-a", metavar="STREAM", help="Attach to STDIN, STDOUT or STDERR (repeatable)"),
]
SigProxy = Annotated[bool, typer.Option("--sig-proxy", help="Pass signals on to the container")]
KeysToDetach = Annotated[
    str | None, typer.Option("--detach-keys", metavar="KEYS", help="Keys that detach (ctrl-p,ctrl-q)")
]
CidFile = Annotated[str | None, typer.Option("--cidfile", metavar="FILE", help="Write the container ID to a file")]
Pull = Annotated[
    str, typer.Option("--pull", metavar="WHEN", help="'missing' or 'never'; there is no registry to pull from")
]
StopSignal = Annotated[
    str | None, typer.Option("--stop-signal", metavar="SIGNAL", help="Signal that `stop` sends first")
]
StopTimeout = Annotated[int | None, typer.Option("--stop-timeout", metavar="SECONDS", help="How long `stop` waits")]
ShmSize = Annotated[str | None, typer.Option("--shm-size", metavar="BYTES", help="Size of /dev/shm, e.g. 64m")]


@declare("run", (app, "run"), (container, "run"), interspersed=False)
def run(
    image: Image,
    command: CommandWords = None,
    detach: Detach = False,
    attach: Attach = None,
    sig_proxy: SigProxy = True,
    detach_keys: KeysToDetach = None,
    interactive: Interactive = False,
    tty: Tty = False,
    rm: Rm = False,
    name: Name = None,
    env: Env = None,
    env_file: EnvFile = None,
    workdir: Workdir = None,
    user: User = None,
    hostname: Hostname = None,
    entrypoint: Entrypoint = None,
    volume: Volume = None,
    volumes_from: VolumesFrom = None,
    mount: Mount = None,
    tmpfs: Tmpfs = None,
    read_only: ReadOnly = False,
    network: net.Network = None,
    network_alias: net.Alias = None,
    ip: net.Ip = None,
    ip6: net.Ip6 = None,
    mac_address: net.MacAddress = None,
    dns: net.Dns = None,
    dns_search: net.DnsSearch = None,
    dns_option: net.DnsOption = None,
    add_host: net.AddHost = None,
    cap_add: CapAdd = None,
    cap_drop: CapDrop = None,
    group_add: GroupAdd = None,
    privileged: Privileged = False,
    init: Init = False,
    label: Label = None,
    label_file: LabelFile = None,
    publish: port_options.Publish = None,
    publish_all: port_options.PublishAll = False,
    expose: port_options.Expose = None,
    cidfile: CidFile = None,
    pull: Pull = "missing",
    restart: life.Restart = None,
    log_driver: life.LogDriver = None,
    log_opt: life.LogOpt = None,
    health_cmd: life.HealthCmd = None,
    health_interval: life.HealthInterval = None,
    health_timeout: life.HealthTimeout = None,
    health_start_period: life.HealthStart = None,
    health_retries: life.HealthRetries = None,
    no_healthcheck: life.NoHealth = False,
    stop_signal: StopSignal = None,
    stop_timeout: StopTimeout = None,
    shm_size: ShmSize = None,
    memory: limit.Memory = None,
    memory_swap: limit.MemorySwap = None,
    memory_reservation: limit.MemoryReservation = None,
    memory_swappiness: limit.MemorySwappiness = None,
    oom_kill_disable: limit.OomKillDisable = False,
    cpus: limit.Cpus = None,
    cpu_shares: limit.CpuShares = None,
    cpu_period: limit.CpuPeriod = None,
    cpu_quota: limit.CpuQuota = None,
    cpuset_cpus: limit.CpusetCpus = None,
    cpuset_mems: limit.CpusetMems = None,
    pids_limit: limit.PidsLimit = None,
    blkio_weight: limit.BlkioWeight = None,
    blkio_weight_device: limit.BlkioWeightDevice = None,
    device_read_bps: limit.DeviceReadBps = None,
    device_write_bps: limit.DeviceWriteBps = None,
    device_read_iops: limit.DeviceReadIops = None,
    device_write_iops: limit.DeviceWriteIops = None,
    cpu_rt_period: limit.CpuRtPeriod = None,
    cpu_rt_runtime: limit.CpuRtRuntime = None,
    kernel_memory: limit.KernelMemory = None,
    cgroup_parent: limit.CgroupParent = None,
    cgroupns: limit.Cgroupns = None,
    device_cgroup_rule: limit.DeviceCgroupRule = None,
    domainname: life.Domainname = None,
    platform: life.Platform = None,
    runtime: life.Runtime = None,
    isolation: life.IsolationMode = None,
    volume_driver: life.VolumeDriver = None,
    storage_opt: life.StorageOpt = None,
    gpus: life.Gpus = None,
    link: life.Link = None,
    disable_content_trust: life.ContentTrust = True,
    security_opt: isolation.SecurityOpt = None,
    pid: isolation.Pid = None,
    ipc: isolation.Ipc = None,
    uts: isolation.Uts = None,
    userns: isolation.Userns = None,
    oom_score_adj: isolation.OomScoreAdj = None,
    sysctl: isolation.Sysctl = None,
    ulimit: isolation.Ulimit = None,
    device: isolation.Device = None,
    explain: Explain = False,
) -> None:
    """Make a container from an image and run a command in it."""


@declare("create", (app, "create"), (container, "create"), interspersed=False)
def create(
    image: Image,
    command: CommandWords = None,
    attach: Attach = None,
    interactive: Interactive = False,
    tty: Tty = False,
    rm: Rm = False,
    name: Name = None,
    env: Env = None,
    env_file: EnvFile = None,
    workdir: Workdir = None,
    user: User = None,
    hostname: Hostname = None,
    entrypoint: Entrypoint = None,
    volume: Volume = None,
    volumes_from: VolumesFrom = None,
    mount: Mount = None,
    tmpfs: Tmpfs = None,
    read_only: ReadOnly = False,
    network: net.Network = None,
    network_alias: net.Alias = None,
    ip: net.Ip = None,
    ip6: net.Ip6 = None,
    mac_address: net.MacAddress = None,
    dns: net.Dns = None,
    dns_search: net.DnsSearch = None,
    dns_option: net.DnsOption = None,
    add_host: net.AddHost = None,
    cap_add: CapAdd = None,
    cap_drop: CapDrop = None,
    group_add: GroupAdd = None,
    privileged: Privileged = False,
    init: Init = False,
    label: Label = None,
    label_file: LabelFile = None,
    publish: port_options.Publish = None,
    publish_all: port_options.PublishAll = False,
    expose: port_options.Expose = None,
    cidfile: CidFile = None,
    pull: Pull = "missing",
    restart: life.Restart = None,
    log_driver: life.LogDriver = None,
    log_opt: life.LogOpt = None,
    health_cmd: life.HealthCmd = None,
    health_interval: life.HealthInterval = None,
    health_timeout: life.HealthTimeout = None,
    health_start_period: life.HealthStart = None,
    health_retries: life.HealthRetries = None,
    no_healthcheck: life.NoHealth = False,
    stop_signal: StopSignal = None,
    stop_timeout: StopTimeout = None,
    shm_size: ShmSize = None,
    memory: limit.Memory = None,
    memory_swap: limit.MemorySwap = None,
    memory_reservation: limit.MemoryReservation = None,
    memory_swappiness: limit.MemorySwappiness = None,
    oom_kill_disable: limit.OomKillDisable = False,
    cpus: limit.Cpus = None,
    cpu_shares: limit.CpuShares = None,
    cpu_period: limit.CpuPeriod = None,
    cpu_quota: limit.CpuQuota = None,
    cpuset_cpus: limit.CpusetCpus = None,
    cpuset_mems: limit.CpusetMems = None,
    pids_limit: limit.PidsLimit = None,
    blkio_weight: limit.BlkioWeight = None,
    blkio_weight_device: limit.BlkioWeightDevice = None,
    device_read_bps: limit.DeviceReadBps = None,
    device_write_bps: limit.DeviceWriteBps = None,
    device_read_iops: limit.DeviceReadIops = None,
    device_write_iops: limit.DeviceWriteIops = None,
    cpu_rt_period: limit.CpuRtPeriod = None,
    cpu_rt_runtime: limit.CpuRtRuntime = None,
    kernel_memory: limit.KernelMemory = None,
    cgroup_parent: limit.CgroupParent = None,
    cgroupns: limit.Cgroupns = None,
    device_cgroup_rule: limit.DeviceCgroupRule = None,
    domainname: life.Domainname = None,
    platform: life.Platform = None,
    runtime: life.Runtime = None,
    isolation: life.IsolationMode = None,
    volume_driver: life.VolumeDriver = None,
    storage_opt: life.StorageOpt = None,
    gpus: life.Gpus = None,
    link: life.Link = None,
    disable_content_trust: life.ContentTrust = True,
    security_opt: isolation.SecurityOpt = None,
    pid: isolation.Pid = None,
    ipc: isolation.Ipc = None,
    uts: isolation.Uts = None,
    userns: isolation.Userns = None,
    oom_score_adj: isolation.OomScoreAdj = None,
    sysctl: isolation.Sysctl = None,
    ulimit: isolation.Ulimit = None,
    device: isolation.Device = None,
    explain: Explain = False,
) -> None:
    """Make a container from an image without starting it."""


@declare("start", (app, "start"), (container, "start"))
def start(
    containers: Many,
    attach: Annotated[
        bool, typer.Option("--attach", "-a", show_default=False, help="Show its output, pass signals on")
    ] = False,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", show_default=False, help="Connect standard input")
    ] = False,
    detach_keys: KeysToDetach = None,
    explain: Explain = False,
) -> None:
    """Start stopped containers."""


@declare("stop", (app, "stop"), (container, "stop"))
def stop(
    containers: Many,
    signal: Annotated[str | None, typer.Option("--signal", "-s", metavar="SIGNAL", help="Signal to send first")] = None,
    timeout: Annotated[
        int | None,
        typer.Option("--timeout", "--time", "-t", metavar="SECONDS", help="How long to wait before killing (10)"),
    ] = None,
) -> None:
    """Stop running containers."""


@declare("restart", (app, "restart"), (container, "restart"))
def restart(
    containers: Many,
    signal: Annotated[str | None, typer.Option("--signal", "-s", metavar="SIGNAL", help="Signal to send first")] = None,
    timeout: Annotated[
        int | None,
        typer.Option("--timeout", "--time", "-t", metavar="SECONDS", help="How long to wait before killing (10)"),
    ] = None,
) -> None:
    """Stop containers and start them again."""


@declare("kill", (app, "kill"), (container, "kill"))
def kill(
    containers: Many,
    signal: Annotated[str, typer.Option("--signal", "-s", metavar="SIGNAL", help="Signal to send")] = "KILL",
) -> None:
    """Send a signal to running containers."""


@declare("rm", (app, "rm"), (container, "rm"), (container, "remove"))
def rm(
    containers: Many,
    force: Annotated[
        bool, typer.Option("--force", "-f", show_default=False, help="Kill and remove a running container")
    ] = False,
    link: Annotated[
        bool, typer.Option("--link", "-l", show_default=False, help="Accepted; there are no links")
    ] = False,
    volumes: Annotated[
        bool, typer.Option("--volumes", "-v", show_default=False, help="Remove anonymous volumes too")
    ] = False,
) -> None:
    """Remove containers."""


@declare("ps", (app, "ps"), (container, "ls"), (container, "list"), (container, "ps"))
def ps(
    all: Annotated[bool, typer.Option("--all", "-a", show_default=False, help="Show stopped containers too")] = False,
    filter: Filter = None,
    format: Format = None,
    last: Annotated[
        int, typer.Option("--last", "-n", metavar="N", help="Show the N containers created last (-1: no limit)")
    ] = -1,
    latest: Annotated[
        bool, typer.Option("--latest", "-l", show_default=False, help="Show the container created last")
    ] = False,
    no_trunc: NoTrunc = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", show_default=False, help="Show IDs only")] = False,
    size: Annotated[bool, typer.Option("--size", "-s", show_default=False, help="Show sizes")] = False,
) -> None:
    """List containers."""


@declare("diff", (app, "diff"), (container, "diff"))
def diff(
    container: Annotated[str, typer.Argument(metavar="CONTAINER|IMAGE|LAYER|TAR", show_default=False)],
    other: Annotated[str | None, typer.Argument(metavar="[CONTAINER|IMAGE|LAYER|TAR]", show_default=False)] = None,
    why: Annotated[
        bool,
        typer.Option("--why", show_default=False, help="Say in what each differs, its sizes, and what was renamed"),
    ] = False,
    content: Annotated[bool, typer.Option("--content", show_default=False, help="Compare texts line by line")] = False,
    json: Json = False,
) -> None:
    """Show what a container changed against its image, or what differs between any two trees."""


@declare("commit", (app, "commit"), (container, "commit"))
def commit(
    container: One,
    reference: Annotated[str | None, typer.Argument(metavar="[REPOSITORY[:TAG]]", show_default=False)] = None,
    author: Annotated[str | None, typer.Option("--author", "-a", metavar="NAME", help="Author of the image")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--change", "-c", metavar="INSTRUCTION", help="Apply a Dockerfile instruction (repeatable)"),
    ] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="Commit message")] = None,
    pause: Annotated[
        bool, typer.Option("--pause", "-p", help="Freeze the container meanwhile (--pause=false: let it run)")
    ] = True,
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="VERSION", help="Write the layer as this version of docker's engine does"),
    ] = None,
    json: Json = False,
    reproducible: Reproducible = False,
    explain: Explain = False,
) -> None:
    """Make an image out of a container's changes."""


@declare("export", (app, "export"), (container, "export"))
def export(
    container: One,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write to a file instead of standard output")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="VERSION", help="Write the tar as this version of docker's engine does"),
    ] = None,
    explain: Explain = False,
) -> None:
    """Write a container's or an image's whole file system into a tar."""


@declare("inspect", (container, "inspect"), type="container")
def container_inspect(
    names: Many,
    format: InspectFormat = None,
    size: Annotated[bool, typer.Option("--size", "-s", show_default=False, help="Add the sizes")] = False,
) -> None:
    """Show all that is recorded about containers."""
