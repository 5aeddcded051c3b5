"""The volumes of a container in the making: which there are, and what the image puts into the new ones.

Source: moby daemon/create_unix.go, daemon/volumes.go, container/container_unix.go CopyImagePathContent
"""

from __future__ import annotations

import errno
import os

from minidock.errors import Conflict, SyscallError, UsageError
from minidock.formats.mountpoint import volume_point_document
from minidock.formats.mountspec import VolumeRequest, clean_path
from minidock.ids import random_hex64
from minidock.linux.paths import open_in_root
from minidock.runtime.containermounts import volume_mount
from minidock.runtime.merged import open_layers
from minidock.store.overlay2 import read_link
from minidock.store.treecopy import copy_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from minidock.formats.volumeoptions import VolumeMount
    from minidock.store.root import DataRoot

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class ContainerVolumes:
    """The volumes that one container will mount.

    Shape: points: MountPoints entries by destination, to be put below those of binds; requests: name to what asks
           for it, in the order in which they are made
    """

    __slots__ = ("_made", "_requests", "_root", "points")

    def __init__(self, root: DataRoot) -> None:
        self.points: dict[str, dict[str, Any]] = {}
        self._root = root
        self._requests: list[tuple[str, VolumeRequest]] = []
        self._made: list[str] = []

    def take_from(self, texts: Iterable[str]) -> None:
        """Take over what other containers mount: `container[:ro|rw]`; raises NoSuchContainer, UsageError."""
        for text in texts:
            name, _, mode = text.partition(":")
            if not name:
                raise UsageError("volumes-from specification cannot be an empty string")
            if mode not in ("", "ro", "rw", "z", "Z"):
                raise UsageError(f"invalid mode: {mode}")
            for point in self._root.containers.get(name).light_config.mount_points:
                taken = {key: value for key, value in point.items() if key != "Relabel"}
                taken["RW"] = point.get("RW") is not False and mode != "ro"
                self.points[str(point.get("Destination", ""))] = taken

    def add(self, request: VolumeRequest, *, from_mount_flag: bool) -> None:
        """One volume of the command line."""
        name = request.name or random_hex64()
        self._requests.append((name, request))
        path = f"{self._root.volumes.path}/{name}/_data"
        self.points[request.target] = volume_point_document(request, name, path, from_mount_flag=from_mount_flag)

    def add_plain(self, targets: Iterable[str], taken: Iterable[str]) -> None:
        """Anonymous volumes at the paths of the image and of -v, where nothing else will be."""
        for target in sorted(map(clean_path, targets)):
            if target not in self.points and target not in taken:
                if not target.startswith("/"):
                    raise UsageError(f"invalid mount path: '{target}' mount path must be absolute")
                self.add(VolumeRequest("", target, is_plain=True), from_mount_flag=False)

    def make(self, overlay_path: str, image_lowers: list[str], init_id: str) -> None:
        """Make the volumes that are new, each filled before it appears, and fill those that are empty.

        Raises: UsageError, Conflict for a file in a volume's place; SyscallError
        """
        volumes = self._root.volumes
        layers = [f"l/{read_link(overlay_path, init_id)}", *image_lowers] if image_lowers else []
        tree = _ImageTree(self._root, overlay_path, layers)
        try:
            with self._root.stage() as stage:
                for name, request in self._requests:
                    path = f"{volumes.path}/{name}"
                    is_new = not volumes.has(name)
                    if is_new:
                        path = volumes.stage_volume(stage, request.labels or None, request.options)
                    if request.copies:
                        self._fill(tree, request, path)
                    if is_new:
                        volumes.publish(path, name)
                        self._made.append(name)
        finally:
            tree.close()

    def _fill(self, tree: _ImageTree, request: VolumeRequest, path: str) -> None:
        wanted = volume_mount(path) if os.path.exists(f"{path}/opts.json") else None
        if wanted is None:
            tree.fill(request, f"{path}/_data")
        elif not wanted.is_read_only:
            mounted = self._open(wanted, request.name, path)
            if mounted < 0:
                return
            try:
                tree.fill(request, f"/proc/self/fd/{mounted}/.")
            finally:
                os.close(mounted)

    def _open(self, wanted: VolumeMount, name: str, path: str) -> int:
        """The volume's mount; -1 where its content would be gone before the container starts, as with docker."""
        if not wanted.keeps_content:
            from minidock.runtime.volumemount import open_volume

            return open_volume(wanted, f"{self._root.volumes.path}/{name}/_data")
        from minidock.runtime.volumespace import find_space, open_space

        space_fd = find_space(path)
        if space_fd < 0:
            return -1
        try:
            return open_space(space_fd)
        finally:
            os.close(space_fd)

    def undo(self) -> None:
        """Take back what was made for a container that did not come to be."""
        with self._root.stage() as stage:
            for name in self._made:
                self._root.volumes.remove(stage, name)


class _ImageTree:
    """What the container will find in its root, opened when it is first asked for."""

    __slots__ = ("_fd", "_layers", "_overlay_path", "_root")

    def __init__(self, root: DataRoot, overlay_path: str, layers: list[str]) -> None:
        self._root = root
        self._overlay_path = overlay_path
        self._layers = layers
        self._fd = -1

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def fill(self, request: VolumeRequest, data_path: str) -> None:
        """Copy the directory at the request's target into the volume, if that is empty."""
        if not self._layers:
            return
        target = os.open(data_path, _DIRECTORY_FLAGS | os.O_NOFOLLOW)
        try:
            if os.listdir(target):
                return
            source = self._open(request)
            if source >= 0:
                try:
                    self._root.tell("write", f"{data_path}: what the image has at {request.target}")
                    copy_tree(source, target)
                finally:
                    os.close(source)
        finally:
            os.close(target)

    def _open(self, request: VolumeRequest) -> int:
        """The image's directory at the target, or -1 where there is none."""
        if self._fd < 0:
            self._fd = open_layers(self._overlay_path, self._layers, trace=self._root.trace)
        try:
            return open_in_root(self._fd, os.fsencode(request.target), _DIRECTORY_FLAGS)
        except SyscallError as error:
            if error.errno == errno.ENOENT:
                return -1
            if error.errno == errno.ENOTDIR:
                raise Conflict(f"cannot mount volume over existing file, file exists {request.target}") from None
            raise
