"""docker commit: a container's upper directory becomes a layer, and the layer a new image."""

from __future__ import annotations

import os

from minidock.constants import EMPTY_TAR_DIFF_ID, MAX_LAYERS
from minidock.errors import Conflict, MaxDepthExceeded, PartialUpper, StoreCorrupt, StoreError, UsageError
from minidock.formats.gojson import format_time, parse_time
from minidock.formats.imageconfig import encode_config
from minidock.formats.runconfig import RunConfig, order_run_config
from minidock.ids import ChainID, DiffID, ImageID
from minidock.store.changes import write_layer
from minidock.store.lock import refuse_under_engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.formats.imageconfig import HistoryEntry
    from minidock.formats.reference import Reference
    from minidock.store.changes import WrittenLayer
    from minidock.store.containers import Container
    from minidock.store.imagedb import Image
    from minidock.store.layerdb import StagedLayer
    from minidock.store.root import DataRoot

_NO_TIME = "0001-01-01T00:00:00Z"


class CommitResult:
    """A new image.

    Shape: diff_id None when the container changed nothing, so that no layer was added; reference the familiar one
    Units: size_bytes of the new layer alone
    """

    __slots__ = ("image_id", "diff_id", "chain_id", "size_bytes", "reference")

    def __init__(
        self,
        image_id: ImageID,
        diff_id: DiffID | None,
        chain_id: ChainID | None,
        size_bytes: int,
        reference: str | None,
    ) -> None:
        self.image_id = image_id
        self.diff_id = diff_id
        self.chain_id = chain_id
        self.size_bytes = size_bytes
        self.reference = reference


class Dialect:
    """Which engine's bytes to write: the tar's headers, the order of history keys, the version in the config.

    Shape: engine: "" for the newest, else a version such as "20.10", "20.10.27", "23", "28.5.2"
    Source: shared format notes §8 and §14
    """

    __slots__ = ("tar", "author_first", "version")

    def __init__(self, engine: str) -> None:
        self.version = engine
        numbers = _version_numbers(engine) if engine else (29, 0, 0)
        self.author_first = numbers < (25, 0, 0)
        if numbers >= (24, 0, 0):
            self.tar = "c"
        else:
            self.tar = "b" if numbers >= (20, 10, 27) else "a"


def _version_numbers(engine: str) -> tuple[int, ...]:
    words = engine.partition("+")[0].partition("-")[0].split(".")
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise UsageError(f"not an engine version: {engine!r}", hint='write it like "20.10" or "28.5.2"')
    return (*map(int, words), 0, 0)[:3]


def commit(
    root: DataRoot,
    container: str,
    reference: str | None = None,
    *,
    author: str = "",
    message: str = "",
    changes: list[str] | tuple[str, ...] = (),
    pause: bool = True,
    engine: str = "",
) -> CommitResult:
    """Make an image out of a container's changes; on failure nothing is left.

    Shape:   changes are Dockerfile instructions (`CMD ["sh"]`, `ENV A=b`); engine picks the Docker version whose
             bytes are written, "" for the newest
    Returns: CommitResult; with a reference, the image that had it before becomes `<none>`
    Raises:  NoSuchContainer, NoSuchImage, InvalidReference, UsageError, MaxDepthExceeded, StoreError, SyscallError
    Source:  moby daemon/commit.go, CreateImageFromContainer
    """
    dialect = Dialect(engine)
    name = _parse_target(reference)
    if name is not None:
        # What cannot be given a name in the end need not be made.
        root.references.all()
    source = root.containers.get(container)
    if source.state.status == "dead":
        raise Conflict(f"You cannot commit container {source.id} which is Dead")
    parent = root.images.get(ImageID.parse(source.image_id)) if source.image_id else None
    configs = _new_configs(source, changes)
    chain_id = source.sound_layer().chain_id
    if parent is not None and chain_id != (parent.chain_id or ""):
        raise StoreCorrupt(f"container {source.id.short} does not stand on the layers of its image")
    if parent is not None and len(parent.config.diff_ids) >= MAX_LAYERS:
        raise MaxDepthExceeded(f"max depth exceeded: an image has at most {MAX_LAYERS} layers")
    with root.stage() as stage:
        staged = root.layers.stage_layer(stage)
        try:
            try:
                written = _read_upper(root, source, staged, dialect, pause)
            except PartialUpper:
                staged.close()
                staged = root.layers.stage_layer(stage)
                written = _read_upper(root, source, staged, dialect, pause, whole=stage.new_path("whole"))
            return _publish(root, source, parent, staged, written, configs, dialect, name, author, message)
        finally:
            staged.close()


def _parse_target(reference: str | None) -> Reference | None:
    if not reference:
        return None
    from minidock.formats.reference import parse_tag

    return parse_tag(reference)


def _read_upper(
    root: DataRoot, source: Container, staged: StagedLayer, dialect: Dialect, pause: bool, *, whole: str = ""
) -> WrittenLayer:
    """Write the layer while the container stands still, or cannot be started; whole: where to make a whole upper."""
    while True:
        if not source.is_running():
            with source.lock():
                if not source.is_running():
                    return _write(root, source, staged, dialect, whole)
        refuse_under_engine(root.path)
        if not pause:
            return _write(root, source, staged, dialect, whole)
        from minidock.runtime.pause import Paused

        with Paused(source) as paused:
            if paused.is_still:
                return _write(root, source, staged, dialect, whole)


def _write(root: DataRoot, source: Container, staged: StagedLayer, dialect: Dialect, whole: str) -> WrittenLayer:
    if whole:
        from minidock.verbs.wholeupper import make_whole_upper

        make_whole_upper(root, source, whole)
    upper = whole or root.layers.diff_path(source.layer.mount_id)
    root.tell("read", f"{upper}: what the container changed")
    root.tell("write", f"{staged.path}/diff: the new layer, until it is whole")
    upper_fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        written = write_layer(upper_fd, staged.diff_fd, staged.tar_split_fd, dialect=dialect.tar, trace=root.trace)
        # A removal moves the directory away before it deletes; half a container must not become an image.
        if not _is_still(upper, upper_fd):
            raise StoreError(f"container {source.id.short} was removed while it was read")
    finally:
        os.close(upper_fd)
    size = f"{written.tar_bytes} bytes of tar, {written.entries} entries"
    root.tell("hash", f"# sha256 of {size}: diff_id = {written.diff_id}")
    return written


def _is_still(path: str, handle: int) -> bool:
    try:
        there, ours = os.stat(path), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev)


def _publish(
    root: DataRoot,
    source: Container,
    parent: Image | None,
    staged: StagedLayer,
    written: WrittenLayer,
    configs: tuple[dict[str, Any], dict[str, Any]],
    dialect: Dialect,
    name: Reference | None,
    author: str,
    message: str,
) -> CommitResult:
    is_empty = written.diff_id == EMPTY_TAR_DIFF_ID
    document = _image_document(source, parent, configs, dialect, author, message)
    document["history"][-1]["empty_layer"] = is_empty
    with root.lock():
        chain_id = parent.chain_id if parent else None
        if not is_empty:
            document["rootfs"]["diff_ids"].append(written.diff_id)
            chain_id = root.layers.publish(staged, chain_id, written.diff_id, written.size_bytes).chain_id
        raw = encode_config(document, author_first=dialect.author_first)
        image_id = root.images.add(raw, parent=parent.image_id if parent else None)
        if name is not None:
            root.references.set(name, image_id)
            root.images.touch(image_id)
    return CommitResult(
        image_id,
        None if is_empty else written.diff_id,
        chain_id,
        written.size_bytes,
        name.familiar if name else None,
    )


def _new_configs(source: Container, changes: list[str] | tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The image's config and the container's own, both complete.

    Source: moby daemon/commit.go, merge: without changes they are the same object, whose Labels are then never null
    """
    # Checked first: the record may be another engine's, or damaged.
    own = RunConfig(source.config.run).to_document()
    if not changes:
        own["Labels"] = own["Labels"] or {}
        return own, own
    from minidock.formats.instructions import apply_changes
    from minidock.runtime.signals import parse_signal

    config = order_run_config(apply_changes(own, list(changes)))
    if config.get("StopSignal") and config["StopSignal"] != own.get("StopSignal"):
        parse_signal(config["StopSignal"])
    return _merged(config, own), own


def _merged(config: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Fill in from the container what the changes left empty. Source: moby daemon/commit.go, merge"""
    for key in ("User", "WorkingDir", "StopSignal"):
        if not config.get(key) and own.get(key):
            config[key] = own[key]
    if own.get("Healthcheck"):
        config["Healthcheck"] = {**own["Healthcheck"], **(config.get("Healthcheck") or {})}
    for key in ("ExposedPorts", "Volumes", "Labels"):
        if own.get(key) or config.get(key):
            config[key] = {**(own.get(key) or {}), **(config.get(key) or {})}
    config["Labels"] = config["Labels"] or {}
    env = list(config["Env"] or [])
    names = {entry.partition("=")[0] for entry in env}
    config["Env"] = env + [entry for entry in own["Env"] or [] if entry.partition("=")[0] not in names] or own["Env"]
    if not config["Entrypoint"]:
        if not config["Cmd"]:
            config["Cmd"] = own["Cmd"]
        if config["Entrypoint"] is None:
            config["Entrypoint"] = own["Entrypoint"]
    return config


def _host_architecture() -> str:
    from minidock.formats.platform import Platform

    return Platform("linux", os.uname().machine).architecture


def _history_entry(entry: HistoryEntry, dialect: Dialect) -> dict[str, Any]:
    """An inherited entry as the engine writes it again: times without trailing zeros, and nothing it does not know."""
    created = entry.created
    if created.endswith("Z"):
        created = format_time(parse_time(created))
    if not created and dialect.author_first:
        # These engines keep the time as a value, which is there even when it says never.
        created = _NO_TIME
    return {
        "created": created,
        "created_by": entry.created_by,
        "author": entry.author,
        "comment": entry.comment,
        "empty_layer": entry.empty_layer,
    }


def _image_document(
    source: Container,
    parent: Image | None,
    configs: tuple[dict[str, Any], dict[str, Any]],
    dialect: Dialect,
    author: str,
    message: str,
) -> dict[str, Any]:
    """The new image config, still without the new diff_id. Source: moby image/image.go, NewChildImage"""
    config, own = configs
    base: dict[str, Any] = parent.config.document if parent else {}
    fixed = source.root.reproducible
    if fixed is not None:
        fixed.suggest(parent.config.created_ns or 0 if parent else 0)
    created = format_time(source.root.now_ns())
    history = [_history_entry(entry, dialect) for entry in parent.config.history] if parent else []
    command = own["Cmd"] or []
    history.append({"created": created, "created_by": " ".join(command), "author": author, "comment": message})
    document: dict[str, Any] = {
        "architecture": base.get("architecture") or _host_architecture(),
        "config": config,
        "container": str(source.id),
        "container_config": own,
        "created": created,
        "history": history,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": list(parent.config.diff_ids) if parent else []},
    }
    if fixed is not None:
        # Drawn at random when the container was made.
        del document["container"]
        for one in configs:
            one["Hostname"] = "" if one.get("Hostname") == source.id.short else one.get("Hostname")
    for key, value in (("author", author), ("docker_version", dialect.version)):
        if value:
            document[key] = value
    for key in ("variant", "os.version", "os.features"):
        if base.get(key):
            document[key] = base[key]
    return document
