"""The functions a --format template may call, and how Go prints a value.

Source: docker/cli templates/templates.go, basicFunctions; Go text/template, "Functions"
"""

from __future__ import annotations

from minidock.cli.output import quote
from minidock.formats.gojson import encode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Missing:
    """What Go calls an invalid value: a map's key that is not there."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


MISSING = _Missing()
# A pointer to nothing.
NIL = _Missing()


class _NilMap(dict[str, object]):
    """A map that was never made: empty, but null in JSON."""

    __slots__ = ()


class _NilList(list[object]):
    """A list that was never made: empty, but null in JSON."""

    __slots__ = ()


NIL_MAP = _NilMap()
NIL_LIST = _NilList()


def is_true(value: object) -> bool:
    """Whether an `if` takes the value for true: not zero, not empty."""
    return bool(value)


def to_text(value: object) -> str:
    """A value as Go's fmt prints it with %v."""
    if isinstance(value, str):
        return value
    if value is MISSING or value is None:
        return "<no value>"
    return _inner(value)


def _inner(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, _Missing):
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_inner(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(map(_inner, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _fields_only(value: object) -> object:
    """Rows, also those in rows, without their methods."""
    if isinstance(value, dict) and type(value) is not dict:
        return {key: _fields_only(item) for key, item in sorted(value.items()) if not callable(item)}
    return [_fields_only(item) for item in value] if isinstance(value, list) else value


def to_json(value: object) -> str:
    """A value as Go's encoding/json writes it; a listing's row has its keys sorted."""
    if isinstance(value, (_Missing, _NilMap, _NilList)):
        return "null"
    if isinstance(value, dict) and type(value) is not dict:
        return encode_json(_fields_only(value)).decode("utf-8", "surrogateescape")
    return encode_json(value).decode("utf-8", "surrogateescape")


def _index(value: Any, *keys: Any) -> object:
    for key in keys:
        if isinstance(value, dict):
            # Where a map holds texts only, as labels, a missing key gives the empty text.
            empty: object = "" if all(isinstance(item, str) for item in value.values()) else MISSING
            value = value.get(key, empty)
        elif value is None or isinstance(value, _Missing):
            raise ValueError("index of nil pointer")
        elif isinstance(key, int) and not isinstance(key, bool):
            if not 0 <= key < len(value):
                raise IndexError(f"index out of range: {key}")
            value = value[key] if not isinstance(value, str) else ord(value[key])
        else:
            raise TypeError(f"cannot index with {to_text(key)}")
    return value


def _slice(value: Any, *bounds: int) -> object:
    low, high = (
        (*bounds, len(value))[:2] if len(bounds) == 1 else (*bounds, 0, len(value))[:2] if not bounds else bounds[:2]
    )
    if not 0 <= low <= high <= len(value):
        raise IndexError(f"index out of range: {high}")
    return value[low:high]


def _and(*values: object) -> object:
    value: object = MISSING
    for value in values:
        if not is_true(value):
            return value
    return value


def _or(*values: object) -> object:
    value: object = MISSING
    for value in values:
        if is_true(value):
            return value
    return value


def _kind(value: object) -> str:
    for kind, name in (
        (bool, "bool"),
        (int, "int"),
        (float, "float64"),
        (str, "string"),
        (dict, "map"),
        (list, "slice"),
    ):
        if isinstance(value, kind):
            return name
    return "nil"


def _compare(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(left: Any, right: Any) -> bool:
        if _kind(left) != _kind(right):
            raise TypeError("incompatible types for comparison")
        return test(left, right)

    return compare


_same = _compare(lambda left, right: left == right)


def _print(*values: object) -> str:
    out: list[str] = []
    for number, value in enumerate(values):
        # Go puts a space between two operands only when neither is a string.
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            out.append(" ")
        out.append(_inner(value))
    return "".join(out)


def _printf(form: str, *values: Any) -> str:
    out: list[str] = []
    waiting = list(values)
    position = 0
    while True:
        percent = form.find("%", position)
        if percent < 0:
            break
        out.append(form[position:percent])
        end = percent + 1
        while end < len(form) and form[end] in "+-# 0123456789.":
            end += 1
        verb = form[end : end + 1]
        position = end + 1
        if verb == "%":
            out.append("%")
        elif not waiting:
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_verb(form[percent + 1 : end], verb, waiting.pop(0)))
    out.append(form[position:])
    if waiting:
        out.append(f"%!(EXTRA {', '.join(map(_with_type, waiting))})")
    return "".join(out)


def _with_type(value: object) -> str:
    return f"{_kind(value)}={_inner(value)}"


def _verb(flags: str, verb: str, value: Any) -> str:
    kind = _kind(value)
    if verb == "v" or (verb == "s" and kind in ("string", "slice", "map")) or (verb == "t" and kind == "bool"):
        return f"%{flags}s" % _inner(value)
    if verb == "q" and kind == "string":
        return f"%{flags}s" % quote(value)
    if verb in ("d", "x", "X", "o") and kind == "int":
        return str(f"%{flags}{verb}" % value)
    if verb in ("c", "U") and kind == "int":
        return chr(value) if verb == "c" else f"U+{value:04X}"
    if verb in ("f", "e", "g") and kind == "float64":
        return str(f"%{flags}{verb}" % value)
    if verb in ("x", "X") and kind == "string":
        text: str = value.encode("utf-8", "surrogateescape").hex()
        return text.upper() if verb == "X" else text
    return f"%!{verb}({_with_type(value)})"


def _title(text: str) -> str:
    out: list[str] = []
    inside = False
    for letter in text:
        out.append(letter if inside else letter.upper())
        inside = letter.isalnum() or letter == "_"
    return "".join(out)


def _html(*values: object) -> str:
    text = _print(*values)
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
        text = text.replace(plain, escaped)
    return text


def _urlquery(*values: object) -> str:
    out: list[str] = []
    for byte in _print(*values).encode("utf-8", "surrogateescape"):
        letter = chr(byte)
        plain = letter.isalnum() and byte < 128 or letter in "-_.~"
        out.append(letter if plain else "+" if letter == " " else f"%{byte:02X}")
    return "".join(out)


def _truncate(text: str, limit: int) -> str:
    return text[:limit]


def _pad(text: str, before: int, after: int) -> str:
    return text if text == "" else " " * before + text + " " * after


def _join(values: Any, separator: str) -> str:
    if not isinstance(values, (list, tuple)):
        raise TypeError("join needs a list")
    return separator.join(map(to_text, values))


FUNCTIONS: dict[str, Callable[..., object]] = {
    "json": to_json,
    "join": _join,
    "split": lambda text, separator: text.split(separator) if separator else list(text),
    "title": _title,
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "pad": _pad,
    "truncate": _truncate,
    "print": _print,
    "println": lambda *values: " ".join(map(_inner, values)) + "\n",
    "printf": _printf,
    "html": _html,
    "urlquery": _urlquery,
    "index": _index,
    "slice": _slice,
    "len": lambda value: len(value),
    "and": _and,
    "or": _or,
    "not": lambda value: not is_true(value),
    "eq": lambda left, *others: any(_same(left, other) for other in others),
    "ne": lambda left, right: not _same(left, right),
    "lt": _compare(lambda left, right: left < right),
    "le": _compare(lambda left, right: left <= right),
    "gt": _compare(lambda left, right: left > right),
    "ge": _compare(lambda left, right: left >= right),
}

# For a table's head docker runs the template on the columns' titles; what would change a title leaves it alone.
HEADER_FUNCTIONS: dict[str, Callable[..., object]] = {
    name: (lambda value, *rest: value) for name in ("json", "title", "lower", "upper", "truncate", "join", "split")
}
