"""An image's files as one tree, through a mount that nobody sees and that goes with its descriptor."""

from __future__ import annotations

from minidock.errors import InvalidReference, NoSuchContainer, NoSuchImage, UsageError
from minidock.runtime.merged import open_layers
from minidock.runtime.view import with_two_lowers
from minidock.store.catalogue import Catalogue
from minidock.store.evidence import Evidence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot


def open_image(root: DataRoot, image: str) -> int:
    """Open the tree that an image's layers make together.

    Shape:   the data root may be opened for reading only, and its file system be read-only
    Returns: a descriptor of the root directory; the caller owns it
    Raises:  NoSuchImage, InvalidReference, StoreCorrupt for a damaged stack of layers, SyscallError
    """
    found = root.images.resolve(image)
    if found.chain_id is None:
        raise UsageError(f"image {image} has no layers")
    layers = [f"l/{link}" for link in root.layers.links(found.chain_id)]
    return open_layers(root.overlay_path, with_two_lowers(layers), trace=root.trace)


def is_image(root_path: str | None, name: str) -> bool:
    """Whether a name is an image's and no container's, found out without a trace; raises StoreError."""
    with Evidence.open(root_path) as evidence:
        catalogue = Catalogue(evidence)
        try:
            catalogue.find_container(name)
        except NoSuchContainer as error:
            if error.message.startswith("Multiple"):
                return False
        else:
            return False
        try:
            catalogue.find_image(name)
        except (NoSuchImage, InvalidReference):
            return False
    return True
