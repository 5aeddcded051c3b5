"""docker create: a container from an image and options, ready to be started."""

from __future__ import annotations

import errno
import os
import time

from minidock.errors import CommandError, InvalidReference, NoSuchImage, UsageError
from minidock.formats.containerconfig import ContainerConfig, container_document, endpoint_document, host_document
from minidock.formats.runconfig import order_run_config
from minidock.ids import ContainerID, random_hex64
from minidock.verbs.options import (
    CreateOptions,
    check_name,
    generate_name,
    merge_env,
    read_env,
    read_labels,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TextIO

    from minidock.formats.mountspec import VolumeRequest
    from minidock.formats.runconfig import RunConfig
    from minidock.store.containers import Container
    from minidock.store.imagedb import Image
    from minidock.store.root import DataRoot
    from minidock.verbs.containervolumes import ContainerVolumes
    from minidock.verbs.networking import NetworkChoice


class _Mounts:
    """What -v, --mount and --tmpfs ask for, as both configuration files need it.

    Shape: volumes: those with a request of their own, and whether --mount made it; plain: paths of -v alone
    """

    __slots__ = ("binds", "mounts", "plain", "points", "tmpfs", "volumes")

    def __init__(self, options: CreateOptions) -> None:
        self.binds: list[str] = []
        self.mounts: list[dict[str, Any]] = []
        self.points: dict[str, Any] = {}
        self.tmpfs: dict[str, str] = {}
        self.volumes: dict[str, tuple[VolumeRequest, bool]] = {}
        self.plain: list[str] = []
        if options.volumes or options.mounts or options.tmpfs:
            self._read(options)

    def _read(self, options: CreateOptions) -> None:
        from minidock.formats.mountpoint import mount_point_document, tmpfs_point_document
        from minidock.formats.mountspec import BindRequest, VolumeRequest, parse_mount, parse_tmpfs, parse_volume

        for text in options.volumes:
            bind = parse_volume(text)
            if isinstance(bind, VolumeRequest) and bind.is_plain:
                self.plain.append(bind.target)
                continue
            self._claim(bind.target)
            self.binds.append(text)
            if isinstance(bind, VolumeRequest):
                self.volumes[bind.target] = bind, False
            else:
                self.points[bind.target] = mount_point_document(bind, from_mount_flag=False)
        for text in options.mounts:
            request = parse_mount(text)
            self._claim(request.target)
            if isinstance(request, BindRequest):
                if not os.path.exists(request.source):
                    raise UsageError(
                        f'invalid mount config for type "bind": bind source path does not exist: {request.source}'
                    )
                point = mount_point_document(request, from_mount_flag=True)
                self.mounts.append(point["Spec"])
                self.points[request.target] = point
            elif isinstance(request, VolumeRequest):
                self.mounts.append(request.spec_document())
                self.volumes[request.target] = request, True
            else:
                self.mounts.append(request.spec)
                self.points[request.target] = tmpfs_point_document(request)
        for text in options.tmpfs:
            tmpfs = parse_tmpfs(text)
            self._claim(tmpfs.target)
            self.tmpfs[tmpfs.target] = tmpfs.options

    def _claim(self, target: str) -> None:
        if target in self.points or target in self.tmpfs or target in self.volumes:
            raise UsageError(f"Duplicate mount point: {target}")

    def add_volumes(self, root: DataRoot, plain: Sequence[str], volumes_from: Sequence[str]) -> ContainerVolumes | None:
        """Put the volumes' mount points in, if there are any; they are made with the container.

        Raises: NoSuchContainer
        """
        if not (plain or self.volumes or volumes_from):
            return None
        from minidock.verbs.containervolumes import ContainerVolumes

        volumes = ContainerVolumes(root)
        volumes.take_from(volumes_from)
        for request, from_mount_flag in self.volumes.values():
            volumes.add(request, from_mount_flag=from_mount_flag)
        volumes.add_plain(plain, self.points)
        self.points = {**volumes.points, **self.points}
        return volumes


def create(
    root: DataRoot,
    image: str,
    command: list[str],
    options: CreateOptions | None = None,
    *,
    container_id: ContainerID | None = None,
) -> Container:
    """Make a container: its layers on top of the image's, and its records.

    Shape:   image a reference or an ID; command replaces the image's Cmd when not empty; container_id: 64 random
             digits of the caller's choice, with which an interrupted call can be looked after
    Raises:  NoSuchImage, NameInUse, UsageError, StoreError; the data root is then as it was before
    """
    options = options or CreateOptions()
    if options.name:
        options.name = check_name(options.name)
    if options.pull not in ("missing", "never", "always", ""):
        raise UsageError(f'invalid pull option: \'{options.pull}\': must be one of "always", "missing" or "never"')
    cidfile = _open_cidfile(options.cidfile) if options.cidfile else None
    container_id = container_id or ContainerID(random_hex64())
    if cidfile is not None:
        try:
            with cidfile:
                container = _create(root, image, command, options, container_id)
                cidfile.write(container.id)
        except BaseException:
            os.unlink(options.cidfile)
            raise
        return container
    return _create(root, image, command, options, container_id)


def _create(
    root: DataRoot, image: str, command: list[str], options: CreateOptions, container_id: ContainerID
) -> Container:
    mounts = _Mounts(options)
    warnings = _verify_limits(options)
    choice = _choose_network(root, options)
    isolated = _isolated(root, options, options.network if choice is None else choice.mode, warnings)
    with root.lock():
        found = find_image(root, image, pull=options.pull)
        if options.platform:
            from minidock.verbs.hostoptions import check_platform

            check_platform(found, options.platform)
        run = _run_document(found.config.config, container_id, image, command, options, choice)
        plain = [*(run["Volumes"] or ()), *mounts.plain]
        if mounts.plain:
            run["Volumes"] = {path: {} for path in sorted(set(plain))}
        volumes = mounts.add_volumes(root, plain, options.volumes_from)
        argv = [*(run["Entrypoint"] or []), *(run["Cmd"] or [])]
        if not argv:
            raise UsageError("No command specified")
        document = container_document(
            container_id=container_id,
            name=options.name,
            image_id=found.image_id,
            created_ns=time.time_ns(),
            argv=argv,
            run=run,
            networks=_networks(options, choice),
            mount_points=mounts.points,
        )
        host = _host_document(options, mounts, options.network if choice is None else choice.mode, isolated)
        if choice is not None:
            host.update(choice.host)
            warnings += choice.warnings
        config = ContainerConfig(_confined(document, host), host)
        try:
            container = root.containers.create(
                config,
                chain_id=_top_chain(found),
                fill_init=_filler(root, volumes),
                auto_remove=options.rm,
                choose_name=None if options.name else generate_name,
            )
        except BaseException:
            if volumes is not None:
                volumes.undo()
            raise
    if root.containers.abandoned:
        from minidock.runtime.settle import remove_abandoned

        remove_abandoned(root.containers.abandoned)
    container.warnings += warnings
    return container


def find_image(root: DataRoot, text: str, *, pull: str = "missing") -> Image:
    """The image of this name, with the hint that there is no registry here when it is missing.

    Raises: NoSuchImage, InvalidReference, UsageError
    """
    if pull == "always":
        raise UsageError("--pull always: there is no registry client", hint="minidock pull-tar loads an archive")
    try:
        return root.images.resolve(text)
    except NoSuchImage:
        from minidock.formats.reference import parse_reference

        try:
            shown = parse_reference(text).familiar
        except InvalidReference:
            shown = text
        raise NoSuchImage(
            f"Unable to find image '{shown}' locally", hint="minidock pull-tar ARCHIVE loads one; minidock images lists"
        ) from None


def _top_chain(image: Image) -> Any:
    chain_ids = image.config.chain_ids
    return chain_ids[-1] if chain_ids else None


def _filler(root: DataRoot, volumes: ContainerVolumes | None) -> Any:
    def fill(overlay_path: str, lowers: list[str], diff_path: str) -> list[str]:
        from minidock.runtime.initlayer import fill_init_layer

        warnings = fill_init_layer(overlay_path, lowers, diff_path, trace=root.trace)
        if volumes is not None:
            # Before the container's records: what is killed in between leaves no container with empty volumes.
            volumes.make(overlay_path, lowers, diff_path.split("/")[-2])
        return warnings

    return fill


def _run_document(
    image: RunConfig,
    container_id: ContainerID,
    name: str,
    command: list[str],
    options: CreateOptions,
    choice: NetworkChoice | None,
) -> dict[str, Any]:
    """The `Config` object: the image's with the command line on top.

    Source: moby daemon/commit.go merge, daemon/create.go; docker/cli cli/command/container/opts.go
    """
    document = dict(image.to_document())
    entrypoint, cmd = image.entrypoint, image.cmd
    if options.entrypoint is not None:
        # A new entry point means that the image's Cmd was not meant for it.
        entrypoint = [options.entrypoint] if options.entrypoint else None
        cmd = None
    if command:
        cmd = list(command)
    workdir = _directory(options.workdir) if options.workdir else image.workdir
    labels = {**image.labels, **read_labels(options.labels, options.label_file)}
    document.update(
        {
            "Hostname": options.hostname or (os.uname().nodename if options.network == "host" else container_id.short),
            "User": options.user or image.user,
            "AttachStdin": options.attaches("stdin"),
            "AttachStdout": options.attaches("stdout"),
            "AttachStderr": options.attaches("stderr"),
            "Tty": options.tty,
            "OpenStdin": options.interactive,
            "StdinOnce": options.attach and options.interactive,
            "Env": merge_env(image.env, read_env(options.env, options.env_file)),
            "Cmd": cmd,
            "Image": name,
            "WorkingDir": workdir,
            "Entrypoint": entrypoint,
            "Labels": labels,
            "StopSignal": options.stop_signal or image.stop_signal,
        }
    )
    if choice is not None and choice.run:
        exposed = {**(document.get("ExposedPorts") or {}), **choice.run.get("ExposedPorts", {})}
        document.update({**choice.run, "ExposedPorts": exposed})
    if options.health is not None:
        from minidock.verbs.lifeoptions import merge_health

        document["Healthcheck"] = merge_health(document, options.health)
    if options.domainname:
        document["Domainname"] = options.domainname
    if options.stop_timeout is not None:
        document["StopTimeout"] = options.stop_timeout
    if options.stop_signal:
        from minidock.runtime.signals import parse_signal

        parse_signal(options.stop_signal)
    return order_run_config(document)


def _directory(text: str) -> str:
    from minidock.formats.mountspec import clean_path

    if not text.startswith("/"):
        raise UsageError(f"the working directory '{text}' is invalid, it needs to be an absolute path")
    return clean_path(text)


def _host_document(options: CreateOptions, mounts: _Mounts, network: str, isolated: dict[str, Any]) -> dict[str, Any]:
    document = host_document(
        binds=mounts.binds,
        mounts=mounts.mounts,
        tmpfs=mounts.tmpfs,
        network=network,
        cap_add=_capabilities(options.cap_add, "CapAdd"),
        cap_drop=_capabilities(options.cap_drop, "CapDrop"),
        privileged=options.privileged,
        read_only=options.read_only,
        group_add=options.group_add,
        init=options.init,
        cidfile=options.cidfile,
        shm_size_bytes=options.shm_size,
        cgroup_parent="",
        volumes_from=options.volumes_from,
        cgroup_namespace="private",
    )
    document.update(options.limits)
    document.update(isolated)
    if options.rare:
        from minidock.verbs.hostoptions import host_options

        document.update(host_options(options.rare, document.get("UsernsMode") or ""))
    if options.restart not in ("", "no") or options.log_driver or options.log_opts:
        from minidock.verbs.lifeoptions import set_life

        set_life(document, options)
    return document


def _choose_network(root: DataRoot, options: CreateOptions) -> NetworkChoice | None:
    """What was chosen about networks; None for one of the usual three and nothing besides."""
    if options.network in ("default", "bridge", "none", "host") and not options.networking:
        return None
    from minidock.verbs.networking import choose_network

    return choose_network(root, options)


def _networks(options: CreateOptions, choice: NetworkChoice | None) -> dict[str, Any]:
    if choice is not None:
        return choice.networks
    return {"bridge" if options.network == "default" else options.network: endpoint_document()}


def _verify_limits(options: CreateOptions) -> list[str]:
    """Warnings about limits that this host cannot give; raises UsageError."""
    if not options.limits:
        return []
    from minidock.runtime.hostlimits import verify_limits

    warnings = verify_limits(options.limits)
    if options.limits.get("PidsLimit", 1) <= 0:
        del options.limits["PidsLimit"]
    return warnings


def _isolated(root: DataRoot, options: CreateOptions, network: str, warnings: list[str]) -> dict[str, Any]:
    """The fields of hostconfig.json about security and isolation, and more warnings; raises UsageError."""
    if not options.isolation:
        return {}
    from minidock.verbs.isolation import host_fields, limit_warnings

    fields = host_fields(
        options.isolation,
        root.containers,
        network=network,
        hostname=options.hostname,
        privileged=options.privileged,
    )
    warnings += limit_warnings(fields.get("Ulimits", ()))
    return fields


def _confined(document: dict[str, Any], host: dict[str, Any]) -> dict[str, Any]:
    """config.v2.json with what an engine notes there of SecurityOpt."""
    if host["SecurityOpt"]:
        from minidock.runtime.securityopt import parse_security_options

        security = parse_security_options(host["SecurityOpt"])
        document["SeccompProfile"], document["NoNewPrivileges"] = security.seccomp, security.no_new_privileges
        document["AppArmorProfile"] = security.apparmor
    return document


def _capabilities(words: list[str], key: str) -> list[str]:
    if not words:
        return []
    from minidock.linux.capabilities import NAMES

    result = []
    for word in words:
        name = word.upper()
        if name != "ALL":
            name = name if name.startswith("CAP_") else f"CAP_{name}"
            if name[4:] not in NAMES:
                raise UsageError(f'invalid {key}: unknown capability: "{name}"')
        result.append(name)
    return sorted(set(result))


def _open_cidfile(path: str) -> TextIO:
    """The file, before there is a container, so that none is made whose ID could not be kept."""
    try:
        return open(path, "x", encoding="ascii")
    except FileExistsError:
        raise UsageError(
            f"Container ID file found, make sure the other container isn't running or delete {path}"
        ) from None
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise CommandError(
            f"failed to create the container ID file: open {path}: {reason}",
            exit_code=127 if error.errno == errno.ENOENT else 125,
        ) from None
