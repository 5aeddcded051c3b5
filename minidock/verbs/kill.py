"""docker kill: send a signal to a container's first process."""

from __future__ import annotations

import os

from minidock.errors import ContainerNotRunning
from minidock.runtime.attach import open_process, wait_process
from minidock.runtime.signals import SIGNALS, parse_signal
from minidock.verbs.stop import send_signal, settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot


def kill(root: DataRoot, container: str, signal: str = "KILL") -> None:
    """Send a signal, by name or number; after SIGKILL wait until the end is recorded.

    Raises: NoSuchContainer, ContainerNotRunning, UsageError for an unknown signal
    """
    number = parse_signal(signal)
    found = root.containers.get(container)
    pidfd = open_process(found.state.pid, found.state.start_time) if found.is_running() else -1
    if pidfd < 0:
        raise ContainerNotRunning(f"Cannot kill container: {container}: Container {found.id} is not running")
    try:
        send_signal(found, pidfd, number)
        if number != SIGNALS["KILL"]:
            return
        wait_process(pidfd)
    finally:
        os.close(pidfd)
    settle(found)
