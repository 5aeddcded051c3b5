"""What the markers of an unfinished stage mean, and how the data root is brought back to order.

Every step asks the data root itself whether something is still referred to, so settling the same stage twice,
or after half of a settling, ends in the same state.
"""

from __future__ import annotations

import os

from minidock.errors import FormatError, MinidockError
from minidock.ids import CacheID, ChainID, ContainerID, ImageID
from minidock.store import overlay2
from minidock.store.transaction import delete_tree, discard, hold_stage, is_foreign, is_owner_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot
    from minidock.store.transaction import Stage


def sweep(root: DataRoot) -> list[str]:
    """Settle the stages of processes that are gone.

    Shape:   the caller holds the root's exclusive lock
    Returns: the names of the stages that were settled
    """
    settled = []
    for name in sorted(os.listdir(root.stage_path)):
        if not is_foreign(name) and is_owner_alive(name):
            continue
        path = f"{root.stage_path}/{name}"
        held = hold_stage(root.stage_path, name) if is_foreign(name) else -1
        if held is None:
            # Of a process that lives in another pid namespace.
            continue
        try:
            if os.path.isdir(path) and not os.path.islink(path):
                settle(root, path)
            else:
                discard(root, path)
        except (OSError, MinidockError) as error:
            # It stays for the next command: a mount in the way, say, must not keep this one from its own work.
            root.tell("remove", f"{path} is left for later: {error}")
            continue
        finally:
            if held >= 0:
                os.close(held)
        settled.append(name)
    return settled


def settle(root: DataRoot, path: str) -> None:
    """Take back what an unfinished stage began, finish what it was removing, and delete it.

    What it removes goes through a stage of its own; if it fails, both stay for the next sweep.
    Raises: Conflict when something is mounted in the way, StoreError, SyscallError
    """
    with root.lock(), root.stage() as own:
        own.discard_on_exit = False
        names = sorted(os.listdir(path))
        for name in names:
            kind, _, rest = name.partition("-")
            if kind in ("container", "remove"):
                _settle_container(root, kind, rest)
        # Their containers are gone by now.
        volumes = [name.partition("-")[2] for name in names if name.startswith("volume-")]
        if volumes:
            _settle_volumes(root, own, volumes)
        images = [name.partition("-")[2] for name in names if name.startswith("image-")]
        # A child goes before its parent can, so as long as one went, the others are asked again.
        while images:
            left = [text for text in images if not _settle_image(root, text)]
            if len(left) == len(images):
                break
            images = left
        layers = [name.partition("-")[2] for name in names if name.startswith("layer-")]
        _settle_layers(root, layers)
        own.discard_on_exit = True
    discard(root, path)


def _settle_container(root: DataRoot, kind: str, text: str) -> None:
    container, _, mount = text.partition(".")
    try:
        container_id, mount_id = ContainerID.parse(container), CacheID.parse(mount)
    except FormatError:
        return
    record = f"{root.path}/containers/{container_id}"
    if kind == "container" and os.path.exists(record + "/config.v2.json"):
        return
    overlay2.delete_rw(root, container_id, mount_id)
    _delete(f"{root.path}/containers", container_id)


def _settle_image(root: DataRoot, text: str) -> bool:
    """Remove an image that nothing needs; whether it was removed."""
    try:
        image_id = ImageID.of_hex(text)
    except FormatError:
        return False
    if image_id not in root.images.ids() or root.references.of_image(image_id) or root.images.children(image_id):
        return False
    if image_id in root.images_of_containers():
        return False
    root.images.remove(image_id)
    return True


def _settle_layers(root: DataRoot, layers: list[str]) -> None:
    for text in layers:
        chain, _, cache = text.partition(".")
        try:
            chain_id, cache_id = ChainID.of_hex(chain), CacheID.parse(cache)
        except FormatError:
            continue
        if root.layers.has(chain_id):
            try:
                published = root.layers.get(chain_id).cache_id == cache_id
            except MinidockError:
                # A power cut between the rename and the write of its files: an empty record, which only this stage
                # can have left, since a stage that ended has synced what it published.
                _delete(root.layers.path, chain_id.hex)
                published = False
            if published:
                root.layers.release(chain_id)
                continue
        overlay2.delete_directory(root, cache_id)


def _settle_volumes(root: DataRoot, stage: Stage, names: list[str]) -> None:
    """Remove those volumes that no container uses; whoever named one meanwhile keeps it."""
    users = root.volumes.users()
    for name in names:
        if name not in users and root.volumes.has(name):
            root.volumes.remove(stage, name)


def _delete(parent: str, name: str) -> None:
    try:
        handle = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        delete_tree(handle, name)
    finally:
        os.close(handle)
