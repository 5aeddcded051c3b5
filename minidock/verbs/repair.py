"""fsck --repair: a plan of what can be proven, its execution, and what that leaves.

The plan is made without writing anything, also from a read-only root. Executing it holds the root's lock, makes sure
first that each path still is what the plan saw, and keeps all that it replaces: see store/trash.py.
"""

from __future__ import annotations

from minidock.errors import FormatError, SyscallError, UsageError
from minidock.formats.gojson import parse_json
from minidock.store.evidence import Evidence
from minidock.store.inspection import inspect_root
from minidock.store.repairplan import plan_repairs
from minidock.store.steps import Plan
from minidock.store.transaction import read_small
from minidock.store.trash import execute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot

_PLAN_BYTES = 256 << 20


def plan_repair(root: DataRoot) -> Plan:
    """What can be mended, and in the plan's remarks what cannot; raises SyscallError, OSError of a broken disk."""
    with Evidence.open(root.path) as evidence:
        found, _ = inspect_root(evidence)
        try:
            return plan_repairs(root, found)
        except OSError as error:
            if isinstance(error, SyscallError):
                raise
            raise SyscallError(f"read {error.filename or root.path}", error.errno or 5) from None


def read_plan(path: str, kind: str) -> Plan:
    """A plan from its file; raises UsageError, FormatError."""
    try:
        raw = read_small(path, 1 << 20, most_bytes=_PLAN_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read the plan {path}: {error.strerror}") from None
    plan = Plan.from_document(parse_json(raw, what=path, limit_bytes=_PLAN_BYTES))
    if plan.kind != kind:
        raise FormatError(f"{path}: a plan of {plan.kind}, not of {kind}")
    return plan


def apply_repair(root: DataRoot, plan: Plan) -> str:
    """Execute a plan.

    Returns: the trash's ID for undo, "" for a plan without steps
    Raises:  StoreBusy under a live dockerd; StoreError when a path has changed since the plan was made, and then
             nothing is done; SyscallError
    """
    if not plan.steps:
        return ""
    with root.lock():
        return execute(root, plan)
