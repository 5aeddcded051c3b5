"""click read as docker's client reads: the rules of Go's pflag where click's own differ.

A switch takes `--name=true|false`, a short option's value may follow `=` (`-n=3`), long options never
shorten and a single dash is never a long option. A command's function in the tree is a declaration only:
invoking a command yields an Invocation, which `minidock.__main__` hands to the handler, so that the
compiled grammar and this tree end in the same call.
"""

from __future__ import annotations

from typing import Any

import click
import typer.core
from click.parser import _OptionParser, _ParsingState

from minidock.cli.grammar import FALSE_WORDS, TRUE_WORDS

Invocation = tuple[str, dict[str, Any]]
HANDLER = "minidock_handler"
FIXED = "minidock_fixed"


class _PflagParser(_OptionParser):
    """Options as pflag splits them.

    Source: spf13/pflag flag.go, parseLongArg and parseSingleShortArg
    """

    def _process_opts(self, arg: str, state: _ParsingState) -> None:
        if arg.startswith("--"):
            name, equals, value = arg.partition("=")
            self._take(name, value if equals else None, state, in_word=arg)
            return
        letters = arg[1:]
        while letters:
            name, letters = "-" + letters[0], letters[1:]
            option = self._short_opt.get(name)
            if option is None or option.takes_value or letters.startswith("="):
                value_text = letters.removeprefix("=") if letters else None
                self._take(name, value_text, state, in_word=arg)
                return
            self._take(name, None, state, in_word=arg)

    def _take(self, name: str, value: str | None, state: _ParsingState, *, in_word: str) -> None:
        option = self._long_opt.get(name) if name.startswith("--") else self._short_opt.get(name)
        if option is None:
            raise click.NoSuchOption(name, unknown_message(name, in_word), ctx=self.ctx)
        if option.takes_value:
            if value is None:
                if not state.rargs:
                    where = name if name.startswith("--") else f"{name[1:]!r} in {in_word}"
                    raise click.BadOptionUsage(name, f"flag needs an argument: {where}", ctx=self.ctx)
                value = state.rargs.pop(0)
            option.process(value, state)
        elif not isinstance(option.obj, click.Option) or not option.obj.is_bool_flag or option.obj.is_eager:
            option.process(option.const, state)
        else:
            state.opts[option.dest or ""] = self._truth(name, value)
            state.order.append(option.obj)

    def _truth(self, name: str, value: str | None) -> bool:
        if value is None or value in TRUE_WORDS:
            return True
        if value in FALSE_WORDS:
            return False
        message = f'invalid argument "{value}" for "{name}" flag: not a truth value'
        raise click.BadOptionUsage(name, message, ctx=self.ctx)


def unknown_message(name: str, in_word: str) -> str:
    """docker's words for an option that the command does not have."""
    return f"unknown flag: {name}" if name.startswith("--") else f"unknown shorthand flag: {name[1:]!r} in {in_word}"


def _parser_of(ctx: click.Context, parameters: list[click.Parameter]) -> _PflagParser:
    parser = _PflagParser(ctx)
    for parameter in parameters:
        parameter.add_to_parser(parser, ctx)
    return parser


class Command(typer.core.TyperCommand):
    """A command whose invocation says which handler serves it, with which options."""

    def make_parser(self, ctx: click.Context) -> _OptionParser:
        return _parser_of(ctx, self.get_params(ctx))

    def invoke(self, ctx: click.Context) -> Invocation:
        options: dict[str, Any] = dict(getattr(self.callback, FIXED))
        parent: click.Context | None = ctx
        while parent is not None:
            for parameter in parent.command.get_params(parent):
                if parameter.name in parent.params and not parameter.is_eager:
                    value = _plain(parameter, parent.params[parameter.name])
                    options[parameter.name] = options.get(parameter.name) or value
            parent = parent.parent
        return getattr(self.callback, HANDLER), options


def _plain(parameter: click.Parameter, value: Any) -> Any:
    if parameter.nargs == -1 or parameter.multiple:
        return list(value or ())
    return value


class Group(typer.core.TyperGroup):
    """A group of commands; its words are read like a command's."""

    def make_parser(self, ctx: click.Context) -> _OptionParser:
        return _parser_of(ctx, self.get_params(ctx))
