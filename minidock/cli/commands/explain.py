"""minidock explain"""

from __future__ import annotations

import os

from minidock.cli.output import warn, write, write_bytes
from minidock.cli.session import open_evidence
from minidock.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Show the walk from a name to the bytes."""
    ways = [name for name in ("json", "shell", "picture", "html") if options[name]]
    if len(ways) > 1:
        raise UsageError(f"--{ways[0]} and --{ways[1]} do not go together")
    if options["picture"] or options["html"]:
        return _draw(options)
    from minidock.verbs.explain import explain, shell_lines

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


def _draw(options: dict[str, Any]) -> int:
    from minidock.verbs.layerfacts import picture

    with open_evidence(options) as evidence:
        told, facts = picture(evidence, options["name"])
        target = options["html"]
        if target and target != "-" and _is_below(target, evidence.path):
            raise UsageError(f"{target} is below the data root, to which nothing is written")
    if not target:
        from minidock.cli.layerpicture import write_picture

        write_picture(told, facts)
        return 0
    from minidock.cli.layerpage import page

    text = page(told, facts)
    if target == "-":
        write(text)
        return 0
    from minidock.verbs.outputfile import OutputFile

    with OutputFile(target, "write") as file:
        write_bytes(text.encode("utf-8", "replace"), file.fd)
    return 0


def _is_below(path: str, root: str) -> bool:
    return f"{os.path.realpath(path)}/".startswith(f"{root}/")
