"""What of a damaged data root can be proven, as a plan of steps; what cannot is said so, and left alone.

    a record's diff and parent     its name is the hash of both, so no other pair can be right
    a record's directory           its tar, made again, hashes to the diff_id
    short names and `lower`        follow from the records, once those are right; see stackplan.py
    a config                       hashes to its name
    names of images                the last good copy, what a cut file still says, and containers' own records

The plan is made from an inspection and changes nothing; steps.py has what it is made of.
"""

from __future__ import annotations

import stat

from minidock.constants import DRIVER, MAX_LAYERS
from minidock.errors import FormatError
from minidock.ids import ChainID, DiffID, chain_id_of, is_hex64, sha256_hex
from minidock.store.catalogue import CONFIGS, LAYERDB
from minidock.store.doubt import contradicted_layers
from minidock.store.inspection import WRITE_SETS, Inspection, tar_split_fault
from minidock.store.proof import DirectoryProof, prove_directory
from minidock.store.root import SKELETON
from minidock.store.steps import MoveAway, Plan, PutDirectory, PutRecord, PutTarSplit, PutText, Step, fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.catalogue import LayerRecord
    from minidock.store.root import DataRoot

_LOAD = "remove what needs it by minidock rmi, and load it again"


class Planner:
    """Finds steps for an inspection's faults.

    Shape: plan: the result; directories: the directory of each layer, as it is or as it has been proven
    """

    def __init__(self, root: DataRoot, found: Inspection) -> None:
        self.root = root
        self.found = found
        self.evidence = found.evidence
        self.plan = Plan("repair", root.path)
        self.directories: dict[str, str] = {
            chain: record.cache_id
            for chain, record in found.records.items()
            if record.cache_id and self.evidence.is_directory(f"{DRIVER}/{record.cache_id}/diff")
        }
        self._orphans: list[str] = []
        self._doubtful: set[str] = set()
        self._splits: dict[str, list[str]] = {}
        self._tried: dict[tuple[str, str], DirectoryProof | None] = {}

    def make(self) -> Plan:
        """The whole plan."""
        from minidock.store.nameplan import plan_names
        from minidock.store.stackplan import StackPlanner

        self._configs()
        self._find_copies()
        folds = {chain: self._fold(chain) for chain in self._needed()}
        self._shared_directories()
        owned = {*self.directories.values(), *(name for name in self.found.owners if name not in self._doubtful)}
        self._orphans = [name for name in self.found.catalogue.cache_ids() if is_hex64(name) and name not in owned]
        for chain in sorted(folds, key=lambda chain: self._depth(chain, folds)):
            fold = folds[chain]
            if fold is None:
                if chain in self.found.records:
                    self.remark(f"{LAYERDB}/{chain[7:]}", "nothing tells which layer this is")
                continue
            self._layer(chain, *fold)
        StackPlanner(self, {chain: fold for chain, fold in folds.items() if fold is not None}).make()
        plan_names(self)
        self._folders()
        return self.plan

    def _folders(self) -> None:
        """The root's own directories, where a step needs one that is lost; a symlink there is somebody's wish."""
        modes = dict(SKELETON)
        lost: dict[str, PutDirectory] = {}
        for step in self.plan.steps:
            parts = step.path.split("/")[:-1]
            for count in range(1, len(parts) + 1):
                folder = "/".join(parts[:count])
                status = self.evidence.status(folder)
                is_right = status is not None and stat.S_IFMT(status.st_mode) in (stat.S_IFDIR, stat.S_IFLNK)
                if folder in modes and folder not in lost and not is_right:
                    proof = "every data root has this directory"
                    lost[folder] = PutDirectory(folder, "missing, or no directory", proof, {"Mode": modes[folder]})
                    lost[folder].before = fingerprint(self.root, folder)
        self.plan.steps[:0] = lost.values()

    def add(self, step: Step) -> None:
        """Add a step to the plan."""
        self.plan.add(self.root, step)

    def remark(self, path: str, reason: str) -> None:
        """Say what cannot be proven."""
        self.plan.remarks.append(f"{path}: {reason}")

    def _configs(self) -> None:
        """Configs that became another text by what a text editor or an interrupted write does."""
        from minidock.formats.imageconfig import ImageConfig

        for fault in self.found.faults:
            if fault.kind != "config":
                continue
            name = fault.subject[7:]
            try:
                raw = self.evidence.read(fault.path)
            except OSError:
                raw = b""
            candidates = {fault.path: raw.rstrip()}
            for other in self.evidence.names(CONFIGS):
                if other.startswith(".tmp-"):
                    try:
                        candidates[f"{CONFIGS}/{other}"] = self.evidence.read(f"{CONFIGS}/{other}")
                    except OSError:
                        continue
            for place, text in candidates.items():
                if sha256_hex(text) != name:
                    continue
                what = "without the blanks at its end, it" if place == fault.path else f"{place}"
                values = {"Text": text.decode("utf-8", "surrogateescape"), "Mode": 0o600}
                self.add(PutText(fault.path, fault.reason, f"{what} hashes to the name", values))
                try:
                    self.found.learn(fault.subject, ImageConfig.parse(text).diff_ids)
                except FormatError:
                    break
                break
            else:
                self.remark(fault.path, "no text that hashes to this name is left; load the image again")

    def _needed(self) -> list[str]:
        """All layers that have or should have a record."""
        return sorted({*self.found.records, *self.found.chains})

    def _fold(self, chain: str) -> tuple[str, str] | None:
        """The diff_id and parent of a layer, if there are any that its name proves."""
        found = self.found.fold_of(chain)
        record = self.found.records.get(chain)
        if found is not None or record is None:
            return found
        for diff_id in self._diff_ids(chain):
            for parent in ("", *self._needed()):
                if chain_id_of(ChainID(parent) if parent else None, DiffID(diff_id)) == chain:
                    return diff_id, parent
        return None

    def _diff_ids(self, chain: str) -> list[str]:
        """What a layer's diff_id may be: what its record says, and what its directory's tar hashes to."""
        from minidock.errors import MinidockError
        from minidock.store.proof import rebuilt_digest

        record = self.found.records[chain]
        found = [record.diff_id] if record.diff_id else []
        if chain in self.directories:
            try:
                split = f"{self.root.path}/{record.path}/tar-split.json.gz"
                diff_path = f"{self.root.overlay_path}/{self.directories[chain]}/diff"
                found.append(rebuilt_digest(split, diff_path, DiffID("sha256:" + "0" * 64)))
            except (MinidockError, OSError):
                return found
        return found

    def _depth(self, chain: str, folds: dict[str, tuple[str, str] | None]) -> int:
        depth = 0
        while (fold := folds.get(chain)) and fold[1] and depth <= MAX_LAYERS:
            chain = fold[1]
            depth += 1
        return depth

    def _find_copies(self) -> None:
        """tar-split files that interrupted commands have left, by the diff_id beside them."""
        folders = [f"{LAYERDB}/{name}" for name in self.evidence.names(LAYERDB)]
        folders += [f"{WRITE_SETS}/{name}" for name in self.evidence.names(WRITE_SETS)]
        for folder in folders:
            path = f"{folder}/tar-split.json.gz"
            if self.evidence.status(path) is not None:
                self._splits.setdefault(self.evidence.word(f"{folder}/diff"), []).append(path)

    def _shared_directories(self) -> None:
        """Of layers and containers with one directory, at most one is right: the layer whose tar it gives.

        So it is with layers of one directory each, when the rest of the store contradicts their records.
        """
        owners: dict[str, list[str]] = {}
        for chain, cache_id in self.directories.items():
            owners.setdefault(cache_id, []).append(chain)
        self._doubtful = {cache_id for cache_id in owners if len(self.found.owners.get(cache_id, ())) > 1}
        contradicted = contradicted_layers(self.found) & set(self.directories)
        self._doubtful.update(self.directories[chain] for chain in contradicted)
        for cache_id in self._doubtful:
            for chain in owners[cache_id]:
                fold = self._fold(chain)
                if fold is None or self._prove(cache_id, chain, fold[0]) is None:
                    del self.directories[chain]

    def _prove(self, cache_id: str, chain: str, diff_id: str) -> DirectoryProof | None:
        key = cache_id, diff_id
        if key not in self._tried:
            copies = list(self._splits.get(diff_id, ()))
            own = f"{LAYERDB}/{chain[7:]}/tar-split.json.gz"
            if own not in copies and self.evidence.status(own) is not None:
                copies.insert(0, own)
            self._tried[key] = prove_directory(self.root.path, cache_id, diff_id, copies)
        return self._tried[key]

    def _find_directory(self, chain: str, diff_id: str) -> DirectoryProof | None:
        """Among directories that nobody has, the one that is this layer."""
        named = [name for name in self._named_below(chain) if name in self._orphans]
        for cache_id in dict.fromkeys([*named, *self._orphans]):
            proof = self._prove(cache_id, chain, diff_id)
            if proof is not None:
                self._orphans.remove(cache_id)
                return proof
        return None

    def _named_below(self, chain: str) -> list[str]:
        """The directories that `lower` files name where this layer should be."""
        found = []
        for other, record in self.found.records.items():
            fold = self.found.fold_of(other)
            if fold is not None and fold[1] == chain and record.cache_id:
                found += self.found.catalogue.directory(record.cache_id).lower_ids[:1]
        return [name for name in found if name]

    def _layer(self, chain: str, diff_id: str, parent: str) -> None:
        """Everything about one layer's record; its directory is stackplan.py's."""
        record = self.found.records.get(chain)
        path = f"{LAYERDB}/{chain[7:]}"
        proof = None
        if chain not in self.directories:
            proof = self._find_directory(chain, diff_id)
            if proof is None:
                self.remark(path, f"{self._what_is_lost(record)}: {_LOAD}")
                return
            self.directories[chain] = proof.cache_id
        if record is None:
            assert proof is not None
            self._new_record(path, chain, diff_id, parent, proof)
            return
        fold = "sha256 of parent and diff is the record's name"
        if record.diff_id != diff_id:
            self.add(PutText(f"{path}/diff", "not the layer's diff_id", fold, {"Text": diff_id, "Mode": 0o644}))
        if record.parent != parent or (not parent and self.evidence.status(f"{path}/parent") is not None):
            if parent:
                values = {"Text": parent, "Mode": 0o644}
                self.add(PutText(f"{path}/parent", "not the layer below", fold, values))
            else:
                self.add(MoveAway(f"{path}/parent", "this is a bottom layer", fold))
        if proof is not None:
            values = {"Text": proof.cache_id, "Mode": 0o644}
            self.add(PutText(f"{path}/cache-id", "not the layer's directory", str(proof), values))
        if record.size_bytes < 0:
            self._size(path, self.directories[chain])
        proof = proof or self._tried.get((self.directories[chain], diff_id))
        is_foreign = proof is not None and proof.copy != f"{path}/tar-split.json.gz"
        if is_foreign or tar_split_fault(self.evidence, f"{path}/tar-split.json.gz"):
            self._tar_split(path, chain, diff_id)

    def _what_is_lost(self, record: LayerRecord | None) -> str:
        if record is None:
            return "its record and directory are gone"
        if record.cache_id and self.evidence.is_directory(f"{DRIVER}/{record.cache_id}/diff"):
            return "what else is there contradicts its record, and no directory's tar hashes to its diff_id"
        return "its directory is gone, and no other one is it"

    def _new_record(self, path: str, chain: str, diff_id: str, parent: str, proof: DirectoryProof) -> None:
        files = {"cache-id": proof.cache_id, "diff": diff_id, "size": str(self._content_bytes(proof.cache_id))}
        if parent:
            files["parent"] = parent
        values = {"Files": files, "Mode": 0o700, "Directory": proof.cache_id, "DiffId": diff_id}
        values.update({"Copy": proof.copy} if proof.copy else {"Dialect": proof.dialect})
        self.add(PutRecord(path, "the layer has no record", str(proof), values))

    def _size(self, path: str, cache_id: str) -> None:
        text = self.evidence.word(f"{path}/size")
        if text.isascii() and text.isdecimal() and len(text) < 20:
            proof = "the number that is there, without the blanks that Docker's engine does not take"
        else:
            text = str(self._content_bytes(cache_id))
            proof = "the sizes of the layer's files, counted"
        values = {"Text": text, "Mode": 0o644}
        self.add(PutText(f"{path}/size", "not a decimal number", proof, values))

    def _content_bytes(self, cache_id: str) -> int:
        import os

        from minidock.store.upper import walk_upper

        handle = os.open(f"{self.root.overlay_path}/{cache_id}/diff", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        sizes: dict[int, int] = {}
        try:
            for entry in walk_upper(handle):
                if stat.S_ISREG(entry.status.st_mode) or stat.S_ISLNK(entry.status.st_mode):
                    sizes[entry.status.st_ino] = entry.status.st_size
        finally:
            os.close(handle)
        return sum(sizes.values())

    def _tar_split(self, path: str, chain: str, diff_id: str) -> None:
        cache_id = self.directories[chain]
        proof = self._prove(cache_id, chain, diff_id)
        target = f"{path}/tar-split.json.gz"
        if proof is None:
            self.remark(
                target, "lost, and the layer's tar was not made as docker commit makes it: run works, save does not"
            )
            return
        values = {"Directory": cache_id, "DiffId": diff_id}
        values.update({"Copy": proof.copy} if proof.copy else {"Dialect": proof.dialect})
        why = "missing or malformed" if tar_split_fault(self.evidence, target) else "another layer's"
        self.add(PutTarSplit(target, why, str(proof), values))


def plan_repairs(root: DataRoot, found: Inspection) -> Plan:
    """A plan for all of an inspection's faults that can be mended with a proof.

    Raises: SyscallError
    """
    return Planner(root, found).make()
