"""gc: what nothing refers to goes to the trash, from which undo brings it back; emptying the trash frees it."""

from __future__ import annotations

from minidock.errors import StoreError
from minidock.store import trash
from minidock.store.evidence import Evidence
from minidock.store.garbage import plan_garbage
from minidock.store.inspection import Inspection, inspect_root
from minidock.store.steps import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot


def plan_gc(root: DataRoot) -> Plan:
    """What nothing refers to, with the proof for each; an empty plan with a remark while somebody is at work."""
    with Evidence.open(root.path) as evidence:
        found, is_busy = inspect_root(evidence)
        if is_busy:
            plan = Plan("gc", root.path)
            plan.remarks.append("somebody is at work in this root, so what is unused cannot be told")
            return plan
        return plan_garbage(root, found)


def apply_gc(root: DataRoot, plan: Plan) -> str:
    """Move to the trash what a plan names, after each proof was found again.

    Returns: the trash's ID for undo, "" for a plan without steps
    Raises:  StoreBusy under a live dockerd; StoreError when something is needed by now, or another thing than it
             was, and then nothing is done; SyscallError
    """
    if not plan.steps:
        return ""
    with root.lock():
        with Evidence.open(root.path) as evidence:
            fresh = {step.path: step for step in plan_garbage(root, Inspection(evidence)).steps}
        for step in plan.steps:
            now = fresh.get(step.path)
            if now is None or step.word != now.word:
                raise StoreError(
                    f"{root.path}/{step.path}: it is no longer proven that nothing needs it",
                    hint="nothing was done; plan anew",
                )
        return trash.execute(root, plan)


def empty_trash(root: DataRoot, trash_ids: list[str]) -> tuple[list[str], int]:
    """Delete for good what lies in the trash, all of it or some entries.

    Returns: the entries' IDs; how many bytes they took
    Raises:  NotFound, Conflict when something is mounted there, StoreBusy under a live dockerd
    """
    with root.lock():
        return trash.empty_trash(root, trash_ids)
