"""A container that its user has paused: frozen by the kernel, and recorded as such.

Frozen first and recorded after, thawed last: between the two a killed command leaves a container that stands still,
and which `unpause` takes for paused, since it asks the kernel too. What is frozen cannot end meanwhile, so no record
of an end can be overwritten.
"""

from __future__ import annotations

from minidock.errors import Conflict, ContainerNotRunning, MinidockError
from minidock.runtime.attach import refuse_foreign
from minidock.runtime.pause import FreezeLock, group_of
from minidock.store.lock import refuse_under_engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.runtime.cgroup import Cgroup
    from minidock.store.containers import Container


def pause_container(container: Container) -> None:
    """Freeze a running container, after a commit that reads it; raises ContainerNotRunning, Conflict."""
    refuse_under_engine(container.root.path)
    with FreezeLock(container), container.lock():
        refuse_under_engine(container.root.path)
        _check_running(container)
        group = group_of(container)
        if container.state.status == "paused":
            raise Conflict(f"Container {container.id} is already paused")
        _tell(container, group, "FROZEN")
        group.freeze()
        if not container.is_running():
            group.thaw()
            _check_running(container)
        _record(container, "paused")


def unpause_container(container: Container) -> None:
    """Let a paused container go on, after a commit that reads it; raises Conflict."""
    refuse_under_engine(container.root.path)
    with FreezeLock(container), container.lock():
        refuse_under_engine(container.root.path)
        refuse_foreign(container)
        is_running = container.is_running()
        group = group_of(container)
        if not is_running or (container.state.status != "paused" and not group.is_frozen()):
            raise Conflict(f"Container {container.id} is not paused")
        _record(container, "running")
        _tell(container, group, "THAWED")
        group.thaw()


def thaw_for_signal(container: Container, *, deadly: bool) -> None:
    """A signal has been sent to a paused container: let it go on, so that the signal reaches it.

    Shape: deadly: SIGKILL, after which nothing of the container's may be recorded but its end
    """
    if deadly:
        # What is dead writes nothing that a reader could miss, so there is nobody to wait for.
        _thaw(group_of(container))
        return
    with FreezeLock(container):
        _record(container, "running")
        _thaw(group_of(container))


def _thaw(group: Cgroup) -> None:
    try:
        group.thaw()
    except (MinidockError, OSError):
        # The container has ended, and its group with it.
        return


def _check_running(container: Container) -> None:
    refuse_foreign(container)
    if container.state.is_restarting():
        raise ContainerNotRunning(f"Container {container.id} is restarting, wait until the container is running")
    if not container.is_running():
        raise ContainerNotRunning(f"Container {container.id} is not running")


def _record(container: Container, status: str) -> None:
    state = container.state
    if state.status != status:
        state.status = status
        container.write_state(state)


def _tell(container: Container, group: Cgroup, state: str) -> None:
    place = group.path_of("freezer")
    if place is not None:
        container.root.tell("cgroup", f"echo {state} > {place}/freezer.state")
    elif group.v2_path is not None:
        container.root.tell("cgroup", f"echo {int(state == 'FROZEN')} > {group.v2_path}/cgroup.freeze")
