"""docker rm: remove a container with everything it wrote."""

from __future__ import annotations

from minidock.errors import ContainerRunning, NoSuchContainer
from minidock.runtime.settle import SettledLock, remove_with_volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.containers import Container
    from minidock.store.root import DataRoot

_ATTEMPTS = 5


def rm(root: DataRoot, container: str, *, force: bool = False, volumes: bool = False, link: bool = False) -> None:
    """Remove a container.

    Shape:   force kills a running one first; volumes: those made for it without a name go too; link is docker's and has
             nothing to remove
    Raises:  NoSuchContainer; ContainerRunning; StoreBusy; Conflict when something is mounted below its directories
    """
    found = root.containers.get(container)
    if not force:
        _remove(found, volumes)
        return
    from minidock.store.lock import refuse_under_engine
    from minidock.verbs.stop import end_container

    if found.is_running() or found.state.is_restarting():
        refuse_under_engine(root.path)
    for left in reversed(range(_ATTEMPTS)):
        try:
            end_container(found)
        except NoSuchContainer:
            # It was a --rm container, and its monitor was quicker.
            return
        try:
            _remove(found, volumes)
            return
        except ContainerRunning:
            # Its process ended by itself just before, and its restart policy had it started once more.
            if not left:
                raise


def _remove(found: Container, volumes: bool) -> None:
    with SettledLock(found):
        if found.is_running() or found.state.is_restarting():
            word = "restarting" if found.state.is_restarting() else found.state.status
            stop = "Unpause and then stop" if word == "paused" else "Stop"
            raise ContainerRunning(
                f"You cannot remove a {word} container {found.id}. {stop} the container before attempting removal or "
                "force remove"
            )
        _remove_groups(found)
        if volumes:
            remove_with_volumes(found)
        else:
            found.root.containers.remove(found)


def _remove_groups(container: Container) -> None:
    """Control groups that a launch cut short may have left, below the unit that was ours to use then, or is now."""
    from minidock.runtime.cgroup import Cgroup, delegated_group, hierarchies

    parent = container.config.host_text("CgroupParent")
    for delegated in {container.state.delegated, delegated_group(hierarchies())}:
        Cgroup.open(container.id, parent, delegated).remove()
