"""Layers whose records the rest of a data root contradicts, so that only a hash can tell which of the two is right.

A record that was exchanged with another one, or a directory that was, leaves a store in which each part by itself looks
whole. Whoever made the rest follow such a record would mend the structure and put the wrong files under an image. What
contradicts a record:

    its own name        its diff and parent do not fold to it, so its cache-id may be another layer's as well
    a list of lowers    one that leads to as many directories as there should be, and to another one in this place
    a short name        that leads to another layer's directory
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.inspection import Inspection


def contradicted_layers(found: Inspection) -> set[str]:
    """The chain IDs of layers whose directory has to be proven before anything is made to follow their records."""
    layers: dict[str, str] = {record.cache_id: chain for chain, record in found.records.items() if record.cache_id}
    doubtful = {fault.subject for fault in found.faults if fault.kind in ("diff", "parent", "chain")}
    for cache_id in _misplaced(found) | _crossed(found):
        if cache_id in layers:
            doubtful.add(layers[cache_id])
    return doubtful & set(found.records)


def _misplaced(found: Inspection) -> set[str]:
    """The directories that should lie where a whole list of lowers has others."""
    misplaced: set[str] = set()
    for cache_id, wanted in found.wanted.items():
        below = found.catalogue.directory(cache_id).lower_ids
        if wanted is not None and len(below) == len(wanted) and all(below):
            misplaced.update(one for pair in zip(below, wanted, strict=True) if pair[0] != pair[1] for one in pair)
    return misplaced


def _crossed(found: Inspection) -> set[str]:
    """The directories one of which goes by a name that leads to the other."""
    crossed: set[str] = set()
    for cache_id in found.owners:
        target = found.catalogue.directory(cache_id).link_target
        if target and target != cache_id:
            crossed.update((cache_id, target))
    return crossed
