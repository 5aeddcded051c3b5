"""-v, --mount and --tmpfs: words of the command line to mounts, by docker's grammar and with its messages.

Source: moby volume/mounts/linux_parser.go; docker/cli opts/mount.go
"""

from __future__ import annotations

from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROPAGATIONS = ("private", "rprivate", "slave", "rslave", "shared", "rshared")
_NAMED_VOLUMES = "named and anonymous volumes are not supported yet: give a host directory as an absolute path"
_TMPFS_SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class BindRequest:
    """A host directory or file to be seen in the container.

    Shape: mode_text as written after the last colon of -v; creates_source: -v makes a missing host directory,
           --mount does not
    """

    __slots__ = ("creates_source", "mode_text", "propagation", "read_only", "recursive", "source", "target")

    def __init__(
        self,
        source: str,
        target: str,
        *,
        read_only: bool = False,
        propagation: str = "rprivate",
        recursive: bool = True,
        mode_text: str = "",
        creates_source: bool = False,
    ) -> None:
        self.source = source
        self.target = target
        self.read_only = read_only
        self.propagation = propagation
        self.recursive = recursive
        self.mode_text = mode_text
        self.creates_source = creates_source


class TmpfsRequest:
    """A tmpfs in the container; options are mount(8)'s, comma separated."""

    __slots__ = ("options", "target")

    def __init__(self, target: str, options: str) -> None:
        self.target = target
        self.options = options


def clean_path(path: str) -> str:
    """The path without `.`, `..` and double slashes, as Go's path.Clean writes it."""
    absolute = path.startswith("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part == ".." and not absolute or part not in ("", ".", ".."):
            parts.append(part)
    return ("/" if absolute else "") + "/".join(parts) or "."


def _target(text: str, prefix: str) -> str:
    if not text.startswith("/"):
        raise UsageError(f"{prefix}invalid mount path: '{text}' mount path must be absolute")
    target = clean_path(text)
    if target == "/":
        raise UsageError(f"{prefix}invalid specification: destination can't be '/'")
    if "\0" in text:
        raise UsageError(f"{prefix}invalid mount path: a NUL byte")
    return target


def parse_volume(text: str) -> BindRequest:
    """Read the argument of -v: `host:container[:ro|rw|z|Z|propagation…]`.

    Raises: UsageError
    """
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise UsageError(f"invalid volume specification: '{text}'")
    if len(parts) == 1:
        raise UsageError(f"-v {text}: {_NAMED_VOLUMES}")
    source, target = parts[0], parts[1]
    mode = parts[2] if len(parts) == 3 else ""
    prefix = f"invalid volume specification: '{text}': invalid mount config for type \"bind\": "
    read_only, propagation = _read_mode(mode)
    if not source.startswith("/"):
        if "/" in source or source.startswith("."):
            raise UsageError(
                f'create {source}: "{source}" includes invalid characters for a local volume name, only '
                '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
            )
        raise UsageError(f"-v {text}: {_NAMED_VOLUMES}")
    return BindRequest(
        clean_path(source),
        _target(target, prefix),
        read_only=read_only,
        propagation=propagation,
        mode_text=mode,
        creates_source=True,
    )


def _read_mode(mode: str) -> tuple[bool, str]:
    read_only = False
    propagation = "rprivate"
    seen: dict[str, int] = {}
    for word in mode.split(",") if mode else ():
        if word in ("ro", "rw"):
            kind = "access"
            read_only = word == "ro"
        elif word in ("z", "Z"):
            kind = "label"
        elif word in PROPAGATIONS:
            kind = "propagation"
            propagation = word
        elif word in ("nocopy", "consistent", "cached", "delegated"):
            kind = word
        else:
            raise UsageError(f"invalid mode: {mode}")
        if kind in seen:
            raise UsageError(f"invalid mode: {mode}")
        seen[kind] = 1
    return read_only, propagation


def split_fields(text: str) -> list[str]:
    """Split one line of comma-separated values; a field may stand in double quotes, a quote in it doubled.

    Raises: UsageError
    Source: Go encoding/csv, which docker uses for --mount
    """
    fields: list[str] = []
    position = 0
    while True:
        if text.startswith('"', position):
            field = ""
            position += 1
            while True:
                end = text.find('"', position)
                if end < 0:
                    raise UsageError(f'invalid argument "{text}": a quote is not closed')
                field += text[position:end]
                position = end + 1
                if not text.startswith('"', position):
                    break
                field += '"'
                position += 1
            if position < len(text) and text[position] != ",":
                raise UsageError(f'invalid argument "{text}": text after a closing quote')
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            field = text[position:end]
            position = end
        fields.append(field)
        if position >= len(text):
            return fields
        position += 1


def _truth(text: str, key: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise UsageError(f"invalid value for {key}: {text}")


def parse_size(text: str) -> int:
    """A number of bytes with a unit b, k, m, g, t (also `kb`, `KiB`); raises UsageError."""
    digits = len(text) - len(text.lstrip("0123456789"))
    unit = text[digits:].strip().lower()
    unit = unit.removesuffix("ib") if len(unit) == 3 else (unit[0] if len(unit) == 2 and unit[1] == "b" else unit)
    if not digits or unit not in _TMPFS_SIZE_UNITS:
        raise UsageError(f"invalid size: '{text}'")
    return int(text[:digits]) * _TMPFS_SIZE_UNITS[unit]


def parse_mount(text: str) -> BindRequest | TmpfsRequest:
    """Read the argument of --mount: `type=bind,source=…,target=…[,readonly][,bind-propagation=…]` or type=tmpfs.

    Raises: UsageError
    """
    kind = "volume"
    values: dict[str, str] = {}
    read_only = False
    for field in split_fields(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        if key in ("readonly", "ro"):
            read_only = _truth(value, key) if equals else True
        elif key == "bind-nonrecursive":
            values[key] = "true" if not equals or _truth(value, key) else ""
        elif not equals:
            raise UsageError(f"invalid field '{field}' must be a key=value pair")
        elif key == "type":
            kind = value.lower()
        elif key in ("source", "src"):
            values["source"] = value
        elif key in ("target", "dst", "destination"):
            values["target"] = value
        elif key in ("bind-propagation", "tmpfs-size", "tmpfs-mode", "consistency") or key.startswith("volume-"):
            values[key] = value
        else:
            raise UsageError(f"unexpected key '{key}' in '{field}'")
    if "target" not in values:
        raise UsageError(f'invalid argument "{text}" for "--mount" flag: target is required')
    prefix = f'invalid mount config for type "{kind}": '
    if kind == "bind":
        return _bind_mount(values, read_only, prefix)
    if kind == "tmpfs":
        return _tmpfs_mount(values, read_only, prefix)
    if kind == "volume":
        raise UsageError(f"--mount {text}: {_NAMED_VOLUMES}")
    raise UsageError(f'invalid argument "{text}" for "--mount" flag: mount type unknown: "{kind}"')


def _only(values: dict[str, str], allowed: str, prefix: str) -> None:
    for key in values:
        if "-" in key and not key.startswith(allowed):
            raise UsageError(f"{prefix}cannot mix '{key.partition('-')[0]}-*' options with this mount type")


def _bind_mount(values: dict[str, str], read_only: bool, prefix: str) -> BindRequest:
    _only(values, "bind-", prefix)
    source = values.get("source", "")
    if not source:
        raise UsageError(f"{prefix}field Source must not be empty")
    if not source.startswith("/"):
        raise UsageError(f"{prefix}invalid mount path: '{source}' mount path must be absolute")
    propagation = values.get("bind-propagation", "") or "rprivate"
    if propagation not in PROPAGATIONS:
        raise UsageError(f"{prefix}invalid propagation mode: {propagation}")
    return BindRequest(
        clean_path(source),
        _target(values["target"], prefix),
        read_only=read_only,
        propagation=propagation,
        recursive=not values.get("bind-nonrecursive"),
    )


def _tmpfs_mount(values: dict[str, str], read_only: bool, prefix: str) -> TmpfsRequest:
    _only(values, "tmpfs-", prefix)
    if values.get("source"):
        raise UsageError(f"{prefix}field Source must not be specified")
    words: list[str] = ["ro"] if read_only else []
    if "tmpfs-mode" in values:
        try:
            words.append(f"mode={int(values['tmpfs-mode'], 8):o}")
        except ValueError:
            raise UsageError(f"invalid value for tmpfs-mode: {values['tmpfs-mode']}") from None
    if "tmpfs-size" in values:
        words.append(f"size={parse_size(values['tmpfs-size'])}")
    return TmpfsRequest(_target(values["target"], prefix), ",".join(words))


_TMPFS_FLAGS = frozenset(
    "ro rw exec noexec suid nosuid dev nodev atime noatime diratime nodiratime relatime norelatime strictatime "
    "nostrictatime sync async dirsync mand nomand bind rbind private rprivate slave rslave shared rshared defaults "
    "unbindable runbindable remount".split()
)
_TMPFS_KEYS = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol")


def parse_tmpfs(text: str) -> TmpfsRequest:
    """Read the argument of --tmpfs: `/path[:option,…]`; raises UsageError."""
    target, _, options = text.partition(":")
    for option in options.split(",") if options else ():
        key, equals, value = option.partition("=")
        if option not in _TMPFS_FLAGS and not (equals and value and key in _TMPFS_KEYS):
            raise UsageError(f'invalid tmpfs option ["{option}"]')
    return TmpfsRequest(_target(target, ""), options)


def mount_point_document(bind: BindRequest, *, from_mount_flag: bool) -> dict[str, Any]:
    """The entry of config.v2.json's MountPoints for a bind. Source: shared format notes §5.1"""
    document: dict[str, Any] = {
        "Source": bind.source,
        "Destination": bind.target,
        "RW": not bind.read_only,
        "Name": "",
        "Driver": "",
        "Type": "bind",
    }
    if bind.mode_text:
        document["Relabel"] = bind.mode_text
    document["Propagation"] = bind.propagation
    spec: dict[str, Any] = {"Type": "bind", "Source": bind.source, "Target": bind.target}
    if bind.read_only:
        spec["ReadOnly"] = True
    if bind.propagation != "rprivate" or not bind.recursive:
        options: dict[str, Any] = {}
        if bind.propagation != "rprivate":
            options["Propagation"] = bind.propagation
        if not bind.recursive:
            options["NonRecursive"] = True
        spec["BindOptions"] = options
    document["Spec"] = spec
    document["SkipMountpointCreation"] = from_mount_flag
    return document
