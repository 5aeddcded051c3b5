"""-v, --mount and --tmpfs: words of the command line to mounts, by docker's grammar and with its messages.

Source: moby volume/mounts/linux_parser.go; docker/cli opts/mount.go
"""

from __future__ import annotations

from minidock.errors import InvalidOption, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROPAGATIONS = ("private", "rprivate", "slave", "rslave", "shared", "rshared")
_NAME_START = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_REST = _NAME_START | frozenset("_.-")
_MAX_NAME_BYTES = 255
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


class VolumeRequest:
    """A volume to be seen in the container.

    Shape: name empty for an anonymous one; copies: whether it is filled from the image while it is empty;
           is_plain: asked for by a path alone, as the image's VOLUME does; options: of the mount that it is made of
    """

    __slots__ = ("copies", "driver_name", "is_plain", "labels", "mode_text", "name", "options", "read_only", "target")

    def __init__(
        self,
        name: str,
        target: str,
        *,
        read_only: bool = False,
        copies: bool = True,
        mode_text: str = "",
        labels: dict[str, str] | None = None,
        driver_name: str = "",
        options: dict[str, str] | None = None,
        is_plain: bool = False,
    ) -> None:
        self.name = name
        self.target = target
        self.read_only = read_only
        self.copies = copies
        self.mode_text = mode_text
        self.labels = labels or {}
        self.driver_name = driver_name
        self.options = options or {}
        self.is_plain = is_plain

    def spec_document(self) -> dict[str, Any]:
        """The request as hostconfig.json's Mounts and a MountPoint's Spec have it."""
        if self.is_plain:
            return {}
        spec: dict[str, Any] = {"Type": "volume"}
        if self.name:
            spec["Source"] = self.name
        spec["Target"] = self.target
        if self.read_only:
            spec["ReadOnly"] = True
        options: dict[str, Any] = {}
        if not self.copies:
            options["NoCopy"] = True
        if self.labels:
            options["Labels"] = dict(sorted(self.labels.items()))
        driver: dict[str, Any] = {"Name": self.driver_name} if self.driver_name else {}
        if self.options:
            driver["Options"] = dict(sorted(self.options.items()))
        if driver:
            options["DriverConfig"] = driver
        if options:
            spec["VolumeOptions"] = options
        return spec


class TmpfsRequest:
    """A tmpfs in the container.

    Shape: options are mount(8)'s, comma separated; spec: what --mount asked for, as hostconfig.json's Mounts have it
    """

    __slots__ = ("options", "spec", "target")

    def __init__(self, target: str, options: str, spec: dict[str, Any] | None = None) -> None:
        self.target = target
        self.options = options
        self.spec = spec or {}


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


def is_volume_name(name: str) -> bool:
    """Whether a volume may be called so."""
    return 2 <= len(name) <= _MAX_NAME_BYTES and name[0] in _NAME_START and _NAME_REST.issuperset(name)


def check_volume_name(name: str) -> str:
    """The name, if a volume may be called so; raises UsageError in the engine's words."""
    if len(name) == 1:
        raise UsageError(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if len(name) > _MAX_NAME_BYTES:
        raise UsageError(f"create {name[:40]}...: volume name is longer than {_MAX_NAME_BYTES} characters")
    if not is_volume_name(name):
        raise UsageError(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    return name


def parse_volume(text: str) -> BindRequest | VolumeRequest:
    """Read the argument of -v: `[host:|name:]container[:ro|rw|z|Z|nocopy|propagation…]`.

    Raises: UsageError
    """
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise UsageError(f"invalid volume specification: '{text}'")
    prefix = f"invalid volume specification: '{text}': invalid mount config for type \"volume\": "
    if len(parts) == 1:
        return VolumeRequest("", _target(text, prefix), is_plain=True)
    source, target = parts[0], parts[1]
    mode = parts[2] if len(parts) == 3 else ""
    if len(parts) == 2 and not target.startswith("/") and _is_mode(target):
        raise UsageError(f"invalid volume specification: '{text}'")
    read_only, propagation, copies = _read_mode(mode)
    if not source.startswith("/"):
        if propagation:
            raise UsageError(f"{prefix}field BindOptions must not be specified")
        target = _target(target, prefix)
        check_volume_name(source)
        return VolumeRequest(source, target, read_only=read_only, copies=copies, mode_text=mode)
    prefix = prefix.replace('"volume"', '"bind"')
    if not copies:
        raise UsageError(f"{prefix}field VolumeOptions must not be specified")
    return BindRequest(
        clean_path(source),
        _target(target, prefix),
        read_only=read_only,
        propagation=propagation or "rprivate",
        mode_text=mode,
        creates_source=True,
    )


def _is_mode(text: str) -> bool:
    try:
        _read_mode(text)
    except UsageError:
        return False
    return True


def _read_mode(mode: str) -> tuple[bool, str, bool]:
    """Whether read-only, the propagation or nothing, and whether a volume is filled."""
    read_only = False
    propagation = ""
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
    return read_only, propagation, "nocopy" not in seen


def split_fields(text: str) -> list[str]:
    """Split one line of comma-separated values; a field may stand in double quotes, a quote in it doubled.

    Raises: InvalidOption
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
                    raise InvalidOption('parse error on line 1: extraneous or missing " in quoted-field')
                field += text[position:end]
                position = end + 1
                if not text.startswith('"', position):
                    break
                field += '"'
                position += 1
            if position < len(text) and text[position] != ",":
                raise InvalidOption('parse error on line 1: extraneous or missing " in quoted-field')
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
    raise InvalidOption(f"invalid value for {key}: {text}")


def parse_size(text: str) -> int:
    """A number of bytes with a unit b, k, m, g, t (also `kb`, `KiB`); raises UsageError."""
    digits = len(text) - len(text.lstrip("0123456789"))
    unit = text[digits:].strip().lower()
    unit = unit.removesuffix("ib") if len(unit) == 3 else (unit[0] if len(unit) == 2 and unit[1] == "b" else unit)
    if not digits or unit not in _TMPFS_SIZE_UNITS:
        raise UsageError(f"invalid size: '{text}'")
    return int(text[:digits]) * _TMPFS_SIZE_UNITS[unit]


def parse_mount(text: str) -> BindRequest | TmpfsRequest | VolumeRequest:
    """Read the argument of --mount: `type=bind|volume,source=…,target=…[,readonly][,…]` or type=tmpfs.

    Raises: InvalidOption; UsageError for what docker's engine would refuse
    """
    try:
        return _parse_mount(text)
    except InvalidOption as error:
        raise InvalidOption(f'invalid argument "{text}" for "--mount" flag: {error.message}') from None


def _parse_mount(text: str) -> BindRequest | TmpfsRequest | VolumeRequest:
    kind = "volume"
    values: dict[str, str] = {}
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    read_only = False
    for field in split_fields(text):
        key, equals, value = field.partition("=")
        key = key.lower()
        if key in ("readonly", "ro"):
            read_only = _truth(value, key) if equals else True
        elif key in ("bind-nonrecursive", "volume-nocopy"):
            values[key] = "true" if not equals or _truth(value, key) else ""
        elif not equals:
            raise InvalidOption(f"invalid field '{field}' must be a key=value pair")
        elif key == "type":
            kind = value.lower()
        elif key in ("source", "src"):
            values["source"] = value
        elif key == "volume-label":
            label, _, content = value.partition("=")
            labels[label] = content
            values[key] = value
        elif key == "volume-opt":
            option, _, content = value.partition("=")
            options[option] = content
            values[key] = value
        elif key in ("target", "dst", "destination"):
            values["target"] = value
        elif key in ("bind-propagation", "tmpfs-size", "tmpfs-mode", "consistency", "volume-driver"):
            values[key] = value
        else:
            raise InvalidOption(f"unexpected key '{key}' in '{field}'")
    if "target" not in values:
        raise InvalidOption("target is required")
    prefix = f'invalid mount config for type "{kind}": '
    if kind == "bind":
        return _bind_mount(values, read_only, prefix)
    if kind == "tmpfs":
        return _tmpfs_mount(values, read_only, prefix)
    if kind == "volume":
        return _volume_mount(values, labels, options, read_only, prefix)
    raise UsageError(f"{prefix}mount type unknown")


def _only(values: dict[str, str], kind: str) -> None:
    for key in values:
        if "-" in key and not key.startswith(f"{kind}-"):
            raise InvalidOption(f"cannot mix '{key.partition('-')[0]}-*' options with mount type '{kind}'")


def _bind_mount(values: dict[str, str], read_only: bool, prefix: str) -> BindRequest:
    _only(values, "bind")
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


def _volume_mount(
    values: dict[str, str], labels: dict[str, str], options: dict[str, str], read_only: bool, prefix: str
) -> VolumeRequest:
    _only(values, "volume")
    check_volume_driver(values.get("volume-driver", ""))
    name = values.get("source", "")
    if options:
        from minidock.formats.volumeoptions import check_volume_options

        check_volume_options(options, name)
    return VolumeRequest(
        check_volume_name(name) if name else "",
        _target(values["target"], prefix),
        read_only=read_only,
        copies=not values.get("volume-nocopy"),
        labels=labels,
        driver_name=values.get("volume-driver", ""),
        options=options,
    )


def check_volume_driver(driver: str) -> None:
    """Only the engine's own driver is there; raises UsageError."""
    if driver not in ("", "local"):
        raise UsageError(f'error looking up volume plugin {driver}: plugin "{driver}" not found')


def _tmpfs_mount(values: dict[str, str], read_only: bool, prefix: str) -> TmpfsRequest:
    _only(values, "tmpfs")
    if values.get("source"):
        raise UsageError(f"{prefix}field Source must not be specified")
    options: dict[str, int] = {}
    if "tmpfs-size" in values:
        try:
            options["SizeBytes"] = parse_size(values["tmpfs-size"])
        except UsageError:
            raise InvalidOption(f"invalid value for tmpfs-size: {values['tmpfs-size']}") from None
    if "tmpfs-mode" in values:
        try:
            options["Mode"] = int(values["tmpfs-mode"], 8)
        except ValueError:
            raise InvalidOption(f"invalid value for tmpfs-mode: {values['tmpfs-mode']}") from None
    target = _target(values["target"], prefix)
    spec: dict[str, Any] = {"Type": "tmpfs", "Target": target}
    if read_only:
        spec["ReadOnly"] = True
    if options:
        spec["TmpfsOptions"] = options
    return TmpfsRequest(target, "", spec)


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
