"""The data root: where it is, who may write into it, and the stores it holds.

    ROOT/image/overlay2/     repositories.json, imagedb, layerdb: as Docker's engine has them
    ROOT/overlay2/           the layers' content
    ROOT/containers/         the containers' records
    ROOT/volumes/            the volumes; made with the first one
    ROOT/minidock/lock       held for each change; see lock.py
    ROOT/minidock/network/   networks, and who is on them; see networks.py and endpoints.py
    ROOT/minidock/stage/     what is being made or removed at this moment; see transaction.py

Docker's engine reads its root once and later writes from memory, so the two never write at the same time: see lock.py.
Source: shared format notes §1 and §13
"""

from __future__ import annotations

import os

from minidock.constants import DEFAULT_ROOT, DRIVER, PRIVATE_DIR
from minidock.errors import StoreBusy, StoreError, SyscallError, UsageError
from minidock.store.transaction import Stage, make_directory, owner_token, sync_directory, write_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from minidock.ids import ImageID
    from minidock.store.containers import ContainerStore
    from minidock.store.endpoints import EndpointStore
    from minidock.store.imagedb import ImageStore
    from minidock.store.layerdb import LayerStore
    from minidock.store.lock import Lock
    from minidock.store.networks import NetworkStore
    from minidock.store.references import ReferenceStore
    from minidock.store.reproducible import Reproducible
    from minidock.store.volumes import VolumeStore
    from minidock.trace import Trace

# Modes as the engine sets them; the last one is made last, so that its presence tells that all are there.
SKELETON = (
    ("", 0o710),
    ("image", 0o700),
    (f"image/{DRIVER}", 0o700),
    (f"image/{DRIVER}/imagedb", 0o700),
    (f"image/{DRIVER}/imagedb/content", 0o700),
    (f"image/{DRIVER}/imagedb/content/sha256", 0o700),
    (f"image/{DRIVER}/imagedb/metadata", 0o700),
    (f"image/{DRIVER}/imagedb/metadata/sha256", 0o700),
    (f"image/{DRIVER}/layerdb", 0o700),
    (f"image/{DRIVER}/layerdb/sha256", 0o755),
    (f"image/{DRIVER}/layerdb/mounts", 0o755),
    (f"image/{DRIVER}/layerdb/tmp", 0o755),
    (DRIVER, 0o710),
    (f"{DRIVER}/l", 0o700),
    ("containers", 0o710),
    (PRIVATE_DIR, 0o700),
    (f"{PRIVATE_DIR}/stage", 0o700),
)
_OTHER_DRIVERS = ("vfs", "btrfs", "zfs", "fuse-overlayfs", "aufs", "devicemapper", "overlay")


class DataRoot:
    """An open data root; use it as a context manager, from one thread.

    Shape: path: absolute, without symlinks; fd: its directory, -1 when there is none yet; overlay_path: ROOT/overlay2;
           stages: this process's open stages, innermost last
    """

    __slots__ = (
        "_containers",
        "_depth",
        "_engine_fd",
        "_exclusive",
        "_images",
        "_layers",
        "_lock_fd",
        "_made_from",
        "_references",
        "fd",
        "image_path",
        "overlay_path",
        "path",
        "reproducible",
        "stage_path",
        "stages",
        "trace",
        "unsynced",
        "writable",
    )

    def __init__(self, path: str, fd: int, *, writable: bool, trace: Trace | None) -> None:
        self.path = path
        self.fd = fd
        self.trace = trace
        self.writable = writable
        self.image_path = f"{path}/image/{DRIVER}"
        self.overlay_path = f"{path}/{DRIVER}"
        self.stage_path = f"{path}/{PRIVATE_DIR}/stage"
        self.stages: list[Stage] = []
        self.unsynced = False
        self.reproducible: Reproducible | None = None
        self._made_from = ""
        self._lock_fd = self._engine_fd = -1
        self._depth = 0
        self._exclusive = False
        self._layers: LayerStore | None = None
        self._images: ImageStore | None = None
        self._references: ReferenceStore | None = None
        self._containers: ContainerStore | None = None

    @classmethod
    def open(
        cls,
        path: str | None = None,
        *,
        write: bool = True,
        create: bool = True,
        bare: bool = False,
        trace: Trace | None = None,
        reproducible: Reproducible | None = None,
    ) -> DataRoot:
        """Open a data root, and with `write` sweep what killed commands left in it.

        Shape:   path None means $MINIDOCK_ROOT, then /var/lib/minidock; with `write` and `create` a missing root is
                 made; reading a missing default root finds it empty; bare: of a root's directories only minidock's own
                 are made where they are missing, for those who mend it; reproducible: see reproducible.py
        Raises:  StoreError for another storage driver's root, a missing root, or missing rights
        """
        chosen = path or os.environ.get("MINIDOCK_ROOT")
        real = os.path.realpath(chosen or DEFAULT_ROOT)
        try:
            _refuse_foreign(real)
            first_missing = _first_missing(real)
            if write and (create or not first_missing) and not _is_new_to_engine(real):
                make_skeleton(real, bare=bare)
            fd = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if chosen or write:
                raise StoreError(f"there is no data root at {real}", hint="minidock pull-tar makes one") from None
            fd = -1
        except NotADirectoryError:
            raise StoreError(f"the data root {real} is not a directory") from None
        except PermissionError as error:
            raise StoreError(f"no access to {error.filename}", hint="needs root rights") from None
        except OSError as error:
            raise SyscallError(f"open data root {real}", error.errno or 5) from None
        root = cls(real, fd, writable=write, trace=trace)
        root.reproducible = reproducible
        root._made_from = first_missing if write else ""
        try:
            if write:
                if create:
                    from minidock.store.fitness import refuse_unfit

                    refuse_unfit(root.overlay_path)
                root.sweep()
        except BaseException:
            if root._made_from:
                _unmake_skeleton(real, root._made_from)
            root.close()
            raise
        return root

    def close(self) -> None:
        """Let go of all descriptors and locks; closing twice is fine."""
        for handle in (self._engine_fd, self._lock_fd, self.fd):
            if handle >= 0:
                os.close(handle)
        self._engine_fd = self._lock_fd = self.fd = -1
        self._depth = 0

    def __enter__(self) -> DataRoot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.reproducible is not None and error is None:
                self.reproducible.finish(self)
            if self._made_from and error is not None:
                _unmake_skeleton(self.path, self._made_from)
        finally:
            self.close()

    def now_ns(self) -> int:
        """The present time, in nanoseconds since 1970, or the one that a reproducible root has instead."""
        if self.reproducible is not None:
            return self.reproducible.now_ns()
        import time

        return time.time_ns()

    def tell(self, kind: str, text: str) -> None:
        """Show one real step to whoever listens."""
        if self.trace is not None:
            self.trace(kind, text)

    @property
    def layers(self) -> LayerStore:
        """The read-only layers."""
        if self._layers is None:
            from minidock.store.layerdb import LayerStore

            self._layers = LayerStore(self)
        return self._layers

    @property
    def images(self) -> ImageStore:
        """The image configs."""
        if self._images is None:
            from minidock.store.imagedb import ImageStore

            self._images = ImageStore(self)
        return self._images

    @property
    def references(self) -> ReferenceStore:
        """The names of images."""
        if self._references is None:
            from minidock.store.references import ReferenceStore

            self._references = ReferenceStore(self)
        return self._references

    @property
    def containers(self) -> ContainerStore:
        """The containers."""
        if self._containers is None:
            from minidock.store.containers import ContainerStore

            self._containers = ContainerStore(self)
        return self._containers

    @property
    def volumes(self) -> VolumeStore:
        """The volumes."""
        from minidock.store.volumes import VolumeStore

        return VolumeStore(self)

    @property
    def networks(self) -> NetworkStore:
        """The networks."""
        from minidock.store.networks import NetworkStore

        return NetworkStore(self)

    @property
    def endpoints(self) -> EndpointStore:
        """Who is on them."""
        from minidock.store.endpoints import EndpointStore

        return EndpointStore(self)

    def has_containers(self) -> bool:
        """Whether there is any container at all; cheaper than to read them."""
        try:
            return bool(os.listdir(f"{self.path}/containers"))
        except FileNotFoundError:
            return False

    def images_of_containers(self) -> set[ImageID]:
        """The images that some container was made from."""
        if not self.has_containers():
            return set()
        from minidock.ids import ImageID

        return {ImageID(container.image_id) for container in self.containers.all()}

    def faults(self) -> list[str]:
        """What is wrong with this data root, one line a fault; see survey.py. Nothing is changed."""
        from minidock.store.survey import find_faults

        return find_faults(self)

    def lock(self, shared: bool = False) -> Lock:
        """Hold the root's lock: exclusive to change it, shared to keep what is there from being removed.

        Shape:   a context manager, re-entrant within one process; asking for exclusive while holding shared lets go
                 of the lock for a moment, so what was read before must be read again
        Raises:  StoreBusy when dockerd holds the root
        """
        from minidock.store.lock import Lock

        return Lock(self, shared)

    def stage(self) -> Stage:
        """A private place to make things in; see transaction.py. A context manager."""
        if not self.writable:
            raise UsageError(f"the data root {self.path} was opened for reading only")
        return Stage(self)

    def sweep(self) -> list[str]:
        """Settle what killed commands left; does nothing while another command or dockerd is at work.

        Returns: the names of the stages that were settled
        """
        try:
            if not os.listdir(self.stage_path):
                return []
        except FileNotFoundError:
            # dockerd is at work here, and nothing of ours is.
            return []
        from minidock.store.lock import Lock
        from minidock.store.recovery import sweep
        from minidock.store.transaction import is_stage_owned

        if all(is_stage_owned(self.stage_path, name) for name in os.listdir(self.stage_path)):
            return []
        try:
            with Lock(self, False, wait=False):
                return sweep(self)
        except StoreBusy:
            return []

    def write_file(self, relative_path: str, data: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
        """Write a file of the data root whole or not at all, replacing what is there.

        Shape:   durable: survive a power cut as well as a kill
        Raises:  SyscallError
        """
        target = f"{self.path}/{relative_path}"
        temporary = f"{self.stage_path}/{owner_token()}.{os.urandom(6).hex()}"
        self.tell("write", target)
        try:
            write_new(temporary, data, mode, durable=durable)
            os.rename(temporary, target)
            if durable:
                sync_directory(target.rpartition("/")[0])
        except OSError as error:
            if os.path.lexists(temporary):
                os.unlink(temporary)
            raise SyscallError(f"write {target}", error.errno or 5) from None

    def sync_content(self) -> None:
        """Flush everything written so far to the disk, once for all files.

        Source: syncfs(2); one call instead of an fsync for each of a layer's files
        """
        from minidock.linux.sync import sync_file_system

        handle = os.open(self.overlay_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_file_system(handle)
        finally:
            os.close(handle)
        self.unsynced = False

    def hold_against_engine(self) -> int:
        """Keep dockerd from taking this root for as long as the returned descriptor is open in any process.

        Returns: a close-on-exec descriptor, or -1 when no engine ever used this root
        Raises:  StoreBusy when dockerd has it now
        """
        from minidock.store.lock import hold_against_engine

        return hold_against_engine(self.path)


def _refuse_foreign(path: str) -> None:
    """Raise StoreError when another storage driver or the containerd image store owns this root."""
    if os.path.isdir(f"{path}/image/{DRIVER}"):
        return
    for driver in _OTHER_DRIVERS:
        if os.path.isdir(f"{path}/image/{driver}"):
            raise StoreError(
                f"the data root {path} belongs to Docker's storage driver {driver}, not {DRIVER}",
                hint="use another --root, and docker save to carry its images over",
            )
    snapshots = f"{path}/containerd/daemon/io.containerd.snapshotter.v1.overlayfs/snapshots"
    if os.path.isdir(f"{path}/rootfs/overlayfs") or (os.path.isdir(snapshots) and os.listdir(snapshots)):
        raise StoreError(
            f"the data root {path} belongs to Docker's containerd image store",
            hint="use another --root, and docker save to carry its images over",
        )


def _is_new_to_engine(path: str) -> bool:
    """Whether dockerd runs on a root in which nothing was ever written: reading leaves no trace, writing is refused."""
    if os.path.isdir(f"{path}/{PRIVATE_DIR}/stage") or not os.path.exists(f"{path}/volumes/metadata.db"):
        return False
    from minidock.store.lock import refuse_under_engine

    try:
        refuse_under_engine(path)
    except StoreBusy:
        return True
    return False


def _first_missing(path: str) -> str:
    """The topmost directory of a path that does not exist; empty if all do."""
    missing = ""
    while path != "/" and not os.path.isdir(path):
        missing, path = path, os.path.dirname(path)
    return missing


def _unmake_skeleton(path: str, made_from: str) -> None:
    """After a failure in a root that was made for it: take back what is empty, and nothing that anybody uses."""
    import fcntl

    lock = f"{path}/{PRIVATE_DIR}/lock"
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rmdir(f"{path}/{PRIVATE_DIR}/stage")
            os.unlink(lock)
        finally:
            os.close(handle)
    except OSError:
        return
    folders = [f"{path}/{name}".rstrip("/") for name, _ in reversed(SKELETON)]
    while path != made_from:
        path = os.path.dirname(path)
        folders.append(path)
    for folder in folders:
        try:
            os.rmdir(folder)
        except OSError:
            # In use after all, or gone already.
            continue


def make_skeleton(path: str, *, bare: bool = False) -> None:
    """Make what is missing of a data root's directories, or of minidock's own, with the engine's modes; raises OSError.

    Shape: bare: only minidock's own
    """
    if os.path.isdir(f"{path}/{PRIVATE_DIR}/stage"):
        return
    above = os.path.dirname(path)
    missing = []
    while not os.path.isdir(above):
        missing.append(above)
        above = os.path.dirname(above)
    for parent in reversed(missing):
        make_directory(parent, 0o755)
    for name, mode in SKELETON:
        if bare and not name.startswith(PRIVATE_DIR):
            continue
        try:
            make_directory(f"{path}/{name}".rstrip("/"), mode)
        except FileExistsError:
            continue
    # Made at once, so that a command that fails in a fresh root leaves it as it found it.
    os.close(os.open(f"{path}/{PRIVATE_DIR}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
