"""minidock explain"""

from __future__ import annotations

from minidock.cli.output import warn, write
from minidock.cli.session import open_evidence
from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Show the walk from a name to the bytes."""
    from minidock.verbs.explain import explain, shell_lines

    if options["json"] and options["shell"]:
        raise UsageError("--json and --shell do not go together")
    with open_evidence(options) as evidence:
        told = explain(evidence, options["name"])
    if options["json"]:
        from minidock.cli.report import to_json

        write(to_json(told.to_document(), indent=4) + "\n")
        return 0
    if options["shell"]:
        write("".join(f"{line}\n" for line in shell_lines(told)))
        for fault in told.faults:
            warn(fault)
        return 0
    from minidock.cli.explaintree import write_explanation

    write_explanation(told, full=options["no_trunc"])
    return 0
