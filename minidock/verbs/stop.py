"""docker stop: ask the first process to end, and kill it when it does not."""

from __future__ import annotations

import os

from minidock.errors import NoSuchContainer
from minidock.runtime.attach import open_process, refuse_foreign, wait_process
from minidock.runtime.settle import SettledLock, end_restarts, remove_with_volumes
from minidock.runtime.signals import SIGNALS, parse_signal
from minidock.store.containerstate import KEEP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.containers import Container
    from minidock.store.root import DataRoot

DEFAULT_TIMEOUT_S = 10


def stop(
    root: DataRoot, container: str, *, timeout_s: int | None = None, signal: str | None = None, keep: bool = False
) -> None:
    """Stop a container; one that does not run is left alone.

    Shape:   signal: instead of the image's StopSignal; timeout_s: before SIGKILL, negative for no limit;
             keep: a --rm container stays
    Raises:  NoSuchContainer, UsageError for an unknown signal
    """
    found = root.containers.get(container)
    config = found.light_config
    number = parse_signal(signal or config.stop_signal or "TERM")
    if timeout_s is None:
        given = config.run.get("StopTimeout")
        timeout_s = given if isinstance(given, int) else DEFAULT_TIMEOUT_S
    ask_end(found, keep=keep)
    try:
        while found.is_running() or found.state.is_restarting():
            end_restarts(found)
            pidfd = open_process(found.state.pid, found.state.start_time) if found.is_running() else -1
            if pidfd >= 0:
                try:
                    send_signal(found, pidfd, number)
                    if not wait_process(pidfd, None if timeout_s < 0 else timeout_s):
                        send_signal(found, pidfd, SIGNALS["KILL"])
                        wait_process(pidfd)
                finally:
                    os.close(pidfd)
            wait_for_record(found)
    except NoSuchContainer:
        # A --rm container, which is gone now.
        return
    settle(found)


def ask_end(container: Container, *, keep: bool = False) -> None:
    """Before an end is brought about: neither a restart policy nor, with keep, --rm is to answer it.

    Raises: Conflict for a container that cannot be reached from here
    """
    refuse_foreign(container)
    if not container.state.monitor_pid:
        # An engine's container: there is no monitor of ours to answer.
        return
    keep = keep and container.state.auto_remove
    if (keep or container.restart_policy) and (container.is_running() or container.state.is_restarting()):
        container.ask_end(keep=keep)


def end_container(container: Container) -> None:
    """Kill a container's processes if it runs, and wait until its end is recorded; raises NoSuchContainer."""
    ask_end(container)
    while container.is_running() or container.state.is_restarting():
        end_restarts(container)
        pidfd = open_process(container.state.pid, container.state.start_time) if container.is_running() else -1
        if pidfd >= 0:
            try:
                send_signal(container, pidfd, SIGNALS["KILL"])
                wait_process(pidfd)
            finally:
                os.close(pidfd)
        wait_for_record(container)


def send_signal(container: Container, pidfd: int, number: int) -> None:
    """Send a signal to the first process, which this descriptor names for good; one that has ended is fine."""
    import _signal  # type: ignore[import-not-found]

    container.root.tell("signal", f"kill -{number} {container.state.pid}")
    try:
        _signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
    if container.state.status == "paused":
        _thaw(container, number)


def _thaw(container: Container, number: int) -> None:
    """As docker does, let a paused container feel a signal that is meant to end it, and no other."""
    stop_signal = container.light_config.stop_signal
    deadly = number == SIGNALS["KILL"]
    if deadly or not stop_signal or parse_signal(stop_signal) == number:
        from minidock.runtime.userpause import thaw_for_signal

        thaw_for_signal(container, deadly=deadly)


def wait_for_record(container: Container) -> None:
    """The first process has ended: wait until the monitor has done its work; raises NoSuchContainer."""
    with SettledLock(container) as lock:
        if lock.has_cleaned and container.state.auto_remove and container.asked_end() != KEEP:
            # What its monitor would have done.
            remove_with_volumes(container)


def settle(container: Container) -> None:
    """Wait until the end is recorded; a --rm container is gone then, which is fine."""
    try:
        wait_for_record(container)
    except NoSuchContainer:
        return
