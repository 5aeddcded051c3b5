"""`inspect`: all that is known of an image, in the words of the engine's API."""

from __future__ import annotations

import os

from minidock.constants import DRIVER, ZERO_TIME_NS
from minidock.errors import (
    FormatError,
    InvalidReference,
    MinidockError,
    NoSuchContainer,
    NoSuchImage,
    NotFound,
    StoreCorrupt,
    UsageError,
)
from minidock.formats.gojson import format_time, parse_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from minidock.ids import CacheID
    from minidock.store.imagedb import Image
    from minidock.store.root import DataRoot


def inspect(
    root: DataRoot, names: Sequence[str], *, type: str | None = None, found: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Inspect containers, images and volumes; a name is a container's first, then an image's, as docker has it.

    Shape:   type: "container", "image", "volume" or None for any; found: documents are added to this list as they are
             found
    Returns: found, one document a name
    Raises:  NotFound for the first name that is none, after the others were tried; further ones are notes
    """
    if type not in (None, "container", "image", "volume"):
        raise UsageError(f'"{type}" is not a valid value for --type')
    found = [] if found is None else found
    failures: list[MinidockError] = []
    for name in names:
        try:
            found.append(_inspect_one(root, name, type))
        except (NotFound, InvalidReference, FormatError, StoreCorrupt) as error:
            failures.append(error)
    if failures:
        for further in failures[1:]:
            failures[0].add_note(str(further))
        raise failures[0]
    return found


def _inspect_one(root: DataRoot, name: str, type: str | None) -> dict[str, Any]:
    if type == "volume":
        return inspect_volume(root, name)
    if type != "image" and root.has_containers():
        from minidock.verbs.inspect_container import inspect_container

        try:
            return inspect_container(root, name)
        except NoSuchContainer:
            if type == "container":
                raise
    if type == "container":
        raise NoSuchContainer(f"No such container: {name}")
    try:
        return inspect_image(root, name)
    except NoSuchImage as error:
        if type == "image":
            raise NoSuchImage(f"No such image: {name}", hint=error.hint) from None
        if os.path.isdir(f"{root.path}/volumes") and root.volumes.has(name):
            return inspect_volume(root, name)
        raise NotFound(
            f"No such object: {name}", hint="minidock ps -a, images and volume ls list what there is"
        ) from None


def inspect_volume(root: DataRoot, name: str) -> dict[str, Any]:
    """A volume in the shape and key order of docker's API; raises NoSuchVolume."""
    volume = root.volumes.get(name)
    return {
        "CreatedAt": _local_time(volume.created_ns),
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": volume.data_path,
        "Name": volume.name,
        "Options": volume.options or (None if volume.labels is None else {}),
        "Scope": "local",
    }


def _local_time(moment_ns: int) -> str:
    """A moment in RFC 3339 with the local offset, as the engine tells it of volumes alone."""
    import time

    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(moment_ns // 1_000_000_000))
    return text[:-5] + ("Z" if text.endswith("+0000") else f"{text[-5:-2]}:{text[-2:]}")


def inspect_image(root: DataRoot, name: str) -> dict[str, Any]:
    """An image in the shape and key order of docker's API.

    Raises: NoSuchImage, InvalidReference, BadConfig, StoreCorrupt, NoSuchLayer
    Source: moby daemon/images/image_inspect.go; API 1.41, ImageInspect
    """
    # Imported here: a container's inspection, the more frequent one, needs none of it.
    from minidock.formats.imageconfig import order_run_config
    from minidock.store.references import names_of

    image = root.images.resolve(name)
    config = image.config
    document = config.document
    references = names_of(image.image_id, root.references.readable())
    history = config.history
    layers = root.layers.stack(image.chain_id) if image.chain_id else []
    size_bytes = sum(layer.size_bytes for layer in layers)
    run_config = document.get("config")
    rootfs: dict[str, Any] = {"Type": document["rootfs"].get("type") or "layers"}
    if config.diff_ids:
        rootfs["Layers"] = list(config.diff_ids)
    answer = {
        "Id": image.image_id,
        "RepoTags": [reference for reference in references if "@" not in reference],
        "RepoDigests": [reference for reference in references if "@" in reference],
        "Parent": image.parent or "",
        "Comment": config.comment or (history[-1].comment if history else ""),
        "Created": _time(config.created),
        "Container": document.get("container") or "",
        "ContainerConfig": order_run_config(document.get("container_config") or {}),
        "DockerVersion": document.get("docker_version") or "",
        "Author": config.author,
        "Config": None if run_config is None else order_run_config(run_config),
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os or "linux",
        "OsVersion": document.get("os.version") or "",
        "Size": size_bytes,
        "VirtualSize": size_bytes,
        "GraphDriver": {"Data": _graph_data(root, layers[0].cache_id) if layers else None, "Name": DRIVER},
        "RootFS": rootfs,
        "Metadata": {"LastTagTime": _last_tag_time(image)},
    }
    for optional in ("Variant", "OsVersion"):
        if not answer[optional]:
            del answer[optional]
    return answer


def _graph_data(root: DataRoot, cache_id: CacheID) -> dict[str, str] | None:
    from minidock.store import overlay2

    where = f"{root.overlay_path}/{cache_id}"
    try:
        names = overlay2.read_lowers(root.overlay_path, cache_id)
    except StoreCorrupt:
        return None
    lowers = [os.path.normpath(f"{root.overlay_path}/l/{os.readlink(f'{root.overlay_path}/{name}')}") for name in names]
    data = {"LowerDir": ":".join(lowers)} if lowers else {}
    return {**data, "MergedDir": f"{where}/merged", "UpperDir": f"{where}/diff", "WorkDir": f"{where}/work"}


def _time(text: str) -> str:
    if not text.endswith("Z"):
        return text or format_time(ZERO_TIME_NS)
    return format_time(parse_time(text))


def _last_tag_time(image: Image) -> str:
    return format_time(image.last_updated_ns or ZERO_TIME_NS)
