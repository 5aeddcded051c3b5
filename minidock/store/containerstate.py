"""What a container is doing, and the proof that the process in its record is still the same one."""

from __future__ import annotations

import os

from minidock.errors import FormatError, StoreCorrupt
from minidock.formats.containerconfig import MAX_BYTES, time_of, time_text
from minidock.formats.gojson import parse_json
from minidock.store.transaction import boot_id, pid_namespace, read_small, start_time, sync_directory, write_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

# What docker shows for a container whose end nobody saw: killed together with its monitor, or with the machine.
EXIT_KILLED = 137
EXIT_UNKNOWN = 255
STATE_FILE = "minidock.state"
# Whoever runs the container holds a flock on it, which is seen from every pid namespace. In it is the time of the last
# start that left no overlay marks in the upper directory.
LIFE_FILE = "minidock.life"
# Left by who ends a container on purpose: no restart policy holds then, and with "keep" not --rm either.
STOP_FILE = "minidock.stop"
KEEP = b"keep"


def _delegated(value: object) -> str:
    if not isinstance(value, str) or "\0" in value or not {".", ".."}.isdisjoint(value.split("/")):
        raise FormatError("minidock.state: Delegated is no path")
    return value


class ContainerState:
    """created, running, paused, restarting, exited or dead, with what belongs to it.

    Shape: pid 0 unless running, -1 as monitor_pid for processes of another pid namespace, of which only the lock on
           life_path tells whether they live; start_time and monitor_start_time in clock ticks since boot;
           pid_namespace: the number of the namespace that the pids are of, 0 for this one; delegated: the control group
           below which a service manager has let the container's be, empty for none
    Units: started_ns, finished_ns nanoseconds since 1970, 0 for never
    """

    __slots__ = (
        "auto_remove",
        "boot_id",
        "delegated",
        "error",
        "exit_code",
        "finished_ns",
        "life_path",
        "monitor_pid",
        "monitor_start_time",
        "oom_killed",
        "pid",
        "pid_namespace",
        "start_time",
        "started_ns",
        "status",
    )

    def __init__(
        self,
        *,
        status: str,
        pid: int = 0,
        start_time: int = 0,
        exit_code: int = 0,
        started_ns: int = 0,
        finished_ns: int = 0,
        error: str = "",
        oom_killed: bool = False,
        monitor_pid: int = 0,
        monitor_start_time: int = 0,
        boot_id: str = "",
        auto_remove: bool = False,
        pid_namespace: int = 0,
        delegated: str = "",
    ) -> None:
        self.delegated = delegated
        self.pid_namespace = pid_namespace
        self.life_path = ""
        self.status = status
        self.pid = pid
        self.start_time = start_time
        self.exit_code = exit_code
        self.started_ns = started_ns
        self.finished_ns = finished_ns
        self.error = error
        self.oom_killed = oom_killed
        self.monitor_pid = monitor_pid
        self.monitor_start_time = monitor_start_time
        self.boot_id = boot_id
        self.auto_remove = auto_remove

    def to_document(self) -> dict[str, Any]:
        """The content of minidock.state."""
        return {
            "Status": self.status,
            "BootID": self.boot_id,
            "PidNamespace": self.pid_namespace,
            "Pid": self.pid,
            "StartTime": self.start_time,
            "MonitorPid": self.monitor_pid,
            "MonitorStartTime": self.monitor_start_time,
            "ExitCode": self.exit_code,
            "Error": self.error,
            "OOMKilled": self.oom_killed,
            "StartedAt": time_text(self.started_ns),
            "FinishedAt": time_text(self.finished_ns),
            "AutoRemove": self.auto_remove,
            "Delegated": self.delegated,
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> ContainerState:
        """Read the content of minidock.state; raises FormatError."""
        numbers: dict[str, int] = {}
        for key in ("PidNamespace", "Pid", "StartTime", "MonitorPid", "MonitorStartTime", "ExitCode"):
            value = document.get(key, 0)
            if not isinstance(value, int) or value < 0:
                raise FormatError(f"minidock.state: {key} is not a number")
            numbers[key] = value
        return cls(
            status=str(document.get("Status", "")),
            pid=numbers["Pid"],
            start_time=numbers["StartTime"],
            exit_code=numbers["ExitCode"],
            started_ns=time_of(str(document.get("StartedAt", ""))),
            finished_ns=time_of(str(document.get("FinishedAt", ""))),
            error=str(document.get("Error", "")),
            oom_killed=document.get("OOMKilled") is True,
            monitor_pid=numbers["MonitorPid"],
            monitor_start_time=numbers["MonitorStartTime"],
            boot_id=str(document.get("BootID", "")),
            auto_remove=document.get("AutoRemove") is True,
            pid_namespace=numbers["PidNamespace"],
            delegated=_delegated(document.get("Delegated", "")),
        )

    def look_from_here(self, life_path: str) -> None:
        """Take the pids for what they are in this process's pid namespace: nothing, if they are of another one."""
        if self.pid_namespace and self.is_this_boot() and self.pid_namespace != pid_namespace():
            self.life_path = life_path
            self.pid = -1 if self.pid else 0
            self.monitor_pid = -1 if self.monitor_pid else 0

    def is_foreign(self) -> bool:
        """Whether the container is run from another pid namespace, from which alone it can be reached."""
        return bool(self.life_path)

    def _is_held(self) -> bool:
        return is_locked(self.life_path)

    def is_this_boot(self) -> bool:
        """Whether the record is of the machine's present boot."""
        return self.boot_id == boot_id()

    def is_process_alive(self) -> bool:
        """Whether the container's first process lives: same boot, pid and start time, and no zombie."""
        if self.life_path:
            return bool(self.pid) and self._is_held()
        return bool(self.pid) and self.is_this_boot() and start_time(self.pid) == self.start_time

    def is_monitor_alive(self) -> bool:
        """Whether the process that will record the container's end lives."""
        if self.life_path:
            return bool(self.monitor_pid) and self._is_held()
        return (
            bool(self.monitor_pid) and self.is_this_boot() and start_time(self.monitor_pid) == self.monitor_start_time
        )

    def is_restarting(self) -> bool:
        """Whether the process has ended, and the monitor is about to start it again."""
        return self.status == "restarting" and self.is_monitor_alive()

    def is_abandoned(self) -> bool:
        """Whether this is a --rm container that nobody will remove any more."""
        return self.auto_remove and bool(self.pid) and not self.is_process_alive() and not self.is_monitor_alive()

    def shown_status(self) -> str:
        """The status as tables and inspect show it: a record whose process is gone never says running."""
        if self.status in ("running", "paused") and not self.is_process_alive():
            return "exited"
        return self.status

    def shown_exit_code(self) -> int:
        """The exit code, for a process that ended unseen the one docker shows."""
        if self.pid and not self.is_process_alive():
            return EXIT_KILLED if self.is_this_boot() else EXIT_UNKNOWN
        return self.exit_code


def state_from_record(document: dict[str, Any]) -> ContainerState:
    """The state of a container that minidock does not run, from the `State` object of its config.v2.json.

    Shape: running or paused only when dockerd wrote so and the process is the container's, dockerd alive or not
    """
    record = document.get("State")
    if not isinstance(record, dict):
        return ContainerState(status="created")
    exit_code = record.get("ExitCode", 0)
    started_ns = time_of(str(record.get("StartedAt", "")))
    pid, started = (0, 0) if record.get("Running") is not True else _engine_process(record, str(document.get("ID", "")))
    if pid:
        status = "paused" if record.get("Paused") is True else "running"
    elif record.get("Dead") is True:
        status = "dead"
    else:
        status = "exited" if started_ns else "created"
    return ContainerState(
        status=status,
        pid=pid,
        start_time=started,
        boot_id=boot_id() if pid else "",
        exit_code=exit_code if isinstance(exit_code, int) else EXIT_UNKNOWN,
        started_ns=started_ns,
        finished_ns=time_of(str(record.get("FinishedAt", ""))),
        error=str(record.get("Error", "")),
        oom_killed=record.get("OOMKilled") is True,
    )


def _engine_process(record: dict[str, Any], container_id: str) -> tuple[int, int]:
    """Pid and start time of a container's first process that an engine started, or zeros when it is gone.

    Its record outlives the machine's boot; whether a process of this number is still the container's, its control
    group tells, which every engine names after the container.
    """
    pid = record.get("Pid")
    if not isinstance(pid, int) or pid <= 0 or not container_id:
        return 0, 0
    started = start_time(pid)
    try:
        groups = read_small(f"/proc/{pid}/cgroup")
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    if started is None or container_id.encode() not in groups:
        return 0, 0
    return pid, started


def read_record(path: str, name: str, container_id: str) -> dict[str, Any]:
    """One of the records in a container's directory; raises FileNotFoundError, NotADirectoryError, StoreCorrupt."""
    try:
        return parse_json(read_small(f"{path}/{name}"), what=name, limit_bytes=MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (FormatError, OSError) as error:
        reason = error.message if isinstance(error, FormatError) else f"{name}: {error.strerror}"
        raise StoreCorrupt(f"container {container_id[:12]}: {reason}") from None


def read_state(path: str, document: dict[str, Any]) -> ContainerState:
    """The state of a container from its two records, the running one first."""
    recorded = state_from_record(document)
    try:
        raw = read_small(f"{path}/{STATE_FILE}")
    except OSError:
        return recorded
    try:
        state = ContainerState.from_document(parse_json(raw, what=STATE_FILE, limit_bytes=1 << 16))
    except FormatError:
        return recorded
    state.look_from_here(f"{path}/{LIFE_FILE}")
    if not state.pid and not state.is_restarting():
        # Only a wish, made at creation; an engine may have run the container since.
        recorded.auto_remove = state.auto_remove
        return recorded
    if recorded.pid and not state.is_process_alive() and not state.is_monitor_alive():
        # An engine has run the container since this program last did.
        return recorded
    return state


def hold_life(path: str) -> int:
    """Become the one who runs the container of this directory.

    Shape:   the caller knows that nothing runs; who ran it last may be about to let go
    Returns: a descriptor that holds the lock for as long as it is open
    """
    import fcntl

    handle = os.open(f"{path}/{LIFE_FILE}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def note_plain_start(life_fd: int, started_ns: int) -> None:
    """Note a start on a mount that follows no overlay marks, and so makes none."""
    os.pwrite(life_fd, b"%d" % started_ns, 0)


def read_plain_start(path: str) -> int:
    """When the container of this directory last was so started, 0 for never."""
    try:
        text = read_small(f"{path}/{LIFE_FILE}", 64)
    except FileNotFoundError:
        return 0
    return int(text) if text.isdigit() else 0


def is_locked(path: str) -> bool:
    """Whether another process holds a file's flock."""
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def wait_unlocked(path: str) -> None:
    """Wait until nobody holds a file's flock."""
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def replace_file(path: str, data: bytes, mode: int, *, durable: bool = False) -> None:
    """Put a file in place of another, whole or not at all."""
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.tmp-{name}{os.getpid()}"
    remove_file(temporary)
    write_new(temporary, data, mode, durable=durable)
    os.rename(temporary, path)
    if durable:
        sync_directory(folder)


def remove_file(path: str) -> None:
    """Remove a file, unless it has gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


class RecordLock:
    """Held while config.v2.json is read, changed and put back; a flock on Docker's own directory of checkpoints.

    The container's lock would not do: it is held over a whole commit, for which a container's end must not wait.
    """

    __slots__ = ("fd", "path")

    def __init__(self, path: str) -> None:
        self.path = f"{path}/checkpoints"
        self.fd = -1

    def __enter__(self) -> None:
        import fcntl

        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            # A container of an engine that makes it when it is first needed.
            return
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.fd >= 0:
            os.close(self.fd)
