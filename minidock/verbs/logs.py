"""docker logs: what a container wrote."""

from __future__ import annotations

import os

from minidock.runtime.attach import open_process
from minidock.runtime.logs import Growth, read_records, tail_offset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

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
) -> Iterator[tuple[str, int, bytes]]:
    """The records of a container's log, oldest first.

    Shape:   yields (`stdout` or `stderr`, time_ns, bytes); tail: only the last so many; follow: go on until the
             container ends; without timestamps, lines of one stream and one moment may come as one
    Units:   since and until nanoseconds since 1970
    Raises:  NoSuchContainer, at once and not at the first record
    """
    found = root.containers.get(container)
    state = found.state
    pidfd = open_process(state.monitor_pid, state.monitor_start_time) if follow and state.is_monitor_alive() else -1
    return _records(found.log_path, pidfd, tail, since, until, join=not timestamps)


def _records(
    path: str, pidfd: int, tail: int | None, since: int | None, until: int | None, *, join: bool
) -> Iterator[tuple[str, int, bytes]]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        # Never started: nothing was ever written.
        if pidfd >= 0:
            os.close(pidfd)
        return
    growth = Growth(path, pidfd) if pidfd >= 0 else None
    try:
        offset = 0 if tail is None else tail_offset(handle, tail)
        wait = growth.wait if growth is not None else None
        for record in read_records(handle, offset=offset, wait=wait, join=join):
            if since is not None and record.time_ns < since:
                continue
            if until is not None and record.time_ns > until:
                return
            yield record.stream, record.time_ns, record.data
    finally:
        os.close(handle)
        if growth is not None:
            growth.close()
