"""`blame`: which layer put, changed, hid or deleted a path, all its versions from top to bottom."""

from __future__ import annotations

import os
from dataclasses import dataclass

from minidock.formats.tarwriter import is_whiteout
from minidock.store.catalogue import Catalogue
from minidock.store.filechange import changed_parts
from minidock.store.layerstack import StackLayer, stack_of
from minidock.store.pathpattern import PathPattern
from minidock.store.stackwalk import StackWalk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from minidock.store.evidence import Evidence
    from minidock.store.layerstack import LayerStack
    from minidock.store.stackwalk import Cover, StackEntry, Version

ADDED, CHANGED, DELETED, NOTHING = "added", "changed", "deleted", "hides nothing"


@dataclass(slots=True)
class Event:
    """What one layer did to a path.

    Shape: action ADDED, CHANGED, DELETED or NOTHING (a whiteout of what no layer below has); layer: its label;
           created_by: the history line that made it; mode 0 for a deletion; why: for CHANGED the parts that differ from
           the version below; cause: of a deletion: "whiteout", "opaque", or "replaced" by another kind of file;
           cause_path: where that is, the path itself or a directory above it
    """

    action: str
    layer: str
    number: int
    cache_id: str
    chain_id: str
    created_by: str
    mode: int
    uid: int
    gid: int
    size_bytes: int
    mtime_ns: int
    why: list[str]
    cause: str
    cause_path: str


@dataclass(slots=True)
class Blame:
    """A path's whole past. Shape: path absolute; is_there: in the merged tree; events: topmost layer first"""

    path: str
    is_there: bool
    events: list[Event]

    def to_document(self) -> dict[str, Any]:
        """The same for a program to read."""
        from dataclasses import asdict

        return asdict(self)


def blame(
    evidence: Evidence, name: str, pattern: str, *, is_fixed: bool = False, faults: list[str] | None = None
) -> Iterator[Blame]:
    """The past of each path that the pattern matches in any layer of an image or a container.

    Shape:   pattern: a path, or one with wildcards, see pathpattern.py; is_fixed: no wildcards; faults: gets what
             is missing of the stack
    Returns: in the order of paths; nothing when no layer ever had such a path
    Raises:  StoreError, NoSuchContainer, SyscallError
    """
    stack = stack_of(Catalogue(evidence), name)
    if faults is not None:
        faults += stack.faults
    return _blamed(stack, PathPattern(os.fsencode(pattern), is_fixed=is_fixed))


def _blamed(stack: LayerStack, pattern: PathPattern) -> Iterator[Blame]:
    with stack:
        for entry in StackWalk(stack.roots, flags=stack.catalogue.evidence.flags, chooser=pattern):
            events = _events(stack, entry)
            yield Blame("/" + os.fsdecode(entry.path), entry.top is not None, events)


def _events(stack: LayerStack, entry: StackEntry) -> list[Event]:
    """From the versions, which know the nearest cover above each, to what every layer did; topmost first."""
    events: list[Event] = []
    below: Version | None = None
    for version in reversed(entry.versions):
        is_seen = below is not None and (below.cover is None or below.cover.layer <= version.layer)
        if below is not None and below.cover is not None and below.cover.layer > version.layer:
            events.append(_deletion(stack, below.cover))
            is_seen = False
        layer = stack.layers[version.layer]
        if version.is_whiteout:
            kind = DELETED if is_seen else NOTHING
            event = _event(stack, layer, kind, version)
            event.cause, event.cause_path = "whiteout", "/" + os.fsdecode(entry.path)
            events.append(event)
            below = None
            continue
        event = _event(stack, layer, CHANGED if is_seen else ADDED, version)
        if is_seen and below is not None:
            event.why = changed_parts(entry, below, version)
        events.append(event)
        below = version
    if below is not None and below.cover is not None:
        events.append(_deletion(stack, below.cover))
    events.reverse()
    return events


def _event(stack: LayerStack, layer: StackLayer, action: str, version: Version | None) -> Event:
    step = stack.step_of(layer)
    status = version.status if version is not None else None
    return Event(
        action=action,
        layer=layer.label,
        number=layer.number,
        cache_id=layer.cache_id,
        chain_id=layer.chain_id,
        created_by=step.created_by if step else "",
        mode=status.st_mode if status and not is_whiteout(status) else 0,
        uid=status.st_uid if status else 0,
        gid=status.st_gid if status else 0,
        size_bytes=status.st_size if status else 0,
        mtime_ns=status.st_mtime_ns if status else 0,
        why=[],
        cause="",
        cause_path="",
    )


def _deletion(stack: LayerStack, cover: Cover) -> Event:
    event = _event(stack, stack.layers[cover.layer], DELETED, None)
    event.cause, event.cause_path = cover.kind, "/" + os.fsdecode(cover.path)
    return event
