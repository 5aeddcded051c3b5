"""What a container's monitor notes: that it runs, how it ended, and, for --rm, that it is gone."""

from __future__ import annotations

import os
import time

from minidock.errors import CommandError, MinidockError, NoSuchContainer, SyscallError
from minidock.runtime.logs import LogFile, StreamLog
from minidock.runtime.monitor import Job
from minidock.runtime.settle import remove_with_volumes
from minidock.store.containers import EXIT_FILE
from minidock.store.containerstate import KEEP, ContainerState, hold_life, note_plain_start
from minidock.store.root import DataRoot
from minidock.store.transaction import boot_id, pid_namespace, start_time, write_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.network.joining import Places
    from minidock.network.leaving import HeldPlaces
    from minidock.runtime.health import Health
    from minidock.runtime.launch import Launched, Preparation
    from minidock.runtime.restarts import Restarts
    from minidock.runtime.spec import ContainerSpec
    from minidock.store.containers import Container, ContainerLock


class ContainerJob(Job):
    """A container's first process.

    Shape: the lock is held when the job begins, and given up once the container is recorded as running; engine_fd
           keeps dockerd from the data root for as long as the monitor lives, -1 where no dockerd ever was; spec may
           be None where nothing is to be launched for now; places: None for a container without a network of its own;
           space_fds: what keeps the mounts of its volumes
    """

    takes_requests = True
    __slots__ = (
        "auto_remove",
        "container",
        "engine_fd",
        "exit_fd",
        "life_fd",
        "lock",
        "log",
        "places",
        "prepared",
        "request_path",
        "restarts",
        "space_fds",
        "spec",
        "state",
    )

    def __init__(
        self, container: Container, lock: ContainerLock, spec: ContainerSpec | None, engine_fd: int, *, tty: bool
    ) -> None:
        super().__init__(tty)
        self.engine_fd = engine_fd
        self.container = container
        self.lock = lock
        self.spec = spec
        self.places: Places | HeldPlaces | None = None if spec is None else spec.places
        self.prepared: Preparation | None = None
        self.auto_remove = container.state.auto_remove
        self.state = container.state
        self.exit_fd = self.life_fd = -1
        self.request_path = container.path
        self.log: LogFile | None = None
        self.restarts: Restarts | None = None
        self.space_fds: list[int] = []

    def descriptors(self) -> list[int]:
        """The data root, the locks, and what keeps its addresses."""
        places = -1 if self.places is None else self.places.fd
        return [self.container.root.fd, self.lock.fd, self.engine_fd, places]

    def kept(self) -> dict[str, Any]:
        """What a successor needs to go on; see succession.py. Shape: descriptors: what it must inherit"""
        log = self.log
        descriptors = [*self.descriptors(), self.exit_fd, self.life_fd, *self.sockets(), *self.space_fds]
        descriptors.append(-1 if log is None else log.fd)
        return {
            "root": self.container.root.path,
            "container": str(self.container.id),
            "fds": (self.container.root.fd, self.engine_fd, self.exit_fd, self.life_fd),
            "places": None if self.places is None else (self.places.fd, self.sockets()),
            "log": None if log is None else (log.fd, *log.settings()),
            "restarts": None if self.restarts is None else (self.restarts.count, self.restarts.delay_ms),
            "spaces": self.space_fds,
            "descriptors": descriptors,
        }

    @classmethod
    def resume(cls, kept: dict[str, Any], *, tty: bool) -> ContainerJob:
        """Go on with what another monitor kept, in a process that has its descriptors; raises MinidockError."""
        root_fd, engine_fd, exit_fd, life_fd = kept["fds"]
        root = DataRoot(kept["root"], root_fd, writable=True, trace=None)
        container = root.containers.get(kept["container"])
        job = cls(container, container.lock(), None, engine_fd, tty=tty)
        job.exit_fd, job.life_fd = exit_fd, life_fd
        job.space_fds = list(kept["spaces"])
        if kept["places"] is not None:
            from minidock.network.leaving import HeldPlaces

            job.places = HeldPlaces(root, container.id, *kept["places"])
        if kept["log"] is not None:
            log_fd, *settings = kept["log"]
            job.log = LogFile(*settings, fd=log_fd)
        if kept["restarts"] is not None:
            from minidock.runtime.restarts import Restarts

            job.restarts = Restarts(*kept["restarts"])
        return job

    def prepare(self) -> None:
        """Both sides of a launch, and what it needs; an error is left to the monitor, which notes it."""
        from minidock.runtime.launch import Preparation

        if self.spec is not None:
            try:
                self.prepared = Preparation(self.spec)
            except MinidockError:
                return

    def launch(self, stdin_fd: int, stdout_fd: int, stderr_fd: int) -> Launched:
        """Launch."""
        from minidock.runtime.launch import launch

        root = self.container.root
        if self.spec is None:
            from minidock.runtime.prepare import container_spec

            self.spec = container_spec(self.container)
            self._resume_places(self.spec)
        prepared, self.prepared = self.prepared, None
        try:
            return launch(
                self.spec,
                stdin_fd=stdin_fd,
                stdout_fd=stdout_fd,
                stderr_fd=stderr_fd,
                trace=root.trace,
                prepared=prepared,
                ready=self._be_ready,
            )
        except SyscallError as error:
            if not error.call.startswith("overlay mount of"):
                raise
            from minidock.runtime.backing import explain_unfit

            raise explain_unfit(error, root.overlay_path, root.stage_path) from None

    def _resume_places(self, spec: ContainerSpec) -> None:
        from minidock.network.leaving import HeldPlaces

        if isinstance(self.places, HeldPlaces):
            from minidock.network.joining import resume_places

            self.places = spec.places = resume_places(self.container, self.places)

    def stream_log(self, name: str) -> StreamLog | None:
        """The json-file log."""
        return None if self.log is None else StreamLog(name, self.log.write, self.log.attributes)

    def sockets(self) -> list[int]:
        """Those that hold the published ports."""
        return [] if self.places is None else self.places.sockets()

    def _be_ready(self) -> None:
        """Make all files that the container needs while it runs, and of its record what is known by now."""
        if self.life_fd < 0:
            self.life_fd = hold_life(self.container.path)
        if self.log is None:
            self.log = open_log(self.container)
        if self.auto_remove:
            self._make_exit_file()
        pid = os.getpid()
        self.state = ContainerState(
            status="running",
            monitor_pid=pid,
            monitor_start_time=start_time(pid) or 0,
            boot_id=boot_id(),
            auto_remove=self.auto_remove,
            pid_namespace=pid_namespace(),
        )

    def started(self, launched: Launched) -> None:
        """Publish the running state, and let others work on the container."""
        self.state.pid, self.state.start_time = launched.pid, launched.start_time
        self.state.delegated = launched.cgroup.delegated
        if self.spec is not None:
            self.space_fds = [bind.space_fd for bind in self.spec.binds if bind.space_fd >= 0]
        self.state.started_ns = time.time_ns()
        self.container.write_state(self.state)
        if not self.auto_remove and self.spec is not None and not self.spec.marks:
            note_plain_start(self.life_fd, self.state.started_ns)
        self.lock.release()

    def _make_exit_file(self) -> None:
        path = exit_path(self.container)
        if os.path.lexists(path):
            os.unlink(path)
        write_new(path, b"", 0o600)
        self.exit_fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def health(self) -> Health | None:
        """Health checks, if the image or the command line asks for any."""
        if not self.container.light_config.run.get("Healthcheck"):
            return None
        from minidock.runtime.health import Health, health_check

        check = health_check(self.container)
        return None if check is None else Health(self.container, check, self.state.started_ns)

    def failed(self, error: MinidockError) -> None:
        """Keep the reason with the container, which stays as created, or goes with --rm."""
        self._leave_networks()
        state = self.container.state
        state.exit_code = error.exit_code if isinstance(error, CommandError) else 128
        state.error = error.message
        if state.status == "restarting":
            state.status = "exited"
        try:
            if self.auto_remove:
                remove_with_volumes(self.container)
            else:
                self.container.record_exit(state)
        except (MinidockError, OSError) as failure:
            error.add_note(f"cleaning up: {failure}")

    def ended(self, launched: Launched, exit_code: int) -> int | None:
        """Record the end, give the groups back, and with --rm remove the container."""
        state = self.state
        try:
            state.oom_killed = launched.cgroup.oom_killed()
            launched.cgroup.end()
        except (MinidockError, OSError) as error:
            state.error = str(error)
        state.status, state.pid, state.exit_code = "exited", 0, exit_code
        state.finished_ns = time.time_ns()
        while self.space_fds:
            os.close(self.space_fds.pop())
        try:
            asked = self.container.asked_end()
            if asked is None and not self.auto_remove:
                delay_ms = self._restart_delay_ms()
                if delay_ms is not None:
                    state.status = "restarting"
                    self.container.record_exit(state, durable=False, restarts=self._restart_count)
                    return delay_ms
            self._leave_networks()
            if self.auto_remove:
                os.write(self.exit_fd, str(exit_code).encode("ascii"))
            if self.auto_remove and asked != KEEP:
                remove_stopped(self.container)
            else:
                self.container.record_exit(state, on_purpose=asked is not None, restarts=self._restart_count)
                if asked is not None:
                    self.container.forget_asked_end()
        except (MinidockError, OSError):
            # The next command that looks at this container finds its process gone and says so.
            pass
        # The last output may take longer than whoever starts the container again.
        os.close(self.life_fd)
        self.life_fd = -1
        return None

    def _leave_networks(self) -> None:
        """Give the addresses back; if that fails, the next command does it."""
        if self.places is not None:
            try:
                self.places.release()
            except (MinidockError, OSError):
                self.places.close()

    def _restart_delay_ms(self) -> int | None:
        # Read anew: `update` may have changed the policy.
        self.container.reload()
        policy = self.container.restart_policy
        ran_ns = self.state.finished_ns - self.state.started_ns
        if not policy:
            return None
        if self.restarts is None:
            from minidock.runtime.restarts import Restarts

            self.restarts = Restarts()
        return self.restarts.next_delay_ms(policy, self.state.exit_code, ran_ns)

    @property
    def _restart_count(self) -> int:
        return 0 if self.restarts is None else self.restarts.count

    def is_wanted(self) -> bool:
        """Whether the container may still be restarted."""
        return self.container.asked_end() is None

    def begin_again(self) -> bool:
        """Take the lock for another start; False when the container is to stay as it is, or has gone."""
        self.lock = self.container.lock()
        try:
            self.lock.__enter__()
        except (MinidockError, OSError):
            return False
        return self.is_wanted()

    def given_up(self) -> None:
        """It is not restarted after all: put the last end on record."""
        self._leave_networks()
        state = self.state
        state.status, state.pid = "exited", 0
        try:
            self.container.record_exit(state, on_purpose=not self.is_wanted(), restarts=self._restart_count)
            self.container.forget_asked_end()
        except (MinidockError, OSError):
            return


def exit_path(container: Container) -> str:
    """The file that tells a waiting command how a container ended that is removed by then."""
    return f"{container.path}/{EXIT_FILE}"


def open_log(container: Container) -> LogFile | None:
    """The log as --log-driver and --log-opt ask for it; None for driver none. Raises UsageError."""
    given = container.host_config.get("LogConfig")
    kind = given.get("Type") if isinstance(given, dict) else ""
    if kind == "none":
        return None
    options = given.get("Config") if isinstance(given, dict) else None
    if not options:
        return LogFile(container.log_path)
    from minidock.runtime.logoptions import attributes_of, read_log_options

    return LogFile(container.log_path, *read_log_options(options), attributes=attributes_of(container, options))


def remove_stopped(container: Container) -> None:
    """Remove a container after its end, unless someone else has; raises MinidockError."""
    try:
        with container.lock(reload=False):
            remove_with_volumes(container)
    except NoSuchContainer:
        return
