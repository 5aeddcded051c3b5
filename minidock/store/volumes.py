"""volumes/<name>: directories that outlive containers, laid out as Docker's engine does it.

    ROOT/volumes/<name>/_data          what containers see
    ROOT/volumes/<name>/opts.json      the options of a volume that must be mounted first; see formats/volumeoptions.py
    ROOT/volumes/<name>/minidock.json  labels and time of our own volumes
    ROOT/volumes/metadata.db           what the engine keeps of its own, their labels above all: bbolt, only read here

A volume appears whole, by one rename, and disappears into a stage. Who uses it is read from the containers' records
at every question. What an image holds at a volume's place is copied in before its first use; see treecopy.py.

Source: moby volume/local/local.go, volume/service/store.go
"""

from __future__ import annotations

import os

from minidock.errors import Conflict, FormatError, NoSuchVolume, StoreError, SyscallError
from minidock.formats.containerconfig import time_of, time_text
from minidock.formats.gojson import encode_json, parse_json
from minidock.formats.mountspec import check_volume_name, is_volume_name
from minidock.store.overlay2 import remove_rw
from minidock.store.transaction import make_directory, read_small, refuse_mounted, sync_directory, write_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.containers import Container
    from minidock.store.root import DataRoot
    from minidock.store.transaction import Stage

_MAX_BYTES = 1 << 20
_OWN_FILE = "minidock.json"


class Volume:
    """One volume.

    Shape: path: its directory; options: the engine's, from opts.json; labels: None when nothing was written down
    """

    __slots__ = ("created_ns", "labels", "name", "options", "path")

    def __init__(
        self, name: str, path: str, labels: dict[str, str] | None, options: dict[str, str], created_ns: int
    ) -> None:
        self.name = name
        self.path = path
        self.labels = labels
        self.options = options
        self.created_ns = created_ns

    @property
    def data_path(self) -> str:
        """The directory that containers see."""
        return f"{self.path}/_data"

    @property
    def is_anonymous(self) -> bool:
        """Whether nobody named it: the engine's random names are 64 hexadecimal digits."""
        return is_anonymous_name(self.name)


def data_size(path: str) -> int:
    """Bytes of the files in a volume, hard links counted once, never through a symlink; path is the volume's own."""
    from minidock.store.upper import walk_upper

    handle = os.open(f"{path}/_data", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        sizes = {
            entry.status.st_ino: entry.status.st_size
            for entry in walk_upper(handle, skip_vanished=True)
            if not entry.is_directory
        }
        return sum(sizes.values())
    finally:
        os.close(handle)


def is_anonymous_name(name: str) -> bool:
    """Whether a volume's name is one that an engine makes up."""
    return len(name) == 64 and not name.strip("0123456789abcdef")


def read_options(path: str) -> dict[str, str]:
    """The options of the volume in this directory, none for one that is not mounted; raises StoreError."""
    try:
        document = parse_json(read_small(f"{path}/opts.json"), what=f"{path}/opts.json", limit_bytes=_MAX_BYTES)
    except FileNotFoundError:
        return {}
    except FormatError as error:
        raise StoreError(error.message) from None
    from minidock.formats.volumeoptions import decode_volume_options

    return decode_volume_options(document)


class VolumeStore:
    """The volumes of a data root."""

    __slots__ = ("_engines_labels", "path", "root")

    def __init__(self, root: DataRoot) -> None:
        self.root = root
        self.path = f"{root.path}/volumes"
        self._engines_labels: dict[str, dict[str, str]] | None = None

    def names(self) -> list[str]:
        """The names of all volumes, sorted: every directory with a name that a volume may have."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if is_volume_name(name) and _is_directory(f"{self.path}/{name}"))

    def has(self, name: str) -> bool:
        """Whether there is a volume of this name."""
        return is_volume_name(name) and _is_directory(f"{self.path}/{name}")

    def get(self, name: str) -> Volume:
        """One volume; raises NoSuchVolume, StoreError."""
        if not self.has(name):
            raise NoSuchVolume(f"No such volume: {name}")
        path = f"{self.path}/{name}"
        labels, created_ns = _read_own(path)
        if labels is None:
            labels = self._labels_of_engine().get(name)
        return Volume(name, path, labels, read_options(path), created_ns or os.lstat(path).st_ctime_ns)

    def _labels_of_engine(self) -> dict[str, dict[str, str]]:
        """The labels of the volumes that an engine made, by name; none where its database cannot be read."""
        if self._engines_labels is None:
            try:
                self._engines_labels = _read_engines_labels(f"{self.path}/metadata.db")
            except (FormatError, OSError):
                self._engines_labels = {}
        return self._engines_labels

    def all(self) -> list[Volume]:
        """Every whole volume, by name; a damaged one is named by DataRoot.faults()."""
        found = []
        for name in self.names():
            try:
                found.append(self.get(name))
            except (StoreError, NoSuchVolume):
                continue
        return found

    def stage_volume(self, stage: Stage, labels: dict[str, str] | None, options: dict[str, str] | None = None) -> str:
        """Prepare an empty volume in a stage; its path is what publish takes."""
        path = stage.new_path("volume")
        make_directory(path, 0o701)
        make_directory(f"{path}/_data", 0o755)
        if labels is not None:
            document = {"CreatedAt": time_text(self.root.now_ns()), "Labels": dict(sorted(labels.items()))}
            write_new(f"{path}/{_OWN_FILE}", encode_json(document) + b"\n", 0o600, durable=True)
        if options:
            from minidock.formats.volumeoptions import encode_volume_options

            write_new(f"{path}/opts.json", encode_volume_options(options), 0o600, durable=True)
        return path

    def publish(self, staged: str, name: str) -> Volume:
        """Make a prepared volume visible under its name, which must be free; the caller holds the root's lock."""
        if not os.path.isdir(self.path):
            make_directory(self.path, 0o701)
        target = f"{self.path}/{check_volume_name(name)}"
        self.root.tell("write", target)
        try:
            os.rename(staged, target)
            sync_directory(self.path)
        except OSError as error:
            raise SyscallError(f"rename to {target}", error.errno or 5) from None
        return self.get(name)

    def create(self, name: str, labels: dict[str, str] | None = None, options: dict[str, str] | None = None) -> Volume:
        """Make an empty volume, or find the one of this name; raises UsageError for a bad name."""
        check_volume_name(name)
        with self.root.stage() as stage, self.root.lock():
            if self.has(name):
                return self.get(name)
            return self.publish(self.stage_volume(stage, labels, options), name)

    def remove(self, stage: Stage, name: str) -> None:
        """Take a volume away, its content with it when the stage ends; the caller knows that nothing uses it.

        Raises: NoSuchVolume; Conflict when something is mounted in it
        """
        if not self.has(name) or not stage.remove_tree(f"{self.path}/{name}"):
            raise NoSuchVolume(f"No such volume: {name}")

    def users(self) -> dict[str, list[str]]:
        """Volume name to the IDs of the containers that mount it, running or not."""
        users: dict[str, list[str]] = {}
        if self.root.has_containers():
            for container in self.root.containers.all():
                for name in volume_names(container):
                    users.setdefault(name, []).append(container.id)
        return users

    def refuse_in_use(self, name: str) -> None:
        """Raise Conflict, in the engine's words, when a container uses the volume."""
        using = self.users().get(name)
        if using:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(using)}]")


def volume_names(container: Container) -> list[str]:
    """The volumes that a container mounts, each once."""
    return list(dict.fromkeys(name for point in container.light_config.mount_points if (name := volume_of(point))))


def anonymous_names(container: Container) -> list[str]:
    """The volumes of a container that were made for it without a name: `rm -v` takes them along."""
    points = container.light_config.mount_points
    return list(dict.fromkeys(name for point in points if (name := volume_of(point)) and not _named(point)))


def remove_with_volumes(container: Container) -> None:
    """Remove a container and its anonymous volumes that no other one uses; the caller holds the container's lock.

    Shape:  the container's record goes last, so whoever sees it gone finds its volumes gone, too; a kill in between
            has the next sweep finish both
    Raises: Conflict when something is mounted below one of its directories, before anything is removed
    """
    root = container.root
    with root.stage() as stage, root.lock():
        users = root.volumes.users()
        names = [name for name in anonymous_names(container) if root.volumes.has(name)]
        names = [name for name in names if users.get(name, []) in ([], [container.id])]
        for name in names:
            refuse_mounted(f"{root.volumes.path}/{name}")
        for name in names:
            stage.mark("volume", name)
        remove_rw(root, stage, container.id)
        for name in names:
            root.volumes.remove(stage, name)
        stage.remove_tree(container.path, is_checked=True)


def volume_of(point: dict[str, Any]) -> str:
    """The volume of a MountPoints entry, or nothing."""
    name = point.get("Name")
    return name if point.get("Type") == "volume" and isinstance(name, str) else ""


def _named(point: dict[str, Any]) -> bool:
    # As the engine tells them apart at removal.
    spec = point.get("Spec")
    return isinstance(spec, dict) and bool(spec.get("Source"))


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _read_engines_labels(path: str) -> dict[str, dict[str, str]]:
    from minidock.formats.boltdb import MAX_BYTES, read_bucket

    labels: dict[str, dict[str, str]] = {}
    for key, value in read_bucket(read_small(path, MAX_BYTES), b"volumes").items():
        document = parse_json(value, what="metadata.db", limit_bytes=_MAX_BYTES)
        found = document.get("Labels")
        if isinstance(found, dict):
            texts = {name: text for name, text in found.items() if isinstance(text, str)}
            labels[key.decode("utf-8", "replace")] = texts
    return labels


def _read_own(path: str) -> tuple[dict[str, str] | None, int]:
    try:
        raw = read_small(f"{path}/{_OWN_FILE}")
        document = parse_json(raw, what=f"{path}/{_OWN_FILE}", limit_bytes=_MAX_BYTES)
    except (FileNotFoundError, FormatError):
        return None, 0
    labels, created = document.get("Labels"), document.get("CreatedAt")
    labels = labels if isinstance(labels, dict) else {}
    texts = {key: value for key, value in labels.items() if isinstance(value, str)}
    return texts, time_of(created) if isinstance(created, str) else 0
