"""docker pause and unpause: a container's processes stand still, and go on."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot


def pause(root: DataRoot, container: str) -> None:
    """Freeze a running container.

    Raises: NoSuchContainer, ContainerNotRunning, Conflict for one that is paused already
    """
    from minidock.runtime.userpause import pause_container

    pause_container(root.containers.get(container))


def unpause(root: DataRoot, container: str) -> None:
    """Let a paused container go on.

    Raises: NoSuchContainer, Conflict for one that is not paused
    """
    from minidock.runtime.userpause import unpause_container

    unpause_container(root.containers.get(container))
