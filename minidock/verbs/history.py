"""`history`: the steps an image was made in."""

from __future__ import annotations

from minidock.constants import ZERO_TIME_NS
from minidock.errors import BadConfig, MinidockError
from minidock.ids import ImageID, chain_ids_of
from minidock.store.references import names_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot

MISSING = "<missing>"


class HistoryRow:
    """One step.

    Shape: image_id: the image that ended with this step, `<missing>` when it is not in this store; tags: its names
    Units: created_ns since 1970; size_bytes of the layer, 0 for a step without one
    """

    __slots__ = ("comment", "created_by", "created_ns", "empty", "image_id", "size_bytes", "tags")

    def __init__(self, image_id: str, created_ns: int, created_by: str, size_bytes: int, comment: str) -> None:
        self.image_id = image_id
        self.created_ns = created_ns
        self.created_by = created_by
        self.size_bytes = size_bytes
        self.comment = comment
        self.empty = False
        self.tags: list[str] = []


def history(root: DataRoot, image: str) -> list[HistoryRow]:
    """The steps of an image, newest first; only images of this store that were committed from one another have IDs.

    Raises: NoSuchImage, InvalidReference, BadConfig when there are more steps with a layer than layers
    Source: moby daemon/images/image_history.go
    """
    found = root.images.resolve(image)
    chain_ids = chain_ids_of(found.config.diff_ids)
    rows: list[HistoryRow] = []
    filled = 0
    for entry in found.config.history:
        size_bytes = 0
        if not entry.empty_layer:
            if filled >= len(chain_ids):
                raise BadConfig("too many non-empty layers in History section")
            size_bytes = root.layers.size(chain_ids[filled])
            filled += 1
        created_ns = entry.created_ns
        row = HistoryRow(
            MISSING, ZERO_TIME_NS if created_ns is None else created_ns, entry.created_by, size_bytes, entry.comment
        )
        row.empty = entry.empty_layer
        rows.append(row)
    rows.reverse()
    image_id: ImageID | None = found.image_id
    references = root.references.readable()
    for row in rows:
        if image_id is None:
            break
        row.image_id = image_id
        row.tags = [name for name in names_of(image_id, references) if "@" not in name]
        image_id = root.images.parent(image_id)
        if image_id is not None:
            try:
                root.images.get(image_id)
            except MinidockError:
                break
    return rows
