"""minidock fsck"""

from __future__ import annotations

import os

from minidock.cli.output import write, write_error, write_line
from minidock.cli.report import to_json
from minidock.cli.session import open_root
from minidock.errors import MinidockError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.steps import Plan
    from minidock.verbs.fsck import Diagnosis

_MENDED = 1


def handle(options: dict[str, Any]) -> int:
    """Look for faults, or mend them; the exit status tells how it stands, see docs/damaged-roots.md."""
    from minidock.cli.failures import report

    try:
        if options["repair"] or options["plan"] or options["apply"]:
            return _repair(options)
        return _look(options)
    except MinidockError as error:
        report(error)
        return error.exit_code


def _look(options: dict[str, Any]) -> int:
    from minidock.verbs.fsck import fsck

    if options["yes"]:
        raise UsageError("--yes goes with --repair")
    found = fsck(options["root"])
    if options["json"]:
        write_line(to_json(_document(found)))
    else:
        _show(found)
    return found.exit_status


def _repair(options: dict[str, Any]) -> int:
    from minidock.verbs.fsck import fsck
    from minidock.verbs.repair import apply_repair, plan_repair, read_plan

    if options["plan"] and options["apply"]:
        raise UsageError("--plan and --apply do not go together")
    with open_root(options, write=False) as root:
        found = fsck(root.path)
        plan = read_plan(options["apply"], "repair") if options["apply"] else plan_repair(root)
    if options["plan"]:
        write_plan(options["plan"], plan)
        return found.exit_status
    if not options["json"]:
        _show(found)
        show_plan(plan)
    trash_id = ""
    if plan.steps and (options["yes"] or options["apply"] or _confirm(options)):
        with open_root(options, bare=True) as root:
            trash_id = apply_repair(root, plan)
    left = fsck(options["root"]) if trash_id else found
    if options["json"]:
        write_line(to_json({**_document(left), "Plan": plan.to_document(), "Trash": trash_id}))
    elif trash_id:
        write_line(f"done; minidock undo {trash_id} takes it back")
        _show(left)
    return _MENDED if trash_id and left.exit_status != 4 else left.exit_status


def _confirm(options: dict[str, Any]) -> bool:
    if options["json"]:
        return False
    if not os.isatty(0):
        write_error("minidock: nothing was done; --yes does it, or --plan FILE and --apply FILE")
        return False
    write("Do this? Everything replaced is kept, and minidock undo brings it back. [y/N] ")
    return os.read(0, 1024).strip().lower() in (b"y", b"yes")


def write_plan(path: str, plan: Plan) -> None:
    """Write a plan's JSON to a file or, for `-`, to standard output."""
    text = to_json(plan.to_document(), indent=1) + "\n"
    if path == "-":
        write(text)
        return
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write the plan {path}: {error.strerror}") from None


def show_plan(plan: Plan) -> None:
    """Show a plan to people: each step with its reasons, then what is left alone."""
    for number, step in enumerate(plan.steps, 1):
        write_line(f"{number}. {step.path}: {step.why}")
        write_line(f"   {step.describe()}")
        write_line(f"   proof: {step.proof}")
    for remark in plan.remarks:
        write_line(f"not proven: {remark}")


def _show(found: Diagnosis) -> None:
    for fault in found.faults:
        write_line(f"{fault.severity}: {found.path}/{fault.line}")
    if found.is_busy:
        write_error("minidock: somebody is at work in this root: leftovers and unfinished things are not shown")
    counts = [(word, found.count(word)) for word in ("error", "warning", "leftover")]
    told = ", ".join(f"{number} {word}{'' if number == 1 else 's'}" for word, number in counts if number)
    write_line(f"{found.path}: {told or 'clean'}")


def _document(found: Diagnosis) -> dict[str, Any]:
    return {
        "Root": found.path,
        "Busy": found.is_busy,
        "Status": found.exit_status,
        "Faults": [
            {
                "Kind": fault.kind,
                "Severity": fault.severity,
                "Path": fault.path,
                "Reason": fault.reason,
                "Subject": fault.subject,
            }
            for fault in found.faults
        ],
    }
