"""minidock version"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Show the versions."""
    from minidock.verbs.version import version

    facts = version()
    if options["format"]:
        from minidock.cli.report import write_document

        write_document(facts, options["format"])
    else:
        from minidock.cli.commands.info import write_facts

        write_facts(facts)
    return 0
