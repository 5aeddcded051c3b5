"""docker ps: what containers there are and how they are."""

from __future__ import annotations

import os
import time

from minidock.errors import MinidockError, NoSuchContainer, UsageError
from minidock.formats.human import human_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from minidock.store.containers import Container
    from minidock.store.root import DataRoot

_FILTERS = (
    "health", "id", "name", "label", "status", "exited", "ancestor", "before", "since", "volume", "network", "publish",
    "expose", "is-task",
)  # fmt: skip
_TRUE, _FALSE = ("1", "true"), ("0", "false")
_STATUSES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")


class ContainerSummary:
    """One row of ps.

    Shape: image as typed, or `sha256:…` when that name means another image by now; command unquoted and whole;
           state one word, status docker's phrase; size_bytes and root_size_bytes None unless asked for
    """

    __slots__ = (
        "command",
        "created_ns",
        "id",
        "image",
        "image_id",
        "labels",
        "local_volumes",
        "mounts",
        "names",
        "networks",
        "ports",
        "root_size_bytes",
        "size_bytes",
        "state",
        "status",
    )

    def __init__(self, container: Container, image: str, now_ns: int, ports: dict[str, Any]) -> None:
        config = container.light_config
        self.id = container.id
        self.image = image
        self.image_id = config.image_id
        self.command = command_text(config.path, config.arguments)
        self.created_ns = config.created_ns
        self.state = container.state.shown_status()
        self.status = status_text(container, now_ns)
        self.names = config.name
        self.labels = config.labels
        self.ports = _ports_text(ports)
        self.networks = list(_networks(container))
        # A volume by its name, as docker has it.
        self.mounts = [str(point.get("Name") or point.get("Source", "")) for point in config.mount_points]
        self.local_volumes = sum(point.get("Driver") == "local" for point in config.mount_points)
        self.size_bytes: int | None = None
        self.root_size_bytes: int | None = None


def command_text(path: str, arguments: list[str]) -> str:
    """The command in one line; arguments with blanks in single quotes. Source: moby container/view.go"""
    words = [path]
    for argument in arguments:
        words.append(f"'{argument}'" if " " in argument else argument)
    return " ".join(words)


def status_text(container: Container, now_ns: int) -> str:
    """`Up 3 minutes`, `Exited (0) 5 seconds ago`, `Created`. Source: moby container/state.go, String"""
    state = container.state
    status = state.shown_status()
    if status in ("running", "paused"):
        paused = " (Paused)" if status == "paused" else ""
        return f"Up {human_duration(max(0, now_ns - state.started_ns))}{paused or _health_text(container)}"
    if status == "restarting":
        return f"Restarting ({state.exit_code}) {human_duration(max(0, now_ns - state.finished_ns))} ago"
    if status == "dead":
        return "Dead"
    if not state.started_ns:
        return "Created"
    # Of a process that ended unseen only the start is known.
    finished_ns = state.finished_ns or state.started_ns
    return f"Exited ({state.shown_exit_code()}) {human_duration(max(0, now_ns - finished_ns))} ago"


def _health_of(container: Container) -> str:
    """`none`, `starting`, `healthy` or `unhealthy`."""
    if not container.light_config.run.get("Healthcheck"):
        return "none"
    from minidock.runtime.health import shown_health

    return str((shown_health(container) or {}).get("Status", "none"))


def _health_text(container: Container) -> str:
    word = _health_of(container)
    return {"none": "", "starting": " (health: starting)"}.get(word, f" ({word})")


def ps(
    root: DataRoot, *, all: bool = False, last: int = -1, filters: Sequence[str] = (), size: bool = False
) -> list[ContainerSummary]:
    """List containers, newest first.

    Shape:   all also those that do not run; last N newest whatever their state; filters `key=value`, of one key any
             may match, of several keys each must; size counts bytes, which walks the layers
    Raises:  UsageError for an unknown filter, NoSuchContainer for an unknown `before` or `since`
    """
    wanted = _read_filters(filters)
    containers = root.containers.all()
    if not (all or last > 0 or "status" in wanted or "exited" in wanted):
        containers = [one for one in containers if one.state.shown_status() in ("running", "paused", "restarting")]
    images = _ImageNames(root)
    chosen = [one for one in containers if not wanted or _matches(root, one, wanted, images)]
    if last > 0:
        chosen = chosen[:last]
    now_ns = time.time_ns()
    rows = [ContainerSummary(one, images.shown(one), now_ns, _ports_of(root, one)) for one in chosen]
    if size:
        for container, row in zip(chosen, rows, strict=True):
            _measure(root, container, row)
    return rows


def _networks(container: Container) -> dict[str, Any]:
    settings = container.document.get("NetworkSettings")
    networks = settings.get("Networks") if isinstance(settings, dict) else None
    return networks if isinstance(networks, dict) else {}


def _ports_of(root: DataRoot, container: Container) -> dict[str, Any]:
    """NetworkSettings.Ports of a container, empty while it does not run."""
    networks = _networks(container)
    if not container.is_running() or all(name in ("none", "host") for name in networks):
        return {}
    member = root.endpoints.get(container.id)
    if member is None:
        return {}
    from minidock.verbs.port import ports_of

    return ports_of(container, member)


def _ports_text(ports: dict[str, Any]) -> str:
    if not ports:
        return ""
    from minidock.formats.portspec import ports_text

    return ports_text(ports)


def _read_filters(filters: Sequence[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        key = key.strip().lower()
        if not equals:
            raise UsageError(f"bad format of filter (expected name=value): {text}")
        if key not in _FILTERS:
            raise UsageError(f"Invalid filter '{key}'")
        if key == "status" and value not in _STATUSES:
            raise UsageError(f"Invalid filter 'status={value}'")
        if key == "health" and value not in ("none", "starting", "healthy", "unhealthy"):
            raise UsageError(f"Unrecognised filter value for health: {value}")
        if key == "exited" and not (value.isascii() and value.removeprefix("-").isdecimal()):
            raise UsageError(f'strconv.Atoi: parsing "{value}": invalid syntax')
        if key == "is-task" and value not in _TRUE + _FALSE:
            raise UsageError(f"Invalid filter 'is-task=[{value}]'")
        if key in ("publish", "expose"):
            from minidock.verbs.portfilters import parse_ports

            parse_ports(key, value)
        wanted.setdefault(key, []).append(value)
    return wanted


def _matches(root: DataRoot, container: Container, wanted: dict[str, list[str]], images: _ImageNames) -> bool:
    config = container.light_config
    state = container.state
    for key, values in wanted.items():
        if key == "id":
            fits = any(_fits(value, container.id) for value in values)
        elif key == "name":
            fits = any(_fits(value, config.name) or _fits(value, "/" + config.name) for value in values)
        elif key == "label":
            fits = all(_has_label(config.labels, value) for value in values)
        elif key == "health":
            fits = _health_of(container) in values
        elif key == "status":
            fits = state.shown_status() in values
        elif key == "exited":
            ended = state.shown_status() == "exited"
            fits = ended and any(int(value) == state.shown_exit_code() for value in values)
        elif key == "ancestor":
            fits = any(images.descends(config.image_id, value) for value in values)
        elif key == "before":
            fits = all(container.created_ns < _created_ns(root, value) for value in values)
        elif key == "since":
            fits = all(container.created_ns > _created_ns(root, value) for value in values)
        elif key == "is-task":
            # There is no swarm whose task one could be.
            fits = any(value in _FALSE for value in values)
        elif key in ("publish", "expose"):
            from minidock.verbs.portfilters import has_port

            fits = has_port(_ports_of(root, container), wanted.get("publish", ()), wanted.get("expose", ()))
        elif key == "network":
            fits = any(value in _networks(container) for value in values)
        else:
            fits = any(
                value in (point.get("Name"), point.get("Source"), point.get("Destination"))
                for value in values
                for point in config.mount_points
            )
        if not fits:
            return False
    return True


def _created_ns(root: DataRoot, name: str) -> int:
    try:
        return root.containers.get(name).created_ns
    except NoSuchContainer:
        raise NoSuchContainer(f"no such container {name}") from None


def _fits(pattern: str, text: str) -> bool:
    if pattern in text:
        return True
    if not set("^$.*+?[](){}|\\").intersection(pattern):
        return False
    import re

    try:
        return re.search(pattern, text) is not None
    except re.error:
        return False


def _has_label(labels: dict[str, str], value: str) -> bool:
    key, equals, wanted = value.partition("=")
    return key in labels and (not equals or labels[key] == wanted)


class _ImageNames:
    """What the images of containers are called today."""

    __slots__ = ("_cache", "references", "root")

    def __init__(self, root: DataRoot) -> None:
        self.root = root
        self.references: dict[str, str] | None = None
        self._cache: dict[tuple[str, str], str] = {}

    def shown(self, container: Container) -> str:
        """The name as typed if it still means the container's image, else the image's ID."""
        key = (container.image, container.image_id)
        if key not in self._cache:
            self._cache[key] = self._shown(*key)
        return self._cache[key]

    def _shown(self, name: str, image_id: str) -> str:
        if not image_id or name == image_id or image_id.removeprefix("sha256:").startswith(name):
            return name
        if self.references is None:
            self.references = dict(self.root.references.readable())
        for candidate in (name, f"{name}:latest"):
            if candidate in self.references:
                return name if self.references[candidate] == image_id else image_id
        return name if self._resolve(name) == image_id else image_id

    def _resolve(self, name: str) -> str:
        try:
            return self.root.images.resolve(name).image_id
        except MinidockError:
            return ""

    def descends(self, image_id: str, name: str) -> bool:
        """Whether an image is, or was made on top of, the one called name."""
        wanted = self._resolve(name)
        if not wanted:
            return False
        if image_id == wanted:
            return True
        try:
            from minidock.ids import ImageID

            below = self.root.images.resolve(name).config.diff_ids
            return bool(below) and self.root.images.get(ImageID(image_id)).config.diff_ids[: len(below)] == below
        except MinidockError:
            return False


def _measure(root: DataRoot, container: Container, row: ContainerSummary) -> None:
    layer = container.layer
    row.size_bytes = tree_size(f"{root.overlay_path}/{layer.mount_id}/diff")
    below = sum(one.size_bytes for one in root.layers.stack(layer.chain_id)) if layer.chain_id else 0
    row.root_size_bytes = row.size_bytes + below


def tree_size(path: str) -> int:
    """Bytes of the regular files below path, hard links counted once, as `docker ps -s` counts."""
    total = 0
    seen: set[int] = set()
    queue = [path]
    while queue:
        with os.scandir(queue.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    queue.append(entry.path)
                    continue
                status = entry.stat(follow_symlinks=False)
                if status.st_ino not in seen:
                    seen.add(status.st_ino)
                    total += status.st_size
    return total
