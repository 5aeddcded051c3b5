"""Opening the data root as the command line asks for it."""

from __future__ import annotations

import os

from minidock.cli.output import write_error
from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, NoReturn

    from minidock.store.evidence import Evidence
    from minidock.store.reproducible import Reproducible
    from minidock.store.root import DataRoot
    from minidock.trace import Trace


def open_root(options: dict[str, Any], *, write: bool = True, create: bool = False, bare: bool = False) -> DataRoot:
    """The data root of --root; only a command that brings images makes one.

    Shape:  bare: for a command that mends it, and makes nothing beforehand
    Raises: StoreError
    """
    from minidock.store.root import DataRoot

    trace: Trace | None = None
    if options.get("explain"):
        from minidock.cli import explain

        trace = explain.trace
    fixed = _reproducible(options) if "reproducible" in options else None
    return DataRoot.open(options.get("root"), write=write, create=create, bare=bare, trace=trace, reproducible=fixed)


def open_evidence(options: dict[str, Any]) -> Evidence:
    """The data root of --root for a command that only looks, and leaves no trace of it; raises StoreError."""
    from minidock.store.evidence import Evidence

    return Evidence.open(options.get("root"))


def _reproducible(options: dict[str, Any]) -> Reproducible | None:
    """What --reproducible and SOURCE_DATE_EPOCH ask for; raises UsageError."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text and not options["reproducible"]:
        return None
    from minidock.store.reproducible import Reproducible

    if text and not (text.isascii() and text.isdecimal() and len(text) < 11):
        raise UsageError(f"SOURCE_DATE_EPOCH is no number of seconds since 1970: {text[:40]!r}")
    return Reproducible(int(text) * 1_000_000_000 if text else None)


class Reading:
    """The data root for a command that shows it, as a context manager: at its end each fault of the root is told.

    Looking for faults takes about as long as listing two hundred containers, so a child does it meanwhile.
    """

    __slots__ = ("_pid", "_pipe", "_root")

    def __init__(self, options: dict[str, Any]) -> None:
        self._root = open_root(options, write=False)
        self._pid = self._pipe = -1

    def __enter__(self) -> DataRoot:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            _tell_faults(self._root, writing)
        os.close(writing)
        self._pipe = reading
        return self._root

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with open(self._pipe, "rb") as pipe:
                faults = pipe.read()
            os.waitpid(self._pid, 0)
            for fault in faults.split(b"\0")[:-1]:
                write_error(f"WARNING: {os.fsdecode(fault)}")
        finally:
            self._root.close()


def _tell_faults(root: DataRoot, pipe: int) -> NoReturn:
    """The child's whole life: the faults go into the pipe, each ended by a NUL."""
    import _signal  # type: ignore[import-not-found]

    try:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        data = memoryview(b"".join(os.fsencode(fault) + b"\0" for fault in root.faults()))
        while data:
            data = data[os.write(pipe, data) :]
    finally:
        os._exit(0)
