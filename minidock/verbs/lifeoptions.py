"""Options of `create` and `run` that a container's monitor acts on."""

from __future__ import annotations

from minidock.errors import InvalidOption, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.verbs.options import CreateOptions


def set_life(host: dict[str, Any], options: CreateOptions) -> None:
    """Put --restart and --log-driver into hostconfig.json's document; raises UsageError."""
    if options.restart not in ("", "no"):
        from minidock.runtime.restarts import parse_restart_policy

        policy = parse_restart_policy(options.restart)
        if options.rm and policy["Name"] != "no":
            raise InvalidOption("Conflicting options: --restart and --rm")
        host["RestartPolicy"] = policy
    if options.log_driver or options.log_opts:
        host["LogConfig"] = _log_config(options.log_driver or "json-file", options.log_opts)


def _log_config(driver: str, options: list[str]) -> dict[str, Any]:
    if driver not in ("json-file", "none"):
        raise UsageError(f"log driver '{driver}' is not there", hint="json-file and none are")
    config = {}
    for text in options:
        key, _, value = text.partition("=")
        config[key] = value
    if driver == "none":
        if config:
            raise UsageError("invalid logging opts for driver none")
        return {"Type": "none", "Config": {}}
    from minidock.runtime.logoptions import read_log_options

    read_log_options(config)
    return {"Type": driver, "Config": config}


def merge_health(image: dict[str, Any], wanted: dict[str, Any] | None) -> dict[str, Any]:
    """The `Config` object's Healthcheck: the command line's, completed by the image's. Source: moby runconfig merge"""
    old = image.get("Healthcheck") or {}
    if wanted is None:
        return old
    if wanted.get("Test") == ["NONE"]:
        return wanted
    return {**old, **{key: value for key, value in wanted.items() if value}}
