"""repositories.json: which names point to which image.

    {"Repositories":{"base":{"base:1":"sha256:<image hex>","base@sha256:<manifest hex>":"sha256:<image hex>"}}}

Read anew for each change, under the exclusive lock, and replaced by one rename: two commands at once never lose
each other's names. Keys are sorted as Go sorts its maps. A second copy, ROOT/minidock/repositories.json, is what fsck
--repair has where the first was cut or emptied.
Source: moby reference/store.go; shared format notes §2.1
"""

from __future__ import annotations

from minidock.constants import DRIVER, PRIVATE_DIR
from minidock.errors import FormatError, InvalidReference, StoreCorrupt
from minidock.formats.gojson import encode_json, parse_json
from minidock.ids import ImageID
from minidock.store.transaction import read_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.formats.reference import Reference
    from minidock.store.root import DataRoot

_RELATIVE_PATH = f"image/{DRIVER}/repositories.json"
COPY = f"{PRIVATE_DIR}/repositories.json"
_MAX_BYTES = 64 << 20


class ReferenceStore:
    """The names of a data root's images."""

    __slots__ = ("_root", "path")

    def __init__(self, root: DataRoot) -> None:
        self._root = root
        self.path = f"{root.path}/{_RELATIVE_PATH}"

    def _load(self) -> dict[str, dict[str, str]]:
        try:
            raw = read_small(self.path, 1 << 20)
        except FileNotFoundError:
            return {}
        try:
            repositories = parse_json(raw, what=self.path, limit_bytes=_MAX_BYTES).get("Repositories")
            if repositories is None:
                repositories = {}
            if not isinstance(repositories, dict):
                raise FormatError(f"{self.path}: Repositories must be an object")
            for names in repositories.values():
                if not isinstance(names, dict) or not all(isinstance(value, str) for value in names.values()):
                    raise FormatError(f"{self.path}: a repository must map names to image IDs")
        except FormatError as error:
            raise StoreCorrupt(error.message, hint="restore the file, or move it away to start without names") from None
        return repositories

    def _store(self, repositories: dict[str, dict[str, str]]) -> None:
        ordered = {key: dict(sorted(names.items())) for key, names in sorted(repositories.items()) if names}
        data = encode_json({"Repositories": ordered})
        self._root.write_file(_RELATIVE_PATH, data, 0o600)
        self._root.write_file(COPY, data, 0o600, durable=False)

    def all(self) -> dict[str, ImageID]:
        """Every familiar reference (`ubuntu:latest`, `ubuntu@sha256:...`) with its image ID; raises StoreCorrupt."""
        found: dict[str, ImageID] = {}
        for names in self._load().values():
            for name, value in names.items():
                if len(value) == 71 and value.startswith("sha256:"):
                    found[name] = ImageID(value)
        return found

    def readable(self) -> dict[str, ImageID]:
        """As `all`, but none of a damaged file: for listing, where the images are still to be seen without names."""
        try:
            return self.all()
        except StoreCorrupt:
            return {}

    def get(self, reference: Reference | str) -> ImageID | None:
        """The image a reference points to, or None; raises StoreCorrupt, InvalidReference."""
        parsed = _parsed(reference)
        value = self._load().get(parsed.repository_key, {}).get(parsed.store_key)
        try:
            return ImageID(ImageID.parse(value)) if value else None
        except FormatError:
            return None

    def set(self, reference: Reference | str, image_id: ImageID) -> ImageID | None:
        """Point a reference to an image.

        Returns: the image it pointed to before, None when it is new
        Raises:  InvalidReference for the name `sha256`, StoreCorrupt, StoreBusy, SyscallError
        """
        return self.set_all([(reference, image_id)])[0]

    def set_all(self, pairs: Sequence[tuple[Reference | str, ImageID]]) -> list[ImageID | None]:
        """Point several references, each to its image, all at once or none.

        Returns: what `set` returns, for each
        """
        parsed = [(_parsed(reference), ImageID.parse(image_id)) for reference, image_id in pairs]
        if any(reference.familiar_name == "sha256" for reference, _ in parsed):
            raise InvalidReference("refusing to create an ambiguous tag using digest algorithm as name")
        with self._root.lock():
            repositories = self._load()
            before: list[ImageID | None] = []
            is_changed = False
            for reference, image_id in parsed:
                names = repositories.setdefault(reference.repository_key, {})
                old = names.get(reference.store_key)
                before.append(ImageID(old) if old else None)
                if old != image_id:
                    names[reference.store_key] = image_id
                    is_changed = True
                    self._root.tell("write", f"{self.path}: {reference.store_key} -> {image_id}")
            if is_changed:
                self._store(repositories)
        return before

    def remove(self, reference: Reference | str) -> bool:
        """Remove a reference; False when there was none. Raises StoreCorrupt, StoreBusy, SyscallError"""
        parsed = _parsed(reference)
        return self.remove_names([parsed.store_key])

    def remove_names(self, keys: list[str]) -> bool:
        """Remove references given as they stand in the file, all in one write."""
        with self._root.lock():
            repositories = self._load()
            removed = False
            for names in repositories.values():
                for key in keys:
                    removed = names.pop(key, None) is not None or removed
            if removed:
                self._store(repositories)
        return removed

    def of_image(self, image_id: ImageID) -> list[str]:
        """The familiar references of an image, in docker's order: by their spelling with the domain."""
        return names_of(image_id, self.all())


def names_of(image_id: ImageID, references: dict[str, ImageID]) -> list[str]:
    """Those of the references that point to an image, in docker's order."""
    return sorted((name for name, value in references.items() if value == image_id), key=canonical_key)


def canonical_key(familiar: str) -> str:
    """A familiar reference spelled with its domain, by which docker sorts."""
    first, slash, _ = familiar.partition("/")
    if not slash:
        return f"docker.io/library/{familiar}"
    if "." in first or ":" in first or first == "localhost":
        return familiar
    return f"docker.io/{familiar}"


def _parsed(reference: Reference | str) -> Reference:
    if isinstance(reference, str):
        from minidock.formats.reference import parse_reference

        return parse_reference(reference)
    return reference
