"""Dockerfile instructions that change a config: what `commit --change` takes.

Source: moby builder/dockerfile (builder.go, BuildFromConfig; dispatchers.go) and buildkit's parser
"""

from __future__ import annotations

from minidock.errors import FormatError, UsageError
from minidock.formats.gojson import parse_json_any
from minidock.formats.shellwords import expand_word, expand_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_DEFAULT_SHELL = ["/bin/sh", "-c"]
_MAX_BYTES = 1 << 20
_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


class _Instruction:
    """One instruction: its word in capitals, its arguments as text, its flags, its line as written."""

    __slots__ = ("word", "rest", "flags", "original")

    def __init__(self, line: str) -> None:
        self.original = line
        word, self.rest = _first_word(line)
        self.word = word.upper()
        self.flags: dict[str, str] = {}
        while self.rest.startswith("--"):
            flag, self.rest = _first_word(self.rest)
            if flag == "--":
                break
            name, _, value = flag[2:].partition("=")
            self.flags[name] = value

    def json_words(self) -> list[str] | None:
        """The arguments as a JSON list of strings, or None where they are no JSON."""
        return _json_words(self.rest)

    def one_word(self) -> str:
        """The only argument."""
        if not self.rest:
            raise UsageError(f"{self.word} requires exactly one argument")
        return self.rest


def _first_word(text: str) -> tuple[str, str]:
    words = text.strip().split(None, 1)
    return (words[0] if words else ""), (words[1] if len(words) > 1 else "")


def _json_words(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        value = parse_json_any(text.encode("utf-8", "surrogateescape"), what="instruction", limit_bytes=_MAX_BYTES)
    except FormatError:
        return None
    if not isinstance(value, list):
        return None
    if not all(isinstance(word, str) for word in value):
        raise UsageError("when using JSON array syntax, arrays must be comprised of strings only")
    return value


def apply_changes(config: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """The config after these instructions, in their order; config itself stays as it is.

    Raises: UsageError naming what is wrong
    """
    result: dict[str, Any] = {
        key: dict(value) if isinstance(value, dict) else list(value) if isinstance(value, list) else value
        for key, value in config.items()
    }
    instructions = [_Instruction(line) for line in _lines("\n".join(changes))]
    if not instructions:
        raise UsageError("file with no instructions")
    for instruction in instructions:
        if instruction.word not in _DISPATCH:
            raise UsageError(f"{instruction.word.lower()} is not a valid change command")
    state = {"cmd_set": False}
    for instruction in instructions:
        _DISPATCH[instruction.word](result, instruction, state)
    return result


def _lines(text: str) -> list[str]:
    """Logical lines: comments dropped, lines that end in a backslash joined with the next."""
    lines: list[str] = []
    open_line = ""
    for raw in text.split("\n"):
        line = raw.strip() if not open_line else raw.rstrip()
        if line.lstrip().startswith("#") or (open_line and not line.strip()):
            continue
        if line.endswith("\\"):
            open_line += line[:-1]
            continue
        if open_line or line:
            lines.append(open_line + line)
        open_line = ""
    if open_line:
        lines.append(open_line)
    return lines


def _command_line(config: dict[str, Any], instruction: _Instruction) -> list[str]:
    words = instruction.json_words()
    if words is not None:
        return words
    if not instruction.rest:
        return []
    return [*(config.get("Shell") or _DEFAULT_SHELL), instruction.rest]


def _cmd(config: dict[str, Any], instruction: _Instruction, state: dict[str, bool]) -> None:
    config["Cmd"] = _command_line(config, instruction)
    state["cmd_set"] = state["cmd_set"] or bool(config["Cmd"])


def _entrypoint(config: dict[str, Any], instruction: _Instruction, state: dict[str, bool]) -> None:
    config["Entrypoint"] = _command_line(config, instruction)
    if not state["cmd_set"]:
        config["Cmd"] = None


def _pairs(instruction: _Instruction) -> list[tuple[str, str]]:
    """`a=b c="d e"`, or the old form `a the rest of the line`."""
    words = _quoted_words(instruction.rest)
    if not words:
        raise UsageError(f"{instruction.word} requires at least one argument")
    if "=" not in words[0]:
        name, value = _first_word(instruction.rest)
        if not value:
            raise UsageError(f"{instruction.word} must have two arguments")
        return [(name, value)]
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value')
        if not name:
            raise UsageError(f"{instruction.word} names can not be blank")
        pairs.append((name, value))
    return pairs


def _quoted_words(text: str) -> list[str]:
    """Cut at blanks outside of quotes; quotes and escapes stay, to be read when the words are expanded."""
    words: list[str] = []
    word, quote, place = "", "", 0
    while place < len(text):
        character = text[place]
        if not quote and character.isspace():
            if word:
                words.append(word)
            word = ""
        elif character == "\\" and quote != "'":
            if place + 1 < len(text):
                word += text[place : place + 2]
            place += 1
        else:
            if character == quote:
                quote = ""
            elif not quote and character in "'\"":
                quote = character
            word += character
        place += 1
    return [*words, word] if word else words


def _env(config: dict[str, Any], instruction: _Instruction, state: dict[str, bool]) -> None:
    before = list(config.get("Env") or [])
    env = list(before)
    for name, value in _pairs(instruction):
        key = expand_word(name, before)
        entry = f"{key}={expand_word(value, before)}"
        for index, known in enumerate(env):
            if known.partition("=")[0] == key:
                env[index] = entry
                break
        else:
            env.append(entry)
    config["Env"] = env


def _label(config: dict[str, Any], instruction: _Instruction, state: dict[str, bool]) -> None:
    env = config.get("Env") or []
    labels = config["Labels"] = dict(config.get("Labels") or {})
    for name, value in _pairs(instruction):
        labels[expand_word(name, env)] = expand_word(value, env)


def _expose(config: dict[str, Any], instruction: _Instruction, state: dict[str, bool]) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    words = [word for text in instruction.rest.split() for word in expand_words(text, config.get("Env") or [])]
    if not words:
        raise UsageError("EXPOSE requires at least one argument")
    for word in words:
        numbers, slash, protocol = word.partition("/")
        protocol = protocol.lower() or "tcp"
        first, dash, last = numbers.rpartition(":")[2].partition("-")
        if not (_is_port(first) and (not dash or _is_port(last))) or protocol not in ("tcp", "udp", "sctp"):
            raise UsageError(f"Invalid containerPort: {word}")
        if dash and int(last) < int(first):
            raise UsageError(f"Invalid range specified for the Port: {word}")
        for port in range(int(first), int(last if dash else first) + 1):
            ports[f"{port}/{protocol}"] = {}
    config["ExposedPorts"] = ports


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65535


def _volume(config: dict[str, Any], instruction: _Instruction, state: dict[str, bool]) -> None:
    words = instruction.json_words()
    if words is None:
        words = instruction.rest.split()
    if not words:
        raise UsageError("VOLUME requires at least one argument")
    volumes = dict(config.get("Volumes") or {})
    for word in words:
        path = expand_word(word.strip(), config.get("Env") or [])
        if not path:
            raise UsageError("VOLUME specified can not be an empty string")
        volumes[path] = {}
    config["Volumes"] = volumes


def _user(config: dict[str, Any], instruction: _Instruction, state: dict[str, bool]) -> None:
    config["User"] = expand_word(instruction.one_word(), config.get("Env") or [])


def _workdir(config: dict[str, Any], instruction: _Instruction, state: dict[str, bool]) -> None:
    from posixpath import join, normpath

    path = expand_word(instruction.one_word(), config.get("Env") or [])
    if not path:
        raise UsageError("cannot normalize nothing")
    if not path.startswith("/"):
        # Cleaned as Go's filepath.Join does, which unlike normpath never keeps two leading slashes.
        path = "/" + normpath(join("/", config.get("WorkingDir") or "", path)).lstrip("/")
    config["WorkingDir"] = path


def _stop_signal(config: dict[str, Any], instruction: _Instruction, state: dict[str, bool]) -> None:
    config["StopSignal"] = expand_word(instruction.one_word(), config.get("Env") or [])


def _on_build(config: dict[str, Any], instruction: _Instruction, state: dict[str, bool]) -> None:
    trigger = _first_word(instruction.rest)[0].upper()
    if not trigger:
        raise UsageError("ONBUILD requires at least one argument")
    if trigger == "ONBUILD":
        raise UsageError("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise UsageError(f"{trigger} isn't allowed as an ONBUILD trigger")
    config["OnBuild"] = [*(config.get("OnBuild") or []), instruction.rest]


def _healthcheck(config: dict[str, Any], instruction: _Instruction, state: dict[str, bool]) -> None:
    kind, rest = _first_word(instruction.rest)
    kind = kind.upper()
    if not kind:
        raise UsageError("HEALTHCHECK requires at least one argument")
    if kind == "NONE":
        if rest:
            raise UsageError("HEALTHCHECK NONE takes no arguments")
        config["Healthcheck"] = {"Test": ["NONE"]}
        return
    if kind != "CMD":
        raise UsageError(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)')
    if not rest:
        raise UsageError("Missing command after HEALTHCHECK CMD")
    words = _json_words(rest)
    check: dict[str, Any] = {"Test": ["CMD-SHELL", rest] if words is None else ["CMD", *words]}
    for flag, value in instruction.flags.items():
        key = _HEALTHCHECK_FLAGS.get(flag)
        if key is None:
            raise UsageError(f"Unknown flag: {flag}")
        check[key] = _retries(value) if key == "Retries" else _duration_ns(flag, value)
    config["Healthcheck"] = check


_HEALTHCHECK_FLAGS = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
    "retries": "Retries",
}


def _retries(text: str) -> int:
    if not (text.isascii() and text.removeprefix("-").isdecimal()) or len(text) > 9:
        raise UsageError(f"--retries is not a number: {text!r}")
    if text.startswith("-"):
        raise UsageError(f"--retries cannot be negative ({text})")
    return int(text)


def _duration_ns(flag: str, text: str) -> int:
    """Go's durations: `1h30m`, `1.5s`, `500ms`; at least a millisecond."""
    total, rest = 0, text
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        letters = len(rest[digits:]) - len(rest[digits:].lstrip("nsuµmh"))
        number, unit, rest = rest[:digits], rest[digits : digits + letters], rest[digits + letters :]
        whole, _, fraction = number.partition(".")
        if unit not in _UNITS_NS or not (whole + fraction).isdecimal():
            raise UsageError(f"--{flag}: invalid duration {text!r}")
        total += int(whole or "0") * _UNITS_NS[unit] + int(fraction or "0") * _UNITS_NS[unit] // 10 ** len(fraction)
    if 0 < total < _UNITS_NS["ms"] or not text:
        raise UsageError(f"--{flag}: the duration {text!r} is less than 1ms")
    return total


_DISPATCH: dict[str, Callable[[dict[str, Any], _Instruction, dict[str, bool]], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
