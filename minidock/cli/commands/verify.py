"""minidock verify"""

from __future__ import annotations

import os

from minidock.cli.output import short_id, write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.verification import Finding
    from minidock.verbs.verify import Verification

_DAMAGED = 1


def handle(options: dict[str, Any]) -> int:
    """Verify images; 0 when all is whole, 1 when something is damaged, 125 when that cannot be told."""
    from minidock.cli.failures import report
    from minidock.cli.progress import progress_for
    from minidock.cli.report import to_json
    from minidock.errors import MinidockError
    from minidock.store.sealing import seal
    from minidock.verbs.verify import verify

    try:
        with open_root(options, write=False) as root:
            seal(root.path)
            shown = None if options["quiet"] or options["json"] else progress_for(2)
            found = verify(root, options["images"] or (), progress=shown)
    except MinidockError as error:
        report(error)
        return error.exit_code
    if options["json"]:
        write_line(to_json(_document(found)))
    else:
        _show(found, quiet=options["quiet"])
    return 0 if found.is_whole else _DAMAGED


def _show(found: Verification, *, quiet: bool) -> None:
    for image in found.images:
        name = image.names[0] if image.names else short_id(image.image_id)
        for finding in image.findings:
            write_line(f"{name}: {finding.detail}")
        if not image.is_whole:
            write_line(f"{name}: DAMAGED")
        elif not quiet:
            write_line(f"{name}: OK")
    for layer in found.layers:
        for finding in layer.findings:
            write_line(f"layer {short_id(layer.chain_id)}: {_line(finding)}")
    if not quiet:
        damaged = sum(1 for layer in found.layers if layer.findings)
        size = sum(layer.layer.size_bytes for layer in found.layers if layer.layer is not None)
        from minidock.cli.times import human_size

        counts = f"{_count(len(found.images), 'image')}, {_count(len(found.layers), 'layer')}, {human_size(size)}"
        write_line(f"{counts}: {f'{damaged} damaged' if damaged else 'all whole'}")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _line(finding: Finding) -> str:
    return f"{finding.path}: {finding.detail}" if finding.path else finding.detail


def _document(found: Verification) -> dict[str, Any]:
    return {
        "Whole": found.is_whole,
        "Images": [
            {
                "Id": image.image_id,
                "Names": image.names,
                "Whole": image.is_whole,
                "Layers": [layer.chain_id for layer in image.layers],
                "Findings": [_finding(finding) for finding in image.findings],
            }
            for image in found.images
        ],
        "Layers": [
            {
                "ChainId": layer.chain_id,
                "DiffId": layer.layer.diff_id if layer.layer else "",
                "Directory": layer.layer.cache_id if layer.layer else "",
                "Size": layer.layer.size_bytes if layer.layer else 0,
                "Whole": not layer.findings,
                "Findings": [_finding(finding) for finding in layer.findings],
            }
            for layer in found.layers
        ],
    }


def _finding(finding: Finding) -> dict[str, str]:
    # A name's undecodable bytes have no form in JSON but this.
    path = os.fsencode(finding.path).decode("utf-8", "backslashreplace")
    return {"Kind": finding.kind, "Path": path, "Detail": finding.detail}
