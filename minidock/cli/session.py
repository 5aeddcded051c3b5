"""Opening the data root as the command line asks for it."""

from __future__ import annotations

from minidock.cli.output import write_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from minidock.store.root import DataRoot
    from minidock.trace import Trace


def open_root(options: dict[str, Any], *, write: bool = True, create: bool = False) -> DataRoot:
    """The data root of --root; only a command that brings images makes one.

    Raises: StoreError
    """
    from minidock.store.root import DataRoot

    trace: Trace | None = None
    if options.get("explain"):
        from minidock.cli import explain

        trace = explain.trace
    return DataRoot.open(options.get("root"), write=write, create=create, trace=trace)


class Reading:
    """The data root for a command that shows it, as a context manager: at its end each fault of the root is told."""

    __slots__ = ("_root",)

    def __init__(self, options: dict[str, Any]) -> None:
        self._root = open_root(options, write=False)

    def __enter__(self) -> DataRoot:
        return self._root

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for fault in self._root.faults():
                write_error(f"WARNING: {fault}")
        finally:
            self._root.close()
