"""docker wait: block until a container has ended."""

from __future__ import annotations

import os

from minidock.errors import NoSuchContainer
from minidock.runtime.attach import open_process, wait_process
from minidock.runtime.containerjob import exit_path
from minidock.runtime.settle import wait_recorded, wait_restarted
from minidock.store.containerstate import wait_unlocked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.containers import Container
    from minidock.store.root import DataRoot

EXIT_KILLED = 137


class Ending:
    """A hold on how a container will end, which outlasts its removal."""

    __slots__ = ("_exit_fd", "_monitor_fd", "_process_fd", "container")

    def __init__(self, container: Container) -> None:
        self.container = container
        self._exit_fd = self._monitor_fd = self._process_fd = -1
        state = container.state
        if (state.pid or state.is_restarting()) and state.is_monitor_alive():
            self._monitor_fd = open_process(state.monitor_pid, state.monitor_start_time)
            if state.auto_remove:
                self._exit_fd = _open(exit_path(container))
        elif container.is_running():
            # The monitor was killed and could not take the container along.
            self._process_fd = open_process(state.pid, state.start_time)

    def wait(self) -> int:
        """Block until it has ended and that is recorded; the exit code."""
        if self.container.state.is_foreign():
            wait_unlocked(self.container.state.life_path)
        if self._process_fd >= 0:
            wait_process(self._process_fd)
            os.close(self._process_fd)
            self._process_fd = -1
        if self._monitor_fd >= 0:
            monitor_fd, self._monitor_fd = self._monitor_fd, -1
            try:
                wait_restarted(self.container, monitor_fd)
                wait_recorded(self.container, monitor_fd)
            except NoSuchContainer:
                # A --rm container; the file that tells of its end is still open here.
                pass
        if self._exit_fd >= 0:
            text = os.pread(self._exit_fd, 16, 0)
            os.close(self._exit_fd)
            self._exit_fd = -1
            return int(text) if text.isdigit() else EXIT_KILLED
        try:
            self.container.reload()
        except NoSuchContainer:
            return EXIT_KILLED
        return self.container.state.shown_exit_code()


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return -1


def wait(root: DataRoot, container: str) -> int:
    """Wait for a container's end; one that does not run has its last exit code told at once.

    Raises: NoSuchContainer
    """
    return Ending(root.containers.get(container)).wait()
