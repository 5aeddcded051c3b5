"""docker container prune, image prune and system prune: remove what nothing uses.

Source: moby daemon/prune.go, daemon/images/image_prune.go
"""

from __future__ import annotations

from minidock.errors import MinidockError, StoreBusy
from minidock.store.lock import refuse_under_engine
from minidock.verbs.ps import tree_size
from minidock.verbs.rm import rm
from minidock.verbs.rmi import ImageMounted, rmi
from minidock.verbs.volume import has_labels, prune_volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.ids import ImageID
    from minidock.store.imagedb import Image
    from minidock.store.root import DataRoot
    from minidock.verbs.rmi import Record


class PruneFilter:
    """What may go. Shape: until_ns: only what was made before; labels, without: `key[=value]` it must, must not have"""

    __slots__ = ("labels", "until_ns", "without")

    def __init__(self, until_ns: int | None = None, labels: Sequence[str] = (), without: Sequence[str] = ()) -> None:
        self.until_ns = until_ns
        self.labels = list(labels)
        self.without = list(without)

    def allows(self, created_ns: int, labels: dict[str, str]) -> bool:
        """Whether a thing made then, with these labels, may go."""
        if self.until_ns is not None and created_ns > self.until_ns:
            return False
        return has_labels(labels, self.labels) and not any(has_labels(labels, [text]) for text in self.without)


class Pruned:
    """What went. Shape: images: as rmi tells it; reclaimed_bytes: of all together; viewed: why images stayed mounted"""

    __slots__ = ("containers", "images", "networks", "reclaimed_bytes", "viewed", "volumes")

    def __init__(self) -> None:
        self.containers: list[str] = []
        self.networks: list[str] = []
        self.volumes: list[str] = []
        self.images: list[Record] = []
        self.viewed: list[str] = []
        self.reclaimed_bytes = 0


def prune_containers(root: DataRoot, chosen: PruneFilter, pruned: Pruned | None = None) -> Pruned:
    """Remove all containers that do not run; their volumes stay."""
    refuse_under_engine(root.path)
    pruned = pruned or Pruned()
    for container in root.containers.all():
        if container.is_running() or container.state.is_restarting():
            continue
        if not chosen.allows(container.created_ns, container.light_config.labels):
            continue
        try:
            size_bytes = tree_size(f"{root.overlay_path}/{container.mount_id}/diff")
            rm(root, container.id)
        except StoreBusy:
            raise
        except (MinidockError, OSError):
            # Started, removed or damaged meanwhile: one that cannot go does not keep the others.
            continue
        pruned.containers.append(container.id)
        pruned.reclaimed_bytes += size_bytes
    return pruned


def prune_images(root: DataRoot, chosen: PruneFilter, *, all: bool = False, pruned: Pruned | None = None) -> Pruned:
    """Remove images without a tag, or with `all` every image that no container was made from."""
    refuse_under_engine(root.path)
    pruned = pruned or Pruned()
    sizes = layer_sizes(root)
    records: list[Record] = []
    for image_id in _top_images(root, chosen):
        references = root.references.of_image(image_id)
        if references and not all and any("@" not in reference for reference in references):
            continue
        for name in references or [image_id.hex]:
            try:
                rmi(root, [name], records=records)
            except StoreBusy:
                raise
            except ImageMounted as error:
                pruned.viewed.append(str(error))
            except MinidockError:
                # In use, or needed by another image.
                continue
    pruned.images += records
    pruned.reclaimed_bytes += sum(sizes.get(text, 0) for kind, text in records if kind == "Deleted")
    return pruned


def layer_sizes(root: DataRoot) -> dict[str, int]:
    """The size of every layer by its chain ID; one whose record is damaged counts nothing."""
    sizes: dict[str, int] = {}
    for chain_id in root.layers.all():
        try:
            sizes[chain_id] = root.layers.get(chain_id).size_bytes
        except MinidockError:
            sizes[chain_id] = 0
    return sizes


def _top_images(root: DataRoot, chosen: PruneFilter) -> list[ImageID]:
    """Images that have a name or no children, and that the filter allows."""
    found: list[ImageID] = []
    for image_id in root.images.ids():
        try:
            image = root.images.get(image_id)
        except MinidockError:
            continue
        if not root.references.of_image(image_id) and root.images.children(image_id):
            continue
        if chosen.allows(_created_ns(image), image.config.config.labels):
            found.append(image_id)
    return found


def _created_ns(image: Image) -> int:
    from minidock.formats.containerconfig import time_of

    return time_of(image.config.created)


def prune_system(root: DataRoot, chosen: PruneFilter, *, all: bool = False, volumes: bool = False) -> Pruned:
    """Remove stopped containers, networks, then, if asked for, anonymous volumes, then images."""
    pruned = prune_containers(root, chosen)
    if root.networks.made():
        from minidock.verbs.network import prune_networks

        pruned.networks = prune_networks(root, until_ns=chosen.until_ns, labels=chosen.labels, without=chosen.without)
    if volumes:
        pruned.volumes, size_bytes = prune_volumes(root, labels=chosen.labels, without=chosen.without)
        pruned.reclaimed_bytes += size_bytes
    return prune_images(root, chosen, all=all, pruned=pruned)
