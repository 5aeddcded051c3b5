"""Random layers against a small model of a file system: the same tree, or refused by both; the host never touched."""

from __future__ import annotations

import os
import random
import shutil
import stat
from pathlib import Path

from minidock.errors import MinidockError
from minidock.store.unpack import unpack_layers
from tests import builders, layer_cases
from tests.integration.test_unpack import canary, close_job, new_job  # noqa: F401 - canary is a fixture

# Raise it for a long hunt; a layer takes a few milliseconds, nearly all of it the fork.
LAYERS = int(os.environ.get("MINIDOCK_FUZZ_LAYERS", "250"))
NAMES = [b"a", b"b", b"c", b".h"]
LINKS = 8


class Refused(Exception):
    """The model's verdict on a layer."""


class Node:
    """A file of the model: kind is one of d f l w, value a file's data, a link's target or a directory's entries."""

    def __init__(self, kind: str, value: bytes = b"", *, implicit: bool = False) -> None:
        self.kind = kind
        self.value = value
        self.entries: dict[bytes, Node] = {}
        self.implicit = implicit
        self.opaque = False


class Model:
    """Names resolved as a kernel does below a root that cannot be left."""

    def __init__(self) -> None:
        self.root = Node("d")
        self.explicit: set[bytes] = set()
        self.marked: set[bytes] = set()

    def walk(
        self, parts: list[bytes], *, follow_last: bool, make: bool = False
    ) -> tuple[list[Node], bytes, Node | None]:
        """The directories down to the last part, the last part, and what is there."""
        trail = [self.root]
        todo = [(part, 0) for part in parts]
        links = 0
        name: bytes = b"."
        node: Node | None = self.root
        while todo:
            name, depth = todo.pop(0)
            if name in (b"", b"."):
                node = trail[-1]
                continue
            if name == b"..":
                trail = trail[:-1] or [self.root]
                node = trail[-1]
                continue
            node = trail[-1].entries.get(name)
            last = not todo
            if node is not None and node.kind == "l" and (not last or follow_last):
                links += 1
                if links > 40:
                    raise Refused
                if node.value.startswith(b"/"):
                    trail = [self.root]
                todo = [(part, depth + 1) for part in node.value.split(b"/")] + todo
                node = trail[-1]
                continue
            if last:
                return trail, name, node
            if node is None:
                if not make or depth:
                    raise Refused
                node = trail[-1].entries[name] = Node("d", implicit=True)
            if node.kind != "d":
                raise Refused
            trail.append(node)
        return trail, name, node

    def place(self, path: bytes) -> tuple[Node, bytes, Node | None]:
        """Parent, name and present owner of a path that shall be made."""
        trail, name, node = self.walk(path.split(b"/"), follow_last=False, make=True)
        return trail[-1], name, node

    def put(self, path: bytes, new: Node, *, over_whiteout: bool = True) -> None:
        parent, name, node = self.place(path)
        if node is not None and not (over_whiteout and node.kind == "w"):
            raise Refused
        parent.entries[name] = new

    def directory(self, path: bytes) -> None:
        parent, name, node = self.place(path)
        if node is None or node.kind == "w":
            parent.entries[name] = Node("d")
        elif node.kind != "d" or path in self.explicit:
            raise Refused
        self.explicit.add(path)

    def link(self, path: bytes, target: bytes) -> None:
        parent, name, present = self.place(path)
        trail, target_name, node = self.walk(target.split(b"/"), follow_last=False)
        if node is None or node.kind == "d":
            raise Refused
        # A link to the whiteout that it replaces finds nothing to link to.
        if node is present and trail[-1] is parent and target_name == name:
            raise Refused
        self.put(path, node)

    def opaque(self, path: bytes) -> None:
        if path in self.marked:
            raise Refused
        self.marked.add(path)
        parts = path.split(b"/") if path else []
        _, _, node = self.walk(parts, follow_last=True, make=True)
        if node is None:
            _, _, node = self.walk([*parts, b"."], follow_last=True, make=True)
        assert node is not None
        node.opaque = True

    def listing(self) -> dict[bytes, tuple[object, ...]]:
        found: dict[bytes, tuple[object, ...]] = {}
        todo = [(b"", self.root)]
        first: dict[int, bytes] = {}
        while todo:
            path, node = todo.pop()
            same = first.setdefault(id(node), path) if node.kind != "d" else path
            found[path] = (node.kind, node.value, node.opaque, same)
            # sorted so that the first name of several is the same one as on disk
            todo.extend((path + b"/" + name, child) for name, child in sorted(node.entries.items(), reverse=True))
        return found


def disk_listing(root: Path) -> dict[bytes, tuple[object, ...]]:
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}
    todo = [b""]
    base = os.fsencode(root)
    while todo:
        path = todo.pop()
        full = base + path
        status = os.lstat(full)
        kind = {stat.S_IFDIR: "d", stat.S_IFREG: "f", stat.S_IFLNK: "l", stat.S_IFCHR: "w"}[stat.S_IFMT(status.st_mode)]
        value = b""
        if kind == "f":
            value = Path(os.fsdecode(full)).read_bytes()
        elif kind == "l":
            value = os.readlink(full)
        elif kind == "d":
            todo.extend(path + b"/" + name for name in sorted(map(os.fsencode, os.listdir(full)), reverse=True))
        opaque = "trusted.overlay.opaque" in os.listxattr(full, follow_symlinks=False)
        same = first.setdefault(status.st_ino, path) if kind != "d" else path
        found[path] = (kind, value, opaque, same)
    return found


def random_path(chance: random.Random) -> bytes:
    return b"/".join(chance.choice(NAMES) for _ in range(chance.randint(1, 3)))


def random_target(chance: random.Random) -> bytes:
    up = b"../" * chance.choice([0, 0, 0, 1, 2, 9])
    return chance.choice([b"", b"", b"/", up]) + chance.choice([random_path(chance), layer_cases.CANARY.lstrip(b"/")])


def random_layer(chance: random.Random, model: Model) -> list[bytes]:
    """Members of a layer, applied to the model as they are made; the last one may be refused by it."""
    members: list[bytes] = []
    for number in range(chance.randint(1, 12)):
        path = random_path(chance)
        spelled = chance.choice([b"", b"./", b"/", b"../"]) + path
        action = chance.choice("ddddfffflllhhwo")
        try:
            if action == "d":
                members.append(builders.directory(spelled))
                model.directory(path)
            elif action == "f":
                members.append(builders.tar_member(spelled, b"data %d" % number))
                model.put(path, Node("f", b"data %d" % number))
            elif action == "l":
                target = random_target(chance)
                members.append(builders.symlink(spelled, target))
                model.put(path, Node("l", target))
            elif action == "h":
                target = random_path(chance)
                members.append(builders.hardlink(spelled, b"../" * chance.randrange(3) + target))
                model.link(path, target)
            elif action == "w":
                parent, slash, name = path.rpartition(b"/")
                members.append(builders.tar_member(parent + slash + b".wh." + name))
                model.put(path, Node("w"), over_whiteout=False)
            else:
                parent = path.rpartition(b"/")[0]
                members.append(builders.tar_member(parent + (b"/" if parent else b"") + b".wh..wh..opq"))
                model.opaque(parent)
        except Refused:
            members.append(b"refused")
            break
    return members


def test_random_layers(scratch: Path, canary: Path) -> None:  # noqa: F811 - the fixture of the other module
    seed = int(os.environ.get("MINIDOCK_FUZZ_SEED", "1"))
    verdicts = {True: 0, False: 0}
    for number in range(seed, seed + LAYERS):
        model = Model()
        members = random_layer(random.Random(number), model)
        refused = members[-1] == b"refused"
        layer = builders.layer_tar(*members[: -1 if refused else None])
        base = scratch / "layer"
        shutil.rmtree(base, ignore_errors=True)
        job = new_job(base, layer)
        try:
            unpack_layers([job])
        except MinidockError as error:
            assert refused, (number, [member[:30].rstrip(b"\0") for member in members], str(error))
        else:
            assert not refused, (number, [(member[:30].rstrip(b"\0"), member[156:180]) for member in members])
            assert disk_listing(base / "diff") == model.listing(), (
                number,
                [(m[:30].rstrip(b"\0"), m[156:180]) for m in members],
            )
        finally:
            close_job(job)
        verdicts[refused] += 1
    assert min(verdicts.values()) > LAYERS // 10
