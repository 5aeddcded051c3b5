"""Opening the data root as the command line asks for it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
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
