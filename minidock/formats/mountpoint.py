"""Entries of config.v2.json's MountPoints, as Docker writes them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.formats.mountspec import BindRequest, TmpfsRequest, VolumeRequest


def mount_point_document(bind: BindRequest, *, from_mount_flag: bool) -> dict[str, Any]:
    """The entry of config.v2.json's MountPoints for a bind. Source: shared format notes §5.1"""
    document: dict[str, Any] = {
        "Source": bind.source,
        "Destination": bind.target,
        "RW": not bind.read_only,
        "Name": "",
        "Driver": "",
        "Type": "bind",
    }
    if bind.mode_text:
        document["Relabel"] = bind.mode_text
    document["Propagation"] = bind.propagation
    spec: dict[str, Any] = {"Type": "bind", "Source": bind.source, "Target": bind.target}
    if bind.read_only:
        spec["ReadOnly"] = True
    if bind.propagation != "rprivate" or not bind.recursive:
        options: dict[str, Any] = {}
        if bind.propagation != "rprivate":
            options["Propagation"] = bind.propagation
        if not bind.recursive:
            options["NonRecursive"] = True
        spec["BindOptions"] = options
    document["Spec"] = spec
    document["SkipMountpointCreation"] = from_mount_flag
    return document


def volume_point_document(
    request: VolumeRequest, name: str, data_path: str, *, from_mount_flag: bool = False
) -> dict[str, Any]:
    """The entry of config.v2.json's MountPoints for a volume.

    Shape: name is the volume's own; data_path what is mounted. Source: written by Docker 20.10
    """
    document: dict[str, Any] = {
        # A volume without a request of its own: the engine leaves its source to the volume.
        "Source": "" if request.is_plain else data_path,
        "Destination": request.target,
        "RW": not request.read_only,
        "Name": name,
        "Driver": "local",
        "Type": "volume",
    }
    if not request.is_plain:
        document["Relabel"] = "z" if from_mount_flag else request.mode_text or "z"
    document["Spec"] = request.spec_document()
    document["SkipMountpointCreation"] = False
    return document


def tmpfs_point_document(request: TmpfsRequest) -> dict[str, Any]:
    """The entry of config.v2.json's MountPoints for a tmpfs of --mount. Source: written by Docker 20.10"""
    return {
        "Source": "",
        "Destination": request.target,
        "RW": "ReadOnly" not in request.spec,
        "Name": "",
        "Driver": "",
        "Type": "tmpfs",
        "Spec": request.spec,
        "SkipMountpointCreation": False,
    }
