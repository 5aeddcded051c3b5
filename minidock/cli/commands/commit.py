"""minidock commit"""

from __future__ import annotations

from minidock.cli.output import write, write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Make an image out of a container's changes and print its ID."""
    from minidock.verbs.commit import commit

    with open_root(options) as root:
        result = commit(
            root,
            options["container"],
            options["reference"],
            author=options["author"] or "",
            message=options["message"] or "",
            changes=options["change"],
            pause=options["pause"],
            engine=options["engine"] or "",
        )
    if not options["json"]:
        write_line(result.image_id)
        return 0
    from minidock.cli.report import to_json

    facts = {
        "ImageID": result.image_id,
        "DiffID": result.diff_id,
        "ChainID": result.chain_id,
        "SizeBytes": result.size_bytes,
        "Reference": None if result.reference is None else str(result.reference),
    }
    write(to_json(facts) + "\n")
    return 0
