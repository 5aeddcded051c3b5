"""What nothing in a data root refers to, as a plan: each thing with the proof that nobody needs it.

A directory of overlay2/ is garbage when no record of layerdb and no container names it, no list of lowers of one that
stays leads to it, and no process that can be seen has it mounted, in whatever mount namespace. A layer is garbage when
no image, no container and no other layer needs it. Where a record is lost, what belonged to it looks like garbage too;
so as long as repairs are open, such things stay. BuildKit's directories and layers are its own.
"""

from __future__ import annotations

import os

from minidock.constants import DRIVER
from minidock.ids import is_hex64
from minidock.store.catalogue import LAYERDB, MOUNTS
from minidock.store.inspection import LINKS, STAGES, Inspection
from minidock.store.steps import MoveAway, Plan
from minidock.store.transaction import read_table, unescape
from minidock.store.trash import allocated_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot

# With one of these, what seems to belong to nobody may be what a repair needs.
_OPEN_REPAIRS = {
    *(
        "image-chain",
        "parent-missing",
        "directory",
        "content",
        "cache-id",
        "cache-id-shared",
        "diff",
        "parent",
        "chain",
    ),
    *("mount-missing", "mount-id", "init-id", "mount-parent", "link", "lower", "short-name", "config", "container"),
    "folder",
}
_DATABASE_BYTES = 256 << 20


class LiveMounts:
    """The mount tables of all mount namespaces that can be seen, as one text. Shape: namespaces: how many"""

    def __init__(self) -> None:
        tables: dict[str, bytes] = {}
        for pid in os.listdir("/proc"):
            if not pid.isdecimal():
                continue
            try:
                namespace = os.readlink(f"/proc/{pid}/ns/mnt")
                if namespace not in tables:
                    tables[namespace] = read_table(f"/proc/{pid}/mountinfo")
            except OSError:
                # It has ended, or it is not ours to see.
                continue
        self.namespaces = len(tables)
        self._text = b"\n".join(tables.values()).decode("utf-8", "surrogateescape")

    def has(self, *names: str) -> bool:
        """Whether one of these names, long enough to be nobody else's, stands in any mount's line."""
        return any(name and name in self._text for name in names)

    def point_of(self, *names: str) -> str:
        """Where one of these names is mounted, "" for nowhere."""
        for name in names:
            place = self._text.find(name) if name else -1
            if place >= 0:
                line = self._text[self._text.rfind("\n", 0, place) + 1 :]
                return unescape(line.split(" ", 5)[4])
        return ""


class _Collector:
    """Finds what may go."""

    def __init__(self, root: DataRoot, found: Inspection) -> None:
        self._root = root
        self._found = found
        self._evidence = found.evidence
        self._catalogue = found.catalogue
        self._mounts = LiveMounts()
        self.plan = Plan("gc", root.path)
        self._is_folder_lost = any(fault.kind == "folder" for fault in found.faults)
        self._names: dict[str, list[str]] = {}
        for link_id, target in found.catalogue.links().items():
            if target:
                self._names.setdefault(target, []).append(link_id)

    def collect(self) -> Plan:
        """The whole plan."""
        repairs = sorted({fault.kind for fault in self._found.faults} & _OPEN_REPAIRS)
        if repairs:
            words = ", ".join(repairs)
            self.plan.remarks.append(f"directories and layers stay, since fsck finds what may need them: {words}")
        else:
            self._layers()
            self._lone_mounts()
            self._orphans()
        self._left_over()
        return self.plan

    def _add(self, path: str, why: str, proof: str) -> None:
        values = {"Bytes": allocated_bytes(f"{self._root.path}/{path}")}
        self.plan.add(self._root, MoveAway(path, why, proof, values))

    def _remark(self, path: str, reason: str) -> None:
        self.plan.remarks.append(f"{path}: {reason}")

    def _layers(self) -> None:
        found = self._found
        used: set[str] = set()
        tops = [*found.tops.values(), *(self._catalogue.mount(name).parent for name in self._evidence.names(MOUNTS))]
        for chain in tops:
            while chain and chain not in used:
                used.add(chain)
                fold = found.fold_of(chain)
                chain = fold[1] if fold else ""
        unused = sorted(set(found.records) - used, key=self._depth, reverse=True)
        databases = self._buildkit_databases() if unused else []
        for chain in unused:
            record = found.records[chain]
            if not is_hex64(record.cache_id) or any(chain[7:].encode() in data for data in databases):
                self._remark(record.path, "no image has this layer, but BuildKit's cache does")
                continue
            if not self._may_go(record.cache_id):
                continue
            proof = f"none of {len(found.tops)} images, no container and no layer above has it"
            self._add(record.path, "a layer of no image", proof)
            self._directory(record.cache_id, "the directory of a layer of no image")

    def _depth(self, chain: str) -> int:
        depth = 0
        while (fold := self._found.fold_of(chain)) and fold[1] and depth < 200:
            chain = fold[1]
            depth += 1
        return depth

    def _buildkit_databases(self) -> list[bytes]:
        found = []
        for name in self._evidence.names("buildkit"):
            if name.endswith(".db"):
                try:
                    found.append(self._evidence.read(f"buildkit/{name}", _DATABASE_BYTES))
                except OSError:
                    continue
        return found

    def _may_go(self, cache_id: str) -> bool:
        point = self._mounts.point_of(cache_id, *self._names.get(cache_id, ()))
        if point:
            self._remark(f"{DRIVER}/{cache_id}", f"nothing in the root needs it, but it is mounted at {point}")
        return not point

    def _directory(self, cache_id: str, why: str) -> None:
        proof = (
            f"no record that stays names it, no list of lowers that stays leads to it, and none of "
            f"{self._mounts.namespaces} mount namespaces has it mounted"
        )
        for link_id in self._names.get(cache_id, ()):
            self._add(f"{LINKS}/{link_id}", f"the short name of {cache_id[:12]}", proof)
        if self._evidence.is_directory(f"{DRIVER}/{cache_id}"):
            self._add(f"{DRIVER}/{cache_id}", why, proof)

    def _lone_mounts(self) -> None:
        for fault in self._found.faults:
            if fault.kind != "mount-lone":
                continue
            mount = self._catalogue.mount(fault.subject)
            directories = [name for name in (mount.mount_id, mount.init_id) if name]
            if not all(self._may_go(name) for name in directories):
                continue
            self._add(fault.path, "the layers of a container that is not there", "containers/ has no such container")
            for name in directories:
                self._directory(name, "a directory of a container that is not there")

    def _orphans(self) -> None:
        for fault in self._found.faults:
            if fault.kind == "orphan" and self._may_go(fault.subject):
                self._directory(fault.subject, "no layer and no container has this directory")

    def _left_over(self) -> None:
        taken = {step.path for step in self.plan.steps}
        for fault in self._found.faults:
            if fault.path in taken or fault.path.startswith(STAGES):
                continue
            if fault.kind == "stray-name":
                self._add(fault.path, fault.reason, "no directory has this name in its `link`")
            elif fault.kind == "metadata" and not self._is_folder_lost:
                self._add(fault.path, fault.reason, "imagedb has no such image")
            elif fault.kind == "unfinished" and not self._is_needed(fault.path):
                self._add(fault.path, fault.reason, "neither engine reads names of this form")

    def _is_needed(self, path: str) -> bool:
        """Whether a leftover's tar-split, or a config, may be what an open repair needs."""
        is_open = any(fault.kind in (*_OPEN_REPAIRS, "tar-split") for fault in self._found.faults)
        return is_open and (path.startswith(LAYERDB) or "write-set" in path or "/.tmp-" in path)


def plan_garbage(root: DataRoot, found: Inspection) -> Plan:
    """A plan that takes away what nothing refers to; raises SyscallError."""
    return _Collector(root, found).collect()
