"""A running container stands still while someone reads its files.

Whatever happens to the reader, the container goes on: a small watcher process holds one end of a pipe, and
when the reader is gone, killed or done, it thaws the container. A lock on hostconfig.json, which the watcher
shares, keeps two readers from thawing each other's container.
Source: kernel Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst; cgroup-v2.rst, cgroup.freeze
"""

from __future__ import annotations

import fcntl
import os

from minidock.errors import MinidockError
from minidock.runtime.cgroup import Cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from minidock.trace import Trace


class Paused:
    """Freezes a container's processes for the length of a `with` block.

    Shape:  container_path: its directory below containers/, whose hostconfig.json is locked meanwhile
    Raises: MinidockError where nothing can freeze
    """

    __slots__ = ("_cgroup", "_container_path", "_lock_fd", "_pipe_fd", "_trace", "_watcher")

    def __init__(self, container_id: str, cgroup_parent: str, container_path: str, trace: Trace | None = None) -> None:
        self._cgroup = Cgroup.open(container_id, cgroup_parent)
        self._container_path = container_path
        self._trace = trace
        self._lock_fd = self._pipe_fd = -1
        self._watcher = 0

    def __enter__(self) -> Paused:
        self._lock_fd = os.open(f"{self._container_path}/hostconfig.json", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
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
        self._say("thaw")
        self._end()

    def _say(self, what: str) -> None:
        if self._trace:
            place = self._cgroup.path_of("freezer") or self._cgroup.v2_path or ""
            self._trace("cgroup", f"{what} {place}")

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
        keep = sorted((reading, self._lock_fd))
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
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
