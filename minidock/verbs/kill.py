"""docker kill: send a signal to a container's first process."""

from __future__ import annotations

import os

from minidock.errors import ContainerNotRunning
from minidock.runtime.attach import open_process, refuse_foreign, wait_process
from minidock.runtime.settle import end_restarts
from minidock.runtime.signals import SIGNALS, parse_signal
from minidock.verbs.stop import ask_end, send_signal, settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot


def kill(root: DataRoot, container: str, signal: str = "KILL") -> None:
    """Send a signal, by name or number; after SIGKILL wait until the end is recorded.

    Raises: NoSuchContainer, ContainerNotRunning, UsageError for an unknown signal
    """
    number = parse_signal(signal)
    found = root.containers.get(container)
    refuse_foreign(found)
    stop_signal = found.light_config.stop_signal
    if number == SIGNALS["KILL"] or not stop_signal or parse_signal(stop_signal) == number:
        # As with docker: these end the container for good, whatever its restart policy.
        ask_end(found)
        if found.state.is_restarting():
            end_restarts(found)
            if not found.is_running():
                return
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
