"""minidock system df"""

from __future__ import annotations

import time

from minidock.cli.format import write_listing, write_table
from minidock.cli.output import quote, short_id, shorten, write
from minidock.cli.session import Reading
from minidock.cli.times import ago, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minidock.verbs.disk_usage import DiskUsage, Kind

_COLUMNS = (
    ("TYPE", "Type"),
    ("TOTAL", "TotalCount"),
    ("ACTIVE", "Active"),
    ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
)
_COMMAND_WIDTH = 20


def handle(options: dict[str, Any]) -> int:
    """Show what takes how much room."""
    from minidock.errors import UsageError
    from minidock.verbs.disk_usage import DiskUsage

    if options["verbose"] and options["format"]:
        raise UsageError("--verbose and --format do not go together")
    with Reading(options) as root:
        usage = DiskUsage(root)
    if options["verbose"]:
        _write_details(usage)
        return 0
    write_listing([_row(kind) for kind in usage.kinds()], _COLUMNS, options["format"], fields=_COLUMNS)
    return 0


def _row(kind: Kind) -> Callable[[str], str]:
    reclaimable = human_size(kind.reclaimable_bytes, 4)
    if kind.size_bytes > 0:
        reclaimable += f" ({kind.reclaimable_bytes * 100 // kind.size_bytes}%)"
    texts = {
        "Type": kind.name,
        "TotalCount": str(kind.total),
        "Active": str(kind.active),
        "Size": human_size(kind.size_bytes, 4),
        "Reclaimable": reclaimable,
    }
    return texts.__getitem__


def _write_details(usage: DiskUsage) -> None:
    now_ns = time.time_ns()
    write("Images space usage:\n\n")
    titles = ("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS")
    rows = []
    for one in usage.images:
        image = one.image
        sizes = (image.size_bytes, one.shared_bytes, image.size_bytes - one.shared_bytes)
        names = (image.repository, image.tag, short_id(image.image_id), ago(image.created_ns, now_ns))
        rows.append([*names, *(human_size(size, 4) for size in sizes), str(one.containers)])
    _write_section(titles, rows)
    write("\nContainers space usage:\n\n")
    titles = ("CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES")
    rows = []
    for container in usage.containers:
        count = str(usage.container_volumes.get(container.id, 0))
        names = (short_id(container.id), container.image, quote(shorten(container.command, _COMMAND_WIDTH)), count)
        created = ago(container.created_ns, now_ns)
        rows.append([*names, human_size(container.size_bytes or 0), created, container.status, container.names])
    _write_section(titles, rows)
    write("\nLocal Volumes space usage:\n\n")
    rows = [
        [volume.name, str(volume.links), human_size(volume.size_bytes, 4) if volume.size_bytes >= 0 else "N/A"]
        for volume in usage.volumes
    ]
    _write_section(("VOLUME NAME", "LINKS", "SIZE"), rows)


def _write_section(titles: tuple[str, ...], rows: list[list[str]]) -> None:
    write_table([(title, "") for title in titles], rows)
