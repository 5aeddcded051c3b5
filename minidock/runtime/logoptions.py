"""What --log-opt says about the json-file log.

Source: moby daemon/logger/jsonfilelog/jsonfilelog.go; docker/go-units size.go
"""

from __future__ import annotations

from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KNOWN = ("compress", "env", "env-regex", "labels", "labels-regex", "max-file", "max-size", "tag")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def read_log_options(options: dict[str, Any]) -> tuple[int, int]:
    """The size in bytes at which a file is rotated, 0 for never, and how many files are kept; raises UsageError."""
    for key in options:
        if key not in _KNOWN:
            raise UsageError(f"unknown log opt '{key}' for json-file log driver")
    if options.get("compress", "false") != "false":
        raise UsageError("--log-opt compress is not there", hint="old log files are kept as they are")
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
