"""docker logs: what a container wrote."""

from __future__ import annotations

import os

from minidock.errors import MinidockError, UsageError
from minidock.runtime.attach import open_process
from minidock.runtime.logreading import count_records, newer_log, read_records, tail_offset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from minidock.runtime.growth import Growth
    from minidock.store.containers import Container
    from minidock.store.root import DataRoot


def logs(
    root: DataRoot,
    container: str,
    *,
    follow: bool = False,
    tail: int | None = None,
    since: int | None = None,
    until: int | None = None,
    timestamps: bool = False,
    details: bool = False,
) -> Iterator[tuple[str, int, bytes]]:
    """The records of a container's log, oldest first.

    Shape:   yields (`stdout` or `stderr`, time_ns, bytes); details: each begins with what --log-opt labels and env have
             added to it, `key=value,…` and a blank, as docker shows them; tail: only the last so many; follow:
             go on until the container ends; without timestamps and details, lines of one stream and one moment may
             come as one
    Units:   since and until nanoseconds since 1970
    Raises:  NoSuchContainer, at once and not at the first record
    """
    found = root.containers.get(container)
    if _driver(found) == "none":
        raise UsageError("configured logging driver does not support reading")
    state = found.state
    pidfd = open_process(state.monitor_pid, state.monitor_start_time) if follow and state.is_monitor_alive() else -1
    return _records(found.log_path, pidfd, tail, since, until, details=details, join=not (timestamps or details))


def _driver(container: Container) -> str:
    try:
        return str((container.host_config.get("LogConfig") or {}).get("Type"))
    except (MinidockError, AttributeError):
        # A log may well be whole where other records are damaged.
        return ""


def _records(
    path: str, pidfd: int, tail: int | None, since: int | None, until: int | None, *, details: bool, join: bool
) -> Iterator[tuple[str, int, bytes]]:
    # The directory and not the file: a log that is rotated goes on in another file of that name.
    growth = None
    if pidfd >= 0:
        from minidock.runtime import growth as growing

        growth = growing.Growth(os.path.dirname(path), pidfd, growing.GROWS | growing.CHANGES)
    name, offset = _beginning(path, tail)
    try:
        while name is not None:
            handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                inode = os.fstat(handle).st_ino
                wait = _waiter(growth, path, inode) if growth is not None else None
                for record in read_records(handle, offset=offset, wait=wait, join=join):
                    if since is not None and record.time_ns < since:
                        continue
                    if until is not None and record.time_ns > until:
                        return
                    data = _details(record.attributes) + record.data if details else record.data
                    yield record.stream, record.time_ns, data
            finally:
                os.close(handle)
            name, offset = newer_log(path, inode), 0
    finally:
        if growth is not None:
            growth.close()


def _details(attributes: dict[str, Any] | None) -> bytes:
    """Source: moby api/server/httputils/write_log_stream.go, attrsByteSlice"""
    from urllib.parse import quote_plus

    if not isinstance(attributes, dict):
        return b" "
    words = [f"{quote_plus(key)}={quote_plus(str(attributes[key]))}" for key in sorted(attributes)]
    return ",".join(words).encode("utf-8", "replace") + b" "


def _waiter(growth: Growth, path: str, inode: int) -> Callable[[], bool]:
    def wait() -> bool:
        """Wait until this file may have grown; False once it will not grow any more."""
        return newer_log(path, inode) is None and growth.wait()

    return wait


def _beginning(path: str, tail: int | None) -> tuple[str | None, int]:
    """The file to begin with, None when nothing was ever written, and where in it."""
    if tail is None:
        return newer_log(path, 0), 0
    name, number, begun = path, 0, None
    while True:
        try:
            handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return begun, 0
        try:
            offset = tail_offset(handle, tail)
            if offset or not tail:
                return name, offset
            tail -= count_records(handle)
        finally:
            os.close(handle)
        if tail <= 0:
            return name, 0
        number += 1
        begun, name = name, f"{path}.{number}"
