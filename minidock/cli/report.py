"""Documents: what inspect, info and version know, as JSON or through a Go template."""

from __future__ import annotations

import os

from minidock.cli.output import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def to_json(value: Any, *, indent: int = 0) -> str:
    """JSON with docker's layout: compact, or with `indent` blanks a level; `<`, `>` and `&` stay as they are.

    Shape: control characters of every kind are escaped, so that the text may go to a terminal
    """
    out: list[str] = []
    _encode(value, out, " " * indent, "\n" if indent else "")
    return "".join(out)


def _encode(value: Any, out: list[str], step: str, margin: str) -> None:
    if isinstance(value, str):
        out.append(_quote(value))
    elif value is None or value is True or value is False:
        out.append({None: "null", True: "true", False: "false"}[value])
    elif isinstance(value, (int, float)):
        out.append(repr(value) if type(value) is float else int.__repr__(int(value)))
    elif isinstance(value, dict):
        _encode_items(list(value.items()), out, step, margin, "{}")
    elif isinstance(value, (list, tuple)):
        _encode_items([(None, item) for item in value], out, step, margin, "[]")
    else:
        raise TypeError(f"no JSON for {type(value).__name__}")


def _encode_items(items: list[tuple[Any, Any]], out: list[str], step: str, margin: str, brackets: str) -> None:
    if not items:
        out.append(brackets)
        return
    inner = margin + step
    separator = brackets[0]
    for key, item in items:
        out.append(separator + inner)
        if brackets == "{}":
            out.append(_quote(str(key)) + (": " if step else ":"))
        _encode(item, out, step, inner)
        separator = ","
    out.append(margin + brackets[1])


def _quote(text: str) -> str:
    try:
        from _json import encode_basestring
    except ImportError:
        from json.encoder import encode_basestring
    quoted: str = encode_basestring(text)
    if quoted.isprintable():
        return quoted
    # A byte that was no UTF-8 is half a surrogate pair here, and as an escape it stays JSON.
    return "".join(
        f"\\u{ord(letter):04x}" if "\x7f" <= letter <= "\x9f" or "\ud800" <= letter <= "\udfff" else letter
        for letter in quoted
    )


def write_document(value: Any, template: str | None) -> None:
    """Print one document; without a template as indented JSON."""
    if template is None or template == "json":
        write(to_json(value, indent=0 if template else 4) + "\n")
    else:
        write_templated([value], template)


def write_documents(values: Sequence[Any], template: str | None) -> None:
    """Print what inspect found: a JSON list, or the template once for each."""
    if template is None or template == "json":
        write(to_json(list(values), indent=0 if template else 4) + "\n")
    else:
        write_templated(values, template)


def write_templated(values: Sequence[Any], template: str) -> None:
    """Print each value through a Go template.

    Shape:  scripts get the values' characters as they are; on a terminal those that would steer it are escaped
    Raises: UsageError
    """
    from minidock.cli.gotemplate import Template

    parsed = Template(template)
    text = "".join(parsed.render(value) + "\n" for value in values)
    if os.isatty(1):
        from minidock.cli.output import escape_controls

        text = "\n".join("\t".join(map(escape_controls, line.split("\t"))) for line in text.split("\n"))
    write(text)
