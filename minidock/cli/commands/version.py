"""minidock version"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


# docker's words for the keys of its API
_TITLES = {
    "Arch": "Architecture",
    "KernelVersion": "Kernel version",
    "Os": "OS",
    "PythonVersion": "Python version",
}


def handle(options: dict[str, Any]) -> int:
    """Show the versions."""
    from minidock.verbs.version import version

    facts = version()
    if options["format"]:
        from minidock.cli.report import write_document

        write_document(facts, options["format"])
    else:
        from minidock.cli.output import layout, write

        for side, values in facts.items():
            rows = [[f" {_TITLES.get(key, key)}:", str(value)] for key, value in values.items()]
            write(f"{side}:\n{layout(rows)}")
    return 0
