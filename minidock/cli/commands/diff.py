"""minidock diff"""

from __future__ import annotations

import os

from minidock.cli.output import escape_controls, write
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from minidock.verbs.compare import Difference


def handle(options: dict[str, Any]) -> int:
    """Show what a container changed, or what differs between two trees."""
    if options["other"] or options["why"] or options["content"]:
        return _compare(options)
    from minidock.verbs.diff import diff

    with open_root(options, write=False) as root:
        changes = diff(root, options["container"])
    if options["json"]:
        from minidock.cli.report import to_json

        write(to_json([{"Kind": change.kind, "Path": change.path} for change in changes]) + "\n")
    else:
        write("".join(f"{change.kind} {escape_controls(change.path)}\n" for change in changes))
    return 0


def _compare(options: dict[str, Any]) -> int:
    from minidock.cli.output import warn
    from minidock.cli.session import open_evidence
    from minidock.verbs.compare import compare

    faults: list[str] = []
    with open_evidence(options) as evidence:
        found = compare(
            evidence,
            options["container"],
            options["other"] or "",
            why=options["why"],
            content=options["content"],
            faults=faults,
        )
        if options["json"]:
            _write_json(found)
        else:
            _write_text(found, why=options["why"], content=options["content"])
    for fault in faults:
        warn(fault)
    return 0


def _write_json(found: Iterator[Difference]) -> None:
    from minidock.cli.report import to_json

    separator = "["
    for one in found:
        write(separator + to_json(one.to_document()))
        separator = ",\n"
    write("[]\n" if separator == "[" else "]\n")


def _write_text(found: Iterator[Difference], *, why: bool, content: bool) -> None:
    from minidock.cli.times import human_size

    grown, counts = 0, {"A": 0, "C": 0, "D": 0}
    for one in found:
        line = f"{one.kind} {escape_controls(one.path)}"
        if why:
            words = [", ".join(one.why) + (f" from {one.renamed_from}" if one.renamed_from else "")]
            if one.old_bytes or one.new_bytes:
                words.append(f"{human_size(one.old_bytes)} -> {human_size(one.new_bytes)}")
            line += "".join(f"\t{escape_controls(word)}" for word in words if word)
            grown += one.new_bytes - one.old_bytes
            counts[one.kind] += 1
        write(line + "\n")
        if content:
            _write_content(one)
    if why:
        sign = "-" if grown < 0 else "+"
        write(f"{counts['A']} added, {counts['C']} changed, {counts['D']} deleted, {sign}{human_size(abs(grown))}\n")


def _write_content(one: Difference) -> None:
    if one.text is None:
        if one.old_bytes != one.new_bytes or "data" in one.why:
            write("  no text, or a long one\n")
        return
    # A program gets the letters as they are, a terminal none that would steer it.
    shown = _for_terminal if os.isatty(1) else str
    write("".join(f"{shown(line)}\n" for line in one.text))


def _for_terminal(line: str) -> str:
    return "\t".join(map(escape_controls, line.split("\t")))
