"""docker top: the processes of a container, as the host's ps would show them.

The usual columns, ps -ef, are read from /proc here, so that no ps is needed; for other options the host's ps is run.
Source: proc(5); procps ps/output.c; moby daemon/top_unix.go
"""

from __future__ import annotations

import os
import time

from minidock.errors import CommandError, ContainerNotRunning, MinidockError
from minidock.runtime.attach import refuse_foreign
from minidock.runtime.pause import group_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.runtime.cgroup import Cgroup
    from minidock.store.root import DataRoot

TITLES = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
_NAME_WIDTH = 8
_PTS_MAJORS = range(136, 144)


def top(root: DataRoot, container: str, options: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """The titles, and a row for each process, by pid.

    Shape:  options: those of ps; none for -ef
    Raises: NoSuchContainer, ContainerNotRunning; CommandError when ps cannot be run or shows no PID
    """
    found = root.containers.get(container)
    if found.state.is_restarting():
        raise ContainerNotRunning(f"Container {found.id} is restarting, wait until the container is running")
    if not found.is_running():
        raise ContainerNotRunning(f"Container {found.id} is not running")
    pids = _all_pids(group_of(found)) - {0}
    if not pids:
        # Of another namespace's processes the kernel tells only those that have a number in ours.
        refuse_foreign(found)
    if options and list(options) != ["-ef"]:
        return _ask_ps(options, pids)
    rows = [row for row in map(_row, sorted(pids)) if row]
    return list(TITLES), rows


def _all_pids(group: Cgroup) -> set[int]:
    """The processes of the group and of those that the container made below it."""
    found: set[int] = set()
    for _, path in group.paths:
        for folder, _, _ in os.walk(path):
            try:
                with open(f"{folder}/cgroup.procs", "rb") as file:
                    found.update(map(int, file.read().split()))
            except OSError:
                continue
        if found:
            break
    return found


def _ask_ps(options: Sequence[str], pids: set[int]) -> tuple[list[str], list[list[str]]]:
    import subprocess

    # The width is the engine's with docker, not that of the caller's terminal.
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    try:
        done = subprocess.run(["ps", *options], capture_output=True, check=False, env=environment)
    except FileNotFoundError:
        raise CommandError(
            "ps is not installed on this host, and options need it", exit_code=1, hint="without options none is needed"
        ) from None
    if done.returncode:
        reason = done.stderr.decode("utf-8", "replace").strip()
        raise MinidockError(f"ps: {reason or f'exit status {done.returncode}'}")
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise MinidockError("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows = []
    for line in lines[1:]:
        words = line.split()
        if len(words) > column and words[column].isdecimal() and int(words[column]) in pids:
            last = len(titles) - 1
            rows.append([*words[:last], " ".join(words[last:])])
    return titles, rows


def _row(pid: int) -> list[str]:
    """One process in the columns of ps -ef; empty when it has ended meanwhile."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            raw = file.read().decode("utf-8", "replace")
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().replace(b"\0", b" ").decode("utf-8", "replace").split()
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return []
    name, _, rest = raw.partition("(")[2].rpartition(")")
    fields = rest.split()
    ticks = os.sysconf("SC_CLK_TCK")
    used_s = (int(fields[11]) + int(fields[12])) / ticks
    lived_s = max(time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / ticks, 0.01)
    command = " ".join(words) or (f"[{name}] <defunct>" if fields[0] == "Z" else f"[{name}]")
    started = time.time() - lived_s
    share = min(int(100 * used_s / lived_s), 99)
    return [
        _user(uid), str(pid), fields[1], str(share),
        _start(started), _terminal(int(fields[4])), _span(int(used_s)), command,
    ]  # fmt: skip


def _user(uid: int) -> str:
    import pwd

    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
    return name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "+"


def _start(moment_s: float) -> str:
    then, now = time.localtime(moment_s), time.localtime()
    if then.tm_year != now.tm_year:
        return str(then.tm_year)
    return time.strftime("%H:%M" if then.tm_yday == now.tm_yday else "%b%d", then)


def _terminal(number: int) -> str:
    major, minor = os.major(number), os.minor(number)
    if major in _PTS_MAJORS:
        return f"pts/{minor + 256 * (major - _PTS_MAJORS.start)}"
    return f"tty{minor}" if major == 4 and minor < 64 else "?"


def _span(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock
