"""Every structural fault of a data root in one list: each record read whole and held against all others.

survey.py's quick glance, which listing commands take, looks at sizes where they tell as much; here contents are read,
each symlink followed and each chain folded, and each fault has a kind by which it may be mended (repairplan.py).
Contents of files are not looked at; that is verify's work.
Source: shared format notes §2 to §5, §12
"""

from __future__ import annotations

import os

from minidock.constants import DRIVER, MAX_LAYERS, PRIVATE_DIR
from minidock.errors import FormatError, MinidockError
from minidock.ids import ChainID, DiffID, chain_id_of, is_hex64
from minidock.store.catalogue import CONFIGS, CONTAINERS, IMAGE, LAYERDB, MOUNTS, REFERENCES, Catalogue
from minidock.store.faults import Fault
from minidock.store.overlay2 import MAX_LOWERS
from minidock.store.rootfolders import had_names, lost_folders
from minidock.store.transaction import is_stage_owned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from minidock.store.catalogue import LayerRecord, MountRecord
    from minidock.store.evidence import Evidence

METADATA = f"{IMAGE}/imagedb/metadata/sha256"
LINKS = f"{DRIVER}/l"
WRITE_SETS = f"{IMAGE}/layerdb/tmp"
STAGES = f"{PRIVATE_DIR}/stage"


class Inspection:
    """One look at everything.

    Shape: catalogue; chains: every layer of a sound image config, with its diff_id and its parent; records: those of
           layerdb; owners: whose each directory of overlay2/ is, `layer sha256:…` or `container …`; wanted: the
           directories that should lie below it, nearest first, None where a record is missing; faults
    """

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.catalogue = Catalogue(evidence)
        self.faults: list[Fault] = []
        self.chains: dict[str, tuple[str, str]] = {}
        self.tops: dict[str, str] = {}
        self.unreadable_images: list[str] = []
        self.records: dict[str, LayerRecord] = {}
        self.owners: dict[str, list[str]] = {}
        self.wanted: dict[str, list[str] | None] = {}
        self.rw: set[str] = set()
        self.swept = self._names_in_stages()
        self._images()
        self._layers()
        self._containers()
        self._directories()
        self._rest()

    def _fault(self, kind: str, path: str, reason: str, subject: str = "") -> None:
        if not any(name in path for name in self.swept):
            self.faults.append(Fault(kind, path, reason, subject))

    def _names_in_stages(self) -> set[str]:
        """The 64 digits that markers of unfinished stages name: the next command that writes takes those back."""
        names: set[str] = set()
        for stage in self.evidence.names(STAGES):
            for marker in self.evidence.names(f"{STAGES}/{stage}"):
                names.update(word for word in marker.replace("-", ".").split(".") if is_hex64(word))
        return names

    def _images(self) -> None:
        for name in self.evidence.names(CONFIGS):
            path = f"{CONFIGS}/{name}"
            if not is_hex64(name):
                self._fault("unfinished", path, "left by an interrupted command, nothing uses it")
                continue
            image = self.catalogue.image("sha256:" + name)
            if image.faults or image.config is None:
                self.unreadable_images.append(image.image_id)
                if image.actual_id and image.actual_id != image.image_id:
                    reason = f"does not hash to its name but to {image.actual_id}"
                else:
                    reason = image.faults[0].removeprefix(f"{path}: ") if image.faults else "cannot be read"
                self._fault("config", path, reason, image.image_id)
                continue
            try:
                self.learn(image.image_id, image.config.diff_ids)
            except FormatError as error:
                self.unreadable_images.append(image.image_id)
                self._fault("config", path, error.message, image.image_id)

    def learn(self, image_id: str, diff_ids: Sequence[DiffID]) -> None:
        """Know an image's layers by its config."""
        if len(diff_ids) > MAX_LAYERS:
            raise FormatError(f"{len(diff_ids)} layers, and an image has at most {MAX_LAYERS}")
        above: ChainID | None = None
        for diff_id in diff_ids:
            parent, above = above, chain_id_of(above, diff_id)
            self.chains[above] = (diff_id, parent or "")
        if above is not None:
            self.tops[image_id] = above

    def _layers(self) -> None:
        for name in self.evidence.names(LAYERDB):
            record = self.catalogue.record(ChainID("sha256:" + name)) if is_hex64(name) else None
            if record is not None and record.exists:
                self.records[record.chain_id] = record
            elif record is not None:
                self._fault("chain", f"{LAYERDB}/{name}", "not a directory", record.chain_id)
            else:
                self._fault("unfinished", f"{LAYERDB}/{name}", "left by an interrupted command, nothing uses it")
        for chain_id, record in self.records.items():
            self._record(chain_id, record)
        for image_id, top in self.tops.items():
            missing = [chain for chain in self.chain_below(top) if chain not in self.records]
            if missing:
                self._fault(
                    "image-chain",
                    f"{CONFIGS}/{image_id[7:]}",
                    f"the image's layer {missing[0]} has no record",
                    image_id,
                )
        for chain_id, record in self.records.items():
            if record.cache_id:
                below = self.stack_below(chain_id)
                self._own(record.cache_id, f"layer {chain_id}", below)

    def _own(self, cache_id: str, owner: str, below: list[str] | None) -> None:
        self.owners.setdefault(cache_id, []).append(owner)
        self.wanted.setdefault(cache_id, below)

    def chain_below(self, chain: str) -> Iterable[str]:
        """A layer of a sound image and those below it, bottom first."""
        found = []
        while chain:
            found.append(chain)
            chain = self.chains[chain][1]
        return reversed(found)

    def fold_of(self, chain_id: str) -> tuple[str, str] | None:
        """The diff_id and parent that a layer's name is the hash of, by an image or its own record; None if unknown."""
        if chain_id in self.chains:
            return self.chains[chain_id]
        record = self.records.get(chain_id)
        if record is None or not record.diff_id:
            return None
        parent = ChainID(record.parent) if record.parent else None
        if chain_id_of(parent, DiffID(record.diff_id)) == chain_id:
            return record.diff_id, record.parent
        return None

    def stack_below(self, chain_id: str) -> list[str] | None:
        """The directories that lie below a layer, nearest first; None when a record on the way is missing."""
        found: list[str] = []
        fold = self.fold_of(chain_id)
        while fold is not None:
            if not fold[1]:
                return found
            record = self.records.get(fold[1])
            if record is None or not record.cache_id or len(found) > MAX_LOWERS:
                return None
            found.append(record.cache_id)
            fold = self.fold_of(fold[1])
        return None

    def _record(self, chain_id: str, record: LayerRecord) -> None:
        path = record.path
        if not record.cache_id:
            self._fault("cache-id", f"{path}/cache-id", "names no directory", chain_id)
        elif not self.evidence.is_directory(f"{DRIVER}/{record.cache_id}"):
            self._fault(
                "directory", f"{DRIVER}/{record.cache_id}", f"missing, the directory of layer {chain_id}", chain_id
            )
        fold = self.fold_of(chain_id)
        if not record.diff_id:
            self._fault("diff", f"{path}/diff", "not a digest", chain_id)
        elif (self.evidence.word(f"{path}/parent") or "") != record.parent:
            self._fault("parent", f"{path}/parent", "not a chain ID", chain_id)
        elif fold is None or fold != (record.diff_id, record.parent):
            self._fault("chain", path, "parent and diff do not fold to the record's name", chain_id)
        if fold is not None and fold[1] and fold[1] not in self.records:
            self._fault("parent-missing", path, f"the layer below, {fold[1]}, has no record", chain_id)
        if record.size_bytes < 0:
            self._fault("size", f"{path}/size", "not a decimal number", chain_id)
        reason = tar_split_fault(self.evidence, f"{path}/tar-split.json.gz")
        if reason:
            self._fault("tar-split", f"{path}/tar-split.json.gz", f"{reason}, the layer cannot be saved", chain_id)

    def _containers(self) -> None:
        present = {name for name in self.evidence.names(CONTAINERS) if is_hex64(name)}
        mounts = set(self.evidence.names(MOUNTS))
        for name in sorted(present):
            path = f"{CONTAINERS}/{name}"
            if name not in mounts:
                self._fault("mount-missing", path, "the container has no record of its layers", name)
            self._container(path, name)
        for name in sorted(mounts):
            mount = self.catalogue.mount(name)
            if name not in present:
                self._fault("mount-lone", mount.path, "keeps layers for a container that is not there", name)
            self._mount(mount, name)

    def _container(self, path: str, name: str) -> None:
        container = self.catalogue.container(name)
        if container.faults:
            self._fault("container", path, container.faults[0].removeprefix(f"{path}: "), name)
            return
        if not isinstance(container.document.get("Config"), dict):
            self._fault("container", path, "config.v2.json has no Config", name)
        elif container.document.get("ID") != name:
            self._fault("container", path, "config.v2.json is another container's", name)
        elif reason := container.form_fault(self.evidence):
            self._fault("container", path, reason, name)
        else:
            from minidock.store.containerstate import state_from_record

            state = container.document.get("State")
            is_marked = isinstance(state, dict) and state.get("Running") is True
            if is_marked and state_from_record(container.document).status not in ("running", "paused"):
                reason = "the container is marked as running, and no such process is there"
                self._fault("running", f"{path}/config.v2.json", reason, name)

    def _mount(self, mount: MountRecord, name: str) -> None:
        """A container's two directories, and which layer they stand on."""
        evidence, owner = self.evidence, f"container {name[:12]}"
        init_id = mount.init_id
        if not mount.mount_id:
            self._fault("mount-id", f"{mount.path}/mount-id", "names no directory", name)
        elif not evidence.is_directory(f"{DRIVER}/{mount.mount_id}"):
            self._fault("directory", f"{DRIVER}/{mount.mount_id}", f"missing, the directory of {owner}", name)
        below: list[str] | None = []
        if evidence.status(f"{mount.path}/parent") is not None:
            record = self.records.get(mount.parent)
            if record is None:
                self._fault("mount-parent", f"{mount.path}/parent", f"layer {mount.parent or '?'} has no record", name)
                below = None
            else:
                rest = self.stack_below(mount.parent)
                below = [record.cache_id, *rest] if rest is not None and record.cache_id else None
        below = self._check_mount_parent(mount, name, below)
        if mount.mount_id and is_hex64(mount.mount_id):
            expected = f"{mount.mount_id}-init"
            if not init_id and evidence.is_directory(f"{DRIVER}/{expected}") or init_id and init_id != expected:
                self._fault("init-id", f"{mount.path}/init-id", "is not the directory below the container's own", name)
                init_id = expected
        if init_id:
            if not evidence.is_directory(f"{DRIVER}/{init_id}"):
                self._fault("directory", f"{DRIVER}/{init_id}", f"missing, the directory of {owner}", name)
            self._own(init_id, owner, below)
            below = None if below is None else [init_id, *below]
        if mount.mount_id:
            self._own(mount.mount_id, owner, below)
            self.rw.add(mount.mount_id)

    def _check_mount_parent(self, mount: MountRecord, name: str, below: list[str] | None) -> list[str] | None:
        """Hold the record's layer against the image that the container was made from."""
        top = self.tops.get(self.catalogue.container(name).image_id)
        if top is None or mount.parent == top:
            return below
        if mount.parent in self.records or not mount.parent:
            self._fault("mount-parent", f"{mount.path}/parent", f"is not the image's topmost layer {top}", name)
        return None

    def _directories(self) -> None:
        present = self.catalogue.cache_ids()
        link_owners: dict[str, list[str]] = {}
        for cache_id in present:
            link_id = self.catalogue.directory(cache_id).link_id
            if link_id and cache_id in self.owners:
                link_owners.setdefault(link_id, []).append(cache_id)
        stood_on = {cache_id for below in self.wanted.values() for cache_id in below or ()}
        named = {lower for name in self.owners for lower in self.catalogue.directory(name).lower_ids}
        for cache_id in present:
            if cache_id in self.owners:
                self._directory(cache_id, link_owners, cache_id in stood_on)
            elif is_hex64(cache_id.removesuffix("-init")) and cache_id not in named:
                # The other names are BuildKit's, which keeps its own records, and the engine's device node.
                path = f"{DRIVER}/{cache_id}"
                self._fault("orphan", path, "no layer and no container has this directory", cache_id)
        for cache_id, owners in self.owners.items():
            if len(owners) > 1:
                is_layer = owners[1].startswith("layer ")
                path = f"{LAYERDB}/{owners[1][13:]}/cache-id" if is_layer else f"{DRIVER}/{cache_id}"
                self._fault("cache-id-shared", path, f"{owners[0]} and {owners[1]} have one directory", owners[1])
        used = {self.catalogue.directory(name).link_id: name for name in present}
        for link_id, target in sorted(self.catalogue.links().items()):
            path = f"{LINKS}/{link_id}"
            if self.evidence.link_target(path) is None:
                self._fault("stray-name", path, "not a symlink", link_id)
            elif link_id not in used and (not target or target not in self.owners or self._has_own_name(target)):
                self._fault(
                    "stray-name", path, f"a short name that no directory has, leads to {target or '?'}", link_id
                )

    def _has_own_name(self, cache_id: str) -> bool:
        directory = self.catalogue.directory(cache_id)
        return bool(directory.link_id) and directory.link_target == cache_id

    def _directory(self, cache_id: str, link_owners: dict[str, list[str]], is_stood_on: bool) -> None:
        directory, owner = self.catalogue.directory(cache_id), self.owners[cache_id][0]
        path = directory.path
        if not directory.has_diff:
            self._fault("content", f"{path}/diff", f"missing, the content of {owner}", cache_id)
        if not directory.link_id:
            self._fault("link", f"{path}/link", f"not a short name, that of {owner}", cache_id)
        elif len(link_owners[directory.link_id]) > 1:
            self._fault("link-shared", f"{path}/link", "another directory has the same short name", cache_id)
        elif directory.link_target != cache_id:
            where = f"leads to {directory.link_target}" if directory.link_target else "is missing or leads nowhere"
            self._fault("short-name", f"{LINKS}/{directory.link_id}", f"{where}, should lead to {cache_id}", cache_id)
        wanted = self.wanted[cache_id]
        if wanted is not None and not self._names(cache_id, wanted):
            self._fault("lower", f"{path}/lower", f"does not name the {len(wanted)} layers below", cache_id)
        is_committed = self.evidence.status(f"{path}/committed") is not None
        if cache_id in self.rw:
            if is_committed:
                self._fault(
                    "committed-container",
                    f"{path}/committed",
                    "a container's own directory is marked as read-only",
                    cache_id,
                )
            if not self.evidence.is_directory(f"{path}/work"):
                self._fault("work", f"{path}/work", "missing, the kernel's scratch directory", cache_id)
        elif is_stood_on and not is_committed:
            self._fault("committed", f"{path}/committed", "missing although others stand on this layer", cache_id)
        elif wanted and not is_committed and not self.evidence.is_directory(f"{path}/work"):
            self._fault("work", f"{path}/work", "missing, the kernel's scratch directory", cache_id)

    def _names(self, cache_id: str, wanted: list[str]) -> bool:
        """Whether `lower` names these directories, by names that lead there or that those have for themselves."""
        directory = self.catalogue.directory(cache_id)
        if len(directory.lowers) != len(wanted):
            return False
        for name, target, expected in zip(directory.lowers, directory.lower_ids, wanted, strict=True):
            own = self.catalogue.directory(expected).link_id
            # Where the directory below has lost both its names, the fault is told there.
            if target != expected and name != f"l/{own}" and (target or own or not name.startswith("l/")):
                return False
        return True

    def _rest(self) -> None:
        references = self.catalogue.references()
        for line in self.catalogue.faults:
            if "missing, no image has a name" not in line or had_names(self):
                self._fault("references", REFERENCES, line.removeprefix(f"{REFERENCES}: "))
        self.faults += [Fault("folder", path, reason) for path, reason in lost_folders(self)]
        images = set(self.catalogue.image_ids())
        for reference, image_id in sorted(references.items()):
            if image_id not in images:
                self._fault("tag", REFERENCES, f"{reference} names {image_id}, which is not there", reference)
        for name in self.evidence.names(METADATA):
            path = f"{METADATA}/{name}"
            if "sha256:" + name not in images:
                self._fault("metadata", path, "of an image that is not there", name)
                continue
            parent = self.evidence.word(f"{path}/parent")
            if parent and parent not in images:
                self._fault(
                    "metadata-parent", f"{path}/parent", f"names an image that is not there, {parent[:80]}", name
                )
        for folder in (WRITE_SETS, IMAGE):
            for name in self.evidence.names(folder):
                if folder == WRITE_SETS or name.startswith(".tmp-"):
                    self._fault("unfinished", f"{folder}/{name}", "left by an interrupted command, nothing uses it")
        for name in self.evidence.names(STAGES):
            if not is_stage_owned(f"{self.evidence.path}/{STAGES}", name):
                self.faults.append(
                    Fault(
                        "unfinished", f"{STAGES}/{name}", "left by an interrupted command, the next one takes it back"
                    )
                )
        self._volumes()

    def _volumes(self) -> None:
        for name in self.evidence.names("volumes"):
            path = f"volumes/{name}"
            if name in ("metadata.db", "backingFsBlockDev"):
                continue
            if not self.evidence.is_directory(f"{path}/_data"):
                self._fault("volume", f"{path}/_data", "missing, the content of a volume", name)
            options = self.evidence.status(f"{path}/opts.json")
            if options is not None and not options.st_size:
                self._fault("volume", f"{path}/opts.json", "empty, the options of a volume", name)


def tar_split_fault(evidence: Evidence, path: str) -> str:
    """What is wrong with a tar-split file, empty for nothing; it is read to its end."""
    from minidock.formats.tarsplit import read_tar_split
    from minidock.linux.paths import open_in_root
    from minidock.store.evidence import RESOLVE

    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | evidence.flags
        handle = open_in_root(evidence.fd, os.fsencode(path), flags, resolve=RESOLVE)
    except OSError:
        return "missing"
    try:
        is_empty = True
        for _ in read_tar_split(handle):
            is_empty = False
        return "empty" if is_empty else ""
    except MinidockError as error:
        return f"malformed: {error.message}"
    finally:
        os.close(handle)


def inspect_root(evidence: Evidence) -> tuple[Inspection, bool]:
    """Look at a root; where somebody is at work in it, twice, and only what both looks found counts.

    Returns: the inspection; whether somebody is at work, who leaves halves while he makes and removes things
    """
    from minidock.store.survey import hold_still

    handle = hold_still(evidence.path)
    try:
        found = Inspection(evidence)
        if handle < 0:
            before = set(found.faults)
            found = Inspection(evidence)
            found.faults = [fault for fault in found.faults if fault in before and fault.kind not in _PASSING]
        return found, handle < 0
    finally:
        if handle >= 0:
            os.close(handle)


# What a command or an engine at work leaves for a moment, or a live engine keeps true by itself.
_PASSING = frozenset(
    (
        "orphan",
        "stray-name",
        "metadata",
        "unfinished",
        "mount-lone",
        "mount-missing",
        "container",
        "running",
        "mount-id",
    )
)
