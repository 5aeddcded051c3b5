"""minidock volume ls"""

from __future__ import annotations

from minidock.cli.failures import check_filters
from minidock.cli.format import write_listing
from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minidock.store.volumes import Volume

_COLUMNS = (("DRIVER", "Driver"), ("VOLUME NAME", "Name"))
_FIELDS = (
    ("DRIVER", "Driver"),
    ("LABELS", "Labels"),
    ("LINKS", "Links"),
    ("MOUNTPOINT", "Mountpoint"),
    ("VOLUME NAME", "Name"),
    ("SCOPE", "Scope"),
    ("SIZE", "Size"),
)


def handle(options: dict[str, Any]) -> int:
    """List volumes."""
    from minidock.verbs.volume import list_volumes

    with open_root(options, write=False) as root:
        check_filters(options["filter"])
        found = list_volumes(root, options["filter"])
    if options["quiet"] and not options["format"]:
        for volume in found:
            write_line(volume.name)
        return 0
    rows = [_row(volume) for volume in found]
    labels = {id(row): volume.labels or {} for row, volume in zip(rows, found, strict=True)}
    methods = {"Label": lambda row, name: labels[id(row)].get(name, "")}
    write_listing(rows, _COLUMNS, options["format"], fields=_FIELDS, methods=methods)
    return 0


def _row(volume: Volume) -> Callable[[str], str]:
    def text_of(field: str) -> str:
        if field == "Name":
            return volume.name
        if field in ("Driver", "Scope"):
            return "local"
        if field == "Mountpoint":
            return volume.data_path
        if field == "Labels":
            return ",".join(f"{key}={value}" for key, value in sorted((volume.labels or {}).items()))
        return "N/A"

    return text_of
