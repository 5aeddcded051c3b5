"""docker update: other limits and another restart policy for a container that exists, also while it runs."""

from __future__ import annotations

from minidock.errors import Conflict, MinidockError, UsageError
from minidock.formats.containerconfig import encode_record
from minidock.store.lock import EngineKeptOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.containers import Container
    from minidock.store.root import DataRoot


def update(root: DataRoot, container: str, limits: dict[str, Any], *, restart: str | None = None) -> list[str]:
    """Change a container's limits, in its record and, when it runs, in the kernel.

    Shape:   limits: fields of hostconfig.json, those that are to change; restart: a policy as `--restart` takes it
    Returns: warnings, one line each
    Raises:  NoSuchContainer, UsageError, Conflict; MinidockError when the kernel refuses, and nothing is recorded then
    Source:  moby container/container_unix.go, UpdateContainer; daemon/update.go
    """
    from minidock.runtime.hostlimits import verify_limits
    from minidock.runtime.pause import FreezeLock
    from minidock.runtime.restarts import parse_restart_policy

    wanted = dict(limits)
    policy = parse_restart_policy(restart) if restart else None
    warnings = verify_limits(wanted, update=True)
    found = root.containers.get(container)
    with FreezeLock(found), found.lock(), EngineKeptOut(root.path):
        document = dict(found.host_config)
        try:
            _check_conflicts(document, wanted)
            if policy is not None and policy["Name"] != "no" and found.state.auto_remove:
                raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
            document.update(wanted)
            if policy is not None:
                document["RestartPolicy"] = policy
            if found.is_running() and wanted:
                _apply(found, wanted, document)
        except MinidockError as error:
            raise type(error)(f"Cannot update container {found.id}: {error.message}") from None
        _record(found, document)
    return warnings


def _check_conflicts(current: dict[str, Any], wanted: dict[str, Any]) -> None:
    for new, old, words in (
        ("NanoCpus", "CpuPeriod", "Nano CPUs cannot be updated as CPU Period has already been set"),
        ("NanoCpus", "CpuQuota", "Nano CPUs cannot be updated as CPU Quota has already been set"),
        ("CpuPeriod", "NanoCpus", "CPU Period cannot be updated as NanoCPUs has already been set"),
        ("CpuQuota", "NanoCpus", "CPU Quota cannot be updated as NanoCPUs has already been set"),
    ):
        if wanted.get(new, 0) > 0 and (current.get(old) or 0) > 0:
            raise UsageError(f"Conflicting options: {words}")
    if wanted.get("Memory") and not wanted.get("MemorySwap") and wanted["Memory"] > (current.get("MemorySwap") or 0):
        raise UsageError(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )


def _apply(container: Container, wanted: dict[str, Any], document: dict[str, Any]) -> None:
    """Into the groups of the running processes; what belongs together on v2 is written together."""
    from minidock.runtime.limits import apply_limits
    from minidock.runtime.pause import group_of

    limits = dict(wanted)
    for one, other in (("MemorySwap", "Memory"), ("CpuQuota", "CpuPeriod")):
        if (one in limits or other in limits) and document.get(one) and document.get(other):
            limits.update({one: document[one], other: document[other]})
    if limits.get("PidsLimit") == 0:
        limits["PidsLimit"] = -1
    apply_limits(group_of(container), limits, container.root.trace)


def _record(container: Container, document: dict[str, Any]) -> None:
    from minidock.store.containerstate import replace_file

    if (document.get("PidsLimit") or 0) <= 0:
        document["PidsLimit"] = None
    replace_file(f"{container.path}/hostconfig.json", encode_record(document), 0o600, durable=True)
    container.reload()
