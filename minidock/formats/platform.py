"""Platforms as registries name them: `linux/amd64`, `linux/arm/v7`.

Source: containerd/platforms, `platforms.go` and `database.go`
"""

from __future__ import annotations

import os

from minidock.errors import UsageError

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armv8l": "arm64",
    "armhf": "arm",
    "armel": "arm",
    "armv7l": "arm",
    "armv6l": "arm",
    "i386": "386",
    "i486": "386",
    "i586": "386",
    "i686": "386",
    "loongarch64": "loong64",
}
_VARIANTS = {"armhf": "v7", "armel": "v6", "armv7l": "v7", "armv6l": "v6"}
# The variant that a bare name means, and the oldest first: a processor also runs what is left of its own.
_ORDER = {"arm": ("v5", "v6", "v7", "v8"), "arm64": ("v8", "v9"), "amd64": ("v1", "v2", "v3", "v4")}
_DEFAULT_VARIANT = {"arm": "v7", "arm64": "v8", "amd64": "v1"}


class Platform:
    """An operating system, an architecture in Go's spelling and a variant, "" for the usual one."""

    __slots__ = ("architecture", "os", "variant")

    def __init__(self, os_name: str, architecture: str, variant: str = "") -> None:
        self.os = os_name.lower() or "linux"
        machine = architecture.lower()
        self.architecture = _ARCHITECTURES.get(machine, machine)
        variant = variant.lower() or _VARIANTS.get(machine, "")
        self.variant = "" if variant == _DEFAULT_VARIANT.get(self.architecture) else variant

    def __str__(self) -> str:
        text = "/".join(part for part in (self.os, self.architecture, self.variant) if part)
        # A stranger's document may say anything here, and it ends up in messages.
        return text if text.isprintable() and len(text) < 80 else ascii(text[:80])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Platform) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def rank(self, offered: Platform) -> int | None:
        """How well something made for `offered` runs here: None not at all, else the higher the better."""
        if (self.os, self.architecture) != (offered.os, offered.architecture):
            return None
        if self.variant == offered.variant:
            return 100
        order = _ORDER.get(self.architecture, ())
        usual = _DEFAULT_VARIANT.get(self.architecture, "")
        mine, theirs = self.variant or usual, offered.variant or usual
        if mine not in order or theirs not in order or order.index(theirs) > order.index(mine):
            return None
        return order.index(theirs)


def host_platform() -> Platform:
    """The platform of this machine."""
    return Platform("linux", os.uname().machine)


def parse_platform(text: str) -> Platform:
    """Parse `os/architecture[/variant]`, or one of os and architecture alone; raises UsageError."""
    parts = text.split("/")
    if not 1 <= len(parts) <= 3 or not all(part and part.replace("-", "").replace("_", "").isalnum() for part in parts):
        raise UsageError(f"{text[:60]!r} is not a platform", hint="write os/architecture, as in linux/arm64")
    if len(parts) == 1:
        return Platform("linux", os.uname().machine if parts[0] == "linux" else parts[0])
    return Platform(*parts)
