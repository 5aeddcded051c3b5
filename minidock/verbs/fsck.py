"""The structure of a data root: every fault in one list, each with its kind and how much it matters.

Only looks, also at a running dockerd's root, a read-only one or a copy from a dead disk; see store/inspection.py.
"""

from __future__ import annotations

from minidock.store.evidence import Evidence
from minidock.store.faults import ERROR, LEFTOVER
from minidock.store.inspection import inspect_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.faults import Fault


class Diagnosis:
    """What is wrong with a data root. Shape: is_busy: somebody was at work, so leftovers could not be told from work"""

    __slots__ = ("faults", "is_busy", "path")

    def __init__(self, path: str, faults: list[Fault], is_busy: bool) -> None:
        self.path = path
        self.faults = faults
        self.is_busy = is_busy

    @property
    def exit_status(self) -> int:
        """0 nothing is wrong; 2 what is wrong disturbs nothing; 4 something does not work."""
        if any(fault.severity == ERROR for fault in self.faults):
            return 4
        return 2 if self.faults else 0

    def count(self, severity: str) -> int:
        """How many faults are of one severity."""
        return sum(1 for fault in self.faults if fault.severity == severity)


def fsck(path: str | None = None) -> Diagnosis:
    """Look at a data root's structure.

    Shape:   path None means $MINIDOCK_ROOT, then /var/lib/minidock
    Returns: Diagnosis, its faults errors first and leftovers last
    Raises:  StoreError when there is no data root
    """
    with Evidence.open(path) as evidence:
        found, is_busy = inspect_root(evidence)
        order = {ERROR: 0, LEFTOVER: 2}
        faults = sorted(found.faults, key=lambda fault: order.get(fault.severity, 1))
        return Diagnosis(evidence.path, faults, is_busy)
