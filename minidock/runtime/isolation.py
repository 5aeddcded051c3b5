"""The less common settings of a container: host namespaces, OOM score, resource limits, sysctls, devices."""

from __future__ import annotations

import errno
import os

from minidock.errors import CommandError, SyscallError, UsageError
from minidock.linux import cdata
from minidock.linux.libc import declare
from minidock.linux.mount import shell_word
from minidock.linux.namespaces import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUTS
from minidock.runtime.devices import HostDevice, device_rule, host_devices
from minidock.runtime.operation import PROC_SUPER_MAGIC, S_IFDIR, S_IFMT, Operation, Setup, filesystem_magic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from minidock.runtime.joined import Joins
    from minidock.runtime.usermap import UserMap
    from minidock.store.containers import ContainerStore

# The fields of hostconfig.json that are read here.
FIELDS = ("PidMode", "IpcMode", "UTSMode", "UsernsMode", "OomScoreAdj", "Sysctls", "Ulimits", "Devices")

_S_IFBLK = 0o060000
_NAMESPACES = {"PidMode": CLONE_NEWPID, "IpcMode": CLONE_NEWIPC, "UTSMode": CLONE_NEWUTS}
_OWN = {"PidMode": ("",), "IpcMode": ("", "private", "shareable", "none"), "UTSMode": ("",)}
# Source: getrlimit(2), asm-generic/resource.h
RESOURCES = {
    "cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7, "memlock": 8,
    "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13, "rtprio": 14, "rttime": 15,
}  # fmt: skip

_prlimit = declare("prlimit64", cdata.c_int, cdata.c_int, cdata.c_void_p, cdata.c_void_p)
_Limit = cdata.c_uint64 * 2


class Isolation:
    """The settings of one container.

    Shape: shared: the CLONE_NEW* flags of namespaces that stay the host's; joins: those that are another container's;
           user_map: the user namespace's, None without one; has_shm: whether there is a /dev/shm; limits: (name, soft,
           hard), -1 no limit; devices: (node, access)
    """

    __slots__ = ("devices", "has_shm", "joins", "limits", "oom_score_adj", "rules", "shared", "sysctls", "user_map")

    def __init__(self, host: Mapping[str, Any], name: str = "", containers: ContainerStore | None = None) -> None:
        self.shared = 0
        self.joins: Joins | None = None
        for field, flag in _NAMESPACES.items():
            mode = host.get(field) or ""
            if mode == "host":
                self.shared |= flag
            elif mode.startswith("container:") and containers is not None:
                self._join(containers, flag, mode, host)
            elif mode not in _OWN[field]:
                raise UsageError(f"container {name}: {field} {mode!r} is not supported")
        network = host.get("NetworkMode") or ""
        if network.startswith("container:") and containers is not None:
            self._join(containers, CLONE_NEWNET, network, host)
        self.user_map: UserMap | None = None
        if mode := host.get("UsernsMode"):
            from minidock.runtime.usermap import read_user_map

            self.user_map = read_user_map(mode)
        self.has_shm = host.get("IpcMode") != "none"
        self.oom_score_adj = int(host.get("OomScoreAdj") or 0)
        self.sysctls: dict[str, str] = dict(host.get("Sysctls") or {})
        self.limits = [(str(each["Name"]), int(each["Soft"]), int(each["Hard"])) for each in host.get("Ulimits") or ()]
        self.devices: list[tuple[HostDevice, str]] = []
        for each in host.get("Devices") or ():
            self.devices += _nodes(each["PathOnHost"], each["PathInContainer"], each["CgroupPermissions"])

        self.rules = [device_rule(str(text)) for text in host.get("DeviceCgroupRules") or ()]

    def _join(self, containers: ContainerStore, flag: int, mode: str, host: Mapping[str, Any]) -> None:
        if self.joins is None:
            from minidock.runtime.joined import Joins

            self.joins = Joins(containers, (host.get("UsernsMode") or "").removeprefix("host"))
        self.joins.wanted.append((flag, mode.removeprefix("container:")))

    def start_operations(self) -> list[Operation]:
        """What the first process does before anything else."""
        plan: list[Operation] = [SetLimit(*limit) for limit in self.limits]
        if self.oom_score_adj:
            plan.append(SetOomScore(self.oom_score_adj))
        return plan

    def sysctl_operations(self) -> list[Operation]:
        """What is written while /proc/sys can still be."""
        return [SetSysctl(key, value) for key, value in self.sysctls.items()]

    def allowed_devices(self) -> list[tuple[str, int, int, str]]:
        """The rules that open the devices to the container's group."""
        return [
            ("b" if node.mode & S_IFMT == _S_IFBLK else "c", os.major(node.rdev), os.minor(node.rdev), access)
            for node, access in self.devices
        ] + [rule for rules in self.rules for rule in rules]


def _nodes(source: str, target: str, access: str) -> list[tuple[HostDevice, str]]:
    clean = "/" + os.path.normpath(target).lstrip("/")
    if clean in ("/", "/dev"):
        raise UsageError(f"device {source}: there is no place for a node at {target}")
    name = clean.removeprefix("/dev/")
    try:
        status = os.stat(source)
    except OSError as error:
        reason = (error.strerror or "").lower()
        # As docker's client ends where something is not there.
        raise CommandError(
            f'error gathering device information while adding custom device "{source}": {reason}',
            exit_code=127 if error.errno == errno.ENOENT else 125,
        ) from None
    if status.st_mode & S_IFMT == S_IFDIR:
        return [(node, access) for node in host_devices(source, name + "/")]
    if status.st_mode & S_IFMT not in (0o020000, _S_IFBLK):
        raise UsageError(f'error gathering device information while adding custom device "{source}": not a device node')
    return [(HostDevice(name, status), access)]


class SetLimit(Operation):
    """Set one resource limit; what the host does not let us raise is cut to our own hard limit."""

    __slots__ = ("hard", "name", "soft")
    kind = "exec"

    def __init__(self, name: str, soft: int, hard: int) -> None:
        self.name = name
        self.soft = soft
        self.hard = hard

    def describe(self) -> str:
        soft, hard = ("unlimited" if value == -1 else str(value) for value in (self.soft, self.hard))
        return f"prlimit --pid $$ --{self.name}={soft}:{hard}"

    def execute(self, setup: Setup) -> None:
        set_limit(self.name, self.soft, self.hard)


def _unsigned(value: int) -> int:
    return value & 0xFFFFFFFFFFFFFFFF


def own_limit(name: str) -> tuple[int, int]:
    """This process's soft and hard limit as the kernel counts them; raises SyscallError."""
    current = _Limit()
    _prlimit(0, RESOURCES[name], None, cdata.addressof(current))
    return current[0], current[1]


def set_limit(name: str, soft: int, hard: int) -> None:
    """Set a limit of this process, within what it may; raises SyscallError. Source: prlimit(2)"""
    wanted = _Limit(_unsigned(soft), _unsigned(hard))
    try:
        _prlimit(0, RESOURCES[name], cdata.addressof(wanted), None)
    except SyscallError as error:
        if error.errno != errno.EPERM:
            raise
        _, ours = own_limit(name)
        wanted = _Limit(min(wanted[0], ours), min(wanted[1], ours))
        _prlimit(0, RESOURCES[name], cdata.addressof(wanted), None)


class SetOomScore(Operation):
    """Say how soon the kernel picks the container when memory runs out."""

    __slots__ = ("score",)
    kind = "make"

    def __init__(self, score: int) -> None:
        self.score = score

    def describe(self) -> str:
        return f"echo {self.score} > /proc/self/oom_score_adj"

    def execute(self, setup: Setup) -> None:
        _write("/proc/self/oom_score_adj", str(self.score))


class SetSysctl(Operation):
    """Set a sysctl of the container's own namespaces that was asked for."""

    __slots__ = ("key", "value")
    kind = "make"

    def __init__(self, key: str, value: str) -> None:
        self.key = key
        self.value = value

    def describe(self) -> str:
        return f"echo {shell_word(self.value)} > {shell_word(sysctl_path(self.key))}"

    def execute(self, setup: Setup) -> None:
        path = sysctl_path(self.key)
        try:
            _write(path, self.value)
        except SyscallError as error:
            if error.errno != errno.ENOENT:
                raise
            # In the runtime's words, and with docker's code for what is not there.
            raise CommandError(f"open {path}: no such file or directory", exit_code=127) from None


def sysctl_path(key: str) -> str:
    """The file of a sysctl; raises UsageError for a name that leaves /proc/sys."""
    parts = key.split("/") if "/" in key else key.split(".")
    if not all(parts) or ".." in parts or "\0" in key:
        raise UsageError(f"sysctl '{key}' is not allowed")
    return "/proc/sys/" + "/".join(parts)


def _write(path: str, value: str) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if filesystem_magic(handle) != PROC_SUPER_MAGIC:
                raise SyscallError(f"open({path!r})", errno.ENOENT)
            os.write(handle, os.fsencode(value))
        finally:
            os.close(handle)
    except OSError as error:
        raise SyscallError(f"write {path}", error.errno or 0) from None


def apply_limits(limits: Sequence[tuple[str, int, int]]) -> None:
    """Take on a container's resource limits, for a process that joins it."""
    for name, soft, hard in limits:
        set_limit(name, soft, hard)
