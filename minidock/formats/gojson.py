"""JSON as Go's encoding/json reads and writes it, without the cost of importing `json` on the hot path.

The C scanner and string encoder that the standard library's own package uses are taken from `_json`
directly; importing `json` would load `re` for them, half of what a whole `minidock ps` may cost. Where
an interpreter has no `_json`, the standard package serves.
"""

from __future__ import annotations

from minidock.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SPACE = " \t\n\r"


class _ScanContext:
    """The attributes that `_json.make_scanner` reads from its decoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")


def _loads(text: str) -> Any:
    try:
        from _json import make_scanner
    except ImportError:
        import json

        return json.loads(text, parse_constant=_ScanContext.parse_constant)
    start = len(text) - len(text.lstrip(_SPACE))
    try:
        # typeshed wants a scanner here; the C code reads the attributes of any object.
        value, end = make_scanner(_ScanContext)(text, start)  # type: ignore[arg-type]
    except SystemError:
        # The scanner looks for json.decoder's error class and, not finding it loaded, gives up so; ask it again.
        import json

        return json.loads(text, parse_constant=_ScanContext.parse_constant)
    if text[end:].strip(_SPACE):
        raise ValueError(f"extra data at character {end}")
    return value


def parse_json_any(data: bytes, *, what: str, limit_bytes: int) -> Any:
    """Parse a JSON document of any type; a repeated key's last value wins, as in Go.

    Shape:  what names the document in errors; limit_bytes bounds its size
    Raises: FormatError
    """
    if len(data) > limit_bytes:
        raise FormatError(f"{what}: {len(data)} bytes of JSON, more than the limit of {limit_bytes}")
    try:
        return _loads(data.removeprefix(_BYTE_ORDER_MARK).decode("utf-8"))
    except RecursionError:
        raise FormatError(f"{what}: JSON is nested too deeply") from None
    except StopIteration as stop:
        raise FormatError(f"{what}: not valid JSON: no value at character {stop.value}") from None
    except ValueError as error:
        reason = str(error).split("\n", 1)[0]
        raise FormatError(f"{what}: not valid JSON: {reason}") from None


def parse_json(data: bytes, *, what: str, limit_bytes: int) -> dict[str, Any]:
    """Parse a JSON document that must be an object; raises FormatError."""
    value = parse_json_any(data, what=what, limit_bytes=limit_bytes)
    if not isinstance(value, dict):
        raise FormatError(f"{what}: a JSON object is expected")
    return value


_GO_ESCAPES = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))


def _long_controls(quoted: str) -> str:
    parts: list[str] = []
    position = 0
    while True:
        slash = quoted.find("\\", position)
        if slash < 0:
            parts.append(quoted[position:])
            return "".join(parts)
        letter = quoted[slash + 1]
        parts.append(quoted[position:slash])
        parts.append({"b": "\\u0008", "f": "\\u000c"}.get(letter, "\\" + letter))
        position = slash + 2


def _no_json(value: Any) -> Any:
    raise TypeError(f"no JSON for {type(value).__name__}")


def _dumps(value: Any) -> str:
    try:
        from _json import encode_basestring, make_encoder
    except ImportError:
        import json

        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_no_json)
    encoder = make_encoder(None, _no_json, encode_basestring, None, ":", ",", False, False, True)
    return "".join(encoder(value, 0))


def encode_json(value: Any, *, sort_keys: bool = False) -> bytes:
    """Encode as Go does: compact, `<>&` and U+2028/9 escaped, other text as raw UTF-8, no newline.

    Shape:  dicts keep their order; sort_keys sorts the outermost one (Go sorts maps, and keeps structs' order)
    Source: Go encoding/json, Marshal; shared format notes §6.1
    """
    text = _dumps(dict(sorted(value.items())) if sort_keys else value)
    # Outside strings there is none of these. Go escapes what could end a script element, and writes \b and \f in the
    # long form (until Go 1.22).
    for plain, escaped in _GO_ESCAPES:
        if plain in text:
            text = text.replace(plain, escaped)
    if "\\" in text:
        text = _long_controls(text)
    return text.encode("utf-8", "surrogateescape")


def format_time(time_ns: int) -> str:
    """RFC 3339 in UTC as Go's RFC3339Nano writes it: `Z`, trailing zeros of the fraction cut.

    Units: time_ns in nanoseconds since 1970, may be negative
    """
    import time

    seconds, fraction_ns = divmod(time_ns, 1_000_000_000)
    moment = time.gmtime(seconds)
    fraction = f".{fraction_ns:09d}".rstrip("0").rstrip(".")
    return (
        f"{moment.tm_year:04d}-{moment.tm_mon:02d}-{moment.tm_mday:02d}T"
        f"{moment.tm_hour:02d}:{moment.tm_min:02d}:{moment.tm_sec:02d}{fraction}Z"
    )


def _days(year: int, month: int, day: int) -> int:
    # Days since 1970-01-01 of the proleptic Gregorian calendar, years counted from March.
    if month <= 2:
        year -= 1
        month += 12
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * month - 457) // 5 + day - 719469


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time with any offset and fraction; raises FormatError.

    Source: RFC 3339, 5.6
    """
    try:
        days = _days(int(text[0:4]), int(text[5:7]), int(text[8:10]))
        if text[4] != "-" or text[7] != "-" or text[10] not in "Tt " or text[13] != ":" or text[16] != ":":
            raise ValueError
        seconds = days * 86400 + int(text[11:13]) * 3600 + int(text[14:16]) * 60 + int(text[17:19])
        rest = text[19:]
        fraction_ns = 0
        if rest.startswith("."):
            digits = len(rest[1:]) - len(rest[1:].lstrip("0123456789"))
            fraction_ns = int(rest[1 : digits + 1][:9].ljust(9, "0"))
            rest = rest[digits + 1 :]
        if rest not in ("Z", "z"):
            sign = {"+": 1, "-": -1}[rest[0]]
            seconds -= sign * (int(rest[1:3]) * 3600 + int(rest[4:6]) * 60)
    except (ValueError, IndexError, KeyError):
        raise FormatError(f"not an RFC 3339 time: {text[:40]!r}") from None
    return seconds * 1_000_000_000 + fraction_ns
