"""Before a container is touched: its last monitor has finished, or what a killed one left is cleaned up."""

from __future__ import annotations

import os

from minidock.errors import MinidockError
from minidock.runtime.attach import open_process
from minidock.store.containers import ContainerLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from minidock.store.containers import Container


class SettledLock(ContainerLock):
    """A container's lock, entered when its state is true: it runs, or nothing of it is left in the kernel.

    A monitor that removes its container needs the lock itself, so it is waited for without holding it.

    Shape: has_cleaned: what a killed monitor left was cleaned up on entering
    """

    __slots__ = ("has_cleaned",)

    def __init__(self, container: Container) -> None:
        self.has_cleaned = False
        super().__init__(container, wait=True)

    def __enter__(self) -> SettledLock:
        while True:
            wait_for_monitor(self.container)
            super().__enter__()
            try:
                if not self.container.state.pid or self.container.is_running():
                    return self
                if not self.container.state.is_monitor_alive():
                    clean_up_after_kill(self.container)
                    self.has_cleaned = True
                    return self
            except BaseException:
                self.release()
                raise
            self.release()


def wait_for_monitor(container: Container) -> None:
    """When the container's process has ended, wait until its monitor has recorded that.

    Raises: NoSuchContainer when the monitor removed it
    """
    state = container.state
    if state.pid and not state.is_process_alive() and state.is_monitor_alive():
        pidfd = open_process(state.monitor_pid, state.monitor_start_time)
        if pidfd >= 0:
            wait_recorded(container, pidfd)
        container.reload()


def wait_recorded(container: Container, monitor_fd: int) -> None:
    """Wait until a monitor has recorded its container's end, or has ended itself; closes the descriptor.

    The monitor may live on for a reader of the container's last output, which nobody else should have to wait for.
    Raises: NoSuchContainer when the monitor removed it
    """
    _wait_while(container, monitor_fd, lambda: bool(container.state.pid))


def wait_restarted(container: Container, monitor_fd: int) -> None:
    """Wait until a container that its restart policy is to start again runs, or will not; keeps the descriptor."""
    if container.state.is_restarting():
        _wait_while(container, os.dup(monitor_fd), lambda: container.state.is_restarting())


def _wait_while(container: Container, monitor_fd: int, goes_on: Callable[[], bool]) -> None:
    from minidock.runtime.growth import CHANGES, Growth

    try:
        watch = Growth(container.path, monitor_fd, CHANGES)
    except OSError:
        os.close(monitor_fd)
        container.reload()
        return
    try:
        while True:
            container.reload()
            if not goes_on() or not watch.wait():
                return
    finally:
        watch.close()


def end_restarts(container: Container) -> None:
    """Word has been left that the end is wanted: a monitor that waits to restart the container is woken to read it.

    Shape: returns when it does not wait any more; it may have started the container just before
    """
    import _signal  # type: ignore[import-not-found]

    from minidock.runtime.growth import CHANGES, Growth
    from minidock.runtime.signals import WAKE

    while container.state.is_restarting():
        monitor_fd = open_process(container.state.monitor_pid, container.state.monitor_start_time)
        if monitor_fd >= 0:
            watch = Growth(container.path, monitor_fd, CHANGES)
            try:
                container.reload()
                if container.state.is_restarting():
                    _signal.pidfd_send_signal(monitor_fd, WAKE)
                    watch.wait()
            except ProcessLookupError:
                pass
            finally:
                watch.close()
        container.reload()


def clean_up_after_kill(container: Container) -> None:
    """The monitor was killed, or the machine went down: remove what they left and record the end.

    Shape: the caller holds the container's lock
    """
    from minidock.runtime.cgroup import Cgroup

    state = container.state
    group = Cgroup.open(container.id, container.config.host_text("CgroupParent"), state.delegated)
    state.oom_killed = group.oom_killed()
    group.end()
    if container.id in container.root.endpoints.ids():
        from minidock.network.joining import reclaim

        reclaim(container.root)
    exit_code = state.shown_exit_code()
    state.status, state.pid, state.exit_code = "exited", 0, exit_code
    state.finished_ns = state.finished_ns or _last_sign_of_life(container)
    with container.root.lock():
        container.record_exit(state)


def remove_with_volumes(container: Container) -> None:
    """Remove a container, and the volumes made for it without a name; the caller holds its lock."""
    if any(point.get("Type") == "volume" for point in container.light_config.mount_points):
        from minidock.store.volumes import remove_with_volumes

        remove_with_volumes(container)
    else:
        container.root.containers.remove(container)


def remove_abandoned(containers: list[Container]) -> None:
    """Remove --rm containers whose monitor was killed before it could; those in other hands are left alone."""
    for container in containers:
        try:
            with container.lock(wait=False):
                if container.state.is_abandoned():
                    clean_up_after_kill(container)
                    remove_with_volumes(container)
        except MinidockError:
            continue


def _last_sign_of_life(container: Container) -> int:
    try:
        return os.stat(container.log_path).st_mtime_ns
    except OSError:
        return container.state.started_ns
