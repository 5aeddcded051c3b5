"""The kinds of structural faults of a data root: one row each, what it is called and how much it matters.

error     something that is listed, or should be, does not work or cannot be saved
warning   everything works, but a record says what is not so
leftover  nothing uses it; it only takes room
"""

from __future__ import annotations

ERROR, WARNING, LEFTOVER = "error", "warning", "leftover"

# kind: (severity, what it says). docs/damaged-roots.md shows the same rows.
KINDS: dict[str, tuple[str, str]] = {
    "cache-id": (ERROR, "names no directory"),
    "cache-id-shared": (ERROR, "two layers or containers have one directory"),
    "diff": (ERROR, "not a digest"),
    "parent": (ERROR, "not a chain ID"),
    "parent-missing": (ERROR, "the layer below has no record"),
    "chain": (ERROR, "parent and diff do not fold to the record's name"),
    "size": (ERROR, "not a decimal number"),
    "tar-split": (ERROR, "missing or malformed, the layer cannot be saved"),
    "directory": (ERROR, "missing, the directory of"),
    "content": (ERROR, "missing, the content of"),
    "link": (ERROR, "not a short name"),
    "link-shared": (ERROR, "another directory has the same short name"),
    "short-name": (ERROR, "should lead to"),
    "lower": (ERROR, "does not name the layers below"),
    "work": (ERROR, "missing, the kernel's scratch directory"),
    "committed": (WARNING, "missing although others stand on this layer"),
    "committed-container": (ERROR, "a container's own directory is marked as read-only"),
    "mount-id": (ERROR, "names no directory"),
    "init-id": (ERROR, "is not the directory below the container's own"),
    "mount-parent": (ERROR, "is not the image's topmost layer"),
    "mount-lone": (WARNING, "keeps layers for a container that is not there"),
    "mount-missing": (ERROR, "the container has no record of its layers"),
    "container": (ERROR, "config.v2.json"),
    "running": (WARNING, "is marked as running, and no such process is there"),
    "config": (ERROR, "does not hash to its name"),
    "image-chain": (ERROR, "the image's layer has no record"),
    "metadata-parent": (WARNING, "names an image that is not there"),
    "folder": (ERROR, "missing, or no directory"),
    "references": (ERROR, "no map of names to image IDs"),
    "tag": (WARNING, "names an image that is not there"),
    "volume": (ERROR, "the content or the options of a volume"),
    "orphan": (LEFTOVER, "no layer and no container has this directory"),
    "stray-name": (LEFTOVER, "a short name that no directory has"),
    "metadata": (LEFTOVER, "of an image that is not there"),
    "unfinished": (LEFTOVER, "left by an interrupted command, nothing uses it"),
}


class Fault:
    """One fault. Shape: path: relative to the data root; subject: the ID of the layer, image or container it is of"""

    __slots__ = ("kind", "path", "reason", "subject")

    def __init__(self, kind: str, path: str, reason: str, subject: str = "") -> None:
        self.kind = kind
        self.path = path
        self.reason = reason
        self.subject = subject

    @property
    def severity(self) -> str:
        """ERROR, WARNING or LEFTOVER."""
        return KINDS[self.kind][0]

    @property
    def line(self) -> str:
        """One line for people."""
        return f"{self.path}: {self.reason}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fault) and (self.kind, self.line) == (other.kind, other.line)

    def __hash__(self) -> int:
        return hash((self.kind, self.path))
