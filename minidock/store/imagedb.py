"""imagedb: image configs under the sha256 of their bytes, and what is known of an image beside them.

    imagedb/content/sha256/<hex>              the config, verbatim
    imagedb/metadata/sha256/<hex>/parent      the image it was committed from; only local ones have it
    imagedb/metadata/sha256/<hex>/lastUpdated when a tag was last put on it

Source: moby image/fs.go, image/store.go; shared format notes §2.2
"""

from __future__ import annotations

import os

from minidock.constants import DRIVER
from minidock.errors import FormatError, InvalidReference, NoSuchImage, StoreCorrupt
from minidock.ids import ChainID, ImageID, chain_id_of, is_hex64, sha256_hex
from minidock.store.transaction import make_directory, read_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.formats.imageconfig import ImageConfig
    from minidock.store.root import DataRoot

_DIGITS = frozenset("0123456789abcdef")


class Image:
    """An image: its config's bytes, parsed on demand.

    Shape: parent: the image it was committed from, or None; last_updated_ns: 0 when it was never tagged here
    """

    __slots__ = ("_chain_id", "_config", "_store", "image_id", "raw")

    def __init__(self, store: ImageStore, image_id: ImageID, raw: bytes) -> None:
        self._store = store
        self.image_id = image_id
        self.raw = raw
        self._config: ImageConfig | None = None
        self._chain_id: ChainID | None = None

    @property
    def config(self) -> ImageConfig:
        """The parsed config; raises BadConfig."""
        return self.parse()

    def parse(self) -> ImageConfig:
        """Parse the config now; raises BadConfig."""
        if self._config is None:
            from minidock.formats.imageconfig import ImageConfig

            self._config = ImageConfig.parse(self.raw)
        return self._config

    @property
    def chain_id(self) -> ChainID | None:
        """The chain_id of the topmost layer; None for an image without layers."""
        if self._chain_id is None:
            for diff_id in self.config.diff_ids:
                self._chain_id = chain_id_of(self._chain_id, diff_id)
        return self._chain_id

    @property
    def parent(self) -> ImageID | None:
        """The image this one was committed from."""
        return self._store.parent(self.image_id)

    @property
    def last_updated_ns(self) -> int:
        """When a tag was last put on it, in nanoseconds since 1970; 0 for never."""
        return self._store.last_updated_ns(self.image_id)


class ImageStore:
    """The images of a data root."""

    __slots__ = ("_metadata", "_root", "path")

    def __init__(self, root: DataRoot) -> None:
        self._root = root
        self.path = f"{root.image_path}/imagedb/content/sha256"
        self._metadata = f"{root.image_path}/imagedb/metadata/sha256"

    def ids(self) -> list[ImageID]:
        """All image IDs that have a file, sorted; its content is not looked at."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return []
        return [ImageID("sha256:" + name) for name in sorted(names) if is_hex64(name)]

    def read(self, image_id: ImageID) -> bytes:
        """A config's bytes, unchecked; raises NoSuchImage."""
        try:
            return read_small(f"{self.path}/{image_id[7:]}")
        except (FileNotFoundError, IsADirectoryError):
            raise NoSuchImage(f"No such image: {image_id}") from None

    def get(self, image_id: ImageID) -> Image:
        """An image by its full ID; raises NoSuchImage, and StoreCorrupt when its bytes do not hash to its ID."""
        ImageID.parse(image_id)
        raw = self.read(image_id)
        actual = "sha256:" + sha256_hex(raw)
        if actual != image_id:
            raise StoreCorrupt(
                f"{self.path}/{image_id[7:]}: hashes to {actual}, not to its name", hint="the image is damaged"
            )
        return Image(self, ImageID(image_id), raw)

    def all(self) -> list[Image]:
        """Every image whose bytes hash to its name and have a rootfs; the engine takes no others for images either."""
        images = []
        for image_id in self.ids():
            try:
                image = self.get(image_id)
                image.parse()
            except (StoreCorrupt, FormatError, NoSuchImage):
                continue
            images.append(image)
        return images

    def add(self, raw: bytes, *, parent: ImageID | None = None) -> ImageID:
        """Store a config and, for a local commit, the image it came from; all its layers must be published.

        Inside a stage that fails later, an image that is new and got no name is taken back.
        Raises: NoSuchLayer, BadConfig, SyscallError
        """
        from minidock.formats.imageconfig import ImageConfig

        root = self._root
        config = ImageConfig.parse(raw)
        image_id = config.image_id
        with root.lock():
            chain_id: ChainID | None = None
            for diff_id in config.diff_ids:
                chain_id = chain_id_of(chain_id, diff_id)
            if chain_id is not None:
                root.layers.size(chain_id)
            if root.unsynced:
                root.sync_content()
            if root.trace is not None:
                from minidock.linux.mount import shell_word

                path = shell_word(f"{self.path}/{image_id.hex}")
                root.tell("hash", f"sha256sum < {path}  # image_id = {image_id}, of {len(raw)} bytes of config")
            if not os.path.exists(f"{self.path}/{image_id.hex}"):
                if root.stages:
                    root.stages[-1].mark("image", image_id.hex)
                root.write_file(f"image/{DRIVER}/imagedb/content/sha256/{image_id.hex}", raw, 0o600)
            if parent is not None:
                self._write_metadata(image_id, "parent", ImageID.parse(parent).encode("ascii"))
        return image_id

    def touch(self, image_id: ImageID) -> None:
        """Note that a tag was put on this image now, as docker tag does and docker load does not."""
        from minidock.formats.gojson import format_time

        self._write_metadata(image_id, "lastUpdated", format_time(self._root.now_ns()).encode("ascii"))

    def _write_metadata(self, image_id: ImageID, name: str, data: bytes) -> None:
        where = f"{self._metadata}/{ImageID.parse(image_id).hex}"
        try:
            make_directory(where, 0o700)
        except FileExistsError:
            pass
        self._root.write_file(f"image/{DRIVER}/imagedb/metadata/sha256/{image_id[7:]}/{name}", data, 0o600)

    def remove(self, image_id: ImageID) -> list[ChainID]:
        """Remove an image that has no references left, and its layers as far as nothing else needs them.

        Returns: the chain_ids of removed layers, top down
        """
        root = self._root
        if not root.stages:
            with root.stage():
                return self.remove(image_id)
        stage = root.stages[-1]
        with root.lock():
            try:
                chain_id = self.get(image_id).chain_id
            except (StoreCorrupt, FormatError):
                chain_id = None
            stage.mark("image", image_id[7:])
            if chain_id is not None and root.layers.has(chain_id):
                # Named before the image goes: after a crash nothing else would tell that these layers are unused.
                stage.mark("layer", f"{chain_id.hex}.{root.layers.remains(chain_id)[0]}")
            for child in self.children(image_id):
                self._unlink(child, "parent")
            stage.remove_tree(f"{self._metadata}/{image_id[7:]}")
            stage.remove_tree(f"{self.path}/{image_id[7:]}")
            return root.layers.release(chain_id) if chain_id is not None else []

    def _unlink(self, image_id: ImageID, name: str) -> None:
        try:
            os.unlink(f"{self._metadata}/{image_id.hex}/{name}")
        except FileNotFoundError:
            return

    def parent(self, image_id: ImageID) -> ImageID | None:
        """The image this one was committed from; None when unknown, malformed or itself."""
        try:
            text = read_small(f"{self._metadata}/{ImageID.parse(image_id).hex}/parent").decode("ascii", "replace")
            return ImageID(ImageID.parse(text.strip()))
        except (FileNotFoundError, NotADirectoryError, FormatError):
            return None

    def last_updated_ns(self, image_id: ImageID) -> int:
        """When a tag was last put on this image; 0 for never or unreadable."""
        from minidock.formats.gojson import parse_time

        try:
            text = read_small(f"{self._metadata}/{ImageID.parse(image_id).hex}/lastUpdated").decode("ascii", "replace")
            return parse_time(text.strip())
        except (FileNotFoundError, NotADirectoryError, FormatError):
            return 0

    def children(self, image_id: ImageID) -> list[ImageID]:
        """The images that were committed from this one."""
        return [child for child, parent in self.parents().items() if parent == image_id]

    def parents(self) -> dict[ImageID, ImageID]:
        """Which image each one was committed from, for those that were and still exist."""
        try:
            names = os.listdir(self._metadata)
        except FileNotFoundError:
            return {}
        found: dict[ImageID, ImageID] = {}
        for name in sorted(names):
            if is_hex64(name) and os.path.exists(f"{self.path}/{name}"):
                parent = self.parent(ImageID("sha256:" + name))
                if parent is not None:
                    found[ImageID("sha256:" + name)] = parent
        return found

    def resolve(self, text: str) -> Image:
        """Find an image as docker does: a full ID, a reference, then the beginning of an ID.

        Raises: NoSuchImage (also when an ID's beginning fits several), InvalidReference, StoreCorrupt
        Source: moby daemon/images/image.go, GetImage
        """
        digits = text[7:] if text.startswith("sha256:") else text
        if is_hex64(digits):
            return self._get_or(ImageID("sha256:" + digits), f"sha256:{digits}")
        from minidock.formats.reference import parse_reference

        try:
            reference = parse_reference(text)
        except InvalidReference as error:
            raise InvalidReference(error.message, hint=error.hint) from None
        damage: StoreCorrupt | None = None
        image_id: ImageID | None = None
        try:
            image_id = self._root.references.get(reference)
        except StoreCorrupt as error:
            # An ID needs no names.
            damage = error
        if image_id is not None and os.path.exists(f"{self.path}/{image_id.hex}"):
            return self.get(image_id)
        shown = reference.familiar
        found = self.search(digits)
        if len(found) > 1:
            raise NoSuchImage(f"No such image: {shown}", hint=f"{len(found)} image IDs begin with {digits}")
        if not found:
            raise damage or NoSuchImage(f"No such image: {shown}")
        return self._get_or(found[0], shown)

    def search(self, digits: str) -> list[ImageID]:
        """The IDs that begin with these hexadecimal digits."""
        if not digits or not _DIGITS.issuperset(digits):
            return []
        return [image_id for image_id in self.ids() if image_id.startswith(digits, 7)]

    def _get_or(self, image_id: ImageID, shown: str) -> Image:
        try:
            return self.get(image_id)
        except NoSuchImage:
            raise NoSuchImage(f"No such image: {shown}") from None
