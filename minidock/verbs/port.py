"""docker port: which ports of the host lead into a container."""

from __future__ import annotations

from minidock.errors import NotFound, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.containers import Container
    from minidock.store.endpoints import Membership
    from minidock.store.root import DataRoot


def port(root: DataRoot, container: str, private_port: str = "") -> list[tuple[str, str]]:
    """The published ports, as pairs of `80/tcp` and `0.0.0.0:8080`.

    Shape:   private_port `80` or `80/udp` asks for that one alone
    Raises:  NoSuchContainer, UsageError; NotFound when that port is not published
    Source:  docker/cli cli/command/container/port.go
    """
    found = root.containers.get(container)
    member = root.endpoints.get(found.id) if found.is_running() else None
    rows = [
        (key, f"{one['HostIp']}:{one['HostPort']}")
        for key, bound in (ports_of(found, member) if member is not None else {}).items()
        for one in bound or ()
    ]
    if not private_port:
        return rows
    number, _, protocol = private_port.partition("/")
    if not (number.isascii() and number.isdecimal() and int(number) < 65536):
        raise UsageError(f"Invalid port: {private_port}")
    wanted = f"{number}/{protocol or 'tcp'}"
    rows = [row for row in rows if row[0] == wanted]
    if not rows:
        raise NotFound(f"Error: No public port '{wanted}' published for {container}")
    return rows


def ports_of(container: Container, member: Membership) -> dict[str, Any]:
    """NetworkSettings.Ports of a running container that has these places."""
    exposed = container.config.run.get("ExposedPorts")
    if not (exposed or member.ports):
        return {}
    from minidock.formats.portspec import PublishedPort, ports_document

    published = [PublishedPort.from_document(one) for one in member.ports]
    has_ipv6 = any(one.address6 for one in member.endpoints)
    return ports_document(exposed if isinstance(exposed, dict) else {}, published, has_ipv6=has_ipv6)
