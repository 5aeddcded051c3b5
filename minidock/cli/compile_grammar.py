"""Compile the typer tree into minidock/cli/grammar_data.py:  python -m minidock.cli.compile_grammar

The result is plain literals, so reading it costs one .pyc. A test holds the file to the tree.
"""

from __future__ import annotations

import os
from typing import Any

import click

from minidock.cli.pflag import FIXED, HANDLER
from minidock.cli.usage import command_tree

HEADER = '''"""The command line as data, made from the typer tree by compile_grammar.py; not for editing."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.cli.grammar import Options, Spec

'''


def option_row(option: click.Option) -> tuple[tuple[str, ...], str, str, Any]:
    """One option as the grammar knows it: names, destination, kind, default."""
    default: Any = option.default
    if option.multiple:
        kind, default = "list", None
    elif option.is_bool_flag:
        kind, default = "flag", bool(default)
    elif isinstance(option.type, click.types.IntParamType):
        kind = "int"
    elif isinstance(option.type, click.types.StringParamType):
        kind = "text"
    else:
        raise TypeError(f"the grammar has no kind for {option.opts}")
    return tuple(option.opts), str(option.name), kind, default


def options_of(command: click.Command) -> tuple[tuple[tuple[str, ...], str, str, Any], ...]:
    """A command's options, without those that act at once (help, version, completion): typer serves them."""
    return tuple(
        option_row(parameter)
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.expose_value and not parameter.is_eager
    )


def spec_of(command: click.Command) -> tuple[Any, ...]:
    """A command as the grammar knows it; minidock.cli.grammar.Spec names the parts."""
    arguments = tuple(
        (str(parameter.name), int(parameter.required), parameter.nargs == -1)
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    )
    interspersed = bool(command.context_settings.get("allow_interspersed_args", True))
    fixed = tuple(sorted(getattr(command.callback, FIXED).items()))
    return getattr(command.callback, HANDLER), fixed, interspersed, options_of(command), arguments


def walk(group: click.Group, prefix: str = "") -> list[tuple[str, click.Command]]:
    """All commands below a group with their full names, `image ls`."""
    found: list[tuple[str, click.Command]] = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += walk(command, f"{prefix}{name} ")
        else:
            found.append((prefix + name, command))
    return found


def compile_grammar() -> str:
    """The text of grammar_data.py for the tree as it is now."""
    root = command_tree()
    assert isinstance(root, click.Group)
    specs: dict[str, tuple[Any, ...]] = {}
    aliases: dict[str, str] = {}
    for name, command in sorted(walk(root), key=lambda found: (found[0].count(" "), found[0])):
        spec = spec_of(command)
        same = next((other for other, known in specs.items() if known == spec and " " in name), None)
        if same is None:
            specs[name] = spec
        else:
            aliases[name] = same
    lines = [HEADER, f"GLOBAL: Options = {options_of(root)!r}\n", "COMMANDS: dict[str, Spec] = {\n"]
    lines += [f"    {name!r}: {spec!r},\n" for name, spec in specs.items()]
    lines += ["}\n", "ALIASES: dict[str, str] = {\n"]
    lines += [f"    {alias!r}: {name!r},\n" for alias, name in aliases.items()]
    lines.append("}\n")
    return formatted("".join(lines))


def formatted(text: str) -> str:
    """The text as the project's formatter wants it; without the formatter, as it is."""
    import shutil
    import subprocess
    import sys

    ruff = shutil.which("ruff", path=os.path.dirname(sys.executable)) or shutil.which("ruff")
    if ruff is None:
        return text
    command = [ruff, "format", "--line-length", "120", "--stdin-filename", DATA_PATH, "-"]
    return subprocess.run(command, input=text, text=True, capture_output=True, check=True).stdout


DATA_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "grammar_data.py")


def main() -> None:
    """Write grammar_data.py anew, by one rename."""
    text = compile_grammar()
    temporary = DATA_PATH + ".new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, DATA_PATH)


if __name__ == "__main__":
    main()
