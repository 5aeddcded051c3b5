"""`du`: what each layer, image and container takes on the disk, and whose every other byte of the data root is.

Where `system df` adds up the sizes that the records claim, this looks at the files: blocks as the disk counts them,
each inode once. The headings together are all that lies below the root, so their sum is the disk's own figure.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from minidock.constants import DRIVER
from minidock.ids import is_hex64
from minidock.store.catalogue import CONFIGS, CONTAINERS, LAYERDB, MOUNTS, Catalogue
from minidock.store.diskwalk import DiskWalk, Usage
from minidock.store.layerstack import stack_of
from minidock.store.layerusers import LayerUsers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.evidence import Evidence
    from minidock.store.layerstack import LayerStack

_METADATA = f"image/{DRIVER}/imagedb/metadata/sha256"
_LAYERDB_TMP = f"image/{DRIVER}/layerdb/tmp"
_STAGE = "minidock/stage"

LAYERS = "layers"
UNUSED = "layers without image or container"
ORPHANS = "orphans"


@dataclass(slots=True)
class LayerRow:
    """One layer. Shape: images, containers: how many stand on it; usage: its directory and its record"""

    chain_id: str
    cache_id: str
    images: int
    containers: int
    usage: Usage


@dataclass(slots=True)
class ImageRow:
    """One image. Shape: total: its layers and its config; unique: what no other image and none's container needs"""

    image_id: str
    tags: list[str]
    total: Usage
    unique: Usage
    shared: Usage


@dataclass(slots=True)
class ContainerRow:
    """One container. Shape: written: its own layer; init: its init layer; records, log; below: its image's layers"""

    container_id: str
    name: str
    written: Usage
    init: Usage
    records: Usage
    log: Usage
    below: Usage


@dataclass(slots=True)
class Orphan:
    """What nothing refers to. Shape: path below the root; reason: what was looked for in vain"""

    path: str
    reason: str
    usage: Usage


@dataclass(slots=True)
class DiskAccount:
    """The whole account.

    Shape: headings: in order, all of the root, None of a partial account; linked: counted, yet with names elsewhere too
    Units: filesystem_used_bytes of the file system that the root is on, for comparison
    """

    root: str
    layers: list[LayerRow] = field(default_factory=list)
    images: list[ImageRow] = field(default_factory=list)
    containers: list[ContainerRow] = field(default_factory=list)
    orphans: list[Orphan] = field(default_factory=list)
    headings: dict[str, Usage] = field(default_factory=dict)
    total: Usage = field(default_factory=Usage)
    linked: Usage = field(default_factory=Usage)
    filesystem_used_bytes: int = 0
    faults: list[str] = field(default_factory=list)

    def to_document(self) -> dict[str, Any]:
        """The same for a program to read."""

        def plain(row: Any) -> dict[str, Any]:
            names = row.__slots__
            values = {name: getattr(row, name) for name in names}
            return {name: value.to_document() if isinstance(value, Usage) else value for name, value in values.items()}

        return {
            "root": self.root,
            "layers": [plain(row) for row in self.layers],
            "images": [plain(row) for row in self.images],
            "containers": [plain(row) for row in self.containers],
            "orphans": [plain(row) for row in self.orphans],
            "headings": {heading: usage.to_document() for heading, usage in self.headings.items()},
            "total": self.total.to_document(),
            "linked_elsewhere": self.linked.to_document(),
            "filesystem_used_bytes": self.filesystem_used_bytes,
            "faults": self.faults,
        }


def du(evidence: Evidence, names: list[str] | None = None) -> DiskAccount:
    """Account for a whole data root, or only for some images and containers.

    Shape:   names: of images and containers; their layers alone are then measured, and there are no headings
    Raises:  StoreError, NoSuchContainer for a name that is not there
    """
    catalogue = Catalogue(evidence)
    stacks = [stack_of(catalogue, name) for name in names or ()]
    users = LayerUsers(catalogue)
    walk = DiskWalk(evidence, _places_of(catalogue, stacks) if names else None)
    account = DiskAccount(evidence.path, faults=walk.faults, linked=walk.linked)
    status = os.fstatvfs(evidence.fd)
    account.filesystem_used_bytes = (status.f_blocks - status.f_bfree) * status.f_frsize
    _Accounting(account, catalogue, users, walk.places, stacks).fill(is_whole=not names)
    return account


def _places_of(catalogue: Catalogue, stacks: list[LayerStack]) -> list[str]:
    places: dict[str, None] = {}
    for stack in stacks:
        for layer in stack.layers:
            if layer.cache_id:
                places[f"{DRIVER}/{layer.cache_id}"] = None
            if layer.chain_id:
                places[f"{LAYERDB}/{layer.chain_id[7:]}"] = None
        if stack.kind == "container":
            places[f"{CONTAINERS}/{stack.identity}"] = None
            places[f"{MOUNTS}/{stack.identity}"] = None
        else:
            places[f"{CONFIGS}/{stack.identity[7:]}"] = None
            places[f"{_METADATA}/{stack.identity[7:]}"] = None
    return list(places)


class _Accounting:
    """The places of a walk, put under what they belong to; whatever is left over is told by its own name."""

    def __init__(
        self,
        account: DiskAccount,
        catalogue: Catalogue,
        users: LayerUsers,
        places: dict[str, Usage],
        stacks: list[LayerStack],
    ) -> None:
        self._account = account
        self._catalogue = catalogue
        self._users = users
        self._places = places
        self._stacks = stacks
        self._taken: dict[str, str] = {}
        self._layer_usage: dict[str, Usage] = {}

    def fill(self, *, is_whole: bool) -> None:
        wanted = {stack.identity for stack in self._stacks}
        self._take_layers()
        for image_id in self._catalogue.image_ids():
            if is_whole or image_id in wanted:
                self._take_image(image_id)
        for container_id in self._catalogue.container_ids():
            if is_whole or container_id in wanted:
                self._take_container(container_id)
        if is_whole:
            self._take_rest()
            self._add_up()
        else:
            chains = {layer.chain_id for stack in self._stacks for layer in stack.layers}
            self._account.layers = [row for row in self._account.layers if row.chain_id in chains]
            self._account.total = _sum(self._places.values())

    def _take(self, place: str, heading: str) -> Usage:
        """A place's usage, to be counted under a heading; what is counted already keeps its first heading."""
        self._taken.setdefault(place, heading)
        return self._places.get(place) or Usage()

    def _take_layers(self) -> None:
        for chain_id in self._catalogue.chain_ids():
            record = self._catalogue.record(chain_id)
            images = len(self._users.images_of.get(chain_id, ()))
            containers = len(self._users.containers_of.get(chain_id, ()))
            heading = LAYERS if images or containers else UNUSED
            usage = _sum([self._take(record.path, heading)])
            if record.cache_id:
                usage.add(self._take(f"{DRIVER}/{record.cache_id}", heading))
            self._layer_usage[chain_id] = usage
            self._account.layers.append(LayerRow(chain_id, record.cache_id, images, containers, usage))
        self._account.layers.sort(key=lambda row: -row.usage.allocated_bytes)

    def _take_image(self, image_id: str) -> None:
        image = self._catalogue.image(image_id)
        total, unique, shared = Usage(), Usage(), Usage()
        own = _sum(
            [self._take(image.path, "image configs"), self._take(f"{_METADATA}/{image_id[7:]}", "image configs")]
        )
        total.add(own)
        unique.add(own)
        mine = set(self._users.containers_from.get(image_id, ()))
        for chain_id in dict.fromkeys(image.config.chain_ids if image.config else ()):
            usage = self._layer_usage.get(chain_id) or Usage()
            others = set(self._users.images_of.get(chain_id, ())) - {image_id}
            strangers = set(self._users.containers_of.get(chain_id, ())) - mine
            total.add(usage)
            (shared if others or strangers else unique).add(usage)
        self._account.images.append(ImageRow(image_id, self._catalogue.tags(image_id), total, unique, shared))

    def _take_container(self, container_id: str) -> None:
        catalogue = self._catalogue
        container, mount = catalogue.container(container_id), catalogue.mount(container_id)
        is_half = not (container.exists and mount.exists)
        if is_half:
            reason = container.faults[0] if not container.exists else mount.faults[0]
        row = ContainerRow(container_id, container.name, Usage(), Usage(), Usage(), Usage(), Usage())
        for place, heading, usage in (
            (f"{DRIVER}/{mount.mount_id}" if mount.mount_id else "", "containers: own layers", row.written),
            (f"{DRIVER}/{mount.init_id}" if mount.init_id else "", "containers: init layers", row.init),
            (mount.path, "containers: records", row.records),
            (container.path, "containers: records", row.records),
            (f"{container.path}/log", "containers: logs", row.log),
        ):
            if place and place in self._places:
                usage.add(self._take(place, ORPHANS if is_half else heading))
                if is_half:
                    self._account.orphans.append(Orphan(place, reason, self._places[place]))
        for chain_id in self._users.chain_below(mount.parent):
            row.below.add(self._layer_usage.get(chain_id) or Usage())
        if not is_half:
            self._account.containers.append(row)

    def _take_rest(self) -> None:
        for place, usage in sorted(self._places.items()):
            if place not in self._taken:
                reason, heading = self._judge(place)
                self._taken[place] = heading
                if reason:
                    self._account.orphans.append(Orphan(place, reason, usage))
        known = self._catalogue.links()
        for name, cache_id in known.items():
            if not cache_id or not self._catalogue.evidence.is_directory(f"{DRIVER}/{cache_id}"):
                leads = self._catalogue.evidence.link_target(f"{DRIVER}/l/{name}")
                self._account.orphans.append(Orphan(f"{DRIVER}/l/{name}", f"leads to {leads}, not there", Usage()))

    def _judge(self, place: str) -> tuple[str, str]:
        """For a place that no record led to: why it is an orphan, or "", and its heading."""
        folder, _, name = place.rpartition("/")
        if folder == DRIVER and name != "l":
            if name == "backingFsBlockDev":
                return "", "the engine's own files"
            return "no layer and no container has this directory", ORPHANS
        if folder == LAYERDB:
            reason = "a layer's record half removed" if name.endswith("-removing") else "not a layer's record"
            return reason, ORPHANS
        if folder == _LAYERDB_TMP:
            return "a layer's record half written", ORPHANS
        if folder in (MOUNTS, CONTAINERS):
            return "not a container's ID", ORPHANS
        if folder == CONFIGS:
            return "not an image ID", ORPHANS
        if folder == _METADATA:
            return ("", "image configs") if not is_hex64(name) else ("there is no such image", ORPHANS)
        if folder == _STAGE:
            return self._judge_stage(name)
        if folder == f"image/{DRIVER}" and name.startswith(".tmp-"):
            return "a file half written", ORPHANS
        if folder == "volumes":
            return "", "volumes" if self._catalogue.evidence.is_directory(
                f"{place}/_data"
            ) else "the engine's own files"
        top = place.partition("/")[0]
        if place == f"{DRIVER}/l":
            return "", "short names (overlay2/l)"
        if place.startswith(f"image/{DRIVER}/distribution/"):
            return "", "registry digests"
        if top in ("", DRIVER, "image", CONTAINERS, "volumes"):
            return "", "names and folders"
        return "", f"other: {top}"

    def _judge_stage(self, name: str) -> tuple[str, str]:
        from minidock.store.transaction import is_stage_owned

        if is_stage_owned(f"{self._account.root}/{_STAGE}", name):
            return "", "being made or removed now"
        return "left by an interrupted command; the next one that writes clears it", ORPHANS

    def _add_up(self) -> None:
        account = self._account
        account.orphans.sort(key=lambda orphan: (-orphan.usage.allocated_bytes, orphan.path))
        headings: dict[str, Usage] = {}
        for place, usage in self._places.items():
            headings.setdefault(self._taken[place], Usage()).add(usage)
            account.total.add(usage)
        account.headings = dict(sorted(headings.items(), key=lambda item: -item[1].allocated_bytes))


def _sum(usages: Any) -> Usage:
    total = Usage()
    for usage in usages:
        total.add(usage)
    return total


def container_total(row: ContainerRow) -> Usage:
    """What goes with a container: all that is its own."""
    return _sum([row.written, row.init, row.records, row.log])
