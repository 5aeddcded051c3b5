"""A container's control groups, on cgroup v1, v2, both, or none.

Every hierarchy that is mounted and writable gets a directory `minidock/<container id>`; one that is not is
left out without a word, since a container without limits loses nothing by it. It is at the hierarchy's root, or, where
a service manager has delegated the group that we run in, below that one.
Source: kernel Documentation/admin-guide/cgroup-v1/, cgroup-v2.rst; systemd docs/CGROUP_DELEGATION.md
"""

from __future__ import annotations

import os
import select

from minidock.errors import MinidockError, SyscallError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from minidock.trace import Trace

DEFAULT_PARENT = "minidock"
# What systemd puts on a group that it leaves to others; the second where it has no rights to the first.
_DELEGATED = ("trusted.delegate", "user.delegate")
_UNITS = (".service", ".scope", ".slice", ".socket", ".mount", ".swap")
_SHORT_BYTES = 2048
# What `stats` reads is there on v2 only where the group above hands its controller down.
_MEASURING = ("cpu", "io", "memory", "pids")


class Hierarchy:
    """One mounted cgroup hierarchy.

    Shape: controllers: v1 names such as `cpu`; `name=systemd`; empty for v2. root: the group that the mount shows,
           `/` but inside another container
    """

    __slots__ = ("controllers", "is_v2", "mount_point", "root")

    def __init__(self, mount_point: str, controllers: str, is_v2: bool, root: str = "/") -> None:
        self.mount_point = mount_point
        self.root = root
        self.controllers = controllers
        self.is_v2 = is_v2


_V1_WORDS = frozenset(("rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"))


def hierarchies() -> list[Hierarchy]:
    """The hierarchies mounted below /sys/fs/cgroup in this mount namespace, in mount order."""
    found: dict[str, Hierarchy] = {}
    try:
        with open("/proc/self/mountinfo", "rb", buffering=0) as table:
            lines = table.readall().split(b"\n")
    except OSError:
        return []
    for line in lines:
        if b" - cgroup" not in line:
            continue
        left, _, right = line.partition(b" - ")
        fields, (fstype, _, options) = left.split(b" "), right.split(b" ", 2)
        where = os.fsdecode(fields[4])
        if fields[3] != b"/" and fields[3].startswith(b"/.."):
            continue
        given = [] if fstype == b"cgroup2" else os.fsdecode(options).split(",")
        words = [word for word in given if word not in _V1_WORDS and "release_agent" not in word]
        if where == "/sys/fs/cgroup" or where.startswith("/sys/fs/cgroup/"):
            found[where] = Hierarchy(where, ",".join(words), fstype == b"cgroup2", os.fsdecode(fields[3]))
    return list(found.values())


def _read(path: str) -> str:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        piece = data = os.read(handle, 1 << 16)
        # The kernel hands out a page of whole lines at most, so only a short piece is known to be the last.
        while len(piece) > _SHORT_BYTES:
            piece = os.read(handle, 1 << 16)
            data += piece
        return data.decode("ascii", "replace")
    finally:
        os.close(handle)


def write_control(path: str, text: str) -> None:
    """Write a control file in one call; raises OSError."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(handle, text.encode("ascii"))
    finally:
        os.close(handle)


def _set(path: str, text: str, trace: Trace | None) -> None:
    if trace:
        trace("cgroup", f"echo {text} > {path}")
    write_control(path, text)


def _make_parent(path: str, above: str, is_cpuset: bool, trace: Trace | None) -> None:
    """The directory that holds all containers' groups; a cpuset is empty until told otherwise."""
    os.mkdir(path, 0o755)
    if is_cpuset:
        _fill_cpuset(path, above, trace)
        _set(f"{path}/cgroup.clone_children", "1", trace)


def _hand_down(path: str, trace: Trace | None) -> None:
    """Let the groups below one of v2 be measured; a controller that is refused is left out.

    A group with processes of its own would take the threaded ones alone (cpu, pids) and be a root of threads from then
    on: no process can be put below that. Source: kernel Documentation/admin-guide/cgroup-v2.rst, "Threads"
    """
    try:
        offered, given = (_read(f"{path}/cgroup.{name}").split() for name in ("controllers", "subtree_control"))
        # The hierarchy's root, which alone has no type, may have both.
        if os.path.exists(f"{path}/cgroup.type") and _read(f"{path}/cgroup.procs"):
            return
    except OSError:
        return
    for controller in _MEASURING:
        if controller in offered and controller not in given:
            try:
                _set(f"{path}/cgroup.subtree_control", f"+{controller}", trace)
            except OSError:
                continue


def _fill_cpuset(path: str, above: str, trace: Trace | None) -> None:
    """Give a v1 cpuset all that the group above has, unless it has something; an empty one takes no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not _read(f"{path}/{name}").strip():
            _set(f"{path}/{name}", _read(f"{above}/{name}").strip(), trace)


def delegated_group(mounted: Sequence[Hierarchy]) -> str:
    """The group, as the v2 hierarchy names it, that a service manager has left to the unit that this process is of.

    Empty where there is none: what lies below a unit that is not delegated is the manager's alone, and a user's
    manager (`user@1000.service`, delegated itself) does not leave to us what it has not marked.

    Source: systemd docs/CGROUP_DELEGATION.md, "Delegation"
    """
    hierarchy = next((each for each in mounted if each.is_v2), None)
    if hierarchy is None:
        return ""
    try:
        lines = _read("/proc/self/cgroup").splitlines()
    except OSError:
        return ""
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    path = path.removeprefix(hierarchy.root.rstrip("/"))
    while path.startswith("/") and path != "/" and "/.." not in path:
        for name in _DELEGATED:
            try:
                if os.getxattr(f"{hierarchy.mount_point}{path}", name) == b"1":
                    return path
            except OSError:
                continue
        if path.endswith(_UNITS):
            return ""
        path = path.rpartition("/")[0]
    return ""


def _words_below(hierarchy: Hierarchy, parent: str, delegated: str) -> list[str]:
    """The groups from a hierarchy's root down to the one that holds the container's."""
    words = [word for word in (parent or DEFAULT_PARENT).split("/") if word]
    if delegated and not parent and os.path.isdir(f"{hierarchy.mount_point}{delegated}"):
        return [*delegated.strip("/").split("/"), *words]
    return words


def _is_made(hierarchy: Hierarchy, path: str, trace: Trace | None, *, hands_down: bool) -> bool:
    """Make one of a container's groups, and what is missing above it."""
    is_cpuset = "cpuset" in hierarchy.controllers.split(",")
    above = hierarchy.mount_point
    try:
        for word in path[len(above) + 1 :].split("/")[:-1]:
            parent = f"{above}/{word}"
            if not os.path.isdir(parent):
                try:
                    _make_parent(parent, above, is_cpuset, trace)
                    if hands_down:
                        _hand_down(above, trace)
                        _hand_down(parent, trace)
                except FileExistsError:
                    pass
            above = parent
        if trace:
            trace("cgroup", f"mkdir -p {path}")
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            pass
        if is_cpuset:
            _fill_cpuset(path, hierarchy.mount_point, trace)
    except OSError:
        return False
    return True


class Cgroup:
    """The directories of one container, one in each usable hierarchy.

    Shape: paths: (hierarchy, directory) pairs; delegated: the group that they are below by a service manager's leave
    """

    __slots__ = ("delegated", "paths")

    def __init__(self, paths: Iterable[tuple[Hierarchy, str]], delegated: str = "") -> None:
        self.paths = list(paths)
        self.delegated = delegated

    @classmethod
    def named(cls, container_id: str, parent: str = "", *, mounted: Sequence[Hierarchy] | None = None) -> Cgroup:
        """The groups that a container is to have.

        Shape:  parent: `--cgroup-parent`, a path below each hierarchy's root; mounted: if already known
        Raises: UsageError for a parent that leaves the hierarchy
        """
        if not {".", ".."}.isdisjoint(parent.split("/")):
            raise UsageError(f"invalid cgroup parent {parent!r}: a plain path is expected")
        mounted = hierarchies() if mounted is None else mounted
        delegated = "" if parent else delegated_group(mounted)
        below = ((each, _words_below(each, parent, delegated)) for each in mounted)
        return cls(((each, "/".join((each.mount_point, *words, container_id))) for each, words in below), delegated)

    @classmethod
    def create(
        cls,
        container_id: str,
        parent: str = "",
        *,
        mounted: Sequence[Hierarchy] | None = None,
        trace: Trace | None = None,
    ) -> Cgroup:
        """Make a container's groups, see named and make."""
        group = cls.named(container_id, parent, mounted=mounted)
        group.make(trace, v2=True)
        group.make(trace, v2=False)
        return group

    def make(self, trace: Trace | None, *, v2: bool) -> None:
        """Make the groups of the v2 hierarchy, or of the others; hierarchies that cannot be written are left out."""
        down = v2 and not self.delegated
        self.paths = [pair for pair in self.paths if pair[0].is_v2 != v2 or _is_made(*pair, trace, hands_down=down)]

    @classmethod
    def open(cls, container_id: str, parent: str = "", delegated: str = "") -> Cgroup:
        """The groups that a container already has; delegated: as it was when they were made."""
        found = []
        for each in hierarchies():
            path = "/".join((each.mount_point, *_words_below(each, parent, delegated), container_id))
            if os.path.isdir(path):
                found.append((each, path))
        return cls(found, delegated)

    @classmethod
    def of_process(cls, pid: int) -> Cgroup:
        """The groups in which a process of another cgroup namespace is, seen from ours."""
        try:
            lines = _read(f"/proc/{pid}/cgroup").splitlines()
        except OSError:
            return cls(())
        where: dict[str, str] = {}
        for line in lines:
            _, controllers, path = line.split(":", 2)
            where[controllers] = path
        pairs: list[tuple[Hierarchy, str]] = []
        for each in hierarchies():
            path = where.get(each.controllers, "/")
            below = path.removeprefix(each.root.rstrip("/"))
            if below.startswith("/") and below != "/" and "/.." not in path:
                pairs.append((each, each.mount_point + below))
        return cls(pairs)

    @property
    def v2_path(self) -> str | None:
        """The directory in the v2 hierarchy, if there is one."""
        return next((path for hierarchy, path in self.paths if hierarchy.is_v2), None)

    def path_of(self, controller: str) -> str | None:
        """The directory of a v1 controller, if it is mounted."""
        return next((path for hierarchy, path in self.paths if controller in hierarchy.controllers.split(",")), None)

    def attach(self, pid: int) -> None:
        """Move a process in; a hierarchy that refuses keeps it where it is."""
        for _, path in self.paths:
            try:
                write_control(path + "/cgroup.procs", str(pid))
            except OSError:
                continue

    def enter(self) -> None:
        """Move this very process, of one thread, into the v1 groups; a hierarchy that refuses keeps it.

        A thread that writes `0` to `tasks` moves itself without the lock over all forks and exits of the host,
        which a pid in `cgroup.procs` needs and waits for several milliseconds. Into the v2 group a process is
        cloned; see linux.process.clone_process.

        Source: kernel/cgroup/cgroup.c, cgroup_procs_write_start
        """
        for hierarchy, path in self.paths:
            if not hierarchy.is_v2:
                try:
                    write_control(path + "/tasks", "0")
                except OSError:
                    continue

    def open_v2(self) -> int | None:
        """A descriptor of the v2 group to clone into, None where there is none; raises SyscallError."""
        if self.v2_path is None:
            return None
        try:
            return os.open(self.v2_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SyscallError(f"open({self.v2_path!r})", error.errno or 5) from None

    def pids(self) -> list[int]:
        """The processes inside, of the hierarchy that knows most."""
        for _, path in self.paths:
            try:
                # 0 stands for a process that this pid namespace does not have, and to kill(2) for all of ours
                found = [int(word) for word in _read(path + "/cgroup.procs").split() if word != "0"]
            except OSError:
                continue
            if found:
                return found
        return []

    def oom_killed(self) -> bool:
        """Whether the kernel has killed a process inside for want of memory."""
        v1, v2 = self.path_of("memory"), self.v2_path
        if v1 is None and v2 is None:
            return False
        try:
            text = _read(f"{v1}/memory.oom_control" if v1 is not None else f"{v2}/memory.events")
        except OSError:
            return False
        return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in text.splitlines())

    def is_frozen(self) -> bool:
        """Whether the processes inside have been told to stand still."""
        v1, v2 = self.path_of("freezer"), self.v2_path
        try:
            if v1 is not None:
                return _read(v1 + "/freezer.state").strip() != "THAWED"
            return v2 is not None and _read(v2 + "/cgroup.freeze").strip() == "1"
        except OSError:
            return False

    def kill_all(self) -> None:
        """Send SIGKILL to every process inside, also to those that fork meanwhile."""
        v2 = self.v2_path
        if v2 is not None:
            try:
                write_control(v2 + "/cgroup.kill", "1")
            except OSError:
                pass
        for _ in range(100):
            pids = self.pids()
            if not pids:
                return
            if self.is_frozen():
                # On v1 a frozen process does not die.
                self.thaw()
            for pid in pids:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
            select.select([], [], [], 0.005)

    def freeze(self) -> None:
        """Stop every process inside and wait until all stand still; raises MinidockError where nothing can freeze."""
        self._set_frozen(True)

    def thaw(self) -> None:
        """Let the processes go on; raises MinidockError."""
        self._set_frozen(False)

    def _set_frozen(self, frozen: bool) -> None:
        from minidock.runtime.freezer import freeze_v1, freeze_v2

        v1 = self.path_of("freezer")
        try:
            if v1 is not None:
                freeze_v1(v1 + "/freezer.state", "FROZEN" if frozen else "THAWED")
                return
            if self.v2_path is not None:
                freeze_v2(self.v2_path, frozen)
                return
        except FileNotFoundError:
            # The group has gone with its last process: nothing is left that could move.
            return
        raise MinidockError("cannot freeze the container: no cgroup freezer here", hint="commit with --pause=false")

    def remove(self) -> None:
        """Remove the directories; a last process may need a moment to be gone.

        Raises: SyscallError(EBUSY) when processes stay inside
        """
        for _, path in self.paths:
            _remove_directory(path)
        self.paths = []

    def end(self) -> None:
        """Remove the directories, and before that kill whoever is still inside; raises SyscallError(EBUSY)."""
        self.paths = [(hierarchy, path) for hierarchy, path in self.paths if not _is_removed(path)]
        if self.paths:
            self.kill_all()
            self.remove()


def _is_removed(path: str) -> bool:
    """Remove a group that is empty, or has gone."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _remove_directory(path: str) -> None:
    for _ in range(500):
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != 16:
                raise SyscallError(f"rmdir({path!r})", error.errno or 0) from None
            for name in _children(path):
                _remove_directory(f"{path}/{name}")
            select.select([], [], [], 0.002)
    raise SyscallError(f"rmdir({path!r})", 16)


def _children(path: str) -> list[str]:
    """Groups that the container made below its own, where it was allowed to."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
