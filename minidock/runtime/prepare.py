"""From a container's records to what launch needs: the specification and the files that are bound into /etc.

Source: moby daemon/container_operations_unix.go, daemon/volumes_unix.go; libnetwork sandbox_dns_unix.go
"""

from __future__ import annotations

import os

from minidock.errors import UsageError
from minidock.linux.capabilities import container_set
from minidock.runtime.seccomp import filter_program
from minidock.runtime.spec import LIMIT_FIELDS, BindMount, ContainerSpec, ExecSpec, TmpfsMount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from minidock.store.containers import Container, ContainerStore

_HOSTS = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::0\tip6-localnet\n"
    "ff00::0\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)
# What an engine may have been told of a container, and is kept for it, but does nothing here.
_NOT_APPLIED = (
    "DeviceRequests", "Dns", "ExtraHosts", "PortBindings", "UsernsMode",
)  # fmt: skip
_ISOLATION_FIELDS = ("PidMode", "UTSMode", "OomScoreAdj", "Sysctls", "Ulimits", "Devices")
_OWN_IPC = (None, "", "private", "shareable")
_FALLBACK_SERVERS = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def container_spec(container: Container) -> ContainerSpec:
    """What to launch, from config.v2.json, hostconfig.json and the layer's own files.

    Raises: UsageError for what is not supported yet; StoreCorrupt, BadConfig
    """
    config = container.config
    layer = container.sound_layer()
    network = config.host_text("NetworkMode")
    if network not in ("none", "host"):
        raise UsageError(
            f"container {container.name}: network {network or 'default'} is not supported yet",
            hint="create it with --network none or --network host",
        )
    binds, tmpfs = mounts_of(container)
    return ContainerSpec(
        container_id=container.id,
        overlay_path=container.root.overlay_path,
        lowers=layer.lowers,
        mount_id=layer.mount_id,
        argv=[config.path, *config.arguments],
        env=config.environment,
        cwd=config.run_text("WorkingDir"),
        user=config.run_text("User"),
        group_add=config.host_texts("GroupAdd"),
        hostname=config.run_text("Hostname"),
        binds=binds,
        tmpfs=tmpfs,
        etc_files={
            "/etc/resolv.conf": f"{container.path}/resolv.conf",
            "/etc/hostname": f"{container.path}/hostname",
            "/etc/hosts": f"{container.path}/hosts",
        },
        read_only=config.host_flag("ReadonlyRootfs"),
        network=network,
        cap_add=config.host_texts("CapAdd"),
        cap_drop=config.host_texts("CapDrop"),
        privileged=config.host_flag("Privileged"),
        # as in docker: in another's pid namespace there is nothing for it to do
        init=config.host_flag("Init") and not config.host_text("PidMode"),
        tty=config.is_tty,
        shm_size_bytes=config.host_number("ShmSize", 64 << 20),
        cgroup_parent=config.host_text("CgroupParent"),
        limits=_limits(config.host),
        isolation=_isolation(config.host, container.name, container.root.containers),
        **_confinement(container),
    )


def _limits(host: dict[str, Any]) -> dict[str, Any]:
    """The limits that are set; the module that knows them is for those containers only that have some."""
    if not any(map(host.get, LIMIT_FIELDS)) and host.get("MemorySwappiness") is None:
        return {}
    from minidock.runtime.limits import limits_of

    return limits_of(host)


def _isolation(host: dict[str, Any], name: str, containers: ContainerStore | None = None) -> Any:
    """The rarer settings, None for a container that has none of them."""
    if not (any(map(host.get, _ISOLATION_FIELDS)) or host.get("IpcMode") not in _OWN_IPC):
        return None
    from minidock.runtime.isolation import Isolation

    return Isolation(host, name, containers)


def _confinement(container: Container) -> dict[str, Any]:
    """What SecurityOpt, Privileged and the capabilities come to; of the container itself also for an exec in it."""
    config = container.config
    no_new_privileges, profile = False, ""
    if options := config.host_texts("SecurityOpt"):
        from minidock.runtime.securityopt import parse_security_options

        security = parse_security_options(options)
        no_new_privileges, profile = security.no_new_privileges, security.seccomp
    privileged = config.host_flag("Privileged")
    mask, _ = container_set(config.host_texts("CapAdd"), config.host_texts("CapDrop"), privileged=privileged)
    return {
        "no_new_privileges": no_new_privileges,
        "seccomp_filter": filter_program(container.root.path, profile, mask, privileged=privileged),
    }


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
        **_confinement(container),
    )


def mounts_of(container: Container) -> tuple[list[BindMount], list[TmpfsMount]]:
    """The binds, volumes among them, and the tmpfs of a container's records; raises UsageError."""
    config = container.config
    binds: list[BindMount] = []
    tmpfs = [TmpfsMount(target, options) for target, options in sorted(config.host_map("Tmpfs").items())]
    for point in config.mount_points:
        kind, target = point.get("Type") or "bind", str(point.get("Destination", ""))
        if kind == "bind":
            binds.append(_bind(point, str(point.get("Source", "")), target))
        elif kind == "tmpfs":
            tmpfs.append(TmpfsMount(target, _tmpfs_options(point)))
        else:
            source = f"{container.root.path}/volumes/{point.get('Name', '')}/_data"
            if "/" in str(point.get("Name", "/")) or not os.path.isdir(source):
                raise UsageError(f"container {container.name}: volume {point.get('Name', '')} at {target} is not there")
            if os.path.exists(f"{source[:-5]}opts.json"):
                from minidock.store.volumes import check_options

                check_options(source[:-6])
            binds.append(_bind(point, source, target))
    return binds, tmpfs


def _bind(point: dict[str, Any], source: str, target: str) -> BindMount:
    if not os.path.lexists(source):
        if point.get("SkipMountpointCreation"):
            raise UsageError(f'invalid mount config for type "bind": bind source path does not exist: {source}')
        os.makedirs(source, 0o755, exist_ok=True)
    spec = point.get("Spec") or {}
    options = spec.get("BindOptions") or {}
    return BindMount(
        source,
        target,
        read_only=point.get("RW") is False,
        propagation=str(point.get("Propagation") or "rprivate"),
        recursive=options.get("NonRecursive") is not True,
    )


def _tmpfs_options(point: dict[str, Any]) -> str:
    options = (point.get("Spec") or {}).get("TmpfsOptions") or {}
    words = ["ro"] if point.get("RW") is False else []
    if options.get("Mode"):
        words.append(f"mode={int(options['Mode']):o}")
    if options.get("SizeBytes"):
        words.append(f"size={int(options['SizeBytes'])}")
    return ",".join(words)


def write_etc_files(container: Container, *, network: str, hostname: str) -> None:
    """Write hostname, hosts and resolv.conf anew, in place, as each start does."""
    host_net = network == "host"
    hosts = _read_host("/etc/hosts") if host_net else b""
    resolv = _read_host("/etc/resolv.conf")
    if not host_net:
        resolv = filter_resolv_conf(resolv)
    for name, data in (
        ("hostname", hostname.encode("utf-8", "surrogateescape") + b"\n"),
        ("hosts", hosts or _HOSTS.encode("ascii")),
        ("resolv.conf", resolv),
    ):
        path = f"{container.path}/{name}"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(handle, 0o644)
            os.write(handle, data)
        finally:
            os.close(handle)


def filter_resolv_conf(text: bytes) -> bytes:
    """The host's resolv.conf without servers that only the host itself reaches; with none left, public ones."""
    kept: list[bytes] = []
    servers = 0
    for line in text.splitlines():
        words = line.split()
        if words[:1] == [b"nameserver"] and len(words) > 1:
            if words[1].startswith(b"127.") or words[1] in (b"::1", b"0.0.0.0"):
                continue
            servers += 1
        kept.append(line)
    result = b"\n".join(kept) + b"\n" if kept else b""
    return result if servers else result + _FALLBACK_SERVERS.encode("ascii")


def _read_host(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(1 << 20) or b""
    except OSError:
        return b""
