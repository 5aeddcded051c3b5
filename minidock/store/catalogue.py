"""What a data root says of itself, read without trust: every record as it is, what is missing named instead of raised.

The stores (layerdb, imagedb, containers) answer for a whole root and refuse a damaged one. Whoever shows or accounts
for a root needs the opposite: each record by itself, wherever it leads, and what is wrong with it beside it. Each is
read when first asked for, and once.
Source: shared format notes §2 to §5
"""

from __future__ import annotations

import errno

from minidock.constants import DRIVER, MAX_CONFIG_BYTES
from minidock.errors import FormatError, NoSuchContainer, NoSuchImage, StoreError
from minidock.formats.gojson import parse_json
from minidock.ids import CacheID, ChainID, ContainerID, DiffID, ImageID, LinkID, is_hex64, sha256_hex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.formats.imageconfig import ImageConfig
    from minidock.store.evidence import Evidence

IMAGE = f"image/{DRIVER}"
LAYERDB = f"{IMAGE}/layerdb/sha256"
MOUNTS = f"{IMAGE}/layerdb/mounts"
CONFIGS = f"{IMAGE}/imagedb/content/sha256"
REFERENCES = f"{IMAGE}/repositories.json"
CONTAINERS = "containers"
_DIGITS = frozenset("0123456789abcdef")


class LayerRecord:
    """layerdb/sha256/<chain hex> as it is.

    Shape: cache_id, diff_id, parent: as written when they have their form, else ""; size_bytes -1 when it is no number;
           faults: one line each; exists False when there is no such directory
    """

    __slots__ = ("cache_id", "chain_id", "diff_id", "exists", "faults", "parent", "path", "size_bytes")

    def __init__(self, evidence: Evidence, chain_id: ChainID) -> None:
        self.chain_id = chain_id
        self.path = f"{LAYERDB}/{chain_id.hex}"
        self.faults: list[str] = []
        self.cache_id = ""
        self.diff_id = ""
        self.parent = ""
        self.size_bytes = -1
        self.exists = evidence.is_directory(self.path)
        if not self.exists:
            self.faults.append(f"{self.path}: the layer's record is missing")
            return
        self.cache_id = self._checked(CacheID, "cache-id", evidence.word(f"{self.path}/cache-id"))
        self.diff_id = self._checked(DiffID, "diff", evidence.word(f"{self.path}/diff"))
        parent = evidence.text(f"{self.path}/parent")
        self.parent = self._checked(ChainID, "parent", parent.strip()) if parent is not None else ""
        size = evidence.text(f"{self.path}/size") or ""
        if size.isascii() and size.isdecimal() and len(size) < 20:
            self.size_bytes = int(size)
        else:
            self.faults.append(f"{self.path}/size: {f'not a decimal number: {size[:40]!r}' if size else 'missing'}")

    def _checked(self, kind: type[CacheID] | type[DiffID] | type[ChainID], name: str, text: str) -> str:
        try:
            return kind.parse(text)
        except FormatError as error:
            self.faults.append(f"{self.path}/{name}: {error.message[:120] if text else 'missing or empty'}")
            return ""


class LayerDirectory:
    """overlay2/<cache_id> as it is.

    Shape: link_id: what `link` says, "" when that is no link_id; link_target: where l/<link_id> leads; lowers: the
           names in `lower`, nearest first; lower_ids: the directories they lead to, "" where they lead to none
    """

    __slots__ = ("cache_id", "exists", "faults", "has_diff", "link_id", "link_target", "lower_ids", "lowers", "path")

    def __init__(self, catalogue: Catalogue, cache_id: str) -> None:
        evidence = catalogue.evidence
        self.cache_id = cache_id
        self.path = f"{DRIVER}/{cache_id}"
        self.faults: list[str] = []
        self.link_id = self.link_target = ""
        self.lowers: list[str] = []
        self.lower_ids: list[str] = []
        self.exists = evidence.is_directory(self.path)
        self.has_diff = self.exists and evidence.is_directory(f"{self.path}/diff")
        if not self.exists:
            self.faults.append(f"{self.path}: the layer's directory is missing")
            return
        if not self.has_diff:
            self.faults.append(f"{self.path}/diff: missing, the content of this layer")
        self._read_link(catalogue)
        lower = evidence.word(f"{self.path}/lower")
        self.lowers = lower.split(":") if lower else []
        for name in self.lowers:
            found = catalogue.link_target(name.removeprefix("l/")) if name.startswith("l/") else ""
            if not found:
                self.faults.append(f"{self.path}/lower: {name[:80]!r} leads to no layer")
            self.lower_ids.append(found)

    def _read_link(self, catalogue: Catalogue) -> None:
        text = catalogue.evidence.word(f"{self.path}/link")
        try:
            self.link_id = LinkID.parse(text)
        except FormatError:
            self.faults.append(f"{self.path}/link: {'not a short name' if text else 'missing or empty'}")
            return
        self.link_target = catalogue.link_target(self.link_id)
        if self.link_target != self.cache_id:
            to = f"leads to {self.link_target}" if self.link_target else "is missing"
            self.faults.append(f"{DRIVER}/l/{self.link_id}: {to}, should lead to {self.cache_id}")


class ImageRecord:
    """An image's config as it is. Shape: raw: None when there is no file; config: None when it is none"""

    __slots__ = ("actual_id", "config", "faults", "image_id", "path", "raw")

    def __init__(self, evidence: Evidence, image_id: ImageID) -> None:
        from minidock.formats.imageconfig import ImageConfig

        self.image_id = image_id
        self.path = f"{CONFIGS}/{image_id[7:]}"
        self.faults: list[str] = []
        self.raw: bytes | None = None
        self.config: ImageConfig | None = None
        self.actual_id = ""
        try:
            self.raw = evidence.read(self.path, MAX_CONFIG_BYTES)
            self.actual_id = "sha256:" + sha256_hex(self.raw)
            if self.actual_id != image_id:
                self.faults.append(f"{self.path}: hashes to {self.actual_id}, not to its name")
            self.config = ImageConfig.parse(self.raw)
        except OSError as error:
            self.faults.append(f"{self.path}: {error.strerror or error}")
        except FormatError as error:
            self.faults.append(f"{self.path}: {error.message}")


class MountRecord:
    """layerdb/mounts/<container_id> as it is. Shape: ids are "" when missing or malformed"""

    __slots__ = ("container_id", "exists", "faults", "init_id", "mount_id", "parent", "path")

    def __init__(self, evidence: Evidence, container_id: str) -> None:
        self.container_id = container_id
        self.path = f"{MOUNTS}/{container_id}"
        self.faults: list[str] = []
        self.exists = evidence.is_directory(self.path)
        self.mount_id = _cache_id_or_empty(evidence.word(f"{self.path}/mount-id"))
        self.init_id = _cache_id_or_empty(evidence.word(f"{self.path}/init-id"))
        parent = evidence.word(f"{self.path}/parent")
        self.parent = parent if parent.startswith("sha256:") and is_hex64(parent[7:]) else ""
        if not self.exists:
            self.faults.append(f"{self.path}: the container's record of its layers is missing")
        elif not self.mount_id:
            self.faults.append(f"{self.path}/mount-id: names no directory")
        if parent and not self.parent:
            self.faults.append(f"{self.path}/parent: not a chain ID")


def _cache_id_or_empty(text: str) -> str:
    try:
        return CacheID.parse(text)
    except FormatError:
        return ""


# Source: moby container/container.go, type Container; null is as good as nothing to Go
_TYPES: dict[str, type] = {
    **dict.fromkeys(("Name", "Image", "Path", "Driver", "Created"), str),
    **dict.fromkeys(("State", "Config", "NetworkSettings", "MountPoints"), dict),
    "Args": list,
}


class ContainerRecord:
    """containers/<container_id>/config.v2.json, its few facts that lead on. Shape: document {} when unreadable"""

    __slots__ = ("container_id", "document", "exists", "faults", "image", "image_id", "name", "path")

    def __init__(self, evidence: Evidence, container_id: str) -> None:
        self.container_id = container_id
        self.path = f"{CONTAINERS}/{container_id}"
        self.faults: list[str] = []
        self.document: dict[str, Any] = {}
        self.exists = evidence.is_directory(self.path)
        try:
            raw = evidence.read(f"{self.path}/config.v2.json", MAX_CONFIG_BYTES)
            self.document = parse_json(raw, what="config.v2.json", limit_bytes=MAX_CONFIG_BYTES)
        except OSError as error:
            reason = "config.v2.json is missing" if self.exists else "the container's records are missing"
            if error.errno != errno.ENOENT:
                reason = f"config.v2.json: {error.strerror}"
            self.faults.append(f"{self.path}: {reason}")
        except FormatError as error:
            self.faults.append(f"{self.path}: {error.message}")
        config = self.document.get("Config")
        image = config.get("Image") if isinstance(config, dict) else ""
        self.image = image if isinstance(image, str) else ""
        self.name = _text(self.document, "Name").removeprefix("/")
        self.image_id = _text(self.document, "Image")

    def form_fault(self, evidence: Evidence) -> str:
        """What in the two records has not its form, empty for nothing; an engine does not show the container then."""
        for key, kind in _TYPES.items():
            if self.document.get(key) is not None and not isinstance(self.document[key], kind):
                return f"config.v2.json: {key} has the wrong type"
        try:
            raw = evidence.read(f"{self.path}/hostconfig.json", MAX_CONFIG_BYTES)
            parse_json(raw, what="hostconfig.json", limit_bytes=MAX_CONFIG_BYTES)
        except OSError as error:
            return "hostconfig.json is missing" if error.errno == errno.ENOENT else f"hostconfig.json: {error.strerror}"
        except FormatError as error:
            return error.message
        return ""


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""


class Catalogue:
    """All records of a data root, each read when first asked for. Shape: faults: of what belongs to no single record"""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.faults: list[str] = []
        self._records: dict[str, LayerRecord] = {}
        self._directories: dict[str, LayerDirectory] = {}
        self._images: dict[str, ImageRecord] = {}
        self._mounts: dict[str, MountRecord] = {}
        self._containers: dict[str, ContainerRecord] = {}
        self._links: dict[str, str] | None = None
        self._references: dict[str, str] | None = None

    def record(self, chain_id: ChainID) -> LayerRecord:
        """A layer's record, also one that is not there."""
        if chain_id not in self._records:
            self._records[chain_id] = LayerRecord(self.evidence, chain_id)
        return self._records[chain_id]

    def directory(self, cache_id: str) -> LayerDirectory:
        """A layer's directory, also one that is not there."""
        if cache_id not in self._directories:
            self._directories[cache_id] = LayerDirectory(self, cache_id)
        return self._directories[cache_id]

    def image(self, image_id: str) -> ImageRecord:
        """An image, also one that is not there."""
        if image_id not in self._images:
            self._images[image_id] = ImageRecord(self.evidence, ImageID(image_id))
        return self._images[image_id]

    def mount(self, container_id: str) -> MountRecord:
        """A container's layers, also when they are not told."""
        if container_id not in self._mounts:
            self._mounts[container_id] = MountRecord(self.evidence, container_id)
        return self._mounts[container_id]

    def container(self, container_id: str) -> ContainerRecord:
        """A container, also one of which only the mount record is left."""
        if container_id not in self._containers:
            self._containers[container_id] = ContainerRecord(self.evidence, container_id)
        return self._containers[container_id]

    def chain_ids(self) -> list[ChainID]:
        """The layers that have a record, sorted."""
        return [ChainID("sha256:" + name) for name in self.evidence.names(LAYERDB) if is_hex64(name)]

    def cache_ids(self) -> list[str]:
        """The names in overlay2/ but `l`, sorted, whatever they are."""
        return [name for name in self.evidence.names(DRIVER) if name != "l"]

    def image_ids(self) -> list[ImageID]:
        """The images that have a config file, sorted."""
        return [ImageID("sha256:" + name) for name in self.evidence.names(CONFIGS) if is_hex64(name)]

    def container_ids(self) -> list[ContainerID]:
        """The containers that have a record of either kind, sorted."""
        names = {*self.evidence.names(CONTAINERS), *self.evidence.names(MOUNTS)}
        return [ContainerID(name) for name in sorted(names) if is_hex64(name)]

    def links(self) -> dict[str, str]:
        """Each name below overlay2/l/ with the directory of overlay2/ it leads to, "" for none."""
        if self._links is None:
            self._links = {name: self.link_target(name) for name in self.evidence.names(f"{DRIVER}/l")}
        return self._links

    def link_target(self, link_id: str) -> str:
        """The directory that overlay2/l/<link_id> leads to; "" when the link is missing or leads elsewhere."""
        if self._links is not None:
            return self._links.get(link_id, "")
        if not link_id or "/" in link_id:
            return ""
        target = self.evidence.link_target(f"{DRIVER}/l/{link_id}") or ""
        return _cache_id_or_empty(target[3:-5]) if target.startswith("../") and target.endswith("/diff") else ""

    def references(self) -> dict[str, str]:
        """Every name of repositories.json with its image ID; none when it cannot be read, which is then a fault."""
        if self._references is None:
            self._references = {}
            try:
                raw = self.evidence.read(REFERENCES)
                repositories = parse_json(raw, what=REFERENCES, limit_bytes=len(raw)).get("Repositories")
                for names in (repositories or {}).values():
                    for name, value in names.items():
                        self._references[name] = str(ImageID.parse(value))
            except OSError as error:
                reason = "missing, no image has a name" if error.errno == errno.ENOENT else error.strerror
                self.faults.append(f"{REFERENCES}: {reason}")
            except FormatError as error:
                self.faults.append(error.message if REFERENCES in error.message else f"{REFERENCES}: {error.message}")
            except (AttributeError, TypeError):
                self.faults.append(f"{REFERENCES}: not a map of names to image IDs")
        return self._references

    def tags(self, image_id: str) -> list[str]:
        """The names of an image, sorted."""
        return sorted(name for name, value in self.references().items() if value == image_id)

    def find_image(self, text: str) -> tuple[str, str]:
        """An image as docker finds it: a full ID, a name, then the beginning of an ID.

        Returns: (image ID, the key of repositories.json it was found by, or "")
        Raises:  NoSuchImage, InvalidReference
        """
        from minidock.formats.reference import parse_reference

        digits = text.removeprefix("sha256:")
        if is_hex64(digits):
            if self.image("sha256:" + digits).raw is None:
                raise NoSuchImage(f"No such image: sha256:{digits}")
            return "sha256:" + digits, ""
        reference = parse_reference(text)
        if found := self.references().get(reference.store_key):
            return found, reference.store_key
        matches = [one for one in self.image_ids() if one.startswith(digits, 7)] if _is_hex(digits) else []
        if len(matches) > 1:
            raise NoSuchImage(f"No such image: {text}", hint=f"{len(matches)} image IDs begin with {digits}")
        if not matches:
            hint = self.faults[-1] if self.faults else ""
            raise NoSuchImage(f"No such image: {reference.familiar}", hint=hint)
        return matches[0], ""

    def find_container(self, text: str) -> str:
        """A container by its whole ID, its name, or a unique beginning of its ID; raises NoSuchContainer."""
        ids = self.container_ids()
        if text in ids:
            return text
        name = text.removeprefix("/")
        for container_id in ids:
            if name and self.container(container_id).name == name:
                return container_id
        matches = [container_id for container_id in ids if _is_hex(text) and container_id.startswith(text)]
        if len(matches) > 1:
            raise NoSuchContainer(f"Multiple IDs found with provided prefix: {text}")
        if not matches:
            raise NoSuchContainer(f"No such container: {text}")
        return matches[0]

    def find(self, text: str) -> tuple[str, str, str]:
        """A container or an image, in the order in which docker inspect looks.

        Returns: ("container", its ID, "") or ("image", its ID, the name it was found by or "")
        Raises:  StoreError when there is neither; FormatErrors of a name do not count
        """
        from minidock.errors import InvalidReference

        try:
            return "container", self.find_container(text), ""
        except NoSuchContainer as error:
            if error.message.startswith("Multiple"):
                raise
        try:
            return "image", *self.find_image(text)
        except (InvalidReference, NoSuchImage) as error:
            raise StoreError(f"No such image or container: {text}", hint=error.hint) from None


def _is_hex(text: str) -> bool:
    return bool(text) and _DIGITS.issuperset(text)
