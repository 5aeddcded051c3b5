"""minidock create"""

from __future__ import annotations

from minidock.cli.output import warn, write_line
from minidock.cli.session import open_root
from minidock.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.verbs.options import CreateOptions

_LIMITS = (
    "memory", "memory_swap", "memory_reservation", "oom_kill_disable", "cpus", "cpu_shares", "cpu_period", "cpu_quota",
    "cpuset_cpus", "cpuset_mems", "blkio_weight", "blkio_weight_device", "device_read_bps", "device_write_bps",
    "device_read_iops", "device_write_iops", "cpu_rt_period", "cpu_rt_runtime", "kernel_memory",
)  # fmt: skip
_ISOLATION = ("security_opt", "pid", "ipc", "uts", "userns", "oom_score_adj", "sysctl", "ulimit", "device")
_RARE = (
    "cgroup_parent", "cgroupns", "device_cgroup_rule", "isolation", "runtime", "volume_driver", "storage_opt", "gpus",
    "link",
)  # fmt: skip
_NETWORKING = (
    "ip", "ip6", "network_alias", "mac_address", "dns", "dns_search", "dns_option", "add_host",
    "publish", "publish_all", "expose",
)  # fmt: skip


def handle(options: dict[str, Any]) -> int:
    """Make a container and print its ID."""
    from minidock.verbs.create import create

    wanted = create_options(options)
    with open_root(options) as root:
        try:
            container = create(root, options["image"], options["command"], wanted)
        except CommandError as error:
            # An ID file that cannot be made, with which only `run` ends as if a command were missing.
            error.exit_code = 1
            raise
        for warning in container.warnings:
            warn(warning)
        write_line(container.id)
    return 0


def create_options(options: dict[str, Any]) -> CreateOptions:
    """The words that `create` and `run` share, as the verb takes them; raises UsageError."""
    from minidock.errors import UsageError
    from minidock.verbs.options import DEFAULT_SHM_SIZE_BYTES, CreateOptions

    if options["pull"] not in ("missing", "never", "always"):
        raise UsageError(f"invalid pull option: '{options['pull']}': must be one of 'missing' or 'never'")
    if options["pull"] == "always":
        raise UsageError("--pull always: there is no registry to pull from", hint="minidock pull-tar loads an archive")
    return CreateOptions(
        name=options["name"] or "",
        env=options["env"],
        env_file=options["env_file"],
        labels=options["label"],
        label_file=options["label_file"],
        workdir=options["workdir"] or "",
        user=options["user"] or "",
        group_add=options["group_add"],
        hostname=options["hostname"] or "",
        entrypoint=options["entrypoint"],
        volumes=[_absolute(text) if text.startswith(".") else text for text in options["volume"]],
        volumes_from=options["volumes_from"],
        mounts=options["mount"],
        tmpfs=options["tmpfs"],
        read_only=options["read_only"],
        network=options["network"] or "default",
        networking={name: options[name] for name in _NETWORKING if options[name] not in (None, [], False)},
        cap_add=options["cap_add"],
        cap_drop=options["cap_drop"],
        privileged=options["privileged"],
        init=options["init"],
        tty=options["tty"],
        interactive=options["interactive"],
        rm=options["rm"],
        cidfile=options["cidfile"] or "",
        pull=options["pull"],
        log_driver=options["log_driver"] or "",
        log_opts=options["log_opt"],
        health=_health(options),
        restart=options["restart"] or "no",
        stop_signal=options["stop_signal"] or "",
        stop_timeout=options["stop_timeout"],
        shm_size=_shm_size(options["shm_size"]) if options["shm_size"] else DEFAULT_SHM_SIZE_BYTES,
        limits=_limits(options),
        isolation={name: options[name] for name in _ISOLATION if options[name] not in (None, [])},
        rare={name: options[name] for name in _RARE if options[name]},
        domainname=options["domainname"] or "",
        platform=options["platform"] or "",
        attach=not options.get("detach", False),
        streams=_streams(options["attach"]),
    )


def _absolute(volume: str) -> str:
    """A bind of a path that begins with a dot means the caller's directory. Source: docker/cli 23, opts.go"""
    import os

    source, colon, rest = volume.partition(":")
    return os.path.abspath(source) + colon + rest if colon else volume


def _shm_size(text: str) -> int:
    from minidock.cli.sizes import parse_size
    from minidock.errors import InvalidOption, UsageError

    try:
        return parse_size(text)
    except UsageError as error:
        raise InvalidOption(f'invalid argument "{text}" for "--shm-size" flag: {error.message}') from None


def _streams(words: list[str]) -> list[str]:
    """What -a names; raises UsageError."""
    names = [word.lower() for word in words]
    for word, name in zip(words, names, strict=True):
        if name not in ("stdin", "stdout", "stderr"):
            from minidock.errors import InvalidOption

            raise InvalidOption(
                f'invalid argument "{word}" for "-a, --attach" flag: valid streams are STDIN, STDOUT and STDERR'
            )
    return names


def _limits(options: dict[str, Any]) -> dict[str, Any]:
    """The limits asked for; a command line without any does not load what reads them."""
    if not any(map(options.get, _LIMITS)) and options["pids_limit"] is None and options["memory_swappiness"] is None:
        return {}
    from minidock.cli.limits import read_limits

    return read_limits(options)


def _health(options: dict[str, Any]) -> dict[str, Any] | None:
    """The --health options as a Healthcheck object, None for the image's own; raises UsageError."""
    from minidock.errors import InvalidOption, UsageError

    spans = ("interval", "timeout", "start_period")
    given = [options[f"health_{key}"] for key in ("cmd", "retries", *spans)]
    if not any(given):
        return {"Test": ["NONE"]} if options["no_healthcheck"] else None
    if options["no_healthcheck"]:
        raise InvalidOption("--no-healthcheck conflicts with --health-* options")
    from minidock.cli.spans import parse_duration

    document: dict[str, Any] = {"Test": ["CMD-SHELL", options["health_cmd"]] if options["health_cmd"] else []}
    for key, name in zip(spans, ("Interval", "Timeout", "StartPeriod"), strict=True):
        text = options[f"health_{key}"]
        span_ns = parse_duration(text) if text else 0
        if span_ns is None:
            flag = key.replace("_", "-")
            raise InvalidOption(f'invalid argument "{text}" for "--health-{flag}" flag: invalid duration "{text}"')
        if span_ns < 0:
            raise InvalidOption(f"--health-{key.replace('_', '-')} cannot be negative")
        if 0 < span_ns < 1_000_000:
            raise UsageError(f"{name} in Healthcheck cannot be less than 1ms")
        document[name] = span_ns
    if (options["health_retries"] or 0) < 0:
        raise InvalidOption("--health-retries cannot be negative")
    document["Retries"] = options["health_retries"] or 0
    return document
