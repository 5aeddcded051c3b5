"""ROOT/minidock/trash: what repair and gc took away, with a journal by which undo puts it back as it was.

    trash/<id>/journal     one JSON line a step, written before the step acts; a first line with the parents' times
    trash/<id>/<n>.old     what stood at the step's path: the very inode, so all of its attributes with it
    trash/<id>/<n>.new     what is about to take its place
    trash/<id>/<n>.undone  what undo took away again

A file's old inode gets a second name in the trash before the new one is renamed over the first; so at every moment
either the old or the new stands at the path, and the old is never lost. A kill leaves a journal whose last step is
done, half done or not begun, and what stands where tells which; undo needs no more. Nothing is deleted but by
`empty_trash`.

Two kinds of line tell of what is not done by a plan's steps: a path that came to be meanwhile, which undo takes away
(adopt's new container), and with `From` a directory that was moved within the root, which undo moves back.
"""

from __future__ import annotations

import errno
import os
import stat

from minidock.constants import PRIVATE_DIR
from minidock.errors import FormatError, NotFound, StoreError, SyscallError
from minidock.formats.gojson import parse_json
from minidock.store.steps import Plan, PutDirectory, Step, fingerprint, fingerprint_at, open_parent
from minidock.store.transaction import make_directory, read_small, refuse_mounted, sync_directory, write_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from minidock.store.root import DataRoot

TRASH = f"{PRIVATE_DIR}/trash"
_JOURNAL_BYTES = 256 << 20


class Entry:
    """One thing in the trash: what a plan did.

    Shape: trash_id; kind: `repair`, `gc` or `adopt`; made_ns: when; is_whole: all steps were done; is_undone; rows: the
           journal's steps; times: the parents' access and change times before; is_broken: its journal cannot be read
    """

    __slots__ = ("is_broken", "is_undone", "is_whole", "kind", "made_ns", "path", "rows", "times", "trash_id")

    def __init__(self, root: DataRoot, trash_id: str) -> None:
        self.trash_id = trash_id
        self.path = f"{root.path}/{TRASH}/{trash_id}"
        self.kind = ""
        self.made_ns = 0
        self.is_whole = self.is_undone = self.is_broken = False
        self.rows: list[dict[str, Any]] = []
        self.times: dict[str, list[int]] = {}
        try:
            lines = read_small(f"{self.path}/journal", 1 << 20, most_bytes=_JOURNAL_BYTES).split(b"\n")
        except OSError:
            return
        # The last line is empty, or cut by a kill before its step began.
        try:
            for line in lines[:-1]:
                self._read(parse_json(line, what=f"{self.path}/journal", limit_bytes=_JOURNAL_BYTES))
        except (FormatError, KeyError, TypeError, ValueError):
            # Nobody's work any more, but still something that can be listed and emptied.
            self.is_broken, self.rows, self.times = True, [], {}

    def _read(self, row: dict[str, Any]) -> None:
        if "Times" in row:
            self.kind, self.made_ns, self.times = str(row["Kind"]), int(row["Made"]), row["Times"]
        elif "N" in row:
            known = {"N": int(row["N"]), "Path": str(row["Path"]), "Old": row["Old"], "New": row["New"]}
            self.rows.append({**known, **({"From": str(row["From"])} if "From" in row else {})})
        elif "Done" in row:
            self.is_whole = True
        else:
            self.is_undone = bool(row.get("Undone"))

    def tell_made(self, root: DataRoot, path: str) -> None:
        """Note what now stands at a path where nothing stood, or that nothing does, so that undo knows its own work."""
        self._add({"Path": path, "Old": None, "New": fingerprint(root, path), "Why": "made anew"})

    def tell_move(self, root: DataRoot, source: str, target: str) -> None:
        """Note that a directory is about to move to where nothing is that would be missed."""
        self._add(
            {"Path": target, "From": source, "Old": None, "New": fingerprint(root, source), "Why": "has its content"}
        )

    def _add(self, row: dict[str, Any]) -> None:
        row = {"N": len(self.rows), **row}
        self.write(row)
        self.rows.append(row)

    def write(self, row: dict[str, Any]) -> None:
        """Add a line to the journal, and have it on the disk."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(f"{self.path}/journal", flags)
        try:
            os.write(handle, _line(row))
            os.fsync(handle)
        finally:
            os.close(handle)


def _line(row: dict[str, Any]) -> bytes:
    """A line of a journal: in ASCII, since a path need not be UTF-8."""
    from json import dumps

    return dumps(row, separators=(",", ":")).encode("ascii") + b"\n"


def entries(root: DataRoot) -> list[Entry]:
    """What lies in the trash, oldest first."""
    try:
        names = sorted(os.listdir(f"{root.path}/{TRASH}"))
    except FileNotFoundError:
        return []
    return sorted((Entry(root, name) for name in names), key=lambda entry: entry.made_ns)


def execute(root: DataRoot, plan: Plan) -> str:
    """Do all steps of a plan, keeping what they replace.

    Shape:   the caller holds the root's exclusive lock
    Returns: the trash's ID, by which undo takes it back
    Raises:  StoreError before anything is done, when a path is no longer what it was when the plan was made; and
             SyscallError, after which undo takes back what was done
    """
    return run_steps(root, begin(root, plan), plan)


def begin(root: DataRoot, plan: Plan, folders: Iterable[str] = ()) -> Entry:
    """Make sure that a plan can be executed, and begin its entry in the trash.

    Shape:   folders: further directories of the root in which something is going to be made
    Raises:  StoreError when a path is no longer what it was when the plan was made
    """
    made: set[str] = set()
    for step in plan.steps:
        if fingerprint(root, step.path) != step.before:
            raise StoreError(
                f"{root.path}/{step.path} has changed since the plan was made", hint="nothing was done; plan anew"
            )
        if step.before is not None and step.before[0] == "directory":
            refuse_mounted(f"{root.path}/{step.path}")
        if step.path.rpartition("/")[0] not in made:
            _refuse_symlinks(root, step.path)
        if step.word == PutDirectory.word:
            made.add(step.path)
    _refuse_symlinks(root, f"{TRASH}/any")
    return _make_entry(root, plan, {*folders, *(step.path.rpartition("/")[0] for step in plan.steps)})


def run_steps(root: DataRoot, entry: Entry, plan: Plan) -> str:
    """Do a plan's steps in an entry that was begun for it; returns the trash's ID, raises as execute does."""
    try:
        first = len(entry.rows)
        # All is made before the first of it is put in place: one step may copy what another one replaces.
        made = [step.make(root, f"{entry.path}/{number}.new") for number, step in enumerate(plan.steps, first)]
        for number, step in enumerate(plan.steps):
            _do(root, entry, first + number, step, is_made=made[number])
        for folder in entry.times:
            if os.path.isdir(f"{root.path}/{folder}"):
                sync_directory(f"{root.path}/{folder}")
        entry.write({"Done": True})
    except BaseException as error:
        error.add_note(f"minidock undo {entry.trash_id} takes back what was done so far")
        raise
    return entry.trash_id


def _refuse_symlinks(root: DataRoot, path: str) -> None:
    """Raise StoreError when a path of the root is reached through a symlink, which may lead out of it."""
    try:
        os.close(open_parent(root, path)[0])
    except SyscallError as error:
        if error.errno == errno.ENOENT:
            return
        folder = path.rpartition("/")[0]
        raise StoreError(f"{root.path}/{folder} is no directory, or a symlink is on the way to it") from None


def _make_entry(root: DataRoot, plan: Plan, folders: Iterable[str]) -> Entry:
    """Make the trash's directory with the journal's first line, by one rename."""
    from minidock.formats.gojson import format_time

    times = {}
    for folder in sorted(folders):
        if not os.path.isdir(f"{root.path}/{folder}"):
            # Made by a step of the plan itself.
            continue
        status = os.stat(f"{root.path}/{folder}")
        times[folder] = [status.st_atime_ns, status.st_mtime_ns]
    now_ns = root.now_ns()
    stamp = format_time(now_ns)[:19].replace(":", "").replace("-", "").replace("T", "-")
    trash_id = f"{stamp}-{os.urandom(3).hex()}"
    for path in (f"{root.path}/{TRASH}",):
        if not os.path.isdir(path):
            make_directory(path, 0o700)
    with root.stage() as stage:
        made = stage.new_path("trash-entry")
        make_directory(made, 0o700)
        first = {"Kind": plan.kind, "Made": now_ns, "Times": times}
        write_new(f"{made}/journal", _line(first), 0o600, durable=True)
        os.rename(made, f"{root.path}/{TRASH}/{trash_id}")
    sync_directory(f"{root.path}/{TRASH}")
    return Entry(root, trash_id)


def _do(root: DataRoot, entry: Entry, number: int, step: Step, *, is_made: bool) -> None:
    new, old = f"{entry.path}/{number}.new", f"{entry.path}/{number}.old"
    root.tell("write", step.describe())
    trash = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        placed = fingerprint_at(trash, f"{number}.new") if is_made else None
    finally:
        os.close(trash)
    if is_made and placed is not None and placed[0] == "directory":
        sync_directory(new)
    parent, base = open_parent(root, step.path)
    try:
        row = {"N": number, "Path": step.path, "Old": step.before, "New": placed, "Why": step.why}
        entry.write(row)
        if step.before is not None:
            if "directory" in (step.before[0], (placed or [""])[0]) or not is_made:
                # A directory cannot take a name that is in use, nor be given a second one.
                os.rename(base, old, src_dir_fd=parent)
            else:
                os.link(base, old, src_dir_fd=parent, follow_symlinks=False)
        sync_directory(entry.path)
        if is_made:
            os.rename(new, base, dst_dir_fd=parent)
    except OSError as error:
        raise SyscallError(f"replace {root.path}/{step.path}", error.errno or 5) from None
    finally:
        os.close(parent)


def find_entry(root: DataRoot, text: str = "") -> Entry:
    """An entry by its ID or the ID's beginning; without one the newest that was not undone; raises NotFound."""
    found = entries(root)
    if not text:
        waiting = [entry for entry in found if not entry.is_undone and entry.rows]
        if not waiting:
            raise NotFound("there is nothing to undo", hint="minidock undo --list shows what lies in the trash")
        return waiting[-1]
    matches = [entry for entry in found if entry.trash_id == text] or [
        entry for entry in found if entry.trash_id.startswith(text)
    ]
    if len(matches) != 1:
        raise NotFound(f"no such entry in the trash: {text}", hint="minidock undo --list shows what there is")
    return matches[0]


def undo(root: DataRoot, text: str = "") -> Entry:
    """Put everything back that a plan replaced or took away, byte for byte, attributes and parents' times included.

    Shape:   text: an entry's ID, its beginning, or "" for the newest; the caller holds the root's exclusive lock
    Raises:  NotFound; StoreError when a path is neither what the plan left there nor what was there before, and then
             nothing is done; half an undo goes on where it ended
    """
    _refuse_symlinks(root, f"{TRASH}/any")
    entry = find_entry(root, text)
    if entry.is_undone:
        raise StoreError(f"{entry.trash_id} was undone already")
    if entry.is_broken:
        raise StoreError(f"{entry.path}/journal cannot be read", hint="what was taken away lies beside it")
    work = [row for row in reversed(entry.rows) if _is_done(root, entry, row)]
    for row in work:
        _put_back(root, entry, row)
    for folder, (atime_ns, mtime_ns) in entry.times.items():
        path = f"{root.path}/{folder}"
        if os.path.isdir(path):
            sync_directory(path)
            os.utime(path, ns=(atime_ns, mtime_ns))
    entry.write({"Undone": True})
    entry.is_undone = True
    return entry


def _is_done(root: DataRoot, entry: Entry, row: dict[str, Any]) -> bool:
    """Whether a step was done and not undone yet; raises StoreError when its path is something third."""
    path, now = row["Path"], fingerprint(root, row["Path"])
    if "From" in row:
        return _is_moved(root, entry, row, now)
    has_old = os.path.lexists(f"{entry.path}/{row['N']}.old")
    if now == row["New"] and (has_old or row["Old"] is None):
        return now is not None or has_old
    if now == row["Old"] or (now is None and row["Old"] is not None and has_old):
        # Not begun, or undone, or cut between the two renames of a directory.
        return now is None
    raise StoreError(
        f"{root.path}/{path} was changed after it was put there, so {entry.trash_id} cannot be taken back",
        hint=f"what stood there before is {entry.path}/{row['N']}.old" if row["Old"] else "what is there now stays",
    )


def _is_moved(root: DataRoot, entry: Entry, row: dict[str, Any], now: list[Any] | None) -> bool:
    if now == row["New"]:
        return True
    if fingerprint(root, row["From"]) == row["New"]:
        return False
    raise StoreError(
        f"{root.path}/{row['Path']} is no longer there, so {entry.trash_id} cannot be taken back",
        hint="its container was removed, and the content with it",
    )


def _put_back(root: DataRoot, entry: Entry, row: dict[str, Any]) -> None:
    old, aside = f"{entry.path}/{row['N']}.old", f"{entry.path}/{row['N']}.undone"
    parent, base = open_parent(root, row["Path"])
    root.tell("write", f"mv {old} {root.path}/{row['Path']}")
    try:
        if "From" in row:
            _move_back(root, parent, base, row["From"])
            return
        now = fingerprint_at(parent, base)
        if now is not None:
            is_plain = now[0] != "directory" and row["Old"] is not None and row["Old"][0] != "directory"
            if os.path.lexists(aside):
                # A kill between the two calls below has left it.
                os.rename(aside, f"{aside}.{os.urandom(3).hex()}")
            if is_plain:
                os.link(base, aside, src_dir_fd=parent, follow_symlinks=False)
            else:
                os.rename(base, aside, src_dir_fd=parent)
        if row["Old"] is not None:
            os.rename(old, base, dst_dir_fd=parent)
    except OSError as error:
        raise SyscallError(f"put back {root.path}/{row['Path']}", error.errno or 5) from None
    finally:
        os.close(parent)


def _move_back(root: DataRoot, parent: int, base: str, path: str) -> None:
    target, name = open_parent(root, path)
    try:
        os.rename(base, name, src_dir_fd=parent, dst_dir_fd=target)
    finally:
        os.close(target)


def empty_trash(root: DataRoot, texts: list[str]) -> tuple[list[str], int]:
    """Delete entries for good; all of them without texts.

    Shape:   the caller holds the root's exclusive lock
    Returns: their IDs; how many bytes that frees
    Raises:  NotFound, Conflict when something is mounted in one, SyscallError
    """
    _refuse_symlinks(root, f"{TRASH}/any")
    chosen = [find_entry(root, text) for text in texts] if texts else entries(root)
    freed = 0
    for entry in chosen:
        refuse_mounted(entry.path)
        freed += allocated_bytes(entry.path)
    for entry in chosen:
        with root.stage() as stage:
            stage.remove_tree(entry.path)
    return [entry.trash_id for entry in chosen], freed


def allocated_bytes(path: str) -> int:
    """What a file or a tree takes on the disk, each inode once and no symlink followed; what cannot be read is 0."""
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    total = status.st_blocks * 512
    if not stat.S_ISDIR(status.st_mode):
        return total
    seen: set[int] = set()
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return total
    from minidock.store.upper import walk_upper

    try:
        for entry in walk_upper(handle, skip_vanished=True):
            if entry.status.st_nlink == 1 or entry.is_directory or entry.status.st_ino not in seen:
                total += entry.status.st_blocks * 512
                seen.add(entry.status.st_ino)
    except (OSError, StoreError, FormatError):
        return total
    finally:
        os.close(handle)
    return total
