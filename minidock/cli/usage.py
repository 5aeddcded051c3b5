"""Words that typer must look at: help, completion, usage errors in docker's words and with docker's exit codes."""

from __future__ import annotations

import functools
import sys
from typing import Any

import click
import typer

from minidock.cli.output import escape_controls
from minidock.cli.pflag import Invocation

# docker's client ends with 125 when it cannot read an option, and with 1 when words are missing or too many.
BAD_OPTION_STATUS = 125
BAD_WORDS_STATUS = 1


@functools.cache
def command_tree() -> click.Command:
    """The whole tree as click's objects."""
    import minidock.cli.tree  # noqa: F401  it fills the groups
    from minidock.cli.groups import app

    return typer.main.get_command(app)


def parse_with_typer(argv: list[str]) -> Invocation | int:
    """Read a command line with the typer tree itself.

    Returns: what to call, or the exit status when all is said (help, version, completion, an error)
    """
    try:
        result: Any = command_tree().main(list(argv), prog_name="minidock", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 0
    except click.UsageError as error:
        return _complain(error)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        return 130
    return result if isinstance(result, tuple) else int(result or 0)


def _complain(error: click.UsageError) -> int:
    context = error.ctx
    path = context.command_path if context else "minidock"
    words, status = _in_dockers_words(error, path)
    print(escape_controls(words), file=sys.stderr)
    print(f"See '{path} --help'.", file=sys.stderr)
    if status == BAD_WORDS_STATUS and context is not None and not isinstance(context.command, click.Group):
        print(f"\n{context.get_usage()}\n\n{context.command.get_short_help_str(200)}", file=sys.stderr)
    return status


def _in_dockers_words(error: click.UsageError, path: str) -> tuple[str, int]:
    if isinstance(error, (click.NoSuchOption, click.BadOptionUsage)):
        return error.message, BAD_OPTION_STATUS
    if isinstance(error, click.MissingParameter) or "unexpected extra argument" in error.message:
        command = error.ctx.command if error.ctx else None
        arity = _arity(command)
        verb = "accepts" if arity == "no arguments" else "requires"
        return f'"{path}" {verb} {arity}.', BAD_WORDS_STATUS
    if isinstance(error, click.BadParameter):
        if isinstance(error.param, click.Option):
            names = ", ".join(sorted(error.param.opts, key=len))
            value, is_number, _ = error.message.rpartition(" is not a valid integer")
            if is_number:
                reason = f'strconv.ParseInt: parsing "{value[1:-1]}": invalid syntax'
                return f'invalid argument "{value[1:-1]}" for "{names}" flag: {reason}', BAD_OPTION_STATUS
            return f'invalid argument for "{names}" flag: {error.message}', BAD_OPTION_STATUS
        return error.message, BAD_OPTION_STATUS
    if isinstance(error, click.NoSuchCommand):
        return _unknown_command(error, path), BAD_WORDS_STATUS
    return error.message, BAD_OPTION_STATUS


def _unknown_command(error: click.NoSuchCommand, path: str) -> str:
    return f"minidock: {error.command_name!r} is not a {path} command."


def _arity(command: click.Command | None) -> str:
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)] if command else []
    minimum = sum(argument.required for argument in arguments)
    open_end = any(argument.nargs == -1 for argument in arguments)
    if not arguments:
        return "no arguments"
    if open_end:
        return f"at least {_count(minimum)}"
    if minimum == len(arguments):
        return f"exactly {_count(minimum)}"
    return (
        f"at least {minimum} and at most {_count(len(arguments))}" if minimum else f"at most {_count(len(arguments))}"
    )


def _count(number: int) -> str:
    return f"{number} argument" if number == 1 else f"{number} arguments"
