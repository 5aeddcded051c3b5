"""Options of `create` and `run` that a container's monitor acts on."""

from __future__ import annotations

from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.verbs.options import CreateOptions


def set_life(host: dict[str, Any], options: CreateOptions) -> dict[str, Any]:
    """Put --restart into hostconfig.json's document and return it; raises UsageError."""
    if options.restart not in ("", "no"):
        from minidock.runtime.restarts import parse_restart_policy

        policy = parse_restart_policy(options.restart)
        if options.rm and policy["Name"] != "no":
            raise UsageError("Conflicting options: --restart and --rm")
        host["RestartPolicy"] = policy
    return host


def merge_health(image: dict[str, Any], wanted: dict[str, Any] | None) -> dict[str, Any]:
    """The `Config` object's Healthcheck: the command line's, completed by the image's. Source: moby runconfig merge"""
    old = image.get("Healthcheck") or {}
    if wanted is None:
        return old
    if wanted.get("Test") == ["NONE"]:
        return wanted
    return {**old, **{key: value for key, value in wanted.items() if value}}
