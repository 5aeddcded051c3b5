"""`diff A B`: what differs between any two trees: an image, a container, a layer with all below it, a tar.

Told as docker tells a container's changes: A added, C changed, D deleted with all below it; a directory in which
something changed is changed, too. Where both trees stand on the same layers from some directory on, nothing is read.
Source: moby pkg/archive/changes.go, FileInfo.addChanges
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from minidock.errors import NotFound, StoreError, SyscallError
from minidock.store.catalogue import Catalogue
from minidock.store.filechange import DATA, DEVICE, IDENTICAL, MODE, MTIME, OPAQUE, OWNER, TARGET, TYPE, XATTR
from minidock.store.filechange import is_same_time as same_time
from minidock.store.layerstack import CONTAINER, find_layer, stack_of, stack_of_container
from minidock.store.trees import StackTree
from minidock.store.upper import CAPABILITY_XATTR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from minidock.store.evidence import Evidence
    from minidock.store.layerstack import LayerStack
    from minidock.store.trees import Content, Node, Tree

ADDED, CHANGED, DELETED = "A", "C", "D"
RENAME = "rename"
# Rename detection keeps the files of both sides in memory, text comparison both texts.
_MAX_CANDIDATES = 100_000
MAX_TEXT_BYTES = 256 << 10
_CHUNK_BYTES = 1 << 18


@dataclass(slots=True)
class Difference:
    """One path that differs.

    Shape: kind: A, C or D; path absolute; why: the parts that differ, or RENAME; renamed_from: for an A whose content a
           D had; text: lines of a unified diff, None when the file is no text, too long, or no regular file
    Units: old_bytes, new_bytes: lengths of regular files, 0 for none
    """

    kind: str
    path: str
    old_bytes: int = 0
    new_bytes: int = 0
    why: list[str] = field(default_factory=list)
    renamed_from: str = ""
    text: list[str] | None = None

    def to_document(self) -> dict[str, Any]:
        """The same for a program to read, in docker's spelling."""
        document: dict[str, Any] = {"Kind": self.kind, "Path": self.path}
        document |= {"OldSize": self.old_bytes, "NewSize": self.new_bytes, "Why": self.why}
        if self.renamed_from:
            document["RenamedFrom"] = self.renamed_from
        if self.text is not None:
            document["Diff"] = self.text
        return document


def compare(
    evidence: Evidence,
    old: str,
    new: str = "",
    *,
    why: bool = False,
    content: bool = False,
    faults: list[str] | None = None,
) -> Iterator[Difference]:
    """What differs between two trees, in the order of paths.

    Shape:   old, new: an image, a container, a layer by its chain ID, diff_id or directory, or a tar's path, looked for
             in this order; new "": old is a container, and its own layer is held against all below it; why: say in
             what, tell files whose copy-up changed nothing, and find renames; content: compare texts; faults: gets what
             is missing of either
    Raises:  StoreError, NotFound, FormatError, SyscallError
    """
    catalogue = Catalogue(evidence)
    gathered: list[str] = [] if faults is None else faults
    if new:
        left, right = open_tree(catalogue, old, gathered), open_tree(catalogue, new, gathered)
    else:
        left, right = _container_trees(catalogue, old, gathered)
    comparison = _Comparison(left, right, why=why, content=content)
    return comparison.renames_found() if why else comparison.differences()


def _container_trees(catalogue: Catalogue, name: str, faults: list[str]) -> tuple[Tree, Tree]:
    container_id = catalogue.find_container(name)
    stack, base = stack_of_container(catalogue, container_id), stack_of_container(catalogue, container_id)
    _complain(stack, name, faults)
    return StackTree(base, above=sum(layer.role == CONTAINER for layer in base.layers)), StackTree(stack)


def _complain(stack: LayerStack, name: str, faults: list[str]) -> None:
    if not stack.is_whole:
        raise StoreError(f"{name}: {stack.faults[0] if stack.faults else 'a layer is missing'}")
    faults += stack.faults


def open_tree(catalogue: Catalogue, text: str, faults: list[str]) -> Tree:
    """The tree that a word names; raises StoreError, NotFound for nothing of this name, and for one with a hole."""
    is_path = text.startswith(("/", "./", "../"))
    if not is_path:
        stack: LayerStack | None = None
        try:
            stack = stack_of(catalogue, text)
        except (StoreError, NotFound) as error:
            stack = find_layer(catalogue, text)
            if stack is None and not os.path.isfile(text):
                raise error from None
        if stack is not None:
            _complain(stack, text, faults)
            return StackTree(stack)
    from minidock.store.tartree import TarTree

    return TarTree(text)


class _Comparison:
    """Two walks side by side."""

    def __init__(self, old: Tree, new: Tree, *, why: bool, content: bool) -> None:
        self._old = old
        self._new = new
        self._why = why
        self._content = content
        # Directories on the way, unchanged themselves, to be told once something in them is, and in what they differ.
        self._waiting: list[tuple[bytes, list[str]]] = []
        self._gone: list[tuple[Difference, int, Callable[[], Content]]] = []
        self._came: list[tuple[Difference, int, Callable[[], Content]]] = []
        # In the first of two walks only what came and went matters.
        self._is_looking = False
        # Kind and path of each end of a rename, with the path that it came from, "" at that end itself.
        self._renamed: dict[tuple[str, str], str] = {}

    def differences(self) -> Iterator[Difference]:
        """Every difference; raises what reading the trees raises."""
        with self._old, self._new:
            try:
                yield from self._merge()
            except SyscallError:
                raise
            except OSError as error:
                raise SyscallError(f"read {error.filename!r}", error.errno or 5) from None

    def renames_found(self) -> Iterator[Difference]:
        """Every difference, those that are one rename told so.

        A first walk, which opens no file that both have, finds what came and what went; so that nothing else has to be
        kept until a rename's other end is known.
        """
        with self._old, self._new:
            try:
                self._is_looking = True
                for _ in self._merge():
                    continue
                self._find_renames()
                self._gone, self._came, self._waiting, self._is_looking = [], [], [], False
                for difference in self._merge():
                    source = self._renamed.get((difference.kind, difference.path))
                    if source is not None:
                        difference.why, difference.renamed_from = [RENAME], source
                    yield difference
            except SyscallError:
                raise
            except OSError as error:
                raise SyscallError(f"read {error.filename!r}", error.errno or 5) from None

    def _merge(self) -> Iterator[Difference]:
        old_walk, new_walk = self._old.walk(), self._new.walk()
        old, new = next(old_walk, None), next(new_walk, None)
        below = b""
        while old is not None or new is not None:
            order = _order(old, new)
            if order < 0 and old is not None:
                if below and old.path.startswith(below):
                    # Inside of a directory that was told as deleted.
                    self._keep_gone(old)
                else:
                    yield from self._tell(self._deleted(old))
                    below = old.path + b"/"
                if not self._why:
                    self._old.skip()
                old = next(old_walk, None)
            elif order > 0 and new is not None:
                yield from self._tell(self._added(new))
                new = next(new_walk, None)
            else:
                assert old is not None and new is not None
                yield from self._both(old, new)
                old, new = next(old_walk, None), next(new_walk, None)

    def _tell(self, difference: Difference) -> Iterator[Difference]:
        """A difference, and before it the directories that it makes changed ones."""
        path = os.fsencode(difference.path[1:])
        for directory, parts in self._waiting:
            if path.startswith(directory + b"/"):
                yield Difference(CHANGED, "/" + os.fsdecode(directory), why=parts)
        self._waiting = []
        yield difference

    def _deleted(self, node: Node) -> Difference:
        difference = Difference(DELETED, "/" + os.fsdecode(node.path), old_bytes=_length(node))
        self._keep(self._gone, difference, node)
        if self._content and not self._is_looking and stat.S_ISREG(node.mode):
            difference.text = _unified(node, None)
        return difference

    def _keep_gone(self, node: Node) -> None:
        self._keep(self._gone, Difference(DELETED, "/" + os.fsdecode(node.path)), node)

    def _added(self, node: Node) -> Difference:
        difference = Difference(ADDED, "/" + os.fsdecode(node.path), new_bytes=_length(node))
        self._keep(self._came, difference, node)
        if self._content and not self._is_looking and stat.S_ISREG(node.mode):
            difference.text = _unified(None, node)
        return difference

    def _keep(
        self, side: list[tuple[Difference, int, Callable[[], Content]]], difference: Difference, node: Node
    ) -> None:
        if self._is_looking and stat.S_ISREG(node.mode) and node.size_bytes and len(side) < _MAX_CANDIDATES:
            side.append((difference, node.size_bytes, node.open))

    def _both(self, old: Node, new: Node) -> Iterator[Difference]:
        if old.identity is not None and old.identity == new.identity:
            if stat.S_ISDIR(new.mode):
                self._old.skip()
                self._new.skip()
            return
        if not stat.S_ISDIR(new.mode):
            # What replaced a directory is one change, whatever was in it.
            self._old.skip()
        if self._is_looking:
            return
        while self._waiting and not new.path.startswith(self._waiting[-1][0] + b"/"):
            self._waiting.pop()
        parts = self._parts(old, new)
        is_changed = _is_changed(old, new)
        if is_changed or (self._why and parts and not stat.S_ISDIR(new.mode)):
            difference = Difference(CHANGED, "/" + os.fsdecode(new.path), _length(old), _length(new), parts)
            if self._content and stat.S_ISREG(new.mode) and stat.S_ISREG(old.mode):
                difference.text = _unified(old, new)
            yield from self._tell(difference)
        elif stat.S_ISDIR(new.mode):
            self._waiting.append((new.path, [part for part in parts if part != IDENTICAL]))

    def _parts(self, old: Node, new: Node) -> list[str]:
        if not self._why:
            return []
        if stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
            return [TYPE]
        parts = []
        if stat.S_ISREG(new.mode) and not _same_content(old, new):
            parts.append(DATA)
        if stat.S_ISLNK(new.mode) and old.target() != new.target():
            parts.append(TARGET)
        if stat.S_IMODE(old.mode) != stat.S_IMODE(new.mode):
            parts.append(MODE)
        if (old.uid, old.gid) != (new.uid, new.gid):
            parts.append(OWNER)
        if stat.S_IFMT(new.mode) in (stat.S_IFCHR, stat.S_IFBLK) and old.rdev != new.rdev:
            parts.append(DEVICE)
        if not same_time(old.mtime_ns, new.mtime_ns):
            parts.append(MTIME)
        if old.xattrs() != new.xattrs():
            parts.append(XATTR)
        if new.is_opaque and not old.is_opaque:
            parts.append(OPAQUE)
        return parts or ([] if old.identity is None or new.identity is None else [IDENTICAL])

    def _find_renames(self) -> None:
        sizes = {size for _, size, _ in self._came} & {size for _, size, _ in self._gone}
        gone: dict[tuple[int, bytes], list[Difference]] = {}
        for difference, size, opener in self._gone:
            if size in sizes:
                gone.setdefault((size, _digest(opener)), []).append(difference)
        for difference, size, opener in self._came:
            if size in sizes and (sources := gone.get((size, _digest(opener)))):
                source = sources.pop(0)
                self._renamed[difference.kind, difference.path] = source.path
                self._renamed[source.kind, source.path] = ""


def _order(old: Node | None, new: Node | None) -> int:
    """Which of two nodes comes first in the walks' order: -1, 0, 1."""
    if old is None or new is None:
        return 1 if old is None else -1
    if old.path == new.path:
        return 0
    return -1 if old.path.split(b"/") < new.path.split(b"/") else 1


def _length(node: Node) -> int:
    return node.size_bytes if stat.S_ISREG(node.mode) else 0


def _is_changed(old: Node, new: Node) -> bool:
    """docker's test. Source: moby pkg/archive/changes_unix.go, statDifferent"""
    if (old.mode, old.uid, old.gid, old.rdev) != (new.mode, new.uid, new.gid, new.rdev):
        return True
    if stat.S_ISDIR(new.mode):
        return False
    if old.size_bytes != new.size_bytes or not same_time(old.mtime_ns, new.mtime_ns):
        return True
    return old.xattrs().get(CAPABILITY_XATTR) != new.xattrs().get(CAPABILITY_XATTR)


def _same_content(old: Node, new: Node) -> bool:
    if old.size_bytes != new.size_bytes:
        return False
    one, other = old.open(), new.open()
    try:
        while True:
            left, right = one.read(_CHUNK_BYTES), other.read(_CHUNK_BYTES)
            if left != right:
                return False
            if not left:
                return True
    finally:
        one.close()
        other.close()


def _digest(opener: Callable[[], Content]) -> bytes:
    from hashlib import sha256

    hasher = sha256()
    source = opener()
    try:
        while chunk := source.read(_CHUNK_BYTES):
            hasher.update(chunk)
    finally:
        source.close()
    return hasher.digest()


def _text(node: Node | None) -> list[str] | None:
    """A file's lines, none for a missing one; None when it is no text, or a long one."""
    if node is None:
        return []
    if node.size_bytes > MAX_TEXT_BYTES:
        return None
    source = node.open()
    try:
        data = source.read(MAX_TEXT_BYTES + 1)
    finally:
        source.close()
    if b"\0" in data or len(data) > MAX_TEXT_BYTES:
        return None
    try:
        *lines, last = data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return None
    return [line + "\n" for line in lines] + ([last] if last else [])


def _unified(old: Node | None, new: Node | None) -> list[str] | None:
    import difflib

    before, after = _text(old), _text(new)
    if before is None or after is None:
        return None
    left = f"a/{os.fsdecode(old.path)}" if old else "/dev/null"
    right = f"b/{os.fsdecode(new.path)}" if new else "/dev/null"
    lines: list[str] = []
    for line in difflib.unified_diff(before, after, left, right):
        lines += [line[:-1]] if line.endswith("\n") else [line, "\\ No newline at end of file"]
    return lines
