"""undo: what fsck --repair, gc and adopt took away is put back byte for byte."""

from __future__ import annotations

from minidock.store import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot
    from minidock.store.trash import Entry


def undo(root: DataRoot, trash_id: str = "") -> Entry:
    """Take one plan's work back.

    Shape:  trash_id: an ID or its beginning; "" for the newest that was not undone
    Raises: NotFound; StoreBusy under a live dockerd; StoreError when somebody has changed what the plan put there
    """
    with root.lock():
        return trash.undo(root, trash_id)


def list_trash(root: DataRoot) -> list[Entry]:
    """What lies in the trash, oldest first."""
    return trash.entries(root)
