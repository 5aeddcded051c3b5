"""minidock gc"""

from __future__ import annotations

from minidock.cli.output import write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.steps import Plan


def handle(options: dict[str, Any]) -> int:
    """Show what nothing refers to, move it to the trash, or empty the trash."""
    from minidock.errors import UsageError
    from minidock.verbs.gc import plan_gc

    if sum(bool(options[word]) for word in ("plan", "apply", "empty_trash")) > 1:
        raise UsageError("--plan, --apply and --empty-trash do not go together")
    if options["apply"]:
        return _apply(options)
    if options["empty_trash"]:
        return _empty(options)
    files = options["names"] or []
    if len(files) > 1 or (files and not options["plan"]):
        raise UsageError("only --plan takes a FILE, and --empty-trash takes IDs")
    with open_root(options, write=False) as root:
        plan = plan_gc(root)
    if files:
        from minidock.cli.commands.fsck import write_plan

        write_plan(files[0], plan)
    elif options["json"]:
        from minidock.cli.report import to_json

        write_line(to_json(plan.to_document()))
    else:
        _show(plan)
    return 0


def _show(plan: Plan) -> None:
    from minidock.cli.commands.fsck import show_plan
    from minidock.cli.times import human_size

    show_plan(plan)
    size = sum(int(step.values.get("Bytes", 0)) for step in plan.steps)
    write_line(
        f"{len(plan.steps)} things, {human_size(size)}; minidock gc --plan FILE, then gc --apply FILE, move them away"
    )


def _apply(options: dict[str, Any]) -> int:
    from minidock.cli.report import to_json
    from minidock.errors import UsageError
    from minidock.verbs.gc import apply_gc
    from minidock.verbs.repair import read_plan

    if options["names"]:
        raise UsageError("--apply takes one plan and nothing else")
    plan = read_plan(options["apply"], "gc")
    with open_root(options, bare=True) as root:
        trash_id = apply_gc(root, plan)
    if options["json"]:
        write_line(to_json({"Trash": trash_id, "Paths": [step.path for step in plan.steps]}))
    elif trash_id:
        write_line(f"{len(plan.steps)} things moved to the trash; minidock undo {trash_id} brings them back,")
        write_line(f"minidock gc --empty-trash {trash_id} frees their room")
    else:
        write_line("nothing to do")
    return 0


def _empty(options: dict[str, Any]) -> int:
    from minidock.cli.report import to_json
    from minidock.cli.times import human_size
    from minidock.verbs.gc import empty_trash

    with open_root(options, bare=True) as root:
        trash_ids, size = empty_trash(root, options["names"] or [])
    if options["json"]:
        write_line(to_json({"Deleted": trash_ids, "Bytes": size}))
    else:
        for trash_id in trash_ids:
            write_line(trash_id)
        write_line(f"Total reclaimed space: {human_size(size, 4)}")
    return 0
