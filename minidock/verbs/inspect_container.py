"""docker inspect of a container, in docker's shape."""

from __future__ import annotations

import os

from minidock.errors import MinidockError
from minidock.formats.containerconfig import endpoint_document, time_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.containers import Container
    from minidock.store.endpoints import Membership
    from minidock.store.root import DataRoot

_ADDRESS_KEYS = (
    ("EndpointID", ""),
    ("Gateway", ""),
    ("GlobalIPv6Address", ""),
    ("GlobalIPv6PrefixLen", 0),
    ("IPAddress", ""),
    ("IPPrefixLen", 0),
    ("IPv6Gateway", ""),
    ("MacAddress", ""),
)


def inspect_container(root: DataRoot, name: str) -> dict[str, Any]:
    """Everything known about one container.

    Raises: NoSuchContainer
    Source: moby daemon/inspect.go; key order of Docker 20.10
    """
    container = root.containers.get(name)
    document = container.document
    files = {key: f"{container.path}/{file}" for key, file in _FILES.items()}
    started = container.state.started_ns
    return {
        "Id": container.id,
        "Created": document.get("Created", ""),
        "Path": container.light_config.path,
        "Args": container.light_config.arguments,
        "State": _state(container),
        "Image": container.image_id,
        "ResolvConfPath": files["resolv"] if started else "",
        "HostnamePath": files["hostname"] if started else "",
        "HostsPath": files["hosts"] if started else "",
        "LogPath": container.log_path if started else "",
        "Name": "/" + container.name,
        "RestartCount": document.get("RestartCount", 0),
        "Driver": document.get("Driver", "overlay2"),
        "Platform": document.get("OS", "linux"),
        "MountLabel": document.get("MountLabel", ""),
        "ProcessLabel": document.get("ProcessLabel", ""),
        "AppArmorProfile": _apparmor_profile(container) if started else document.get("AppArmorProfile", ""),
        "ExecIDs": None,
        "HostConfig": {**container.host_config, "AutoRemove": container.state.auto_remove},
        "GraphDriver": _graph_driver(root, container),
        "Mounts": [_mount(root, point) for point in container.light_config.mount_points],
        "Config": document["Config"],
        "NetworkSettings": _network(container),
    }


_FILES = {"resolv": "resolv.conf", "hostname": "hostname", "hosts": "hosts"}


def _state(container: Container) -> dict[str, Any]:
    state = container.state
    status = state.shown_status()
    running = status in ("running", "paused", "restarting")
    document = {
        "Status": status,
        "Running": running,
        "Paused": status == "paused",
        "Restarting": status == "restarting",
        "OOMKilled": state.oom_killed,
        "Dead": status == "dead",
        "Pid": state.pid if running else 0,
        "ExitCode": state.shown_exit_code(),
        "Error": state.error,
        "StartedAt": time_text(state.started_ns),
        "FinishedAt": time_text(state.finished_ns),
    }
    if container.light_config.run.get("Healthcheck"):
        from minidock.runtime.health import shown_health

        health = shown_health(container)
        if health is not None:
            document["Health"] = health
    return document


def _apparmor_profile(container: Container) -> str:
    """The profile as an engine records it at the first start: on a host without AppArmor, only what was asked for."""
    recorded = container.document.get("AppArmorProfile", "")
    if recorded or not os.path.exists("/sys/module/apparmor"):
        return str(recorded)
    from minidock.runtime.prepare import apparmor_profile

    return apparmor_profile(container)


def _graph_driver(root: DataRoot, container: Container) -> dict[str, Any]:
    try:
        layer = container.layer
        lowers = [f"{root.overlay_path}/{cache_id}/diff" for cache_id in _lower_directories(root, container)]
    except MinidockError:
        return {"Data": None, "Name": "overlay2"}
    base = f"{root.overlay_path}/{layer.mount_id}"
    data = {
        "LowerDir": ":".join(lowers),
        "MergedDir": f"{base}/merged",
        "UpperDir": f"{base}/diff",
        "WorkDir": f"{base}/work",
    }
    return {"Data": data, "Name": "overlay2"}


def _lower_directories(root: DataRoot, container: Container) -> list[str]:
    from minidock.store.overlay2 import check_link

    return [check_link(root.overlay_path, name) for name in container.layer.lowers]


def _mount(root: DataRoot, point: dict[str, Any]) -> dict[str, Any]:
    mount: dict[str, Any] = {"Type": point.get("Type", "bind")}
    if point.get("Name"):
        mount["Name"] = point["Name"]
    source = point.get("Source", "")
    if not source and point.get("Type") == "volume":
        source = f"{root.path}/volumes/{point.get('Name', '')}/_data"
    mount["Source"] = source
    mount["Destination"] = point.get("Destination", "")
    if point.get("Driver"):
        mount["Driver"] = point["Driver"]
    mount["Mode"] = point.get("Relabel", "")
    mount["RW"] = point.get("RW", True)
    mount["Propagation"] = point.get("Propagation", "")
    return mount


def _network(container: Container) -> dict[str, Any]:
    settings = container.document.get("NetworkSettings") or {}
    shown: dict[str, Any] = {
        "Bridge": settings.get("Bridge", ""),
        "SandboxID": settings.get("SandboxID", ""),
        "HairpinMode": settings.get("HairpinMode", False),
        "LinkLocalIPv6Address": settings.get("LinkLocalIPv6Address", ""),
        "LinkLocalIPv6PrefixLen": settings.get("LinkLocalIPv6PrefixLen", 0),
        "Ports": {},
        "SandboxKey": settings.get("SandboxKey", ""),
        "SecondaryIPAddresses": settings.get("SecondaryIPAddresses"),
        "SecondaryIPv6Addresses": settings.get("SecondaryIPv6Addresses"),
    }
    shown.update(dict(_ADDRESS_KEYS))
    networks = settings.get("Networks") or {}
    shown["Networks"] = {
        name: {key: value for key, value in endpoint.items() if key != "IPAMOperational"}
        for name, endpoint in networks.items()
        if isinstance(endpoint, dict)
    }
    if container.is_running() and container.config.host_text("NetworkMode") not in ("none", "host"):
        member = container.root.endpoints.get(container.id)
        if member is not None:
            _show_places(shown, member, container)
    return shown


def _show_places(shown: dict[str, Any], member: Membership, container: Container) -> None:
    """Put in what a running container has on its networks."""
    from minidock.verbs.port import ports_of

    shown["SandboxID"] = member.sandbox_id
    shown["SandboxKey"] = f"/proc/{container.state.pid}/ns/net"
    shown["Ports"] = ports_of(container, member)
    for one in member.endpoints:
        values = {
            "EndpointID": one.endpoint_id,
            "Gateway": one.gateway,
            "GlobalIPv6Address": one.address6,
            "GlobalIPv6PrefixLen": one.prefix6,
            "IPAddress": one.address,
            "IPPrefixLen": one.prefix,
            "IPv6Gateway": one.gateway6,
            "MacAddress": one.mac,
        }
        if one.network == "bridge":
            shown.update(values)
        endpoint = shown["Networks"].setdefault(one.network, endpoint_document())
        endpoint.pop("IPAMOperational", None)
        endpoint.update({"NetworkID": one.network_id, **values})
        if one.names:
            endpoint["Aliases"] = [name for name in one.names if name != container.name]
