"""containers/<id>: the records of containers, their names, locks and states.

config.v2.json and hostconfig.json are Docker's own and always say that the container is not running, since an
engine that takes the data root over would otherwise unmount and detach what still runs. While a container does
run, `minidock.state` beside them says so, with the process told apart from any later one by boot, pid and
start time; it is written by rename, and it goes when the exit has been put into config.v2.json. Whoever starts,
removes or commits a container holds a flock on its directory, so that one upper directory is never mounted twice.
"""

from __future__ import annotations

import fcntl
import os

from minidock.errors import (
    BadConfig,
    ContainerRunning,
    MinidockError,
    NameInUse,
    NoSuchContainer,
    StoreCorrupt,
    SyscallError,
)
from minidock.formats.containerconfig import ContainerConfig, encode_record, state_document
from minidock.formats.gojson import encode_json
from minidock.ids import ContainerID, is_hex64
from minidock.store.containerstate import (
    KEEP,
    STATE_FILE,
    STOP_FILE,
    ContainerState,
    RecordLock,
    read_record,
    read_state,
    remove_file,
    replace_file,
)
from minidock.store.transaction import make_directory, read_small, sync_directory, write_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from minidock.ids import ChainID
    from minidock.store.overlay2 import RWLayer
    from minidock.store.root import DataRoot

    # fill(overlay_path, lowers, diff_path): puts the init layer's files into its diff directory
    # and returns warnings about what of the image it had to replace
    FillInit = Callable[[str, list[str], str], list[str]]

EXIT_FILE = "minidock.exit"


class Container:
    """One container as its files tell it.

    Shape: document is config.v2.json; config joins it with hostconfig.json, read when first needed; warnings: of its
           creation, one line each
    """

    __slots__ = ("_config", "_is_sound", "_layer", "document", "id", "path", "root", "state", "warnings")

    def __init__(self, root: DataRoot, container_id: ContainerID, document: dict[str, Any]) -> None:
        self.root = root
        self.id = container_id
        self.path = f"{root.path}/containers/{container_id}"
        self.document = document
        self._config: ContainerConfig | None = None
        self._layer: RWLayer | None = None
        self._is_sound = False
        self.warnings: list[str] = []
        self.state = read_state(self.path, document)

    @property
    def config(self) -> ContainerConfig:
        """Both configuration files; raises BadConfig, StoreCorrupt."""
        if self._config is None:
            try:
                host = read_record(self.path, "hostconfig.json", self.id)
            except FileNotFoundError:
                host = {}
            self._config = ContainerConfig(self.document, host, what=f"container {self.id.short}")
        return self._config

    @property
    def light_config(self) -> ContainerConfig:
        """config.v2.json alone, for those who need nothing of hostconfig.json."""
        return self._config or ContainerConfig(self.document, {}, what=f"container {self.id.short}")

    @property
    def host_config(self) -> dict[str, Any]:
        """hostconfig.json as parsed."""
        return self.config.host

    @property
    def name(self) -> str:
        """The name without a slash."""
        return self.light_config.name

    @property
    def image_id(self) -> str:
        """The image's ID; may be empty in a foreign container."""
        return self.light_config.image_id

    @property
    def image(self) -> str:
        """The image as the user typed it."""
        return self.light_config.image

    @property
    def created_ns(self) -> int:
        """When it was created."""
        return self.light_config.created_ns

    @property
    def layer(self) -> RWLayer:
        """The rw layer; raises StoreCorrupt or NoSuchContainer when its record is damaged or missing."""
        if self._layer is None:
            from minidock.store.overlay2 import read_rw

            self._layer = read_rw(self.root, self.id)
        return self._layer

    def sound_layer(self) -> RWLayer:
        """The rw layer, once all that it stands on was looked at; raises StoreCorrupt, NoSuchLayer, NoSuchContainer."""
        if not self._is_sound:
            from minidock.store.overlay2 import check_rw

            check_rw(self.root, self.layer)
            self._is_sound = True
        return self.layer

    @property
    def mount_id(self) -> str:
        """The name of the rw layer's directory below overlay2/."""
        return self.layer.mount_id

    @property
    def init_id(self) -> str:
        """The name of the init layer's directory below overlay2/; empty when there is none."""
        return self.layer.init_id

    @property
    def log_path(self) -> str:
        """The json-file log."""
        return f"{self.path}/{self.id}-json.log"

    @property
    def restart_policy(self) -> dict[str, Any]:
        """RestartPolicy of hostconfig.json; empty for none."""
        policy = self.host_config.get("RestartPolicy")
        if not isinstance(policy, dict) or policy.get("Name") in ("", "no", None):
            return {}
        return policy

    def is_running(self) -> bool:
        """Whether the very process that was started still lives."""
        return self.state.is_process_alive()

    def reload(self) -> None:
        """Read the state again; raises NoSuchContainer when the container has gone."""
        self.document = read_document(self.path, self.id)
        self._config = None
        self.state = read_state(self.path, self.document)

    def write_state(self, state: ContainerState) -> None:
        """Publish a running state, by rename and without waiting for the disk: it does not outlive this boot."""
        replace_file(f"{self.path}/{STATE_FILE}", encode_json(state.to_document()) + b"\n", 0o600)
        self.state = state

    def record_exit(
        self, state: ContainerState, *, durable: bool = True, on_purpose: bool = False, restarts: int | None = None
    ) -> None:
        """Write how the container ended into config.v2.json, and forget the running state.

        Shape: durable False for a container about to be removed or restarted; on_purpose: it was stopped, and no policy
               is to start it again; restarts: how often one has
        """

        def end(document: dict[str, Any]) -> None:
            document["State"] = state_document(
                exit_code=state.exit_code,
                error=state.error,
                started_ns=state.started_ns,
                finished_ns=state.finished_ns,
                oom_killed=state.oom_killed,
            )
            if state.started_ns:
                document["HasBeenStartedBefore"] = True
            document["HasBeenManuallyStopped"] = on_purpose
            if restarts is not None:
                document["RestartCount"] = restarts

        self.change_document(end, durable=durable)
        if state.auto_remove or state.status == "restarting":
            self.write_state(state)
        else:
            remove_file(f"{self.path}/{STATE_FILE}")
        self.state = state

    def change_document(self, change: Callable[[dict[str, Any]], None], *, durable: bool = True) -> None:
        """Change config.v2.json as it is now, which a command and the monitor may want to do at once."""
        with RecordLock(self.path):
            document = read_document(self.path, self.id)
            change(document)
            replace_file(f"{self.path}/config.v2.json", encode_record(document), 0o600, durable=durable)
        self.document = document
        self._config = None

    def ask_end(self, *, keep: bool = False) -> None:
        """Leave word that the coming end is wanted; keep: the container is to stay, even with --rm."""
        replace_file(f"{self.path}/{STOP_FILE}", KEEP if keep else b"", 0o600)

    def asked_end(self) -> bytes | None:
        """What word was left about the end, None for none."""
        try:
            return read_small(f"{self.path}/{STOP_FILE}")
        except FileNotFoundError:
            return None

    def forget_asked_end(self) -> None:
        """The end has come, or a new start."""
        remove_file(f"{self.path}/{STOP_FILE}")

    def lock(self, *, wait: bool = True, reload: bool = True) -> ContainerLock:
        """The container's lock, as a context manager; see the module's head."""
        return ContainerLock(self, wait=wait, reload=reload)


class ContainerLock:
    """An exclusive flock on a container's directory; entering reads the container's state anew, unless told not to.

    Raises: NoSuchContainer on entering when the container has been removed meanwhile
    """

    __slots__ = ("container", "fd", "reload", "wait")

    def __init__(self, container: Container, *, wait: bool, reload: bool = True) -> None:
        self.container = container
        self.wait, self.reload = wait, reload
        self.fd = -1

    def __enter__(self) -> ContainerLock:
        container = self.container
        try:
            self.fd = os.open(container.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise no_such_container(container.id) from None
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX if self.wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.reload:
                container.reload()
            if os.fstat(self.fd).st_ino != os.stat(container.path).st_ino:
                raise no_such_container(container.id)
        except FileNotFoundError:
            self.release()
            raise no_such_container(container.id) from None
        except BlockingIOError:
            self.release()
            raise ContainerRunning(f"another command works on container {container.id.short}") from None
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the lock up; a forked process that holds the same descriptor keeps it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def no_such_container(text: str) -> NoSuchContainer:
    """Docker's words for a container that is not there."""
    return NoSuchContainer(f"No such container: {text}")


def read_document(path: str, container_id: str) -> dict[str, Any]:
    """Parse config.v2.json of a container directory; raises NoSuchContainer, StoreCorrupt."""
    try:
        document = read_record(path, "config.v2.json", container_id)
    except (FileNotFoundError, NotADirectoryError):
        raise no_such_container(container_id) from None
    if not isinstance(document.get("Config"), dict):
        raise StoreCorrupt(f"container {container_id[:12]}: config.v2.json has no Config")
    return document


class DiskErrors:
    """A context manager that names what was being done when the disk is full, or broken, or read-only.

    Raises: SyscallError instead of any OSError from within
    """

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, MinidockError):
            where = f"{self.what}: {error.filename}" if error.filename else self.what
            raise SyscallError(where, error.errno or 5) from None


class ContainerStore:
    """All containers of a data root.

    Shape: abandoned: --rm containers seen by the last create, whose process and monitor are both gone
    """

    __slots__ = ("abandoned", "path", "root")

    def __init__(self, root: DataRoot) -> None:
        self.root = root
        self.abandoned: list[Container] = []
        self.path = f"{root.path}/containers"

    def ids(self) -> list[ContainerID]:
        """The IDs of the directories below containers/, whether readable or not."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return []
        return [ContainerID(name) for name in sorted(names) if is_hex64(name)]

    def _open(self, container_id: ContainerID) -> Container | None:
        # Like the engine: what cannot be read is skipped when listing, so that one bad record hides one container.
        try:
            found = Container(self.root, container_id, read_document(f"{self.path}/{container_id}", container_id))
            # Every command looks for names: one that is none hides its container, and no other.
            _ = found.name
            return found
        except (NoSuchContainer, StoreCorrupt, BadConfig):
            return None

    def all(self) -> list[Container]:
        """Every readable container, newest first."""
        found = [container for container_id in self.ids() if (container := self._open(container_id)) is not None]
        found.sort(key=lambda container: container.created_ns, reverse=True)
        return found

    def names(self) -> dict[str, ContainerID]:
        """Name to ID of every readable container."""
        return {container.name: container.id for container in self.all()}

    def get(self, text: str) -> Container:
        """Find a container by its whole ID, its name, or a unique start of its ID.

        Raises: NoSuchContainer; StoreCorrupt
        """
        if is_hex64(text):
            path = f"{self.path}/{text}"
            if os.path.isdir(path):
                return Container(self.root, ContainerID(text), read_document(path, text))
        name = text.removeprefix("/")
        for container in self.all():
            if container.name == name:
                return container
        matches = [container_id for container_id in self.ids() if text and container_id.startswith(text)]
        if len(matches) == 1:
            return Container(self.root, matches[0], read_document(f"{self.path}/{matches[0]}", matches[0]))
        if matches:
            raise NoSuchContainer(f"Multiple IDs found with provided prefix: {text}")
        raise no_such_container(text)

    def create(
        self,
        config: ContainerConfig,
        *,
        chain_id: ChainID | None,
        fill_init: FillInit,
        auto_remove: bool = False,
        choose_name: Callable[[set[str]], str] | None = None,
    ) -> Container:
        """Make a container's layers and records; all of it or, after any failure or crash, nothing.

        Shape:   config holds the ID and, unless choose_name is given, the name; choose_name gets the taken names
        Raises:  NameInUse; StoreError
        """
        from minidock.store.overlay2 import create_rw

        root = self.root
        document = config.document
        container_id = ContainerID.parse(document["ID"])
        with DiskErrors(f"create container {config.name}".rstrip()), root.lock(), root.stage() as stage:
            names: dict[str, ContainerID] = {}
            self.abandoned = []
            # One at a time: the records of a few hundred together take more memory than all the rest of a command.
            for one in filter(None, map(self._open, self.ids())):
                names[one.name] = one.id
                if one.state.is_abandoned():
                    self.abandoned.append(one)
            if choose_name is not None:
                document["Name"] = "/" + choose_name(set(names))
            elif config.name in names:
                raise NameInUse.of(config.name, names[config.name])
            layer = create_rw(root, stage, container_id, chain_id)
            warnings = fill_init(root.overlay_path, layer.image_lowers, layer.init_diff)
            self._write_records(container_id, config, auto_remove=auto_remove)
        container = Container(root, container_id, document)
        container.warnings = warnings
        # Just made from a stack that was looked at: to start it needs no second look.
        container._layer, container._is_sound = layer, True
        return container

    def _write_records(self, container_id: ContainerID, config: ContainerConfig, *, auto_remove: bool) -> None:
        path = f"{self.path}/{container_id}"
        if not os.path.isdir(self.path):
            make_directory(self.path, 0o710)
        self.root.tell("write", path)
        make_directory(path, 0o710)
        make_directory(f"{path}/checkpoints", 0o700)
        durable = not auto_remove
        write_new(f"{path}/hostconfig.json", encode_record(config.host), 0o600, durable=durable)
        if auto_remove:
            wish = ContainerState(status="created", auto_remove=True)
            write_new(f"{path}/{STATE_FILE}", encode_json(wish.to_document()) + b"\n", 0o600)
        # Last: a directory without config.v2.json is no container to anyone.
        replace_file(f"{path}/config.v2.json", encode_record(config.document), 0o600, durable=durable)
        if durable:
            sync_directory(self.path)

    def remove(self, container: Container) -> None:
        """Delete a container's records and layers; the caller holds its lock and knows that nothing runs in it.

        Raises: Conflict when something is still mounted below its directories
        """
        from minidock.store.overlay2 import remove_rw

        root = self.root
        # In this order, the content is deleted when the lock is free again.
        with root.stage() as stage, root.lock():
            remove_rw(root, stage, container.id)
            stage.remove_tree(container.path, is_checked=True)
