"""minidock du"""

from __future__ import annotations

from minidock.cli.format import write_table
from minidock.cli.output import short_id, warn, write
from minidock.cli.session import open_evidence
from minidock.cli.times import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from minidock.store.diskwalk import Usage
    from minidock.verbs.du import DiskAccount


def handle(options: dict[str, Any]) -> int:
    """Show what takes how much room on the disk."""
    from minidock.verbs.du import du

    with open_evidence(options) as evidence:
        account = du(evidence, options["names"] or None)
    if options["json"]:
        from minidock.cli.report import to_json

        write(to_json(account.to_document(), indent=4) + "\n")
        return 0
    size: Callable[[int], str] = str if options["bytes"] else lambda number: human_size(number, 4)
    cut: Callable[[str], str] = str if options["no_trunc"] else short_id
    _write_things(account, size, cut)
    if account.headings:
        _write_whole(account, size)
    for fault in account.faults:
        warn(fault)
    return 0


def _write_things(account: DiskAccount, size: Callable[[int], str], cut: Callable[[str], str]) -> None:
    from minidock.verbs.du import container_total

    titles: tuple[str, ...]
    if account.images:
        titles = ("IMAGE ID", "NAMES", "ALLOCATED", "UNIQUE", "SHARED", "APPARENT")
        rows = [
            [
                cut(row.image_id),
                ", ".join(row.tags) or "<none>",
                *(size(usage.allocated_bytes) for usage in (row.total, row.unique, row.shared)),
                size(row.total.apparent_bytes),
            ]
            for row in account.images
        ]
        _write(titles, rows)
    if account.containers:
        titles = (
            "CONTAINER ID",
            "NAME",
            "ALLOCATED",
            "WRITTEN",
            "INIT",
            "RECORDS",
            "LOGS",
            "BELOW",
            "APPARENT",
        )
        rows = [
            [
                cut(row.container_id),
                row.name or "<none>",
                size(container_total(row).allocated_bytes),
                *(size(usage.allocated_bytes) for usage in (row.written, row.init, row.records, row.log, row.below)),
                size(container_total(row).apparent_bytes),
            ]
            for row in account.containers
        ]
        _write(titles, rows)
    if account.layers:
        titles = ("CHAIN ID", "DIRECTORY", "IMAGES", "CONTAINERS", "ALLOCATED", "APPARENT", "FILES")
        rows = [
            [
                cut(row.chain_id),
                cut(row.cache_id) or "<unknown>",
                str(row.images),
                str(row.containers),
                *_usage(row.usage, size),
            ]
            for row in account.layers
        ]
        _write(titles, rows)


def _usage(usage: Usage, size: Callable[[int], str]) -> list[str]:
    return [size(usage.allocated_bytes), size(usage.apparent_bytes), str(usage.files)]


def _write_whole(account: DiskAccount, size: Callable[[int], str]) -> None:
    if account.orphans:
        rows = [[orphan.path, *_usage(orphan.usage, size), orphan.reason] for orphan in account.orphans]
        _write(("ORPHAN", "ALLOCATED", "APPARENT", "FILES", "WHY"), rows)
    rows = [[heading, *_usage(usage, size)] for heading, usage in account.headings.items()]
    rows.append(["total", *_usage(account.total, size)])
    write_table([(title, "") for title in ("HEADING", "ALLOCATED", "APPARENT", "FILES")], rows)
    if account.linked.files:
        write(f"{account.linked.files} files ({size(account.linked.allocated_bytes)}) have names elsewhere, too\n")


def _write(titles: tuple[str, ...], rows: list[list[str]]) -> None:
    write_table([(title, "") for title in titles], rows)
    write("\n")
