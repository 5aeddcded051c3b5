"""A running container stands still while someone reads its files.

Whatever happens to the reader, the container goes on: a small watcher process holds one end of a pipe, and
when the reader is gone, killed or done, it thaws the container. A lock on hostconfig.json, which the watcher
shares, keeps all those apart who freeze and thaw: two readers, and the user's own pause, unpause and update.
Source: kernel Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst; cgroup-v2.rst, cgroup.freeze
"""

from __future__ import annotations

import fcntl
import os

from minidock.errors import MinidockError
from minidock.runtime.cgroup import Cgroup
from minidock.store.containers import no_such_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from minidock.store.containers import Container


def group_of(container: Container) -> Cgroup:
    """The control groups of a container's processes, whoever made them."""
    made = Cgroup.open(container.id, container.config.host_text("CgroupParent"), container.state.delegated)
    return made if made.paths else Cgroup.of_process(container.state.pid)


class FreezeLock:
    """Held by who freezes or thaws a container, or replaces its hostconfig.json: a flock on that very file.

    Shape:  whoever wants the container's own lock as well takes it after this one
    Raises: NoSuchContainer
    """

    __slots__ = ("_container", "_path", "fd")

    def __init__(self, container: Container) -> None:
        self._container = container
        self._path = f"{container.path}/hostconfig.json"
        self.fd = -1

    def __enter__(self) -> FreezeLock:
        while True:
            try:
                self.fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise no_such_container(self._container.id) from None
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX)
                # It may have been replaced by another file meanwhile, whose lock is another.
                if os.path.samestat(os.fstat(self.fd), os.stat(self._path)):
                    return self
            except FileNotFoundError:
                pass
            except BaseException:
                self.release()
                raise
            self.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the lock up; a forked process that holds the same descriptor keeps it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Paused:
    """A container's processes stand still for the length of a `with` block; those that its user has paused stay so.

    Shape:  is_still: False when the container has ended before, so that nothing keeps it from being started
    Raises: MinidockError where nothing can freeze
    """

    __slots__ = ("_cgroup", "_container", "_lock", "_pipe_fd", "_watcher", "is_still")

    def __init__(self, container: Container) -> None:
        self._container = container
        self._lock = FreezeLock(container)
        self._cgroup = Cgroup(())
        self._pipe_fd = -1
        self._watcher = 0
        self.is_still = False

    def __enter__(self) -> Paused:
        self._lock.__enter__()
        try:
            self._container.reload()
            self.is_still = self._container.is_running()
            self._cgroup = group_of(self._container)
            # A pause whose record was lost with its command is kept, too.
            if self.is_still and self._container.state.status != "paused" and not self._cgroup.is_frozen():
                self._start_watcher()
                self._say("freeze")
                self._cgroup.freeze()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watcher:
            self._say("thaw")
        self._end()

    def _say(self, what: str) -> None:
        place = self._cgroup.path_of("freezer") or self._cgroup.v2_path or ""
        self._container.root.tell("cgroup", f"{what} {place}")

    def _start_watcher(self) -> None:
        reading, self._pipe_fd = os.pipe2(os.O_CLOEXEC)
        self._watcher = os.fork()
        if self._watcher == 0:
            status = 1
            try:
                self._watch(reading)
                status = 0
            finally:
                os._exit(status)
        os.close(reading)

    def _watch(self, reading: int) -> None:
        # Out of the terminal's reach, and without any other descriptor of the command, locks above all.
        os.setsid()
        keep = sorted((reading, self._lock.fd))
        os.closerange(0, keep[0])
        os.closerange(keep[0] + 1, keep[1])
        os.closerange(keep[1] + 1, 1 << 16)
        os.read(reading, 1)
        try:
            self._cgroup.thaw()
        except (MinidockError, OSError):
            # The container ended meanwhile and its group with it.
            return

    def _end(self) -> None:
        # The watcher thaws in every case, so that there is one way and it is always taken.
        if self._pipe_fd >= 0:
            os.close(self._pipe_fd)
            self._pipe_fd = -1
        if self._watcher:
            os.waitpid(self._watcher, 0)
            self._watcher = 0
        self._lock.release()
