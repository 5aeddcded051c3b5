"""How a monitor becomes a small program, without its container noticing.

    monitor, as it was forked                                  the same process, executed anew
    left alone for a second: all that it holds goes ─memfd──▶  takes it up, and carries on
    into a memfd, its descriptors are made inheritable

A forked monitor has in memory all that a start takes, and when its starter was somebody's program, all of that program;
once the starter has gone nobody shares it any more. So it executes the interpreter again, with little but what a
container's end takes. Pid, start time, children, locks, descriptors, session and ignored signals stay with the process,
so nobody else sees a difference. The container's parent-death signal is for the end of this thread, which does not
come. SIGUSR1, the one signal that would end a program without a handler, is blocked from before to after.

Nothing is lost on the way: output waits in its pipes, the end in the pidfd, a request in the container's directory.
The new program's code goes along, too, since an upgrade may be replacing the package's files meanwhile. Where they have
been replaced since the start, or the kernel refuses to execute, the monitor goes on as it is.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import marshal
import os
import sys

from minidock.finder import code_of
from minidock.runtime.carry import Source
from minidock.runtime.cgroup import Cgroup, Hierarchy
from minidock.runtime.containerjob import ContainerJob
from minidock.runtime.logs import StreamLog
from minidock.runtime.monitor import Job, Launched, Monitor, Streams
from minidock.runtime.signals import WAKE
from minidock.store import overlay2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# The new program; its words are where the package lies, and the memfd.
_PROGRAM = """import marshal, os, sys
sys.path.append(sys.argv[1])
with os.fdopen(int(sys.argv[2]), "rb", 0) as file:
    file.seek(0)
    data = file.readall()
estate = marshal.loads(data)
code = memoryview(data)[-estate["code_bytes"] :]
for name, (source, is_package, begin, end) in estate["code"].items():
    estate["code"][name] = source, is_package, code[begin:end]
del data, code
finder = type(sys)("minidock.finder")
exec(marshal.loads(estate["code"][finder.__name__][2]), finder.__dict__)
finder.install(given=estate["code"])
from minidock.runtime.succession import main
main(estate)
"""
_HERE = __name__.partition(".")[0]
# Loaded when a container with --rm is removed, by when an upgrade may have replaced its file.
_USED_LATE = overlay2
# What the new program loads, which it is given: an upgrade may be replacing the files at this moment.
MODULES = tuple(
    f"{_HERE}.{name}" if name else _HERE
    for name in (
        *("", "constants", "errors", "finder", "ids", "formats", "formats.containerconfig", "formats.gojson"),
        *("store", "store.containers", "store.containerstate", "store.overlay2", "store.root", "store.transaction"),
        *("runtime", "runtime.attach", "runtime.carry", "runtime.cgroup", "runtime.containerjob", "runtime.logs"),
        *("runtime.monitor", "runtime.settle", "runtime.signals", "runtime.succession"),
    )
)
# And what some of them load, for places on networks and restart policies.
MORE = tuple(
    f"{_HERE}.{name}"
    for name in ("network", "network.hostfiles", "network.leaving", "store.endpoints", "runtime.restarts")
)


def succeed(monitor: Monitor, loaded_ns: int) -> None:
    """Execute the monitor anew; returns when that cannot be, with nothing changed.

    Shape: loaded_ns: when this program loaded its modules
    """
    kept = monitor.job.kept()
    # An interpreter inside another program knows of none that could be executed, or takes that program for one.
    if kept is None or "python" not in os.path.basename(sys.executable or ""):
        return
    code = code_of([*MODULES, *filter(sys.modules.__contains__, MORE)], loaded_ns)
    if code is None:
        return
    inherited: list[int] = []
    handle = -1
    _signal.pthread_sigmask(_signal.SIG_BLOCK, [WAKE])
    try:
        handle = os.memfd_create("minidock-monitor")
        estate = _estate(monitor, kept)
        _write(handle, estate, code)
        inherited = [fd for fd in (handle, *estate["descriptors"]) if fd >= 0]
        for fd in inherited:
            os.set_inheritable(fd, True)
        place = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", _PROGRAM, place, str(handle)])
    except OSError:
        for fd in inherited:
            os.set_inheritable(fd, False)
        if handle >= 0:
            os.close(handle)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [WAKE])


def _write(handle: int, estate: dict[str, Any], code: dict[str, tuple[str, bool, bytes]]) -> None:
    """Estate and code into one file, the code at its end, where modules are taken from one by one."""
    position = 0
    places = {}
    for name, (source, is_package, data) in code.items():
        places[name] = source, is_package, position, position + len(data)
        position += len(data)
    with open(handle, "wb", closefd=False) as file:
        file.write(marshal.dumps({**estate, "code": places, "code_bytes": position}))
        file.writelines(data for _, _, data in code.values())


def _descriptors(monitor: Monitor, kept: dict[str, Any]) -> list[int]:
    return [
        *kept["descriptors"],
        monitor.launched.pidfd,
        monitor.streams.stdin_write,
        *(source.fd for source in monitor.sources),
    ]


def _estate(monitor: Monitor, kept: dict[str, Any]) -> dict[str, Any]:
    """All that the new program has to know, of types that marshal takes."""
    launched = monitor.launched
    return {
        "kept": kept,
        "tty": monitor.job.tty,
        "descriptors": _descriptors(monitor, kept),
        "launched": (launched.pid, launched.pidfd, launched.start_time),
        "groups": [
            (each.mount_point, each.controllers, each.is_v2, each.root, path) for each, path in launched.cgroup.paths
        ],
        "delegated": launched.cgroup.delegated,
        "sources": [(source.fd, None if source.log is None else source.log.unfinished()) for source in monitor.sources],
        "stdin": (monitor.streams.stdin_write, monitor.streams.keeps_stdin),
    }


def main(estate: dict[str, Any]) -> NoReturn:
    """The new program."""
    # All that was given has been loaded.
    estate.pop("code").clear()
    for fd in estate["descriptors"]:
        if fd >= 0:
            os.set_inheritable(fd, False)
    kept, tty = estate["kept"], estate["tty"]
    job = ContainerJob.resume(kept, tty=tty) if "container" in kept else Job(tty)
    streams = Streams(report_write=-1, control_read=-1)
    streams.stdin_write, streams.keeps_stdin = estate["stdin"]
    pid, pidfd, start_time = estate["launched"]
    sources = [Source(fd, _stream_log(job, unfinished)) for fd, unfinished in estate["sources"]]
    console_fd = sources[0].fd if tty else None
    group = Cgroup(((Hierarchy(*words), path) for *words, path in estate["groups"]), estate["delegated"])
    try:
        Monitor(job, streams, is_small=True).go_on(Launched(pid, pidfd, console_fd, group, start_time), sources)
    except BaseException:  # noqa: BLE001 - nobody is there to be told
        os._exit(1)


def _stream_log(job: Job, unfinished: tuple[str, bytes, str] | None) -> StreamLog | None:
    """A stream's way into the log, with what its line has begun with."""
    if unfinished is None:
        return None
    name, rest, piece_time = unfinished
    log = job.stream_log(name)
    if log is not None:
        log.go_on(rest, piece_time)
    return log
