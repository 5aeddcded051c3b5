"""The entry, and the only exit: the command line goes in, one exit status comes out.

The compiled grammar reads what is in order; typer, which costs more than a whole `ps`, is loaded only for the
rest. Either way one handler is called, and every error ends here as one line.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# docker's client gives up with 125 where the engine refuses to run something, or itself an option's value; else with 1.
_FAILED = 1
_FAILED_TO_RUN = 125
_KILLED = 128
_SIGHUP, _SIGINT, _SIGTERM = 1, 2, 15
# A command loads more objects than this before it is over, nearly all of which live as long as it does: looking through
# them for garbage every 700 takes a twentieth of its time.
_OBJECTS_BEFORE_COLLECTION = 20_000
# Commands that make much before any of it is visible: ended by a signal, they take it back at once. The others either
# pass signals on to a container's process, or are over before one could tell the difference.
_MAKERS = frozenset(("pull_tar", "load", "import_", "commit", "save", "export", "cp", "rmi", "diff", "verify"))


def run(argv: list[str]) -> int:
    """Run one command line, without the program's name, and return its exit status."""
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    if "_MINIDOCK_COMPLETE" not in os.environ:
        from minidock.cli.grammar import parse

        read = parse(argv)
        if read is not None:
            return _call(*read)
    from minidock.cli.usage import parse_with_typer

    result = parse_with_typer(argv)
    return result if isinstance(result, int) else _call(*result)


def _call(handler: str, options: dict[str, Any]) -> int:
    from minidock.errors import CommandError, InvalidOption, MinidockError

    if handler in _MAKERS:
        _end_on_signals()
    try:
        module = __import__(f"minidock.cli.commands.{handler}", None, None, ["handle"])
        status: int = module.handle(options)
        return status
    except MinidockError as error:
        from minidock.cli.failures import report

        report(error)
        is_final = handler == "run" or isinstance(error, (CommandError, InvalidOption))
        return error.exit_code if is_final else _FAILED


def _end_on_signals() -> None:
    """Let SIGTERM and SIGHUP end the command as SIGINT does, by an exception; one that is ignored stays so."""
    import _signal  # type: ignore[import-not-found]

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    for number in (_SIGTERM, _SIGHUP):
        if _signal.getsignal(number) is _signal.SIG_DFL:
            _signal.signal(number, end)


def _guarded(argv: list[str]) -> int:
    try:
        return run(argv)
    except KeyboardInterrupt as interrupt:
        return _KILLED + (interrupt.args[0] if interrupt.args else _SIGINT)
    except BrokenPipeError:
        # the reader went away, as `head` does; nobody is left to tell
        return _FAILED
    except OSError as error:
        # The machine's doing, not ours: no descriptors, no memory, a disk that fails.
        from minidock.cli.failures import report

        report(error)
        return _FAILED_TO_RUN
    except Exception as error:
        if os.environ.get("MINIDOCK_DEBUG") == "1":
            raise
        from minidock.cli.failures import report

        report(RuntimeError(f"{type(error).__name__}: {error} (a bug; MINIDOCK_DEBUG=1 shows where)"))
        return _FAILED_TO_RUN


def _fill_standard_descriptors() -> None:
    """Open what the caller closed (`>&-`), or the first file opened would take its number, and the output."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            # The lowest free number is taken, so the order of the loop is the order of the numbers.
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)


def main() -> NoReturn:
    """Run the process's command line and end the process."""
    from minidock.finder import install

    install()
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)
    _fill_standard_descriptors()
    status = _guarded(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            status = status or _FAILED
    # Nothing is left to clean up; the interpreter's own farewell would only cost time.
    os._exit(status)


if __name__ == "__main__":
    main()
