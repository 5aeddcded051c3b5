"""Options of `create` and `run` that few containers have: fields of hostconfig.json, or refused with a reason."""

from __future__ import annotations

from minidock.errors import InvalidOption, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from minidock.store.imagedb import Image

WORDS = (
    "cgroup_parent", "cgroupns", "device_cgroup_rule", "isolation", "runtime", "volume_driver", "storage_opt", "gpus",
    "link",
)  # fmt: skip


def host_options(words: Mapping[str, Any], user_mode: str) -> dict[str, Any]:
    """The fields for what was asked.

    Shape:  words: those of WORDS that are given, texts or lists of texts; user_mode: as --userns says
    Raises: UsageError, in docker's words where it refuses the same
    """
    fields: dict[str, Any] = {}
    if parent := words.get("cgroup_parent"):
        fields["CgroupParent"] = _parent(parent)
    if mode := words.get("cgroupns"):
        fields["CgroupnsMode"] = _cgroup_namespace(mode, user_mode)
    if rules := words.get("device_cgroup_rule"):
        from minidock.runtime.devices import device_rule

        for rule in rules:
            device_rule(rule)
        fields["DeviceCgroupRules"] = list(rules)
    if isolation := words.get("isolation"):
        if isolation.lower() != "default":
            raise UsageError(f"Invalid isolation: \"{isolation}\" - linux only supports 'default'")
        fields["Isolation"] = isolation
    if (runtime := words.get("runtime")) and runtime != "runc":
        raise UsageError(f"Unknown runtime specified {runtime}")
    if driver := words.get("volume_driver"):
        from minidock.formats.mountspec import check_volume_driver

        check_volume_driver(driver)
        fields["VolumeDriver"] = driver
    if not all("=" in text for text in words.get("storage_opt") or ()):
        raise InvalidOption("invalid storage option")
    if words.get("storage_opt"):
        raise UsageError("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
    if words.get("gpus"):
        raise UsageError('could not select device driver "" with capabilities: [[gpu]]')
    if words.get("link"):
        raise InvalidOption("--link is a legacy option that is not there", hint="names are found on a common network")
    return fields


def _parent(text: str) -> str:
    words = text.split("/")
    if ".." in words or "." in words or "\0" in text:
        raise UsageError(f"invalid cgroup parent {text!r}: a plain path is expected")
    return text


def _cgroup_namespace(mode: str, user_mode: str) -> str:
    if mode not in ("host", "private"):
        raise InvalidOption("--cgroupns: invalid CGROUP mode")
    if mode == "host" and user_mode not in ("", "host"):
        # Its root may mount no hierarchy that belongs to another namespace.
        raise UsageError("cannot share the host's cgroup namespace when user namespaces are enabled")
    return mode


def check_platform(image: Image, text: str) -> None:
    """Raise UsageError unless the image is of this platform."""
    from minidock.formats.platform import Platform, parse_platform

    document = image.config.document
    own = Platform(
        str(document.get("os") or "linux"), str(document.get("architecture") or ""), str(document.get("variant") or "")
    )
    if parse_platform(text).rank(own) is None:
        raise UsageError(
            f"image with reference was found but does not match the specified platform: wanted {text}, actual: {own}",
            hint="minidock pull-tar loads another",
        )
