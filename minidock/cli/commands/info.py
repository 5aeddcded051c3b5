"""minidock info"""

from __future__ import annotations

from minidock.cli.output import write_line
from minidock.cli.report import write_document
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Show facts about the data root and the machine."""
    from minidock.verbs.info import info

    with open_root(options, write=False) as root:
        facts = info(root)
    if options["format"]:
        write_document(facts, options["format"])
    else:
        write_facts(facts)
    return 0


def write_facts(facts: dict[str, Any], margin: str = "") -> None:
    """Print a document as `Key: value` lines, what is inside deeper."""
    for key, value in facts.items():
        if isinstance(value, dict):
            write_line(f"{margin}{key}:")
            write_facts(value, margin + " ")
        elif isinstance(value, list) and value and all(isinstance(item, (list, tuple)) for item in value):
            write_line(f"{margin}{key}:")
            for pair in value:
                write_line(f"{margin} {': '.join(map(str, pair))}")
        elif isinstance(value, list):
            write_line(f"{margin}{key}: {' '.join(map(str, value))}")
        else:
            write_line(f"{margin}{key}: {value if not isinstance(value, bool) else str(value).lower()}")
