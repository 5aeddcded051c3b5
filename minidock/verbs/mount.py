"""mount: an image, a container or a layer as a directory of the host, read-only and without a process."""

from __future__ import annotations

import os

from minidock.errors import (
    InvalidReference,
    NoSuchContainer,
    NoSuchImage,
    NoSuchLayer,
    NotFound,
    SyscallError,
    UsageError,
)
from minidock.ids import ChainID
from minidock.linux.process import pidfd_open
from minidock.runtime import view
from minidock.store import views as mounted
from minidock.store.catalogue import Catalogue
from minidock.store.evidence import Evidence
from minidock.store.overlay2 import check_rw, read_link
from minidock.store.sealing import in_sealed_process
from minidock.store.views import View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot


def mount(root: DataRoot, name: str, directory: str = "") -> View:
    """Mount a read-only view.

    Shape:   name: a container, an image, or a layer by its chain ID or its directory's name, or the beginning of one;
             directory: where, "" for one made below /run/minidock; the data root may be opened for reading only
    Returns: the View; umount takes it away, as does the removal of its container. Neither the mount nor reading through
             it moves a time of the root
    Raises:  NotFound, StoreCorrupt for a damaged stack, UsageError for what is no directory, SyscallError
    """
    target = ""
    if directory:
        target = os.path.realpath(directory)
        if not os.path.isdir(target):
            raise UsageError(f"{directory} is not a directory")
    kind, identity, layers, pid = in_sealed_process(root.path, lambda: _find(root, name))
    if not target:
        own = f"{identity.removeprefix('sha256:')[:12]}-{os.urandom(3).hex()}"
        target = view.make_run_directory(f"{mounted.VIEWS}/{own}")
    try:
        if pid and not _mount_running(root, identity, pid, target):
            # It has just ended.
            kind, identity, layers, _ = in_sealed_process(root.path, lambda: _find(root, identity, is_ended=True))
            pid = 0
        if not pid:
            view.mount_layers(root.path, layers, kind, identity, target, trace=root.trace)
    except BaseException:
        if not directory:
            os.rmdir(target)
        raise
    return View(kind, identity, target, root.path)


def _find(root: DataRoot, name: str, *, is_ended: bool = False) -> tuple[str, str, list[str], int]:
    """Kind, ID and lowers of what a name names, topmost first; and the process of a container that runs, else 0."""
    try:
        container = root.containers.get(name)
    except NoSuchContainer:
        pass
    else:
        if not is_ended and container.is_running():
            return "container", container.id, [], container.state.pid
        layer = container.layer
        check_rw(root, layer)
        own = f"l/{read_link(root.overlay_path, layer.mount_id)}"
        return "container", container.id, [own, *layer.lowers], 0
    try:
        image = root.images.resolve(name)
    except (NoSuchImage, InvalidReference):
        chain_id = _find_layer(root, name)
        return "layer", chain_id, [f"l/{link}" for link in root.layers.links(chain_id)], 0
    if image.chain_id is None:
        raise UsageError(f"image {name} has no layers")
    return "image", image.image_id, [f"l/{link}" for link in root.layers.links(image.chain_id)], 0


def _find_layer(root: DataRoot, name: str) -> ChainID:
    digits = name.removeprefix("sha256:")
    chain_ids = root.layers.all()
    found = [chain_id for chain_id in chain_ids if digits and chain_id.hex.startswith(digits)]
    if not found and len(digits) >= 12:
        for chain_id in chain_ids:
            try:
                if root.layers.get(chain_id).cache_id.startswith(digits):
                    found.append(chain_id)
            except NotFound:
                continue
    if len(found) != 1:
        hint = f"{len(found)} layers begin so" if found else ""
        raise NoSuchLayer(f"no such image, container or layer: {name}", hint=hint)
    return found[0]


def _mount_running(root: DataRoot, container_id: str, pid: int, target: str) -> bool:
    """Mount what a running container sees; False when it has just ended."""
    try:
        pidfd = pidfd_open(pid)
    except SyscallError:
        return False
    try:
        # Only now the process cannot become another one.
        if in_sealed_process(root.path, lambda: _find(root, container_id))[3] != pid:
            return False
        view.mount_running(root.path, pidfd, target)
    finally:
        os.close(pidfd)
    return True


def views(root: DataRoot) -> list[View]:
    """The views that are mounted now, of this root's containers and of all images and layers."""
    with Evidence.open(root.path) as evidence:
        catalogue = Catalogue(evidence)
        mount_ids: dict[str, str] = {catalogue.mount(name).mount_id: name for name in catalogue.container_ids()}
    mount_ids.pop("", None)
    return mounted.views(root.path, mount_ids)


def umount(root: DataRoot, directory: str) -> View:
    """Take a view away; raises NotFound when there is none at this directory, SyscallError(EBUSY) when it is in use."""
    target = os.path.realpath(directory)
    found = [one for one in views(root) if one.target == target]
    if not found:
        raise NotFound(f"no view is mounted at {directory}", hint="minidock mount lists them")
    mounted.unmount_view(found[-1])
    return found[-1]
