"""What repair and gc do to a data root, as a list of small objects: each tells what it does and why, then does it.

A step puts something new at a path of the root, or takes away what is there. It never writes into what is there, and
what it takes the place of goes to the trash (trash.py). A plan is a JSON document that can be kept, read, and executed
later; each step then first makes sure that its path still is what it was.
"""

from __future__ import annotations

import os
import stat

from minidock.errors import FormatError, StoreError, SyscallError
from minidock.ids import DiffID, is_hex64
from minidock.linux.mount import shell_word
from minidock.linux.paths import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, open_in_root
from minidock.store.transaction import make_directory, write_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.root import DataRoot

_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_READ_BYTES = 1 << 20
_HASHED_BYTES = 256 << 20
PLAN_VERSION = 1


def open_parent(root: DataRoot, path: str) -> tuple[int, str]:
    """The opened directory that holds a path of the root, no symlink on the way, and the path's last name.

    Raises: SyscallError, FormatError for a path that leads nowhere beneath the root
    """
    folder, _, base = path.rpartition("/")
    if not base or base in (".", "..") or path.startswith("/"):
        raise FormatError(f"not a path of the data root: {path!r}")
    flags = os.O_RDONLY | os.O_DIRECTORY
    return open_in_root(root.fd, os.fsencode(folder or "."), flags, resolve=_RESOLVE), base


def fingerprint(root: DataRoot, path: str) -> list[Any] | None:
    """What stands at a path of the root, as values that can be compared and kept; None for nothing.

    Shape: of a file all but its access and status times, of one of more than _HASHED_BYTES its inode in place of its
           digest; of a directory only which one it is
    """
    try:
        parent, base = open_parent(root, path)
    except SyscallError:
        return None
    try:
        return fingerprint_at(parent, base)
    finally:
        os.close(parent)


def fingerprint_at(parent: int, base: str) -> list[Any] | None:
    """fingerprint of a name in an open directory."""
    try:
        status = os.stat(base, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        return ["directory", status.st_ino]
    owner = [oct(stat.S_IMODE(mode)), status.st_uid, status.st_gid]
    if stat.S_ISLNK(mode):
        return ["symlink", os.readlink(base, dir_fd=parent)]
    if not stat.S_ISREG(mode):
        return ["special", oct(mode), status.st_rdev, *owner]
    known: list[Any] = ["file", status.st_size, status.st_mtime_ns, *owner]
    if status.st_size > _HASHED_BYTES:
        # No record of either engine is so large, and a hole of a terabyte is hashed for an hour.
        return [*known, f"inode {status.st_ino}"]
    from hashlib import sha256

    digest = sha256()
    handle = os.open(base, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        while data := os.read(handle, _READ_BYTES):
            digest.update(data)
    finally:
        os.close(handle)
    return [*known, digest.hexdigest()]


class Step:
    """One change at one path.

    Shape: path: relative to the data root; why: what is wrong there; proof: why this is right; before: the path's
           fingerprint when the plan was made; values: what else the step needs, fit for JSON
    """

    word = ""

    def __init__(self, path: str, why: str, proof: str, values: dict[str, Any] | None = None) -> None:
        self.path = path
        self.why = why
        self.proof = proof
        self.values = values or {}
        self.before: list[Any] | None = None

    def describe(self) -> str:
        """The step as a shell line, or as near to one as there is."""
        raise NotImplementedError

    def make(self, root: DataRoot, target: str) -> bool:
        """Make at target, an absolute path, what shall stand at self.path; False when nothing shall.

        Raises: StoreError when the proof no longer holds, SyscallError, OSError
        """
        raise NotImplementedError

    def to_document(self) -> dict[str, Any]:
        """The step for a plan's file."""
        document = {"Step": self.word, "Path": self.path, "Why": self.why, "Proof": self.proof, "Before": self.before}
        return {**document, **self.values}


class PutText(Step):
    """A file of known content. Shape: values: Text, Mode"""

    word = "put-text"

    def describe(self) -> str:
        text = self.values["Text"]
        shown = shell_word(text if len(text) <= 160 else text[:120] + "...")
        return f"printf %s {shown} >{shell_word(self.path)}"

    def make(self, root: DataRoot, target: str) -> bool:
        write_new(target, self.values["Text"].encode("utf-8", "surrogateescape"), self.values["Mode"], durable=True)
        return True


class PutLink(Step):
    """A symlink. Shape: values: Target"""

    word = "put-link"

    def describe(self) -> str:
        return f"ln -sfn {shell_word(self.values['Target'])} {shell_word(self.path)}"

    def make(self, root: DataRoot, target: str) -> bool:
        os.symlink(self.values["Target"], target)
        return True


class PutDirectory(Step):
    """An empty directory. Shape: values: Mode"""

    word = "put-directory"

    def describe(self) -> str:
        return f"mkdir -m {self.values['Mode']:04o} {shell_word(self.path)}"

    def make(self, root: DataRoot, target: str) -> bool:
        make_directory(target, self.values["Mode"])
        return True


class PutTarSplit(Step):
    """A layer's tar-split, out of a copy or made of its directory.

    Shape: values: Directory: a cache_id; DiffId; Copy: path of a tar-split file; or Dialect
    """

    word = "put-tar-split"

    def describe(self) -> str:
        if self.values.get("Copy"):
            return f"cp {shell_word(self.values['Copy'])} {shell_word(self.path)}"
        return f"minidock: tar-split of overlay2/{self.values['Directory']}/diff >{shell_word(self.path)}"

    def make(self, root: DataRoot, target: str) -> bool:
        make_tar_split(root, target, self.values)
        return True


class PutRecord(Step):
    """A directory of layerdb. Shape: values: Files: text by name; Mode; as PutTarSplit's, or no Directory"""

    word = "put-record"

    def describe(self) -> str:
        files = ", ".join(f"{name} {text}" for name, text in self.values["Files"].items())
        return f"mkdir {shell_word(self.path)}  # {files}"

    def make(self, root: DataRoot, target: str) -> bool:
        make_directory(target, self.values["Mode"])
        for name, text in self.values["Files"].items():
            if "/" in name:
                raise FormatError(f"not a file's name: {name!r}")
            write_new(f"{target}/{name}", text.encode("ascii"), 0o644, durable=True)
        if self.values.get("Directory"):
            make_tar_split(root, f"{target}/tar-split.json.gz", self.values)
        return True


class MoveAway(Step):
    """What is there goes to the trash. Shape: values: Bytes, if somebody counted them"""

    word = "move-away"

    def describe(self) -> str:
        return f"mv {shell_word(self.path)} TRASH"

    def make(self, root: DataRoot, target: str) -> bool:
        return False


def make_tar_split(root: DataRoot, target: str, values: dict[str, Any]) -> None:
    """Write the tar-split that PutTarSplit and PutRecord describe, and prove it anew; raises StoreError."""
    from minidock.store.layerpack import pack_layer
    from minidock.store.proof import rebuilt_digest

    cache_id, diff_id = values["Directory"], DiffID.parse(values["DiffId"])
    diff_path = root.layers.diff_path(cache_id)
    handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(handle, 0o644)
        if values.get("Copy"):
            parent, base = open_parent(root, values["Copy"])
            try:
                source = os.open(base, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            finally:
                os.close(parent)
            try:
                while data := os.read(source, _READ_BYTES):
                    os.write(handle, data)
            finally:
                os.close(source)
            actual = rebuilt_digest(target, diff_path, diff_id)
        else:
            actual = pack_layer(diff_path, values["Dialect"], handle)
        os.fsync(handle)
    finally:
        os.close(handle)
    if actual != diff_id:
        raise StoreError(f"{diff_path}: its tar does not hash to {diff_id} any more")


_WORDS = {kind.word: kind for kind in (PutText, PutLink, PutDirectory, PutTarSplit, PutRecord, MoveAway)}


class Plan:
    """Steps in order. Shape: kind: `repair` or `gc`; remarks: what the plan leaves alone and why, one line each"""

    def __init__(self, kind: str, root_path: str) -> None:
        self.kind = kind
        self.root_path = root_path
        self.steps: list[Step] = []
        self.remarks: list[str] = []

    def add(self, root: DataRoot, step: Step) -> None:
        """Add a step; what stands at its path now is what it must find there."""
        step.before = fingerprint(root, step.path)
        self.steps.append(step)

    def to_document(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {
            "Plan": self.kind,
            "Version": PLAN_VERSION,
            "Root": self.root_path,
            "Steps": [step.to_document() for step in self.steps],
            "Remarks": self.remarks,
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Plan:
        """Read a plan; raises FormatError."""
        try:
            if document["Version"] != PLAN_VERSION:
                raise FormatError(f"a plan of version {document['Version']!r}, not {PLAN_VERSION}")
            plan = cls(str(document["Plan"]), str(document["Root"]))
            plan.remarks = [str(line) for line in document["Remarks"]]
            for row in document["Steps"]:
                known = ("Step", "Path", "Why", "Proof", "Before")
                values = {key: value for key, value in row.items() if key not in known}
                step = _WORDS[row["Step"]](str(row["Path"]), str(row["Why"]), str(row["Proof"]), values)
                step.before = row["Before"]
                plan.steps.append(step)
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"not a plan: {error}") from None
        return plan


def is_overlay_directory(path: str) -> bool:
    """Whether a path of the root is a directory of overlay2/ itself."""
    folder, _, name = path.partition("/")
    return folder == "overlay2" and is_hex64(name.removesuffix("-init"))
