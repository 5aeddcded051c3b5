"""Errors on their way out: one line each on standard error."""

from __future__ import annotations

from minidock.cli.output import write_error
from minidock.errors import MinidockError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def report(error: BaseException) -> None:
    """Show an error, and below it what else went wrong while cleaning up."""
    write_error(f"minidock: {error}")
    for note in getattr(error, "__notes__", ()):
        write_error(f"minidock: {note}")


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
