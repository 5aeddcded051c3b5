"""What each layer of a stack did to the tree below it, counted, with one real example of each way."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from minidock.store.catalogue import Catalogue
from minidock.store.layerstack import stack_of
from minidock.store.stackwalk import StackWalk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.evidence import Evidence
    from minidock.store.layerstack import LayerStack
    from minidock.store.stackwalk import StackEntry
    from minidock.verbs.explain import Explanation


@dataclass(slots=True)
class LayerFacts:
    """One layer, its names counted.

    Units: size_bytes of regular files, each inode once; hidden_bytes of those that a layer above replaced or deleted
    """

    label: str
    number: int
    size_bytes: int = 0
    hidden_bytes: int = 0
    files: int = 0
    added: int = 0
    changed: int = 0
    deleted: int = 0
    opaque: int = 0


@dataclass(slots=True)
class StackFacts:
    """A whole stack.

    Shape: layers: bottom first; examples: from "lower", "changed", "added", "whiteout" and "opaque" to a path that is
           one, where there is any
    """

    layers: list[LayerFacts]
    examples: dict[str, str] = field(default_factory=dict)


def picture(evidence: Evidence, name: str) -> tuple[Explanation, StackFacts]:
    """The walk from a name to the bytes, and what each layer did; raises what explain raises, SyscallError."""
    from minidock.verbs.explain import explain_stack

    catalogue = Catalogue(evidence)
    _, _, reference = catalogue.find(name)
    stack = stack_of(catalogue, name)
    return explain_stack(stack, name, reference), stack_facts(stack)


def stack_facts(stack: LayerStack) -> StackFacts:
    """Count what each layer of a stack did; raises SyscallError."""
    facts = [LayerFacts(layer.label, layer.number) for layer in stack.layers]
    found = StackFacts(facts[::-1])
    seen: set[tuple[int, int]] = set()
    with stack:
        for entry in StackWalk(stack.roots, flags=stack.catalogue.evidence.flags):
            _count(entry, facts, seen)
            _keep_example(entry, found.examples, len(stack.layers) - 1)
    return found


def _count(entry: StackEntry, facts: list[LayerFacts], seen: set[tuple[int, int]]) -> None:
    below = False
    for version in reversed(entry.versions):
        fact, status = facts[version.layer], version.status
        if version.is_whiteout:
            fact.deleted += 1
            below = False
            continue
        fact.files += 1
        fact.opaque += version.is_opaque
        # A directory is in each layer that has anything in it; that alone is no change.
        if not below:
            fact.added += 1
        elif not version.is_directory or version.is_opaque:
            fact.changed += 1
        below = version.cover is None or version.cover.path == entry.path
        if stat.S_ISREG(status.st_mode):
            if status.st_nlink > 1:
                if (version.layer, status.st_ino) in seen:
                    continue
                seen.add((version.layer, status.st_ino))
            fact.size_bytes += status.st_size
            if version.cover is not None:
                fact.hidden_bytes += status.st_size


def _keep_example(entry: StackEntry, examples: dict[str, str], bottom: int) -> None:
    first = entry.versions[0]
    is_regular = stat.S_ISREG(first.status.st_mode)
    kinds = {
        "whiteout": first.is_whiteout and len(entry.versions) > 1,
        "opaque": first.is_opaque and len(entry.versions) > 1,
        "changed": is_regular and len(entry.versions) > 1 and stat.S_ISREG(entry.versions[1].status.st_mode),
        "added": is_regular and first.cover is None and first.layer == 0 and len(entry.versions) == 1,
        "lower": is_regular and first.cover is None and first.layer == bottom and bottom > 0,
    }
    for kind, holds in kinds.items():
        if holds:
            path = "/" + os.fsdecode(entry.path)
            # The shortest is the one that people know.
            if len(path) < len(examples.get(kind, path + "x")):
                examples[kind] = path
