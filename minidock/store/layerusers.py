"""Who uses what: from each directory, layer and image of a data root to the images and containers that need it."""

from __future__ import annotations

from minidock.ids import ChainID, is_hex64
from minidock.store.layerstack import CONTAINER, INIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.catalogue import Catalogue


class LayerUsers:
    """All uses in one root, read once.

    Shape: chains_of: cache_id to the chain_ids whose record names it; images_of, containers_of: chain_id to those that
           stand on it; owner_of: cache_id to (container_id, CONTAINER or INIT); containers_from: image ID to containers
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.chains_of: dict[str, list[str]] = {}
        self.images_of: dict[str, list[str]] = {}
        self.containers_of: dict[str, list[str]] = {}
        self.owner_of: dict[str, tuple[str, str]] = {}
        self.containers_from: dict[str, list[str]] = {}
        self.parents: dict[str, str] = {}
        for chain_id in catalogue.chain_ids():
            record = catalogue.record(chain_id)
            self.parents[chain_id] = record.parent
            if record.cache_id:
                self.chains_of.setdefault(record.cache_id, []).append(chain_id)
        for image_id in catalogue.image_ids():
            config = catalogue.image(image_id).config
            for chain_id in config.chain_ids if config else ():
                self.images_of.setdefault(chain_id, []).append(image_id)
        for container_id in catalogue.container_ids():
            self._add_container(container_id)

    def _add_container(self, container_id: str) -> None:
        mount = self.catalogue.mount(container_id)
        for cache_id, role in ((mount.mount_id, CONTAINER), (mount.init_id, INIT)):
            if cache_id:
                self.owner_of[cache_id] = (container_id, role)
        image_id = self.catalogue.container(container_id).image_id
        if image_id:
            self.containers_from.setdefault(image_id, []).append(container_id)
        for chain_id in self.chain_below(mount.parent):
            self.containers_of.setdefault(chain_id, []).append(container_id)

    def chain_below(self, chain_id: str) -> list[str]:
        """A layer and those below it as far as the records lead, topmost first."""
        found: list[str] = []
        while chain_id and chain_id not in found and is_hex64(chain_id[7:]):
            found.append(chain_id)
            chain_id = self.parents.get(chain_id) or ""
        return found

    def is_used(self, chain_id: str) -> bool:
        """Whether an image or a container stands on this layer."""
        return bool(self.images_of.get(chain_id) or self.containers_of.get(chain_id))

    def chains_with(self, diff_id: str) -> list[ChainID]:
        """The layers whose own content has this diff_id."""
        return [chain for chain in map(ChainID, self.parents) if self.catalogue.record(chain).diff_id == diff_id]
