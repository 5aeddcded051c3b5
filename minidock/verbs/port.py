"""docker port: which ports of the host lead into a container."""

from __future__ import annotations

from minidock.errors import NotFound, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot


def port(root: DataRoot, container: str, private_port: str = "") -> list[tuple[str, str]]:
    """The published ports, as pairs of `80/tcp` and `0.0.0.0:8080`.

    Shape:   private_port `80` or `80/udp` asks for that one alone; minidock itself publishes none: networks none and
             host have none to publish, so only a container of an engine has some
    Raises:  NoSuchContainer, UsageError; NotFound when that port is not published
    Source:  docker/cli cli/command/container/port.go
    """
    found = root.containers.get(container)
    ports = (found.document.get("NetworkSettings") or {}).get("Ports") if found.is_running() else None
    rows = [
        (key, f"{one.get('HostIp', '')}:{one.get('HostPort', '')}")
        for key, bound in sorted((ports or {}).items())
        for one in bound or ()
        if isinstance(one, dict)
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
