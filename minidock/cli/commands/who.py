"""minidock who"""

from __future__ import annotations

from minidock.cli.failures import report
from minidock.cli.output import escape_controls, short_id, warn, write, write_error
from minidock.cli.session import open_evidence
from minidock.errors import MinidockError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.verbs.who import Owner

_FOUND, _NONE, _ERROR = 0, 1, 2


def handle(options: dict[str, Any]) -> int:
    """Show whose something is; grep's exit statuses."""
    from minidock.verbs.who import who

    try:
        with open_evidence(options) as evidence:
            owners = who(evidence, options["word"])
    except MinidockError as error:
        report(error)
        return _ERROR
    if options["json"]:
        from minidock.cli.report import to_json

        write(to_json([owner.to_document() for owner in owners], indent=4) + "\n")
    else:
        write("\n".join(map(_text, owners)))
        if not owners:
            write_error(f"minidock: nothing in {evidence.path} has the name {options['word']}")
    for fault in dict.fromkeys(fault for owner in owners for fault in owner.faults):
        warn(fault)
    return _FOUND if owners else _NONE


def _text(owner: Owner) -> str:
    lines = [f"{owner.kind} {owner.identity}", f"  {'found by':<15}{owner.matched}"]
    lines += [f"  {name:<15}{value}" for name, value in owner.facts.items()]
    if owner.path:
        lines.append(f"  {'file':<15}{owner.path}")
    for label, cache_id in owner.layers:
        lines.append(f"  {label:<15}{f'overlay2/{cache_id}' if cache_id else 'nothing tells its directory'}")
    for user in owner.users:
        names = ", ".join(user.names)
        lines.append(f"  {user.kind:<15}{short_id(user.identity)} {f'({names}) ' if names else ''}{user.note}")
    if not owner.users and owner.kind != "record":
        lines.append(f"  {'needed by':<15}no image and no container")
    return "".join(f"{escape_controls(line)}\n" for line in lines)
