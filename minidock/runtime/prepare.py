"""From a container's records to what launch needs: the specification and the files that are bound into /etc.

Source: moby daemon/container_operations_unix.go, daemon/volumes_unix.go; libnetwork sandbox_dns_unix.go
"""

from __future__ import annotations

import os

from minidock.errors import UsageError
from minidock.formats.containerconfig import MASKED_PATHS, READONLY_PATHS
from minidock.linux.capabilities import container_set
from minidock.runtime.seccomp import filter_program
from minidock.runtime.spec import LIMIT_FIELDS, BindMount, ContainerSpec, ExecSpec, TmpfsMount
from minidock.store.containerstate import read_plain_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from minidock.formats.containerconfig import ContainerConfig
    from minidock.store.containers import Container, ContainerStore

# What an engine may have been told of a container, and is kept for it, but does nothing here.
_NOT_APPLIED = (
    "DeviceRequests",
)  # fmt: skip
_ISOLATION_FIELDS = (
    "PidMode",
    "UTSMode",
    "UsernsMode",
    "OomScoreAdj",
    "Sysctls",
    "Ulimits",
    "Devices",
    "DeviceCgroupRules",
)
# How many containers may share a network through one another.
_MAX_SHARED = 64
_APPARMOR = "/sys/module/apparmor"
_OWN_IPC = (None, "", "private", "shareable")


def container_spec(container: Container) -> ContainerSpec:
    """What to launch, from config.v2.json, hostconfig.json and the layer's own files.

    Raises: UsageError for what is not supported yet; StoreCorrupt, BadConfig
    """
    config = container.config
    layer = container.sound_layer()
    binds, tmpfs = _mounts(container)
    names = _name_giver(container)
    return ContainerSpec(
        container_id=container.id,
        overlay_path=container.root.overlay_path,
        lowers=layer.lowers,
        mount_id=layer.mount_id,
        marks=overlay_marks(container),
        argv=[config.path, *config.arguments],
        env=config.environment,
        cwd=config.run_text("WorkingDir"),
        user=config.run_text("User"),
        group_add=config.host_texts("GroupAdd"),
        hostname=names.config.run_text("Hostname"),
        binds=binds,
        tmpfs=tmpfs,
        etc_files={
            "/etc/resolv.conf": f"{names.path}/resolv.conf",
            "/etc/hostname": f"{names.path}/hostname",
            "/etc/hosts": f"{names.path}/hosts",
        },
        read_only=config.host_flag("ReadonlyRootfs"),
        network=config.host_text("NetworkMode"),
        cap_add=config.host_texts("CapAdd"),
        cap_drop=config.host_texts("CapDrop"),
        privileged=config.host_flag("Privileged"),
        # as in docker: in another's pid namespace there is nothing for it to do
        init=config.host_flag("Init") and not config.host_text("PidMode"),
        tty=config.is_tty,
        shm_size_bytes=config.host_number("ShmSize", 64 << 20),
        cgroup_parent=config.host_text("CgroupParent"),
        shares_cgroup_namespace=config.host_text("CgroupnsMode") == "host",
        limits=_limits(config.host),
        masked_paths=_system_paths(config, "MaskedPaths", MASKED_PATHS),
        readonly_paths=_system_paths(config, "ReadonlyPaths", READONLY_PATHS),
        isolation=_isolation(_with_domain(config), container.name, container.root.containers),
        **_confinement(container),
    )


def _system_paths(config: ContainerConfig, field: str, usual: Sequence[str]) -> list[str] | None:
    """Those of a container that has others than the usual ones; None is docker's word for these, too."""
    if config.host.get(field) is None:
        return None
    paths = config.host_texts(field)
    return None if paths == list(usual) else paths


def overlay_marks(container: Container) -> str:
    """The marks in a container's upper directory that its mount must follow; the caller has the container's lock.

    Mounts of ours leave none; a host or an engine with other settings, under which the container ran last, may have.
    Raises: SyscallError, StoreError
    """
    state = container.state
    if not (state.started_ns or container.document.get("HasBeenStartedBefore")):
        return ""
    if state.started_ns and state.started_ns == read_plain_start(container.path):
        return ""
    from minidock.store.upper import marks_in

    return marks_in(container.root.layers.diff_path(container.layer.mount_id))


def _name_giver(container: Container) -> Container:
    """The container whose name, hosts and resolv.conf this one has: another one where it shares that one's network.

    Raises: NoSuchContainer, UsageError
    """
    giver = container
    for _ in range(_MAX_SHARED):
        mode = giver.config.host_text("NetworkMode")
        if not mode.startswith("container:"):
            return giver
        giver = container.root.containers.get(mode.removeprefix("container:"))
    raise UsageError(f"container {container.name} shares a network with containers that share its own")


def _mounts(container: Container) -> tuple[list[BindMount], list[TmpfsMount]]:
    """What is to be mounted besides, if there is anything; raises UsageError."""
    if not container.config.mount_points and not container.config.host_map("Tmpfs"):
        return [], []
    from minidock.runtime.containermounts import mounts_of

    return mounts_of(container)


def _limits(host: dict[str, Any]) -> dict[str, Any]:
    """The limits that are set; the module that knows them is for those containers only that have some."""
    if not any(map(host.get, LIMIT_FIELDS)) and host.get("MemorySwappiness") is None:
        return {}
    from minidock.runtime.limits import limits_of

    return limits_of(host)


def _with_domain(config: ContainerConfig) -> dict[str, Any]:
    """hostconfig.json, with the domain name as the kernel's setting that it is."""
    domain = config.run_text("Domainname")
    if not domain:
        return config.host
    return {**config.host, "Sysctls": {"kernel.domainname": domain, **(config.host.get("Sysctls") or {})}}


def _isolation(host: dict[str, Any], name: str, containers: ContainerStore | None = None) -> Any:
    """The rarer settings, None for a container that has none of them."""
    shares = str(host.get("NetworkMode")).startswith("container:")
    if not (any(map(host.get, _ISOLATION_FIELDS)) or host.get("IpcMode") not in _OWN_IPC or shares):
        return None
    from minidock.runtime.isolation import Isolation

    return Isolation(host, name, containers)


def _confinement(container: Container) -> dict[str, Any]:
    """What SecurityOpt, Privileged and the capabilities come to; of the container itself also for an exec in it."""
    config = container.config
    no_new_privileges, profile, apparmor = False, "", ""
    if options := config.host_texts("SecurityOpt"):
        from minidock.runtime.securityopt import parse_security_options

        security = parse_security_options(options)
        no_new_privileges, profile, apparmor = security.no_new_privileges, security.seccomp, security.apparmor
    privileged = config.host_flag("Privileged")
    mask, _ = container_set(config.host_texts("CapAdd"), config.host_texts("CapDrop"), privileged=privileged)
    return {
        "apparmor": _apparmor(apparmor, privileged=privileged),
        "no_new_privileges": no_new_privileges,
        "seccomp_filter": filter_program(container.root.path, profile, mask, privileged=privileged),
    }


def _apparmor(asked: str, *, privileged: bool) -> str:
    """The profile to take on; a host without AppArmor loads nothing for it."""
    if not os.path.exists(_APPARMOR):
        return ""
    from minidock.runtime.apparmor import chosen_profile

    return chosen_profile(asked, privileged=privileged)


def apparmor_profile(container: Container) -> str:
    """The profile that a container's processes are under; empty for none."""
    return str(_confinement(container)["apparmor"])


def not_applied(container: Container) -> list[str]:
    """The keys of hostconfig.json that an engine would act on and that have no effect here."""
    host = container.host_config
    return [key for key in _NOT_APPLIED if host.get(key) and host[key] != -1]


def exec_spec(
    container: Container,
    command: Sequence[str],
    *,
    env: Sequence[str],
    workdir: str,
    user: str,
    privileged: bool,
    tty: bool,
) -> ExecSpec:
    """A further process in the container: the container's own settings unless told otherwise."""
    config = container.config
    return ExecSpec(
        argv=command,
        env=[*config.environment, *env],
        cwd=workdir or config.run_text("WorkingDir"),
        user=user or config.run_text("User"),
        group_add=config.host_texts("GroupAdd"),
        hostname=config.run_text("Hostname"),
        privileged=privileged or config.host_flag("Privileged"),
        tty=tty,
        cap_add=config.host_texts("CapAdd"),
        cap_drop=config.host_texts("CapDrop"),
        isolation=_isolation({"Ulimits": config.host.get("Ulimits")}, container.name),
        is_remapped=config.host_text("UsernsMode") not in ("", "host"),
        **_confinement(container),
    )
