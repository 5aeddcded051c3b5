"""`tag`: give an image one more name."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.formats.reference import Reference
    from minidock.ids import ImageID
    from minidock.store.root import DataRoot


def tag(root: DataRoot, source: str, target: str) -> ImageID:
    """Make the reference target point to the image source.

    Returns: the image's ID
    Raises:  NoSuchImage, InvalidReference (no digest and not the name `sha256`), StoreBusy
    Source:  moby daemon/images/image_tag.go
    """
    from minidock.formats.reference import parse_tag

    reference = parse_tag(target)
    with root.lock():
        image_id = root.images.resolve(source).image_id
        put_tag(root, reference, image_id)
    return image_id


def put_tag(root: DataRoot, reference: Reference, image_id: ImageID) -> ImageID | None:
    """Point reference to an image and note the time, as tag and commit do and load does not.

    Returns: the image it pointed to before, None when the name is new
    """
    with root.lock():
        before = root.references.set(reference, image_id)
        root.images.touch(image_id)
    return before
