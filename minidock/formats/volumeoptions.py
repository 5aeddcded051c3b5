"""Options of a volume that is mounted before its use: `type`, `device` and `o`, as the engine's local driver has them.

    opts.json   {"MountType":"tmpfs","MountOpts":"size=1m","MountDevice":"tmpfs","Quota":{"Size":0}}

Source: moby volume/local/local.go, local_unix.go; moby/sys/mount, flags_linux.go
"""

from __future__ import annotations

from minidock.errors import UsageError
from minidock.formats.gojson import encode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_NAMES = (("type", "MountType"), ("o", "MountOpts"), ("device", "MountDevice"))
# File systems of which a second mount is another one, or may not be.
_OF_THE_MOUNT = ("overlay", "ramfs", "tmpfs")
_REQUIRED = ("device", "type")
_RDONLY, _BIND, _REC = 0x1, 0x1000, 0x4000
# Flags that belong to the file system and not to the mount, and those whose number in fsmount(2) is another.
_FILESYSTEM_FLAGS = ((_RDONLY, "ro"), (0x10, "sync"), (0x80, "dirsync"), (0x40, "mand"))
_OTHER_NUMBERS = ((0x400, 0x10), (0x800, 0x80), (1 << 24, 0x20))
# Words that set or clear a flag of mount(2); every other word is the file system's own.
_FLAGS = {
    "ro": (_RDONLY, True), "rw": (_RDONLY, False), "nosuid": (0x2, True), "suid": (0x2, False), "nodev": (0x4, True),
    "dev": (0x4, False), "noexec": (0x8, True), "exec": (0x8, False), "sync": (0x10, True), "async": (0x10, False),
    "mand": (0x40, True), "nomand": (0x40, False), "dirsync": (0x80, True), "noatime": (0x400, True),
    "atime": (0x400, False), "nodiratime": (0x800, True), "diratime": (0x800, False), "bind": (_BIND, True),
    "rbind": (_BIND | _REC, True), "relatime": (1 << 21, True), "norelatime": (1 << 21, False),
    "strictatime": (1 << 24, True), "nostrictatime": (1 << 24, False), "defaults": (0, False),
}  # fmt: skip


class VolumeMount:
    """What is to be mounted. Shape: flags: MS_ bits; data: what is left for the file system, comma separated"""

    __slots__ = ("data", "device", "flags", "fstype")

    def __init__(self, options: Mapping[str, str]) -> None:
        self.fstype = options.get("type", "")
        self.device = options.get("device", "")
        self.flags = 0
        data: list[str] = []
        for word in options.get("o", "").split(","):
            if word in _FLAGS:
                bits, on = _FLAGS[word]
                self.flags = self.flags | bits if on else self.flags & ~bits
            elif word:
                data.append(word)
        self.data = ",".join(data)

    @property
    def is_bind(self) -> bool:
        """Whether it is a directory of the host."""
        return bool(self.flags & _BIND)

    @property
    def is_recursive(self) -> bool:
        """Whether a bind takes along what is mounted below."""
        return bool(self.flags & _REC)

    @property
    def keeps_content(self) -> bool:
        """Whether what it holds belongs to the mount, so that there must be one for all who use it."""
        return not self.is_bind and self.fstype in _OF_THE_MOUNT

    @property
    def is_read_only(self) -> bool:
        """Whether nothing may be written there."""
        return bool(self.flags & _RDONLY)

    def configuration(self) -> list[tuple[bytes, bytes | None]]:
        """What fsconfig(2) is told, None for words without a value."""
        words: list[tuple[bytes, bytes | None]] = [(b"source", self.device.encode("utf-8", "surrogateescape"))]
        words += [(word.encode(), None) for bit, word in _FILESYSTEM_FLAGS if self.flags & bit]
        for word in self.data.split(",") if self.data else ():
            key, equals, value = word.encode("utf-8", "surrogateescape").partition(b"=")
            words.append((key, value if equals else None))
        return words

    def attributes(self) -> int:
        """The bits for fsmount(2)."""
        same = self.flags & 0xF
        return same | sum(attribute for bit, attribute in _OTHER_NUMBERS if self.flags & bit)


def parse_volume_options(words: Sequence[str], name: str) -> dict[str, str]:
    """`key=value` each as options of a volume; raises UsageError in the engine's words."""
    options: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        options[key] = value
    return check_volume_options(options, name)


def check_volume_options(options: dict[str, str], name: str) -> dict[str, str]:
    """The options themselves, if the local driver takes them; raises UsageError in the engine's words."""
    known = [key for key, _ in _NAMES]
    for key in options:
        if key == "size":
            raise UsageError(f"create {name}: quota size requested but no quota support")
        if key not in known:
            raise UsageError(f'create {name}: invalid option: "{key}"')
    for key in _REQUIRED if options else ():
        if key not in options:
            raise UsageError(f'create {name}: missing required option: "{key}"')
    if any("\0" in value for value in options.values()):
        raise UsageError(f"create {name}: an option with a NUL byte")
    return options


def encode_volume_options(options: Mapping[str, str]) -> bytes:
    """The content of opts.json."""
    document: dict[str, Any] = {field: options.get(key, "") for key, field in _NAMES}
    return encode_json({**document, "Quota": {"Size": 0}})


def decode_volume_options(document: Mapping[str, Any]) -> dict[str, str]:
    """The options that an opts.json holds, those that are set."""
    return {key: value for key, field in _NAMES if isinstance(value := document.get(field), str) and value}
