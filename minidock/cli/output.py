"""What reaches the terminal: UTF-8 on standard output, tables as docker lays them out, nothing that could steer it.

Names, labels and histories come from images, thus from strangers: control characters are shown as `\\x1b`.
"""

from __future__ import annotations

import os

from minidock.errors import SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# docker's formatter opens Go's tabwriter with these.
_MINIMUM_WIDTH = 10
_PADDING = 3
_NAMES = {1: "standard output", 2: "standard error"}


def write_bytes(data: bytes, descriptor: int = 1) -> None:
    """Write all of data to a descriptor.

    Raises: BrokenPipeError if the reader went away; SyscallError for all else, such as a full disk
    """
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SyscallError(f"write to {_NAMES.get(descriptor, descriptor)}", error.errno or 5) from None


def write(text: str, descriptor: int = 1) -> None:
    """Write text as UTF-8; undecodable bytes of file names come out as they went in."""
    write_bytes(text.encode("utf-8", "surrogateescape"), descriptor)


def write_line(text: str, descriptor: int = 1) -> None:
    """Write one line of text with its control characters escaped."""
    write(escape_controls(text) + "\n", descriptor)


def write_error(text: str) -> None:
    """Write one line to standard error with its control characters escaped."""
    write_line(text, 2)


def warn(warning: str) -> None:
    """Show a warning, as docker's client shows the engine's."""
    write_error(f"WARNING: {warning}")


def escape_controls(text: str) -> str:
    """Show what a terminal would obey, or what would reorder its text, as an escape.

    Shape: a string that is printable comes back as it is; newlines and tabs are escaped too
    """
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(letter: str) -> str:
    if letter.isprintable() or (letter.isspace() and letter > "\xa0" and letter not in "\u2028\u2029"):
        return letter
    code = ord(letter)
    if letter in "\n\t\r":
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}[letter]
    if 0xDC80 <= code <= 0xDCFF:
        # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def layout(rows: Iterable[Sequence[str]]) -> str:
    """Lay rows out in columns as docker's tables are.

    Shape:  a row's last cell ends its line and makes no column; a column is as wide as its widest cell in a run of
            rows that have it, padded by three, at least ten
    Source: Go text/tabwriter, format(); docker/cli cli/command/formatter, NewWriter(out, 10, 1, 3, ' ', 0)
    """
    lines = list(rows)
    if len(lines) == 1:
        *cells, end = lines[0]
        return "".join([cell.ljust(max(_MINIMUM_WIDTH, len(cell) + _PADDING)) for cell in cells]) + end + "\n"
    out: list[str] = []
    _format(lines, 0, len(lines), [], out)
    return "".join(out)


def _format(lines: list[Sequence[str]], start: int, end: int, widths: list[int], out: list[str]) -> None:
    column = len(widths)
    position = start
    while position < end:
        if column >= len(lines[position]) - 1:
            _put(lines[position], widths, out)
            position += 1
            continue
        last = position
        width = _MINIMUM_WIDTH
        while last < end and column < len(lines[last]) - 1:
            width = max(width, len(lines[last][column]) + _PADDING)
            last += 1
        _format(lines, position, last, [*widths, width], out)
        position = last


def _put(cells: Sequence[str], widths: list[int], out: list[str]) -> None:
    for cell, width in zip(cells, widths, strict=False):
        out.append(cell.ljust(width))
    if len(cells) > len(widths):
        out.append(cells[-1])
    out.append("\n")


def shorten(text: str, limit: int) -> str:
    """Text of at most `limit` characters, the last one `…` if something was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def short_id(identity: str) -> str:
    """The first twelve digits of an ID, without its algorithm."""
    return identity.removeprefix("sha256:")[:12]


def quote(text: str) -> str:
    """A string in double quotes as Go's strconv.Quote writes it."""
    out = ['"']
    for letter in text:
        code = ord(letter)
        if letter in '"\\':
            out.append("\\" + letter)
        elif letter.isprintable():
            out.append(letter)
        elif letter in _GO_LETTERS:
            out.append(_GO_LETTERS[letter])
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        else:
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    out.append('"')
    return "".join(out)


_GO_LETTERS = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
