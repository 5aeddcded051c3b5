"""`who`: whose a directory, a short name, a mount, a hash or a file of the data root is, and what else hangs on it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from minidock.constants import DRIVER
from minidock.errors import FormatError, MinidockError, UsageError
from minidock.ids import CacheID, ChainID, is_hex64
from minidock.store.catalogue import CONFIGS, CONTAINERS, LAYERDB, MOUNTS, Catalogue
from minidock.store.layerstack import stack_of_container, stack_of_image
from minidock.store.layerusers import LayerUsers
from minidock.store.overlaymounts import overlay_mounts
from minidock.store.pathpattern import PathPattern
from minidock.store.stackwalk import StackWalk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.evidence import Evidence

LAYER, DIRECTORY, IMAGE, CONTAINER, VOLUME, RECORD = "layer", "directory", "image", "container", "volume", "record"
_DIGITS = frozenset("0123456789abcdef")
_BASE32 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
_SHORTEST_LINK = 4


@dataclass(slots=True)
class User:
    """An image or a container. Shape: names: tags, or the container's name; note: in what way, or where a file shows"""

    kind: str
    identity: str
    names: list[str]
    note: str = ""


@dataclass(slots=True)
class Owner:
    """One thing that the words name, and what hangs on it.

    Shape: kind: LAYER, DIRECTORY (of a container, or nobody's), IMAGE, CONTAINER, VOLUME or RECORD; matched: by what;
           facts: what it is called elsewhere, in order; path: a file's path within the layer, "" for none; users: the
           images and containers that need it; layers: an image's or a container's, topmost first, as (label, cache_id)
    """

    kind: str
    identity: str
    matched: str
    facts: dict[str, str] = field(default_factory=dict)
    path: str = ""
    users: list[User] = field(default_factory=list)
    layers: list[tuple[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def to_document(self) -> dict[str, Any]:
        """The same for a program to read."""
        from dataclasses import asdict

        return asdict(self)


def who(evidence: Evidence, text: str) -> list[Owner]:
    """What a word or a path names in a data root, and who needs it; empty when nothing has this name.

    Shape:   text: an overlay2 directory, a short name, a chain ID, diff_id, image or container ID, each also cut; a
             name of an image or a container; a path below the root, or below a mount of its layers
    Raises:  UsageError for a path outside of the root
    """
    search = _Search(Catalogue(evidence))
    if not text:
        return []
    if "/" in text and not text.startswith("sha256:"):
        owners = search.by_path(text)
        if owners is not None:
            return owners
    return search.by_word(text)


class _Search:
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._evidence = catalogue.evidence
        self._users = LayerUsers(catalogue)
        self._found: dict[tuple[str, str], Owner] = {}

    def by_word(self, text: str) -> list[Owner]:
        digits = text.removeprefix("sha256:")
        if len(text) >= _SHORTEST_LINK and _BASE32.issuperset(text):
            for link_id, cache_id in self._catalogue.links().items():
                if link_id.startswith(text):
                    self._add_directory(cache_id, f"short name l/{link_id}")
        if digits and _DIGITS.issuperset(digits.removesuffix("-init")):
            self._by_digits(digits)
        elif digits.isalnum():
            for cache_id in self._catalogue.cache_ids():
                if cache_id == digits:
                    self._add_directory(cache_id, "directory")
        for container_id in self._catalogue.container_ids():
            if text.removeprefix("/") == self._catalogue.container(container_id).name:
                self._add_container(container_id, "name")
        self._by_reference(text)
        return list(self._found.values())

    def _by_reference(self, text: str) -> None:
        from minidock.formats.reference import parse_reference

        try:
            key = parse_reference(text).store_key
        except MinidockError:
            return
        image_id = self._catalogue.references().get(key)
        if image_id:
            self._add_image(image_id, f"name {key}")

    def _by_digits(self, digits: str) -> None:
        catalogue = self._catalogue
        for cache_id in catalogue.cache_ids():
            if cache_id.startswith(digits):
                self._add_directory(cache_id, "directory")
        for chain_id in catalogue.chain_ids():
            if chain_id.startswith(digits, 7):
                self._add_layer(chain_id, "chain ID")
            elif catalogue.record(chain_id).diff_id.startswith(digits, 7):
                self._add_layer(chain_id, "diff_id")
            elif catalogue.record(chain_id).cache_id.startswith(digits):
                self._add_layer(chain_id, "cache-id of its record")
        for image_id in catalogue.image_ids():
            if image_id.startswith(digits, 7):
                self._add_image(image_id, "image ID")
        for container_id in catalogue.container_ids():
            if container_id.startswith(digits):
                self._add_container(container_id, "container ID")

    def by_path(self, text: str) -> list[Owner] | None:
        """The owners of a path; None when it can only be a name with a slash, as an image's."""
        relative = self._relative(text)
        if relative is None:
            return None
        parts = [part for part in os.path.normpath(relative).split("/") if part not in ("", ".")] if relative else []
        if ".." in parts:
            raise UsageError(f"{text} is not below the data root {self._evidence.path}")
        if not parts:
            return list(self._found.values())
        top, rest = parts[0], parts[1:]
        if top == DRIVER and rest:
            self._by_overlay_path(rest)
        elif top == CONTAINERS and rest and is_hex64(rest[0]):
            self._add_container(rest[0], "directory of the container")
        elif top == "volumes" and rest:
            self._add_volume(rest[0])
        elif top == "image":
            self._by_image_path("/".join(parts))
        if not self._found and self._evidence.status("/".join(parts)) is not None:
            self._found[RECORD, relative] = Owner(RECORD, "/".join(parts), "path", {"belongs to": "the root itself"})
        return list(self._found.values())

    def _relative(self, text: str) -> str | None:
        """A path as one below the root."""
        if not text.startswith("/"):
            words = text.split("/")
            if words[0] == "l":
                return f"{DRIVER}/{text}"
            if self._evidence.status(words[0]) is not None or words[0] in (DRIVER, CONTAINERS, "image", "volumes"):
                return text
            if self._is_directory_name(words[0]):
                return f"{DRIVER}/{text}"
            if not os.path.lexists(text):
                return None
            text = os.path.abspath(text)
        mounts = overlay_mounts(self._evidence.path, self._catalogue.link_target)
        points = {mount.point: mount for mount in mounts}
        parts = [part for part in text.split("/") if part not in ("", ".")]
        for count in range(len(parts) + 1):
            # Only names on the way to the root are resolved here, none of the root's own.
            real = os.path.realpath("/" + "/".join(parts[:count]))
            if real == self._evidence.path:
                real = "/".join([real, *parts[count:]])
                for mount in mounts:
                    if real == mount.point or real.startswith(mount.point + "/"):
                        self._add_mount(mount.cache_ids, mount.point, real[len(mount.point) + 1 :])
                        return ""
                return "/".join(parts[count:])
            if real in points:
                self._add_mount(points[real].cache_ids, real, "/".join(parts[count:]))
                return ""
        raise UsageError(f"{text} is neither below the data root {self._evidence.path} nor below a mount of it")

    def _is_directory_name(self, word: str) -> bool:
        try:
            return self._evidence.is_directory(f"{DRIVER}/{CacheID.parse(word)}")
        except FormatError:
            return False

    def _by_overlay_path(self, parts: list[str]) -> None:
        if parts[0] == "l":
            if len(parts) > 1:
                target = self._catalogue.link_target(parts[1])
                self._add_directory(target, f"short name l/{parts[1]}", "/".join(parts[2:]))
            return
        inner = "/".join(parts[2:]) if len(parts) > 1 and parts[1] in ("diff", "merged") else ""
        if len(parts) > 1 and parts[1] == "merged" and inner:
            self._add_mount([parts[0], *self._catalogue.directory(parts[0]).lower_ids], parts[0], inner)
            return
        self._add_directory(parts[0], "directory", inner)

    def _by_image_path(self, path: str) -> None:
        for folder in (LAYERDB, MOUNTS, CONFIGS, f"image/{DRIVER}/imagedb/metadata/sha256"):
            name = path.removeprefix(folder + "/").partition("/")[0]
            if not path.startswith(folder + "/") or not is_hex64(name):
                continue
            if folder == LAYERDB:
                self._add_layer(ChainID("sha256:" + name), "record of the layer")
            elif folder == MOUNTS:
                self._add_container(name, "record of its layers")
            else:
                self._add_image("sha256:" + name, "record of the image")
        known = f"image/{DRIVER}/distribution/v2metadata-by-diffid/sha256/"
        if path.startswith(known):
            for chain_id in self._users.chains_with("sha256:" + path[len(known) :]):
                self._add_layer(chain_id, "registry digests of its diff_id")

    def _add_mount(self, cache_ids: list[str], point: str, inner: str) -> None:
        """The layers of a mount; of a file in it, the one that it comes from, and otherwise the topmost."""
        if not inner:
            self._add_directory(cache_ids[0], f"mounted at {point}")
            return
        roots = []
        try:
            for cache_id in cache_ids:
                roots.append(self._evidence.open_directory(f"{DRIVER}/{cache_id}/diff"))
            for entry in StackWalk(
                roots, flags=self._evidence.flags, chooser=PathPattern(os.fsencode(inner), is_fixed=True)
            ):
                self._add_directory(cache_ids[entry.versions[0].layer], f"mounted at {point}", inner)
        except OSError:
            self._add_directory(cache_ids[0], f"mounted at {point}")
        finally:
            for root in roots:
                os.close(root)

    def _add_directory(self, cache_id: str, matched: str, path: str = "") -> None:
        if not cache_id:
            return
        chains = self._users.chains_of.get(cache_id, [])
        for chain_id in chains:
            self._add_layer(chain_id, matched, path)
        is_known = cache_id in self._users.owner_of or self._catalogue.directory(cache_id).exists
        if chains or (DIRECTORY, cache_id) in self._found or not is_known:
            return
        owner = self._new(DIRECTORY, cache_id, matched, path)
        self._tell_directory(owner, cache_id)
        if cache_id in self._users.owner_of:
            container_id, role = self._users.owner_of[cache_id]
            user = self._container(container_id, "its init layer" if role == "init" else "its own layer")
            if path:
                user.note += f": {self._where(container_id, cache_id, path)}"
            owner.users.append(user)
        else:
            owner.facts["belongs to"] = "no layer and no container"

    def _new(self, kind: str, identity: str, matched: str, path: str = "") -> Owner:
        owner = Owner(kind, identity, matched, path="/" + path if path else "")
        self._found[kind, identity] = owner
        return owner

    def _tell_directory(self, owner: Owner, cache_id: str) -> None:
        directory = self._catalogue.directory(cache_id)
        owner.facts["directory"] = directory.path
        owner.facts["short name"] = f"{DRIVER}/l/{directory.link_id}" if directory.link_id else "none"
        owner.facts["layers below"] = str(len(directory.lowers))
        owner.faults += directory.faults

    def _add_layer(self, chain_id: str, matched: str, path: str = "") -> None:
        record = self._catalogue.record(ChainID(chain_id))
        if (LAYER, chain_id) in self._found or not record.exists:
            return
        owner = self._new(LAYER, chain_id, matched, path)
        owner.faults += record.faults
        owner.facts["diff_id"] = record.diff_id or "unknown"
        owner.facts["parent"] = record.parent or "none, it is a bottom layer"
        owner.facts["record"] = record.path
        if record.cache_id:
            self._tell_directory(owner, record.cache_id)
        for image_id in self._users.images_of.get(chain_id, ()):
            user = self._image(image_id, self._place_in(image_id, chain_id))
            if path:
                user.note += f": {self._where(image_id, record.cache_id, path)}"
            owner.users.append(user)
        for container_id in self._users.containers_of.get(chain_id, ()):
            user = self._container(container_id, "stands on it")
            if path:
                user.note += f": {self._where(container_id, record.cache_id, path)}"
            owner.users.append(user)

    def _place_in(self, image_id: str, chain_id: str) -> str:
        config = self._catalogue.image(image_id).config
        chains = config.chain_ids if config else []
        return f"its layer {chains.index(ChainID(chain_id)) + 1} of {len(chains)}"

    def _where(self, identity: str, cache_id: str, path: str) -> str:
        """Whether a file of one layer is to be seen in an image or a container."""
        make = stack_of_image if identity.startswith("sha256:") else stack_of_container
        stack = make(self._catalogue, identity)
        with stack:
            for entry in StackWalk(
                stack.roots, flags=self._evidence.flags, chooser=PathPattern(os.fsencode(path), is_fixed=True)
            ):
                for version in entry.versions:
                    if stack.layers[version.layer].cache_id != cache_id:
                        continue
                    if version.is_whiteout:
                        return "the file is a deletion"
                    if version.cover is None:
                        return "the file is seen"
                    above = stack.layers[version.cover.layer]
                    return f"hidden by {above.label} ({version.cover.kind} at /{os.fsdecode(version.cover.path)})"
        return "no such file"

    def _image(self, image_id: str, note: str = "") -> User:
        return User(IMAGE, image_id, self._catalogue.tags(image_id), note)

    def _container(self, container_id: str, note: str = "") -> User:
        name = self._catalogue.container(container_id).name
        return User(CONTAINER, container_id, [name] if name else [], note)

    def _add_image(self, image_id: str, matched: str) -> None:
        if (IMAGE, image_id) in self._found:
            return
        image = self._catalogue.image(image_id)
        owner = self._new(IMAGE, image_id, matched)
        owner.facts["names"] = ", ".join(self._catalogue.tags(image_id)) or "none"
        owner.facts["config"] = image.path
        owner.faults += image.faults
        if image.config is not None:
            stack = stack_of_image(self._catalogue, image_id)
            owner.layers = [(layer.label, layer.cache_id) for layer in stack.layers]
            owner.faults = list(dict.fromkeys([*owner.faults, *stack.faults]))
        for container_id in self._users.containers_from.get(image_id, ()):
            owner.users.append(self._container(container_id, "made from it"))

    def _add_container(self, container_id: str, matched: str) -> None:
        if (CONTAINER, container_id) in self._found or container_id not in self._catalogue.container_ids():
            return
        container = self._catalogue.container(container_id)
        stack = stack_of_container(self._catalogue, container_id)
        owner = self._new(CONTAINER, container_id, matched)
        owner.facts["name"] = container.name or "unknown"
        owner.facts["directory"] = container.path
        owner.facts["layers' record"] = self._catalogue.mount(container_id).path
        owner.layers = [(layer.label, layer.cache_id) for layer in stack.layers]
        owner.faults += stack.faults
        if container.image_id:
            owner.users.append(self._image(container.image_id, "its image"))

    def _add_volume(self, name: str) -> None:
        if not self._evidence.is_directory(f"volumes/{name}"):
            return
        owner = self._new(VOLUME, name, "path")
        owner.facts["directory"] = f"volumes/{name}"
        for container_id in self._catalogue.container_ids():
            points = self._catalogue.container(container_id).document.get("MountPoints")
            for target, point in points.items() if isinstance(points, dict) else ():
                if isinstance(point, dict) and point.get("Name") == name:
                    owner.users.append(self._container(container_id, f"mounts it at {target}"))
