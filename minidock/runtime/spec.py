"""What a container or a further process in it is to be: plain values, filled in by the verbs."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from minidock.formats.volumeoptions import VolumeMount
    from minidock.network.joining import Places
    from minidock.runtime.isolation import Isolation

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM_BYTES = 64 << 20
# The fields of hostconfig.json that are limits.
LIMIT_FIELDS = (
    "CpuShares", "Memory", "NanoCpus", "BlkioWeight", "BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps",
    "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps", "CpuPeriod", "CpuQuota", "CpusetCpus", "CpusetMems",
    "MemoryReservation", "MemorySwap", "MemorySwappiness", "OomKillDisable", "PidsLimit",
    "CpuRealtimePeriod", "CpuRealtimeRuntime", "KernelMemory",
)  # fmt: skip


class BindMount:
    """A host path shown in the container.

    Shape: propagation: "" or rprivate, private, rslave, slave, rshared, shared; is_own: of the data root itself, and
           so with the container's IDs where it has a user namespace; volume: what is mounted on source first, or None;
           space_fd: once mounted, what keeps a volume's mount that others may use, too, else -1
    """

    __slots__ = ("is_own", "propagation", "read_only", "recursive", "source", "space_fd", "target", "volume")

    def __init__(
        self,
        source: str,
        target: str,
        read_only: bool = False,
        propagation: str = "",
        recursive: bool = True,
        is_own: bool = False,
        volume: VolumeMount | None = None,
    ) -> None:
        self.is_own = is_own
        self.volume = volume
        self.space_fd = -1
        self.source = source
        self.target = target
        self.read_only = read_only
        self.propagation = propagation
        self.recursive = recursive


class TmpfsMount:
    """A memory file system in the container. Shape: options as after the colon of `--tmpfs`"""

    __slots__ = ("options", "target")

    def __init__(self, target: str, options: str = "") -> None:
        self.target = target
        self.options = options


class ContainerSpec:
    """Everything that launching a container needs.

    Shape:  lowers: the rw layer's `lower` file, `l/XXX` topmost first; mount_id: the rw layer's directory below
            overlay_path; etc_files: path in the container -> file on the host; env: image's and caller's entries,
            PATH, HOSTNAME, TERM and HOME are added as docker does; network: "none", "host" or another word;
            marks: of its upper directory, see upper.marks_in; places: those on its networks, None for "none" and
            "host"; apparmor: a profile's name, empty for none; limits: fields of hostconfig.json, see runtime.limits;
            masked_paths, readonly_paths: of /proc and /sys, None for docker's own
    Units:  shm_size_bytes
    """

    __slots__ = (
        "apparmor",
        "argv",
        "binds",
        "cap_add",
        "cap_drop",
        "cgroup_parent",
        "container_id",
        "cwd",
        "env",
        "etc_files",
        "group_add",
        "hostname",
        "init",
        "isolation",
        "places",
        "limits",
        "lowers",
        "marks",
        "masked_paths",
        "mount_id",
        "network",
        "no_new_privileges",
        "overlay_path",
        "privileged",
        "read_only",
        "readonly_paths",
        "seccomp_filter",
        "shares_cgroup_namespace",
        "shm_size_bytes",
        "tmpfs",
        "tty",
        "user",
    )

    def __init__(
        self,
        *,
        container_id: str,
        overlay_path: str,
        lowers: Sequence[str],
        mount_id: str,
        marks: str = "",
        argv: Sequence[str],
        env: Sequence[str] = (),
        cwd: str = "/",
        user: str = "",
        group_add: Sequence[str] = (),
        hostname: str = "",
        binds: Sequence[BindMount] = (),
        tmpfs: Sequence[TmpfsMount] = (),
        etc_files: Mapping[str, str] | None = None,
        read_only: bool = False,
        network: str = "none",
        cap_add: Sequence[str] = (),
        cap_drop: Sequence[str] = (),
        privileged: bool = False,
        init: bool = False,
        tty: bool = False,
        shm_size_bytes: int = DEFAULT_SHM_BYTES,
        cgroup_parent: str = "",
        shares_cgroup_namespace: bool = False,
        no_new_privileges: bool = False,
        seccomp_filter: bytes = b"",
        apparmor: str = "",
        isolation: Isolation | None = None,
        limits: Mapping[str, Any] | None = None,
        masked_paths: Sequence[str] | None = None,
        readonly_paths: Sequence[str] | None = None,
    ) -> None:
        self.masked_paths = masked_paths
        self.readonly_paths = readonly_paths
        self.limits = dict(limits or {})
        self.container_id = container_id
        self.overlay_path = overlay_path
        self.lowers = list(lowers)
        self.mount_id = mount_id
        self.marks = marks
        self.argv = list(argv)
        self.env = list(env)
        self.cwd = cwd or "/"
        self.user = user
        self.group_add = list(group_add)
        self.hostname = hostname or container_id[:12]
        self.binds = list(binds)
        self.tmpfs = list(tmpfs)
        self.etc_files = dict(etc_files or {})
        self.read_only = read_only
        self.network = network
        self.cap_add = list(cap_add)
        self.cap_drop = list(cap_drop)
        self.privileged = privileged
        self.init = init
        self.tty = tty
        self.shm_size_bytes = shm_size_bytes
        self.cgroup_parent = cgroup_parent
        self.shares_cgroup_namespace = shares_cgroup_namespace
        self.no_new_privileges = no_new_privileges
        self.seccomp_filter = seccomp_filter
        self.apparmor = apparmor
        self.isolation = isolation
        self.places: Places | None = None


class ExecSpec:
    """A further process in a running container; the attributes mean what they mean in ContainerSpec.

    Shape: env: the container's entries, then the caller's; is_remapped: the container has a user namespace
    """

    __slots__ = (
        "apparmor",
        "argv",
        "cap_add",
        "cap_drop",
        "cwd",
        "env",
        "group_add",
        "hostname",
        "is_remapped",
        "isolation",
        "no_new_privileges",
        "privileged",
        "seccomp_filter",
        "tty",
        "user",
    )

    def __init__(
        self,
        *,
        argv: Sequence[str],
        env: Sequence[str] = (),
        cwd: str = "/",
        user: str = "",
        group_add: Sequence[str] = (),
        hostname: str = "",
        privileged: bool = False,
        tty: bool = False,
        cap_add: Sequence[str] = (),
        cap_drop: Sequence[str] = (),
        no_new_privileges: bool = False,
        seccomp_filter: bytes = b"",
        apparmor: str = "",
        isolation: Isolation | None = None,
        is_remapped: bool = False,
    ) -> None:
        self.is_remapped = is_remapped
        self.argv = list(argv)
        self.env = list(env)
        self.cwd = cwd or "/"
        self.user = user
        self.group_add = list(group_add)
        self.hostname = hostname
        self.privileged = privileged
        self.tty = tty
        self.cap_add = list(cap_add)
        self.cap_drop = list(cap_drop)
        self.no_new_privileges = no_new_privileges
        self.seccomp_filter = seccomp_filter
        self.apparmor = apparmor
        self.isolation = isolation


def environment(entries: Sequence[str], *, hostname: str, tty: bool) -> list[str]:
    """A process's environment before HOME: docker's own entries, replaced and followed by these.

    An entry without `=` takes the variable away.

    Source: moby container/container.go, CreateDaemonEnvironment; container/env.go, ReplaceOrAppendEnvValues
    """
    named: dict[str, str | None] = {"PATH": DEFAULT_PATH}
    if hostname:
        named["HOSTNAME"] = "HOSTNAME=" + hostname
    if tty:
        named["TERM"] = "TERM=xterm"
    for entry in entries:
        name, equals, _ = entry.partition("=")
        if equals:
            named[name] = entry
        else:
            named.pop(name, None)
    return [entry for entry in named.values() if entry is not None]
