"""docker volume: make, list, show and remove volumes. Source: moby volume/service/service.go"""

from __future__ import annotations

from minidock.errors import MinidockError, NoSuchVolume, UsageError
from minidock.formats.mountspec import check_volume_driver
from minidock.ids import random_hex64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.store.root import DataRoot
    from minidock.store.volumes import Volume

_FILTERS = ("dangling", "driver", "label", "name")
_TRUE, _FALSE = ("1", "true"), ("0", "false")


def create_volume(
    root: DataRoot,
    name: str = "",
    *,
    driver: str = "",
    labels: dict[str, str] | None = None,
    options: Sequence[str] = (),
) -> Volume:
    """Make a volume, or find the one of this name; without a name it gets 64 random digits.

    Shape:  options: `type=`, `device=` and `o=`, what is mounted there whenever a container uses it
    Raises: UsageError for a bad name, another driver, or other options
    """
    chosen = name or random_hex64()
    try:
        check_volume_driver(driver)
    except UsageError as error:
        raise UsageError(f"create {chosen}: {error.message}") from None
    wanted: dict[str, str] = {}
    if options:
        from minidock.formats.volumeoptions import parse_volume_options

        wanted = parse_volume_options(options, chosen)
    return root.volumes.create(chosen, labels or {}, wanted)


def list_volumes(root: DataRoot, filters: Sequence[str] = ()) -> list[Volume]:
    """The volumes that all filters want, by name.

    Shape:  filters: `dangling=`, `driver=`, `label=`, `name=`, of one key any may match
    Raises: UsageError for an unknown filter
    """
    wanted = _read_filters(filters)
    used = root.volumes.users() if "dangling" in wanted else {}
    return [volume for volume in root.volumes.all() if _matches(volume, wanted, used)]


def _read_filters(filters: Sequence[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        key = key.strip().lower()
        if not equals:
            raise UsageError("bad format of filter (expected name=value)")
        if key not in _FILTERS:
            raise UsageError(f"Invalid filter '{key}'")
        if key == "dangling" and value not in _TRUE + _FALSE:
            raise UsageError(f"Invalid filter 'dangling=[{value}]'")
        wanted.setdefault(key, []).append(value)
    return wanted


def _matches(volume: Volume, wanted: dict[str, list[str]], used: dict[str, list[str]]) -> bool:
    if "dangling" in wanted and (volume.name not in used) != (wanted["dangling"][0] in _TRUE):
        return False
    if "driver" in wanted and "local" not in wanted["driver"]:
        return False
    if "name" in wanted and not any(text in volume.name for text in wanted["name"]):
        return False
    return has_labels(volume.labels or {}, wanted.get("label", ()))


def has_labels(labels: dict[str, str], wanted: Sequence[str]) -> bool:
    """Whether each wanted `key` or `key=value` is there."""
    for text in wanted:
        key, equals, value = text.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def remove_volume(root: DataRoot, name: str, *, force: bool = False) -> None:
    """Remove a volume and all that is in it.

    Shape:   force: one that is not there is fine
    Raises:  NoSuchVolume; Conflict when a container uses it, running or not
    """
    with root.stage() as stage, root.lock():
        root.volumes.refuse_in_use(name)
        try:
            root.volumes.remove(stage, name)
        except NoSuchVolume:
            if not force:
                raise


def prune_volumes(
    root: DataRoot, *, all: bool = False, labels: Sequence[str] = (), without: Sequence[str] = ()
) -> tuple[list[str], int]:
    """Remove the volumes that no container uses.

    Shape:   all: named ones too, as docker before 23; labels, without: `key[=value]` it must, must not have
    Returns: the names of those removed, and the bytes that were in them
    """
    from minidock.store.volumes import data_size

    names: list[str] = []
    total = 0
    with root.stage() as stage, root.lock():
        used = root.volumes.users()
        for volume in root.volumes.all():
            own = volume.labels or {}
            if volume.name in used or not (all or volume.is_anonymous) or not has_labels(own, labels):
                continue
            if without and volume.labels is None:
                # Its labels, if it has any, are in the engine's own database: nobody can say that one is missing.
                continue
            if volume.options or any(has_labels(own, [text]) for text in without):
                continue
            try:
                size_bytes = data_size(volume.path)
                root.volumes.remove(stage, volume.name)
            except (MinidockError, OSError):
                # Something is mounted in it, or it is no whole volume: it stays, as in docker.
                continue
            names.append(volume.name)
            total += size_bytes
    return names, total
