"""Options of `create` and `run` about security and isolation, read into the fields of hostconfig.json."""

from __future__ import annotations

from minidock.errors import InvalidOption, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from minidock.store.containers import ContainerStore

# Source: docker/cli opts/opts.go, ValidateSysctl
_SYSCTLS = (
    *("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax"),
    *("kernel.shmmni", "kernel.shm_rmid_forced"),
)
_SYSCTL_PREFIXES = ("net.", "fs.mqueue.")
_UNLIMITED = 0xFFFFFFFFFFFFFFFF


def host_fields(
    words: Mapping[str, Any], containers: ContainerStore, *, network: str, hostname: str, privileged: bool
) -> dict[str, Any]:
    """The fields for what was asked.

    Shape:  words: option names with underscores, lists of texts, texts or None
    Raises: UsageError with docker's words; NoSuchContainer
    """
    fields: dict[str, Any] = {}
    if options := words.get("security_opt"):
        from minidock.runtime.securityopt import read_security_options

        kept = [word for word in options if word != "systempaths=unconfined"]
        if len(kept) < len(options) and not privileged:
            fields["MaskedPaths"], fields["ReadonlyPaths"] = [], []
        if kept or not privileged:
            fields["SecurityOpt"] = read_security_options(kept) + (["label=disable"] if privileged else [])
    for option, field in (("pid", "PidMode"), ("ipc", "IpcMode"), ("uts", "UTSMode")):
        if mode := words.get(option):
            fields[field] = _namespace(option, mode, containers)
    if "host" in (fields.get("PidMode"), fields.get("IpcMode")) and not privileged and not _is_labelled(fields):
        # As the engine has it of itself. Source: moby daemon/create.go, generateSecurityOpt
        fields["SecurityOpt"] = [*fields.get("SecurityOpt", ()), "label=disable"]
    if fields.get("UTSMode") and hostname:
        raise UsageError("conflicting options: hostname and the UTS mode")
    if mode := words.get("userns"):
        fields["UsernsMode"] = _user_namespace(mode, fields, network, privileged)
    if words.get("oom_score_adj") is not None:
        score = int(words["oom_score_adj"])
        if not -1000 <= score <= 1000:
            raise UsageError(f"Invalid value {score}, range for oom score adj is [-1000, 1000]")
        fields["OomScoreAdj"] = score
    if sysctls := words.get("sysctl"):
        fields["Sysctls"] = dict(_sysctl(each, network, fields) for each in sysctls)
    if limits := words.get("ulimit"):
        found = {each["Name"]: each for each in map(_ulimit, limits)}
        fields["Ulimits"] = [found[name] for name in sorted(found)]
    if devices := words.get("device"):
        fields["Devices"] = [_device(each) for each in devices]
    return fields


def _is_labelled(fields: Mapping[str, Any]) -> bool:
    return any(word.startswith("label") for word in fields.get("SecurityOpt", ()))


def limit_warnings(limits: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of the resource limits this process is not allowed to give."""
    from minidock.linux.capabilities import NAMES, permitted
    from minidock.runtime.isolation import own_limit

    if permitted() >> NAMES.index("SYS_RESOURCE") & 1:
        return []
    warnings = []
    for each in limits:
        _, ours = own_limit(each["Name"])
        if each["Hard"] & _UNLIMITED > ours:
            warnings.append(f"ulimit {each['Name']}: this host allows {ours} at most; that is what it will be")
    return warnings


def _namespace(option: str, mode: str, containers: ContainerStore) -> str:
    if mode == "host" or (option == "ipc" and mode in ("private", "shareable", "none")):
        return mode
    if mode.startswith("container:") and (option == "ipc" or mode.count(":") == 1 and not mode.endswith(":")):
        from minidock.runtime.joined import resolve_mode

        return resolve_mode(containers, option, mode)
    if option == "ipc":
        raise UsageError(f"Invalid IPC mode: {mode}")
    raise InvalidOption(f"--{option}: invalid {option.upper()} mode")


def _user_namespace(mode: str, fields: Mapping[str, Any], network: str, privileged: bool) -> str:
    """Docker's refusals, and an early look at the host's files. Source: moby daemon/daemon_unix.go"""
    from minidock.runtime.usermap import read_user_map

    if read_user_map(mode) is None:
        return mode
    if privileged:
        raise UsageError(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace "
            "when running privileged mode"
        )
    if network == "host":
        raise UsageError("cannot share the host's network namespace when user namespaces are enabled")
    if fields.get("PidMode") == "host":
        raise UsageError("cannot share the host PID namespace when user namespaces are enabled")
    return mode


def _sysctl(text: str, network: str, fields: Mapping[str, Any]) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not (key in _SYSCTLS or key.startswith(_SYSCTL_PREFIXES)):
        raise InvalidOption(f'invalid argument "{text}" for "--sysctl" flag: sysctl \'{text}\' is not whitelisted')
    if key.startswith("net.") and network == "host":
        raise UsageError(f"sysctl '{key}' not allowed in host network namespace")
    if not key.startswith("net.") and fields.get("IpcMode") == "host":
        raise UsageError(f"sysctl '{key}' not allowed in host ipc namespace")
    return key, value


def _ulimit(text: str) -> dict[str, Any]:
    """`name=soft[:hard]`. Source: docker/go-units ulimit.go, ParseUlimit"""
    from minidock.runtime.isolation import RESOURCES

    def bad(reason: str) -> InvalidOption:
        return InvalidOption(f'invalid argument "{text}" for "--ulimit" flag: {reason}')

    name, equals, value = text.partition("=")
    if not equals:
        raise bad(f"invalid ulimit argument: {text}")
    if name not in RESOURCES:
        raise bad(f"invalid ulimit type: {name}")
    soft_word, colon, hard_word = value.partition(":")
    try:
        soft = int(soft_word)
        hard = int(hard_word) if colon else soft
    except ValueError:
        raise bad(f'strconv.ParseInt: parsing "{value}": invalid syntax') from None
    if hard != -1 and (soft == -1 or soft > hard):
        raise bad(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return {"Name": name, "Hard": hard, "Soft": soft}


def _device(text: str) -> dict[str, str]:
    """`HOST[:CONTAINER[:rwm]]`. Source: docker/cli cli/command/container/opts.go, parseLinuxDevice"""
    parts = text.split(":")
    source, target, access = parts[0], "", "rwm"
    if not source.startswith("/") or len(parts) > 3:
        raise InvalidOption(f"{text} is not an absolute path")
    if len(parts) == 2 and _is_access(parts[1]):
        access = parts[1]
    elif len(parts) > 1:
        target = parts[1]
    if len(parts) == 3:
        access = parts[2]
    if not _is_access(access) or (target and not target.startswith("/")):
        raise InvalidOption(f"bad mode specified: {access}")
    return {"PathOnHost": source, "PathInContainer": target or source, "CgroupPermissions": access}


def _is_access(word: str) -> bool:
    return bool(word) and set(word) <= set("rwm") and len(set(word)) == len(word)
