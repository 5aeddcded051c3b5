"""The layers that an image or a container consists of, as far as the data root still tells them.

The records lead from a config's diff_ids to chain_ids to directories; each directory's `lower` leads to those below it
by short names. Where a record is lost, `lower` fills the gap, and says so; where both are lost, the layer stays in the
stack without a directory.
"""

from __future__ import annotations

import os

from minidock.errors import FormatError, StoreError
from minidock.ids import ChainID, DiffID, chain_id_of, is_hex64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from minidock.formats.imageconfig import HistoryEntry, ImageConfig
    from minidock.store.catalogue import Catalogue

LAYER, INIT, CONTAINER = "layer", "init", "container"


class StackLayer:
    """One layer of a stack.

    Shape: role: LAYER, INIT or CONTAINER; number: 1 for the bottom; ids "" where they are not known; history: which
           entry of the config's history made it, -1 for none; is_by_lower: the record is lost, `lower` named it
    """

    __slots__ = ("cache_id", "chain_id", "diff_id", "history", "is_by_lower", "number", "role")

    def __init__(self, role: str, cache_id: str, *, chain_id: str = "", diff_id: str = "", history: int = -1) -> None:
        self.role = role
        self.cache_id = cache_id
        self.chain_id = chain_id
        self.diff_id = diff_id
        self.history = history
        self.is_by_lower = False
        self.number = 0

    @property
    def label(self) -> str:
        """A short name for people: `layer 3`, `init layer`, `container`."""
        return {INIT: "init layer", CONTAINER: "container"}.get(self.role) or f"layer {self.number}"


class LayerStack:
    """A stack of layers, topmost first; a context manager that opens their contents.

    Shape: kind: "image", "container" or "layer"; identity: its ID; config: the image's, None when it cannot be read;
           faults: what is missing, one line each; roots: while entered, each layer's opened content, -1 where missing
    """

    def __init__(
        self, catalogue: Catalogue, kind: str, identity: str, layers: list[StackLayer], config: ImageConfig | None
    ) -> None:
        self.catalogue = catalogue
        self.kind = kind
        self.identity = identity
        self.layers = layers
        self.config = config
        self.faults: list[str] = []
        self.roots: list[int] = []
        for number, layer in enumerate(reversed(layers), 1):
            layer.number = number
        self._fill_gaps()
        self._find_faults()

    def _fill_gaps(self) -> None:
        for place, layer in enumerate(self.layers):
            if not layer.cache_id:
                continue
            below = self.layers[place + 1 :]
            lower_ids = self.catalogue.directory(layer.cache_id).lower_ids
            if len(lower_ids) != len(below):
                continue
            for lost, cache_id in zip(below, lower_ids, strict=True):
                if not lost.cache_id and cache_id:
                    lost.cache_id, lost.is_by_lower = cache_id, True

    def _find_faults(self) -> None:
        if not self.catalogue.evidence.sees_trusted:
            self.faults.append("without CAP_SYS_ADMIN the kernel does not tell which directories are opaque")
        for place, layer in enumerate(self.layers):
            if layer.chain_id:
                record = self.catalogue.record(ChainID(layer.chain_id))
                self.faults += record.faults
                if layer.diff_id and record.diff_id and record.diff_id != layer.diff_id:
                    self.faults.append(f"{record.path}/diff: {record.diff_id}, should be {layer.diff_id}")
                if (
                    record.diff_id
                    and chain_id_of(_chain_or_none(record.parent), DiffID(record.diff_id)) != layer.chain_id
                ):
                    self.faults.append(f"{record.path}: its parent and diff do not hash to this chain ID")
            if not layer.cache_id:
                self.faults.append(f"{layer.label}: nothing tells its directory")
                continue
            directory = self.catalogue.directory(layer.cache_id)
            self.faults += directory.faults
            expected = [below.cache_id for below in self.layers[place + 1 :]]
            if directory.exists and directory.lower_ids != expected and "" not in (*directory.lower_ids, *expected):
                self.faults.append(f"{directory.path}/lower: names {_counted(directory.lower_ids, expected)}")
        self.faults = list(dict.fromkeys(self.faults))

    @property
    def is_whole(self) -> bool:
        """Whether each layer has its content."""
        return all(layer.cache_id and self.catalogue.directory(layer.cache_id).has_diff for layer in self.layers)

    def step_of(self, layer: StackLayer) -> HistoryEntry | None:
        """The history entry that made a layer; None when there is none, or it cannot be read."""
        try:
            return self.config.history[layer.history] if self.config and layer.history >= 0 else None
        except FormatError:
            return None

    def __enter__(self) -> LayerStack:
        evidence = self.catalogue.evidence
        try:
            for layer in self.layers:
                directory = self.catalogue.directory(layer.cache_id) if layer.cache_id else None
                has_diff = directory is not None and directory.has_diff
                self.roots.append(evidence.open_directory(f"{directory.path}/diff") if directory and has_diff else -1)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Close the layers' contents; closing twice is fine."""
        for root in self.roots:
            if root >= 0:
                os.close(root)
        self.roots = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _chain_or_none(text: str) -> ChainID | None:
    return ChainID(text) if text else None


def _counted(found: list[str], expected: list[str]) -> str:
    if len(found) != len(expected):
        return f"{len(found)} layers below, not {len(expected)}"
    wrong = next(place for place, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
    return f"{found[wrong][:12]} as number {wrong + 1} below, not {expected[wrong][:12]}"


def stack_of_image(catalogue: Catalogue, image_id: str) -> LayerStack:
    """The layers of an image; raises StoreError when its config cannot be read."""
    image = catalogue.image(image_id)
    if image.config is None:
        raise StoreError(image.faults[0], hint="without its config nothing tells the image's layers")
    layers = _image_layers(catalogue, image.config)
    stack = LayerStack(catalogue, "image", image_id, layers, image.config)
    stack.faults = [*image.faults, *stack.faults]
    return stack


def _image_layers(catalogue: Catalogue, config: ImageConfig) -> list[StackLayer]:
    steps = _steps_with_layers(config)
    layers = []
    for place, (diff_id, chain_id) in enumerate(zip(config.diff_ids, config.chain_ids, strict=True)):
        history = steps[place] if place < len(steps) else -1
        cache_id = catalogue.record(chain_id).cache_id
        layers.append(StackLayer(LAYER, cache_id, chain_id=chain_id, diff_id=diff_id, history=history))
    layers.reverse()
    return layers


def _steps_with_layers(config: ImageConfig) -> list[int]:
    try:
        return [number for number, entry in enumerate(config.history) if not entry.empty_layer]
    except FormatError:
        return []


def chain_layers(catalogue: Catalogue, chain_id: str) -> list[StackLayer]:
    """A layer and those below it by layerdb alone, topmost first, as far as the records lead."""
    layers: list[StackLayer] = []
    seen: set[str] = set()
    while chain_id and chain_id not in seen and is_hex64(chain_id[7:]):
        seen.add(chain_id)
        record = catalogue.record(ChainID(chain_id))
        layers.append(StackLayer(LAYER, record.cache_id, chain_id=chain_id, diff_id=record.diff_id))
        chain_id = record.parent
    return layers


def stack_of_layer(catalogue: Catalogue, chain_id: str) -> LayerStack:
    """A layer and those below it."""
    return LayerStack(catalogue, "layer", chain_id, chain_layers(catalogue, chain_id), None)


def stack_of_directory(catalogue: Catalogue, cache_id: str) -> LayerStack:
    """A directory of overlay2/ that no record names, and those below it by its `lower`."""
    below = catalogue.directory(cache_id).lower_ids
    layers = [StackLayer(LAYER, name) for name in (cache_id, *below)]
    return LayerStack(catalogue, "layer", cache_id, layers, None)


def stack_of_container(catalogue: Catalogue, container_id: str) -> LayerStack:
    """A container's own layer, its init layer, and those of its image, by whichever records there are."""
    mount = catalogue.mount(container_id)
    container = catalogue.container(container_id)
    layers = [StackLayer(CONTAINER, mount.mount_id)]
    if mount.init_id:
        layers.append(StackLayer(INIT, mount.init_id))
    config: ImageConfig | None = None
    if container.image_id.startswith("sha256:") and is_hex64(container.image_id[7:]):
        config = catalogue.image(container.image_id).config
    if config is not None and (not mount.parent or config.chain_ids[-1:] == [mount.parent]):
        layers += _image_layers(catalogue, config)
    elif mount.parent:
        layers += chain_layers(catalogue, mount.parent)
        config = None
    stack = LayerStack(catalogue, "container", container_id, layers, config)
    stack.faults = [*container.faults, *mount.faults, *stack.faults]
    return stack


def stack_of(catalogue: Catalogue, text: str) -> LayerStack:
    """The stack of a container or an image by its name or ID; raises StoreError, NoSuchContainer."""
    kind, identity, _ = catalogue.find(text)
    return stack_of_container(catalogue, identity) if kind == "container" else stack_of_image(catalogue, identity)


def find_layer(catalogue: Catalogue, text: str) -> LayerStack | None:
    """The layer with this chain ID, diff_id or directory, also cut, with those below it; None when there is none.

    Raises: StoreError when several have it
    """
    digits = text.removeprefix("sha256:")
    if not digits or not digits.isalnum():
        return None
    found: list[ChainID] = []
    for chain_id in catalogue.chain_ids():
        record = catalogue.record(chain_id)
        if any(known.startswith(digits) for known in (chain_id.hex, record.diff_id[7:], record.cache_id)):
            found.append(chain_id)
    if len(found) > 1:
        raise StoreError(f"{text} names {len(found)} layers", hint="minidock who tells them apart; use a chain ID")
    if found:
        return stack_of_layer(catalogue, found[0])
    directories = [cache_id for cache_id in catalogue.cache_ids() if cache_id.startswith(digits)]
    return stack_of_directory(catalogue, directories[0]) if len(directories) == 1 else None
