"""minidock system df"""

from __future__ import annotations

import time

from minidock.cli.format import write_listing, write_table
from minidock.cli.output import escape_controls, quote, short_id, shorten, write
from minidock.cli.session import Reading
from minidock.cli.times import ago, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minidock.cli.gotemplate import Fields
    from minidock.verbs.disk_usage import DiskUsage, ImageUsage, Kind, VolumeUsage
    from minidock.verbs.ps import ContainerSummary

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
    from minidock.verbs.disk_usage import DiskUsage

    template = options["format"]
    with Reading(options) as root:
        usage = DiskUsage(root)
    if options["verbose"] and template and not template.startswith("table"):
        _write_formatted(usage, template)
        return 0
    if options["verbose"]:
        _write_details(usage)
        return 0
    write_listing([_row(kind) for kind in usage.kinds()], _COLUMNS, template, fields=_COLUMNS)
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
        sizes = (human_size(image.size_bytes), human_size(one.shared_bytes, 4), human_size(_unique_bytes(one), 4))
        names = (image.repository, image.tag, short_id(image.image_id), ago(image.created_ns, now_ns))
        rows.append([*names, *sizes, str(one.containers)])
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
    rows = [[volume.name, str(volume.links), _volume_size(volume)] for volume in usage.volumes]
    _write_section(("VOLUME NAME", "LINKS", "SIZE"), rows)


def _unique_bytes(one: ImageUsage) -> int:
    return one.image.size_bytes - one.shared_bytes


def _volume_size(volume: VolumeUsage) -> str:
    return human_size(volume.size_bytes, 4) if volume.size_bytes >= 0 else "N/A"


def _write_formatted(usage: DiskUsage, template: str) -> None:
    """All details through a template that is run once.

    Source: docker/cli cli/command/formatter/disk_usage.go, verboseWrite: not even a newline of its own
    """
    from minidock.cli.gotemplate import Fields, Template

    now_ns = time.time_ns()
    document = Fields(
        Images=[_image_fields(one, now_ns) for one in usage.images],
        Containers=[_container_fields(one, now_ns) for one in usage.containers],
        Volumes=[_volume_fields(one) for one in usage.volumes],
        BuildCache=[],
    )
    write(Template("{{json .}}" if template == "json" else template).render(document))


def _image_fields(one: ImageUsage, now_ns: int) -> Fields:
    from minidock.cli.commands.images import image_row

    row = image_row(one.image, full=True, now_ns=now_ns)
    names = ("CreatedAt", "CreatedSince", "ID", "Repository", "Size", "Tag", "VirtualSize")
    sizes = {"SharedSize": human_size(one.shared_bytes, 4), "UniqueSize": human_size(_unique_bytes(one), 4)}
    digest = one.image.digest.replace("<none>", "")
    return _fields(row, names, Digest=digest, Containers=str(one.containers), **sizes)


def _container_fields(one: ContainerSummary, now_ns: int) -> Fields:
    from minidock.cli.commands.ps import container_row

    names = ("Command", "CreatedAt", "ID", "Image", "Labels", "LocalVolumes", "Mounts", "Names", "Networks", "Ports")
    more = ("RunningFor", "State", "Status")
    row, label = container_row(one, full=True, now_ns=now_ns), _label_of(one.labels)
    return _fields(row, (*names, *more), Size=human_size(one.size_bytes or 0), Label=label)


def _volume_fields(one: VolumeUsage) -> Fields:
    from minidock.cli.gotemplate import Fields

    labels = ",".join(f"{key}={value}" for key, value in sorted(one.labels.items()))
    texts = {"Name": one.name, "Links": str(one.links), "Mountpoint": one.path, "Size": _volume_size(one)}
    escaped = {name: escape_controls(text) for name, text in {**texts, "Labels": labels}.items()}
    return Fields({**escaped, "Driver": "local", "Scope": "local", "Label": _label_of(one.labels)})


def _fields(row: Callable[[str], str], names: tuple[str, ...], **more: object) -> Fields:
    from minidock.cli.gotemplate import Fields

    return Fields({name: escape_controls(row(name)) for name in names} | more)


def _label_of(labels: dict[str, str]) -> Callable[[str], str]:
    return lambda name: escape_controls(labels.get(name, ""))


def _write_section(titles: tuple[str, ...], rows: list[list[str]]) -> None:
    write_table([(title, "") for title in titles], rows)
