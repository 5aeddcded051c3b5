"""Reading Go templates as docker's --format uses them: from text to a tree of small nodes.

Understood: fields and chains, `$` and variables, pipes, parentheses, literals, if / else if / else, range, break,
continue, with, end, comments and trim marks, and the functions of `gofunctions`. Not: define, template, block.

Source: Go text/template, package documentation
"""

from __future__ import annotations

from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    # ("dot"|"var"|"literal"|"call"|"pipe"|"chain", ...)
    Node: TypeAlias = tuple[Any, ...]

_SPACE = " \t\r\n"
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


class TemplateSyntax(UsageError):
    """A template that cannot be parsed."""


def bad(reason: str) -> TemplateSyntax:
    """The error for a template that is wrong in itself."""
    return TemplateSyntax(f"template parsing error: template: :1: {reason}")


def _split(text: str) -> list[tuple[bool, str]]:
    """Cut a template into (is action, text), trim marks obeyed and comments dropped."""
    pieces: list[tuple[bool, str]] = []
    position, trim_next = 0, False
    while True:
        start = text.find("{{", position)
        plain = text[position:] if start < 0 else text[position:start]
        if trim_next:
            plain = plain.lstrip(_SPACE)
        if start < 0:
            pieces.append((False, plain))
            return pieces
        inside = start + 2
        if text.startswith("-", inside) and text[inside + 1 : inside + 2] in _SPACE:
            plain = plain.rstrip(_SPACE)
            inside += 1
        pieces.append((False, plain))
        end = _end_of_action(text, inside)
        action = text[inside:end]
        trim_next = action.endswith("-") and action[-2:-1] in _SPACE
        action = (action[:-1] if trim_next else action).strip(_SPACE)
        if not (action.startswith("/*") and action.endswith("*/")):
            pieces.append((True, action))
        position = end + 2


def _end_of_action(text: str, position: int) -> int:
    quote = ""
    while position < len(text):
        letter = text[position]
        if quote:
            if letter == "\\" and quote != "`":
                position += 1
            elif letter == quote:
                quote = ""
        elif letter in "\"`'":
            quote = letter
        elif text.startswith("}}", position):
            return position
        position += 1
    raise bad("unclosed action")


def _tokens(action: str) -> list[str]:
    """Words, `.field` runs, literals (kept with their quotes), and the signs | ( ) , := =."""
    found: list[str] = []
    position = 0
    while position < len(action):
        letter = action[position]
        start = position
        if letter in _SPACE:
            position += 1
            found.append(" ")
            continue
        if letter in "\"`'":
            position = _end_of_literal(action, position)
        elif letter in _WORD or letter in ".$-+":
            position += 1
            while position < len(action) and (action[position] in _WORD or action[position] == "."):
                position += 1
        elif action.startswith(":=", position):
            position += 2
        elif letter in "|(),=":
            position += 1
        else:
            raise bad(f"unexpected {letter!r} in command")
        found.append(action[start:position])
    return found


def _end_of_literal(action: str, position: int) -> int:
    quote = action[position]
    position += 1
    while action[position] != quote:
        position += 2 if action[position] == "\\" and quote != "`" else 1
    return position + 1


def _unquoted(token: str) -> str:
    if token[0] == "`":
        return token[1:-1]
    out: list[str] = []
    letters = iter(token[1:-1])
    for letter in letters:
        if letter == "\\":
            escape = next(letters, "")
            letter = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "'": "'", "\\": "\\"}.get(escape, "\\" + escape)
        out.append(letter)
    return "".join(out)


class Parser:
    """Recursive descent over the pieces of one template."""

    __slots__ = ("_functions", "_loops", "_pieces", "_tokens", "_variables")

    def __init__(self, text: str, functions: dict[str, Callable[..., object]]) -> None:
        self._pieces = _split(text)[::-1]
        self._functions = functions
        self._loops = 0
        self._tokens: list[str] = []
        # the variables in sight, the innermost last
        self._variables = ["$"]

    def template(self) -> list[Node]:
        """The whole template."""
        body, ending = self._body()
        if ending:
            raise bad(f"unexpected {{{{{ending}}}}}")
        return body

    def _body(self) -> tuple[list[Node], str]:
        nodes: list[Node] = []
        while self._pieces:
            is_action, text = self._pieces.pop()
            if not is_action:
                if text:
                    nodes.append(("text", text))
                continue
            word, _, rest = text.partition(" ")
            if word in ("if", "range", "with"):
                nodes.append(self._block(word, rest))
            elif word == "end" or word == "else":
                return nodes, text
            elif word in ("define", "template", "block"):
                raise bad(f"{{{{{word}}}}} is not supported")
            elif text in ("break", "continue"):
                if not self._loops:
                    raise bad(f"{{{{{text}}}}} outside {{{{range}}}}")
                nodes.append((text,))
            else:
                names, assigns, pipe = self._pipeline(text)
                nodes.append((("assign" if assigns else "print"), names, pipe))
        return nodes, ""

    def _block(self, word: str, condition: str) -> Node:
        in_sight = len(self._variables)
        names, _, pipe = self._pipeline(condition, declares=word)
        self._loops += word == "range"
        body, ending = self._body()
        self._loops -= word == "range"
        otherwise: list[Node] = []
        if ending.startswith("else "):
            branch, _, rest = ending[5:].strip().partition(" ")
            if branch not in ("if", "with"):
                raise bad(f"unexpected {branch!r} in else")
            otherwise = [self._block(branch, rest)]
            ending = "end"
        elif ending == "else":
            otherwise, ending = self._body()
        if ending != "end":
            raise bad("unexpected EOF")
        del self._variables[in_sight:]
        return (word, names, pipe, body, otherwise)

    def _pipeline(self, text: str, *, declares: str = "") -> tuple[list[str], bool, Node]:
        """The variables that a pipeline sets, whether they are there already, and its value."""
        tokens = _tokens(text)
        names: list[str] = []
        sign = next((token for token in tokens if token in (":=", "=")), "")
        if sign:
            place = tokens.index(sign)
            names = [token for token in tokens[:place] if token not in (",", " ")]
            tokens = tokens[place + 1 :]
            if not names:
                raise bad(f"unexpected {sign!r} in command")
            if not all(name.startswith("$") for name in names) or len(names) > (2 if declares == "range" else 1):
                raise bad("bad variable declaration")
            if sign == "=":
                for name in names:
                    self._check_variable(name)
        self._tokens = tokens[::-1]
        pipe = self._pipe()
        if self._tokens:
            raise bad(f"unexpected {self._tokens[-1]!r} in command")
        if sign == ":=":
            self._variables += names
        return names, sign == "=", pipe

    def _check_variable(self, name: str) -> None:
        if name not in self._variables:
            raise bad(f'undefined variable "{name}"')

    def _peek(self) -> str:
        return self._tokens[-1] if self._tokens else ""

    def _skip(self) -> None:
        while self._peek() == " ":
            self._tokens.pop()

    def _pipe(self) -> Node:
        node = self._command(None)
        self._skip()
        while self._peek() == "|":
            self._tokens.pop()
            node = self._command(node)
            self._skip()
        return node

    def _command(self, piped: Node | None) -> Node:
        operands: list[Node] = []
        self._skip()
        while self._peek() and self._peek() not in "|)":
            operands.append(self._operand())
            self._skip()
        if not operands:
            raise bad("missing value for command")
        if piped is not None:
            operands.append(piped)
        head = operands[0]
        if head[0] == "function" or (len(operands) > 1 and head[0] == "chain"):
            return ("call", head, operands[1:])
        if len(operands) > 1:
            raise bad("a value that is no function was given arguments")
        if head == ("literal", None):
            # Go's parser lets it pass, and so the exit status is another one
            raise UsageError("template parsing error: template: :1: nil is not a command")
        return head

    def _operand(self) -> Node:
        token = self._tokens.pop()
        if token == "(":
            node = self._pipe()
            if not self._tokens or self._tokens.pop() != ")":
                raise bad("unclosed left paren")
            if self._peek().startswith("."):
                return ("chain", node, _names(self._tokens.pop()))
            return node
        return self._word(token)

    def _word(self, token: str) -> Node:
        if token[0] in '"`':
            return ("literal", _unquoted(token))
        if token[0] == "'":
            letter = _unquoted(token)
            if len(letter) != 1:
                raise bad(f"malformed character constant: {token}")
            return ("literal", ord(letter))
        if token == ".":
            return ("dot",)
        if token[0] == ".":
            return ("chain", ("dot",), _names(token))
        if token[0] == "$":
            name, dot, rest = token.partition(".")
            self._check_variable(name)
            return ("chain", ("variable", name), _names(dot + rest)) if dot else ("variable", name)
        if token in ("true", "false", "nil"):
            return ("literal", {"true": True, "false": False, "nil": None}[token])
        if token in self._functions:
            return ("function", token)
        if token.lstrip("+-")[:1].isdecimal():
            return ("literal", _number(token))
        raise bad(f'function "{token}" not defined')


def _number(token: str) -> int | float:
    for kind in (lambda: int(token, 0), lambda: float(token)):
        try:
            return kind()
        except ValueError:
            continue
    raise bad(f"bad number syntax: {token!r}")


def _names(token: str) -> list[str]:
    names = token[1:].split(".")
    if not all(names):
        raise bad(f"bad field {token!r}")
    return names
