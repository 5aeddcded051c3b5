"""The directories that every data root has: one that is lost, or is another kind of file, hides all that was in it.

What it held then looks as if nobody had it: without imagedb each name leads to nothing, without containers/ each
container's layers are nobody's. So as long as one is lost, nothing that follows from its emptiness is proven.
"""

from __future__ import annotations

import stat

from minidock.constants import DRIVER
from minidock.ids import is_hex64
from minidock.store.catalogue import CONFIGS, CONTAINERS, LAYERDB, MOUNTS
from minidock.store.root import SKELETON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.inspection import Inspection

_FOLDERS = (*(name for name, _ in SKELETON if name.startswith(("image", DRIVER, CONTAINERS))), "volumes")


def lost_folders(found: Inspection) -> list[tuple[str, str]]:
    """Paths of such directories, and what is wrong with each; those of a root that never had any are not missed."""
    lost: list[tuple[str, str]] = []
    for path in _FOLDERS:
        status = found.evidence.status(path)
        if any(path.startswith(f"{above}/") for above, _ in lost):
            continue
        if status is None:
            if _is_missed(found, path):
                lost.append((path, "missing, and with it all that was in it"))
        elif stat.S_ISLNK(status.st_mode):
            lost.append((path, "a symlink, and none of a data root is followed"))
        elif not stat.S_ISDIR(status.st_mode):
            lost.append((path, "not a directory"))
    return lost


def _is_missed(found: Inspection, path: str) -> bool:
    """Whether something else in the root needs what was in there."""
    if path == CONFIGS:
        return bool(found.catalogue.references() or found.records)
    if path == LAYERDB:
        return bool(found.tops) or any(is_hex64(name) for name in found.catalogue.cache_ids())
    return path == CONTAINERS and bool(found.evidence.names(MOUNTS))


def had_names(found: Inspection) -> bool:
    """Whether images whose list of names is gone had any: by minidock's copy of it, or by a container's record."""
    from minidock.store.references import COPY

    copy = found.evidence.text(COPY, 64 << 20) or ""
    images = found.catalogue.image_ids()
    if any(image_id in copy for image_id in images):
        return True
    containers = map(found.catalogue.container, found.catalogue.container_ids())
    return any(one.image_id in images and ":" in one.image.removeprefix("sha256:") for one in containers)
