"""minidock images"""

from __future__ import annotations

import time

from minidock.cli.format import write_listing
from minidock.cli.output import short_id, write
from minidock.cli.session import Reading
from minidock.cli.times import ago, human_size, local_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minidock.verbs.images import ImageSummary

_ALL = (
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("DIGEST", "Digest"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
)
_COLUMNS = tuple(column for column in _ALL if column[1] != "Digest")
_FIELDS = (
    *_ALL,
    ("CREATED AT", "CreatedAt"),
    ("CONTAINERS", "Containers"),
    ("SHARED SIZE", "SharedSize"),
    ("UNIQUE SIZE", "UniqueSize"),
    ("SIZE", "VirtualSize"),
)


def handle(options: dict[str, Any]) -> int:
    """List images."""
    if options["filter"]:
        from minidock.cli.failures import check_filters

        check_filters(options["filter"])
    with Reading(options) as root:
        # Not before: the process that looks for faults, which is on its way, takes longer than this.
        from minidock.verbs.images import list_images

        found = list_images(
            root,
            all=options["all"],
            filters=tuple(options["filter"]),
            reference=options["reference"],
            digests=options["digests"],
            tag_digests="{{.Digest}}" in (options["format"] or ""),
        )
    full = options["no_trunc"]
    if options["quiet"] and not options["format"]:
        write("".join((image.image_id if full else short_id(image.image_id)) + "\n" for image in found))
        return 0
    now_ns = time.time_ns()
    rows = [image_row(image, full=full, now_ns=now_ns) for image in found]
    write_listing(rows, _ALL if options["digests"] else _COLUMNS, options["format"], fields=_FIELDS)
    return 0


def image_row(image: ImageSummary, *, full: bool, now_ns: int) -> Callable[[str], str]:
    """The texts of one image; full: nothing is cut."""

    def text_of(field: str) -> str:
        if field == "Repository":
            return image.repository
        if field == "Tag":
            return image.tag
        if field == "Digest":
            return image.digest
        if field == "ID":
            return image.image_id if full else short_id(image.image_id)
        if field == "CreatedSince":
            return ago(image.created_ns, now_ns)
        if field == "CreatedAt":
            return local_time(image.created_ns)
        if field == "Size":
            return human_size(image.size_bytes)
        if field == "VirtualSize":
            return human_size(image.size_bytes, 4)
        return "N/A"

    return text_of
