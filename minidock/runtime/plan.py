"""The plan of a container's root: the operations in the order in which they run.

`--explain` prints this list and the child executes it; there is no other.
"""

from __future__ import annotations

import os

from minidock.errors import UsageError
from minidock.linux.mount import (
    MS_DIRSYNC,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_RELATIME,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
)
from minidock.linux.namespaces import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
)
from minidock.runtime.cgroup import Cgroup, Hierarchy, hierarchies
from minidock.runtime.devices import HostDevice, MakeDevices, OpenConsole, host_devices
from minidock.runtime.operation import Operation
from minidock.runtime.rootfs import (
    PROPAGATION,
    BindInto,
    HoldSource,
    MakePrivate,
    MakeWorkdir,
    MountBelow,
    MountCgroup,
    MountOverlay,
    MountTmpfs,
    MountTop,
    PivotRoot,
    ReadOnlyRoot,
)
from minidock.runtime.spec import BindMount, ContainerSpec, ExecSpec, TmpfsMount
from minidock.runtime.surroundings import (
    EnterCgroupNamespace,
    EnterCgroups,
    LeaveCgroupNamespace,
    MaskPath,
    RaiseLoopback,
    ReadOnlyPath,
    ResolveUser,
    SetHostname,
    WriteSysctl,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.runtime.joined import Joined
    from minidock.runtime.remapped import Remapped

__all__ = ("BindMount", "ContainerSpec", "ExecSpec", "TmpfsMount", "build_plan", "clone_flags")

# Source: moby oci/defaults.go
MASKED = (
    b"/proc/asound",
    b"/proc/acpi",
    b"/proc/kcore",
    b"/proc/keys",
    b"/proc/latency_stats",
    b"/proc/timer_list",
    b"/proc/timer_stats",
    b"/proc/sched_debug",
    b"/proc/scsi",
    b"/sys/firmware",
)
READ_ONLY = (b"/proc/bus", b"/proc/fs", b"/proc/irq", b"/proc/sys", b"/proc/sysrq-trigger")
_HOST_IPC = ("/dev/shm", "/dev/mqueue")
_SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC

_TMPFS_FLAGS = {
    "ro": (MS_RDONLY, True),
    "rw": (MS_RDONLY, False),
    "nosuid": (MS_NOSUID, True),
    "suid": (MS_NOSUID, False),
    "nodev": (MS_NODEV, True),
    "dev": (MS_NODEV, False),
    "noexec": (MS_NOEXEC, True),
    "exec": (MS_NOEXEC, False),
    "sync": (MS_SYNCHRONOUS, True),
    "async": (MS_SYNCHRONOUS, False),
    "dirsync": (MS_DIRSYNC, True),
    "noatime": (MS_NOATIME, True),
    "atime": (MS_NOATIME, False),
    "nodiratime": (MS_NODIRATIME, True),
    "diratime": (MS_NODIRATIME, False),
    "relatime": (MS_RELATIME, True),
    "strictatime": (MS_STRICTATIME, True),
}


def clone_flags(spec: ContainerSpec) -> int:
    """The namespaces that the container's first process is cloned into; its cgroup namespace follows."""
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC
    if spec.network != "host":
        flags |= CLONE_NEWNET
    if spec.isolation is not None:
        flags &= ~spec.isolation.shared
        if spec.isolation.joins is not None:
            flags &= ~spec.isolation.joins.flags
    return flags


def first_flags(spec: ContainerSpec) -> int:
    """The namespaces of the first clone; with a user namespace the others follow, see runtime.remapped."""
    if spec.isolation is not None and spec.isolation.user_map is not None:
        return CLONE_NEWNS
    return clone_flags(spec)


def build_plan(
    spec: ContainerSpec,
    mounted: Sequence[Hierarchy] | None = None,
    group: Cgroup | None = None,
    joined: Joined | None = None,
    remapped: Remapped | None = None,
) -> list[Operation]:
    """The operations that make a container's root.

    Shape:  mounted: the host's cgroup hierarchies, looked up when not given; group: the container's own;
            joined: the other containers whose namespaces it joins, None for none; remapped: its user namespace
    Raises: UsageError for mounts that cannot be
    """
    user_mounts = _user_mounts(spec)
    taken = {_clean(each.target) for each in user_mounts}
    overlay = MountOverlay(spec.overlay_path, spec.mount_id, spec.lowers, marks=spec.marks)
    enter: list[Operation] = [EnterCgroups(group)] if group is not None else []
    plan: list[Operation] = [] if remapped is None else [*enter]
    mounted = hierarchies() if mounted is None else mounted
    is_shared = spec.shares_cgroup_namespace and remapped is None
    # As runc has it: in the host's namespace v1 hierarchies show the container's groups only, v2's shows all.
    is_visited = is_shared and not all(each.is_v2 for each in mounted)
    if is_visited or not is_shared:
        enter = [*enter, EnterCgroupNamespace()]
    if spec.isolation is not None:
        plan += spec.isolation.start_operations()
    if joined is not None:
        plan += joined.operations()
    plan += [*_holds(user_mounts, remapped, keep=True), MakePrivate(), *_holds(user_mounts, remapped, keep=False)]
    kernel = _kernel_views(spec, taken, joined)
    if remapped is None:
        plan += joined.pid_operations() if joined is not None else ()
        # As late as the host's groups have names here: they are made meanwhile.
        plan += [overlay, *enter, PivotRoot(overlay.target)]
    else:
        plan += _remapped_root(spec, overlay, taken, joined, remapped, kernel)
    plan.append(ResolveUser(spec.user, spec.group_add))
    if spec.cwd != "/":
        plan.append(MakeWorkdir(spec.cwd))
    if clone_flags(spec) & CLONE_NEWUTS:
        plan.append(SetHostname(spec.hostname))
    if clone_flags(spec) & CLONE_NEWNET:
        plan.append(RaiseLoopback())
    if remapped is None:
        plan += kernel[:1]
    plan += _dev(spec, taken, joined, remapped)
    if remapped is None:
        plan += kernel[1:]
    if remapped is not None:
        # Only a user namespace's own cgroup namespace lets its root mount the hierarchies.
        plan.append(EnterCgroupNamespace())
    if not taken & {"/sys", "/sys/fs/cgroup"}:
        plan += _cgroups(mounted, spec.privileged)
    if is_visited:
        plan.append(LeaveCgroupNamespace())
    plan += [_user_operation(each) for each in user_mounts]
    if spec.tty and "/dev" not in taken:
        plan.append(OpenConsole())
    if spec.places is not None:
        plan += spec.places.attachment.operations()
    if clone_flags(spec) & CLONE_NEWNET:
        plan.append(WriteSysctl(b"/proc/sys/net/ipv4/ip_unprivileged_port_start", b"0"))
        if remapped is None:
            # as in docker: the kernel takes no groups that the user namespace does not have
            plan.append(WriteSysctl(b"/proc/sys/net/ipv4/ping_group_range", b"0 2147483647"))
    if spec.isolation is not None:
        plan += spec.isolation.sysctl_operations()
    if not spec.privileged:
        plan += [ReadOnlyPath(path) for path in _paths(spec.readonly_paths, READ_ONLY)]
        plan += [MaskPath(path) for path in _paths(spec.masked_paths, MASKED)]
    if spec.cwd != "/" and any(_is_below(spec.cwd, target) for target in taken):
        plan.append(MakeWorkdir(spec.cwd))
    if spec.read_only:
        plan.append(ReadOnlyRoot())
    return plan


def _paths(asked: Sequence[str] | None, usual: Sequence[bytes]) -> Sequence[bytes]:
    return usual if asked is None else [os.fsencode(_clean(path)) for path in asked]


def _clean(path: str) -> str:
    """An absolute path without `.`, `..` and double slashes, by its words alone."""
    clean = os.path.normpath("/" + path)
    return clean.replace("//", "/", 1) if clean.startswith("//") else clean


def _is_below(path: str, top: str) -> bool:
    return _clean(path) == top or _clean(path).startswith(top + "/")


def _user_mounts(spec: ContainerSpec) -> list[BindMount | TmpfsMount]:
    """The caller's mounts and the files in /etc that the engine provides, parents before children.

    Source: moby daemon/oci_linux.go, withMounts: sorted by the number of path components, stable
    """
    mounts: list[BindMount | TmpfsMount] = [*spec.binds, *spec.tmpfs]
    asked = {_clean(each.target) for each in mounts}
    if "/" in asked:
        raise UsageError("invalid mount: destination can't be '/'")
    if spec.isolation is not None and spec.isolation.shared & CLONE_NEWIPC:
        mounts += [BindMount(path, path) for path in _HOST_IPC if path not in asked and os.path.isdir(path)]
        asked.update(_HOST_IPC)
    for target, source in spec.etc_files.items():
        if target not in asked:
            mounts.append(BindMount(source, target, spec.read_only, is_own=True))
    return sorted(mounts, key=lambda each: _clean(each.target).count("/"))


def _keeps_propagation(each: BindMount | TmpfsMount) -> bool:
    return isinstance(each, BindMount) and each.propagation.removeprefix("r") in ("slave", "shared")


def _holds(mounts: Sequence[BindMount | TmpfsMount], remapped: Remapped | None, *, keep: bool) -> list[Operation]:
    plan: list[Operation] = []
    for each in mounts:
        if isinstance(each, BindMount) and _keeps_propagation(each) == keep:
            if each.volume is not None:
                from minidock.runtime.volumemount import HoldVolume

                plan.append(HoldVolume(each, _clean(each.target)))
            else:
                source, target = each.source, _clean(each.target)
                plan.append(
                    HoldSource(source, target, recursive=each.recursive, keeps=each.propagation if keep else "")
                )
            if remapped is not None and each.is_own:
                from minidock.runtime.remapped import MapHeld

                plan.append(MapHeld(each.source, _clean(each.target), remapped, each.recursive))
    return plan


def _kernel_views(spec: ContainerSpec, taken: set[str], joined: Joined | None) -> list[Operation]:
    """/proc, and /sys unless something else is to be there."""
    plan = [_attach_or(joined, CLONE_NEWPID, MountTop(b"proc", b"/proc", b"proc", _SAFE))]
    if "/sys" not in taken:
        plan.append(MountTop(b"sysfs", b"/sys", b"sysfs", _SAFE | (0 if spec.privileged else MS_RDONLY)))
    return plan


def _remapped_root(
    spec: ContainerSpec,
    overlay: MountOverlay,
    taken: set[str],
    joined: Joined | None,
    remapped: Remapped,
    kernel: Sequence[Operation],
) -> list[Operation]:
    """The root of a container with a user namespace of its own; see runtime.remapped."""
    from minidock.runtime.remapped import AttachRoot, EnterUserNamespace, LetGoOfOldRoot

    devices = None if "/dev" in taken else _devices(spec)
    plan = remapped.outer_operations(overlay, devices)
    plan.append(EnterUserNamespace(remapped, clone_flags(spec)))
    plan += joined.pid_operations() if joined is not None else ()
    return [*plan, AttachRoot(), *kernel, LetGoOfOldRoot()]


def _user_operation(each: BindMount | TmpfsMount) -> Operation:
    if isinstance(each, TmpfsMount):
        flags, data = _SAFE, []
        for word in each.options.split(","):
            if word in _TMPFS_FLAGS:
                bit, on = _TMPFS_FLAGS[word]
                flags = flags | bit if on else flags & ~bit
            elif word:
                data.append(word)
        return MountTmpfs(_clean(each.target), flags, ",".join(data))
    if each.propagation and each.propagation not in PROPAGATION:
        raise UsageError(f"invalid mount propagation {each.propagation!r}")
    try:
        is_directory = os.stat(each.source).st_mode & 0o170000 == 0o040000
    except OSError as error:
        raise UsageError(f"bind source {each.source}: {error.strerror}") from None
    return BindInto(
        each.source,
        _clean(each.target),
        read_only=each.read_only,
        recursive=each.recursive,
        propagation=each.propagation if _keeps_propagation(each) else "",
        is_directory=is_directory,
    )


def _attach_or(joined: Joined | None, flag: int, own: MountTop) -> Operation:
    """What the container whose namespace of this kind is joined has at the same place, or a mount of one's own."""
    if joined is None or joined.pidfd_of(flag) < 0:
        return own
    from minidock.runtime.joined import AttachHeld

    return AttachHeld(own.target)


def _devices(spec: ContainerSpec) -> list[HostDevice]:
    """The nodes beyond those that every container has."""
    added = [node for node, _ in spec.isolation.devices] if spec.isolation is not None else []
    return [*(host_devices() if spec.privileged else ()), *added]


def _dev(spec: ContainerSpec, taken: set[str], joined: Joined | None, remapped: Remapped | None) -> list[Operation]:
    if "/dev" in taken:
        return []
    pts = b"newinstance,ptmxmode=0666,mode=0620,gid=5"
    shm = b"mode=1777,size=%d" % spec.shm_size_bytes
    mounts: list[tuple[str, Operation]] = [
        ("/dev/pts", MountBelow(b"devpts", b"/dev/pts", b"devpts", MS_NOSUID | MS_NOEXEC, pts)),
        ("/dev/mqueue", MountBelow(b"mqueue", b"/dev/mqueue", b"mqueue", _SAFE)),
    ]
    if spec.isolation is None or spec.isolation.has_shm:
        own = MountBelow(b"shm", b"/dev/shm", b"tmpfs", _SAFE, shm)
        mounts.append(("/dev/shm", _attach_or(joined, CLONE_NEWIPC, own)))
    top = MountTop(b"tmpfs", b"/dev", b"tmpfs", MS_NOSUID | MS_STRICTATIME, b"mode=755,size=65536k")
    below = [operation for target, operation in mounts if target not in taken]
    if remapped is not None:
        from minidock.runtime.joined import AttachHeld

        return [AttachHeld(b"/dev"), *below]
    return [top, MakeDevices(_devices(spec)), *below]


def _cgroups(groups: Sequence[Hierarchy], privileged: bool) -> list[Operation]:
    """What /sys/fs/cgroup shows: the v1 hierarchies of a v1 or hybrid host, else the v2 one."""
    flags = _SAFE | (0 if privileged else MS_RDONLY)
    v1 = [group for group in groups if not group.is_v2]
    if not v1:
        return [MountCgroup(b"/sys/fs/cgroup", b"cgroup2", flags, None, ()) for group in groups[:1]]
    plan: list[Operation] = [MountBelow(b"tmpfs", b"/sys/fs/cgroup", b"tmpfs", _SAFE, b"mode=755")]
    for group in v1:
        words = group.controllers.split(",")
        links = [os.fsencode(word) for word in words] if len(words) > 1 else []
        target = os.fsencode("/sys/fs/cgroup/" + group.mount_point.rpartition("/")[2])
        plan.append(MountCgroup(target, b"cgroup", flags, os.fsencode(group.controllers), links))
    return plan
