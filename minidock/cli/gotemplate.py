"""Go templates as docker's --format uses them, run on plain values: dicts, lists, texts, numbers.

Source: Go text/template, package documentation
"""

from __future__ import annotations

from minidock.cli.gofunctions import FUNCTIONS, MISSING, NIL, NIL_LIST, NIL_MAP, is_true, to_text
from minidock.cli.templateparser import Parser, TemplateSyntax, bad
from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from minidock.cli.templateparser import Node

    # Each variable is a cell of one, so that an inner block can assign to an outer block's.
    Variables: TypeAlias = dict[str, list[object]]

__all__ = ["Fields", "Template", "TemplateSyntax"]


class Fields(dict[str, object]):
    """A row of a listing: other than of a document, nothing but its own keys may be asked of it."""

    __slots__ = ()


class Template:
    """A parsed template."""

    __slots__ = ("_body", "_functions")

    def __init__(self, text: str, functions: dict[str, Callable[..., object]] | None = None) -> None:
        self._functions = {**FUNCTIONS, **(functions or {})}
        try:
            self._body = Parser(text, self._functions).template()
        except RecursionError:
            raise bad("nested too deeply") from None

    def render(self, value: object) -> str:
        """The template's text for one value; raises UsageError where the value lacks what is asked."""
        out: list[str] = []
        self._run(self._body, value, {"$": [value]}, out)
        return "".join(out)

    def _run(self, body: list[Node], dot: object, variables: Variables, out: list[str]) -> str:
        """Run some nodes; returns "break" or "continue" if one of them asked for it."""
        for node in body:
            kind = node[0]
            if kind == "text":
                out.append(node[1])
            elif kind == "assign":
                variables[node[1][0]][0] = self._value(node[2], dot, variables)
            elif kind == "print":
                value = self._value(node[2], dot, variables)
                if node[1]:
                    variables[node[1][0]] = [value]
                else:
                    out.append(to_text(value))
            elif kind in ("break", "continue"):
                return str(kind)
            elif kind == "range":
                self._loop(node, dot, variables, out)
            elif leap := self._branch(node, dot, variables, out):
                return leap
        return ""

    def _loop(self, node: Node, dot: object, variables: Variables, out: list[str]) -> None:
        _, names, pipe, body, otherwise = node
        pairs = _pairs(self._value(pipe, dot, variables))
        for key, item in pairs:
            inner = dict(variables)
            for name, value in zip(names[::-1], (item, key), strict=False):
                inner[name] = [value]
            if self._run(body, item, inner, out) == "break":
                break
        if not pairs:
            self._run(otherwise, dot, dict(variables), out)

    def _branch(self, node: Node, dot: object, variables: Variables, out: list[str]) -> str:
        kind, names, pipe, body, otherwise = node
        value = self._value(pipe, dot, variables)
        inner = dict(variables)
        if names:
            inner[names[0]] = [value]
        if is_true(value):
            return self._run(body, value if kind == "with" else dot, inner, out)
        return self._run(otherwise, dot, inner, out)

    def _value(self, node: Node, dot: object, variables: Variables) -> object:
        kind = node[0]
        if kind == "dot":
            return dot
        if kind == "literal":
            return node[1]
        if kind == "variable":
            return variables[node[1]][0]
        if kind == "chain":
            value = self._value(node[1], dot, variables)
            for name in node[2]:
                value = _field(value, name)
            if callable(value):
                raise UsageError(f"template: wrong number of args for {node[2][-1]}: want 1 got 0")
            return value
        if kind == "function":
            return self._apply(node[1], [])
        arguments = [self._value(argument, dot, variables) for argument in node[2]]
        if node[1][0] == "function":
            return self._apply(node[1][1], arguments)
        value = self._value(node[1][1], dot, variables)
        for name in node[1][2]:
            value = _field(value, name)
        if not callable(value):
            raise UsageError(f"template: {node[1][2][-1]} has arguments but is no method")
        if len(arguments) != 1 or not isinstance(arguments[0], str):
            raise UsageError(f"template: {node[1][2][-1]} takes one string")
        return value(*arguments)

    def _apply(self, name: str, arguments: list[object]) -> object:
        try:
            return self._functions[name](*arguments)
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise UsageError(f"template: error calling {name}: {error or 'wrong arguments'}") from None


def _pairs(value: object) -> list[tuple[object, object]]:
    if isinstance(value, dict):
        return [(key, value[key]) for key in sorted(value)]
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    if value is None or value is MISSING or value is NIL:
        return []
    raise UsageError(f"template: range can't iterate over {to_text(value)}")


# What docker's typed records hold where their JSON says null or leaves the field out: an empty map, an empty list,
# or nothing. A template sees `map[]`, `[]` or `<nil>` there, and may ask for them.
_EMPTY: dict[str, object] = dict.fromkeys(
    "Annotations ExposedPorts Labels Networks Options PortBindings Ports StorageOpt Sysctls Tmpfs Volumes".split(),
    NIL_MAP,
)
_EMPTY.update(
    dict.fromkeys(
        "Aliases Binds BlkioDeviceReadBps CapAdd CapDrop Cmd DeviceCgroupRules DeviceRequests Devices Dns DnsOptions"
        " DnsSearch Entrypoint Env ExecIDs ExtraHosts GroupAdd Layers Links MaskedPaths Mounts OnBuild ReadonlyPaths"
        " RepoDigests RepoTags SecurityOpt Shell Ulimits VolumesFrom".split(),
        NIL_LIST,
    )
)
_EMPTY.update(
    dict.fromkeys(
        "Health Healthcheck Init MemorySwappiness OomKillDisable PidsLimit SizeRootFs SizeRw StopTimeout".split(), NIL
    )
)
# Texts and truths that are left out when empty.
_EMPTY.update(dict.fromkeys("MacAddress OsVersion StopSignal Variant".split(), ""))
_EMPTY.update(dict.fromkeys("ArgsEscaped NetworkDisabled".split(), False))


def _field(value: object, name: str) -> object:
    if isinstance(value, Fields):
        if name not in value:
            raise UsageError(f"failed to execute template: can't evaluate field {name}")
        return value[name]
    if isinstance(value, dict):
        item = value.get(name)
        if item is not None:
            return item
        is_record = bool(value) and all(key[:1].isupper() for key in value)
        if is_record and name in _EMPTY:
            return _EMPTY[name]
        if name in value:
            return None
        if is_record and name[:1].isupper():
            raise UsageError(f'template parsing error: map has no entry for key "{name}"')
        return MISSING
    if value is None or value is MISSING or value is NIL:
        return MISSING
    raise UsageError(f"template parsing error: can't evaluate field {name} in {to_text(value)}")
