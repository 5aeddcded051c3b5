"""adopt: what a lost container had written becomes the content of a new one, on the layers it was written on.

The directory must belong to nobody, or to a container that cannot be read any more. Which layers lie below is proven by
its list of lowers, each leading to the directory that layerdb has for the next layer; only where that list is lost must
the image be named. Nothing of the old records is deleted: they go to the trash, and as long as the new container was
neither started nor changed, undo takes it away again and gives back all that there was before, byte for byte.
"""

from __future__ import annotations

import os

from minidock.constants import DRIVER
from minidock.errors import Conflict, NotFound, StoreError, SyscallError, UsageError
from minidock.store import trash
from minidock.store.catalogue import CONTAINERS, MOUNTS
from minidock.store.containerstate import STATE_FILE
from minidock.store.evidence import Evidence
from minidock.store.garbage import LiveMounts
from minidock.store.inspection import LINKS, Inspection
from minidock.store.steps import MoveAway, Plan
from minidock.verbs.create import create
from minidock.verbs.options import CreateOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.containers import Container
    from minidock.store.root import DataRoot


# Where the new container's parts appear; the root itself for the first container of all.
_FOLDERS = (".", CONTAINERS, MOUNTS, DRIVER, LINKS, "volumes")


class Adopted:
    """What came of it. Shape: image: the name or ID it stands on; trash_id: where the old records are"""

    __slots__ = ("container", "image", "trash_id")

    def __init__(self, container: Container, image: str, trash_id: str) -> None:
        self.container = container
        self.image = image
        self.trash_id = trash_id


def adopt(
    root: DataRoot, directory: str, *, image: str = "", name: str = "", command: list[str] | None = None
) -> Adopted:
    """Make a container whose changes are those in an orphaned directory of overlay2/.

    Shape:   directory: a path, or the name in overlay2/ or its beginning; image: only where the list of lowers is lost;
             command: instead of the image's
    Returns: Adopted; the container was not started
    Raises:  NotFound; Conflict when the directory is somebody's, or mounted; StoreError when nothing proves what lies
             below; what create raises
    """
    with root.lock():
        with Evidence.open(root.path) as evidence:
            found = Inspection(evidence)
            cache_id = _find(root, found, directory)
            owner = _owner(found, cache_id)
            chain = _chain(found, cache_id)
            names = _short_names(found, cache_id)
        if LiveMounts().has(cache_id, *names):
            raise Conflict(f"{root.overlay_path}/{cache_id} is mounted", hint="a container may still run on it")
        chosen = _image(root, found, chain, image)
        plan = _plan(root, cache_id, owner, names)
        return _adopt(root, plan, cache_id, chosen, CreateOptions(name=name), command or [])


def _adopt(
    root: DataRoot, plan: Plan, cache_id: str, image: str, options: CreateOptions, command: list[str]
) -> Adopted:
    """Make the container, give it the content, and put away what is left; each noted for undo before it is done."""
    source = f"{DRIVER}/{cache_id}/diff"
    top = root.images.resolve(image).chain_id
    folders = [*_FOLDERS, f"{DRIVER}/{cache_id}", *([f"{DRIVER}/{root.layers.get(top).cache_id}"] if top else ())]
    before = {folder: set(os.listdir(f"{root.path}/{folder}")) for folder in folders if _is_there(root, folder)}
    entry = trash.begin(root, plan, before)
    container = create(root, image, command, options)
    # What it is given has been written by a mount with who knows which options.
    container.change_document(lambda document: document.update(HasBeenStartedBefore=True))
    for folder, names in before.items():
        for made in sorted(set(os.listdir(f"{root.path}/{folder}")) - names):
            entry.tell_made(root, f"{folder}/{made}".removeprefix("./"))
    # Whether it was started since, undo tells by these.
    for name in ("config.v2.json", STATE_FILE):
        entry.tell_made(root, f"{CONTAINERS}/{container.id}/{name}")
    target = f"{DRIVER}/{container.mount_id}/diff"
    entry.tell_move(root, source, target)
    try:
        # Over the empty directory of the new container, in one step.
        os.rename(f"{root.path}/{source}", f"{root.path}/{target}")
    except OSError as error:
        root.containers.remove(container)
        entry.write({"Undone": True})
        raise SyscallError(f"rename({source!r}, {target!r})", error.errno or 5) from None
    return Adopted(container, image, trash.run_steps(root, entry, plan))


def _is_there(root: DataRoot, folder: str) -> bool:
    return os.path.isdir(f"{root.path}/{folder}")


def _find(root: DataRoot, found: Inspection, directory: str) -> str:
    text = directory.rstrip("/")
    if "/" in text:
        real = os.path.realpath(text).removesuffix("/diff")
        folder, _, text = real.rpartition("/")
        if folder != root.overlay_path:
            raise NotFound(f"{directory} is no directory of {root.overlay_path}")
    names = [name for name in found.catalogue.cache_ids() if name == text]
    if not names:
        names = [name for name in found.catalogue.cache_ids() if text and name.startswith(text) and "-init" not in name]
    if len(names) != 1:
        raise NotFound(f"{len(names) or 'no'} directories of {root.overlay_path} begin with {text}")
    if not found.catalogue.directory(names[0]).has_diff:
        raise StoreError(f"{root.overlay_path}/{names[0]} has no content")
    return names[0]


def _owner(found: Inspection, cache_id: str) -> str:
    """The ID of the broken container that the directory was of, "" for none; raises Conflict."""
    if cache_id not in found.owners:
        return ""
    broken = {fault.subject for fault in found.faults if fault.kind in ("container", "mount-lone", "directory")}
    for container_id in found.catalogue.container_ids():
        if found.catalogue.mount(container_id).mount_id == cache_id and container_id in broken:
            return container_id
    raise Conflict(f"{DRIVER}/{cache_id} belongs to {found.owners[cache_id][0]}")


def _chain(found: Inspection, cache_id: str) -> str:
    """The layer that a directory's list of lowers leads to, "" when the list is lost; raises StoreError."""
    directory = found.catalogue.directory(cache_id)
    below = [name for name in directory.lower_ids if name != f"{cache_id}-init"]
    if not directory.lowers:
        return ""
    for chain, record in found.records.items():
        rest = found.stack_below(chain)
        if rest is not None and [record.cache_id, *rest] == below:
            return chain
    raise StoreError(
        f"{DRIVER}/{cache_id}/lower does not lead to the layers of any record",
        hint="minidock fsck --repair first; a layer may have lost its record",
    )


def _image(root: DataRoot, found: Inspection, chain: str, image: str) -> str:
    """The image to make the container of; raises UsageError, StoreError, NoSuchImage."""
    if image:
        top = root.images.resolve(image).chain_id
        if chain and top != chain:
            raise Conflict(f"image {image} ends at layer {top}, the directory stands on {chain}")
        return image
    if not chain:
        raise UsageError("nothing tells what lies below this directory", hint="name its image by --image")
    candidates = [image_id for image_id, top in found.tops.items() if top == chain]
    if not candidates:
        raise StoreError(f"no image ends at layer {chain}, on which the directory stands")
    tags = sorted(name for name, image_id in root.references.readable().items() if image_id in candidates)
    return tags[0] if tags else sorted(candidates)[0]


def _short_names(found: Inspection, cache_id: str) -> list[str]:
    return [link_id for link_id, target in found.catalogue.links().items() if target == cache_id]


def _plan(root: DataRoot, cache_id: str, owner: str, names: list[str]) -> Plan:
    """What is left of the old container goes to the trash."""
    plan = Plan("adopt", root.path)
    proof = "a new container has what was in it"
    if owner:
        for path in (f"{CONTAINERS}/{owner}", f"{MOUNTS}/{owner}"):
            if os.path.lexists(f"{root.path}/{path}"):
                plan.add(root, MoveAway(path, "the record of a container that was adopted", proof))
    init_id = f"{cache_id}-init"
    paths = [f"{LINKS}/{name}" for name in names]
    paths.append(f"{DRIVER}/{cache_id}")
    if os.path.isdir(f"{root.overlay_path}/{init_id}"):
        with Evidence.open(root.path) as evidence:
            paths += [f"{LINKS}/{name}" for name in _short_names(Inspection(evidence), init_id)]
        paths.append(f"{DRIVER}/{init_id}")
    for path in paths:
        plan.add(root, MoveAway(path, "of a container that was adopted", proof))
    return plan
