"""Errors on their way out: one line each on standard error."""

from __future__ import annotations

from minidock.cli.output import write_error
from minidock.errors import CommandError, MinidockError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def report(error: BaseException) -> None:
    """Show an error, and below it what else went wrong while cleaning up."""
    write_error(f"minidock: {error}")
    for note in getattr(error, "__notes__", ()):
        write_error(f"minidock: {note}")


def check_filters(words: Iterable[str]) -> None:
    """Raise, as docker's client does before it asks the engine, for a filter that is no `name=value`."""
    for word in words:
        if "=" not in word:
            reason = "bad format of filter (expected name=value)"
            raise CommandError(f'invalid argument "{word}" for "-f, --filter" flag: {reason}', exit_code=125)


def for_each(names: Iterable[str], action: Callable[[str], None], *, absent_is_fine: bool = False) -> int:
    """Do something to each of several things; as in docker, one that fails does not stop the others.

    Shape:   absent_is_fine: a thing that is not there is told but is no failure, as docker's --force has it
    Returns: the exit status, 1 if any failed
    """
    status = 0
    for name in names:
        try:
            action(name)
        except MinidockError as error:
            report(error)
            if not (absent_is_fine and isinstance(error, NotFound)):
                status = 1
    return status
