"""Quotes and variables in the arguments of Dockerfile instructions.

Source: moby frontend/dockerfile/shell/lex.go (20.10), its processWord and processDollar
"""

from __future__ import annotations

from minidock.errors import UsageError

_SPECIAL = frozenset("@*#?-$!0")


class _Reader:
    """A word and the place in it."""

    __slots__ = ("text", "place")

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    def peek(self) -> str:
        return self.text[self.place : self.place + 1]

    def next(self) -> str:
        character = self.peek()
        self.place += 1
        return character


class _Words:
    """Characters as they come, cut into words at unquoted blanks."""

    __slots__ = ("result", "words", "current", "in_word")

    def __init__(self) -> None:
        self.result: list[str] = []
        self.words: list[str] = []
        self.current = ""
        self.in_word = False

    def bare(self, text: str) -> None:
        """Text outside of quotes."""
        self.result.append(text)
        for character in text:
            if character.isspace():
                self.cut()
            else:
                self.current += character
                self.in_word = True

    def quoted(self, text: str) -> None:
        """Text that never splits; an empty one still makes a word."""
        self.result.append(text)
        self.current += text
        self.in_word = True

    def cut(self) -> None:
        """End the current word, if there is one."""
        if self.in_word:
            self.words.append(self.current)
        self.current, self.in_word = "", False


def expand_word(text: str, env: list[str]) -> str:
    """Remove quotes and put in variables; an unset one is empty.

    Shape:  env as in a config, `NAME=value`
    Raises: UsageError
    """
    return "".join(_expand(text, env).result)


def expand_words(text: str, env: list[str]) -> list[str]:
    """The same, cut into words at blanks that are not quoted, those from variables included."""
    words = _expand(text, env)
    words.cut()
    return words.words


def _expand(text: str, env: list[str]) -> _Words:
    reader, words = _Reader(text), _Words()
    _read_until("", reader, words, env)
    return words


def _read_until(stop: str, reader: _Reader, words: _Words, env: list[str]) -> None:
    while character := reader.next():
        if character == stop:
            return
        if character == "'":
            words.quoted(_single_quoted(reader))
        elif character == '"':
            words.quoted(_double_quoted(reader, env))
        elif character == "$":
            words.bare(_variable(reader, env))
        elif character == "\\":
            words.quoted(reader.next())
        else:
            words.bare(character)
    if stop:
        raise UsageError(f"unexpected end of statement while looking for matching {stop}")


def _single_quoted(reader: _Reader) -> str:
    text, quote, rest = reader.text[reader.place :].partition("'")
    if not quote:
        raise UsageError("unexpected end of statement while looking for matching single-quote")
    reader.place = len(reader.text) - len(rest)
    return text


def _double_quoted(reader: _Reader, env: list[str]) -> str:
    parts: list[str] = []
    while character := reader.next():
        if character == '"':
            return "".join(parts)
        if character == "$":
            parts.append(_variable(reader, env))
        elif character == "\\" and not reader.peek():
            continue
        else:
            parts.append(reader.next() if character == "\\" and reader.peek() in '"$\\' else character)
    raise UsageError("unexpected end of statement while looking for matching double-quote")


def _name(reader: _Reader) -> str:
    name = ""
    while character := reader.peek():
        if not name and character in _SPECIAL:
            return reader.next()
        if name.isdecimal() and not character.isdecimal():
            return name
        if not (character == "_" or character.isalnum()):
            return name
        name += reader.next()
    return name


def _value(name: str, env: list[str]) -> str:
    for entry in env:
        key, _, value = entry.partition("=")
        if key == name:
            return value
    return ""


def _variable(reader: _Reader, env: list[str]) -> str:
    if reader.peek() != "{":
        name = _name(reader)
        return _value(name, env) if name else "$"
    reader.next()
    if not reader.peek():
        raise UsageError("syntax error: missing '}'")
    if reader.peek() in "{}:":
        raise UsageError("syntax error: bad substitution")
    name = _name(reader)
    mark = reader.next()
    value = _value(name, env)
    if mark == "}":
        return value
    if mark != ":":
        raise UsageError("missing ':' in substitution")
    modifier = reader.next()
    words = _Words()
    _read_until("}", reader, words, env)
    word = "".join(words.result)
    if modifier == "-":
        return value or word
    if modifier == "+":
        return word if value else ""
    if modifier == "?":
        if not value:
            raise UsageError(f"{name}: {word or 'not set'}")
        return value
    raise UsageError(f"unsupported modifier ({modifier}) in substitution")
