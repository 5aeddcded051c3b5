"""Steps that make overlay2/ say what layerdb says: short names, the lists of lowers, marks, and containers' records."""

from __future__ import annotations

from minidock.constants import DRIVER
from minidock.errors import FormatError
from minidock.ids import LinkID, is_hex64
from minidock.store.catalogue import MOUNTS
from minidock.store.inspection import LINKS
from minidock.store.steps import MoveAway, PutDirectory, PutLink, PutRecord, PutText

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.catalogue import MountRecord
    from minidock.store.repairplan import Planner

_BY_RECORDS = "layerdb's records, each proven by its name, say so"


class StackPlanner:
    """Finds the steps for directories. Shape: folds: the diff_id and parent of each layer, as they are proven"""

    def __init__(self, planner: Planner, folds: dict[str, tuple[str, str]]) -> None:
        self._planner = planner
        self._found = planner.found
        self._catalogue = planner.found.catalogue
        self._evidence = planner.evidence
        self._folds = folds
        self._names: dict[str, str] = {}
        # Each directory with those that shall lie below it, nearest first.
        self._below: dict[str, list[str]] = {}
        self._rw: list[str] = []

    def make(self) -> None:
        """Add all steps to the planner's plan."""
        for chain in self._folds:
            stack = self._stack(chain)
            if stack:
                self._below[stack[0]] = stack[1:]
        for container_id in self._catalogue.container_ids():
            self._container(container_id)
        for cache_id in self._below:
            self._name(cache_id)
        for cache_id, below in self._below.items():
            self._lower(cache_id, below)
            self._marks(cache_id, below)

    def _stack(self, chain: str) -> list[str]:
        """The directories of a layer and those below it, topmost first; empty when one of them is not known."""
        found = []
        while chain:
            cache_id = self._planner.directories.get(chain, "")
            fold = self._folds.get(chain)
            if not cache_id or fold is None:
                return []
            found.append(cache_id)
            chain = fold[1]
        return found

    def _container(self, container_id: str) -> None:
        mount = self._catalogue.mount(container_id)
        if not mount.exists:
            self._lost_mount(container_id)
            return
        top = self._top(mount, container_id)
        stack = self._stack(top) if top else []
        if top is None or (top and not stack):
            return
        mount_id, init_id = self._rw_ids(mount, stack)
        if not mount_id:
            return
        if self._contradicts(mount_id, stack):
            path = f"{DRIVER}/{mount_id}/lower"
            self._planner.remark(path, f"names other layers than container {container_id[:12]} stands on; one is wrong")
            return
        if not self._evidence.is_directory(f"{DRIVER}/{mount_id}/diff"):
            path = f"{DRIVER}/{mount_id}"
            self._planner.remark(
                path, f"what container {container_id[:12]} wrote is gone, and nothing can bring it back"
            )
            return
        if init_id:
            if not self._evidence.is_directory(f"{DRIVER}/{init_id}/diff"):
                path = f"{DRIVER}/{init_id}"
                hint = "minidock adopt makes a new container of what it wrote"
                self._planner.remark(path, f"the init layer is gone, and with it what an engine put there; {hint}")
                return
            self._below[init_id] = stack
            stack = [init_id, *stack]
        self._below[mount_id] = stack
        self._rw.append(mount_id)

    def _rw_ids(self, mount: MountRecord, stack: list[str]) -> tuple[str, str]:
        """The container's two directories, with steps where the record does not tell them; two empty ones for neither.

        Where the record names parts of two pairs, the one whose list of lowers leads to the container's layers is it.
        """
        told = [mount.mount_id, mount.init_id.removesuffix("-init")]
        pairs = [
            name
            for name in dict.fromkeys(told)
            if name and (is_hex64(name) or name == mount.mount_id) and self._evidence.is_directory(f"{DRIVER}/{name}")
        ]
        if len(pairs) > 1:
            pairs = [name for name in pairs if not self._contradicts(name, stack)]
        if len(pairs) != 1:
            if pairs or not mount.mount_id:
                what = "the record names two directories that may both be it" if pairs else "nothing tells it"
                self._planner.remark(f"{mount.path}/mount-id", f"the container's directory: {what}")
                return "", ""
            return mount.mount_id, mount.init_id
        mount_id, init_id = pairs[0], mount.init_id
        rule = "the init layer's directory is named after the container's own, and both are there"
        if mount_id != mount.mount_id:
            values = {"Text": mount_id, "Mode": 0o644}
            self._planner.add(PutText(f"{mount.path}/mount-id", "not the container's directory", rule, values))
        expected = f"{mount_id}-init"
        if init_id != expected and self._evidence.is_directory(f"{DRIVER}/{expected}"):
            init_id = expected
            values = {"Text": init_id, "Mode": 0o644}
            self._planner.add(PutText(f"{mount.path}/init-id", "not the directory below", rule, values))
        return mount_id, init_id

    def _contradicts(self, mount_id: str, stack: list[str]) -> bool:
        """Whether a container's own list of lowers, the only witness of what it was mounted on, leads elsewhere."""
        directory = self._catalogue.directory(mount_id)
        below = list(zip(directory.lowers, directory.lower_ids, strict=True))
        if below and (below[0][1] == f"{mount_id}-init" or not below[0][1]):
            below = below[1:]
        if len(below) > len(stack):
            return all(target for _, target in below)
        return any(
            target and target != expected and name != f"l/{self._catalogue.directory(expected).link_id}"
            for (name, target), expected in zip(below, stack, strict=False)
        )

    def _top(self, mount: MountRecord, container_id: str) -> str | None:
        """The layer that a container stands on, "" for none, None when nothing proves it."""
        image_id = self._catalogue.container(container_id).image_id
        top = self._found.tops.get(image_id, "")
        if mount.parent and (mount.parent == top or (not top and mount.parent in self._folds)):
            return mount.parent
        path = f"{mount.path}/parent"
        if not top:
            if not mount.parent and self._evidence.status(path) is None:
                return ""
            self._planner.remark(path, "nothing tells the layer that the container stands on")
            return None
        # `lower` says what the container was really started with; it must agree with what its image says.
        stack = self._stack(top)
        if not stack or not self._agrees(mount, stack):
            self._planner.remark(path, "the container's image and its directory name different layers")
            return None
        values = {"Text": top, "Mode": 0o644}
        self._planner.add(PutText(path, "not the image's topmost layer", f"image {image_id} ends at it", values))
        return top

    def _agrees(self, mount: MountRecord, stack: list[str]) -> bool:
        """Whether a container's list of lowers, as far as it leads anywhere, leads to these directories."""
        directory = self._catalogue.directory(mount.mount_id)
        pairs = list(zip(directory.lowers, directory.lower_ids, strict=True))[-len(stack) :]
        if not directory.lowers:
            return True
        return len(pairs) == len(stack) and all(
            not target or target == expected or name == f"l/{self._catalogue.directory(expected).link_id}"
            for (name, target), expected in zip(pairs, stack, strict=True)
        )

    def _lost_mount(self, container_id: str) -> None:
        """A container without a mount record: the directories must be the only ones that can be its own."""
        container = self._catalogue.container(container_id)
        path = f"{MOUNTS}/{container_id}"
        top = self._found.tops.get(container.image_id, "")
        stack = self._stack(top) if top else []
        if not container.exists or not stack:
            return
        candidates = [
            name
            for name in self._catalogue.cache_ids()
            if is_hex64(name)
            and name not in self._found.owners
            and self._catalogue.directory(name).lower_ids == [f"{name}-init", *stack]
        ]
        rivals = [
            other
            for other in self._catalogue.container_ids()
            if not self._catalogue.mount(other).exists
            and self._catalogue.container(other).image_id == container.image_id
        ]
        if len(candidates) != 1 or len(rivals) != 1:
            what = f"{len(candidates)} directories could be the container's own" if candidates else "none is left"
            self._planner.remark(path, f"the record of its layers is lost, and {what}; minidock adopt takes one")
            return
        mount_id = candidates[0]
        files = {"mount-id": mount_id, "init-id": f"{mount_id}-init", "parent": top}
        proof = (
            "the only directory that stands on the image's layers and belongs to nobody, and the only such container"
        )
        self._planner.add(
            PutRecord(path, "no record of the container's layers", proof, {"Files": files, "Mode": 0o755})
        )
        self._below[f"{mount_id}-init"] = stack
        self._below[mount_id] = [f"{mount_id}-init", *stack]
        self._rw.append(mount_id)

    def _name(self, cache_id: str) -> None:
        """Decide on a directory's short name, with steps for `link` and the symlink."""
        directory = self._catalogue.directory(cache_id)
        link_id, proof = directory.link_id, "`link` has it"
        if link_id and directory.link_target != cache_id and not self._is_free(link_id, cache_id):
            link_id = ""
        if not link_id:
            link_id, proof = self._find_name(cache_id)
        self._names[cache_id] = link_id
        if directory.link_id != link_id:
            values = {"Text": link_id, "Mode": 0o644}
            link = PutText(f"{DRIVER}/{cache_id}/link", "not the directory's short name", proof, values)
        else:
            link = None
        if self._catalogue.link_target(link_id) != cache_id:
            path = f"{LINKS}/{link_id}"
            # The symlink comes first: a name that leads nowhere is worse than one that nobody asks for.
            step = PutLink(path, "does not lead to its directory", proof, {"Target": f"../{cache_id}/diff"})
            self._planner.add(step)
        if link is not None:
            self._planner.add(link)

    def _is_free(self, link_id: str, cache_id: str) -> bool:
        """Whether no other directory goes by a short name."""
        if link_id in (name for other, name in self._names.items() if other != cache_id):
            return False
        target = self._catalogue.link_target(link_id)
        if target and target != cache_id and self._catalogue.directory(target).link_id == link_id:
            return False
        others = (self._catalogue.directory(other) for other in self._below if other != cache_id)
        return all(other.link_id != link_id or other.link_target == "" and target == cache_id for other in others)

    def _find_name(self, cache_id: str) -> tuple[str, str]:
        """A short name for a directory without one: its symlink's, that of the lists it stands in, or a new one."""
        for name, target in sorted(self._catalogue.links().items()):
            if target == cache_id and _is_link_id(name) and self._is_free(name, cache_id):
                return name, f"{LINKS}/{name} leads here"
        for other, below in self._below.items():
            lowers = self._catalogue.directory(other).lowers
            if cache_id in below and len(lowers) == len(below):
                name = lowers[below.index(cache_id)].removeprefix("l/")
                if _is_link_id(name) and not self._catalogue.link_target(name) and self._is_free(name, cache_id):
                    return name, f"the lower file of {other[:12]} names it in this place"
        return str(LinkID.random()), "a new one, since the old one is told nowhere"

    def _lower(self, cache_id: str, below: list[str]) -> None:
        wanted = ":".join(f"l/{self._names.get(name) or self._catalogue.directory(name).link_id}" for name in below)
        path = f"{DRIVER}/{cache_id}/lower"
        if self._evidence.word(path) == wanted:
            return
        if not wanted:
            if self._evidence.status(path) is not None:
                self._planner.add(MoveAway(path, "nothing lies below this layer", _BY_RECORDS))
            return
        values = {"Text": wanted, "Mode": 0o644}
        self._planner.add(PutText(path, f"does not name the {len(below)} layers below", _BY_RECORDS, values))

    def _marks(self, cache_id: str, below: list[str]) -> None:
        path = f"{DRIVER}/{cache_id}"
        is_committed = self._evidence.status(f"{path}/committed") is not None
        if cache_id in self._rw:
            if is_committed:
                self._planner.add(
                    MoveAway(
                        f"{path}/committed", "a container writes here", "layerdb/mounts has it as a container's own"
                    )
                )
            if not self._evidence.is_directory(f"{path}/work"):
                proof = "the kernel makes all that is in it"
                self._planner.add(PutDirectory(f"{path}/work", "missing", proof, {"Mode": 0o700}))
        elif not is_committed and any(cache_id in other for other in self._below.values()):
            values = {"Text": "", "Mode": 0o600}
            self._planner.add(PutText(f"{path}/committed", "missing", "others stand on this layer", values))
        elif below and not is_committed and not self._evidence.is_directory(f"{path}/work"):
            self._planner.add(
                PutDirectory(f"{path}/work", "missing", "the kernel makes all that is in it", {"Mode": 0o700})
            )


def _is_link_id(text: str) -> bool:
    try:
        LinkID.parse(text)
    except FormatError:
        return False
    return True
