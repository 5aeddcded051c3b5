"""The command line read without click: by a grammar that `compile_grammar` makes out of the typer tree.

The reader knows only what is in order. Whatever is unusual (help, an unknown word, a missing argument, a value
that is no number) it leaves to typer by returning None, and typer says what is wrong.
"""

from __future__ import annotations

from minidock.cli.grammar_data import ALIASES, COMMANDS, GLOBAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeAlias

    # ((option names, destination, kind, default), ...): kind is one of flag, text, int, list
    Options: TypeAlias = tuple[tuple[tuple[str, ...], str, str, Any], ...]
    # (handler, fixed options, options may follow arguments, options, ((destination, minimum, is list), ...))
    Spec: TypeAlias = tuple[str, tuple[tuple[str, str], ...], bool, Options, tuple[tuple[str, int, bool], ...]]

# Go's strconv.ParseBool knows these and no others.
TRUE_WORDS = ("1", "t", "T", "true", "TRUE", "True")
FALSE_WORDS = ("0", "f", "F", "false", "FALSE", "False")


class _Unusual(Exception):
    """Words that the grammar leaves to typer."""


def parse(argv: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
    """Read a command line.

    Shape:   argv without the program's name
    Returns: the handler's name and its options, or None if typer must look at it
    """
    options: dict[str, Any] = {}
    try:
        words = _read_options(GLOBAL, list(argv), options, interspersed=False)
        if not words:
            return None
        name = words.pop(0)
        if name not in COMMANDS:
            if words[:1] == ["--"]:
                words.pop(0)
            if not words:
                return None
            name = f"{name} {words.pop(0)}"
            name = ALIASES.get(name, name)
            if name not in COMMANDS:
                return None
        spec: Spec = COMMANDS[name]
        handler, fixed, interspersed, known, arguments = spec
        own: dict[str, Any] = dict(fixed)
        words = _read_options(known, words, own, interspersed=interspersed)
        _assign(arguments, words, own)
    except _Unusual:
        return None
    for key, value in options.items():
        own[key] = own.get(key) or value
    return handler, own


def _read_options(known: Options, words: list[str], values: dict[str, Any], *, interspersed: bool) -> list[str]:
    table: dict[str, tuple[str, str]] = {}
    for names, destination, kind, default in known:
        for name in names:
            table[name] = destination, kind
        values[destination] = [] if kind == "list" else default
    arguments: list[str] = []
    words = words[::-1]
    while words:
        word = words.pop()
        if word == "--":
            break
        if len(word) < 2 or word[0] != "-":
            arguments.append(word)
            if interspersed:
                continue
            break
        if word[1] == "-":
            name, equals, text = word.partition("=")
            _take(table, name, text if equals else None, words, values)
        else:
            _read_letters(table, word[1:], words, values)
    return arguments + words[::-1]


def _read_letters(table: dict[str, tuple[str, str]], letters: str, words: list[str], values: dict[str, Any]) -> None:
    while letters:
        name, letters = "-" + letters[0], letters[1:]
        if letters and (letters[0] == "=" or table.get(name, ("", ""))[1] != "flag"):
            _take(table, name, letters.removeprefix("="), words, values)
            return
        _take(table, name, None, words, values)


def _take(
    table: dict[str, tuple[str, str]], name: str, text: str | None, words: list[str], values: dict[str, Any]
) -> None:
    if name not in table:
        raise _Unusual
    destination, kind = table[name]
    if kind == "flag":
        if text is not None and text not in TRUE_WORDS and text not in FALSE_WORDS:
            raise _Unusual
        values[destination] = text is None or text in TRUE_WORDS
        return
    if text is None:
        if not words:
            raise _Unusual
        text = words.pop()
    if kind == "text":
        values[destination] = text
    elif kind == "list":
        values[destination].append(text)
    else:
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal()):
            raise _Unusual
        values[destination] = int(text)


def _assign(arguments: tuple[tuple[str, int, bool], ...], words: list[str], values: dict[str, Any]) -> None:
    position = 0
    for destination, minimum, is_list in arguments:
        rest = words[position:]
        if len(rest) < minimum:
            raise _Unusual
        if is_list:
            values[destination] = rest
            position = len(words)
        else:
            values[destination] = rest[0] if rest else None
            position += 1
    if position < len(words):
        raise _Unusual
