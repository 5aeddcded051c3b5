"""Go templates as docker's --format uses them, run on plain values: dicts, lists, texts, numbers.

Source: Go text/template, package documentation
"""

from __future__ import annotations

from minidock.cli.gofunctions import FUNCTIONS, MISSING, is_true, to_text
from minidock.cli.templateparser import Parser, TemplateSyntax, bad
from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minidock.cli.templateparser import Node

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
        self._run(self._body, value, {"$": value}, out)
        return "".join(out)

    def _run(self, body: list[Node], dot: object, variables: dict[str, object], out: list[str]) -> None:
        for node in body:
            kind = node[0]
            if kind == "text":
                out.append(node[1])
            elif kind == "print":
                value = self._value(node[2], dot, variables)
                if node[1]:
                    variables[node[1][0]] = value
                else:
                    out.append(to_text(value))
            else:
                self._branch(node, dot, variables, out)

    def _branch(self, node: Node, dot: object, variables: dict[str, object], out: list[str]) -> None:
        kind, names, pipe, body, otherwise = node
        value = self._value(pipe, dot, variables)
        if kind == "range":
            pairs = _pairs(value)
            for key, item in pairs:
                inner = {**variables, **dict(zip(names[::-1], (item, key), strict=False))}
                self._run(body, item, inner, out)
            if not pairs:
                self._run(otherwise, dot, variables, out)
            return
        inner = {**variables, names[0]: value} if names else dict(variables)
        if is_true(value):
            self._run(body, value if kind == "with" else dot, inner, out)
        else:
            self._run(otherwise, dot, inner, out)

    def _value(self, node: Node, dot: object, variables: dict[str, object]) -> object:
        kind = node[0]
        if kind == "dot":
            return dot
        if kind == "literal":
            return node[1]
        if kind == "variable":
            if node[1] not in variables:
                raise bad(f"undefined variable {node[1]!r}")
            return variables[node[1]]
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
    if value is None or value is MISSING:
        return []
    raise UsageError(f"template: range can't iterate over {to_text(value)}")


# Fields that the engine leaves out of its records when they are empty; a template may ask for them all the same.
_OMITTED = frozenset(
    (
        "Healthcheck",
        "Health",
        "StopSignal",
        "StopTimeout",
        "Shell",
        "OnBuild",
        "ExposedPorts",
        "Volumes",
        "MacAddress",
        "NetworkDisabled",
        "ArgsEscaped",
        "SizeRw",
        "SizeRootFs",
        "GraphDriver",
        "Mounts",
        "Variant",
        "OsVersion",
    )
)


def _field(value: object, name: str) -> object:
    if isinstance(value, Fields):
        if name not in value:
            raise UsageError(f"failed to execute template: can't evaluate field {name}")
        return value[name]
    if isinstance(value, dict):
        if name in value:
            return value[name]
        if value and name not in _OMITTED and name[:1].isupper() and all(key[:1].isupper() for key in value):
            raise UsageError(f'template parsing error: map has no entry for key "{name}"')
        return MISSING
    if value is None or value is MISSING:
        return MISSING
    raise UsageError(f"template parsing error: can't evaluate field {name} in {to_text(value)}")
