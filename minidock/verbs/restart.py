"""docker restart: stop a container, and start it again."""

from __future__ import annotations

from minidock.store.lock import refuse_under_engine
from minidock.verbs.start import start
from minidock.verbs.stop import stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot


def restart(root: DataRoot, container: str, *, timeout_s: int | None = None, signal: str | None = None) -> None:
    """Stop a container if it runs, and start it; a --rm container is kept meanwhile.

    Raises: as stop and start
    """
    found = root.containers.get(container)
    refuse_under_engine(root.path)
    stop(root, found.id, timeout_s=timeout_s, signal=signal, keep=True)
    start(root, found.id)
