"""minidock ps"""

from __future__ import annotations

import time

from minidock.cli.format import write_listing
from minidock.cli.output import quote, short_id, shorten, write
from minidock.cli.session import Reading
from minidock.cli.times import ago, human_size, local_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minidock.verbs.ps import ContainerSummary

_COLUMNS = (
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
)
_SIZE = ("SIZE", "Size")
_FIELDS = (
    *_COLUMNS,
    _SIZE,
    ("CREATED AT", "CreatedAt"),
    ("STATE", "State"),
    ("LABELS", "Labels"),
    ("LOCAL VOLUMES", "LocalVolumes"),
    ("MOUNTS", "Mounts"),
    ("NETWORKS", "Networks"),
)
_COMMAND_WIDTH = 20
_MOUNT_WIDTH = 15


def handle(options: dict[str, Any]) -> int:
    """List containers."""
    template = options["format"]
    if options["filter"]:
        from minidock.cli.failures import check_filters

        check_filters(options["filter"])
    # docker sums up sizes, which walks the layers, only for those who will see them
    size = options["size"] or bool(template and (".Size" in template or "json" in template))
    with Reading(options) as root:
        # Not before: the process that looks for faults, which is on its way, takes longer than this.
        from minidock.verbs.ps import ps

        found = ps(
            root,
            all=options["all"],
            last=1 if options["latest"] and options["last"] < 1 else options["last"],
            filters=options["filter"],
            size=size,
        )
    full = options["no_trunc"]
    if options["quiet"] and not template:
        write("".join((one.id if full else short_id(one.id)) + "\n" for one in found))
        return 0
    columns = (*_COLUMNS, _SIZE) if options["size"] else _COLUMNS
    now_ns = time.time_ns()
    rows = [container_row(one, full=full, now_ns=now_ns) for one in found]
    if template is None:
        write_listing(rows, columns, None, fields=_FIELDS)
    else:
        labels = {id(row): one.labels for row, one in zip(rows, found, strict=True)}
        methods = {"Label": lambda row, name: labels[id(row)].get(name, "")}
        write_listing(rows, columns, template, fields=_FIELDS, methods=methods)
    return 0


def container_row(one: ContainerSummary, *, full: bool, now_ns: int) -> Callable[[str], str]:
    """The texts of one container; full: nothing is cut."""

    def text_of(field: str) -> str:
        if field == "ID":
            return one.id if full else short_id(one.id)
        if field == "Image":
            return _image(one, full)
        if field == "Command":
            return quote(one.command if full else shorten(one.command, _COMMAND_WIDTH))
        if field == "RunningFor":
            return ago(one.created_ns, now_ns)
        if field == "CreatedAt":
            return local_time(one.created_ns)
        if field == "Labels":
            return ",".join(f"{key}={one.labels[key]}" for key in sorted(one.labels))
        if field == "Mounts":
            return ",".join(one.mounts if full else [shorten(mount, _MOUNT_WIDTH) for mount in one.mounts])
        if field == "Size":
            return _size(one)
        return _SIMPLE[field](one)

    return text_of


_SIMPLE: dict[str, Callable[[ContainerSummary], str]] = {
    "Status": lambda one: one.status,
    "State": lambda one: one.state,
    "Ports": lambda one: one.ports,
    "Names": lambda one: one.names,
    "Networks": lambda one: ",".join(one.networks),
    "LocalVolumes": lambda one: str(one.local_volumes),
}


def _image(one: ContainerSummary, full: bool) -> str:
    if not one.image:
        return "<no image>"
    if full:
        return one.image
    if one.image.startswith("sha256:") or one.image == one.image_id.removeprefix("sha256:"):
        return short_id(one.image)
    # a digest is cut off, the name stays
    return one.image.partition("@")[0]


def _size(one: ContainerSummary) -> str:
    text = human_size(one.size_bytes or 0)
    if one.root_size_bytes:
        text += f" (virtual {human_size(one.root_size_bytes)})"
    return text
