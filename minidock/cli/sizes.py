"""Sizes as docker reads them in options: `64m`, `1g`, `512`.

Source: docker/go-units size.go, RAMInBytes
"""

from __future__ import annotations

from minidock.errors import UsageError

_UNITS = "bkmgtp"


def parse_size(text: str) -> int:
    """Bytes of a size with a binary unit, `k` or `kb` or `kib`; raises UsageError."""
    number = text.lower().strip()
    for ending in ("ib", "b"):
        if len(number) > len(ending) and number.endswith(ending) and number[-len(ending) - 1] in _UNITS[1:]:
            number = number.removesuffix(ending)
            break
    power = 0
    if number and number[-1] in _UNITS:
        power = _UNITS.index(number[-1])
        number = number[:-1].rstrip()
    whole, _, fraction = number.partition(".")
    if not (whole + fraction).isascii() or not whole.isdecimal() or (fraction and not fraction.isdecimal()):
        raise UsageError(f"invalid size: '{text}'")
    return int(float(number) * 1024**power) if fraction else int(whole) * 1024**power
