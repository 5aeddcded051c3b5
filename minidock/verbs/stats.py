"""docker stats: what containers use of CPU, memory, network and block I/O."""

from __future__ import annotations

from minidock.runtime.pause import group_of
from minidock.runtime.usage import Usage, measure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.store.containers import Container
    from minidock.store.root import DataRoot


class Stats:
    """One container's row.

    Shape: name as asked for, or the short ID; usage as measured last; cpu_share: of one CPU, so two busy ones are 2.0
    """

    __slots__ = ("asked", "container_name", "cpu_share", "id", "usage")

    def __init__(self, container: Container, asked: str, usage: Usage, before: Usage | None) -> None:
        self.id = container.id
        self.container_name = container.name
        self.asked = asked
        self.usage = usage
        self.cpu_share = 0.0
        if before is not None and usage.taken_ns > before.taken_ns:
            spent_ns = max(0, usage.cpu_ns - before.cpu_ns)
            self.cpu_share = spent_ns / (usage.taken_ns - before.taken_ns)


class Watch:
    """Looks at containers again and again; each look's CPU shares are those since the one before.

    Shape: names: those to look at, none for all that run, or with all for every one
    """

    __slots__ = ("_all", "_before", "_names", "_root")

    def __init__(self, root: DataRoot, names: Sequence[str] = (), *, all: bool = False) -> None:
        self._root = root
        self._names = list(names)
        self._all = all
        self._before: dict[str, Usage] = {}

    def look(self) -> list[Stats]:
        """The rows as of now, in the order asked for, else newest first; raises NoSuchContainer."""
        if self._names:
            chosen = [(name, self._root.containers.get(name)) for name in self._names]
        else:
            found = self._root.containers.all()
            chosen = [(one.id[:12], one) for one in found if self._all or one.is_running() or one.state.is_restarting()]
        rows = []
        for asked, container in chosen:
            usage = _measure(container) if container.is_running() else Usage()
            rows.append(Stats(container, asked, usage, self._before.get(container.id)))
            self._before[container.id] = usage
        return rows


def _measure(container: Container) -> Usage:
    own_network = container.config.host_text("NetworkMode") != "host"
    return measure(group_of(container), container.state.pid, own_network=own_network)
