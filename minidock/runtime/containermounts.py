"""What a container's records ask to be mounted in it besides its root: binds, volumes, tmpfs.

Source: moby daemon/volumes_unix.go
"""

from __future__ import annotations

import os

from minidock.errors import UsageError
from minidock.runtime.spec import BindMount, TmpfsMount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.formats.volumeoptions import VolumeMount
    from minidock.store.containers import Container


def mounts_of(container: Container) -> tuple[list[BindMount], list[TmpfsMount]]:
    """The binds, volumes among them, and the tmpfs of a container's records; raises UsageError."""
    config = container.config
    binds: list[BindMount] = []
    tmpfs = [TmpfsMount(target, options) for target, options in sorted(config.host_map("Tmpfs").items())]
    for point in config.mount_points:
        kind, target = point.get("Type") or "bind", str(point.get("Destination", ""))
        if kind == "bind":
            mode = config.host_text("UsernsMode")
            binds.append(_bind(point, str(point.get("Source", "")), target, user_mode=mode))
        elif kind == "tmpfs":
            tmpfs.append(TmpfsMount(target, _tmpfs_options(point)))
        else:
            source = f"{container.root.path}/volumes/{point.get('Name', '')}/_data"
            if "/" in str(point.get("Name", "/")) or not os.path.isdir(source):
                raise UsageError(f"container {container.name}: volume {point.get('Name', '')} at {target} is not there")
            bind = _bind(point, source, target, is_own=True)
            if os.path.exists(f"{source[:-5]}opts.json"):
                volume = bind.volume = volume_mount(source[:-6])
                if volume is not None:
                    # What is on a device or elsewhere on the host has its owners already.
                    bind.is_own = volume.fstype == "tmpfs"
                    bind.read_only = bind.read_only or volume.is_read_only
            binds.append(bind)
    return binds, tmpfs


def volume_mount(path: str) -> VolumeMount | None:
    """What the options of the volume in this directory ask to be mounted; raises StoreError."""
    from minidock.formats.volumeoptions import VolumeMount
    from minidock.store.volumes import read_options

    options = read_options(path)
    return VolumeMount(options) if options else None


def _bind(point: dict[str, Any], source: str, target: str, *, is_own: bool = False, user_mode: str = "") -> BindMount:
    if not os.path.lexists(source):
        if point.get("SkipMountpointCreation"):
            raise UsageError(f'invalid mount config for type "bind": bind source path does not exist: {source}')
        _make_source(source, user_mode)
    spec = point.get("Spec") or {}
    options = spec.get("BindOptions") or {}
    return BindMount(
        source,
        target,
        read_only=point.get("RW") is False,
        propagation=str(point.get("Propagation") or "rprivate"),
        recursive=options.get("NonRecursive") is not True,
        is_own=is_own,
    )


def _make_source(path: str, user_mode: str) -> None:
    """Make a directory to bind, and what is missing above it, as the container's root's."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        _make_source(parent, user_mode)
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return
    if user_mode not in ("", "host"):
        from minidock.runtime.usermap import read_user_map

        user_map = read_user_map(user_mode)
        if user_map is not None:
            os.chown(path, *user_map.root())


def _tmpfs_options(point: dict[str, Any]) -> str:
    options = (point.get("Spec") or {}).get("TmpfsOptions") or {}
    words = ["ro"] if point.get("RW") is False else []
    if options.get("Mode"):
        words.append(f"mode={int(options['Mode']):o}")
    if options.get("SizeBytes"):
        words.append(f"size={int(options['SizeBytes'])}")
    return ",".join(words)
