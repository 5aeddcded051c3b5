"""What --log-opt says about the json-file log.

Source: moby daemon/logger/jsonfilelog/jsonfilelog.go; daemon/logger/loginfo.go, ExtraAttributes;
docker/go-units size.go
"""

from __future__ import annotations

from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.containers import Container

_KNOWN = ("compress", "env", "env-regex", "labels", "labels-regex", "max-file", "max-size", "tag")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def read_log_options(options: dict[str, Any]) -> tuple[int, int]:
    """The size in bytes at which a file is rotated, 0 for never, and how many files are kept; raises UsageError."""
    for key in options:
        if key not in _KNOWN:
            raise UsageError(f"unknown log opt '{key}' for json-file log driver")
    if options.get("compress", "false") != "false":
        raise UsageError("--log-opt compress is not there", hint="old log files are kept as they are")
    if options.get("tag"):
        raise UsageError("--log-opt tag is not there", hint="labels and env name what a record shall carry")
    for key in ("env-regex", "labels-regex"):
        _pattern(key, str(options.get(key, "")))
    size = str(options.get("max-size", "-1"))
    max_bytes = 0 if size == "-1" else _size(size)
    text = str(options.get("max-file", "1"))
    if not (text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 10):
        raise UsageError(f"max-file is no number: '{text}'")
    if int(text) < 1:
        raise UsageError("max-file cannot be less than 1")
    return max_bytes, int(text)


def _size(text: str) -> int:
    word = text.lower().removesuffix("b").removesuffix("i")
    unit = word[-1:] if word[-1:] in ("k", "m", "g", "t") else ""
    number = word.removesuffix(unit) if unit else word
    if not (number.isascii() and number.replace(".", "", 1).isdecimal()):
        raise UsageError(f"invalid size: '{text}'")
    size_bytes = int(float(number) * _UNITS[unit])
    if size_bytes <= 0:
        raise UsageError("max-size must be a positive number")
    return size_bytes


def _pattern(key: str, text: str) -> Any:
    """The compiled pattern, None for none; raises UsageError."""
    if not text:
        return None
    import re

    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"{key}: not a regular expression: {error}") from None


def attributes_of(container: Container, options: dict[str, Any]) -> str:
    """What `labels`, `env` and their `-regex` kin add to each record, as its JSON text; empty for nothing."""
    config = container.light_config
    variables = dict(entry.split("=", 1) for entry in config.environment if "=" in entry)
    chosen: dict[str, str] = {}
    for key, given in (("labels", config.labels), ("env", variables)):
        wanted = str(options.get(key, "")).split(",")
        pattern = _pattern(f"{key}-regex", str(options.get(f"{key}-regex", "")))
        for name, value in given.items():
            if name in wanted or (pattern is not None and pattern.search(name)):
                chosen[name] = value
    if not chosen:
        return ""
    from minidock.formats.gojson import encode_json

    return f'"attrs":{encode_json(dict(sorted(chosen.items()))).decode("utf-8")},'
